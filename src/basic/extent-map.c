/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/extent-map.h"

#include <stdlib.h>
#include <string.h>

#include "basic/vector.h"

void extent_map_release(struct extent_map *map)
{
    free(map->items);
    *map = (struct extent_map){0};
}

/* The first range that ends at or behind pos (behind, when touching does not count). */
static size_t find(const struct extent_map *map, uint64_t pos, bool touching)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint64_t end = map->items[middle].end;
        if (end < pos || (end == pos && !touching))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Puts count ranges in the place of those in [first, last). */
static int splice(struct extent_map *map, size_t first, size_t last,
                  const struct extent_range *with, size_t count)
{
    size_t new_count = map->count - (last - first) + count;
    void *items = map->items;

    if (new_count > map->allocated) {
        int r = vector_grow(&items, &map->allocated, new_count, sizeof(map->items[0]));
        if (r < 0)
            return r;
        map->items = items;
    }
    if (map->count > last)
        memmove(map->items + first + count, map->items + last,
                (map->count - last) * sizeof(map->items[0]));
    if (count > 0)
        memcpy(map->items + first, with, count * sizeof(map->items[0]));
    map->count = new_count;
    return 0;
}

int extent_map_add(struct extent_map *map, uint64_t start, uint64_t end)
{
    struct extent_range joined = {.start = start, .end = end};

    if (start >= end)
        return 0;
    size_t first = find(map, start, true), last = first;
    while (last < map->count && map->items[last].start <= end)
        last++;
    if (last > first) {
        joined.start = MIN(start, map->items[first].start);
        joined.end = MAX(end, map->items[last - 1].end);
    }
    return splice(map, first, last, &joined, 1);
}

int extent_map_remove(struct extent_map *map, uint64_t start, uint64_t end)
{
    struct extent_range rest[2];
    size_t count = 0;

    if (start >= end)
        return 0;
    size_t first = find(map, start, false), last = first;
    while (last < map->count && map->items[last].start < end)
        last++;
    if (last == first)
        return 0;
    if (map->items[first].start < start)
        rest[count++] = (struct extent_range){.start = map->items[first].start, .end = start};
    if (map->items[last - 1].end > end)
        rest[count++] = (struct extent_range){.start = end, .end = map->items[last - 1].end};
    return splice(map, first, last, rest, count);
}

bool extent_map_next(const struct extent_map *map, uint64_t start, uint64_t end,
                     struct extent_range *ret_extent)
{
    size_t i = find(map, start, false);

    if (start >= end || i == map->count || map->items[i].start >= end)
        return false;
    *ret_extent = (struct extent_range){.start = MAX(start, map->items[i].start),
                                        .end = MIN(end, map->items[i].end)};
    return true;
}

bool extent_map_next_gap(const struct extent_map *map, uint64_t start, uint64_t end,
                         struct extent_range *ret_gap)
{
    size_t i = find(map, start, false);

    if (i < map->count && map->items[i].start <= start)
        start = map->items[i++].end;
    if (start >= end)
        return false;
    uint64_t next = i < map->count ? map->items[i].start : UINT64_MAX;
    *ret_gap = (struct extent_range){.start = start, .end = MIN(end, next)};
    return true;
}

bool extent_map_contains(const struct extent_map *map, uint64_t start, uint64_t end)
{
    struct extent_range gap;
    return !extent_map_next_gap(map, start, end, &gap);
}

uint64_t extent_map_total(const struct extent_map *map)
{
    uint64_t total = 0;

    extent_map_foreach(extent, map) total += extent->end - extent->start;
    return total;
}
