/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sources: where the contents of placeholders come from.
 *
 * The catalog says what a file contains, chunk by chunk, by a keyed hash; so the contents can come
 * from anywhere.  The repository is one source; a directory tree with the same files (a mirror, a
 * network mount, a mounted backup of another tool) and a command are others:
 *
 *     repo           source-repo.c    frames of the repository, through the frame cache
 *     dir:PATH       source-dir.c     PATH is the counterpart of the target directory
 *     exec:COMMAND   source-exec.c    is asked over a pipe; see umbra(1)
 *
 * They are tried in the order they are named in.  The repository comes first unless it is named:
 * one of its frames brings many small files at once, and what it has is right, while a file of a
 * mirror may have changed, which shows only when a whole chunk has been read and hashed.  Whoever
 * knows his mirror to be quicker names it before "repo".
 *
 *  1. Nothing is handed out that does not have the id that the catalog asks for.  A source that is
 *     old, wrong or malicious costs time and nothing else.
 *  2. Whatever one source says, the next is asked; a request fails when all have failed.  It is
 *     worth another try later when any of them was only out of reach.
 *  3. No source is on the file system that is being restored: reading it would wait for itself.
 *
 * A reader is one thread's: a frame codec, a buffer for one chunk (the last one is kept, because
 * what fills a file asks for a chunk in pieces), a command's process.  The set's lock is for
 * opening sources that were absent; everything else that readers share does not change, or is
 * atomic.
 */
#include "restore/source.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "basic/error.h"
#include "basic/log.h"
#include "repo/crypt.h"
#include "repo/pack.h"
#include "repo/repository.h"
#include "restore/instant.h"
#include "restore/source-private.h"
#include "tree/key.h"

#define REOPEN_NS (5 * NSEC_PER_SEC)

static const struct {
    const char *prefix;
    const struct source_ops *ops;
} kinds[] = {
    {SOURCE_REPO, &source_repo_ops},
    {SOURCE_DIR, &source_dir_ops},
    {SOURCE_EXEC, &source_exec_ops},
};

struct source {
    const struct source_ops *ops;
    char *spec;
    const char *argument;   /* inside spec */
    _Atomic(void *) shared; /* NULL: absent */
    uint64_t reopen_ns;     /* guarded by the set's lock */
    atomic_uint_least64_t read_bytes, failure_count;
};

struct source_set {
    struct source_options options; /* its strings and descriptor are our own */
    pthread_mutex_t lock;
    atomic_bool stood_in;
    size_t count;
    struct source sources[];
};

struct source_reader {
    struct source_set *set;
    bool holds; /* chunk has what held is the id of */
    struct chunk_id held;
    uint8_t *chunk; /* FRAME_PLAIN_MAX; NULL until it is needed */
    void *states[]; /* one for each source; NULL until it is needed */
};

static uint64_t now_ns(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

bool source_may_come_back(int r)
{
    int class = error_class(r);

    return r < 0 && r > -ERROR_PRIVATE_FIRST && class != EBADMSG && class != ENODATA &&
           class != ENOMEM && class != EINVAL && class != EPROTO;
}

/* ---- the set ---- */

static int open_source(struct source *source, const struct source_options *options)
{
    void *shared = NULL;

    int r = source->ops->open(source->argument, options, &shared);
    if (r < 0)
        return error_prefix(r, "source '%s'", source->spec);
    atomic_store(&source->shared, shared);
    return 0;
}

static int add_source(struct source_set *set, const char *spec)
{
    struct source *source = &set->sources[set->count];

    if (!instant_source_valid(spec))
        return error_note(-EINVAL, "'%s' is no source", spec);
    source->spec = strdup(spec);
    if (!source->spec)
        return -ENOMEM;
    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        size_t prefix_len = strlen(kinds[i].prefix);
        if (strncmp(spec, kinds[i].prefix, prefix_len) == 0) {
            source->ops = kinds[i].ops;
            source->argument = source->spec + prefix_len;
        }
    }
    set->count++;
    int r = open_source(source, &set->options);
    if (r < 0 && r != -ENOMEM && set->options.may_be_absent) {
        log_warning("%s", error_text(r));
        source->reopen_ns = now_ns() + REOPEN_NS;
        return 0;
    }
    return r;
}

