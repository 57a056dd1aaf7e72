/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small language helpers that every file of umbra may use. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define _must_check_       __attribute__((warn_unused_result))
#define _printf_(fmt, arg) __attribute__((format(printf, fmt, arg)))
#define _unused_           __attribute__((unused))
#define _noreturn_         __attribute__((noreturn))

#define ELEMENTSOF(array) (sizeof(array) / sizeof((array)[0]))

/* Each use has names of its own, so that they nest without shadowing. */
#define PASTE_EXPANDED(a, b) a##b
#define PASTE(a, b)          PASTE_EXPANDED(a, b)
#define PICK(a, b, op, id)                                                                  \
    __extension__({                                                                         \
        const __typeof__(a) PASTE(pick_a_, id) = (a);                                       \
        const __typeof__(b) PASTE(pick_b_, id) = (b);                                       \
        PASTE(pick_a_, id) op PASTE(pick_b_, id) ? PASTE(pick_a_, id) : PASTE(pick_b_, id); \
    })
#define MIN(a, b) PICK(a, b, <, __COUNTER__)
#define MAX(a, b) PICK(a, b, >, __COUNTER__)

/* For a result that is left alone on purpose; (void) does not silence warn_unused_result. */
#define IGNORE_RESULT(expr)                       \
    do {                                          \
        __typeof__(expr) ignored_result = (expr); \
        (void)ignored_result;                     \
    } while (0)

#define CONTAINER_OF(ptr, type, member) \
    ((type *)(void *)((char *)(uintptr_t)(ptr)-offsetof(type, member)))

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

#define NSEC_PER_SEC UINT64_C(1000000000)
