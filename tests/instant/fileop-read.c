/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All ways to read a file, but io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fileop.h"

/* Opens the file for reading, and closes it behind the body. */
static int with_open(struct side *side, int flags, int (*body)(struct side *side, int fd))
{
    int fd = side_open(side, flags);
    if (fd < 0)
        return fd;
    int r = body(side, fd);
    (void)close(fd);
    return r;
}

/* ---- plain ---- */

static int read_body(struct side *side, int fd)
{
    uint8_t block[10000];
    ssize_t n;

    while ((n = read(fd, block, sizeof(block))) > 0)
        side_saw(side, block, (size_t)n);
    return (int)side_result(n);
}

static int op_read(struct side *side)
{
    return with_open(side, O_RDONLY, read_body);
}

static int pread_body(struct side *side, int fd)
{
    int r = side_read_range(side, fd, side->middle + 77, 5000);
    if (r == 0)
        r = side_read_range(side, fd, side->size_bytes - 100, 4000);
    return r < 0 ? r : side_read_range(side, fd, side->size_bytes + 5000, 10);
}

static int op_pread(struct side *side)
{
    return with_open(side, O_RDONLY, pread_body);
}

static int readv_body(struct side *side, int fd)
{
    uint8_t a[1000], b[7000];
    const struct iovec parts[2] = {{a, sizeof(a)}, {b, sizeof(b)}};

    long n = side_result(preadv(fd, parts, 2, (off_t)side->middle));
    if (n != (long)(sizeof(a) + sizeof(b)))
        return n < 0 ? (int)n : -EIO;
    side_saw(side, a, sizeof(a));
    side_saw(side, b, sizeof(b));
    n = side_result(preadv2(fd, parts, 2, 0, RWF_HIPRI));
    if (n < 0)
        return (int)n;
    side_saw(side, a, sizeof(a));
    side_saw(side, b, sizeof(b));
    return 0;
}

static int op_readv(struct side *side)
{
    return with_open(side, O_RDONLY, readv_body);
}

/* Past the page cache, then through it. */
static int direct_body(struct side *side, int fd)
{
    uint8_t *block = side_buffer(2 * (size_t)PAGE);

    long n = side_result(pread(fd, block, 2 * (size_t)PAGE, (off_t)side->middle));
    if (n < 0)
        return (int)n;
    side_saw(side, block, (size_t)n);
    free(block);
    int buffered = side_open(side, O_RDONLY);
    if (buffered < 0)
        return buffered;
    int r = side_read_range(side, buffered, side->middle - PAGE, 4 * (uint64_t)PAGE);
    (void)close(buffered);
    return r;
}

static int op_direct(struct side *side)
{
    return with_open(side, O_RDONLY | O_DIRECT, direct_body);
}

/* ---- aio ---- */

static int aio_read_body(struct side *side, int fd)
{
    uint8_t *block = side_buffer(2 * (size_t)PAGE);
    struct iocb cb = {
        .aio_lio_opcode = IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)block,
        .aio_nbytes = 2 * (uint64_t)PAGE,
        .aio_offset = (int64_t)side->middle,
    };
    struct iocb *list[1] = {&cb};
    struct io_event event = {0};
    aio_context_t context = 0;

    long r = side_result(syscall(SYS_io_setup, 4, &context));
    if (r == 0)
        r = side_result(syscall(SYS_io_submit, context, 1, list));
    if (r == 1)
        r = side_result(syscall(SYS_io_getevents, context, 1, 1, &event, NULL));
    (void)syscall(SYS_io_destroy, context);
    if (r != 1 || event.res < 0)
        return r < 0 ? (int)r : (int)event.res;
    side_saw(side, block, (size_t)event.res);
    free(block);
    return 0;
}

static int op_aio(struct side *side)
{
    return with_open(side, O_RDONLY, aio_read_body);
}

static int op_aio_direct(struct side *side)
{
    return with_open(side, O_RDONLY | O_DIRECT, aio_read_body);
}

/* ---- without a buffer of ours ---- */

static int drain(struct side *side, int fd)
{
    int r = side_read_range(side, fd, 0, UINT64_MAX);
    (void)close(fd);
    return r;
}

