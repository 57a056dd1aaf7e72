/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra-filterd as a whole, on real volumes: what readers see. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "gated.h"

#define CROWD 1200u

/* ---- the right bytes ---- */

static void check_reads(struct gated *g)
{
    gated_make(g, "a", 1, 100000);
    gated_make(g, "b", 2, 1);
    gated_start(g, 20);
    ASSERT_EQ(gated_read(g, "a", 1, 100000), 0);
    ASSERT_EQ(gated_read(g, "b", 2, 1), 0);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_OPEN]), 2);
    ASSERT_EQ(g->control->last.syscall, SYS_openat);
    ASSERT_EQ(g->control->last.arguments[2], O_RDONLY | O_CLOEXEC);
    ASSERT_STREQ(g->control->last.comm, "test-filterd");
    /* The hydrator is one thread: it would wait for ever if its own writing raised an event. */
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_ACCESS]), 0);
    gated_finish(g);
    ASSERT_EQ(gated_read(g, "a", 1, 100000), 0);
}

TEST(reads_wait_for_the_right_bytes_on_ext4)
{
    gated_run("ext4", 60, check_reads);
}

TEST(reads_wait_for_the_right_bytes_on_xfs)
{
    gated_run("xfs", 60, check_reads);
}

TEST(reads_wait_for_the_right_bytes_on_btrfs)
{
    gated_run("btrfs", 60, check_reads);
}

static void check_accesses(struct gated *g)
{
    char path[512];

    gated_make(g, "read", 1, 100000);
    gated_make(g, "map", 2, 100000);
    atomic_store(&g->control->lazy, 1);
    gated_start(g, 20);
    ASSERT_EQ(gated_read(g, "read", 1, 100000), 0);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_ACCESS]), 1);
    ASSERT_EQ(g->control->last.syscall, SYS_pread64);
    ASSERT_EQ(g->control->last.offset, 0);
    ASSERT_EQ(g->control->last.count, 8192);
    CLEANUP_CLOSE int fd = open(gated_path(g, "map", path), O_RDONLY | O_CLOEXEC);
    const uint8_t *bytes = mmap(NULL, 100000, PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_TRUE(bytes != MAP_FAILED);
    ASSERT_EQ(g->control->last.syscall, SYS_mmap);
    for (size_t i = 0; i < 100000; i++)
        ASSERT_EQ(bytes[i], gated_byte(2, i));
    gated_finish(g);
}

TEST(reads_and_maps_wait_where_opens_were_let_through)
{
    gated_run("ext4", 60, check_accesses);
}

static void check_early_open(struct gated *g)
{
    struct pending pending = {.restore_id = GATED_RESTORE_ID, .ordinal = 1, .valid_bytes = 50000};
    uint8_t data[1000];
    char path[512];

    /* Raises no events, as that of a hydrator, because it is older than the gate. */
    CLEANUP_CLOSE int made = open(gated_path(g, "early", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    gated_start(g, 20);
    CLEANUP_CLOSE int early = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_EQ(pread(early, data, sizeof(data), 0), 0);
    ASSERT_OK(pending_set(made, &pending));
    ASSERT_EQ(pwrite(made, "", 1, 49999), 1); /* unlike ftruncate(), which asks */
    ASSERT_EQ(pread(early, data, sizeof(data), 0), (ssize_t)sizeof(data));
    for (size_t i = 0; i < sizeof(data); i++)
        ASSERT_EQ(data[i], gated_byte(1, i));
    gated_finish(g);
}

TEST(a_file_opened_before_it_becomes_a_placeholder_is_behind_the_gate)
{
    gated_run("ext4", 60, check_early_open);
}

static void check_execution(struct gated *g)
{
    char path[512];
    struct stat st;
    int status;

    ASSERT_TRUE(stat("/bin/true", &st) == 0);
    gated_make(g, "program", GATED_PROGRAM, (uint64_t)st.st_size);
    gated_start(g, 20);
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0) {
        (void)execl(gated_path(g, "program", path), "program", NULL);
        _exit(125);
    }
    ASSERT_TRUE(waitpid(pid, &status, 0) == pid);
    ASSERT_EQ(status, 0);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_EXEC]), 1);
    gated_finish(g);
}

