/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log service against a model, on a disk that loses power and a cable that flips bits.
 *
 *     sim-log --seeds 1..20000 [--rounds N] [--jobs N]
 *
 * The log and the table of its client lie on a simulated disk with a volatile cache
 * (basic/io-crash.h): what was written since the last sync is kept, dropped or torn at random, in
 * any order.  In half of the seeds each read of the log may have one bit flipped.  A seed makes one
 * log, whose size, flushes and manager it chooses, and some rounds of
 *
 *     up to four transactions at a time, with everything that they can do, until the power goes at
 *     a random sync
 *     recovery, also cut, again and again
 *
 * after each of which must hold:
 *
 *   1. what was reported as durable is there;
 *   2. of what was not, a prefix in the order of the commits is there, each whole or not at all,
 * and nothing that was not committed;
 *   3. the same disk, recovered without a cut, gives the same table;
 *   4. one bit that is flipped on that disk for good gives the same table, or is refused and
 * nothing is changed; where the log is needed and not its very last flush, it is always refused.
 *
 * The table itself (log/test-log-table.c) fails when anything is done twice.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/io-crash.h"
#include "basic/test.h"
#include "log/log-private.h"
#include "log/test-log-table.h"

#include "sim.h"

#define TXNS_MAX    4u
#define CELLS       24u
#define PENDING_MAX 64u
#define STEPS_MAX   120u
#define CUTS_MAX    6u

/* ---- the model ---- */

struct values {
    int64_t cell[CELLS];
    uint64_t restart;
};

struct sim_txn {
    struct umbra_log_txn *txn; /* NULL: none */
    struct values after;       /* of its own cells */
    bool owns[CELLS];
    bool has_queue;
    bool failed; /* a redo() has; it can only be aborted */
};

struct sim {
    uint64_t random;
    struct io *disk;  /* the crash simulator */
    struct io *cable; /* what the log sees of it */
    uint64_t flush_bytes;
    const struct umbra_log_manager *manager;
    bool lazy;

    struct umbra_log *log;
    struct umbra_log_client *client;
    struct table table;

    /* states[0]: what is durable; those behind it: what may be, in the order of the commits */
    struct values states[PENDING_MAX];
    size_t state_count;
    struct values now; /* all commits, durable or not */
    struct sim_txn txns[TXNS_MAX];
    bool owned[CELLS];
};

static uint64_t below(struct sim *sim, uint64_t n)
{
    return test_random(&sim->random) % n;
}

/* All that was committed so far is durable. */
static void model_durable(struct sim *sim)
{
    sim->states[0] = sim->now;
    sim->state_count = 1;
}

/* One more state that may be found after a power cut. */
static void model_push(struct sim *sim)
{
    ASSERT_LT(sim->state_count, PENDING_MAX);
    sim->states[sim->state_count++] = sim->now;
}

/* ---- a cable that flips bits ---- */

struct cable {
    struct io io;
    struct io *disk;
    uint64_t random;
    unsigned one_in; /* 0: none */
};

struct cable_file {
    struct io_file file;
    struct cable *cable;
    struct io_file *inner;
};

static struct cable *cable_of(struct io *io)
{
    return CONTAINER_OF(io, struct cable, io);
}

static struct cable_file *cable_file_of(struct io_file *file)
{
    return CONTAINER_OF(file, struct cable_file, file);
}

static int cable_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct cable_file *f = calloc(1, sizeof(*f));
    ASSERT_TRUE(f != NULL);
    int r = io_open(cable_of(io)->disk, path, flags, &f->inner);
    if (r < 0) {
        free(f);
        return r;
    }
    f->file.ops = io->ops;
    f->cable = cable_of(io);
    *ret_file = &f->file;
    return 0;
}

static void cable_close(struct io_file *file)
{
    io_close(cable_file_of(file)->inner);
    free(cable_file_of(file));
}

