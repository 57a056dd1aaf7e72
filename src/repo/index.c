/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index: which pack has a chunk, and where.
 *
 * Like the runs of a log-structured merge tree (O'Neil et al., 1996), segments are written once,
 * searched all, and merged when there are many.  Unlike there, nothing is ever overwritten or
 * deleted by key: a segment states facts about immutable packs, so the union of segments is the
 * index, in whatever order and however often each is counted.  From that follows:
 *
 * 1. Writers need no lock among each other.  Each stores segments of its own packs.
 * 2. A merged segment may exist beside those that it replaces, and two programs may merge the same
 *    ones: the next merge drops the duplicates.  Objects are removed only after what replaces them
 *    is durable.
 * 3. A reader that finds a listed segment gone, or sees another list when it lists again, begins
 *    again: a listing taken during a merge may have neither the old objects nor the new one.
 * 4. A segment that does not open is skipped with a warning.  Its packs are in no other segment
 * then (or they are, all the better), so that index_adopt_packs() indexes them anew.
 * 5. A pack stands in a segment with all its chunks.
 * 6. Nothing of a cache file is believed before it was verified (index-segment.c).  A cache file
 *    that turns out to be damaged is replaced from its object, within the lookup that saw it.
 *
 * Memory: the filters, some 1.33 bytes a chunk, are read by every lookup and so stay in memory; 8
 * bytes a pack of numbers and 1 bit for 128 records are on the heap; records are pages of a file
 * that the kernel may drop.
 *
 * Files: index-plain.c the plain form; index-object.c sealed objects; index-filter.c;
 * index-segment.c cache files and searching one; index-merge.c merging; index-adopt.c packs that no
 * segment has.
 *
 * Locks and lifetime: the current set of segments is one atomic pointer to something that never
 * changes, so lookups take no lock.  Sets and segments that were replaced stay until index_free(),
 * which nobody may race with; an index changes some dozen times in a backup, so that this is
 * little. index->lock guards making and publishing a set, and the list of damaged segments.
 */
#include "repo/index.h"

#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/log.h"
#include "repo/index-private.h"

/* Listings until one agrees with the one before. */
#define REFRESH_ROUNDS_MAX 16u

/* Of an object: 32 bytes of its name. */
struct digest {
    uint8_t bytes[32];
};
DEFINE_VECTOR(digest_vector, struct digest);

const struct segment_set *index_set(const struct index *index)
{
    return atomic_load_explicit(&index->set, memory_order_acquire);
}

/* ---- publishing ---- */

static bool is_one_of(const struct segment *segment, struct segment *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i] == segment)
            return true;
    }
    return false;
}

static bool set_has_digest(const struct segment_set *set, const uint8_t digest[32])
{
    for (size_t i = 0; i < set->count; i++) {
        if (memcmp(set->segments[i]->digest, digest, 32) == 0)
            return true;
    }
    return false;
}

/* Large ones first: they have most of the chunks. */
static int compare_segments(const void *a, const void *b)
{
    const struct segment *const *x = a, *const *y = b;
    uint32_t m = (*x)->view.record_count, n = (*y)->view.record_count;
    return (m < n) - (m > n);
}

static int publish_locked(struct index *index, struct segment *const *remove, size_t remove_count,
                          struct segment *const *add, size_t add_count)
{
    struct segment_set *old = atomic_load_explicit(&index->set, memory_order_relaxed);
    size_t room = (old ? old->count : 0) + add_count;
    int r = segment_vector_reserve(&index->owned, add_count);
    if (r < 0)
        return r;
    struct segment_set *set = calloc(1, sizeof(*set) + room * sizeof(struct segment *));
    if (!set)
        return -ENOMEM;
    for (size_t i = 0; old && i < old->count; i++) {
        if (!is_one_of(old->segments[i], remove, remove_count))
            set->segments[set->count++] = old->segments[i];
    }
    for (size_t i = 0; i < add_count; i++) {
        index->owned.items[index->owned.count++] = add[i];
        if (!set_has_digest(set, add[i]->digest))
            set->segments[set->count++] = add[i];
    }
    if (set->count > 0)
        qsort(set->segments, set->count, sizeof(struct segment *), compare_segments);
    set->older = old;
    atomic_store_explicit(&index->set, set, memory_order_release);
    return 0;
}

