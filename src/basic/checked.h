/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic that says when it overflows.  Each returns true on success and writes *ret only then.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

#define CHECKED_DEFINE(suffix, type)                                                \
    static inline _must_check_ bool checked_add_##suffix(type a, type b, type *ret) \
    {                                                                               \
        type value;                                                                 \
        if (__builtin_add_overflow(a, b, &value))                                   \
            return false;                                                           \
        *ret = value;                                                               \
        return true;                                                                \
    }                                                                               \
    static inline _must_check_ bool checked_sub_##suffix(type a, type b, type *ret) \
    {                                                                               \
        type value;                                                                 \
        if (__builtin_sub_overflow(a, b, &value))                                   \
            return false;                                                           \
        *ret = value;                                                               \
        return true;                                                                \
    }                                                                               \
    static inline _must_check_ bool checked_mul_##suffix(type a, type b, type *ret) \
    {                                                                               \
        type value;                                                                 \
        if (__builtin_mul_overflow(a, b, &value))                                   \
            return false;                                                           \
        *ret = value;                                                               \
        return true;                                                                \
    }

CHECKED_DEFINE(u32, uint32_t)
CHECKED_DEFINE(u64, uint64_t)
CHECKED_DEFINE(size, size_t)
#undef CHECKED_DEFINE