TEST(programs_are_filled_before_they_run)
{
    gated_run("ext4", 60, check_execution);
}

static void check_subvolume(struct gated *g)
{
    char command[600];

    (void)snprintf(command, sizeof(command), "btrfs -q subvolume create %s/sub >/dev/null", g->dir);
    if (system(command) != 0)
        gated_skip();
    gated_make(g, "sub/a", 1, 50000);
    gated_start(g, 20);
    ASSERT_EQ(gated_read(g, "sub/a", 1, 50000), 0);
    gated_finish(g);
}

TEST(other_subvolumes_of_a_btrfs_are_behind_the_gate)
{
    gated_run("btrfs", 60, check_subvolume);
}

/* ---- what is complete costs nothing ---- */

static long waits_of_100_reads(struct gated *g, const char *name, uint64_t ordinal)
{
    struct rusage before, after;

    ASSERT_TRUE(getrusage(RUSAGE_THREAD, &before) == 0);
    for (int i = 0; i < 100; i++)
        ASSERT_EQ(gated_read(g, name, ordinal, 4000), 0);
    ASSERT_TRUE(getrusage(RUSAGE_THREAD, &after) == 0);
    return after.ru_nvcsw - before.ru_nvcsw;
}

static void write_complete(struct gated *g, const char *name, uint64_t ordinal)
{
    uint8_t data[4000];
    char path[512];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = gated_byte(ordinal, i);
    CLEANUP_CLOSE int fd = open(gated_path(g, name, path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_TRUE(write(fd, data, sizeof(data)) == sizeof(data));
}

static void check_cost(struct gated *g)
{
    write_complete(g, "complete", 1);
    gated_make(g, "filled", 2, 4000);
    gated_start(g, 20);
    ASSERT_EQ(gated_read(g, "filled", 2, 4000), 0);
    ASSERT_EQ(gated_read(g, "filled", 2, 4000), 0);
    ASSERT_EQ(gated_read(g, "complete", 1, 4000), 0);
    /* Each event would be a wait: there would be two for each read. */
    ASSERT_LE(waits_of_100_reads(g, "complete", 1), 20);
    ASSERT_LE(waits_of_100_reads(g, "filled", 2), 20);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_OPEN]), 1);
    write_complete(g, "new", 3);
    ASSERT_LE(waits_of_100_reads(g, "new", 3), 20);
    gated_finish(g);
    ASSERT_LE(waits_of_100_reads(g, "complete", 1), 20);
}

TEST(complete_files_raise_no_events_after_the_first_look)
{
    gated_run("ext4", 60, check_cost);
}

/* The name is there before the mark is: somebody may look at the file at any time. */
static void check_new_placeholders(struct gated *g)
{
    char name[16], path[512], data[4000];

    gated_start(g, 20);
    for (uint32_t i = 1; i <= 50; i++) {
        ssize_t n = 0;
        (void)snprintf(name, sizeof(name), "%u", i);
        atomic_store(&g->control->make, i);
        while (n < 4000) {
            CLEANUP_CLOSE int fd = open(gated_path(g, name, path), O_RDONLY | O_CLOEXEC);
            n = fd < 0 ? 0 : read(fd, data, sizeof(data));
            ASSERT_GE(n, 0);
        }
        ASSERT_EQ(gated_read(g, name, i, 4000), 0);
    }
    gated_finish(g);
}

TEST(placeholders_may_be_made_while_the_gate_stands)
{
    gated_run("ext4", 60, check_new_placeholders);
}

/* ---- marks that say something else ---- */

static void set_raw(struct gated *g, const char *name, const void *value, size_t len)
{
    char path[512];
    ASSERT_TRUE(setxattr(gated_path(g, name, path), PENDING_XATTR, value, len, 0) == 0);
}

