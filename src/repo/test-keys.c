/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>

#include <sodium.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/test.h"
#include "basic/text.h"
#include "repo/config.h"
#include "repo/crypt-private.h"
#include "repo/key-format.h"
#include "repo/keys.h"

static struct backend *memory_backend(void)
{
    struct backend *b = NULL;
    struct io *io = NULL;
    ASSERT_OK(io_new_memory(1, &io));
    ASSERT_OK(backend_new_local(io, "memory:", &b));
    return b;
}

static struct keyring *fixed_keyring(uint8_t first)
{
    const uint8_t master[MASTER_KEY_LEN] = {first, 2, 3, 4};
    struct keyring *keyring = NULL;
    ASSERT_OK(keyring_new(master, &keyring));
    return keyring;
}

static int add(struct backend *b, const struct keyring *keyring, const char *passphrase,
               const char *label, char name[65])
{
    return key_add(b, keyring, passphrase, strlen(passphrase), label, &key_cost_minimal, name);
}

static int open_with(struct backend *b, const char *passphrase, struct keyring **ret_keyring,
                     char name[65])
{
    return key_open(b, passphrase, strlen(passphrase), ret_keyring, name);
}

static void assert_same_master(const struct keyring *a, const struct keyring *b)
{
    ASSERT_MEMEQ(keyring_master(a), keyring_master(b), MASTER_KEY_LEN);
}

static void put(struct backend *b, const char *name, const void *data, size_t len)
{
    const struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    ASSERT_OK(backend_put(b, name, &iov, 1));
}

/* The bytes as a key object under the right name. */
static void put_key(struct backend *b, const void *data, size_t len)
{
    const struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    char name[5 + 65] = "keys/";
    uint8_t digest[32];
    ASSERT_OK(sha256(&iov, 1, digest));
    hex_encode(digest, sizeof(digest), name + 5);
    put(b, name, data, len);
}

static size_t warning_count;

static void count_warning(enum log_level level, const char *line _unused_, void *userdata _unused_)
{
    warning_count += level == LOG_LEVEL_WARNING;
}

/* The same from the argon2 tool: argon2 0123456789abcdef -id -t 3 -k 8192 -p 1 -l 32 -v 13 */
TEST(argon2id_known_answer)
{
    uint8_t key[32];
    char hex[65];

    ASSERT_GE(sodium_init(), 0);
    ASSERT_EQ(crypto_pwhash(key, sizeof(key), "correct horse", 13,
                            (const uint8_t *)"0123456789abcdef", 3, 8192 * KIB,
                            crypto_pwhash_ALG_ARGON2ID13),
              0);
    hex_encode(key, sizeof(key), hex);
    ASSERT_STREQ(hex, "4b84dd36c8ff6962388661996da44d28f5cc65d7909686980aabbb6fd01ed7f3");
}

/* A key object of version 1 opens for ever. */
TEST(a_stored_key_object_opens)
{
    static const char object_hex[] =
        "554d4252414b45590100000001000000020000000900000000000100000000005802b94236f8e918"
        "86ba13a22494fd8bd7530324ec4e4f25b5c1ad6220e08e50eec1ef4475cd515b9a51ba49f71fbb88"
        "47a6a02962af5d3de47d497ec7cd5df35493c008aabecd847370617265206b657900000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000000000000000000000002621749eff9a7e6bbd3e32516dde16f379d21320d42e8259"
        "0ef8acc524d3195320a2b8884e408894888c737f3d53918d2f5f27b96d4ddf6a3c25fea46efb679c"
        "f599b52bba23dd2b";
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *expected = fixed_keyring(0xa1), *keyring = NULL;
    uint8_t object[KEY_OBJECT_LEN];
    char name[65];

    ASSERT_OK(hex_decode(object_hex, object, sizeof(object)));
    put_key(b, object, sizeof(object));
    ASSERT_OK(open_with(b, "correct horse", &keyring, name));
    assert_same_master(keyring, expected);
}

TEST(add_and_open)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1), *opened = NULL;
    char added[65], name[65];

    ASSERT_OK(add(b, keyring, "open sesame", "laptop", added));
    ASSERT_OK(open_with(b, "open sesame", &opened, name));
    ASSERT_STREQ(added, name);
    assert_same_master(keyring, opened);
}

