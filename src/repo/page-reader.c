/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Catalog pages out of the repository.
 *
 * A frame holds several pages, and walks read one after the other: so whole plain frames are kept,
 * the most recently used ones up to CACHE_BYTES_MAX.  A page is verified against its id each time
 * it is handed out, which costs less than its caller's decoding of it, and means that a page has
 * been checked whichever way it came.
 *
 * Locks: cache_lock guards the cached frames; codec_lock the codec, and is held while a frame is
 * read.  cache_lock is never held while codec_lock is taken.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/vector.h"
#include "repo/repository-private.h"

#define CACHE_BYTES_MAX  (16u << 20)
#define CACHE_FRAMES_MAX 1024u
#define CODEC_LEVEL      1 /* it only ever opens */

struct cached_frame {
    struct chunk_location location; /* chunk_offset is 0 */
    uint8_t *plain;
    size_t len;
    uint64_t last_used;
};
DEFINE_VECTOR(cached_frame_vector, struct cached_frame);

struct page_reader {
    struct repository *repo;
    struct catalog_store store;

    pthread_mutex_t codec_lock;
    struct frame_codec *codec;

    pthread_mutex_t cache_lock;
    struct cached_frame_vector frames;
    size_t cached_bytes;
    uint64_t clock;
};

static bool same_frame(const struct chunk_location *a, const struct chunk_location *b)
{
    return a->pack_no == b->pack_no && a->frame_offset == b->frame_offset &&
           a->frame_len == b->frame_len;
}

static void evict_oldest_locked(struct page_reader *reader)
{
    size_t oldest = 0;

    for (size_t i = 1; i < reader->frames.count; i++) {
        if (reader->frames.items[i].last_used < reader->frames.items[oldest].last_used)
            oldest = i;
    }
    reader->cached_bytes -= reader->frames.items[oldest].len;
    free(reader->frames.items[oldest].plain);
    reader->frames.items[oldest] = reader->frames.items[--reader->frames.count];
}

/* Keeps a copy; without memory for it nothing is kept. */
static void cache_add(struct page_reader *reader, const struct chunk_location *location,
                      const uint8_t *plain, size_t len)
{
    uint8_t *copy = malloc(len);
    if (!copy)
        return;
    memcpy(copy, plain, len);

    struct cached_frame frame = {.location = *location, .plain = copy, .len = len};
    frame.location.chunk_offset = 0;
    pthread_mutex_lock(&reader->cache_lock);
    while (reader->frames.count > 0 && (reader->cached_bytes + len > CACHE_BYTES_MAX ||
                                        reader->frames.count >= CACHE_FRAMES_MAX))
        evict_oldest_locked(reader);
    frame.last_used = ++reader->clock;
    bool kept = cached_frame_vector_push(&reader->frames, &frame) == 0;
    if (kept)
        reader->cached_bytes += len;
    pthread_mutex_unlock(&reader->cache_lock);
    if (!kept)
        free(copy);
}

static int copy_page(const uint8_t *plain, size_t plain_len, const struct chunk_ref *ref,
                     uint8_t **ret_page)
{
    uint32_t offset = ref->location.chunk_offset;
    if (offset > plain_len || ref->len > plain_len - offset)
        return error_note(-UMBRA_E_CORRUPT, "a page is said to end beyond its frame");
    uint8_t *page = malloc(ref->len);
    if (!page)
        return error_note(-ENOMEM, "no memory for a page");
    memcpy(page, plain + offset, ref->len);
    *ret_page = page;
    return 0;
}

/* 1 and a copy when the frame is cached, else 0. */
static int cache_get(struct page_reader *reader, const struct chunk_ref *ref, uint8_t **ret_page)
{
    int r = 0;

    pthread_mutex_lock(&reader->cache_lock);
    for (size_t i = 0; i < reader->frames.count; i++) {
        struct cached_frame *frame = &reader->frames.items[i];
        if (!same_frame(&frame->location, &ref->location))
            continue;
        frame->last_used = ++reader->clock;
        r = copy_page(frame->plain, frame->len, ref, ret_page);
        r = r < 0 ? r : 1;
        break;
    }
    pthread_mutex_unlock(&reader->cache_lock);
    return r;
}

