/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creating, transactions, reading back, and logs that are refused. */
#include <stdlib.h>
#include <unistd.h>

#include "basic/crc32c.h"
#include "basic/io-crash.h"
#include "basic/test.h"
#include "log/log-private.h"
#include "log/test-log-table.h"

#define FLUSH_BYTES (8 * WAL_PAGE_BYTES)
#define FILE_BYTES  (66 * WAL_PAGE_BYTES)

struct world {
    struct io *io;
    struct umbra_log *log;
    struct umbra_log_client *client;
    struct table table;
};

static const struct umbra_log_options small = {.file_bytes = FILE_BYTES,
                                               .flags = UMBRA_LOG_NO_WAIT};
static const uint8_t some_id[UMBRA_LOG_ID_LEN] = "some tree";

static struct wal_place place_of(struct io *io)
{
    return (struct wal_place){.io = io, .path = "log", .name = "log"};
}

static void world_make_with(struct world *w, const struct umbra_log_options *options)
{
    *w = (struct world){0};
    ASSERT_OK(io_new_memory(1, &w->io));
    table_open(&w->table, w->io);
    const struct wal_place place = place_of(w->io);
    ASSERT_OK(wal_create(&place, options, FLUSH_BYTES, &w->log));
    ASSERT_OK(umbra_log_attach(w->log, "table", &table_manager, &w->table, &w->client));
}

static void world_make(struct world *w)
{
    world_make_with(w, &small);
}

static void world_release(struct world *w)
{
    umbra_log_free(w->log);
    table_close(&w->table);
    io_free(w->io);
}

static void commit_one(struct world *w, uint32_t cell, int64_t value)
{
    struct umbra_log_txn *txn;
    ASSERT_OK(umbra_log_begin(w->log, &txn));
    ASSERT_OK(table_set(txn, w->client, cell, value, table_get(&w->table, cell)));
    ASSERT_OK(umbra_log_commit(txn, 0, NULL));
}

static int scan(struct io *io, const struct umbra_log_scan_options *options,
                struct umbra_log_info *ret_info)
{
    const struct wal_place place = place_of(io);
    return wal_scan(&place, options, ret_info);
}

static const struct umbra_log_scan_options just_scan;

TEST(a_new_log_is_empty_and_ready)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_info info;
    world_make(&w);
    ASSERT_OK(scan(w.io, &just_scan, &info));
    ASSERT_EQ(info.record_count, 0);
    ASSERT_EQ(info.file_bytes, FILE_BYTES);
    ASSERT_TRUE(info.area_good[0] && info.area_good[1]);
    ASSERT_ERR(umbra_log_recover(w.log, NULL), -EALREADY);
}

TEST(commit_does_what_was_remembered_with_one_flush)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_txn *txn;
    struct umbra_log_stat before, after;
    world_make(&w);
    umbra_log_stat(w.log, &before);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 3, 30, 0));
    ASSERT_OK(table_add(txn, w.client, 3, 4));
    ASSERT_EQ(table_get(&w.table, 3), 0);
    ASSERT_OK(umbra_log_commit(txn, 0, NULL));
    ASSERT_EQ(table_get(&w.table, 3), 34);
    umbra_log_stat(w.log, &after);
    ASSERT_EQ(after.flush_count, before.flush_count + 1);
    ASSERT_EQ(after.txn_count, 0);
    ASSERT_EQ(after.reserved_bytes, before.reserved_bytes);
}

TEST(nothing_is_done_before_it_is_durable)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_txn *txn;
    struct umbra_log_stat stat;
    world_make(&w);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 1, 1, 0));
    ASSERT_EQ(w.table.redo_count, 0);
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_EQ(w.table.redo_count, 1);
    umbra_log_stat(w.log, &stat);
    ASSERT_EQ(stat.durable_lsn, stat.end_lsn);
    ASSERT_OK(umbra_log_commit(txn, 0, NULL));
}

