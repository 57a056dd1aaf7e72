/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A repository, open.
 *
 * Its objects, all immutable, and what each says when it is there:
 *
 *     keys/<sha256>       the master key, under one passphrase
 *     config              this is a repository, with these parameters
 *     packs/xx/<sha256>   chunks, and a directory of them
 *     index/<sha256>      where chunks are: what the directories of some packs say
 *     backups/<sha256>    a backup; all that it refers to is there
 *
 * 1. Each object is written after all that it needs: pack, index, backup; key, config.  A crash
 *    leaves things that nothing refers to, never a reference to what is not there.
 * 2. A catalog names chunks by id, with a hint where each lies.  Hints go stale when packs are
 *    rewritten; the id decides what was read.  Reading tries the hint, then the index, so a restore
 *    from a healthy repository never loads the index.
 * 3. Nothing is handed out of read_chunk that does not have the id asked for.
 *
 * Locks: private->lock guards the opening of the index alone.
 */
#include "repo/repository.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "basic/error.h"
#include "basic/text.h"
#include "repo/cache-dir.h"
#include "repo/repository-private.h"

struct repository_private {
    pthread_mutex_t lock;
};

void repository_free(struct repository *repo)
{
    if (!repo)
        return;
    if (repo->index)
        index_free(repo->index);
    if (repo->names)
        pack_table_free(repo->names);
    if (repo->keyring)
        keyring_free(repo->keyring);
    backend_free(repo->backend);
    if (repo->private) {
        pthread_mutex_destroy(&repo->private->lock);
        free(repo->private);
    }
    free(repo->cache_dir);
    explicit_bzero(repo->gear_table, sizeof(repo->gear_table));
    free(repo);
}

/* Takes the backend over, also on failure. */
static int repository_new(struct backend *backend, struct repository **ret_repo)
{
    CLEANUP(repository_freep) struct repository *repo = calloc(1, sizeof(*repo));
    if (!repo) {
        backend_free(backend);
        return error_note(-ENOMEM, "no memory for a repository");
    }
    repo->backend = backend;
    struct repository_private *private = calloc(1, sizeof(*private));
    if (!private)
        return error_note(-ENOMEM, "no memory for a repository");
    (void)pthread_mutex_init(&private->lock, NULL);
    repo->private = private;
    int r = pack_table_new(&repo->names);
    if (r < 0)
        return r;
    *ret_repo = TAKE_PTR(repo);
    return 0;
}

static int repository_finish_open(struct repository *repo, const char *cache_root)
{
    keyring_gear_table(repo->keyring, repo->gear_table);
    return cache_dir_make(cache_root, repo->config.id, &repo->cache_dir);
}

/* ---- init ---- */

static int refuse_object(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    const struct repository *repo = userdata;

    if (strcmp(name, "config") == 0)
        return error_note(-EEXIST, "there is a repository in '%s' already", repo->backend->url);
    /* Left by an init that did not come to its end; they carry an id of their own. */
    if (strncmp(name, "keys/", 5) == 0)
        return 0;
    return error_note(-EEXIST, "'%s' is not empty: it has '%s'", repo->backend->url, name);
}

static int config_from_options(const struct keyring *keyring,
                               const struct repo_init_options *options,
                               struct repo_config *ret_config)
{
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_REALTIME, &now);
    struct repo_config config = {
        .version = 1,
        .created_ns = (int64_t)((uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec),
        .chunker = options->chunker.max_bytes ? options->chunker : chunker_params_default,
        .pack_target_bytes =
            options->pack_target_bytes ? options->pack_target_bytes : PACK_LEN_TARGET,
    };
    keyring_repo_id(keyring, config.id);
    int r = config_check(&config);
    if (r < 0)
        return r;
    *ret_config = config;
    return 0;
}

