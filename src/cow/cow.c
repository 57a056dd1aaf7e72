/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cow volume: an origin, and shadows that show it as it was.
 *
 *     application          reader of shadow 3
 *         | write              | read
 *         v                    v
 *     cow_write()          lowest number >= 3 kept of the block?
 *      |      \                | yes: cell         | no
 *      |       keep            v                   v
 *      |        \---------> diff area           origin
 *      \-----------------------------------------> ^
 *
 * Shadows have numbers, from 1.  Whatever is kept of a block is kept under the number of the shadow
 * that was taken last, as an entry (block, number) of the map.
 *
 * Invariants
 *
 *  1. A shadow s reads, of a block, the entry of the lowest number >= s; if there is none, the
 *     origin.
 *  2. An entry (b, n) is needed while a shadow lives in (m, n], m being the next lower number of an
 *     entry of b.  All that are needed are in the map, always.  Others mean nothing: whether they
 *     are there changes no answer.  So a deletion is a record of the shadow alone, and places and
 *     cells of what is not needed any more are found by looking (sweep, load).  No number is ever
 *     used twice, so what is not needed will not be.
 *  3. The origin's block is overwritten only after the contents that a living shadow reads there
 *     are durable in a cell, and the entry in the log: in any order, and mostly at the same time.
 *     Recovery may thus find an entry without its cell, whose block was not overwritten (settle).
 *  4. "Copied" says of a block that there is an entry of a number from the newest living shadow on.
 *     While it does not, and a shadow lives, the origin has what the newest shadow shows.  The bit
 * may be clear too long (after the newest shadow was deleted): one more entry, that nobody needs.
 *  5. "Zero" says that the origin durably reads as zeros there.  It is cleared, durably, before the
 *     block is written; to be kept, such a block needs no cell.
 *  6. The test of both bits, the copy, the entry and the write of the origin are one critical
 *     section of the block (an exclusive range); a shadow's look-up and read of the origin, another
 *     (a shared one).  So no reader gets what was written after the shadow.  Shadows are taken
 *     beside it, but not during the write itself (the gate); who finds there that one was taken
 *     tests and copies again.
 *  7. A cell is given away only when no living shadow needs it.  So a reader of a cell needs no
 * lock: if the shadow lives after the read, the cell was its own all the time.
 *  8. A shadow is taken while no write of the origin is under way, and after everything written
 *     was flushed.  What it shows is thereby durable, and never changes.
 *  9. Entries written to a shadow (own) belong to no other.  They always go to a new cell.
 * 10. Places and cells are taken before, and given back after, what names them is durable.
 * 11. After a failed flush of the cells, or of the log, or a failed checkpoint, nothing that needs
 *     them succeeds any more (cow_failure): only recovery can tell what is durable.
 * 12. No checkpoint lets the log forget an entry whose cell is not durable (cow_pending).
 *
 * States of a block, for the newest living shadow
 *
 *     state   copied  zero  write                            discard         shadow taken
 *     ------  ------  ----  -------------------------------  --------------  ------------
 *     SHARED  0       0     copy, entry; OWN                 left alone      SHARED
 *     BLANK   0       1     entry of zeros, clear zero; OWN  nothing to do   BLANK
 *     OWN     1       0     nothing to keep; OWN             zero; EMPTY     SHARED
 *     EMPTY   1       1     clear zero; OWN                  nothing to do   BLANK
 *
 *     Without a shadow all blocks are OWN or EMPTY.
 *
 * States of a shadow
 *
 *     state     event                     next
 *     --------  ------------------------  --------------------------------------
 *     WRITABLE  seal                      SEALED
 *     either    delete, room, damage      gone; DYING while it has writers
 *     DYING     its last writer is done   gone
 *
 * The files: cow-store.c files, checkpoints and log; cow-load.c what is in memory, at the start;
 * cow-keep.c invariants 3 to 5; cow-cells.c cells written for many at once; cow-ahead.c cells that
 * nobody uses; cow-shadow.c shadows; table.c, map.c.  Locks: cow-private.h.
 */