TEST(abort_takes_back_in_reverse_order)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_txn *txn;
    world_make(&w);
    commit_one(&w, 5, 1);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 5, 2, 1));
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_OK(table_set(txn, w.client, 5, 3, 2));
    ASSERT_OK(table_add(txn, w.client, 6, 7));
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_EQ(table_get(&w.table, 5), 3);
    ASSERT_OK(table_set(txn, w.client, 9, 9, 0)); /* remembered only */
    ASSERT_OK(umbra_log_abort(txn));
    ASSERT_EQ(table_get(&w.table, 5), 1);
    ASSERT_EQ(table_get(&w.table, 6), 0);
    ASSERT_EQ(w.table.undo_count, 3);
}

TEST(a_failed_redo_leaves_a_transaction_to_abort)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_txn *txn;
    world_make(&w);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 1, 1, 0));
    ASSERT_OK(table_fail(txn, w.client, TABLE_FAIL));
    ASSERT_OK(table_set(txn, w.client, 2, 2, 0));
    ASSERT_ERR(umbra_log_apply(txn), -EDOM);
    ASSERT_EQ(table_get(&w.table, 1), 1);
    ASSERT_EQ(table_get(&w.table, 2), 0);
    ASSERT_ERR(umbra_log_commit(txn, 0, NULL), -EINVAL);
    ASSERT_OK(umbra_log_abort(txn));
    ASSERT_EQ(table_get(&w.table, 1), 0);
    ASSERT_EQ(w.table.undo_count, 1); /* neither of the failed one, nor of the one never done */
    commit_one(&w, 2, 5);
    ASSERT_EQ(table_get(&w.table, 2), 5);
}

TEST(an_asynchronous_commit_is_durable_after_a_flush)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_txn *txn;
    struct umbra_log_stat stat;
    umbra_log_lsn lsn;
    world_make(&w);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 1, 1, 0));
    ASSERT_ERR(umbra_log_commit(txn, UMBRA_LOG_ASYNC, &lsn), -EINVAL);
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_OK(umbra_log_commit(txn, UMBRA_LOG_ASYNC, &lsn));
    umbra_log_stat(w.log, &stat);
    ASSERT_LE(stat.durable_lsn, lsn);
    ASSERT_OK(umbra_log_flush(w.log, lsn));
    umbra_log_stat(w.log, &stat);
    ASSERT_GT(stat.durable_lsn, lsn);
}

TEST(an_empty_transaction_writes_nothing)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_txn *txn;
    struct umbra_log_stat before, after;
    umbra_log_lsn lsn = 7;
    world_make(&w);
    umbra_log_stat(w.log, &before);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(umbra_log_commit(txn, 0, &lsn));
    ASSERT_EQ(lsn, 0);
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(umbra_log_abort(txn));
    umbra_log_stat(w.log, &after);
    ASSERT_EQ(before.end_lsn, after.end_lsn);
}

struct collected {
    size_t count;
    enum umbra_log_record_type types[64];
    char last[64];
};

static int collect(const struct umbra_log_record *record, void *userdata)
{
    struct collected *c = userdata;
    ASSERT_LT(c->count, ELEMENTSOF(c->types));
    c->types[c->count++] = record->type;
    if (record->type == UMBRA_LOG_UPDATE)
        table_manager.describe(record, c->last, sizeof(c->last));
    return 0;
}

TEST(the_reader_gives_back_what_was_written)
{
    CLEANUP(world_release) struct world w;
    struct collected c = {0};
    const struct umbra_log_scan_options options = {.record = collect, .userdata = &c};
    struct umbra_log_info info;
    struct umbra_log_txn *txn;
    world_make(&w);
    commit_one(&w, 1, 1);
    ASSERT_OK(umbra_log_set_restart(w.client, "here", 4));
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 2, 2, 0));
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_OK(umbra_log_abort(txn));
    ASSERT_OK(umbra_log_begin(w.log, &txn));
    ASSERT_OK(table_set(txn, w.client, 44, 2, 0));
    ASSERT_OK(umbra_log_apply(txn));
    ASSERT_OK(scan(w.io, &options, &info));
    static const enum umbra_log_record_type expected[] = {
        UMBRA_LOG_UPDATE, UMBRA_LOG_COMMIT,       UMBRA_LOG_RESTART, UMBRA_LOG_UPDATE,
        UMBRA_LOG_ABORT,  UMBRA_LOG_COMPENSATION, UMBRA_LOG_END,     UMBRA_LOG_UPDATE,
    };
    ASSERT_EQ(c.count, ELEMENTSOF(expected));
    ASSERT_MEMEQ(c.types, expected, sizeof(expected));
    ASSERT_STREQ(c.last, "cell 44");
    ASSERT_EQ(info.open_txns, 1);
    ASSERT_STREQ(info.client_names[0], "table");
    ASSERT_OK(umbra_log_abort(txn));
}

