/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packs: header, trailer, directory, agreement with the index; with data every byte.
 *
 * A pack is read once, front to back: each frame on its way into the pack's SHA-256 is opened and
 * its chunks are verified.  When a pack's own directory is damaged, its frames are looked for where
 * the index has them, which tells what of the pack is lost.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "basic/pool.h"
#include "repo/check-run.h"

#define PIECE_LEN   FRAME_SEALED_MAX /* of what is read at once */
#define CODEC_LEVEL 1                /* it only ever opens */

/* One worker's tools, and the pack that it is at. */
struct pack_check {
    struct check_run *run;
    struct frame_codec *codec;
    EVP_MD_CTX *md;
    uint8_t *piece; /* PIECE_LEN */
    struct checked_pack *pack;
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    bool told;     /* a problem of this pack */
    size_t id_len; /* how much of each id the directory has */
};

static void tell(struct pack_check *c, const char *why)
{
    c->told = true;
    check_problem(c->run, c->object_name, why);
}

/* ---- frames ---- */

static int mark_damaged(struct pack_check *c, const struct pack_chunk *chunk)
{
    uint32_t pack_no;
    bool added = false;
    int r = pack_table_intern(c->run->repo->names, &c->pack->name, &pack_no);
    if (r < 0)
        return r;
    pthread_mutex_lock(&c->run->lock);
    r = id_set_add(&c->run->damaged, &chunk->id, pack_no, &added);
    c->run->result.damaged_chunk_count += added;
    pthread_mutex_unlock(&c->run->lock);
    return r;
}

static bool chunk_is_right(const struct pack_check *c, enum pack_kind kind,
                           const struct pack_chunk *chunk, const uint8_t *data)
{
    struct chunk_id id;
    chunk_id_compute(c->run->repo->keyring, (enum chunk_kind)kind, data, chunk->len, &id);
    return memcmp(id.bytes, chunk->id.bytes, c->id_len) == 0;
}

/* The plain contents are the frame's chunks, one after the other, and nothing else. */
static int check_chunks(struct pack_check *c, const struct pack_directory *directory,
                        const struct pack_frame *frame, const uint8_t *plain, size_t plain_len)
{
    const struct pack_chunk *chunks = directory->chunks.items + frame->first_chunk;
    size_t offset = 0;
    uint32_t wrong_count = 0;
    char why[128];

    for (uint32_t i = 0; i < frame->chunk_count; i++) {
        bool right = chunks[i].len <= plain_len - offset &&
                     chunk_is_right(c, directory->kind, &chunks[i], plain + offset);
        offset += MIN((size_t)chunks[i].len, plain_len - offset);
        if (right)
            continue;
        wrong_count++;
        int r = mark_damaged(c, &chunks[i]);
        if (r < 0)
            return r;
    }
    if (wrong_count > 0) {
        (void)snprintf(why, sizeof(why), "in the frame at %u, %u chunks are not what their ids say",
                       frame->offset, wrong_count);
        tell(c, why);
    } else if (offset != plain_len) {
        (void)snprintf(why, sizeof(why), "the frame at %u has more in it than its chunks",
                       frame->offset);
        tell(c, why);
    }
    return 0;
}

