/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the index says of packs and places, all of it: for check, and for reading what is damaged.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "repo/index-private.h"

static_assert(INDEX_ID_KNOWN_LEN == INDEX_PREFIX_LEN, "what a record has of an id");

static int damaged_again(void)
{
    return error_note(-UMBRA_E_CORRUPT, "the cached index is damaged again and again");
}

static int repair(const struct index *index, struct segment *bad)
{
    int r = index_repair(index, bad);
    return r < 0 ? error_note(r, "cannot make the cached index again") : 0;
}

/* ---- all places of a chunk ---- */

/* All segments that may have the chunk have been looked at, and those records verified; else the
 * one that could not be. */
static struct segment *find_unsearchable(const struct segment_set *set, const struct chunk_id *id)
{
    for (size_t i = 0; i < set->count; i++) {
        struct segment *segment = set->segments[i];
        uint32_t first, end;
        if (filter_may_contain(segment->filter, segment->filter_block_count, id->bytes) &&
            segment_find_all(segment, id->bytes, &first, &end) < 0)
            return segment;
    }
    return NULL;
}

static int each_of_segment(const struct segment *segment, const struct chunk_id *id,
                           int (*fn)(const struct index_hit *, void *), void *userdata)
{
    uint32_t first, end;
    int r = segment_find_all(segment, id->bytes, &first, &end);
    if (r <= 0)
        return r;
    for (uint32_t i = first; i < end; i++) {
        struct index_hit hit;
        segment_fill_hit(segment, i, &hit);
        r = fn(&hit, userdata);
        if (r != 0)
            return r;
    }
    return 0;
}

int index_each_location(const struct index *index, const struct chunk_id *id,
                        int (*fn)(const struct index_hit *hit, void *userdata), void *userdata)
{
    const struct segment_set *set = index_set(index);
    struct segment *bad;
    unsigned repairs = 0;
    while ((bad = find_unsearchable(set, id)) != NULL) {
        int r = repairs++ < INDEX_REPAIRS_MAX ? repair(index, bad) : damaged_again();
        if (r < 0)
            return r;
        set = index_set(index);
    }
    for (size_t i = 0; i < set->count; i++) {
        const struct segment *segment = set->segments[i];
        if (!filter_may_contain(segment->filter, segment->filter_block_count, id->bytes))
            continue;
        int r = each_of_segment(segment, id, fn, userdata);
        if (r != 0)
            return r;
    }
    return 0;
}

/* ---- comparing with a pack ---- */

static bool record_is(const struct index_record *record, uint32_t pack,
                      const struct pack_frame *frame, uint32_t chunk_offset, uint32_t chunk_len)
{
    return le32_get(&record->pack) == pack && le32_get(&record->frame_offset) == frame->offset &&
           le32_get(&record->frame_len) == frame->len &&
           le32_get(&record->chunk_offset) == chunk_offset &&
           le32_get(&record->chunk_len) == chunk_len;
}

/* 1 when there is such a record among those of this prefix, else 0. */
static int has_record(const struct segment *segment, const uint8_t *prefix, uint32_t pack,
                      const struct pack_frame *frame, uint32_t chunk_offset, uint32_t chunk_len)
{
    uint32_t first, end;
    int r = segment_find_all(segment, prefix, &first, &end);
    if (r <= 0)
        return r;
    for (uint32_t i = first; i < end; i++) {
        if (record_is(&segment->view.records[i], pack, frame, chunk_offset, chunk_len))
            return 1;
    }
    return 0;
}

/* 1: the same; 0: not; negative: the segment cannot be searched. */
static int compare_directory(const struct segment *segment, uint32_t pack,
                             const struct pack_directory *directory)
{
    const struct index_pack_entry *entry = &segment->view.packs[pack];
    if (entry->kind != (uint8_t)directory->kind ||
        le32_get(&entry->chunk_count) != directory->chunks.count)
        return 0;
    for (size_t i = 0; i < directory->frames.count; i++) {
        const struct pack_frame *frame = &directory->frames.items[i];
        uint32_t chunk_offset = 0;
        for (uint32_t j = 0; j < frame->chunk_count; j++) {
            const struct pack_chunk *chunk = &directory->chunks.items[frame->first_chunk + j];
            int r = has_record(segment, chunk->id.bytes, pack, frame, chunk_offset, chunk->len);
            if (r <= 0)
                return r;
            chunk_offset += chunk->len;
        }
    }
    return 1;
}

