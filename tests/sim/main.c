/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/test.h"

#include "sim.h"

#define ROUNDS_MAX    20u
#define BATCH_LIMIT_S 600u
#define JOBS_MAX      64u

struct batch {
    pid_t pid;
    _Atomic uint64_t seed; /* being run; shared with the child */
};

struct arguments {
    uint64_t first, last;
    unsigned rounds, jobs;
};

static void batch_start(const struct sim_program *program, struct batch *batch, uint64_t first,
                        uint64_t last, unsigned rounds)
{
    atomic_store(&batch->seed, first);
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid > 0) {
        batch->pid = pid; /* the parent's alone: the child shares this memory */
        return;
    }
    alarm(BATCH_LIMIT_S);
    for (uint64_t seed = first; seed <= last; seed++) {
        atomic_store(&batch->seed, seed);
        program->run_seed(seed, rounds);
    }
    exit(0);
}

/* Waits for any batch; its slot is free then. */
static bool batch_wait(struct batch *batches, unsigned jobs)
{
    int status = 0;
    pid_t pid = waitpid(-1, &status, 0);

    ASSERT_TRUE(pid > 0);
    for (unsigned i = 0; i < jobs; i++) {
        if (batches[i].pid != pid)
            continue;
        batches[i].pid = 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            return true;
        fprintf(stderr,
                "seed %" PRIu64 " failed (status %#x); again: --seeds %" PRIu64 "..%" PRIu64 "\n",
                atomic_load(&batches[i].seed), (unsigned)status, atomic_load(&batches[i].seed),
                atomic_load(&batches[i].seed));
        return false;
    }
    fprintf(stderr, "a process that is no batch has ended: %d\n", (int)pid);
    return false;
}

static bool run_batches(const struct sim_program *program, const struct arguments *args)
{
    struct batch *batches = mmap(NULL, JOBS_MAX * sizeof(*batches), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t next = args->first;
    unsigned running = 0;
    bool good = true;

    ASSERT_TRUE(batches != MAP_FAILED);
    while (running > 0 || (good && next <= args->last)) {
        if (running == args->jobs || !good || next > args->last) {
            good = batch_wait(batches, args->jobs) && good;
            running--;
            continue;
        }
        unsigned slot = 0;
        while (batches[slot].pid != 0)
            slot++;
        uint64_t last =
            args->last - next < program->batch_seeds ? args->last : next + program->batch_seeds - 1;
        batch_start(program, &batches[slot], next, last, args->rounds);
        next = last + 1;
        running++;
    }
    (void)munmap(batches, JOBS_MAX * sizeof(*batches));
    return good;
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, const char **ret_end,
                         uint64_t *ret_value)
{
    char *end = NULL;

    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *text == '-' || value < min || value > max)
        return false;
    *ret_end = end;
    *ret_value = value;
    return true;
}

static bool parse_seeds(const char *text, struct arguments *args)
{
    const char *end = NULL;

    return parse_number(text, 0, UINT32_MAX, &end, &args->first) && strncmp(end, "..", 2) == 0 &&
           parse_number(end + 2, args->first, UINT32_MAX, &end, &args->last) && *end == '\0';
}

static bool parse_arguments(int argc, char **argv, struct arguments *args)
{
    static const struct option options[] = {{"seeds", required_argument, NULL, 's'},
                                            {"rounds", required_argument, NULL, 'r'},
                                            {"jobs", required_argument, NULL, 'j'},
                                            {0}};
    const char *end = "";
    uint64_t value = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's' && parse_seeds(optarg, args))
            continue;
        if (c == 'r' && parse_number(optarg, 1, ROUNDS_MAX, &end, &value) && *end == '\0')
            args->rounds = (unsigned)value;
        else if (c == 'j' && parse_number(optarg, 1, JOBS_MAX, &end, &value) && *end == '\0')
            args->jobs = (unsigned)value;
        else
            return false;
    }
    return optind == argc;
}

int sim_main(int argc, char **argv, const struct sim_program *program)
{
    struct arguments args = {
        .first = 1, .last = program->seeds_default, .rounds = program->rounds_default, .jobs = 2};

    if (!parse_arguments(argc, argv, &args)) {
        fprintf(stderr, "usage: %s [--seeds A..B] [--rounds 1..%u] [--jobs 1..%u]\n", program->name,
                ROUNDS_MAX, JOBS_MAX);
        return 2;
    }
    if (!run_batches(program, &args))
        return 1;
    printf("%" PRIu64 " seeds, %u power cuts each: %s\n", args.last - args.first + 1, args.rounds,
           program->outcome);
    return 0;
}
