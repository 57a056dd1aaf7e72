/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The deduplicating writer.
 *
 *     writer_put()          frame_run()              store_run()                 index_flush()
 *     id, lookup     -->    compress, seal,   -->    SHA-256, put,        -->    index segment
 *     fill a frame          add to the pack          durable                     forget in fresh
 * table (any thread)          (a task of the pool)     (a task of the store pool)  (in a store
 * task)
 *
 * Chunks are looked up before anything else is done with them: first in the index, then in the
 * table of fresh chunks, those that this writer has taken in and that no segment names yet.  New
 * ones go into the frame of the caller's stream.  A full frame is compressed and sealed by
 * whichever thread is free, so that one large file keeps all processors busy, and is added to the
 * open pack of its kind.  A full pack is stored by a pool of its own, since that waits for the
 * disk.
 *
 * Invariants
 *  1. A reference gets a location only when its pack is durable: what writer_resolve() gives may be
 * written anywhere.
 *  2. A chunk is, at any time after writer_put(), findable: in the fresh table until a segment that
 * names it is searchable, and in the index from then on.
 *  3. At most FRAMES_PER_THREAD frames a thread and STORES_MAX packs wait at any time: memory is
 * bounded however slow the disk is.
 *  4. After a failure everything comes to an end with that error: the first one is kept in `error`,
 * and no pack is stored any more.
 *
 * Locks: one mutex guards everything in struct writer; it is never held while compressing, hashing
 * or doing input and output.  Threads that wait for frames run other tasks meanwhile
 * (pool_run_one), so tasks that wait for tasks cannot starve one another; what store tasks wait for
 * is only the disk.
 */
#include "repo/writer.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "repo/fresh-table.h"

#define FRAMES_PER_THREAD 3u
#define FRAMES_EXTRA      4u
#define STORES_MAX        2u
#define INDEX_FLUSH_RECORDS \
    (256u << 10) /* fresh chunks in durable packs that make a segment worth writing */

struct frame {
    struct pool_task task;
    struct writer *writer;
    struct frame *next; /* while free */
    enum pack_kind kind;
    struct pack_chunk_vector chunks;
    size_t len;
    uint8_t plain[FRAME_PLAIN_MAX];
};

struct writer_stream {
    struct writer *writer;
    struct writer_stream *next; /* while idle */
    struct frame *frame;        /* being filled, or NULL */
};

/* A thread's tools for sealing, kept for the next one. */
struct sealer {
    struct sealer *next;
    struct frame_codec *codec;
    struct buffer sealed;
};

enum pack_state { PACK_OPEN, PACK_DURABLE, PACK_INDEXED };

/* One pack of this writer; its serial is its place in the vector. */
struct written_pack {
    enum pack_state state;
    uint32_t pack_no; /* of repo->names, from DURABLE on */
    struct pack_name name;
    uint64_t size_bytes;
    struct pack_directory directory; /* while DURABLE */
};
DEFINE_VECTOR(written_pack_vector, struct written_pack);

struct open_pack {
    struct pack_builder *builder; /* NULL: none yet */
    uint32_t serial;
    unsigned frames_under_way; /* of this kind, submitted and not yet in a pack */
    unsigned stores_under_way;
};

struct store_task {
    struct pool_task task;
    struct writer *writer;
    struct pack_builder *builder;
    enum pack_kind kind;
    uint32_t serial;
};

struct writer {
    struct repository *repo;
    struct index *index;
    struct pool *pool;
    struct pool *store_pool;
    int zstd_level;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a frame came free, a pack became durable, or something failed */

    struct frame *free_frames;
    unsigned frame_count, frame_count_max;
    struct sealer *free_sealers;
    struct writer_stream *idle_streams;

    struct fresh_table fresh;
    struct open_pack open[PACK_META + 1];
    struct written_pack_vector packs;
    size_t unindexed_records; /* in packs that are DURABLE */
    bool indexing;            /* somebody is writing a segment */

    struct writer_stats stats;
    struct error_report error;
};