static int check_filled(const struct umbra_log_record *record, void *userdata)
{
    unsigned *count = userdata;
    if (record->type != UMBRA_LOG_NOTE)
        return 0;
    for (uint32_t i = 0; i < record->redo_len; i++)
        ASSERT_EQ(record->redo[i], (uint8_t)(record->op + i));
    (*count)++;
    return 0;
}

TEST(records_of_any_length_come_back)
{
    CLEANUP(world_release) struct world w;
    uint64_t random = 5;
    unsigned seen = 0;
    static uint8_t data[4 * WAL_PAGE_BYTES];
    struct umbra_log_info info;
    const struct umbra_log_scan_options options = {.record = check_filled, .userdata = &seen};
    size_t most;
    world_make(&w);
    most = wal_data_max(&w.log->geometry);
    ASSERT_LE(most, sizeof(data));
    for (unsigned n = 0; n < 300; n++) {
        size_t len = n < 40 ? n : n % 7 == 0 ? most - n % 3 : test_random(&random) % 600;
        for (size_t i = 0; i < len; i++)
            data[i] = (uint8_t)(n + i);
        ASSERT_OK(umbra_log_note(w.client, (uint16_t)n, data, len, NULL));
    }
    ASSERT_ERR(umbra_log_note(w.client, 0, data, most + 1, NULL), -EMSGSIZE);
    ASSERT_OK(umbra_log_flush(w.log, UINT64_MAX - 1));
    ASSERT_OK(scan(w.io, &options, &info));
    ASSERT_GT(seen, 5);
}

/* ---- what is refused ---- */

static void flip(struct io *io, uint64_t offset)
{
    struct io_file *file;
    uint8_t byte;
    size_t len;
    ASSERT_OK(io_open(io, "log", IO_READ | IO_WRITE, &file));
    ASSERT_OK(io_pread(file, &byte, 1, offset, &len));
    byte ^= 4;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    ASSERT_OK(io_pwritev(file, &iov, 1, offset));
    io_close(file);
}

static int try_open(struct io *io, const uint8_t *id)
{
    const struct wal_place place = place_of(io);
    const struct umbra_log_options options = {.id = id};
    struct umbra_log *log = NULL;
    int r = wal_open(&place, &options, &log);
    umbra_log_free(log);
    return r;
}

TEST(one_bad_restart_area_is_borne_and_two_are_not)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_info info;
    world_make(&w);
    flip(w.io, 40);
    ASSERT_OK(try_open(w.io, NULL));
    ASSERT_OK(scan(w.io, &just_scan, &info));
    ASSERT_FALSE(info.area_good[0]);
    ASSERT_TRUE(info.area_good[1]);
    flip(w.io, FILE_BYTES - 100);
    ASSERT_ERR(try_open(w.io, NULL), -UMBRA_E_CORRUPT);
    flip(w.io, 40);
    ASSERT_OK(try_open(w.io, NULL));
}

TEST(a_log_of_something_else_is_refused)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_options options = small;
    options.id = some_id;
    world_make_with(&w, &options);
    ASSERT_OK(try_open(w.io, some_id));
    ASSERT_ERR(try_open(w.io, (const uint8_t *)"another tree    "), -UMBRA_E_FOREIGN);
    ASSERT_EQ(umbra_log_error_class(-UMBRA_E_FOREIGN), EXDEV);
}

