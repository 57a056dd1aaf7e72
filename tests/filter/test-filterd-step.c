/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SIGKILL at each system call, and between instructions: the processes of umbra-filterd are traced
 * and stopped at one place after the other.  Each time a reader must get the right bytes, and no
 * event may have been lost.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/test.h"
#include "gated.h"

#define FILE_LEN 5000u
#define FILES    1000u

#ifdef __SANITIZE_ADDRESS__
#define STRIDE       7u /* each start takes its time */
#define STEPPED_RUNS 10u
#else
#define STRIDE       1u
#define STEPPED_RUNS 150u
#endif

static uint64_t next_ordinal = 1;

struct reader {
    pid_t pid;
    uint64_t ordinal;
    char name[32];
};

/* ---- readers ---- */

static struct reader start_reader(struct gated *g)
{
    struct reader reader = {.ordinal = next_ordinal++};

    ASSERT_LT(reader.ordinal, FILES);
    (void)snprintf(reader.name, sizeof(reader.name), "%u", (unsigned)reader.ordinal);
    reader.pid = fork();
    ASSERT_TRUE(reader.pid >= 0);
    if (reader.pid == 0)
        _exit(gated_read(g, reader.name, reader.ordinal, FILE_LEN));
    return reader;
}

static bool is_done(const struct reader *reader)
{
    siginfo_t info = {0};
    ASSERT_TRUE(waitid(P_PID, (id_t)reader->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0);
    return info.si_pid != 0;
}

static void await_reader(const struct reader *reader)
{
    int status;
    ASSERT_TRUE(waitpid(reader->pid, &status, 0) == reader->pid);
    ASSERT_EQ(status, 0);
}

/* ---- tracing ---- */

static void seize(pid_t pid, unsigned long options)
{
    int status;

    ASSERT_TRUE(ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACESYSGOOD | options) == 0);
    ASSERT_TRUE(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) == 0);
    ASSERT_TRUE(waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status));
}

/* Whether it stops before `over` says that nothing more will come. */
static bool await_stop(pid_t pid, const struct reader *reader, int *ret_status)
{
    for (unsigned idle = 0; idle < 20;) {
        pid_t got = waitpid(pid, ret_status, __WALL | WNOHANG);
        ASSERT_TRUE(got >= 0);
        if (got == pid)
            return WIFSTOPPED(*ret_status);
        if (!reader || is_done(reader))
            idle++;
        gated_sleep_ms(1);
    }
    return false;
}

static bool go_on(pid_t pid, bool one_instruction, const struct reader *reader)
{
    int status;

    if (ptrace(one_instruction ? PTRACE_SINGLESTEP : PTRACE_SYSCALL, pid, NULL, NULL) < 0)
        return false;
    return await_stop(pid, reader, &status);
}

/* Lets it go through so many stops, before and behind system calls, and then instructions; kills
 * it there.  Whether it came that far. */
static bool kill_at(pid_t pid, unsigned stops, unsigned steps, const struct reader *reader)
{
    bool came = true;

    for (unsigned i = 0; came && i < stops; i++)
        came = go_on(pid, false, reader);
    for (unsigned i = 0; came && i < steps; i++)
        came = go_on(pid, true, reader);
    ASSERT_TRUE(kill(pid, SIGKILL) == 0);
    ASSERT_TRUE(waitpid(pid, NULL, __WALL) == pid);
    return came;
}

/* The copy that a traced process makes of itself: stopped at its first instruction, the other one
 * let go. */
static pid_t await_copy(pid_t parent)
{
    unsigned long copy = 0;
    int status;

    do { /* SIGCHLD is a stop, too */
        ASSERT_TRUE(ptrace(PTRACE_CONT, parent, NULL, NULL) == 0);
        ASSERT_TRUE(waitpid(parent, &status, __WALL) == parent && WIFSTOPPED(status));
    } while (status >> 8 != (SIGTRAP | PTRACE_EVENT_FORK << 8));
    ASSERT_TRUE(ptrace(PTRACE_GETEVENTMSG, parent, NULL, &copy) == 0);
    ASSERT_TRUE(waitpid((pid_t)copy, &status, __WALL) == (pid_t)copy && WIFSTOPPED(status));
    ASSERT_TRUE(ptrace(PTRACE_DETACH, parent, NULL, NULL) == 0);
    return (pid_t)copy;
}

