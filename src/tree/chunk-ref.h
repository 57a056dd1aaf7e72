/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the catalog names data: by chunk id, with a hint where the chunk lies.
 *
 * The id alone is the truth.  The location beside it is a hint that saves the index lookup: a
 * reader tries it first, and the id, a keyed hash of the contents, says whether it was right.  In
 * memory a location names its pack by a small number that one pack_table hands out; on disk each
 * catalog page has a table of the pack names that it uses.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/macro.h"

#define CHUNK_ID_LEN  32
#define PACK_NAME_LEN 32

/* Keyed BLAKE3-256 of the plain contents. */
struct chunk_id {
    uint8_t bytes[CHUNK_ID_LEN];
};

/* SHA-256 of the whole pack. */
struct pack_name {
    uint8_t bytes[PACK_NAME_LEN];
};

#define PACK_NO_NONE UINT32_MAX

/* Where a chunk lies: in which pack, which sealed frame of it, and where in the frame's plain
 * contents. */
struct chunk_location {
    uint32_t pack_no;      /* of the pack_table; PACK_NO_NONE: not known */
    uint32_t frame_offset; /* bytes from the start of the pack */
    uint32_t frame_len;    /* sealed bytes */
    uint32_t chunk_offset; /* bytes from the start of the frame's plain contents */
};

/* A chunk as something refers to it. */
struct chunk_ref {
    struct chunk_id id;
    uint32_t len; /* plain bytes */
    struct chunk_location location;
};

static inline bool chunk_id_equal(const struct chunk_id *a, const struct chunk_id *b)
{
    return memcmp(a->bytes, b->bytes, CHUNK_ID_LEN) == 0;
}

/* Pack names with a number each.  Thread-safe; numbers are dense from 0 and never change. */
struct pack_table;

_must_check_ int pack_table_new(struct pack_table **ret_table);
void pack_table_free(struct pack_table *table);
DEFINE_CLEANUP_PTR(struct pack_table *, pack_table_free);
/* The number of that name, a new one if need be. */
_must_check_ int pack_table_intern(struct pack_table *table, const struct pack_name *name,
                                   uint32_t *ret_no);
/* Copies the name; pack_no must have come from this table. */
void pack_table_name(const struct pack_table *table, uint32_t pack_no, struct pack_name *ret_name);
uint32_t pack_table_count(const struct pack_table *table);
