/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instant restore against a model: the same operations on an ordinarily restored tree.
 *
 *     model-instant [--seeds A..B] [--jobs N]
 *     model-instant --seed N [--verbose]
 *
 * A small tree is backed up.  A seed makes two fresh volumes of one kind (ext4, xfs, btrfs), an
 * ordinary restore on one of them (the model) and an instant restore on the other (the subject).
 * Some threads then do random things to files of their own, each thing first in the subject and
 * then in the model: what they get (bytes, return values, errno, sizes) has to be the same, while
 * the background fills, and the daemons are being killed.  At the end, when the restore has ended
 * by itself, both trees have to be the same in everything, and nothing of umbra may be left.
 *
 * In one seed of three the power is cut: the subject's image is copied at some moment, without what
 * has not reached it.  On that copy the restore goes on.  Then nothing may be lost that was synced,
 * and no zeros may be where the backup has data and nobody has written.
 *
 *     model-instant.c    arguments, jobs, time limits
 *     model-world.c      processes, mounts and volumes that vanish together
 *     model-backup.c     the tree, its backup, the restores
 *     model-run.c        one seed
 *     model-actor.c      a thread; model-file.c its open files; model-ops-*.c what it can do
 *     model-chaos.c      kills
 *     model-compare.c    both trees
 *     model-history.c    what has become of each file; model-power.c what a power cut leaves of it
 *
 * Each job has a world of its own (pid and mount namespace): when its first process ends, or is
 * killed because a seed takes too long, the kernel ends everything in it.  Needs root; exits with
 * 77 without, and where no file system can be mounted.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

#define JOBS_MAX       16u
#define SEED_LIMIT_S   60u
#define WORLD_LIMIT_S  90u /* when the world cannot even end itself */
#define STATUS_SKIPPED 77
#define POLL_MS        500

struct arguments {
    uint64_t first, last;
    unsigned jobs;
    bool verbose;
};

/* Shared by all processes. */
struct shared {
    struct arguments arguments;
    _Atomic uint64_t next; /* seed */
    struct job {
        _Atomic uint64_t seed, started_s; /* 0: none is running */
        pid_t pid;                        /* the parent's alone */
        int pidfd;
    } jobs[JOBS_MAX];
};

static volatile sig_atomic_t interrupted;
static bool ending; /* the jobs have been killed */

static uint64_t now_s(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec;
}

/* ---- in a world ---- */

static struct shared *shared;

/* What every process of this world waits for. */
static void print_process(pid_t pid, const char *comm, void *data)
{
    static const char *const files[] = {"syscall", "wchan", "stack"};
    char path[128], text[4096];

    (void)data;
    (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    for (const struct dirent *d; tasks && (d = readdir(tasks));) {
        if (d->d_name[0] == '.')
            continue;
        fprintf(stderr, "--- %s %d/%s:\n", comm, (int)pid, d->d_name);
        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
            (void)snprintf(path, sizeof(path), "/proc/%d/task/%.20s/%s", (int)pid, d->d_name,
                           files[i]);
            CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
            ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
            if (n > 0)
                fprintf(stderr, "%s: %.*s\n", files[i], (int)n, text);
        }
    }
    if (tasks)
        (void)closedir(tasks);
}

static void explain(int signal)
{
    static volatile sig_atomic_t explained;

    if (!explained) {
        explained = 1;
        run_explain();
    }
    (void)signal;
}

/* A thread, so that it can say what all the others are waiting for. */
static void *watch(void *data)
{
    struct job *job = data;

    for (;;) {
        (void)sleep(1);
        uint64_t started_s = atomic_load(&job->started_s);
        if (started_s == 0 || now_s() - started_s < SEED_LIMIT_S)
            continue;
        fprintf(stderr, "out of time: seed %" PRIu64 "\n", atomic_load(&job->seed));
        world_each(print_process, NULL);
        abort();
    }
}

static void decide(struct settings *s, uint64_t seed)
{
    static const uint64_t limits[] = {2 * MIB, 8 * MIB, 40 * MIB, 0};
    uint64_t random = seed;

    *s = (struct settings){
        .seed = seed,
        .fs = (enum file_system)(seed % FS_KINDS),
        .whole_file_max = test_random(&random) % 2 ? 64 * KIB : 16 * MIB,
        .limit_bytes_per_s = limits[test_random(&random) % ELEMENTSOF(limits)],
        .actors = 1 + (unsigned)(test_random(&random) % ACTORS_MAX),
        .operations = 20 + (unsigned)(test_random(&random) % 100),
        .kills = test_random(&random) % 2 ? 0 : 1 + (unsigned)(test_random(&random) % KILLS_MAX),
        .power_cut = test_random(&random) % 3 == 0,
        .verbose = shared->arguments.verbose,
    };
}

