/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the catalog share with each other, and with their tests. */
#pragma once

#include "basic/cleanup.h"
#include "basic/vector.h"
#include "tree/catalog-format.h"
#include "tree/catalog.h"
#include "tree/key.h"

/* ---- where pages are cut (catalog-encode.c) ---- */

/* A hash of a key, for cuts only.  level: of the page that is cut. */
uint64_t catalog_key_hash(const uint8_t *key, size_t len, uint32_t level);

static inline bool catalog_key_cuts(const uint8_t *key, size_t len, uint32_t level)
{
    return catalog_key_hash(key, len, level) < UINT64_MAX / CATALOG_CUT_ODDS;
}

/* How many bytes a and b have in common at the start. */
size_t catalog_common_prefix(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len);

/* ---- packs of a page ---- */

DEFINE_VECTOR(u32_vector, uint32_t);

/* The pack numbers that a page uses, in order of first use, with their place in its table. */
struct pack_index {
    struct u32_vector pack_nos;
    uint32_t *slots; /* hash table of places + 1; 0 is empty */
    size_t slot_count;
    uint32_t last; /* place of the last one asked for */
};

void pack_index_release(struct pack_index *index);
void pack_index_clear(struct pack_index *index);
_must_check_ int pack_index_put(struct pack_index *index, uint32_t pack_no, uint32_t *ret_place);

/* ---- encoding (catalog-encode.c) ---- */

/* Contents of a regular file as they go into a leaf: extents, or references to content pages. */
struct catalog_contents {
    const struct extent *extents;
    size_t extent_count;
    const struct extent *refs;
    size_t ref_count;
    uint32_t ref_level;
};

/* What the next entry of a page is encoded against. */
struct entry_base {
    uint32_t mode, uid, gid, flags, fs_index, project_id;
    uint64_t inode;
    int64_t mtime_sec;
};

/*
 * A page under construction.  Entries go straight into their final form; only the pack table and
 * the header are put before them in the end.  Sticky: the first failure is returned by
 * page_encoder_finish.
 */
struct page_encoder {
    struct buffer body;
    struct buffer key; /* of the last entry */
    struct pack_index packs;
    struct extent_vector content_refs; /* encoded by finish, behind the entries */
    struct entry_base base;
    uint32_t count;
    int error;
};

void page_encoder_release(struct page_encoder *enc);
void page_encoder_clear(struct page_encoder *enc);
/* How long the page is at most if it is finished now. */
size_t page_encoder_len(const struct page_encoder *enc);
/* Keys must ascend, everything must be within its limits: catalog_entry_check(). */
void page_encoder_put_entry(struct page_encoder *enc, const struct entry *e,
                            const struct catalog_contents *contents);
void page_encoder_put_child(struct page_encoder *enc, const struct catalog_child *child);
void page_encoder_put_extent(struct page_encoder *enc, const struct extent *extent);
void page_encoder_put_reference(struct page_encoder *enc, const struct extent *ref);
/* Writes the page to b (cleared first) and clears the encoder. */
_must_check_ int page_encoder_finish(struct page_encoder *enc, enum catalog_page_kind kind,
                                     uint32_t level, const struct pack_table *names,
                                     struct buffer *b);

/* Whether the entry may stand in a leaf (is_run: a run) at all.  -EINVAL for what is against the
 * contract, -UMBRA_E_LIMIT for what is too large; with a note that names the file. */
_must_check_ int catalog_entry_check(const struct entry *e, bool is_run);

/* ---- decoding (catalog-decode.c) ---- */

/* Memory that goes all at once. */
struct arena {
    struct arena_block *blocks; /* the newest first */
    uint8_t *pos, *end;
    size_t used; /* by allocations since the last clear, over all blocks */
};

void arena_release(struct arena *arena);
/* Forgets all allocations; memory for as much is kept in one piece. */
void arena_clear(struct arena *arena);
/* Aligned for any type; NULL without memory. */
void *arena_alloc(struct arena *arena, size_t len);

