/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/cleanup.h"
#include "basic/extent-map.h"
#include "basic/test.h"

#define MODEL_SIZE 64u

static void assert_map(const struct extent_map *map, const char *expected)
{
    char text[256] = "";
    size_t len = 0;

    extent_map_foreach(extent, map) len += (size_t)snprintf(
        text + len, sizeof(text) - len, "[%" PRIu64 ",%" PRIu64 ")", extent->start, extent->end);
    ASSERT_STREQ(text, expected);
}

TEST(add_joins_what_touches)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};

    ASSERT_OK(extent_map_add(&map, 10, 20));
    ASSERT_OK(extent_map_add(&map, 30, 40));
    ASSERT_OK(extent_map_add(&map, 0, 5));
    assert_map(&map, "[0,5)[10,20)[30,40)");
    ASSERT_OK(extent_map_add(&map, 20, 30));
    assert_map(&map, "[0,5)[10,40)");
    ASSERT_OK(extent_map_add(&map, 12, 13));
    assert_map(&map, "[0,5)[10,40)");
    ASSERT_OK(extent_map_add(&map, 4, 100));
    assert_map(&map, "[0,100)");
    ASSERT_OK(extent_map_add(&map, 50, 50));
    ASSERT_OK(extent_map_add(&map, 200, 150));
    assert_map(&map, "[0,100)");
    ASSERT_EQ(extent_map_total(&map), 100);
}

TEST(remove_cuts_and_splits)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};

    ASSERT_OK(extent_map_add(&map, 0, 100));
    ASSERT_OK(extent_map_remove(&map, 40, 60));
    assert_map(&map, "[0,40)[60,100)");
    ASSERT_OK(extent_map_remove(&map, 40, 60));
    ASSERT_OK(extent_map_remove(&map, 39, 61));
    assert_map(&map, "[0,39)[61,100)");
    ASSERT_OK(extent_map_remove(&map, 0, 10));
    ASSERT_OK(extent_map_remove(&map, 99, 1000));
    assert_map(&map, "[10,39)[61,99)");
    ASSERT_OK(extent_map_remove(&map, 0, UINT64_MAX));
    assert_map(&map, "");
    ASSERT_OK(extent_map_remove(&map, 0, UINT64_MAX));
}

TEST(finding_parts_and_gaps)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};
    struct extent_range e;

    ASSERT_FALSE(extent_map_next(&map, 0, 10, &e));
    ASSERT_TRUE(extent_map_next_gap(&map, 3, 10, &e));
    ASSERT_EQ(e.start, 3);
    ASSERT_EQ(e.end, 10);
    ASSERT_OK(extent_map_add(&map, 10, 20));
    ASSERT_OK(extent_map_add(&map, 30, 40));

    ASSERT_TRUE(extent_map_next(&map, 0, 15, &e));
    ASSERT_EQ(e.start, 10);
    ASSERT_EQ(e.end, 15);
    ASSERT_TRUE(extent_map_next(&map, 20, 100, &e));
    ASSERT_EQ(e.start, 30);
    ASSERT_EQ(e.end, 40);
    ASSERT_FALSE(extent_map_next(&map, 20, 30, &e));
    ASSERT_FALSE(extent_map_next(&map, 15, 15, &e));

    ASSERT_TRUE(extent_map_next_gap(&map, 10, 100, &e));
    ASSERT_EQ(e.start, 20);
    ASSERT_EQ(e.end, 30);
    ASSERT_TRUE(extent_map_next_gap(&map, 25, 27, &e));
    ASSERT_EQ(e.start, 25);
    ASSERT_EQ(e.end, 27);
    ASSERT_FALSE(extent_map_next_gap(&map, 12, 20, &e));
    ASSERT_TRUE(extent_map_contains(&map, 12, 20));
    ASSERT_FALSE(extent_map_contains(&map, 12, 21));
    ASSERT_TRUE(extent_map_contains(&map, 25, 25));
}

TEST(ends_of_the_number_range)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};
    struct extent_range e;

    ASSERT_OK(extent_map_add(&map, UINT64_MAX - 1, UINT64_MAX));
    ASSERT_OK(extent_map_add(&map, 0, 1));
    ASSERT_TRUE(extent_map_next_gap(&map, 0, UINT64_MAX, &e));
    ASSERT_EQ(e.start, 1);
    ASSERT_EQ(e.end, UINT64_MAX - 1);
    ASSERT_OK(extent_map_add(&map, 1, UINT64_MAX));
    ASSERT_EQ(map.count, 1);
    ASSERT_FALSE(extent_map_next_gap(&map, 0, UINT64_MAX, &e));
    ASSERT_EQ(extent_map_total(&map), UINT64_MAX);
}

static uint64_t model_run(const bool *model, uint64_t start, uint64_t end, bool in,
                          uint64_t *ret_end)
{
    while (start < end && model[start] != in)
        start++;
    *ret_end = start;
    while (*ret_end < end && model[*ret_end] == in)
        (*ret_end)++;
    return start;
}

static void compare_with_model(const struct extent_map *map, const bool *model, uint64_t start,
                               uint64_t end)
{
    struct extent_range e;
    uint64_t total = 0, run_start, run_end;

    for (size_t i = 0; i < map->count; i++) {
        ASSERT_LT(map->items[i].start, map->items[i].end);
        ASSERT_TRUE(i == 0 || map->items[i - 1].end < map->items[i].start);
    }
    for (size_t i = 0; i < MODEL_SIZE; i++)
        total += model[i];
    ASSERT_EQ(extent_map_total(map), total);

    run_start = model_run(model, start, end, true, &run_end);
    ASSERT_EQ(extent_map_next(map, start, end, &e), run_start < end);
    if (run_start < end) {
        ASSERT_EQ(e.start, run_start);
        ASSERT_EQ(e.end, run_end);
    }
    run_start = model_run(model, start, end, false, &run_end);
    ASSERT_EQ(extent_map_contains(map, start, end), run_start >= end);
    ASSERT_EQ(extent_map_next_gap(map, start, end, &e), run_start < end);
    if (run_start < end) {
        ASSERT_EQ(e.start, run_start);
        ASSERT_EQ(e.end, run_end);
    }
}

TEST(random_calls_against_a_model)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};
    bool model[MODEL_SIZE] = {false};
    uint64_t seed = 7;

    for (unsigned step = 0; step < 20000; step++) {
        uint64_t start = test_random(&seed) % MODEL_SIZE;
        uint64_t end = start + test_random(&seed) % (MODEL_SIZE / 4);
        bool add = test_random(&seed) % 2;

        end = MIN(end, (uint64_t)MODEL_SIZE);
        if (add)
            ASSERT_OK(extent_map_add(&map, start, end));
        else
            ASSERT_OK(extent_map_remove(&map, start, end));
        for (uint64_t i = start; i < end; i++)
            model[i] = add;
        start = test_random(&seed) % MODEL_SIZE;
        compare_with_model(&map, model, start,
                           start + test_random(&seed) % (MODEL_SIZE - start + 1));
    }
}

TEST_MAIN()
