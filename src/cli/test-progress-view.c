/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/progress-view.h"

#include <unistd.h>

#include "basic/test.h"
#include "cli/output.h"

TEST(durations)
{
    char text[32];
    ASSERT_STREQ(progress_format_duration(0, text), "0:00");
    ASSERT_STREQ(progress_format_duration(7, text), "0:07");
    ASSERT_STREQ(progress_format_duration(754, text), "12:34");
    ASSERT_STREQ(progress_format_duration(3599, text), "59:59");
    ASSERT_STREQ(progress_format_duration(18062, text), "5:01:02");
    ASSERT_STREQ(progress_format_duration(3 * 86400 + 4 * 3600, text), "3d 04:00");
}

TEST(a_steady_rate_is_found_and_kept)
{
    struct progress_rate rate = {0};
    for (uint64_t i = 0; i <= 100; i++)
        progress_rate_add(&rate, 5 * NSEC_PER_SEC + i * NSEC_PER_SEC / 10, 7777 + i * 100000);
    ASSERT_GE(rate.bytes_per_second, 999999);
    ASSERT_LE(rate.bytes_per_second, 1000001);
}

TEST(the_rate_follows_within_seconds)
{
    struct progress_rate rate = {0};
    uint64_t now = NSEC_PER_SEC, bytes = 0;
    for (int i = 0; i < 100; i++)
        progress_rate_add(&rate, now += NSEC_PER_SEC / 10, bytes += 1000000);
    for (int i = 0; i < 200; i++) /* 20 s of nothing */
        progress_rate_add(&rate, now += NSEC_PER_SEC / 10, bytes);
    ASSERT_LE(rate.bytes_per_second, 200000);
    ASSERT_GE(rate.bytes_per_second, 1);
}

TEST(clocks_and_counters_that_stand_or_go_back_do_no_harm)
{
    struct progress_rate rate = {0};
    progress_rate_add(&rate, 10 * NSEC_PER_SEC, 1000);
    progress_rate_add(&rate, 10 * NSEC_PER_SEC, 5000);
    ASSERT_EQ(rate.bytes_per_second, 0);
    progress_rate_add(&rate, 11 * NSEC_PER_SEC, 6000);
    ASSERT_EQ(rate.bytes_per_second, 1000);
    progress_rate_add(&rate, 12 * NSEC_PER_SEC, 10);
    ASSERT_EQ(rate.bytes_per_second, 1000);
}

TEST(time_left)
{
    struct progress_sample s = {.bytes_done = 100, .bytes_total = 1100, .bytes_per_second = 10};
    uint64_t seconds = 0;
    ASSERT_TRUE(progress_seconds_left(&s, &seconds));
    ASSERT_EQ(seconds, 100);
    s.bytes_total = 0; /* not known */
    ASSERT_FALSE(progress_seconds_left(&s, &seconds));
    s.bytes_total = 100; /* done */
    ASSERT_FALSE(progress_seconds_left(&s, &seconds));
    s.bytes_total = UINT64_MAX; /* beyond all reason */
    ASSERT_FALSE(progress_seconds_left(&s, &seconds));
    s.bytes_total = 1100;
    s.bytes_per_second = 0;
    ASSERT_FALSE(progress_seconds_left(&s, &seconds));
}

TEST(the_line)
{
    char text[256];
    struct progress_sample s = {.bytes_done = 512 << 20,
                                .bytes_total = 1 << 30,
                                .files_done = 12345,
                                .bytes_per_second = 64 << 20};
    ASSERT_STREQ(progress_format_line(&s, "backup", 0, text, sizeof(text)),
                 "backup:  50%  512 MiB of 1.00 GiB  64.0 MiB/s  12,345 files  0:08 left");
    s.bytes_total = 0;
    s.problems = 1;
    ASSERT_STREQ(progress_format_line(&s, "backup", 0, text, sizeof(text)),
                 "backup: 512 MiB  64.0 MiB/s  12,345 files  1 problem");
    ASSERT_EQ(strlen(progress_format_line(&s, "backup", 30, text, sizeof(text))), 29);
}

/* Whatever the counters say, the line ends within its buffer. */
TEST(the_line_of_the_largest_numbers)
{
    char text[256];
    struct progress_sample s = {.bytes_done = UINT64_MAX - 1,
                                .bytes_total = UINT64_MAX,
                                .files_done = UINT64_MAX,
                                .problems = UINT64_MAX,
                                .bytes_per_second = 1e18};
    ASSERT_LT(strlen(progress_format_line(&s, "restore", 0, text, sizeof(text))), sizeof(text) - 1);
}

/* The thread starts, shows something on standard error and ends at once when told to. */
TEST(json_lines_appear_once_a_second)
{
    int pipe_fds[2], saved = dup(STDERR_FILENO);
    ASSERT_EQ(pipe(pipe_fds), 0);
    ASSERT_EQ(dup2(pipe_fds[1], STDERR_FILENO), STDERR_FILENO);

    struct progress progress = {.bytes_done = 10, .bytes_total = 20, .files_done = 3};
    struct progress_view *view;
    int r = progress_view_start(&progress, "check", PROGRESS_JSON, &view);
    (void)usleep(2500 * 1000);
    uint64_t stop_ns = monotonic_ns();
    if (r == 0)
        progress_view_free(view);
    uint64_t stopped_ns = monotonic_ns();
    ASSERT_EQ(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    (void)close(saved);
    (void)close(pipe_fds[1]);
    ASSERT_OK(r);
    ASSERT_LT(stopped_ns - stop_ns, NSEC_PER_SEC / 2);

    char text[4096];
    ssize_t len = read(pipe_fds[0], text, sizeof(text) - 1);
    (void)close(pipe_fds[0]);
    ASSERT_TRUE(len > 0);
    text[len] = '\0';
    unsigned lines = 0;
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest), lines++) {
        struct json_object *object = json_tokener_parse(line);
        struct json_object *inner = NULL, *value = NULL;
        ASSERT_TRUE(json_object_object_get_ex(object, "progress", &inner));
        ASSERT_TRUE(json_object_object_get_ex(inner, "bytes_done", &value));
        ASSERT_EQ(json_object_get_int(value), 10);
        ASSERT_TRUE(json_object_object_get_ex(inner, "files_done", &value));
        ASSERT_EQ(json_object_get_int(value), 3);
        json_object_put(object);
    }
    ASSERT_GE(lines, 1);
    ASSERT_LE(lines, 2);
}

TEST_MAIN()
