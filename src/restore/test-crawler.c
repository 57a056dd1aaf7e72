/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/test.h"
#include "restore/crawler.h"

#define START_NS (1000 * NSEC_PER_SEC)
#define MS       (NSEC_PER_SEC / 1000)

static bool crawls(struct crawler_table *table, int32_t process, uint64_t directory, uint64_t ns)
{
    const struct crawler *c = crawler_note(table, process, directory, START_NS + ns);
    ASSERT_EQ(c->process, process);
    return c->crawls;
}

/* Each in another directory. */
static bool go(struct crawler_table *table, int32_t process, unsigned count, uint64_t step_ns,
               uint64_t *ns)
{
    bool last = false;
    for (unsigned i = 0; i < count; i++, *ns += step_ns)
        last = crawls(table, process, *ns / step_ns, *ns);
    return last;
}

TEST(many_directories_in_a_short_time)
{
    struct crawler_table table = {0};
    uint64_t ns = MS;

    ASSERT_FALSE(go(&table, 7, CRAWLER_DIRECTORIES - 1, MS, &ns));
    ASSERT_EQ(crawler_count(&table, START_NS + ns), 0);
    ASSERT_TRUE(go(&table, 7, 1, MS, &ns));
    ASSERT_EQ(crawler_count(&table, START_NS + ns), 1);
    /* others are not taken for it */
    ASSERT_FALSE(crawls(&table, 8, 1, ns));
    ASSERT_TRUE(crawls(&table, 7, 1, ns));
}

TEST(many_files_in_few_directories)
{
    struct crawler_table table = {0};

    for (uint64_t i = 1; i < 10000; i++)
        ASSERT_FALSE(crawls(&table, 7, i % (CRAWLER_DIRECTORIES - 1), i * MS));
}

TEST(many_directories_one_by_one)
{
    struct crawler_table table = {0};
    uint64_t ns = MS;

    for (unsigned i = 0; i < 300; i++)
        ASSERT_FALSE(go(&table, 7, 1, CRAWLER_WINDOW_NS / (CRAWLER_DIRECTORIES - 2), &ns));
}

TEST(a_slow_crawler_stays_one_and_a_settled_one_does_not)
{
    struct crawler_table table = {0};
    uint64_t ns = MS;

    ASSERT_TRUE(go(&table, 7, CRAWLER_DIRECTORIES, MS, &ns));
    ASSERT_TRUE(go(&table, 7, 100, NSEC_PER_SEC, &ns));
    for (unsigned i = 0; i < 11; i++, ns += NSEC_PER_SEC)
        (void)crawls(&table, 7, i % 2, ns);
    ASSERT_FALSE(crawls(&table, 7, 1, ns));
    ASSERT_EQ(crawler_count(&table, START_NS + ns), 0);
}

TEST(who_was_quiet_begins_anew)
{
    struct crawler_table table = {0};
    uint64_t ns = MS;

    ASSERT_TRUE(go(&table, 7, CRAWLER_DIRECTORIES, MS, &ns));
    ns += 2 * CRAWLER_LEAVE_NS;
    ASSERT_EQ(crawler_count(&table, START_NS + ns), 0);
    ASSERT_FALSE(go(&table, 7, CRAWLER_DIRECTORIES - 1, MS, &ns));
    ASSERT_TRUE(go(&table, 7, 1, MS, &ns));
}

TEST(thousands_of_processes_push_out_only_the_oldest)
{
    struct crawler_table table = {0};
    uint64_t ns = MS;

    ASSERT_TRUE(go(&table, 1, CRAWLER_DIRECTORIES, MS, &ns));
    for (int32_t process = 100; process < 5000; process++, ns += MS / 10) {
        ASSERT_FALSE(crawls(&table, process, 1, ns));
        if (process % 50 == 0)
            ASSERT_TRUE(crawls(&table, 1, (uint64_t)process, ns));
    }
}

TEST_MAIN()
