/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "log/test-log-table.h"

#include <stdio.h>
#include <string.h>

#include "basic/le.h"
#include "basic/test.h"

struct cell {
    le64_t value, lsn;
};

struct part {
    le32_t cell;
    le64_t value;
};

static const char path[] = "cells";

void table_open(struct table *table, struct io *io)
{
    static const uint8_t zeros[TABLE_CELLS * sizeof(struct cell)];
    struct iovec iov = {.iov_base = (void *)(uintptr_t)zeros, .iov_len = sizeof(zeros)};
    struct io_stat st;

    *table = (struct table){.lock = PTHREAD_MUTEX_INITIALIZER};
    bool is_new = io_stat(io, path, &st) < 0;
    ASSERT_OK(io_open(io, path, IO_READ | IO_WRITE | (is_new ? IO_CREATE : 0), &table->file));
    if (!is_new)
        return;
    ASSERT_OK(io_pwritev(table->file, &iov, 1, 0));
    ASSERT_OK(io_sync(table->file));
    ASSERT_OK(io_sync_dir(io, ""));
}

void table_close(struct table *table)
{
    io_close(table->file);
    table->file = NULL;
}

static int read_cell(struct table *table, uint32_t index, struct cell *ret_cell)
{
    size_t len = 0;
    ASSERT_LT(index, TABLE_CELLS);
    int r = io_pread(table->file, ret_cell, sizeof(*ret_cell), index * sizeof(*ret_cell), &len);
    if (r == 0)
        ASSERT_EQ(len, sizeof(*ret_cell));
    return r;
}

int64_t table_get(struct table *table, uint32_t cell)
{
    struct cell c;
    ASSERT_OK(read_cell(table, cell, &c));
    return (int64_t)le64_get(&c.value);
}

/* sign: 1 to do it, -1 to take it back. */
static int change(struct table *table, const struct umbra_log_change *change, int64_t sign)
{
    struct part part;
    struct cell cell;

    ASSERT_EQ(change->len, sizeof(part));
    memcpy(&part, change->data, sizeof(part));
    int64_t value = (int64_t)le64_get(&part.value);
    uint32_t index = le32_get(&part.cell);
    int r = read_cell(table, index, &cell);
    if (r < 0)
        return r;
    /* Also what is found done need not be durable yet. */
    if (table->oldest_lsn == 0)
        table->oldest_lsn = change->lsn;
    /* The table is the witness that nothing is done twice. */
    if (le64_get(&cell.lsn) >= change->lsn) {
        ASSERT_TRUE(change->recovering);
        return 0;
    }
    if (change->op == TABLE_ADD)
        value = (int64_t)le64_get(&cell.value) + sign * value;
    cell = (struct cell){.value = le64_make((uint64_t)value), .lsn = le64_make(change->lsn)};
    struct iovec iov = {.iov_base = &cell, .iov_len = sizeof(cell)};
    return io_pwritev(table->file, &iov, 1, index * sizeof(cell));
}

static int table_redo(void *userdata, const struct umbra_log_change *c)
{
    struct table *table = userdata;
    pthread_mutex_lock(&table->lock);
    table->redo_count++;
    int r = 0;
    if (c->op == TABLE_FAIL || (c->op == TABLE_FAIL_ONCE && !c->recovering))
        r = error_note(-EDOM, "this cannot be done");
    else if (c->op != TABLE_FAIL_ONCE)
        r = change(table, c, 1);
    pthread_mutex_unlock(&table->lock);
    return r;
}

static int table_undo(void *userdata, const struct umbra_log_change *c)
{
    struct table *table = userdata;
    pthread_mutex_lock(&table->lock);
    table->undo_count++;
    int r = c->op == TABLE_FAIL || c->op == TABLE_FAIL_ONCE ? 0 : change(table, c, -1);
    pthread_mutex_unlock(&table->lock);
    return r;
}

static int table_note(void *userdata, const struct umbra_log_change *c)
{
    struct table *table = userdata;
    ASSERT_TRUE(c->recovering);
    table->note_count++;
    return 0;
}

static int checkpoint_locked(struct table *table, umbra_log_lsn *oldest_lsn)
{
    table->checkpoint_count++;
    if (table->fail_checkpoint < 0)
        return error_note(table->fail_checkpoint, "the table cannot be synced");
    if (table->lazy) {
        if (table->oldest_lsn != 0)
            *oldest_lsn = MIN(*oldest_lsn, table->oldest_lsn);
        return 0;
    }
    int r = io_sync(table->file);
    if (r == 0)
        table->oldest_lsn = 0;
    return r;
}

static int table_checkpoint(void *userdata, umbra_log_lsn *oldest_lsn)
{
    struct table *table = userdata;
    pthread_mutex_lock(&table->lock);
    int r = checkpoint_locked(table, oldest_lsn);
    pthread_mutex_unlock(&table->lock);
    return r;
}

static void table_describe(const struct umbra_log_record *record, char *text, size_t size)
{
    struct part part;
    if (record->redo_len != sizeof(part))
        return;
    memcpy(&part, record->redo, sizeof(part));
    (void)snprintf(text, size, "cell %u", le32_get(&part.cell));
}

const struct umbra_log_manager table_manager = {
    .id = UMBRA_LOG_MANAGER_TEST,
    .redo = table_redo,
    .undo = table_undo,
    .note = table_note,
    .checkpoint = table_checkpoint,
    .describe = table_describe,
};

const struct umbra_log_manager table_manager_any = {
    .id = UMBRA_LOG_MANAGER_TEST,
    .flags = UMBRA_LOG_UNDO_ANY,
    .redo = table_redo,
    .undo = table_undo,
    .note = table_note,
    .checkpoint = table_checkpoint,
    .describe = table_describe,
};

static int update(struct umbra_log_txn *txn, struct umbra_log_client *client, enum table_op op,
                  uint32_t cell, int64_t value, int64_t undo_value)
{
    const struct part redo = {.cell = le32_make(cell), .value = le64_make((uint64_t)value)};
    const struct part undo = {.cell = le32_make(cell), .value = le64_make((uint64_t)undo_value)};
    return umbra_log_update(txn, client, (uint16_t)op, &redo, sizeof(redo), &undo, sizeof(undo));
}

int table_set(struct umbra_log_txn *txn, struct umbra_log_client *client, uint32_t cell,
              int64_t value, int64_t old_value)
{
    return update(txn, client, TABLE_SET, cell, value, old_value);
}

int table_add(struct umbra_log_txn *txn, struct umbra_log_client *client, uint32_t cell,
              int64_t value)
{
    return update(txn, client, TABLE_ADD, cell, value, value);
}

int table_fail(struct umbra_log_txn *txn, struct umbra_log_client *client, enum table_op op)
{
    return update(txn, client, op, 0, 0, 0);
}
