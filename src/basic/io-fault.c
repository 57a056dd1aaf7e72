/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* struct io that hands everything on to another one, save the calls it was told to fail. */
#include <pthread.h>
#include <string.h>

#include "basic/error.h"
#include "basic/io-crash.h"

struct fault_plan {
    uint64_t calls; /* since io_fault_set */
    uint64_t nth;   /* 0: none fail */
    uint64_t count; /* 0: all from nth on */
    int error;
};

struct fault_io {
    struct io io;
    struct io *inner;
    pthread_mutex_t lock; /* guards all below */
    struct fault_plan plans[IO_FAULT_OP_MAX];
    uint64_t space_bytes; /* left */
};

struct fault_file {
    struct io_file file;
    struct fault_io *fault;
    struct io_file *inner;
};

static const struct io_ops fault_ops;

static struct fault_io *fault_of(struct io *io)
{
    return CONTAINER_OF(io, struct fault_io, io);
}

static struct fault_file *file_of(struct io_file *file)
{
    return CONTAINER_OF(file, struct fault_file, file);
}

/* Counts the call; 0 or the error it shall fail with. */
static int strike(struct fault_io *fault, enum io_fault_op op, const char *what)
{
    struct fault_plan *plan = &fault->plans[op];
    int r = 0;

    pthread_mutex_lock(&fault->lock);
    plan->calls++;
    if (plan->nth > 0 && plan->calls >= plan->nth &&
        (plan->count == 0 || plan->calls - plan->nth < plan->count))
        r = -plan->error;
    pthread_mutex_unlock(&fault->lock);
    return r < 0 ? error_note_describe(r, "injected fault: %s", what) : 0;
}

static int fault_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct fault_io *fault = fault_of(io);

    int r = strike(fault, IO_FAULT_OPEN, path);
    if (r < 0)
        return r;
    CLEANUP_FREE struct fault_file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->file.ops = &fault_ops;
    f->fault = fault;
    r = io_open(fault->inner, path, flags, &f->inner);
    if (r < 0)
        return r;
    *ret_file = &TAKE_PTR(f)->file;
    return 0;
}

static void fault_close(struct io_file *file)
{
    struct fault_file *f = file_of(file);

    io_close(f->inner);
    free(f);
}

static int fault_pread(struct io_file *file, void *data, size_t len, uint64_t offset,
                       size_t *ret_len)
{
    struct fault_file *f = file_of(file);
    int r = strike(f->fault, IO_FAULT_READ, "read");

    return r < 0 ? r : io_pread(f->inner, data, len, offset, ret_len);
}

/* The first len bytes of the pieces only. */
static int write_part(struct io_file *inner, const struct iovec *iov, size_t len, uint64_t offset)
{
    while (len > 0) {
        struct iovec piece = {.iov_base = iov->iov_base, .iov_len = MIN(iov->iov_len, len)};
        int r = io_pwritev(inner, &piece, 1, offset);
        if (r < 0)
            return r;
        offset += piece.iov_len;
        len -= piece.iov_len;
        iov++;
    }
    return 0;
}

/* Takes len bytes of the space; returns how many there were. */
static size_t take_space(struct fault_io *fault, size_t len)
{
    pthread_mutex_lock(&fault->lock);
    size_t got = (size_t)MIN((uint64_t)len, fault->space_bytes);
    if (fault->space_bytes != UINT64_MAX)
        fault->space_bytes -= got;
    pthread_mutex_unlock(&fault->lock);
    return got;
}

static int fault_pwritev(struct io_file *file, const struct iovec *iov, size_t iov_count,
                         uint64_t offset)
{
    struct fault_file *f = file_of(file);
    struct error_report injected = {0};
    size_t len = 0;

    for (size_t i = 0; i < iov_count; i++)
        len += iov[i].iov_len;
    error_save(&injected, strike(f->fault, IO_FAULT_WRITE, "write"));
    size_t len_part = take_space(f->fault, injected.code < 0 ? len / 2 : len);
    if (injected.code == 0 && len_part < len)
        error_save(&injected, error_note_describe(-ENOSPC, "injected fault: write"));
    if (injected.code == 0)
        return io_pwritev(f->inner, iov, iov_count, offset);
    int r = write_part(f->inner, iov, len_part, offset);
    return r < 0 ? r : error_raise(&injected);
}

