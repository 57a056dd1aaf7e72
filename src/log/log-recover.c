/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Recovery, in the order of its steps.  Each may be cut anywhere; the next recovery does it again.
 *
 *     end         follow the pages to where the log ends (log-reader.c)
 *     analysis    read the records from the last checkpoint on: transactions that are open at the
 * end incarnation both areas: nothing of a torn flush can be taken for ours from here on redo
 * updates and compensations, in order, of what no checkpoint has made durable undo        of the
 * open transactions, the newest update first (log-rollback.c) checkpoint  unless the log ends with
 * one that still holds
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "log/log-private.h"

struct recovery {
    struct umbra_log *log;
    struct wal_reader reader;
    struct wal_end end;
    umbra_log_lsn from_lsn; /* the first record that is read */
    umbra_log_lsn last_record_lsn;
    struct wal_analysis analysis;
    struct umbra_log_txn *losers;
    struct umbra_log_txn **loser_list;
    size_t loser_count;
    struct umbra_log_recovery result;
};

static void recovery_release(struct recovery *rec)
{
    wal_reader_release(&rec->reader);
    wal_analysis_release(&rec->analysis);
    free(rec->losers);
    free(rec->loser_list);
}

/* Calls fn with each record from from_lsn to the end. */
static int for_each_record(struct recovery *rec, umbra_log_lsn from_lsn,
                           int (*fn)(struct recovery *rec, const struct umbra_log_record *record))
{
    umbra_log_lsn at = from_lsn;
    for (;;) {
        struct umbra_log_record record;
        int r = wal_reader_next(&rec->reader, rec->end.lsn, &at);
        if (r == -ENODATA)
            return 0;
        if (r == 0)
            r = wal_reader_record(&rec->reader, at, rec->end.lsn, &record, &at);
        if (r == 0)
            r = fn(rec, &record);
        if (r < 0)
            return r;
    }
}

/* ---- analysis ---- */

static int restore_restart_record(struct recovery *rec, const struct umbra_log_record *record)
{
    struct wal_client_state *state = &rec->log->state.clients[record->client];
    if (record->redo_len > sizeof(state->restart) || state->name[0] == '\0')
        return wal_reader_damage(&rec->reader, record->lsn, "the restart record makes no sense");
    memset(state->restart, 0, sizeof(state->restart));
    memcpy(state->restart, record->redo, record->redo_len);
    state->restart_len = (uint16_t)record->redo_len;
    return 0;
}

static int analyse(struct recovery *rec, const struct umbra_log_record *record)
{
    rec->last_record_lsn = record->lsn;
    int r = wal_analysis_add(&rec->analysis, &rec->reader, record);
    if (r == 0 && record->type == UMBRA_LOG_RESTART)
        r = restore_restart_record(rec, record);
    return r;
}

static int run_analysis(struct recovery *rec)
{
    struct umbra_log *log = rec->log;
    umbra_log_lsn redo_lsn = log->state.redo_lsn;
    rec->from_lsn = redo_lsn ? redo_lsn : WAL_LSN_FIRST;
    rec->analysis.next_txn = log->state.next_txn;
    int r = wal_find_end(&rec->reader, rec->from_lsn, log->state.durable_lsn, &rec->end);
    if (r == 0)
        r = for_each_record(rec, rec->from_lsn, analyse);
    if (r == 0 && rec->analysis.end_record_lsn < log->state.checkpoint_lsn)
        r = wal_reader_damage(&rec->reader, log->state.checkpoint_lsn, "no checkpoint is there");
    return r;
}

static int collect_losers(struct recovery *rec)
{
    const struct wal_seen_vector *seen = &rec->analysis.txns;
    rec->losers = calloc(seen->count + 1, sizeof(*rec->losers));
    rec->loser_list = calloc(seen->count + 1, sizeof(*rec->loser_list));
    if (!rec->losers || !rec->loser_list)
        return -ENOMEM;
    for (size_t i = 0; i < seen->count; i++) {
        const struct wal_seen_txn *t = &seen->items[i];
        if (t->over)
            continue;
        struct umbra_log_txn *loser = &rec->losers[rec->loser_count];
        *loser = (struct umbra_log_txn){.log = rec->log,
                                        .id = t->id,
                                        .state = WAL_TXN_UNDOING,
                                        .first_lsn = t->first_lsn,
                                        .last_lsn = t->last_lsn,
                                        .undo_next_lsn = t->undo_next_lsn,
                                        .void_lsn = t->void_lsn};
        rec->loser_list[rec->loser_count++] = loser;
    }
    return 0;
}