static void check_marks(struct gated *g)
{
    uint8_t value[PENDING_LEN];
    char path[512];

    gated_make(g, "damaged", 1, 4000);
    ASSERT_TRUE(getxattr(gated_path(g, "damaged", path), PENDING_XATTR, value, PENDING_LEN) ==
                PENDING_LEN);
    write_complete(g, "copy", 2);
    set_raw(g, "copy", value, sizeof(value));
    value[20] ^= 1;
    set_raw(g, "damaged", value, sizeof(value));
    gated_make(g, "newer", 3, 4000);
    value[0] = PENDING_VERSION + 1;
    set_raw(g, "newer", value, sizeof(value));
    gated_make(g, "other", 4, 4000);
    {
        struct pending pending = {.restore_id = 1, .valid_bytes = 4000};
        CLEANUP_CLOSE int fd = open(gated_path(g, "other", path), O_RDWR | O_CLOEXEC);
        ASSERT_OK(pending_set(fd, &pending));
    }
    gated_start(g, 20);
    for (int i = 0; i < 3; i++) {
        ASSERT_EQ(gated_read(g, "damaged", 1, 4000), EIO);
        ASSERT_EQ(gated_read(g, "newer", 3, 4000), EIO);
        ASSERT_EQ(gated_read(g, "other", 4, 4000), EIO);
        ASSERT_EQ(gated_read(g, "copy", 2, 4000), 0);
    }
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_OPEN]), 0);
    gated_finish(g);
}

TEST(a_mark_that_cannot_be_served_is_an_error_and_a_copied_one_is_none)
{
    gated_run("ext4", 60, check_marks);
}

/* ---- answers ---- */

static void check_errors(struct gated *g)
{
    static const struct {
        int said, seen;
    } errors[] = {
        {EIO, EIO},     {ENOSPC, ENOSPC}, {EDQUOT, EDQUOT}, {EAGAIN, EAGAIN}, {EBUSY, EBUSY},
        {EPERM, EPERM}, {ENOENT, EIO},    {-EIO, EIO},      {INT32_MAX, EIO}, {0, 0}};

    gated_make(g, "a", 1, 4000);
    gated_start(g, 20);
    for (size_t i = 0; i < ELEMENTSOF(errors); i++) {
        atomic_store(&g->control->error, (uint32_t)errors[i].said);
        ASSERT_EQ(gated_read(g, "a", 1, 4000), errors[i].seen);
    }
    gated_finish(g);
}

TEST(errors_of_the_hydrator_reach_the_reader)
{
    gated_run("ext4", 60, check_errors);
}

static void check_deadline(struct gated *g)
{
    gated_make(g, "a", 1, 4000);
    atomic_store(&g->control->hold, 1);
    gated_start(g, 1);
    ASSERT_EQ(gated_read(g, "a", 1, 4000), EIO);
    atomic_store(&g->control->hold, 0); /* it answers what nobody asks any more */
    ASSERT_EQ(gated_read(g, "a", 1, 4000), 0);
    gated_finish(g);
}

TEST(after_the_deadline_there_is_an_error_and_then_success)
{
    gated_run("ext4", 60, check_deadline);
}

/* ---- many, and the dead ---- */

static pid_t start_reader(struct gated *g, const char *name, uint64_t ordinal)
{
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0)
        _exit(gated_read(g, name, ordinal, 4000));
    return pid;
}

static void check_killed_readers(struct gated *g)
{
    pid_t readers[8];

    gated_make(g, "a", 1, 4000);
    gated_make(g, "b", 2, 4000);
    atomic_store(&g->control->hold, 1);
    gated_start(g, 20);
    for (size_t i = 0; i < ELEMENTSOF(readers); i++)
        readers[i] = start_reader(g, "a", 1);
    gated_wait_for(&g->control->asked[FILTER_OPEN], ELEMENTSOF(readers));
    for (size_t i = 0; i < ELEMENTSOF(readers); i++) {
        ASSERT_TRUE(kill(readers[i], i % 2 == 0 ? SIGKILL : SIGTERM) == 0);
        ASSERT_TRUE(waitpid(readers[i], NULL, 0) == readers[i]);
    }
    atomic_store(&g->control->hold, 0);
    ASSERT_EQ(gated_read(g, "b", 2, 4000), 0);
    ASSERT_EQ(gated_read(g, "a", 1, 4000), 0);
    gated_finish(g);
}

TEST(readers_may_be_killed_while_they_wait)
{
    gated_run("ext4", 60, check_killed_readers);
}

static struct gated *crowd_of;

static void *read_in_crowd(void *name)
{
    ASSERT_EQ(gated_read(crowd_of, name, 1, 4000), 0);
    return NULL;
}

