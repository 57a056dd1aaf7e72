/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log service: write-ahead logging with redo and undo (Mohan et al., "ARIES", ACM TODS 17(1),
 * 1992), two restart areas as the two checkpoint regions of a log-structured file system (Rosenblum
 * and Ousterhout, SOSP 1991).  The bytes are in log-format.h, the files in log-private.h.
 *
 * A log is an endless sequence of bytes of which a window lies in a ring of pages:
 *
 *     tail ........ redo ........ checkpoint ........ durable ........ head
 *      |  undo only   |  redo begins here               |  in a buffer   |
 *
 * Invariants
 *
 *  1. Nothing of a client is changed, forwards or backwards, before the record that says so is
 *     durable.  The log sees to it: it calls redo() and undo() itself, after the flush.
 *  2. A page that a flush has written is never written again until the tail has passed it.  Each
 *     flush begins on a new page, so a torn write only hits what nobody was promised.
 *  3. Only one flush is written at a time, and it is durable before the next begins.
 *  4. A flush is atomic: a log that ends in the middle of one ends before it.  No record reaches
 *     into another flush, so there are no halves of records.
 *  5. Each page holds the checksum of the page before, and an incarnation that does not fall.  What
 *     an earlier lap, a torn flush or an earlier recovery has left behind never continues the log.
 *  6. Each page, and each restart area, says up to where the log was durable when it was made.  So
 * a bad page with a word of a later one behind it is damage, not the end; it is refused. (Damage in
 * the very last flush cannot be told from one that was torn.)
 *  7. Every restart area that is valid is enough: the tail moves only when both are written.  They
 *     hold nothing, save names and sizes, that the log from their redo LSN on does not say, too.
 *  8. The incarnation is durable in the areas before a page with it is written.
 *  9. What a client changed before the redo LSN is durable.  A change under way (applying_lsn)
 * holds the redo LSN back until it has been made.
 * 10. Every update has, from before it is appended, room reserved for its compensation.  So undoing
 *     never waits for space, and a checkpoint, which has a reserve of its own, neither.
 * 11. A compensation is appended once for each update that is undone, and says which one is next;
 * it is redone by recovery, never undone.  So an interrupted recovery, continued, makes the same.
 * 12. What redo() was never called for, because one before it failed, is void: the ABORT says from
 *     where on, its compensations say so, and neither is ever done.  (A crash before the ABORT
 * makes it an update like others: done by recovery, then undone.)
 * 13. The first failure of a write or sync ends everything (log->failure): the kernel may have
 *     dropped what could not be written, and a second sync would succeed.
 *
 * States of a transaction
 *
 *     state      in the log                event                        next
 *     ---------  ------------------------  ---------------------------  --------------------
 *     ACTIVE     updates, if any           apply: append, flush, redo   ACTIVE
 *                                          commit: append, flush        COMMITTED
 *                                          abort: append ABORT          UNDOING
 *                                          crash                        undone by recovery
 *     COMMITTED  updates, COMMIT           redo() of the last updates   gone
 *                                          crash                        redone by recovery
 *     UNDOING    updates, ABORT, some      last undo(), END             gone
 *                compensations             crash                        recovery goes on undoing
 *
 *     A COMMIT that is not durable at a crash was not there: its transaction was ACTIVE.
 *
 * Reserves: log-space.c.  Locks: struct umbra_log in log-private.h.  Checkpoints: log-checkpoint.c.
 * Recovery: log-recover.c.
 */
#include <string.h>

#include "log/log-private.h"

void wal_txn_free(struct umbra_log_txn *txn)
{
    wal_update_vector_release(&txn->queue);
    buffer_release(&txn->data);
    free(txn);
}

int wal_check_ready_locked(const struct umbra_log *log)
{
    int r = wal_failure_locked(log);
    if (r == 0 && !log->ready)
        r = error_note(-EBUSY, "log '%s' has to be recovered first", log->name);
    return r;
}

/* ---- begin and end ---- */

static int take_place_locked(struct umbra_log *log)
{
    for (;;) {
        int r = wal_check_ready_locked(log);
        if (r < 0)
            return r;
        if (log->txn_count < UMBRA_LOG_TXNS_MAX)
            break;
        if (log->flags & UMBRA_LOG_NO_WAIT)
            return error_note(-EAGAIN, "log '%s' has %u transactions open", log->name,
                              UMBRA_LOG_TXNS_MAX);
        pthread_cond_wait(&log->room, &log->lock);
    }
    log->txn_count++;
    return 0;
}

static void give_place_locked(struct umbra_log *log)
{
    log->txn_count--;
    pthread_cond_broadcast(&log->room);
}