int index_publish(struct index *index, struct segment *const *remove, size_t remove_count,
                  struct segment *const *add, size_t add_count)
{
    pthread_mutex_lock(&index->lock);
    int r = publish_locked(index, remove, remove_count, add, add_count);
    pthread_mutex_unlock(&index->lock);
    return r < 0 ? error_note(r, "no memory for the index") : 0;
}

/* ---- loading ---- */

bool index_is_damage(int r)
{
    int class = error_class(r);
    return class == EBADMSG || class == EPROTONOSUPPORT || class == EOVERFLOW || class == ENODATA ||
           class == EIO;
}

/* open_plain for this index; says once when the cache cannot be written. */
static int open_plain(struct index *index, const uint8_t digest[32], const void *plain, size_t len,
                      struct segment **ret_segment)
{
    int cache_error = 0;
    int r = segment_open_plain(index->cache_dir, digest, plain, len, index->names, ret_segment,
                               &cache_error);
    if (r < 0)
        return r;
    if (cache_error < 0 && !atomic_exchange(&index->cache_warned, true))
        log_warning("the index is not cached: %s", error_text(cache_error));
    return 0;
}

int index_load_segment(struct index *index, const uint8_t digest[32], struct segment **ret_segment)
{
    CLEANUP_FREE void *plain = NULL;
    size_t len = 0;
    int r = -ENOENT;
    if (index->cache_dir)
        r = segment_open_cached(index->cache_dir, digest, index->names, ret_segment);
    if (r != -ENOENT)
        return r;
    r = segment_object_load(index->backend, index->keyring, digest, &plain, &len);
    return r < 0 ? r : open_plain(index, digest, plain, len, ret_segment);
}

int index_store_draft(struct index *index, struct segment_draft *draft,
                      struct segment **ret_segment)
{
    uint8_t digest[32];
    int r = segment_object_store(index->backend, index->keyring, draft->plain.data,
                                 draft->plain.len, digest);
    if (r >= 0)
        r = open_plain(index, digest, draft->plain.data, draft->plain.len, ret_segment);
    segment_draft_release(draft);
    return r;
}

int index_hold_draft(struct index *index, struct segment_draft *draft, struct segment **ret_segment)
{
    uint8_t digest[32]; /* of what no object has: it is no object's name */
    int cache_error = 0;
    int r = sha256(&(struct iovec){draft->plain.data, draft->plain.len}, 1, digest);
    if (r >= 0)
        r = segment_open_plain(NULL, digest, draft->plain.data, draft->plain.len, index->names,
                               ret_segment, &cache_error);
    segment_draft_release(draft);
    return r;
}

static int note_damaged_locked(struct index *index, const uint8_t digest[32], int error)
{
    struct damaged_segment entry = {0};
    index_object_name_make(digest, entry.name);
    for (size_t i = 0; i < index->damaged.count; i++) {
        if (strcmp(index->damaged.items[i].name, entry.name) == 0)
            return 0; /* said before */
    }
    error_save(&entry.why, error);
    log_warning("index segment is not usable, going on without it: %s", entry.why.text);
    return damaged_vector_push(&index->damaged, &entry);
}

static int note_damaged(struct index *index, const uint8_t digest[32], int error)
{
    pthread_mutex_lock(&index->lock);
    int r = note_damaged_locked(index, digest, error);
    pthread_mutex_unlock(&index->lock);
    return r;
}

/* ---- following the repository ---- */

static int collect_digest(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    struct digest digest;
    if (index_object_name_parse(name, digest.bytes) < 0)
        return 0; /* check names such things */
    return digest_vector_push(userdata, &digest);
}

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct digest));
}

