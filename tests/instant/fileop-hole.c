/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fallocate(2) in all modes, and what shares extents. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fileop.h"

static int with_fallocate(const struct side *side, int mode, uint64_t offset, uint64_t len)
{
    int fd = side_open(side, O_RDWR);
    if (fd < 0)
        return fd;
    int r = (int)side_result(fallocate(fd, mode, (off_t)offset, (off_t)len));
    (void)close(fd);
    return r;
}

static int op_punch(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, side->middle,
                          2 * (uint64_t)PAGE);
}

static int op_punch_unaligned(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, side->middle - 100,
                          6000);
}

static int op_punch_all(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, side->size_bytes);
}

static int op_zero(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_ZERO_RANGE, side->middle - 100, 6000);
}

static int op_zero_keep(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, side->middle,
                          side->size_bytes);
}

static int op_collapse(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_COLLAPSE_RANGE, PAGE, 2 * (uint64_t)PAGE);
}

static int op_insert(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_INSERT_RANGE, PAGE, 3 * (uint64_t)PAGE);
}

static int op_allocate(struct side *side)
{
    return with_fallocate(side, 0, side->size_bytes, 20000);
}

static int op_allocate_inside(struct side *side)
{
    return with_fallocate(side, 0, 0, side->size_bytes);
}

static int op_allocate_keep(struct side *side)
{
    return with_fallocate(side, FALLOC_FL_KEEP_SIZE, side->size_bytes, 20000);
}

/* ---- shared extents ---- */

static int with_both(const struct side *side,
                     int (*body)(const struct side *side, int fd, int other))
{
    int fd = side_open(side, O_RDWR);
    if (fd < 0)
        return fd;
    int other = open(side->other, O_RDONLY | O_CLOEXEC);
    int r = other < 0 ? -errno : body(side, fd, other);
    if (other >= 0)
        (void)close(other);
    (void)close(fd);
    return r;
}

static int unsupported(int r)
{
    return r == -ENOTTY || r == -EINVAL ? -EOPNOTSUPP : r;
}

static int clone_in(const struct side *side, int fd, int other)
{
    (void)side;
    return unsupported((int)side_result(ioctl(fd, FICLONE, other)));
}

static int op_clone_in(struct side *side)
{
    return with_both(side, clone_in);
}

static int clone_range_in(const struct side *side, int fd, int other)
{
    struct file_clone_range range = {
        .src_fd = other, .src_length = PAGE, .dest_offset = side->middle};
    return unsupported((int)side_result(ioctl(fd, FICLONERANGE, &range)));
}

static int op_clone_range_in(struct side *side)
{
    return with_both(side, clone_range_in);
}

/* The clone, which must not be one of holes. */
static int op_clone_out(struct side *side)
{
    char *path = NULL;

    if (asprintf(&path, "%s.clone", side->path) < 0)
        return -ENOMEM;
    int target = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int r = target < 0 ? -errno : 0;
    (void)unlink(path);
    free(path);
    int fd = r < 0 ? r : side_open(side, O_RDONLY);
    if (fd < 0)
        return fd;
    r = unsupported((int)side_result(ioctl(target, FICLONE, fd)));
    (void)close(fd);
    if (r == 0)
        r = side_read_range(side, target, 0, UINT64_MAX);
    (void)close(target);
    return r;
}

/* Compares, and finds that they differ. */
static int dedupe(const struct side *side, int fd, int other)
{
    struct file_dedupe_range *range =
        side_buffer(sizeof(*range) + sizeof(struct file_dedupe_range_info));

    range->src_length = PAGE;
    range->dest_count = 1;
    range->info[0].dest_fd = fd;
    range->info[0].dest_offset = side->middle;
    int r = unsupported((int)side_result(ioctl(other, FIDEDUPERANGE, range)));
    if (r == 0 && range->info[0].status != FILE_DEDUPE_RANGE_DIFFERS)
        r = unsupported(range->info[0].status);
    free(range);
    return r;
}

static int op_dedupe(struct side *side)
{
    return with_both(side, dedupe);
}

const struct operation hole_operations[] = {
    {8, "clone-out", op_clone_out},
    {17, "punch", op_punch},
    {17, "punch-unaligned", op_punch_unaligned},
    {17, "punch-all", op_punch_all},
    {17, "zero-range", op_zero},
    {17, "zero-range-keep", op_zero_keep},
    {17, "collapse-range", op_collapse},
    {17, "insert-range", op_insert},
    {17, "allocate", op_allocate},
    {17, "allocate-inside", op_allocate_inside},
    {17, "allocate-keep", op_allocate_keep},
    {17, "clone-in", op_clone_in},
    {17, "clone-range-in", op_clone_range_in},
    {17, "dedupe", op_dedupe},
    {0, NULL, NULL},
};
