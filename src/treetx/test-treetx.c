/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "treetx/test-tree.h"

static char root[512];

static void setup(void)
{
    char state[512];

    (void)snprintf(state, sizeof(state), "%s/state", test_tmpdir());
    ASSERT_EQ(setenv("UMBRA_STATE_DIR", state, 1), 0);
    (void)snprintf(root, sizeof(root), "%s/tree", test_tmpdir());
    if (mkdir(root, 0755) < 0)
        tree_remove(root);
    tree_make(root);
}

static void expect_state(enum treetx_state state)
{
    enum treetx_state now;

    ASSERT_OK(treetx_look(root, &now));
    ASSERT_EQ(now, state);
}

TEST(commits_and_rolls_back)
{
    setup();
    CLEANUP_FREE char *before = tree_dump(root, false);
    struct treetx_stats stats;
    struct treetx *tx = tree_plan_change(root);
    ASSERT_OK(treetx_commit(tx, &stats));
    treetx_free(tx);
    expect_state(TREETX_KEPT);
    CLEANUP_FREE char *changed = tree_dump(root, true);
    ASSERT_TRUE(strcmp(before, changed) != 0);
    ASSERT_OK(treetx_rollback(root, 0));
    expect_state(TREETX_NONE);
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, before);
    tree_remove(root);
}

/* ---- what cannot be written to ---- */

static void make_program(const char *path)
{
    CLEANUP_CLOSE int from_fd = open("/bin/sleep", O_RDONLY | O_CLOEXEC);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    char block[65536];
    ssize_t n;

    ASSERT_OK(from_fd);
    ASSERT_OK(fd);
    while ((n = read(from_fd, block, sizeof(block))) > 0)
        ASSERT_EQ(write(fd, block, (size_t)n), n);
    ASSERT_EQ(n, 0);
}

/* The exec closes the pipe: then it cannot be written to. */
static pid_t run_program(const char *path)
{
    int fds[2];
    char end;

    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = fork();
    ASSERT_OK(pid);
    if (pid == 0) {
        (void)execl(path, "sleep", "1000", (char *)NULL);
        _exit(127);
    }
    (void)close(fds[1]);
    ASSERT_EQ(read(fds[0], &end, 1), 0);
    (void)close(fds[0]);
    return pid;
}

static void plan_program(struct treetx *tx)
{
    char name[TREETX_STAGE_NAME_MAX];

    treetx_stage_name(tx, name);
    CLEANUP_CLOSE int fd =
        openat(treetx_stage_fd(tx), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    ASSERT_OK(fd);
    ASSERT_EQ(ftruncate(fd, 100), 0);
    ASSERT_OK(treetx_copy(tx, "program", name, 50, 50));
    ASSERT_OK(treetx_punch(tx, "program", 200, 50));
    ASSERT_OK(treetx_resize(tx, "program", 1000));
}

/* What was done before the program is come to is taken back, while it runs. */
TEST(a_running_program_is_no_trap)
{
    char path[600];
    struct treetx *tx;
    struct stat st;
    int status;

    setup();
    (void)snprintf(path, sizeof(path), "%s/program", root);
    make_program(path);
    CLEANUP_FREE char *before = tree_dump(root, false);
    pid_t pid = run_program(path);
    tx = tree_plan_change(root);
    plan_program(tx);
    ASSERT_EQ(treetx_commit(tx, NULL), -ETXTBSY);
    treetx_free(tx);
    expect_state(TREETX_NONE);
    CLEANUP_FREE char *refused = tree_dump(root, false);
    ASSERT_STREQ(refused, before);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    ASSERT_EQ(waitpid(pid, &status, 0), pid);

    tx = tree_plan_change(root);
    plan_program(tx);
    ASSERT_OK(treetx_commit(tx, NULL));
    treetx_free(tx);
    ASSERT_EQ(stat(path, &st), 0);
    ASSERT_EQ(st.st_size, 1000);
    ASSERT_OK(treetx_rollback(root, 0));
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, before);
    tree_remove(root);
}

/* ---- crashes ---- */

static void change(const char *dir)
{
    struct treetx *tx = tree_plan_change(dir);

    ASSERT_OK(treetx_commit(tx, NULL));
    treetx_free(tx);
}

static void roll_back(const char *dir)
{
    ASSERT_OK(treetx_rollback(dir, 0));
}

static void recover(const char *dir)
{
    enum treetx_outcome outcome;

    ASSERT_OK(treetx_recover(dir, 0, &outcome));
}

/* A recovery that is killed, and one that is not; then the tree is one or the other. */
static enum treetx_state recover_and_look(unsigned call, const char *old, const char *new)
{
    enum treetx_state state;

    IGNORE_RESULT(tree_kill_at(call, recover, root));
    recover(root);
    ASSERT_OK(treetx_look(root, &state));
    CLEANUP_FREE char *now = tree_dump(root, state == TREETX_KEPT);
    ASSERT_TRUE(state == TREETX_NONE || state == TREETX_KEPT);
    ASSERT_STREQ(now, state == TREETX_KEPT ? new : old);
    return state;
}

/* How many calls to go on by: all of them are tried by tests/system/test-treetx.sh. */
static unsigned stride(void)
{
    const char *text = getenv("UMBRA_TEST_STRIDE");

    return text ? (unsigned)strtoul(text, NULL, 10) : 131;
}

TEST(every_moment_may_be_the_last)
{
    unsigned changed_count = 0, call;
    bool killed = true;

    setup();
    CLEANUP_FREE char *old = tree_dump(root, false);
    unsigned calls = tree_count_calls(change, root);
    CLEANUP_FREE char *new = tree_dump(root, true);
    roll_back(root);
    for (call = 0; killed; call += stride()) {
        killed = tree_kill_at(call, change, root);
        enum treetx_state state = recover_and_look(call * 7 % 211, old, new);
        if (state == TREETX_NONE)
            continue;
        changed_count++;
        if (tree_kill_at(call % 701, roll_back, root))
            state = recover_and_look(call * 3 % 311, old, new);
        if (state == TREETX_KEPT)
            IGNORE_RESULT(treetx_rollback(root, 0));
    }
    printf("%u calls, %u times changed\n", calls, changed_count);
    ASSERT_GT(changed_count, 0);
    tree_remove(root);
}

TEST(every_moment_of_a_rollback_may_be_the_last)
{
    bool killed = true;

    setup();
    CLEANUP_FREE char *old = tree_dump(root, false);
    change(root);
    CLEANUP_FREE char *new = tree_dump(root, true);
    for (unsigned call = 0; killed; call += stride()) {
        killed = tree_kill_at(call, roll_back, root);
        if (recover_and_look(call * 5 % 307, old, new) == TREETX_NONE)
            change(root);
    }
    roll_back(root);
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, old);
    tree_remove(root);
}

int main(int argc, char **argv)
{
    test_set_timeout(1800); /* each round syncs the whole volume some ten times */
    return test_main(argc, argv);
}
