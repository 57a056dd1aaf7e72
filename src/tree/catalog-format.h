/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The format of catalog pages and of the catalog root.
 *
 * Integers of fixed width are little-endian.  "varint" is unsigned LEB128 in its shortest form, at
 * most 10 bytes; "zigzag" a varint of the signed number n as (n << 1) ^ (n >> 63).  Differences of
 * 64-bit numbers are taken modulo 2^64.
 *
 * A page
 * ------
 *     0 ..  3   magic "UCTP"
 *     4         version, 1
 *     5         kind: 1 leaf, 2 inner, 3 content, 4 run
 *     6         level: of a leaf and a run 0; of an inner page 1 and more; of a content page 0 when
 *               it holds extents, else 1 and more
 *     7         flags, zero
 *     8 .. 11   number of entries, at least 1 (of a run also 0)
 *    12 .. 13   number of pack names
 *    14 .. 15   reserved, zero
 *    16 ..      the pack names, 32 bytes each, all different, in the order in which the hints of
 * the page first use them; none unused
 *       ..      the entries, one after the other
 *       ..      leaf and run: the page references of the entries with content pages, in the order
 * of the entries.  (They stand here, behind all entries, because their locations are known only
 * when the content pages have been written out: one wait a page, not one a file.)
 *
 * Nothing follows.  A page has at most CATALOG_PAGE_LEN_MAX bytes, a run at most
 * CATALOG_RUN_LEN_MAX.
 *
 *   key         varint shared, varint n, n bytes.  The key is the first `shared` bytes of the key
 * before it in the page and these n bytes; `shared` is as large as it can be (0 for the first).
 *               Keys ascend strictly and are well-formed (key.h).  At most CATALOG_KEY_LEN_MAX
 * bytes; in a run KEY_LEN_MAX. hint        varint p.  0: the location is not known.  Else pack name
 * p - 1 of the page, and three varints below 2^32: frame offset, frame length, chunk offset
 * (chunk-ref.h). chunk       32 bytes id, hint. time        zigzag seconds as the difference to a
 * base, varint nanoseconds (below 10^9).
 *
 * Entry of an inner page: key, varint length of the child page (1 .. CATALOG_PAGE_LEN_MAX), chunk.
 *     The key is the first key of the child.  The child of a page of level n has level n - 1.
 *
 * Entry of a content page of level 0 (an extent): varint kind (0 hole, 1 zeros, 2 data), varint
 * length (not 0; of data below 2^32); data: chunk. Entry of a content page of a higher level, and
 * page reference of a leaf: varint number of file bytes covered (not 0), varint length of the page
 * (1 .. CATALOG_PAGE_LEN_MAX), chunk.  The lengths in a page add up to what the reference to it
 * says; the child of level n has level n - 1.
 *
 * Entry of a leaf or a run, in this order; "if B" means: if bit B of the bits is set:
 *     key
 *     varint bits: 0-2 type (enum entry_type), then CATALOG_ENTRY_*; no other bit
 *     if MODE      varint mode, at most 07777
 *     if UID       varint, below 2^32, like all the following except where said
 *     if GID       varint
 *     zigzag inode as the difference to the previous entry's
 *     time mtime, base: mtime of the previous entry
 *     if CTIME     time, base: mtime of this entry; else ctime is mtime
 *     if ATIME     time, base: mtime of this entry; else atime is mtime
 *     if BTIME     time, base: mtime of this entry; else 0.0: not known
 *     if FLAGS     varint
 *     if NLINK     varint; else 1
 *     if FS_INDEX  varint
 *     if PROJECT   varint
 *     if REMARKS   varint, not 0, only known bits; else 0
 *     if XATTRS    varint count (1 .. ENTRY_XATTR_COUNT_MAX), each: varint n and n bytes name
 *                  (1 .. ENTRY_XATTR_NAME_MAX, no NUL), varint n and n bytes value (at most
 *                  ENTRY_XATTR_VALUE_MAX); names ascend strictly; names and values together at most
 *                  CATALOG_XATTR_BYTES_MAX (in a run any)
 *     symlink:     varint n, n bytes target (at most ENTRY_SYMLINK_MAX, no NUL)
 *     devices:     varint major, varint minor
 *     regular:     varint size, at most INT64_MAX; then
 *                  if CONTENT_PAGES: varint level of the pages (below CATALOG_DEPTH_MAX), varint
 * count (1 .. CATALOG_INLINE_EXTENTS_MAX; in a run any); the references come behind all entries
 *                  else: varint count (at most CATALOG_INLINE_EXTENTS_MAX; in a run any), the
 * extents, as in a content page. The lengths of the extents, or of the references, add up to the
 * size. MODE, UID, GID, FLAGS, FS_INDEX and PROJECT are set where the value differs from the
 * previous entry's in the page; before the first entry, all that is "previous" is 0. Values that
 * the encoding can leave out are left out: there is one encoding of a page.
 *
 * The root (embedded in the backup object)
 * ----------------------------------------
 *     u8 version, 1; varint level of the pages; varint number of entries of the whole tree;
 *     varint number of pack names, the names; varint number of children (at most
 *     CATALOG_ROOT_REFS_MAX), the children as in an inner page.  No children when there are no
 * entries. The encoding has at most CATALOG_ROOT_LEN_MAX bytes.
 *
 * Duties of a reader
 * ------------------
 * The bytes of a page are authenticated before it is decoded, yet a reader refuses
 * (-UMBRA_E_CORRUPT, -UMBRA_E_VERSION for a higher version) everything that is not as said above,
 * unused bits that are set included, and checks against the reference that led to the page: kind,
 * level (which falls by one with each step, so there are no cycles), its first key, that its last
 * key is below the key of the next child, and the bytes covered.  A hint is only a hint: a chunk is
 * what its id says, wherever it is found.
 *
 * Duties of a writer
 * ------------------
 * Where pages end is no part of the format, but pages are only shared between backups when all
 * writers cut in the same way:
 *
 * - A leaf ends behind an entry when it has reached CATALOG_CUT_MIN entries and the hash of the
 * entry's key is below 2^64 / CATALOG_CUT_ODDS, or when its length has reached
 * CATALOG_PAGE_LEN_TARGET; and before an entry that might make it longer than CATALOG_PAGE_LEN_MAX.
 * - An inner page likewise by the first keys of its children, hashed with the level of the children
 * + 1 as seed.  Inner pages of a level exist only when the level below has more than
 *   CATALOG_ROOT_REFS_MAX pages, or references of more than CATALOG_ROOT_LEN_TARGET bytes.
 * - A content page ends behind a data extent (or reference) when it has CATALOG_CONTENT_CUT_MIN
 * entries and the first 8 bytes of the chunk id, as a little-endian number, are below 2^64 /
 * CATALOG_CONTENT_CUT_ODDS, or when it has CATALOG_CONTENT_COUNT_MAX entries.
 *
 * Durability: pages are chunks of the repository; the backup object that embeds the root is written
 * only after all of them are durable.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/le.h"