static void check_crowd(struct gated *g)
{
    static pthread_t threads[CROWD];
    char name[] = "a";
    pthread_attr_t small;

    gated_make(g, name, 1, 4000);
    atomic_store(&g->control->hold, 1);
    gated_start(g, 60);
    crowd_of = g;
    ASSERT_EQ(pthread_attr_init(&small), 0);
    ASSERT_EQ(pthread_attr_setstacksize(&small, 128 * 1024), 0);
    for (size_t i = 0; i < CROWD; i++)
        ASSERT_EQ(pthread_create(&threads[i], &small, read_in_crowd, name), 0);
    gated_wait_for(&g->control->asked[FILTER_OPEN], CROWD);
    atomic_store(&g->control->hold, 0);
    for (size_t i = 0; i < CROWD; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    gated_finish(g);
}

TEST(more_than_a_thousand_may_wait)
{
    gated_run("ext4", 120, check_crowd);
}

/* ---- opens that must not wait ---- */

static void open_with(struct gated *g, const char *name, uint64_t flags, bool by_openat2)
{
    struct open_how how = {.flags = flags | O_CLOEXEC};
    char path[512];

    (void)gated_path(g, name, path);
    int fd = by_openat2 ? (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how))
                        : open(path, (int)how.flags);
    ASSERT_TRUE(fd >= 0);
    ASSERT_TRUE(close(fd) == 0);
}

static void check_truncating_opens(struct gated *g)
{
    char path[512];

    for (int i = 0; i < 4; i++) {
        char name[2] = {(char)('a' + i), '\0'};
        gated_make(g, name, 1, 4000);
    }
    atomic_store(&g->control->hold, 1);
    gated_start(g, 60);
    open_with(g, "a", O_WRONLY | O_TRUNC, false);
    open_with(g, "b", O_WRONLY | O_TRUNC, true);
    CLEANUP_CLOSE int fd = (int)syscall(SYS_creat, gated_path(g, "c", path), 0600);
    ASSERT_TRUE(fd >= 0);
    /* whoever is let go before the hydrator hears of him is still told of */
    gated_wait_for(&g->control->asked[FILTER_TRUNCATE], 3);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_OPEN]), 0);
    atomic_store(&g->control->hold, 0);
    open_with(g, "d", O_RDONLY, true);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_OPEN]), 1);
    gated_finish(g);
}

TEST(opens_that_truncate_do_not_wait)
{
    gated_run("ext4", 20, check_truncating_opens);
}

static void check_freeze(struct gated *g)
{
    char path[512];

    gated_make(g, "a", 1, 4000);
    gated_make(g, "b", 2, 4000);
    atomic_store(&g->control->lazy, 1);
    atomic_store(&g->control->hold, 1);
    gated_start(g, 60);
    pid_t reader = start_reader(g, "a", 1);
    gated_wait_for(&g->control->asked[FILTER_OPEN], 1);
    pid_t opener = fork(); /* with hold, it would keep the freeze waiting */
    ASSERT_TRUE(opener >= 0);
    if (opener == 0)
        _exit(open(gated_path(g, "b", path), O_WRONLY | O_TRUNC | O_CLOEXEC) < 0);
    CLEANUP_CLOSE int dir = open(g->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(ioctl(dir, FIFREEZE, 0) == 0);
    atomic_store(&g->control->hold, 0); /* the fill waits for the thaw */
    gated_sleep_ms(100);
    ASSERT_EQ(waitpid(reader, NULL, WNOHANG), 0);
    ASSERT_TRUE(ioctl(dir, FITHAW, 0) == 0);
    int status;
    ASSERT_TRUE(waitpid(reader, &status, 0) == reader && status == 0);
    ASSERT_TRUE(waitpid(opener, &status, 0) == opener && status == 0);
    gated_finish(g);
}

TEST(a_freeze_does_not_wait_for_readers_nor_for_truncating_opens)
{
    gated_run("ext4", 30, check_freeze);
}

static const char *trap_path;
static struct open_how *trap;

static void *open_in_trap(void *unused _unused_)
{
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, trap_path, trap, sizeof(*trap));
    ASSERT_TRUE(fd >= 0);
    ASSERT_TRUE(close(fd) == 0);
    return NULL;
}