static void writer_fail(struct writer *writer, int r)
{
    pthread_mutex_lock(&writer->lock);
    error_save(&writer->error, r);
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
}

int writer_error(struct writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    int r = error_raise(&writer->error);
    pthread_mutex_unlock(&writer->lock);
    return r;
}

/* ---- index segments ---- */

static bool pack_is_indexed(const struct fresh_chunk *chunk, void *userdata)
{
    const struct writer *writer = userdata;
    return chunk->pack_serial != FRESH_NOT_PLACED &&
           writer->packs.items[chunk->pack_serial].state == PACK_INDEXED;
}

DEFINE_VECTOR(index_pack_vector, struct index_pack);
DEFINE_VECTOR(serial_vector, uint32_t);

/* The packs that are durable and in no segment yet, each directory now owned by the caller. */
static int collect_unindexed_locked(struct writer *writer, struct index_pack_vector *packs,
                                    struct serial_vector *serials)
{
    for (uint32_t serial = 0; serial < writer->packs.count; serial++) {
        const struct written_pack *pack = &writer->packs.items[serial];
        if (pack->state != PACK_DURABLE)
            continue;
        struct pack_directory *directory = malloc(sizeof(*directory));
        if (!directory)
            return -ENOMEM;
        *directory = pack->directory;
        struct index_pack item = {
            .name = pack->name, .size_bytes = pack->size_bytes, .directory = directory};
        int r = index_pack_vector_push(packs, &item);
        if (r >= 0)
            r = serial_vector_push(serials, &serial);
        if (r < 0) {
            free(directory);
            return r;
        }
    }
    return 0;
}

static void mark_indexed_locked(struct writer *writer, const struct serial_vector *serials)
{
    for (size_t i = 0; i < serials->count; i++) {
        struct written_pack *pack = &writer->packs.items[serials->items[i]];
        assert(pack->state == PACK_DURABLE);
        pack->state = PACK_INDEXED;
        writer->unindexed_records -= pack->directory.chunks.count;
        pack_directory_release(&pack->directory);
    }
}

static int write_segment(struct writer *writer, const struct index_pack_vector *packs,
                         const struct serial_vector *serials)
{
    if (packs->count == 0)
        return 0;
    int r = index_add_packs(writer->index, packs->items, packs->count);
    if (r < 0)
        return r;
    pthread_mutex_lock(&writer->lock);
    mark_indexed_locked(writer, serials);
    r = fresh_table_drop(&writer->fresh, pack_is_indexed, writer);
    pthread_mutex_unlock(&writer->lock);
    return r;
}

/* Makes one segment of all durable packs that have none.  One thread at a time: others leave at
 * once. */
static int index_flush(struct writer *writer)
{
    struct index_pack_vector packs = {0};
    struct serial_vector serials = {0};

    pthread_mutex_lock(&writer->lock);
    if (writer->indexing) {
        pthread_mutex_unlock(&writer->lock);
        return 0;
    }
    writer->indexing = true;
    int r = collect_unindexed_locked(writer, &packs, &serials);
    pthread_mutex_unlock(&writer->lock);

    if (r >= 0)
        r = write_segment(writer, &packs, &serials);

    for (size_t i = 0; i < packs.count; i++)
        free((void *)(uintptr_t)packs.items[i].directory);
    index_pack_vector_release(&packs);
    serial_vector_release(&serials);
    pthread_mutex_lock(&writer->lock);
    writer->indexing = false;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    return r;
}

/* ---- packs ---- */

/* The pack is durable: from here on its chunks can be resolved. */
static int note_durable(struct store_task *store, const struct pack_name *name, uint64_t size_bytes,
                        bool *ret_flush)
{
    struct writer *writer = store->writer;
    uint32_t pack_no;
    int r = pack_table_intern(writer->repo->names, name, &pack_no);
    if (r < 0)
        return r;

    struct pack_directory directory;
    pack_builder_take_directory(store->builder, &directory);
    pthread_mutex_lock(&writer->lock);
    struct written_pack *pack = &writer->packs.items[store->serial];
    *pack = (struct written_pack){
        .state = PACK_DURABLE,
        .pack_no = pack_no,
        .name = *name,
        .size_bytes = size_bytes,
        .directory = directory,
    };
    writer->unindexed_records += directory.chunks.count;
    writer->stats.stored_bytes += size_bytes;
    if (store->kind == PACK_DATA)
        writer->stats.pack_count++;
    *ret_flush = writer->unindexed_records >= INDEX_FLUSH_RECORDS;
    pthread_mutex_unlock(&writer->lock);
    return 0;
}

