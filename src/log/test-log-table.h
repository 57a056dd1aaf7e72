/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client for the tests of the log: a table of numbers in a file, each with the LSN of its last
 * change.
 *
 *     TABLE_SET   sets a number; idempotent by construction
 *     TABLE_ADD   adds to a number; only the LSN keeps it from being added twice
 *     TABLE_FAIL  redo() fails, undo() does nothing
 *     TABLE_FAIL_ONCE  the same, but not in recovery
 */
#pragma once

#include <pthread.h>

#include "basic/io.h"
#include "log/log-io.h"

#define TABLE_CELLS 64u

enum table_op { TABLE_SET, TABLE_ADD, TABLE_FAIL, TABLE_FAIL_ONCE };

struct table {
    struct io_file *file;
    pthread_mutex_t lock; /* guards all below while there are threads */
    bool lazy; /* checkpoint() does not sync, and says so by the LSN of the oldest change */
    umbra_log_lsn oldest_lsn;
    unsigned redo_count, undo_count, note_count, checkpoint_count;
    int fail_checkpoint; /* what checkpoint() returns */
};

/* Repeats history; with _any its undo() bears updates that were never done (TABLE_SET only). */
extern const struct umbra_log_manager table_manager, table_manager_any;

/* "cells" in io; made when it is not there. */
void table_open(struct table *table, struct io *io);
void table_close(struct table *table);
int64_t table_get(struct table *table, uint32_t cell);

/* Remembers a change of one cell.  TABLE_SET: value; old_value is for undo.  TABLE_ADD: value. */
_must_check_ int table_set(struct umbra_log_txn *txn, struct umbra_log_client *client,
                           uint32_t cell, int64_t value, int64_t old_value);
_must_check_ int table_add(struct umbra_log_txn *txn, struct umbra_log_client *client,
                           uint32_t cell, int64_t value);
/* TABLE_FAIL or TABLE_FAIL_ONCE. */
_must_check_ int table_fail(struct umbra_log_txn *txn, struct umbra_log_client *client,
                            enum table_op op);