#include <inttypes.h>
#include <string.h>

#include "cow/cow-private.h"

#define DISCARD_GROUPS 16u /* of one step, which has one flush */

/* ---- ranges ---- */

/* With one that came before: also if that is still waiting, or many readers would keep a writer
 * waiting for ever. */
static bool conflicts_locked(const struct cow_range *range)
{
    for (const struct cow_range *r = range->prev; r; r = r->prev)
        if ((r->exclusive || range->exclusive) && r->first <= range->last &&
            range->first <= r->last)
            return true;
    return false;
}

static void append_range_locked(struct cow *cow, struct cow_range *range)
{
    range->next = NULL;
    range->prev = cow->last_range;
    if (range->prev)
        range->prev->next = range;
    else
        cow->first_range = range;
    cow->last_range = range;
}

static void remove_range_locked(struct cow *cow, const struct cow_range *range)
{
    if (range->prev)
        range->prev->next = range->next;
    else
        cow->first_range = range->next;
    if (range->next)
        range->next->prev = range->prev;
    else
        cow->last_range = range->prev;
}

void cow_range_lock(struct cow *cow, struct cow_range *range)
{
    pthread_mutex_lock(&cow->lock);
    append_range_locked(cow, range);
    cow->ranges_waiting++;
    while (conflicts_locked(range))
        pthread_cond_wait(&cow->range_gone, &cow->lock);
    cow->ranges_waiting--;
    pthread_mutex_unlock(&cow->lock);
}

void cow_range_unlock(struct cow *cow, struct cow_range *range)
{
    pthread_mutex_lock(&cow->lock);
    remove_range_locked(cow, range);
    if (cow->ranges_waiting > 0)
        pthread_cond_broadcast(&cow->range_gone);
    pthread_mutex_unlock(&cow->lock);
}

static void pass_gate_locked(struct cow *cow)
{
    while (cow->held)
        pthread_cond_wait(&cow->moved, &cow->lock);
    cow->writes++;
}

static void pass_gate(struct cow *cow)
{
    pthread_mutex_lock(&cow->lock);
    pass_gate_locked(cow);
    pthread_mutex_unlock(&cow->lock);
}

/* false, and not passed: shadow number is not the last one that was taken. */
static bool pass_gate_after(struct cow *cow, uint32_t number)
{
    pthread_mutex_lock(&cow->lock);
    pass_gate_locked(cow);
    bool is_last = le32_get(&cow->settings.last_number) == number;
    cow->writes -= !is_last;
    pthread_mutex_unlock(&cow->lock);
    return is_last;
}

static void leave_gate(struct cow *cow)
{
    pthread_mutex_lock(&cow->lock);
    if (--cow->writes == 0 && cow->held)
        pthread_cond_broadcast(&cow->moved);
    pthread_mutex_unlock(&cow->lock);
}

/* ---- requests ---- */

int cow_check_request(const struct cow *cow, size_t len, uint64_t offset)
{
    if (len % COW_SECTOR_BYTES == 0 && offset % COW_SECTOR_BYTES == 0 &&
        offset <= cow->origin_bytes && len <= cow->origin_bytes - offset)
        return 0;
    return error_note(-EINVAL, "request of %zu bytes at %" PRIu64 " of a volume of %" PRIu64, len,
                      offset, cow->origin_bytes);
}

uint8_t *cow_buffer_new(const struct cow *cow, size_t blocks)
{
    return aligned_alloc(COW_BLOCK_BYTES_MIN, blocks * cow->block_bytes);
}

int cow_origin_read(struct cow *cow, uint8_t *data, uint64_t block, size_t count)
{
    uint64_t offset = block * cow->block_bytes, len = count * cow->block_bytes;
    size_t there = (size_t)MIN(len, cow->origin_bytes - offset);
    memset(data + there, 0, len - there);
    return cow->origin->ops->read(cow->origin, data, there, offset);
}

