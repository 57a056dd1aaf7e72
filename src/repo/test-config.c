/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>

#include "basic/io.h"
#include "basic/test.h"
#include "repo/config-format.h"
#include "repo/config.h"
#include "repo/pack.h"

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

static struct repo_config some_config(const struct keyring *keyring)
{
    struct repo_config config = {
        .version = 1,
        .created_ns = INT64_C(1700000000000000001),
        .chunker = {.min_bytes = 4096, .normal_bytes = 8192, .max_bytes = 65536},
        .pack_target_bytes = 8u << 20,
    };
    keyring_repo_id(keyring, config.id);
    return config;
}

struct stored {
    union {
        struct config_header header;
        uint8_t bytes[64 + 64 + SEAL_OVERHEAD];
    };
};

static struct stored make_stored(const struct keyring *keyring)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    struct repo_config config = some_config(keyring);
    CLEANUP_FREE void *object = NULL;
    struct config_clear clear;
    struct stored stored;
    size_t len = 0;

    ASSERT_OK(config_store(b, keyring, &config));
    ASSERT_OK(config_read(b, &object, &len, &clear));
    ASSERT_EQ(len, sizeof(stored.bytes));
    memcpy(stored.bytes, object, len);
    return stored;
}

static int parse(const struct stored *stored)
{
    struct config_clear clear;
    return config_parse_header(stored->bytes, sizeof(stored->bytes), &clear);
}

TEST(round_trip)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    struct repo_config config = some_config(keyring), again;
    CLEANUP_FREE void *object = NULL;
    struct config_clear clear;
    size_t len = 0;

    ASSERT_OK(config_store(b, keyring, &config));
    ASSERT_ERR(config_store(b, keyring, &config), -EEXIST);
    ASSERT_OK(config_read(b, &object, &len, &clear));
    ASSERT_OK(config_open(keyring, object, len, &clear, &again));
    ASSERT_MEMEQ(config.id, again.id, REPO_ID_LEN);
    ASSERT_EQ(again.version, 1u);
    ASSERT_EQ(again.created_ns, config.created_ns);
    ASSERT_EQ(again.chunker.min_bytes, 4096u);
    ASSERT_EQ(again.chunker.normal_bytes, 8192u);
    ASSERT_EQ(again.chunker.max_bytes, 65536u);
    ASSERT_EQ(again.pack_target_bytes, 8u << 20);
}

TEST(not_a_repository)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    static uint8_t large[CONFIG_OBJECT_LEN_MAX + 1];
    const struct iovec iov = {.iov_base = large, .iov_len = sizeof(large)};
    CLEANUP_FREE void *object = NULL;
    struct config_clear clear;
    size_t len = 0;

    ASSERT_ERR(config_read(b, &object, &len, &clear), -UMBRA_E_NOT_REPO);
    ASSERT_ERR(config_parse_header("[core]\nbare = true\n", 19, &clear), -UMBRA_E_NOT_REPO);
    ASSERT_ERR(config_parse_header("", 0, &clear), -UMBRA_E_NOT_REPO);
    ASSERT_ERR(config_parse_header("UMBRARE", 7, &clear), -UMBRA_E_NOT_REPO);
    ASSERT_OK(backend_put(b, "config", &iov, 1));
    ASSERT_ERR(config_read(b, &object, &len, &clear), -UMBRA_E_NOT_REPO);
}

/* Whatever a later version looks like behind its first 16 bytes. */
TEST(newer_is_said_before_anything_else)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    struct stored stored = make_stored(keyring);

    stored.header.version = le32_make(2);
    stored.header.reserved[3] = 1;
    stored.header.sealed_len = le32_make(7);
    ASSERT_ERR(parse(&stored), -UMBRA_E_VERSION);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_VERSION), "version 2") != NULL);

    stored = make_stored(keyring);
    stored.header.incompat = le32_make(0x80000000);
    ASSERT_ERR(parse(&stored), -UMBRA_E_VERSION);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_VERSION), "0x80000000") != NULL);
}

