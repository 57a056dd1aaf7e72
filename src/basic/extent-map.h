/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of numbers kept as sorted ranges [start, end): which parts of a file are here.
 *
 * Ranges in the map never touch or overlap each other and are never empty.  Finding is a binary
 * search; adding and removing move what is behind.  Not for several threads at once.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

struct extent_range {
    uint64_t start;
    uint64_t end; /* first number not in it */
};

struct extent_map {
    struct extent_range *items; /* sorted */
    size_t count;
    size_t allocated;
};

void extent_map_release(struct extent_map *map); /* empty and usable again */

/* An empty range (start >= end) changes nothing.  0 or -ENOMEM, with the map unchanged. */
_must_check_ int extent_map_add(struct extent_map *map, uint64_t start, uint64_t end);
/* Can need memory too: a range may become two. */
_must_check_ int extent_map_remove(struct extent_map *map, uint64_t start, uint64_t end);

/* Whether every number of [start, end) is in the map; an empty range is. */
bool extent_map_contains(const struct extent_map *map, uint64_t start, uint64_t end);
/* The first part of [start, end) that is in the map, or that is not; false when there is none. */
bool extent_map_next(const struct extent_map *map, uint64_t start, uint64_t end,
                     struct extent_range *ret_extent);
bool extent_map_next_gap(const struct extent_map *map, uint64_t start, uint64_t end,
                         struct extent_range *ret_gap);
/* How many numbers are in the map. */
uint64_t extent_map_total(const struct extent_map *map);

#define extent_map_foreach(extent, map)                    \
    for (const struct extent_range *extent = (map)->items; \
         extent && extent < (map)->items + (map)->count; extent++)
