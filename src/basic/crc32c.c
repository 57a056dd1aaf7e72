/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two ways to the same number: the CPU's instruction, eight bytes at a time, or shifts, a nibble at
 * a time, which need no table and are easy to check.
 */
#include "basic/crc32c.h"

#include <string.h>

#define POLYNOMIAL UINT32_C(0x82f63b78) /* reflected */

static uint32_t nibble(uint32_t crc)
{
    for (int i = 0; i < 4; i++)
        crc = (crc >> 1) ^ (POLYNOMIAL & (0u - (crc & 1u)));
    return crc;
}

static uint32_t update_by_shifts(uint32_t crc, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        crc = nibble(nibble(crc));
    }
    return crc;
}

#ifdef __x86_64__

__attribute__((target("sse4.2"))) static uint32_t update_by_cpu(uint32_t crc, const uint8_t *p,
                                                                size_t len)
{
    uint64_t wide = crc;
    for (; len >= sizeof(uint64_t); len -= sizeof(uint64_t), p += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, p, sizeof(word));
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; len > 0; len--, p++)
        crc = __builtin_ia32_crc32qi(crc, *p);
    return crc;
}

static uint32_t update(uint32_t crc, const uint8_t *p, size_t len)
{
    return __builtin_cpu_supports("sse4.2") ? update_by_cpu(crc, p, len)
                                            : update_by_shifts(crc, p, len);
}

#else
#define update update_by_shifts
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    return ~update(~crc, data, len);
}

uint32_t crc32c_by_shifts(uint32_t crc, const void *data, size_t len)
{
    return ~update_by_shifts(~crc, data, len);
}
