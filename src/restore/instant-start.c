/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starting the daemons of an instant restore, and hearing how it went.
 *
 * The filter is started, and starts the hydrator.  It inherits four things:
 *
 *     the configuration, with the passphrase, in a sealed memfd: nothing of it is in argv, in the
 *     environment or on a disk
 *     the writing end of a pipe for the report: its end, without a report, means that all have died
 *     standard input: what has to stay open until the gate stands, even if we are killed before
 *     standard error: a memfd of fixed size, so that it can be quoted when the start fails, and so
 *     that a daemon that keeps it neither blocks nor is killed when nobody reads it any more
 *
 * They get a session of their own at once: an interrupt from the terminal ends the command, and not
 * the restore.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/own-program.h"
#include "control/json-text.h"
#include "restore/instant-private.h"

#define FILTERD_NAME   "umbra-filterd"
#define HYDRATOR_NAME  "umbra-hydrated"
#define REPORT_LEN_MAX ((size_t)64 << 10)
#define WORDS_SIZE     ((size_t)16 << 10) /* of standard error */
#define WORDS_QUOTED   ((size_t)800)
#define POLL_MS        200
#define EXIT_WAIT_MS   2000
#define COUNT_MAX      (UINT64_C(1) << 62)

/* ---- where the programs are ---- */

static void instant_programs_release(struct instant_programs *programs)
{
    free(programs->filterd);
    free(programs->hydrator);
    *programs = (struct instant_programs){0};
}

static int find_programs(struct instant_programs *programs)
{
    int r = own_program_find(FILTERD_NAME, &programs->filterd);
    return r < 0 ? r : own_program_find(HYDRATOR_NAME, &programs->hydrator);
}

/* ---- what they are given ---- */

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int make_config_fd(const struct instant_config *config, int *ret_fd)
{
    char *text = NULL;
    int r = instant_config_to_json(config, true, &text);
    if (r < 0)
        return r;
    CLEANUP_CLOSE int fd = memfd_create("umbra-restore", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
    sodium_memzero(text, strlen(text));
    free(text);
    if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
        r = -errno;
    if (r == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        r = -errno;
    if (r < 0)
        return error_note_describe(r, "cannot hand the configuration of the restore over");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int make_words_fd(int *ret_fd)
{
    CLEANUP_CLOSE int fd = memfd_create("umbra-restore-words", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, WORDS_SIZE) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        return error_note_describe(-errno, "cannot make a file in memory");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- the start ---- */

struct start {
    const struct instant_programs *programs;
    const struct instant_config *config;
    int config_fd, words_fd;
    int held_fd; /* the caller's; negative: none */
    int report_fd, report_write_fd;
    pid_t pid;   /* of the filter, before it makes itself a daemon */
    bool exited; /* and its status is known */
    int status;
};

static void start_release(struct start *s)
{
    cleanup_closep(&s->config_fd);
    cleanup_closep(&s->words_fd);
    cleanup_closep(&s->report_fd);
    cleanup_closep(&s->report_write_fd);
}

/* A dup2 of a descriptor onto itself is how posix_spawn(3) leaves one open in the child alone. */
static int add_descriptors(posix_spawn_file_actions_t *actions, const struct start *s)
{
    int r = s->held_fd >= 0
                ? posix_spawn_file_actions_adddup2(actions, s->held_fd, STDIN_FILENO)
                : posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, s->words_fd, STDERR_FILENO);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, s->config_fd, s->config_fd);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, s->report_write_fd, s->report_write_fd);
    if (r == 0)
        r = posix_spawn_file_actions_addchdir_np(actions, "/");
    return -r;
}

/* Signals as a daemon expects them, whatever we do with ours. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, usual;
    (void)sigemptyset(&none);
    (void)sigfillset(&usual);
    int r = posix_spawnattr_setflags(
        attributes, (short)(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
    if (r == 0)
        r = posix_spawnattr_setsigmask(attributes, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(attributes, &usual);
    return -r;
}

static int spawn_with(struct start *s, const posix_spawn_file_actions_t *actions,
                      const posix_spawnattr_t *attributes)
{
    char id[INSTANT_ID_LEN + 1], config_fd[16], report_fd[16], deadline[16];
    instant_id_format(s->config->restore_id, id);
    (void)snprintf(config_fd, sizeof(config_fd), "%d", s->config_fd);
    (void)snprintf(report_fd, sizeof(report_fd), "%d", s->report_write_fd);
    (void)snprintf(deadline, sizeof(deadline), "%u", s->config->deadline_s);
    const char *const argv[] = {
        s->programs->filterd,
        "--target",
        s->config->target,
        "--restore-id",
        id,
        "--config-fd",
        config_fd,
        "--report-fd",
        report_fd,
        "--deadline",
        deadline,
        "--",
        s->programs->hydrator,
        NULL,
    };
    /* The strings are only read: argv is not const for reasons of history. */
    return -posix_spawn(&s->pid, s->programs->filterd, actions, attributes,
                        (char *const *)(uintptr_t)argv, environ);
}

