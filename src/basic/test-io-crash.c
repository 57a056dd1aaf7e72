/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash simulator must allow what a disk may do (lose, tear, reorder what was not synced) and
 * must never do what no disk does (lose what was).  Both halves are shown over many seeds: each
 * outcome that may happen does happen in some of them.
 */
#include <stdlib.h>
#include <time.h>

#include "basic/durable.h"
#include "basic/io-crash.h"
#include "basic/test.h"

#define SEEDS      400u
#define SECTOR     512u
#define FILE_BYTES 4096u

static struct io *new_crash(uint64_t seed)
{
    struct io *io = NULL;
    ASSERT_OK(io_new_crash(seed, &io));
    return io;
}

static struct io_file *open_ok(struct io *io, const char *path, unsigned flags)
{
    struct io_file *file = NULL;
    ASSERT_OK(io_open(io, path, flags, &file));
    return file;
}

static void fill_write(struct io_file *file, char byte, size_t len, uint64_t offset)
{
    char data[FILE_BYTES];
    struct iovec iov = {.iov_base = data, .iov_len = len};

    memset(data, byte, len);
    ASSERT_OK(io_pwritev(file, &iov, 1, offset));
}

/* A file of FILE_BYTES times this byte, all of it durable. */
static void put_durable(struct io *io, const char *path, char byte)
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, path, IO_WRITE | IO_CREATE);
    fill_write(file, byte, FILE_BYTES, 0);
    ASSERT_OK(io_sync(file));
    ASSERT_OK(io_sync_dir(io, ""));
}

static bool exists(struct io *io, const char *path)
{
    struct io_stat st;
    int r = io_stat(io, path, &st);

    ASSERT_TRUE(r == 0 || r == -ENOENT);
    return r == 0;
}

static size_t read_all(struct io *io, const char *path, char data[2 * FILE_BYTES])
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, path, IO_READ);
    size_t len;
    ASSERT_OK(io_pread(file, data, (size_t)2 * FILE_BYTES, 0, &len));
    return len;
}

/* The byte that the whole file consists of. */
static char whole_byte(struct io *io, const char *path)
{
    char data[2 * FILE_BYTES];

    ASSERT_EQ(read_all(io, path, data), FILE_BYTES);
    for (size_t i = 1; i < FILE_BYTES; i++)
        ASSERT_EQ(data[i], data[0]);
    return data[0];
}

static void crash_and_reboot(struct io *io)
{
    io_crash_now(io);
    ASSERT_TRUE(io_crash_crashed(io));
    io_crash_reboot(io);
    ASSERT_FALSE(io_crash_crashed(io));
}

TEST(synced_data_and_names_survive)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        ASSERT_OK(io_mkdir(io, "d"));
        put_durable(io, "f", 'a');
        crash_and_reboot(io);
        ASSERT_TRUE(exists(io, "d"));
        ASSERT_EQ(whole_byte(io, "f"), 'a');
    }
}

/* How many sectors of the file are of another kind than the one before. */
static unsigned count_steps(const char *data, size_t len)
{
    unsigned steps = 0;

    for (size_t i = 1; i < len; i++)
        if (data[i] != data[i - 1]) {
            ASSERT_EQ(i % SECTOR, 0); /* torn only between sectors */
            steps++;
        }
    return steps;
}

TEST(unsynced_write_is_kept_lost_or_torn)
{
    unsigned kept = 0, lost = 0, torn = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        char data[2 * FILE_BYTES];

        put_durable(io, "f", 'a');
        struct io_file *file = open_ok(io, "f", IO_WRITE);
        fill_write(file, 'b', FILE_BYTES, 0);
        crash_and_reboot(io);
        io_close(file);
        ASSERT_EQ(read_all(io, "f", data), FILE_BYTES);
        unsigned steps = count_steps(data, FILE_BYTES);
        ASSERT_LE(steps, 1);
        torn += steps == 1;
        kept += steps == 0 && data[0] == 'b';
        lost += steps == 0 && data[0] == 'a';
    }
    ASSERT_GT(kept, SEEDS / 10);
    ASSERT_GT(lost, SEEDS / 10);
    ASSERT_GT(torn, 10);
}

