/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A pool of worker threads with three queues.
 *
 * Tasks are embedded in what they work on (CONTAINER_OF).  A queue is first in, first out; higher
 * priorities go first.  A thread that waits for the work of others may help with pool_run_one()
 * meanwhile.
 */
#pragma once

#include <stdbool.h>

#include "basic/cleanup.h"
#include "basic/macro.h"

struct pool;

enum pool_priority { POOL_HIGH, POOL_NORMAL, POOL_LOW, POOL_PRIORITY_MAX };

struct pool_task {
    void (*run)(struct pool_task *task); /* may free the task, and may submit others */
    struct pool_task *next;              /* the pool's */
};

_must_check_ int pool_new(unsigned threads, struct pool **ret_pool);
/* Finishes everything that is queued, then ends the threads. */
void pool_free(struct pool *pool);
DEFINE_CLEANUP_PTR(struct pool *, pool_free);
/* Never fails and never waits.  Any thread, tasks too. */
void pool_submit(struct pool *pool, struct pool_task *task, enum pool_priority priority);
/* Runs one queued task of this priority or a higher one in the calling thread; false: there is
 * none. */
bool pool_run_one(struct pool *pool, enum pool_priority lowest);
unsigned pool_thread_count(const struct pool *pool);
