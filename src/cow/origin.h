/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The origin of a cow volume as the system has it: a block device, or a regular file. */
#pragma once

#include <stdbool.h>

#include "basic/cleanup.h"
#include "cow/cow-format.h"

struct cow_origin {
    int fd; /* for reading and writing; -EBADF: none.  Nobody else has it as long as it is open */
    bool is_block;
    uint64_t size_bytes;
    uint32_t sector_bytes; /* what requests past the page cache have to be multiples of */
    size_t identity_len;
    uint8_t identity[COW_IDENTITY_MAX]; /* what tells it from others of the same size */
};
#define COW_ORIGIN_NONE ((struct cow_origin){.fd = -EBADF})
void cow_origin_release(struct cow_origin *origin);

/*
 * With all checks but those that need the volume's header (cow_open has these).
 *
 * storage: a directory that is there; -ELOOP when it lies on the origin itself.  NULL: not checked.
 * -ENOENT, -ENOTBLK: neither a block device nor a file; -EBUSY: in use (mounted, part of something
 * else, attached to a loop device, another volume's); -EROFS; -EINVAL: it has no usable size.
 */
_must_check_ int cow_origin_open(const char *path, const char *storage,
                                 struct cow_origin *ret_origin);

/* Whether both names are of one device or file.  One that is not there is no other. */
bool cow_origin_same(const char *a, const char *b);
