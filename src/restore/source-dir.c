/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A directory tree as a source: PATH/x is tried for the file that is restored to TARGET/x.
 *
 * What is in it need not be trusted, since contents are verified; but looking must not do harm.  So
 * names are resolved beneath the directory (openat2(2)), links that lead out of it and other mounts
 * are not followed, and a file is opened only after it was seen to be a regular one: opening a
 * device or a FIFO has effects.  Other mounts are left out because one of them may be the volume
 * that is restored, where opening a file would wait for ourselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/btrfs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/source-private.h"

#define LOOKUP_TRIES 32u

struct dir_source {
    int root_fd;
};

/* ---- opening ---- */

/* Subvolumes of btrfs have device numbers of their own, and one superblock. */
static bool same_btrfs(int a, int b)
{
    struct btrfs_ioctl_fs_info_args of_a = {0}, of_b = {0};

    return ioctl(a, BTRFS_IOC_FS_INFO, &of_a) == 0 && ioctl(b, BTRFS_IOC_FS_INFO, &of_b) == 0 &&
           memcmp(of_a.fsid, of_b.fsid, sizeof(of_a.fsid)) == 0;
}

static int check_volume(int root_fd, int volume_fd)
{
    struct stat root, volume;

    if (volume_fd < 0)
        return 0;
    if (fstat(root_fd, &root) < 0 || fstat(volume_fd, &volume) < 0)
        return error_note_describe(-errno, "cannot tell its file system");
    if (root.st_dev == volume.st_dev || same_btrfs(root_fd, volume_fd))
        return error_note(-EINVAL, "it is on the file system that is restored");
    return 0;
}

static int dir_open(const char *path, const struct source_options *options, void **ret_shared)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return error_note_describe(-errno, "cannot open it");
    int r = check_volume(fd, options->volume_fd);
    if (r < 0)
        return r;
    struct dir_source *source = malloc(sizeof(*source));
    if (!source)
        return -ENOMEM;
    source->root_fd = TAKE_FD(fd);
    *ret_shared = source;
    return 0;
}

static void dir_close(void *data)
{
    struct dir_source *source = data;

    (void)close(source->root_fd);
    free(source);
}

static int dir_attach(void *shared, void **ret_state)
{
    *ret_state = shared;
    return 0;
}

static void dir_detach(void *state)
{
    (void)state; /* the source's */
}

/* ---- a file ---- */

static int look_up(int dir_fd, const char *path, int *ret_fd)
{
    const struct open_how how = {
        .flags = O_PATH | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };

    /* EAGAIN: a rename elsewhere kept the kernel from being sure. */
    for (unsigned tries = 0; tries < LOOKUP_TRIES; tries++) {
        long fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
        if (fd >= 0) {
            *ret_fd = (int)fd;
            return 0;
        }
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return -EAGAIN;
}

/* Paths of any length, in pieces. */
static int find_file(int root_fd, const char *path, int *ret_fd)
{
    CLEANUP_CLOSE int dir_fd = -EBADF;

    while (strlen(path) >= PATH_MAX) {
        char piece[PATH_MAX];
        const char *slash = memrchr(path, '/', PATH_MAX - 1);
        int next_fd;
        if (!slash)
            return -ENAMETOOLONG;
        (void)snprintf(piece, sizeof(piece), "%.*s", (int)(slash - path), path);
        int r = look_up(dir_fd < 0 ? root_fd : dir_fd, piece, &next_fd);
        if (r < 0)
            return r;
        cleanup_closep(&dir_fd);
        dir_fd = next_fd;
        path = slash + 1;
    }
    return look_up(dir_fd < 0 ? root_fd : dir_fd, path, ret_fd);
}

static int open_found(int path_fd, const struct source_want *want, int *ret_fd)
{
    char path[40];
    struct stat st;

    if (fstat(path_fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return error_note(-UMBRA_E_NO_CHUNK, "it is no regular file");
    if ((uint64_t)st.st_size < want->offset + want->len)
        return error_note(-UMBRA_E_NO_CHUNK, "it is too short");
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static int read_all(int fd, const struct source_want *want, uint8_t *to)
{
    for (uint32_t got = 0; got < want->len;) {
        ssize_t n = pread(fd, to + got, want->len - got, (off_t)(want->offset + got));
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return error_note(-UMBRA_E_NO_CHUNK, "it has become shorter");
        got += n > 0 ? (uint32_t)n : 0;
    }
    return 0;
}

/* What says that the file cannot be had here, and will not be. */
static int judge(int r)
{
    switch (r) {
    case -ENOENT:
    case -ENOTDIR:
    case -ELOOP:
    case -EXDEV:
    case -EACCES:
    case -EPERM:
    case -ENAMETOOLONG: return error_note(-UMBRA_E_NO_CHUNK, "%s", error_describe(r));
    default: return r;
    }
}

static int dir_fetch(void *data, const struct source_want *want, void *to)
{
    const struct dir_source *source = data;
    CLEANUP_CLOSE int path_fd = -EBADF;
    CLEANUP_CLOSE int fd = -EBADF;

    int r = find_file(source->root_fd, want->path, &path_fd);
    if (r >= 0)
        r = open_found(path_fd, want, &fd);
    if (r >= 0)
        r = read_all(fd, want, to);
    return r < 0 ? judge(r) : 0;
}

const struct source_ops source_dir_ops = {
    .open = dir_open,
    .close = dir_close,
    .attach = dir_attach,
    .detach = dir_detach,
    .fetch = dir_fetch,
};
