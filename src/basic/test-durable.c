/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>
#include <sys/stat.h>

#include "basic/durable.h"
#include "basic/test.h"

static int put(struct io *io, const char *path, enum durable_mode mode, const char *text)
{
    char copy[64];
    (void)snprintf(copy, sizeof(copy), "%s", text);
    struct iovec iov[2] = {
        {.iov_base = copy, .iov_len = strlen(copy) / 2},
        {.iov_base = copy + strlen(copy) / 2, .iov_len = strlen(copy) - strlen(copy) / 2}};

    return durable_write(io, "tmp", path, mode, iov, 2);
}

static void assert_contents(struct io *io, const char *path, const char *expected)
{
    CLEANUP_FREE void *data = NULL;
    size_t len = 0;

    ASSERT_OK(durable_read(io, path, 100, &data, &len));
    ASSERT_EQ(len, strlen(expected));
    ASSERT_STREQ((const char *)data, expected);
}

static int count_name(const char *name _unused_, void *userdata)
{
    (*(size_t *)userdata)++;
    return 0;
}

static void assert_no_leftovers(struct io *io)
{
    size_t names = 0;
    ASSERT_OK(io_list(io, "tmp", count_name, &names));
    ASSERT_EQ(names, 0);
}

static struct io *new_io(void)
{
    static unsigned number;
    struct io *io = NULL;
    char root[4096];

    ASSERT_LT(snprintf(root, sizeof(root), "%s/%u", test_tmpdir(), number++), sizeof(root));
    ASSERT_EQ(mkdir(root, 0700), 0);
    ASSERT_OK(io_new_real(root, &io));
    ASSERT_OK(io_mkdir(io, "tmp"));
    return io;
}

TEST(create_then_replace)
{
    CLEANUP(io_freep) struct io *io = new_io();

    ASSERT_OK(put(io, "file", DURABLE_CREATE, "first"));
    assert_contents(io, "file", "first");
    ASSERT_ERR(put(io, "file", DURABLE_CREATE, "second"), -EEXIST);
    assert_contents(io, "file", "first");
    assert_no_leftovers(io);
    ASSERT_OK(put(io, "file", DURABLE_REPLACE, "second"));
    assert_contents(io, "file", "second");
    assert_no_leftovers(io);
}

TEST(missing_directory_leaves_nothing)
{
    CLEANUP(io_freep) struct io *io = new_io();

    ASSERT_ERR(put(io, "no/file", DURABLE_REPLACE, "x"), -ENOENT);
    assert_no_leftovers(io);
}

TEST(mkdir_parents)
{
    CLEANUP(io_freep) struct io *io = new_io();
    struct io_stat st;

    ASSERT_OK(durable_mkdir_parents(io, "a/b/c"));
    ASSERT_OK(durable_mkdir_parents(io, "a/b/c"));
    ASSERT_OK(durable_mkdir_parents(io, "a/b/d"));
    ASSERT_OK(io_stat(io, "a/b/c", &st));
    ASSERT_TRUE(st.is_directory);
    ASSERT_OK(put(io, "a/file", DURABLE_CREATE, "x"));
    ASSERT_ERR(durable_mkdir_parents(io, "a/file"), -ENOTDIR);
    ASSERT_ERR(durable_mkdir_parents(io, "a/file/b"), -ENOTDIR);
}

TEST(read_is_bounded)
{
    CLEANUP(io_freep) struct io *io = new_io();
    CLEANUP_FREE void *data = NULL;
    size_t len;

    ASSERT_OK(put(io, "file", DURABLE_CREATE, "12345"));
    ASSERT_ERR(durable_read(io, "file", 4, &data, &len), -UMBRA_E_LIMIT);
    ASSERT_TRUE(data == NULL);
    ASSERT_OK(durable_read(io, "file", 5, &data, &len));
    ASSERT_EQ(len, 5);
    ASSERT_ERR(durable_read(io, "none", 5, &data, &len), -ENOENT);
}

TEST(read_larger_than_one_step)
{
    CLEANUP(io_freep) struct io *io = new_io();
    CLEANUP_FREE uint8_t *big = malloc(300000);
    CLEANUP_FREE void *back = NULL;
    uint64_t seed = 1;
    size_t len = 0;

    ASSERT_TRUE(big != NULL);
    test_random_fill(&seed, big, 300000);
    struct iovec iov = {.iov_base = big, .iov_len = 300000};
    ASSERT_OK(durable_write(io, "", "big", DURABLE_CREATE, &iov, 1));
    ASSERT_OK(durable_read(io, "big", MIB, &back, &len));
    ASSERT_EQ(len, 300000);
    ASSERT_MEMEQ(back, big, len);
}

TEST_MAIN()
