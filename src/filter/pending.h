/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mark of a placeholder: the extended attribute trusted.umbra.pending.
 *
 * A regular file that has it, with a value that is about this very inode, is not complete: below
 * `valid`, what is a hole or an unwritten extent and is data in the backup, is still to be filled
 * in.  A file without it is complete, whoever wrote it.  A value about another inode was copied
 * along by somebody (cp -a, tar --xattrs, run by root); it says nothing, and is removed when it is
 * met.
 *
 * The value, integers little-endian, PENDING_LEN bytes; small enough to lie inside an ext4 inode of
 * 256 bytes:
 *
 *      0        version, 1
 *      1        flags, PENDING_*
 *      2 ..  3  reserved, zero
 *      4 ..  7  inode generation (FS_IOC_GETVERSION)
 *      8 .. 15  inode number
 *     16 .. 23  id of the restore
 *     24 .. 31  ordinal: which file of the backup, counted as the restore walks its catalog
 *     32 .. 39  valid: bytes from the start that come from the backup; only ever lowered
 *     40 .. 43  CRC-32C of bytes 0 .. 39
 *
 * Who makes a placeholder sets the mark while the file is empty, and its size afterwards.  A file
 * that has a size and no mark is complete, and the filter never looks at it again.
 *
 * Durability: the value and the extents of an inode change in the order in which the calls were
 * made, in the journals of ext4, xfs and btrfs; nobody syncs it for its own sake.  It is removed
 * after the data has been synced.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

#define PENDING_XATTR   "trusted.umbra.pending"
#define PENDING_LEN     44u
#define PENDING_VERSION 1u

enum pending_flags {
    PENDING_WRITTEN = 1 << 0, /* an application may have written to it: its times are its own */
};
#define PENDING_FLAGS_MASK ((uint8_t)PENDING_WRITTEN)

struct pending {
    uint8_t flags;
    uint32_t generation;
    uint64_t inode;
    uint64_t restore_id;
    uint64_t ordinal;
    uint64_t valid_bytes;
};

void pending_encode(const struct pending *pending, uint8_t ret_value[PENDING_LEN]);
/* -UMBRA_E_CORRUPT, -UMBRA_E_VERSION. */
_must_check_ int pending_decode(const void *value, size_t len, struct pending *ret_pending);

/* Reads the mark of an open regular file.  -ENODATA: it has none, or one about another inode;
 * *ret_foreign then tells which.  ret_foreign may be NULL. */
_must_check_ int pending_get(int fd, struct pending *ret_pending, bool *ret_foreign);
/* Sets it; inode and generation are those of fd. */
_must_check_ int pending_set(int fd, struct pending *pending);
/* Not there: 0. */
_must_check_ int pending_remove(int fd);
