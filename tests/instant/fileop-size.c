/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Truncations. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fileop.h"

/* ---- truncate and ftruncate ---- */

static int truncate_to(const struct side *side, uint64_t size_bytes)
{
    return (int)side_result(truncate(side->path, (off_t)size_bytes));
}

static int op_zero(struct side *side)
{
    return truncate_to(side, 0);
}

static int op_unaligned(struct side *side)
{
    return truncate_to(side, side->middle + 904);
}

static int op_aligned(struct side *side)
{
    return truncate_to(side, side->middle);
}

static int op_grow(struct side *side)
{
    return truncate_to(side, side->size_bytes + 10000);
}

static int op_same(struct side *side)
{
    return truncate_to(side, side->size_bytes);
}

/* What comes back must be zero. */
static int op_shrink_grow(struct side *side)
{
    int r = truncate_to(side, side->middle + 10);
    return r < 0 ? r : truncate_to(side, side->size_bytes);
}

static int op_ftruncate(struct side *side)
{
    int fd = side_open(side, O_RDWR);
    if (fd < 0)
        return fd;
    int r = (int)side_result(ftruncate(fd, (off_t)side->middle + 100));
    if (r == 0)
        r = side_write_range(fd, side->middle + 10000, 100);
    if (r == 0)
        r = (int)side_result(ftruncate(fd, (off_t)side->size_bytes));
    (void)close(fd);
    return r;
}

/* ---- open ---- */

static int opened(long fd)
{
    if (fd < 0)
        return -errno;
    return close((int)fd) < 0 ? -errno : 0;
}

static int op_open(struct side *side)
{
    return opened(open(side->path, O_WRONLY | O_TRUNC | O_CLOEXEC));
}

static int op_open_readonly(struct side *side)
{
    return opened(open(side->path, O_RDONLY | O_TRUNC | O_CLOEXEC));
}

static int op_creat(struct side *side)
{
    return opened(creat(side->path, 0600));
}

static int op_openat2(struct side *side)
{
    struct open_how how = {.flags = O_WRONLY | O_TRUNC | O_CLOEXEC};
    return opened(syscall(SYS_openat2, AT_FDCWD, side->path, &how, sizeof(how)));
}

static int op_open_by_handle(struct side *side)
{
    struct {
        struct file_handle head;
        uint8_t bytes[MAX_HANDLE_SZ];
    } handle = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount_id;

    if (name_to_handle_at(AT_FDCWD, side->path, &handle.head, &mount_id, 0) < 0)
        return -errno;
    int mount = open(side->other, O_RDONLY | O_CLOEXEC);
    if (mount < 0)
        return -errno;
    int r = opened(open_by_handle_at(mount, &handle.head, O_WRONLY | O_TRUNC | O_CLOEXEC));
    (void)close(mount);
    return r;
}

/* As an editor that writes in place. */
static int op_open_write(struct side *side)
{
    int fd = side_open(side, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0)
        return fd;
    int r = side_write_range(fd, 0, 6000);
    (void)close(fd);
    return r;
}

/* Nothing of what was there comes back. */
static int op_open_grow(struct side *side)
{
    int fd = side_open(side, O_RDWR | O_TRUNC);
    if (fd < 0)
        return fd;
    int r = (int)side_result(ftruncate(fd, (off_t)side->size_bytes));
    (void)close(fd);
    return r;
}

static int op_open_write_far(struct side *side)
{
    int fd = side_open(side, O_RDWR | O_TRUNC);
    if (fd < 0)
        return fd;
    int r = side_write_range(fd, side->middle + 100, 50);
    (void)close(fd);
    return r;
}

static int op_open_fallocate(struct side *side)
{
    int fd = side_open(side, O_RDWR | O_TRUNC);
    if (fd < 0)
        return fd;
    int r = (int)side_result(fallocate(fd, 0, 0, (off_t)side->size_bytes));
    (void)close(fd);
    return r;
}

const struct operation size_operations[] = {
    {15, "truncate-zero", op_zero},
    {15, "truncate-unaligned", op_unaligned},
    {15, "truncate-aligned", op_aligned},
    {15, "truncate-grow", op_grow},
    {15, "truncate-same", op_same},
    {15, "truncate-shrink-grow", op_shrink_grow},
    {15, "ftruncate-write-grow", op_ftruncate},
    {16, "open-trunc", op_open},
    {16, "open-trunc-readonly", op_open_readonly},
    {16, "open-trunc-write", op_open_write},
    {16, "open-trunc-grow", op_open_grow},
    {16, "open-trunc-write-far", op_open_write_far},
    {16, "open-trunc-fallocate", op_open_fallocate},
    {16, "open-trunc-by-handle", op_open_by_handle},
    {16, "openat2-trunc", op_openat2},
    {16, "creat", op_creat},
    {0, NULL, NULL},
};