TEST(wrong_passphrases)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1), *opened = NULL;
    static char too_long[PASSPHRASE_LEN_MAX + 2];
    char name[65];

    ASSERT_OK(add(b, keyring, "open sesame", "", name));
    ASSERT_ERR(open_with(b, "open sesamf", &opened, name), -UMBRA_E_PASSPHRASE);
    ASSERT_ERR(open_with(b, "open sesame ", &opened, name), -UMBRA_E_PASSPHRASE);
    ASSERT_ERR(open_with(b, "", &opened, name), -UMBRA_E_PASSPHRASE);
    memset(too_long, 'x', sizeof(too_long) - 1);
    ASSERT_ERR(open_with(b, too_long, &opened, name), -UMBRA_E_PASSPHRASE);
    ASSERT_ERR(add(b, keyring, "", "", name), -EINVAL);
    ASSERT_ERR(add(b, keyring, too_long, "", name), -EINVAL);
}

TEST(several_passphrases)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    static const char *const passphrases[] = {"one", "two", "three", "one"};
    char names[4][65], name[65];

    for (size_t i = 0; i < 4; i++)
        ASSERT_OK(add(b, keyring, passphrases[i], "", names[i]));
    ASSERT_TRUE(strcmp(names[0], names[3]) != 0);
    for (size_t i = 0; i < 3; i++) {
        CLEANUP(keyring_freep) struct keyring *opened = NULL;
        ASSERT_OK(open_with(b, passphrases[i], &opened, name));
        assert_same_master(keyring, opened);
    }
}

struct seen {
    struct key_info infos[8];
    size_t count;
};

static int see(const struct key_info *info, void *userdata)
{
    struct seen *seen = userdata;
    ASSERT_LT(seen->count, ELEMENTSOF(seen->infos));
    seen->infos[seen->count++] = *info;
    return 0;
}

TEST(list)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    char longest[KEY_LABEL_MAX + 2] = {0}, first[65], second[65];
    struct seen seen = {0};

    memset(longest, 'l', KEY_LABEL_MAX);
    ASSERT_OK(add(b, keyring, "a", "", first));
    ASSERT_OK(add(b, keyring, "b", longest, second));
    ASSERT_OK(key_list(b, second, see, &seen));
    ASSERT_EQ(seen.count, 2u);
    for (size_t i = 0; i < 2; i++) {
        bool is_second = strcmp(seen.infos[i].name, second) == 0;
        ASSERT_EQ(seen.infos[i].current, is_second);
        ASSERT_STREQ(seen.infos[i].label, is_second ? longest : "");
        ASSERT_GT(seen.infos[i].created_ns, 0);
    }
    longest[KEY_LABEL_MAX] = 'l';
    ASSERT_ERR(add(b, keyring, "c", longest, first), -EINVAL);
}

TEST(remove_by_prefix_but_not_the_last)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1), *opened = NULL;
    char first[65], second[65], name[65], prefix[11];

    ASSERT_OK(add(b, keyring, "a", "", first));
    ASSERT_ERR(key_remove(b, first), -EBUSY);
    ASSERT_OK(add(b, keyring, "b", "", second));
    ASSERT_ERR(key_remove(b, ""), -UMBRA_E_AMBIGUOUS);
    ASSERT_ERR(key_remove(b, "zz"), -ENOENT);
    memcpy(prefix, first, 10);
    prefix[10] = '\0';
    ASSERT_OK(key_remove(b, prefix));
    ASSERT_ERR(open_with(b, "a", &opened, name), -UMBRA_E_PASSPHRASE);
    ASSERT_ERR(key_remove(b, second), -EBUSY);
    ASSERT_OK(open_with(b, "b", &opened, name));
}

TEST(every_damaged_byte_is_noticed)
{
    CLEANUP(backend_freep) struct backend *source = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1), *opened = NULL;
    CLEANUP_FREE void *object = NULL;
    char name[65], path[5 + 65] = "keys/";
    size_t len = 0;

    ASSERT_OK(add(source, keyring, "a", "label", name));
    memcpy(path + 5, name, 65);
    ASSERT_OK(backend_get_all(source, path, 1000, &object, &len));
    ASSERT_EQ(len, KEY_OBJECT_LEN);
    log_set_sink(count_warning, NULL);
    for (size_t i = 0; i < len; i++) {
        /* passes and memory: a changed value would only cost time here */
        if (i >= offsetof(struct key_header, passes) && i < offsetof(struct key_header, created_ns))
            continue;
        CLEANUP(backend_freep) struct backend *b = memory_backend();
        ((uint8_t *)object)[i] ^= 0x41;
        put_key(b, object, len); /* as someone would who can write the repository */
        ASSERT_TRUE(open_with(b, "a", &opened, name) < 0);
        ((uint8_t *)object)[i] ^= 0x41;
    }
    log_set_sink(NULL, NULL);
}

