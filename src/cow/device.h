/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a cow volume reads and writes blocks of: its origin, and the cells of its diff area.
 *
 * A struct cow_device is the head of an implementation.  Offsets and lengths are multiples of
 * COW_SECTOR_BYTES and within size_bytes, which never changes.  Every call may come from any
 * thread; calls that overlap in time and place give any mixture of sectors.  Two writes to the same
 * 4 KiB may not come at the same time, whichever sectors they are of.  Errors are negative errno,
 * with a note.
 */
#pragma once

#include "basic/io.h"

struct cow_device;

struct cow_device_ops {
    int (*read)(struct cow_device *device, void *data, size_t len, uint64_t offset);
    int (*write)(struct cow_device *device, const void *data, size_t len, uint64_t offset);
    /* All writes and discards that have returned are durable. */
    int (*flush)(struct cow_device *device);
    /* The range reads as zeros from now on, and costs nothing where that can be had.  -EOPNOTSUPP:
     * nothing was done, as the device cannot; NULL: it never can. */
    int (*discard)(struct cow_device *device, uint64_t len, uint64_t offset);
    /* The next range from offset on that may hold anything else than zeros; both are size_bytes
     * when there is none.  NULL: nothing is known. */
    int (*find_data)(struct cow_device *device, uint64_t offset, uint64_t *ret_start,
                     uint64_t *ret_end);
    void (*free)(struct cow_device *device);
};

struct cow_device {
    const struct cow_device_ops *ops;
    uint64_t size_bytes;
};

/* A file of a struct io, which must outlive the device.  What lies behind its end reads as zeros.
 * size_bytes 0: as large as the file.  -ENOENT. */
_must_check_ int cow_device_new_file(struct io *io, const char *path, uint64_t size_bytes,
                                     struct cow_device **ret_device);
/* The same past the page cache, where that can be had: addresses, offsets and lengths must be
 * multiples of 4096. */
_must_check_ int cow_device_new_direct(struct io *io, const char *path, uint64_t size_bytes,
                                       struct cow_device **ret_device);
/* A block device or an image file, open for reading and writing, which is the device's on success.
 * Direct I/O where it can be had.  -ENOTBLK: it is neither. */
_must_check_ int cow_device_new_fd(int fd, struct cow_device **ret_device);
/* NULL is fine. */
void cow_device_free(struct cow_device *device);
DEFINE_CLEANUP_PTR(struct cow_device *, cow_device_free);