TEST(writes_may_survive_out_of_order)
{
    unsigned second_alone = 0, zeros_in_the_middle = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        char data[2 * FILE_BYTES] = "";

        put_durable(io, "f", 'a');
        struct io_file *file = open_ok(io, "f", IO_WRITE);
        fill_write(file, 'b', SECTOR, 0);
        fill_write(file, 'c', SECTOR, FILE_BYTES + SECTOR); /* leaves a gap, too */
        crash_and_reboot(io);
        io_close(file);
        size_t len = read_all(io, "f", data);
        ASSERT_TRUE(len == FILE_BYTES || len == FILE_BYTES + 2 * SECTOR);
        second_alone += data[0] == 'a' && len > FILE_BYTES && data[len - 1] == 'c';
        zeros_in_the_middle += len > FILE_BYTES && data[len - 1] == 0;
        for (size_t i = SECTOR; i < FILE_BYTES; i++)
            ASSERT_EQ(data[i], 'a');
    }
    ASSERT_GT(second_alone, 10);
    ASSERT_GT(zeros_in_the_middle, 5);
}

TEST(sync_makes_only_its_own_file_durable)
{
    unsigned other_lost = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        put_durable(io, "f", 'a');
        put_durable(io, "g", 'a');
        struct io_file *f = open_ok(io, "f", IO_WRITE), *g = open_ok(io, "g", IO_WRITE);
        fill_write(f, 'b', FILE_BYTES, 0);
        fill_write(g, 'b', SECTOR, 0);
        ASSERT_OK(io_sync(f));
        crash_and_reboot(io);
        io_close(f);
        io_close(g);
        ASSERT_EQ(whole_byte(io, "f"), 'b');
        char data[2 * FILE_BYTES];
        ASSERT_EQ(read_all(io, "g", data), FILE_BYTES);
        other_lost += data[0] == 'a';
    }
    ASSERT_GT(other_lost, SEEDS / 10);
}

TEST(truncation_is_a_change_like_others)
{
    unsigned lost = 0, kept = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        char data[2 * FILE_BYTES];

        put_durable(io, "f", 'a');
        struct io_file *file = open_ok(io, "f", IO_WRITE);
        ASSERT_OK(io_truncate(file, 100));
        crash_and_reboot(io);
        io_close(file);
        size_t len = read_all(io, "f", data);
        ASSERT_TRUE(len == 100 || len == FILE_BYTES);
        kept += len == 100;
        lost += len == FILE_BYTES;
    }
    ASSERT_GT(kept, SEEDS / 10);
    ASSERT_GT(lost, SEEDS / 10);
}

TEST(name_without_sync_dir_may_vanish)
{
    unsigned vanished = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        struct io_file *file = open_ok(io, "f", IO_WRITE | IO_CREATE);

        fill_write(file, 'a', FILE_BYTES, 0);
        ASSERT_OK(io_sync(file));
        io_close(file);
        crash_and_reboot(io);
        if (!exists(io, "f"))
            vanished++;
        else /* where the name is, the synced data are */
            ASSERT_EQ(whole_byte(io, "f"), 'a');
    }
    ASSERT_GT(vanished, SEEDS / 10);
    ASSERT_LT(vanished, SEEDS - SEEDS / 10);
}

TEST(name_without_data_is_possible)
{
    unsigned empty = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        struct io_file *file = open_ok(io, "f", IO_WRITE | IO_CREATE);
        char data[2 * FILE_BYTES];

        fill_write(file, 'a', FILE_BYTES, 0);
        io_close(file);
        ASSERT_OK(io_sync_dir(io, ""));
        crash_and_reboot(io);
        ASSERT_TRUE(exists(io, "f"));
        empty += read_all(io, "f", data) == 0;
    }
    ASSERT_GT(empty, SEEDS / 10);
}

