/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/map.h"

#include <string.h>

#include "basic/error.h"
#include "basic/splitmix.h"

/* Values of next[]: the end of a list, and places that are in none. */
#define NEXT_END     UINT32_MAX
#define NEXT_FREE    (UINT32_MAX - 1)
#define NEXT_TAKEN   (UINT32_MAX - 2)
#define PLACES_MAX   ((size_t)1 << 31)
#define HEADS_MIN    ((size_t)64)
#define PLACES_FIRST ((size_t)64)

struct cow_entry version_encode(const struct version *v)
{
    return (struct cow_entry){.number = le32_make(v->number),
                              .checksum = le32_make(v->checksum),
                              .where = le64_make(v->block | (uint64_t)v->flags << COW_WHERE_BITS),
                              .value = le64_make(v->value)};
}

struct version version_decode(const struct cow_entry *entry)
{
    uint64_t where = le64_get(&entry->where);
    return (struct version){.number = le32_get(&entry->number),
                            .checksum = le32_get(&entry->checksum),
                            .block = where & ((UINT64_C(1) << COW_WHERE_BITS) - 1),
                            .flags = (unsigned)(where >> COW_WHERE_BITS),
                            .value = le64_get(&entry->value)};
}

bool living_between(const struct living *living, uint64_t after, uint64_t up_to)
{
    for (size_t i = 0; i < living->count; i++)
        if (living->numbers[i] > after)
            return living->numbers[i] <= up_to;
    return false;
}

uint32_t living_newest(const struct living *living)
{
    return living->count > 0 ? living->numbers[living->count - 1] : 0;
}

void map_release(struct map *map)
{
    free(map->heads);
    free(map->next);
    free(map->cells);
    *map = (struct map){0};
}

struct version map_at(const struct map *map, uint32_t place)
{
    struct cow_entry entry;
    table_get(map->table, place, &entry);
    return version_decode(&entry);
}

/* ---- places ---- */

static int make_places(struct map *map, size_t need)
{
    if (need <= map->place_count)
        return 0;
    if (need > PLACES_MAX)
        return error_note(-ENOSPC, "the map is full");
    size_t count = MAX(MAX(map->place_count * 2, need), PLACES_FIRST);
    uint32_t *next = reallocarray(map->next, count, sizeof(*next));
    if (!next)
        return -ENOMEM;
    for (size_t i = map->place_count; i < count; i++)
        next[i] = NEXT_FREE;
    map->next = next;
    map->place_count = count;
    return 0;
}

int map_take_place(struct map *map, uint32_t *ret_place)
{
    while (map->cursor < map->place_count && map->next[map->cursor] != NEXT_FREE)
        map->cursor++;
    int r = make_places(map, map->cursor + 1);
    if (r < 0)
        return r;
    map->next[map->cursor] = NEXT_TAKEN;
    *ret_place = (uint32_t)map->cursor++;
    return 0;
}

void map_give_place(struct map *map, uint32_t place)
{
    map->next[place] = NEXT_FREE;
    map->cursor = MIN(map->cursor, (size_t)place);
}

int map_claim_place(struct map *map, uint32_t place)
{
    int r = make_places(map, (size_t)place + 1);
    if (r == 0)
        map->next[place] = NEXT_TAKEN;
    return r;
}

bool map_is_indexed(const struct map *map, uint64_t place)
{
    return place < map->place_count && map->next[place] != NEXT_FREE &&
           map->next[place] != NEXT_TAKEN;
}

/* ---- cells ---- */

static int make_cells(struct map *map, uint64_t words)
{
    if (words <= map->cell_words)
        return 0;
    uint64_t count = MAX(map->cell_words * 2, words);
    uint64_t *cells = reallocarray(map->cells, count, sizeof(*cells));
    if (!cells)
        return -ENOMEM;
    memset(cells + map->cell_words, 0, (count - map->cell_words) * sizeof(*cells));
    map->cells = cells;
    map->cell_words = count;
    return 0;
}

int map_take_cell(struct map *map, uint64_t cells_max, uint64_t *ret_cell)
{
    if (map->cells_used >= cells_max)
        return error_note(-ENOSPC, "all %llu cells of the diff area are in use",
                          (unsigned long long)cells_max);
    while (map->cell_cursor < map->cell_words && map->cells[map->cell_cursor] == UINT64_MAX)
        map->cell_cursor++;
    int r = make_cells(map, map->cell_cursor + 1);
    if (r < 0)
        return r;
    unsigned bit = (unsigned)__builtin_ctzll(~map->cells[map->cell_cursor]);
    map->cells[map->cell_cursor] |= UINT64_C(1) << bit;
    map->cells_used++;
    *ret_cell = map->cell_cursor * 64 + bit;
    return 0;
}

void map_give_cell(struct map *map, uint64_t cell)
{
    map->cells[cell / 64] &= ~(UINT64_C(1) << cell % 64);
    map->cells_used--;
    map->cell_cursor = MIN(map->cell_cursor, cell / 64);
}

int map_claim_cell(struct map *map, uint64_t cell, bool *ret_taken)
{
    int r = make_cells(map, cell / 64 + 1);
    if (r < 0)
        return r;
    *ret_taken = map->cells[cell / 64] >> cell % 64 & 1;
    map->cells[cell / 64] |= UINT64_C(1) << cell % 64;
    map->cells_used += !*ret_taken;
    return 0;
}

/* ---- the index ---- */

/* Zeros are found by their group, everything else by its block. */
static uint64_t key_of(uint64_t block, bool is_zero)
{
    return block << 1 | (is_zero ? 1 : 0);
}

