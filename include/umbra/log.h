/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log service: changes of many steps that are, after any crash, either wholly there or not at
 * all.
 *
 * A log is one file of a fixed size.  A client hands every change of its data to the log before it
 * is made, as a record with two parts: how to do it (redo), and how to take it back (undo).  The
 * log makes the record durable and then calls the client to do it; after a crash it calls the same
 * functions again.  So nothing is ever changed that the log does not know of (the write-ahead
 * rule): a client that only changes things in its redo() and undo() cannot break it.
 *
 *     umbra_log_create(path, &options, &log);                     or umbra_log_open()
 *     umbra_log_attach(log, "tree", &tree_manager, tree, &client);
 *     umbra_log_recover(log, NULL);                               after umbra_log_open()
 *
 *     umbra_log_begin(log, &txn);
 *     for each change
 *         umbra_log_update(txn, client, op, redo, redo_len, undo, undo_len);    only remembered
 *     r = umbra_log_apply(txn);                  appended, one flush, then redo() of each, in order
 *     if (r < 0)
 *         umbra_log_abort(txn);                  undo() of each, the last one first
 *     else
 *         umbra_log_commit(txn, 0, NULL);
 *
 *     umbra_log_close(log);
 *
 * Without umbra_log_apply(), umbra_log_commit() appends the updates and the commit together, with
 * one flush, and then calls redo(): half the flushes, but no way back when a redo() fails.
 *
 * Errors: 0 or a negative number, which is a negative errno or a code of umbra's own below -4095;
 * umbra_log_error_class() gives the errno that it is a kind of, umbra_log_error_text() the words.
 * Results (ret_*) are written on success only.  The first failed write or sync of the log is final:
 * from then on every call that would write returns that error, nothing is acknowledged any more,
 * and the log has to be opened and recovered anew (after a failed fsync nobody knows what is
 * durable).
 *
 * Threads: all functions may be called from any thread; a transaction and a reader belong to one
 * thread at a time.  umbra_log_begin(), _apply(), _commit(), _note(), _set_restart() and
 * _checkpoint() may call the checkpoint() of every client, in the calling thread: no lock may be
 * held that a checkpoint() takes.
 *
 * The bytes of the file are in umbra-log(5).
 */
#ifndef UMBRA_LOG_H
#define UMBRA_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UMBRA_LOG_MUST_CHECK __attribute__((warn_unused_result))
#define UMBRA_LOG_EXPORT     __attribute__((visibility("default")))

/* Log sequence number: where a record begins, as a byte position in an endless log.  It only grows;
 * 0 is none. */
typedef uint64_t umbra_log_lsn;

struct umbra_log;
struct umbra_log_client;
struct umbra_log_txn;

/*
 * The resource managers: whose records may stand in a log.  Append only: the position is the id on
 * disk.  NAME, "name".
 */
#define UMBRA_LOG_MANAGER_LIST(X)                                       \
    X(TEST, "test") /* of the tests; no program of umbra attaches it */ \
    X(TREE, "tree") /* transactions on a directory tree */              \
    X(COW, "cow")   /* map and shadows of a cow volume */

enum umbra_log_manager_id {
#define X(name, text) UMBRA_LOG_MANAGER_##name,
    UMBRA_LOG_MANAGER_LIST(X)
#undef X
        UMBRA_LOG_MANAGER_MAX,
};

#define UMBRA_LOG_ID_LEN      16u
#define UMBRA_LOG_CLIENTS_MAX 6u   /* in one log */
#define UMBRA_LOG_NAME_MAX    31u  /* bytes of a client's name */
#define UMBRA_LOG_RESTART_MAX 512u /* bytes of a client's restart record */
#define UMBRA_LOG_TXNS_MAX    128u /* at a time; umbra_log_begin() waits for a place */
#define UMBRA_LOG_FILE_MIN    ((uint64_t)1 << 20)
#define UMBRA_LOG_FILE_MAX    ((uint64_t)1 << 40)
/* Bytes of the redo and the undo part of one update together. */
#define UMBRA_LOG_DATA_MAX ((size_t)500 << 10)

/* ---- what a client provides ---- */

/* One change that is to be made or taken back. */
struct umbra_log_change {
    /* The record that says so: of redo() the update, of undo() the compensation record.  Grows from
     * call to call for any one object, also over restarts: a client that keeps the LSN with what it
     * changes, and leaves alone what has this LSN or a higher one, never does anything twice. */
    umbra_log_lsn lsn;
    umbra_log_lsn update_lsn; /* of undo(): the update that is taken back; of redo(): lsn */
    uint64_t txn;             /* 0 of a note */
    const void *data;         /* of redo() the redo part, of undo() the undo part */
    size_t len;
    uint16_t op;     /* as given to umbra_log_update() */
    bool recovering; /* in umbra_log_recover(): it may have been done before, wholly or in part */
};

