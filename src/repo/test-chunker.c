/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "basic/vector.h"
#include "repo/chunker.h"
#include "repo/crypt.h"

DEFINE_VECTOR(cut_vector, size_t);

static const struct chunker_params small_params = {
    .min_bytes = 128, .normal_bytes = 512, .max_bytes = 1024};

static void make_table(uint64_t seed, uint64_t table[256])
{
    for (size_t i = 0; i < 256; i++)
        table[i] = test_random(&seed);
}

static uint8_t *random_data(uint64_t seed, size_t len)
{
    uint8_t *data = malloc(len);
    ASSERT_TRUE(data != NULL);
    test_random_fill(&seed, data, len);
    return data;
}

/* The definition, word for word: at each length, the hash of all bytes so far from nothing. */
static size_t naive_next(const struct chunker *c, const uint8_t *data, size_t len, bool at_end)
{
    for (size_t n = 1; n <= len; n++) {
        if (n == c->params.max_bytes)
            return n;
        if (n < c->params.min_bytes)
            continue;
        uint64_t h = 0;
        for (size_t i = n > 200 ? n - 200 : 0; i < n; i++)
            h = (h << 1) + c->table[data[i]];
        uint64_t mask = n < c->params.normal_bytes ? c->mask_strict : c->mask_loose;
        if ((h & mask) == 0)
            return n;
    }
    return at_end ? len : 0;
}

/* Ends of all chunks of a stream. */
static void cut_all(const struct chunker *c, const uint8_t *data, size_t len,
                    struct cut_vector *cuts)
{
    for (size_t pos = 0; pos < len;) {
        size_t n = chunker_next(c, data + pos, len - pos, true);
        ASSERT_GT(n, 0u);
        ASSERT_LE(n, len - pos);
        pos += n;
        ASSERT_OK(cut_vector_push(cuts, &pos));
    }
}

TEST(cuts_are_those_of_the_definition)
{
    static const struct chunker_params sets[] = {
        {.min_bytes = 64, .normal_bytes = 64, .max_bytes = 64},
        {.min_bytes = 64, .normal_bytes = 64, .max_bytes = 200},
        {.min_bytes = 64, .normal_bytes = 128, .max_bytes = 128},
        {.min_bytes = 65, .normal_bytes = 256, .max_bytes = 1001},
        {.min_bytes = 128, .normal_bytes = 512, .max_bytes = 1024},
    };
    enum { LEN = 40000 };
    CLEANUP_FREE uint8_t *data = random_data(5, LEN);
    uint64_t table[256];
    struct chunker c;

    make_table(7, table);
    for (size_t s = 0; s < ELEMENTSOF(sets); s++) {
        ASSERT_OK(chunker_init(&c, CHUNKER_GEAR, &sets[s], table));
        for (size_t pos = 0; pos < LEN;) {
            size_t n = chunker_next(&c, data + pos, LEN - pos, true);
            ASSERT_EQ(n, naive_next(&c, data + pos, LEN - pos, true));
            pos += n;
        }
    }
}

TEST(every_length_of_input_gives_the_same_cut)
{
    CLEANUP_FREE uint8_t *data = random_data(11, 1100);
    uint64_t table[256];
    struct chunker c;

    make_table(7, table);
    ASSERT_OK(chunker_init(&c, CHUNKER_GEAR, &small_params, table));
    size_t cut = chunker_next(&c, data, 1100, false);
    ASSERT_GT(cut, 0u);
    for (size_t len = 0; len <= 1100; len++) {
        ASSERT_EQ(chunker_next(&c, data, len, false), len < cut ? 0 : cut);
        ASSERT_EQ(chunker_next(&c, data, len, true), len < cut ? len : cut);
    }
}

TEST(cuts_depend_on_the_table)
{
    enum { LEN = 200000 };
    CLEANUP_FREE uint8_t *data = random_data(5, LEN);
    CLEANUP(cut_vector_release) struct cut_vector a = {0}, b = {0};
    uint64_t table_a[256], table_b[256];
    struct chunker chunker_a, chunker_b;
    size_t common = 0;

    make_table(1, table_a);
    make_table(2, table_b);
    ASSERT_OK(chunker_init(&chunker_a, CHUNKER_GEAR, &small_params, table_a));
    ASSERT_OK(chunker_init(&chunker_b, CHUNKER_GEAR, &small_params, table_b));
    cut_all(&chunker_a, data, LEN, &a);
    cut_all(&chunker_b, data, LEN, &b);
    for (size_t i = 0, j = 0; i < a.count && j < b.count;) {
        common += a.items[i] == b.items[j];
        if (a.items[i] <= b.items[j])
            i++;
        else
            j++;
    }
    ASSERT_LT(common, a.count / 20);
}

TEST(cuts_come_together_after_an_insertion)
{
    enum { LEN = 1 << 20, AT = 300007, INSERTED = 13 };
    CLEANUP_FREE uint8_t *old_data = random_data(5, LEN);
    CLEANUP_FREE uint8_t *new_data = random_data(6, LEN + INSERTED);
    CLEANUP(cut_vector_release) struct cut_vector old_cuts = {0}, new_cuts = {0};
    uint64_t table[256];
    struct chunker c;
    size_t lost = 0;

    memcpy(new_data, old_data, AT);
    memcpy(new_data + AT + INSERTED, old_data + AT, LEN - AT);
    make_table(7, table);
    ASSERT_OK(chunker_init(&c, CHUNKER_GEAR, &small_params, table));
    cut_all(&c, old_data, LEN, &old_cuts);
    cut_all(&c, new_data, LEN + INSERTED, &new_cuts);
    for (size_t i = 0, j = 0; i < old_cuts.count; i++) {
        size_t wanted = old_cuts.items[i] < AT ? old_cuts.items[i] : old_cuts.items[i] + INSERTED;
        while (j < new_cuts.count && new_cuts.items[j] < wanted)
            j++;
        lost += j == new_cuts.count || new_cuts.items[j] != wanted;
    }
    ASSERT_GT(old_cuts.count, 1000u);
    ASSERT_LE(lost, 20u);
}

