/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The plain form of an index segment: making it, and checking one that somebody else made. */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "repo/index-private.h"

/* Sealed lengths that a frame can have. */
#define FRAME_SEALED_MIN (SEAL_OVERHEAD + 2)

size_t segment_plain_len(const struct segment_view *view)
{
    return sizeof(struct index_segment_header) +
           (size_t)view->pack_count * sizeof(struct index_pack_entry) +
           (size_t)view->record_count * sizeof(struct index_record);
}

/* ---- order ---- */

static int compare_u32(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int compare_records(const void *a, const void *b)
{
    const struct index_record *x = a, *y = b;
    int c = memcmp(x->prefix, y->prefix, INDEX_PREFIX_LEN);
    if (c == 0)
        c = compare_u32(le32_get(&x->pack), le32_get(&y->pack));
    if (c == 0)
        c = compare_u32(le32_get(&x->frame_offset), le32_get(&y->frame_offset));
    if (c == 0)
        c = compare_u32(le32_get(&x->chunk_offset), le32_get(&y->chunk_offset));
    return c;
}

/* ---- making ---- */

int segment_draft_init(struct segment_draft *draft, size_t pack_count, size_t record_count)
{
    if (pack_count > INDEX_PACKS_LIMIT || record_count > INDEX_SEGMENT_RECORDS_MAX)
        return error_note(-UMBRA_E_LIMIT, "%zu packs with %zu chunks are too much for a segment",
                          pack_count, record_count);
    struct segment_draft made = {
        .pack_count = (uint32_t)pack_count,
        .record_count = (uint32_t)record_count,
    };
    const struct segment_view size = {.pack_count = made.pack_count,
                                      .record_count = made.record_count};
    size_t len = segment_plain_len(&size);
    uint8_t *plain = buffer_extend(&made.plain, len);
    if (!plain)
        return error_note(-ENOMEM, "no memory for an index segment");
    memset(plain, 0, len);
    made.packs = (struct index_pack_entry *)(plain + sizeof(struct index_segment_header));
    made.records = (struct index_record *)(made.packs + made.pack_count);
    *draft = made;
    return 0;
}

void segment_draft_release(struct segment_draft *draft)
{
    buffer_release(&draft->plain);
    *draft = (struct segment_draft){0};
}

/* Racing writers may have indexed a pack twice; the union has it once. */
static void drop_duplicates(struct segment_draft *draft)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < draft->record_count; i++) {
        if (kept > 0 && compare_records(&draft->records[kept - 1], &draft->records[i]) == 0)
            continue;
        if (kept != i)
            draft->records[kept] = draft->records[i];
        kept++;
    }
    draft->record_count = kept;
}

static void count_chunks(struct segment_draft *draft)
{
    for (uint32_t i = 0; i < draft->record_count; i++) {
        struct index_pack_entry *pack = &draft->packs[le32_get(&draft->records[i].pack)];
        pack->chunk_count = le32_make(le32_get(&pack->chunk_count) + 1);
    }
}

void segment_draft_finish(struct segment_draft *draft)
{
    if (draft->record_count > 0)
        qsort(draft->records, draft->record_count, sizeof(*draft->records), compare_records);
    drop_duplicates(draft);
    count_chunks(draft);

    struct index_segment_header *header = (struct index_segment_header *)draft->plain.data;
    memcpy(header->magic, INDEX_SEGMENT_MAGIC, sizeof(header->magic));
    header->version = le32_make(INDEX_VERSION);
    header->pack_count = le32_make(draft->pack_count);
    header->record_count = le32_make(draft->record_count);
    const struct segment_view size = {.pack_count = draft->pack_count,
                                      .record_count = draft->record_count};
    draft->plain.len = segment_plain_len(&size);
}

static int compare_packs(const void *a, const void *b)
{
    const struct index_pack *const *x = a, *const *y = b;
    return memcmp((*x)->name.bytes, (*y)->name.bytes, PACK_NAME_LEN);
}

DEFINE_VECTOR(pack_pointer_vector, const struct index_pack *);

/* Pointers in the order of names, each name once. */
static int sort_packs(const struct index_pack *packs, size_t count,
                      struct pack_pointer_vector *sorted)
{
    int r = pack_pointer_vector_reserve(sorted, count);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        sorted->items[sorted->count++] = &packs[i];
    if (count > 0)
        qsort(sorted->items, count, sizeof(*sorted->items), compare_packs);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || compare_packs(&sorted->items[kept - 1], &sorted->items[i]) != 0)
            sorted->items[kept++] = sorted->items[i];
    }
    sorted->count = kept;
    return 0;
}

static struct index_record *fill_records(const struct pack_directory *directory, uint32_t pack,
                                         struct index_record *record)
{
    for (size_t i = 0; i < directory->frames.count; i++) {
        const struct pack_frame *frame = &directory->frames.items[i];
        uint32_t chunk_offset = 0;
        for (uint32_t j = 0; j < frame->chunk_count; j++) {
            const struct pack_chunk *chunk = &directory->chunks.items[frame->first_chunk + j];
            memcpy(record->prefix, chunk->id.bytes, INDEX_PREFIX_LEN);
            record->pack = le32_make(pack);
            record->frame_offset = le32_make(frame->offset);
            record->frame_len = le32_make(frame->len);
            record->chunk_offset = le32_make(chunk_offset);
            record->chunk_len = le32_make(chunk->len);
            chunk_offset += chunk->len;
            record++;
        }
    }
    return record;
}

