/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A typed growable array.
 *
 *     DEFINE_VECTOR(extent_vector, struct extent);
 *
 * makes struct extent_vector { struct extent *items; size_t count, allocated; } and
 *
 *     int  extent_vector_push(struct extent_vector *v, const struct extent *item);  0 or -ENOMEM
 *     int  extent_vector_reserve(struct extent_vector *v, size_t more);             0 or -ENOMEM
 *     void extent_vector_clear(struct extent_vector *v);                            keeps the
 * memory void extent_vector_release(struct extent_vector *v);                          frees the
 * array, not what items own
 */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "basic/macro.h"

/* Grows *items to hold at least need items of item_size bytes.  0 or -ENOMEM. */
_must_check_ int vector_grow(void **items, size_t *allocated, size_t need, size_t item_size);

#define DEFINE_VECTOR(name, type)                                                         \
    struct name {                                                                         \
        type *items;                                                                      \
        size_t count;                                                                     \
        size_t allocated;                                                                 \
    };                                                                                    \
    static inline _must_check_ _unused_ int name##_reserve(struct name *v, size_t more)   \
    {                                                                                     \
        if (v->allocated - v->count >= more)                                              \
            return 0;                                                                     \
        void *items = v->items;                                                           \
        int r = vector_grow(&items, &v->allocated, v->count + more, sizeof(type));        \
        v->items = (type *)items;                                                         \
        return r;                                                                         \
    }                                                                                     \
    static inline _must_check_ _unused_ int name##_push(struct name *v, type const *item) \
    {                                                                                     \
        int r = name##_reserve(v, 1);                                                     \
        if (r < 0)                                                                        \
            return r;                                                                     \
        v->items[v->count++] = *item;                                                     \
        return 0;                                                                         \
    }                                                                                     \
    static inline _unused_ void name##_clear(struct name *v)                              \
    {                                                                                     \
        v->count = 0;                                                                     \
    }                                                                                     \
    static inline _unused_ void name##_release(struct name *v)                            \
    {                                                                                     \
        free(v->items);                                                                   \
        v->items = NULL;                                                                  \
        v->count = v->allocated = 0;                                                      \
    }                                                                                     \
    struct vector_needs_semicolon
