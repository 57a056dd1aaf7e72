/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is what stands in the target what the backup has?
 *
 * A file is opened by way of an O_PATH descriptor, whose type is looked at before the file proper
 * is opened through /proc: so no device is ever opened, no fifo waited for and no link followed,
 * even when somebody keeps exchanging the name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/restore-private.h"

int open_path(int dir_fd, const char *name, int *ret_fd, struct stat *ret_stat)
{
    CLEANUP_CLOSE int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_stat = st;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int reopen_fd(int fd, int flags, int *ret_fd)
{
    char link[40];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    int opened = open(link, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (opened < 0 && errno == EPERM && (flags & O_NOATIME)) /* not the owner */
        opened = open(link, (flags & ~O_NOATIME) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (opened < 0)
        return -errno;
    *ret_fd = opened;
    return 0;
}

int chmod_path(int fd, mode_t mode)
{
    char link[40];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    return chmod(link, mode) < 0 ? -errno : 0;
}

void comparison_release(struct comparison *c)
{
    if (c->fd >= 0)
        (void)close(c->fd);
    free(c->differs);
    free(c->attributes);
    *c = (struct comparison){.fd = -EBADF};
}

static int pread_full(int fd, void *data, size_t len, uint64_t offset, size_t *ret_len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, (uint8_t *)data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_len = done;
    return 0;
}

/* Each compares len bytes at offset, which lie inside the file. */

static int same_chunk(struct restore *restore, struct worker *worker, int fd, uint64_t offset,
                      const struct extent *x, bool *ret_same)
{
    struct chunk_id id;
    size_t len = 0;

    int r = pread_full(fd, worker->plain, (size_t)x->len, offset, &len);
    if (r < 0)
        return r;
    if (len == x->len)
        chunk_id_compute(restore->repo->keyring, CHUNK_DATA, worker->plain, len, &id);
    *ret_same = len == x->len && chunk_id_equal(&id, &x->chunk.id);
    return 0;
}

static int read_zeros(struct restore *restore, struct worker *worker, int fd, uint64_t offset,
                      uint64_t len, bool *ret_same)
{
    while (len > 0) {
        size_t want = (size_t)MIN(len, (uint64_t)FRAME_PLAIN_MAX), got = 0;
        if (restore_stopping(restore))
            return -UMBRA_E_CANCELLED;
        int r = pread_full(fd, worker->plain, want, offset, &got);
        if (r < 0)
            return r;
        if (got < want || zero_prefix_len(worker->plain, want) < want) {
            *ret_same = false;
            return 0;
        }
        offset += want;
        len -= want;
    }
    *ret_same = true;
    return 0;
}

/* Whether a whole block of the file system lies in the range. */
static bool has_whole_block(uint64_t from, uint64_t to, uint64_t block)
{
    uint64_t first = (from + block - 1) / block * block;
    return first + block <= to;
}

/*
 * Zeros, of which only what is no hole has to be read.  A hole is wanted: then there must be one,
 * except where the file system cannot have it, in a block that is partly data.
 */
static int same_zeros(struct restore *restore, struct worker *worker, const struct comparison *c,
                      uint64_t offset, uint64_t len, bool want_hole, bool *ret_same)
{
    uint64_t end = offset + len;
    bool same = true;

    while (same && offset < end) {
        off_t data = lseek(c->fd, (off_t)offset, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0)
            return -errno;
        if ((uint64_t)data >= end)
            break;
        off_t hole = lseek(c->fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        uint64_t from = (uint64_t)data, to = MIN((uint64_t)hole, end);
        if (to <= from) /* it is being changed */
            break;
        same = !want_hole || !has_whole_block(from, to, (uint64_t)c->stat.st_blksize);
        if (same) {
            int r = read_zeros(restore, worker, c->fd, from, to - from, &same);
            if (r < 0)
                return r;
        }
        offset = to;
    }
    *ret_same = same;
    return 0;
}

static int same_extent(struct restore *restore, struct worker *worker, struct comparison *c,
                       const struct extent *x, uint64_t offset, bool *ret_same)
{
    if (offset + x->len > (uint64_t)c->stat.st_size) {
        *ret_same = false;
        return 0;
    }
    if (x->kind == EXTENT_DATA)
        return same_chunk(restore, worker, c->fd, offset, x, ret_same);
    /* A file system that has no holes is not to be blamed for it. */
    bool want_hole = x->kind == EXTENT_HOLE && restore->mode != RESTORE_VERIFY;
    return same_zeros(restore, worker, c, offset, x->len, want_hole, ret_same);
}

static int compare_contents(struct restore *restore, struct worker *worker, const struct entry *e,
                            struct comparison *c)
{
    uint64_t offset = 0;
    bool all_same = (uint64_t)c->stat.st_size == e->size;

    c->differs = calloc(e->extents.count + 1, 1);
    if (!c->differs)
        return -ENOMEM;
    for (size_t i = 0; i < e->extents.count; i++) {
        const struct extent *x = &e->extents.items[i];
        bool same = false;
        if (restore_stopping(restore))
            return -UMBRA_E_CANCELLED;
        int r = same_extent(restore, worker, c, x, offset, &same);
        if (r < 0)
            return r;
        c->differs[i] = !same;
        if (same)
            c->same_bytes += x->len;
        else
            all_same = false;
        offset += x->len;
        if (!all_same && restore->mode == RESTORE_DRY_RUN)
            break;
    }
    if (!all_same)
        c->found = FOUND_CONTENTS;
    return 0;
}

/* Readahead fills unwritten extents with pages of zeros, which SEEK_DATA then calls data (ext4,
 * xfs): comparing must not change what it compares, nor what is looked at next. */
static void set_readahead(int fd, const struct entry *e)
{
    for (size_t i = 0; i < e->extents.count; i++) {
        if (e->extents.items[i].kind == EXTENT_ZERO) {
            (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
            return;
        }
    }
}

static int compare_regular(struct restore *restore, struct worker *worker, int path_fd,
                           const struct entry *e, struct comparison *c)
{
    int r = reopen_fd(path_fd, O_RDONLY | O_NOATIME, &c->fd);
    if (r < 0)
        return r;
    c->found = FOUND_SAME;
    if (restore->mode == RESTORE_DRY_RUN && (uint64_t)c->stat.st_size != e->size) {
        c->found = FOUND_CONTENTS;
        return 0;
    }
    if (restore->mode == RESTORE_VERIFY) /* what is on the disk is to be read, not what is cached */
        (void)posix_fadvise(c->fd, 0, 0, POSIX_FADV_DONTNEED);
    set_readahead(c->fd, e);
    r = compare_contents(restore, worker, e, c);
    if (r < 0)
        return r;
    if (restore->mode == RESTORE_VERIFY)
        atomic_fetch_add(&restore->verified_bytes, e->size);
    r = meta_compare_fd(c->fd, e, restore->owners, &c->attributes);
    if (r < 0)
        return r;
    if (c->found == FOUND_SAME && *c->attributes)
        c->found = FOUND_ATTRIBUTES;
    return 0;
}

static int same_target(int path_fd, const char *target, bool *ret_same)
{
    size_t len = strlen(target);
    CLEANUP_FREE char *now = malloc(len + 2);
    if (!now)
        return -ENOMEM;
    ssize_t n = readlinkat(path_fd, "", now, len + 2);
    if (n < 0)
        return -errno;
    *ret_same = (size_t)n == len && memcmp(now, target, len) == 0;
    return 0;
}

static int compare_other(struct restore *restore, int path_fd, int dir_fd, const char *name,
                         const struct entry *e, struct comparison *c)
{
    bool same = true;
    int r = 0;

    if (e->type == ENTRY_SYMLINK)
        r = same_target(path_fd, e->symlink ? e->symlink : "", &same);
    else if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK)
        same = c->stat.st_rdev == makedev(e->rdev_major, e->rdev_minor);
    if (r < 0)
        return r;
    c->found = same ? FOUND_SAME : FOUND_OTHER;
    if (!same)
        return 0;
    r = meta_compare_at(dir_fd, name, e, restore->owners, &c->attributes);
    if (r >= 0 && *c->attributes)
        c->found = FOUND_ATTRIBUTES;
    return r;
}

mode_t entry_file_type(const struct entry *e)
{
    switch (e->type) {
    case ENTRY_REGULAR: return S_IFREG;
    case ENTRY_DIRECTORY: return S_IFDIR;
    case ENTRY_SYMLINK: return S_IFLNK;
    case ENTRY_FIFO: return S_IFIFO;
    case ENTRY_SOCKET: return S_IFSOCK;
    case ENTRY_CHAR: return S_IFCHR;
    case ENTRY_BLOCK: return S_IFBLK;
    default: return 0;
    }
}

int compare_entry(struct restore *restore, struct worker *worker, int dir_fd, const char *name,
                  const struct entry *e, struct comparison *ret_comparison)
{
    CLEANUP_CLOSE int path_fd = -EBADF;
    CLEANUP(comparison_release) struct comparison c = {.found = FOUND_NOTHING, .fd = -EBADF};

    int r = open_path(dir_fd, name, &path_fd, &c.stat);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r == -ENOENT)
        r = 0; /* FOUND_NOTHING */
    else if ((c.stat.st_mode & S_IFMT) != entry_file_type(e))
        c.found = FOUND_OTHER;
    else if (e->type == ENTRY_REGULAR)
        r = compare_regular(restore, worker, path_fd, e, &c);
    else
        r = compare_other(restore, path_fd, dir_fd, name, e, &c);
    if (r < 0)
        return r;
    *ret_comparison = c;
    c = (struct comparison){.fd = -EBADF};
    return 0;
}
