/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The catalog: the file tree of one backup, as an immutable B-tree of pages.
 *
 * Entries stand in leaf pages in key order; a page is cut by content (a hash of the keys, so a
 * change moves only the cuts beside it), is stored as one metadata chunk under its id, and so is
 * shared by all backups in which it is the same.  The list of all pages of the topmost level is the
 * root, which the backup object embeds: while a tree has at most CATALOG_ROOT_REFS_MAX leaves, one
 * file of a cold repository is backup object, leaf, data: three dependent reads.  Larger trees get
 * inner pages until the list is short enough.
 *
 * The extents of a file of more than CATALOG_INLINE_EXTENTS_MAX stand in pages of their own
 * (content pages, cut by chunk id), to which its entry refers; such pages may refer to further
 * content pages.
 *
 * Where pages are kept is not known here: the two callbacks below do that (for the repository:
 * metadata chunks).
 */
#pragma once

#include <stdbool.h>

#include "basic/buffer.h"
#include "tree/chunk-ref.h"
#include "tree/entry.h"

#define CATALOG_PAGE_LEN_MAX       (512u << 10) /* plain bytes of a page; a decoder refuses more */
#define CATALOG_ROOT_REFS_MAX      4096u
#define CATALOG_INLINE_EXTENTS_MAX 256u
#define CATALOG_DEPTH_MAX          8u

/* One child page: the first key below it, and the chunk that holds it. */
struct catalog_child {
    uint8_t *first_key;
    uint32_t first_key_len;
    struct chunk_ref page;
};
DEFINE_VECTOR(catalog_child_vector, struct catalog_child);

struct catalog_root {
    uint32_t level; /* of the pages in the list: 0 = leaves */
    uint64_t entry_count;
    struct catalog_child_vector children;
};

void catalog_root_release(struct catalog_root *root);
/* For the backup object.  names: where pack numbers of the hints come from. */
_must_check_ int catalog_root_encode(const struct catalog_root *root,
                                     const struct pack_table *names, struct buffer *b);
_must_check_ int catalog_root_decode(struct reader *r, struct pack_table *names,
                                     struct catalog_root *ret_root);

struct catalog_store {
    /* Stores a page; fills all of *ret_ref but the location, which may stay unknown (PACK_NO_NONE)
     * if the pack is not finished yet.  Called in order, by one thread. */
    int (*put_page)(void *userdata, const void *page, size_t len, struct chunk_ref *ret_ref);
    /* Before references to pages that put_page left without a location are written into a parent
     * page or the root: fills in the locations of n refs that lack one.  Sealing a pack for that is
     * right. */
    int (*locate)(void *userdata, struct chunk_ref **refs, size_t n);
    /* Whole page, verified against its id, malloc'ed. */
    int (*get_page)(void *userdata, const struct chunk_ref *ref, void **ret_page, size_t *ret_len);
    void *userdata;
    struct pack_table *names;
};

/* ---- writing ---- */
struct catalog_builder;

_must_check_ int catalog_builder_new(const struct catalog_store *store,
                                     struct catalog_builder **ret_builder);
void catalog_builder_free(struct catalog_builder *builder);
DEFINE_CLEANUP_PTR(struct catalog_builder *, catalog_builder_free);
/*
 * Keys must ascend (-EINVAL).  All data extents must have a location (a hint).  The entry stays the
 * caller's; it may be one that a cursor has just handed out, contents not loaded: its content pages
 * are referred to again, not read.  An entry beyond the limits of the format (path longer than 64
 * KiB, more than 256 KiB of xattrs) is -UMBRA_E_LIMIT, one against the contract -EINVAL, both with
 * a note that names it: the builder can go on without it.  Any other failure is final.
 */
_must_check_ int catalog_builder_add(struct catalog_builder *builder, const struct entry *e);
/* The pages are all put, those that the root names are located.  Then the builder can only be
 * freed. */
_must_check_ int catalog_builder_finish(struct catalog_builder *builder,
                                        struct catalog_root *ret_root);

/* ---- reading ---- */

/* A cursor over the entries in key order.  Holds one decoded page a level.  Entries belong to the
 * cursor, until it moves: entry_copy() makes one to keep, and nobody calls entry_release(). */
struct catalog_cursor;

/* root and store must outlive the cursor. */
_must_check_ int catalog_cursor_new(const struct catalog_store *store,
                                    const struct catalog_root *root,
                                    struct catalog_cursor **ret_cursor);
void catalog_cursor_free(struct catalog_cursor *cursor);
DEFINE_CLEANUP_PTR(struct catalog_cursor *, catalog_cursor_free);
/* The next entry; *ret_entry NULL at the end.  Extents in content pages are not loaded: see
 * catalog_load_extents, which works on it. */
