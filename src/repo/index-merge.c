/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging segments.
 *
 * Segments are put into classes by size, each eight times the one below; as soon as a class has
 * eight, they become one or a few of a higher class.  A record is so rewritten once a class at
 * most, and a repository of any size has at most seven segments a class beside the full ones, which
 * are never touched again.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/log.h"
#include "repo/index-private.h"

#define MERGE_FANOUT       8u
#define SMALLEST_CLASS_MAX 4096u /* records */
/* A segment of this many records is full: it would hardly fit with another. */
#define FULL_RECORDS (INDEX_SEGMENT_RECORDS_MAX / 2)
#define CLASS_MAX    4u
#define ROUNDS_MAX   64u

static_assert(((uint64_t)SMALLEST_CLASS_MAX << (3 * (CLASS_MAX - 1))) >= FULL_RECORDS,
              "every segment that is not full has a class");

static unsigned class_of(const struct segment *segment)
{
    unsigned class = 0;
    uint64_t limit = SMALLEST_CLASS_MAX;
    while (segment->view.record_count >= limit) {
        limit *= MERGE_FANOUT;
        class ++;
    }
    return class;
}

static bool is_full(const struct segment *segment)
{
    return segment->view.record_count >= FULL_RECORDS;
}

/* ---- what to merge ---- */

/* Segments of one class as far as they fit into one, when there are enough of them.  The set is
 * sorted, large ones first, so the small ones are taken from its end. */
static int choose_group(const struct segment_set *set, unsigned class, struct segment_vector *group)
{
    uint32_t in_class = 0;
    uint64_t record_count = 0, pack_count = 0;

    for (size_t i = 0; i < set->count; i++)
        in_class += !is_full(set->segments[i]) && class_of(set->segments[i]) == class;
    segment_vector_clear(group);
    if (in_class < MERGE_FANOUT)
        return 0;
    for (size_t i = set->count; i-- > 0;) {
        struct segment *segment = set->segments[i];
        if (is_full(segment) || class_of(segment) != class)
            continue;
        record_count += segment->view.record_count;
        pack_count += segment->view.pack_count;
        if (record_count > INDEX_SEGMENT_RECORDS_MAX || pack_count > INDEX_PACKS_LIMIT)
            break;
        int r = segment_vector_push(group, &segment);
        if (r < 0)
            return error_note(r, "no memory to merge index segments");
    }
    return 0;
}

/* ---- the merged segment ---- */

DEFINE_VECTOR(entry_pointer_vector, const struct index_pack_entry *);

static int compare_entries(const void *a, const void *b)
{
    const struct index_pack_entry *const *x = a, *const *y = b;
    return memcmp((*x)->name, (*y)->name, PACK_NAME_LEN);
}

/* The packs of all, sorted, each once. */
static int union_of_packs(const struct segment_vector *group, struct entry_pointer_vector *entries)
{
    for (size_t i = 0; i < group->count; i++) {
        const struct segment_view *view = &group->items[i]->view;
        int r = entry_pointer_vector_reserve(entries, view->pack_count);
        if (r < 0)
            return r;
        for (uint32_t j = 0; j < view->pack_count; j++)
            entries->items[entries->count++] = &view->packs[j];
    }
    if (entries->count > 0)
        qsort(entries->items, entries->count, sizeof(*entries->items), compare_entries);
    size_t kept = 0;
    for (size_t i = 0; i < entries->count; i++) {
        if (kept == 0 || compare_entries(&entries->items[kept - 1], &entries->items[i]) != 0)
            entries->items[kept++] = entries->items[i];
    }
    entries->count = kept;
    return 0;
}

/* Copies the records, with the packs' numbers in the merged table. */
static int copy_records(const struct segment *segment, const struct entry_pointer_vector *entries,
                        struct index_record *out)
{
    const struct segment_view *view = &segment->view;
    CLEANUP_FREE uint32_t *numbers = calloc(view->pack_count + 1u, sizeof(*numbers));
    if (!numbers)
        return -ENOMEM;
    for (uint32_t i = 0; i < view->pack_count; i++) {
        const struct index_pack_entry *entry = &view->packs[i];
        const struct index_pack_entry *const *found = bsearch(
            &entry, entries->items, entries->count, sizeof(*entries->items), compare_entries);
        numbers[i] = (uint32_t)(found - entries->items);
    }
    for (uint32_t i = 0; i < view->record_count; i++) {
        out[i] = view->records[i];
        out[i].pack = le32_make(numbers[le32_get(&view->records[i].pack)]);
    }
    return 0;
}

static int merge_draft(const struct segment_vector *group, struct segment_draft *ret_draft)
{
    CLEANUP(entry_pointer_vector_release) struct entry_pointer_vector entries = {0};
    CLEANUP(segment_draft_release) struct segment_draft draft = {0};
    size_t record_count = 0;

    int r = union_of_packs(group, &entries);
    if (r < 0)
        return error_note(r, "no memory to merge index segments");
    for (size_t i = 0; i < group->count; i++)
        record_count += group->items[i]->view.record_count;
    r = segment_draft_init(&draft, entries.count, record_count);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < entries.count; i++) {
        draft.packs[i] = *entries.items[i];
        draft.packs[i].chunk_count = le32_make(0); /* counted anew */
    }
    struct index_record *out = draft.records;
    for (size_t i = 0; i < group->count; i++) {
        r = copy_records(group->items[i], &entries, out);
        if (r < 0)
            return error_note(r, "no memory to merge index segments");
        out += group->items[i]->view.record_count;
    }
    segment_draft_finish(&draft);
    *ret_draft = draft;
    draft = (struct segment_draft){0};
    return 0;
}

/* ---- replacing ---- */

/* What a damaged cache file says must not get into the repository. */
static int verify_group(const struct segment_vector *group)
{
    for (size_t i = 0; i < group->count; i++) {
        int r = segment_verify_all(group->items[i]);
        if (r < 0)
            return error_note(r, "a cached index segment is damaged");
    }
    return 0;
}

static int remove_objects(struct index *index, const struct segment_vector *group)
{
    for (size_t i = 0; i < group->count; i++) {
        index_object_name name;
        index_object_name_make(group->items[i]->digest, name);
        int r = backend_remove(index->backend, name);
        if (r < 0 && r != -ENOENT) /* gone: another program merges too */
            return r;
        segment_cache_remove(index->cache_dir, group->items[i]->digest);
    }
    return 0;
}

static int merge_group(struct index *index, const struct segment_vector *group)
{
    struct segment_draft draft;
    struct segment *merged = NULL;
    int r = verify_group(group);
    if (r >= 0)
        r = merge_draft(group, &draft);
    if (r >= 0)
        r = index_store_draft(index, &draft, &merged);
    if (r < 0)
        return r;
    r = index_publish(index, group->items, group->count, &merged, 1);
    if (r < 0) {
        segment_free(merged);
        return r;
    }
    log_debug("merged %zu index segments", group->count);
    return remove_objects(index, group);
}

int index_compact(struct index *index)
{
    CLEANUP(segment_vector_release) struct segment_vector group = {0};
    int r = index_refresh(index); /* somebody may have merged already */

    for (unsigned round = 0; r >= 0 && round < ROUNDS_MAX; round++) {
        for (unsigned class = 0; class < CLASS_MAX; class ++) {
            r = choose_group(index_set(index), class, &group);
            if (r < 0 || group.count >= 2)
                break;
        }
        if (r < 0 || group.count < 2)
            return r;
        r = merge_group(index, &group);
    }
    return r;
}
