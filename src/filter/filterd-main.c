/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra-filterd(8): arguments, the gate, and then the two processes. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "filter/adopt.h"
#include "filter/fds.h"
#include "filter/filterd.h"
#include "filter/gate-lock.h"
#include "filter/gate.h"
#include "filter/process.h"
#include "filter/protocol.h"
#include "filter/say.h"
#include "filter/store.h"

#define DEADLINE_SEC_DEFAULT 120u
#define DEADLINE_SEC_MAX     86400u
#define EXIT_USAGE           2
#define SERVED_PAUSE_NSEC    200000

struct options {
    const char *target;
    uint64_t restore_id;
    int config_fd, report_fd;
    uint64_t deadline_sec;
    bool foreground;
    char **hydrator_argv;
};

static const char usage[] =
    "usage: umbra-filterd --target DIR --restore-id HEX --config-fd N --report-fd N\n"
    "           [--deadline SECONDS] [--foreground] -- HYDRATOR [ARG]...\n"
    "umbra starts it; see umbra-filterd(8)\n";

/* ---- arguments ---- */

static int parse_number(const char *text, int base, uint64_t max, uint64_t *ret_value)
{
    char *end;

    if (text[0] == '\0' ||
        strspn(text, base == 16 ? "0123456789abcdefABCDEF" : "0123456789") != strlen(text))
        return -EINVAL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, base);
    if (errno != 0 || *end != '\0' || value > max)
        return -EINVAL;
    *ret_value = value;
    return 0;
}

static int parse_fd(const char *text, int *ret_fd)
{
    uint64_t value;
    int r = parse_number(text, 10, INT16_MAX, &value);
    if (r >= 0)
        *ret_fd = (int)value;
    return r;
}

static int parse_id(const char *text, uint64_t *ret_id)
{
    return strlen(text) == 16 ? parse_number(text, 16, UINT64_MAX, ret_id) : -EINVAL;
}

static int parse_deadline(const char *text, uint64_t *ret_sec)
{
    uint64_t sec;
    int r = parse_number(text, 10, DEADLINE_SEC_MAX, &sec);
    if (r < 0 || sec == 0)
        return -EINVAL;
    *ret_sec = sec;
    return 0;
}

static int parse_option(int option, const char *value, struct options *o)
{
    switch (option) {
    case 't': o->target = value; return 0;
    case 'i': return parse_id(value, &o->restore_id);
    case 'c': return parse_fd(value, &o->config_fd);
    case 'r': return parse_fd(value, &o->report_fd);
    case 'd': return parse_deadline(value, &o->deadline_sec);
    case 'f': o->foreground = true; return 0;
    default: return -ENOENT; /* getopt has said so */
    }
}

static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option table[] = {
        {"target", required_argument, NULL, 't'},
        {"restore-id", required_argument, NULL, 'i'},
        {"config-fd", required_argument, NULL, 'c'},
        {"report-fd", required_argument, NULL, 'r'},
        {"deadline", required_argument, NULL, 'd'},
        {"foreground", no_argument, NULL, 'f'},
        {0},
    };
    bool has_id = false;
    int option, index = 0;

    while ((option = getopt_long(argc, argv, "+", table, &index)) != -1) {
        int r = parse_option(option, optarg, o);
        if (r == -EINVAL)
            (void)fprintf(stderr, "umbra-filterd: --%s: '%s' is not valid\n", table[index].name,
                          optarg);
        if (r < 0)
            return -EINVAL;
        has_id = has_id || option == 'i';
    }
    o->hydrator_argv = argv + optind;
    return o->target && has_id && o->config_fd >= 0 && o->report_fd >= 0 && optind < argc ? 0
                                                                                          : -EINVAL;
}

/* ---- what has to be there before the gate stands ---- */

static int raise_fds_limit(struct rlimit *ret_before)
{
    const rlim_t wanted = FD_EVENTS_FIRST + TABLE_SLOTS;

    if (getrlimit(RLIMIT_NOFILE, ret_before) < 0)
        return -errno;
    struct rlimit limit = {.rlim_cur = wanted, .rlim_max = MAX(ret_before->rlim_max, wanted)};
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return error_note_describe(-errno, "cannot raise the limit of open files to %lu",
                                   (unsigned long)wanted);
    return 0;
}

static int place_new(int role, int fd, const char *what)
{
    return fd < 0 ? error_note_describe(-errno, "cannot open %s", what) : fds_place(role, fd);
}

/* The path, too: for a script, the name is needed again. */
static int find_hydrator(struct filterd *d)
{
    if (!realpath(d->hydrator_argv[0], d->hydrator_path) || access(d->hydrator_path, X_OK) < 0)
        return error_note_describe(-errno, "cannot start '%s'", d->hydrator_argv[0]);
    return place_new(FD_HYDRATOR_EXE, open(d->hydrator_path, O_PATH | O_CLOEXEC), d->hydrator_path);
}