struct umbra_log_record; /* below */

enum umbra_log_manager_flags {
    /*
     * undo() works whether its update was done, done in part, or not at all.  Recovery then does
     * not redo updates that it is going to undo anyway, or that had been undone.  Without the flag
     * it repeats history: undo() is only called for what redo() has done, and a redo() that fails
     * must have done nothing.
     */
    UMBRA_LOG_UNDO_ANY = 1u << 0,
};

/*
 * The functions of a resource manager.  userdata is what was given to umbra_log_attach(), so that
 * one manager can have several instances.  They return 0 or a negative errno; they must not call
 * the log.  redo() and undo() are called by the thread that applies, commits or aborts, for several
 * transactions at a time; what two transactions must not do to the same object at the same time is
 * the client's to lock.
 */
struct umbra_log_manager {
    enum umbra_log_manager_id id;
    unsigned flags; /* enum umbra_log_manager_flags */
    /*
     * Makes the change.  Its effect need not be durable on return, only in the order of the calls
     * visible to later ones; checkpoint() makes it durable.  While recovering it may find any state
     * that calls since the last checkpoint can have left, and must come to the same end.
     * A failure before the commit ends umbra_log_apply(); after it, the log is failed (as above).
     */
    int (*redo)(void *userdata, const struct umbra_log_change *change);
    /* Takes the change back; same rules.  It may not fail for want of space: a failure makes the
     * log fail, and the next recovery tries again. */
    int (*undo)(void *userdata, const struct umbra_log_change *change);
    /* A record of umbra_log_note(), while recovering, in its place among the redo() calls.  May be
     * NULL. */
    int (*note)(void *userdata, const struct umbra_log_change *change);
    /*
     * Makes durable what redo() and undo() calls that have returned did (one fsync or syncfs, say),
     * and what they found done already.
     * *oldest_lsn is the LSN of the checkpoint when called: leave it when everything is durable, or
     * set it to the oldest record that recovery would have to redo.  What is older will never be
     * redone.  NULL: the manager has nothing to make durable.
     */
    int (*checkpoint)(void *userdata, umbra_log_lsn *oldest_lsn);
    /* The record in words, for the dump: one line, lower case, cut at size.  Has no instance, must
     * bear any bytes, and may be NULL. */
    void (*describe)(const struct umbra_log_record *record, char *text, size_t size);
};

/* ---- opening ---- */

enum umbra_log_flags {
    /* Where a call would wait for other transactions to free space or a place, it returns -ENOSPC
     * or -EAGAIN: for a client that has several transactions in one thread. */
    UMBRA_LOG_NO_WAIT = 1u << 0,
};

struct umbra_log_options {
    /* UMBRA_LOG_ID_LEN bytes.  create: the id of the new log; NULL: random.  open: the id that it
     * must have, else -EXDEV ("of another tree"); NULL: any. */
    const uint8_t *id;
    uint64_t file_bytes;       /* create: UMBRA_LOG_FILE_MIN to _MAX, rounded up to whole pages */
    uint64_t checkpoint_bytes; /* a checkpoint after so much log; 0: 64 MiB.  At most a quarter of
                                  the file */
    unsigned flags;            /* enum umbra_log_flags */
};

/*
 * How large a file has to be for one transaction of so many updates, with so many bytes in all
 * their redo and all their undo parts, to fit beside nothing else, with the room that undoing it
 * needs.
 */
UMBRA_LOG_EXPORT uint64_t umbra_log_size_for(uint64_t update_count, uint64_t redo_bytes,
                                             uint64_t undo_bytes);

/*
 * Makes the file, with all its space (zeros are written, not only reserved), durable with its name,
 * and opens it: ready, no recovery needed.  -EEXIST; -ENOSPC with nothing left behind.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_create(const char *path,
                                                           const struct umbra_log_options *options,
                                                           struct umbra_log **ret_log);
/*
 * Opens an existing log; umbra_log_recover() must follow.  options may be NULL.
 * -EBUSY: open elsewhere; -EXDEV: another id; -EPROTONOSUPPORT: a newer format; -EBADMSG: damaged.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_open(const char *path,
                                                         const struct umbra_log_options *options,
                                                         struct umbra_log **ret_log);
/* The id of the log, UMBRA_LOG_ID_LEN bytes. */
UMBRA_LOG_EXPORT void umbra_log_id(const struct umbra_log *log, uint8_t *ret_id);
/*
 * Takes a checkpoint, so that the next recovery has nothing to do, and frees the log and its
 * clients. No call may be running.  Transactions that are still there are left to the next
 * recovery. The log is gone in any case; the error is that of the checkpoint.  NULL is fine.
 */
