/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a stretch of log says: which transactions are open at its end, and which were undone. */
#include <string.h>

#include "log/log-private.h"

void wal_analysis_release(struct wal_analysis *analysis)
{
    wal_seen_vector_release(&analysis->txns);
}

/* The index of id, or where it would be put. */
static bool find(const struct wal_analysis *a, uint64_t id, size_t *ret_index)
{
    size_t low = 0, high = a->txns.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (a->txns.items[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_index = low;
    return low < a->txns.count && a->txns.items[low].id == id;
}

const struct wal_seen_txn *wal_analysis_find(const struct wal_analysis *analysis, uint64_t id)
{
    size_t i;
    return find(analysis, id, &i) ? &analysis->txns.items[i] : NULL;
}

/* Ids only grow, so this is nearly always at the end. */
static int find_or_add(struct wal_analysis *a, uint64_t id, umbra_log_lsn first_lsn,
                       struct wal_seen_txn **ret_txn)
{
    size_t i;
    if (!find(a, id, &i)) {
        const struct wal_seen_txn txn = {.id = id, .first_lsn = first_lsn};
        int r = wal_seen_vector_push(&a->txns, &txn);
        if (r < 0)
            return r;
        memmove(&a->txns.items[i + 1], &a->txns.items[i],
                (a->txns.count - 1 - i) * sizeof(a->txns.items[0]));
        a->txns.items[i] = txn;
    }
    *ret_txn = &a->txns.items[i];
    return 0;
}

static void forget(struct wal_analysis *a, uint64_t id)
{
    size_t i;
    if (!find(a, id, &i))
        return;
    a->txns.count--;
    memmove(&a->txns.items[i], &a->txns.items[i + 1],
            (a->txns.count - i) * sizeof(a->txns.items[0]));
}

static int note_change(struct wal_analysis *a, const struct umbra_log_record *record)
{
    struct wal_seen_txn *txn;
    int r = find_or_add(a, record->txn, record->lsn, &txn);
    if (r < 0)
        return r;
    txn->last_lsn = record->lsn;
    if (record->type == UMBRA_LOG_UPDATE)
        txn->undo_next_lsn = record->lsn;
    else if (record->type == UMBRA_LOG_COMPENSATION)
        txn->undo_next_lsn = record->undo_next_lsn;
    else if (record->type == UMBRA_LOG_ABORT)
        txn->void_lsn = record->undoes_lsn;
    txn->undone = txn->undone || record->type != UMBRA_LOG_UPDATE;
    txn->over = txn->over || record->type == UMBRA_LOG_END;
    return 0;
}

static int take_table(struct wal_analysis *a, const struct wal_checkpoint *c)
{
    for (size_t i = 0; i < a->txns.count; i++)
        a->txns.items[i].over = true;
    for (uint32_t i = 0; i < c->txn_count; i++) {
        struct wal_seen_txn *txn;
        int r = find_or_add(a, le64_get(&c->txns[i].id), 0, &txn);
        if (r < 0)
            return r;
        txn->first_lsn = le64_get(&c->txns[i].first_lsn);
        txn->last_lsn = le64_get(&c->txns[i].last_lsn);
        txn->undo_next_lsn = le64_get(&c->txns[i].undo_next_lsn);
        txn->void_lsn = le64_get(&c->txns[i].void_lsn);
        txn->undone = txn->undone || (le32_get(&c->txns[i].flags) & WAL_TXN_ROLLING_BACK);
        txn->over = false;
    }
    return 0;
}

static int note_checkpoint(struct wal_analysis *a, const struct wal_reader *reader,
                           const struct umbra_log_record *record)
{
    struct wal_checkpoint c;
    if (wal_checkpoint_decode(record, &c) < 0)
        return wal_reader_damage(reader, record->lsn, "the checkpoint makes no sense");
    a->end_record_lsn = record->lsn;
    a->redo_lsn = c.redo_lsn;
    a->oldest_lsn = c.oldest_lsn;
    a->next_txn = MAX(a->next_txn, c.next_txn);
    memcpy(a->client_redo_lsn, c.client_redo_lsn, sizeof(a->client_redo_lsn));
    return take_table(a, &c);
}

int wal_analysis_add(struct wal_analysis *a, const struct wal_reader *reader,
                     const struct umbra_log_record *record)
{
    a->record_count++;
    if (record->txn == UINT64_MAX)
        return wal_reader_damage(reader, record->lsn, "the record makes no sense");
    a->next_txn = MAX(a->next_txn, record->txn + 1);
    switch (record->type) {
    case UMBRA_LOG_UPDATE:
    case UMBRA_LOG_COMPENSATION:
    case UMBRA_LOG_ABORT:
    case UMBRA_LOG_END: return note_change(a, record);
    case UMBRA_LOG_COMMIT: forget(a, record->txn); return 0;
    case UMBRA_LOG_CHECKPOINT_END: return note_checkpoint(a, reader, record);
    case UMBRA_LOG_CHECKPOINT_BEGIN:
    case UMBRA_LOG_NOTE:
    case UMBRA_LOG_RESTART: return 0;
    }
    return 0;
}