/* The page of the trap, once it is dropped, waits for somebody who never brings it. */
static int set_trap(void)
{
    struct uffdio_api api = {.api = UFFD_API};

    trap = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_TRUE(trap != MAP_FAILED);
    trap->flags = O_RDONLY | O_CLOEXEC;
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_register range = {.range = {(uintptr_t)trap, 4096},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &range) < 0)
        gated_skip();
    return uffd;
}

static void check_trap(struct gated *g)
{
    char path[512];
    pthread_t opener;

    gated_make(g, "a", 1, 4000);
    gated_make(g, "b", 2, 4000);
    gated_start(g, 60);
    int uffd = set_trap();
    pid_t filter = gated_await("umbra-filterd", 0);
    ASSERT_TRUE(kill(filter, SIGSTOP) == 0);
    trap_path = gated_path(g, "a", path);
    ASSERT_EQ(pthread_create(&opener, NULL, open_in_trap, NULL), 0);
    gated_sleep_ms(200);
    ASSERT_TRUE(madvise(trap, 4096, MADV_DONTNEED) == 0);
    ASSERT_TRUE(kill(filter, SIGCONT) == 0);
    ASSERT_EQ(pthread_join(opener, NULL), 0);
    ASSERT_EQ(gated_read(g, "b", 2, 4000), 0);
    ASSERT_NE(gated_await("umbra-filterd", 0), filter);
    ASSERT_TRUE(close(uffd) == 0);
    gated_finish(g);
}

TEST(memory_that_never_comes_does_not_stop_the_filter)
{
    gated_run("ext4", 30, check_trap);
}

/* ---- the ends ---- */

static void check_refusals(struct gated *g)
{
    char text[1024], dir[300];

    gated_start(g, 20);
    ASSERT_EQ(gated_start_failing(g, g->dir, text, sizeof(text)), 1);
    ASSERT_TRUE(strstr(text, "1122334455667788") != NULL);
    (void)snprintf(dir, sizeof(dir), "%s/memory", g->dir);
    ASSERT_TRUE(mkdir(dir, 0700) == 0);
    ASSERT_TRUE(mount("none", dir, "tmpfs", 0, NULL) == 0);
    ASSERT_EQ(gated_start_failing(g, dir, text, sizeof(text)), 1);
    ASSERT_TRUE(strstr(text, "ext4, xfs and btrfs") != NULL);
    ASSERT_EQ(gated_start_failing(g, "/nonexistent", text, sizeof(text)), 1);
    ASSERT_TRUE(strstr(text, "/nonexistent") != NULL);
    gated_finish(g);
}

TEST(a_gate_that_cannot_stand_says_why)
{
    gated_run("ext4", 60, check_refusals);
}

static void check_rounds(struct gated *g)
{
    for (uint64_t round = 1; round <= 5; round++) {
        gated_make(g, "a", round, 4000);
        atomic_store(&g->control->finish, 0);
        gated_start(g, 20);
        ASSERT_EQ(gated_read(g, "a", round, 4000), 0);
        gated_finish(g);
    }
    /* With no mark left, nothing but the tests' own bookkeeping is between a reader and zeros. */
    gated_make(g, "a", 77, 4000);
    char path[512];
    uint8_t byte = 1;
    CLEANUP_CLOSE int fd = open(gated_path(g, "a", path), O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(pread(fd, &byte, 1, 3999) == 1);
}

TEST(after_the_end_another_gate_can_stand)
{
    gated_run("ext4", 60, check_rounds);
}

static void check_exit_without_finish(struct gated *g)
{
    gated_make(g, "a", 1, 4000);
    gated_start(g, 20);
    for (uint32_t starts = 1; starts < 4; starts++) {
        gated_wait_for(&g->control->starts, starts);
        atomic_store(&g->control->exit_now, 1);
    }
    gated_wait_for(&g->control->starts, 4);
    ASSERT_EQ(gated_read(g, "a", 1, 4000), 0);
    gated_finish(g);
}

TEST(a_hydrator_that_leaves_without_a_word_is_replaced)
{
    gated_run("ext4", 60, check_exit_without_finish);
}

int main(int argc, char **argv)
{
    return gated_main(argc, argv);
}