/* ---- who is needed ---- */

static int need_client(struct recovery *rec, const struct umbra_log_record *record)
{
    const struct umbra_log *log = rec->log;
    const struct umbra_log_client *client = &log->clients[record->client];
    const struct wal_client_state *state = &log->state.clients[record->client];
    if (state->name[0] == '\0' || state->manager != record->manager)
        return wal_reader_damage(&rec->reader, record->lsn, "the record is of no known client");
    if (!client->manager)
        return error_note(-ENOENT, "log '%s' has records of '%s' (%s), which is not attached",
                          log->name, state->name,
                          umbra_log_manager_name((enum umbra_log_manager_id)state->manager));
    return 0;
}

static bool is_of_client(const struct umbra_log_record *record)
{
    return record->type == UMBRA_LOG_UPDATE || record->type == UMBRA_LOG_COMPENSATION ||
           record->type == UMBRA_LOG_NOTE;
}

static bool is_to_be_redone(const struct recovery *rec, const struct umbra_log_record *record)
{
    return is_of_client(record) && record->lsn >= rec->analysis.client_redo_lsn[record->client];
}

static int check_record(struct recovery *rec, const struct umbra_log_record *record)
{
    return is_to_be_redone(rec, record) ? need_client(rec, record) : 0;
}

/* Along the chain of one transaction, whose beginning may lie far back. */
static int check_loser(struct recovery *rec, const struct umbra_log_txn *loser)
{
    umbra_log_lsn at = loser->undo_next_lsn;
    while (at != 0) {
        struct umbra_log_record record;
        umbra_log_lsn after;
        int r = wal_reader_record(&rec->reader, at, rec->end.lsn, &record, &after);
        if (r == 0 && (record.type != UMBRA_LOG_UPDATE || record.txn != loser->id))
            r = wal_reader_damage(&rec->reader, at,
                                  "the record is not the update that is to be undone");
        if (r == 0)
            r = need_client(rec, &record);
        if (r < 0)
            return r;
        at = record.prev_lsn;
    }
    return 0;
}

/* All that will be needed is there and readable, before anything is changed. */
static int check_all(struct recovery *rec)
{
    int r = for_each_record(rec, rec->from_lsn, check_record);
    for (size_t i = 0; r == 0 && i < rec->loser_count; i++)
        r = check_loser(rec, &rec->losers[i]);
    return r;
}

/* ---- redo ---- */

/* What was never done is not done now; nor what will be undone, or was, by a manager that can undo
 * what was not done. */
static bool is_skipped(const struct recovery *rec, const struct umbra_log_manager *manager,
                       const struct umbra_log_record *record)
{
    if (record->type != UMBRA_LOG_UPDATE)
        return record->is_void;
    const struct wal_seen_txn *txn = wal_analysis_find(&rec->analysis, record->txn);
    if (!txn)
        return false;
    if (txn->void_lsn != 0 && record->lsn >= txn->void_lsn)
        return true;
    return (manager->flags & UMBRA_LOG_UNDO_ANY) && (txn->undone || !txn->over);
}

static int redo(struct recovery *rec, const struct umbra_log_record *record)
{
    const struct umbra_log_client *client = &rec->log->clients[record->client];
    const struct umbra_log_manager *manager = client->manager;
    bool is_undo = record->type == UMBRA_LOG_COMPENSATION;
    const struct umbra_log_change change = {
        .lsn = record->lsn,
        .update_lsn = is_undo ? record->undoes_lsn : record->lsn,
        .txn = record->txn,
        .data = record->redo,
        .len = record->redo_len,
        .op = record->op,
        .recovering = true,
    };
    int r = 0;

    if (!is_to_be_redone(rec, record) || is_skipped(rec, manager, record))
        return 0;
    if (record->type != UMBRA_LOG_NOTE)
        r = is_undo ? manager->undo(client->userdata, &change)
                    : manager->redo(client->userdata, &change);
    else if (manager->note)
        r = manager->note(client->userdata, &change);
    rec->result.redo_count += record->type != UMBRA_LOG_NOTE;
    return r < 0 ? error_prefix(r, "log '%s': cannot redo the record at LSN %" PRIu64,
                                rec->log->name, record->lsn)
                 : 0;
}

/* ---- all of it ---- */

/* Higher than any that a page can have, also one of a flush that was torn after the better area was
 * damaged. */