static int cable_pread(struct io_file *file, void *data, size_t len, uint64_t offset,
                       size_t *ret_len)
{
    struct cable *c = cable_file_of(file)->cable;
    int r = io_pread(cable_file_of(file)->inner, data, len, offset, ret_len);
    if (r == 0 && c->one_in > 0 && *ret_len > 0 && test_random(&c->random) % c->one_in == 0)
        ((uint8_t *)data)[test_random(&c->random) % *ret_len] ^=
            (uint8_t)(1u << test_random(&c->random) % 8);
    return r;
}

static int cable_pwritev(struct io_file *file, const struct iovec *iov, size_t n, uint64_t offset)
{
    return io_pwritev(cable_file_of(file)->inner, iov, n, offset);
}

static int cable_sync(struct io_file *file)
{
    return io_sync(cable_file_of(file)->inner);
}

static int cable_stat(struct io *io, const char *path, struct io_stat *ret_stat)
{
    return io_stat(cable_of(io)->disk, path, ret_stat);
}

static void cable_free(struct io *io)
{
    free(cable_of(io));
}

/* What an open log uses. */
static const struct io_ops cable_ops = {
    .open = cable_open,
    .close = cable_close,
    .pread = cable_pread,
    .pwritev = cable_pwritev,
    .sync = cable_sync,
    .stat = cable_stat,
    .free = cable_free,
};

static struct io *cable_new(struct io *disk, uint64_t seed, unsigned one_in)
{
    struct cable *c = calloc(1, sizeof(*c));
    ASSERT_TRUE(c != NULL);
    *c = (struct cable){.io.ops = &cable_ops, .disk = disk, .random = seed, .one_in = one_in};
    return &c->io;
}

/* ---- the machine ---- */

static bool crashed(const struct sim *sim)
{
    return io_crash_crashed(sim->disk);
}

/* 0, or the power is gone. */
static bool alive(const struct sim *sim, int r)
{
    if (r >= 0)
        return true;
    if (!crashed(sim))
        ASSERT_OK(r); /* fails, and shows it */
    return false;
}

static struct wal_place place_of(struct io *io)
{
    return (struct wal_place){.io = io, .path = "log", .name = "log"};
}

static const struct umbra_log_options open_options = {.flags = UMBRA_LOG_NO_WAIT,
                                                      .checkpoint_bytes = 20 * WAL_PAGE_BYTES};

static void machine_off(struct sim *sim)
{
    umbra_log_free(TAKE_PTR(sim->log));
    if (sim->table.file)
        table_close(&sim->table);
    memset(sim->txns, 0, sizeof(sim->txns));
    memset(sim->owned, 0, sizeof(sim->owned));
}

/* Recovers; 0, or an error of recovery. */
static int machine_on(struct sim *sim)
{
    const struct wal_place place = place_of(sim->cable);
    table_open(&sim->table, sim->disk);
    sim->table.lazy = sim->lazy;
    int r = wal_open(&place, &open_options, &sim->log);
    if (r == 0)
        r = umbra_log_attach(sim->log, "table", sim->manager, &sim->table, &sim->client);
    if (r == 0)
        r = umbra_log_recover(sim->log, NULL);
    return r;
}

static void read_values(struct sim *sim, struct values *ret_values)
{
    *ret_values = (struct values){0};
    for (uint32_t i = 0; i < CELLS; i++)
        ret_values->cell[i] = table_get(&sim->table, i);
    size_t len = umbra_log_get_restart(sim->client, &ret_values->restart, sizeof(uint64_t));
    ASSERT_TRUE(len == 0 || len == sizeof(uint64_t));
}

/* ---- what transactions do ---- */

static void commit_in_model(struct sim *sim, const struct sim_txn *t)
{
    for (uint32_t i = 0; i < CELLS; i++)
        if (t->owns[i])
            sim->now.cell[i] = t->after.cell[i];
}

static void forget_txn(struct sim *sim, struct sim_txn *t)
{
    for (uint32_t i = 0; i < CELLS; i++)
        if (t->owns[i])
            sim->owned[i] = false;
    *t = (struct sim_txn){0};
}

/* Of a full log only: the transaction is over. */
static bool abort_txn(struct sim *sim, struct sim_txn *t)
{
    int r = umbra_log_abort(t->txn);
    if (!alive(sim, r))
        return false;
    forget_txn(sim, t);
    return true;
}

