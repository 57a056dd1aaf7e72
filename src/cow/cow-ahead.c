/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thread that sees to the cells nobody uses.
 *
 * Cells are only given out when their space has been written once, with zeros: to write them then
 * changes nothing but their bytes, and a flush need not wait for the file system's own journal.
 * That is done ahead of need.  It also tells early when the storage is full.
 *
 * The space of cells that are free again, and of which there are many more than that, goes back to
 * the file system.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "cow/cow-private.h"

#define AHEAD_BYTES (64 * MIB)
#define STEP_BYTES  (4 * MIB)
#define ZEROS_BYTES MIB
#define PUNCH_WORDS UINT64_C(16)

static uint64_t word_bytes(const struct cow *cow)
{
    return (uint64_t)MAP_WORD_CELLS * cow->block_bytes;
}

static uint64_t target_locked(const struct cow *cow)
{
    uint64_t most = MAX(cow_cells_max_locked(cow) / 4, (uint64_t)MAP_WORD_CELLS);
    return MIN(AHEAD_BYTES / cow->block_bytes, most);
}

/* ---- getting ready ---- */

static int write_zeros(struct cow *cow, uint64_t offset, uint64_t len)
{
    CLEANUP_FREE uint8_t *zeros = aligned_alloc(COW_BLOCK_BYTES_MIN, ZEROS_BYTES);
    if (!zeros)
        return -ENOMEM;
    memset(zeros, 0, ZEROS_BYTES);
    int r = 0;
    for (uint64_t n; r == 0 && len > 0; offset += n, len -= n) {
        n = MIN(len, ZEROS_BYTES);
        r = cow->cells->ops->write(cow->cells, zeros, (size_t)n, offset);
    }
    return r < 0 ? r : cow->cells->ops->flush(cow->cells);
}

static int fill_locked(struct cow *cow)
{
    uint64_t lacking = target_locked(cow) - cow->map.ready_free, first;
    uint64_t count = MIN(lacking, STEP_BYTES / cow->block_bytes) / MAP_WORD_CELLS + 1;
    int r = map_find_bare(&cow->map, &first, &count);
    if (r < 0)
        return r;
    pthread_mutex_unlock(&cow->lock);
    r = write_zeros(cow, first * word_bytes(cow), count * word_bytes(cow));
    pthread_mutex_lock(&cow->lock);
    if (r == 0)
        map_make_ready(&cow->map, first, count);
    return r;
}

/* ---- giving back ---- */

/* An advice; a cell that could not be punched is written to like any other.  false: none can. */
static bool punch_locked(struct cow *cow)
{
    uint64_t over = cow->map.ready_free - target_locked(cow), first;
    uint64_t count = MIN(over / MAP_WORD_CELLS, PUNCH_WORDS);
    if (!map_take_idle(&cow->map, &first, &count))
        return false;
    pthread_mutex_unlock(&cow->lock);
    int r = cow->cells->ops->discard(cow->cells, count * word_bytes(cow), first * word_bytes(cow));
    pthread_mutex_lock(&cow->lock);
    if (r < 0)
        cow->ahead.cannot_punch = true;
    return true;
}

/* ---- the thread ---- */

static bool lacks_locked(const struct cow *cow)
{
    uint64_t free = cow->map.ready_free;
    return free < target_locked(cow) &&
           cow->map.cells_used + free < cow_cells_max_locked(cow) + MAP_WORD_CELLS;
}

/* By so much that neither leads to the other. */
static bool abounds_locked(const struct cow *cow)
{
    return cow->cells->ops->discard && !cow->ahead.cannot_punch &&
           cow->map.ready_free > 2 * target_locked(cow) + MAP_WORD_CELLS;
}

/* false: there is nothing to do. */
static bool work_locked(struct cow *cow)
{
    if (lacks_locked(cow) && (!cow->ahead.failure.code || cow->ahead.wanted)) {
        cow->ahead.wanted = false;
        int r = fill_locked(cow);
        cow->ahead.failure = (struct error_report){0};
        if (r < 0)
            error_save(&cow->ahead.failure, r);
    } else if (!abounds_locked(cow) || !punch_locked(cow)) {
        return false;
    }
    cow->ahead.rounds++;
    pthread_cond_broadcast(&cow->ahead.done);
    return true;
}

static void *run(void *userdata)
{
    struct cow *cow = userdata;
    pthread_mutex_lock(&cow->lock);
    while (!cow->ahead.stop)
        if (!work_locked(cow)) {
            cow->ahead.wanted = false;
            pthread_cond_broadcast(&cow->ahead.done);
            pthread_cond_wait(&cow->ahead.wake, &cow->lock);
        }
    pthread_mutex_unlock(&cow->lock);
    return NULL;
}

int cow_thread_start(pthread_t *thread, void *(*run_thread)(void *), struct cow *cow)
{
    sigset_t all, before;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(thread, NULL, run_thread, cow);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r == 0 ? 0 : error_note_describe(-r, "cannot start a thread");
}

int cow_ahead_start(struct cow *cow, uint64_t file_bytes)
{
    int r = map_begin_ahead(&cow->map, file_bytes / word_bytes(cow));
    if (r < 0)
        return r;
    r = cow_thread_start(&cow->ahead.thread, run, cow);
    cow->ahead.is_running = r == 0;
    return r;
}

void cow_ahead_stop(struct cow *cow)
{
    if (!cow->ahead.is_running)
        return;
    pthread_mutex_lock(&cow->lock);
    cow->ahead.stop = true;
    pthread_cond_signal(&cow->ahead.wake);
    pthread_mutex_unlock(&cow->lock);
    (void)pthread_join(cow->ahead.thread, NULL);
    cow->ahead.is_running = false;
}

void cow_ahead_look_locked(struct cow *cow)
{
    if (cow->ahead.is_running && (lacks_locked(cow) || abounds_locked(cow)))
        pthread_cond_signal(&cow->ahead.wake);
}

int cow_ahead_wait_locked(struct cow *cow)
{
    uint64_t rounds = cow->ahead.rounds;
    cow->ahead.wanted = true;
    pthread_cond_signal(&cow->ahead.wake);
    while (cow->ahead.wanted && cow->ahead.rounds == rounds)
        pthread_cond_wait(&cow->ahead.done, &cow->lock);
    return error_raise(&cow->ahead.failure);
}
