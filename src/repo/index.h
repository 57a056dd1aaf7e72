/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index: from chunk id to location.
 *
 * It is a set of immutable segments.  In the repository a segment is one sealed object
 * (index/<sha256>); each reader keeps the opened form, sorted records with a split-block Bloom
 * filter, in a cache directory and maps it.  Looking up touches the filters (in memory, about 1.3
 * bytes a chunk) and then, almost only when the chunk is there, one place of one segment.  Segments
 * are merged by whoever writes when there are many; the union of any two is a valid third, so
 * nobody needs a lock.
 *
 * The index only says what the packs' own directories say: lost, it is rebuilt from them.
 */
#pragma once

#include "repo/backend.h"
#include "repo/crypt.h"
#include "repo/pack.h"

#define INDEX_SEGMENT_RECORDS_MAX PACK_CHUNKS_MAX

struct index;

struct index_hit {
    struct chunk_location location;
    uint32_t len; /* plain bytes of the chunk */
    enum pack_kind kind;
};

/* cache_dir: an existing directory of this repository's own; NULL: unlinked files in TMPDIR. names:
 * borrowed. */
_must_check_ int index_open(struct backend *backend, const struct keyring *keyring,
                            const char *cache_dir, struct pack_table *names,
                            struct index **ret_index);
void index_free(struct index *index);
DEFINE_CLEANUP_PTR(struct index *, index_free);

/* Any thread, without waiting for writers. */
bool index_lookup(const struct index *index, const struct chunk_id *id, struct index_hit *ret_hit);
/* Every place that the index has for the chunk, in no order; fn returns 0 to go on, anything else
 * ends it and is returned. */
int index_each_location(const struct index *index, const struct chunk_id *id,
                        int (*fn)(const struct index_hit *hit, void *userdata), void *userdata);
bool index_has_pack(const struct index *index, const struct pack_name *name);

/* Follows the repository: what other programs have added since is found, too. */
_must_check_ int index_refresh(struct index *index);

/* A pack that is durable, to be made part of the index. */
struct index_pack {
    struct pack_name name;
    uint64_t size_bytes;
    const struct pack_directory *directory;
};
/* Writes one segment with these packs (durable on return) and makes it searchable. */
_must_check_ int index_add_packs(struct index *index, const struct index_pack *packs, size_t count);
/* Finds packs in the backend that no segment knows (left by an interrupted backup) and adds them.
 * Damaged ones are warned of and left alone.  *ret_count: packs added. */
_must_check_ int index_adopt_packs(struct index *index, size_t *ret_count);
/* The same for this process alone, until the next refresh: nothing is stored.  Damaged packs are
 * left out without a word, for the caller has seen them. */
_must_check_ int index_borrow_packs(struct index *index, size_t *ret_count);
/* Merges segments when there are more than is good.  Objects are removed only after the merged one
 * is durable. */
_must_check_ int index_compact(struct index *index);
/* Forgets all segments, reads every pack's directory, writes new segments, then removes the old
 * objects. */
_must_check_ int index_rebuild(struct index *index);

struct index_stats {
    uint64_t segment_count, pack_count, chunk_count;
    uint64_t pack_bytes; /* of all packs known */
    uint64_t filter_bytes;
};
void index_stats(const struct index *index, struct index_stats *ret_stats);

/* Every pack once, for check and stats. */
_must_check_ int index_each_pack(const struct index *index,
                                 int (*fn)(const struct pack_name *, enum pack_kind,
                                           uint64_t size_bytes, void *),
                                 void *userdata);
/* Compares what the index says of one pack with the pack's own directory: -UMBRA_E_CORRUPT with a
 * note at the first difference. */
_must_check_ int index_verify_pack(const struct index *index, const struct pack_name *name,
                                   const struct pack_directory *directory);
/* The directory of a pack as far as the index knows it, for when the pack's own cannot be read: of
 * each id only the first INDEX_ID_KNOWN_LEN bytes, the others are zeros.  -ENOENT. */
#define INDEX_ID_KNOWN_LEN 16u
_must_check_ int index_pack_directory(const struct index *index, const struct pack_name *name,
                                      struct pack_directory *ret_directory);
/* Segments that cannot be used (damaged, cut short, of a newer version): they are warned of and
 * skipped when opening; this lists them. */
_must_check_ int index_each_damaged(const struct index *index,
                                    int (*fn)(const char *object_name, const char *why, void *),
                                    void *userdata);
/* Plain form of a segment, parsed (for the fuzzer). */
_must_check_ int index_segment_parse(const void *data, size_t len);
