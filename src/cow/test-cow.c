/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tests/sim/sim-cow.c does not see: errors that have words, and many threads at once. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/test.h"
#include "cow/cow.h"

#define BLOCK_BYTES  4096u
#define BLOCKS       64u
#define ORIGIN_BYTES ((uint64_t)BLOCKS * BLOCK_BYTES)

struct bench {
    struct io *io;
    struct cow_device *origin;
    struct cow_place place;
    struct cow_options options;
    struct cow *cow;
};

static void bench_close(struct bench *b)
{
    ASSERT_OK(cow_close(TAKE_PTR(b->cow)));
}

static void bench_release(struct bench *b)
{
    cow_free(b->cow);
    cow_device_free(b->origin);
    io_free(b->io);
}

static void bench_open(struct bench *b)
{
    ASSERT_OK(cow_open(&b->place, &b->options, &b->cow));
}

static void bench_create(struct bench *b, uint64_t cells, bool protect, bool is_zero)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    *b = (struct bench){.options = {.block_bytes = BLOCK_BYTES,
                                    .max_bytes = cells * BLOCK_BYTES,
                                    .protect_shadows = protect,
                                    .origin_is_zero = is_zero,
                                    .log_bytes = MIB}};
    ASSERT_OK(io_new_memory(1, &b->io));
    ASSERT_OK(io_open(b->io, "origin", IO_READ | IO_WRITE | IO_CREATE, &file));
    ASSERT_OK(io_truncate(file, ORIGIN_BYTES));
    ASSERT_OK(cow_device_new_file(b->io, "origin", 0, &b->origin));
    b->place = (struct cow_place){
        .storage = b->io, .origin = b->origin, .identity = "disk", .identity_len = 4};
    ASSERT_OK(cow_create(&b->place, &b->options));
}

static void bench_init(struct bench *b, uint64_t cells, bool protect)
{
    bench_create(b, cells, protect, false);
    bench_open(b);
}

static void fill(struct bench *b, uint64_t block, uint8_t byte)
{
    uint8_t bytes[BLOCK_BYTES];
    memset(bytes, byte, sizeof(bytes));
    ASSERT_OK(cow_write(b->cow, bytes, sizeof(bytes), block * BLOCK_BYTES));
}

static uint8_t shown(struct bench *b, uint32_t number, uint64_t block)
{
    uint8_t bytes[BLOCK_BYTES];
    ASSERT_OK(cow_shadow_read(b->cow, number, bytes, sizeof(bytes), block * BLOCK_BYTES));
    return bytes[0];
}

static uint32_t take(struct bench *b)
{
    const struct cow_take how = {0};
    uint32_t number;
    uint64_t hold_ns;
    ASSERT_OK(cow_shadow_take(b->cow, &how, &number, &hold_ns));
    return number;
}

TEST(reasons_have_words)
{
    ASSERT_STREQ(cow_reason_text(COW_REASON_FULL), "the storage was full");
    ASSERT_STREQ(cow_reason_text(COW_REASON_COUNT), "unknown");
}

TEST(a_deletion_in_the_middle_leaves_the_others)
{
    CLEANUP(bench_release) struct bench b;
    bench_init(&b, 64, false);
    for (uint8_t i = 1; i <= 4; i++) {
        fill(&b, 7, i);
        ASSERT_EQ(take(&b), i);
    }
    fill(&b, 7, 9);
    ASSERT_OK(cow_shadow_delete(b.cow, 2));
    ASSERT_OK(cow_shadow_delete(b.cow, 4));
    ASSERT_ERR(cow_shadow_delete(b.cow, 2), -ENOENT);
    ASSERT_EQ(shown(&b, 1, 7), 1);
    ASSERT_EQ(shown(&b, 3, 7), 3);
    struct cow_stat st;
    cow_stat(b.cow, &st);
    ASSERT_EQ(st.used_bytes, 2 * BLOCK_BYTES);
    bench_close(&b);
    bench_open(&b);
    ASSERT_EQ(shown(&b, 3, 7), 3);
    ASSERT_EQ(take(&b), 5);
}

