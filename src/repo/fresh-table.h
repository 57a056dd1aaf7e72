/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The chunks that this writer has taken in and that no index segment names yet.
 *
 * A hash table with open addressing over a dense array of records; ids are keyed hashes, so any
 * eight bytes of one are a good hash.  Not thread-safe: the writer's lock guards it.
 */
#pragma once

#include "basic/vector.h"
#include "tree/chunk-ref.h"

#define FRESH_NOT_PLACED UINT32_MAX

struct fresh_chunk {
    struct chunk_id id;
    uint32_t len;
    uint32_t pack_serial; /* of the writer; FRESH_NOT_PLACED: its frame is not in a pack yet */
    uint32_t frame_offset, frame_len, chunk_offset;
};
DEFINE_VECTOR(fresh_chunk_vector, struct fresh_chunk);

struct fresh_table {
    struct fresh_chunk_vector chunks;
    uint32_t *slots;   /* index into chunks + 1; 0: free */
    size_t slot_count; /* a power of two, or 0 */
};

void fresh_table_release(struct fresh_table *table);
/* NULL when it is not there; valid until the next insert or drop. */
struct fresh_chunk *fresh_table_find(const struct fresh_table *table, const struct chunk_id *id);
/* *ret_inserted false: it was there already. */
_must_check_ int fresh_table_insert(struct fresh_table *table, const struct chunk_id *id,
                                    uint32_t len, bool *ret_inserted);
/* Removes the records for which drop() says so. */
_must_check_ int fresh_table_drop(struct fresh_table *table,
                                  bool (*drop)(const struct fresh_chunk *, void *), void *userdata);