/* Both there, and neither a copy that does not yet know what it is. */
static void await_both(pid_t *ret_keeper, pid_t *ret_filter)
{
    do
        *ret_keeper = gated_await("umbra-keeper", 0);
    while ((*ret_filter = gated_find("umbra-filterd")) == 0);
}

static void begin(struct gated *g)
{
    char name[16];

    for (uint64_t i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "%u", (unsigned)i);
        gated_make(g, name, i, FILE_LEN);
    }
    atomic_store(&g->control->lazy, 1); /* an open, which passes, and then an access */
    gated_start(g, 100);
}

static void end(struct gated *g)
{
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_LOST]), 0);
    gated_finish(g);
}

/* ---- the filter ---- */

static void kill_filter_at(struct gated *g, unsigned stops, unsigned steps, bool *ret_came)
{
    pid_t keeper, filter;

    await_both(&keeper, &filter);
    seize(filter, 0);
    struct reader reader = start_reader(g);
    *ret_came = kill_at(filter, stops, steps, &reader);
    await_reader(&reader);
}

static void check_filter_at_calls(struct gated *g)
{
    bool came = true;
    unsigned stops = 0;

    begin(g);
    for (; came; stops += STRIDE)
        kill_filter_at(g, stops, 0, &came);
    ASSERT_GE(stops, 60);
    end(g);
}

TEST(the_filter_may_be_killed_at_each_system_call)
{
    gated_run("ext4", 250, check_filter_at_calls);
}

static void check_filter_at_instructions(struct gated *g)
{
    uint64_t random = 3;
    bool came;

    begin(g);
    for (unsigned i = 0; i < STEPPED_RUNS; i++) {
        unsigned stops = (unsigned)(test_random(&random) % 80);
        kill_filter_at(g, stops, (unsigned)(test_random(&random) % 300), &came);
    }
    end(g);
}

TEST(the_filter_may_be_killed_between_instructions)
{
    gated_run("ext4", 250, check_filter_at_instructions);
}

/* Its successor, while it takes over what the dead one had asked. */
static void check_successor_at_calls(struct gated *g)
{
    pid_t keeper, filter;
    bool came = true;

    begin(g);
    for (unsigned stops = 0; came; stops += 5 * STRIDE) {
        await_both(&keeper, &filter);
        atomic_store(&g->control->hold, 1);
        uint32_t asked = atomic_load(&g->control->asked[FILTER_OPEN]);
        struct reader reader = start_reader(g);
        gated_wait_for(&g->control->asked[FILTER_OPEN], asked + 1);
        seize(keeper, PTRACE_O_TRACEFORK);
        ASSERT_TRUE(kill(filter, SIGKILL) == 0);
        pid_t copy = await_copy(keeper);
        atomic_store(&g->control->hold, 0);
        came = kill_at(copy, stops, 0, &reader);
        await_reader(&reader);
    }
    end(g);
}

TEST(a_new_filter_may_be_killed_at_each_system_call)
{
    gated_run("ext4", 250, check_successor_at_calls);
}

/* ---- the keeper ---- */

static void check_keeper_at_calls(struct gated *g)
{
    pid_t keeper, filter;
    bool came = true;

    begin(g);
    for (unsigned stops = 0; came; stops += STRIDE) {
        await_both(&keeper, &filter);
        pid_t hydrator = gated_await("test-hydrator", 0);
        seize(keeper, 0);
        ASSERT_TRUE(kill(hydrator, SIGKILL) == 0);
        came = kill_at(keeper, stops, 0, NULL);
        struct reader reader = start_reader(g);
        await_reader(&reader);
    }
    end(g);
}

TEST(the_keeper_may_be_killed_at_each_system_call_while_it_starts_a_hydrator)
{
    gated_run("ext4", 250, check_keeper_at_calls);
}

static void check_new_keeper_at_calls(struct gated *g)
{
    pid_t keeper, filter;
    bool came = true;

    begin(g);
    for (unsigned stops = 0; came; stops += STRIDE) {
        await_both(&keeper, &filter);
        seize(filter, PTRACE_O_TRACEFORK);
        ASSERT_TRUE(kill(keeper, SIGKILL) == 0);
        pid_t copy = await_copy(filter);
        came = kill_at(copy, stops, 0, NULL);
        struct reader reader = start_reader(g);
        await_reader(&reader);
    }
    end(g);
}

TEST(a_new_keeper_may_be_killed_at_each_system_call)
{
    gated_run("ext4", 250, check_new_keeper_at_calls);
}

int main(int argc, char **argv)
{
    return gated_main(argc, argv);
}