int repository_init(struct backend *backend, const void *passphrase, size_t len,
                    const struct repo_init_options *options, struct repository **ret_repo)
{
    static const struct repo_init_options defaults;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    const struct repo_init_options *o = options ? options : &defaults;

    int r = repository_new(backend, &repo);
    if (r < 0)
        return r;
    r = backend_list(backend, "", refuse_object, repo);
    if (r < 0)
        return r;
    r = keyring_new_random(&repo->keyring);
    if (r < 0)
        return r;
    r = config_from_options(repo->keyring, o, &repo->config);
    if (r < 0)
        return r;
    r = key_add(backend, repo->keyring, passphrase, len, o->label ? o->label : "",
                o->key_cost.passes ? &o->key_cost : &key_cost_default, repo->key_name);
    if (r < 0)
        return r;
    r = config_store(backend, repo->keyring, &repo->config); /* of racing inits, one gets here */
    if (r < 0)
        return r;
    r = repository_finish_open(repo, "");
    if (r < 0)
        return r;
    *ret_repo = TAKE_PTR(repo);
    return 0;
}

/* ---- opening ---- */

static int open_config(struct repository *repo, const void *passphrase, size_t len)
{
    CLEANUP_FREE void *object = NULL;
    struct config_clear clear;
    uint8_t id[REPO_ID_LEN];
    size_t object_len = 0;

    int r = config_read(repo->backend, &object, &object_len, &clear);
    if (r < 0)
        return r;
    r = key_open(repo->backend, passphrase, len, &repo->keyring, repo->key_name);
    if (r < 0)
        return r;
    keyring_repo_id(repo->keyring, id);
    if (memcmp(id, clear.repo_id, sizeof(id)) != 0)
        return error_note(-UMBRA_E_CORRUPT,
                          "the config of '%s' is of another repository than its "
                          "keys",
                          repo->backend->url);
    r = config_open(repo->keyring, object, object_len, &clear, &repo->config);
    return r < 0 ? error_prefix(r, "'%s'", repo->backend->url) : 0;
}

int repository_open(struct backend *backend, const void *passphrase, size_t len,
                    const char *cache_root, struct repository **ret_repo)
{
    CLEANUP(repository_freep) struct repository *repo = NULL;

    int r = repository_new(backend, &repo);
    if (r < 0)
        return r;
    r = open_config(repo, passphrase, len);
    if (r < 0)
        return r;
    r = repository_finish_open(repo, cache_root);
    if (r < 0)
        return r;
    *ret_repo = TAKE_PTR(repo);
    return 0;
}

int repository_index(struct repository *repo, struct index **ret_index)
{
    int r = 0;

    pthread_mutex_lock(&repo->private->lock);
    if (!repo->index)
        r = index_open(repo->backend, repo->keyring, repo->cache_dir, repo->names, &repo->index);
    struct index *index = repo->index;
    pthread_mutex_unlock(&repo->private->lock);
    if (r < 0)
        return r;
    *ret_index = index;
    return 0;
}

/* ---- reading ---- */

int repository_read_frame(struct repository *repo, struct frame_codec *codec, enum chunk_kind kind,
                          const struct chunk_location *location, const uint8_t **ret_plain,
                          size_t *ret_len)
{
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    struct pack_name name;

    if (location->pack_no >= pack_table_count(repo->names))
        return error_note(-ENOENT, "no place is known");
    pack_table_name(repo->names, location->pack_no, &name);
    pack_object_name(&name, object_name);
    if (location->frame_len <= SEAL_OVERHEAD || location->frame_len > FRAME_SEALED_MAX)
        return error_note(-UMBRA_E_CORRUPT, "'%s': a frame of %u bytes cannot be", object_name,
                          location->frame_len);

    CLEANUP_FREE uint8_t *sealed = malloc(location->frame_len);
    if (!sealed)
        return error_note(-ENOMEM, "no memory for a frame");
    int r = backend_get(repo->backend, object_name, location->frame_offset, sealed,
                        location->frame_len);
    if (r < 0)
        return r;
    r = frame_unseal(codec, (enum pack_kind)kind, sealed, location->frame_len, ret_plain, ret_len);
    return r < 0 ? error_prefix(r, "'%s' at %u", object_name, location->frame_offset) : 0;
}

