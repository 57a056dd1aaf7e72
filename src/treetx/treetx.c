/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions on a directory tree, the first client of the log service.
 *
 * All that is new is first made in a stage, a directory of the same file system, and made durable.
 * What is left to be done then is cheap and can be taken back: names are moved and exchanged,
 * attributes set, ranges of files copied from the stage.  Only that is the transaction.  Nothing is
 * deleted: what goes is moved into the stage.  So the log holds paths and attributes, never
 * contents, a crash finds little half-done, and a committed change can be taken back as well as a
 * failed one.
 *
 *     make the note - make the stage - fill it - plan - syncfs - make the log
 *                                                                     |
 *     drop the note - COMMIT durable - syncfs - do every step - updates durable
 *
 * Invariants
 *
 *  1. No log, no change: the tree is only changed through the log, which has its name from the
 * moment when it is whole, after all that is staged is durable; and it is the first thing to go
 * when a stage is removed.  A stage without a log can be removed without looking.
 *  2. A commit comes after everything that it commits is durable (journal_commit: checkpoint, then
 *     commit).  So recovery never redoes anything.  It takes back a transaction that was not
 *     committed, from any state, and that is all.  (UMBRA_LOG_UNDO_ANY.)
 *  3. Objects are known by identity.  An instruction that finds its object where it shall be is
 * done; where it was before, it does it; elsewhere, somebody else has been here, and no more is
 * done.
 *  4. For 3 to be enough when all updates are taken back again and again from the last one, having
 *     been done up to any one, and taken back down to any one, the plan sees to it that
 *     a. an object of the tree, and every directory above it, either stays where it is or is worked
 *        on: never both.  What moves, moves once, between its place and the stage.
 *     b. what is staged has no old attributes: taking them back does nothing.
 *     c. the first and the last update of an object are a pair: (make it changeable, set the old
 *        attributes), (set the new attributes, make it changeable).  All first ones come before,
 * all last ones after all steps, so times that steps change are right at either end. d. contents
 * are copied from files in the stage that nobody changes. Read backwards with the parts exchanged,
 * a plan keeps to all of this, too: this is a rollback.
 *  5. The process that works on a tree holds a lock on the stage; whoever does not get it leaves it
 *     alone.  The note is durable before the stage is there, and goes after it: so the next run
 * finds what is unfinished without looking everywhere.
 *  6. The stage belongs to who made it, and nobody else can look into it.  A log in anything else
 * is not read: it could make root do what somebody wants.
 *
 * States of a tree, and what treetx_recover() makes of them
 *
 *     stage  log   last transaction       state        becomes
 *     -----  ----  ---------------------  -----------  ----------------------------------------
 *     no     -     -                      none         (the times of the target are set once more)
 *     yes    no    -                      unfinished   none: the stage is removed
 *     yes    yes   no update              unfinished   none
 *     yes    yes   change, not committed  unfinished   taken back, none
 *     yes    yes   change, committed      kept         kept
 *     yes    yes   rollback, not comm.    unfinished   taken back: kept
 *     yes    yes   rollback, committed    unfinished   none: the stage is removed
 *
 * The files: stage.c makes and removes, note.c remembers, plan*.c turns wishes into updates,
 * actor.c carries instructions out, journal.c is the client of the log, recover.c ends what is
 * unfinished.
 */
#include "treetx/treetx.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "basic/log.h"
#include "treetx/journal.h"
#include "treetx/plan.h"
#include "treetx/recover.h"

struct treetx {
    struct stage stage;
    struct plan plan;
    struct treetx_options options;
    _Atomic uint64_t name_count;
    bool committed;
};

static void release(struct treetx *tx)
{
    plan_release(&tx->plan);
    stage_release(&tx->stage);
    free(tx);
}

int treetx_begin(const char *target, int target_fd, const struct treetx_options *options,
                 struct treetx **ret_tx)
{
    struct treetx *tx = calloc(1, sizeof(*tx));

    if (!tx)
        return -ENOMEM;
    if (options)
        tx->options = *options;
    int r = stage_make(target, target_fd, &tx->stage);
    if (r < 0) {
        free(tx);
        return r;
    }
    const struct stage *stage = &tx->stage;
    r = plan_init(&tx->plan, stage);
    if (r >= 0)
        r = plan_root_times(&tx->plan, stage->note.times);
    if (r < 0) {
        struct error_report first = {0};
        error_save(&first, r);
        IGNORE_RESULT(treetx_abandon(tx));
        return error_raise(&first);
    }
    *ret_tx = tx;
    return 0;
}

int treetx_abandon(struct treetx *tx)
{
    enum treetx_outcome outcome;
    bool kept;

    /* There is a log when a commit has failed: it knows what became of it. */
    int r = tx->committed ? 0 : stage_recover(&tx->stage, 0, &outcome, &kept);
    release(tx);
    return r;
}

void treetx_free(struct treetx *tx)
{
    if (!tx)
        return;
    int r = treetx_abandon(tx);
    if (r < 0)
        log_warning("%s", error_text(r));
}