static void world_main(void *data)
{
    struct job *job = data;
    struct origin origin = {0};
    struct settings settings;
    pthread_t watcher;

    (void)signal(SIGABRT, explain);
    (void)signal(SIGPIPE, SIG_IGN);
    world_make_images();
    origin_make(&origin);
    ASSERT_EQ(pthread_create(&watcher, NULL, watch, job), 0);
    for (uint64_t seed; (seed = atomic_fetch_add(&shared->next, 1)) <= shared->arguments.last;) {
        decide(&settings, seed);
        if (!world_has(settings.fs))
            continue;
        atomic_store(&job->seed, seed);
        atomic_store(&job->started_s, now_s());
        run_seed(&origin, &settings);
        atomic_store(&job->started_s, 0);
    }
    origin_release(&origin);
}

/* ---- the parent ---- */

static void interrupt(int signal)
{
    interrupted = signal;
}

static void start_job(struct job *job)
{
    job->pid = world_start(world_main, job, &job->pidfd);
}

static void kill_all(void)
{
    ending = true;
    for (unsigned i = 0; i < shared->arguments.jobs; i++)
        if (shared->jobs[i].pid > 0)
            (void)kill(shared->jobs[i].pid, SIGKILL);
}

static void kill_slow(void)
{
    for (unsigned i = 0; i < shared->arguments.jobs; i++) {
        struct job *job = &shared->jobs[i];
        uint64_t started_s = atomic_load(&job->started_s);
        if (job->pid > 0 && started_s != 0 && now_s() - started_s > WORLD_LIMIT_S)
            (void)kill(job->pid, SIGKILL);
    }
}

/* Whether it was good. */
static bool end_job(struct job *job, int status)
{
    job->pid = 0;
    (void)close(job->pidfd);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (!ending)
        fprintf(stderr, "seed %" PRIu64 " failed; again: --seed %" PRIu64 " --verbose\n",
                atomic_load(&job->seed), atomic_load(&job->seed));
    kill_all();
    return false;
}

static bool wait_for_jobs(void)
{
    unsigned running = shared->arguments.jobs;
    bool good = true;

    while (running > 0) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0) {
            (void)poll(NULL, 0, POLL_MS / 10);
            if (interrupted)
                kill_all();
            kill_slow();
            continue;
        }
        for (unsigned i = 0; i < shared->arguments.jobs; i++)
            if (shared->jobs[i].pid == pid) {
                good = end_job(&shared->jobs[i], status) && good;
                running--;
            }
    }
    return good && !interrupted;
}

/* ---- arguments ---- */

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

static bool parse_one(int option, const char *value, struct arguments *args)
{
    const char *end = "";
    uint64_t number = 0;

    switch (option) {
    case 's': return parse_seeds(value, args);
    case 'o':
        if (!parse_number(value, 0, UINT32_MAX, &end, &number) || *end)
            return false;
        args->first = args->last = number;
        args->jobs = 1;
        return true;
    case 'j':
        if (!parse_number(value, 1, JOBS_MAX, &end, &number) || *end)
            return false;
        args->jobs = (unsigned)number;
        return true;
    case 'v': args->verbose = true; return true;
    default: return false;
    }
}

static bool parse_arguments(int argc, char **argv, struct arguments *args)
{
    static const struct option options[] = {{"seeds", required_argument, NULL, 's'},
                                            {"seed", required_argument, NULL, 'o'},
                                            {"jobs", required_argument, NULL, 'j'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {0}};
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (!parse_one(c, optarg, args))
            return false;
    return optind == argc;
}

int main(int argc, char **argv)
{
    struct arguments args = {.first = 1, .last = 100, .jobs = 2};

    if (!parse_arguments(argc, argv, &args)) {
        fprintf(stderr,
                "usage: model-instant [--seeds A..B] [--jobs 1..%u] [--seed N] "
                "[--verbose]\n",
                JOBS_MAX);
        return 2;
    }
    if (geteuid() != 0) {
        fprintf(stderr, "model-instant: skipped: must be root\n");
        return STATUS_SKIPPED;
    }
    if (sodium_init() < 0)
        return 1;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_TRUE(shared != MAP_FAILED);
    shared->arguments = args;
    atomic_store(&shared->next, args.first);
    (void)test_tmpdir();
    (void)signal(SIGINT, interrupt);
    (void)signal(SIGTERM, interrupt);
    for (unsigned i = 0; i < args.jobs; i++)
        start_job(&shared->jobs[i]);
    if (!wait_for_jobs())
        return 1;
    printf("%" PRIu64 " seeds: the same\n", args.last - args.first + 1);
    return 0;
}
