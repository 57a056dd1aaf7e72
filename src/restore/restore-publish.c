/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that get their name when they are complete.
 *
 * O_TMPFILE makes a file without a name, which a crash or SIGKILL takes away without a trace. Where
 * the file system has no such thing it is a file with a temporary name.  What has the final name
 * until then is replaced by rename(2), so at each moment the name leads to the whole old file or to
 * the whole new one.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/restore-private.h"

#define NAME_TRIES 64u

void temporary_name(struct restore *restore, char ret_name[TEMPORARY_NAME_MAX])
{
    uint64_t count = atomic_fetch_add(&restore->temporary_count, 1);

    (void)snprintf(ret_name, TEMPORARY_NAME_MAX, ".umbra-restore-%016" PRIx64,
                   restore->temporary_seed + count);
}

static int create_named(struct restore *restore, int dir_fd, char ret_temporary[TEMPORARY_NAME_MAX],
                        int *ret_fd)
{
    for (unsigned tries = 0; tries < NAME_TRIES; tries++) {
        temporary_name(restore, ret_temporary);
        int fd =
            openat(dir_fd, ret_temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0) {
            *ret_fd = fd;
            return 0;
        }
        if (errno != EEXIST)
            break;
    }
    int r = -errno;
    ret_temporary[0] = '\0';
    return r;
}

int hidden_create(struct restore *restore, int dir_fd, char ret_temporary[TEMPORARY_NAME_MAX],
                  int *ret_fd)
{
    int fd = openat(dir_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd >= 0) {
        ret_temporary[0] = '\0';
        *ret_fd = fd;
        return 0;
    }
    /* How file systems and old kernels say that they do not know it. */
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
        return -errno;
    return create_named(restore, dir_fd, ret_temporary, ret_fd);
}

static int link_fd(int dir_fd, int fd, const char *name)
{
    char link[40];

    if (linkat(fd, "", dir_fd, name, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno == EEXIST)
        return -EEXIST;
    /* Without CAP_DAC_READ_SEARCH only this way is open. */
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, link, dir_fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* Makes room for something that is no directory. */
static int remove_directory(struct restore *restore, int dir_fd, const char *name)
{
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) == 0)
        return 0;
    int r = -errno;
    bool full = r == -ENOTEMPTY || r == -EEXIST;
    if (full && !restore->options->delete_extra)
        return error_note(r, "a directory that is not empty is in its place");
    return full || r == -EPERM ? beneath_remove(dir_fd, name) : r;
}

int publish_unlock(int dir_fd, const char *name)
{
    CLEANUP_CLOSE int path_fd = -EBADF, fd = -EBADF;
    struct stat st;

    int r = open_path(dir_fd, name, &path_fd, &st);
    if (r >= 0 && !S_ISREG(st.st_mode))
        r = -EPERM;
    if (r >= 0)
        r = reopen_fd(path_fd, O_RDONLY | O_NOATIME, &fd);
    return r < 0 ? r : meta_clear_immutable(fd);
}

int publish_rename(struct restore *restore, int dir_fd, const char *temporary, const char *name)
{
    if (renameat(dir_fd, temporary, dir_fd, name) == 0)
        return 0;
    int r = -errno;
    if (r == -EISDIR || r == -ENOTEMPTY || r == -EEXIST)
        r = remove_directory(restore, dir_fd, name);
    else if (r == -EPERM && publish_unlock(dir_fd, name) >= 0)
        r = 0;
    if (r < 0)
        return r;
    return renameat(dir_fd, temporary, dir_fd, name) < 0 ? -errno : 0;
}

int hidden_publish(struct restore *restore, int dir_fd, int fd, char temporary[TEMPORARY_NAME_MAX],
                   const char *name)
{
    int r = -EEXIST;

    if (!temporary[0]) {
        r = link_fd(dir_fd, fd, name);
        if (r != -EEXIST)
            return r;
    }
    for (unsigned tries = 0; !temporary[0] && tries < NAME_TRIES; tries++) {
        temporary_name(restore, temporary);
        r = link_fd(dir_fd, fd, temporary);
        if (r < 0)
            temporary[0] = '\0';
        if (r < 0 && r != -EEXIST)
            return r;
    }
    if (!temporary[0])
        return r;
    r = publish_rename(restore, dir_fd, temporary, name);
    if (r >= 0)
        temporary[0] = '\0';
    return r;
}
