/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SIGKILL at any time to any process of umbra-filterd, with readers that look at every byte. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "filter/table.h"
#include "gated.h"

#define READERS  16u
#define FILES    1500u /* prime to the strides */
#define FILE_LEN 6000u

#ifdef __SANITIZE_ADDRESS__
#define KILLS 30u /* each start takes its time */
#else
#define KILLS 200u
#endif

struct plan {
    const char *victims[3];
    unsigned kills;
};

static const struct plan *plan;

static void make_files(struct gated *g)
{
    char name[16];

    for (uint64_t i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "%u", (unsigned)i);
        gated_make(g, name, i, FILE_LEN);
    }
}

/* Reads all files, in an order of its own.  The first that fails is the exit status. */
_noreturn_ static void be_reader(struct gated *g, unsigned number)
{
    static const unsigned strides[] = {1, 7, 11, 13};
    unsigned at = number * FILES / READERS;
    char name[16];

    for (unsigned i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "%u", at);
        int error = gated_read(g, name, at, FILE_LEN);
        if (error)
            (void)fprintf(stderr, "reader %u: %s: %s\n", number, name, strerror(error));
        if (error)
            _exit(1);
        at = (at + strides[number % ELEMENTSOF(strides)]) % FILES;
    }
    _exit(0);
}

static void start_readers(struct gated *g, pid_t readers[READERS])
{
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = fork();
        ASSERT_TRUE(readers[i] >= 0);
        if (readers[i] == 0)
            be_reader(g, i);
    }
}

static bool all_alive(const pid_t readers[READERS])
{
    for (unsigned i = 0; i < READERS; i++) {
        siginfo_t info = {0};
        ASSERT_TRUE(waitid(P_PID, (id_t)readers[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0);
        if (info.si_pid != 0)
            return false;
    }
    return true;
}

/*
 * Never keeper and filter at once: the next one is killed when all are there.  Whether there was
 * work to the end.
 */
static bool kill_many(uint64_t *random, const pid_t readers[READERS])
{
    bool busy = true;

    for (unsigned i = 0; i < plan->kills; i++) {
        const char *victim = plan->victims[test_random(random) % ELEMENTSOF(plan->victims)];
        do
            (void)gated_await("umbra-keeper", 0);
        while (gated_find("umbra-filterd") == 0);
        pid_t pid = gated_await(victim, 0);
        gated_sleep_ms((unsigned)(test_random(random) % 4));
        busy = busy && all_alive(readers);
        ASSERT_TRUE(kill(pid, SIGKILL) == 0 || errno == ESRCH);
        (void)gated_await(victim, pid);
    }
    return busy;
}

static void check_kills(struct gated *g)
{
    pid_t readers[READERS];
    uint64_t random = 7;
    int status;

    make_files(g);
    atomic_store(&g->control->lazy, 2);
    atomic_store(&g->control->delay_us, 3000);
    gated_start(g, 100);
    start_readers(g, readers);
    bool busy = kill_many(&random, readers);
    atomic_store(&g->control->delay_us, 0);
    for (unsigned i = 0; i < READERS; i++) {
        ASSERT_TRUE(waitpid(readers[i], &status, 0) == readers[i]);
        ASSERT_EQ(status, 0);
    }
    ASSERT_TRUE(busy);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_LOST]), 0);
    gated_finish(g);
}

static void kill_on(const char *file_system, const struct plan *p)
{
    plan = p;
    gated_run(file_system, 200, check_kills);
}

TEST(the_filter_is_killed_again_and_again)
{
    static const struct plan p = {{"umbra-filterd", "umbra-filterd", "umbra-filterd"}, KILLS};
    kill_on("ext4", &p);
}

TEST(the_keeper_is_killed_again_and_again)
{
    static const struct plan p = {{"umbra-keeper", "umbra-keeper", "umbra-keeper"}, KILLS};
    kill_on("ext4", &p);
}

TEST(the_hydrator_is_killed_again_and_again)
{
    static const struct plan p = {{"test-hydrator", "test-hydrator", "test-hydrator"}, 6};
    kill_on("ext4", &p);
}

TEST(any_of_them_is_killed_on_xfs)
{
    static const struct plan p = {{"umbra-filterd", "umbra-keeper", "umbra-filterd"}, KILLS / 4};
    kill_on("xfs", &p);
}

TEST(any_of_them_is_killed_on_btrfs)
{
    static const struct plan p = {{"umbra-filterd", "umbra-keeper", "test-hydrator"}, 20};
    kill_on("btrfs", &p);
}

static struct gated *crowd_of;

static void *read_in_crowd(void *unused _unused_)
{
    ASSERT_EQ(gated_read(crowd_of, "0", 0, FILE_LEN), 0);
    return NULL;
}

static void start_crowd(struct gated *g, pthread_t *threads, size_t count)
{
    const struct rlimit fds = {count + 1000, count + 1000};
    pthread_attr_t small;

    crowd_of = g;
    ASSERT_TRUE(setrlimit(RLIMIT_NOFILE, &fds) == 0);
    ASSERT_EQ(pthread_attr_init(&small), 0);
    ASSERT_EQ(pthread_attr_setstacksize(&small, 32768), 0);
    for (size_t i = 0; i < count; i++)
        if (pthread_create(&threads[i], &small, read_in_crowd, NULL) != 0)
            gated_skip(); /* not so many here */
}