TEST(unlink_without_sync_dir_may_come_back)
{
    unsigned back = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        put_durable(io, "f", 'a');
        put_durable(io, "g", 'a');
        ASSERT_OK(io_unlink(io, "g"));
        ASSERT_OK(io_sync_dir(io, ""));
        ASSERT_OK(io_unlink(io, "f"));
        crash_and_reboot(io);
        ASSERT_FALSE(exists(io, "g"));
        if (exists(io, "f")) {
            ASSERT_EQ(whole_byte(io, "f"), 'a');
            back++;
        }
    }
    ASSERT_GT(back, SEEDS / 10);
    ASSERT_LT(back, SEEDS - SEEDS / 10);
}

TEST(rename_is_old_or_new)
{
    unsigned old = 0, new = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        put_durable(io, "f", 'a');
        put_durable(io, "tmp", 'b');
        ASSERT_OK(io_rename(io, "tmp", "f", true));
        if (seed % 2)
            ASSERT_OK(io_sync_dir(io, ""));
        crash_and_reboot(io);
        bool is_new = whole_byte(io, "f") == 'b';
        ASSERT_EQ(exists(io, "tmp"), !is_new);
        ASSERT_TRUE(is_new || seed % 2 == 0);
        old += !is_new;
        new += is_new &&seed % 2 == 0;
    }
    ASSERT_GT(old, SEEDS / 20);
    ASSERT_GT(new, SEEDS / 20);
}

/* Whichever of the two directories is synced, the file is in one of them. */
TEST(rename_between_directories_never_loses_the_file)
{
    unsigned moved = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        bool synced = seed % 3 != 0;

        ASSERT_OK(io_mkdir(io, "d"));
        put_durable(io, "f", 'a');
        ASSERT_OK(io_rename(io, "f", "d/f", false));
        if (synced)
            ASSERT_OK(io_sync_dir(io, seed % 3 == 1 ? "" : "d"));
        crash_and_reboot(io);
        ASSERT_EQ(exists(io, "f") + exists(io, "d/f"), 1);
        ASSERT_TRUE(!synced || exists(io, "d/f"));
        ASSERT_EQ(whole_byte(io, exists(io, "f") ? "f" : "d/f"), 'a');
        moved += !synced && exists(io, "d/f");
    }
    ASSERT_GT(moved, SEEDS / 20);
}

/* A temporary name that was renamed away and synced does not come back. */
TEST(synced_rename_takes_older_changes_along)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        ASSERT_OK(io_mkdir(io, "tmp"));
        ASSERT_OK(io_mkdir(io, "d"));
        ASSERT_OK(io_sync_dir(io, ""));
        struct io_file *file = open_ok(io, "tmp/x", IO_WRITE | IO_CREATE);
        fill_write(file, 'a', FILE_BYTES, 0);
        ASSERT_OK(io_sync(file));
        io_close(file);
        ASSERT_OK(io_rename(io, "tmp/x", "d/f", false));
        ASSERT_OK(io_sync_dir(io, "d"));
        crash_and_reboot(io);
        ASSERT_FALSE(exists(io, "tmp/x"));
        ASSERT_EQ(whole_byte(io, "d/f"), 'a');
    }
}

TEST(file_in_an_unsynced_directory_goes_with_it)
{
    unsigned gone = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        ASSERT_OK(io_mkdir(io, "d"));
        struct io_file *file = open_ok(io, "d/f", IO_WRITE | IO_CREATE);
        ASSERT_OK(io_sync(file));
        io_close(file);
        ASSERT_OK(io_sync_dir(io, "d"));
        crash_and_reboot(io);
        gone += !exists(io, "d");
        ASSERT_EQ(exists(io, "d"), exists(io, "d/f"));
    }
    ASSERT_GT(gone, SEEDS / 10);
}