TEST(sizes_are_spread_as_promised)
{
    enum { LEN = 64 << 20 };
    CLEANUP_FREE uint8_t *data = random_data(9, LEN);
    CLEANUP(cut_vector_release) struct cut_vector cuts = {0};
    const struct chunker_params *p = &chunker_params_default;
    uint64_t table[256];
    struct chunker c;
    size_t at_max = 0, begin = 0, near = 0;

    make_table(7, table);
    ASSERT_OK(chunker_init(&c, CHUNKER_GEAR, p, table));
    cut_all(&c, data, LEN, &cuts);
    for (size_t i = 0; i < cuts.count; i++) {
        size_t n = cuts.items[i] - begin;
        begin = cuts.items[i];
        ASSERT_LE(n, p->max_bytes);
        if (i + 1 < cuts.count)
            ASSERT_GE(n, p->min_bytes);
        at_max += n == p->max_bytes;
        near += n >= p->normal_bytes / 2 && n <= 2 * (size_t)p->normal_bytes;
    }
    size_t mean = LEN / cuts.count;
    ASSERT_GT(mean, p->normal_bytes * 3 / 4);
    ASSERT_LT(mean, p->normal_bytes * 3 / 2);
    ASSERT_LT(at_max * 100, cuts.count * 8);
    ASSERT_GT(near * 100, cuts.count * 80);
}

TEST(runs_of_one_byte_are_cut_at_one_length)
{
    enum { LEN = 10240 };
    CLEANUP_FREE uint8_t *data = calloc(1, LEN);
    CLEANUP(cut_vector_release) struct cut_vector cuts = {0};
    uint64_t table[256];
    struct chunker c;

    make_table(7, table);
    ASSERT_OK(chunker_init(&c, CHUNKER_GEAR, &small_params, table));
    cut_all(&c, data, LEN, &cuts);
    for (size_t i = 1; i + 1 < cuts.count; i++)
        ASSERT_EQ(cuts.items[i] - cuts.items[i - 1], cuts.items[0]);
}

TEST(fixed_cuts)
{
    enum { LEN = 5000 };
    CLEANUP_FREE uint8_t *data = random_data(9, LEN);
    uint64_t table[256] = {0};
    struct chunker c;

    ASSERT_OK(chunker_init(&c, CHUNKER_FIXED, &small_params, table));
    ASSERT_EQ(chunker_next(&c, data, LEN, false), 512u);
    ASSERT_EQ(chunker_next(&c, data, 512, false), 512u);
    ASSERT_EQ(chunker_next(&c, data, 511, false), 0u);
    ASSERT_EQ(chunker_next(&c, data, 511, true), 511u);
    ASSERT_EQ(chunker_next(&c, data, 0, true), 0u);
}

TEST(sizes_that_make_no_sense_are_refused)
{
    static const struct chunker_params bad[] = {
        {.min_bytes = 63, .normal_bytes = 64, .max_bytes = 128},
        {.min_bytes = 256, .normal_bytes = 128, .max_bytes = 512},
        {.min_bytes = 64, .normal_bytes = 512, .max_bytes = 511},
        {.min_bytes = 64, .normal_bytes = 500, .max_bytes = 1000},
        {.min_bytes = 64, .normal_bytes = 128, .max_bytes = (16u << 20) + 1},
        {0},
    };
    uint64_t table[256] = {0};
    struct chunker c;

    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        ASSERT_ERR(chunker_init(&c, CHUNKER_GEAR, &bad[i], table), -EINVAL);
    ASSERT_ERR(chunker_init(&c, (enum chunker_kind)3, &small_params, table), -EINVAL);
}

/* Any change of the cuts would make every old backup useless for deduplication. */
TEST(cuts_never_change)
{
    CLEANUP(keyring_freep) struct keyring *keyring = NULL;
    const uint8_t master[MASTER_KEY_LEN] = {1, 2, 3};
    enum { LEN = 4 << 20 };
    CLEANUP_FREE uint8_t *data = random_data(42, LEN);
    static const size_t expected[] = {303217, 340739, 221407, 380179, 420957,
                                      171347, 297558, 201212, 297970, 315344,
                                      372865, 346042, 110613, 404516, 10338};
    uint64_t table[256];
    struct chunker c;
    size_t pos = 0;

    ASSERT_OK(keyring_new(master, &keyring));
    keyring_gear_table(keyring, table);
    ASSERT_OK(chunker_init(&c, CHUNKER_GEAR,
                           &(struct chunker_params){.min_bytes = 64u << 10,
                                                    .normal_bytes = 256u << 10,
                                                    .max_bytes = 512u << 10},
                           table));
    for (size_t i = 0; i < ELEMENTSOF(expected); i++) {
        size_t n = chunker_next(&c, data + pos, LEN - pos, true);
        ASSERT_EQ(n, expected[i]);
        pos += n;
    }
}

TEST(zero_prefix)
{
    uint8_t data[300] = {0};

    for (size_t len = 0; len <= sizeof(data); len++)
        ASSERT_EQ(zero_prefix_len(data, len), len);
    for (size_t at = 0; at < sizeof(data); at++) {
        data[at] = 1;
        ASSERT_EQ(zero_prefix_len(data, sizeof(data)), at);
        ASSERT_EQ(zero_prefix_len(data, at), at);
        data[at] = 0;
    }
}

TEST_MAIN()
