/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much memory the index takes, and how long a lookup. */
#include <malloc.h>
#include <time.h>

#include "repo/test-index-fixture.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BIG_PACKS 40u
#define MEASURE   0
#else
#define BIG_PACKS 2000u /* of 1000 chunks */
#define MEASURE   1
#endif

static uint64_t anon_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    ASSERT_TRUE(file != NULL);
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, "RssAnon:", 8) == 0)
            kib = strtoull(line + 8, NULL, 10);
    }
    (void)fclose(file);
    return kib * KIB;
}

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The ids of chunks, from a number: nothing has to be kept to look them up. */
static void numbered_id(uint64_t n, struct chunk_id *ret_id)
{
    uint64_t state = n * UINT64_C(0x9e3779b97f4a7c15);
    test_random_fill(&state, ret_id->bytes, sizeof(ret_id->bytes));
}

static void add_numbered_packs(struct index *index, uint64_t first, uint64_t pack_count)
{
    struct made_pack *packs = calloc(pack_count, sizeof(*packs));
    struct index_pack *items = calloc(pack_count, sizeof(*items));
    ASSERT_TRUE(packs && items);
    for (uint64_t i = 0; i < pack_count; i++) {
        uint64_t random = first + i;
        make_pack(&random, 0, 1, &packs[i]);
        struct pack_frame frame = {.offset = PACK_HEADER_LEN, .len = 1000, .chunk_count = 1000};
        ASSERT_OK(pack_frame_vector_push(&packs[i].directory.frames, &frame));
        for (uint64_t j = 0; j < 1000; j++) {
            struct pack_chunk chunk = {.len = 100};
            numbered_id((first + i) * 1000 + j, &chunk.id);
            ASSERT_OK(pack_chunk_vector_push(&packs[i].directory.chunks, &chunk));
        }
        packs[i].size_bytes = 2000;
        items[i] = as_index_pack(&packs[i]);
    }
    ASSERT_OK(index_add_packs(index, items, pack_count));
    for (uint64_t i = 0; i < pack_count; i++)
        pack_directory_release(&packs[i].directory);
    free(packs);
    free(items);
}

TEST(memory_and_speed)
{
    const uint64_t count = (uint64_t)BIG_PACKS * 1000;
    struct fixture f;
    struct index_stats stats;
    struct index_hit hit;
    struct chunk_id id;

    fixture_init(&f);
    add_numbered_packs(f.index, 0, BIG_PACKS); /* more than one segment can hold */
    index_free(f.index);
    (void)malloc_trim(0);
    uint64_t before = anon_bytes();
    double start = now_s();
    fixture_open_index(&f);
    double opened = now_s();
    for (uint64_t i = 0; i < count; i++) {
        numbered_id(i, &id);
        ASSERT_TRUE(index_lookup(f.index, &id, &hit));
    }
    double touched = now_s();
    for (uint64_t i = 0; i < count; i++) {
        numbered_id(i, &id);
        ASSERT_TRUE(index_lookup(f.index, &id, &hit));
    }
    double present = now_s();
    for (uint64_t i = 0; i < count; i++) {
        numbered_id(count + i, &id);
        ASSERT_FALSE(index_lookup(f.index, &id, &hit));
    }
    double absent = now_s();
    index_stats(f.index, &stats);
    ASSERT_EQ(stats.chunk_count, count);
    uint64_t anon = anon_bytes();
    anon = anon > before ? anon - before : 0;
    double per_chunk = (double)(anon + stats.filter_bytes) / (double)count;
    (void)printf(
        "%" PRIu64 " chunks in %" PRIu64 " segments: %.2f bytes a chunk, opened in %.1f ms,"
        " lookup %.0f ns (first), %.0f ns (there), %.0f ns (not there)\n",
        count, stats.segment_count, per_chunk, (opened - start) * 1e3,
        (touched - opened) * 1e9 / (double)count, (present - touched) * 1e9 / (double)count,
        (absent - present) * 1e9 / (double)count);
    if (MEASURE)
        ASSERT_TRUE(per_chunk < 3.0);
    fixture_release(&f);
}

TEST_MAIN()
