/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints: the point before which recovery has nothing to redo.
 *
 *     B                the end of the log, or where the oldest change begins that is under way
 *     each client      makes durable what it has changed, while others go on
 *     begin record     only when it is known that the checkpoint is worth its room
 *     end record       dirty table, and the transactions of this very moment
 *     flush, areas     both; from here on recovery begins at B
 *     tail             what neither B nor an open transaction needs may be overwritten
 *
 * The table of transactions is taken when the end record is appended, not when the checkpoint
 * begins: analysis simply replaces what it had found so far.
 */
#include <string.h>

#include "log/log-private.h"

/* Where the next record will stand. */
static umbra_log_lsn next_lsn(const struct umbra_log *log)
{
    bool at_page = log->head_lsn % WAL_PAGE_BYTES == 0;
    return log->head_lsn + (at_page ? sizeof(struct wal_page_header) : 0);
}

umbra_log_lsn wal_oldest_undo_locked(const struct umbra_log *log)
{
    umbra_log_lsn oldest = next_lsn(log);
    for (const struct umbra_log_txn *t = log->txns; t; t = t->next)
        if (t->first_lsn != 0 && t->state != WAL_TXN_COMMITTED)
            oldest = MIN(oldest, t->first_lsn);
    return oldest;
}

umbra_log_lsn wal_oldest_redo_locked(const struct umbra_log *log)
{
    umbra_log_lsn oldest = next_lsn(log);
    for (const struct umbra_log_txn *t = log->txns; t; t = t->next)
        if (t->applying_lsn != 0)
            oldest = MIN(oldest, t->applying_lsn);
    return oldest;
}

/* ---- the end record ---- */

struct checkpoint {
    umbra_log_lsn begin_lsn, redo_lsn;
    umbra_log_lsn client_redo_lsn[UMBRA_LOG_CLIENTS_MAX];
    umbra_log_lsn oldest_lsn, end_record_lsn, end_lsn;
};

struct end_body {
    struct wal_checkpoint_head head;
    struct wal_checkpoint_txn txns[UMBRA_LOG_TXNS_MAX];
};

static size_t fill_end_body(const struct umbra_log *log, const struct checkpoint *c,
                            struct end_body *body)
{
    uint32_t count = 0;
    for (const struct umbra_log_txn *t = log->txns; t; t = t->next) {
        if (t->first_lsn == 0 || t->state == WAL_TXN_COMMITTED)
            continue;
        body->txns[count++] = (struct wal_checkpoint_txn){
            .id = le64_make(t->id),
            .first_lsn = le64_make(t->first_lsn),
            .last_lsn = le64_make(t->last_lsn),
            .undo_next_lsn = le64_make(t->undo_next_lsn),
            .flags = le32_make(t->state == WAL_TXN_UNDOING ? WAL_TXN_ROLLING_BACK : 0),
            .void_lsn = le64_make(t->state == WAL_TXN_UNDOING ? t->void_lsn : 0),
        };
    }
    body->head = (struct wal_checkpoint_head){
        .begin_lsn = le64_make(c->begin_lsn),
        .redo_lsn = le64_make(c->redo_lsn),
        .oldest_lsn = le64_make(c->oldest_lsn),
        .next_txn = le64_make(log->next_txn),
        .txn_count = le32_make(count),
    };
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        body->head.client_redo_lsn[i] = le64_make(c->client_redo_lsn[i]);
    return sizeof(body->head) + count * sizeof(body->txns[0]);
}

int wal_checkpoint_decode(const struct umbra_log_record *record,
                          struct wal_checkpoint *ret_checkpoint)
{
    struct wal_checkpoint_head h;
    if (record->redo_len < sizeof(h))
        return -UMBRA_E_CORRUPT;
    memcpy(&h, record->redo, sizeof(h));
    struct wal_checkpoint c = {
        .redo_lsn = le64_get(&h.redo_lsn),
        .oldest_lsn = le64_get(&h.oldest_lsn),
        .next_txn = le64_get(&h.next_txn),
        .txn_count = le32_get(&h.txn_count),
        .txns = (const void *)(record->redo + sizeof(h)),
    };
    if (c.txn_count > UMBRA_LOG_TXNS_MAX ||
        record->redo_len != sizeof(h) + c.txn_count * sizeof(c.txns[0]) ||
        c.redo_lsn >= record->lsn || c.oldest_lsn > c.redo_lsn || c.oldest_lsn < WAL_LSN_FIRST)
        return -UMBRA_E_CORRUPT;
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        c.client_redo_lsn[i] = le64_get(&h.client_redo_lsn[i]);
    *ret_checkpoint = c;
    return 0;
}

/* ---- taking one ---- */

