/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umbra-cowd: the daemon of one attached cow volume.
 *
 *     umbra-cowd NAME ----> keeper ----> worker ----> worker ...
 *     (ends when the        holds        engine, front end,
 *      volume is there)     and waits    control socket
 *
 * Invariants
 *  1. The keeper has the lock of the volume, the origin (exclusively) and the front end's
 *     descriptor for as long as the volume is attached.  So nobody else gets hold of the origin
 *     between two workers, and requests wait for the next one.
 *  2. A worker is started when the one before has ended with all its threads: whatever it was
 *     writing is written.
 *  3. The keeper does nothing that could wait for a device of the volume.
 *  4. A worker that has come up may die as often as it likes, with growing pauses.  After some that
 *     cannot even come up nobody is helped by waiting any longer: the keeper ends, and what
 *     waits gets EIO.
 *  5. A worker whose keeper was killed goes on.  It is the last one then.
 *  6. "Detached" is answered when both have let go of the origin.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "cow/cowd-private.h"
#include "cow/loop-hand.h"

#define PROGRAM      "umbra-cowd"
#define LONG_LIFE_NS (10 * NSEC_PER_SEC)
#define FAILURES_MAX 20u /* of workers that did not come up, in a row */
#define EXIT_USAGE   2

#ifndef PR_SET_IO_FLUSHER /* Linux 5.6 */
#define PR_SET_IO_FLUSHER 57
#endif

#define COWD_NONE                                                                        \
    {                                                                                    \
        .origin = {.fd = -EBADF}, .storage_fd = -EBADF, .lock_fd = -EBADF, .held_fd = -1 \
    }

static const unsigned pauses_ms[] = {0, 0, 0, 10, 50, 100, 200, 500, 1000};

struct keeper {
    struct cowd cowd;
    int report_fd; /* of the starter; -EBADF: it has been told */
    bool came_up;  /* the worker that runs, or ran last */
    bool detached;
    unsigned short_lives, failures;
};

static volatile sig_atomic_t stop_wanted;
static volatile sig_atomic_t worker_pid;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    (void)clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- telling the starter ---- */

static void report(struct keeper *k, const char *words)
{
    if (k->report_fd < 0)
        return;
    IGNORE_RESULT(write(k->report_fd, words, strlen(words)));
    cleanup_closep(&k->report_fd);
    k->report_fd = -EBADF;
}

static int report_error(struct keeper *k, const char *words)
{
    log_error("%s", words);
    report(k, words);
    return EXIT_FAILURE;
}

/* ---- what the keeper holds ---- */

void cowd_let_go(struct cowd *d)
{
    cleanup_closep(&d->held_fd);
    cow_origin_release(&d->origin);
    cleanup_closep(&d->storage_fd);
    cleanup_closep(&d->lock_fd);
    d->held_fd = d->storage_fd = d->lock_fd = -1;
}

/* In this order: nothing waits for a worker that will not come, and whoever gets the lock next has
 * the directory to itself. */
void cowd_leave(struct cowd *d)
{
    cleanup_closep(&d->held_fd);
    d->held_fd = -1;
    d->ops->release(d->run_dir);
    (void)rmdir(d->run_dir);
    cowd_let_go(d);
}

static int make_dir(const char *path)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make the directory '%s'", path);
    return 0;
}

static int make_run_dir(struct cowd *d)
{
    int r = make_dir("/run/umbra");
    if (r == 0)
        r = make_dir(VOLUME_RUN_DIR);
    if (r == 0 && asprintf(&d->run_dir, VOLUME_RUN_DIR "/%s", d->config.name) < 0) {
        d->run_dir = NULL;
        r = -ENOMEM;
    }
    return r < 0 ? r : make_dir(d->run_dir);
}