TEST(the_chosen_sync_is_cut_in_the_middle)
{
    unsigned lost = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        char data[2 * FILE_BYTES];

        put_durable(io, "f", 'a');
        ASSERT_EQ(io_crash_sync_count(io), 2);
        io_crash_at_sync(io, 4);
        struct io_file *file = open_ok(io, "f", IO_WRITE);
        ASSERT_OK(io_sync(file));
        fill_write(file, 'b', SECTOR, 0);
        ASSERT_ERR(io_sync(file), -UMBRA_E_CRASHED);
        io_close(file);
        ASSERT_EQ(io_crash_sync_count(io), 4);
        io_crash_reboot(io);
        ASSERT_EQ(read_all(io, "f", data), FILE_BYTES);
        lost += data[0] == 'a';
    }
    ASSERT_GT(lost, SEEDS / 10);
    ASSERT_LT(lost, SEEDS - SEEDS / 10);
}

static int never(const char *name _unused_, void *userdata _unused_)
{
    ASSERT_TRUE(false);
    return 0;
}

TEST(nothing_works_after_the_crash)
{
    CLEANUP(io_freep) struct io *io = new_crash(1);
    struct io_file *file, *other = NULL;
    struct io_stat st;
    char byte = 0;
    size_t got;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};

    put_durable(io, "f", 'a');
    file = open_ok(io, "f", IO_READ | IO_WRITE);
    io_crash_now(io);
    ASSERT_ERR(io_open(io, "f", IO_READ, &other), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_pread(file, &byte, 1, 0, &got), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_pwritev(file, &iov, 1, 0), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_sync(file), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_truncate(file, 0), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_stat(io, "f", &st), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_mkdir(io, "d"), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_rename(io, "f", "g", true), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_unlink(io, "f"), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_sync_dir(io, ""), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_list(io, "", never, NULL), -UMBRA_E_CRASHED);
    ASSERT_ERR(io_random(io, &byte, 1), -UMBRA_E_CRASHED);
    io_crash_reboot(io);
    ASSERT_ERR(io_pread(file, &byte, 1, 0, &got), -UMBRA_E_CRASHED); /* opened before */
    io_close(file);
    ASSERT_EQ(whole_byte(io, "f"), 'a');
}

