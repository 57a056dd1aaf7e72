/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Recovery, checkpoints, a full log, a failed one.  Power cuts: tests/sim/sim-log.c. */
#include "basic/io-crash.h"
#include "basic/test.h"
#include "log/log-private.h"
#include "log/test-log-table.h"

#define FLUSH_BYTES (8 * WAL_PAGE_BYTES)
#define FILE_BYTES  (66 * WAL_PAGE_BYTES)

struct world {
    struct io *io;
    const struct umbra_log_manager *manager;
    struct umbra_log *log;
    struct umbra_log_client *client;
    struct table table;
    struct umbra_log_recovery recovery; /* the last one */
};

static const struct umbra_log_options small = {.file_bytes = FILE_BYTES,
                                               .flags = UMBRA_LOG_NO_WAIT};

static struct wal_place place_of(struct io *io)
{
    return (struct wal_place){.io = io, .path = "log", .name = "log"};
}

static void world_make_on(struct world *w, struct io *io, const struct umbra_log_options *options,
                          uint64_t flush_bytes)
{
    const struct wal_place place = place_of(io);
    w->io = io;
    table_open(&w->table, io);
    ASSERT_OK(wal_create(&place, options, flush_bytes, &w->log));
    ASSERT_OK(umbra_log_attach(w->log, "table", w->manager, &w->table, &w->client));
}

static void world_make(struct world *w)
{
    struct io *io;
    *w = (struct world){.manager = &table_manager};
    ASSERT_OK(io_new_memory(1, &io));
    world_make_on(w, io, &small, FLUSH_BYTES);
}

static void world_release(struct world *w)
{
    umbra_log_free(w->log);
    table_close(&w->table);
    io_free(w->io);
}

/* The process dies. */
static void die(struct world *w)
{
    umbra_log_free(TAKE_PTR(w->log));
    table_close(&w->table);
}

static int live_again(struct world *w)
{
    const struct wal_place place = place_of(w->io);
    table_open(&w->table, w->io);
    ASSERT_OK(wal_open(&place, &small, &w->log));
    ASSERT_OK(umbra_log_attach(w->log, "table", w->manager, &w->table, &w->client));
    return umbra_log_recover(w->log, &w->recovery);
}

static void die_and_recover(struct world *w)
{
    die(w);
    ASSERT_OK(live_again(w));
}

static struct umbra_log_txn *begin(struct world *w)
{
    struct umbra_log_txn *txn;
    ASSERT_OK(umbra_log_begin(w->log, &txn));
    return txn;
}

static int try_commit(struct world *w, uint32_t cell, int64_t value)
{
    struct umbra_log_txn *txn;
    int r = umbra_log_begin(w->log, &txn);
    if (r < 0)
        return r;
    ASSERT_OK(table_set(txn, w->client, cell, value, table_get(&w->table, cell)));
    r = umbra_log_commit(txn, 0, NULL);
    if (r < 0)
        IGNORE_RESULT(umbra_log_abort(txn));
    return r;
}

static void commit_one(struct world *w, uint32_t cell, int64_t value)
{
    ASSERT_OK(try_commit(w, cell, value));
}

TEST(committed_stays_and_the_rest_is_undone)
{
    CLEANUP(world_release) struct world w;
    world_make(&w);
    commit_one(&w, 1, 10);
    struct umbra_log_txn *txn = begin(&w);
    ASSERT_OK(table_set(txn, w.client, 1, 11, 10));
    ASSERT_OK(table_add(txn, w.client, 2, 5));
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_EQ(table_get(&w.table, 1), 11);
    die_and_recover(&w);
    ASSERT_EQ(table_get(&w.table, 1), 10);
    ASSERT_EQ(table_get(&w.table, 2), 0);
    ASSERT_EQ(w.recovery.undo_count, 2);
    ASSERT_EQ(w.recovery.rolled_back_txns, 1);
    commit_one(&w, 1, 12);
    die_and_recover(&w);
    ASSERT_EQ(table_get(&w.table, 1), 12);
    ASSERT_EQ(w.recovery.undo_count, 0);
}

TEST(a_closed_log_has_nothing_to_recover_and_does_not_grow)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_stat first, last;
    world_make(&w);
    commit_one(&w, 1, 10);
    ASSERT_OK(umbra_log_close(TAKE_PTR(w.log)));
    table_close(&w.table);
    ASSERT_OK(live_again(&w));
    ASSERT_EQ(w.recovery.redo_count, 0);
    umbra_log_stat(w.log, &first);
    for (unsigned i = 0; i < 5; i++) {
        ASSERT_OK(umbra_log_close(TAKE_PTR(w.log)));
        table_close(&w.table);
        ASSERT_OK(live_again(&w));
        die_and_recover(&w);
    }
    umbra_log_stat(w.log, &last);
    ASSERT_EQ(first.end_lsn, last.end_lsn);
}

