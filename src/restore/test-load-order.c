/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "restore/load-order.h"
#include "tree/key.h"

static struct load_order *parse(const char *text, size_t len)
{
    struct load_order *order = NULL;
    ASSERT_OK(load_order_parse(text, len, &order));
    return order;
}

static void found(struct load_order *order, const char *path, uint64_t ordinal)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    key_put_path(&key, path, strlen(path));
    ASSERT_OK(buffer_finish(&key));
    load_order_found(order, key.data, key.len, ordinal);
}

static void expect_next(struct load_order *order, uint64_t want)
{
    uint64_t ordinal = UINT64_MAX;
    ASSERT_TRUE(load_order_next(order, &ordinal));
    ASSERT_EQ(ordinal, want);
}

static void expect_end(struct load_order *order)
{
    uint64_t ordinal;
    ASSERT_FALSE(load_order_next(order, &ordinal));
}

TEST(files_come_in_the_order_of_the_list)
{
    const char text[] = LOAD_ORDER_HEAD "/b/2\n/a\n\n# a remark\n/c/not there\n/b/1";
    CLEANUP(load_order_freep) struct load_order *order = parse(text, strlen(text));

    found(order, "a", 0);
    found(order, "b/1", 1);
    found(order, "b/2", 2);
    found(order, "b/3", 3);
    found(order, "b/2", 2);
    ASSERT_EQ(load_order_bad_count(order), 0);
    ASSERT_EQ(load_order_path_count(order), 4);
    ASSERT_EQ(load_order_found_count(order), 3);
    expect_next(order, 2);
    expect_next(order, 0);
    expect_next(order, 1);
    expect_end(order);
}

TEST(the_first_of_two_equal_lines_counts)
{
    const char text[] = "/a\n/b\n/a\n/\\x61\n";
    CLEANUP(load_order_freep) struct load_order *order = parse(text, strlen(text));

    found(order, "b", 0);
    found(order, "a", 1);
    ASSERT_EQ(load_order_path_count(order), 2);
    expect_next(order, 1);
    expect_next(order, 0);
    expect_end(order);
}

TEST(what_is_no_path_is_counted_and_passed_over)
{
    static const char *const lines[] = {
        "a",   "../a", "/../a", "/a/../b", "/a/./b",  "/a//b",    "/",
        "/a/", "//a",  "/a\\",  "/a\\x",   "/a\\x0",  "/a\\n",    "/a\\x00b",
        "/..", "/.",   " /a",   "\\x2fa",  "/a\\x2f", "\xff\xfe", "\177ELF",
    };
    CLEANUP(buffer_release) struct buffer text = {0};

    for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
        buffer_put(&text, lines[i], strlen(lines[i]));
        buffer_put(&text, "\n", 1);
    }
    buffer_put(&text, "/nul\0in it\n", 11);
    buffer_put(&text, "/good\n", 6);
    ASSERT_OK(buffer_finish(&text));
    CLEANUP(load_order_freep)
    struct load_order *order = parse((const char *)text.data, text.len);
    ASSERT_EQ(load_order_bad_count(order), ELEMENTSOF(lines) + 1);
    ASSERT_EQ(load_order_path_count(order), 1);
    found(order, "a", 0);
    found(order, "b", 1);
    found(order, "good", 2);
    expect_next(order, 2);
    expect_end(order);
}

TEST(an_absurd_line_is_one_bad_line)
{
    size_t len = 3 * MIB;
    CLEANUP_FREE char *text = malloc(len);

    ASSERT_TRUE(text);
    memset(text, 'a', len);
    for (size_t i = 0; i < len; i += 200)
        text[i] = '/';
    memcpy(text + len - 4, "\n/b\n", 4);
    CLEANUP(load_order_freep) struct load_order *order = parse(text, len);
    ASSERT_EQ(load_order_bad_count(order), 1);
    ASSERT_EQ(load_order_path_count(order), 1);
}

TEST(millions_of_lines_have_an_end)
{
    CLEANUP(buffer_release) struct buffer text = {0};
    char line[16];

    for (unsigned i = 0; i < LOAD_ORDER_FILES_MAX + 1000; i++)
        buffer_put(&text, line, (size_t)snprintf(line, sizeof(line), "/%x\n", i));
    ASSERT_OK(buffer_finish(&text));
    CLEANUP(load_order_freep)
    struct load_order *order = parse((const char *)text.data, text.len);
    ASSERT_EQ(load_order_path_count(order), LOAD_ORDER_FILES_MAX);
    ASSERT_EQ(load_order_bad_count(order), 1000);
    found(order, "1fffff", 7);
    found(order, "200000", 8);
    expect_next(order, 7);
    expect_end(order);
}

TEST(any_name_is_read_as_it_was_written)
{
    static const char *const paths[] = {"a",     "a/b\nc",           "#/# x",
                                        "\\x41", "\xff/\xc3\xbc \t", "a/ b "};
    CLEANUP(buffer_release) struct buffer text = {0};
    CLEANUP(buffer_release) struct buffer key = {0};

    for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
        buffer_clear(&key);
        key_put_path(&key, paths[i], strlen(paths[i]));
        load_order_put(&text, key.data, key.len);
    }
    ASSERT_OK(buffer_finish(&text));
    CLEANUP(load_order_freep)
    struct load_order *order = parse((const char *)text.data, text.len);
    ASSERT_EQ(load_order_bad_count(order), 0);
    for (size_t i = ELEMENTSOF(paths); i > 0; i--)
        found(order, paths[i - 1], i - 1);
    for (size_t i = 0; i < ELEMENTSOF(paths); i++)
        expect_next(order, i);
}

TEST(only_regular_files_are_read)
{
    char dir[] = "/tmp/umbra-load-order-XXXXXX", path[64];
    CLEANUP(load_order_freep) struct load_order *order = NULL;

    ASSERT_TRUE(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/x", dir);
    ASSERT_EQ(load_order_read(path, &order), -ENOENT);
    ASSERT_EQ(load_order_read(dir, &order), -EINVAL);
    ASSERT_EQ(load_order_read("/dev/zero", &order), -EINVAL);
    ASSERT_OK(mkfifo(path, 0600));
    ASSERT_EQ(load_order_read(path, &order), -EINVAL);
    ASSERT_OK(unlink(path));

    /* the line that crosses the limit is not taken for another name */
    FILE *file = fopen(path, "we");
    ASSERT_TRUE(file);
    ASSERT_EQ(fputs("/a\n/b", file) >= 0, true);
    ASSERT_OK(ftruncate(fileno(file), (off_t)LOAD_ORDER_BYTES_MAX + 100));
    ASSERT_OK(fclose(file));
    ASSERT_OK(load_order_read(path, &order));
    ASSERT_EQ(load_order_path_count(order), 1);
    ASSERT_EQ(load_order_bad_count(order), 1);
    ASSERT_OK(unlink(path));
    ASSERT_OK(rmdir(dir));
}

TEST_MAIN()