static int read_frame_of_page(struct page_reader *reader, const struct chunk_ref *ref,
                              uint8_t **ret_page)
{
    const uint8_t *plain = NULL;
    size_t plain_len = 0;

    pthread_mutex_lock(&reader->codec_lock);
    int r = repository_read_frame(reader->repo, reader->codec, CHUNK_META, &ref->location, &plain,
                                  &plain_len);
    if (r == 0)
        r = copy_page(plain, plain_len, ref, ret_page);
    if (r == 0)
        cache_add(reader, &ref->location, plain, plain_len);
    pthread_mutex_unlock(&reader->codec_lock);
    return r;
}

/* By the hint alone, through the cache. */
static int get_hinted(struct page_reader *reader, const struct chunk_ref *ref, void **ret_page)
{
    CLEANUP_FREE uint8_t *page = NULL;

    int r = cache_get(reader, ref, &page);
    if (r == 0)
        r = read_frame_of_page(reader, ref, &page);
    if (r < 0)
        return r;
    struct chunk_ref here = *ref;
    here.location.chunk_offset = 0;
    r = chunk_verify(reader->repo, CHUNK_META, &here, page, ref->len);
    if (r < 0)
        return r;
    *ret_page = TAKE_PTR(page);
    return 0;
}

static int get_page(void *userdata, const struct chunk_ref *ref, void **ret_page, size_t *ret_len)
{
    struct page_reader *reader = userdata;

    if (ref->len == 0 || ref->len > CATALOG_PAGE_LEN_MAX)
        return error_note(-UMBRA_E_CORRUPT, "a catalog page of %u bytes cannot be", ref->len);
    int r = get_hinted(reader, ref, ret_page);
    if (r < 0 && r != -ENOMEM) {
        /* Once more in full: the index may know better. */
        pthread_mutex_lock(&reader->codec_lock);
        r = repository_read_chunk(reader->repo, reader->codec, CHUNK_META, ref, ret_page);
        pthread_mutex_unlock(&reader->codec_lock);
    }
    if (r < 0)
        return r;
    *ret_len = ref->len;
    return 0;
}

static int put_page(void *userdata _unused_, const void *page _unused_, size_t len _unused_,
                    struct chunk_ref *ret_ref _unused_)
{
    return error_note(-EROFS, "pages cannot be written through a reader");
}

static int locate(void *userdata _unused_, struct chunk_ref **refs _unused_, size_t n _unused_)
{
    return error_note(-EROFS, "pages cannot be written through a reader");
}

void page_reader_free(struct page_reader *reader)
{
    if (!reader)
        return;
    for (size_t i = 0; i < reader->frames.count; i++)
        free(reader->frames.items[i].plain);
    cached_frame_vector_release(&reader->frames);
    if (reader->codec)
        frame_codec_free(reader->codec);
    pthread_mutex_destroy(&reader->cache_lock);
    pthread_mutex_destroy(&reader->codec_lock);
    free(reader);
}

int page_reader_new(struct repository *repo, struct page_reader **ret_reader)
{
    CLEANUP(page_reader_freep) struct page_reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return error_note(-ENOMEM, "no memory for a reader of pages");
    (void)pthread_mutex_init(&reader->codec_lock, NULL);
    (void)pthread_mutex_init(&reader->cache_lock, NULL);
    reader->repo = repo;
    reader->store = (struct catalog_store){.put_page = put_page,
                                           .locate = locate,
                                           .get_page = get_page,
                                           .userdata = reader,
                                           .names = repo->names};
    int r = frame_codec_new(repo->keyring, CODEC_LEVEL, &reader->codec);
    if (r < 0)
        return r;
    *ret_reader = TAKE_PTR(reader);
    return 0;
}

const struct catalog_store *page_reader_store(struct page_reader *reader)
{
    return &reader->store;
}
