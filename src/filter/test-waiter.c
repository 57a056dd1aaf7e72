/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/waiter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"

#define TAIL " 0x7ffc21d9a3c0 0x7f1d8b0a1b2c\n"

static int parse(const char *text, int32_t *ret_syscall, uint64_t arguments[6])
{
    return waiter_parse(text, strlen(text), ret_syscall, arguments);
}

TEST(a_system_call_and_its_arguments)
{
    uint64_t a[6];
    int32_t syscall;

    ASSERT_OK(parse("257 0xffffff9c 0x55d0 0x80000 0x0 0x1 0xffffffffffffffff" TAIL, &syscall, a));
    ASSERT_EQ(syscall, 257);
    ASSERT_EQ(a[0], 0xffffff9c);
    ASSERT_EQ(a[2], 0x80000);
    ASSERT_EQ(a[3], 0);
    ASSERT_EQ(a[5], UINT64_MAX);
}

TEST(what_cannot_be_told)
{
    uint64_t a[6];
    int32_t syscall;

    ASSERT_ERR(parse("running\n", &syscall, a), -EAGAIN);
    ASSERT_ERR(parse("-1 0x7ffc21d9a3c0 0x7f1d8b0a1b2c\n", &syscall, a), -ENODATA);
    /* A thread of the kernel, a worker of io_uring: no stack. */
    ASSERT_ERR(parse("0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n", &syscall, a), -ENODATA);
    /* A program of 32 bits, where 257 is another call. */
    ASSERT_ERR(parse("257 0x3 0x1 0x1 0x0 0x0 0x0 0xffa3b1c0 0xf7f1d549\n", &syscall, a), -ENODATA);
}

TEST(other_texts_are_refused)
{
    static const char *const texts[] = {
        "",
        "\n",
        "0",
        "runnin",
        "257 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc21d9a3c0\n",
        "257 0x1 0x2 0x3 0x4 0x5" TAIL,
        "257 1 0x2 0x3 0x4 0x5 0x6" TAIL,
        "257 0x 0x2 0x3 0x4 0x5 0x6" TAIL,
        "257 0x1g 0x2 0x3 0x4 0x5 0x6" TAIL,
        "257 0x11111111111111111 0x2 0x3 0x4 0x5 0x6" TAIL,
        "257  0x1 0x2 0x3 0x4 0x5 0x6" TAIL,
        "2570000 0x1 0x2 0x3 0x4 0x5 0x6" TAIL,
        "-2 0x1 0x2 0x3 0x4 0x5 0x6" TAIL,
        "257 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc21d9a3c0 0x7f1d8b0a1b2cx",
    };
    uint64_t a[6];
    int32_t syscall;

    for (size_t i = 0; i < ELEMENTSOF(texts); i++)
        ASSERT_ERR(parse(texts[i], &syscall, a), -EBADMSG);
}

static int flags_of(int32_t syscall, uint64_t second, uint64_t third, uint64_t *ret_flags)
{
    const struct waiter waiter = {.syscall = syscall, .arguments = {[1] = second, [2] = third}};
    return waiter_open_flags(&waiter, getpid(), ret_flags);
}

TEST(the_flags_of_an_open)
{
    struct open_how how = {.flags = O_RDWR | O_TRUNC};
    uint64_t flags;

    ASSERT_OK(flags_of(SYS_openat, 7, O_WRONLY | O_APPEND, &flags));
    ASSERT_EQ(flags, O_WRONLY | O_APPEND);
    ASSERT_OK(flags_of(SYS_open_by_handle_at, 7, O_RDWR, &flags));
    ASSERT_EQ(flags, O_RDWR);
    ASSERT_OK(flags_of(SYS_openat2, 7, (uintptr_t)&how, &flags));
    ASSERT_EQ(flags, O_RDWR | O_TRUNC);
#ifdef SYS_open
    ASSERT_OK(flags_of(SYS_open, O_RDONLY | O_TRUNC, 7, &flags));
    ASSERT_EQ(flags, O_RDONLY | O_TRUNC);
    ASSERT_OK(flags_of(SYS_creat, 0600, 7, &flags));
    ASSERT_TRUE(flags & O_TRUNC);
#endif
    ASSERT_ERR(flags_of(SYS_openat2, 7, 16, &flags), -ENODATA);
    ASSERT_ERR(flags_of(SYS_read, 7, 7, &flags), -ENODATA);
    ASSERT_ERR(flags_of(SYS_execve, 7, 7, &flags), -ENODATA);
    ASSERT_ERR(flags_of(-1, 7, 7, &flags), -ENODATA);
}

struct sleeper {
    int pipe_fds[2];
    _Atomic int32_t tid;
};

static void *sleep_in_read(void *userdata)
{
    struct sleeper *sleeper = userdata;
    char byte;

    sleeper->tid = (int32_t)gettid();
    ASSERT_EQ(read(sleeper->pipe_fds[0], &byte, 1), 1);
    return NULL;
}

TEST(a_thread_that_sleeps)
{
    struct sleeper sleeper = {0};
    struct waiter waiter = {.syscall = -1};
    pthread_t thread;

    CLEANUP_CLOSE int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(pipe2(sleeper.pipe_fds, O_CLOEXEC) == 0);
    ASSERT_EQ(pthread_create(&thread, NULL, sleep_in_read, &sleeper), 0);
    for (int i = 0; i < 2000 && waiter.syscall != SYS_read; i++) {
        (void)usleep(1000);
        IGNORE_RESULT(waiter_read(proc, sleeper.tid, &waiter));
    }
    ASSERT_EQ(waiter.syscall, SYS_read);
    ASSERT_EQ(waiter.arguments[0], sleeper.pipe_fds[0]);
    ASSERT_EQ(waiter.arguments[2], 1);
    ASSERT_STREQ(waiter.comm, "test-waiter");
    ASSERT_EQ(write(sleeper.pipe_fds[1], "x", 1), 1);
    ASSERT_EQ(pthread_join(thread, NULL), 0);
}

TEST(a_thread_that_is_not_there)
{
    struct waiter waiter;

    CLEANUP_CLOSE int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    ASSERT_OK(waiter_read(proc, 0, &waiter));
    ASSERT_EQ(waiter.syscall, -1);
    ASSERT_OK(waiter_read(proc, INT32_MAX, &waiter));
    ASSERT_EQ(waiter.syscall, -1);
    ASSERT_STREQ(waiter.comm, "");
}

TEST_MAIN()
