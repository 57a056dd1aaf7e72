/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Before blocks are overwritten: what shadows need of them goes to the diff area, and is entered in
 * the map (cow.c, invariants 3 to 5).  The caller has the blocks, exclusively, and the gate.
 */
#include <string.h>

#include "basic/crc32c.h"
#include "cow/cow-private.h"

struct kept {
    uint64_t block, cell;
    uint32_t place, checksum;
};

struct kept_zeros {
    uint64_t group;
    uint64_t clear; /* are not known to be zero any more */
    uint64_t keep;  /* of these, what the newest shadow shows as zeros */
    uint32_t place;
};

struct keep {
    uint32_t number;
    struct kept kept[COW_PIECE_BLOCKS];
    size_t kept_count;
    struct kept_zeros zeros[COW_PIECE_GROUPS];
    size_t zeros_count;
};

/* ---- what is to be kept ---- */

static void add_zero(struct keep *keep, uint64_t block, bool is_kept)
{
    uint64_t group = block / COW_GROUP_BLOCKS, bit = UINT64_C(1) << block % COW_GROUP_BLOCKS;
    if (keep->zeros_count == 0 || keep->zeros[keep->zeros_count - 1].group != group)
        keep->zeros[keep->zeros_count++] = (struct kept_zeros){.group = group};
    struct kept_zeros *z = &keep->zeros[keep->zeros_count - 1];
    z->clear |= bit;
    z->keep |= is_kept ? bit : 0;
}

static void collect_locked(struct cow *cow, uint64_t first, uint64_t last, struct keep *keep)
{
    keep->kept_count = keep->zeros_count = 0;
    keep->number = le32_get(&cow->settings.last_number);
    for (uint64_t b = first; b <= last; b++) {
        bool is_kept = cow->living.count > 0 && !cow_is_copied_locked(cow, b);
        bool is_zero = cow_zero_mask(cow, b / COW_GROUP_BLOCKS) >> b % COW_GROUP_BLOCKS & 1;
        if (is_zero)
            add_zero(keep, b, is_kept);
        else if (is_kept)
            keep->kept[keep->kept_count++] = (struct kept){.block = b};
    }
}

/* ---- places and cells ---- */

static void give_back_locked(struct cow *cow, const struct keep *keep, size_t kept, size_t zeros)
{
    for (size_t i = 0; i < kept; i++) {
        map_give_place(&cow->map, keep->kept[i].place);
        map_give_cell(&cow->map, keep->kept[i].cell);
    }
    for (size_t i = 0; i < zeros; i++)
        if (keep->zeros[i].keep)
            map_give_place(&cow->map, keep->zeros[i].place);
}

static int take_one_locked(struct cow *cow, struct kept *kept)
{
    int r = map_take_cell(&cow->map, cow_cells_max_locked(cow), &kept->cell);
    if (r < 0)
        return r;
    r = map_take_place(&cow->map, &kept->place);
    if (r < 0)
        map_give_cell(&cow->map, kept->cell);
    return r;
}

/* All or none. */
static int take_locked(struct cow *cow, struct keep *keep)
{
    size_t kept = 0, zeros = 0;
    int r = 0;
    for (; r == 0 && kept < keep->kept_count; kept += r == 0)
        r = take_one_locked(cow, &keep->kept[kept]);
    for (; r == 0 && zeros < keep->zeros_count; zeros += r == 0)
        if (keep->zeros[zeros].keep)
            r = map_take_place(&cow->map, &keep->zeros[zeros].place);
    if (r < 0)
        give_back_locked(cow, keep, kept, zeros);
    return r;
}

/* Deletes the oldest shadows until there is room.  What is to be kept gets less with it. */
static int prepare(struct cow *cow, uint64_t first, uint64_t last, struct keep *keep)
{
    for (;;) {
        pthread_mutex_lock(&cow->lock);
        collect_locked(cow, first, last, keep);
        int r = take_locked(cow, keep);
        pthread_mutex_unlock(&cow->lock);
        if (r != -ENOSPC)
            return r;
        r = cow_make_room(cow, keep->kept_count, 0);
        if (r < 0)
            return r;
    }
}

/* ---- the copy ---- */

static int read_blocks(struct cow *cow, struct keep *keep, uint8_t *data)
{
    int r = 0;
    for (size_t i = 0, n; r == 0 && i < keep->kept_count; i += n) {
        n = 1;
        while (i + n < keep->kept_count && keep->kept[i + n].block == keep->kept[i].block + n)
            n++;
        r = cow_origin_read(cow, data + i * cow->block_bytes, keep->kept[i].block, n);
    }
    for (size_t i = 0; r == 0 && i < keep->kept_count; i++)
        keep->kept[i].checksum = crc32c(0, data + i * cow->block_bytes, cow->block_bytes);
    return r;
}

static int write_cells(struct cow *cow, const struct keep *keep, const uint8_t *data)
{
    int r = 0;
    for (size_t i = 0, n; r == 0 && i < keep->kept_count; i += n) {
        n = 1;
        while (i + n < keep->kept_count && keep->kept[i + n].cell == keep->kept[i].cell + n)
            n++;
        r = cow->cells->ops->write(cow->cells, data + i * cow->block_bytes, n * cow->block_bytes,
                                   keep->kept[i].cell * cow->block_bytes);
    }
    return r;
}