static int spawn_filter(struct start *s)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return -ENOMEM;
    if (posix_spawnattr_init(&attributes) != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return -ENOMEM;
    }
    int r = add_descriptors(&actions, s);
    if (r == 0)
        r = set_attributes(&attributes);
    if (r == 0)
        r = spawn_with(s, &actions, &attributes);
    (void)posix_spawnattr_destroy(&attributes);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (r < 0)
        return error_note_describe(r, "cannot start '%s'", s->programs->filterd);
    return 0;
}

/* ---- the end of the start ---- */

static void reap(struct start *s, int flags)
{
    pid_t pid;
    if (s->exited)
        return;
    do
        pid = waitpid(s->pid, &s->status, flags);
    while (pid < 0 && errno == EINTR);
    s->exited = pid == s->pid;
}

/* The first process has closed the report, so it is about to end, or has. */
static void await_exit(struct start *s)
{
    const struct timespec moment = {.tv_nsec = 10 * 1000000L};
    for (int waited_ms = 0; waited_ms < EXIT_WAIT_MS && !s->exited; waited_ms += 10) {
        reap(s, WNOHANG);
        if (!s->exited)
            (void)nanosleep(&moment, NULL);
    }
}

/* What was written to standard error, its end when it is long, on one line. */
static void read_words(const struct start *s, char text[WORDS_QUOTED + 1])
{
    char words[WORDS_SIZE + 1];
    ssize_t n = pread(s->words_fd, words, WORDS_SIZE, 0);
    words[n < 0 ? 0 : n] = '\0';
    size_t len = strlen(words);
    while (len > 0 && strchr("\n ", words[len - 1]))
        words[--len] = '\0';
    const char *from = len > WORDS_QUOTED ? words + len - WORDS_QUOTED : words;
    (void)snprintf(text, WORDS_QUOTED + 1, "%.*s", (int)WORDS_QUOTED, from);
    for (char *c = text; *c != '\0'; c++)
        if (*c == '\n')
            *c = ' ';
}

static int died(struct start *s)
{
    char words[WORDS_QUOTED + 1];
    await_exit(s);
    read_words(s, words);
    if (*words != '\0')
        return error_note(-EIO, "cannot start the restore: %s", words);
    if (s->exited && WIFSIGNALED(s->status))
        return error_note(-EIO, "cannot start the restore: its filter was ended by signal %d",
                          WTERMSIG(s->status));
    if (s->exited && WEXITSTATUS(s->status) != 0)
        return error_note(-EIO, "cannot start the restore: its filter ended with status %d",
                          WEXITSTATUS(s->status));
    return error_note(-EIO, "cannot start the restore: it ended without a report");
}

static int check_report(const struct start *s, struct json_reader *in)
{
    CLEANUP_FREE char *error = json_read_string(in, "error", JSON_MAY, REPORT_LEN_MAX);
    bool ready = json_read_bool(in, "ready", false);
    if (in->error < 0)
        return in->error;
    if (error)
        return error_note(-EIO, "cannot restore to '%s': %s", s->config->target, error);
    return ready ? 0 : json_reader_fail(in, "ready", "is missing");
}