static int open_all(struct filterd *d)
{
    int r = place_new(FD_PROC, open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), "'/proc'");
    if (r >= 0)
        r = find_hydrator(d);
    if (r >= 0)
        r = place_new(FD_WAKE_FILTER, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "an eventfd");
    if (r >= 0)
        r = place_new(FD_WAKE_KEEPER, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "an eventfd");
    if (r >= 0 && lseek(FD_CONFIG, 0, SEEK_SET) < 0)
        r = error_note_describe(-errno, "--config-fd must be a file that can be read again");
    return r;
}

static int prepare(const struct options *o, bool has_group, struct filterd *d)
{
    uint64_t volume_magic;

    int r = gate_check();
    if (r >= 0)
        r = raise_fds_limit(&d->fds_limit);
    if (r >= 0)
        r = open_all(d);
    if (r >= 0)
        r = store_open();
    if (r < 0)
        return r;
    r = gate_stand(o->target, o->restore_id, has_group, &volume_magic);
    if (r >= 0)
        r = has_group ? adopt(o->restore_id, &d->table) : -ENODATA;
    if (r == -ENODATA)
        r = table_new(o->restore_id, volume_magic, &d->table);
    if (r >= 0)
        store_put();
    else if (!has_group) /* a stored one still stands */
        gate_unlock();
    return r;
}

/* ---- becoming a daemon ---- */

/* A core dump of the filter may be written to the file system whose events only it can answer. */
static void harden(struct filterd *d)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
    const struct rlimit none = {0};

    for (size_t i = 0; i < ELEMENTSOF(ignored); i++)
        (void)signal(ignored[i], SIG_IGN);
    (void)signal(SIGALRM, SIG_DFL);
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0);
    process_set_oom_score("-1000", d->oom_score_before, sizeof(d->oom_score_before));
}

/* How it ended, for whoever started this: also when standard error goes nowhere. */
static int complain(int r)
{
    (void)dprintf(STDERR_FILENO, "umbra-filterd: %s\n", error_text(r));
    (void)dprintf(FD_REPORT, "%s\n", error_text(r));
    return EXIT_FAILURE;
}

/* Until there are two processes, either of which may be killed. */
_noreturn_ static void leave_when_served(const struct filterd *d, pid_t keeper)
{
    const struct timespec pause = {.tv_nsec = SERVED_PAUSE_NSEC};

    while (!atomic_load(&d->table->is_served)) {
        if (waitpid(keeper, NULL, WNOHANG) != 0)
            _exit(complain(error_note(-ECHILD, "the keeper has died")));
        (void)nanosleep(&pause, NULL);
    }
    _exit(EXIT_SUCCESS);
}

static int detach(const struct filterd *d)
{
    pid_t pid = fork();
    if (pid < 0)
        return error_note_describe(-errno, "cannot fork");
    if (pid > 0)
        leave_when_served(d, pid);
    (void)setsid();
    say_to_system_log();
    /* Hydrators have them, too. */
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (dup2(HYDRATOR_CHANNEL_FD, fd) < 0)
            return -errno;
    return chdir("/") < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
    struct options o = {.config_fd = -1, .report_fd = -1, .deadline_sec = DEADLINE_SEC_DEFAULT};
    static struct filterd d;
    enum role role = ROLE_KEEPER;

    if (parse_options(argc, argv, &o) < 0) {
        (void)fputs(usage, stderr);
        return EXIT_USAGE;
    }
    struct fds_kept kept[] = {
        {o.config_fd, FD_CONFIG, "--config-fd"},
        {o.report_fd, FD_REPORT, "--report-fd"},
        {-1, FD_GROUP, "the stored group"},
        {-1, FD_TABLE, "the stored table"},
    };
    store_take(&kept[2].fd, &kept[3].fd);
    bool has_group = kept[2].fd >= 0;
    int r = fds_prepare(kept, ELEMENTSOF(kept));
    if (r < 0) {
        (void)fprintf(stderr, "umbra-filterd: %s\n", error_text(r));
        return EXIT_FAILURE;
    }
    d.deadline_ns = o.deadline_sec * NSEC_PER_SEC;
    d.hydrator_argv = o.hydrator_argv;
    r = prepare(&o, has_group, &d);
    if (r >= 0 && !o.foreground)
        r = detach(&d);
    if (r < 0)
        return complain(r);
    harden(&d);
    store_say_ready();
    while (role != ROLE_NONE)
        role = role == ROLE_KEEPER ? keeper_run(&d) : filter_run(&d);
    return EXIT_SUCCESS;
}
