/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Undoing.  For each update, the newest first, a compensation record with the update's undo part is
 * appended; when a batch of them is durable, undo() is called for each.  The compensation says
 * which update is next, so what has been undone once is never undone again: recovery redoes it.
 */
#include "log/log-private.h"

struct step {
    struct umbra_log_txn *txn;
    umbra_log_lsn update_lsn, lsn;
    uint8_t client;
    uint16_t op;
    size_t offset, len; /* of the undo part in the batch's data */
    umbra_log_lsn next_lsn;
    bool is_void; /* the update was never done */
};
DEFINE_VECTOR(step_vector, struct step);

struct rollback {
    struct umbra_log *log;
    struct umbra_log_txn **txns;
    size_t count;
    bool recovering;
    umbra_log_lsn end_lsn;
    struct wal_reader reader;
    struct step_vector batch;
    struct buffer data;
    uint64_t undo_count;
};

static void rollback_release(struct rollback *rb)
{
    wal_reader_release(&rb->reader);
    step_vector_release(&rb->batch);
    buffer_release(&rb->data);
}

static struct umbra_log_txn *newest(const struct rollback *rb)
{
    struct umbra_log_txn *best = NULL;
    for (size_t i = 0; i < rb->count; i++)
        if (rb->txns[i]->cursor_lsn > (best ? best->cursor_lsn : 0))
            best = rb->txns[i];
    return best;
}

/* Plans the undoing of the update at txn's cursor. */
static int plan_step(struct rollback *rb, struct umbra_log_txn *txn)
{
    struct umbra_log_record record;
    umbra_log_lsn after;
    int r = wal_reader_record(&rb->reader, txn->cursor_lsn, rb->end_lsn, &record, &after);
    if (r < 0)
        return r;
    if (record.type != UMBRA_LOG_UPDATE || record.txn != txn->id)
        return wal_reader_damage(&rb->reader, txn->cursor_lsn,
                                 "the record is not the update that is to be undone");
    bool is_void = txn->void_lsn != 0 && record.lsn >= txn->void_lsn;
    const struct step step = {.txn = txn,
                              .update_lsn = record.lsn,
                              .client = record.client,
                              .op = record.op,
                              .offset = rb->data.len,
                              .len = is_void ? 0 : record.undo_len,
                              .next_lsn = record.prev_lsn,
                              .is_void = is_void};
    buffer_put(&rb->data, record.undo, step.len);
    txn->cursor_lsn = record.prev_lsn;
    r = buffer_finish(&rb->data);
    return r < 0 ? r : step_vector_push(&rb->batch, &step);
}

static int plan_batch(struct rollback *rb)
{
    uint64_t bytes = 0, most = rb->log->geometry.flush_bytes / 2;
    struct umbra_log_txn *txn;

    step_vector_clear(&rb->batch);
    buffer_clear(&rb->data);
    while (bytes < most && (txn = newest(rb))) {
        int r = plan_step(rb, txn);
        if (r < 0)
            return r;
        bytes += wal_record_bytes(rb->batch.items[rb->batch.count - 1].len, 0);
    }
    return 0;
}

/* All is undone, or will be when the batch is done. */
static int append_end_locked(struct umbra_log *log, struct umbra_log_txn *txn)
{
    const struct wal_draft draft = {
        .type = UMBRA_LOG_END, .txn = txn->id, .prev_lsn = txn->last_lsn};
    return wal_append_locked(log, &draft, &txn->last_lsn);
}

static int append_step_locked(struct rollback *rb, struct step *step)
{
    struct umbra_log *log = rb->log;
    struct umbra_log_txn *txn = step->txn;
    const struct wal_draft draft = {.type = UMBRA_LOG_COMPENSATION,
                                    .client = step->client,
                                    .manager = log->state.clients[step->client].manager,
                                    .op = step->op,
                                    .flags = step->is_void ? WAL_RECORD_VOID : 0,
                                    .txn = txn->id,
                                    .prev_lsn = txn->last_lsn,
                                    .undo_next_lsn = step->next_lsn,
                                    .undoes_lsn = step->update_lsn,
                                    .redo = rb->data.data + step->offset,
                                    .redo_len = step->len};
    int r = wal_append_locked(log, &draft, &step->lsn);
    if (r < 0)
        return r;
    txn->last_lsn = step->lsn;
    txn->undo_next_lsn = step->next_lsn;
    if (txn->applying_lsn == 0)
        txn->applying_lsn = step->lsn;
    wal_unreserve_locked(log, txn, wal_cost(&log->geometry, wal_record_bytes(step->len, 0)));
    return step->next_lsn == 0 ? append_end_locked(log, txn) : 0;
}

/* Appended and durable, before anything of it is done. */
static int append_batch(struct rollback *rb)
{
    int r = 0;
    pthread_mutex_lock(&rb->log->lock);
    for (size_t i = 0; r == 0 && i < rb->batch.count; i++)
        r = append_step_locked(rb, &rb->batch.items[i]);
    if (r == 0)
        r = wal_flush_all_locked(rb->log);
    pthread_mutex_unlock(&rb->log->lock);
    return r;
}

static int do_step(struct rollback *rb, const struct step *step)
{
    const struct umbra_log_client *client = &rb->log->clients[step->client];
    const struct umbra_log_change change = {
        .lsn = step->lsn,
        .update_lsn = step->update_lsn,
        .txn = step->txn->id,
        .data = rb->data.data ? rb->data.data + step->offset : NULL,
        .len = step->len,
        .op = step->op,
        .recovering = rb->recovering,
    };
    if (step->is_void)
        return 0;
    int r = client->manager->undo(client->userdata, &change);
    if (r < 0)
        return error_prefix(r, "log '%s': cannot undo the update at LSN %llu", rb->log->name,
                            (unsigned long long)step->update_lsn);
    rb->undo_count++;
    return 0;
}

static int do_batch(struct rollback *rb)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < rb->batch.count; i++)
        r = do_step(rb, &rb->batch.items[i]);
    return r;
}

/* Those that have nothing left to undo only need their end. */
static int end_the_empty(struct rollback *rb)
{
    int r = 0;
    pthread_mutex_lock(&rb->log->lock);
    for (size_t i = 0; r == 0 && i < rb->count; i++) {
        rb->txns[i]->cursor_lsn = rb->txns[i]->undo_next_lsn;
        if (rb->txns[i]->cursor_lsn == 0)
            r = append_end_locked(rb->log, rb->txns[i]);
    }
    if (r == 0)
        r = wal_flush_all_locked(rb->log); /* the records are read back from the file */
    rb->end_lsn = rb->log->durable_lsn;
    pthread_mutex_unlock(&rb->log->lock);
    return r;
}

static int run(struct rollback *rb)
{
    int r = end_the_empty(rb);
    while (r == 0) {
        r = plan_batch(rb);
        if (r < 0 || rb->batch.count == 0)
            return r;
        r = append_batch(rb);
        if (r == 0)
            r = do_batch(rb);
    }
    return r;
}

int wal_rollback(struct umbra_log *log, struct umbra_log_txn *txns[], size_t count, bool recovering,
                 uint64_t *ret_undo_count)
{
    CLEANUP(rollback_release)
    struct rollback rb = {.log = log, .txns = txns, .count = count, .recovering = recovering};
    int r = wal_reader_init(&rb.reader, log->file, log->name, &log->geometry);
    if (r == 0)
        r = run(&rb);
    *ret_undo_count = rb.undo_count;
    return r < 0 ? wal_fail(log, r) : 0;
}