#include "tree/catalog.h"

#define CATALOG_PAGE_MAGIC   "UCTP"
#define CATALOG_PAGE_VERSION 1u
#define CATALOG_ROOT_VERSION 1u

/* The numbers are on disk. */
enum catalog_page_kind {
    CATALOG_PAGE_LEAF = 1,
    CATALOG_PAGE_INNER = 2,
    CATALOG_PAGE_CONTENT = 3,
    CATALOG_PAGE_RUN = 4,
};

struct catalog_page_header {
    uint8_t magic[4];  /* 0 */
    uint8_t version;   /* 4 */
    uint8_t kind;      /* 5 */
    uint8_t level;     /* 6 */
    uint8_t flags;     /* 7 */
    le32_t count;      /* 8 */
    le16_t pack_count; /* 12 */
    le16_t reserved;   /* 14 */
};
static_assert(sizeof(struct catalog_page_header) == 16, "page header has no padding");
static_assert(offsetof(struct catalog_page_header, count) == 8, "entry count at byte 8");
static_assert(offsetof(struct catalog_page_header, pack_count) == 12, "pack count at byte 12");

/* The bits of a leaf entry. */
#define CATALOG_ENTRY_TYPE_MASK     UINT32_C(7)
#define CATALOG_ENTRY_MODE          (UINT32_C(1) << 3)
#define CATALOG_ENTRY_UID           (UINT32_C(1) << 4)
#define CATALOG_ENTRY_GID           (UINT32_C(1) << 5)
#define CATALOG_ENTRY_CTIME         (UINT32_C(1) << 6)
#define CATALOG_ENTRY_ATIME         (UINT32_C(1) << 7)
#define CATALOG_ENTRY_BTIME         (UINT32_C(1) << 8)
#define CATALOG_ENTRY_FLAGS         (UINT32_C(1) << 9)
#define CATALOG_ENTRY_XATTRS        (UINT32_C(1) << 10)
#define CATALOG_ENTRY_CONTENT_PAGES (UINT32_C(1) << 11)
#define CATALOG_ENTRY_NLINK         (UINT32_C(1) << 12)
#define CATALOG_ENTRY_FS_INDEX      (UINT32_C(1) << 13)
#define CATALOG_ENTRY_PROJECT       (UINT32_C(1) << 14)
#define CATALOG_ENTRY_REMARKS       (UINT32_C(1) << 15)
#define CATALOG_ENTRY_BITS_MAX      UINT32_C(0xffff)

