/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room in the ring: what is used, reserved, and waited for.
 *
 *     tail                 head                        tail + ring
 *      | needed by recovery | reserved by transactions |  free  | for checkpoints |
 *
 * An update reserves, beside its own room, that of the record that undoes it; so undoing never has
 * to wait.  Nobody but checkpoints and recovery goes into the last part.  What is used is counted
 * in whole pages, so the padding behind a flush costs nothing at the flush.
 */
#include "log/log-private.h"

/* Records lose space to page headers (64 of 4096 bytes), and to the rest of the last page when a
 * full buffer is flushed, which is at least half full. */
uint64_t wal_cost(const struct wal_geometry *g, uint64_t record_bytes)
{
    return record_bytes + record_bytes / 32 + record_bytes * 2 * WAL_PAGE_BYTES / g->flush_bytes +
           WAL_RECORD_ALIGN;
}

uint64_t wal_txn_base(const struct wal_geometry *g)
{
    return 2 * WAL_PAGE_BYTES + 2 * wal_cost(g, wal_record_bytes(0, 0));
}

uint64_t wal_checkpoint_cost(const struct wal_geometry *g)
{
    uint64_t table =
        sizeof(struct wal_checkpoint_head) + UMBRA_LOG_TXNS_MAX * sizeof(struct wal_checkpoint_txn);
    return 2 * WAL_PAGE_BYTES + wal_cost(g, wal_record_bytes(0, 0)) +
           wal_cost(g, wal_record_bytes(table, 0));
}

uint64_t wal_free_locked(const struct umbra_log *log)
{
    uint64_t used = wal_page_up(log->head_lsn) - log->tail_lsn + log->reserved_bytes;
    return used >= log->geometry.ring_bytes ? 0 : log->geometry.ring_bytes - used;
}

/* Room for some checkpoints that free nothing, because clients cling to their records. */
uint64_t wal_kept(const struct wal_geometry *g)
{
    return 4 * wal_checkpoint_cost(g);
}

static bool fits_locked(const struct umbra_log *log, uint64_t need)
{
    return wal_free_locked(log) >= need + wal_kept(&log->geometry);
}

/* Whether anything is to be had by waiting.  One that holds nothing itself can wait for any; a
 * transaction, only for one that does not wait for space, too. */
static bool others_run_locked(const struct umbra_log *log, const struct umbra_log_txn *self)
{
    bool holds = self && self->id != 0;
    for (const struct umbra_log_txn *t = log->txns; t; t = t->next)
        if (t != self && !(holds && t->waiting))
            return true;
    return false;
}

static int full(const struct umbra_log *log, uint64_t need)
{
    return error_note(-ENOSPC,
                      "log '%s' is full: %llu bytes are needed at once, beside what other "
                      "transactions hold of %llu",
                      log->name, (unsigned long long)need,
                      (unsigned long long)log->geometry.ring_bytes);
}

/* Whether a checkpoint would move the tail, if the clients let it. */
static bool checkpoint_helps_locked(const struct umbra_log *log)
{
    umbra_log_lsn oldest = MIN(wal_oldest_undo_locked(log), wal_oldest_redo_locked(log));
    return wal_page_of(oldest) > log->tail_lsn;
}

/* *useless: it has freed nothing, or no more than it has used: then the next one does the same.
 * Lets go of the lock. */
static int force_checkpoint_locked(struct umbra_log *log, bool *useless)
{
    uint64_t free_bytes = wal_free_locked(log);
    int r = wal_checkpoint_locked(log);
    if (r == -ENOSPC && log->failure.code == 0)
        r = 0;
    *useless = wal_free_locked(log) <= free_bytes;
    return r;
}

/* Until there is something to be had, or nobody who could give it.  Who is woken up for nothing
 * goes on waiting, as all others see: else each would take the others for running, and wake them in
 * turn. */
static void wait_for_room_locked(struct umbra_log *log, struct umbra_log_txn *txn)
{
    uint64_t seen = log->room_count;

    if (txn)
        txn->waiting = true;
    pthread_cond_broadcast(&log->room); /* somebody may be the last one now who does not wait */
    do
        pthread_cond_wait(&log->room, &log->lock);
    while (log->room_count == seen && log->failure.code == 0 && others_run_locked(log, txn));
    if (txn)
        txn->waiting = false;
}

int wal_reserve_locked(struct umbra_log *log, struct umbra_log_txn *txn, uint64_t need)
{
    bool useless = false;
    if (need + wal_kept(&log->geometry) > log->geometry.ring_bytes)
        return full(log, need);
    for (;;) {
        int r = wal_failure_locked(log);
        if (r < 0)
            return r;
        if (fits_locked(log, need))
            break;
        if (log->checkpointing || (!useless && checkpoint_helps_locked(log))) {
            r = force_checkpoint_locked(log, &useless);
        } else if ((log->flags & UMBRA_LOG_NO_WAIT) || !others_run_locked(log, txn)) {
            r = full(log, need);
        } else {
            uint64_t seen = log->room_count;
            wait_for_room_locked(log, txn);
            useless = log->room_count == seen;
        }
        if (r < 0)
            return r;
    }
    log->reserved_bytes += need;
    if (txn)
        txn->reserved_bytes += need;
    return 0;
}

void wal_unreserve_locked(struct umbra_log *log, struct umbra_log_txn *txn, uint64_t bytes)
{
    uint64_t n = txn ? MIN(bytes, txn->reserved_bytes) : MIN(bytes, log->reserved_bytes);
    log->reserved_bytes -= n;
    if (txn)
        txn->reserved_bytes -= n;
    log->room_count += n > 0;
    if (n > 0)
        pthread_cond_broadcast(&log->room);
}
