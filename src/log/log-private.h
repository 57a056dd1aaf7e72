/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the log service share.  The design is in log.c.
 *
 *     log.c             essay; transactions: begin, update, apply, commit, abort
 *     log-file.c        creating, opening, closing; clients
 *     log-area.c        restart areas
 *     log-append.c      records into buffers, buffers into the ring: flush, group commit
 *     log-space.c       what is free, reserved, and waited for
 *     log-reader.c      pages and records back from the file; where the log ends
 *     log-checkpoint.c  checkpoints
 *     log-rollback.c    undoing, of one transaction or of all that a crash has left
 *     log-analysis.c    what a stretch of log says about transactions
 *     log-recover.c     recovery
 *     log-scan.c        reading a log from outside
 */
#pragma once

#include <pthread.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/io.h"
#include "basic/vector.h"
#include "log/log-format.h"
#include "log/log-io.h"

/* ---- what a file is ---- */

struct wal_geometry {
    uint8_t id[UMBRA_LOG_ID_LEN];
    uint64_t file_bytes;
    uint64_t ring_bytes;
    uint64_t flush_bytes;
};

static inline uint64_t wal_offset_of(const struct wal_geometry *g, umbra_log_lsn lsn)
{
    return WAL_PAGE_BYTES + lsn % g->ring_bytes;
}

static inline umbra_log_lsn wal_page_of(umbra_log_lsn lsn)
{
    return lsn - lsn % WAL_PAGE_BYTES;
}

static inline umbra_log_lsn wal_page_up(umbra_log_lsn lsn)
{
    return wal_page_of(lsn + WAL_PAGE_BYTES - 1);
}

/* A restart area, decoded. */
struct wal_state {
    uint64_t sequence;
    uint32_t incarnation;
    umbra_log_lsn checkpoint_lsn, redo_lsn, oldest_lsn, durable_lsn;
    uint64_t next_txn;
    struct wal_client_state {
        char name[UMBRA_LOG_NAME_MAX + 1]; /* "": none */
        uint8_t manager;
        uint16_t restart_len;
        uint8_t restart[UMBRA_LOG_RESTART_MAX];
    } clients[UMBRA_LOG_CLIENTS_MAX];
};

struct wal_areas {
    struct wal_geometry geometry;
    struct wal_state state; /* of the newest good one */
    bool good[WAL_AREA_COUNT];
    uint16_t version;
};

void wal_area_encode(const struct wal_geometry *g, const struct wal_state *state,
                     struct wal_area *ret_area);
/* -UMBRA_E_CORRUPT without a note, or -UMBRA_E_VERSION. */
_must_check_ int wal_area_decode(const struct wal_area *area, struct wal_geometry *ret_geometry,
                                 struct wal_state *ret_state, uint16_t *ret_version);
/* expected_id may be NULL.  file_bytes: as it is now. */
_must_check_ int wal_areas_read(struct io_file *file, const char *name, uint64_t file_bytes,
                                const uint8_t *expected_id, struct wal_areas *ret_areas);
/* Both, one after the other, each synced.  Raises state->sequence. */
_must_check_ int wal_areas_write(struct io_file *file, const struct wal_geometry *g,
                                 struct wal_state *state);

/* ---- reading ---- */

struct wal_reader {
    struct io_file *file;
    const char *name;
    struct wal_geometry geometry;
    uint8_t *window; /* window_pages pages, which lie one behind the other in the ring */
    uint64_t window_pages;
    umbra_log_lsn window_lsn; /* of its first page; 0: empty */
    uint64_t window_len;      /* pages that are loaded */
    uint8_t *verified;        /* of each page of the window: whether it was */
    struct buffer record;     /* the bytes of the record last read */
};

_must_check_ int wal_reader_init(struct wal_reader *reader, struct io_file *file, const char *name,
                                 const struct wal_geometry *g);
void wal_reader_release(struct wal_reader *reader);
/* Valid until the next call.  -UMBRA_E_CORRUPT, without a note, when that page is not there; a page
 * that is wrong is read again some times first. */
_must_check_ int wal_reader_page(struct wal_reader *reader, umbra_log_lsn page_lsn,
                                 const struct wal_page_header **ret_page);
/* The record at lsn, which must end at or before end_lsn.  Its parts are valid until the next call.
 * *ret_next: behind it. */
_must_check_ int wal_reader_record(struct wal_reader *reader, umbra_log_lsn lsn,
                                   umbra_log_lsn end_lsn, struct umbra_log_record *ret_record,
                                   umbra_log_lsn *ret_next);
/* Moves from behind a record to the next one; -ENODATA, without a note: there is none before
 * end_lsn. */
_must_check_ int wal_reader_next(struct wal_reader *reader, umbra_log_lsn end_lsn,
                                 umbra_log_lsn *lsn);
/* "... at offset N, LSN N: what" */
_must_check_ int wal_reader_damage(const struct wal_reader *reader, umbra_log_lsn lsn,
                                   const char *what);

