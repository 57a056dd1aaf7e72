/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is /proc/TID/syscall.  What was parsed, printed as the kernel does, parses the same. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filter/waiter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint64_t a[6], b[6];
    int32_t first, second;
    char text[256];

    if (waiter_parse((const char *)data, len, &first, a) < 0)
        return 0;
    if (first < 0)
        abort();
    int n = snprintf(text, sizeof(text),
                     "%" PRId32 " 0x%" PRIx64 " 0x%" PRIx64 " 0x%" PRIx64 " 0x%" PRIx64
                     " 0x%" PRIx64 " 0x%" PRIx64 " 0x7fffffffe000 0x401000\n",
                     first, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (waiter_parse(text, (size_t)n, &second, b) < 0 || second != first ||
        memcmp(a, b, sizeof(a)) != 0)
        abort();
    return 0;
}