int cow_read(struct cow *cow, void *data, size_t len, uint64_t offset)
{
    int r = cow_check_request(cow, len, offset);
    return r < 0 || len == 0 ? r : cow->origin->ops->read(cow->origin, data, len, offset);
}

static int write_piece(struct cow *cow, const uint8_t *data, size_t len, uint64_t offset)
{
    struct cow_range range = {.first = offset / cow->block_bytes,
                              .last = (offset + len - 1) / cow->block_bytes,
                              .exclusive = true};
    uint32_t number;
    cow_range_lock(cow, &range);
    int r;
    do
        r = cow_keep(cow, range.first, range.last, &number);
    while (r == 0 && !pass_gate_after(cow, number));
    if (r == 0) {
        r = cow->origin->ops->write(cow->origin, data, len, offset);
        leave_gate(cow);
    }
    cow_range_unlock(cow, &range);
    return r;
}

int cow_write(struct cow *cow, const void *data, size_t len, uint64_t offset)
{
    uint64_t piece = (uint64_t)COW_PIECE_BLOCKS * cow->block_bytes;
    const uint8_t *from = data;
    int r = cow_check_request(cow, len, offset);
    while (r == 0 && len > 0) {
        size_t n = (size_t)MIN((uint64_t)len, piece - offset % piece);
        r = write_piece(cow, from, n, offset);
        from += n;
        offset += n;
        len -= n;
    }
    return r;
}

int cow_flush(struct cow *cow)
{
    return cow->origin->ops->flush(cow->origin);
}

/* ---- discard ---- */

struct discard {
    uint64_t first, last; /* blocks */
    struct {
        uint64_t group, done; /* done: mask */
    } groups[DISCARD_GROUPS];
    size_t count;
};

/* The blocks of a group, from first to last, that are OWN. */
static uint64_t own_blocks(struct cow *cow, uint64_t first, uint64_t last)
{
    uint64_t mask = 0, zero = cow_zero_mask(cow, first / COW_GROUP_BLOCKS);
    pthread_mutex_lock(&cow->lock);
    for (uint64_t b = first; b <= last; b++)
        if (cow->living.count == 0 || cow_is_copied_locked(cow, b))
            mask |= UINT64_C(1) << b % COW_GROUP_BLOCKS;
    pthread_mutex_unlock(&cow->lock);
    return mask & ~zero;
}

/* -EOPNOTSUPP: *done is what was done before that. */
static int discard_masked(struct cow *cow, uint64_t group, uint64_t mask, uint64_t *done)
{
    int r = 0;
    for (unsigned i = 0, n; r == 0 && i < COW_GROUP_BLOCKS; i += n) {
        uint64_t block = group * COW_GROUP_BLOCKS + i, rest = mask >> i;
        n = 1;
        if (!(rest & 1))
            continue;
        while (i + n < COW_GROUP_BLOCKS && rest >> n & 1)
            n++;
        uint64_t offset = block * cow->block_bytes;
        uint64_t len = MIN((uint64_t)n * cow->block_bytes, cow->origin_bytes - offset);
        r = cow->origin->ops->discard(cow->origin, len, offset);
        if (r == 0)
            *done |= (n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX) << i;
    }
    return r;
}

/* The caller has the blocks, and has passed the gate: whether a shadow needs a block does not
 * change before it is discarded. */
static int discard_blocks(struct cow *cow, struct discard *d)
{
    int r = 0;
    for (uint64_t first = d->first; r == 0 && first <= d->last;) {
        uint64_t group = first / COW_GROUP_BLOCKS, done = 0;
        uint64_t last = MIN(d->last, (group + 1) * COW_GROUP_BLOCKS - 1);
        r = discard_masked(cow, group, own_blocks(cow, first, last), &done);
        if (done) {
            d->groups[d->count].group = group;
            d->groups[d->count++].done = done;
        }
        first = last + 1;
    }
    return r == -EOPNOTSUPP ? 0 : r;
}

