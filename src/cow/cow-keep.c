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
    uint64_t deletions; /* of shadows, before places and cells were taken */
    bool is_full;       /* and no shadow that could make room */
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
    keep->is_full = false;
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
        const uint64_t *if_full = NULL;
        pthread_mutex_lock(&cow->lock);
        keep->deletions = cow->deletions;
        collect_locked(cow, first, last, keep);
        int r = take_locked(cow, keep);
        if (r == -EAGAIN) {
            r = cow_ahead_wait_locked(cow);
            if_full = r == -ENOSPC ? &keep->deletions : NULL;
            r = r == 0 ? -EAGAIN : r;
        }
        cow_ahead_look_locked(cow);
        pthread_mutex_unlock(&cow->lock);
        if (r != -ENOSPC && r != -EAGAIN)
            return r;
        r = r == -ENOSPC ? cow_make_room(cow, keep->kept_count, 0, if_full) : 0;
        keep->is_full = r == -ENOSPC;
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

/* Cells that lie side by side are one write. */
static size_t make_writes(const struct cow *cow, const struct keep *keep, const uint8_t *data,
                          struct error_report *failure, struct cow_cells *writes)
{
    size_t count = 0;
    for (size_t i = 0, n; i < keep->kept_count; i += n) {
        n = 1;
        while (i + n < keep->kept_count && keep->kept[i + n].cell == keep->kept[i].cell + n)
            n++;
        writes[count] = (struct cow_cells){.data = data + i * cow->block_bytes,
                                           .cell = keep->kept[i].cell,
                                           .count = n,
                                           .failure = failure};
        count++;
    }
    return count;
}

/* ---- the entries: committed while the cells are being flushed ---- */

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

struct copies {
    struct cow_log_copies head;
    struct cow_log_entry entries[COW_PIECE_BLOCKS + COW_PIECE_GROUPS];
};
static_assert(sizeof(struct copies) ==
                  sizeof(struct cow_log_copies) +
                      (COW_PIECE_BLOCKS + COW_PIECE_GROUPS) * sizeof(struct cow_log_entry),
              "no padding");

static int enter(struct cow *cow, const struct keep *keep, uint64_t ticket)
{
    struct copies copies;
    struct cow_log_entry *entries = copies.entries;
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
    copies.head = (struct cow_log_copies){.ticket = le64_make(ticket),
                                          .settled = le64_make(cow_cells_settled(cow))};
    const struct cow_part parts[] = {
        {COW_LOG_COPIES, &copies, n ? sizeof(copies.head) + n * sizeof(entries[0]) : 0},
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
    /* Else one was taken meanwhile, and shows what is in the origin still. */
    bool is_for_newest = keep->number >= living_newest(&cow->living);
    for (size_t i = 0; i < keep->kept_count; i++) {
        if (is_for_newest)
            cow_set_copied_locked(cow, keep->kept[i].block);
        index_locked(cow, keep->kept[i].place);
    }
    for (size_t i = 0; i < keep->zeros_count; i++) {
        const struct kept_zeros *z = &keep->zeros[i];
        for (uint64_t mask = is_for_newest ? z->keep : 0; mask != 0; mask &= mask - 1)
            cow_set_copied_locked(cow,
                                  z->group * COW_GROUP_BLOCKS + (unsigned)__builtin_ctzll(mask));
        if (z->keep)
            index_locked(cow, z->place);
    }
    cow->copied_blocks += keep->kept_count;
}

/* Entries without cells were committed: commits that there are none. */
static int take_back(struct cow *cow, const struct keep *keep)
{
    struct cow_log_entry gone[COW_PIECE_BLOCKS];
    for (size_t i = 0; i < keep->kept_count; i++)
        gone[i] = (struct cow_log_entry){.slot = le64_make(keep->kept[i].place)};
    const struct cow_part part = {COW_LOG_ENTRIES, gone, keep->kept_count * sizeof(gone[0])};
    return cow_commit(cow, &part, 1);
}

/* Both flushes, at the same time where there is a thread.  *entered: the entries may be in the log.
 */
static int flush_both(struct cow *cow, const struct keep *keep, struct cow_cells *writes,
                      size_t count, bool *entered)
{
    uint64_t ticket = cow_cells_write(cow, writes, count);
    /* Alone, either comes first as often as the other: both orders happen with threads. */
    bool cells_first = cow->is_alone && ticket % 2;
    int r = cells_first ? cow_cells_wait(cow, ticket) : 0, of_log = 0;
    if (r == 0 && !writes->failure->code) {
        *entered = true;
        of_log = enter(cow, keep, ticket);
    }
    if (!cells_first)
        r = cow_cells_wait(cow, ticket);
    return of_log < 0 ? of_log : r < 0 ? r : error_raise(writes->failure);
}

static int keep_blocks(struct cow *cow, struct keep *keep, uint8_t *data, bool *entered)
{
    struct error_report failure = {0};
    struct cow_cells writes[COW_PIECE_BLOCKS];
    struct cow_pending pending;
    int r = read_blocks(cow, keep, data);
    if (r < 0)
        return r;
    cow_pending_add(cow, &pending);
    r = flush_both(cow, keep, writes, make_writes(cow, keep, data, &failure, writes), entered);
    if (failure.code && *entered) {
        r = take_back(cow, keep);
        *entered = r < 0;
        if (r < 0)
            cow_fail(cow, r);
        r = error_raise(&failure);
    }
    cow_pending_remove(cow, &pending);
    return r;
}

/* Places and cells are taken.  *entered: their entries may be durable. */
static int keep_all(struct cow *cow, struct keep *keep, bool *entered)
{
    *entered = keep->kept_count == 0;
    if (keep->kept_count == 0)
        return enter(cow, keep, 0);
    CLEANUP_FREE uint8_t *data = cow_buffer_new(cow, keep->kept_count);
    return data ? keep_blocks(cow, keep, data, entered) : -ENOMEM;
}

static int keep_once(struct cow *cow, uint64_t first, uint64_t last, struct keep *keep)
{
    bool entered;
    int r = prepare(cow, first, last, keep);
    if (r < 0 || keep->kept_count + keep->zeros_count == 0)
        return r;
    r = keep_all(cow, keep, &entered);
    pthread_mutex_lock(&cow->lock);
    if (r == 0)
        finish_locked(cow, keep);
    else if (!entered) /* else only recovery can tell */
        give_back_locked(cow, keep, keep->kept_count, keep->zeros_count);
    pthread_mutex_unlock(&cow->lock);
    return r;
}

int cow_keep(struct cow *cow, uint64_t first, uint64_t last, uint32_t *ret_number)
{
    struct keep keep;
    for (;;) {
        int r = keep_once(cow, first, last, &keep);
        *ret_number = keep.number;
        if (r != -ENOSPC || keep.is_full)
            return r;
        /* The storage had no room for what was to go into cells. */
        r = cow_make_room(cow, keep.kept_count, 0, &keep.deletions);
        if (r < 0)
            return r;
    }
}
