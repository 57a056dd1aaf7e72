/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mounts for tests: file systems in sparse files below test_tmpdir(), and tmpfs.
 *
 * The test gets a mount namespace of its own, so that even one that aborts leaves no mount behind;
 * what is mounted when it ends is unmounted at exit, before the temporary directory is removed.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/test.h"

#define TEST_MOUNTS_MAX 16

static char test_mounts[TEST_MOUNTS_MAX][512];
static size_t test_mount_count;

static inline void test_unmount_all(void)
{
    while (test_mount_count > 0)
        (void)umount2(test_mounts[--test_mount_count], MNT_DETACH);
}

/* Exit status, or -1 when it cannot be run; its output is dropped. */
static inline int test_run(const char *const *argv)
{
    posix_spawn_file_actions_t actions;
    ASSERT_EQ(posix_spawn_file_actions_init(&actions), 0);
    for (int fd = 0; fd < 3; fd++)
        ASSERT_EQ(posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0), 0);
    pid_t pid;
    int status = -1;
    int e = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (e != 0)
        return -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Whether mounts may be made; makes the namespace. */
static inline bool test_mounts_begin(void)
{
    static bool done;
    if (done)
        return true;
    (void)test_tmpdir(); /* so that it is removed after the mounts */
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return false;
    ASSERT_EQ(atexit(test_unmount_all), 0);
    done = true;
    return true;
}

static inline void test_mount_remember(const char *directory)
{
    ASSERT_LT(test_mount_count, TEST_MOUNTS_MAX);
    ASSERT_LT(snprintf(test_mounts[test_mount_count], sizeof(test_mounts[0]), "%s", directory),
              sizeof(test_mounts[0]));
    test_mount_count++;
}

/* Puts a tmpfs on directory, which must be there, if that is possible. */
static inline bool test_mount_tmpfs(const char *directory)
{
    if (!test_mounts_begin() || mount("none", directory, "tmpfs", 0, NULL) < 0)
        return false;
    test_mount_remember(directory);
    return true;
}

/* Makes a file system with mkfs and its options (ending in NULL), and mounts it on directory, which
 * must be there.  options: of the mount, may be NULL.  Skips the test when it may not do so. */
static inline void test_mount_image(const char *directory, const char *const *mkfs,
                                    uint64_t size_bytes, const char *options)
{
    if (!test_mounts_begin())
        test_skip("may not mount here");
    char image[600], mount_options[200];
    ASSERT_LT(snprintf(image, sizeof(image), "%s.img", directory), sizeof(image));
    ASSERT_LT(snprintf(mount_options, sizeof(mount_options), "loop%s%s", options ? "," : "",
                       options ? options : ""),
              sizeof(mount_options));
    int fd = open(image, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(ftruncate(fd, (off_t)size_bytes), 0);
    ASSERT_EQ(close(fd), 0);
    const char *make[16];
    size_t count = 0;
    while (mkfs[count]) {
        ASSERT_LT(count + 2, ELEMENTSOF(make));
        make[count] = mkfs[count];
        count++;
    }
    make[count] = image;
    make[count + 1] = NULL;
    if (test_run(make) != 0)
        test_skip("mkfs does not work here");
    const char *const mount_it[] = {"mount", "-o", mount_options, image, directory, NULL};
    if (test_run(mount_it) != 0)
        test_skip("this file system cannot be mounted here");
    test_mount_remember(directory);
}