static int sendfile_body(struct side *side, int fd)
{
    int memory = memfd_create("sent", MFD_CLOEXEC);
    off_t offset = (off_t)side->middle;

    long n = side_result(sendfile(memory, fd, &offset, 20000));
    return n < 0 ? (int)n : drain(side, memory);
}

static int op_sendfile(struct side *side)
{
    return with_open(side, O_RDONLY, sendfile_body);
}

static int splice_body(struct side *side, int fd)
{
    loff_t offset = (loff_t)side->middle;
    uint8_t block[20000];
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    long n = side_result(splice(fd, &offset, ends[1], NULL, sizeof(block), 0));
    (void)close(ends[1]);
    if (n < 0)
        return (int)n;
    while ((n = read(ends[0], block, sizeof(block))) > 0)
        side_saw(side, block, (size_t)n);
    (void)close(ends[0]);
    return 0;
}

static int op_splice(struct side *side)
{
    return with_open(side, O_RDONLY, splice_body);
}

/* Into a file without a name in the same directory. */
static int copy_range_body(struct side *side, int fd)
{
    loff_t from = 0, to = 0;
    char *slash;

    int target = -1;
    char *dir = realpath(side->path, NULL);
    if (dir && (slash = strrchr(dir, '/'))) {
        *slash = '\0';
        target = open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    }
    free(dir);
    if (target < 0)
        return -errno;
    long n = side_result(copy_file_range(fd, &from, target, &to, side->size_bytes, 0));
    if (n != (long)side->size_bytes) {
        (void)close(target);
        return n < 0 ? (int)n : -EIO;
    }
    return drain(side, target);
}

static int op_copy_range(struct side *side)
{
    return with_open(side, O_RDONLY, copy_range_body);
}

/* ---- what raises no event ---- */

/* One page, whose readahead caches zeros of what is not here; and caching some more.  Then all. */
static int readahead_body(struct side *side, int fd)
{
    int r = side_read_range(side, fd, 0, 100);
    if (r < 0)
        return r;
    if (readahead(fd, 0, (size_t)side->size_bytes) < 0)
        return -errno;
    r = side_read_range(side, fd, side->middle, 100);
    if (posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED) != 0)
        return -EIO;
    (void)usleep(20000); /* it may be done behind our back */
    return r < 0 ? r : side_read_range(side, fd, 0, UINT64_MAX);
}

static int op_readahead(struct side *side)
{
    return with_open(side, O_RDONLY, readahead_body);
}

static int seek_body(struct side *side, int fd)
{
    off_t end = (off_t)side->size_bytes, hole = 0;

    for (;;) {
        off_t data = lseek(fd, hole, SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            return -errno;
        uint8_t zero = 0;
        for (off_t i = hole; i < (data < 0 ? end : data); i++)
            side_saw(side, &zero, 1);
        if (data < 0)
            return 0;
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        int r = side_read_range(side, fd, (uint64_t)data, (uint64_t)(hole - data));
        if (r < 0)
            return r;
    }
}

/* A program that is known to look for holes. */
static int op_seek_as_cp(struct side *side)
{
    if (prctl(PR_SET_NAME, "cp") < 0)
        return -errno;
    int r = with_open(side, O_RDONLY, seek_body);
    (void)prctl(PR_SET_NAME, "fileop");
    return r;
}

/* ---- two at the same file ---- */

static int two_body(struct side *side, int fd)
{
    int second = side_open(side, O_RDWR);
    if (second < 0)
        return second;
    int r = side_read_range(side, fd, side->middle, 10);
    if (r == 0)
        r = side_read_range(side, second, 0, 10);
    if (r == 0)
        r = side_read_range(side, fd, side->size_bytes - 10, 10);
    (void)close(second);
    return r;
}

static int op_two(struct side *side)
{
    return with_open(side, O_RDONLY, two_body);
}

const struct operation read_operations[] = {
    {8, "seek-as-cp", op_seek_as_cp},
    {11, "read", op_read},
    {11, "pread", op_pread},
    {11, "readv", op_readv},
    {11, "direct", op_direct},
    {11, "aio", op_aio},
    {11, "aio-direct", op_aio_direct},
    {11, "sendfile", op_sendfile},
    {11, "splice", op_splice},
    {11, "copy-range-out", op_copy_range},
    {11, "two-opens", op_two},
    {13, "readahead", op_readahead},
    {0, NULL, NULL},
};