UMBRA_LOG_EXPORT int umbra_log_close(struct umbra_log *log);
/* Frees it and writes nothing, as if the process had been killed.  NULL is fine. */
UMBRA_LOG_EXPORT void umbra_log_free(struct umbra_log *log);

/*
 * Introduces a client by its name, which the log remembers: after umbra_log_open() each client that
 * has records left must be attached before umbra_log_recover().  -EEXIST: is attached already;
 * -EINVAL: the log knows the name with another manager; -ENOSPC: UMBRA_LOG_CLIENTS_MAX.
 * manager and userdata must live as long as the log.  The client belongs to the log.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_attach(struct umbra_log *log, const char *name,
                                                           const struct umbra_log_manager *manager,
                                                           void *userdata,
                                                           struct umbra_log_client **ret_client);
/*
 * A few bytes that the log keeps for the client and returns after any restart (where its data are,
 * say).  Durable on return; changed as a whole or not at all.  After umbra_log_open() what
 * umbra_log_get_restart() returns is right only when umbra_log_recover() has returned.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_set_restart(struct umbra_log_client *client,
                                                                const void *data, size_t len);
/* Copies at most size bytes; returns how many there are. */
UMBRA_LOG_EXPORT size_t umbra_log_get_restart(const struct umbra_log_client *client, void *data,
                                              size_t size);

/* ---- recovery ---- */

struct umbra_log_recovery {
    umbra_log_lsn from_lsn, end_lsn; /* what was read */
    uint64_t record_count;
    uint64_t redo_count;       /* calls of redo(), and of undo() for compensation records */
    uint64_t undo_count;       /* updates taken back */
    uint64_t rolled_back_txns; /* transactions that had not been committed */
};

/*
 * Brings the clients' data into the state of all committed transactions and no others, then takes a
 * checkpoint.  May fail or be killed at any point, and is begun anew with the next open.
 * -EBADMSG: a part of the log that had been durable is damaged; nothing was changed, the words name
 * offset and LSN.  -ENOENT: a client that has records is not attached.  -EALREADY: done before.
 * ret_recovery may be NULL.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_recover(
    struct umbra_log *log, struct umbra_log_recovery *ret_recovery);

/* ---- transactions ---- */

/* Waits for a place among UMBRA_LOG_TXNS_MAX, and for space.  -EBUSY: umbra_log_recover() first. */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_begin(struct umbra_log *log,
                                                          struct umbra_log_txn **ret_txn);
/* In the order of their beginning; never 0. */
UMBRA_LOG_EXPORT uint64_t umbra_log_txn_id(const struct umbra_log_txn *txn);
/*
 * Remembers an update; nothing is written or done yet.  Both parts are copied.
 * -EMSGSIZE: together more than UMBRA_LOG_DATA_MAX (less in a very small log); -ENOMEM.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_update(struct umbra_log_txn *txn,
                                                           struct umbra_log_client *client,
                                                           uint16_t op, const void *redo,
                                                           size_t redo_len, const void *undo,
                                                           size_t undo_len);
/*
 * Appends what has been remembered, flushes, and calls redo() of each in order.  More updates may
 * follow, and be applied again.  -ENOSPC: the log is full and cannot be emptied while this
 * transaction lasts; nothing of this call was appended then.  On any error the transaction is still
 * there: abort it.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_apply(struct umbra_log_txn *txn);

enum umbra_log_commit_flags {
    /* Returns before the commit is durable: umbra_log_flush(log, *ret_lsn) waits for that.  After a
     * crash in between the transaction may be undone, but never one without all before it.  -EINVAL
     * while updates are remembered that have not been applied. */
    UMBRA_LOG_ASYNC = 1u << 0,
};

/*
 * Commits: appends what is still remembered together with the commit, waits until it is durable
 * (with others: one flush serves all who wait), and calls redo() of what was appended.  On success
 * the transaction is gone.  On failure it is still there; abort it.  If that fails, too, or the
 * failure was one of the log, only recovery can tell whether it was committed.
 * ret_lsn (of the commit; may be NULL).
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_commit(struct umbra_log_txn *txn,
                                                           unsigned flags, umbra_log_lsn *ret_lsn);
/*
 * Takes back what has been applied, the last update first, and frees the transaction, in any case.
 * Never meets a full log: the space was reserved with each update.  An error is one of the log or
 * of an undo(), and makes the log fail; the next recovery takes it up.  NULL is fine.
 */