/* As above, of every segment that has the pack. */
static int compare_all(const struct segment_set *set, const struct pack_name *name,
                       const struct pack_directory *directory, bool *ret_known,
                       struct segment **ret_bad)
{
    *ret_known = false;
    for (size_t i = 0; i < set->count; i++) {
        uint32_t pack;
        if (segment_find_pack(set->segments[i], name, &pack) < 0)
            continue;
        *ret_known = true;
        int r = compare_directory(set->segments[i], pack, directory);
        if (r < 0)
            *ret_bad = set->segments[i];
        if (r <= 0)
            return r;
    }
    return 1;
}

int index_verify_pack(const struct index *index, const struct pack_name *name,
                      const struct pack_directory *directory)
{
    for (unsigned repairs = 0; repairs <= INDEX_REPAIRS_MAX; repairs++) {
        struct segment *bad = NULL;
        bool known;
        int r = compare_all(index_set(index), name, directory, &known, &bad);
        if (!known)
            return error_note(-ENOENT, "the index does not have the pack");
        if (r > 0)
            return 0;
        if (r == 0)
            return error_note(-UMBRA_E_CORRUPT, "the index and the pack's directory do not agree");
        r = repair(index, bad);
        if (r < 0)
            return r;
    }
    return damaged_again();
}

/* ---- a pack's directory out of the index ---- */

DEFINE_VECTOR(record_vector, const struct index_record *);

static int compare_places(const void *a, const void *b)
{
    const struct index_record *const *x = a, *const *y = b;
    uint64_t p = (uint64_t)le32_get(&(*x)->frame_offset) << 32 | le32_get(&(*x)->chunk_offset);
    uint64_t q = (uint64_t)le32_get(&(*y)->frame_offset) << 32 | le32_get(&(*y)->chunk_offset);
    return (p > q) - (p < q);
}

/* The pack's records, in the order of the pack. */
static int records_of_pack(const struct segment *segment, uint32_t pack,
                           struct record_vector *records)
{
    for (uint32_t i = 0; i < segment->view.record_count; i++) {
        const struct index_record *record = &segment->view.records[i];
        if (le32_get(&record->pack) != pack)
            continue;
        int r = record_vector_push(records, &record);
        if (r < 0)
            return r;
    }
    if (records->count > 0)
        qsort(records->items, records->count, sizeof(*records->items), compare_places);
    return 0;
}

static int append_record(struct pack_directory *directory, const struct index_record *record)
{
    struct pack_frame_vector *frames = &directory->frames;
    uint32_t offset = le32_get(&record->frame_offset);
    struct pack_chunk chunk = {.len = le32_get(&record->chunk_len)};
    int r = 0;
    if (frames->count == 0 || frames->items[frames->count - 1].offset != offset) {
        const struct pack_frame frame = {.offset = offset,
                                         .len = le32_get(&record->frame_len),
                                         .first_chunk = (uint32_t)directory->chunks.count};
        r = pack_frame_vector_push(frames, &frame);
    }
    memcpy(chunk.id.bytes, record->prefix, INDEX_PREFIX_LEN);
    if (r >= 0)
        r = pack_chunk_vector_push(&directory->chunks, &chunk);
    if (r < 0)
        return r;
    frames->items[frames->count - 1].chunk_count++;
    return 0;
}

static int directory_of(const struct segment *segment, uint32_t pack,
                        struct pack_directory *ret_directory)
{
    CLEANUP(pack_directory_release)
    struct pack_directory directory = {.kind = (enum pack_kind)segment->view.packs[pack].kind};
    CLEANUP(record_vector_release) struct record_vector records = {0};
    int r = records_of_pack(segment, pack, &records);
    for (size_t i = 0; r >= 0 && i < records.count; i++)
        r = append_record(&directory, records.items[i]);
    if (r < 0)
        return error_note(r, "no memory for a pack's directory");
    *ret_directory = directory;
    directory = (struct pack_directory){.kind = ret_directory->kind};
    return 0;
}

int index_pack_directory(const struct index *index, const struct pack_name *name,
                         struct pack_directory *ret_directory)
{
    for (unsigned repairs = 0; repairs <= INDEX_REPAIRS_MAX; repairs++) {
        const struct segment_set *set = index_set(index);
        uint32_t pack = 0;
        size_t i = 0;
        while (i < set->count && segment_find_pack(set->segments[i], name, &pack) < 0)
            i++;
        if (i == set->count)
            return error_note(-ENOENT, "the index does not have the pack");
        if (segment_verify_all(set->segments[i]) == 0)
            return directory_of(set->segments[i], pack, ret_directory);
        int r = repair(index, set->segments[i]);
        if (r < 0)
            return r;
    }
    return damaged_again();
}
