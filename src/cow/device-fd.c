/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device or an image file, past the page cache where that can be had: what is written through a
 * volume is cached above it already, and a flush has then only the disk's own cache to wait for.
 *
 * What does not suit direct I/O goes through an aligned buffer; a write that does not begin or end
 * at a unit of it reads that unit first, which is why two writes to one unit may not come at the
 * same time (device.h).
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/error.h"
#include "cow/cow-format.h"
#include "cow/device.h"

#define UNIT_MAX     ((size_t)COW_BLOCK_BYTES_MIN)
#define BOUNCE_BYTES ((size_t)1 << 20)

struct fd_device {
    struct cow_device device;
    int fd;
    size_t unit;               /* of direct I/O; 0: there is none */
    _Atomic bool cannot_punch; /* is known */
};

static struct fd_device *fd_of(struct cow_device *device)
{
    return CONTAINER_OF(device, struct fd_device, device);
}

static int fail(const char *what, uint64_t len, uint64_t offset)
{
    return error_note_describe(-errno, "cannot %s %" PRIu64 " bytes at %" PRIu64 " of the device",
                               what, len, offset);
}

/* ---- whole requests ---- */

static int read_all(const struct fd_device *f, uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pread(f->fd, data, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO; /* it was cut off */
        if (n <= 0)
            return fail("read", len, offset);
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_all(const struct fd_device *f, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(f->fd, data, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail("write", len, offset);
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* ---- direct I/O ---- */

static bool suits(const struct fd_device *f, const void *data, size_t len, uint64_t offset)
{
    return f->unit == 0 || ((uintptr_t)data | len | offset) % f->unit == 0;
}

/* A part of a request, and the units that it touches, in a buffer. */
struct bounce {
    uint8_t *buffer;
    uint64_t start; /* of the units */
    size_t len;
    size_t at, count; /* the part: where it stands in the buffer */
};

static void bounce_place(const struct fd_device *f, struct bounce *b, size_t len, uint64_t offset)
{
    b->at = (size_t)(offset % f->unit);
    b->count = MIN(len, BOUNCE_BYTES - b->at);
    b->start = offset - b->at;
    b->len = (b->at + b->count + f->unit - 1) / f->unit * f->unit;
}

static uint8_t *bounce_buffer(const struct fd_device *f, size_t len)
{
    /* A unit more on either side. */
    return aligned_alloc(f->unit, MIN(len / f->unit * f->unit + 2 * f->unit, BOUNCE_BYTES));
}

static int read_bounced(const struct fd_device *f, uint8_t *data, size_t len, uint64_t offset)
{
    CLEANUP_FREE uint8_t *buffer = bounce_buffer(f, len);
    struct bounce b = {.buffer = buffer};
    int r = buffer ? 0 : -ENOMEM;
    while (r == 0 && len > 0) {
        bounce_place(f, &b, len, offset);
        r = read_all(f, buffer, b.len, b.start);
        if (r == 0)
            memcpy(data, buffer + b.at, b.count);
        data += b.count;
        offset += b.count;
        len -= b.count;
    }
    return r;
}

/* What is in the first and the last unit beside the part. */
static int read_edges(const struct fd_device *f, const struct bounce *b)
{
    size_t last = b->len - f->unit, end = b->at + b->count;
    int r = 0;
    if (b->at > 0 || (last == 0 && end < b->len))
        r = read_all(f, b->buffer, f->unit, b->start);
    if (r == 0 && last > 0 && end < b->len)
        r = read_all(f, b->buffer + last, f->unit, b->start + last);
    return r;
}

static int write_bounced(const struct fd_device *f, const uint8_t *data, size_t len,
                         uint64_t offset)
{
    CLEANUP_FREE uint8_t *buffer = bounce_buffer(f, len);
    struct bounce b = {.buffer = buffer};
    int r = buffer ? 0 : -ENOMEM;
    while (r == 0 && len > 0) {
        bounce_place(f, &b, len, offset);
        r = read_edges(f, &b);
        if (r == 0) {
            memcpy(buffer + b.at, data, b.count);
            r = write_all(f, buffer, b.len, b.start);
        }
        data += b.count;
        offset += b.count;
        len -= b.count;
    }
    return r;
}

/* ---- the table ---- */

static int fd_read(struct cow_device *device, void *data, size_t len, uint64_t offset)
{
    const struct fd_device *f = fd_of(device);
    return suits(f, data, len, offset) ? read_all(f, data, len, offset)
                                       : read_bounced(f, data, len, offset);
}

static int fd_write(struct cow_device *device, const void *data, size_t len, uint64_t offset)
{
    const struct fd_device *f = fd_of(device);
    return suits(f, data, len, offset) ? write_all(f, data, len, offset)
                                       : write_bounced(f, data, len, offset);
}

static int fd_flush(struct cow_device *device)
{
    if (fdatasync(fd_of(device)->fd) == 0)
        return 0;
    return error_note_describe(-errno, "cannot flush the device");
}

/* Of a device it is zeroed, of a file it becomes a hole. */
static int fd_discard(struct cow_device *device, uint64_t len, uint64_t offset)
{
    struct fd_device *f = fd_of(device);
    if (f->cannot_punch)
        return -EOPNOTSUPP;
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) ==
        0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return fail("discard", len, offset);
    f->cannot_punch = true;
    return -EOPNOTSUPP;
}

static int fd_find_data(struct cow_device *device, uint64_t offset, uint64_t *ret_start,
                        uint64_t *ret_end)
{
    const struct fd_device *f = fd_of(device);
    off_t start = lseek(f->fd, (off_t)offset, SEEK_DATA);
    if (start < 0 && errno == ENXIO) {
        *ret_start = *ret_end = device->size_bytes;
        return 0;
    }
    off_t end = start < 0 ? -1 : lseek(f->fd, start, SEEK_HOLE);
    if (end < 0)
        return fail("find data in", device->size_bytes - offset, offset);
    *ret_start = MIN((uint64_t)start, device->size_bytes);
    *ret_end = MIN((uint64_t)end, device->size_bytes);
    return 0;
}

static void fd_free(struct cow_device *device)
{
    (void)close(fd_of(device)->fd);
    free(fd_of(device));
}

static const struct cow_device_ops block_ops = {
    .read = fd_read,
    .write = fd_write,
    .flush = fd_flush,
    .discard = fd_discard,
    .free = fd_free,
};

static const struct cow_device_ops image_ops = {
    .read = fd_read,
    .write = fd_write,
    .flush = fd_flush,
    .discard = fd_discard,
    .find_data = fd_find_data,
    .free = fd_free,
};

/* ---- opening ---- */

static size_t unit_of_file(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx st;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 && (st.stx_mask & STATX_DIOALIGN))
        return MAX(MAX(st.stx_dio_offset_align, st.stx_dio_mem_align), COW_SECTOR_BYTES);
#endif
    return UNIT_MAX;
}

static size_t unit_of_device(int fd)
{
    int bytes;
    return ioctl(fd, BLKSSZGET, &bytes) == 0 && bytes > 0 ? MAX((size_t)bytes, COW_SECTOR_BYTES)
                                                          : UNIT_MAX;
}

static int size_of(int fd, bool *ret_is_block, uint64_t *ret_bytes)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_note_describe(-errno, "cannot stat the device");
    *ret_is_block = S_ISBLK(st.st_mode);
    *ret_bytes = (uint64_t)st.st_size;
    if (!*ret_is_block && !S_ISREG(st.st_mode))
        return error_note(-ENOTBLK, "neither a block device nor a file");
    if (*ret_is_block && ioctl(fd, BLKGETSIZE64, ret_bytes) < 0)
        return error_note_describe(-errno, "cannot ask the device for its size");
    return 0;
}

static void choose_direct(struct fd_device *f, bool is_block)
{
    size_t unit = is_block ? unit_of_device(f->fd) : unit_of_file(f->fd);
    int flags = fcntl(f->fd, F_GETFL);
    bool suitable = unit <= UNIT_MAX && UNIT_MAX % unit == 0 && f->device.size_bytes % unit == 0;
    if (flags < 0)
        return;
    if (suitable && fcntl(f->fd, F_SETFL, flags | O_DIRECT) == 0)
        f->unit = unit;
    else
        (void)fcntl(f->fd, F_SETFL, flags & ~O_DIRECT);
}

int cow_device_new_fd(int fd, struct cow_device **ret_device)
{
    bool is_block = false;
    uint64_t bytes;
    int r = size_of(fd, &is_block, &bytes);
    if (r < 0)
        return r;
    struct fd_device *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    *f = (struct fd_device){
        .device = {.ops = is_block ? &block_ops : &image_ops, .size_bytes = bytes}, .fd = fd};
    choose_direct(f, is_block);
    *ret_device = &f->device;
    return 0;
}
