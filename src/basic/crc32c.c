/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/crc32c.h"

#define POLYNOMIAL UINT32_C(0x82f63b78) /* reflected */

/* One nibble at a time: records are short, and sixteen entries are easy to check. */
static uint32_t nibble(uint32_t crc)
{
    for (int i = 0; i < 4; i++)
        crc = (crc >> 1) ^ (POLYNOMIAL & (0u - (crc & 1u)));
    return crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;

    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        crc = nibble(nibble(crc));
    }
    return ~crc;
}
