/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <pthread.h>
#include <stdlib.h>

#include <blake3.h>

#include "basic/test.h"
#include "basic/text.h"
#include "repo/crypt-private.h"

static struct keyring *fixed_keyring(uint8_t first)
{
    struct keyring *keyring = NULL;
    uint8_t master[MASTER_KEY_LEN];
    for (size_t i = 0; i < sizeof(master); i++)
        master[i] = (uint8_t)(first + i);
    ASSERT_OK(keyring_new(master, &keyring));
    return keyring;
}

static struct iovec piece(const void *data, size_t len)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = len};
}

#define ASSERT_HEX(bytes, len, expected)        \
    do {                                        \
        char assert_hex[2 * 256 + 1];           \
        hex_encode((bytes), (len), assert_hex); \
        ASSERT_STREQ(assert_hex, (expected));   \
    } while (0)

/* From test_vectors.json of the BLAKE3 authors: our build of their code, with the assembly that
 * this CPU selects. */
TEST(blake3_official_vectors)
{
    static const struct {
        size_t len;
        const char *hash, *keyed, *derived;
    } vectors[] = {
        {0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
         "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
         "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d"},
        {1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
         "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
         "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c"},
        {1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
         "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
         "7356cd7720d5b66b6d0697eb3177d9f8d73a4a5c5e968896eb6a689684302706"},
        {1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
         "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69",
         "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb"},
        {102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
         "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7",
         "4652cff7a3f385a6103b5c260fc1593e13c778dbe608efb092fe7ee69df6e9c6"},
    };
    static uint8_t input[102400];
    blake3_hasher hasher;
    uint8_t out[32];

    for (size_t i = 0; i < sizeof(input); i++)
        input[i] = (uint8_t)(i % 251);
    for (size_t i = 0; i < ELEMENTSOF(vectors); i++) {
        blake3_hasher_init(&hasher);
        blake3_hasher_update(&hasher, input, vectors[i].len);
        blake3_hasher_finalize(&hasher, out, sizeof(out));
        ASSERT_HEX(out, sizeof(out), vectors[i].hash);
        blake3_hasher_init_keyed(&hasher, (const uint8_t *)"whats the Elvish word for friend");
        blake3_hasher_update(&hasher, input, vectors[i].len);
        blake3_hasher_finalize(&hasher, out, sizeof(out));
        ASSERT_HEX(out, sizeof(out), vectors[i].keyed);
        blake3_hasher_init_derive_key(&hasher, "BLAKE3 2019-12-27 16:29:52 test vectors context");
        blake3_hasher_update(&hasher, input, vectors[i].len);
        blake3_hasher_finalize(&hasher, out, sizeof(out));
        ASSERT_HEX(out, sizeof(out), vectors[i].derived);
    }
}

/* The format, frozen: made with python-cryptography's AES-GCM and the BLAKE3 authors' code. */
TEST(sealed_box_known_answer)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    const char *text = "umbra gives Linux instant recovery";
    const struct iovec plain[] = {piece(text, 5), piece(text + 5, 0), piece(text + 5, 29)};
    uint8_t salt[SEAL_SALT_LEN], box[34 + SEAL_OVERHEAD];

    for (size_t i = 0; i < sizeof(salt); i++)
        salt[i] = (uint8_t)(0x40 + i);
    ASSERT_OK(seal_with_salt(keyring, SEAL_BACKUP, salt, "header", 6, plain, 3, box));
    ASSERT_HEX(box, sizeof(box),
               "404142434445464748494a4b4c4d4e4f5051525354555657881139f9e5a494ea05f6a4b67b567429bb1"
               "b55ca99a36c017aa6e166a72b83fb357cc2d620e94988dd561091f4d92ec1115e");
}

TEST(derived_values_known_answers)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    uint64_t table[256];
    uint8_t repo_id[REPO_ID_LEN];
    struct chunk_id id;

    chunk_id_compute(keyring, CHUNK_DATA, "umbra", 5, &id);
    ASSERT_HEX(id.bytes, CHUNK_ID_LEN,
               "c81ef8dce5407bbad4d8f8bd34411beba1697a83d843f42b39ee0103a1b73679");
    chunk_id_compute(keyring, CHUNK_META, "umbra", 5, &id);
    ASSERT_HEX(id.bytes, CHUNK_ID_LEN,
               "225b0d3aba7e46826b9f01f0157cdc284f1e6d7d91f9c2cfc6f301816d22f7d8");
    keyring_repo_id(keyring, repo_id);
    ASSERT_HEX(repo_id, sizeof(repo_id), "efe9cd0b8b627b46c547f9a7a02a7498");
    keyring_gear_table(keyring, table);
    ASSERT_EQ(table[0], UINT64_C(0xdb6719f77aaec74f));
    ASSERT_EQ(table[1], UINT64_C(0x9ec489a17c227ba7));
    ASSERT_EQ(table[255], UINT64_C(0x27575a2e129ed342));
}