static int fault_sync(struct io_file *file)
{
    struct fault_file *f = file_of(file);
    int r = strike(f->fault, IO_FAULT_SYNC, "sync");

    return r < 0 ? r : io_sync(f->inner);
}

static int fault_truncate(struct io_file *file, uint64_t len_bytes)
{
    struct fault_file *f = file_of(file);
    int r = strike(f->fault, IO_FAULT_WRITE, "truncate");

    return r < 0 ? r : io_truncate(f->inner, len_bytes);
}

static int fault_stat(struct io *io, const char *path, struct io_stat *ret_stat)
{
    int r = strike(fault_of(io), IO_FAULT_LIST, path);
    return r < 0 ? r : io_stat(fault_of(io)->inner, path, ret_stat);
}

static int fault_mkdir(struct io *io, const char *path)
{
    int r = strike(fault_of(io), IO_FAULT_OPEN, path);
    return r < 0 ? r : io_mkdir(fault_of(io)->inner, path);
}

static int fault_rename(struct io *io, const char *from, const char *to, bool replace)
{
    int r = strike(fault_of(io), IO_FAULT_RENAME, to);
    return r < 0 ? r : io_rename(fault_of(io)->inner, from, to, replace);
}

static int fault_unlink(struct io *io, const char *path)
{
    int r = strike(fault_of(io), IO_FAULT_UNLINK, path);
    return r < 0 ? r : io_unlink(fault_of(io)->inner, path);
}

static int fault_sync_dir(struct io *io, const char *path)
{
    int r = strike(fault_of(io), IO_FAULT_SYNC, path);
    return r < 0 ? r : io_sync_dir(fault_of(io)->inner, path);
}

static int fault_list(struct io *io, const char *path, io_list_fn fn, void *userdata)
{
    int r = strike(fault_of(io), IO_FAULT_LIST, path);
    return r < 0 ? r : io_list(fault_of(io)->inner, path, fn, userdata);
}

static uint64_t fault_now_ns(struct io *io)
{
    return io_now_ns(fault_of(io)->inner);
}

static int fault_random(struct io *io, void *data, size_t len)
{
    return io_random(fault_of(io)->inner, data, len);
}

static void fault_free(struct io *io)
{
    struct fault_io *fault = fault_of(io);

    (void)io_free(fault->inner);
    (void)pthread_mutex_destroy(&fault->lock);
    free(fault);
}

static const struct io_ops fault_ops = {
    .open = fault_open,
    .close = fault_close,
    .pread = fault_pread,
    .pwritev = fault_pwritev,
    .sync = fault_sync,
    .truncate = fault_truncate,
    .stat = fault_stat,
    .mkdir = fault_mkdir,
    .rename = fault_rename,
    .unlink = fault_unlink,
    .sync_dir = fault_sync_dir,
    .list = fault_list,
    .now_ns = fault_now_ns,
    .random = fault_random,
    .free = fault_free,
};

int io_new_fault(struct io *inner, struct io **ret_io)
{
    struct fault_io *fault = calloc(1, sizeof(*fault));

    if (!fault)
        return -ENOMEM;
    fault->io.ops = &fault_ops;
    fault->inner = inner;
    fault->space_bytes = UINT64_MAX;
    (void)pthread_mutex_init(&fault->lock, NULL);
    *ret_io = &fault->io;
    return 0;
}

void io_fault_set(struct io *io, enum io_fault_op op, uint64_t nth, uint64_t count, int error)
{
    struct fault_io *fault = fault_of(io);

    pthread_mutex_lock(&fault->lock);
    fault->plans[op] = (struct fault_plan){.nth = nth, .count = count, .error = error};
    pthread_mutex_unlock(&fault->lock);
}

uint64_t io_fault_calls(struct io *io, enum io_fault_op op)
{
    struct fault_io *fault = fault_of(io);

    pthread_mutex_lock(&fault->lock);
    uint64_t calls = fault->plans[op].calls;
    pthread_mutex_unlock(&fault->lock);
    return calls;
}

void io_fault_set_space(struct io *io, uint64_t len_bytes)
{
    struct fault_io *fault = fault_of(io);

    pthread_mutex_lock(&fault->lock);
    fault->space_bytes = len_bytes;
    pthread_mutex_unlock(&fault->lock);
}