static size_t bucket_of(const struct map *map, uint64_t key)
{
    uint64_t state = key;
    return (size_t)(splitmix64_next(&state) & (map->head_count - 1));
}

static uint64_t key_of_version(const struct version *v)
{
    return key_of(v->block, v->flags & COW_ENTRY_ZERO);
}

static void link_place(struct map *map, uint32_t place)
{
    const struct version v = map_at(map, place);
    uint32_t *head = &map->heads[bucket_of(map, key_of_version(&v))];
    map->next[place] = *head;
    *head = place;
}

static int grow_heads(struct map *map)
{
    size_t count = MAX(map->head_count * 2, HEADS_MIN);
    uint32_t *heads = malloc(count * sizeof(*heads)), *old = map->heads;
    size_t old_count = map->head_count;
    if (!heads)
        return -ENOMEM;
    memset(heads, 0xff, count * sizeof(*heads)); /* NEXT_END */
    map->heads = heads;
    map->head_count = count;
    for (size_t i = 0; i < old_count; i++)
        for (uint32_t place = old[i], next; place != NEXT_END; place = next) {
            next = map->next[place];
            link_place(map, place);
        }
    free(old);
    return 0;
}

int map_init(struct map *map, struct table *table)
{
    *map = (struct map){.table = table};
    return grow_heads(map);
}

void map_insert(struct map *map, uint32_t place)
{
    /* Without memory the lists grow longer, and that is all. */
    if (map->used_count >= map->head_count)
        IGNORE_RESULT(grow_heads(map));
    link_place(map, place);
    map->used_count++;
}

void map_remove(struct map *map, uint32_t place)
{
    const struct version v = map_at(map, place);
    uint32_t *at = &map->heads[bucket_of(map, key_of_version(&v))];
    while (*at != place)
        at = &map->next[*at];
    *at = map->next[place];
    map->used_count--;
    map_give_place(map, place);
}

void map_drop(struct map *map, uint32_t place)
{
    const struct version v = map_at(map, place);
    map_remove(map, place);
    if (!(v.flags & COW_ENTRY_ZERO))
        map_give_cell(map, v.value);
}

/* ---- looking up ---- */

static uint64_t mask_of(uint64_t block)
{
    return UINT64_C(1) << block % COW_GROUP_BLOCKS;
}

/* Takes the version of the lowest number from number on into *best, if it is lower than that. */
static void find_best(const struct map *map, uint64_t block, bool is_zero, uint32_t number,
                      struct version *best, uint32_t *best_place)
{
    uint64_t start = is_zero ? block - block % COW_GROUP_BLOCKS : block;
    uint32_t place = map->heads[bucket_of(map, key_of(start, is_zero))];
    for (; place != NEXT_END; place = map->next[place]) {
        const struct version v = map_at(map, place);
        bool zero = v.flags & COW_ENTRY_ZERO;
        if (v.block != start || zero != is_zero || (v.flags & COW_ENTRY_OWN) || v.number < number ||
            (zero && !(v.value & mask_of(block))))
            continue;
        if (best->number == 0 || v.number < best->number) {
            *best = v;
            *best_place = place;
        }
    }
}

static bool find_own(const struct map *map, uint64_t block, uint32_t number,
                     struct version *ret_version, uint32_t *ret_place)
{
    uint32_t place = map->heads[bucket_of(map, key_of(block, false))];
    for (; place != NEXT_END; place = map->next[place]) {
        const struct version v = map_at(map, place);
        if (v.block == block && v.flags == COW_ENTRY_OWN && v.number == number) {
            *ret_version = v;
            *ret_place = place;
            return true;
        }
    }
    return false;
}

bool map_find(const struct map *map, uint64_t block, uint32_t number, bool of_own,
              struct version *ret_version, uint32_t *ret_place)
{
    struct version best = {0};
    uint32_t place = 0;
    if (of_own && find_own(map, block, number, ret_version, ret_place))
        return true;
    find_best(map, block, false, number, &best, &place);
    find_best(map, block, true, number, &best, &place);
    if (best.number == 0)
        return false;
    *ret_version = best;
    *ret_place = place;
    return true;
}

/* The highest number below that of the version under which anything is kept of the block. */
static uint32_t number_before(const struct map *map, uint64_t block, uint32_t number)
{
    uint32_t before = 0;
    for (int zero = 0; zero < 2; zero++) {
        uint64_t start = zero ? block - block % COW_GROUP_BLOCKS : block;
        uint32_t place = map->heads[bucket_of(map, key_of(start, zero))];
        for (; place != NEXT_END; place = map->next[place]) {
            const struct version v = map_at(map, place);
            bool is_zero = v.flags & COW_ENTRY_ZERO;
            bool is_of_block = v.block == start && is_zero == (zero != 0) &&
                               !(v.flags & COW_ENTRY_OWN) &&
                               (!is_zero || (v.value & mask_of(block)));
            if (is_of_block && v.number < number)
                before = MAX(before, v.number);
        }
    }
    return before;
}

bool map_is_needed(const struct map *map, const struct version *v, const struct living *living)
{
    if (v->flags & COW_ENTRY_OWN)
        return living_between(living, v->number - 1, v->number);
    if (!(v->flags & COW_ENTRY_ZERO))
        return living_between(living, number_before(map, v->block, v->number), v->number);
    for (uint64_t mask = v->value; mask != 0; mask &= mask - 1) {
        uint64_t block = v->block + (unsigned)__builtin_ctzll(mask);
        if (living_between(living, number_before(map, block, v->number), v->number))
            return true;
    }
    return false;
}
