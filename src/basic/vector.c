/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/vector.h"

#include "basic/checked.h"

#define ITEMS_MIN 8u

int vector_grow(void **items, size_t *allocated, size_t need, size_t item_size)
{
    size_t count = MAX(*allocated + *allocated / 2, MAX(need, (size_t)ITEMS_MIN));
    size_t bytes;
    if (!checked_mul_size(count, item_size, &bytes))
        return -ENOMEM;
    void *grown = realloc(*items, bytes);
    if (!grown)
        return -ENOMEM;
    *items = grown;
    *allocated = count;
    return 0;
}