#define CATALOG_REMARKS_MASK \
    ((uint32_t)(ENTRY_CHANGED_WHILE_READ | ENTRY_XATTRS_INCOMPLETE | ENTRY_CONTENT_UNREADABLE))

/* Limits. */
#define CATALOG_KEY_LEN_MAX     (64u << 10)
#define CATALOG_XATTR_BYTES_MAX (256u << 10)
#define CATALOG_RUN_LEN_MAX     (256u << 20)
#define CATALOG_ROOT_LEN_MAX    (2u << 20)

/* No entry of its kind is shorter: bounds what a count can ask for. */
#define CATALOG_ENTRY_LEN_MIN     6u
#define CATALOG_CHILD_LEN_MIN     36u
#define CATALOG_EXTENT_LEN_MIN    2u
#define CATALOG_REFERENCE_LEN_MIN 35u

/* No longer than that, its pack name included: bounds what an entry adds to a page. */
#define CATALOG_REFERENCE_LEN_BOUND (10u + 3u + CHUNK_ID_LEN + 3u + 3u * 5u + PACK_NAME_LEN)
#define CATALOG_EXTENT_LEN_BOUND    (1u + 10u + CHUNK_ID_LEN + 3u + 3u * 5u + PACK_NAME_LEN)
#define CATALOG_ENTRY_FIXED_BOUND   256u /* all but key, xattrs, symlink, contents */
#define CATALOG_XATTR_FRAME_BOUND   5u   /* the two lengths of one */

/* Where pages are cut. */
#define CATALOG_CUT_MIN           64u
#define CATALOG_CUT_ODDS          448u
#define CATALOG_PAGE_LEN_TARGET   (CATALOG_PAGE_LEN_MAX / 2)
#define CATALOG_ROOT_LEN_TARGET   (1u << 20)
#define CATALOG_CONTENT_CUT_MIN   128u
#define CATALOG_CONTENT_CUT_ODDS  896u
#define CATALOG_CONTENT_COUNT_MAX 4096u

/* Any entry within its limits fits into a page of its own. */
static_assert(sizeof(struct catalog_page_header) + CATALOG_ENTRY_FIXED_BOUND + CATALOG_KEY_LEN_MAX +
                      CATALOG_XATTR_BYTES_MAX + ENTRY_XATTR_COUNT_MAX * CATALOG_XATTR_FRAME_BOUND +
                      ENTRY_SYMLINK_MAX + CATALOG_INLINE_EXTENTS_MAX * CATALOG_EXTENT_LEN_BOUND <=
                  CATALOG_PAGE_LEN_MAX,
              "an entry fits into a page");
/* A page that has not reached its target takes one more child, and has several. */
static_assert(CATALOG_PAGE_LEN_TARGET + CATALOG_KEY_LEN_MAX + 16 + CATALOG_REFERENCE_LEN_BOUND <=
                  CATALOG_PAGE_LEN_MAX,
              "an inner page has room for one more child");
static_assert(CATALOG_PAGE_LEN_TARGET / (CATALOG_KEY_LEN_MAX + 16 + CATALOG_REFERENCE_LEN_BOUND) >=
                  2,
              "an inner page has several children");
static_assert(sizeof(struct catalog_page_header) +
                      CATALOG_CONTENT_COUNT_MAX * CATALOG_REFERENCE_LEN_BOUND <=
                  CATALOG_PAGE_LEN_MAX,
              "a content page of the most entries fits");
static_assert(CATALOG_ROOT_LEN_TARGET + CATALOG_KEY_LEN_MAX + 64 + CATALOG_REFERENCE_LEN_BOUND <=
                  CATALOG_ROOT_LEN_MAX,
              "a root that has not reached its target takes one more child");