static int frame_damaged(struct pack_check *c, const struct pack_directory *directory,
                         const struct pack_frame *frame, int error)
{
    char why[512];
    (void)snprintf(why, sizeof(why), "the frame at %u is damaged: %s", frame->offset,
                   error_text(error));
    tell(c, why);
    for (uint32_t i = 0; i < frame->chunk_count; i++) {
        int r = mark_damaged(c, &directory->chunks.items[frame->first_chunk + i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* read_r: of reading the frame into c->piece. */
static int check_frame(struct pack_check *c, const struct pack_directory *directory,
                       const struct pack_frame *frame, int read_r)
{
    const uint8_t *plain = NULL;
    size_t plain_len = 0;
    int r = read_r;
    if (r >= 0)
        r = frame_unseal(c->codec, directory->kind, c->piece, frame->len, &plain, &plain_len);
    if (check_is_fatal(r))
        return r;
    return r < 0 ? frame_damaged(c, directory, frame, r)
                 : check_chunks(c, directory, frame, plain, plain_len);
}

/* ---- all bytes of a pack ---- */

/* Reads into c->piece, and into the digest. */
static int read_piece(struct pack_check *c, uint64_t offset, size_t len)
{
    if (check_cancelled(c->run))
        return -UMBRA_E_CANCELLED;
    if (c->run->options->progress)
        atomic_fetch_add(&c->run->options->progress->bytes_done, len);
    int r = backend_get(c->run->repo->backend, c->object_name, offset, c->piece, len);
    if (r < 0)
        return r;
    return EVP_DigestUpdate(c->md, c->piece, len) == 1 ? 0 : -ENOMEM;
}

/* What is not frames: the header, or directory and trailer. */
static int read_rest(struct pack_check *c, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        size_t len = (size_t)MIN(end - offset, (uint64_t)PIECE_LEN);
        int r = read_piece(c, offset, len);
        if (check_is_fatal(r))
            return r;
        if (r < 0)
            tell(c, error_text(r));
        offset += len;
    }
    return 0;
}

static int check_digest(struct pack_check *c)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    if (EVP_DigestFinal_ex(c->md, digest, NULL) != 1)
        return -ENOMEM;
    /* Of a damaged frame it follows. */
    if (!c->told && memcmp(digest, c->pack->name.bytes, PACK_NAME_LEN) != 0)
        tell(c, "is damaged: it does not have the SHA-256 in its name");
    return 0;
}

static void count_read(struct pack_check *c, const struct pack_directory *directory)
{
    pthread_mutex_lock(&c->run->lock);
    c->run->result.read_pack_count++;
    c->run->result.read_bytes += c->pack->size_bytes;
    c->run->result.read_chunk_count += directory->chunks.count;
    pthread_mutex_unlock(&c->run->lock);
}

static int check_data(struct pack_check *c, const struct pack_directory *directory)
{
    uint64_t offset = PACK_HEADER_LEN;
    if (EVP_DigestInit_ex(c->md, EVP_sha256(), NULL) != 1)
        return -ENOMEM;
    int r = read_rest(c, 0, PACK_HEADER_LEN);
    for (size_t i = 0; r >= 0 && i < directory->frames.count; i++) {
        const struct pack_frame *frame = &directory->frames.items[i];
        r = read_piece(c, frame->offset, frame->len);
        r = check_frame(c, directory, frame, r);
        offset = (uint64_t)frame->offset + frame->len;
    }
    if (r >= 0)
        r = read_rest(c, offset, c->pack->size_bytes);
    if (r >= 0)
        r = check_digest(c);
    count_read(c, directory);
    return r;
}

/* The pack's directory cannot be read: what of the pack can, says the index. */
static int check_data_by_index(struct pack_check *c)
{
    CLEANUP(pack_directory_release) struct pack_directory directory = {0};
    int r = index_pack_directory(c->run->index, &c->pack->name, &directory);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    c->id_len = INDEX_ID_KNOWN_LEN;
    for (size_t i = 0; r >= 0 && i < directory.frames.count; i++) {
        const struct pack_frame *frame = &directory.frames.items[i];
        r = check_cancelled(c->run) ? -UMBRA_E_CANCELLED
                                    : backend_get(c->run->repo->backend, c->object_name,
                                                  frame->offset, c->piece, frame->len);
        r = check_frame(c, &directory, frame, r);
    }
    if (c->run->options->progress)
        atomic_fetch_add(&c->run->options->progress->bytes_done, c->pack->size_bytes);
    count_read(c, &directory);
    return r;
}

/* ---- one pack ---- */

static int check_against_index(struct pack_check *c, const struct pack_directory *directory)
{
    int r = index_verify_pack(c->run->index, &c->pack->name, directory);
    if (check_is_fatal(r))
        return r;
    if (r == -ENOENT) {
        c->pack->unindexed = true;
    } else if (r < 0) {
        tell(c, error_text(r));
    }
    return 0;
}

static int check_pack(struct pack_check *c)
{
    CLEANUP(pack_directory_release) struct pack_directory directory = {0};
    pack_object_name(&c->pack->name, c->object_name);
    c->told = false;
    c->id_len = CHUNK_ID_LEN;
    int r = pack_read_directory(c->run->repo->backend, c->run->repo->keyring, &c->pack->name,
                                c->pack->size_bytes, &directory);
    if (check_is_fatal(r))
        return r;
    if (r < 0) {
        tell(c, error_text(r));
        return c->pack->read_data ? check_data_by_index(c) : 0;
    }
    r = check_against_index(c, &directory);
    return r >= 0 && c->pack->read_data ? check_data(c, &directory) : r;
}

/* ---- workers ---- */

struct pack_worker {
    struct pool_task task;
    struct check_run *run;
};

static void pack_check_release(struct pack_check *c)
{
    frame_codec_free(c->codec);
    EVP_MD_CTX_free(c->md);
    free(c->piece);
}

static int work(struct check_run *run)
{
    CLEANUP(pack_check_release) struct pack_check c = {.run = run};
    c.md = EVP_MD_CTX_new();
    c.piece = malloc(PIECE_LEN);
    if (!c.md || !c.piece)
        return error_note(-ENOMEM, "no memory to check packs");
    int r = frame_codec_new(run->repo->keyring, CODEC_LEVEL, &c.codec);
    while (r >= 0) {
        size_t i = atomic_fetch_add(&run->next_pack, 1);
        if (i >= run->packs.count)
            return 0;
        c.pack = &run->packs.items[i];
        r = check_cancelled(run) ? -UMBRA_E_CANCELLED : check_pack(&c);
        if (run->options->progress)
            atomic_fetch_add(&run->options->progress->files_done, 1);
    }
    return r;
}

static void run_worker(struct pool_task *task)
{
    struct check_run *run = CONTAINER_OF(task, struct pack_worker, task)->run;
    int r = work(run);
    if (r >= 0)
        return;
    pthread_mutex_lock(&run->lock);
    error_save(&run->error, r);
    pthread_mutex_unlock(&run->lock);
    atomic_store(&run->next_pack, run->packs.count); /* the others end, too */
}

static int run_workers(struct check_run *run)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned threads = run->options->threads;
    if (threads == 0)
        threads = processors > 0 ? (unsigned)processors : 1;
    CLEANUP_FREE struct pack_worker *workers = calloc(threads, sizeof(*workers));
    struct pool *pool = NULL;
    if (!workers)
        return error_note(-ENOMEM, "no memory to check packs");
    int r = pool_new(threads, &pool);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct pack_worker){.task.run = run_worker, .run = run};
        pool_submit(pool, &workers[i].task, POOL_NORMAL);
    }
    pool_free(pool); /* when all is done */
    return error_raise(&run->error);
}