static bool names_repo(const struct string_vector *specs)
{
    for (size_t i = 0; i < specs->count; i++) {
        if (strcmp(specs->items[i], SOURCE_REPO) == 0)
            return true;
    }
    return false;
}

static int take_options(struct source_set *set, const struct source_options *options)
{
    set->options = *options;
    set->options.specs = NULL;
    if (set->options.answer_time_ms == 0)
        set->options.answer_time_ms = SOURCE_ANSWER_TIME_MS;
    set->options.base = strdup(options->base);
    set->options.volume_fd =
        options->volume_fd < 0 ? -1 : fcntl(options->volume_fd, F_DUPFD_CLOEXEC, 0);
    if (!set->options.base)
        return -ENOMEM;
    if (options->volume_fd >= 0 && set->options.volume_fd < 0)
        return error_note_describe(-errno, "cannot hold the volume");
    return 0;
}

int source_set_new(const struct source_options *options, struct source_set **ret_set)
{
    size_t count = options->specs->count;

    if (count > SOURCES_MAX)
        return error_note(-UMBRA_E_LIMIT, "more than %u sources", SOURCES_MAX);
    CLEANUP(source_set_freep)
    struct source_set *set = calloc(1, sizeof(*set) + (count + 1) * sizeof(set->sources[0]));
    if (!set)
        return -ENOMEM;
    (void)pthread_mutex_init(&set->lock, NULL);
    int r = take_options(set, options);
    if (r >= 0 && !names_repo(options->specs))
        r = add_source(set, SOURCE_REPO);
    for (size_t i = 0; i < count && r >= 0; i++)
        r = add_source(set, options->specs->items[i]);
    if (r < 0)
        return r;
    *ret_set = TAKE_PTR(set);
    return 0;
}

void source_set_free(struct source_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->count; i++) {
        void *shared = atomic_load(&set->sources[i].shared);
        if (shared)
            set->sources[i].ops->close(shared);
        free(set->sources[i].spec);
    }
    free((void *)(uintptr_t)set->options.base);
    cleanup_closep(&set->options.volume_fd);
    (void)pthread_mutex_destroy(&set->lock);
    free(set);
}

size_t source_set_count(const struct source_set *set)
{
    return set->count;
}

void source_set_stats(struct source_set *set, size_t i, struct source_stats *ret_stats)
{
    *ret_stats = (struct source_stats){
        .spec = set->sources[i].spec,
        .read_bytes = atomic_load(&set->sources[i].read_bytes),
        .failure_count = atomic_load(&set->sources[i].failure_count),
    };
}

/* ---- readers ---- */

int source_reader_new(struct source_set *set, struct source_reader **ret_reader)
{
    struct source_reader *reader = calloc(1, sizeof(*reader) + set->count * sizeof(void *));
    if (!reader)
        return -ENOMEM;
    reader->set = set;
    *ret_reader = reader;
    return 0;
}

void source_reader_free(struct source_reader *reader)
{
    if (!reader)
        return;
    for (size_t i = 0; i < reader->set->count; i++) {
        if (reader->states[i])
            reader->set->sources[i].ops->detach(reader->states[i]);
    }
    free(reader->chunk);
    free(reader);
}

static int try_open_locked(struct source_set *set, struct source *source)
{
    if (atomic_load(&source->shared))
        return 0;
    if (now_ns() < source->reopen_ns)
        return error_note(-ENOTCONN, "source '%s' is absent", source->spec);
    int r = open_source(source, &set->options);
    if (r >= 0)
        return 0;
    source->reopen_ns = now_ns() + REOPEN_NS;
    /* Whatever it is: somebody may be about to mount it. */
    return error_note(-ENOTCONN, "%s", error_text(r));
}

static int open_absent(struct source_set *set, struct source *source)
{
    pthread_mutex_lock(&set->lock);
    int r = try_open_locked(set, source);
    pthread_mutex_unlock(&set->lock);
    return r;
}

static int get_state(struct source_reader *reader, size_t i, void **ret_state)
{
    struct source *source = &reader->set->sources[i];

    if (!reader->states[i]) {
        int r = atomic_load(&source->shared) ? 0 : open_absent(reader->set, source);
        if (r >= 0)
            r = source->ops->attach(atomic_load(&source->shared), &reader->states[i]);
        if (r < 0)
            return r;
    }
    *ret_state = reader->states[i];
    return 0;
}

/* ---- reading ---- */