TEST(an_undo_that_bears_anything_spares_the_redo)
{
    CLEANUP(world_release) struct world w;
    for (unsigned any = 0; any < 2; any++) {
        world_make(&w);
        w.manager = any ? &table_manager_any : &table_manager;
        die_and_recover(&w);
        struct umbra_log_txn *txn = begin(&w);
        for (uint32_t i = 0; i < 10; i++)
            ASSERT_OK(table_set(txn, w.client, i, 1, 0));
        ASSERT_OK(umbra_log_apply(txn));
        die_and_recover(&w);
        ASSERT_EQ(w.recovery.redo_count, any ? 0 : 10);
        ASSERT_EQ(w.recovery.undo_count, 10);
        ASSERT_EQ(table_get(&w.table, 3), 0);
        if (any == 0)
            world_release(&w);
    }
}

TEST(a_failed_redo_does_not_fail_the_recovery_that_undoes_it)
{
    CLEANUP(world_release) struct world w;
    world_make(&w);
    w.manager = &table_manager_any;
    die_and_recover(&w);
    struct umbra_log_txn *txn = begin(&w);
    ASSERT_OK(table_set(txn, w.client, 1, 1, 0));
    ASSERT_OK(table_fail(txn, w.client, TABLE_FAIL));
    ASSERT_ERR(umbra_log_apply(txn), -EDOM);
    die_and_recover(&w);
    ASSERT_EQ(table_get(&w.table, 1), 0);
}

TEST(a_failed_redo_after_the_commit_is_for_recovery)
{
    CLEANUP(world_release) struct world w;
    world_make(&w);
    struct umbra_log_txn *txn = begin(&w);
    ASSERT_OK(table_set(txn, w.client, 1, 1, 0));
    ASSERT_OK(table_fail(txn, w.client, TABLE_FAIL));
    ASSERT_ERR(umbra_log_commit(txn, 0, NULL), -EDOM);
    ASSERT_ERR(umbra_log_abort(txn), -EDOM);
    ASSERT_ERR(try_commit(&w, 2, 2), -EDOM);
    die(&w);
    ASSERT_ERR(live_again(&w), -EDOM);
    ASSERT_EQ(table_get(&w.table, 1), 1); /* committed: nothing takes it back */
}

TEST(a_failed_sync_is_final)
{
    CLEANUP(world_release) struct world w = {.manager = &table_manager};
    struct io *memory, *io;
    struct umbra_log_txn *txn;
    ASSERT_OK(io_new_memory(1, &memory));
    ASSERT_OK(io_new_fault(memory, &io));
    world_make_on(&w, io, &small, FLUSH_BYTES);
    commit_one(&w, 1, 1);
    txn = begin(&w);
    ASSERT_OK(table_set(txn, w.client, 1, 2, 1));
    io_fault_set(io, IO_FAULT_SYNC, 1, 1, EIO);
    ASSERT_ERR(umbra_log_apply(txn), -EIO);
    ASSERT_EQ(table_get(&w.table, 1), 1);
    /* The next sync would succeed, but what it says is worth nothing. */
    ASSERT_ERR(umbra_log_abort(txn), -EIO);
    ASSERT_ERR(umbra_log_begin(w.log, &txn), -EIO);
    ASSERT_ERR(umbra_log_checkpoint(w.log), -EIO);
    ASSERT_ERR(umbra_log_set_restart(w.client, "x", 1), -EIO);
    die_and_recover(&w);
    ASSERT_EQ(table_get(&w.table, 1), 1);
    commit_one(&w, 1, 3);
}

TEST(any_write_may_fail)
{
    for (uint64_t nth = 1; nth < 200; nth++) {
        CLEANUP(world_release) struct world w = {.manager = &table_manager};
        struct io *memory, *io;
        int r = 0;
        ASSERT_OK(io_new_memory(1, &memory));
        ASSERT_OK(io_new_fault(memory, &io));
        world_make_on(&w, io, &small, FLUSH_BYTES);
        io_fault_set(io, nth % 2 ? IO_FAULT_WRITE : IO_FAULT_SYNC, nth / 2 + 1, 1, EIO);
        int64_t last = 0;
        for (int64_t i = 1; i <= 60 && r == 0; i++) {
            r = try_commit(&w, 7, i);
            if (r == 0)
                last = i;
        }
        io_fault_set(io, nth % 2 ? IO_FAULT_WRITE : IO_FAULT_SYNC, 0, 0, 0);
        die_and_recover(&w);
        int64_t found = table_get(&w.table, 7);
        ASSERT_TRUE(found == last || found == last + 1);
    }
}