static int store_pack(struct store_task *store, bool *ret_flush)
{
    struct pack_name name;
    uint64_t size_bytes;
    int r = writer_error(store->writer);
    if (r < 0)
        return r;
    r = pack_builder_store(store->builder, store->writer->repo->backend, &name, &size_bytes);
    if (r < 0)
        return r;
    return note_durable(store, &name, size_bytes, ret_flush);
}

static void store_run(struct pool_task *task)
{
    struct store_task *store = CONTAINER_OF(task, struct store_task, task);
    struct writer *writer = store->writer;
    bool flush = false;

    int r = store_pack(store, &flush);
    pack_builder_free(store->builder);
    if (r >= 0 && flush)
        r = index_flush(writer);

    pthread_mutex_lock(&writer->lock);
    if (r < 0)
        error_save(&writer->error, r);
    writer->open[store->kind].stores_under_way--;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    free(store);
}

static unsigned stores_under_way_locked(const struct writer *writer)
{
    return writer->open[PACK_DATA].stores_under_way + writer->open[PACK_META].stores_under_way;
}

/* Hands the open pack of a kind to the store pool, once there is room there; others may have done
 * so meanwhile. */
static int close_pack_locked(struct writer *writer, enum pack_kind kind)
{
    const uint32_t serial = writer->open[kind].serial;
    while (stores_under_way_locked(writer) >= STORES_MAX && writer->error.code == 0)
        pthread_cond_wait(&writer->changed, &writer->lock);
    struct open_pack *open = &writer->open[kind];
    if (writer->error.code != 0 || !open->builder || open->serial != serial)
        return error_raise(&writer->error);

    struct store_task *store = malloc(sizeof(*store));
    if (!store)
        return -ENOMEM;
    *store = (struct store_task){
        .task.run = store_run,
        .writer = writer,
        .builder = TAKE_PTR(open->builder),
        .kind = kind,
        .serial = open->serial,
    };
    open->stores_under_way++;
    pool_submit(writer->store_pool, &store->task, POOL_NORMAL);
    return 0;
}

static int open_pack_locked(struct writer *writer, enum pack_kind kind)
{
    struct open_pack *open = &writer->open[kind];
    if (open->builder)
        return 0;
    struct written_pack pack = {.state = PACK_OPEN};
    int r = written_pack_vector_push(&writer->packs, &pack);
    if (r < 0)
        return r;
    r = pack_builder_new(writer->repo->keyring, kind, &open->builder);
    if (r < 0)
        return r;
    open->serial = (uint32_t)(writer->packs.count - 1);
    return 0;
}

/* ---- frames ---- */

/* Tells the fresh table where the frame's chunks have come to lie. */
static void place_chunks_locked(struct writer *writer, const struct frame *frame, uint32_t serial,
                                uint32_t frame_offset, uint32_t frame_len)
{
    uint32_t chunk_offset = 0;
    for (size_t i = 0; i < frame->chunks.count; i++) {
        struct fresh_chunk *chunk = fresh_table_find(&writer->fresh, &frame->chunks.items[i].id);
        assert(chunk);
        assert(chunk->pack_serial == FRESH_NOT_PLACED);
        chunk->pack_serial = serial;
        chunk->frame_offset = frame_offset;
        chunk->frame_len = frame_len;
        chunk->chunk_offset = chunk_offset;
        chunk_offset += chunk->len;
    }
    assert(chunk_offset == frame->len);
}