static int list_digests(struct index *index, struct digest_vector *digests)
{
    digest_vector_clear(digests);
    int r = backend_list(index->backend, "index/", collect_digest, digests);
    if (r < 0)
        return r;
    if (digests->count > 0)
        qsort(digests->items, digests->count, sizeof(struct digest), compare_digests);
    return 0;
}

static bool digests_have(const struct digest_vector *digests, const uint8_t digest[32])
{
    return digests->count > 0 && bsearch(digest, digests->items, digests->count,
                                         sizeof(struct digest), compare_digests) != NULL;
}

static bool digests_equal(const struct digest_vector *a, const struct digest_vector *b)
{
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->items, b->items, a->count * sizeof(struct digest)) == 0);
}

static void segments_free(struct segment_vector *segments)
{
    for (size_t i = 0; i < segments->count; i++)
        segment_free(segments->items[i]);
    segment_vector_release(segments);
}

/* Opens what is listed and not in the set.  *ret_gone: some went meanwhile. */
static int load_missing(struct index *index, const struct segment_set *set,
                        const struct digest_vector *listed, struct segment_vector *loaded,
                        bool *ret_gone)
{
    *ret_gone = false;
    for (size_t i = 0; i < listed->count; i++) {
        const uint8_t *digest = listed->items[i].bytes;
        struct segment *segment = NULL;
        if (set_has_digest(set, digest))
            continue;
        int r = index_load_segment(index, digest, &segment);
        if (r == -ENOENT) {
            *ret_gone = true;
            continue;
        }
        if (r < 0 && index_is_damage(r)) {
            r = note_damaged(index, digest, r);
            if (r < 0)
                return r;
            continue;
        }
        if (r >= 0) {
            r = segment_vector_push(loaded, &segment);
            if (r < 0)
                segment_free(segment);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* Makes the set that of a listing.  Segments that another thread published since the set was read
 * stay. */
static int follow_listing(struct index *index, const struct segment_set *set,
                          const struct digest_vector *listed, bool *ret_gone)
{
    CLEANUP(segments_free) struct segment_vector loaded = {0};
    CLEANUP(segment_vector_release) struct segment_vector unlisted = {0};
    int r = load_missing(index, set, listed, &loaded, ret_gone);
    for (size_t i = 0; r >= 0 && i < set->count; i++) {
        if (!digests_have(listed, set->segments[i]->digest))
            r = segment_vector_push(&unlisted, &set->segments[i]);
    }
    if (r < 0 || (loaded.count == 0 && unlisted.count == 0))
        return r;
    r = index_publish(index, unlisted.items, unlisted.count, loaded.items, loaded.count);
    if (r >= 0)
        segment_vector_release(&loaded); /* the index owns them */
    return r;
}

int index_refresh(struct index *index)
{
    CLEANUP(digest_vector_release) struct digest_vector listed = {0};
    CLEANUP(digest_vector_release) struct digest_vector before = {0};
    bool gone = false;

    for (unsigned round = 0; round < REFRESH_ROUNDS_MAX; round++) {
        const struct segment_set *set = index_set(index);
        int r = list_digests(index, &listed);
        if (r < 0)
            return r;
        if (round > 0 && !gone && digests_equal(&listed, &before))
            return 0;
        r = follow_listing(index, set, &listed, &gone);
        if (r < 0)
            return r;
        const struct digest_vector spare = before;
        before = listed;
        listed = spare;
    }
    return error_note(-EBUSY, "the index of '%s' changes faster than it can be read",
                      index->backend->url);
}

/* ---- opening and closing ---- */

void index_free(struct index *index)
{
    if (!index)
        return;
    struct segment_set *set = atomic_load_explicit(&index->set, memory_order_relaxed);
    while (set) {
        struct segment_set *older = set->older;
        free(set);
        set = older;
    }
    segments_free(&index->owned);
    damaged_vector_release(&index->damaged);
    pthread_mutex_destroy(&index->lock);
    free(index->cache_dir);
    free(index);
}

int index_open(struct backend *backend, const struct keyring *keyring, const char *cache_dir,
               struct pack_table *names, struct index **ret_index)
{
    CLEANUP(index_freep) struct index *index = calloc(1, sizeof(*index));
    if (!index)
        return error_note(-ENOMEM, "no memory for the index");
    (void)pthread_mutex_init(&index->lock, NULL);
    index->backend = backend;
    index->keyring = keyring;
    index->names = names;
    if (cache_dir) {
        index->cache_dir = strdup(cache_dir);
        if (!index->cache_dir)
            return error_note(-ENOMEM, "no memory for the index");
    }
    int r = index_publish(index, NULL, 0, NULL, 0);
    if (r >= 0)
        r = index_refresh(index);
    if (r < 0)
        return r;
    if (cache_dir)
        segment_cache_sweep(cache_dir, &index->owned);
    *ret_index = TAKE_PTR(index);
    return 0;
}

/* ---- looking up ---- */

/* Replaces a segment whose cache file turned out to be damaged.  The lock is held while the object
 * is read: other lookups that stumble over it wait for the new one, all others are not concerned.
 */
static int repair_locked(struct index *index, struct segment *bad)
{
    struct segment *fresh = NULL;
    const struct segment_set *set = index_set(index);
    if (!is_one_of(bad, set->segments, set->count))
        return 0; /* somebody was faster */
    index_object_name name;
    index_object_name_make(bad->digest, name);
    log_warning("cached copy of %s is damaged, making it again", name);
    segment_cache_remove(index->cache_dir, bad->digest);
    int r = index_load_segment(index, bad->digest, &fresh);
    if (r < 0) {
        int saved = r;
        r = note_damaged_locked(index, bad->digest, saved);
        return r < 0 ? r : publish_locked(index, &bad, 1, NULL, 0);
    }
    r = publish_locked(index, &bad, 1, &fresh, 1);
    if (r < 0)
        segment_free(fresh);
    return r;
}

int index_repair(const struct index *index, struct segment *bad)
{
    struct index *mutable = (struct index *)(uintptr_t)index; /* outwardly it does not change */
    pthread_mutex_lock(&mutable->lock);
    int r = repair_locked(mutable, bad);
    pthread_mutex_unlock(&mutable->lock);
    return r;
}

/* *ret_bad: a segment that could not be searched, when the chunk is in no other. */
static bool set_lookup(const struct segment_set *set, const struct chunk_id *id,
                       struct index_hit *ret_hit, struct segment **ret_bad)
{
    *ret_bad = NULL;
    for (size_t i = 0; i < set->count; i++) {
        struct segment *segment = set->segments[i];
        uint32_t position;
        if (!filter_may_contain(segment->filter, segment->filter_block_count, id->bytes))
            continue;
        int r = segment_find(segment, id->bytes, &position);
        if (r < 0)
            *ret_bad = segment;
        if (r <= 0)
            continue;
        segment_fill_hit(segment, position, ret_hit);
        return true;
    }
    return false;
}

bool index_lookup(const struct index *index, const struct chunk_id *id, struct index_hit *ret_hit)
{
    for (unsigned repairs = 0; repairs <= INDEX_REPAIRS_MAX; repairs++) {
        struct segment *bad;
        if (set_lookup(index_set(index), id, ret_hit, &bad))
            return true;
        if (!bad || index_repair(index, bad) < 0)
            return false;
    }
    return false;
}

bool index_has_pack(const struct index *index, const struct pack_name *name)
{
    const struct segment_set *set = index_set(index);
    uint32_t position;
    for (size_t i = 0; i < set->count; i++) {
        if (segment_find_pack(set->segments[i], name, &position) == 0)
            return true;
    }
    return false;
}

/* ---- adding ---- */

static int add_segment(struct index *index, const struct index_pack *packs, size_t count)
{
    struct segment_draft draft;
    struct segment *segment = NULL;
    int r = segment_draft_from_packs(packs, count, &draft);
    if (r >= 0)
        r = index_store_draft(index, &draft, &segment);
    if (r < 0)
        return r;
    r = index_publish(index, NULL, 0, &segment, 1);
    if (r < 0)
        segment_free(segment);
    return r;
}

int index_add_packs(struct index *index, const struct index_pack *packs, size_t count)
{
    size_t first = 0, record_count = 0;
    for (size_t i = 0; i < count; i++) {
        size_t chunk_count = packs[i].directory->chunks.count;
        if (packs[i].size_bytes > PACK_LEN_MAX)
            return error_note(-EINVAL, "a pack of %llu bytes cannot be indexed",
                              (unsigned long long)packs[i].size_bytes);
        if (i > first && (record_count + chunk_count > INDEX_SEGMENT_RECORDS_MAX ||
                          i - first >= INDEX_PACKS_LIMIT)) {
            int r = add_segment(index, packs + first, i - first);
            if (r < 0)
                return r;
            first = i;
            record_count = 0;
        }
        record_count += chunk_count;
    }
    return first < count ? add_segment(index, packs + first, count - first) : 0;
}

/* ---- telling ---- */

/* Which packs have been seen, by their numbers. */
struct pack_marks {
    uint64_t *words;
    uint32_t count;
};

static int pack_marks_init(struct pack_marks *marks, const struct index *index)
{
    marks->count = pack_table_count(index->names);
    marks->words = calloc(marks->count / 64 + 1, sizeof(*marks->words));
    return marks->words ? 0 : error_note(-ENOMEM, "no memory for a list of packs");
}

/* Whether it is marked for the first time. */
static bool pack_marks_set(struct pack_marks *marks, uint32_t pack_no)
{
    uint64_t bit = UINT64_C(1) << (pack_no % 64);
    if (pack_no >= marks->count || marks->words[pack_no / 64] & bit)
        return false;
    marks->words[pack_no / 64] |= bit;
    return true;
}

int index_each_pack(const struct index *index,
                    int (*fn)(const struct pack_name *, enum pack_kind, uint64_t, void *),
                    void *userdata)
{
    const struct segment_set *set = index_set(index);
    struct pack_marks marks = {0};
    int r = pack_marks_init(&marks, index);
    for (size_t i = 0; r == 0 && i < set->count; i++) {
        const struct segment *segment = set->segments[i];
        for (uint32_t j = 0; r == 0 && j < segment->view.pack_count; j++) {
            const struct index_pack_entry *entry = &segment->view.packs[j];
            struct pack_name name;
            if (!pack_marks_set(&marks, segment->pack_numbers[j]))
                continue;
            memcpy(name.bytes, entry->name, PACK_NAME_LEN);
            r = fn(&name, (enum pack_kind)entry->kind, le32_get(&entry->size_bytes), userdata);
        }
    }
    free(marks.words);
    return r;
}

static int add_pack_stats(const struct pack_name *name _unused_, enum pack_kind kind _unused_,
                          uint64_t size_bytes, void *userdata)
{
    struct index_stats *stats = userdata;
    stats->pack_count++;
    stats->pack_bytes += size_bytes;
    return 0;
}

void index_stats(const struct index *index, struct index_stats *ret_stats)
{
    const struct segment_set *set = index_set(index);
    struct index_stats stats = {.segment_count = set->count};
    for (size_t i = 0; i < set->count; i++) {
        stats.chunk_count += set->segments[i]->view.record_count;
        stats.filter_bytes += (uint64_t)set->segments[i]->filter_block_count * INDEX_FILTER_BLOCK;
    }
    if (index_each_pack(index, add_pack_stats, &stats) < 0)
        log_warning("packs are not counted: no memory");
    *ret_stats = stats;
}

int index_each_damaged(const struct index *index,
                       int (*fn)(const char *object_name, const char *why, void *), void *userdata)
{
    struct index *mutable = (struct index *)(uintptr_t)index;
    int r = 0;
    pthread_mutex_lock(&mutable->lock);
    for (size_t i = 0; r == 0 && i < index->damaged.count; i++)
        r = fn(index->damaged.items[i].name, index->damaged.items[i].why.text, userdata);
    pthread_mutex_unlock(&mutable->lock);
    return r;
}
