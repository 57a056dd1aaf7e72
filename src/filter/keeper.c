/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: sees to it that there is a filter and a hydrator.  It does nothing else, so that
 * nothing can happen to it.  filter.c says how the two processes hold together.
 *
 * A hydrator has descriptors of its own, so it is an ordinary child.  It does not start its program
 * before its pidfd is in FD_PIDFD_HYDRATOR, and it dies with the keeper until then: whatever is
 * killed when, a new keeper knows whether there is a hydrator.  Afterwards it outlives the keeper,
 * because it holds the group, too.
 *
 * A new hydrator gets a new socket pair, and starts only when the filter has read the old one to
 * its end: the last thing that the old one said may have been FILTER_FINISH.
 *
 * A hydrator whose program cannot be run, for want of a library say, has done nothing.  After a few
 * tries whoever waits for the report is told.  As long as the target has no record, there is no
 * placeholder either, and the gate goes; else readers wait, and it is tried again for ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "filter/fds.h"
#include "filter/filterd.h"
#include "filter/gate-lock.h"
#include "filter/process.h"
#include "filter/protocol.h"

#define NSEC_PER_MSEC UINT64_C(1000000)

#define FILTER_PAUSE_NS     (10 * NSEC_PER_MSEC) /* between two starts, at least */
#define HYDRATOR_LONG_NS    (10 * NSEC_PER_SEC)  /* a life that long is a success */
#define CHANNEL_BUFFER_LEN  (16 * 1024 * 1024)
#define REGISTER_PAUSE_NSEC 100000
#define EXIT_NO_PROGRAM     127 /* what the dynamic linker says, too */
#define NO_PROGRAM_MAX      4u

static const unsigned pauses_ms[] = {0, 100, 500, 1000, 5000};

struct keeper {
    struct filterd *d;
    uint64_t filter_started_ns;
    bool has_hydrator;
    uint64_t hydrator_started_ns;
    uint64_t hydrator_due_ns; /* when the next one may start */
    unsigned failures;        /* short lives in a row */
    unsigned no_program;      /* those in a row that did not even begin */
};

/* ---- the filter ---- */

static enum role start_filter(struct keeper *k)
{
    /* The filter is dead and this process holds nothing that has no role: whatever is left is. */
    table_close_strays(k->d->table);
    k->filter_started_ns = clock_monotonic_ns();
    pid_t pid = process_clone(true, FD_PIDFD_FILTER);
    if (pid == 0)
        return ROLE_FILTER;
    if (pid < 0)
        log_error("cannot start the filter: %s", error_text(pid));
    return ROLE_KEEPER;
}

/* ---- the hydrator ---- */

static void make_channel_wide(int fd)
{
    int len = CHANNEL_BUFFER_LEN;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &len, sizeof(len));
}

/* Leaves the hydrator's end in *ret_fd. */
static int new_channel(struct table *table, int *ret_fd)
{
    uint64_t one = 1;
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_note_describe(-errno, "cannot make a socket pair");
    make_channel_wide(ends[0]);
    make_channel_wide(ends[1]);
    int r = fds_place(FD_CHANNEL, ends[0]);
    if (r < 0) {
        (void)close(ends[1]);
        return r;
    }
    (void)atomic_fetch_add(&table->channel, 1);
    IGNORE_RESULT(write(FD_WAKE_FILTER, &one, sizeof(one)));
    *ret_fd = ends[1];
    return 0;
}