TEST(damaged_keys_are_skipped_and_never_count)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1), *opened = NULL;
    char good[65], name[65];

    log_set_sink(count_warning, NULL);
    warning_count = 0;
    put_key(b, "nonsense", 8);
    put(b, "keys/0000000000000000000000000000000000000000000000000000000000000000", "x", 1);
    put(b, "keys/stray", "x", 1);
    ASSERT_ERR(open_with(b, "a", &opened, name), -UMBRA_E_CORRUPT);
    ASSERT_OK(add(b, keyring, "a", "", good));
    ASSERT_OK(open_with(b, "a", &opened, name));
    ASSERT_ERR(key_remove(b, good), -EBUSY);
    ASSERT_OK(key_remove(b, "00000000"));
    ASSERT_GT(warning_count, 3u);
    log_set_sink(NULL, NULL);
}

TEST(keys_of_another_repository_are_ignored)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep)
    struct keyring *ours = fixed_keyring(1), *other = fixed_keyring(2), *opened = NULL;
    struct repo_config config = {
        .version = 1, .chunker = chunker_params_default, .pack_target_bytes = 32u << 20};
    char foreign[65], good[65], name[65];

    log_set_sink(count_warning, NULL);
    keyring_repo_id(ours, config.id);
    ASSERT_OK(add(b, other, "same", "", foreign)); /* left by an init that was cut short */
    ASSERT_OK(add(b, ours, "same", "", good));
    ASSERT_OK(config_store(b, ours, &config));
    ASSERT_OK(open_with(b, "same", &opened, name));
    assert_same_master(opened, ours);
    ASSERT_ERR(key_remove(b, good), -EBUSY);
    ASSERT_OK(key_remove(b, foreign));
    log_set_sink(NULL, NULL);
}

TEST(costs_are_bounded)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    static const struct key_cost bad[] = {
        {.memory_bytes = 8191, .passes = 1},
        {.memory_bytes = 8192, .passes = 0},
        {.memory_bytes = 8192, .passes = 17},
        {.memory_bytes = 9000, .passes = 1},
        {.memory_bytes = (UINT64_C(1) << 30) + 1024, .passes = 1},
        {.memory_bytes = UINT64_MAX - 1023, .passes = 1},
    };
    char name[65];

    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        ASSERT_ERR(key_add(b, keyring, "a", 1, "", &bad[i], name), -EINVAL);
}

TEST(parse_refuses)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    CLEANUP_FREE void *object = NULL;
    char name[65], path[5 + 65] = "keys/";
    struct key_info info;
    struct key_header *header;
    size_t len = 0;

    ASSERT_OK(add(b, keyring, "a", "label", name));
    memcpy(path + 5, name, 65);
    ASSERT_OK(backend_get_all(b, path, 1000, &object, &len));
    ASSERT_OK(key_parse(object, len, &info));
    ASSERT_STREQ(info.label, "label");
    for (size_t i = 0; i < len; i++)
        ASSERT_TRUE(key_parse(object, i, &info) < 0);

    header = object;
    header->version = le32_make(2);
    ASSERT_ERR(key_parse(object, len, &info), -UMBRA_E_VERSION);
    header->version = le32_make(1);
    header->kdf = le32_make(2);
    ASSERT_ERR(key_parse(object, len, &info), -UMBRA_E_VERSION);
    header->kdf = le32_make(1);
    header->memory_bytes = le64_make(UINT64_C(2) << 30);
    ASSERT_ERR(key_parse(object, len, &info), -UMBRA_E_LIMIT);
    header->memory_bytes = le64_make(8192);
    header->label_len = le32_make(65);
    ASSERT_ERR(key_parse(object, len, &info), -UMBRA_E_CORRUPT);
    header->label_len = le32_make(4); /* the fifth byte is not zero */
    ASSERT_ERR(key_parse(object, len, &info), -UMBRA_E_CORRUPT);
    header->label_len = le32_make(6); /* the sixth is */
    ASSERT_ERR(key_parse(object, len, &info), -UMBRA_E_CORRUPT);
    header->label_len = le32_make(5);
    ASSERT_OK(key_parse(object, len, &info));
}

TEST_MAIN()
