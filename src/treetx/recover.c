/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * After the process that made a change has ended, in whatever way: the states and what becomes of
 * them are in treetx.c.
 */
#include "treetx/recover.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "basic/log.h"
#include "treetx/journal.h"

/* ---- with force ---- */

/* What could not go back to its place lies in the stage. */
static int set_aside(struct stage *stage)
{
    char name[64];
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)snprintf(name, sizeof(name), ".umbra-left-%" PRId64 "-%09ld", (int64_t)now.tv_sec,
                   now.tv_nsec);
    if (renameat2(stage->root_fd, TREETX_STAGE_NAME, stage->root_fd, name, RENAME_NOREPLACE) < 0 ||
        fsync(stage->root_fd) < 0)
        return error_note_describe(-errno, "cannot rename '%s/" TREETX_STAGE_NAME "'",
                                   stage->target);
    log_warning("what could not be put in its place is kept in '%s/%s'", stage->target, name);
    return note_drop(&stage->note);
}

static int end_stage(struct stage *stage)
{
    if (faccessat(stage->fd, STAGE_LEFT, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return set_aside(stage);
    return stage_remove(stage);
}

/* ---- recovering ---- */

static int advise(const struct stage *stage, int r)
{
    if (r != -UMBRA_E_TREE_CHANGED)
        return r;
    return error_note(r,
                      "%s: put it back as it was and run 'umbra log recover %s' again, or leave it "
                      "as it is with 'umbra log recover --force %s'",
                      error_text(r), stage->target, stage->target);
}

static int run_log(struct stage *stage, unsigned flags)
{
    struct journal journal = {0};

    int r = journal_open(&journal, stage, flags & TREETX_FORCE);
    if (r >= 0)
        r = umbra_log_close(TAKE_PTR(journal.log));
    journal_release(&journal);
    return r < 0 ? advise(stage, r) : 0;
}

static int settle(struct stage *stage, const struct history *h, enum treetx_outcome *ret_outcome,
                  bool *ret_kept)
{
    bool is_change = h->op == JOURNAL_CHANGE;

    *ret_kept = false;
    if (h->txn == 0) {
        *ret_outcome = TREETX_STAGE_REMOVED;
        return end_stage(stage);
    }
    if (is_change != h->committed) {
        *ret_outcome = is_change ? TREETX_ROLLED_BACK : TREETX_COMPLETED;
        return end_stage(stage);
    }
    /* The change stands, and can be rolled back; without a note it was known before. */
    *ret_outcome = !stage->note.name[0] ? TREETX_NOTHING
                   : is_change          ? TREETX_COMPLETED
                                        : TREETX_ROLLED_BACK;
    *ret_kept = true;
    return note_drop(&stage->note);
}

int stage_recover(struct stage *stage, unsigned flags, enum treetx_outcome *ret_outcome,
                  bool *ret_kept)
{
    struct history history = {0};
    bool has_log;

    int r = stage_has_log(stage, &has_log);
    if (r >= 0 && !has_log) {
        *ret_outcome = TREETX_STAGE_REMOVED;
        *ret_kept = false;
        return stage_remove(stage);
    }
    if (r >= 0)
        r = history_read(stage, &history);
    /* Otherwise all is durable, and nothing to be taken back: the log can stay as it is. */
    if (r >= 0 && history.needs_recovery)
        r = run_log(stage, flags);
    if (r >= 0)
        r = settle(stage, &history, ret_outcome, ret_kept);
    history_release(&history);
    return r;
}

int treetx_recover(const char *target, unsigned flags, enum treetx_outcome *ret_outcome)
{
    CLEANUP(stage_release) struct stage stage = STAGE_NONE;
    bool kept;

    int r = stage_open(target, &stage);
    if (r == -ENOENT) {
        *ret_outcome = TREETX_NOTHING;
        return stage_finish_gone(target);
    }
    return r < 0 ? r : stage_recover(&stage, flags, ret_outcome, &kept);
}

int treetx_look(const char *target, enum treetx_state *ret_state)
{
    CLEANUP(stage_release) struct stage stage = STAGE_NONE;
    CLEANUP(history_release) struct history history = {0};
    bool has_log = false;

    int r = stage_open(target, &stage);
    if (r >= 0)
        r = stage_has_log(&stage, &has_log);
    if (r >= 0 && has_log)
        r = history_read(&stage, &history);
    if (r < 0 && r != -ENOENT && r != -EBUSY)
        return r;
    /* With a note, something is still to be done. */
    bool kept = has_log && history.txn != 0 && !stage.note.name[0] &&
                (history.op == JOURNAL_CHANGE) == history.committed;
    *ret_state = r == -ENOENT  ? TREETX_NONE
                 : r == -EBUSY ? TREETX_RUNNING
                 : kept        ? TREETX_KEPT
                               : TREETX_UNFINISHED;
    return 0;
}

/* ---- what is kept ---- */

static int nothing_kept(const char *target)
{
    return error_note(-ENOENT, "nothing is kept of an atomic change of '%s'", target);
}

/* Opens the stage and ends what is unfinished; -ENOENT when nothing is kept then. */
static int open_kept(const char *target, unsigned flags, struct stage *stage)
{
    enum treetx_outcome outcome;
    bool kept;

    int r = stage_open(target, stage);
    if (r >= 0)
        r = stage_recover(stage, flags, &outcome, &kept);
    if (r == -ENOENT || (r >= 0 && !kept))
        return nothing_kept(target);
    return r;
}

int treetx_discard(const char *target)
{
    CLEANUP(stage_release) struct stage stage = STAGE_NONE;

    int r = open_kept(target, 0, &stage);
    return r < 0 ? r : stage_remove(&stage);
}

static int send_inverse(struct journal *j, struct umbra_log_txn *txn, const struct history *h,
                        const struct history_update *u)
{
    const uint8_t *redo = h->bytes.data + u->at, *undo = redo + u->redo_len;

    /* A rollback that was taken back has them as they are needed. */
    if (h->op == JOURNAL_ROLLBACK)
        return umbra_log_update(txn, j->client, JOURNAL_ROLLBACK, redo, u->redo_len, undo,
                                u->undo_len);
    return umbra_log_update(txn, j->client, JOURNAL_ROLLBACK, undo, u->undo_len, redo, u->redo_len);
}

static int send_inverses(struct journal *j, struct umbra_log_txn *txn, const struct history *h)
{
    size_t count = h->updates.count;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < count; i++) {
        size_t index = h->op == JOURNAL_ROLLBACK ? i : count - 1 - i;
        r = send_inverse(j, txn, h, &h->updates.items[index]);
    }
    return r;
}

static int run_inverse(struct journal *j, const struct history *h)
{
    struct umbra_log_txn *txn;

    int r = umbra_log_begin(j->log, &txn);
    if (r < 0)
        return r;
    r = send_inverses(j, txn, h);
    if (r >= 0)
        r = umbra_log_apply(txn);
    return r < 0 ? journal_abort(j, txn, r) : journal_commit(j, txn);
}

static int advise_rollback(const struct stage *stage, int r)
{
    if (r != -UMBRA_E_TREE_CHANGED)
        return r;
    return error_note(r,
                      "%s: nothing was rolled back; put it back as it was and try again, or roll "
                      "back all else with 'umbra restore --rollback --force --target %s'",
                      error_text(r), stage->target);
}

static int roll_back(struct stage *stage, unsigned flags)
{
    CLEANUP(history_release) struct history history = {.keep = true};
    struct journal journal = {0};

    int r = history_read(stage, &history);
    if (r < 0)
        return r;
    r = journal_open(&journal, stage, flags & TREETX_FORCE);
    if (r >= 0 && journal.update_count != history.updates.count)
        r = error_note(-UMBRA_E_CORRUPT, "the log of '%s' does not have all of the change any more",
                       stage->target);
    if (r >= 0)
        r = run_inverse(&journal, &history);
    journal_release(&journal);
    return r < 0 ? advise_rollback(stage, r) : 0;
}

int treetx_rollback(const char *target, unsigned flags)
{
    CLEANUP(stage_release) struct stage stage = STAGE_NONE;

    int r = open_kept(target, flags, &stage);
    if (r >= 0)
        r = stage_note(&stage);
    if (r < 0)
        return r;
    r = roll_back(&stage, flags);
    if (r >= 0)
        return end_stage(&stage);
    /* Taken back, it is kept as before; else the note says that it is not. */
    struct error_report first = {0};
    error_save(&first, r);
    enum treetx_outcome outcome;
    bool kept;
    IGNORE_RESULT(stage_recover(&stage, 0, &outcome, &kept));
    return error_raise(&first);
}

/* ---- all ---- */

static bool is_there(const struct note *note)
{
    struct ident ident;
    CLEANUP_CLOSE int fd = open(note->target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd >= 0 && ident_get(fd, "", &ident) >= 0 && ident_equal(&ident, &note->root);
}

int treetx_recover_all(treetx_recovered_fn done, void *userdata)
{
    CLEANUP(note_vector_release_all) struct note_vector notes = {0};

    int r = note_list(&notes);
    for (size_t i = 0; r == 0 && i < notes.count; i++) {
        const struct note *note = &notes.items[i];
        enum treetx_outcome outcome = TREETX_NOTHING;
        if (!is_there(note))
            continue;
        int e = treetx_recover(note->target, 0, &outcome);
        if (e == -EBUSY || (e >= 0 && outcome == TREETX_NOTHING))
            continue;
        r = done(note->target, e, outcome, userdata);
    }
    return r;
}