static int give_fds(int channel)
{
    static const struct {
        int from, to;
    } moves[] = {
        {FD_TREE, HYDRATOR_TREE_FD},
        {FD_CONFIG, HYDRATOR_CONFIG_FD},
        {FD_REPORT, HYDRATOR_REPORT_FD},
        {FD_GROUP, HYDRATOR_GROUP_FD},
    };

    if (dup2(channel, HYDRATOR_CHANNEL_FD) < 0)
        return -errno;
    for (size_t i = 0; i < ELEMENTSOF(moves); i++)
        if (dup2(moves[i].from, moves[i].to) < 0)
            return -errno;
    /* FD_HYDRATOR_EXE is closed by its flag. */
    if (close_range(HYDRATOR_GROUP_FD + 1, FD_HYDRATOR_EXE - 1, 0) < 0 ||
        close_range(FD_HYDRATOR_EXE + 1, ~0u, 0) < 0)
        return -errno;
    return 0;
}

/* By the descriptor: what was started first is started again, even if it has been replaced. */
static void execute(const struct filterd *d)
{
    (void)execveat(FD_HYDRATOR_EXE, "", d->hydrator_argv, environ, AT_EMPTY_PATH);
    if (errno == ENOENT) /* a script: its interpreter needs a name */
        (void)execve(d->hydrator_path, d->hydrator_argv, environ);
}

_noreturn_ static void be_hydrator(const struct filterd *d, pid_t keeper, int channel)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
    const struct timespec pause = {.tv_nsec = REGISTER_PAUSE_NSEC};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper)
        _exit(EXIT_NO_PROGRAM);
    while (atomic_load(&d->table->hydrator_pid) != getpid())
        (void)nanosleep(&pause, NULL);
    (void)prctl(PR_SET_PDEATHSIG, 0);
    for (size_t i = 0; i < ELEMENTSOF(ignored); i++)
        (void)signal(ignored[i], SIG_DFL);
    (void)setrlimit(RLIMIT_NOFILE, &d->fds_limit);
    if (d->oom_score_before[0])
        process_set_oom_score(d->oom_score_before, NULL, 0);
    if (give_fds(channel) == 0)
        execute(d);
    _exit(EXIT_NO_PROGRAM);
}

static int start_hydrator(struct keeper *k)
{
    struct table *table = k->d->table;
    CLEANUP_CLOSE int channel = -EBADF;
    pid_t own = getpid();

    int r = new_channel(table, &channel);
    if (r < 0)
        return r;
    if (lseek(FD_CONFIG, 0, SEEK_SET) < 0)
        return error_note_describe(-errno, "cannot rewind the configuration");
    pid_t pid = process_clone(false, FD_PIDFD_HYDRATOR);
    if (pid == 0)
        be_hydrator(k->d, own, channel);
    if (pid < 0)
        return error_note_describe(pid, "cannot start the hydrator");
    atomic_store(&table->hydrator_pid, pid);
    k->has_hydrator = true;
    k->hydrator_started_ns = clock_monotonic_ns();
    return 0;
}

static void schedule_hydrator(struct keeper *k, bool was_long)
{
    k->failures = was_long ? 0 : MIN(k->failures + 1, (unsigned)ELEMENTSOF(pauses_ms));
    unsigned pause_ms = k->failures > 0 ? pauses_ms[k->failures - 1] : 0;
    k->hydrator_due_ns = clock_monotonic_ns() + pause_ms * NSEC_PER_MSEC;
}

static void report_no_program(const struct keeper *k)
{
    uint32_t not = FINISH_NOT;
    uint64_t one = 1;

    log_error("'%s' cannot be run", k->d->hydrator_path);
    (void)dprintf(FD_REPORT, "'%s' cannot be run: it ends with status %d, as without a library\n",
                  k->d->hydrator_path, EXIT_NO_PROGRAM);
    if (fgetxattr(FD_TREE, FILTER_RECORD_XATTR, NULL, 0) >= 0 || errno != ENODATA)
        return;
    if (atomic_compare_exchange_strong(&k->d->table->finish, &not, FINISH_SAID))
        IGNORE_RESULT(write(FD_WAKE_FILTER, &one, sizeof(one)));
}

