/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * It is mount(8) that mounts, with the line of /etc/fstab: the options of a file system are those
 * of its first mount, and the visible one, which comes later, must find the same.
 */
#include "cli/private-mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"

static int new_namespace(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return error_note_describe(-errno, "cannot make a mount namespace");
    return 0;
}

/* An automount there would wait for the visible mount, which waits for us.  O_PATH alone does not
 * set it off. */
static int look_at(const char *path, bool *ret_mounted)
{
    struct statx st;
    struct statfs fs;
    CLEANUP_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, 0, &st) < 0 ||
        fstatfs(fd, &fs) < 0)
        return error_note_describe(-errno, "cannot look at '%s'", path);
    *ret_mounted = (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
    if (!*ret_mounted || fs.f_type != AUTOFS_SUPER_MAGIC)
        return 0;
    *ret_mounted = false;
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
        return error_note_describe(-errno, "cannot take the automount off '%s'", path);
    return 0;
}

static int run_mount(const char *mount_point)
{
    /* The strings are only read: argv is not const for reasons of history. */
    const char *const argv[] = {"mount", mount_point, NULL};
    pid_t pid, ended;
    int status;
    int r = -posix_spawnp(&pid, "mount", NULL, NULL, (char *const *)(uintptr_t)argv, environ);
    if (r < 0)
        return error_note_describe(r, "cannot start mount(8)");
    do
        ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    if (ended == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return error_note(-EIO, "cannot mount '%s' as /etc/fstab says", mount_point);
}

int private_mount(const char *mount_point)
{
    bool mounted = false;
    int r = new_namespace();
    if (r == 0)
        r = look_at(mount_point, &mounted);
    return r < 0 || mounted ? r : run_mount(mount_point);
}