int treetx_stage_fd(const struct treetx *tx)
{
    return tx->stage.new_fd;
}

void treetx_stage_name(struct treetx *tx, char ret_name[TREETX_STAGE_NAME_MAX])
{
    (void)snprintf(ret_name, TREETX_STAGE_NAME_MAX, "%" PRIx64,
                   atomic_fetch_add(&tx->name_count, 1) + 1);
}

/* ---- planning ---- */

int treetx_put(struct treetx *tx, const char *stage_name, const char *path)
{
    return plan_put(&tx->plan, stage_name, path);
}

int treetx_replace(struct treetx *tx, const char *stage_name, const char *path)
{
    return plan_replace(&tx->plan, stage_name, path);
}

int treetx_delete(struct treetx *tx, const char *path)
{
    return plan_delete(&tx->plan, path);
}

int treetx_link(struct treetx *tx, const char *existing, const char *path)
{
    return plan_link(&tx->plan, existing, path);
}

int treetx_set_meta(struct treetx *tx, const char *path, const struct entry *wanted,
                    const struct owner_map *owners)
{
    return plan_set_meta(&tx->plan, path, wanted, owners);
}

int treetx_copy(struct treetx *tx, const char *path, const char *stage_name, uint64_t offset,
                uint64_t len)
{
    return plan_copy(&tx->plan, path, stage_name, offset, len);
}

int treetx_punch(struct treetx *tx, const char *path, uint64_t offset, uint64_t len)
{
    return plan_punch(&tx->plan, path, offset, len);
}

int treetx_resize(struct treetx *tx, const char *path, uint64_t size)
{
    return plan_resize(&tx->plan, path, size);
}

/* ---- the commit ---- */

struct size {
    uint64_t update_count, redo_bytes, undo_bytes;
};

static int add_size(const void *redo, size_t redo_len, const void *undo, size_t undo_len,
                    void *userdata)
{
    struct size *size = userdata;

    (void)redo;
    (void)undo;
    size->update_count++;
    size->redo_bytes += redo_len;
    size->undo_bytes += undo_len;
    return 0;
}

struct sending {
    struct journal *journal;
    struct umbra_log_txn *txn;
};

static int send_update(const void *redo, size_t redo_len, const void *undo, size_t undo_len,
                       void *userdata)
{
    const struct sending *s = userdata;

    return umbra_log_update(s->txn, s->journal->client, JOURNAL_CHANGE, redo, redo_len, undo,
                            undo_len);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

static int run_transaction(struct treetx *tx, struct journal *j, const struct timespec *now,
                           struct treetx_stats *stats)
{
    struct sending s = {.journal = j};

    int r = umbra_log_begin(j->log, &s.txn);
    if (r < 0)
        return r;
    uint64_t begin_ns = now_ns();
    r = plan_each(&tx->plan, now, send_update, &s);
    if (r >= 0)
        r = umbra_log_apply(s.txn);
    if (r < 0)
        return journal_abort(j, s.txn, r);
    stats->apply_ns = now_ns() - begin_ns;
    begin_ns = now_ns();
    r = journal_commit(j, s.txn);
    stats->commit_ns = now_ns() - begin_ns;
    return r;
}

static int sync_stage(const struct treetx *tx, struct treetx_stats *stats)
{
    uint64_t begin_ns = now_ns();

    if (syncfs(tx->stage.root_fd) < 0)
        return error_note_describe(-errno, "cannot sync '%s'", tx->stage.target);
    stats->stage_sync_ns = now_ns() - begin_ns;
    return 0;
}

static int commit_plan(struct treetx *tx, struct treetx_stats *stats)
{
    struct journal journal = {0};
    struct umbra_log_stat log_stat;
    struct size size = {0};
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    int r = plan_check(&tx->plan);
    if (r >= 0)
        r = plan_each(&tx->plan, &now, add_size, &size);
    if (r >= 0)
        r = sync_stage(tx, stats);
    if (r >= 0)
        r = journal_create(&journal, &tx->stage, size.update_count, size.redo_bytes,
                           size.undo_bytes);
    if (r >= 0) {
        journal.actor.options = &tx->options;
        r = run_transaction(tx, &journal, &now, stats);
    }
    if (r >= 0) {
        umbra_log_stat(journal.log, &log_stat);
        stats->log_bytes = log_stat.end_lsn;
        stats->step_count = size.update_count;
    }
    journal_release(&journal);
    return r;
}

int treetx_commit(struct treetx *tx, struct treetx_stats *ret_stats)
{
    struct treetx_stats stats = {0};

    if (tx->committed)
        return error_note(-EALREADY, "the change of '%s' has been made", tx->stage.target);
    int r = commit_plan(tx, &stats);
    if (r < 0)
        return r;
    tx->committed = true;
    if (ret_stats)
        *ret_stats = stats;
    r = note_drop(&tx->stage.note);
    if (r < 0)
        log_warning("%s", error_text(r)); /* the next run drops it */
    return 0;
}
