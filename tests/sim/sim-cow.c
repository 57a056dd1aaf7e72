/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cow volume against a model, sector by sector, on a disk that loses power.
 *
 *     sim-cow --seeds 1..2000 [--rounds N] [--jobs N]
 *
 * Origin and diff area lie on one simulated disk with a volatile cache (basic/io-crash.h).  A seed
 * makes a volume and some rounds of
 *
 *     writes, discards, flushes, shadows taken, written to, sealed and deleted, new sizes of the
 *     diff area, kills, proper ends, until the power goes at a random sync
 *     recovery, also cut, again and again
 *
 * all the time, and after each recovery, must hold:
 *
 *   1. a sector of the volume is as it was last written; after a cut, as it was at the last flush
 * or was written since;
 *   2. every shadow shows every sector as it was when it was taken, or written to the shadow since;
 *   3. a shadow that was taken is there, unless it was deleted, or a fault says that there was no
 *      room;
 *   4. what is reported as changed between two shadows contains all blocks that differ, and none
 * that was not touched;
 *   5. with a bit flipped in any file but the log: what can be read is right, and the volume itself
 *      can be read whenever it can be opened.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/io-crash.h"
#include "basic/log.h"
#include "basic/test.h"
#include "cow/cow.h"
#include "log/log-io.h"

#include "sim.h"

#define BLOCK_BYTES  4096u
#define PER_BLOCK    (BLOCK_BYTES / COW_SECTOR_BYTES)
#define BLOCKS       140u
#define SECTORS_MAX  (BLOCKS * PER_BLOCK)
#define CANDIDATES   12u
#define SHADOWS_MAX  8u
#define STEPS_MAX    60u
#define WRITE_BLOCKS 12u
#define CUTS_MAX     6u

struct candidates {
    uint64_t tag[CANDIDATES];
    size_t count;
};

struct model_shadow {
    uint32_t number;
    bool writable, doubtful; /* doubtful: a deletion was cut */
    uint64_t tag[SECTORS_MAX];
    uint64_t may_be[SECTORS_MAX]; /* of a write to the shadow that was cut */
    uint64_t attempts[BLOCKS];    /* of the volume, when it was taken */
    bool own[BLOCKS];
};

struct sim {
    uint64_t random, next_tag;
    struct io *disk;
    struct cow_device *origin;
    struct cow *cow;
    uint64_t bytes, sectors;
    struct cow_options options;

    uint64_t now[SECTORS_MAX];
    struct candidates after_cut[SECTORS_MAX];
    uint64_t attempts[BLOCKS];
    struct model_shadow shadows[SHADOWS_MAX];
    size_t shadow_count;
    struct model_shadow pending; /* is being taken */
    bool is_pending;
    uint32_t last_number;
};

static uint64_t below(struct sim *sim, uint64_t n)
{
    return test_random(&sim->random) % n;
}

/* ---- sectors ---- */

static void put_tag(uint8_t *sector, uint64_t tag)
{
    for (size_t i = 0; i < COW_SECTOR_BYTES; i += sizeof(tag))
        memcpy(sector + i, &tag, sizeof(tag));
}

/* Every sector holds one tag, all through. */
static uint64_t get_tag(const uint8_t *sector)
{
    uint64_t tag, other;
    memcpy(&tag, sector, sizeof(tag));
    for (size_t i = 0; i < COW_SECTOR_BYTES; i += sizeof(tag)) {
        memcpy(&other, sector + i, sizeof(other));
        ASSERT_EQ(other, tag);
    }
    return tag;
}

static void may_become(struct sim *sim, uint64_t sector, uint64_t tag)
{
    struct candidates *c = &sim->after_cut[sector];
    ASSERT_LT(c->count, CANDIDATES);
    c->tag[c->count++] = tag;
}

static void settle(struct sim *sim, uint64_t sector)
{
    sim->after_cut[sector].tag[0] = sim->now[sector];
    sim->after_cut[sector].count = 1;
}

static void settle_all(struct sim *sim)
{
    for (uint64_t s = 0; s < sim->sectors; s++)
        settle(sim, s);
}

/* ---- the machine ---- */