static int enter_discards(struct cow *cow, const struct discard *d)
{
    struct cow_log_zero set[DISCARD_GROUPS];
    for (size_t i = 0; i < d->count; i++)
        set[i] = (struct cow_log_zero){.group = le64_make(d->groups[i].group),
                                       .mask = le64_make(d->groups[i].done)};
    const struct cow_part part = {COW_LOG_ZERO_SET, set, d->count * sizeof(set[0])};
    return cow_commit(cow, &part, 1);
}

/* Shadows may be taken as soon as the blocks are zero: that they are known to be, durably, is as
 * right of a block that is SHARED (it gets BLANK) as of one that is OWN. */
static int discard_piece(struct cow *cow, uint64_t first, uint64_t last)
{
    struct cow_range range = {.first = first, .last = last, .exclusive = true};
    struct discard d = {.first = first, .last = last};
    cow_range_lock(cow, &range);
    pass_gate(cow);
    int r = discard_blocks(cow, &d);
    leave_gate(cow);
    if (r == 0 && d.count > 0)
        r = cow_flush(cow);
    if (r == 0 && d.count > 0)
        r = enter_discards(cow, &d);
    cow_range_unlock(cow, &range);
    return r;
}

int cow_discard(struct cow *cow, uint64_t len, uint64_t offset)
{
    uint64_t end = offset + len, first = (offset + cow->block_bytes - 1) / cow->block_bytes;
    if (offset % COW_SECTOR_BYTES != 0 || len % COW_SECTOR_BYTES != 0 ||
        offset > cow->origin_bytes || len > cow->origin_bytes - offset)
        return cow_check_request(cow, SIZE_MAX, offset);
    /* The last block may be short. */
    uint64_t stop = end == cow->origin_bytes ? cow->block_count : end / cow->block_bytes;
    int r = 0;
    while (r == 0 && first < stop && cow->origin->ops->discard) {
        uint64_t group_end = (first / COW_GROUP_BLOCKS + DISCARD_GROUPS) * COW_GROUP_BLOCKS;
        uint64_t last = MIN(stop, group_end) - 1;
        r = discard_piece(cow, first, last);
        first = last + 1;
    }
    return r;
}

/* ---- what there is to know ---- */

static int compare_ns(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void count_holds(struct cow *cow, struct cow_stat *s)
{
    uint64_t ns[COW_HOLDS_KEPT];
    pthread_mutex_lock(&cow->lock);
    s->hold_count = cow->holds.count;
    s->hold_max_ns = cow->holds.max_ns;
    memcpy(ns, cow->holds.last_ns, sizeof(ns));
    pthread_mutex_unlock(&cow->lock);
    size_t count = (size_t)MIN(s->hold_count, (uint64_t)COW_HOLDS_KEPT);
    if (count == 0)
        return;
    qsort(ns, count, sizeof(ns[0]), compare_ns);
    s->hold_p50_ns = ns[count / 2];
    s->hold_p99_ns = ns[count * 99 / 100];
}

void cow_stat(struct cow *cow, struct cow_stat *ret_stat)
{
    struct cow_stat s = {.origin_bytes = cow->origin_bytes, .block_bytes = cow->block_bytes};
    uint64_t groups = (cow->block_count + COW_GROUP_BLOCKS - 1) / COW_GROUP_BLOCKS;
    for (uint64_t g = 0; g < groups; g++)
        s.zero_blocks += (uint64_t)__builtin_popcountll(cow_zero_mask(cow, g));
    pthread_mutex_lock(&cow->lock);
    s.max_bytes = cow_cells_max_locked(cow) * cow->block_bytes;
    s.protect_shadows = le32_get(&cow->settings.flags) & COW_SETTINGS_PROTECT_SHADOWS;
    s.used_bytes = cow->map.cells_used * cow->block_bytes;
    s.entry_count = cow->map.used_count;
    s.fault_count = le64_get(&cow->settings.fault_count);
    s.copied_blocks = cow->copied_blocks;
    pthread_mutex_unlock(&cow->lock);
    count_holds(cow, &s);
    *ret_stat = s;
}
