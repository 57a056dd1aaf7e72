/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Split-block Bloom filter: one block of 256 bits a key, one bit in each of its eight words.  A
 * probe costs one cache line and eight multiplications.  See index-format.h for the sources.
 */
#include <string.h>

#include "repo/index-private.h"

#define FILTER_WORDS (INDEX_FILTER_BLOCK / sizeof(uint32_t))

/* Of Parquet's specification. */
static const uint32_t filter_salts[FILTER_WORDS] = {
    0x47b6137bu, 0x44974d91u, 0x8824ad5bu, 0xa2b7289du,
    0x705495c7u, 0x2df1424bu, 0x9efc4947u, 0x5c6bfb31u,
};

uint32_t filter_blocks_for(uint32_t record_count)
{
    uint64_t bits = (uint64_t)record_count * INDEX_FILTER_BITS;
    uint64_t blocks = (bits + 8 * INDEX_FILTER_BLOCK - 1) / (8 * INDEX_FILTER_BLOCK);
    return blocks > 0 ? (uint32_t)blocks : 1;
}

static uint32_t load_le32(const uint8_t *bytes)
{
    le32_t field;
    memcpy(&field, bytes, sizeof(field));
    return le32_get(&field);
}

static size_t block_offset(uint32_t block_count, const uint8_t *prefix)
{
    uint64_t high = load_le32(prefix + 12);
    return (size_t)((high * block_count) >> 32) * INDEX_FILTER_BLOCK;
}

void filter_insert(uint8_t *filter, uint32_t block_count, const uint8_t *prefix)
{
    uint8_t *block = filter + block_offset(block_count, prefix);
    uint32_t low = load_le32(prefix + 8);
    for (size_t i = 0; i < FILTER_WORDS; i++) {
        uint32_t bit = (low * filter_salts[i]) >> 27;
        block[4 * i + bit / 8] |= (uint8_t)(1u << (bit % 8));
    }
}

bool filter_may_contain(const uint8_t *filter, uint32_t block_count, const uint8_t *prefix)
{
    const uint8_t *block = filter + block_offset(block_count, prefix);
    uint32_t low = load_le32(prefix + 8);
    uint32_t missing = 0;
    for (size_t i = 0; i < FILTER_WORDS; i++) {
        uint32_t mask = 1u << ((low * filter_salts[i]) >> 27);
        missing |= mask & ~load_le32(block + 4 * i);
    }
    return missing == 0;
}
