/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests over an engine in memory; the kernel is played by arrays. */
#include "cow/request.h"

#include <pthread.h>

#include "basic/test.h"

#define BLOCK_BYTES  4096u
#define BLOCKS       64u
#define ORIGIN_BYTES ((uint64_t)BLOCKS * BLOCK_BYTES)
#define THREADS      4u

struct bench {
    struct io *io;
    struct cow_device *origin;
    struct cow *cow;
    struct cow_server *server;
};

/* A request, and the memory of whoever asks. */
struct asker {
    struct cow_request request;
    uint8_t data[BLOCK_BYTES];
    int data_result;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_done;
};

static int get(struct cow_request *request, void *data)
{
    const struct asker *asker = CONTAINER_OF(request, struct asker, request);
    memcpy(data, asker->data, (size_t)request->len);
    return asker->data_result;
}

static int put(struct cow_request *request, const void *data)
{
    struct asker *asker = CONTAINER_OF(request, struct asker, request);
    memcpy(asker->data, data, (size_t)request->len);
    return asker->data_result;
}

static void done(struct cow_request *request)
{
    struct asker *asker = CONTAINER_OF(request, struct asker, request);
    pthread_mutex_lock(&asker->lock);
    asker->is_done = true;
    pthread_cond_signal(&asker->changed);
    pthread_mutex_unlock(&asker->lock);
}

static const struct cow_request_ops ops = {.get = get, .put = put, .done = done};

static void bench_init(struct bench *b)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    const struct cow_options options = {
        .block_bytes = BLOCK_BYTES, .max_bytes = ORIGIN_BYTES, .log_bytes = MIB};
    *b = (struct bench){0};
    ASSERT_OK(io_new_memory(1, &b->io));
    ASSERT_OK(io_open(b->io, "origin", IO_READ | IO_WRITE | IO_CREATE, &file));
    ASSERT_OK(io_truncate(file, ORIGIN_BYTES));
    ASSERT_OK(cow_device_new_file(b->io, "origin", 0, &b->origin));
    const struct cow_place place = {
        .storage = b->io, .origin = b->origin, .identity = "disk", .identity_len = 4};
    ASSERT_OK(cow_create(&place, &options));
    ASSERT_OK(cow_open(&place, &options, &b->cow));
    ASSERT_OK(cow_server_new(b->cow, THREADS, BLOCK_BYTES, &b->server));
}

static void bench_release(struct bench *b)
{
    cow_server_free(b->server);
    ASSERT_OK(cow_close(b->cow));
    cow_device_free(b->origin);
    io_free(b->io);
}

static uint32_t take(struct bench *b, bool writable)
{
    const struct cow_take how = {.writable = writable};
    uint32_t number;
    uint64_t hold_ns;
    ASSERT_OK(cow_shadow_take(b->cow, &how, &number, &hold_ns));
    return number;
}

static void submit(struct bench *b, struct asker *asker, enum cow_request_kind kind,
                   uint32_t number, uint64_t block)
{
    asker->is_done = false;
    asker->request = (struct cow_request){.ops = &ops,
                                          .kind = kind,
                                          .number = number,
                                          .offset = block * BLOCK_BYTES,
                                          .len = kind == COW_REQUEST_FLUSH ? 0 : BLOCK_BYTES};
    cow_server_submit(b->server, &asker->request);
}

static int await(struct asker *asker)
{
    pthread_mutex_lock(&asker->lock);
    while (!asker->is_done)
        pthread_cond_wait(&asker->changed, &asker->lock);
    pthread_mutex_unlock(&asker->lock);
    return asker->request.result;
}