TEST(full_storage_deletes_the_oldest_or_refuses)
{
    for (int protect = 0; protect < 2; protect++) {
        CLEANUP(bench_release) struct bench b;
        uint8_t bytes[BLOCK_BYTES] = {0};
        struct cow_fault faults[COW_FAULTS_KEPT];
        bench_init(&b, 2, protect);
        take(&b);
        fill(&b, 0, 1);
        take(&b);
        fill(&b, 0, 2);
        int r = cow_write(b.cow, bytes, sizeof(bytes), BLOCK_BYTES);
        ASSERT_EQ(r, protect ? -ENOSPC : 0);
        ASSERT_EQ(cow_shadows(b.cow, NULL, 0), protect ? 2 : 1);
        ASSERT_EQ(cow_faults(b.cow, faults), 1);
        ASSERT_EQ(faults[0].reason, protect ? COW_REASON_REFUSED : COW_REASON_FULL);
    }
}

TEST(a_rotten_cell_costs_its_shadow_and_no_other)
{
    CLEANUP(bench_release) struct bench b;
    CLEANUP(io_closep) struct io_file *cells = NULL;
    struct cow_fault faults[COW_FAULTS_KEPT];
    uint8_t bytes[BLOCK_BYTES], byte = 99;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    bench_init(&b, 64, false);
    fill(&b, 3, 1);
    take(&b);
    fill(&b, 3, 2); /* to cell 0 */
    take(&b);
    fill(&b, 3, 3);
    ASSERT_OK(io_open(b.io, "cells", IO_READ | IO_WRITE, &cells));
    ASSERT_OK(io_pwritev(cells, &iov, 1, 0));
    ASSERT_ERR(cow_shadow_read(b.cow, 1, bytes, ORIGIN_BYTES / BLOCKS, UINT64_C(3) * BLOCK_BYTES),
               -UMBRA_E_CORRUPT);
    ASSERT_ERR(cow_shadow_read(b.cow, 1, bytes, BLOCK_BYTES, 0), -ENOENT);
    ASSERT_EQ(cow_faults(b.cow, faults), 1);
    ASSERT_EQ(faults[0].reason, COW_REASON_ROTTEN);
    ASSERT_EQ(faults[0].number, 1);
    ASSERT_EQ(shown(&b, 2, 3), 2);
}

struct on_disk {
    struct io *storage, *memory;
    struct cow_device *origin;
    struct cow *cow;
};

static void on_disk_release(struct on_disk *d)
{
    cow_free(d->cow);
    cow_device_free(d->origin);
    io_free(d->storage);
    io_free(d->memory);
}

/* Its storage is a real directory, for a shadow of an origin of as many bytes as given. */
static void on_disk_init(struct on_disk *d, const char *name, uint64_t origin_bytes,
                         uint64_t max_bytes)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    char dir[4096];
    *d = (struct on_disk){0};
    (void)snprintf(dir, sizeof(dir), "%s/%s", test_tmpdir(), name);
    ASSERT_EQ(mkdir(dir, 0700), 0);
    ASSERT_OK(io_new_real(dir, &d->storage));
    ASSERT_OK(io_new_memory(1, &d->memory));
    ASSERT_OK(io_open(d->memory, "origin", IO_READ | IO_WRITE | IO_CREATE, &file));
    ASSERT_OK(io_truncate(file, origin_bytes));
    ASSERT_OK(cow_device_new_file(d->memory, "origin", 0, &d->origin));
    const struct cow_place place = {.storage = d->storage, .origin = d->origin};
    const struct cow_options options = {
        .block_bytes = BLOCK_BYTES, .max_bytes = max_bytes, .log_bytes = MIB};
    ASSERT_OK(cow_create(&place, &options));
    ASSERT_OK(cow_open(&place, &options, &d->cow));
}

static uint32_t on_disk_take(struct on_disk *d)
{
    const struct cow_take how = {0};
    uint64_t hold_ns;
    uint32_t number;
    ASSERT_OK(cow_shadow_take(d->cow, &how, &number, &hold_ns));
    return number;
}

