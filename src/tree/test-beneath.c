/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/beneath.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "tree/test-mounts.h"

/* A fresh directory for one test. */
static int arena(const char *name)
{
    char path[PATH_MAX];
    ASSERT_LT(snprintf(path, sizeof(path), "%s/%s", test_tmpdir(), name), sizeof(path));
    ASSERT_EQ(mkdir(path, 0700), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static void make_file(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(close(fd), 0);
}

static bool exists(int dir_fd, const char *name)
{
    struct stat st;
    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool same_file(int a, int b)
{
    struct stat x, y;
    ASSERT_EQ(fstat(a, &x), 0);
    ASSERT_EQ(fstat(b, &y), 0);
    return x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

static unsigned count_fds(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 2000; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

TEST(opens_only_what_is_inside)
{
    CLEANUP_CLOSE int root = arena("open");
    ASSERT_EQ(mkdirat(root, "a", 0700), 0);
    ASSERT_EQ(mkdirat(root, "a/b", 0700), 0);
    ASSERT_EQ(symlinkat("/etc", root, "abs"), 0);
    ASSERT_EQ(symlinkat("a", root, "rel"), 0);
    ASSERT_EQ(symlinkat("/proc/self/root", root, "magic"), 0);
    make_file(root, "file");

    CLEANUP_CLOSE int fd = -EBADF;
    ASSERT_OK(beneath_open_dir(root, "a/b", &fd));
    CLEANUP_CLOSE int top = -EBADF;
    ASSERT_OK(beneath_open_dir(root, "", &top));
    ASSERT_TRUE(same_file(top, root));

    int none = -1;
    ASSERT_ERR(beneath_open_dir(root, "abs", &none), -ELOOP);
    ASSERT_ERR(beneath_open_dir(root, "rel", &none), -ELOOP);
    ASSERT_ERR(beneath_open_dir(root, "rel/b", &none), -ELOOP);
    ASSERT_ERR(beneath_open_dir(root, "magic/etc", &none), -ELOOP);
    ASSERT_ERR(beneath_open_dir(root, "file", &none), -ENOTDIR);
    ASSERT_ERR(beneath_open_dir(root, "a/none", &none), -ENOENT);
    static const char *const hostile[] = {"..", "a/../..", "/etc", "a//b", ".", "a/.", "a/"};
    for (size_t i = 0; i < ELEMENTSOF(hostile); i++)
        ASSERT_ERR(beneath_open_dir(root, hostile[i], &none), -UMBRA_E_HOSTILE);
    ASSERT_EQ(none, -1);
}

TEST(makes_what_is_missing)
{
    CLEANUP_CLOSE int root = arena("make");
    CLEANUP_CLOSE int fd = -EBADF, again = -EBADF;
    ASSERT_OK(beneath_make_dirs(root, "a/b/c", false, &fd));
    ASSERT_OK(beneath_open_dir(root, "a/b/c", &again));
    ASSERT_TRUE(same_file(fd, again));
    struct stat st;
    ASSERT_EQ(fstat(fd, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0700);
    ASSERT_ERR(beneath_make_dirs(root, "a/../../x", true, &(int){-1}), -UMBRA_E_HOSTILE);
}

TEST(replaces_what_is_in_the_way)
{
    CLEANUP_CLOSE int root = arena("replace");
    CLEANUP_CLOSE int outside = arena("replace-outside");
    make_file(outside, "precious");
    char target[PATH_MAX];
    ASSERT_LT(snprintf(target, sizeof(target), "%s/replace-outside", test_tmpdir()), PATH_MAX);
    ASSERT_EQ(symlinkat(target, root, "link"), 0);
    make_file(root, "file");

    int none = -1;
    ASSERT_ERR(beneath_make_dirs(root, "link/x", false, &none), -ENOTDIR);
    ASSERT_ERR(beneath_make_dirs(root, "file/x", false, &none), -ENOTDIR);
    CLEANUP_CLOSE int a = -EBADF, b = -EBADF;
    ASSERT_OK(beneath_make_dirs(root, "link/x", true, &a));
    ASSERT_OK(beneath_make_dirs(root, "file/x", true, &b));
    ASSERT_FALSE(exists(outside, "x"));
    ASSERT_TRUE(exists(outside, "precious"));
}

/* A path of more than three times PATH_MAX. */
static char *long_path(size_t levels)
{
    char *path = malloc(levels * 256 + 1), *p = path;
    ASSERT_TRUE(path);
    for (size_t i = 0; i < levels; i++) {
        if (i > 0)
            *p++ = '/';
        memset(p, 'a' + (int)(i % 26), 255);
        p += 255;
    }
    *p = '\0';
    return path;
}

TEST(paths_beyond_path_max)
{
    CLEANUP_CLOSE int root = arena("long");
    CLEANUP_FREE char *path = long_path(60);
    ASSERT_GT(strlen(path), 3 * PATH_MAX);
    CLEANUP_CLOSE int fd = -EBADF, again = -EBADF;
    ASSERT_OK(beneath_make_dirs(root, path, false, &fd));
    ASSERT_OK(beneath_open_dir(root, path, &again));
    ASSERT_TRUE(same_file(fd, again));
    char top[256];
    memcpy(top, path, 255);
    top[255] = '\0';
    ASSERT_OK(beneath_remove(root, top));
    ASSERT_FALSE(exists(root, top));

    char name[NAME_MAX + 2];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    ASSERT_ERR(beneath_open_dir(root, name, &(int){-1}), -ENAMETOOLONG);
}

TEST(removes_deep_trees)
{
    char path[PATH_MAX];
    ASSERT_EQ(close(arena("deep")), 0);
    ASSERT_LT(snprintf(path, sizeof(path), "%s/deep", test_tmpdir()), sizeof(path));
    (void)test_mount_tmpfs(path); /* without the wait for a disk where possible */
    CLEANUP_CLOSE int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(root >= 0);
    ASSERT_EQ(mkdirat(root, "top", 0700), 0);
    int fd = openat(root, "top", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (unsigned i = 0; i < 5000; i++) {
        ASSERT_EQ(mkdirat(fd, "d", 0700), 0);
        if (i % 50 == 0) {
            make_file(fd, "file");
            ASSERT_EQ(symlinkat("/", fd, "link"), 0);
            ASSERT_EQ(mkdirat(fd, "a", 0700), 0);
            ASSERT_EQ(mkdirat(fd, "e", 0700), 0);
        }
        int next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(next >= 0);
        ASSERT_EQ(close(fd), 0);
        fd = next;
    }
    ASSERT_EQ(close(fd), 0);
    unsigned fds = count_fds();
    ASSERT_OK(beneath_remove(root, "top"));
    ASSERT_FALSE(exists(root, "top"));
    ASSERT_EQ(count_fds(), fds);
}

TEST(removes_every_type)
{
    CLEANUP_CLOSE int root = arena("types");
    make_file(root, "file");
    ASSERT_EQ(mkfifoat(root, "fifo", 0600), 0);
    ASSERT_EQ(symlinkat("/", root, "link"), 0);
    ASSERT_EQ(mkdirat(root, "empty", 0700), 0);
    static const char *const names[] = {"file", "fifo", "link", "empty"};
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        ASSERT_OK(beneath_remove(root, names[i]));
        ASSERT_FALSE(exists(root, names[i]));
        ASSERT_ERR(beneath_remove(root, names[i]), -ENOENT);
    }
    ASSERT_ERR(beneath_remove(root, ".."), -UMBRA_E_HOSTILE);
    ASSERT_ERR(beneath_remove(root, "."), -UMBRA_E_HOSTILE);
    ASSERT_ERR(beneath_remove(root, "a/b"), -UMBRA_E_HOSTILE);
    ASSERT_ERR(beneath_remove(root, ""), -UMBRA_E_HOSTILE);
}

static bool add_flags(int dir_fd, const char *name, unsigned flags)
{
    CLEANUP_CLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    unsigned now = 0;
    if (ioctl(fd, FS_IOC_GETFLAGS, &now) < 0)
        return false;
    now |= flags;
    return ioctl(fd, FS_IOC_SETFLAGS, &now) == 0;
}

TEST(removes_immutable_files)
{
    CLEANUP_CLOSE int root = arena("immutable");
    ASSERT_EQ(mkdirat(root, "d", 0700), 0);
    ASSERT_EQ(mkdirat(root, "d/sub", 0700), 0);
    make_file(root, "d/sub/file");
    make_file(root, "d/log");
    make_file(root, "single");
    if (!add_flags(root, "d/sub/file", FS_IMMUTABLE_FL))
        test_skip("chattr +i does not work here");
    ASSERT_TRUE(add_flags(root, "d/log", FS_APPEND_FL));
    ASSERT_TRUE(add_flags(root, "d/sub", FS_IMMUTABLE_FL));
    ASSERT_TRUE(add_flags(root, "d", FS_APPEND_FL));
    ASSERT_TRUE(add_flags(root, "single", FS_IMMUTABLE_FL));
    ASSERT_OK(beneath_remove(root, "d"));
    ASSERT_FALSE(exists(root, "d"));
    ASSERT_OK(beneath_remove(root, "single"));
    ASSERT_FALSE(exists(root, "single"));
}

TEST(stops_at_mount_points)
{
    CLEANUP_CLOSE int root = arena("mount");
    ASSERT_EQ(mkdirat(root, "d", 0700), 0);
    ASSERT_EQ(mkdirat(root, "d/m", 0700), 0);
    char path[PATH_MAX];
    ASSERT_LT(snprintf(path, sizeof(path), "%s/mount/d/m", test_tmpdir()), PATH_MAX);
    if (mount("none", path, "tmpfs", 0, NULL) < 0)
        test_skip("may not mount");
    make_file(root, "d/m/precious");
    int r = beneath_remove(root, "d");
    bool there = exists(root, "d/m/precious");
    CLEANUP_CLOSE int fd = -EBADF;
    int opened = beneath_open_dir(root, "d/m", &fd);
    if (fd >= 0)
        (void)close(TAKE_FD(fd));
    ASSERT_EQ(umount2(path, MNT_DETACH), 0);
    ASSERT_ERR(r, -EBUSY);
    ASSERT_TRUE(there);
    ASSERT_OK(opened);
    ASSERT_OK(beneath_remove(root, "d"));
}

/* Somebody who swaps a directory and a symbolic link to the outside, as fast as he can. */
struct swapper {
    int root;
    atomic_bool stop;
    atomic_ulong swaps;
    atomic_ulong links; /* made */
};

static void *swap(void *userdata)
{
    struct swapper *s = userdata;
    while (!atomic_load(&s->stop)) {
        /* "x" is the directory or the link, "y" the other one; either may be gone just now. */
        if (renameat2(s->root, "x", s->root, "y", RENAME_EXCHANGE) == 0)
            atomic_fetch_add(&s->swaps, 1);
        else {
            bool made = mkdirat(s->root, "y", 0700) == 0;
            made |= symlinkat("../swap-outside", s->root, "x") == 0;
            made |= symlinkat("../swap-outside", s->root, "y") == 0;
            atomic_fetch_add(&s->links, made);
        }
    }
    return NULL;
}

TEST(nobody_leads_us_out)
{
    CLEANUP_CLOSE int outside = arena("swap-outside");
    CLEANUP_CLOSE int root = arena("swap");
    make_file(outside, "precious");
    ASSERT_EQ(mkdirat(outside, "sub", 0700), 0);
    make_file(outside, "sub/precious");

    struct swapper s = {.root = root};
    pthread_t thread;
    ASSERT_EQ(pthread_create(&thread, NULL, swap, &s), 0);
    unsigned made = 0, removed = 0, refused = 0;
    for (unsigned i = 0; i < 1000; i++) {
        int fd = -EBADF;
        int r = beneath_make_dirs(root, "x/sub/new", i % 2 == 0, &fd);
        if (r >= 0) {
            ASSERT_EQ(close(fd), 0);
            made++;
        } else {
            refused++;
        }
        if (i % 3 == 0)
            removed += beneath_remove(root, "x") >= 0;
        fd = -EBADF;
        if (beneath_open_dir(root, "x/sub", &fd) >= 0) {
            ASSERT_FALSE(exists(fd, "precious"));
            ASSERT_EQ(close(fd), 0);
        }
    }
    atomic_store(&s.stop, true);
    ASSERT_EQ(pthread_join(thread, NULL), 0);
    ASSERT_GT(atomic_load(&s.swaps), 100);
    ASSERT_GT(made, 10);
    ASSERT_GT(removed, 10);
    ASSERT_GT(refused, 0);
    ASSERT_TRUE(exists(outside, "precious"));
    ASSERT_TRUE(exists(outside, "sub/precious"));
    ASSERT_FALSE(exists(outside, "sub/new"));
}

TEST(cache_gives_the_same_as_open)
{
    CLEANUP_CLOSE int root = arena("cache");
    uint64_t seed = 7;
    struct dir_cache *cache = NULL;
    ASSERT_OK(dir_cache_new(root, &cache));
    static const char *const paths[] = {"",    "a",   "a/b",   "a/bc",  "a/b/c", "ab",
                                        "a b", "b/c", "b/c/d", "b/c/e", "c",     "c/a/b/c/d/e"};
    for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
        CLEANUP_CLOSE int fd = -EBADF;
        ASSERT_OK(beneath_make_dirs(root, paths[i], false, &fd));
    }
    for (unsigned i = 0; i < 1000; i++) {
        const char *path = paths[test_random(&seed) % ELEMENTSOF(paths)];
        CLEANUP_CLOSE int fd = -EBADF;
        ASSERT_OK(beneath_open_dir(root, path, &fd));
        int cached = -1;
        ASSERT_OK(dir_cache_get(cache, path, &cached));
        ASSERT_TRUE(same_file(fd, cached));
    }
    ASSERT_ERR(dir_cache_get(cache, "a/none", &(int){-1}), -ENOENT);
    ASSERT_ERR(dir_cache_get(cache, "a/../..", &(int){-1}), -UMBRA_E_HOSTILE);
    dir_cache_free(cache);
}

TEST_MAIN()