static void enter_locked(struct umbra_log *log, struct umbra_log_txn *txn)
{
    txn->id = log->next_txn++;
    txn->next = log->txns;
    if (log->txns)
        log->txns->prev = txn;
    log->txns = txn;
}

static void leave_locked(struct umbra_log_txn *txn)
{
    struct umbra_log *log = txn->log;
    if (txn->prev)
        txn->prev->next = txn->next;
    else
        log->txns = txn->next;
    if (txn->next)
        txn->next->prev = txn->prev;
    wal_unreserve_locked(log, txn, txn->reserved_bytes);
    give_place_locked(log);
}

static int begin_locked(struct umbra_log *log, struct umbra_log_txn *txn)
{
    int r = take_place_locked(log);
    if (r < 0)
        return r;
    r = wal_checkpoint_if_due_locked(log);
    if (r == 0)
        r = wal_reserve_locked(log, txn, wal_txn_base(&log->geometry));
    if (r < 0)
        give_place_locked(log);
    else
        enter_locked(log, txn);
    return r;
}

int umbra_log_begin(struct umbra_log *log, struct umbra_log_txn **ret_txn)
{
    struct umbra_log_txn *txn = calloc(1, sizeof(*txn));
    if (!txn)
        return -ENOMEM;
    txn->log = log;
    pthread_mutex_lock(&log->lock);
    int r = begin_locked(log, txn);
    pthread_mutex_unlock(&log->lock);
    if (r < 0) {
        wal_txn_free(txn);
        return r;
    }
    *ret_txn = txn;
    return 0;
}

uint64_t umbra_log_txn_id(const struct umbra_log_txn *txn)
{
    return txn->id;
}

/* ---- updates ---- */

static uint64_t update_cost(const struct wal_geometry *g, const struct wal_update *u)
{
    return wal_cost(g, wal_record_bytes(u->redo_len, u->undo_len));
}

int umbra_log_update(struct umbra_log_txn *txn, struct umbra_log_client *client, uint16_t op,
                     const void *redo, size_t redo_len, const void *undo, size_t undo_len)
{
    const struct wal_geometry *g = &txn->log->geometry;
    size_t most = wal_data_max(g);
    if (client->log != txn->log)
        return error_note(-EINVAL, "the client is of another log than the transaction");
    if (redo_len > most || undo_len > most - redo_len)
        return error_note(-EMSGSIZE, "an update has at most %zu bytes", most);
    const struct wal_update u = {.client = client->index,
                                 .op = op,
                                 .redo_len = (uint32_t)redo_len,
                                 .undo_len = (uint32_t)undo_len,
                                 .offset = txn->data.len};
    buffer_put(&txn->data, redo, redo_len);
    buffer_put(&txn->data, undo, undo_len);
    int r = buffer_finish(&txn->data);
    if (r == 0)
        r = wal_update_vector_push(&txn->queue, &u);
    if (r < 0)
        return r;
    txn->queued_bytes += update_cost(g, &u);
    txn->queued_undo_bytes += wal_cost(g, wal_record_bytes(undo_len, 0));
    return 0;
}

static const uint8_t *part(const struct umbra_log_txn *txn, size_t offset)
{
    return txn->data.data ? txn->data.data + offset : NULL;
}

static int append_update_locked(struct umbra_log_txn *txn, struct wal_update *u)
{
    struct umbra_log *log = txn->log;
    const struct wal_draft draft = {.type = UMBRA_LOG_UPDATE,
                                    .client = u->client,
                                    .manager = log->state.clients[u->client].manager,
                                    .op = u->op,
                                    .txn = txn->id,
                                    .prev_lsn = txn->undo_next_lsn,
                                    .redo = part(txn, u->offset),
                                    .undo = part(txn, u->offset + u->redo_len),
                                    .redo_len = u->redo_len,
                                    .undo_len = u->undo_len};
    int r = wal_append_locked(log, &draft, &u->lsn);
    if (r < 0)
        return r;
    txn->last_lsn = txn->undo_next_lsn = u->lsn;
    if (txn->first_lsn == 0)
        txn->first_lsn = u->lsn;
    if (txn->applying_lsn == 0)
        txn->applying_lsn = u->lsn;
    wal_unreserve_locked(log, txn, update_cost(&log->geometry, u));
    return 0;
}

/* All or, for want of space, nothing. */
static int append_queue_locked(struct umbra_log_txn *txn)
{
    uint64_t need = txn->queued_bytes + txn->queued_undo_bytes + WAL_PAGE_BYTES;
    if (txn->queue.count == 0)
        return 0;
    int r = wal_reserve_locked(txn->log, txn, need);
    for (size_t i = 0; r == 0 && i < txn->queue.count; i++)
        r = append_update_locked(txn, &txn->queue.items[i]);
    if (r == 0)
        wal_unreserve_locked(txn->log, txn, WAL_PAGE_BYTES);
    return r;
}

