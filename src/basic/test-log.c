/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <pthread.h>

#include "basic/log.h"
#include "basic/test.h"

#define THREADS        4
#define LINES_A_THREAD 200

struct seen {
    size_t lines;
    enum log_level level;
    char last[128];
};

static void remember(enum log_level level, const char *line, void *userdata)
{
    struct seen *seen = userdata;

    seen->lines++;
    seen->level = level;
    (void)snprintf(seen->last, sizeof(seen->last), "%s", line);
}

TEST(levels_and_prefixes)
{
    struct seen seen = {0};

    log_set_sink(remember, &seen);
    log_debug("dropped");
    ASSERT_EQ(seen.lines, 0);
    log_info("plain %d", 1);
    ASSERT_STREQ(seen.last, "plain 1");
    log_warning("careful");
    ASSERT_STREQ(seen.last, "careful");
    ASSERT_EQ(seen.level, LOG_LEVEL_WARNING);
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("kept");
    ASSERT_STREQ(seen.last, "kept");
    log_set_level(LOG_LEVEL_ERROR);
    log_warning("dropped");
    ASSERT_EQ(seen.lines, 3);
    ASSERT_EQ(log_level(), LOG_LEVEL_ERROR);
    log_set_level(LOG_LEVEL_INFO);
    log_set_sink(NULL, NULL);
}

TEST(one_line_whatever_the_name_and_errno_kept)
{
    struct seen seen = {0};

    log_set_sink(remember, &seen);
    errno = ENOENT;
    log_info("cannot open '%s': %m", "evil\nname\x1b[2J");
    ASSERT_STREQ(seen.last, "cannot open 'evil?name?[2J': No such file or directory");
    ASSERT_EQ(errno, ENOENT);
    log_set_sink(NULL, NULL);
}

static void *write_lines(void *userdata _unused_)
{
    for (int i = 0; i < LINES_A_THREAD; i++)
        log_info("line");
    return NULL;
}

TEST(threads_do_not_lose_lines)
{
    struct seen seen = {0};
    pthread_t threads[THREADS];

    log_set_sink(remember, &seen);
    for (size_t i = 0; i < THREADS; i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, write_lines, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    ASSERT_EQ(seen.lines, THREADS * LINES_A_THREAD);
    log_set_sink(NULL, NULL);
}

TEST_MAIN()
