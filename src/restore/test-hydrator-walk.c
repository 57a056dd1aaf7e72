/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walks over trees as they may be: through hydrator_count_path(), which counts what is pending. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/log.h"
#include "basic/test.h"
#include "restore/hydrator-private.h"

#define RESTORE_ID UINT64_C(0x7e57000000000001)
#define DEPTH      5000 /* a path of 10,000 bytes */

static struct hydrator hydrator;

static void ignore_message(enum log_level level _unused_, const char *line _unused_,
                           void *userdata _unused_)
{
}

static struct hydrator *begin(const char *name)
{
    static char path[4096];
    struct hydrator *h = &hydrator;

    log_set_sink(ignore_message, NULL);
    (void)snprintf(path, sizeof(path), "%s/%s", test_tmpdir(), name);
    ASSERT_EQ(mkdir(path, 0755), 0);
    *h = (struct hydrator){.config = {.restore_id = RESTORE_ID, .target = path}};
    ASSERT_EQ(pthread_mutex_init(&h->lock, NULL), 0);
    h->tree_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    h->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(h->tree_fd >= 0 && h->proc_fd >= 0);
    return h;
}

static void end(struct hydrator *h)
{
    for (size_t i = 0; i < h->problems.count; i++) {
        free(h->problems.items[i].path);
        free(h->problems.items[i].what);
    }
    problem_vector_release(&h->problems);
    (void)close(h->proc_fd);
    (void)close(h->tree_fd);
}

static int make_file(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static void make_placeholder(int dir_fd, const char *name)
{
    struct pending pending = {.restore_id = RESTORE_ID, .valid_bytes = 4096};
    CLEANUP_CLOSE int fd = make_file(dir_fd, name);

    int r = pending_set(fd, &pending);
    if (r == -EPERM || r == -EOPNOTSUPP || r == -ENOTTY)
        test_skip("needs root and a file system with trusted attributes and inode generations");
    ASSERT_OK(r);
}

static void assert_pending(struct hydrator *h, uint64_t count, uint64_t failed)
{
    uint64_t now = 0, now_failed = 0;

    ASSERT_OK(hydrator_count_path(h, "", &now, &now_failed));
    ASSERT_EQ(now, count);
    ASSERT_EQ(now_failed, failed);
}

static bool has_problem(const struct hydrator *h, const char *path_end, const char *word)
{
    for (size_t i = 0; i < h->problems.count; i++) {
        const struct problem *problem = &h->problems.items[i];
        size_t len = strlen(problem->path), end_len = strlen(path_end);
        if (len >= end_len && strcmp(problem->path + len - end_len, path_end) == 0 &&
            strstr(problem->what, word))
            return true;
    }
    return false;
}

/* In every thousandth directory, and at the bottom. */
static int make_deep(int dir_fd)
{
    int at = dup(dir_fd);

    for (int i = 1; i <= DEPTH; i++) {
        ASSERT_EQ(mkdirat(at, "d", 0755), 0);
        int down = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(down >= 0);
        (void)close(at);
        at = down;
        if (i % 1000 == 0)
            make_placeholder(at, "f");
    }
    return at;
}

/* The harness cannot: such a path has no name. */
static void remove_deep(int bottom)
{
    for (int i = 0; i < DEPTH; i++) {
        (void)unlinkat(bottom, "f", 0);
        int up = openat(bottom, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(up >= 0);
        (void)close(bottom);
        bottom = up;
        ASSERT_EQ(unlinkat(bottom, "d", AT_REMOVEDIR), 0);
    }
    (void)close(bottom);
}

static void limit_fds(rlim_t count)
{
    struct rlimit limit;

    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = count;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(any_depth_with_few_descriptors)
{
    struct hydrator *h = begin("deep");
    struct rlimit before;

    make_placeholder(h->tree_fd, "f");
    int bottom = make_deep(h->tree_fd);
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit_fds(100);
    assert_pending(h, 1 + DEPTH / 1000, 0);
    limit_fds(before.rlim_cur);
    ASSERT_EQ(h->problem_count, 0);
    remove_deep(bottom);
    end(h);
}

TEST(a_damaged_mark_hides_no_other)
{
    struct hydrator *h = begin("damaged");

    ASSERT_EQ(mkdirat(h->tree_fd, "sub", 0755), 0);
    make_placeholder(h->tree_fd, "sub/good");
    CLEANUP_CLOSE int fd = make_file(h->tree_fd, "sub/bad");
    ASSERT_EQ(fsetxattr(fd, PENDING_XATTR, "\1garbage", 8, 0), 0);
    CLEANUP_CLOSE int other = make_file(h->tree_fd, "sub/long");
    char value[200] = "\1";
    ASSERT_EQ(fsetxattr(other, PENDING_XATTR, value, sizeof(value), 0), 0);
    for (unsigned i = 0; i < 2; i++) { /* it is the same problem */
        assert_pending(h, 3, 2);
        ASSERT_EQ(h->problem_count, 2);
    }
    ASSERT_TRUE(has_problem(h, "/damaged/sub/bad", PENDING_XATTR));
    ASSERT_TRUE(has_problem(h, "/damaged/sub/long", "too long"));
    ASSERT_EQ(fremovexattr(fd, PENDING_XATTR), 0);
    ASSERT_EQ(fremovexattr(other, PENDING_XATTR), 0);
    assert_pending(h, 1, 0);
    end(h);
}

/* What the mark says is known without opening the file. */
TEST(files_that_cannot_be_opened)
{
    struct hydrator *h = begin("leased");

    make_placeholder(h->tree_fd, "ours");
    CLEANUP_CLOSE int theirs = make_file(h->tree_fd, "theirs");
    CLEANUP_CLOSE int ours = openat(h->tree_fd, "ours", O_RDWR | O_CLOEXEC);
    const int fds[] = {ours, theirs};
    for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
        ASSERT_EQ(fcntl(fds[i], F_SETSIG, SIGURG), 0);
        ASSERT_EQ(fcntl(fds[i], F_SETLEASE, F_WRLCK), 0);
    }
    ASSERT_TRUE(openat(h->tree_fd, "theirs", O_RDONLY | O_NONBLOCK | O_CLOEXEC) < 0);
    assert_pending(h, 1, 0);
    ASSERT_EQ(h->problem_count, 0);
    end(h);
}

/* Nothing is wrong with the tree then, and nothing is known of it. */
TEST(no_descriptors_is_a_failure)
{
    struct hydrator *h = begin("few");
    struct rlimit before;
    uint64_t count, failed;

    ASSERT_EQ(mkdirat(h->tree_fd, "sub", 0755), 0);
    CLEANUP_CLOSE int fd = make_file(h->tree_fd, "sub/file");
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = dup(fd);
    ASSERT_EQ(close(next), 0);
    for (int more = 0; more < 3; more++) { /* no directory, one of them, no file */
        limit_fds((rlim_t)(next + more));
        int r = hydrator_count_path(h, "", &count, &failed);
        limit_fds(before.rlim_cur);
        ASSERT_EQ(r, -EMFILE);
    }
    ASSERT_EQ(h->problem_count, 0);
    end(h);
}

TEST_MAIN()
