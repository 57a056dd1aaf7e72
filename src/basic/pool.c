/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "basic/error.h"

#define THREADS_MAX 1024u

struct queue {
    struct pool_task *first, **end;
};

struct pool {
    pthread_mutex_t lock; /* guards all below but threads */
    pthread_cond_t work;
    struct queue queues[POOL_PRIORITY_MAX];
    bool stopping;
    unsigned thread_count;
    pthread_t threads[];
};

static struct pool_task *take_locked(struct pool *pool, enum pool_priority lowest)
{
    for (unsigned i = 0; i <= (unsigned)lowest; i++) {
        struct queue *queue = &pool->queues[i];
        struct pool_task *task = queue->first;
        if (!task)
            continue;
        queue->first = task->next;
        if (!queue->first)
            queue->end = &queue->first;
        task->next = NULL;
        return task;
    }
    return NULL;
}

static void *thread_run(void *userdata)
{
    struct pool *pool = userdata;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct pool_task *task = take_locked(pool, POOL_LOW);
        if (task) {
            pthread_mutex_unlock(&pool->lock);
            task->run(task);
            pthread_mutex_lock(&pool->lock);
        } else if (pool->stopping) {
            break;
        } else {
            pthread_cond_wait(&pool->work, &pool->lock);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int pool_new(unsigned threads, struct pool **ret_pool)
{
    if (threads == 0 || threads > THREADS_MAX)
        return -EINVAL;
    CLEANUP(pool_freep)
    struct pool *pool = calloc(1, sizeof(*pool) + threads * sizeof(pool->threads[0]));
    if (!pool)
        return -ENOMEM;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    for (unsigned i = 0; i < POOL_PRIORITY_MAX; i++)
        pool->queues[i].end = &pool->queues[i].first;
    for (; pool->thread_count < threads; pool->thread_count++) {
        int error = pthread_create(&pool->threads[pool->thread_count], NULL, thread_run, pool);
        if (error != 0)
            return error_note_describe(-error, "cannot start a thread");
    }
    *ret_pool = TAKE_PTR(pool);
    return 0;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++)
        (void)pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void pool_submit(struct pool *pool, struct pool_task *task, enum pool_priority priority)
{
    assert(priority < POOL_PRIORITY_MAX);
    pthread_mutex_lock(&pool->lock);
    task->next = NULL;
    *pool->queues[priority].end = task;
    pool->queues[priority].end = &task->next;
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

bool pool_run_one(struct pool *pool, enum pool_priority lowest)
{
    pthread_mutex_lock(&pool->lock);
    struct pool_task *task = take_locked(pool, lowest);
    pthread_mutex_unlock(&pool->lock);
    if (!task)
        return false;
    task->run(task);
    return true;
}

unsigned pool_thread_count(const struct pool *pool)
{
    return pool->thread_count;
}
