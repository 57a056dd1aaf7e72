/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All ways to write a file, but io_uring and mappings. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fileop.h"

static int with_open(const struct side *side, int flags,
                     int (*body)(const struct side *side, int fd))
{
    int fd = side_open(side, flags);
    if (fd < 0)
        return fd;
    int r = body(side, fd);
    return close(fd) < 0 && r == 0 ? -errno : r;
}

/* 0 when that many were written. */
static int all_of(long n, size_t len)
{
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -EIO;
}

/* ---- at the end ---- */

static int append_body(const struct side *side, int fd)
{
    uint8_t data[5000];

    (void)side;
    side_pattern(data, sizeof(data), 1);
    int r = all_of(write(fd, data, 10), 10);
    return r < 0 ? r : all_of(write(fd, data, sizeof(data)), sizeof(data));
}

static int op_append(struct side *side)
{
    return with_open(side, O_WRONLY | O_APPEND, append_body);
}

/* The range of the event would be that of offset 0. */
static int append_flag_body(const struct side *side, int fd)
{
    uint8_t data[100];
    const struct iovec part = {data, sizeof(data)};

    (void)side;
    side_pattern(data, sizeof(data), 2);
    return all_of(pwritev2(fd, &part, 1, 0, RWF_APPEND), sizeof(data));
}

static int op_append_flag(struct side *side)
{
    return with_open(side, O_WRONLY, append_flag_body);
}

static int append_set_body(const struct side *side, int fd)
{
    if (fcntl(fd, F_SETFL, O_APPEND) < 0)
        return -errno;
    return append_body(side, fd);
}

static int op_append_set(struct side *side)
{
    return with_open(side, O_RDWR, append_set_body);
}

static int past_end_body(const struct side *side, int fd)
{
    return side_write_range(fd, side->size_bytes + 100001, 3000);
}

static int op_past_end(struct side *side)
{
    return with_open(side, O_WRONLY, past_end_body);
}

/* ---- inside ---- */

static int unaligned_body(const struct side *side, int fd)
{
    int r = side_write_range(fd, side->middle + 3000, 3000);
    return r < 0 ? r : side_write_range(fd, 10, 1);
}

static int op_unaligned(struct side *side)
{
    return with_open(side, O_WRONLY, unaligned_body);
}

static int page_body(const struct side *side, int fd)
{
    return side_write_range(fd, side->middle, PAGE);
}

static int op_page(struct side *side)
{
    return with_open(side, O_WRONLY, page_body);
}

static int op_sync_page(struct side *side)
{
    return with_open(side, O_WRONLY | O_DSYNC, page_body);
}

static int last_byte_body(const struct side *side, int fd)
{
    return side_write_range(fd, side->size_bytes - 1, 1);
}

static int op_last_byte(struct side *side)
{
    return with_open(side, O_RDWR, last_byte_body);
}

static int whole_body(const struct side *side, int fd)
{
    return side_write_range(fd, 0, side->size_bytes);
}

static int op_whole(struct side *side)
{
    return with_open(side, O_WRONLY, whole_body);
}

static int direct_body(const struct side *side, int fd)
{
    uint8_t *data = side_buffer(PAGE);

    side_pattern(data, PAGE, 3);
    int r = all_of(pwrite(fd, data, PAGE, (off_t)side->middle), PAGE);
    free(data);
    return r;
}

static int op_direct(struct side *side)
{
    return with_open(side, O_WRONLY | O_DIRECT, direct_body);
}

static int aio_body(const struct side *side, int fd)
{
    uint8_t *data = side_buffer(PAGE);
    struct iocb cb = {
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)data,
        .aio_nbytes = 1000,
        .aio_offset = (int64_t)side->middle + 500,
    };
    struct iocb *list[1] = {&cb};
    struct io_event event = {0};
    aio_context_t context = 0;

    side_pattern(data, PAGE, 4);
    long r = side_result(syscall(SYS_io_setup, 4, &context));
    if (r == 0)
        r = side_result(syscall(SYS_io_submit, context, 1, list));
    if (r == 1)
        r = side_result(syscall(SYS_io_getevents, context, 1, 1, &event, NULL));
    (void)syscall(SYS_io_destroy, context);
    free(data);
    if (r < 0)
        return (int)r;
    return r == 1 && event.res == 1000 ? 0 : -EIO;
}

static int op_aio(struct side *side)
{
    return with_open(side, O_WRONLY, aio_body);
}

/* ---- from another file ---- */

static int with_other(const struct side *side, int fd,
                      long (*copy)(int from, int to, const struct side *side))
{
    int other = open(side->other, O_RDONLY | O_CLOEXEC);
    if (other < 0)
        return -errno;
    int r = all_of(copy(other, fd, side), 2 * (size_t)PAGE);
    (void)close(other);
    return r;
}

static long by_copy_range(int from, int to, const struct side *side)
{
    loff_t source = 0, target = (loff_t)side->middle;
    return copy_file_range(from, &source, to, &target, 2 * (size_t)PAGE, 0);
}

static int copy_range_body(const struct side *side, int fd)
{
    return with_other(side, fd, by_copy_range);
}

static int op_copy_range(struct side *side)
{
    return with_open(side, O_WRONLY, copy_range_body);
}

static long by_sendfile(int from, int to, const struct side *side)
{
    if (lseek(to, (off_t)side->middle + 100, SEEK_SET) < 0)
        return -1;
    return sendfile(to, from, NULL, 2 * (size_t)PAGE);
}

static int sendfile_body(const struct side *side, int fd)
{
    return with_other(side, fd, by_sendfile);
}

static int op_sendfile(struct side *side)
{
    return with_open(side, O_WRONLY, sendfile_body);
}

static long by_splice(int from, int to, const struct side *side)
{
    loff_t source = 0, target = (loff_t)side->middle + 200;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    long n = splice(from, &source, ends[1], NULL, 2 * (size_t)PAGE, 0);
    if (n == 2 * (long)PAGE)
        n = splice(ends[0], NULL, to, &target, 2 * (size_t)PAGE, 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return n;
}

static int splice_body(const struct side *side, int fd)
{
    return with_other(side, fd, by_splice);
}

static int op_splice(struct side *side)
{
    return with_open(side, O_WRONLY, splice_body);
}

/* From one place of the file to another one. */
static int copy_within_body(const struct side *side, int fd)
{
    loff_t from = (loff_t)side->middle, to = 0;
    return all_of(copy_file_range(fd, &from, fd, &to, PAGE, 0), PAGE);
}

static int op_copy_within(struct side *side)
{
    return with_open(side, O_RDWR, copy_within_body);
}

const struct operation write_operations[] = {
    {11, "copy-range-in", op_copy_range},
    {11, "copy-range-within", op_copy_within},
    {14, "append", op_append},
    {14, "append-flag", op_append_flag},
    {14, "append-set", op_append_set},
    {14, "write-past-end", op_past_end},
    {14, "write-unaligned", op_unaligned},
    {14, "write-page", op_page},
    {14, "write-sync-page", op_sync_page},
    {14, "write-last-byte", op_last_byte},
    {14, "write-whole", op_whole},
    {14, "write-direct", op_direct},
    {14, "write-aio", op_aio},
    {14, "sendfile-in", op_sendfile},
    {14, "splice-in", op_splice},
    {0, NULL, NULL},
};