static int add_frame_locked(struct writer *writer, const struct frame *frame,
                            const struct buffer *sealed)
{
    if (writer->error.code != 0)
        return error_raise(&writer->error);
    int r = open_pack_locked(writer, frame->kind);
    if (r < 0)
        return r;
    struct open_pack *open = &writer->open[frame->kind];
    uint32_t offset;
    r = pack_builder_add(open->builder, sealed->data, sealed->len, frame->chunks.items,
                         frame->chunks.count, &offset);
    if (r < 0)
        return r;
    place_chunks_locked(writer, frame, open->serial, offset, (uint32_t)sealed->len);
    if (pack_builder_is_full(open->builder, writer->repo->config.pack_target_bytes))
        return close_pack_locked(writer, frame->kind);
    return 0;
}

static void sealer_free(struct sealer *sealer)
{
    if (!sealer)
        return;
    frame_codec_free(sealer->codec);
    buffer_release(&sealer->sealed);
    free(sealer);
}
DEFINE_CLEANUP_PTR(struct sealer *, sealer_free);

static int sealer_acquire(struct writer *writer, struct sealer **ret_sealer)
{
    pthread_mutex_lock(&writer->lock);
    struct sealer *free_one = writer->free_sealers;
    if (free_one)
        writer->free_sealers = free_one->next;
    pthread_mutex_unlock(&writer->lock);
    if (free_one) {
        *ret_sealer = free_one;
        return 0;
    }

    CLEANUP(sealer_freep) struct sealer *sealer = calloc(1, sizeof(*sealer));
    if (!sealer)
        return -ENOMEM;
    int r = frame_codec_new(writer->repo->keyring, writer->zstd_level, &sealer->codec);
    if (r < 0)
        return r;
    *ret_sealer = TAKE_PTR(sealer);
    return 0;
}

static int seal_into_pack(struct frame *frame)
{
    struct writer *writer = frame->writer;
    struct sealer *sealer = NULL;
    int r = sealer_acquire(writer, &sealer);
    if (r < 0)
        return r;
    buffer_clear(&sealer->sealed);
    r = frame_seal(sealer->codec, frame->kind, frame->plain, frame->len, &sealer->sealed);

    pthread_mutex_lock(&writer->lock);
    if (r >= 0)
        r = add_frame_locked(writer, frame, &sealer->sealed);
    sealer->next = writer->free_sealers;
    writer->free_sealers = sealer;
    pthread_mutex_unlock(&writer->lock);
    return r;
}

static void frame_run(struct pool_task *task)
{
    struct frame *frame = CONTAINER_OF(task, struct frame, task);
    struct writer *writer = frame->writer;
    int r = seal_into_pack(frame);

    pthread_mutex_lock(&writer->lock);
    if (r < 0)
        error_save(&writer->error, r);
    writer->open[frame->kind].frames_under_way--;
    frame->next = writer->free_frames;
    writer->free_frames = frame;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
}

static void frame_submit(struct writer *writer, struct frame *frame)
{
    pthread_mutex_lock(&writer->lock);
    writer->open[frame->kind].frames_under_way++;
    pthread_mutex_unlock(&writer->lock);
    pool_submit(writer->pool, &frame->task, POOL_HIGH);
}

static struct frame *take_free_frame_locked(struct writer *writer)
{
    struct frame *frame = writer->free_frames;
    if (frame) {
        writer->free_frames = frame->next;
        return frame;
    }
    if (writer->frame_count >= writer->frame_count_max)
        return NULL;
    frame = malloc(sizeof(*frame));
    if (!frame)
        return NULL;
    memset(frame, 0, offsetof(struct frame, plain));
    writer->frame_count++;
    return frame;
}

/* Runs one waiting task, or else sleeps until something changes.  `wanted` is asked under the lock
 * before sleeping. */
static void help_or_wait(struct writer *writer, bool (*wanted)(struct writer *, void *),
                         void *userdata)
{
    if (pool_run_one(writer->pool, POOL_HIGH))
        return;
    pthread_mutex_lock(&writer->lock);
    if (!wanted(writer, userdata) && writer->error.code == 0)
        pthread_cond_wait(&writer->changed, &writer->lock);
    pthread_mutex_unlock(&writer->lock);
}