TEST(restart_records_and_clients_of_one_log)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_client *second;
    struct table other = {.file = NULL};
    char text[16] = "";
    world_make(&w);
    ASSERT_OK(umbra_log_attach(w.log, "second", &table_manager_any, &other, &second));
    ASSERT_OK(umbra_log_set_restart(w.client, "first record", 13));
    ASSERT_OK(umbra_log_set_restart(second, "second one", 11));
    ASSERT_OK(umbra_log_set_restart(w.client, "third", 6));
    die_and_recover(&w);
    ASSERT_EQ(umbra_log_get_restart(w.client, text, sizeof(text)), 6);
    ASSERT_STREQ(text, "third");
    ASSERT_OK(umbra_log_attach(w.log, "second", &table_manager_any, &other, &second));
    ASSERT_EQ(umbra_log_get_restart(second, text, sizeof(text)), 11);
    ASSERT_STREQ(text, "second one");
    ASSERT_ERR(umbra_log_attach(w.log, "second", &table_manager_any, &other, &second), -EEXIST);
    ASSERT_ERR(umbra_log_set_restart(second, text, UMBRA_LOG_RESTART_MAX + 1), -EMSGSIZE);
    for (unsigned i = 2; i < UMBRA_LOG_CLIENTS_MAX; i++) {
        (void)snprintf(text, sizeof(text), "client %u", i);
        ASSERT_OK(umbra_log_attach(w.log, text, &table_manager, &other, &second));
    }
    ASSERT_ERR(umbra_log_attach(w.log, "one more", &table_manager, &other, &second), -ENOSPC);
}

TEST(a_client_with_records_has_to_be_attached)
{
    CLEANUP(world_release) struct world w;
    world_make(&w);
    commit_one(&w, 1, 1);
    die(&w);
    const struct wal_place place = place_of(w.io);
    ASSERT_OK(wal_open(&place, &small, &w.log));
    ASSERT_ERR(umbra_log_recover(w.log, NULL), -ENOENT);
    umbra_log_free(TAKE_PTR(w.log));
    ASSERT_OK(live_again(&w));
    ASSERT_EQ(table_get(&w.table, 1), 1);
}

TEST(notes_come_back_in_recovery)
{
    CLEANUP(world_release) struct world w;
    umbra_log_lsn lsn = 0;
    world_make(&w);
    ASSERT_OK(umbra_log_note(w.client, 3, "a note", 6, NULL));
    ASSERT_OK(umbra_log_note(w.client, 4, NULL, 0, &lsn));
    ASSERT_OK(umbra_log_flush(w.log, lsn));
    ASSERT_OK(umbra_log_note(w.client, 5, "not flushed", 11, &lsn));
    die_and_recover(&w);
    ASSERT_EQ(w.table.note_count, 2);
    ASSERT_OK(umbra_log_checkpoint(w.log));
    die_and_recover(&w);
    ASSERT_EQ(w.table.note_count, 0);
}

TEST(a_small_log_bears_any_number_of_transactions)
{
    CLEANUP(world_release) struct world w;
    world_make(&w);
    for (int64_t i = 0; i < 2000; i++) {
        commit_one(&w, (uint32_t)i % TABLE_CELLS, i);
        if (i % 300 == 299)
            die_and_recover(&w);
    }
    for (int64_t i = 2000 - TABLE_CELLS; i < 2000; i++)
        ASSERT_EQ(table_get(&w.table, (uint32_t)i % TABLE_CELLS), i);
    ASSERT_GT(w.table.checkpoint_count, 3);
}

TEST(a_long_transaction_fills_the_log_and_can_still_be_undone)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_stat stat;
    world_make(&w);
    struct umbra_log_txn *txn = begin(&w);
    int r = 0;
    int64_t n = 0;
    for (; r == 0; n++) {
        ASSERT_OK(table_add(txn, w.client, 5, 1));
        r = umbra_log_apply(txn);
    }
    ASSERT_ERR(r, -ENOSPC);
    ASSERT_EQ(table_get(&w.table, 5), n - 1);
    ASSERT_ERR(try_commit(&w, 6, 1), -ENOSPC);
    ASSERT_OK(umbra_log_abort(txn));
    ASSERT_EQ(table_get(&w.table, 5), 0);
    umbra_log_stat(w.log, &stat);
    ASSERT_EQ(stat.txn_count, 0);
    for (int64_t i = 0; i < 100; i++)
        commit_one(&w, 6, i);
}

