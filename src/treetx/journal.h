/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log of a stage, with the tree as its one client. */
#pragma once

#include "treetx/actor.h"
#include "treetx/stage.h"
#include "umbra/log.h"

/* What the updates of a transaction are; the numbers are on disk. */
enum journal_op {
    JOURNAL_CHANGE = 1,   /* of a change */
    JOURNAL_ROLLBACK = 2, /* of taking back one that was committed: its updates, parts exchanged,
                             the last one first */
};

/*
 * The restart record of the client "tree":
 *
 *     0        version, 1
 *     1 ..  7  reserved, zero
 *     8 .. 15  number of updates of the change
 */
#define JOURNAL_CLIENT      "tree"
#define JOURNAL_VERSION     1u
#define JOURNAL_RESTART_LEN 16u

/*
 * STAGE_BEGUN in the stage: the transaction whose first update is about to be done.  The log cannot
 * tell damage in its last flush from a torn one, which is not there; this can.
 *
 *     0 ..  7  transaction
 *     8 .. 15  number of its updates
 *    16 .. 19  CRC-32C of all before
 */
#define BEGUN_LEN 20u

struct journal {
    const struct stage *stage;
    uint64_t update_count, begun_txn;
    struct umbra_log *log;
    struct umbra_log_client *client;
    struct actor actor;
    struct error_report failure; /* the first one of the actor */
};

/* Makes the log for one change of so many updates, and for its rollback. */
_must_check_ int journal_create(struct journal *j, const struct stage *stage, uint64_t update_count,
                                uint64_t redo_bytes, uint64_t undo_bytes);
/* Opens it and recovers; force as in enum treetx_recover_flags. */
_must_check_ int journal_open(struct journal *j, const struct stage *stage, bool force);
/* Everything that was done becomes durable, then the commit is. */
_must_check_ int journal_commit(struct journal *j, struct umbra_log_txn *txn);
/* r: what has failed.  Takes back what was done; returns r, or, when that cannot be done, what then
 * has failed, with words that say so. */
_must_check_ int journal_abort(struct journal *j, struct umbra_log_txn *txn, int r);
/* Frees it; on disk all stays. */
void journal_release(struct journal *j);

/* ---- what is in it ---- */

struct history_update {
    size_t at; /* in bytes */
    uint32_t redo_len, undo_len;
};
DEFINE_VECTOR(history_update_vector, struct history_update);

/* The last transaction in the log. */
struct history {
    uint64_t txn; /* 0: none */
    enum journal_op op;
    bool committed;
    uint64_t update_count;
    bool needs_recovery;    /* something may have to be taken back, or is not known to be durable */
    umbra_log_lsn last_lsn; /* of the last update or compensation */
    bool keep;              /* in: whether to read the updates, too */
    struct history_update_vector updates;
    struct buffer bytes; /* of the updates: redo part, undo part */
};
void history_release(struct history *h);
/* -UMBRA_E_CORRUPT also when something that had been durable is not there. */
_must_check_ int history_read(const struct stage *stage, struct history *h);
