/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The throttle beside a simulated disk and a clock of its own.
 *
 * The disk moves so many bytes a second, for the background and for others alike.  Others wait for
 * a share of the time of their own, and the more, the more of the disk the background takes; so
 * does the background.
 */
#include <fcntl.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "restore/instant.h"
#include "restore/throttle-probe.h"

#define TICK_NS  UINT64_C(1000000)
#define UNIT     (256 * KIB)
#define CAPACITY (400 * MIB)
#define FLOOR    ((double)INSTANT_RATE_FLOOR)
#define START_NS (1000 * NSEC_PER_SEC)

struct world {
    struct throttle throttle;
    struct throttle_sample sample;
    uint64_t now_ns, sampled_ns;
    uint64_t busy_until_ns; /* the background does what it has taken */
    uint64_t ask_ns;
    /* what others do */
    uint64_t others_bytes_per_s;
    double others_wait; /* share of the time, without us */
    double other_wait;  /* the same, for other disks */
    double journal;     /* bytes the disk writes for each of ours */
    bool demand, stuck;
    /* what came of it */
    uint64_t taken_bytes;
    double own_ns; /* of the time since the last sample, for the background */
};

static void world_init(struct world *w, uint64_t limit, bool idle)
{
    *w = (struct world){.now_ns = START_NS, .sampled_ns = START_NS, .journal = 1.1};
    w->sample.has_disk = w->sample.has_waits = true;
    throttle_init(&w->throttle, limit, idle, w->now_ns);
}

static void sample(struct world *w)
{
    uint64_t window_ns = w->now_ns - w->sampled_ns;
    double own = w->own_ns / (double)window_ns;
    double waits = MIN(w->others_wait + w->other_wait + own, 1.0);
    w->sample.waits_us += (uint64_t)(waits * (double)window_ns / 1000);
    w->sample.own_busy = w->stuck || w->busy_until_ns > w->now_ns;
    throttle_feed(&w->throttle, &w->sample, w->now_ns);
    w->sampled_ns = w->now_ns;
    w->own_ns = 0;
}

static void work(struct world *w)
{
    /* What begins within a tick is begun with it. */
    while (w->now_ns >= w->ask_ns && w->busy_until_ns < w->now_ns + TICK_NS) {
        uint64_t wait_ns = throttle_take(&w->throttle, UNIT, w->demand, w->now_ns);
        if (wait_ns > 0) {
            w->ask_ns = w->now_ns + wait_ns;
            return;
        }
        uint64_t cost_ns = UNIT * NSEC_PER_SEC / CAPACITY;
        w->taken_bytes += UNIT;
        w->own_ns += (double)cost_ns;
        w->busy_until_ns = MAX(w->busy_until_ns, w->now_ns) + cost_ns;
        w->sample.own_written_bytes += UNIT;
        w->sample.disk_written_bytes += (uint64_t)(w->journal * (double)UNIT);
    }
}

/* The rate of the background over this time. */
static double run(struct world *w, double seconds)
{
    uint64_t begin_bytes = w->taken_bytes;
    uint64_t end_ns = w->now_ns + (uint64_t)(seconds * (double)NSEC_PER_SEC);
    while (w->now_ns < end_ns) {
        work(w);
        w->sample.disk_written_bytes += w->others_bytes_per_s / 1000;
        w->now_ns += TICK_NS;
        if (w->now_ns - w->sampled_ns >= THROTTLE_SAMPLE_INTERVAL_NS)
            sample(w);
    }
    return (double)(w->taken_bytes - begin_bytes) / seconds;
}

#define ASSERT_RATE(rate, least, most)                                                 \
    do {                                                                               \
        double assert_rate = (rate);                                                   \
        if (assert_rate < (double)(least) || assert_rate > (double)(most))             \
            test_fail(__FILE__, __LINE__, "rate is %.2f MiB/s, expected %.2f to %.2f", \
                      assert_rate / (double)MIB, (double)(least) / (double)MIB,        \
                      (double)(most) / (double)MIB);                                   \
    } while (0)

static void others_begin(struct world *w, double wait)
{
    w->others_bytes_per_s = 30 * MIB;
    w->others_wait = wait;
}

static void others_end(struct world *w)
{
    w->others_bytes_per_s = 0;
    w->others_wait = 0;
}

TEST(a_free_disk_is_used)
{
    struct world w;
    world_init(&w, 0, false);
    (void)run(&w, 2);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
}

TEST(our_own_journal_is_not_mistaken_for_others)
{
    /* Up to 1.5 it is set off, far beyond it looks like others, who never wait. */
    const double journals[] = {1.4, 3};
    for (size_t i = 0; i < ELEMENTSOF(journals); i++) {
        struct world w;
        world_init(&w, 0, false);
        w.journal = journals[i];
        (void)run(&w, 2);
        ASSERT_RATE(run(&w, 20), 0.9 * CAPACITY, CAPACITY);
    }
}