static uint32_t next_incarnation(const struct recovery *rec)
{
    const struct wal_areas *found = &rec->log->found;
    uint32_t lost = found->good[0] && found->good[1] ? 0 : 1;
    return MAX(rec->log->state.incarnation, rec->end.incarnation) + 1 + lost;
}

static int begin_incarnation(struct recovery *rec)
{
    struct umbra_log *log = rec->log;
    log->incarnation = next_incarnation(rec);
    log->next_txn = rec->analysis.next_txn;
    log->state.incarnation = log->incarnation;
    log->state.durable_lsn = rec->end.lsn;
    log->state.next_txn = log->next_txn;
    umbra_log_lsn oldest = log->state.oldest_lsn;
    log->tail_lsn = wal_page_of(oldest ? oldest : WAL_LSN_FIRST);
    wal_buffers_start(log, &rec->end);
    pthread_mutex_lock(&log->lock);
    int r = wal_write_state_locked(log);
    pthread_mutex_unlock(&log->lock);
    return r;
}

/* The log ends with a checkpoint, and nothing has happened since. */
static bool checkpoint_holds(const struct recovery *rec)
{
    return rec->analysis.end_record_lsn != 0 &&
           rec->analysis.end_record_lsn == rec->last_record_lsn && rec->loser_count == 0 &&
           rec->result.redo_count == 0;
}

static int keep_checkpoint(struct recovery *rec)
{
    struct umbra_log *log = rec->log;
    pthread_mutex_lock(&log->lock);
    bool known = log->state.checkpoint_lsn == rec->analysis.end_record_lsn;
    log->state.checkpoint_lsn = rec->analysis.end_record_lsn;
    log->state.redo_lsn = rec->analysis.redo_lsn;
    log->state.oldest_lsn = rec->analysis.oldest_lsn;
    int r = known ? 0 : wal_write_state_locked(log);
    log->tail_lsn = wal_page_of(log->state.oldest_lsn);
    log->checkpoint_head_lsn = log->head_lsn;
    pthread_mutex_unlock(&log->lock);
    return r;
}

static int change_everything(struct recovery *rec)
{
    struct umbra_log *log = rec->log;
    int r = begin_incarnation(rec);
    if (r == 0)
        r = for_each_record(rec, rec->from_lsn, redo);
    if (r == 0 && rec->loser_count > 0)
        r = wal_rollback(log, rec->loser_list, rec->loser_count, true, &rec->result.undo_count);
    if (r < 0)
        return r;
    if (checkpoint_holds(rec))
        return keep_checkpoint(rec);
    if (log->head_lsn == WAL_LSN_FIRST) { /* there never was a record */
        log->checkpoint_head_lsn = log->head_lsn;
        return 0;
    }
    pthread_mutex_lock(&log->lock);
    r = wal_checkpoint_locked(log);
    pthread_mutex_unlock(&log->lock);
    /* It only makes the next recovery shorter. */
    return r == -ENOSPC && log->failure.code == 0 ? 0 : r;
}

static int recover(struct recovery *rec)
{
    struct umbra_log *log = rec->log;
    int r = wal_reader_init(&rec->reader, log->file, log->name, &log->geometry);
    if (r == 0)
        r = run_analysis(rec);
    if (r == 0)
        r = collect_losers(rec);
    if (r == 0)
        r = check_all(rec);
    if (r < 0)
        return r;
    r = change_everything(rec);
    rec->result.from_lsn = rec->from_lsn;
    rec->result.end_lsn = rec->end.lsn;
    rec->result.record_count = rec->analysis.record_count;
    rec->result.rolled_back_txns = rec->loser_count;
    return r;
}

int umbra_log_recover(struct umbra_log *log, struct umbra_log_recovery *ret_recovery)
{
    CLEANUP(recovery_release) struct recovery rec = {.log = log};
    pthread_mutex_lock(&log->lock);
    int r = wal_failure_locked(log);
    if (r == 0 && log->ready)
        r = error_note(-EALREADY, "log '%s' is recovered already", log->name);
    pthread_mutex_unlock(&log->lock);
    if (r < 0)
        return r;
    r = recover(&rec);
    if (r < 0)
        return wal_fail(log, r);
    pthread_mutex_lock(&log->lock);
    log->ready = true;
    pthread_mutex_unlock(&log->lock);
    if (ret_recovery)
        *ret_recovery = rec.result;
    return 0;
}
