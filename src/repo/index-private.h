/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the index share.  index.c has the essay. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/vector.h"
#include "repo/index-format.h"
#include "repo/index.h"

#define INDEX_OBJECT_NAME_LEN 70 /* "index/" and 64 hex digits, without the NUL */

/* ---- index-filter.c ---- */

/* prefix: INDEX_PREFIX_LEN bytes.  filter: block_count * INDEX_FILTER_BLOCK bytes. */
uint32_t filter_blocks_for(uint32_t record_count);
void filter_insert(uint8_t *filter, uint32_t block_count, const uint8_t *prefix);
bool filter_may_contain(const uint8_t *filter, uint32_t block_count, const uint8_t *prefix);

/* ---- index-plain.c: the plain form ---- */

/* A plain form, taken apart; all pointers lie in it. */
struct segment_view {
    const struct index_pack_entry *packs;
    const struct index_record *records;
    uint32_t pack_count, record_count;
};
size_t segment_plain_len(const struct segment_view *view);
/* Header and length alone: what follows may be anything. */
_must_check_ int segment_view_make(const void *plain, size_t len, struct segment_view *ret_view);

/* A plain form being made: packs and records are filled in in any order, then sorted. */
struct segment_draft {
    struct buffer plain; /* of the final length, or longer while there are duplicates */
    struct index_pack_entry *packs;
    struct index_record *records;
    uint32_t pack_count, record_count;
};
/* Zeroed memory for so many; -UMBRA_E_LIMIT. */
_must_check_ int segment_draft_init(struct segment_draft *draft, size_t pack_count,
                                    size_t record_count);
void segment_draft_release(struct segment_draft *draft);
/* After the packs (in order) and records have been filled in: sorts records, drops duplicates,
 * counts each pack's chunks, cuts the buffer to its length. */
void segment_draft_finish(struct segment_draft *draft);
/* Of packs in memory, which need not be sorted and may repeat. */
_must_check_ int segment_draft_from_packs(const struct index_pack *packs, size_t count,
                                          struct segment_draft *ret_draft);

/* ---- index-object.c: the sealed form ---- */

typedef char index_object_name[INDEX_OBJECT_NAME_LEN + 1];

/* 0, or -EINVAL when it is not the name of a segment. */
_must_check_ int index_object_name_parse(const char *object_name, uint8_t ret_digest[32]);
void index_object_name_make(const uint8_t digest[32], index_object_name ret_name);
/* Compresses, seals, stores: durable on return. */
_must_check_ int segment_object_store(struct backend *backend, const struct keyring *keyring,
                                      const void *plain, size_t len, uint8_t ret_digest[32]);
/* The plain form, checked in full.  malloc'ed. */
_must_check_ int segment_object_load(struct backend *backend, const struct keyring *keyring,
                                     const uint8_t digest[32], void **ret_plain, size_t *ret_len);

/* ---- index-segment.c: the opened form ---- */

/* A segment that can be searched; immutable but for its bits of what has been verified. */
struct segment {
    uint8_t digest[32]; /* the object's name */
    void *map;
    size_t map_len;
    struct segment_view view; /* into the map, like the two below */
    const uint8_t *filter;
    const uint8_t *checksums;
    uint32_t filter_block_count;
    uint32_t *pack_numbers;     /* by the segment's table: numbers of the pack_table */
    _Atomic uint64_t *verified; /* a bit for each block of records */
};
DEFINE_VECTOR(segment_vector, struct segment *);

/* From the cache; -ENOENT when there is none or it is damaged (which removes it). */
_must_check_ int segment_open_cached(const char *cache_dir, const uint8_t digest[32],
                                     struct pack_table *names, struct segment **ret_segment);
/* From the plain form, writing the cache file.  Without a cache directory, and when it cannot be
 * written, the file is an unlinked one in TMPDIR; *ret_cache_error then has the reason (0: none).
 */
_must_check_ int segment_open_plain(const char *cache_dir, const uint8_t digest[32],
                                    const void *plain, size_t len, struct pack_table *names,
                                    struct segment **ret_segment, int *ret_cache_error);
void segment_free(struct segment *segment);
DEFINE_CLEANUP_PTR(struct segment *, segment_free);

/* Makes sure that record i is what was written: 0 or -UMBRA_E_CORRUPT (no note). */
_must_check_ int segment_verify_record(const struct segment *segment, uint32_t i);
/* The same of all records. */
_must_check_ int segment_verify_all(const struct segment *segment);
/* The place of a record with this prefix: 1 found, 0 not there, -UMBRA_E_CORRUPT. */
_must_check_ int segment_find(const struct segment *segment, const uint8_t *prefix,
                              uint32_t *ret_position);
/* All records with this prefix, [first, end): the same results. */
_must_check_ int segment_find_all(const struct segment *segment, const uint8_t *prefix,
                                  uint32_t *ret_first, uint32_t *ret_end);
void segment_fill_hit(const struct segment *segment, uint32_t position, struct index_hit *ret_hit);
/* Position in the segment's table of packs; -ENOENT. */
_must_check_ int segment_find_pack(const struct segment *segment, const struct pack_name *name,
                                   uint32_t *ret_position);
void segment_cache_remove(const char *cache_dir, const uint8_t digest[32]);
/* Removes cache files of other segments than these, and temporary files that nobody finished. */
void segment_cache_sweep(const char *cache_dir, const struct segment_vector *keep);

/* ---- index.c ---- */

/* What lookups see: never changed once it is published. */
struct segment_set {
    struct segment_set *older;
    size_t count;
    struct segment *segments[];
};

struct damaged_segment {
    index_object_name name;
    struct error_report why;
};
DEFINE_VECTOR(damaged_vector, struct damaged_segment);

struct index {
    struct backend *backend;
    const struct keyring *keyring;
    struct pack_table *names;
    char *cache_dir; /* NULL: none */

    _Atomic(struct segment_set *) set;

    /* Held while another set is made and published, and for what stands below; never while waiting
     * for the backend, save in a repair. */
    pthread_mutex_t lock;
    struct segment_vector owned;   /* every segment that ever was in a set */
    struct damaged_vector damaged; /* when last listed */
    atomic_bool cache_warned;
};

/* Whether a failure is that of a damaged object, which is left out with a warning while everything
 * else goes on. */
bool index_is_damage(int r);
const struct segment_set *index_set(const struct index *index);
/* Publishes the current set without remove, and with add (which it takes over when it succeeds). */
_must_check_ int index_publish(struct index *index, struct segment *const *remove,
                               size_t remove_count, struct segment *const *add, size_t add_count);
/* Stores and opens a finished draft, which it releases; does not publish. */
_must_check_ int index_store_draft(struct index *index, struct segment_draft *draft,
                                   struct segment **ret_segment);
/* The same without storing it: the segment has no object, and no cache file. */
_must_check_ int index_hold_draft(struct index *index, struct segment_draft *draft,
                                  struct segment **ret_segment);
/* Replaces a segment whose cache file turned out to be damaged. */
_must_check_ int index_repair(const struct index *index, struct segment *bad);
/* Cache files that one call replaces before it gives up. */
#define INDEX_REPAIRS_MAX 8u
/* Opens a stored segment, through the cache. */
_must_check_ int index_load_segment(struct index *index, const uint8_t digest[32],
                                    struct segment **ret_segment);