/* A full log ends the transaction, any other error has to be the power. */
static bool alive_or_full(struct sim *sim, struct sim_txn *t, int r)
{
    if (r == -ENOSPC && !crashed(sim))
        return abort_txn(sim, t);
    return alive(sim, r);
}

static bool step_begin(struct sim *sim, struct sim_txn *t)
{
    int r = umbra_log_begin(sim->log, &t->txn);
    if (r == -ENOSPC && !crashed(sim))
        return true;
    return alive(sim, r);
}

static void step_update(struct sim *sim, struct sim_txn *t)
{
    uint32_t cell = (uint32_t)below(sim, CELLS);
    int64_t value = (int64_t)below(sim, 1000);
    if (sim->owned[cell] && !t->owns[cell])
        return;
    if (!t->owns[cell]) {
        t->after.cell[cell] = sim->now.cell[cell];
        t->owns[cell] = sim->owned[cell] = true;
    }
    if (sim->manager == &table_manager && below(sim, 2)) {
        ASSERT_OK(table_add(t->txn, sim->client, cell, value));
        t->after.cell[cell] += value;
    } else {
        ASSERT_OK(table_set(t->txn, sim->client, cell, value, t->after.cell[cell]));
        t->after.cell[cell] = value;
    }
    t->has_queue = true;
}

static bool step_apply(struct sim *sim, struct sim_txn *t)
{
    int r = umbra_log_apply(t->txn);
    if (r < 0)
        return alive_or_full(sim, t, r);
    if (t->has_queue)
        model_durable(sim); /* its flush took everything before along */
    t->has_queue = false;
    return true;
}

/* One of several redo() calls fails.  Until the abort, anything else may happen. */
static bool step_fail(struct sim *sim, struct sim_txn *t)
{
    step_update(sim, t);
    ASSERT_OK(table_fail(t->txn, sim->client, TABLE_FAIL_ONCE));
    step_update(sim, t);
    int r = umbra_log_apply(t->txn);
    if (r != -EDOM)
        return alive_or_full(sim, t, r);
    t->failed = true;
    model_durable(sim);
    return true;
}

static bool step_commit(struct sim *sim, struct sim_txn *t)
{
    bool async = !t->has_queue && below(sim, 3) == 0 && sim->state_count + 2 < PENDING_MAX;
    struct values before = sim->now;
    umbra_log_lsn lsn;
    commit_in_model(sim, t);
    model_push(sim);
    int r = umbra_log_commit(t->txn, async ? UMBRA_LOG_ASYNC : 0, &lsn);
    if (r == -ENOSPC && !crashed(sim)) {
        sim->now = before;
        sim->state_count--;
        return abort_txn(sim, t);
    }
    if (!alive(sim, r))
        return false;
    if (!async && lsn != 0)
        model_durable(sim);
    forget_txn(sim, t);
    return true;
}

static bool step_txn(struct sim *sim, struct sim_txn *t)
{
    if (!t->txn)
        return step_begin(sim, t);
    if (t->failed)
        return below(sim, 3) > 0 || abort_txn(sim, t);
    switch (below(sim, 11)) {
    case 0:
    case 1: return step_commit(sim, t);
    case 2: return abort_txn(sim, t);
    case 3: return step_apply(sim, t);
    case 4: return below(sim, 4) > 0 || step_fail(sim, t);
    default: step_update(sim, t); return true;
    }
}

/* ---- what the log does besides ---- */

static bool step_restart_record(struct sim *sim)
{
    uint64_t before = sim->now.restart;
    if (sim->state_count + 2 >= PENDING_MAX)
        return true;
    sim->now.restart = 1 + below(sim, 1000000);
    model_push(sim);
    int r = umbra_log_set_restart(sim->client, &sim->now.restart, sizeof(uint64_t));
    if (r == -ENOSPC && !crashed(sim)) {
        sim->now.restart = before;
        sim->state_count--;
        return true;
    }
    if (!alive(sim, r))
        return false;
    model_durable(sim);
    return true;
}

