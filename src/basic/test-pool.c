/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "basic/pool.h"
#include "basic/test.h"

#define TASKS 2000u

struct counted {
    struct pool_task task;
    atomic_uint *count;
};

static void count_run(struct pool_task *task)
{
    atomic_fetch_add(CONTAINER_OF(task, struct counted, task)->count, 1);
}

TEST(free_finishes_queued_work)
{
    static struct counted tasks[TASKS];
    atomic_uint count = 0;
    struct pool *pool = NULL;

    ASSERT_OK(pool_new(3, &pool));
    ASSERT_EQ(pool_thread_count(pool), 3);
    for (unsigned i = 0; i < TASKS; i++) {
        tasks[i] = (struct counted){.task.run = count_run, .count = &count};
        pool_submit(pool, &tasks[i].task, (enum pool_priority)(i % POOL_PRIORITY_MAX));
    }
    pool_free(pool);
    ASSERT_EQ(atomic_load(&count), TASKS);
    pool_free(NULL);
}

TEST(thread_count_is_checked)
{
    struct pool *pool = NULL;

    ASSERT_ERR(pool_new(0, &pool), -EINVAL);
    ASSERT_ERR(pool_new(1000000, &pool), -EINVAL);
    ASSERT_TRUE(pool == NULL);
}

/* A pool whose only thread waits until the gate is opened: what is queued meanwhile stays queued.
 */
struct gate {
    struct pool_task task;
    sem_t entered, leave;
};

static void gate_run(struct pool_task *task)
{
    struct gate *gate = CONTAINER_OF(task, struct gate, task);
    ASSERT_EQ(sem_post(&gate->entered), 0);
    ASSERT_EQ(sem_wait(&gate->leave), 0);
}

static struct pool *blocked_pool(struct gate *gate)
{
    struct pool *pool = NULL;

    gate->task.run = gate_run;
    ASSERT_EQ(sem_init(&gate->entered, 0, 0), 0);
    ASSERT_EQ(sem_init(&gate->leave, 0, 0), 0);
    ASSERT_OK(pool_new(1, &pool));
    pool_submit(pool, &gate->task, POOL_HIGH);
    ASSERT_EQ(sem_wait(&gate->entered), 0);
    return pool;
}

struct traced {
    struct pool_task task;
    char name;
    char *trace;
};

static void trace_run(struct pool_task *task)
{
    struct traced *t = CONTAINER_OF(task, struct traced, task);
    t->trace[strlen(t->trace)] = t->name;
}

TEST(priorities_then_first_come_first_served)
{
    static const struct {
        char name;
        enum pool_priority priority;
    } order[] = {{'l', POOL_LOW},    {'n', POOL_NORMAL}, {'h', POOL_HIGH},   {'L', POOL_LOW},
                 {'N', POOL_NORMAL}, {'H', POOL_HIGH},   {'m', POOL_NORMAL}, {'k', POOL_LOW}};
    char trace[16] = "";
    struct traced tasks[ELEMENTSOF(order)];
    struct gate gate;
    struct pool *pool = blocked_pool(&gate);

    for (size_t i = 0; i < ELEMENTSOF(order); i++) {
        tasks[i] = (struct traced){.task.run = trace_run, .name = order[i].name, .trace = trace};
        pool_submit(pool, &tasks[i].task, order[i].priority);
    }
    ASSERT_EQ(sem_post(&gate.leave), 0);
    pool_free(pool);
    ASSERT_STREQ(trace, "hHnNmlLk");
}

TEST(waiting_thread_helps)
{
    char trace[16] = "";
    struct gate gate;
    struct pool *pool = blocked_pool(&gate);
    struct traced low = {.task.run = trace_run, .name = 'l', .trace = trace};
    struct traced high = {.task.run = trace_run, .name = 'h', .trace = trace};

    ASSERT_FALSE(pool_run_one(pool, POOL_LOW));
    pool_submit(pool, &low.task, POOL_LOW);
    pool_submit(pool, &high.task, POOL_HIGH);
    ASSERT_TRUE(pool_run_one(pool, POOL_NORMAL));
    ASSERT_STREQ(trace, "h");
    ASSERT_FALSE(pool_run_one(pool, POOL_NORMAL)); /* only a low one is left */
    ASSERT_TRUE(pool_run_one(pool, POOL_LOW));
    ASSERT_STREQ(trace, "hl");
    ASSERT_EQ(sem_post(&gate.leave), 0);
    pool_free(pool);
}

struct tree {
    struct pool_task task;
    struct pool *pool;
    atomic_uint *count;
    unsigned depth;
};

/* Frees itself and submits two others. */
static void tree_run(struct pool_task *task)
{
    struct tree *t = CONTAINER_OF(task, struct tree, task);

    atomic_fetch_add(t->count, 1);
    for (int i = 0; t->depth > 0 && i < 2; i++) {
        struct tree *child = malloc(sizeof(*child));
        ASSERT_TRUE(child != NULL);
        *child = (struct tree){
            .task.run = tree_run, .pool = t->pool, .count = t->count, .depth = t->depth - 1};
        pool_submit(t->pool, &child->task, POOL_NORMAL);
    }
    free(t);
}

TEST(tasks_may_submit_and_free_themselves)
{
    atomic_uint count = 0;
    struct pool *pool = NULL;
    struct tree *root = malloc(sizeof(*root));

    ASSERT_TRUE(root != NULL);
    ASSERT_OK(pool_new(4, &pool));
    *root = (struct tree){.task.run = tree_run, .pool = pool, .count = &count, .depth = 9};
    pool_submit(pool, &root->task, POOL_LOW);
    pool_free(pool);
    ASSERT_EQ(atomic_load(&count), 1023);
}

TEST_MAIN()