static bool crashed(const struct sim *sim)
{
    return io_crash_crashed(sim->disk);
}

static bool alive(const struct sim *sim, int r)
{
    if (r >= 0)
        return true;
    if (!crashed(sim))
        ASSERT_OK(r); /* fails, and shows it */
    return false;
}

static struct cow_place place_of(struct sim *sim)
{
    return (struct cow_place){
        .storage = sim->disk, .origin = sim->origin, .identity = "sim", .identity_len = 3};
}

static void machine_off(struct sim *sim)
{
    cow_free(TAKE_PTR(sim->cow));
    cow_device_free(TAKE_PTR(sim->origin));
}

static int machine_on(struct sim *sim)
{
    int r = cow_device_new_file(sim->disk, "origin", sim->bytes, &sim->origin);
    const struct cow_place place = place_of(sim);
    return r < 0 ? r : cow_open(&place, &sim->options, &sim->cow);
}

/* ---- the list of shadows ---- */

static bool has_fault(struct sim *sim, uint32_t number)
{
    struct cow_fault faults[COW_FAULTS_KEPT];
    size_t count = cow_faults(sim->cow, faults);
    for (size_t i = 0; i < count; i++)
        if (faults[i].number == number &&
            (faults[i].reason == COW_REASON_FULL || faults[i].reason == COW_REASON_SHRUNK))
            return true;
    return false;
}

static bool is_listed(const struct cow_shadow *list, size_t count, uint32_t number)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].number == number)
            return true;
    return false;
}

static void forget(struct sim *sim, size_t i)
{
    memmove(&sim->shadows[i], &sim->shadows[i + 1],
            (sim->shadow_count - i - 1) * sizeof(sim->shadows[0]));
    sim->shadow_count--;
}

static void adopt_pending(struct sim *sim, const struct cow_shadow *list, size_t count)
{
    if (sim->is_pending && is_listed(list, count, sim->pending.number)) {
        ASSERT_LT(sim->shadow_count, SHADOWS_MAX);
        sim->shadows[sim->shadow_count++] = sim->pending;
    }
    sim->is_pending = false;
}

/* Invariant 3. */
static void compare_list(struct sim *sim)
{
    struct cow_shadow list[SHADOWS_MAX];
    size_t count = cow_shadows(sim->cow, list, SHADOWS_MAX);
    ASSERT_LE(count, SHADOWS_MAX);
    adopt_pending(sim, list, count);
    for (size_t i = 0; i < sim->shadow_count;) {
        struct model_shadow *s = &sim->shadows[i];
        if (is_listed(list, count, s->number)) {
            s->doubtful = false;
            i++;
            continue;
        }
        ASSERT_TRUE(s->doubtful || has_fault(sim, s->number));
        forget(sim, i);
    }
    ASSERT_EQ(count, sim->shadow_count);
    for (size_t i = 0; i < count; i++) {
        ASSERT_EQ(list[i].number, sim->shadows[i].number);
        sim->last_number = MAX(sim->last_number, list[i].number);
        sim->shadows[i].writable = list[i].writable && sim->shadows[i].writable;
    }
}

/* ---- comparing ---- */

static uint8_t bytes[SECTORS_MAX * COW_SECTOR_BYTES];

/* Invariant 2. */
static bool compare_shadow(struct sim *sim, struct model_shadow *s)
{
    int r = cow_shadow_read(sim->cow, s->number, bytes, sim->bytes, 0);
    if (!alive(sim, r))
        return false;
    for (uint64_t i = 0; i < sim->sectors; i++) {
        uint64_t tag = get_tag(bytes + i * COW_SECTOR_BYTES);
        if (tag != s->may_be[i] && tag != s->tag[i])
            test_fail(__FILE__, __LINE__,
                      "shadow %u, sector %" PRIu64 ": %" PRIu64 ", not %" PRIu64 " (now %" PRIu64
                      ")",
                      s->number, i, tag, s->tag[i], sim->now[i]);
        s->tag[i] = s->may_be[i] = tag;
    }
    return true;
}

