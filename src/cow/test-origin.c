/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files only: devices need root, and are in tests/system/test-cow-cli.sh. */
#include "cow/origin.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"

static char *make_file(const char *name, off_t size)
{
    char *path = NULL;
    ASSERT_TRUE(asprintf(&path, "%s/%s", test_tmpdir(), name) > 0);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(ftruncate(fd, size), 0);
    return path;
}

TEST(a_file)
{
    CLEANUP_FREE char *path = make_file("origin", 1536);
    CLEANUP(cow_origin_release) struct cow_origin a = COW_ORIGIN_NONE;
    struct cow_origin b = COW_ORIGIN_NONE;
    ASSERT_OK(cow_origin_open(path, test_tmpdir(), &a));
    ASSERT_FALSE(a.is_block);
    ASSERT_EQ(a.size_bytes, 1536);
    ASSERT_EQ(a.sector_bytes, COW_SECTOR_BYTES);
    ASSERT_ERR(cow_origin_open(path, NULL, &b), -EBUSY);
    ASSERT_EQ(b.fd, -EBADF);
    cow_origin_release(&a);
    ASSERT_EQ(a.fd, -EBADF);
    ASSERT_OK(cow_origin_open(path, NULL, &a));
}

TEST(identity)
{
    CLEANUP_FREE char *path = make_file("first", 4096);
    CLEANUP_FREE char *other_path = make_file("other", 4096);
    CLEANUP_FREE char *new_path = NULL;
    struct cow_origin a, again, other;
    ASSERT_OK(cow_origin_open(path, NULL, &a));
    cow_origin_release(&(struct cow_origin){.fd = a.fd});
    ASSERT_TRUE(asprintf(&new_path, "%s/renamed", test_tmpdir()) > 0);
    ASSERT_EQ(rename(path, new_path), 0);
    ASSERT_OK(cow_origin_open(new_path, NULL, &again));
    ASSERT_TRUE(a.identity_len > 0);
    ASSERT_EQ(again.identity_len, a.identity_len);
    ASSERT_MEMEQ(again.identity, a.identity, a.identity_len);
    ASSERT_OK(cow_origin_open(other_path, NULL, &other));
    ASSERT_TRUE(other.identity_len != a.identity_len ||
                memcmp(other.identity, a.identity, a.identity_len) != 0);
    cow_origin_release(&again);
    cow_origin_release(&other);
}

static void assert_refused(const char *path, int error, const char *words)
{
    struct cow_origin origin;
    ASSERT_ERR(cow_origin_open(path, NULL, &origin), error);
    if (!strstr(error_text(error), words) || !strstr(error_text(error), path))
        test_fail(__FILE__, __LINE__, "'%s' says not '%s'", error_text(error), words);
}

TEST(refused)
{
    CLEANUP_FREE char *odd = make_file("odd", 1000);
    CLEANUP_FREE char *empty = make_file("empty", 0);
    CLEANUP_FREE char *locked = make_file("locked", 512);
    CLEANUP_CLOSE int fd = open(locked, O_RDONLY | O_CLOEXEC);
    ASSERT_EQ(flock(fd, LOCK_EX), 0);
    assert_refused("/nowhere/origin", -ENOENT, "cannot find");
    assert_refused(test_tmpdir(), -ENOTBLK, "neither");
    assert_refused("/dev/null", -ENOTBLK, "neither");
    assert_refused(odd, -EINVAL, "1000 bytes");
    assert_refused(empty, -EINVAL, "is empty");
    assert_refused(locked, -EBUSY, "in use");
}

TEST(names_of_the_same)
{
    CLEANUP_FREE char *path = make_file("same", 512);
    CLEANUP_FREE char *other = make_file("not-same", 512);
    CLEANUP_FREE char *link_path = NULL;
    ASSERT_TRUE(asprintf(&link_path, "%s/link", test_tmpdir()) > 0);
    ASSERT_EQ(symlink(path, link_path), 0);
    ASSERT_TRUE(cow_origin_same(path, link_path));
    ASSERT_FALSE(cow_origin_same(path, other));
    ASSERT_FALSE(cow_origin_same(path, "/nowhere"));
    ASSERT_FALSE(cow_origin_same(test_tmpdir(), test_tmpdir()));
}

TEST_MAIN()
