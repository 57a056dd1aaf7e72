/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open directories of a walk.
 *
 * A dir_handle has one fd.  It is needed by the scan_dir (whoever opens files there), and by the
 * subdirectories that are not opened yet.  The second need can last long and can be of any number
 * in a deep tree, so beyond fds_max open handles an fd that only subdirectories need is closed,
 * and opened again by its path when it is their turn; that it is the same directory is checked by
 * device and inode.  The count is of the process, for so is the limit.
 *
 * Lock: each handle's own, held only around changes of its fields and the opening again.  No other
 * lock is taken under it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/beneath.h"
#include "tree/scan-private.h"

#define FDS_MAX_LEAST 64u
#define FDS_MAX_MOST  4096u

struct dir_handle {
    pthread_mutex_t lock;
    unsigned refs;
    unsigned users; /* of the fd, right now */
    int fd;         /* -EBADF: closed for want of fds */
    dev_t dev;      /* valid while it is closed */
    ino_t inode;
    char *path;
};

struct scan_dir_private {
    struct scan_dir dir;
    struct dir_handle *handle; /* NULL: could not be opened */
    char *path;                /* without a handle */
    char *names;
};

static atomic_uint open_handles;
static atomic_uint fds_max = FDS_MAX_LEAST;

unsigned scan_raise_fd_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return atomic_load(&fds_max);
    if (limit.rlim_cur < limit.rlim_max) {
        rlim_t before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            limit.rlim_cur = before;
    }
    rlim_t share = MIN(limit.rlim_cur / 4, (rlim_t)FDS_MAX_MOST);
    atomic_store(&fds_max, (unsigned)MAX(share, (rlim_t)FDS_MAX_LEAST));
    return atomic_load(&fds_max);
}

/* ---- handles ---- */

int dir_handle_new(char *path, int fd, struct dir_handle **ret_handle)
{
    struct dir_handle *handle = calloc(1, sizeof(*handle));
    if (!handle)
        return -ENOMEM;
    (void)pthread_mutex_init(&handle->lock, NULL); /* cannot fail without attributes */
    handle->refs = 1;
    handle->fd = fd;
    handle->path = path;
    atomic_fetch_add_explicit(&open_handles, 1, memory_order_relaxed);
    *ret_handle = handle;
    return 0;
}

struct dir_handle *dir_handle_ref(struct dir_handle *handle)
{
    (void)__atomic_fetch_add(&handle->refs, 1, __ATOMIC_RELAXED);
    return handle;
}

static void close_fd(struct dir_handle *handle)
{
    if (handle->fd < 0)
        return;
    (void)close(handle->fd);
    handle->fd = -EBADF;
    atomic_fetch_sub_explicit(&open_handles, 1, memory_order_relaxed);
}

void dir_handle_unref(struct dir_handle *handle)
{
    if (!handle || __atomic_sub_fetch(&handle->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    close_fd(handle);
    (void)pthread_mutex_destroy(&handle->lock);
    free(handle->path);
    free(handle);
}

const char *dir_handle_path(const struct dir_handle *handle)
{
    return handle->path;
}

/* Opens the directory again; the lock is held. */
static int reopen_locked(struct dir_handle *handle)
{
    CLEANUP_CLOSE int top = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0)
        return -errno;
    CLEANUP_CLOSE int fd = -EBADF;
    int r = beneath_open_dir(top, handle->path, &fd);
    if (r < 0)
        return r;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_dev != handle->dev || st.st_ino != handle->inode)
        return -UMBRA_E_CHANGED;
    handle->fd = TAKE_FD(fd);
    atomic_fetch_add_explicit(&open_handles, 1, memory_order_relaxed);
    return 0;
}

int dir_handle_borrow(struct dir_handle *handle, int *ret_fd)
{
    (void)pthread_mutex_lock(&handle->lock);
    int r = handle->fd >= 0 ? 0 : reopen_locked(handle);
    if (r >= 0) {
        handle->users++;
        *ret_fd = handle->fd;
    }
    (void)pthread_mutex_unlock(&handle->lock);
    return r;
}

void dir_handle_return(struct dir_handle *handle)
{
    (void)pthread_mutex_lock(&handle->lock);
    struct stat st;
    if (--handle->users == 0 &&
        atomic_load_explicit(&open_handles, memory_order_relaxed) > atomic_load(&fds_max) &&
        fstat(handle->fd, &st) >= 0) {
        handle->dev = st.st_dev;
        handle->inode = st.st_ino;
        close_fd(handle);
    }
    (void)pthread_mutex_unlock(&handle->lock);
}

/* ---- scan_dir ---- */

int scan_dir_new(struct dir_handle *handle, char *path, struct scan_dir **ret_dir)
{
    struct scan_dir_private *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->handle = handle;
    p->path = path;
    p->dir.private = p;
    p->dir.ref_count = 1;
    p->dir.path = path;
    p->dir.fd = -EBADF;
    if (handle) {
        handle->users++; /* nobody else knows it yet */
        p->dir.path = handle->path;
        p->dir.fd = handle->fd;
    }
    *ret_dir = &p->dir;
    return 0;
}

int scan_dir_alloc_names(struct scan_dir *dir, size_t bytes, char **ret_names)
{
    dir->private->names = malloc(bytes + 1);
    if (!dir->private->names)
        return -ENOMEM;
    *ret_names = dir->private->names;
    return 0;
}

struct scan_dir *scan_dir_ref(struct scan_dir *dir)
{
    (void)__atomic_fetch_add(&dir->ref_count, 1, __ATOMIC_RELAXED);
    return dir;
}

void scan_dir_unref(struct scan_dir *dir)
{
    if (!dir || __atomic_sub_fetch(&dir->ref_count, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    struct scan_dir_private *p = dir->private;
    if (p->handle) {
        dir_handle_return(p->handle);
        dir_handle_unref(p->handle);
    }
    scan_child_vector_release(&dir->children);
    free(p->path);
    free(p->names);
    free(p);
}

struct dir_handle *scan_dir_handle(const struct scan_dir *dir)
{
    return dir->private->handle;
}

/* ---- opening ---- */

int scan_open_quietly(int dir_fd, const char *name, int flags, int *ret_fd)
{
    flags |= O_CLOEXEC | O_NOCTTY;
    int fd = openat(dir_fd, name, flags | O_NOATIME);
    if (fd < 0 && errno == EPERM) /* neither ours nor are we root */
        fd = openat(dir_fd, name, flags);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

/* Opens a file that somebody has a lease on: waits until he has given it up.  That it is a regular
 * file is known before, for another one might block for ever. */
static int open_leased(int dir_fd, const char *name, int *ret_fd)
{
    CLEANUP_CLOSE int path_fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (path_fd < 0 || fstat(path_fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -UMBRA_E_CHANGED;
    char link[40];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
    return scan_open_quietly(AT_FDCWD, link, O_RDONLY, ret_fd);
}

int scan_child_open(struct scan_dir *dir, const char *name, int *ret_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = scan_open_quietly(dir->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, &fd);
    if (r == -EAGAIN)
        r = open_leased(dir->fd, name, &fd);
    if (r == -ELOOP || r == -ENXIO)
        r = -UMBRA_E_CHANGED; /* a symbolic link, a socket */
    if (r < 0)
        return r;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -UMBRA_E_CHANGED;
    *ret_fd = TAKE_FD(fd);
    return 0;
}