/* Invariant 1, without a cut. */
static bool compare_volume(struct sim *sim)
{
    if (!alive(sim, cow_read(sim->cow, bytes, sim->bytes, 0)))
        return false;
    for (uint64_t i = 0; i < sim->sectors; i++)
        ASSERT_EQ(get_tag(bytes + i * COW_SECTOR_BYTES), sim->now[i]);
    return true;
}

/* Invariant 1, after a cut. */
static void adopt_volume(struct sim *sim)
{
    ASSERT_OK(cow_read(sim->cow, bytes, sim->bytes, 0));
    for (uint64_t i = 0; i < sim->sectors; i++) {
        const struct candidates *c = &sim->after_cut[i];
        uint64_t tag = get_tag(bytes + i * COW_SECTOR_BYTES);
        size_t found = 0;
        while (found < c->count && c->tag[found] != tag)
            found++;
        ASSERT_LT(found, c->count);
        sim->now[i] = tag;
        settle(sim, i);
    }
}

static bool block_differs(const struct sim *sim, uint64_t block, const uint64_t *a,
                          const uint64_t *b)
{
    uint64_t end = MIN((block + 1) * PER_BLOCK, sim->sectors);
    for (uint64_t i = block * PER_BLOCK; i < end; i++)
        if (a[i] != b[i])
            return true;
    return false;
}

/* Invariant 4. */
static void compare_changed(struct sim *sim, size_t from, size_t to)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};
    const struct model_shadow *f = &sim->shadows[from];
    const struct model_shadow *t = to < sim->shadow_count ? &sim->shadows[to] : NULL;
    const uint64_t *after = t ? t->tag : sim->now;
    const uint64_t *attempts = t ? t->attempts : sim->attempts;
    ASSERT_OK(cow_changed(sim->cow, f->number, t ? t->number : 0, &map));
    for (uint64_t b = 0; b * BLOCK_BYTES < sim->bytes; b++) {
        uint64_t end = MIN((b + 1) * BLOCK_BYTES, sim->bytes);
        bool reported = extent_map_contains(&map, b * BLOCK_BYTES, end);
        bool touched = attempts[b] != f->attempts[b] || f->own[b] || (t && t->own[b]);
        ASSERT_TRUE(reported || !block_differs(sim, b, f->tag, after));
        ASSERT_TRUE(touched || !reported);
    }
}

/* ---- steps: each returns false when the power is gone ---- */

static void choose_sectors(struct sim *sim, uint64_t *first, uint64_t *count)
{
    *first = below(sim, sim->sectors);
    uint64_t most = below(sim, 4) ? PER_BLOCK + 2 : WRITE_BLOCKS * PER_BLOCK;
    *count = 1 + below(sim, MIN(most, sim->sectors - *first));
}

static bool flush(struct sim *sim)
{
    if (!alive(sim, cow_flush(sim->cow)))
        return false;
    settle_all(sim);
    return true;
}

static bool room_for_candidates(struct sim *sim, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        if (sim->after_cut[i].count == CANDIDATES)
            return flush(sim);
    return true;
}

/* Of a write that has failed, each sector is there or not. */
static bool adopt_part(struct sim *sim, uint64_t first, uint64_t count, uint64_t tag)
{
    if (!alive(sim, cow_read(sim->cow, bytes, sim->bytes, 0)))
        return false;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t found = get_tag(bytes + (first + i) * COW_SECTOR_BYTES);
        ASSERT_TRUE(found == tag + i || found == sim->now[first + i]);
        sim->now[first + i] = found;
    }
    return true;
}

static bool step_write(struct sim *sim)
{
    uint64_t first, count;
    choose_sectors(sim, &first, &count);
    if (!room_for_candidates(sim, first, count))
        return false;
    uint64_t tag = sim->next_tag;
    sim->next_tag += count;
    for (uint64_t i = 0; i < count; i++) {
        put_tag(bytes + i * COW_SECTOR_BYTES, tag + i);
        may_become(sim, first + i, tag + i);
    }
    for (uint64_t b = first / PER_BLOCK; b <= (first + count - 1) / PER_BLOCK; b++)
        sim->attempts[b]++;
    int r = cow_write(sim->cow, bytes, count * COW_SECTOR_BYTES, first * COW_SECTOR_BYTES);
    if (r == -ENOSPC && !crashed(sim)) {
        ASSERT_TRUE(sim->options.protect_shadows);
        return adopt_part(sim, first, count, tag);
    }
    if (!alive(sim, r))
        return false;
    for (uint64_t i = 0; i < count; i++)
        sim->now[first + i] = tag + i;
    return true;
}