/* Without the lock. */
static int call_clients(struct umbra_log *log, struct checkpoint *c)
{
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++) {
        char name[UMBRA_LOG_NAME_MAX + 1];
        pthread_mutex_lock(&log->lock);
        const struct umbra_log_manager *manager = log->clients[i].manager;
        void *userdata = log->clients[i].userdata;
        memcpy(name, log->state.clients[i].name, sizeof(name));
        pthread_mutex_unlock(&log->lock);
        umbra_log_lsn oldest = c->begin_lsn;
        int r = manager && manager->checkpoint ? manager->checkpoint(userdata, &oldest) : 0;
        if (r < 0)
            return error_prefix(r, "log '%s': checkpoint of client '%s'", log->name, name);
        /* A client cannot need what the log has already given up, nor less than is under way. */
        oldest =
            MAX(oldest, MAX(log->state.redo_lsn, WAL_LSN_FIRST + sizeof(struct wal_page_header)));
        c->client_redo_lsn[i] = MIN(oldest, c->client_redo_lsn[i]);
        c->redo_lsn = MIN(c->redo_lsn, c->client_redo_lsn[i]);
    }
    return 0;
}

/* The point itself: where the next record will stand, or where a change under way began. */
static void choose_begin_locked(const struct umbra_log *log, struct checkpoint *c)
{
    c->begin_lsn = next_lsn(log);
    c->redo_lsn = MIN(c->begin_lsn, wal_oldest_redo_locked(log));
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        c->client_redo_lsn[i] = c->redo_lsn;
}

/* A checkpoint that a client lets free nothing, or less than it costs, must leave room for one that
 * does.  So there always is. */
static int check_room_locked(const struct umbra_log *log, const struct checkpoint *c)
{
    umbra_log_lsn oldest = MIN(c->redo_lsn, wal_oldest_undo_locked(log));
    uint64_t cost = wal_checkpoint_cost(&log->geometry), free = wal_free_locked(log);
    if (free >= cost && free + (wal_page_of(oldest) - log->tail_lsn) >= 2 * cost)
        return 0;
    return error_note(-ENOSPC, "log '%s' is full, and its clients still need what is in it",
                      log->name);
}

static int append_begin_locked(struct umbra_log *log)
{
    const struct wal_draft draft = {.type = UMBRA_LOG_CHECKPOINT_BEGIN};
    umbra_log_lsn lsn;
    return wal_append_locked(log, &draft, &lsn);
}

static int append_end_locked(struct umbra_log *log, struct checkpoint *c)
{
    struct end_body body;
    /* The table must not get old while the record waits for room. */
    int r = wal_make_fit_locked(log, wal_record_bytes(sizeof(body), 0));
    if (r < 0)
        return r;
    c->oldest_lsn = MIN(c->redo_lsn, wal_oldest_undo_locked(log));
    const struct wal_draft draft = {
        .type = UMBRA_LOG_CHECKPOINT_END, .redo = &body, .redo_len = fill_end_body(log, c, &body)};
    r = wal_append_locked(log, &draft, &c->end_record_lsn);
    if (r == 0)
        c->end_lsn = wal_page_up(log->head_lsn);
    return r;
}

int wal_write_state_locked(struct umbra_log *log)
{
    struct wal_state state = log->state;
    pthread_mutex_unlock(&log->lock);
    int r = wal_areas_write(log->out, &log->geometry, &state);
    pthread_mutex_lock(&log->lock);
    log->state.sequence = state.sequence;
    return r < 0 ? wal_fail_locked(log, r) : 0;
}

static int finish_locked(struct umbra_log *log, const struct checkpoint *c)
{
    int r = wal_flush_locked(log, c->end_record_lsn + 1);
    if (r < 0)
        return r;
    log->state.checkpoint_lsn = c->end_record_lsn;
    log->state.redo_lsn = c->redo_lsn;
    log->state.oldest_lsn = c->oldest_lsn;
    log->state.durable_lsn = log->durable_lsn;
    log->state.next_txn = log->next_txn;
    r = wal_write_state_locked(log);
    if (r < 0)
        return r;
    log->tail_lsn = wal_page_of(c->oldest_lsn);
    log->checkpoint_head_lsn = c->end_lsn;
    log->checkpoint_count++;
    return 0;
}

static int take_locked(struct umbra_log *log)
{
    struct checkpoint c = {0};
    choose_begin_locked(log, &c);
    pthread_mutex_unlock(&log->lock);
    int r = call_clients(log, &c);
    pthread_mutex_lock(&log->lock);
    if (r == 0)
        r = check_room_locked(log, &c);
    if (r == 0)
        r = append_begin_locked(log);
    if (r == 0)
        r = append_end_locked(log, &c);
    return r < 0 ? r : finish_locked(log, &c);
}

int wal_checkpoint_locked(struct umbra_log *log)
{
    int r;
    if (!log->checkpointing) {
        uint64_t free_bytes = wal_free_locked(log);
        log->checkpointing = true;
        r = take_locked(log);
        log->checkpointing = false;
        log->room_count += wal_free_locked(log) > free_bytes;
        pthread_cond_broadcast(&log->room);
        return r;
    }
    while (log->checkpointing)
        pthread_cond_wait(&log->room, &log->lock);
    return wal_failure_locked(log);
}

int wal_checkpoint_if_due_locked(struct umbra_log *log)
{
    if (log->checkpointing || log->head_lsn - log->checkpoint_head_lsn < log->checkpoint_bytes)
        return 0;
    return wal_checkpoint_locked(log);
}

int umbra_log_checkpoint(struct umbra_log *log)
{
    pthread_mutex_lock(&log->lock);
    int r = wal_check_ready_locked(log);
    if (r == 0)
        r = wal_checkpoint_locked(log);
    pthread_mutex_unlock(&log->lock);
    return r;
}