TEST(the_limit_holds)
{
    const uint64_t limits[] = {100 * KIB, 1 * MIB, 50 * MIB};
    for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
        struct world w;
        world_init(&w, limits[i], false);
        (void)run(&w, 20);
        ASSERT_RATE(run(&w, 100), 0.95 * (double)limits[i], 1.02 * (double)limits[i]);
    }
}

TEST(the_limit_can_be_changed)
{
    struct world w;
    world_init(&w, 10 * KIB, false);
    (void)run(&w, 10);
    throttle_set_limit(&w.throttle, 20 * MIB, w.now_ns);
    ASSERT_RATE(run(&w, 10), 18 * MIB, 21 * MIB);
    throttle_set_limit(&w.throttle, 0, w.now_ns);
    (void)run(&w, 2);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
    throttle_set_limit(&w.throttle, 5 * MIB, w.now_ns);
    (void)run(&w, 2);
    ASSERT_RATE(run(&w, 10), 4.7 * MIB, 5.2 * MIB);
}

TEST(demand_leaves_the_floor)
{
    struct world w;
    world_init(&w, 0, false);
    (void)run(&w, 5);
    w.demand = true;
    (void)run(&w, 1);
    ASSERT_RATE(run(&w, 20), 0.9 * FLOOR, 1.1 * FLOOR);
    w.demand = false;
    ASSERT_RATE(run(&w, 2), 0.5 * CAPACITY, CAPACITY);
}

TEST(beside_others_that_wait_it_takes_a_tenth)
{
    const double waits[] = {0.05, 0.3, 0.6};
    for (size_t i = 0; i < ELEMENTSOF(waits); i++) {
        struct world w;
        world_init(&w, 0, false);
        (void)run(&w, 3);
        others_begin(&w, waits[i]);
        (void)run(&w, 10);
        ASSERT_RATE(run(&w, 30), 0.03 * CAPACITY, 0.2 * CAPACITY);
    }
}

TEST(waits_for_other_disks_do_not_matter)
{
    struct world w;
    world_init(&w, 0, false);
    w.other_wait = 0.5;
    (void)run(&w, 3);
    ASSERT_RATE(run(&w, 20), 0.9 * CAPACITY, CAPACITY);
}

TEST(a_crowded_disk_gets_a_constant_rate)
{
    struct world w;
    world_init(&w, 0, false);
    others_begin(&w, 0.95);
    (void)run(&w, 10);
    ASSERT_RATE(run(&w, 30), 12 * MIB, 17 * MIB);
}

TEST(when_others_end_the_disk_is_ours_again)
{
    struct world w;
    world_init(&w, 0, false);
    others_begin(&w, 0.3);
    (void)run(&w, 20);
    others_end(&w);
    (void)run(&w, 5);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
}

TEST(idle_means_the_floor_beside_others)
{
    struct world w;
    world_init(&w, 0, true);
    (void)run(&w, 2);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
    others_begin(&w, 0);
    (void)run(&w, 10);
    ASSERT_RATE(run(&w, 20), 0.9 * FLOOR, 1.3 * FLOOR);
    others_end(&w);
    (void)run(&w, 5);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
}

TEST(without_files_to_look_at_it_goes_on)
{
    struct world w;
    world_init(&w, 0, false);
    w.sample.has_disk = w.sample.has_waits = false;
    others_begin(&w, 0.5);
    (void)run(&w, 2);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
}

TEST(waits_alone_do)
{
    struct world w;
    world_init(&w, 0, false);
    w.sample.has_disk = false;
    (void)run(&w, 3);
    ASSERT_RATE(run(&w, 20), 0.9 * CAPACITY, CAPACITY);
    others_begin(&w, 0.3);
    (void)run(&w, 15);
    ASSERT_RATE(run(&w, 30), 0.03 * CAPACITY, 0.2 * CAPACITY);
}

TEST(the_disk_alone_does)
{
    struct world w;
    world_init(&w, 0, false);
    w.sample.has_waits = false;
    (void)run(&w, 2);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
    others_begin(&w, 0.3);
    (void)run(&w, 10);
    ASSERT_RATE(run(&w, 20), 14 * MIB, 17 * MIB);
}

TEST(a_probe_that_never_settles_is_given_up)
{
    struct world w;
    world_init(&w, 0, false);
    w.stuck = true;
    others_begin(&w, 0.3);
    (void)run(&w, 5);
    ASSERT_RATE(run(&w, 30), 0.3 * CAPACITY, CAPACITY);
}

TEST(what_ends_soon_is_not_probed)
{
    struct world w;
    world_init(&w, 0, false);
    w.sample.left_bytes = CAPACITY / 2;
    for (int i = 0; i < 30; i++) {
        (void)run(&w, 1);
        if (i > 1)
            ASSERT_EQ(w.throttle.probe, THROTTLE_PROBE_NONE);
    }
    uint64_t probed_ns = w.throttle.probe_ns;
    w.sample.left_bytes = 100 * CAPACITY;
    (void)run(&w, 1);
    ASSERT_TRUE(w.throttle.probe_ns > probed_ns);
}