/* The redo() of update i has failed: has it left anything that has to be undone? */
static void note_void(struct umbra_log_txn *txn, size_t i, const struct umbra_log_manager *manager)
{
    if (manager->flags & UMBRA_LOG_UNDO_ANY)
        i++;
    txn->void_lsn = i < txn->queue.count ? txn->queue.items[i].lsn : 0;
}

/* redo() of all that is remembered, which is durable. */
static int do_queue(struct umbra_log_txn *txn)
{
    for (size_t i = 0; i < txn->queue.count; i++) {
        const struct wal_update *u = &txn->queue.items[i];
        const struct umbra_log_client *client = &txn->log->clients[u->client];
        const struct umbra_log_change change = {.lsn = u->lsn,
                                                .update_lsn = u->lsn,
                                                .txn = txn->id,
                                                .data = part(txn, u->offset),
                                                .len = u->redo_len,
                                                .op = u->op};
        int r = client->manager->redo(client->userdata, &change);
        if (r < 0) {
            note_void(txn, i, client->manager);
            return r;
        }
    }
    return 0;
}

static void forget_queue(struct umbra_log_txn *txn)
{
    wal_update_vector_clear(&txn->queue);
    buffer_clear(&txn->data);
    txn->queued_bytes = txn->queued_undo_bytes = 0;
}

static int check_active(const struct umbra_log_txn *txn)
{
    if (txn->state == WAL_TXN_ACTIVE && txn->applying_lsn == 0)
        return 0;
    return error_note(-EINVAL, "the transaction has failed, and has to be aborted");
}

int umbra_log_apply(struct umbra_log_txn *txn)
{
    struct umbra_log *log = txn->log;
    int r = check_active(txn);
    if (r < 0)
        return r;
    pthread_mutex_lock(&log->lock);
    r = wal_checkpoint_if_due_locked(log);
    if (r == 0)
        r = append_queue_locked(txn);
    if (r == 0 && txn->queue.count > 0)
        r = wal_flush_locked(log, txn->last_lsn + 1);
    pthread_mutex_unlock(&log->lock);
    if (r == 0)
        r = do_queue(txn);
    if (r < 0)
        return r;
    forget_queue(txn);
    pthread_mutex_lock(&log->lock);
    txn->applying_lsn = 0;
    pthread_mutex_unlock(&log->lock);
    return 0;
}

/* ---- commit ---- */

static int append_commit_locked(struct umbra_log_txn *txn, umbra_log_lsn *ret_lsn)
{
    int r = append_queue_locked(txn);
    if (r < 0 || txn->first_lsn == 0)
        return r; /* what has changed nothing needs no record */
    const struct wal_draft draft = {
        .type = UMBRA_LOG_COMMIT, .txn = txn->id, .prev_lsn = txn->last_lsn};
    r = wal_append_locked(txn->log, &draft, ret_lsn);
    if (r < 0)
        return r;
    txn->last_lsn = *ret_lsn;
    txn->state = WAL_TXN_COMMITTED;
    txn->log->commit_count++;
    return 0;
}

static int commit_locked(struct umbra_log_txn *txn, unsigned flags, umbra_log_lsn *ret_lsn)
{
    int r = wal_failure_locked(txn->log);
    if (r == 0)
        r = append_commit_locked(txn, ret_lsn);
    if (r == 0 && *ret_lsn != 0 && !(flags & UMBRA_LOG_ASYNC))
        r = wal_flush_locked(txn->log, *ret_lsn + 1);
    return r;
}

int umbra_log_commit(struct umbra_log_txn *txn, unsigned flags, umbra_log_lsn *ret_lsn)
{
    struct umbra_log *log = txn->log;
    umbra_log_lsn lsn = 0;
    int r = check_active(txn);
    if (r == 0 && (flags & UMBRA_LOG_ASYNC) && txn->queue.count > 0)
        r = error_note(-EINVAL, "updates have to be applied before an asynchronous commit");
    if (r < 0)
        return r;
    pthread_mutex_lock(&log->lock);
    r = commit_locked(txn, flags, &lsn);
    pthread_mutex_unlock(&log->lock);
    if (r < 0)
        return r;
    /* It is committed, and cannot be taken back: what fails now is for recovery. */
    r = do_queue(txn);
    if (r < 0)
        return wal_fail(log, r);
    pthread_mutex_lock(&log->lock);
    leave_locked(txn);
    pthread_mutex_unlock(&log->lock);
    wal_txn_free(txn);
    if (ret_lsn)
        *ret_lsn = lsn;
    return 0;
}