static bool step_note(struct sim *sim)
{
    static const uint8_t bytes[6000];
    int r = umbra_log_note(sim->client, 1, bytes, below(sim, sizeof(bytes)), NULL);
    return (r == -ENOSPC && !crashed(sim)) || alive(sim, r);
}

static bool step_checkpoint(struct sim *sim)
{
    int r = umbra_log_checkpoint(sim->log);
    if (r == -ENOSPC && !crashed(sim))
        return true;
    if (!alive(sim, r))
        return false;
    model_durable(sim);
    return true;
}

/* Ended properly, or only killed: then the cache lives on, and what is in it counts as durable. */
static bool step_reopen(struct sim *sim)
{
    for (unsigned i = 0; i < TXNS_MAX; i++)
        if (sim->txns[i].txn && !abort_txn(sim, &sim->txns[i]))
            return false;
    int r = umbra_log_close(TAKE_PTR(sim->log));
    if ((r != -ENOSPC || crashed(sim)) && !alive(sim, r))
        return false;
    model_durable(sim);
    machine_off(sim);
    return alive(sim, machine_on(sim));
}

static bool step_flush(struct sim *sim)
{
    if (!alive(sim, umbra_log_flush(sim->log, UINT64_MAX - 1)))
        return false;
    model_durable(sim);
    return true;
}

static bool step(struct sim *sim)
{
    switch (below(sim, 40)) {
    case 0: return step_restart_record(sim);
    case 1: return step_note(sim);
    case 2: return step_checkpoint(sim);
    case 3: return below(sim, 4) > 0 || step_reopen(sim);
    case 4: return step_flush(sim);
    default: return step_txn(sim, &sim->txns[below(sim, TXNS_MAX)]);
    }
}

static void work_until_the_power_goes(struct sim *sim)
{
    io_crash_at_sync(sim->disk, io_crash_sync_count(sim->disk) + 1 + below(sim, 25));
    for (unsigned i = 0; i < STEPS_MAX && !crashed(sim); i++)
        if (!step(sim))
            break;
    machine_off(sim);
    if (!crashed(sim))
        io_crash_now(sim->disk);
    io_crash_at_sync(sim->disk, 0);
    io_crash_reboot(sim->disk);
}

/* ---- other histories of the same disk ---- */

/* A second machine with a copy of the disk. */
static void fork_machine(struct sim *sim, struct sim *ret_fork)
{
    *ret_fork = (struct sim){.random = test_random(&sim->random),
                             .manager = sim->manager,
                             .lazy = sim->lazy,
                             .flush_bytes = sim->flush_bytes};
    ASSERT_OK(io_crash_clone(sim->disk, test_random(&sim->random), &ret_fork->disk));
    ret_fork->cable = cable_new(ret_fork->disk, 1, 0);
}

static void scrap_machine(struct sim *sim)
{
    machine_off(sim);
    io_free(sim->cable);
    io_free(sim->disk);
}

/* What a recovery without any cut gives. */
static void recover_in_one_go(struct sim *sim, struct values *ret_values)
{
    CLEANUP(scrap_machine) struct sim other;
    fork_machine(sim, &other);
    ASSERT_OK(machine_on(&other));
    read_values(&other, ret_values);
}

/* Where damage can lie, in LSNs. */
struct regions {
    uint64_t ring_bytes;
    umbra_log_lsn undo_lsn, redo_lsn, last_flush_lsn, end_lsn;
};