int chunk_verify(const struct repository *repo, enum chunk_kind kind, const struct chunk_ref *ref,
                 const uint8_t *plain, size_t plain_len)
{
    struct chunk_id id;
    char text[17];

    hex_encode(ref->id.bytes, 8, text);
    uint32_t offset = ref->location.chunk_offset;
    if (offset > plain_len || ref->len > plain_len - offset)
        return error_note(-UMBRA_E_CORRUPT, "chunk %s... is said to end beyond its frame", text);
    chunk_id_compute(repo->keyring, kind, plain + offset, ref->len, &id);
    if (!chunk_id_equal(&id, &ref->id))
        return error_note(-UMBRA_E_CORRUPT, "something else lies in the place of chunk %s...",
                          text);
    return 0;
}

/* The chunk at the place that ref gives. */
static int read_at(struct repository *repo, struct frame_codec *codec, enum chunk_kind kind,
                   const struct chunk_ref *ref, void **ret_data)
{
    const uint8_t *plain = NULL;
    size_t plain_len = 0;

    int r = repository_read_frame(repo, codec, kind, &ref->location, &plain, &plain_len);
    if (r < 0)
        return r;
    r = chunk_verify(repo, kind, ref, plain, plain_len);
    if (r < 0)
        return r;
    void *data = malloc(ref->len);
    if (!data)
        return error_note(-ENOMEM, "no memory for a chunk");
    memcpy(data, plain + ref->location.chunk_offset, ref->len);
    *ret_data = data;
    return 0;
}

static bool location_equal(const struct chunk_location *a, const struct chunk_location *b)
{
    return a->pack_no == b->pack_no && a->frame_offset == b->frame_offset &&
           a->frame_len == b->frame_len && a->chunk_offset == b->chunk_offset;
}

/* What to say when neither hint nor index led to the chunk. */
static int not_found(const struct chunk_ref *ref, const struct error_report *first)
{
    char text[2 * CHUNK_ID_LEN + 1];

    if (first->code != -ENOENT)
        return error_raise(first);
    hex_encode(ref->id.bytes, CHUNK_ID_LEN, text);
    return error_note(-UMBRA_E_NO_CHUNK, "chunk %s is not in the repository: %s", text,
                      first->text);
}

/* The places that the index has for a chunk, tried one after the other. */
struct places {
    struct repository *repo;
    struct frame_codec *codec;
    enum chunk_kind kind;
    const struct chunk_ref *ref;
    void *data;                  /* once it was read */
    struct error_report failure; /* of the first place that did not do */
};

/* 1 ends the search. */
static int try_place(const struct index_hit *hit, void *userdata)
{
    struct places *p = userdata;
    const struct chunk_ref there = {
        .id = p->ref->id, .len = p->ref->len, .location = hit->location};

    if ((enum chunk_kind)hit->kind != p->kind || hit->len != p->ref->len ||
        location_equal(&hit->location, &p->ref->location))
        return 0;
    int r = read_at(p->repo, p->codec, p->kind, &there, &p->data);
    if (r >= 0)
        return 1;
    error_save(&p->failure, r);
    return r == -ENOMEM ? r : 0;
}

int repository_read_chunk(struct repository *repo, struct frame_codec *codec, enum chunk_kind kind,
                          const struct chunk_ref *ref, void **ret_data)
{
    struct places places = {.repo = repo, .codec = codec, .kind = kind, .ref = ref};
    struct error_report first = {0};
    struct index *index = NULL;

    if (ref->len == 0 || ref->len > FRAME_PLAIN_MAX)
        return error_note(-UMBRA_E_CORRUPT, "a chunk of %u bytes cannot be", ref->len);
    int r = read_at(repo, codec, kind, ref, ret_data);
    if (r >= 0 || r == -ENOMEM)
        return r;
    error_save(&first, r);

    r = repository_index(repo, &index);
    if (r >= 0)
        r = index_each_location(index, &ref->id, try_place, &places);
    if (r < 0)
        return r;
    if (r == 0)
        return places.failure.code < 0 ? error_raise(&places.failure) : not_found(ref, &first);
    *ret_data = places.data;
    return 0;
}
