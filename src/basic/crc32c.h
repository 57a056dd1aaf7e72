/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C (Castagnoli), as in RFC 3720 appendix B.4: finds torn and damaged records, not forged
 * ones. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* crc: 0 to begin with, else what the bytes before gave. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* The same without the CPU's instruction for it: for the tests. */
uint32_t crc32c_by_shifts(uint32_t crc, const void *data, size_t len);