/* Each whole block is zero, and durably, or as before. */
static bool adopt_discard(struct sim *sim, uint64_t block)
{
    uint64_t start = block * PER_BLOCK, end = MIN(start + PER_BLOCK, sim->sectors);
    if (!alive(sim, cow_read(sim->cow, bytes, (end - start) * COW_SECTOR_BYTES,
                             start * COW_SECTOR_BYTES)))
        return false;
    bool zero = true, same = true;
    for (uint64_t i = start; i < end; i++) {
        uint64_t tag = get_tag(bytes + (i - start) * COW_SECTOR_BYTES);
        zero = zero && tag == 0;
        same = same && tag == sim->now[i];
    }
    ASSERT_TRUE(zero || same);
    for (uint64_t i = start; zero && !same && i < end; i++) {
        sim->now[i] = 0;
        settle(sim, i);
    }
    return true;
}

static bool step_discard(struct sim *sim)
{
    uint64_t first, count;
    choose_sectors(sim, &first, &count);
    if (!room_for_candidates(sim, first, count))
        return false;
    for (uint64_t i = first; i < first + count; i++)
        may_become(sim, i, 0);
    if (!alive(sim, cow_discard(sim->cow, count * COW_SECTOR_BYTES, first * COW_SECTOR_BYTES)))
        return false;
    for (uint64_t b = first / PER_BLOCK; b <= (first + count - 1) / PER_BLOCK; b++)
        if (!adopt_discard(sim, b))
            return false;
    return true;
}

static bool step_take(struct sim *sim)
{
    const struct cow_take take = {
        .writable = below(sim, 3) == 0, .label = "sim", .label_len = below(sim, 4)};
    uint32_t number;
    uint64_t hold_ns;
    if (sim->shadow_count + 1 >= SHADOWS_MAX)
        return true;
    sim->pending = (struct model_shadow){.writable = take.writable};
    memcpy(sim->pending.tag, sim->now, sizeof(sim->now));
    memcpy(sim->pending.may_be, sim->now, sizeof(sim->now));
    memcpy(sim->pending.attempts, sim->attempts, sizeof(sim->attempts));
    sim->pending.number = sim->last_number + 1;
    sim->is_pending = true;
    if (!alive(sim, cow_shadow_take(sim->cow, &take, &number, &hold_ns)))
        return false;
    ASSERT_GT(number, sim->last_number);
    sim->last_number = sim->pending.number = number;
    sim->shadows[sim->shadow_count++] = sim->pending;
    sim->is_pending = false;
    settle_all(sim);
    return true;
}

static bool step_delete(struct sim *sim, struct model_shadow *s)
{
    s->doubtful = true;
    return alive(sim, cow_shadow_delete(sim->cow, s->number));
}

static bool step_shadow_write(struct sim *sim, struct model_shadow *s)
{
    uint64_t first, count;
    choose_sectors(sim, &first, &count);
    for (uint64_t i = 0; i < count; i++) {
        put_tag(bytes + i * COW_SECTOR_BYTES, sim->next_tag + i);
        if (s->writable)
            s->may_be[first + i] = sim->next_tag + i;
    }
    sim->next_tag += count;
    for (uint64_t b = first / PER_BLOCK; b <= (first + count - 1) / PER_BLOCK; b++)
        s->own[b] = s->own[b] || s->writable;
    int r = cow_shadow_write(sim->cow, s->number, bytes, count * COW_SECTOR_BYTES,
                             first * COW_SECTOR_BYTES);
    if (r == -EROFS && !crashed(sim)) {
        ASSERT_FALSE(s->writable);
        return true;
    }
    if (r == -ENOSPC && !crashed(sim))
        return compare_shadow(sim, s);
    if (!alive(sim, r))
        return false;
    memcpy(s->tag, s->may_be, sizeof(s->tag));
    return true;
}