TEST(sha256_known_answer)
{
    const struct iovec pieces[] = {piece("a", 1), piece("", 0), piece("bc", 2)};
    uint8_t digest[32];

    ASSERT_OK(sha256(pieces, 3, digest));
    ASSERT_HEX(digest, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ASSERT_OK(sha256(NULL, 0, digest));
    ASSERT_HEX(digest, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(round_trip_of_all_kinds_and_lengths)
{
    CLEANUP(keyring_freep) struct keyring *keyring = NULL;
    static const size_t lens[] = {0, 1, 15, 16, 17, 4096, 524288, 524289};
    static uint8_t plain[524289], box[524289 + SEAL_OVERHEAD], again[524289];
    uint64_t seed = 1;

    ASSERT_OK(keyring_new_random(&keyring));
    test_random_fill(&seed, plain, sizeof(plain));
    for (int kind = SEAL_CONFIG; kind < SEAL_KIND_MAX; kind++) {
        for (size_t i = 0; i < ELEMENTSOF(lens); i++) {
            const struct iovec iov = piece(plain, lens[i]);
            ASSERT_OK(seal(keyring, (enum seal_kind)kind, "aad", 3, &iov, 1, box));
            ASSERT_OK(unseal(keyring, (enum seal_kind)kind, "aad", 3, box, lens[i] + SEAL_OVERHEAD,
                             again));
            ASSERT_MEMEQ(plain, again, lens[i]);
        }
    }
}

TEST(two_boxes_of_the_same_are_different)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(3);
    uint8_t a[32 + SEAL_OVERHEAD], b[32 + SEAL_OVERHEAD];
    const uint8_t zeros[32] = {0};
    const struct iovec iov = piece(zeros, sizeof(zeros));

    ASSERT_OK(seal(keyring, SEAL_INDEX, NULL, 0, &iov, 1, a));
    ASSERT_OK(seal(keyring, SEAL_INDEX, NULL, 0, &iov, 1, b));
    ASSERT_TRUE(memcmp(a, b, SEAL_SALT_LEN) != 0);
    ASSERT_TRUE(memcmp(a + SEAL_SALT_LEN, b + SEAL_SALT_LEN, 32) != 0);
}

TEST(every_flipped_byte_is_noticed_and_nothing_leaks)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    const char *text = "something that must not be seen";
    const struct iovec iov = piece(text, 31);
    uint8_t box[31 + SEAL_OVERHEAD], plain[31];
    const uint8_t zeros[31] = {0};

    ASSERT_OK(seal(keyring, SEAL_DATA_FRAME, "head", 4, &iov, 1, box));
    for (size_t i = 0; i < sizeof(box); i++) {
        box[i] ^= 0x20;
        memset(plain, 0xee, sizeof(plain));
        ASSERT_ERR(unseal(keyring, SEAL_DATA_FRAME, "head", 4, box, sizeof(box), plain),
                   -UMBRA_E_SEAL);
        ASSERT_MEMEQ(plain, zeros, sizeof(plain));
        box[i] ^= 0x20;
    }
    ASSERT_OK(unseal(keyring, SEAL_DATA_FRAME, "head", 4, box, sizeof(box), plain));
    ASSERT_MEMEQ(plain, text, 31);
}

TEST(every_cut_length_is_noticed)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    const struct iovec iov = piece("twelve bytes", 12);
    uint8_t box[12 + SEAL_OVERHEAD], plain[12];

    ASSERT_OK(seal(keyring, SEAL_DATA_FRAME, NULL, 0, &iov, 1, box));
    for (size_t len = 0; len < sizeof(box); len++)
        ASSERT_ERR(unseal(keyring, SEAL_DATA_FRAME, NULL, 0, box, len, plain), -UMBRA_E_SEAL);
}

TEST(wrong_key_kind_and_associated_data)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    CLEANUP(keyring_freep) struct keyring *other = fixed_keyring(1);
    const struct iovec iov = piece("contents", 8);
    uint8_t box[8 + SEAL_OVERHEAD], plain[8];

    ASSERT_OK(seal(keyring, SEAL_DATA_FRAME, "head", 4, &iov, 1, box));
    ASSERT_ERR(unseal(other, SEAL_DATA_FRAME, "head", 4, box, sizeof(box), plain), -UMBRA_E_SEAL);
    ASSERT_ERR(unseal(keyring, SEAL_META_FRAME, "head", 4, box, sizeof(box), plain), -UMBRA_E_SEAL);
    ASSERT_ERR(unseal(keyring, SEAL_DATA_FRAME, "heat", 4, box, sizeof(box), plain), -UMBRA_E_SEAL);
    ASSERT_ERR(unseal(keyring, SEAL_DATA_FRAME, "head", 3, box, sizeof(box), plain), -UMBRA_E_SEAL);
    ASSERT_ERR(unseal(keyring, SEAL_DATA_FRAME, NULL, 0, box, sizeof(box), plain), -UMBRA_E_SEAL);
    ASSERT_OK(unseal(keyring, SEAL_DATA_FRAME, "head", 4, box, sizeof(box), plain));
}

TEST(keys_of_kinds_and_repositories_are_apart)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    CLEANUP(keyring_freep) struct keyring *other = fixed_keyring(1);
    struct chunk_id data, meta, foreign;

    chunk_id_compute(keyring, CHUNK_DATA, "x", 1, &data);
    chunk_id_compute(keyring, CHUNK_META, "x", 1, &meta);
    chunk_id_compute(other, CHUNK_DATA, "x", 1, &foreign);
    ASSERT_FALSE(chunk_id_equal(&data, &meta));
    ASSERT_FALSE(chunk_id_equal(&data, &foreign));
}

static void *seal_in_thread(void *userdata)
{
    const struct keyring *keyring = userdata;
    uint8_t box[100 + SEAL_OVERHEAD], plain[100] = {7}, again[100];
    const struct iovec iov = piece(plain, sizeof(plain));

    for (int i = 0; i < 500; i++) {
        ASSERT_OK(seal(keyring, SEAL_DATA_FRAME, NULL, 0, &iov, 1, box));
        ASSERT_OK(unseal(keyring, SEAL_DATA_FRAME, NULL, 0, box, sizeof(box), again));
        ASSERT_MEMEQ(plain, again, sizeof(plain));
    }
    return NULL;
}

TEST(one_keyring_in_many_threads)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(0);
    pthread_t threads[4];

    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, seal_in_thread, keyring), 0);
    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
}

TEST_MAIN()
