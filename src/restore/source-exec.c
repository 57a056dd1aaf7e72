/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A command as a source.
 *
 * It is run by sh(1), one process for each thread that asks, when the first question comes up.  A
 * question is a line on its standard input,
 *
 *     read SIZE OFFSET LENGTH PATH
 *
 * and the answer comes on its standard output (source-exec-reply.c); umbra(1) describes both for
 * those who write such commands.
 *
 * The process can do nothing to us but be slow or wrong.  Each answer has a time limit; whoever
 * exceeds it, ends, or breaks the protocol is killed with all of its process group, because there
 * is no telling what the bytes that come next belong to.  A process that had answered before is
 * started again at once, and asked once more; one that has never answered gets a rest first, so
 * that a command that cannot work is not started a thousand times a second.
 *
 * It gets none of our descriptors: one of them is the gate, which would then outlive us.  It dies
 * with the thread that started it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/text.h"
#include "restore/source-private.h"

#define REST_NS      NSEC_PER_SEC
#define READ_STEP    (64u << 10)
#define NSEC_PER_MS  UINT64_C(1000000)
#define PROTOCOL_ENV "UMBRA_SOURCE_PROTOCOL=1"

#define STATUS_CANNOT_RUN 126
#define STATUS_NOT_FOUND  127

struct exec_source {
    char *command;
    char **environment; /* its strings are not our own */
    uint32_t answer_time_ms;
};

struct exec_state {
    const struct exec_source *source;
    pid_t pid;         /* and process group; 0: none */
    int in_fd, out_fd; /* its standard input and output; nonblocking */
    bool has_answered; /* since it was started */
    uint64_t rest_ns;  /* not to be started before that time */
    uint8_t *step;     /* READ_STEP */
};

static uint64_t now_ns(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- opening ---- */

static void exec_close(void *data)
{
    struct exec_source *source = data;

    if (!source)
        return;
    free(source->command);
    free(source->environment);
    free(source);
}

/* Ours, without the passphrase. */
static char **make_environment(void)
{
    size_t count = 0, kept = 0;

    while (environ[count])
        count++;
    char **out = calloc(count + 2, sizeof(*out));
    if (!out)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(environ[i], "UMBRA_", strlen("UMBRA_")) != 0)
            out[kept++] = environ[i];
    }
    out[kept] = (char *)(uintptr_t)PROTOCOL_ENV;
    return out;
}

static int exec_open(const char *command, const struct source_options *options, void **ret_shared)
{
    struct exec_source *source = calloc(1, sizeof(*source));

    if (!source)
        return -ENOMEM;
    source->command = strdup(command);
    source->environment = make_environment();
    source->answer_time_ms = options->answer_time_ms;
    if (!source->command || !source->environment) {
        exec_close(source);
        return -ENOMEM;
    }
    *ret_shared = source;
    return 0;
}

static int exec_attach(void *shared, void **ret_state)
{
    struct exec_state *state = calloc(1, sizeof(*state));

    if (!state)
        return -ENOMEM;
    state->source = shared;
    state->in_fd = state->out_fd = -EBADF;
    state->step = malloc(READ_STEP);
    if (!state->step) {
        free(state);
        return -ENOMEM;
    }
    *ret_state = state;
    return 0;
}

/* ---- the process ---- */

/* In the child, which has one thread and may only make system calls. */
_noreturn_ static void run_child(const struct exec_source *source, int in_fd, int out_fd,
                                 const sigset_t *usual)
{
    char *const argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", source->command,
                          NULL};

    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, usual, NULL);
    if (dup2(in_fd, STDIN_FILENO) >= 0 && dup2(out_fd, STDOUT_FILENO) >= 0 &&
        syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) == 0 && chdir("/") == 0)
        (void)execve("/bin/sh", argv, source->environment);
    _exit(STATUS_CANNOT_RUN);
}