static bool step_seal(struct sim *sim, struct model_shadow *s)
{
    int r = cow_shadow_seal(sim->cow, s->number);
    if (r == -EALREADY && !crashed(sim)) {
        ASSERT_FALSE(s->writable);
        return true;
    }
    if (alive(sim, r))
        s->writable = false;
    return r == 0;
}

static bool step_resize(struct sim *sim)
{
    const uint64_t max_bytes = (1 + below(sim, BLOCKS)) * BLOCK_BYTES;
    struct cow_stat stat;
    cow_stat(sim->cow, &stat);
    int r = cow_resize(sim->cow, max_bytes);
    if (r != -ENOSPC)
        return alive(sim, r);
    ASSERT_TRUE(sim->options.protect_shadows && stat.used_bytes > max_bytes);
    return true;
}

static bool step_restart(struct sim *sim)
{
    if (below(sim, 2)) {
        if (!alive(sim, cow_close(TAKE_PTR(sim->cow))))
            return false;
        settle_all(sim);
    }
    machine_off(sim);
    return alive(sim, machine_on(sim));
}

static bool step_with_shadow(struct sim *sim)
{
    size_t i = below(sim, sim->shadow_count);
    struct model_shadow *s = &sim->shadows[i];
    switch (below(sim, 10)) {
    case 0:
    case 1: return step_delete(sim, s);
    case 2: return step_seal(sim, s);
    case 3:
    case 4:
    case 5: return step_shadow_write(sim, s);
    case 6: compare_changed(sim, i, i + 1 + below(sim, sim->shadow_count - i)); return true;
    default: return compare_shadow(sim, s);
    }
}

static bool step(struct sim *sim)
{
    switch (below(sim, 24)) {
    case 0:
    case 1: return step_discard(sim);
    case 2: return flush(sim);
    case 3:
    case 4: return step_take(sim);
    case 5: return below(sim, 4) > 0 || step_resize(sim);
    case 6: return below(sim, 3) > 0 || step_restart(sim);
    case 7: return compare_volume(sim);
    case 8:
    case 9:
    case 10:
    case 11: return sim->shadow_count == 0 || step_with_shadow(sim);
    default: return step_write(sim);
    }
}

static void work_until_the_power_goes(struct sim *sim)
{
    io_crash_at_sync(sim->disk, io_crash_sync_count(sim->disk) + 1 + below(sim, 120));
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        if (!step(sim))
            break;
        compare_list(sim);
    }
    if (!crashed(sim))
        io_crash_now(sim->disk);
    machine_off(sim);
    io_crash_at_sync(sim->disk, 0);
    io_crash_reboot(sim->disk);
}

static void recover_with_cuts(struct sim *sim)
{
    for (unsigned cut = 0; cut < CUTS_MAX; cut++) {
        bool last = cut + 1 == CUTS_MAX || below(sim, 2) == 0;
        io_crash_at_sync(sim->disk, last ? 0 : io_crash_sync_count(sim->disk) + 1 + below(sim, 8));
        int r = machine_on(sim);
        if (alive(sim, r))
            break;
        machine_off(sim);
        io_crash_at_sync(sim->disk, 0);
        io_crash_reboot(sim->disk);
    }
    io_crash_at_sync(sim->disk, 0);
}

/* ---- damage ---- */

static void flip_bit(struct sim *sim, struct io *disk)
{
    static const char *const names[] = {"volume", "map", "zero", "state", "cells"};
    CLEANUP(io_closep) struct io_file *file = NULL;
    const char *name = names[below(sim, ELEMENTSOF(names))];
    struct io_stat st;
    uint8_t byte;
    size_t len;
    ASSERT_OK(io_stat(disk, name, &st));
    if (st.size_bytes == 0)
        return;
    uint64_t offset = below(sim, st.size_bytes);
    ASSERT_OK(io_open(disk, name, IO_READ | IO_WRITE, &file));
    ASSERT_OK(io_pread(file, &byte, 1, offset, &len));
    byte ^= (uint8_t)(1u << below(sim, 8));
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    ASSERT_OK(io_pwritev(file, &iov, 1, offset));
    ASSERT_OK(io_sync(file));
}

