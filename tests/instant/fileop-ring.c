/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io_uring, by its system calls: nothing but the kernel's headers is needed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fileop.h"

#define ENTRIES      8u
#define OP_FTRUNCATE 55 /* IORING_OP_FTRUNCATE, newer than Debian 12's headers */

struct ring {
    int fd;
    unsigned flags; /* IORING_SETUP_* */
    uint8_t *sq, *cq;
    struct io_uring_sqe *sqes;
    struct io_uring_params params;
};

static _Atomic uint32_t *field(uint8_t *base, uint32_t offset)
{
    return (_Atomic uint32_t *)(void *)(base + offset);
}

static int ring_open(struct ring *ring, unsigned flags)
{
    const int prot = PROT_READ | PROT_WRITE, shared = MAP_SHARED | MAP_POPULATE;

    *ring = (struct ring){.flags = flags, .params = {.flags = flags, .sq_thread_idle = 500}};
    ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &ring->params);
    if (ring->fd < 0)
        return -errno;
    const struct io_uring_params *p = &ring->params;
    ring->sq = mmap(NULL, p->sq_off.array + p->sq_entries * sizeof(uint32_t), prot, shared,
                    ring->fd, IORING_OFF_SQ_RING);
    ring->cq = mmap(NULL, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe), prot,
                    shared, ring->fd, IORING_OFF_CQ_RING);
    ring->sqes = mmap(NULL, p->sq_entries * sizeof(struct io_uring_sqe), prot, shared, ring->fd,
                      (off_t)IORING_OFF_SQES);
    return ring->sq == MAP_FAILED || ring->cq == MAP_FAILED || ring->sqes == MAP_FAILED ? -errno
                                                                                        : 0;
}

/* One request, until it is done.  Its result. */
static int ring_do(struct ring *ring, const struct io_uring_sqe *sqe)
{
    const struct io_uring_params *p = &ring->params;
    uint32_t tail = atomic_load(field(ring->sq, p->sq_off.tail));
    uint32_t index = tail & atomic_load(field(ring->sq, p->sq_off.ring_mask));

    ring->sqes[index] = *sqe;
    atomic_store(field(ring->sq, p->sq_off.array + index * (uint32_t)sizeof(uint32_t)), index);
    atomic_store(field(ring->sq, p->sq_off.tail), tail + 1);
    unsigned enter = IORING_ENTER_GETEVENTS;
    if (ring->flags & IORING_SETUP_SQPOLL)
        enter |= IORING_ENTER_SQ_WAKEUP;
    if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, enter, NULL, 0) < 0)
        return -errno;
    uint32_t head = atomic_load(field(ring->cq, p->cq_off.head));
    if (head == atomic_load(field(ring->cq, p->cq_off.tail)))
        return -EIO;
    uint32_t at = head & atomic_load(field(ring->cq, p->cq_off.ring_mask));
    struct io_uring_cqe cqe;
    memcpy(&cqe, ring->cq + p->cq_off.cqes + at * sizeof(cqe), sizeof(cqe));
    atomic_store(field(ring->cq, p->cq_off.head), head + 1);
    return cqe.res;
}

static int ring_once(unsigned flags, const struct io_uring_sqe *sqe)
{
    struct ring ring;

    int r = ring_open(&ring, flags);
    if (r == 0)
        r = ring_do(&ring, sqe);
    if (ring.fd >= 0)
        (void)close(ring.fd);
    return r;
}

/* ---- reading ---- */

static int read_at(struct side *side, unsigned ring_flags, int open_flags, unsigned sqe_flags)
{
    uint8_t *data = side_buffer(2 * (size_t)PAGE);
    int fd = side_open(side, O_RDONLY | open_flags);
    if (fd < 0)
        return fd;
    const struct io_uring_sqe sqe = {
        .opcode = IORING_OP_READ,
        .flags = (uint8_t)sqe_flags,
        .fd = fd,
        .off = side->middle,
        .addr = (uintptr_t)data,
        .len = 2 * PAGE,
    };
    int r = ring_once(ring_flags, &sqe);
    (void)close(fd);
    if (r < 0)
        return r;
    side_saw(side, data, (size_t)r);
    free(data);
    return 0;
}

static int op_read(struct side *side)
{
    return read_at(side, 0, 0, 0);
}

static int op_read_direct(struct side *side)
{
    return read_at(side, 0, O_DIRECT, 0);
}

/* By a worker of the kernel. */
static int op_read_async(struct side *side)
{
    return read_at(side, 0, 0, IOSQE_ASYNC);
}

