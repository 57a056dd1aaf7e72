/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unit tests: one binary a module, one TEST(name) a fact.
 *
 *     TEST(varint_round_trip)
 *     {
 *         ASSERT_OK(buffer_finish(&b));
 *         ASSERT_EQ(reader_varint(&r), 300u);
 *     }
 *     TEST_MAIN()
 *
 * Arguments of the binary select tests by name; -l lists them.  Exit status 0, 1, or 77 when every
 * test was skipped.  Each test gets a time limit of 300 s (test_set_timeout), after which the
 * binary aborts.  Assertions work in any thread: a failing one prints file, line and both values,
 * and aborts.
 */
#pragma once

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "basic/error.h"
#include "basic/macro.h"

struct test_case {
    const char *name;
    void (*run)(void);
    struct test_case *next;
};

void test_register(struct test_case *test);
int test_main(int argc, char **argv);
_noreturn_ void test_fail(const char *file, int line, const char *fmt, ...) _printf_(3, 4);
void test_skip(const char *why); /* does not return to the test */
void test_set_timeout(unsigned seconds);

/* The temporary directory of this run, the same at each call; removed at exit with all that is in
 * it, kept when a test fails. */
const char *test_tmpdir(void);

/* Repeatable random numbers (splitmix64). */
uint64_t test_random(uint64_t *state);
void test_random_fill(uint64_t *state, void *data, size_t len);

#define TEST(test_name)                                                             \
    static void test_body_##test_name(void);                                        \
    static struct test_case test_case_##test_name = {.name = #test_name,            \
                                                     .run = test_body_##test_name}; \
    __attribute__((constructor)) static void test_register_##test_name(void)        \
    {                                                                               \
        test_register(&test_case_##test_name);                                      \
    }                                                                               \
    static void test_body_##test_name(void)

#define TEST_MAIN()                   \
    int main(int argc, char **argv)   \
    {                                 \
        return test_main(argc, argv); \
    }

#define ASSERT_TRUE(expr)                                           \
    do {                                                            \
        if (!(expr))                                                \
            test_fail(__FILE__, __LINE__, "%s is not true", #expr); \
    } while (0)
#define ASSERT_FALSE(expr) ASSERT_TRUE(!(expr))
#define ASSERT_OK(expr)                                                                  \
    do {                                                                                 \
        int assert_r = (expr);                                                           \
        if (assert_r < 0)                                                                \
            test_fail(__FILE__, __LINE__, "%s failed: %s", #expr, error_text(assert_r)); \
    } while (0)
/* expr must return exactly the negative number given. */
#define ASSERT_ERR(expr, expected)                                                          \
    do {                                                                                    \
        int assert_r = (expr), assert_e = (expected);                                       \
        if (assert_r != assert_e)                                                           \
            test_fail(__FILE__, __LINE__, "%s returned %d (%s), expected %d (%s)", #expr,   \
                      assert_r, assert_r < 0 ? error_text(assert_r) : "no error", assert_e, \
                      error_describe(assert_e));                                            \
    } while (0)
#define ASSERT_CMP(a, op, b)                                                                   \
    do {                                                                                       \
        uint64_t assert_a = (uint64_t)(a), assert_b = (uint64_t)(b);                           \
        if (!(assert_a op assert_b))                                                           \
            test_fail(__FILE__, __LINE__, "%s %s %s does not hold: %" PRIu64 ", %" PRIu64, #a, \
                      #op, #b, assert_a, assert_b);                                            \
    } while (0)
#define ASSERT_EQ(a, b) ASSERT_CMP(a, ==, b)
#define ASSERT_NE(a, b) ASSERT_CMP(a, !=, b)
#define ASSERT_LE(a, b) ASSERT_CMP(a, <=, b)
#define ASSERT_LT(a, b) ASSERT_CMP(a, <, b)
#define ASSERT_GE(a, b) ASSERT_CMP(a, >=, b)
#define ASSERT_GT(a, b) ASSERT_CMP(a, >, b)
#define ASSERT_STREQ(a, b)                                                                      \
    do {                                                                                        \
        const char *assert_a = (a), *assert_b = (b);                                            \
        if (strcmp(assert_a, assert_b) != 0)                                                    \
            test_fail(__FILE__, __LINE__, "%s is '%s', expected '%s'", #a, assert_a, assert_b); \
    } while (0)
#define ASSERT_MEMEQ(a, b, n)                                                                  \
    do {                                                                                       \
        if (memcmp((a), (b), (n)) != 0)                                                        \
            test_fail(__FILE__, __LINE__, "%s and %s differ in their first %zu bytes", #a, #b, \
                      (size_t)(n));                                                            \
    } while (0)
