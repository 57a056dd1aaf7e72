/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many commits a second are durable, and how long a recovery takes.
 *
 *     log commits DIR SECONDS     a table: threads, umbra's log, SQLite, bare write + fdatasync
 *     log recovery DIR            a table: bytes of log, time to open and recover
 *
 * A commit changes ROW_BYTES: in the log one update with as much to redo as to undo; in SQLite
 * (WAL, synchronous=FULL, a connection a thread) one row.  Bare is the least that a commit can be:
 * the page that the log writes for one, 4 KiB, written to a file that is filled with zeros, and
 * fdatasync; the threads take turns at nothing but the kernel.  Each figure is the median of ROUNDS
 * runs, which take turns, as the disk has its moods.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "basic/macro.h"
#include "umbra/log.h"

#define ROUNDS      5u
#define THREADS_MAX 16u
#define ROW_BYTES   100u
#define PAGE_BYTES  4096u
#define FILE_BYTES  (256 * MIB)

static _noreturn_ void die(const char *what, const char *why)
{
    fprintf(stderr, "bench/log: %s: %s\n", what, why);
    exit(1);
}

static void must(const char *what, int r)
{
    if (r < 0)
        die(what, umbra_log_error_text(r));
}

static void must_errno(const char *what, bool good)
{
    if (!good)
        die(what, strerror(errno));
}

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static const char *join(const char *dir, const char *name)
{
    static char path[4096];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

/* ---- what is measured ---- */

struct system {
    const char *name;
    void (*begin)(const char *dir);
    void *(*thread_begin)(unsigned thread); /* NULL: nothing of its own */
    void (*commit)(void *own, uint64_t number);
    void (*thread_end)(void *own);
    void (*end)(const char *dir);
};

static int do_nothing(void *userdata _unused_, const struct umbra_log_change *c _unused_)
{
    return 0;
}

static const struct umbra_log_manager manager = {
    .id = UMBRA_LOG_MANAGER_TEST, .redo = do_nothing, .undo = do_nothing};
static struct umbra_log *the_log;
static struct umbra_log_client *the_client;

static void log_begin(const char *dir)
{
    const struct umbra_log_options options = {.file_bytes = FILE_BYTES};
    (void)unlink(join(dir, "log"));
    must("create", umbra_log_create(join(dir, "log"), &options, &the_log));
    must("attach", umbra_log_attach(the_log, "bench", &manager, NULL, &the_client));
}

static void log_commit(void *own _unused_, uint64_t number)
{
    uint8_t row[ROW_BYTES] = {0};
    struct umbra_log_txn *txn;
    memcpy(row, &number, sizeof(number));
    must("begin", umbra_log_begin(the_log, &txn));
    must("update", umbra_log_update(txn, the_client, 1, row, sizeof(row), row, sizeof(row)));
    must("commit", umbra_log_commit(txn, 0, NULL));
}

static void log_end(const char *dir _unused_)
{
    must("close", umbra_log_close(the_log));
}

static char database_path[4096];

static void sql(sqlite3 *db, const char *text)
{
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        die(text, sqlite3_errmsg(db));
}

static void *sqlite_thread_begin(unsigned thread)
{
    sqlite3 *db;
    char text[128];
    if (sqlite3_open(database_path, &db) != SQLITE_OK)
        die(database_path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 60000);
    sql(db, "pragma journal_mode=wal");
    sql(db, "pragma synchronous=full");
    sql(db, "create table if not exists t (id integer primary key, row blob)");
    (void)snprintf(text, sizeof(text), "insert or ignore into t values (%u, zeroblob(%u))", thread,
                   ROW_BYTES);
    sql(db, text);
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db, "update t set row = ?1 where id = ?2", -1, &s, NULL) != SQLITE_OK)
        die("prepare", sqlite3_errmsg(db));
    sqlite3_bind_int(s, 2, (int)thread);
    return s;
}

