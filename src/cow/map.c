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
    free(map->bare);
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

static bool is_bare(const struct map *map, uint64_t word)
{
    return map->bare && map->bare[word];
}

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
    if (map->bare) {
        uint8_t *bare = realloc(map->bare, count);
        if (!bare)
            return -ENOMEM;
        memset(bare + map->cell_words, 1, count - map->cell_words);
        map->bare = bare;
    }
    map->cell_words = count;
    return 0;
}

/* The first word from the cursor on that has a free cell which is ready. */
static int find_word(struct map *map)
{
    while (map->cell_cursor < map->cell_words &&
           (map->cells[map->cell_cursor] == UINT64_MAX || is_bare(map, map->cell_cursor)))
        map->cell_cursor++;
    if (map->cell_cursor < map->cell_words)
        return 0;
    return map->bare ? -EAGAIN : make_cells(map, map->cell_cursor + 1);
}

int map_take_cell(struct map *map, uint64_t cells_max, uint64_t *ret_cell)
{
    if (map->cells_used >= cells_max)
        return error_note(-ENOSPC, "all %llu cells of the diff area are in use",
                          (unsigned long long)cells_max);
    int r = find_word(map);
    if (r < 0)
        return r;
    unsigned bit = (unsigned)__builtin_ctzll(~map->cells[map->cell_cursor]);
    map->cells[map->cell_cursor] |= UINT64_C(1) << bit;
    map->cells_used++;
    map->ready_free -= map->bare != NULL;
    *ret_cell = map->cell_cursor * MAP_WORD_CELLS + bit;
    return 0;
}

void map_give_cell(struct map *map, uint64_t cell)
{
    uint64_t word = cell / MAP_WORD_CELLS;
    map->cells[word] &= ~(UINT64_C(1) << cell % MAP_WORD_CELLS);
    map->cells_used--;
    map->ready_free += map->bare != NULL;
    map->cell_cursor = MIN(map->cell_cursor, word);
    map->idle_end = MAX(map->idle_end, word + 1);
}

int map_begin_ahead(struct map *map, uint64_t ready_words)
{
    uint8_t *bare = malloc(MAX(map->cell_words, (uint64_t)1));
    if (!bare)
        return -ENOMEM;
    map->bare = bare;
    map->idle_end = map->cell_words;
    for (uint64_t word = 0; word < map->cell_words; word++) {
        bare[word] = map->cells[word] == 0 && word >= ready_words;
        if (!bare[word])
            map->ready_free += (uint64_t)__builtin_popcountll(~map->cells[word]);
    }
    /* There may be more of the file than anything in memory knows of yet. */
    uint64_t known = map->cell_words;
    int r = make_cells(map, ready_words);
    if (r == 0 && known < ready_words)
        map_make_ready(map, known, ready_words - known);
    return r;
}

int map_find_bare(struct map *map, uint64_t *ret_first, uint64_t *count)
{
    uint64_t first = 0, n = 1;
    while (first < map->cell_words && !map->bare[first])
        first++;
    int r = make_cells(map, first + *count);
    if (r < 0)
        return r;
    while (n < *count && map->bare[first + n])
        n++;
    *ret_first = first;
    *count = n;
    return 0;
}

void map_make_ready(struct map *map, uint64_t first, uint64_t count)
{
    memset(map->bare + first, 0, count);
    map->ready_free += count * MAP_WORD_CELLS;
    map->cell_cursor = MIN(map->cell_cursor, first);
    map->idle_end = MAX(map->idle_end, first + count);
}

static bool is_idle(const struct map *map, uint64_t word)
{
    return !map->bare[word] && map->cells[word] == 0;
}

bool map_take_idle(struct map *map, uint64_t *ret_first, uint64_t *count)
{
    uint64_t end = MIN(map->idle_end, map->cell_words), n = 0;
    while (end > 0 && !is_idle(map, end - 1))
        end--;
    while (n < end && n < *count && is_idle(map, end - 1 - n))
        n++;
    map->idle_end = end - n;
    if (n == 0)
        return false;
    memset(map->bare + (end - n), 1, n);
    map->ready_free -= n * MAP_WORD_CELLS;
    *ret_first = end - n;
    *count = n;
    return true;
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
