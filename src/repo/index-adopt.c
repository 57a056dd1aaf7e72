/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From packs to index: the ones that an interrupted backup left, or all of them. */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/log.h"
#include "repo/index-private.h"

/* Records read before a segment is written: full segments, but little enough to keep in memory. */
#define BATCH_RECORDS_MAX INDEX_SEGMENT_RECORDS_MAX

struct found_pack {
    struct pack_name name;
    uint64_t size_bytes;
};
DEFINE_VECTOR(found_vector, struct found_pack);

/* Packs whose directories have been read. */
DEFINE_VECTOR(pack_vector, struct index_pack);
DEFINE_VECTOR(directory_vector, struct pack_directory *);

struct adoption {
    struct index *index;
    const struct segment_set *known; /* packs in it are left out; NULL: none are */
    bool borrow;                     /* nothing is stored */
    struct found_vector found;
    struct pack_vector packs;
    struct directory_vector directories;
    size_t record_count;
    struct segment_vector made;
    size_t added_count;
};

static void drop_batch(struct adoption *a)
{
    for (size_t i = 0; i < a->directories.count; i++) {
        pack_directory_release(a->directories.items[i]);
        free(a->directories.items[i]);
    }
    directory_vector_clear(&a->directories);
    pack_vector_clear(&a->packs);
    a->record_count = 0;
}

static void adoption_release(struct adoption *a)
{
    drop_batch(a);
    directory_vector_release(&a->directories);
    pack_vector_release(&a->packs);
    found_vector_release(&a->found);
    for (size_t i = 0; i < a->made.count; i++)
        segment_free(a->made.items[i]);
    segment_vector_release(&a->made);
}

static bool set_has_pack(const struct segment_set *set, const struct pack_name *name)
{
    uint32_t position;
    for (size_t i = 0; set && i < set->count; i++) {
        if (segment_find_pack(set->segments[i], name, &position) == 0)
            return true;
    }
    return false;
}

static int collect_pack(const char *object_name, uint64_t size_bytes, void *userdata)
{
    struct adoption *a = userdata;
    struct found_pack found = {.size_bytes = size_bytes};
    if (pack_name_parse(object_name, &found.name) < 0 || set_has_pack(a->known, &found.name))
        return 0;
    return found_vector_push(&a->found, &found);
}

/* Makes a segment of the batch, to be published later. */
static int flush_batch(struct adoption *a)
{
    struct segment_draft draft;
    struct segment *segment = NULL;
    if (a->packs.count == 0)
        return 0;
    int r = segment_vector_reserve(&a->made, 1);
    if (r >= 0)
        r = segment_draft_from_packs(a->packs.items, a->packs.count, &draft);
    if (r >= 0)
        r = (a->borrow ? index_hold_draft : index_store_draft)(a->index, &draft, &segment);
    if (r < 0)
        return r;
    a->made.items[a->made.count++] = segment;
    a->added_count += a->packs.count;
    drop_batch(a);
    return 0;
}

static int add_to_batch(struct adoption *a, const struct found_pack *found,
                        struct pack_directory *directory)
{
    if (a->record_count + directory->chunks.count > BATCH_RECORDS_MAX ||
        a->packs.count >= INDEX_PACKS_LIMIT) {
        int r = flush_batch(a);
        if (r < 0)
            return r;
    }
    const struct index_pack pack = {
        .name = found->name, .size_bytes = found->size_bytes, .directory = directory};
    int r = directory_vector_reserve(&a->directories, 1);
    if (r >= 0)
        r = pack_vector_push(&a->packs, &pack);
    if (r < 0)
        return r;
    a->directories.items[a->directories.count++] = directory;
    a->record_count += directory->chunks.count;
    return 0;
}

static int adopt_pack(struct adoption *a, const struct found_pack *found)
{
    struct pack_directory *directory = calloc(1, sizeof(*directory));
    if (!directory)
        return error_note(-ENOMEM, "no memory for a pack's directory");
    int r = pack_read_directory(a->index->backend, a->index->keyring, &found->name,
                                found->size_bytes, directory);
    if (r < 0) {
        free(directory);
        if (index_is_damage(r) && !a->borrow)
            log_warning("a pack is left out of the index: %s", error_text(r));
        return r == -ENOENT || index_is_damage(r) ? 0 : r;
    }
    r = add_to_batch(a, found, directory);
    if (r < 0) {
        pack_directory_release(directory);
        free(directory);
    }
    return r;
}

static int adopt_all(struct adoption *a)
{
    int r = backend_list(a->index->backend, "packs/", collect_pack, a);
    for (size_t i = 0; r >= 0 && i < a->found.count; i++)
        r = adopt_pack(a, &a->found.items[i]);
    return r < 0 ? r : flush_batch(a);
}

/* The index owns the new segments afterwards. */
static int publish_made(struct adoption *a, struct segment *const *remove, size_t remove_count)
{
    int r = index_publish(a->index, remove, remove_count, a->made.items, a->made.count);
    if (r >= 0)
        segment_vector_clear(&a->made);
    return r;
}

static int adopt_unknown(struct index *index, bool borrow, size_t *ret_count)
{
    CLEANUP(adoption_release)
    struct adoption a = {.index = index, .known = index_set(index), .borrow = borrow};
    int r = adopt_all(&a);
    /* What was stored is good, whatever happened after it. */
    int publish_r = a.made.count > 0 ? publish_made(&a, NULL, 0) : 0;
    if (r < 0 || publish_r < 0)
        return r < 0 ? r : publish_r;
    *ret_count = a.added_count;
    return 0;
}

int index_adopt_packs(struct index *index, size_t *ret_count)
{
    int r = index_refresh(index);
    return r < 0 ? r : adopt_unknown(index, false, ret_count);
}

int index_borrow_packs(struct index *index, size_t *ret_count)
{
    return adopt_unknown(index, true, ret_count);
}

/* ---- from nothing ---- */

struct old_object {
    uint8_t digest[32];
};
DEFINE_VECTOR(old_vector, struct old_object);

static int collect_old(const char *object_name, uint64_t size_bytes _unused_, void *userdata)
{
    struct old_object old;
    if (index_object_name_parse(object_name, old.digest) < 0)
        return 0;
    return old_vector_push(userdata, &old);
}

/* Segments that others store meanwhile are not among these, and stay. */
static int remove_old(struct index *index, const struct old_vector *old)
{
    for (size_t i = 0; i < old->count; i++) {
        index_object_name name;
        index_object_name_make(old->items[i].digest, name);
        int r = backend_remove(index->backend, name);
        if (r < 0 && r != -ENOENT)
            return r;
        segment_cache_remove(index->cache_dir, old->items[i].digest);
    }
    pthread_mutex_lock(&index->lock);
    damaged_vector_clear(&index->damaged);
    pthread_mutex_unlock(&index->lock);
    return 0;
}

int index_rebuild(struct index *index)
{
    CLEANUP(old_vector_release) struct old_vector old = {0};
    CLEANUP(adoption_release) struct adoption a = {.index = index};
    const struct segment_set *set = index_set(index);

    int r = backend_list(index->backend, "index/", collect_old, &old);
    if (r >= 0)
        r = adopt_all(&a);
    if (r >= 0)
        r = publish_made(&a, set->segments, set->count);
    return r < 0 ? r : remove_old(index, &old);
}