static void sqlite_begin(const char *dir)
{
    static const char *const names[] = {"db", "db-wal", "db-shm"};
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        (void)unlink(join(dir, names[i]));
    (void)snprintf(database_path, sizeof(database_path), "%s/db", dir);
}

static void sqlite_commit(void *own, uint64_t number)
{
    sqlite3_stmt *s = own;
    uint8_t row[ROW_BYTES] = {0};
    memcpy(row, &number, sizeof(number));
    sqlite3_bind_blob(s, 1, row, sizeof(row), SQLITE_STATIC);
    if (sqlite3_step(s) != SQLITE_DONE)
        die("commit", sqlite3_errmsg(sqlite3_db_handle(s)));
    sqlite3_reset(s);
}

static void sqlite_thread_end(void *own)
{
    sqlite3 *db = sqlite3_db_handle(own);
    sqlite3_finalize(own);
    sqlite3_close(db);
}

static int bare_fd;
static atomic_uint_fast64_t bare_next;

static void bare_begin(const char *dir)
{
    static const uint8_t zeros[MIB];
    bare_fd = open(join(dir, "bare"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must_errno("bare", bare_fd >= 0);
    for (uint64_t at = 0; at < FILE_BYTES; at += sizeof(zeros))
        must_errno("bare",
                   pwrite(bare_fd, zeros, sizeof(zeros), (off_t)at) == (ssize_t)sizeof(zeros));
    must_errno("bare", fsync(bare_fd) == 0);
    atomic_store(&bare_next, 0);
}

static void bare_commit(void *own _unused_, uint64_t number)
{
    uint8_t page[PAGE_BYTES] = {0};
    uint64_t at = atomic_fetch_add(&bare_next, 1) * PAGE_BYTES % FILE_BYTES;
    memcpy(page, &number, sizeof(number));
    must_errno("bare", pwrite(bare_fd, page, sizeof(page), (off_t)at) == (ssize_t)sizeof(page));
    must_errno("bare", fdatasync(bare_fd) == 0);
}

static void bare_end(const char *dir _unused_)
{
    (void)close(bare_fd);
}

static const struct system systems[] = {
    {.name = "log", .begin = log_begin, .commit = log_commit, .end = log_end},
    {.name = "sqlite",
     .begin = sqlite_begin,
     .thread_begin = sqlite_thread_begin,
     .commit = sqlite_commit,
     .thread_end = sqlite_thread_end},
    {.name = "bare", .begin = bare_begin, .commit = bare_commit, .end = bare_end},
};

/* ---- commits ---- */

struct worker {
    pthread_t thread;
    const struct system *system;
    unsigned number;
    double until_s;
    uint64_t count;
    void *own;
};

static void *work(void *argument)
{
    struct worker *w = argument;
    while (now_s() < w->until_s)
        w->system->commit(w->own, w->count++);
    return NULL;
}

/* Commits a second. */
static double run(const struct system *system, const char *dir, unsigned threads, double seconds)
{
    struct worker workers[THREADS_MAX];
    uint64_t count = 0;
    system->begin(dir);
    for (unsigned i = 0; i < threads; i++)
        workers[i] = (struct worker){.system = system,
                                     .number = i,
                                     .own = system->thread_begin ? system->thread_begin(i) : NULL};
    double start_s = now_s();
    for (unsigned i = 0; i < threads; i++) {
        workers[i].until_s = start_s + seconds;
        must_errno("thread", pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < threads; i++)
        must_errno("thread", pthread_join(workers[i].thread, NULL) == 0);
    double taken_s = now_s() - start_s;
    for (unsigned i = 0; i < threads; i++) {
        count += workers[i].count;
        if (system->thread_end)
            system->thread_end(workers[i].own);
    }
    if (system->end)
        system->end(dir);
    return (double)count / taken_s;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench_commits(const char *dir, double seconds)
{
    static const unsigned thread_counts[] = {1, 4, 16};
    printf("durable commits a second (median of %u runs of %.1f s)\n\n", ROUNDS, seconds);
    printf("threads        log     sqlite       bare   log/sqlite   log/bare\n");
    for (size_t t = 0; t < ELEMENTSOF(thread_counts); t++) {
        double rates[ELEMENTSOF(systems)][ROUNDS];
        for (unsigned round = 0; round < ROUNDS; round++)
            for (size_t s = 0; s < ELEMENTSOF(systems); s++)
                rates[s][round] = run(&systems[s], dir, thread_counts[t], seconds);
        for (size_t s = 0; s < ELEMENTSOF(systems); s++)
            qsort(rates[s], ROUNDS, sizeof(rates[s][0]), compare);
        double log = rates[0][ROUNDS / 2], lite = rates[1][ROUNDS / 2], bare = rates[2][ROUNDS / 2];
        printf("%7u %10.0f %10.0f %10.0f %12.2f %10.2f\n", thread_counts[t], log, lite, bare,
               log / lite, log / bare);
        fflush(stdout);
    }
}

/* ---- recovery ---- */

/* Transactions of 1000 updates of 1000 bytes until there are so many bytes of log, and nearly as
 * many since the last checkpoint as there can be. */
static uint64_t fill(uint64_t bytes)
{
    static const uint8_t part[500];
    struct umbra_log_stat stat;
    umbra_log_lsn checkpoint_lsn = 0;
    uint64_t checkpoints = 0;
    for (;;) {
        struct umbra_log_txn *txn;
        umbra_log_stat(the_log, &stat);
        if (stat.checkpoint_count != checkpoints)
            checkpoint_lsn = stat.end_lsn;
        checkpoints = stat.checkpoint_count;
        uint64_t enough = MIN(bytes, 62 * MIB);
        if (stat.end_lsn >= bytes && stat.end_lsn - checkpoint_lsn >= enough)
            return stat.end_lsn;
        must("begin", umbra_log_begin(the_log, &txn));
        for (unsigned i = 0; i < 1000; i++)
            must("update",
                 umbra_log_update(txn, the_client, 1, part, sizeof(part), part, sizeof(part)));
        must("commit", umbra_log_commit(txn, 0, NULL));
    }
}

static void forget_cache(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    must_errno(path, fd >= 0 && fsync(fd) == 0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)close(fd);
}

static void bench_recovery(const char *dir)
{
    static const uint64_t sizes_mb[] = {10, 100, 300, 1000};
    printf("\nrecovery, with a checkpoint every 64 MiB, page cache empty\n\n");
    printf("log written  since checkpoint     records    time\n");
    for (size_t i = 0; i < ELEMENTSOF(sizes_mb); i++) {
        const struct umbra_log_options options = {.file_bytes = 1200 * MIB};
        struct umbra_log_recovery recovery;
        (void)unlink(join(dir, "log"));
        must("create", umbra_log_create(join(dir, "log"), &options, &the_log));
        must("attach", umbra_log_attach(the_log, "bench", &manager, NULL, &the_client));
        uint64_t written = fill(sizes_mb[i] * 1000000);
        umbra_log_free(the_log);
        forget_cache(join(dir, "log"));
        double start_s = now_s();
        must("open", umbra_log_open(join(dir, "log"), NULL, &the_log));
        must("attach", umbra_log_attach(the_log, "bench", &manager, NULL, &the_client));
        must("recover", umbra_log_recover(the_log, &recovery));
        double taken_s = now_s() - start_s;
        umbra_log_free(the_log);
        printf("%8.0f MB %13.0f MB %11" PRIu64 " %6.3f s\n", (double)written / 1e6,
               (double)(recovery.end_lsn - recovery.from_lsn) / 1e6, recovery.record_count,
               taken_s);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "commits") == 0)
        bench_commits(argv[2], strtod(argv[3], NULL));
    else if (argc == 3 && strcmp(argv[1], "recovery") == 0)
        bench_recovery(argv[2]);
    else
        die("usage", "log commits DIR SECONDS | log recovery DIR");
    return 0;
}
