/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine of cow volumes alone: random writes to an image file, without front end or file
 * system.
 *
 *     cow-engine ORIGIN STORAGE [--threads N] [--seconds N] [--bytes N] [--write-bytes N]
 * [--block-bytes N]
 *
 * ORIGIN is an image file that is made and filled, STORAGE a directory that is made; both are to be
 * removed by the caller.  A line each: writes without a shadow, right after one was taken (the
 * worst case: every write copies a block), and again over the same blocks, when all is copied; then
 * the time that writes were held for shadows under full load.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/splitmix.h"
#include "cow/cow.h"

#define THREADS_MAX 128u
#define HOLDS       40u

struct setting {
    const char *origin, *storage;
    unsigned threads, seconds;
    uint64_t bytes, write_bytes, block_bytes;
};

static struct setting setting = {
    .threads = 32, .seconds = 5, .bytes = 1024 * MIB, .write_bytes = 4096, .block_bytes = 16384};
static struct cow *cow;
static struct cow_device *origin;
static _Atomic bool stop;

static void must(const char *what, int r)
{
    if (r >= 0)
        return;
    fprintf(stderr, "bench/cow-engine: %s: %s\n", what, error_text(r));
    exit(1);
}

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the volume ---- */

static void make_origin(void)
{
    int fd = open(setting.origin, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must("origin", fd < 0 ? -errno : 0);
    CLEANUP_FREE uint8_t *bytes = malloc(MIB);
    must("memory", bytes ? 0 : -ENOMEM);
    memset(bytes, 0x5a, MIB);
    for (uint64_t at = 0; at < setting.bytes; at += MIB)
        must("origin", pwrite(fd, bytes, MIB, (off_t)at) == (ssize_t)MIB ? 0 : -EIO);
    must("origin", fsync(fd) < 0 ? -errno : 0);
    must("origin", cow_device_new_fd(fd, &origin));
}

static void make_volume(struct io **ret_io)
{
    make_origin();
    must("storage", mkdir(setting.storage, 0700) < 0 ? -errno : 0);
    must("storage", io_new_real(setting.storage, ret_io));
    const struct cow_place place = {.storage = *ret_io, .origin = origin};
    const struct cow_options options = {.block_bytes = (uint32_t)setting.block_bytes,
                                        .max_bytes = 4 * setting.bytes};
    must("create", cow_create(&place, &options));
    must("open", cow_open(&place, &options, &cow));
}

static uint64_t take(void)
{
    const struct cow_take how = {0};
    uint32_t number;
    uint64_t hold_ns;
    must("shadow", cow_shadow_take(cow, &how, &number, &hold_ns));
    return hold_ns;
}

/* ---- writers ---- */

struct writer {
    pthread_t thread;
    uint64_t random, count;
};

static void *write_at_random(void *userdata)
{
    struct writer *w = userdata;
    void *bytes = NULL;
    must("memory", -posix_memalign(&bytes, 4096, setting.write_bytes));
    memset(bytes, 0xa5, setting.write_bytes);
    while (!stop) {
        uint64_t at = splitmix64_next(&w->random) % (setting.bytes / setting.write_bytes);
        must("write", cow_write(cow, bytes, setting.write_bytes, at * setting.write_bytes));
        w->count++;
    }
    free(bytes);
    return NULL;
}

static struct writer writers[THREADS_MAX];

static void start(void)
{
    stop = false;
    for (unsigned i = 0; i < setting.threads; i++) {
        writers[i] = (struct writer){.random = i + 1};
        must("thread", -pthread_create(&writers[i].thread, NULL, write_at_random, &writers[i]));
    }
}

static uint64_t finish(void)
{
    uint64_t count = 0;
    stop = true;
    for (unsigned i = 0; i < setting.threads; i++) {
        must("thread", -pthread_join(writers[i].thread, NULL));
        count += writers[i].count;
    }
    return count;
}

static void measure(const char *what)
{
    struct cow_stat before, after;
    cow_stat(cow, &before);
    double from = now_s();
    start();
    (void)sleep(setting.seconds);
    uint64_t count = finish();
    double took = now_s() - from;
    cow_stat(cow, &after);
    printf("%-16s %9.0f writes/s %9.1f MiB/s  %8" PRIu64 " blocks copied\n", what,
           (double)count / took, (double)(count * setting.write_bytes) / took / (double)MIB,
           after.copied_blocks - before.copied_blocks);
    (void)fflush(stdout);
}

/* ---- holds ---- */

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void measure_holds(void)
{
    uint64_t ns[HOLDS];
    start();
    for (unsigned i = 0; i < HOLDS; i++) {
        ns[i] = take();
        (void)usleep(100000);
    }
    (void)finish();
    qsort(ns, HOLDS, sizeof(ns[0]), compare);
    printf("holds            %u: median %.2f ms, highest %.2f ms\n", HOLDS,
           (double)ns[HOLDS / 2] / 1e6, (double)ns[HOLDS - 1] / 1e6);
}

/* ---- arguments ---- */

static const struct {
    const char *name;
    uint64_t *u64;
    unsigned *u;
} numbers[] = {
    {"threads", NULL, &setting.threads},
    {"seconds", NULL, &setting.seconds},
    {"bytes", &setting.bytes, NULL},
    {"write-bytes", &setting.write_bytes, NULL},
    {"block-bytes", &setting.block_bytes, NULL},
};

static void parse(int argc, char **argv)
{
    struct option options[ELEMENTSOF(numbers) + 1] = {0};
    for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
        options[i] = (struct option){.name = numbers[i].name, .has_arg = required_argument};
    int index, c;
    while ((c = getopt_long(argc, argv, "", options, &index)) == 0) {
        uint64_t value = strtoull(optarg, NULL, 10);
        if (numbers[index].u64)
            *numbers[index].u64 = value;
        else
            *numbers[index].u = (unsigned)value;
    }
    if (c != -1 || argc - optind != 2 || setting.threads > THREADS_MAX) {
        fprintf(stderr, "usage: cow-engine ORIGIN STORAGE [--threads N] ...\n");
        exit(2);
    }
    setting.origin = argv[optind];
    setting.storage = argv[optind + 1];
}

int main(int argc, char **argv)
{
    struct io *io;
    parse(argc, argv);
    make_volume(&io);
    measure("without a shadow");
    (void)take();
    measure("right after one");
    measure("some copied");
    measure_holds();
    must("close", cow_close(cow));
    cow_device_free(origin);
    io_free(io);
    return 0;
}
