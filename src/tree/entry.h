/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One entry of the catalog: everything that Linux has on a file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/vector.h"
#include "tree/chunk-ref.h"

/* The numbers are on disk. */
enum entry_type {
    ENTRY_REGULAR = 1,
    ENTRY_DIRECTORY = 2,
    ENTRY_SYMLINK = 3,
    ENTRY_FIFO = 4,
    ENTRY_SOCKET = 5,
    ENTRY_CHAR = 6,
    ENTRY_BLOCK = 7,
    ENTRY_TYPE_MAX,
};

enum entry_remarks {
    ENTRY_CHANGED_WHILE_READ = 1 << 0, /* contents may mix two states */
    ENTRY_XATTRS_INCOMPLETE = 1 << 1,  /* some could not be read */
    ENTRY_CONTENT_UNREADABLE =
        1 << 2, /* a directory that could not be listed: its contents are missing */
};

struct entry_time {
    int64_t sec;
    uint32_t nsec; /* below 10^9 */
};

#define ENTRY_XATTR_NAME_MAX  255
#define ENTRY_XATTR_VALUE_MAX 65536
#define ENTRY_XATTR_COUNT_MAX 4096
#define ENTRY_SYMLINK_MAX     65536

struct xattr {
    char *name; /* with its namespace: "user.mime_type" */
    uint8_t *value;
    uint32_t value_len;
};
DEFINE_VECTOR(xattr_vector, struct xattr);

enum extent_kind {
    EXTENT_HOLE = 0, /* not allocated, reads as zeros */
    EXTENT_ZERO = 1, /* allocated, all zeros */
    EXTENT_DATA = 2, /* one chunk */
};

/* Contents of a regular file, in order, without gaps; the lengths add up to the size. */
struct extent {
    enum extent_kind kind;
    uint64_t len; /* of DATA: equal to chunk.len */
    struct chunk_ref chunk;
};
DEFINE_VECTOR(extent_vector, struct extent);

struct entry {
    uint8_t *key; /* see key.h */
    uint32_t key_len;
    enum entry_type type;
    uint32_t mode; /* permission bits, 07777 */
    uint32_t uid, gid;
    uint32_t nlink;
    uint32_t
        fs_index;   /* which of the backup's file systems: with inode the identity for hard links */
    uint32_t flags; /* chattr flags, FS_*_FL */
    uint32_t project_id; /* quota project */
    uint32_t remarks;    /* enum entry_remarks */
    uint64_t inode;
    uint64_t size; /* regular: bytes; symlink: length of the target; else 0 in a catalog */
    uint32_t rdev_major, rdev_minor;
    struct entry_time mtime, ctime, atime,
        btime;                  /* atime: as of the time when the rest was read; btime 0: unknown */
    char *symlink;              /* target, NUL-terminated; NULL for other types */
    struct xattr_vector xattrs; /* sorted by name */
    struct extent_vector extents; /* regular files */

    /*
     * Contents not loaded: what a catalog cursor hands out for a file whose extents stand in
     * content pages.  extents is empty then, and content_refs has the catalog's references to those
     * pages: len the bytes of the file that a page covers, chunk the page.  catalog_load_extents()
     * turns it into the loaded form; a builder takes either.  Nobody but the catalog looks inside.
     */
    uint32_t content_level; /* of the pages referred to: 0 = they hold extents */
    struct extent_vector content_refs;
};

/* Whether the extents stand in content pages and have not been loaded. */
static inline bool entry_is_unloaded(const struct entry *e)
{
    return e->content_refs.count > 0;
}

/* Of an entry that the caller owns; never of one that a cursor handed out. */
void entry_release(struct entry *e);
/* Deep copy, owned by the caller; contents that are not loaded stay so. */
_must_check_ int entry_copy(const struct entry *from, struct entry *ret_entry);
/*
 * Whether all but key, atime and remarks is the same; hints of locations do not count.  Contents
 * that are not loaded on both sides compare by their references (different references may still
 * stand for equal contents, the answer is false then); loaded and unloaded contents are never the
 * same.
 */
bool entry_same(const struct entry *a, const struct entry *b);
/* The attributes alone: neither type, contents, identity (fs_index, inode), key, atime nor remarks.
 */
bool entry_attributes_same(const struct entry *a, const struct entry *b);
/* The contents alone, as entry_same() has them: extents, target of a symlink, number of a device.
 * Both of the same type. */
bool entry_contents_same(const struct entry *a, const struct entry *b);
/* One letter as ls(1) has it: - d l p s c b. */
char entry_type_letter(enum entry_type type);
