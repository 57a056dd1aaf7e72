/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>
#include <zstd.h>

#include "basic/test.h"
#include "repo/pack-format.h"
#include "repo/pack.h"

struct fixture {
    struct keyring *keyring;
    struct frame_codec *codec;
    struct buffer sealed;
    uint8_t *plain; /* FRAME_PLAIN_MAX */
    uint64_t random;
};

static void fixture_init(struct fixture *f)
{
    static const uint8_t master[MASTER_KEY_LEN] = "frame test";
    *f = (struct fixture){.random = 1};
    ASSERT_OK(keyring_new(master, &f->keyring));
    ASSERT_OK(frame_codec_new(f->keyring, 3, &f->codec));
    f->plain = malloc(FRAME_PLAIN_MAX);
    ASSERT_TRUE(f->plain != NULL);
}

static void fixture_release(struct fixture *f)
{
    keyring_free(f->keyring);
    frame_codec_free(f->codec);
    buffer_release(&f->sealed);
    free(f->plain);
}

/* Seals and opens the first len bytes of plain; returns the sealed length. */
static size_t round_trip(struct fixture *f, enum pack_kind kind, size_t len)
{
    const uint8_t *opened;
    size_t opened_len;
    buffer_clear(&f->sealed);
    ASSERT_OK(frame_seal(f->codec, kind, f->plain, len, &f->sealed));
    ASSERT_OK(frame_unseal(f->codec, kind, f->sealed.data, f->sealed.len, &opened, &opened_len));
    ASSERT_EQ(opened_len, len);
    ASSERT_MEMEQ(opened, f->plain, len);
    return f->sealed.len;
}

static void fill_hex(struct fixture *f)
{
    for (size_t i = 0; i < FRAME_PLAIN_MAX; i++)
        f->plain[i] = (uint8_t) "0123456789abcdef"[test_random(&f->random) % 16];
}

TEST(random_contents_stay_raw)
{
    struct fixture f;
    fixture_init(&f);
    test_random_fill(&f.random, f.plain, FRAME_PLAIN_MAX);
    const size_t lens[] = {1, 2, 100, 4096, 65535, 65536, 65537, FRAME_PLAIN_MAX};
    for (size_t i = 0; i < ELEMENTSOF(lens); i++)
        ASSERT_EQ(round_trip(&f, PACK_DATA, lens[i]), lens[i] + 1 + SEAL_OVERHEAD);
    fixture_release(&f);
}

TEST(compressible_contents_shrink)
{
    struct fixture f;
    fixture_init(&f);
    memset(f.plain, 'x', FRAME_PLAIN_MAX);
    ASSERT_LT(round_trip(&f, PACK_DATA, FRAME_PLAIN_MAX), 1000u);
    ASSERT_LT(round_trip(&f, PACK_META, 200), 100u);
    /* No repetitions, but half of each byte is the same: the probe must see that. */
    fill_hex(&f);
    ASSERT_LT(round_trip(&f, PACK_META, FRAME_PLAIN_MAX), FRAME_PLAIN_MAX * 6 / 10);
    fixture_release(&f);
}

TEST(random_lengths_and_contents)
{
    struct fixture f;
    fixture_init(&f);
    for (unsigned i = 0; i < 100; i++) {
        size_t len = 1 + test_random(&f.random) % FRAME_PLAIN_MAX;
        size_t noise = test_random(&f.random) % len;
        memset(f.plain, (int)i, len);
        test_random_fill(&f.random, f.plain + len - noise, noise);
        ASSERT_LE(round_trip(&f, i % 2 ? PACK_META : PACK_DATA, len), len + 1 + SEAL_OVERHEAD);
    }
    fixture_release(&f);
}