/* ---- abort ---- */

static int append_abort(struct umbra_log_txn *txn)
{
    struct umbra_log *log = txn->log;
    const struct wal_draft draft = {.type = UMBRA_LOG_ABORT,
                                    .txn = txn->id,
                                    .prev_lsn = txn->last_lsn,
                                    .undoes_lsn = txn->void_lsn};
    pthread_mutex_lock(&log->lock);
    int r = wal_append_locked(log, &draft, &txn->last_lsn);
    if (r == 0)
        txn->state = WAL_TXN_UNDOING;
    pthread_mutex_unlock(&log->lock);
    return r;
}

static int take_back(struct umbra_log_txn *txn)
{
    uint64_t undo_count;
    if (txn->first_lsn == 0)
        return 0;
    int r = append_abort(txn);
    return r < 0 ? r : wal_rollback(txn->log, &txn, 1, false, &undo_count);
}

int umbra_log_abort(struct umbra_log_txn *txn)
{
    if (!txn)
        return 0;
    struct umbra_log *log = txn->log;
    pthread_mutex_lock(&log->lock);
    int r = wal_failure_locked(log);
    pthread_mutex_unlock(&log->lock);
    if (r == 0)
        r = take_back(txn);
    pthread_mutex_lock(&log->lock);
    leave_locked(txn);
    pthread_mutex_unlock(&log->lock);
    wal_txn_free(txn);
    return r;
}

/* ---- the rest ---- */

int umbra_log_flush(struct umbra_log *log, umbra_log_lsn lsn)
{
    pthread_mutex_lock(&log->lock);
    int r = wal_flush_locked(log, lsn + 1);
    pthread_mutex_unlock(&log->lock);
    return r;
}

static int note_locked(struct umbra_log *log, const struct wal_draft *draft, umbra_log_lsn *ret_lsn)
{
    const struct wal_geometry *g = &log->geometry;
    uint64_t need = wal_cost(g, wal_record_bytes(draft->redo_len, 0)) + WAL_PAGE_BYTES;
    int r = wal_check_ready_locked(log);
    if (r == 0)
        r = wal_checkpoint_if_due_locked(log);
    if (r == 0)
        r = wal_reserve_locked(log, NULL, need);
    if (r < 0)
        return r;
    r = wal_append_locked(log, draft, ret_lsn);
    wal_unreserve_locked(log, NULL, need);
    return r;
}

int umbra_log_note(struct umbra_log_client *client, uint16_t op, const void *data, size_t len,
                   umbra_log_lsn *ret_lsn)
{
    struct umbra_log *log = client->log;
    const struct wal_draft draft = {.type = UMBRA_LOG_NOTE,
                                    .client = client->index,
                                    .manager = (uint8_t)client->manager->id,
                                    .op = op,
                                    .redo = data,
                                    .redo_len = len};
    umbra_log_lsn lsn;
    if (len > wal_data_max(&log->geometry))
        return error_note(-EMSGSIZE, "a note has at most %zu bytes", wal_data_max(&log->geometry));
    pthread_mutex_lock(&log->lock);
    int r = note_locked(log, &draft, &lsn);
    pthread_mutex_unlock(&log->lock);
    if (r == 0 && ret_lsn)
        *ret_lsn = lsn;
    return r;
}

uint64_t umbra_log_size_for(uint64_t update_count, uint64_t redo_bytes, uint64_t undo_bytes)
{
    struct wal_geometry g = {.flush_bytes = WAL_FLUSH_BYTES_MIN};
    /* Padding to multiples of 8, of each update and of what undoes it. */
    uint64_t updates = update_count * wal_record_bytes(7, 0) + redo_bytes + undo_bytes;
    uint64_t undos = update_count * wal_record_bytes(7, 0) + undo_bytes;
    uint64_t flush_bytes = (updates + undos) / 8;
    flush_bytes -= flush_bytes % WAL_PAGE_BYTES;
    g.flush_bytes = MAX(WAL_FLUSH_BYTES_MIN, MIN(flush_bytes, WAL_FLUSH_BYTES_DEFAULT));
    uint64_t rounding = update_count * 2 * WAL_RECORD_ALIGN;
    uint64_t ring = wal_cost(&g, updates) + wal_cost(&g, undos) + rounding + wal_kept(&g) +
                    wal_txn_base(&g) + 4 * WAL_PAGE_BYTES;
    uint64_t file = wal_page_up(ring) + 2 * WAL_PAGE_BYTES;
    return MAX(file, UMBRA_LOG_FILE_MIN);
}