/* Random calls on a few names; returns a checksum of what is left after a crash (FNV-1a). */
static uint64_t random_history(struct io *io, uint64_t seed, unsigned steps)
{
    static const char *const names[] = {"a", "b", "d/a", "d/b"};
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    char data[2 * FILE_BYTES];
    int r = io_mkdir(io, "d");

    ASSERT_TRUE(r == 0 || r == -EEXIST);
    for (unsigned i = 0; i < steps; i++) {
        const char *name = names[test_random(&seed) % 4];
        const char *other = names[test_random(&seed) % 4];
        struct io_file *file;
        switch (test_random(&seed) % 6) {
        case 0: IGNORE_RESULT(io_unlink(io, name)); break;
        case 1: IGNORE_RESULT(io_rename(io, name, other, true)); break;
        case 2: IGNORE_RESULT(io_sync_dir(io, name[0] == 'd' ? "d" : "")); break;
        default:
            file = open_ok(io, name, IO_WRITE | IO_CREATE);
            fill_write(file, (char)('a' + i % 26), SECTOR, test_random(&seed) % SECTOR);
            if (test_random(&seed) % 2)
                ASSERT_OK(io_sync(file));
            io_close(file);
        }
    }
    crash_and_reboot(io);
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        bool there = exists(io, names[i]);
        size_t len = there ? read_all(io, names[i], data) : 0;
        sum = (sum ^ there) * UINT64_C(0x100000001b3);
        for (size_t j = 0; j < len; j++)
            sum = (sum ^ (uint8_t)data[j]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

TEST(same_seed_same_disk)
{
    unsigned different = 0;

    for (uint64_t seed = 0; seed < 100; seed++) {
        CLEANUP(io_freep) struct io *one = new_crash(seed);
        CLEANUP(io_freep) struct io *two = new_crash(seed);
        CLEANUP(io_freep) struct io *other = new_crash(seed + 1000);

        uint64_t sum = random_history(one, seed, 50);
        ASSERT_EQ(random_history(two, seed, 50), sum);
        different += random_history(other, seed, 50) != sum;
    }
    ASSERT_GT(different, 50);
}

TEST(clone_forks_the_history)
{
    CLEANUP(io_freep) struct io *io = new_crash(1);
    unsigned kept = 0;

    put_durable(io, "f", 'a');
    struct io_file *file = open_ok(io, "f", IO_WRITE);
    fill_write(file, 'b', SECTOR, 0);
    ASSERT_OK(io_rename(io, "f", "g", false));
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *clone = NULL;
        char data[2 * FILE_BYTES];

        ASSERT_OK(io_crash_clone(io, seed, &clone));
        ASSERT_EQ(io_crash_sync_count(clone), 2);
        ASSERT_TRUE(exists(clone, "g")); /* volatile state is there, until the power goes */
        if (seed % 2)
            put_durable(clone, "g", 'c');
        crash_and_reboot(clone);
        if (seed % 2) {
            ASSERT_EQ(whole_byte(clone, "g"), 'c');
            continue;
        }
        ASSERT_EQ(read_all(clone, exists(clone, "g") ? "g" : "f", data), FILE_BYTES);
        kept += data[0] == 'b';
    }
    ASSERT_GT(kept, SEEDS / 20);
    /* The original has noticed nothing. */
    ASSERT_FALSE(io_crash_crashed(io));
    ASSERT_OK(io_sync(file));
    io_close(file);
    ASSERT_OK(io_sync_dir(io, ""));
    crash_and_reboot(io);
    ASSERT_TRUE(exists(io, "g"));
    ASSERT_FALSE(exists(io, "f"));
}

/* The promise of durable_write(), with the power cut at every sync it makes. */
TEST(durable_write_is_old_or_new_at_every_cut)
{
    char old_text[] = "old contents", new_text[] = "new";
    struct iovec old_iov = {.iov_base = old_text, .iov_len = sizeof(old_text) - 1};
    struct iovec new_iov = {.iov_base = new_text, .iov_len = sizeof(new_text) - 1};

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        CLEANUP_FREE void *data = NULL;
        size_t len;

        ASSERT_OK(durable_mkdir_parents(io, "a/tmp"));
        ASSERT_OK(durable_write(io, "a/tmp", "a/f", DURABLE_CREATE, &old_iov, 1));
        io_crash_at_sync(io, io_crash_sync_count(io) + 1 + seed % 3);
        int r = durable_write(io, "a/tmp", "a/f", DURABLE_REPLACE, &new_iov, 1);
        ASSERT_ERR(r, seed % 3 < 2 ? -UMBRA_E_CRASHED : 0);
        io_crash_reboot(io);
        ASSERT_OK(durable_read(io, "a/f", 100, &data, &len));
        bool is_new = len == new_iov.iov_len && memcmp(data, new_text, len) == 0;
        bool is_old = len == old_iov.iov_len && memcmp(data, old_text, len) == 0;
        ASSERT_TRUE(is_new || (is_old && r < 0));
    }
}

TEST(moved_directories_do_not_leak)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);

        ASSERT_OK(io_mkdir(io, "a"));
        ASSERT_OK(io_mkdir(io, "a/b"));
        ASSERT_OK(io_sync_dir(io, "a"));
        ASSERT_OK(io_sync_dir(io, ""));
        ASSERT_OK(io_rename(io, "a/b", "b", false));
        ASSERT_OK(io_rename(io, "a", "b/a", false));
        if (seed % 2)
            crash_and_reboot(io);
    }
}

TEST(simulations_are_fast)
{
    struct timespec start, end;

    ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &start), 0);
    for (uint64_t seed = 0; seed < 1000; seed++) {
        CLEANUP(io_freep) struct io *io = new_crash(seed);
        (void)random_history(io, seed, 300);
    }
    ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &end), 0);
    ASSERT_LT(end.tv_sec - start.tv_sec,
              60); /* about one; sanitizers and busy machines allowed for */
}

TEST_MAIN()
