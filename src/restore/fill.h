/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filling in the contents of one placeholder, a range at a time.
 *
 * What is missing is a set of whole pages: those in which the backup has data and the file has a
 * hole or an unwritten extent, below the part of the file that comes from the backup.  A page is
 * written once, whole (up to the end of file), by pwrite(2): its contents are in the page cache
 * before it is dirty, so the file system never converts an extent whose data is not there.
 *
 * The owner of a struct fill is one thread at a time; it sees to it that the file is not shortened
 * meanwhile (hydrator.c).
 */
#pragma once

#include "basic/extent-map.h"
#include "restore/source.h"
#include "tree/entry.h"

#define FILL_UNIT_MAX (1u << 20) /* bytes written at once */

struct fill {
    struct entry entry;        /* contents loaded */
    uint64_t *extent_ends;     /* of each extent: offset in the file behind it */
    struct extent_map missing; /* page-aligned ranges, but for the last one's end */
    uint64_t valid_bytes;      /* what comes from the backup; never more than the file's size */
};

/* Where contents come from. */
struct fill_source {
    struct source_reader *reader;
    uint8_t *buffer; /* FILL_UNIT_MAX */
};

/*
 * Takes the entry over, also on failure.  looked_at: the file may have been filled in part before,
 * which its extents tell (FIEMAP; needs the file open as fd); else all of it is missing.
 */
_must_check_ int fill_init(struct fill *fill, struct entry *entry, uint64_t valid_bytes, int fd,
                           bool looked_at);
void fill_release(struct fill *fill);
/* The file has become that short: what is behind never comes back. */
_must_check_ int fill_shorten(struct fill *fill, uint64_t valid_bytes);
bool fill_is_complete(const struct fill *fill);
/* Whether something of the range is missing; *ret_start, *ret_end: the first such part, at most
 * FILL_UNIT_MAX. */
bool fill_next(const struct fill *fill, uint64_t start, uint64_t end, uint64_t *ret_start,
               uint64_t *ret_end);
/* Gets the contents of start..end, as fill_next() gave them, into the source's buffer: a failure is
 * the source's. */
_must_check_ int fill_fetch(const struct fill *fill, const struct fill_source *source,
                            uint64_t start, uint64_t end);
/* Writes them, which are not missing any more then: a failure is the file system's. */
_must_check_ int fill_store(struct fill *fill, const struct fill_source *source, int fd,
                            uint64_t start, uint64_t end);
