/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/prioq.h"

#include <assert.h>

#include "basic/vector.h"

DEFINE_VECTOR(prioq_vector, struct prioq_item *);

struct prioq {
    prioq_compare_fn compare;
    struct prioq_vector heap; /* items[i] goes no later than items[2i + 1] and items[2i + 2] */
};

int prioq_new(prioq_compare_fn compare, struct prioq **ret_queue)
{
    struct prioq *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return -ENOMEM;
    queue->compare = compare;
    *ret_queue = queue;
    return 0;
}

void prioq_free(struct prioq *queue)
{
    if (!queue)
        return;
    prioq_vector_release(&queue->heap);
    free(queue);
}

static void put(struct prioq *queue, size_t place, struct prioq_item *item)
{
    queue->heap.items[place] = item;
    item->place = place;
}

static size_t sift_up(struct prioq *queue, size_t place)
{
    struct prioq_item *item = queue->heap.items[place];
    while (place > 0) {
        size_t parent = (place - 1) / 2;
        if (queue->compare(queue->heap.items[parent], item) <= 0)
            break;
        put(queue, place, queue->heap.items[parent]);
        place = parent;
    }
    put(queue, place, item);
    return place;
}

static void sift_down(struct prioq *queue, size_t place)
{
    struct prioq_item *item = queue->heap.items[place];
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= queue->heap.count)
            break;
        if (child + 1 < queue->heap.count &&
            queue->compare(queue->heap.items[child + 1], queue->heap.items[child]) < 0)
            child++;
        if (queue->compare(item, queue->heap.items[child]) <= 0)
            break;
        put(queue, place, queue->heap.items[child]);
        place = child;
    }
    put(queue, place, item);
}

int prioq_push(struct prioq *queue, struct prioq_item *item)
{
    int r = prioq_vector_push(&queue->heap, &item);
    if (r < 0)
        return r;
    (void)sift_up(queue, queue->heap.count - 1);
    return 0;
}

struct prioq_item *prioq_peek(const struct prioq *queue)
{
    return queue->heap.count > 0 ? queue->heap.items[0] : NULL;
}

void prioq_update(struct prioq *queue, struct prioq_item *item)
{
    assert(item->place < queue->heap.count && queue->heap.items[item->place] == item);
    sift_down(queue, sift_up(queue, item->place));
}

void prioq_remove(struct prioq *queue, struct prioq_item *item)
{
    assert(item->place < queue->heap.count && queue->heap.items[item->place] == item);
    size_t place = item->place;
    struct prioq_item *last = queue->heap.items[--queue->heap.count];
    if (last != item) {
        put(queue, place, last);
        prioq_update(queue, last);
    }
    item->place = PRIOQ_NOT_IN;
}

struct prioq_item *prioq_pop(struct prioq *queue)
{
    struct prioq_item *first = prioq_peek(queue);
    if (first)
        prioq_remove(queue, first);
    return first;
}

size_t prioq_count(const struct prioq *queue)
{
    return queue->heap.count;
}
