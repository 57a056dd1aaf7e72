/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/test.h"
#include "basic/token-bucket.h"

#define SECOND NSEC_PER_SEC
#define START  (1000 * SECOND)

TEST(burst_is_free_then_it_costs)
{
    struct token_bucket b;

    token_bucket_init(&b, 1000, 500);
    ASSERT_EQ(token_bucket_available(&b, START), 500);
    ASSERT_EQ(token_bucket_take(&b, 500, START), 0);
    ASSERT_EQ(token_bucket_available(&b, START), 0);
    ASSERT_EQ(token_bucket_take(&b, 100, START), SECOND / 10);
    ASSERT_EQ(token_bucket_take(&b, 100, START), 2 * SECOND / 10);
}

TEST(refills_with_time_up_to_the_burst)
{
    struct token_bucket b;

    token_bucket_init(&b, 1000, 500);
    ASSERT_EQ(token_bucket_take(&b, 500, START), 0);
    ASSERT_EQ(token_bucket_available(&b, START + SECOND / 4), 250);
    ASSERT_EQ(token_bucket_take(&b, 250, START + SECOND / 4), 0);
    ASSERT_EQ(token_bucket_available(&b, START + 100 * SECOND), 500);
    ASSERT_EQ(token_bucket_take(&b, 600, START + 100 * SECOND), SECOND / 10);
}

TEST(zero_is_no_limit)
{
    struct token_bucket b;

    token_bucket_init(&b, 0, 0);
    ASSERT_EQ(token_bucket_take(&b, UINT64_MAX, START), 0);
    ASSERT_EQ(token_bucket_available(&b, START), UINT64_MAX);
}

TEST(more_than_the_burst_is_possible)
{
    struct token_bucket b;

    token_bucket_init(&b, 1000, 10);
    ASSERT_EQ(token_bucket_take(&b, 1010, START), SECOND);
    ASSERT_EQ(token_bucket_take(&b, 0, START + SECOND), 0);
}

TEST(rate_holds_over_many_odd_takes)
{
    struct token_bucket b;
    uint64_t now = START, total = 0, seed = 3;

    token_bucket_init(&b, 7777777, 65536);
    while (now < START + 60 * SECOND) {
        uint64_t bytes = 1 + test_random(&seed) % 100000;
        now += token_bucket_take(&b, bytes, now);
        if (now < START + 60 * SECOND)
            total += bytes;
    }
    ASSERT_LE(total, 60 * b.bytes_per_s + b.burst_bytes);
    ASSERT_GE(total, 60 * b.bytes_per_s - 2 * b.burst_bytes);
}

TEST(new_rate_counts_from_now_on)
{
    struct token_bucket b;

    token_bucket_init(&b, 1000, 0);
    ASSERT_EQ(token_bucket_take(&b, 1000, START), SECOND);
    token_bucket_set_rate(&b, 2000, 0);
    ASSERT_EQ(token_bucket_take(&b, 1000, START), SECOND + SECOND / 2);
}

TEST(extreme_numbers_do_not_overflow)
{
    struct token_bucket b;

    token_bucket_init(&b, 1, UINT64_MAX);
    ASSERT_EQ(token_bucket_take(&b, UINT64_MAX, START), 0);
    token_bucket_init(&b, 1, 1);
    ASSERT_GT(token_bucket_take(&b, UINT64_MAX, START), UINT64_MAX / 2);
    ASSERT_EQ(token_bucket_available(&b, START), 0);
    token_bucket_init(&b, UINT64_MAX, UINT64_MAX);
    ASSERT_EQ(token_bucket_take(&b, UINT64_MAX, START), 0);
    ASSERT_GT(token_bucket_take(&b, UINT64_MAX, START), SECOND / 2);
}

TEST_MAIN()