static void find_regions(struct sim *sim, struct regions *ret_regions)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    CLEANUP(wal_reader_release) struct wal_reader reader = {0};
    const struct wal_page_header *h;
    struct wal_areas areas;
    struct wal_end end;
    struct io_stat st;
    ASSERT_OK(io_stat(sim->disk, "log", &st));
    ASSERT_OK(io_open(sim->disk, "log", IO_READ, &file));
    ASSERT_OK(wal_areas_read(file, "log", st.size_bytes, NULL, &areas));
    ASSERT_OK(wal_reader_init(&reader, file, "log", &areas.geometry));
    umbra_log_lsn redo = areas.state.redo_lsn ? areas.state.redo_lsn : WAL_LSN_FIRST;
    umbra_log_lsn undo = areas.state.oldest_lsn ? areas.state.oldest_lsn : WAL_LSN_FIRST;
    ASSERT_OK(wal_find_end(&reader, redo, areas.state.durable_lsn, &end));
    *ret_regions = (struct regions){.ring_bytes = areas.geometry.ring_bytes,
                                    .undo_lsn = wal_page_of(undo),
                                    .redo_lsn = wal_page_of(redo),
                                    .last_flush_lsn = end.lsn,
                                    .end_lsn = end.lsn};
    if (end.lsn == wal_page_of(redo))
        return;
    ASSERT_OK(wal_reader_page(&reader, end.lsn - WAL_PAGE_BYTES, &h));
    ret_regions->last_flush_lsn =
        end.lsn - (le16_get(&h->flush_index) + UINT64_C(1)) * WAL_PAGE_BYTES;
    /* What an area says to be durable is not doubtful, also in the last flush. */
    if (areas.state.durable_lsn >= end.lsn)
        ret_regions->last_flush_lsn = end.lsn;
}

static void flip_bit(struct io *disk, uint64_t offset, unsigned bit)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    uint8_t byte;
    size_t len;
    ASSERT_OK(io_open(disk, "log", IO_READ | IO_WRITE, &file));
    ASSERT_OK(io_pread(file, &byte, 1, offset, &len));
    ASSERT_EQ(len, 1);
    byte ^= (uint8_t)(1u << bit);
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    ASSERT_OK(io_pwritev(file, &iov, 1, offset));
    ASSERT_OK(io_sync(file));
}

enum place { PLACE_AREA, PLACE_NEEDED, PLACE_UNDO, PLACE_LAST_FLUSH, PLACE_OTHER };

static enum place place_of_lsn(const struct regions *g, umbra_log_lsn lsn)
{
    if (lsn >= g->redo_lsn && lsn < g->last_flush_lsn)
        return PLACE_NEEDED;
    if (lsn >= g->last_flush_lsn && lsn < g->end_lsn)
        return PLACE_LAST_FLUSH;
    return lsn >= g->undo_lsn && lsn < g->redo_lsn ? PLACE_UNDO : PLACE_OTHER;
}

/* Mostly into what is needed. */
static enum place choose_damage(struct sim *sim, const struct regions *g, uint64_t *ret_offset)
{
    uint64_t in_page = below(sim, WAL_PAGE_BYTES);
    if (below(sim, 6) == 0) {
        *ret_offset = in_page + (below(sim, 2) ? WAL_PAGE_BYTES + g->ring_bytes : 0);
        return PLACE_AREA;
    }
    umbra_log_lsn lsn = g->undo_lsn + below(sim, g->ring_bytes / WAL_PAGE_BYTES) * WAL_PAGE_BYTES;
    if (below(sim, 4) > 0 && g->end_lsn > g->undo_lsn)
        lsn =
            g->undo_lsn + below(sim, (g->end_lsn - g->undo_lsn) / WAL_PAGE_BYTES) * WAL_PAGE_BYTES;
    *ret_offset = WAL_PAGE_BYTES + lsn % g->ring_bytes + in_page;
    return place_of_lsn(g, lsn);
}

