/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/test.h"

#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "basic/splitmix.h"

#define TIMEOUT_SEC_DEFAULT 300u
#define EXIT_SKIPPED        77

static struct test_case *tests, **tests_end = &tests;
static const struct test_case *current;
static unsigned timeout_sec = TIMEOUT_SEC_DEFAULT;
static jmp_buf skip_jump;
static char tmpdir[4096];
static pid_t main_pid;

void test_register(struct test_case *test)
{
    *tests_end = test;
    tests_end = &test->next;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    char text[2048];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)fprintf(stderr, "%s:%d: %s: %s\n", file, line, current ? current->name : "?", text);
    (void)fflush(NULL);
    abort();
}

void test_skip(const char *why)
{
    (void)printf("skip   %s: %s\n", current->name, why);
    longjmp(skip_jump, 1);
}

void test_set_timeout(unsigned seconds)
{
    timeout_sec = seconds;
    (void)alarm(seconds);
}

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
                      struct FTW *ftw _unused_)
{
    (void)remove(path);
    return 0;
}

static void remove_tmpdir(void)
{
    if (tmpdir[0] && getpid() == main_pid)
        (void)nftw(tmpdir, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

const char *test_tmpdir(void)
{
    if (tmpdir[0])
        return tmpdir;
    const char *base = getenv("TMPDIR");
    (void)snprintf(tmpdir, sizeof(tmpdir), "%s/umbra-test-XXXXXX", base && base[0] ? base : "/tmp");
    if (!mkdtemp(tmpdir)) {
        perror(tmpdir);
        abort();
    }
    main_pid = getpid();
    (void)atexit(remove_tmpdir);
    return tmpdir;
}

uint64_t test_random(uint64_t *state)
{
    return splitmix64_next(state);
}

void test_random_fill(uint64_t *state, void *data, size_t len)
{
    uint8_t *bytes = data;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t word = test_random(state);
        memcpy(bytes + i, &word, MIN(len - i, (size_t)8));
    }
}

/* Only what a signal handler may call. */
static void out_of_time(int sig _unused_)
{
    static const char text[] = "out of time: ";
    IGNORE_RESULT(write(STDERR_FILENO, text, sizeof(text) - 1));
    IGNORE_RESULT(write(STDERR_FILENO, current->name, strlen(current->name)));
    IGNORE_RESULT(write(STDERR_FILENO, "\n", 1));
    abort();
}

static bool is_known(const char *name)
{
    for (const struct test_case *t = tests; t; t = t->next)
        if (strcmp(t->name, name) == 0)
            return true;
    return false;
}

static bool selected(const struct test_case *test, int argc, char **argv)
{
    if (argc < 2)
        return true;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], test->name) == 0)
            return true;
    return false;
}

/* Whether it ran to its end; a failure does not come back. */
static bool run_test(const struct test_case *test)
{
    current = test;
    timeout_sec = TIMEOUT_SEC_DEFAULT;
    (void)alarm(timeout_sec);
    if (setjmp(skip_jump) != 0)
        return false;
    test->run();
    (void)printf("ok     %s\n", test->name);
    return true;
}

static int list_tests(void)
{
    for (const struct test_case *t = tests; t; t = t->next)
        (void)printf("%s\n", t->name);
    return EXIT_SUCCESS;
}

int test_main(int argc, char **argv)
{
    unsigned run_count = 0;
    unsigned skip_count = 0;
    if (argc == 2 && strcmp(argv[1], "-l") == 0)
        return list_tests();
    for (int i = 1; i < argc; i++)
        if (!is_known(argv[i])) {
            (void)fprintf(stderr, "no test is called '%s' (-l lists them)\n", argv[i]);
            return EXIT_FAILURE;
        }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGALRM, out_of_time);
    for (const struct test_case *t = tests; t; t = t->next)
        if (selected(t, argc, argv)) {
            if (run_test(t))
                run_count++;
            else
                skip_count++;
        }
    if (run_count > 0)
        return EXIT_SUCCESS;
    return skip_count > 0 ? EXIT_SKIPPED : EXIT_FAILURE;
}
