/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is the plain form of an index segment.  In one that is accepted every record and every
 * pack is found, however its ids are spread.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "repo/index-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool fact)
{
    if (!fact)
        abort();
}

static void find_record(const struct segment *segment, uint32_t i)
{
    uint8_t prefix[INDEX_PREFIX_LEN];
    uint32_t first, end;

    memcpy(prefix, segment->view.records[i].prefix, sizeof(prefix));
    require(segment_find_all(segment, prefix, &first, &end) == 1);
    require(first <= i && i < end && end <= segment->view.record_count);
    /* A neighbour: it may be there or not, and the search ends. */
    prefix[i % INDEX_PREFIX_LEN] ^= 1;
    require(segment_find_all(segment, prefix, &first, &end) >= 0);
}

static void find_pack(const struct segment *segment, uint32_t i)
{
    struct pack_name name;
    uint32_t position;

    memcpy(name.bytes, segment->view.packs[i].name, PACK_NAME_LEN);
    require(segment_find_pack(segment, &name, &position) == 0 && position == i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct segment segment = {0};

    if (index_segment_parse(data, len) < 0 || segment_view_make(data, len, &segment.view) < 0)
        return 0;
    size_t words = segment.view.record_count / INDEX_BLOCK_RECORDS / 64 + 1;
    CLEANUP_FREE void *verified = malloc(words * sizeof(uint64_t));
    require(verified != NULL);
    memset(verified, 0xff, words * sizeof(uint64_t)); /* there are no checksums to compare with */
    segment.verified = verified;
    for (uint32_t i = 0; i < segment.view.record_count; i++)
        find_record(&segment, i);
    for (uint32_t i = 0; i < segment.view.pack_count; i++)
        find_pack(&segment, i);
    return 0;
}
