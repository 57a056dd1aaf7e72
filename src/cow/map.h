/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map of versions in memory: which places of the table "map" hold an entry, where they are
 * found by block, and which places and cells are free.  The entries themselves are read from the
 * table.
 *
 * No locks of its own: the caller holds the volume's.
 */
#pragma once

#include "cow/table.h"

#define MAP_WORD_CELLS 64u /* are made ready together */

/* An entry as it is worked with. */
struct version {
    uint32_t number;
    uint32_t checksum;
    uint64_t block; /* of zeros: the first of the group */
    unsigned flags; /* enum cow_entry_flags */
    uint64_t value; /* number of the cell, or mask */
};

struct cow_entry version_encode(const struct version *version);
struct version version_decode(const struct cow_entry *entry);

/* The living shadows, by rising number. */
struct living {
    uint32_t numbers[COW_SHADOWS_MAX];
    size_t count;
};
/* Whether one lives in (after, up_to]. */
bool living_between(const struct living *living, uint64_t after, uint64_t up_to);
uint32_t living_newest(const struct living *living); /* 0: none */

struct map {
    struct table *table;
    uint32_t *heads; /* of the lists of each bucket */
    size_t head_count;
    uint32_t *next; /* by place: the next of the same bucket, or one of the values in map.c */
    size_t place_count;
    size_t used_count;
    size_t cursor;   /* no place below is free */
    uint64_t *cells; /* bitmap: in use */
    uint64_t cell_words;
    uint64_t cell_cursor; /* no word below has a free cell */
    uint64_t cells_used;
    /* Words whose cells are not ready to be given out (cow-ahead.c); NULL: all are. */
    uint8_t *bare;
    uint64_t ready_free; /* free cells of the others */
    uint64_t idle_end;   /* no word from here on is ready and free as a whole */
};

_must_check_ int map_init(struct map *map, struct table *table);
void map_release(struct map *map);

/* A free place, taken.  -ENOMEM, -ENOSPC. */
_must_check_ int map_take_place(struct map *map, uint32_t *ret_place);
void map_give_place(struct map *map, uint32_t place); /* that is not in the index */
/* A free cell below the number of cells_max that may be in use.  -ENOSPC; -EAGAIN: none is ready.
 */
_must_check_ int map_take_cell(struct map *map, uint64_t cells_max, uint64_t *ret_cell);
void map_give_cell(struct map *map, uint64_t cell);
/* While loading: this place, and the cell, are in use.  *ret_taken: the cell was already. */
_must_check_ int map_claim_place(struct map *map, uint32_t place);
_must_check_ int map_claim_cell(struct map *map, uint64_t cell, bool *ret_taken);

/* From now on cells have to be made ready: all but those of the first words, and what is in use. */
_must_check_ int map_begin_ahead(struct map *map, uint64_t ready_words);
/* The first words that are not ready: *count at most.  They stay as they are. */
_must_check_ int map_find_bare(struct map *map, uint64_t *ret_first, uint64_t *count);
void map_make_ready(struct map *map, uint64_t first, uint64_t count);
/* The last words that are ready and free as a whole, *count at most, are not ready any more. */
bool map_take_idle(struct map *map, uint64_t *ret_first, uint64_t *count);

/* A place that is taken, and of which the table holds the entry. */
void map_insert(struct map *map, uint32_t place);
/* Out of the index, and the place free again. */
void map_remove(struct map *map, uint32_t place);
/* The same, with the cell. */
void map_drop(struct map *map, uint32_t place);
bool map_is_indexed(const struct map *map, uint64_t place);

/* What is kept of the block for shadow number; false: nothing, it is in the origin.  of_own: also
 * what was written to the shadow itself. */
bool map_find(const struct map *map, uint64_t block, uint32_t number, bool of_own,
              struct version *ret_version, uint32_t *ret_place);
/* Whether any living shadow needs the entry (cow.c, invariant 2). */
bool map_is_needed(const struct map *map, const struct version *version,
                   const struct living *living);
struct version map_at(const struct map *map, uint32_t place);
