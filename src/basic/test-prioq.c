/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/prioq.h"
#include "basic/test.h"

struct job {
    struct prioq_item item;
    uint64_t urgency; /* smaller goes first */
    bool queued;
};

static const struct job *job_of(const struct prioq_item *item)
{
    return CONTAINER_OF(item, struct job, item);
}

static int compare(const struct prioq_item *a, const struct prioq_item *b)
{
    uint64_t x = job_of(a)->urgency, y = job_of(b)->urgency;
    return x < y ? -1 : x > y;
}

TEST(pops_in_order)
{
    static const uint64_t urgencies[] = {5, 3, 8, 3, 1, 9, 0, 7};
    struct job jobs[ELEMENTSOF(urgencies)];
    CLEANUP(prioq_freep) struct prioq *queue = NULL;
    uint64_t before = 0;

    ASSERT_OK(prioq_new(compare, &queue));
    ASSERT_TRUE(prioq_peek(queue) == NULL);
    ASSERT_TRUE(prioq_pop(queue) == NULL);
    for (size_t i = 0; i < ELEMENTSOF(jobs); i++) {
        jobs[i].urgency = urgencies[i];
        ASSERT_OK(prioq_push(queue, &jobs[i].item));
    }
    for (size_t left = ELEMENTSOF(jobs); left > 0; left--) {
        ASSERT_EQ(prioq_count(queue), left);
        const struct prioq_item *first = prioq_peek(queue);
        const struct prioq_item *item = prioq_pop(queue);
        ASSERT_TRUE(item == first);
        ASSERT_EQ(item->place, PRIOQ_NOT_IN);
        ASSERT_GE(job_of(item)->urgency, before);
        before = job_of(item)->urgency;
    }
    ASSERT_EQ(prioq_count(queue), 0);
}

/* Against a model that looks at every job. */
static uint64_t smallest(const struct job *jobs, size_t count)
{
    uint64_t best = UINT64_MAX;
    for (size_t i = 0; i < count; i++)
        if (jobs[i].queued && jobs[i].urgency < best)
            best = jobs[i].urgency;
    return best;
}

TEST(random_pushes_updates_and_removals)
{
    struct job jobs[64] = {0};
    CLEANUP(prioq_freep) struct prioq *queue = NULL;
    uint64_t seed = 42;
    size_t count = 0;

    ASSERT_OK(prioq_new(compare, &queue));
    for (int step = 0; step < 20000; step++) {
        struct job *job = &jobs[test_random(&seed) % ELEMENTSOF(jobs)];
        if (!job->queued) {
            job->urgency = test_random(&seed) % 50;
            ASSERT_OK(prioq_push(queue, &job->item));
            job->queued = true;
            count++;
        } else if (test_random(&seed) % 2) {
            job->urgency = test_random(&seed) % 50;
            prioq_update(queue, &job->item);
        } else {
            prioq_remove(queue, &job->item);
            job->queued = false;
            count--;
        }
        ASSERT_EQ(prioq_count(queue), count);
        const struct prioq_item *first = prioq_peek(queue);
        ASSERT_EQ(first ? job_of(first)->urgency : UINT64_MAX, smallest(jobs, ELEMENTSOF(jobs)));
    }
}

TEST_MAIN()