TEST(counters_may_begin_anew)
{
    struct world w;
    world_init(&w, 0, false);
    (void)run(&w, 3);
    w.sample = (struct throttle_sample){.has_disk = true, .has_waits = true};
    (void)run(&w, 1);
    ASSERT_RATE(run(&w, 5), 0.9 * CAPACITY, CAPACITY);
}

/* Whatever the samples say and however demand comes and goes. */
TEST(floor_and_limit_hold_for_any_samples)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t random = seed;
        uint64_t limit = test_random(&random) % 3 == 0 ? 0 : 1 + test_random(&random) % (8 * MIB);
        struct throttle t;
        struct throttle_sample s = {.has_waits = seed % 2, .has_disk = seed % 3 > 0};
        uint64_t now_ns = START_NS, taken_bytes = 0, held_from_ns = now_ns;
        double floor = limit > 0 ? MIN((double)limit, FLOOR) : FLOOR;
        throttle_init(&t, limit, seed % 5 == 0, now_ns);
        while (now_ns < START_NS + 20 * NSEC_PER_SEC) {
            s.waits_us += test_random(&random) % 200000;
            s.disk_read_bytes += test_random(&random) % (test_random(&random) % 5 ? 1 : 64 * MIB);
            s.own_written_bytes += test_random(&random) % MIB;
            s.own_busy = test_random(&random) % 2;
            if (test_random(&random) % 10 == 0)
                throttle_feed(&t, &s, now_ns);
            uint64_t bytes = 1 + test_random(&random) % UNIT;
            uint64_t wait_ns = throttle_take(&t, bytes, test_random(&random) % 2, now_ns);
            if (wait_ns == 0) {
                taken_bytes += bytes;
                held_from_ns = now_ns;
                /* The longest that the floor's rate lets a unit wait. */
            } else {
                double most_ns = (double)UNIT / floor * 1e9 + 60e6;
                ASSERT_LE(now_ns - held_from_ns, (uint64_t)most_ns);
            }
            now_ns += wait_ns == 0 ? test_random(&random) % 3000000 : wait_ns;
        }
        double seconds = (double)(now_ns - START_NS) / 1e9;
        if (limit > 0)
            ASSERT_RATE((double)taken_bytes, 0, (double)limit * seconds + (double)(2 * MIB));
    }
}

/* ---- the files ---- */

TEST(pressure)
{
    uint64_t us = 0;
    ASSERT_OK(throttle_parse_pressure("some avg10=0.12 avg60=2.64 avg300=5.39 total=810017256\n"
                                      "full avg10=0.12 avg60=2.47 avg300=3.21 total=189423264\n",
                                      &us));
    ASSERT_EQ(us, 810017256);
    ASSERT_ERR(throttle_parse_pressure("", &us), -EBADMSG);
    ASSERT_ERR(throttle_parse_pressure("some avg10=0.12\nfull total=5\n", &us), -EBADMSG);
}

TEST(disk)
{
    struct throttle_sample s = {0};
    uint64_t read_ms = 0;
    ASSERT_OK(
        throttle_parse_disk("  319567     2938 27740045   110122   383127  3727959 130295056  "
                            "2137215        0   194388  2301109        0        0\n",
                            &s, &read_ms));
    ASSERT_EQ(s.disk_read_bytes, UINT64_C(27740045) * 512);
    ASSERT_EQ(s.disk_written_bytes, UINT64_C(130295056) * 512);
    ASSERT_EQ(read_ms, 110122);
    ASSERT_ERR(throttle_parse_disk("1 2 3", &s, &read_ms), -EBADMSG);
}

TEST(own)
{
    uint64_t bytes_read = 0, written = 0;
    ASSERT_OK(throttle_parse_own("rchar: 323934931\nwchar: 323929600\nsyscr: 632687\n"
                                 "syscw: 632675\nread_bytes: 4096\nwrite_bytes: 323932160\n"
                                 "cancelled_write_bytes: 160\n",
                                 &bytes_read, &written));
    ASSERT_EQ(bytes_read, 4096);
    ASSERT_EQ(written, 323932000);
    ASSERT_ERR(throttle_parse_own("rchar: 1\n", &bytes_read, &written), -EBADMSG);
}

TEST(this_machine)
{
    struct throttle_files files;
    struct throttle_sample first, second;
    CLEANUP_CLOSE int fd = open(test_tmpdir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    throttle_files_open(&files, fd, test_tmpdir());
    if (files.disk_fd >= 0)
        ASSERT_TRUE(files.own_reads_count);
    throttle_files_sample(&files, &first);
    throttle_files_sample(&files, &second);
    ASSERT_EQ(first.has_disk, second.has_disk);
    ASSERT_EQ(first.has_waits, second.has_waits);
    ASSERT_GE(second.waits_us, first.waits_us);
    ASSERT_GE(second.disk_written_bytes, first.disk_written_bytes);
    if (first.has_disk)
        ASSERT_GT(second.disk_read_bytes, 0);
    throttle_files_close(&files);
    throttle_files_sample(&files, &first);
    ASSERT_FALSE(first.has_disk || first.has_waits);
}

TEST_MAIN()
