/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/key.h"

#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/test.h"

static void assert_valid(const char *key, size_t len, bool expected)
{
    /* of exactly that length, so that the sanitizer sees each byte read behind it */
    CLEANUP_FREE uint8_t *copy = malloc(len > 0 ? len : 1);

    ASSERT_TRUE(copy);
    memcpy(copy, key, len);
    if (key_valid(copy, len) != expected)
        test_fail(__FILE__, __LINE__, "key_valid of a key of %zu bytes is not %d", len, expected);
}
#define ASSERT_VALID(literal)   assert_valid(literal, sizeof(literal) - 1, true)
#define ASSERT_INVALID(literal) assert_valid(literal, sizeof(literal) - 1, false)

TEST(key_valid_takes_paths)
{
    ASSERT_VALID("");
    ASSERT_VALID("\0\0a");
    ASSERT_VALID("usr\0\0bin");
    ASSERT_VALID("usr\0bin\0\0env");
    ASSERT_VALID("\0\0...");
    ASSERT_VALID("..a\0\0.b");
    ASSERT_VALID("\0\0\xff\x01 ");
}

TEST(key_valid_refuses_what_is_no_path)
{
    ASSERT_INVALID("a");
    ASSERT_INVALID("\0");
    ASSERT_INVALID("\0\0");
    ASSERT_INVALID("\0a");
    ASSERT_INVALID("a\0b");
    ASSERT_INVALID("a\0\0");
    ASSERT_INVALID("\0\0a\0");
    ASSERT_INVALID("\0\0\0a");
    ASSERT_INVALID("a\0\0\0b");
    ASSERT_INVALID("\0a\0\0b");
    ASSERT_INVALID("a\0\0b\0\0c");
    ASSERT_INVALID("\0\0a\0b");
    ASSERT_INVALID("\0\0.");
    ASSERT_INVALID("\0\0..");
    ASSERT_INVALID(".\0\0a");
    ASSERT_INVALID("a\0..\0\0b");
    ASSERT_INVALID("..\0a\0\0b");
    ASSERT_INVALID("\0\0a/b");
    ASSERT_INVALID("a/b\0\0c");
    ASSERT_INVALID("/\0\0c");
}

TEST(key_valid_bounds_lengths)
{
    CLEANUP_FREE char *key = calloc(1, (size_t)KEY_LEN_MAX + 1);

    ASSERT_TRUE(key);
    memset(key + 2, 'x', KEY_NAME_MAX + 1);
    assert_valid(key, 2 + KEY_NAME_MAX, true);
    assert_valid(key, 2 + KEY_NAME_MAX + 1, false);

    /* components of one letter up to the end */
    for (size_t i = 0; i + 4 < KEY_LEN_MAX; i += 2)
        memcpy(key + i, "x\0", 2);
    memcpy(key + KEY_LEN_MAX - 5, "x\0\0nn", 5);
    assert_valid(key + 1, KEY_LEN_MAX - 1, false); /* begins with an empty component */
    assert_valid(key, KEY_LEN_MAX, true);
    key[KEY_LEN_MAX] = 'n';
    assert_valid(key, (size_t)KEY_LEN_MAX + 1, false);
}

static void put(struct buffer *b, const char *path)
{
    buffer_clear(b);
    key_put_path(b, path, strlen(path));
    ASSERT_OK(buffer_finish(b));
}

static void assert_parts(const char *path, const char *dir, const char *name)
{
    CLEANUP(buffer_release) struct buffer key = {0}, same = {0};
    size_t name_len;

    put(&key, path);
    ASSERT_TRUE(key_valid(key.data, key.len));
    CLEANUP_FREE char *path_back = key_to_path(key.data, key.len);
    CLEANUP_FREE char *dir_back = key_to_dir(key.data, key.len);
    ASSERT_STREQ(path_back, path);
    ASSERT_STREQ(dir_back, dir);
    const uint8_t *name_back = key_name(key.data, key.len, &name_len);
    ASSERT_EQ(name_len, strlen(name));
    if (!*path)
        return;
    ASSERT_MEMEQ(name_back, name, name_len);

    key_put(&same, dir, strlen(dir), name, strlen(name));
    ASSERT_EQ(key_compare(key.data, key.len, same.data, same.len), 0);
    buffer_clear(&same);
    key_put_children_prefix(&same, dir, strlen(dir));
    ASSERT_EQ(same.len + strlen(name), key.len);
    ASSERT_MEMEQ(same.data, key.data, same.len);
}

TEST(key_parts)
{
    assert_parts("", "", "");
    assert_parts("etc", "", "etc");
    assert_parts("usr/bin", "usr", "bin");
    assert_parts("usr/bin/env", "usr/bin", "env");
    assert_parts("a/b/c/d/e", "a/b/c/d", "e");
}

/* As a walk emits them: entries of a directory, then its subdirectories in the order of their
 * names. */
TEST(key_order_is_walk_order)
{
    static const char *const paths[] = {
        "",      "a",       "a-b",     "a.d",   "b",     "z",     "a/f",    "a/g",
        "a/g/1", "a/g/1/x", "a/g/2/y", "a-b/c", "a-b/d", "a.d/x", "b/\x01", "z/\xff",
    };
    CLEANUP(buffer_release) struct buffer before = {0}, key = {0};

    for (size_t i = 1; i < ELEMENTSOF(paths); i++) {
        put(&before, paths[i - 1]);
        put(&key, paths[i]);
        if (key_compare(before.data, before.len, key.data, key.len) >= 0)
            test_fail(__FILE__, __LINE__, "'%s' is not before '%s'", paths[i - 1], paths[i]);
        ASSERT_TRUE(key_compare(key.data, key.len, before.data, before.len) > 0);
        ASSERT_EQ(key_compare(key.data, key.len, key.data, key.len), 0);
    }
}

TEST(key_valid_and_parts_survive_any_bytes)
{
    static const uint8_t letters[] = {0, 0, 0, 'a', '.', '/', 'b'};
    uint64_t seed = 1;
    size_t valid_count = 0;

    for (int i = 0; i < 200000; i++) {
        uint8_t key[10];
        size_t len = test_random(&seed) % sizeof(key), name_len;
        for (size_t k = 0; k < len; k++)
            key[k] = letters[test_random(&seed) % sizeof(letters)];
        CLEANUP_FREE char *path = key_to_path(key, len);
        CLEANUP_FREE char *dir = key_to_dir(key, len);
        ASSERT_TRUE(path && dir && key_name(key, len, &name_len) && name_len <= len);
        if (!key_valid(key, len))
            continue;
        valid_count++;
        CLEANUP(buffer_release) struct buffer again = {0};
        put(&again, path);
        ASSERT_EQ(key_compare(key, len, again.data, again.len), 0);
    }
    ASSERT_GT(valid_count, 100);
}

TEST_MAIN()