static void tend_hydrator(struct keeper *k)
{
    struct table *table = k->d->table;
    uint64_t now_ns = clock_monotonic_ns();
    int status;

    if (k->has_hydrator) {
        if (!process_is_dead(FD_PIDFD_HYDRATOR, &status))
            return;
        k->has_hydrator = false;
        k->no_program = status == EXIT_NO_PROGRAM ? k->no_program + 1 : 0;
        if (k->no_program == NO_PROGRAM_MAX)
            report_no_program(k);
        if (atomic_load(&table->finish) == FINISH_NOT)
            log_warning("the hydrator has ended; readers wait for the next one");
        schedule_hydrator(k, now_ns - k->hydrator_started_ns >= HYDRATOR_LONG_NS);
    }
    if (atomic_load(&table->finish) != FINISH_NOT || now_ns < k->hydrator_due_ns ||
        atomic_load(&table->channel_over) != atomic_load(&table->channel))
        return;
    int r = start_hydrator(k);
    if (r < 0) {
        log_error("%s", error_text(r));
        schedule_hydrator(k, false);
    }
}

/* ---- both ---- */

static int timeout_until(uint64_t when_ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    return when_ns <= now_ns ? 0 : (int)((when_ns - now_ns) / NSEC_PER_MSEC) + 1;
}

/* The pid of the dead one is no reason to wake up while its successor is not due yet. */
static void wait_for_work(const struct keeper *k, bool has_filter)
{
    struct pollfd fds[] = {
        {.fd = FD_WAKE_KEEPER, .events = POLLIN},
        {.fd = has_filter ? FD_PIDFD_FILTER : -1, .events = POLLIN},
        {.fd = k->has_hydrator ? FD_PIDFD_HYDRATOR : -1, .events = POLLIN},
    };
    const struct table *table = k->d->table;
    int timeout_ms = -1;
    uint64_t wakes;

    if (!has_filter)
        timeout_ms = timeout_until(k->filter_started_ns + FILTER_PAUSE_NS);
    else if (!k->has_hydrator && atomic_load(&table->finish) == FINISH_NOT &&
             atomic_load(&table->channel_over) == atomic_load(&table->channel))
        timeout_ms = timeout_until(k->hydrator_due_ns);
    if (poll(fds, ELEMENTSOF(fds), timeout_ms) > 0 && fds[0].revents)
        IGNORE_RESULT(read(FD_WAKE_KEEPER, &wakes, sizeof(wakes)));
}

/* The filter has closed the group.  The hydrator may have a word to say yet, to others. */
static enum role leave(void)
{
    struct pollfd fd = {.fd = FD_PIDFD_HYDRATOR, .events = POLLIN};

    while (!process_is_dead(FD_PIDFD_HYDRATOR, NULL))
        (void)poll(&fd, 1, -1);
    gate_unlock();
    log_info("the restore is complete, the gate is gone");
    return ROLE_NONE;
}

enum role keeper_run(struct filterd *d)
{
    struct keeper k = {.d = d};

    int r = process_begin("umbra-keeper", FD_PIDFD_KEEPER);
    if (r < 0)
        log_warning("%s", error_text(r));
    k.has_hydrator = !process_is_dead(FD_PIDFD_HYDRATOR, NULL);
    k.hydrator_started_ns = clock_monotonic_ns();
    for (;;) {
        bool has_filter = !process_is_dead(FD_PIDFD_FILTER, NULL);
        if (!has_filter && atomic_load(&d->table->finish) == FINISH_DONE)
            return leave();
        if (!has_filter && clock_monotonic_ns() - k.filter_started_ns >= FILTER_PAUSE_NS) {
            if (k.filter_started_ns > 0)
                log_warning("the filter has been killed; readers wait for the next one");
            if (start_filter(&k) == ROLE_FILTER)
                return ROLE_FILTER;
            has_filter = !process_is_dead(FD_PIDFD_FILTER, NULL);
        }
        tend_hydrator(&k);
        wait_for_work(&k, has_filter);
    }
}