static bool frame_is_free(struct writer *writer, void *userdata _unused_)
{
    return writer->free_frames || writer->frame_count < writer->frame_count_max;
}

static int frame_acquire(struct writer *writer, enum pack_kind kind, struct frame **ret_frame)
{
    for (;;) {
        pthread_mutex_lock(&writer->lock);
        int r = error_raise(&writer->error);
        bool could = frame_is_free(writer, NULL);
        struct frame *frame = r < 0 ? NULL : take_free_frame_locked(writer);
        pthread_mutex_unlock(&writer->lock);
        if (r < 0)
            return r;
        if (frame) {
            frame->task = (struct pool_task){.run = frame_run};
            frame->writer = writer;
            frame->kind = kind;
            frame->len = 0;
            pack_chunk_vector_clear(&frame->chunks);
            *ret_frame = frame;
            return 0;
        }
        if (could)
            return -ENOMEM;
        help_or_wait(writer, frame_is_free, NULL);
    }
}

static int frame_append(struct frame *frame, const void *data, size_t len,
                        const struct chunk_id *id)
{
    assert(frame->len + len <= FRAME_PLAIN_MAX);
    struct pack_chunk chunk = {.id = *id, .len = (uint32_t)len};
    int r = pack_chunk_vector_push(&frame->chunks, &chunk);
    if (r < 0)
        return r;
    memcpy(frame->plain + frame->len, data, len);
    frame->len += len;
    return 0;
}

/* ---- taking chunks in ---- */

/* Looks the chunk up; *ret_new says that it is now the caller's to put into a frame. */
static int find_or_claim(struct writer *writer, const struct chunk_id *id, size_t len,
                         struct chunk_ref *ret_ref, bool *ret_new)
{
    struct chunk_ref ref = {.id = *id, .len = (uint32_t)len, .location.pack_no = PACK_NO_NONE};
    struct index_hit hit;
    if (index_lookup(writer->index, id, &hit) && hit.len == len) {
        ref.location = hit.location;
        *ret_ref = ref;
        *ret_new = false;
        return 0;
    }

    bool inserted;
    pthread_mutex_lock(&writer->lock);
    int r = error_raise(&writer->error);
    if (r >= 0)
        r = fresh_table_insert(&writer->fresh, id, (uint32_t)len, &inserted);
    pthread_mutex_unlock(&writer->lock);
    if (r < 0)
        return r;
    *ret_ref = ref;
    *ret_new = inserted;
    return 0;
}

static void count_new(struct writer *writer, size_t len)
{
    pthread_mutex_lock(&writer->lock);
    writer->stats.new_chunk_count++;
    writer->stats.new_chunk_bytes += len;
    pthread_mutex_unlock(&writer->lock);
}

int writer_put(struct writer_stream *stream, const void *data, size_t len,
               struct chunk_ref *ret_ref, bool *ret_new)
{
    struct writer *writer = stream->writer;
    struct chunk_id id;
    bool is_new;
    assert(len > 0);
    assert(len <= FRAME_PLAIN_MAX);

    chunk_id_compute(writer->repo->keyring, CHUNK_DATA, data, len, &id);
    int r = find_or_claim(writer, &id, len, ret_ref, &is_new);
    if (r < 0)
        return r;
    *ret_new = is_new;
    if (!is_new)
        return 0;

    if (stream->frame && stream->frame->len + len > FRAME_PLAIN_MAX)
        frame_submit(writer, TAKE_PTR(stream->frame));
    if (!stream->frame)
        r = frame_acquire(writer, PACK_DATA, &stream->frame);
    if (r >= 0)
        r = frame_append(stream->frame, data, len, &id);
    if (r < 0) {
        writer_fail(writer, r); /* the claim cannot be kept */
        return r;
    }
    count_new(writer, len);
    return 0;
}

