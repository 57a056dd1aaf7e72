/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The deduplicating writer under many threads, and its table of fresh chunks. */
#include <pthread.h>
#include <stdlib.h>

#include "basic/test.h"
#include "repo/fresh-table.h"
#include "repo/writer.h"

#define PASSPHRASE "battery staple"
#define THREADS    4u
#define PUTS       800u  /* a thread */
#define DISTINCT   2000u /* different chunks in all */
#define CHUNK_LEN  20000u

static struct repository *new_repository(const char *name, uint32_t pack_target_bytes)
{
    char path[4096];
    struct backend *backend;
    struct repository *repo;
    struct repo_init_options options = {.key_cost = key_cost_minimal,
                                        .pack_target_bytes = pack_target_bytes};
    (void)snprintf(path, sizeof(path), "%s/%s", test_tmpdir(), name);
    ASSERT_OK(backend_open(path, true, &backend));
    ASSERT_OK(repository_init(backend, PASSPHRASE, strlen(PASSPHRASE), &options, &repo));
    return repo;
}

/* Chunk number n: half random, so that compression has something to do. */
static size_t make_chunk(unsigned n, uint8_t data[CHUNK_LEN])
{
    uint64_t seed = n;
    size_t len = 1 + (size_t)test_random(&seed) % CHUNK_LEN;
    memset(data, (int)n, len);
    test_random_fill(&seed, data, len / 2);
    memcpy(data, &n, MIN(len, sizeof(n)));
    return len;
}

struct put_job {
    struct writer *writer;
    uint64_t seed;
    unsigned numbers[PUTS];
    struct chunk_ref refs[PUTS];
};

static void *put_run(void *userdata)
{
    struct put_job *job = userdata;
    uint8_t data[CHUNK_LEN];
    for (unsigned i = 0; i < PUTS; i++) {
        struct writer_stream *stream;
        bool is_new;
        job->numbers[i] = (unsigned)(test_random(&job->seed) % DISTINCT);
        size_t len = make_chunk(job->numbers[i], data);
        ASSERT_OK(writer_stream_acquire(job->writer, &stream));
        ASSERT_OK(writer_put(stream, data, len, &job->refs[i], &is_new));
        writer_stream_release(job->writer, stream);
    }
    return NULL;
}

static void assert_readable(struct repository *repo, const struct put_job *job)
{
    struct frame_codec *codec;
    uint8_t expected[CHUNK_LEN];
    ASSERT_OK(frame_codec_new(repo->keyring, 1, &codec));
    for (unsigned i = 0; i < PUTS; i++) {
        void *data;
        size_t len = make_chunk(job->numbers[i], expected);
        ASSERT_EQ(job->refs[i].len, len);
        ASSERT_OK(repository_read_chunk(repo, codec, CHUNK_DATA, &job->refs[i], &data));
        ASSERT_MEMEQ(data, expected, len);
        free(data);
    }
    frame_codec_free(codec);
}

TEST(many_threads_store_each_chunk_once)
{
    struct repository *repo = new_repository("threads", 1u << 20);
    struct pool *pool;
    struct writer *writer;
    struct writer_stats stats;
    static struct put_job jobs[THREADS];
    pthread_t threads[THREADS];
    bool used[DISTINCT] = {false};
    unsigned used_count = 0;

    ASSERT_OK(pool_new(2, &pool));
    ASSERT_OK(writer_new(repo, pool, 1, &writer));
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct put_job){.writer = writer, .seed = i};
        ASSERT_EQ(pthread_create(&threads[i], NULL, put_run, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    ASSERT_OK(writer_finish(writer));
    for (unsigned i = 0; i < THREADS; i++)
        for (unsigned j = 0; j < PUTS; j++) {
            ASSERT_TRUE(writer_resolve(writer, &jobs[i].refs[j]));
            used_count += !used[jobs[i].numbers[j]];
            used[jobs[i].numbers[j]] = true;
        }
    writer_get_stats(writer, &stats);
    ASSERT_EQ(stats.new_chunk_count, used_count);
    ASSERT_GT(stats.pack_count, 2);
    for (unsigned i = 0; i < THREADS; i++)
        assert_readable(repo, &jobs[i]);
    writer_free(writer);
    pool_free(pool);
    repository_free(repo);
}

TEST(nothing_resolves_before_it_is_durable)
{
    struct repository *repo = new_repository("durable", 0);
    struct pool *pool;
    struct writer *writer;
    struct writer_stream *stream;
    struct chunk_ref ref;
    struct chunk_ref again;
    bool is_new;
    ASSERT_OK(pool_new(1, &pool));
    ASSERT_OK(writer_new(repo, pool, 1, &writer));
    ASSERT_OK(writer_stream_acquire(writer, &stream));
    ASSERT_OK(writer_put(stream, "contents", 8, &ref, &is_new));
    ASSERT_TRUE(is_new);
    ASSERT_OK(writer_put(stream, "contents", 8, &again, &is_new));
    ASSERT_FALSE(is_new);
    writer_stream_release(writer, stream);
    ASSERT_FALSE(writer_resolve(writer, &ref));
    ASSERT_OK(writer_push_out(writer, CHUNK_DATA));
    ASSERT_TRUE(writer_resolve(writer, &ref));
    ASSERT_TRUE(writer_resolve(writer, &again));
    writer_free(writer);
    pool_free(pool);
    repository_free(repo);
}

static bool drop_odd(const struct fresh_chunk *chunk, void *userdata _unused_)
{
    return chunk->len % 2 == 1;
}

static struct chunk_id id_of(uint64_t n)
{
    struct chunk_id id;
    test_random_fill(&n, id.bytes, sizeof(id.bytes));
    return id;
}

TEST(fresh_table_against_its_numbers)
{
    struct fresh_table table = {0};
    bool inserted;
    for (uint32_t n = 1; n <= 20000; n++) {
        struct chunk_id id = id_of(n);
        ASSERT_OK(fresh_table_insert(&table, &id, n, &inserted));
        ASSERT_TRUE(inserted);
        ASSERT_OK(fresh_table_insert(&table, &id, n, &inserted));
        ASSERT_FALSE(inserted);
    }
    ASSERT_OK(fresh_table_drop(&table, drop_odd, NULL));
    for (uint32_t n = 1; n <= 20000; n++) {
        struct chunk_id id = id_of(n);
        const struct fresh_chunk *chunk = fresh_table_find(&table, &id);
        ASSERT_EQ(chunk != NULL, n % 2 == 0);
        if (chunk)
            ASSERT_EQ(chunk->len, n);
    }
    fresh_table_release(&table);
}

TEST_MAIN()
