/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of chunk ids, small: of each it keeps the first 16 bytes, as the index does, in a hash
 * table with open addressing, between 19 and 43 bytes a member.  Not thread-safe.
 */
#pragma once

#include <stdbool.h>

#include "tree/chunk-ref.h"

struct id_key {
    uint64_t words[2];
};

struct id_set {
    struct id_key *slots; /* zeros: free */
    size_t slot_count;    /* a power of two, or 0 */
    size_t count;
};

void id_set_release(struct id_set *set);
/* tag distinguishes members of the same id; 0 where there is nothing to distinguish. */
bool id_set_has(const struct id_set *set, const struct chunk_id *id, uint32_t tag);
/* *ret_added false: it was there already. */
_must_check_ int id_set_add(struct id_set *set, const struct chunk_id *id, uint32_t tag,
                            bool *ret_added);