static int parse_report(const struct start *s, const char *line, size_t len,
                        struct instant_report *ret_report)
{
    CLEANUP(json_object_putp) struct json_object *object = NULL;
    struct instant_report report;
    /* The filter has no JSON: what it says is why it could not begin. */
    if (len == 0 || *line != '{')
        return error_note(-EIO, "cannot restore to '%s': %.*s", s->config->target,
                          (int)MIN(len, WORDS_QUOTED), line);
    int r = json_parse_object(line, len, "report of the restore", &object);
    if (r < 0)
        return r;
    struct json_reader in = {.object = object, .what = "report of the restore"};
    r = check_report(s, &in);
    if (r < 0)
        return r;
    report.file_count = json_read_u64(&in, "files", 0, 0, COUNT_MAX);
    report.directory_count = json_read_u64(&in, "directories", 0, 0, COUNT_MAX);
    report.size_bytes = json_read_u64(&in, "bytes", 0, 0, COUNT_MAX);
    report.problem_count = json_read_u64(&in, "problems", 0, 0, COUNT_MAX);
    report.seconds = json_read_double(&in, "seconds");
    if (in.error < 0)
        return in.error;
    *ret_report = report;
    return 0;
}

/* 1: there is something to read. */
static int wait_for_report(struct start *s, struct progress *progress)
{
    struct pollfd fd = {.fd = s->report_fd, .events = POLLIN};
    for (;;) {
        if (progress && atomic_load(&progress->cancelled) != 0)
            return error_note(-UMBRA_E_CANCELLED, "interrupted: the restore goes on without us");
        int n = poll(&fd, 1, POLL_MS);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return error_note_describe(-errno, "cannot wait for the restore");
        reap(s, WNOHANG); /* it makes itself a daemon: no zombie meanwhile */
    }
}

static int read_report(struct start *s, struct progress *progress,
                       struct instant_report *ret_report)
{
    CLEANUP(buffer_release) struct buffer line = {0};
    for (;;) {
        int r = wait_for_report(s, progress);
        if (r < 0)
            return r;
        buffer_reserve(&line, REPORT_LEN_MAX + 1);
        if (buffer_finish(&line) < 0)
            return -ENOMEM;
        ssize_t n = read(s->report_fd, line.data + line.len, REPORT_LEN_MAX - line.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_note_describe(-errno, "cannot read the report of the restore");
        if (n == 0)
            return line.len == REPORT_LEN_MAX
                       ? error_note(-UMBRA_E_LIMIT, "the report of the restore is too long")
                       : died(s);
        const char *newline = memchr(line.data + line.len, '\n', (size_t)n);
        line.len += (size_t)n;
        if (newline)
            return parse_report(s, (const char *)line.data,
                                (size_t)(newline - (const char *)line.data), ret_report);
    }
}

int instant_start_programs(const struct instant_programs *programs,
                           const struct instant_config *config, int held_fd,
                           struct progress *progress, struct instant_report *ret_report)
{
    CLEANUP(start_release)
    struct start s = {
        .programs = programs,
        .config = config,
        .config_fd = -EBADF,
        .words_fd = -EBADF,
        .held_fd = held_fd,
        .report_fd = -EBADF,
        .report_write_fd = -EBADF,
    };
    int fds[2];
    int r = make_config_fd(config, &s.config_fd);
    if (r == 0)
        r = make_words_fd(&s.words_fd);
    if (r < 0)
        return r;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_note_describe(-errno, "cannot make a pipe");
    s.report_fd = fds[0];
    s.report_write_fd = fds[1];
    r = spawn_filter(&s);
    if (r < 0)
        return r;
    cleanup_closep(&s.report_write_fd);
    s.report_write_fd = -EBADF;
    r = read_report(&s, progress, ret_report);
    reap(&s, WNOHANG);
    return r;
}

int instant_start(const struct instant_config *config, int held_fd, struct progress *progress,
                  struct instant_report *ret_report)
{
    CLEANUP(instant_programs_release) struct instant_programs programs = {0};
    int r = find_programs(&programs);
    return r < 0 ? r : instant_start_programs(&programs, config, held_fd, progress, ret_report);
}