/* More readers than slots, for one file.  The filter stops reading, and nobody is turned away. */
static void check_full_table(struct gated *g)
{
    static pthread_t threads[TABLE_SLOTS + 1000];
    const uint32_t full = TABLE_SLOTS - SPARE_FDS - EVENTS_PER_READ_MAX;

    gated_make(g, "0", 0, FILE_LEN);
    atomic_store(&g->control->hold, 1);
    gated_start(g, 100);
    start_crowd(g, threads, ELEMENTSOF(threads));
    gated_wait_for(&g->control->asked[FILTER_OPEN], full);
    gated_sleep_ms(200);
    ASSERT_LE(atomic_load(&g->control->asked[FILTER_OPEN]), full + EVENTS_PER_READ_MAX);
    pid_t filter = gated_await("umbra-filterd", 0);
    ASSERT_TRUE(kill(filter, SIGKILL) == 0);
    atomic_store(&g->control->hold, 0);
    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    ASSERT_EQ(atomic_load(&g->control->asked[FILTER_LOST]), 0);
    gated_finish(g);
}

TEST(readers_wait_for_a_slot_when_the_table_is_full)
{
#ifdef __SANITIZE_ADDRESS__
    test_skip("too many threads for AddressSanitizer");
#endif
    gated_run("ext4", 100, check_full_table);
}

/* Nobody is left to answer, but the hydrator holds the group. */
static void check_both(struct gated *g)
{
    pid_t readers[READERS];

    make_files(g);
    gated_start(g, 100);
    (void)gated_await("test-hydrator", 0);
    pid_t keeper = gated_await("umbra-keeper", 0);
    pid_t filter = gated_await("umbra-filterd", 0);
    ASSERT_TRUE(kill(keeper, SIGSTOP) == 0 && kill(filter, SIGKILL) == 0);
    ASSERT_TRUE(kill(keeper, SIGKILL) == 0);
    start_readers(g, readers);
    gated_sleep_ms(500); /* a reader that gets zeros ends */
    for (unsigned i = 0; i < READERS; i++)
        ASSERT_EQ(waitpid(readers[i], NULL, WNOHANG), 0);
}

TEST(without_keeper_and_filter_readers_wait)
{
    gated_run("ext4", 60, check_both);
}

/* ---- the descriptor store ---- */

static int open_store(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0umbra-test-store"};
    const socklen_t len = offsetof(struct sockaddr_un, sun_path) + sizeof("\0umbra-test-store") - 1;

    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ASSERT_TRUE(fd >= 0 && bind(fd, (const struct sockaddr *)&address, len) == 0);
    ASSERT_TRUE(setenv("NOTIFY_SOCKET", "@umbra-test-store", 1) == 0);
    return fd;
}

/* The descriptor that came with the message; -1: none. */
static int receive(int store, const char *expected)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    char text[256] = "";
    struct iovec iov = {.iov_base = text, .iov_len = sizeof(text) - 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    int fd = -1;

    ASSERT_TRUE(recvmsg(store, &message, MSG_CMSG_CLOEXEC) > 0);
    ASSERT_STREQ(text, expected);
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header)
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    return fd;
}

/* What each start says. */
static void receive_start(int store, int *ret_group, int *ret_table)
{
    *ret_table = receive(store, "FDSTORE=1\nFDPOLL=0\nFDNAME=umbra-table");
    *ret_group = receive(store, "FDSTORE=1\nFDPOLL=0\nFDNAME=umbra-group");
    ASSERT_EQ(receive(store, "READY=1"), -1);
}

static void kill_all(void)
{
    pid_t hydrator = gated_await("test-hydrator", 0);
    pid_t keeper = gated_await("umbra-keeper", 0);
    pid_t filter = gated_await("umbra-filterd", 0);

    ASSERT_TRUE(kill(keeper, SIGSTOP) == 0 && kill(filter, SIGSTOP) == 0);
    ASSERT_TRUE(kill(hydrator, SIGKILL) == 0);
    ASSERT_TRUE(kill(filter, SIGKILL) == 0 && kill(keeper, SIGKILL) == 0);
    while (gated_find("umbra-filterd") || gated_find("umbra-keeper") || gated_find("test-hydrator"))
        gated_sleep_ms(1);
}

static void check_store(struct gated *g)
{
    pid_t readers[READERS];
    int group, table, status;

    make_files(g);
    atomic_store(&g->control->lazy, 2);
    atomic_store(&g->control->hold, 1);
    CLEANUP_CLOSE int store = open_store();
    gated_start(g, 100);
    start_readers(g, readers);
    for (unsigned round = 1; round <= 3; round++) {
        receive_start(store, &group, &table);
        gated_wait_for(&g->control->asked[FILTER_OPEN], round * READERS);
        kill_all();
        gated_sleep_ms(100);
        gated_start_again(g, group, table);
        ASSERT_TRUE(close(group) == 0 && close(table) == 0);
    }
    receive_start(store, &group, &table);
    ASSERT_TRUE(close(group) == 0 && close(table) == 0);
    atomic_store(&g->control->hold, 0);
    for (unsigned i = 0; i < READERS; i++) {
        ASSERT_TRUE(waitpid(readers[i], &status, 0) == readers[i]);
        ASSERT_EQ(status, 0);
    }
    gated_finish(g);
    ASSERT_EQ(receive(store, "FDSTOREREMOVE=1\nFDNAME=umbra-group"), -1);
    ASSERT_EQ(receive(store, "FDSTOREREMOVE=1\nFDNAME=umbra-table"), -1);
}

TEST(with_a_descriptor_store_all_may_be_killed)
{
    gated_run("ext4", 60, check_store);
}

int main(int argc, char **argv)
{
    return gated_main(argc, argv);
}