static int open_storage(struct cowd *d)
{
    d->storage_fd = open(d->config.storage, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (d->storage_fd < 0)
        return error_note_describe(-errno, "cannot open storage '%s'", d->config.storage);
    return 0;
}

static int take_hold(struct cowd *d, const char *name, const char *front)
{
    int r = volume_config_lock(VOLUME_CONFIG_DIR, name, &d->lock_fd);
    if (r == 0)
        r = volume_config_load(VOLUME_CONFIG_DIR, name, &d->config);
    if (r == 0)
        r = cow_front_choose(front, &d->ops);
    if (r == 0)
        r = make_run_dir(d);
    if (r == 0)
        r = open_storage(d);
    if (r == 0)
        r = cow_origin_open(d->config.origin, d->config.storage, &d->origin);
    if (r == 0)
        r = d->ops->hold(d->run_dir, &d->held_fd);
    d->attached_ns = clock_ns(CLOCK_REALTIME);
    return r;
}

/* ---- workers ---- */

/* What the kernel needs us for must not wait for memory that is to be made free through us. */
static void protect_process(void)
{
    CLEANUP_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        IGNORE_RESULT(write(fd, "-1000", 5));
    /* As the kernel's own block drivers have it: whoever waits for us may be more important. */
    (void)setpriority(PRIO_PROCESS, 0, -20);
    (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    (void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

static void forward_stop(int signal_number _unused_)
{
    pid_t pid = (pid_t)worker_pid;
    stop_wanted = 1;
    if (pid > 0)
        (void)kill(pid, SIGTERM);
}

static void set_signals(void)
{
    struct sigaction action = {.sa_handler = forward_stop};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
}

/* The worker's signals are blocked until it looks at them. */
static pid_t start_worker(struct keeper *k, int *ret_channel_fd)
{
    int ends[2];
    sigset_t stops, before;
    (void)sigemptyset(&stops);
    (void)sigaddset(&stops, SIGTERM);
    (void)sigaddset(&stops, SIGINT);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_note_describe(-errno, "cannot make a socket pair");
    (void)sigprocmask(SIG_BLOCK, &stops, &before);
    pid_t pid = fork();
    if (pid == 0) {
        cleanup_closep(&k->report_fd);
        (void)close(ends[0]);
        exit(cowd_worker_main(&k->cowd, ends[1]));
    }
    int saved = errno;
    worker_pid = pid;
    if (pid > 0 && stop_wanted)
        (void)kill(pid, SIGTERM);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    (void)close(ends[1]);
    if (pid > 0)
        *ret_channel_fd = ends[0];
    else
        (void)close(ends[0]);
    return pid > 0 ? pid : error_note_describe(-saved, "cannot start a process");
}

static void take_message(struct keeper *k, int channel_fd, const char *message)
{
    const char letter = COWD_DETACHED;
    switch (*message) {
    case COWD_READY:
        k->came_up = true;
        k->failures = 0;
        report(k, "");
        break;
    case COWD_FAILED: report(k, message + 1); break;
    case COWD_DETACHED:
        k->detached = true;
        cowd_leave(&k->cowd);
        IGNORE_RESULT(send(channel_fd, &letter, 1, MSG_NOSIGNAL));
        break;
    default: log_warning("bad message of the worker");
    }
}

/* Until it has ended. */
static int follow_worker(struct keeper *k, pid_t pid, int channel_fd)
{
    char message[COWD_MESSAGE_MAX + 1];
    int status;
    for (;;) {
        ssize_t n = recv(channel_fd, message, COWD_MESSAGE_MAX, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        message[n] = '\0';
        take_message(k, channel_fd, message);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return EXIT_FAILURE;
    worker_pid = 0;
    if (WIFSIGNALED(status))
        log_warning("the worker was ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_warning("the worker ended with status %d", WEXITSTATUS(status));
    return status;
}

static void pause_before_next(struct keeper *k, uint64_t lived_ns)
{
    k->short_lives = lived_ns >= LONG_LIFE_NS ? 0 : k->short_lives + 1;
    unsigned ms = pauses_ms[MIN((size_t)k->short_lives, ELEMENTSOF(pauses_ms) - 1)];
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    (void)nanosleep(&pause, NULL);
}

static int keep_workers(struct keeper *k)
{
    for (;; k->cowd.life++) {
        int channel_fd;
        const uint64_t started_ns = clock_ns(CLOCK_MONOTONIC);
        k->came_up = false;
        pid_t pid = start_worker(k, &channel_fd);
        if (pid > 0) {
            (void)follow_worker(k, pid, channel_fd);
            (void)close(channel_fd);
        } else {
            log_error("%s", error_text(pid));
        }
        if (k->detached)
            return EXIT_SUCCESS;
        if (k->report_fd >= 0)
            return report_error(k, "the worker died");
        if (!k->came_up && (k->cowd.life == 0 || ++k->failures == FAILURES_MAX))
            return EXIT_FAILURE;
        pause_before_next(k, clock_ns(CLOCK_MONOTONIC) - started_ns);
    }
}

static int keeper_main(struct keeper *k, const char *name, const char *front)
{
    set_signals();
    int r = take_hold(&k->cowd, name, front);
    if (r < 0) {
        if (k->cowd.run_dir)
            (void)rmdir(k->cowd.run_dir);
        cowd_let_go(&k->cowd);
        return report_error(k, error_text(r));
    }
    protect_process();
    int status = keep_workers(k);
    if (!k->detached)
        cowd_leave(&k->cowd);
    if (status != EXIT_SUCCESS)
        log_error("volume '%s' is no longer attached", name);
    return status;
}

/* ---- the starter ---- */

static void become_daemon(void)
{
    (void)setsid();
    IGNORE_RESULT(chdir("/"));
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int to = STDIN_FILENO; to <= STDERR_FILENO && fd >= 0; to++)
        (void)dup2(fd, to);
    if (fd > STDERR_FILENO)
        (void)close(fd);
    cowd_log_start(false);
}

/* What the keeper reports: nothing when the volume is there. */
static int await_report(int fd)
{
    char words[COWD_MESSAGE_MAX + 1];
    size_t len = 0;
    for (;;) {
        ssize_t n = read(fd, words + len, COWD_MESSAGE_MAX - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    words[len] = '\0';
    if (len == 0)
        return EXIT_SUCCESS;
    (void)fprintf(stderr, PROGRAM ": %s\n", words);
    return EXIT_FAILURE;
}

static int start(const char *name, const char *front)
{
    static struct keeper keeper = {.cowd = COWD_NONE};
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return EXIT_FAILURE;
    pid_t pid = fork();
    if (pid < 0)
        return EXIT_FAILURE;
    if (pid > 0) {
        (void)close(fds[1]);
        return await_report(fds[0]);
    }
    (void)close(fds[0]);
    keeper.report_fd = fds[1];
    become_daemon();
    return keeper_main(&keeper, name, front);
}

static int run_here(const char *name, const char *front)
{
    static struct keeper keeper = {.cowd = COWD_NONE, .report_fd = -EBADF};
    cowd_log_start(true);
    return keeper_main(&keeper, name, front);
}

static int usage(FILE *to, int status)
{
    (void)fprintf(to,
                  "usage: " PROGRAM " [--front ublk|fuse] [--foreground] NAME\n"
                  "Gives the cow volume NAME its device, /dev/umbra/NAME: see umbra-cowd(8).\n");
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"front", required_argument, NULL, 'f'},
        {"foreground", no_argument, NULL, 'F'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *front = NULL;
    bool foreground = false;
    int c;
    if (argc > 2 && strcmp(argv[1], "--hand") == 0)
        return loop_hand_main(argc - 2, argv + 2);
    while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
        switch (c) {
        case 'f': front = optarg; break;
        case 'F': foreground = true; break;
        case 'V': (void)puts(PROGRAM " " UMBRA_VERSION); return EXIT_SUCCESS;
        case 'h': return usage(stdout, EXIT_SUCCESS);
        default: return usage(stderr, EXIT_USAGE);
        }
    }
    if (optind != argc - 1)
        return usage(stderr, EXIT_USAGE);
    return foreground ? run_here(argv[optind], front) : start(argv[optind], front);
}