int writer_put_meta(struct writer *writer, const void *data, size_t len, struct chunk_ref *ret_ref)
{
    struct chunk_id id;
    bool is_new;
    assert(len > 0);
    assert(len <= FRAME_PLAIN_MAX);

    chunk_id_compute(writer->repo->keyring, CHUNK_META, data, len, &id);
    int r = find_or_claim(writer, &id, len, ret_ref, &is_new);
    if (r < 0 || !is_new)
        return r;
    struct frame *frame = NULL;
    r = frame_acquire(writer, PACK_META, &frame);
    if (r >= 0)
        r = frame_append(frame, data, len, &id);
    if (r < 0) {
        writer_fail(writer, r);
        return r;
    }
    frame_submit(writer, frame);
    return 0;
}

bool writer_resolve(struct writer *writer, struct chunk_ref *ref)
{
    if (ref->location.pack_no != PACK_NO_NONE)
        return true;

    pthread_mutex_lock(&writer->lock);
    const struct fresh_chunk *chunk = fresh_table_find(&writer->fresh, &ref->id);
    bool fresh = chunk != NULL;
    bool durable = fresh && chunk->pack_serial != FRESH_NOT_PLACED &&
                   writer->packs.items[chunk->pack_serial].state != PACK_OPEN;
    if (durable)
        ref->location = (struct chunk_location){
            .pack_no = writer->packs.items[chunk->pack_serial].pack_no,
            .frame_offset = chunk->frame_offset,
            .frame_len = chunk->frame_len,
            .chunk_offset = chunk->chunk_offset,
        };
    pthread_mutex_unlock(&writer->lock);
    if (fresh)
        return durable;

    struct index_hit hit;
    if (!index_lookup(writer->index, &ref->id,
                      &hit)) { /* against invariant 2: the index cache is damaged */
        writer_fail(writer, error_note(-UMBRA_E_CORRUPT,
                                       "a chunk that was stored is not in the index any more"));
        return false;
    }
    ref->location = hit.location;
    return true;
}

/* ---- streams ---- */

int writer_stream_acquire(struct writer *writer, struct writer_stream **ret_stream)
{
    pthread_mutex_lock(&writer->lock);
    struct writer_stream *stream = writer->idle_streams;
    if (stream)
        writer->idle_streams = stream->next;
    pthread_mutex_unlock(&writer->lock);
    if (!stream)
        stream = calloc(1, sizeof(*stream));
    if (!stream)
        return -ENOMEM;
    stream->writer = writer;
    *ret_stream = stream;
    return 0;
}

void writer_stream_release(struct writer *writer, struct writer_stream *stream)
{
    if (!stream)
        return;
    pthread_mutex_lock(&writer->lock);
    stream->next = writer->idle_streams;
    writer->idle_streams = stream;
    pthread_mutex_unlock(&writer->lock);
}

/* ---- pushing out ---- */

static struct frame *take_idle_frame(struct writer *writer)
{
    struct frame *frame = NULL;
    pthread_mutex_lock(&writer->lock);
    for (struct writer_stream *s = writer->idle_streams; s && !frame; s = s->next)
        frame = TAKE_PTR(s->frame);
    pthread_mutex_unlock(&writer->lock);
    return frame;
}

static bool frames_are_done(struct writer *writer, void *userdata)
{
    const enum pack_kind *kind = userdata;
    return writer->open[*kind].frames_under_way == 0;
}

static int wait_for_frames(struct writer *writer, enum pack_kind kind)
{
    for (;;) {
        pthread_mutex_lock(&writer->lock);
        bool done = frames_are_done(writer, &kind);
        int r = error_raise(&writer->error);
        pthread_mutex_unlock(&writer->lock);
        if (r < 0 || done)
            return r;
        help_or_wait(writer, frames_are_done, &kind);
    }
}