static int copy(struct cow *cow, struct keep *keep)
{
    if (keep->kept_count == 0)
        return 0;
    CLEANUP_FREE uint8_t *data = malloc(keep->kept_count * cow->block_bytes);
    if (!data)
        return -ENOMEM;
    int r = read_blocks(cow, keep, data);
    if (r == 0)
        r = write_cells(cow, keep, data);
    return r < 0 ? r : cow_cells_sync(cow);
}

/* ---- one flush for all who wait ---- */

static int flush_cells_locked(struct cow *cow)
{
    uint64_t ticket = cow->sync_wanted;
    cow->syncing = true;
    pthread_mutex_unlock(&cow->sync_lock);
    int r = cow->cells->ops->flush(cow->cells);
    pthread_mutex_lock(&cow->sync_lock);
    cow->syncing = false;
    if (r < 0)
        error_save(&cow->sync_failure, r);
    else
        cow->sync_done = ticket;
    pthread_cond_broadcast(&cow->synced);
    return r;
}

int cow_cells_sync(struct cow *cow)
{
    pthread_mutex_lock(&cow->sync_lock);
    uint64_t ticket = ++cow->sync_wanted;
    int r = error_raise(&cow->sync_failure);
    while (r == 0 && cow->sync_done < ticket) {
        if (cow->syncing)
            pthread_cond_wait(&cow->synced, &cow->sync_lock);
        else
            IGNORE_RESULT(flush_cells_locked(cow));
        r = error_raise(&cow->sync_failure);
    }
    pthread_mutex_unlock(&cow->sync_lock);
    return r;
}

/* ---- the entries ---- */

static struct cow_log_entry entry_of_block(const struct keep *keep, const struct kept *kept)
{
    const struct version v = {.number = keep->number,
                              .checksum = kept->checksum,
                              .block = kept->block,
                              .value = kept->cell};
    return (struct cow_log_entry){.slot = le64_make(kept->place), .entry = version_encode(&v)};
}

static struct cow_log_entry entry_of_zeros(const struct keep *keep, const struct kept_zeros *z)
{
    const struct version v = {.number = keep->number,
                              .block = z->group * COW_GROUP_BLOCKS,
                              .flags = COW_ENTRY_ZERO,
                              .value = z->keep};
    return (struct cow_log_entry){.slot = le64_make(z->place), .entry = version_encode(&v)};
}

static int enter(struct cow *cow, const struct keep *keep)
{
    struct cow_log_entry entries[COW_PIECE_BLOCKS + COW_PIECE_GROUPS];
    struct cow_log_zero clears[COW_PIECE_GROUPS];
    size_t n = 0, clear_count = 0;

    for (size_t i = 0; i < keep->kept_count; i++)
        entries[n++] = entry_of_block(keep, &keep->kept[i]);
    for (size_t i = 0; i < keep->zeros_count; i++) {
        const struct kept_zeros *z = &keep->zeros[i];
        clears[clear_count++] =
            (struct cow_log_zero){.group = le64_make(z->group), .mask = le64_make(z->clear)};
        if (z->keep)
            entries[n++] = entry_of_zeros(keep, z);
    }
    const struct cow_part parts[] = {
        {COW_LOG_ENTRIES, entries, n * sizeof(entries[0])},
        {COW_LOG_ZERO_CLEAR, clears, clear_count * sizeof(clears[0])},
    };
    return cow_commit(cow, parts, ELEMENTSOF(parts));
}

/* A shadow may have been deleted since it was tested. */
static void index_locked(struct cow *cow, uint32_t place)
{
    map_insert(&cow->map, place);
    const struct version v = map_at(&cow->map, place);
    if (!map_is_needed(&cow->map, &v, &cow->living))
        map_drop(&cow->map, place);
}

static void finish_locked(struct cow *cow, const struct keep *keep)
{
    for (size_t i = 0; i < keep->kept_count; i++) {
        cow_set_copied_locked(cow, keep->kept[i].block);
        index_locked(cow, keep->kept[i].place);
    }
    for (size_t i = 0; i < keep->zeros_count; i++) {
        const struct kept_zeros *z = &keep->zeros[i];
        for (uint64_t mask = z->keep; mask != 0; mask &= mask - 1)
            cow_set_copied_locked(cow,
                                  z->group * COW_GROUP_BLOCKS + (unsigned)__builtin_ctzll(mask));
        if (z->keep)
            index_locked(cow, z->place);
    }
    cow->copied_blocks += keep->kept_count;
}

int cow_keep(struct cow *cow, uint64_t first, uint64_t last)
{
    struct keep keep;
    int r = prepare(cow, first, last, &keep);
    if (r < 0 || keep.kept_count + keep.zeros_count == 0)
        return r;
    r = copy(cow, &keep);
    if (r == 0)
        r = enter(cow, &keep);
    pthread_mutex_lock(&cow->lock);
    if (r == 0)
        finish_locked(cow, &keep);
    else
        give_back_locked(cow, &keep, keep.kept_count, keep.zeros_count);
    pthread_mutex_unlock(&cow->lock);
    return r;
}