/* The part of a path of the backup that is below the target. */
static const char *path_below(const char *base, const char *path)
{
    size_t len = strlen(base);

    if (len > 0 && strncmp(path, base, len) == 0) {
        if (path[len] == '/')
            return path + len + 1;
        const char *slash = strrchr(path, '/');
        return slash ? slash + 1 : path; /* the one file that is restored */
    }
    return path;
}

static int verify(struct source_reader *reader, const struct chunk_ref *ref)
{
    struct chunk_id id;

    chunk_id_compute(reader->set->options.repo->keyring, CHUNK_DATA, reader->chunk, ref->len, &id);
    if (!chunk_id_equal(&id, &ref->id))
        return error_note(-UMBRA_E_CORRUPT, "it has other contents than were backed up");
    reader->held = ref->id;
    reader->holds = true;
    return 0;
}

/* A whole chunk, into reader->chunk. */
static int fetch(struct source_reader *reader, const struct source_ops *ops, void *state,
                 const struct entry *e, uint64_t file_offset, const struct chunk_ref *ref)
{
    CLEANUP_FREE char *path = key_to_path(e->key, e->key_len);

    if (!reader->chunk)
        reader->chunk = malloc(FRAME_PLAIN_MAX);
    if (!path || !reader->chunk)
        return -ENOMEM;
    const struct source_want want = {
        .path = path_below(reader->set->options.base, path),
        .size_bytes = e->size,
        .offset = file_offset,
        .len = ref->len,
    };
    reader->holds = false;
    int r = ops->fetch(state, &want, reader->chunk);
    if (r >= 0)
        r = verify(reader, ref);
    return r < 0 ? error_prefix(r, "'%s'", want.path) : 0;
}

static int read_from(struct source_reader *reader, size_t i, const struct entry *e,
                     uint64_t file_offset, const struct chunk_ref *ref, uint32_t offset, void *to,
                     uint32_t len)
{
    struct source *source = &reader->set->sources[i];
    void *state = NULL;

    int r = get_state(reader, i, &state);
    if (r >= 0 && source->ops->read)
        return source->ops->read(state, ref, offset, to, len);
    if (r < 0)
        return r;
    r = fetch(reader, source->ops, state, e, file_offset, ref);
    if (r < 0)
        return error_prefix(r, "source '%s'", source->spec);
    memcpy(to, reader->chunk + offset, len);
    return 0;
}

/* What all sources said: the words of each, and the number of one that may come back, or the first.
 */
static void add_failure(struct error_report *all, int r)
{
    size_t len = strlen(all->text);

    (void)snprintf(all->text + len, sizeof(all->text) - len, "%s%s", len > 0 ? "; " : "",
                   error_text(r));
    if (all->code == 0 || (source_may_come_back(r) && !source_may_come_back(all->code)))
        all->code = r;
}

static void note_stand_in(struct source_set *set, const struct source *source,
                          const struct error_report *failures)
{
    CLEANUP_FREE char *text = NULL;

    if (atomic_exchange(&set->stood_in, true) || !set->options.on_stand_in)
        return;
    if (asprintf(&text, "source '%s' stands in: %s", source->spec, failures->text) < 0)
        text = NULL;
    set->options.on_stand_in(text ? text : "another source stands in", set->options.userdata);
}

int source_read(struct source_reader *reader, const struct entry *e, uint64_t file_offset,
                const struct chunk_ref *ref, uint32_t offset, void *to, uint32_t len)
{
    struct source_set *set = reader->set;
    struct error_report failures = {0};

    if (ref->len > FRAME_PLAIN_MAX || offset > ref->len || len > ref->len - offset)
        return error_note(-EINVAL, "a part of a chunk that ends beyond it");
    if (reader->holds && chunk_id_equal(&reader->held, &ref->id)) {
        memcpy(to, reader->chunk + offset, len);
        return 0;
    }
    for (size_t i = 0; i < set->count; i++) {
        struct source *source = &set->sources[i];
        int r = read_from(reader, i, e, file_offset, ref, offset, to, len);
        if (r == -ENOMEM)
            return r;
        if (r >= 0) {
            atomic_fetch_add(&source->read_bytes, len);
            if (failures.code < 0)
                note_stand_in(set, source, &failures);
            return 0;
        }
        atomic_fetch_add(&source->failure_count, 1);
        add_failure(&failures, r);
    }
    return error_raise(&failures);
}