/* Invariant 5.  The volume is open, and nothing is under way; a copy of its disk is damaged. */
static void damage(struct sim *sim)
{
    static struct sim other;
    other = *sim;
    other.cow = NULL;
    other.origin = NULL;
    ASSERT_OK(io_crash_clone(sim->disk, test_random(&sim->random), &other.disk));
    flip_bit(sim, other.disk);
    int r = machine_on(&other);
    if (r == 0)
        ASSERT_TRUE(compare_volume(&other));
    else
        ASSERT_TRUE(error_class(r) == EBADMSG || error_class(r) == EPROTONOSUPPORT);
    for (size_t i = 0; r == 0 && i < other.shadow_count; i++) {
        struct model_shadow *s = &other.shadows[i];
        int got = cow_shadow_read(other.cow, s->number, bytes, other.bytes, 0);
        if (got == 0)
            ASSERT_TRUE(compare_shadow(&other, s));
        else
            ASSERT_TRUE(got == -UMBRA_E_CORRUPT || got == -ENOENT);
    }
    machine_off(&other);
    io_free(other.disk);
}

/* ---- rounds ---- */

static void run_round(struct sim *sim)
{
    work_until_the_power_goes(sim);
    recover_with_cuts(sim);
    compare_list(sim);
    adopt_volume(sim);
    for (size_t i = 0; i < sim->shadow_count; i++)
        ASSERT_TRUE(compare_shadow(sim, &sim->shadows[i]));
    for (size_t i = 0; i < sim->shadow_count; i++)
        for (size_t j = i + 1; j <= sim->shadow_count; j++)
            compare_changed(sim, i, j);
    if (below(sim, 3) == 0)
        damage(sim);
}

static void make_origin(struct sim *sim)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    sim->sectors = SECTORS_MAX - below(sim, PER_BLOCK);
    sim->bytes = sim->sectors * COW_SECTOR_BYTES;
    ASSERT_OK(io_open(sim->disk, "origin", IO_READ | IO_WRITE | IO_CREATE, &file));
    ASSERT_OK(io_truncate(file, sim->bytes));
    ASSERT_OK(io_sync(file));
    ASSERT_OK(io_sync_dir(sim->disk, ""));
    settle_all(sim);
}

static void run_seed(uint64_t seed, unsigned rounds)
{
    static struct sim sim;
    log_set_level(LOG_LEVEL_ERROR); /* damage is reported, and wanted here */
    sim = (struct sim){.random = seed, .next_tag = 1};
    ASSERT_OK(io_new_crash(seed, &sim.disk));
    make_origin(&sim);
    sim.options = (struct cow_options){.block_bytes = BLOCK_BYTES,
                                       .max_bytes = (10 + below(&sim, 150)) * BLOCK_BYTES,
                                       .protect_shadows = below(&sim, 4) == 0,
                                       .origin_is_zero = below(&sim, 2) == 0,
                                       .log_bytes = WAL_FILE_MIN + below(&sim, 12) * 4096,
                                       .log_flush_bytes = UINT64_C(4) * 4096,
                                       .checkpoint_bytes = UINT64_C(8) * 4096,
                                       .no_threads = true};
    ASSERT_OK(cow_device_new_file(sim.disk, "origin", sim.bytes, &sim.origin));
    const struct cow_place place = place_of(&sim);
    ASSERT_OK(cow_create(&place, &sim.options));
    machine_off(&sim);
    ASSERT_OK(machine_on(&sim));
    for (unsigned round = 0; round < rounds; round++)
        run_round(&sim);
    machine_off(&sim);
    io_free(sim.disk);
}

int main(int argc, char **argv)
{
    static const struct sim_program program = {
        .name = "sim-cow",
        .run_seed = run_seed,
        .seeds_default = 200,
        .rounds_default = 3,
        .batch_seeds = 50,
        .outcome = "volume and shadows are as they were",
    };
    return sim_main(argc, argv, &program);
}
