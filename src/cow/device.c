/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/device.h"

#include <string.h>

#define ZEROS_BYTES ((size_t)65536)

struct file_device {
    struct cow_device device;
    struct io_file *file;
};

static struct file_device *file_of(struct cow_device *device)
{
    return CONTAINER_OF(device, struct file_device, device);
}

static int file_read(struct cow_device *device, void *data, size_t len, uint64_t offset)
{
    size_t got;
    int r = io_pread(file_of(device)->file, data, len, offset, &got);
    if (r == 0)
        memset((uint8_t *)data + got, 0, len - got);
    return r;
}

static int file_write(struct cow_device *device, const void *data, size_t len, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return io_pwritev(file_of(device)->file, &iov, 1, offset);
}

static int file_flush(struct cow_device *device)
{
    return io_sync(file_of(device)->file);
}

static int file_discard(struct cow_device *device, uint64_t len, uint64_t offset)
{
    static const uint8_t zeros[ZEROS_BYTES];
    int r = 0;
    while (r == 0 && len > 0) {
        size_t n = (size_t)MIN(len, (uint64_t)sizeof(zeros));
        r = file_write(device, zeros, n, offset);
        offset += n;
        len -= n;
    }
    return r;
}

static void file_free(struct cow_device *device)
{
    io_close(file_of(device)->file);
    free(file_of(device));
}

static int file_punch(struct cow_device *device, uint64_t len, uint64_t offset)
{
    return io_punch(file_of(device)->file, len, offset);
}

static const struct cow_device_ops direct_ops = {
    .read = file_read,
    .write = file_write,
    .flush = file_flush,
    .discard = file_punch,
    .free = file_free,
};

static const struct cow_device_ops file_ops = {
    .read = file_read,
    .write = file_write,
    .flush = file_flush,
    .discard = file_discard,
    .free = file_free,
};

static int new_file(struct io *io, const char *path, unsigned flags, uint64_t size_bytes,
                    const struct cow_device_ops *ops, struct cow_device **ret_device)
{
    struct io_stat st = {.size_bytes = size_bytes};
    int r = size_bytes == 0 ? io_stat(io, path, &st) : 0;
    if (r < 0)
        return r;
    struct file_device *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    r = io_open(io, path, IO_READ | IO_WRITE | flags, &f->file);
    if (r < 0) {
        free(f);
        return r;
    }
    f->device = (struct cow_device){.ops = ops, .size_bytes = st.size_bytes};
    *ret_device = &f->device;
    return 0;
}

int cow_device_new_file(struct io *io, const char *path, uint64_t size_bytes,
                        struct cow_device **ret_device)
{
    return new_file(io, path, 0, size_bytes, &file_ops, ret_device);
}

int cow_device_new_direct(struct io *io, const char *path, uint64_t size_bytes,
                          struct cow_device **ret_device)
{
    return new_file(io, path, IO_DIRECT, size_bytes, &direct_ops, ret_device);
}

void cow_device_free(struct cow_device *device)
{
    if (device)
        device->ops->free(device);
}