static void asker_init(struct asker *asker, uint8_t byte)
{
    *asker = (struct asker){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    memset(asker->data, byte, sizeof(asker->data));
}

static int ask(struct bench *b, struct asker *asker, enum cow_request_kind kind, uint32_t number,
               uint64_t block)
{
    submit(b, asker, kind, number, block);
    return await(asker);
}

static uint8_t shown(struct bench *b, uint32_t number, uint64_t block)
{
    struct asker asker;
    asker_init(&asker, 0xee);
    ASSERT_OK(ask(b, &asker, COW_REQUEST_READ, number, block));
    return asker.data[0];
}

TEST(volume_and_shadows)
{
    struct bench b;
    struct asker asker;
    bench_init(&b);
    asker_init(&asker, 1);
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_WRITE, 0, 5));
    uint32_t sealed = take(&b, false), open = take(&b, true);
    asker_init(&asker, 2);
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_WRITE, 0, 5));
    asker_init(&asker, 3);
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_WRITE, open, 5));
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_FLUSH, 0, 0));
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_FLUSH, open, 0));
    ASSERT_EQ(shown(&b, 0, 5), 2);
    ASSERT_EQ(shown(&b, sealed, 5), 1);
    ASSERT_EQ(shown(&b, open, 5), 3);
    bench_release(&b);
}

TEST(discards_are_of_the_volume_alone)
{
    struct bench b;
    struct asker asker;
    bench_init(&b);
    asker_init(&asker, 1);
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_WRITE, 0, 5));
    ASSERT_OK(ask(&b, &asker, COW_REQUEST_DISCARD, 0, 5));
    uint32_t open = take(&b, true);
    ASSERT_ERR(ask(&b, &asker, COW_REQUEST_DISCARD, open, 5), -EOPNOTSUPP);
    ASSERT_EQ(shown(&b, open, 5), shown(&b, 0, 5));
    bench_release(&b);
}

TEST(errors_are_such_as_the_kernel_knows)
{
    struct bench b;
    struct asker asker;
    bench_init(&b);
    uint32_t sealed = take(&b, false);
    asker_init(&asker, 1);
    ASSERT_ERR(ask(&b, &asker, COW_REQUEST_WRITE, sealed, 5), -EROFS);
    ASSERT_ERR(ask(&b, &asker, COW_REQUEST_READ, sealed + 1, 5), -EIO);
    ASSERT_ERR(ask(&b, &asker, COW_REQUEST_READ, 0, BLOCKS), -EINVAL);
    asker.data_result = -EFAULT; /* nothing is written of what cannot be had */
    ASSERT_ERR(ask(&b, &asker, COW_REQUEST_WRITE, 0, 5), -EFAULT);
    ASSERT_ERR(ask(&b, &asker, COW_REQUEST_READ, 0, 5), -EFAULT);
    ASSERT_EQ(shown(&b, 0, 5), 0);
    asker.request.len = 2 * BLOCK_BYTES;
    asker.request.kind = COW_REQUEST_READ;
    asker.is_done = false;
    cow_server_submit(b.server, &asker.request);
    ASSERT_ERR(await(&asker), -EINVAL);
    bench_release(&b);
}

TEST(many_at_once)
{
    static struct asker askers[BLOCKS];
    struct bench b;
    bench_init(&b);
    uint32_t before = take(&b, false);
    for (unsigned i = 0; i < BLOCKS; i++) {
        asker_init(&askers[i], (uint8_t)(i + 1));
        submit(&b, &askers[i], COW_REQUEST_WRITE, 0, i);
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        ASSERT_OK(await(&askers[i]));
    for (unsigned i = 0; i < BLOCKS; i++) {
        ASSERT_EQ(shown(&b, 0, i), (uint8_t)(i + 1));
        ASSERT_EQ(shown(&b, before, i), 0);
    }
    bench_release(&b);
}

TEST(what_was_submitted_is_done_before_the_end)
{
    static struct asker askers[BLOCKS];
    struct bench b;
    bench_init(&b);
    for (unsigned i = 0; i < BLOCKS; i++) {
        asker_init(&askers[i], 1);
        submit(&b, &askers[i], COW_REQUEST_WRITE, 0, i);
    }
    bench_release(&b);
    for (unsigned i = 0; i < BLOCKS; i++)
        ASSERT_TRUE(askers[i].is_done && askers[i].request.result == 0);
}

TEST_MAIN()