TEST(frames_are_appended)
{
    struct fixture f;
    const uint8_t *opened;
    size_t opened_len;
    fixture_init(&f);
    fill_hex(&f);
    ASSERT_OK(frame_seal(f.codec, PACK_DATA, f.plain, 1000, &f.sealed));
    size_t first_len = f.sealed.len;
    ASSERT_OK(frame_seal(f.codec, PACK_DATA, f.plain + 1000, 500, &f.sealed));
    ASSERT_OK(frame_unseal(f.codec, PACK_DATA, f.sealed.data + first_len, f.sealed.len - first_len,
                           &opened, &opened_len));
    ASSERT_EQ(opened_len, 500u);
    ASSERT_MEMEQ(opened, f.plain + 1000, 500);
    fixture_release(&f);
}

TEST(damage_and_other_kinds_do_not_open)
{
    struct fixture f;
    const uint8_t *opened;
    size_t opened_len;
    fixture_init(&f);
    memset(f.plain, 'x', 500);
    ASSERT_OK(frame_seal(f.codec, PACK_DATA, f.plain, 500, &f.sealed));
    uint8_t *data = f.sealed.data;
    size_t len = f.sealed.len;
    for (size_t i = 0; i < len; i++) {
        data[i] ^= 1;
        ASSERT_ERR(frame_unseal(f.codec, PACK_DATA, data, len, &opened, &opened_len),
                   -UMBRA_E_SEAL);
        data[i] ^= 1;
        int r = frame_unseal(f.codec, PACK_DATA, data, i, &opened, &opened_len);
        ASSERT_TRUE(r == -UMBRA_E_SEAL || r == -UMBRA_E_CORRUPT);
    }
    ASSERT_ERR(frame_unseal(f.codec, PACK_META, data, len, &opened, &opened_len), -UMBRA_E_SEAL);
    ASSERT_ERR(frame_unseal(f.codec, PACK_DATA, data, FRAME_SEALED_MAX + 1, &opened, &opened_len),
               -UMBRA_E_CORRUPT);
    fixture_release(&f);
}

/* A sealed frame with these contents, whatever they are. */
static void assert_refused(struct fixture *f, const void *contents, size_t len)
{
    const uint8_t *opened;
    size_t opened_len;
    const uint8_t aad = PACK_DATA;
    const struct iovec piece = {(void *)(uintptr_t)contents, len};
    buffer_clear(&f->sealed);
    uint8_t *box = buffer_extend(&f->sealed, len + SEAL_OVERHEAD);
    ASSERT_TRUE(box != NULL);
    ASSERT_OK(seal(f->keyring, SEAL_DATA_FRAME, &aad, 1, &piece, 1, box));
    ASSERT_ERR(frame_unseal(f->codec, PACK_DATA, box, len + SEAL_OVERHEAD, &opened, &opened_len),
               -UMBRA_E_CORRUPT);
}

/* Made by somebody with the key and a fault. */
TEST(wrong_contents_are_refused)
{
    enum { BIG = FRAME_PLAIN_MAX + 1 };
    struct fixture f;
    uint8_t contents[4096] = {2, 'x'};
    CLEANUP_FREE uint8_t *big = calloc(1, BIG);

    fixture_init(&f);
    ASSERT_TRUE(big != NULL);
    assert_refused(&f, contents, 2); /* unknown codec */
    contents[0] = FRAME_ZSTD;
    assert_refused(&f, contents, 1);   /* nothing */
    assert_refused(&f, contents, 100); /* not zstd */
    size_t n = ZSTD_compress(contents + 1, sizeof(contents) - 1, big, BIG, 1);
    ASSERT_FALSE(ZSTD_isError(n));
    assert_refused(&f, contents, n + 1); /* a bomb */
    n = ZSTD_compress(contents + 1, sizeof(contents) - 1, big, 1000, 1);
    ASSERT_FALSE(ZSTD_isError(n));
    assert_refused(&f, contents, n);     /* cut short */
    assert_refused(&f, contents, n + 2); /* something after it */
    memcpy(contents + 1 + n, contents + 1, n);
    assert_refused(&f, contents, 2 * n + 1); /* two frames */
    n = ZSTD_compress(contents + 1, sizeof(contents) - 1, big, 0, 1);
    ASSERT_FALSE(ZSTD_isError(n));
    assert_refused(&f, contents, n + 1); /* of nothing */
    fixture_release(&f);
}

TEST_MAIN()
