/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A growable array of strings that owns them. */
#pragma once

#include "basic/vector.h"

DEFINE_VECTOR(string_vector, char *);
void string_vector_release_all(struct string_vector *v);
_must_check_ int string_vector_add(struct string_vector *v, const char *s); /* copies */
/* Takes over s, also on failure; NULL is a failed allocation. */
_must_check_ int string_vector_take(struct string_vector *v, char *s);
