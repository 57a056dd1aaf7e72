/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/string-vector.h"

#include <string.h>

#include "basic/error.h"

void string_vector_release_all(struct string_vector *v)
{
    for (size_t i = 0; i < v->count; i++)
        free(v->items[i]);
    string_vector_release(v);
}

int string_vector_take(struct string_vector *v, char *s)
{
    if (!s || string_vector_push(v, &s) < 0) {
        free(s);
        return error_note(-ENOMEM, "no memory for a string");
    }
    return 0;
}

int string_vector_add(struct string_vector *v, const char *s)
{
    return string_vector_take(v, strdup(s));
}