_must_check_ int catalog_cursor_next(struct catalog_cursor *cursor, struct entry **ret_entry);
/* Goes to the first entry with a key not less than the given one; next() returns it. Cheap when it
 * is near.  What was to be skipped is forgotten.  After a failure only another seek makes sense. */
_must_check_ int catalog_cursor_seek(struct catalog_cursor *cursor, const uint8_t *key, size_t len);
/* After next() or seek() has failed: goes behind the page that could not be read.  -EINVAL when the
 * cursor does not stand before a page. */
_must_check_ int catalog_cursor_skip_page(struct catalog_cursor *cursor);
/* After next(): leave out everything below the directory just returned, when the cursor gets there
 * (its contents come behind the entries beside it, see key.h).  Of what is no directory: nothing.
 * -EINVAL when nothing was returned. */
_must_check_ int catalog_cursor_skip_subtree(struct catalog_cursor *cursor);
/* Makes e->extents complete when they stand in content pages (nothing to do otherwise).  Of a
 * cursor's entry they belong to the cursor like all of it. */
_must_check_ int catalog_load_extents(const struct catalog_store *store, struct entry *e);
/* Exactly that key; -ENOENT.  The entry is the caller's, extents loaded. */
_must_check_ int catalog_find(const struct catalog_store *store, const struct catalog_root *root,
                              const uint8_t *key, size_t len, struct entry *ret_entry);

/* Every page reachable, parents first, content pages too; used by check.  enter is asked before a
 * page is read: > 0 leaves it and all below it out (seen before), 0 reads it, < 0 ends the walk.  A
 * page that cannot be read or is malformed is handed to visit with its error instead of ending the
 * walk: visit decides (0 goes on).  Only want of memory and -UMBRA_E_CANCELLED end it at once. */
struct catalog_visit {
    const struct chunk_ref *page;
    uint32_t level;
    bool is_content;
    int error;                   /* 0, or why the page could not be used */
    const struct entry *entries; /* of a leaf; extents in content pages come with those pages */
    size_t entry_count;
    const struct entry *file;     /* of a content page: whose contents they are, a part of */
    const struct extent *extents; /* of a content page of level 0 */
    size_t extent_count;
};
typedef int (*catalog_visit_fn)(const struct catalog_visit *visit, void *userdata);
_must_check_ int catalog_walk_pages(const struct catalog_store *store,
                                    const struct catalog_root *root,
                                    int (*enter)(const struct chunk_ref *page, void *userdata),
                                    catalog_visit_fn visit, void *userdata);

/* ---- runs of entries outside a tree (the journal of an interrupted backup) ---- */

/*
 * Appends the entries (keys ascending) to b as a self-contained page.  What one entry may have is
 * not limited as in a tree (any number of inline extents, paths up to KEY_LEN_MAX, xattrs); the run
 * is, to CATALOG_RUN_LEN_MAX.  Refuses like catalog_builder_add.
 */
_must_check_ int catalog_run_encode(const struct entry *const *entries, size_t count,
                                    const struct pack_table *names, struct buffer *b);
/* An iterator over such a run; data must outlive it. */
struct catalog_run;
_must_check_ int catalog_run_open(const void *data, size_t len, struct pack_table *names,
                                  struct catalog_run **ret_run);
void catalog_run_free(struct catalog_run *run);
DEFINE_CLEANUP_PTR(struct catalog_run *, catalog_run_free);
/* NULL at the end.  An entry that catalog_run_encode would refuse is -UMBRA_E_CORRUPT. */
_must_check_ int catalog_run_next(struct catalog_run *run, struct entry **ret_entry);

/* ---- comparing ---- */
enum catalog_change {
    CATALOG_ADDED,
    CATALOG_REMOVED,
    CATALOG_MODIFIED,
    CATALOG_METADATA,
    CATALOG_TYPE_CHANGED
};
/*
 * MODIFIED: the contents differ (extents, target of a symlink, number of a device), METADATA: only
 * attributes do.  Access times, inode numbers and remarks are no change.  old_entry NULL when
 * added, new_entry NULL when removed; extents not loaded; both belong to the call.  Not 0: ends the
 * comparison, which returns it.
 */
typedef int (*catalog_diff_fn)(enum catalog_change change, const struct entry *old_entry,
                               const struct entry *new_entry, void *userdata);
/* Both trees in key order at once; pages that are the same on both sides are not read. */
_must_check_ int catalog_diff(const struct catalog_store *store,
                              const struct catalog_root *old_root,
                              const struct catalog_root *new_root, catalog_diff_fn fn,
                              void *userdata);