/* Invariant 4. */
static void damage_for_good(struct sim *sim, const struct values *expected)
{
    CLEANUP(scrap_machine) struct sim other;
    struct values before = {0}, after;
    struct regions regions;
    uint64_t offset;

    find_regions(sim, &regions);
    fork_machine(sim, &other);
    enum place place = choose_damage(sim, &regions, &offset);
    flip_bit(other.disk, offset, (unsigned)below(sim, 8));
    table_open(&other.table, other.disk);
    for (uint32_t i = 0; i < CELLS; i++)
        before.cell[i] = table_get(&other.table, i);
    table_close(&other.table);
    int r = machine_on(&other);
    if (r < 0) {
        if (r != -UMBRA_E_CORRUPT)
            ASSERT_OK(r); /* fails, and shows it */
        ASSERT_TRUE(place == PLACE_NEEDED || place == PLACE_UNDO || place == PLACE_LAST_FLUSH);
        for (uint32_t i = 0; i < CELLS; i++)
            ASSERT_EQ(table_get(&other.table, i), before.cell[i]);
        return;
    }
    ASSERT_NE(place, PLACE_NEEDED);
    if (place == PLACE_LAST_FLUSH)
        return; /* it is not there any more, which nobody can know */
    read_values(&other, &after);
    ASSERT_MEMEQ(&after, expected, sizeof(after));
}

/* ---- after the cut ---- */

static void recover_with_cuts(struct sim *sim)
{
    for (unsigned cut = 0; cut < CUTS_MAX; cut++) {
        bool last = cut + 1 == CUTS_MAX || below(sim, 2) == 0;
        io_crash_at_sync(sim->disk, last ? 0 : io_crash_sync_count(sim->disk) + 1 + below(sim, 8));
        int r = machine_on(sim);
        if (r == 0 && !crashed(sim))
            break;
        ASSERT_TRUE(crashed(sim));
        machine_off(sim);
        io_crash_at_sync(sim->disk, 0);
        io_crash_reboot(sim->disk);
    }
    io_crash_at_sync(sim->disk, 0);
}

/* Invariants 1 and 2. */
static void verify(struct sim *sim, const struct values *found)
{
    for (size_t i = 0; i < sim->state_count; i++)
        if (memcmp(found, &sim->states[i], sizeof(*found)) == 0) {
            sim->now = *found;
            model_durable(sim);
            return;
        }
    for (uint32_t i = 0; i < CELLS; i++)
        if (found->cell[i] != sim->states[0].cell[i])
            fprintf(stderr, "cell %u: %" PRId64 ", was %" PRId64 " and may be %" PRId64 "\n", i,
                    found->cell[i], sim->states[0].cell[i], sim->now.cell[i]);
    test_fail(__FILE__, __LINE__, "none of the %zu states that may be", sim->state_count);
}

static void run_round(struct sim *sim)
{
    struct values straight, found;
    work_until_the_power_goes(sim);
    recover_in_one_go(sim, &straight);
    if (below(sim, 2))
        damage_for_good(sim, &straight);
    recover_with_cuts(sim);
    read_values(sim, &found);
    ASSERT_MEMEQ(&found, &straight, sizeof(found));
    verify(sim, &found);
}

static void run_seed(uint64_t seed, unsigned rounds)
{
    struct sim sim = {.random = seed};
    struct umbra_log_options options = open_options;

    sim.flush_bytes = (4 + 2 * below(&sim, 3)) * WAL_PAGE_BYTES;
    options.file_bytes = WAL_FILE_MIN + below(&sim, 12) * WAL_PAGE_BYTES;
    sim.manager = below(&sim, 2) ? &table_manager : &table_manager_any;
    sim.lazy = below(&sim, 4) == 0;
    ASSERT_OK(io_new_crash(seed, &sim.disk));
    sim.cable = cable_new(sim.disk, seed, below(&sim, 2) ? 60 : 0);
    table_open(&sim.table, sim.disk);
    sim.table.lazy = sim.lazy;
    const struct wal_place place = place_of(sim.disk);
    ASSERT_OK(wal_create(&place, &options, sim.flush_bytes, &sim.log));
    ASSERT_OK(umbra_log_attach(sim.log, "table", sim.manager, &sim.table, &sim.client));
    model_durable(&sim);
    for (unsigned round = 0; round < rounds; round++)
        run_round(&sim);
    scrap_machine(&sim);
}

int main(int argc, char **argv)
{
    static const struct sim_program program = {
        .name = "sim-log",
        .run_seed = run_seed,
        .seeds_default = 2000,
        .rounds_default = 2,
        .batch_seeds = 500,
        .outcome = "committed is there, the rest is not",
    };
    return sim_main(argc, argv, &program);
}