/* The pipes' ends are above 2, as long as 0 to 2 are open. */
static int make_pipes(int in[2], int out[2])
{
    if (pipe2(in, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(out, O_CLOEXEC) < 0) {
        int r = -errno;
        (void)close(in[0]);
        (void)close(in[1]);
        return r;
    }
    return 0;
}

static pid_t fork_child(const struct exec_source *source, int in_fd, int out_fd)
{
    sigset_t all, none;

    (void)sigfillset(&all);
    (void)sigemptyset(&none);
    sigset_t before;
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* no handler of ours runs in the child */
    pid_t pid = fork();
    if (pid == 0)
        run_child(source, in_fd, out_fd, &none);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid < 0 ? -errno : pid;
}

static int start(struct exec_state *state)
{
    int in[2], out[2];

    if (now_ns() < state->rest_ns)
        return error_note(-EAGAIN, "it has failed, and is not started again yet");
    int r = make_pipes(in, out);
    if (r < 0)
        return error_note_describe(r, "cannot make pipes");
    pid_t pid = fork_child(state->source, in[0], out[1]);
    (void)close(in[0]);
    (void)close(out[1]);
    if (pid < 0 || fcntl(in[1], F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(out[0], F_SETFL, O_NONBLOCK) < 0) {
        (void)close(in[1]);
        (void)close(out[0]);
        return error_note_describe(pid < 0 ? pid : -EBADF, "cannot start the command");
    }
    (void)setpgid(pid, pid); /* whoever comes first */
    state->pid = pid;
    state->in_fd = in[1];
    state->out_fd = out[0];
    state->has_answered = false;
    return 0;
}

/* Ends it and everything it has started; *ret_status as waitpid(2) has it. */
static void stop(struct exec_state *state, int *ret_status)
{
    *ret_status = 0;
    if (state->pid == 0)
        return;
    cleanup_closep(&state->in_fd);
    cleanup_closep(&state->out_fd);
    state->in_fd = state->out_fd = -EBADF;
    (void)kill(-state->pid, SIGKILL);
    while (waitpid(state->pid, ret_status, 0) < 0 && errno == EINTR)
        ;
    state->pid = 0;
}

static void exec_detach(void *data)
{
    struct exec_state *state = data;
    int status;

    stop(state, &status);
    free(state->step);
    free(state);
}

/* ---- a question ---- */

static int wait_for(int fd, short events, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        uint64_t now = now_ns();
        if (now >= deadline_ns)
            return error_note(-ETIMEDOUT, "it did not answer in time");
        int n = poll(&p, 1, (int)((deadline_ns - now) / NSEC_PER_MS) + 1);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int ask(struct exec_state *state, const struct buffer *question, uint64_t deadline_ns)
{
    for (size_t sent = 0; sent < question->len;) {
        ssize_t n = write(state->in_fd, question->data + sent, question->len - sent);
        if (n >= 0) {
            sent += (size_t)n;
            continue;
        }
        if (errno == EPIPE)
            return error_note(-EPIPE, "it has ended");
        int r = errno == EAGAIN  ? wait_for(state->in_fd, POLLOUT, deadline_ns)
                : errno == EINTR ? 0
                                 : -errno;
        if (r < 0)
            return r;
    }
    return 0;
}

static int hear(struct exec_state *state, struct exec_reply *reply, uint64_t deadline_ns)
{
    int r = 0;

    while (r == 0) {
        r = wait_for(state->out_fd, POLLIN, deadline_ns);
        if (r < 0)
            return r;
        ssize_t n = read(state->out_fd, state->step, READ_STEP);
        if (n == 0)
            return error_note(-EPIPE, "it has ended");
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        r = n > 0 ? exec_reply_feed(reply, state->step, (size_t)n) : 0;
    }
    return r;
}

/* What it says without having been asked would be taken for the answer. */
static int check_silence(const struct exec_state *state)
{
    struct pollfd p = {.fd = state->out_fd, .events = POLLIN};

    if (poll(&p, 1, 0) <= 0)
        return 0;
    return p.revents & POLLIN ? error_note(-EPROTO, "it says more than it was asked")
                              : error_note(-EPIPE, "it has ended");
}

static int converse(struct exec_state *state, const struct buffer *question,
                    struct exec_reply *reply)
{
    uint64_t deadline_ns = now_ns() + state->source->answer_time_ms * NSEC_PER_MS;

    int r = state->pid == 0 ? start(state) : check_silence(state);
    if (r >= 0)
        r = ask(state, question, deadline_ns);
    if (r >= 0)
        r = hear(state, reply, deadline_ns);
    return r;
}

static int add_status(int r, int status)
{
    if (r != -EPIPE || !WIFEXITED(status))
        return r;
    int code = WEXITSTATUS(status);
    if (code == STATUS_CANNOT_RUN || code == STATUS_NOT_FOUND) /* as sh(1) has it */
        return error_note(-EPROTO, "it cannot be run: status %d", code);
    return error_note(r, "it has ended with status %d", code);
}

/* With a process that is stopped when it has not answered as it should. */
static int try(struct exec_state *state, const struct buffer *question, struct exec_reply *reply,
               bool *ret_again)
{
    struct error_report why = {0};
    int status;

    *ret_again = false;
    int r = converse(state, question, reply);
    if (r >= 0) {
        state->has_answered = true;
        return 0;
    }
    if (state->pid == 0)
        return r; /* it could not even be started */
    error_save(&why, r);
    stop(state, &status);
    *ret_again = state->has_answered && r != -ETIMEDOUT;
    if (!*ret_again)
        state->rest_ns = now_ns() + REST_NS;
    return add_status(error_raise(&why), status);
}

/* ---- a chunk ---- */

static int write_question(const struct source_want *want, struct buffer *question)
{
    CLEANUP_FREE char *path = text_escape(want->path, strlen(want->path));
    CLEANUP_FREE char *line = NULL;

    if (!path || asprintf(&line, "read %llu %llu %u %s\n", (unsigned long long)want->size_bytes,
                          (unsigned long long)want->offset, want->len, path) < 0) {
        line = NULL;
        return -ENOMEM;
    }
    buffer_put(question, line, strlen(line));
    return buffer_finish(question);
}

static int judge_reply(const struct exec_reply *reply)
{
    if (reply->verdict == EXEC_OK)
        return reply->len == reply->want ? 0 : error_note(-UMBRA_E_NO_CHUNK, "it is too short");
    CLEANUP_FREE char *words = text_escape(reply->words, strlen(reply->words));
    return error_note(reply->verdict == EXEC_LATER ? -EAGAIN : -UMBRA_E_NO_CHUNK, "%s",
                      words ? words : "?");
}

static int exec_fetch(void *data, const struct source_want *want, void *to)
{
    CLEANUP(buffer_release) struct buffer question = {0};
    struct exec_state *state = data;
    struct exec_reply reply;
    bool again = true;

    int r = write_question(want, &question);
    if (r < 0)
        return r;
    r = -EPIPE;
    for (unsigned tries = 0; tries < 2 && again; tries++) {
        exec_reply_init(&reply, to, want->len);
        r = try(state, &question, &reply, &again);
    }
    return r < 0 ? r : judge_reply(&reply);
}

const struct source_ops source_exec_ops = {
    .open = exec_open,
    .close = exec_close,
    .attach = exec_attach,
    .detach = exec_detach,
    .fetch = exec_fetch,
};