/* ---- all packs ---- */

static int collect_pack(const char *object_name, uint64_t size_bytes, void *userdata)
{
    struct check_run *run = userdata;
    struct checked_pack pack = {.size_bytes = size_bytes};
    if (pack_name_parse(object_name, &pack.name) < 0) {
        check_problem(run, object_name, "is no object of a repository");
        return 0;
    }
    run->result.pack_count++;
    run->result.pack_bytes += size_bytes;
    return checked_pack_vector_push(&run->packs, &pack);
}

static int compare_packs(const void *a, const void *b)
{
    const struct checked_pack *x = a, *y = b;
    return memcmp(x->name.bytes, y->name.bytes, PACK_NAME_LEN);
}

static int list_packs(struct check_run *run)
{
    int r = backend_list(run->repo->backend, "packs/", collect_pack, run);
    if (r < 0)
        return r;
    if (run->packs.count > 0)
        qsort(run->packs.items, run->packs.count, sizeof(*run->packs.items), compare_packs);
    return 0;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Exactly as many as asked for, each choice of them equally likely (Knuth, volume 2, 3.4.2,
 * algorithm S). */
static void choose_packs(struct check_run *run)
{
    uint64_t state = run->options->seed, bytes = 0;
    uint64_t left = run->packs.count;
    uint64_t wanted = (left * run->options->read_data_percent + 99) / 100;
    for (size_t i = 0; i < run->packs.count; i++, left--) {
        struct checked_pack *pack = &run->packs.items[i];
        pack->read_data = next_random(&state) % left < wanted;
        wanted -= pack->read_data;
        bytes += pack->read_data ? pack->size_bytes : 0;
    }
    if (run->options->progress) {
        atomic_fetch_add(&run->options->progress->files_total, run->packs.count);
        atomic_fetch_add(&run->options->progress->bytes_total, bytes);
    }
}

/* For the catalogs: which packs there are.  Every pack that the index names has a number. */
static int note_facts(struct check_run *run)
{
    for (size_t i = 0; i < run->packs.count; i++) {
        uint32_t pack_no;
        int r = pack_table_intern(run->repo->names, &run->packs.items[i].name, &pack_no);
        if (r < 0)
            return r;
    }
    run->packs_there_count = pack_table_count(run->repo->names);
    run->packs_there = calloc((size_t)run->packs_there_count + 1, sizeof(*run->packs_there));
    if (!run->packs_there)
        return error_note(-ENOMEM, "no memory for a list of packs");
    for (size_t i = 0; i < run->packs.count; i++) {
        uint32_t pack_no;
        int r = pack_table_intern(run->repo->names, &run->packs.items[i].name, &pack_no);
        if (r < 0)
            return r;
        run->packs_there[pack_no] = (struct pack_fact){
            .size_bytes = run->packs.items[i].size_bytes,
            .unindexed = run->packs.items[i].unindexed,
        };
        run->result.unindexed_pack_count += run->packs.items[i].unindexed;
    }
    return 0;
}

static int check_indexed_pack(const struct pack_name *name, enum pack_kind kind _unused_,
                              uint64_t size_bytes, void *userdata)
{
    struct check_run *run = userdata;
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    uint32_t pack_no;
    int r = pack_table_intern(run->repo->names, name, &pack_no);
    if (r < 0)
        return r;
    uint64_t actual = pack_no < run->packs_there_count ? run->packs_there[pack_no].size_bytes : 0;
    pack_object_name(name, object_name);
    if (actual == 0)
        check_problem(run, object_name, "is gone: the index has it");
    else if (actual != size_bytes)
        check_problem(run, object_name, "is not as long as the index says");
    return 0;
}

/* What the index would say if it were whole: so nothing is called lost that is only not indexed. */
static int borrow_packs(struct check_run *run)
{
    size_t count;
    int r = index_borrow_packs(run->index, &count);
    return r < 0 ? error_prefix(r, "cannot index the packs that the index does not name") : 0;
}

int check_packs(struct check_run *run)
{
    int r = list_packs(run);
    if (r < 0)
        return r;
    choose_packs(run);
    r = run_workers(run);
    if (r >= 0)
        r = note_facts(run);
    if (r >= 0)
        r = index_each_pack(run->index, check_indexed_pack, run);
    return r < 0 || run->result.unindexed_pack_count == 0 ? r : borrow_packs(run);
}