TEST(a_full_log_is_recovered_too)
{
    CLEANUP(world_release) struct world w;
    world_make(&w);
    struct umbra_log_txn *txn = begin(&w);
    int r = 0;
    while (r == 0) {
        for (unsigned i = 0; i < 7; i++)
            ASSERT_OK(table_add(txn, w.client, 5, 1));
        r = umbra_log_apply(txn);
    }
    ASSERT_ERR(r, -ENOSPC);
    die_and_recover(&w);
    ASSERT_EQ(table_get(&w.table, 5), 0);
    ASSERT_EQ(w.recovery.undo_count % 7, 0);
    commit_one(&w, 5, 1);
}

TEST(a_client_that_cannot_checkpoint_holds_the_log_up_and_loses_nothing)
{
    CLEANUP(world_release) struct world w;
    int r = 0;
    int64_t n = 0;
    world_make(&w);
    w.table.fail_checkpoint = -EROFS;
    while (r == 0)
        r = try_commit(&w, 1, ++n);
    ASSERT_ERR(r, -EROFS);
    for (unsigned i = 0; i < 20; i++)
        ASSERT_ERR(umbra_log_checkpoint(w.log), -EROFS);
    w.table.fail_checkpoint = 0;
    commit_one(&w, 2, 1);
    die_and_recover(&w);
    ASSERT_EQ(table_get(&w.table, 1), n - 1);
    /* One that needs everything, too. */
    w.table.lazy = true;
    for (r = 0; r == 0; n++)
        r = try_commit(&w, 1, n);
    ASSERT_ERR(r, -ENOSPC);
    for (unsigned i = 0; i < 20; i++)
        IGNORE_RESULT(umbra_log_checkpoint(w.log));
    ASSERT_ERR(umbra_log_checkpoint(w.log), -ENOSPC);
    w.table.lazy = false;
    commit_one(&w, 2, 2);
}

TEST(a_log_of_the_computed_size_takes_the_plan)
{
    static uint8_t part[3000];
    static const struct {
        uint64_t count;
        size_t redo_len, undo_len;
    } plans[] = {{1, 0, 0}, {20000, 150, 90}, {3000, 1, 3000}, {900, 3000, 2}, {30000, 13, 13}};

    for (size_t i = 0; i < ELEMENTSOF(plans); i++) {
        CLEANUP(world_release) struct world w = {.manager = &table_manager_any};
        struct io *io;
        struct umbra_log_stat stat;
        const struct umbra_log_options options = {
            .file_bytes = umbra_log_size_for(plans[i].count, plans[i].count * plans[i].redo_len,
                                             plans[i].count * plans[i].undo_len),
            .flags = UMBRA_LOG_NO_WAIT};
        ASSERT_OK(io_new_memory(1, &io));
        world_make_on(&w, io, &options, 0);
        struct umbra_log_txn *txn = begin(&w);
        for (uint64_t n = 0; n < plans[i].count; n++)
            ASSERT_OK(umbra_log_update(txn, w.client, TABLE_FAIL, part, plans[i].redo_len, part,
                                       plans[i].undo_len));
        ASSERT_ERR(umbra_log_apply(txn), -EDOM); /* the first redo(): all is appended */
        umbra_log_stat(w.log, &stat);
        ASSERT_GT(stat.used_bytes, plans[i].count * (plans[i].redo_len + plans[i].undo_len));
        ASSERT_LE(options.file_bytes, UMBRA_LOG_FILE_MIN + 4 * stat.used_bytes);
        ASSERT_OK(umbra_log_abort(txn));
        die_and_recover(&w);
    }
}

TEST(too_many_transactions_at_a_time)
{
    CLEANUP(world_release) struct world w = {.manager = &table_manager};
    const struct umbra_log_options options = {.file_bytes = 8 * MIB, .flags = UMBRA_LOG_NO_WAIT};
    struct umbra_log_txn *txns[UMBRA_LOG_TXNS_MAX], *one;
    struct io *io;
    ASSERT_OK(io_new_memory(1, &io));
    world_make_on(&w, io, &options, 0);
    for (uint32_t i = 0; i < UMBRA_LOG_TXNS_MAX; i++) {
        txns[i] = begin(&w);
        ASSERT_OK(table_add(txns[i], w.client, i % TABLE_CELLS, 1));
        ASSERT_OK(umbra_log_apply(txns[i]));
    }
    ASSERT_ERR(umbra_log_begin(w.log, &one), -EAGAIN);
    ASSERT_OK(umbra_log_checkpoint(w.log));
    ASSERT_OK(umbra_log_commit(txns[3], 0, NULL));
    die_and_recover(&w);
    ASSERT_EQ(w.recovery.rolled_back_txns, UMBRA_LOG_TXNS_MAX - 1);
    for (uint32_t i = 0; i < TABLE_CELLS; i++)
        ASSERT_EQ(table_get(&w.table, i), i == 3);
}

TEST_MAIN()
