/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A priority queue: a binary heap of items that are embedded in what they stand for.
 *
 * Each item knows its place, so that it can be moved when its priority changes, or be taken out
 * from the middle.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/cleanup.h"
#include "basic/macro.h"

#define PRIOQ_NOT_IN SIZE_MAX

struct prioq_item {
    size_t place; /* the queue's; meaningful only while in one */
};

struct prioq;

/* Negative: a goes first; ties go in no particular order. */
typedef int (*prioq_compare_fn)(const struct prioq_item *a, const struct prioq_item *b);

_must_check_ int prioq_new(prioq_compare_fn compare, struct prioq **ret_queue);
void prioq_free(struct prioq *queue); /* items stay their owners' */
DEFINE_CLEANUP_PTR(struct prioq *, prioq_free);
_must_check_ int prioq_push(struct prioq *queue, struct prioq_item *item); /* -ENOMEM */
struct prioq_item *prioq_peek(const struct prioq *queue);                  /* the first, or NULL */
struct prioq_item *prioq_pop(struct prioq *queue); /* takes the first out, or NULL */
void prioq_remove(struct prioq *queue, struct prioq_item *item);
/* After the item's priority has changed. */
void prioq_update(struct prioq *queue, struct prioq_item *item);
size_t prioq_count(const struct prioq *queue);