struct wal_end {
    umbra_log_lsn lsn; /* the first page that is not part of the log */
    uint32_t last_checksum;
    uint32_t incarnation; /* of the last page; 0: there is none */
};

/* Follows the pages from that of from_lsn.  durable_lsn: as an area has it.  *ret_end is written on
 * damage, too: the end of what is good. */
_must_check_ int wal_find_end(struct wal_reader *reader, umbra_log_lsn from_lsn,
                              umbra_log_lsn durable_lsn, struct wal_end *ret_end);

/* Checksum of a page, with its own field taken as zero. */
uint32_t wal_page_checksum(const uint8_t *page);

/* ---- the open log ---- */

/* A record that is to be appended. */
struct wal_draft {
    enum umbra_log_record_type type;
    uint8_t client, manager;
    uint16_t op;
    uint64_t txn;
    uint8_t flags; /* enum wal_record_flags */
    umbra_log_lsn prev_lsn, undo_next_lsn, undoes_lsn;
    const void *redo, *undo;
    size_t redo_len, undo_len;
};

/* An update that is only remembered yet. */
struct wal_update {
    uint8_t client;
    uint16_t op;
    uint32_t redo_len, undo_len;
    size_t offset;     /* of the redo part in the transaction's data; the undo part follows */
    umbra_log_lsn lsn; /* once it is appended */
};
DEFINE_VECTOR(wal_update_vector, struct wal_update);

struct umbra_log_client {
    struct umbra_log *log;
    uint8_t index;
    const struct umbra_log_manager *manager; /* NULL: not attached */
    void *userdata;
};

enum wal_txn_state {
    WAL_TXN_ACTIVE,
    WAL_TXN_UNDOING,
    WAL_TXN_COMMITTED, /* its last redo() calls are running */
};

struct umbra_log_txn {
    struct umbra_log *log;
    struct umbra_log_txn *prev, *next; /* in log->txns */
    uint64_t id;
    enum wal_txn_state state;
    bool waiting; /* for space */
    umbra_log_lsn first_lsn, last_lsn;
    umbra_log_lsn undo_next_lsn; /* as the log has it */
    umbra_log_lsn cursor_lsn;    /* while undoing: the next to be read */
    /* From here on, appended records may not have been done.  0: all have. */
    umbra_log_lsn applying_lsn;
    umbra_log_lsn void_lsn; /* updates from here on were never done; 0: all were */
    uint64_t reserved_bytes;
    uint64_t queued_bytes;      /* of the log, to append what is remembered */
    uint64_t queued_undo_bytes; /* to undo it */
    struct wal_update_vector queue;
    struct buffer data;
};

struct wal_buffer {
    uint8_t *pages;    /* geometry.flush_bytes, aligned */
    umbra_log_lsn lsn; /* of the first page */
};

/*
 * Locks: one, log->lock.  Not held while anything is read, written or synced, nor while a client is
 * called.  Whoever calls *_locked holds it; those that say so let go of it in between.
 *   - the buffer that is not active belongs to whoever has set flushing;
 *   - areas are written, and area_state changed, by whoever has set checkpointing;
 *   - a transaction's queue and data belong to its thread.
 */
struct umbra_log {
    struct io_file *file; /* to read, through the page cache */
    struct io_file *out;  /* to write */
    struct io *own_io;    /* freed with the log; NULL: not its own */
    int lock_fd;          /* holds the lock against other processes; -EBADF: none */
    char *name;           /* for messages */
    struct wal_geometry geometry;
    uint64_t checkpoint_bytes;
    unsigned flags;
    struct wal_areas found; /* as read when it was opened */

    pthread_mutex_t lock;
    pthread_cond_t
        flushed[2];      /* durable_lsn, flushing, failure; by the buffer that is waited for */
    pthread_cond_t room; /* tail_lsn, reserved_bytes, txns, checkpointing, failure */
    uint64_t room_count; /* how often something was given back */
    bool ready;          /* recovered, or new */
    struct error_report failure;

    struct wal_buffer buffers[2];
    unsigned active;
    umbra_log_lsn head_lsn;    /* where the next record goes, save a page header */
    umbra_log_lsn durable_lsn; /* all pages before are durable */
    bool flushing;
    uint32_t last_checksum; /* of the page before the active buffer's first; the flusher's */
    uint32_t incarnation;

    umbra_log_lsn tail_lsn; /* pages before may be overwritten: no area needs them */
    uint64_t reserved_bytes;
    umbra_log_lsn checkpoint_head_lsn; /* head_lsn when the last checkpoint was taken */
    bool checkpointing;
    struct wal_state state; /* what the areas say */

    struct umbra_log_txn *txns;
    uint32_t txn_count;
    uint64_t next_txn;
    struct umbra_log_client clients[UMBRA_LOG_CLIENTS_MAX];
    uint64_t flush_count, checkpoint_count, commit_count;
};

/* ---- log-append.c ---- */