TEST(a_newer_format_is_refused)
{
    CLEANUP(world_release) struct world w;
    struct io_file *file;
    struct wal_area area;
    struct wal_geometry g;
    struct wal_state state;
    uint16_t version;
    size_t len;
    world_make(&w);
    ASSERT_OK(io_open(w.io, "log", IO_READ | IO_WRITE, &file));
    ASSERT_OK(io_pread(file, &area, sizeof(area), 0, &len));
    ASSERT_OK(wal_area_decode(&area, &g, &state, &version));
    area.version = le16_make(WAL_VERSION + 1);
    area.checksum = le32_make(0);
    area.checksum = le32_make(crc32c(0, &area, sizeof(area)));
    struct iovec iov = {.iov_base = &area, .iov_len = sizeof(area)};
    ASSERT_OK(io_pwritev(file, &iov, 1, 0));
    io_close(file);
    ASSERT_ERR(try_open(w.io, NULL), -UMBRA_E_VERSION);
}

TEST(a_log_that_is_cut_short_is_refused)
{
    CLEANUP(world_release) struct world w;
    struct io_file *file;
    world_make(&w);
    ASSERT_OK(io_open(w.io, "log", IO_READ | IO_WRITE, &file));
    ASSERT_OK(io_truncate(file, FILE_BYTES - 4096));
    ASSERT_ERR(try_open(w.io, NULL), -UMBRA_E_CORRUPT);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_CORRUPT), "cut short") != NULL);
    ASSERT_OK(io_truncate(file, 100));
    ASSERT_ERR(try_open(w.io, NULL), -UMBRA_E_CORRUPT);
    ASSERT_OK(io_truncate(file, 0));
    ASSERT_ERR(try_open(w.io, NULL), -UMBRA_E_CORRUPT);
    io_close(file);
}

TEST(damage_in_the_middle_is_named_and_refused)
{
    CLEANUP(world_release) struct world w;
    struct umbra_log_info info;
    world_make(&w);
    for (uint32_t i = 0; i < 5; i++)
        commit_one(&w, i, i + 1);
    /* The third of five flushes of a page each; the ring begins behind area A, its first page is
     * the second of the ring. */
    flip(w.io, 4096 + 3 * 4096 + 70);
    ASSERT_ERR(scan(w.io, &just_scan, &info), -UMBRA_E_CORRUPT);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_CORRUPT), "offset 16384, LSN 12288") != NULL);
    flip(w.io, 4096 + 3 * 4096 + 70);
    ASSERT_OK(scan(w.io, &just_scan, &info));
}

TEST(a_full_disk_leaves_no_log_behind)
{
    struct io *memory, *io;
    struct umbra_log *log;
    struct io_stat st;
    ASSERT_OK(io_new_memory(1, &memory));
    ASSERT_OK(io_new_fault(memory, &io));
    io_fault_set_space(io, 100000);
    const struct wal_place place = place_of(io);
    ASSERT_ERR(wal_create(&place, &small, FLUSH_BYTES, &log), -ENOSPC);
    ASSERT_ERR(io_stat(io, "log", &st), -ENOENT);
    ASSERT_ERR(io_stat(io, "tmp-log", &st), -ENOENT);
    io_fault_set_space(io, UINT64_MAX);
    ASSERT_OK(wal_create(&place, &small, FLUSH_BYTES, &log));
    umbra_log_free(log);
    ASSERT_ERR(wal_create(&place, &small, FLUSH_BYTES, &log), -EEXIST);
    io_free(io);
}

TEST(real_files_and_their_lock)
{
    char path[4096];
    struct umbra_log *log, *other;
    const struct umbra_log_options options = {.file_bytes = UMBRA_LOG_FILE_MIN, .id = some_id};
    uint8_t id[UMBRA_LOG_ID_LEN];
    (void)snprintf(path, sizeof(path), "%s/log", test_tmpdir());
    ASSERT_OK(umbra_log_create(path, &options, &log));
    ASSERT_ERR(umbra_log_open(path, NULL, &other), -EBUSY);
    umbra_log_id(log, id);
    ASSERT_MEMEQ(id, some_id, sizeof(id));
    ASSERT_OK(umbra_log_close(log));
    ASSERT_OK(umbra_log_open(path, &options, &log));
    struct umbra_log_txn *txn;
    ASSERT_ERR(umbra_log_begin(log, &txn), -EBUSY);
    ASSERT_OK(umbra_log_recover(log, NULL));
    ASSERT_OK(umbra_log_close(log));
    ASSERT_EQ(unlink(path), 0);
    ASSERT_ERR(umbra_log_open(path, &options, &log), -ENOENT);
}

TEST_MAIN()