/* A decoded page.  Everything in it lives in the arena, except the extents of entries that
 * catalog_load_extents() has loaded, which page_clear() frees. */
struct catalog_page {
    struct arena arena;
    struct pack_index packs;
    enum catalog_page_kind kind;
    uint32_t level;
    uint32_t count;
    bool has_content_refs;
    struct entry *entries;          /* leaf, run */
    struct catalog_child *children; /* inner */
    struct extent *extents;         /* content: extents, above level 0 references */
};

void catalog_page_release(struct catalog_page *page);
/* Memory is kept for the next one. */
void catalog_page_clear(struct catalog_page *page);
/* -UMBRA_E_CORRUPT with a note.  The page is cleared first, and on failure. */
_must_check_ int catalog_page_decode(struct catalog_page *page, const void *data, size_t len,
                                     struct pack_table *names);
/* Reads ref and decodes it, and refuses it unless it is of that kind and level. */
_must_check_ int catalog_page_read(struct catalog_page *page, const struct catalog_store *store,
                                   const struct chunk_ref *ref, enum catalog_page_kind kind,
                                   uint32_t level);

/* ---- walking the tree (catalog-walk.c) ---- */

/* One page on the way down, or the list of the root. */
struct tree_frame {
    struct catalog_page page;
    const struct catalog_child *children; /* NULL: a leaf, look at page.entries */
    uint32_t level;                       /* of the children */
    size_t count;
    size_t at;                    /* the next one to look at */
    const uint8_t *lower, *upper; /* keys in here are in [lower, upper); upper NULL: no end */
    uint32_t lower_len, upper_len;
};

/*
 * A place in a tree, between entries, or before a page that has not been opened: the caller decides
 * whether to go into it or past it.
 */
struct tree_walk {
    const struct catalog_store *store;
    uint32_t depth; /* frames in use */
    struct tree_frame frames[CATALOG_DEPTH_MAX + 1];
};

struct tree_item {
    struct entry *entry;               /* an entry, or */
    const struct catalog_child *child; /* a page; both NULL at the end */
    uint32_t level;                    /* of the page */
};

/* Initializes to the start of the tree. */
void tree_walk_init(struct tree_walk *walk, const struct catalog_store *store,
                    const struct catalog_root *root);
void tree_walk_release(struct tree_walk *walk);
void tree_walk_peek(struct tree_walk *walk, struct tree_item *ret_item);
/* Goes into the page at which the walk stands. */
_must_check_ int tree_walk_open(struct tree_walk *walk);
/* Goes past the page or entry at which the walk stands. */
void tree_walk_advance(struct tree_walk *walk);
/* Goes to the first entry not less than the key, or to a page that begins with it. */
_must_check_ int tree_walk_seek(struct tree_walk *walk, const uint8_t *key, size_t len);

/* ---- contents in pages (catalog-content.c) ---- */

struct content_frame {
    struct catalog_page page;
    const struct extent *items; /* extents, or references to content pages */
    bool has_extents;
    uint32_t level; /* of the pages referred to */
    size_t count;
    size_t at;
};

/* A place in the contents of one file, like struct tree_walk. */
struct content_walk {
    const struct catalog_store *store;
    uint32_t depth;
    struct content_frame frames[CATALOG_DEPTH_MAX + 1];
};

struct content_item {
    const struct extent *extent; /* an extent, or */
    const struct extent *ref;    /* the reference to a page; both NULL at the end */
    uint32_t level;              /* of the page */
};

/* Initializes to the start of e's contents, loaded or not.  e must stay. */
void content_walk_init(struct content_walk *walk, const struct catalog_store *store,
                       const struct entry *e);
void content_walk_release(struct content_walk *walk);
void content_walk_peek(struct content_walk *walk, struct content_item *ret_item);
_must_check_ int content_walk_open(struct content_walk *walk);
void content_walk_advance(struct content_walk *walk);
/* The next extent, pages opened as need be; NULL at the end.  It stays until the next call. */
_must_check_ int content_walk_next(struct content_walk *walk, const struct extent **ret_extent);