UMBRA_LOG_EXPORT int umbra_log_abort(struct umbra_log_txn *txn);
/* Waits until all records with an LSN below or equal are durable. */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_flush(struct umbra_log *log, umbra_log_lsn lsn);
/*
 * A record of the client's own outside all transactions; not flushed.  May wait for space, and so
 * for transactions to end (not for one of the same thread: UMBRA_LOG_NO_WAIT).  Recovery hands
 * those that are not older than the client's oldest LSN to note().  ret_lsn may be NULL.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_note(struct umbra_log_client *client,
                                                         uint16_t op, const void *data, size_t len,
                                                         umbra_log_lsn *ret_lsn);
/*
 * Makes all clients durable and forgets the log before them.  Taken by itself every
 * checkpoint_bytes, when the log is full, after recovery and when it is closed.
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_checkpoint(struct umbra_log *log);

struct umbra_log_stat {
    uint64_t ring_bytes;                                  /* room for log pages */
    uint64_t used_bytes;                                  /* of it needed by recovery */
    uint64_t reserved_bytes;                              /* kept for undo and for checkpoints */
    uint64_t flush_count, checkpoint_count, commit_count; /* since it was opened */
    umbra_log_lsn end_lsn, durable_lsn;
    uint32_t txn_count; /* not yet ended */
};
UMBRA_LOG_EXPORT void umbra_log_stat(struct umbra_log *log, struct umbra_log_stat *ret_stat);

/* ---- reading a log file, as `umbra log` does ---- */

enum umbra_log_record_type {
    UMBRA_LOG_UPDATE = 1,
    UMBRA_LOG_COMPENSATION = 2,
    UMBRA_LOG_COMMIT = 3,
    UMBRA_LOG_ABORT = 4, /* undoing begins */
    UMBRA_LOG_END = 5,   /* all is undone */
    UMBRA_LOG_CHECKPOINT_BEGIN = 6,
    UMBRA_LOG_CHECKPOINT_END = 7,
    UMBRA_LOG_NOTE = 8,
    UMBRA_LOG_RESTART = 9, /* a client's restart record */
};

struct umbra_log_record {
    umbra_log_lsn lsn;
    umbra_log_lsn prev_lsn;      /* of the same transaction; 0: none */
    umbra_log_lsn undo_next_lsn; /* compensation: the next to undo; 0: none */
    umbra_log_lsn undoes_lsn;    /* compensation: the update; abort: updates from here on were never
                                    done, 0: all were */
    bool is_void; /* compensation of an update that was never done: nothing is done */
    uint64_t txn; /* 0: none */
    enum umbra_log_record_type type;
    enum umbra_log_manager_id manager;
    uint8_t client; /* index of its name */
    uint16_t op;
    const uint8_t *redo, *undo; /* a compensation has what was the undo part as redo part */
    uint32_t redo_len, undo_len;
};

struct umbra_log_info {
    uint8_t id[UMBRA_LOG_ID_LEN];
    uint16_t version;
    uint32_t incarnation; /* how often it was opened for writing */
    uint64_t file_bytes, ring_bytes;
    bool area_good[2];                                  /* restart areas */
    umbra_log_lsn checkpoint_lsn, redo_lsn, oldest_lsn; /* 0: no checkpoint yet */
    umbra_log_lsn first_lsn, end_lsn;                   /* what was read */
    uint64_t record_count;
    uint32_t open_txns; /* that a recovery would undo */
    char client_names[UMBRA_LOG_CLIENTS_MAX][UMBRA_LOG_NAME_MAX + 1]; /* "": none */
};

struct umbra_log_scan_options {
    const uint8_t *id; /* as in umbra_log_options */
    bool history;      /* with older records that are still there, but that nobody needs */
    /* Called with each record, in order; may be NULL.  Not 0: ends the scan, and is returned. */
    int (*record)(const struct umbra_log_record *record, void *userdata);
    void *userdata;
};

/*
 * Reads a log without changing it, and checks all that a recovery would read.  -EBADMSG: damaged,
 * with offset and LSN in the words; *ret_info has then what could be read (and is the exception
 * from the rule for results).
 */
UMBRA_LOG_MUST_CHECK UMBRA_LOG_EXPORT int umbra_log_scan(
    const char *path, const struct umbra_log_scan_options *options,
    struct umbra_log_info *ret_info);

/* "update", "commit", ...; "?" of what there is not. */
UMBRA_LOG_EXPORT const char *umbra_log_record_type_name(enum umbra_log_record_type type);
/* "tree", ... */
UMBRA_LOG_EXPORT const char *umbra_log_manager_name(enum umbra_log_manager_id id);

/* The words of the failure r, if it was the last in this thread. */
UMBRA_LOG_EXPORT const char *umbra_log_error_text(int r);
/* The positive errno that r is a kind of. */
UMBRA_LOG_EXPORT int umbra_log_error_class(int r);

#ifdef __cplusplus
}
#endif

#endif