TEST(damaged_headers)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    struct stored stored = make_stored(keyring);
    struct config_clear clear;

    ASSERT_OK(parse(&stored));
    for (size_t len = 8; len < sizeof(stored.bytes); len++)
        ASSERT_ERR(config_parse_header(stored.bytes, len, &clear), -UMBRA_E_CORRUPT);
    stored.header.version = le32_make(0);
    ASSERT_ERR(parse(&stored), -UMBRA_E_CORRUPT);
    stored = make_stored(keyring);
    stored.header.sealed_len = le32_make(0);
    ASSERT_ERR(parse(&stored), -UMBRA_E_CORRUPT);
    stored.header.sealed_len = le32_make(UINT32_MAX);
    ASSERT_ERR(parse(&stored), -UMBRA_E_CORRUPT);
    stored = make_stored(keyring);
    stored.header.reserved[23] = 1;
    ASSERT_ERR(parse(&stored), -UMBRA_E_CORRUPT);
}

TEST(every_damaged_byte_is_noticed)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    struct stored stored = make_stored(keyring);
    struct repo_config config;
    struct config_clear clear;

    for (size_t i = 0; i < sizeof(stored.bytes); i++) {
        stored.bytes[i] ^= 0x04;
        int r = config_parse_header(stored.bytes, sizeof(stored.bytes), &clear);
        if (r == 0)
            r = config_open(keyring, stored.bytes, sizeof(stored.bytes), &clear, &config);
        ASSERT_TRUE(r < 0);
        stored.bytes[i] ^= 0x04;
    }
    ASSERT_OK(config_parse_header(stored.bytes, sizeof(stored.bytes), &clear));
    ASSERT_OK(config_open(keyring, stored.bytes, sizeof(stored.bytes), &clear, &config));
}

TEST(another_key)
{
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1), *other = fixed_keyring(2);
    struct stored stored = make_stored(keyring);
    struct repo_config config;
    struct config_clear clear;

    ASSERT_OK(config_parse_header(stored.bytes, sizeof(stored.bytes), &clear));
    ASSERT_ERR(config_open(other, stored.bytes, sizeof(stored.bytes), &clear, &config),
               -UMBRA_E_SEAL);
}

static struct config_body some_body(void)
{
    return (struct config_body){
        .id_function = le32_make(CONFIG_ID_BLAKE3_KEYED),
        .chunk_min = le32_make(64),
        .chunk_normal = le32_make(64),
        .chunk_max = le32_make(64),
        .pack_target_bytes = le32_make(1u << 20),
    };
}

TEST(bodies_are_checked)
{
    const struct config_clear clear = {.version = 1}, newer = {.version = 1, .compat = 1};
    struct config_body body[2] = {some_body()};
    struct repo_config config;

    ASSERT_OK(config_parse_body(body, sizeof(body[0]), &clear, &config));
    ASSERT_ERR(config_parse_body(body, sizeof(body[0]) - 1, &clear, &config), -UMBRA_E_CORRUPT);
    ASSERT_ERR(config_parse_body(body, sizeof(body), &clear, &config), -UMBRA_E_CORRUPT);
    ASSERT_OK(config_parse_body(body, sizeof(body), &newer, &config));
    body[0].reserved[35] = 1;
    ASSERT_ERR(config_parse_body(body, sizeof(body[0]), &clear, &config), -UMBRA_E_CORRUPT);
    ASSERT_OK(config_parse_body(body, sizeof(body[0]), &newer, &config));
    body[0] = some_body();
    body[0].id_function = le32_make(2);
    ASSERT_ERR(config_parse_body(body, sizeof(body[0]), &clear, &config), -UMBRA_E_VERSION);
    body[0] = some_body();
    body[0].chunk_max = le32_make(FRAME_PLAIN_MAX + 1);
    ASSERT_ERR(config_parse_body(body, sizeof(body[0]), &clear, &config), -UMBRA_E_CORRUPT);
    body[0] = some_body();
    body[0].chunk_normal = le32_make(0);
    ASSERT_ERR(config_parse_body(body, sizeof(body[0]), &clear, &config), -UMBRA_E_CORRUPT);
    body[0] = some_body();
    body[0].pack_target_bytes = le32_make((512u << 20) + 1);
    ASSERT_ERR(config_parse_body(body, sizeof(body[0]), &clear, &config), -UMBRA_E_CORRUPT);
}

TEST(bad_parameters_are_not_stored)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend();
    CLEANUP(keyring_freep) struct keyring *keyring = fixed_keyring(1);
    struct repo_config config = some_config(keyring);

    config.chunker.max_bytes = FRAME_PLAIN_MAX * 2;
    ASSERT_ERR(config_store(b, keyring, &config), -EINVAL);
    config = some_config(keyring);
    config.pack_target_bytes = 4096;
    ASSERT_ERR(config_store(b, keyring, &config), -EINVAL);
}

TEST_MAIN()