uint64_t wal_record_bytes(uint64_t redo_len, uint64_t undo_len); /* with its padding */
size_t wal_data_max(const struct wal_geometry *g);
/* The failure that everything ends with, or 0. */
_must_check_ int wal_failure_locked(const struct umbra_log *log);
/* Makes r, with its words, the failure; returns it. */
int wal_fail_locked(struct umbra_log *log, int r);
int wal_fail(struct umbra_log *log, int r);
/* Lets go of the lock when the buffer is full.  Space must have been made sure of. */
_must_check_ int wal_append_locked(struct umbra_log *log, const struct wal_draft *draft,
                                   umbra_log_lsn *ret_lsn);
/* Until so many bytes of records can be appended without letting go of the lock; lets go of it. */
_must_check_ int wal_make_fit_locked(struct umbra_log *log, uint64_t record_bytes);
/* Both let go of the lock.  Until all records that begin before lsn are durable. */
_must_check_ int wal_flush_locked(struct umbra_log *log, umbra_log_lsn lsn);
_must_check_ int wal_flush_all_locked(struct umbra_log *log);
_must_check_ int wal_buffers_new(struct umbra_log *log);
/* Appending begins at this page. */
void wal_buffers_start(struct umbra_log *log, const struct wal_end *end);

/* ---- log-space.c ---- */

/* The most of the ring that so many bytes of records take, with page headers and padding. */
uint64_t wal_cost(const struct wal_geometry *g, uint64_t record_bytes);
/* What is kept for checkpoints. */
uint64_t wal_kept(const struct wal_geometry *g);
/* What every transaction has reserved: to commit it, or to begin and to end its undoing. */
uint64_t wal_txn_base(const struct wal_geometry *g);
/* Room for one checkpoint. */
uint64_t wal_checkpoint_cost(const struct wal_geometry *g);
uint64_t wal_free_locked(const struct umbra_log *log);
/* Waits until need bytes are free and the reserves are untouched, taking a checkpoint if that
 * helps; then adds them to log->reserved_bytes, and to those of txn (may be NULL).  Lets go of the
 * lock. */
_must_check_ int wal_reserve_locked(struct umbra_log *log, struct umbra_log_txn *txn,
                                    uint64_t need);
void wal_unreserve_locked(struct umbra_log *log, struct umbra_log_txn *txn, uint64_t bytes);

/* ---- log-checkpoint.c ---- */

/* Lets go of the lock; waits for one that is running and returns without taking another.  -ENOSPC:
 * clients still need too much of a full log. */
_must_check_ int wal_checkpoint_locked(struct umbra_log *log);
_must_check_ int wal_checkpoint_if_due_locked(struct umbra_log *log);
/* What a checkpoint would keep if all clients were durable: the oldest record that undo needs, or
 * redo. */
umbra_log_lsn wal_oldest_undo_locked(const struct umbra_log *log);
umbra_log_lsn wal_oldest_redo_locked(const struct umbra_log *log);
/* Writes both areas with log->state as it is.  The caller has set checkpointing.  Lets go of the
 * lock. */
_must_check_ int wal_write_state_locked(struct umbra_log *log);

/* What an end record says.  -UMBRA_E_CORRUPT without a note. */
struct wal_checkpoint {
    umbra_log_lsn redo_lsn, oldest_lsn;
    umbra_log_lsn client_redo_lsn[UMBRA_LOG_CLIENTS_MAX];
    uint64_t next_txn;
    uint32_t txn_count;
    const struct wal_checkpoint_txn *txns; /* in the record */
};
_must_check_ int wal_checkpoint_decode(const struct umbra_log_record *record,
                                       struct wal_checkpoint *ret_checkpoint);

/* ---- log-analysis.c ---- */

struct wal_seen_txn {
    uint64_t id;
    umbra_log_lsn first_lsn, last_lsn, undo_next_lsn, void_lsn;
    bool undone; /* wholly or in part */
    bool over;
};
DEFINE_VECTOR(wal_seen_vector, struct wal_seen_txn);

struct wal_analysis {
    struct wal_seen_vector txns; /* by id; those that were committed are gone */
    uint64_t next_txn;
    umbra_log_lsn end_record_lsn; /* of the last checkpoint that is complete; 0: none */
    umbra_log_lsn redo_lsn, oldest_lsn;
    umbra_log_lsn client_redo_lsn[UMBRA_LOG_CLIENTS_MAX];
    uint64_t record_count;
};
void wal_analysis_release(struct wal_analysis *analysis);
_must_check_ int wal_analysis_add(struct wal_analysis *analysis, const struct wal_reader *reader,
                                  const struct umbra_log_record *record);
const struct wal_seen_txn *wal_analysis_find(const struct wal_analysis *analysis, uint64_t id);

/* ---- log-rollback.c ---- */

/* Undoes these transactions, whose states are WAL_TXN_UNDOING, the newest update first. */
_must_check_ int wal_rollback(struct umbra_log *log, struct umbra_log_txn *txns[], size_t count,
                              bool recovering, uint64_t *ret_undo_count);

/* ---- log.c ---- */

void wal_txn_free(struct umbra_log_txn *txn);
_must_check_ int wal_check_ready_locked(const struct umbra_log *log);