static int op_read_sqpoll(struct side *side)
{
    return read_at(side, IORING_SETUP_SQPOLL, 0, 0);
}

/* A registered file, closed meanwhile, into a registered buffer. */
static int op_read_fixed(struct side *side)
{
    uint8_t *data = side_buffer(2 * (size_t)PAGE);
    const struct iovec buffer = {data, 2 * (size_t)PAGE};
    struct ring ring;

    int r = ring_open(&ring, 0);
    int fd = r < 0 ? r : side_open(side, O_RDONLY);
    if (fd < 0)
        return fd;
    if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &fd, 1) < 0 ||
        syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1) < 0)
        return -errno;
    (void)close(fd);
    const struct io_uring_sqe sqe = {
        .opcode = IORING_OP_READ_FIXED,
        .flags = IOSQE_FIXED_FILE,
        .fd = 0,
        .off = side->middle,
        .addr = (uintptr_t)data,
        .len = 2 * PAGE,
    };
    r = ring_do(&ring, &sqe);
    (void)close(ring.fd);
    if (r < 0)
        return r;
    side_saw(side, data, (size_t)r);
    free(data);
    return 0;
}

/* Opened by the ring, too. */
static int op_open_read(struct side *side)
{
    const struct io_uring_sqe sqe = {
        .opcode = IORING_OP_OPENAT,
        .fd = AT_FDCWD,
        .addr = (uintptr_t)side->path,
        .open_flags = O_RDONLY | O_CLOEXEC,
    };

    int fd = ring_once(0, &sqe);
    if (fd < 0)
        return fd;
    int r = side_read_range(side, fd, side->middle, 9000);
    (void)close(fd);
    return r;
}

/* ---- writing ---- */

static int write_at(struct side *side, int open_flags, uint64_t offset)
{
    uint8_t *data = side_buffer(PAGE);

    side_pattern(data, PAGE, 5);
    int fd = side_open(side, O_WRONLY | open_flags);
    if (fd < 0)
        return fd;
    const struct io_uring_sqe sqe = {
        .opcode = IORING_OP_WRITE,
        .fd = fd,
        .off = offset,
        .addr = (uintptr_t)data,
        .len = 3000,
    };
    int r = ring_once(0, &sqe);
    (void)close(fd);
    free(data);
    if (r < 0)
        return r;
    return r == 3000 ? 0 : -EIO;
}

static int op_write(struct side *side)
{
    return write_at(side, 0, side->middle + 100);
}

static int op_append(struct side *side)
{
    return write_at(side, O_APPEND, 0);
}

static int op_open_trunc(struct side *side)
{
    const struct io_uring_sqe sqe = {
        .opcode = IORING_OP_OPENAT,
        .fd = AT_FDCWD,
        .addr = (uintptr_t)side->path,
        .open_flags = O_RDWR | O_TRUNC | O_CLOEXEC,
    };

    int fd = ring_once(0, &sqe);
    if (fd < 0)
        return fd;
    int r = (int)side_result(ftruncate(fd, (off_t)side->size_bytes));
    (void)close(fd);
    return r;
}

static int op_truncate(struct side *side)
{
    int fd = side_open(side, O_RDWR);
    if (fd < 0)
        return fd;
    const struct io_uring_sqe sqe = {.opcode = OP_FTRUNCATE, .fd = fd, .off = side->middle + 5};
    int r = ring_once(0, &sqe);
    (void)close(fd);
    return r;
}

static int op_punch(struct side *side)
{
    int fd = side_open(side, O_RDWR);
    if (fd < 0)
        return fd;
    const struct io_uring_sqe sqe = {
        .opcode = IORING_OP_FALLOCATE,
        .fd = fd,
        .off = side->middle,
        .addr = PAGE,
        .len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    };
    int r = ring_once(0, &sqe);
    (void)close(fd);
    return r;
}

const struct operation ring_operations[] = {
    {11, "ring-read", op_read},
    {11, "ring-read-direct", op_read_direct},
    {11, "ring-read-async", op_read_async},
    {11, "ring-read-sqpoll", op_read_sqpoll},
    {11, "ring-read-fixed", op_read_fixed},
    {11, "ring-open-read", op_open_read},
    {14, "ring-write", op_write},
    {14, "ring-append", op_append},
    {15, "ring-truncate", op_truncate},
    {16, "ring-open-trunc", op_open_trunc},
    {17, "ring-punch", op_punch},
    {0, NULL, NULL},
};