int segment_draft_from_packs(const struct index_pack *packs, size_t count,
                             struct segment_draft *ret_draft)
{
    CLEANUP(pack_pointer_vector_release) struct pack_pointer_vector sorted = {0};
    struct segment_draft draft;
    size_t record_count = 0;

    int r = sort_packs(packs, count, &sorted);
    if (r < 0)
        return error_note(r, "no memory for an index segment");
    for (size_t i = 0; i < sorted.count; i++)
        record_count += sorted.items[i]->directory->chunks.count;
    r = segment_draft_init(&draft, sorted.count, record_count);
    if (r < 0)
        return r;
    struct index_record *record = draft.records;
    for (uint32_t i = 0; i < sorted.count; i++) {
        const struct index_pack *pack = sorted.items[i];
        memcpy(draft.packs[i].name, pack->name.bytes, PACK_NAME_LEN);
        draft.packs[i].size_bytes = le32_make((uint32_t)pack->size_bytes);
        draft.packs[i].kind = (uint8_t)pack->directory->kind;
        record = fill_records(pack->directory, i, record);
    }
    segment_draft_finish(&draft);
    *ret_draft = draft;
    return 0;
}

/* ---- checking ---- */

static int damaged(const char *what)
{
    return error_note(-UMBRA_E_CORRUPT, "%s", what);
}

static bool all_zero(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

int segment_view_make(const void *plain, size_t len, struct segment_view *ret_view)
{
    const struct index_segment_header *header = plain;
    if (len < sizeof(*header) ||
        memcmp(header->magic, INDEX_SEGMENT_MAGIC, sizeof(header->magic)) != 0)
        return damaged("it does not begin like an index segment");
    if (le32_get(&header->version) != INDEX_VERSION)
        return error_note(-UMBRA_E_VERSION, "its version is %u", le32_get(&header->version));
    if (!all_zero(header->reserved, sizeof(header->reserved)))
        return damaged("its header is damaged");

    struct segment_view view = {
        .pack_count = le32_get(&header->pack_count),
        .record_count = le32_get(&header->record_count),
        .packs = (const struct index_pack_entry *)(header + 1),
    };
    if (view.pack_count > INDEX_PACKS_LIMIT || view.record_count > INDEX_SEGMENT_RECORDS_MAX)
        return damaged("it has too many packs or records");
    if (segment_plain_len(&view) > len)
        return damaged("it is cut short");
    view.records = (const struct index_record *)(view.packs + view.pack_count);
    *ret_view = view;
    return 0;
}

static int check_packs(const struct segment_view *view)
{
    for (uint32_t i = 0; i < view->pack_count; i++) {
        const struct index_pack_entry *pack = &view->packs[i];
        uint32_t size_bytes = le32_get(&pack->size_bytes);
        if (i > 0 && memcmp(view->packs[i - 1].name, pack->name, PACK_NAME_LEN) >= 0)
            return damaged("its packs are not in order");
        if (size_bytes < PACK_HEADER_LEN || size_bytes > PACK_LEN_MAX ||
            (pack->kind != PACK_DATA && pack->kind != PACK_META) ||
            !all_zero(pack->reserved, sizeof(pack->reserved)))
            return damaged("it has a pack that cannot be");
    }
    return 0;
}

static bool record_fits(const struct segment_view *view, const struct index_record *record)
{
    uint32_t pack = le32_get(&record->pack);
    uint32_t frame_offset = le32_get(&record->frame_offset);
    uint32_t frame_len = le32_get(&record->frame_len);
    uint32_t chunk_offset = le32_get(&record->chunk_offset);
    uint32_t chunk_len = le32_get(&record->chunk_len);
    return pack < view->pack_count && frame_offset >= PACK_HEADER_LEN &&
           frame_len >= FRAME_SEALED_MIN && frame_len <= FRAME_SEALED_MAX &&
           (uint64_t)frame_offset + frame_len <= le32_get(&view->packs[pack].size_bytes) &&
           chunk_len > 0 && (uint64_t)chunk_offset + chunk_len <= FRAME_PLAIN_MAX;
}

/* counts: zeros, one for each pack. */
static int check_records(const struct segment_view *view, uint32_t *counts)
{
    for (uint32_t i = 0; i < view->record_count; i++) {
        const struct index_record *record = &view->records[i];
        if (!record_fits(view, record))
            return damaged("it has a record that cannot be");
        if (i > 0 && compare_records(&view->records[i - 1], record) >= 0)
            return damaged("its records are not in order");
        counts[le32_get(&record->pack)]++;
    }
    for (uint32_t i = 0; i < view->pack_count; i++) {
        if (counts[i] != le32_get(&view->packs[i].chunk_count))
            return damaged("its counts of chunks do not fit its records");
    }
    return 0;
}

int index_segment_parse(const void *data, size_t len)
{
    struct segment_view view;
    int r = segment_view_make(data, len, &view);
    if (r < 0)
        return r;
    if (segment_plain_len(&view) != len)
        return damaged("something follows its end");
    CLEANUP_FREE uint32_t *counts = calloc(view.pack_count + 1u, sizeof(*counts));
    if (!counts)
        return error_note(-ENOMEM, "no memory for an index segment");
    r = check_packs(&view);
    return r < 0 ? r : check_records(&view, counts);
}