/* Space of the storage that is in use. */
static uint64_t space_of_cells(const char *name)
{
    char path[4096];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/%s/cells", test_tmpdir(), name);
    ASSERT_EQ(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* Deleted shadows give their space back to the file system of the storage, but for some that is
 * kept ready. */
TEST(space_goes_back_to_the_storage)
{
    CLEANUP(on_disk_release) struct on_disk d;
    CLEANUP_FREE uint8_t *bytes = malloc(MIB);
    ASSERT_TRUE(bytes != NULL);
    on_disk_init(&d, "large", 16 * MIB, 16 * MIB);
    for (uint8_t round = 1; round < 3; round++) {
        uint32_t number = on_disk_take(&d);
        memset(bytes, round, MIB);
        for (uint64_t at = 0; at < 16 * MIB; at += MIB)
            ASSERT_OK(cow_write(d.cow, bytes, MIB, at));
        ASSERT_GE(space_of_cells("large"), 16 * MIB);
        ASSERT_OK(cow_shadow_read(d.cow, number, bytes, MIB, 5 * MIB));
        for (size_t i = 0; i < MIB; i++)
            ASSERT_EQ(bytes[i], round - 1);
        ASSERT_OK(cow_shadow_delete(d.cow, number));
        while (space_of_cells("large") > 12 * MIB) /* the test's time limit ends it */
            (void)usleep(10000);
    }
    ASSERT_OK(cow_close(TAKE_PTR(d.cow)));
}

/* What is made ready for a small one is not given back at once, nor the other way round. */
TEST(a_tiny_diff_area_works)
{
    CLEANUP(on_disk_release) struct on_disk d;
    uint8_t bytes[4 * BLOCK_BYTES] = {1};
    on_disk_init(&d, "tiny", MIB, 4 * BLOCK_BYTES);
    for (unsigned i = 0; i < 50; i++) {
        uint32_t number = on_disk_take(&d);
        ASSERT_OK(cow_write(d.cow, bytes, sizeof(bytes), i * sizeof(bytes)));
        ASSERT_EQ(cow_shadows(d.cow, NULL, 0), 1);
        ASSERT_OK(cow_shadow_read(d.cow, number, bytes, sizeof(bytes), i * sizeof(bytes)));
        ASSERT_EQ(bytes[0], 0);
        bytes[0] = 1;
    }
    ASSERT_OK(cow_close(TAKE_PTR(d.cow)));
}

TEST(the_origin_is_recognised)
{
    CLEANUP(bench_release) struct bench b;
    struct cow_fault faults[COW_FAULTS_KEPT];
    uint8_t sector[COW_SECTOR_BYTES] = {1};
    bench_init(&b, 8, false);
    take(&b);
    bench_close(&b);
    b.place.identity = "disc";
    ASSERT_ERR(cow_open(&b.place, &b.options, &b.cow), -UMBRA_E_FOREIGN);
    b.place.identity = "disk";
    ASSERT_OK(b.origin->ops->write(b.origin, sector, sizeof(sector), 0));
    bench_open(&b);
    ASSERT_EQ(cow_shadows(b.cow, NULL, 0), 0);
    ASSERT_EQ(cow_faults(b.cow, faults), 1);
    ASSERT_EQ(faults[0].reason, COW_REASON_FOREIGN);
}

/* A checksum in the origin that covers what was changed there must not hide the change. */
TEST(what_was_written_before_the_first_attach_is_no_zero)
{
    CLEANUP(bench_release) struct bench b;
    uint8_t bytes[BLOCK_BYTES];
    memset(bytes, 5, sizeof(bytes));
    bench_create(&b, 8, false, true);
    ASSERT_OK(b.origin->ops->write(b.origin, bytes, sizeof(bytes), 0));
    bench_open(&b);
    uint32_t number = take(&b);
    fill(&b, 0, 6);
    ASSERT_EQ(shown(&b, number, 0), 5);
}

/* An open that fails has not looked for the last time. */
TEST(an_origin_is_looked_at_until_it_is_open)
{
    CLEANUP(bench_release) struct bench b;
    uint8_t sector[COW_SECTOR_BYTES] = {1};
    bench_init(&b, 8, false);
    take(&b);
    bench_close(&b);
    ASSERT_OK(io_rename(b.io, "log", "elsewhere", false));
    ASSERT_ERR(cow_open(&b.place, &b.options, &b.cow), -ENOENT);
    ASSERT_OK(io_rename(b.io, "elsewhere", "log", false));
    ASSERT_OK(b.origin->ops->write(b.origin, sector, sizeof(sector), 0));
    bench_open(&b);
    ASSERT_EQ(cow_shadows(b.cow, NULL, 0), 0);
}

TEST(a_resize_deletes_no_protected_shadow)
{
    CLEANUP(bench_release) struct bench b;
    struct cow_stat stat;
    bench_init(&b, 8, true);
    uint32_t number = take(&b);
    for (unsigned i = 0; i < 4; i++)
        fill(&b, i, 1);
    ASSERT_ERR(cow_resize(b.cow, 2 * BLOCK_BYTES), -ENOSPC);
    cow_stat(b.cow, &stat);
    ASSERT_EQ(stat.max_bytes, 8 * BLOCK_BYTES);
    ASSERT_EQ(shown(&b, number, 3), 0);
    ASSERT_OK(cow_resize(b.cow, 4 * BLOCK_BYTES));
}

/* ---- readers and a writer of one block ---- */

#define READERS 8u

struct readers {
    struct bench *b;
    uint32_t number;
    atomic_bool stop;
};

static void *read_on(void *arg)
{
    struct readers *readers = arg;
    while (!atomic_load(&readers->stop))
        ASSERT_EQ(shown(readers->b, readers->number, 0), 0);
    return NULL;
}

TEST(readers_let_a_writer_through)
{
    CLEANUP(bench_release) struct bench b;
    pthread_t threads[READERS];
    bench_init(&b, 8, false);
    struct readers readers = {.b = &b, .number = take(&b)};
    for (unsigned i = 0; i < READERS; i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, read_on, &readers), 0);
    for (unsigned i = 1; i <= 100; i++)
        fill(&b, 0, (uint8_t)i);
    atomic_store(&readers.stop, true);
    for (unsigned i = 0; i < READERS; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
}

TEST(requests_outside_are_refused)
{
    CLEANUP(bench_release) struct bench b;
    uint8_t bytes[BLOCK_BYTES] = {0};
    bench_init(&b, 8, false);
    ASSERT_ERR(cow_read(b.cow, bytes, 100, 0), -EINVAL);
    ASSERT_ERR(cow_write(b.cow, bytes, BLOCK_BYTES, ORIGIN_BYTES - 512), -EINVAL);
    ASSERT_ERR(cow_discard(b.cow, UINT64_MAX - 511, 512), -EINVAL);
    ASSERT_ERR(cow_shadow_read(b.cow, 1, bytes, 512, 0), -ENOENT);
    ASSERT_ERR(cow_create(&b.place, &b.options), -EEXIST);
}

/* ---- many threads ---- */

#define THREADS          3u
#define BLOCKS_OF_THREAD 16u
#define SHADOWS          12u

struct writer {
    struct bench *bench;
    unsigned index;
    _Atomic bool *stop;
};

/* Writes 1, 2, 3, ... to its blocks, in turn, each when the one before has been written. */
static void *write_in_turn(void *userdata)
{
    const struct writer *w = userdata;
    uint64_t bytes[BLOCK_BYTES / 8];
    for (uint64_t n = 1; !*w->stop; n++) {
        uint64_t block = w->index * BLOCKS_OF_THREAD + n % BLOCKS_OF_THREAD;
        for (size_t i = 0; i < ELEMENTSOF(bytes); i++)
            bytes[i] = n;
        ASSERT_OK(cow_write(w->bench->cow, bytes, sizeof(bytes), block * BLOCK_BYTES));
    }
    return NULL;
}

/* If n is there, the BLOCKS_OF_THREAD - 1 writes before it are, too, and nothing later. */
static void check_shadow(struct bench *b, uint32_t number, unsigned thread)
{
    uint64_t n[BLOCKS_OF_THREAD], newest = 0, bytes[BLOCK_BYTES / 8];
    for (uint64_t i = 0; i < BLOCKS_OF_THREAD; i++) {
        uint64_t block = thread * BLOCKS_OF_THREAD + i;
        ASSERT_OK(cow_shadow_read(b->cow, number, bytes, sizeof(bytes), block * BLOCK_BYTES));
        for (size_t j = 0; j < ELEMENTSOF(bytes); j++)
            ASSERT_EQ(bytes[j], bytes[0]);
        n[i] = bytes[0];
        newest = MAX(newest, n[i]);
    }
    for (uint64_t i = 0; i < BLOCKS_OF_THREAD; i++)
        ASSERT_TRUE(n[i] + BLOCKS_OF_THREAD > newest);
}

TEST(shadows_are_of_one_moment)
{
    CLEANUP(bench_release) struct bench b;
    _Atomic bool stop = false;
    pthread_t threads[THREADS];
    struct writer writers[THREADS];
    bench_init(&b, 10 * BLOCKS, false);
    for (unsigned i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.bench = &b, .index = i, .stop = &stop};
        ASSERT_EQ(pthread_create(&threads[i], NULL, write_in_turn, &writers[i]), 0);
    }
    for (unsigned i = 0; i < SHADOWS; i++) {
        uint32_t number = take(&b);
        for (unsigned twice = 0; twice < 2; twice++)
            for (unsigned t = 0; t < THREADS; t++)
                check_shadow(&b, number, t);
        if (i % 3 == 2)
            ASSERT_OK(cow_shadow_delete(b.cow, number - 1));
        check_shadow(&b, number, i % THREADS);
    }
    stop = true;
    for (unsigned i = 0; i < THREADS; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
}

TEST_MAIN()