int writer_push_out(struct writer *writer, enum chunk_kind chunk_kind)
{
    enum pack_kind kind = (enum pack_kind)chunk_kind;
    struct frame *frame;
    while (kind == PACK_DATA && (frame = take_idle_frame(writer)))
        frame_submit(writer, frame);
    int r = wait_for_frames(writer, kind);
    if (r < 0)
        return r;

    pthread_mutex_lock(&writer->lock);
    r = close_pack_locked(writer, kind);
    while (r >= 0 && writer->open[kind].stores_under_way > 0) {
        pthread_cond_wait(&writer->changed, &writer->lock);
        r = error_raise(&writer->error);
    }
    pthread_mutex_unlock(&writer->lock);
    return r;
}

static int wait_for_indexing(struct writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    while (writer->indexing && writer->error.code == 0)
        pthread_cond_wait(&writer->changed, &writer->lock);
    int r = error_raise(&writer->error);
    pthread_mutex_unlock(&writer->lock);
    return r;
}

int writer_finish(struct writer *writer)
{
    int r = writer_push_out(writer, CHUNK_DATA);
    if (r >= 0)
        r = writer_push_out(writer, CHUNK_META);
    if (r >= 0)
        r = wait_for_indexing(writer);
    if (r >= 0)
        r = index_flush(writer);
    return r;
}

void writer_get_stats(struct writer *writer, struct writer_stats *ret_stats)
{
    pthread_mutex_lock(&writer->lock);
    *ret_stats = writer->stats;
    pthread_mutex_unlock(&writer->lock);
}

/* ---- beginning and end ---- */

int writer_new(struct repository *repo, struct pool *pool, int zstd_level,
               struct writer **ret_writer)
{
    CLEANUP(writer_freep) struct writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return -ENOMEM;
    pthread_mutex_init(&writer->lock, NULL);
    pthread_cond_init(&writer->changed, NULL);
    writer->repo = repo;
    writer->pool = pool;
    writer->zstd_level = zstd_level;
    writer->frame_count_max = FRAMES_PER_THREAD * pool_thread_count(pool) + FRAMES_EXTRA;
    int r = repository_index(repo, &writer->index);
    if (r < 0)
        return r;
    r = pool_new(STORES_MAX, &writer->store_pool);
    if (r < 0)
        return r;
    *ret_writer = TAKE_PTR(writer);
    return 0;
}

static void frame_free(struct frame *frame)
{
    if (!frame)
        return;
    pack_chunk_vector_release(&frame->chunks);
    free(frame);
}

/* Waits until no task of this writer is queued or running. */
static void quiesce(struct writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    while (writer->open[PACK_DATA].frames_under_way + writer->open[PACK_META].frames_under_way >
           0) {
        pthread_mutex_unlock(&writer->lock);
        bool ran = pool_run_one(writer->pool, POOL_HIGH);
        pthread_mutex_lock(&writer->lock);
        if (!ran &&
            writer->open[PACK_DATA].frames_under_way + writer->open[PACK_META].frames_under_way > 0)
            pthread_cond_wait(&writer->changed, &writer->lock);
    }
    while (stores_under_way_locked(writer) > 0)
        pthread_cond_wait(&writer->changed, &writer->lock);
    pthread_mutex_unlock(&writer->lock);
}

void writer_free(struct writer *writer)
{
    if (!writer)
        return;
    if (writer->store_pool)
        quiesce(writer);
    pool_free(writer->store_pool);
    for (struct writer_stream *s = writer->idle_streams, *next; s; s = next) {
        next = s->next;
        frame_free(s->frame);
        free(s);
    }
    for (struct frame *f = writer->free_frames, *next; f; f = next) {
        next = f->next;
        frame_free(f);
    }
    for (struct sealer *s = writer->free_sealers, *next; s; s = next) {
        next = s->next;
        sealer_free(s);
    }
    for (size_t i = 0; i < writer->packs.count; i++)
        if (writer->packs.items[i].state == PACK_DURABLE)
            pack_directory_release(&writer->packs.items[i].directory);
    pack_builder_free(writer->open[PACK_DATA].builder);
    pack_builder_free(writer->open[PACK_META].builder);
    written_pack_vector_release(&writer->packs);
    fresh_table_release(&writer->fresh);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->lock);
    free(writer);
}
