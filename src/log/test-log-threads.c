/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many threads at one log: group commit, back-pressure, checkpoints in between. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "basic/test.h"
#include "log/log-private.h"
#include "log/test-log-table.h"

#define THREADS 8u

struct world {
    struct io *io;
    struct umbra_log *log;
    struct umbra_log_client *client;
    struct table table;
    unsigned rounds;
    atomic_bool over;
};

struct worker {
    struct world *world;
    pthread_t thread;
    uint32_t cell; /* its own */
    int64_t sum;   /* of what it has committed */
};

static struct wal_place place_of(struct io *io)
{
    return (struct wal_place){.io = io, .path = "log", .name = "log"};
}

/* No NO_WAIT: who finds the log full waits for the others. */
static void world_make(struct world *w, uint64_t file_bytes, unsigned rounds)
{
    const struct umbra_log_options options = {.file_bytes = file_bytes};
    *w = (struct world){.rounds = rounds};
    ASSERT_OK(io_new_memory(1, &w->io));
    const struct wal_place place = place_of(w->io);
    table_open(&w->table, w->io);
    ASSERT_OK(wal_create(&place, &options, 8 * WAL_PAGE_BYTES, &w->log));
    ASSERT_OK(umbra_log_attach(w->log, "table", &table_manager, &w->table, &w->client));
}

static void world_release(struct world *w)
{
    umbra_log_free(w->log);
    table_close(&w->table);
    io_free(w->io);
}

/* A full log, with all others waiting too, ends the transaction: it is tried again. */
static void one_transaction(struct worker *worker, unsigned round)
{
    struct world *w = worker->world;
    struct umbra_log_txn *txn;
    unsigned updates = 1 + round % 5;
    int r;

    do {
        ASSERT_OK(umbra_log_begin(w->log, &txn));
        for (unsigned i = 0; i < updates; i++)
            ASSERT_OK(table_add(txn, w->client, worker->cell, 1));
        r = round % 3 ? umbra_log_apply(txn) : 0;
        if (r == 0 && round % 7 != 6)
            r = umbra_log_commit(txn, round % 3 == 1 ? UMBRA_LOG_ASYNC : 0, NULL);
        else
            ASSERT_OK(umbra_log_abort(TAKE_PTR(txn)));
        if (r < 0 && txn) {
            ASSERT_ERR(r, -ENOSPC);
            ASSERT_OK(umbra_log_abort(txn));
        }
    } while (r < 0);
    if (round % 7 != 6)
        worker->sum += updates;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (unsigned round = 0; round < worker->world->rounds; round++)
        one_transaction(worker, round);
    return NULL;
}

static void *take_checkpoints(void *argument)
{
    struct world *w = argument;
    struct umbra_log_stat stat;
    while (!atomic_load(&w->over)) {
        ASSERT_OK(umbra_log_checkpoint(w->log));
        umbra_log_stat(w->log, &stat);
        ASSERT_LE(stat.used_bytes, stat.ring_bytes);
        const struct umbra_log_scan_options options = {0};
        const struct wal_place place = place_of(w->io);
        struct umbra_log_info info;
        IGNORE_RESULT(wal_scan(&place, &options, &info)); /* of a log that changes: any outcome */
    }
    return NULL;
}

static void run(struct world *w, bool with_checkpoints)
{
    struct worker workers[THREADS];
    pthread_t checkpointer;

    if (with_checkpoints)
        ASSERT_EQ(pthread_create(&checkpointer, NULL, take_checkpoints, w), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.world = w, .cell = i};
        ASSERT_EQ(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++)
        ASSERT_EQ(pthread_join(workers[i].thread, NULL), 0);
    atomic_store(&w->over, true);
    if (with_checkpoints)
        ASSERT_EQ(pthread_join(checkpointer, NULL), 0);
    for (uint32_t i = 0; i < THREADS; i++)
        ASSERT_EQ(table_get(&w->table, i), workers[i].sum);
    ASSERT_OK(umbra_log_flush(w->log, UINT64_MAX - 1));
    umbra_log_free(w->log);
    table_close(&w->table);

    const struct wal_place place = place_of(w->io);
    const struct umbra_log_options options = {0};
    table_open(&w->table, w->io);
    ASSERT_OK(wal_open(&place, &options, &w->log));
    ASSERT_OK(umbra_log_attach(w->log, "table", &table_manager, &w->table, &w->client));
    ASSERT_OK(umbra_log_recover(w->log, NULL));
    for (uint32_t i = 0; i < THREADS; i++)
        ASSERT_EQ(table_get(&w->table, i), workers[i].sum);
}

TEST(transactions_beside_checkpoints)
{
    CLEANUP(world_release) struct world w;
    world_make(&w, 4 * MIB, 300);
    run(&w, true);
}

TEST(a_log_that_is_too_small_for_all_of_them)
{
    CLEANUP(world_release) struct world w;
    world_make(&w, 36 * WAL_PAGE_BYTES, 300);
    run(&w, false);
}

TEST_MAIN()
