/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lock guards all slots.  A slot that is being loaded belongs to its loader, and one with users
 * stays as it is: reading a frame and copying from it happen without the lock.  Which chunks of a
 * frame have been verified is remembered, so that the second half of a chunk costs no second hash.
 */
#include "repo/frame-cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/vector.h"
#include "repo/repository-private.h"

struct verified {
    uint32_t offset, len; /* in the frame */
    struct chunk_id id;
};
DEFINE_VECTOR(verified_vector, struct verified);

enum slot_state {
    SLOT_EMPTY,
    SLOT_LOADING,
    SLOT_READY,
};

struct slot {
    enum slot_state state;
    unsigned users;
    uint64_t last_used;
    struct chunk_location location; /* chunk_offset is of no account */
    uint8_t *plain;
    size_t len;
    struct verified_vector verified;
};

struct frame_cache {
    struct repository *repo;
    pthread_mutex_t lock;
    pthread_cond_t loaded;
    uint64_t clock;
    size_t slot_count;
    struct slot slots[];
};

int frame_cache_new(struct repository *repo, size_t bytes_max, struct frame_cache **ret_cache)
{
    size_t count = MAX(bytes_max / FRAME_PLAIN_MAX, (size_t)1);
    struct frame_cache *cache = calloc(1, sizeof(*cache) + count * sizeof(struct slot));

    if (!cache)
        return -ENOMEM;
    cache->repo = repo;
    cache->slot_count = count;
    (void)pthread_mutex_init(&cache->lock, NULL);
    (void)pthread_cond_init(&cache->loaded, NULL);
    *ret_cache = cache;
    return 0;
}

void frame_cache_free(struct frame_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < cache->slot_count; i++) {
        free(cache->slots[i].plain);
        verified_vector_release(&cache->slots[i].verified);
    }
    (void)pthread_cond_destroy(&cache->loaded);
    (void)pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static bool same_frame(const struct chunk_location *a, const struct chunk_location *b)
{
    return a->pack_no == b->pack_no && a->frame_offset == b->frame_offset &&
           a->frame_len == b->frame_len;
}

static struct slot *find_locked(struct frame_cache *cache, const struct chunk_location *location)
{
    for (size_t i = 0; i < cache->slot_count; i++) {
        struct slot *slot = &cache->slots[i];
        if (slot->state != SLOT_EMPTY && same_frame(&slot->location, location))
            return slot;
    }
    return NULL;
}

/* One that nobody uses, the one that was not used for longest; NULL: all are in use. */
static struct slot *free_slot_locked(struct frame_cache *cache)
{
    struct slot *oldest = NULL;

    for (size_t i = 0; i < cache->slot_count; i++) {
        struct slot *slot = &cache->slots[i];
        if (slot->state == SLOT_EMPTY)
            return slot;
        if (slot->state == SLOT_READY && slot->users == 0 &&
            (!oldest || slot->last_used < oldest->last_used))
            oldest = slot;
    }
    return oldest;
}

static int load(struct frame_cache *cache, struct frame_codec *codec, struct slot *slot)
{
    const uint8_t *plain;
    size_t len;

    int r = repository_read_frame(cache->repo, codec, CHUNK_DATA, &slot->location, &plain, &len);
    if (r < 0)
        return r;
    slot->plain = malloc(len);
    if (!slot->plain)
        return -ENOMEM;
    memcpy(slot->plain, plain, len);
    slot->len = len;
    return 0;
}

static void load_locked(struct frame_cache *cache, struct frame_codec *codec, struct slot *slot,
                        const struct chunk_location *location, int *ret_result)
{
    free(TAKE_PTR(slot->plain));
    verified_vector_clear(&slot->verified);
    slot->state = SLOT_LOADING;
    slot->location = *location;
    pthread_mutex_unlock(&cache->lock);
    int r = load(cache, codec, slot);
    pthread_mutex_lock(&cache->lock);
    slot->state = r < 0 ? SLOT_EMPTY : SLOT_READY;
    pthread_cond_broadcast(&cache->loaded);
    *ret_result = r;
}

/* The frame's slot, with the caller as a user; *ret_slot NULL: there is no room for it. */
static int take(struct frame_cache *cache, struct frame_codec *codec,
                const struct chunk_location *location, struct slot **ret_slot)
{
    struct slot *slot;
    int r = 0;

    pthread_mutex_lock(&cache->lock);
    while ((slot = find_locked(cache, location)) && slot->state == SLOT_LOADING)
        pthread_cond_wait(&cache->loaded, &cache->lock);
    if (!slot) {
        slot = free_slot_locked(cache);
        if (slot)
            load_locked(cache, codec, slot, location, &r);
    }
    if (r >= 0 && slot) {
        slot->users++;
        slot->last_used = ++cache->clock;
    }
    pthread_mutex_unlock(&cache->lock);
    *ret_slot = slot;
    return r;
}

static void give(struct frame_cache *cache, struct slot *slot)
{
    pthread_mutex_lock(&cache->lock);
    slot->users--;
    pthread_mutex_unlock(&cache->lock);
}

static bool is_verified_locked(const struct slot *slot, const struct chunk_ref *ref)
{
    for (size_t i = slot->verified.count; i > 0; i--) {
        const struct verified *v = &slot->verified.items[i - 1];
        if (v->offset == ref->location.chunk_offset && v->len == ref->len &&
            chunk_id_equal(&v->id, &ref->id))
            return true;
    }
    return false;
}

static int verify(struct frame_cache *cache, struct slot *slot, const struct chunk_ref *ref)
{
    pthread_mutex_lock(&cache->lock);
    bool verified = is_verified_locked(slot, ref);
    pthread_mutex_unlock(&cache->lock);
    if (verified)
        return 0;
    int r = chunk_verify(cache->repo, CHUNK_DATA, ref, slot->plain, slot->len);
    if (r < 0)
        return r;
    struct verified v = {ref->location.chunk_offset, ref->len, ref->id};
    pthread_mutex_lock(&cache->lock);
    /* Without memory it is only hashed again the next time. */
    IGNORE_RESULT(verified_vector_push(&slot->verified, &v));
    pthread_mutex_unlock(&cache->lock);
    return 0;
}

static int read_whole_chunk(struct frame_cache *cache, struct frame_codec *codec,
                            const struct chunk_ref *ref, uint32_t offset, void *to, uint32_t len)
{
    CLEANUP_FREE void *data = NULL;

    int r = repository_read_chunk(cache->repo, codec, CHUNK_DATA, ref, &data);
    if (r >= 0)
        memcpy(to, (uint8_t *)data + offset, len);
    return r;
}

int frame_cache_read(struct frame_cache *cache, struct frame_codec *codec,
                     const struct chunk_ref *ref, uint32_t offset, void *to, uint32_t len)
{
    struct slot *slot = NULL;

    if (offset > ref->len || len > ref->len - offset)
        return error_note(-EINVAL, "a part of a chunk that ends beyond it");
    int r =
        ref->location.pack_no == PACK_NO_NONE ? -ENOENT : take(cache, codec, &ref->location, &slot);
    if (r >= 0 && slot) {
        r = verify(cache, slot, ref);
        if (r >= 0)
            memcpy(to, slot->plain + ref->location.chunk_offset + offset, len);
        give(cache, slot);
        if (r >= 0)
            return 0;
    }
    /* The hint was wrong, or there was no slot: the long way finds it wherever it is. */
    return read_whole_chunk(cache, codec, ref, offset, to, len);
}
