/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A decimal number at the beginning of a text. */
#pragma once

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "basic/macro.h"

/* Moves *text behind the number and the character that must follow it.  -EINVAL: no number, too
 * large, or something else behind it. */
_must_check_ static inline int digits_take(const char **text, char end, unsigned *ret_value)
{
    char *rest;

    if (**text < '0' || **text > '9')
        return -EINVAL;
    unsigned long value = strtoul(*text, &rest, 10);
    if (value > UINT_MAX || *rest != end)
        return -EINVAL;
    *text = rest + 1;
    *ret_value = (unsigned)value;
    return 0;
}
