/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Placeholders: making them, finding them again, and taking them away.
 *
 * The target directory carries a record of the restore (INSTANT_XATTR) from before the first
 * placeholder is made until after the last mark is gone; it is on disk before anything else is, and
 * so is the step from "placing" to "filling", which is taken when all placeholders are.
 *
 * Whoever comes later finds what is pending by reading the tree (hydrator-walk.c).  Files can have
 * been moved out of the target; so the end is only believed when the whole mount has been read.  A
 * rename while it is being read can hide a file from one walk: it must find nothing twice.  Files
 * that have no name, but are open, are in hydrator-unnamed.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/log.h"
#include "basic/text.h"
#include "restore/hydrator-private.h"
#include "tree/exclude.h"
#include "tree/key.h"

/* ---- the record ---- */

static int write_record(struct hydrator *h)
{
    CLEANUP_FREE char *text = NULL;

    pthread_mutex_lock(&h->lock); /* the limit can be changed at any time */
    int r = instant_config_to_json(&h->config, false, &text);
    pthread_mutex_unlock(&h->lock);
    if (r < 0)
        return r;
    if (fsetxattr(h->tree_fd, INSTANT_XATTR, text, strlen(text), 0) < 0 || fsync(h->tree_fd) < 0)
        return error_note_describe(-errno, "cannot note the restore on '%s'", h->config.target);
    return 0;
}

int hydrator_record(struct hydrator *h)
{
    pthread_mutex_lock(&h->record_lock);
    int r = h->record_removed ? 0 : write_record(h);
    pthread_mutex_unlock(&h->record_lock);
    return r;
}

int hydrator_unrecord(struct hydrator *h)
{
    pthread_mutex_lock(&h->record_lock);
    bool removed = (fremovexattr(h->tree_fd, INSTANT_XATTR) >= 0 || errno == ENODATA) &&
                   fsync(h->tree_fd) >= 0;
    int r = removed ? 0 : -errno;
    h->record_removed = removed;
    pthread_mutex_unlock(&h->record_lock);
    return r;
}

/* ---- making ---- */

/* What is to be filled in. */
static uint64_t data_bytes(const struct entry *e)
{
    uint64_t total = 0;

    for (size_t i = 0; i < e->extents.count; i++)
        total += e->extents.items[i].kind == EXTENT_DATA ? e->extents.items[i].len : 0;
    return total;
}

static void add_to_digest(struct hydrator *h, const struct entry *e)
{
    const uint64_t numbers[] = {e->key_len, e->size, e->extents.count};

    (void)crypto_generichash_update(&h->hash, (const void *)numbers, sizeof(numbers));
    (void)crypto_generichash_update(&h->hash, e->key, e->key_len);
    for (size_t i = 0; i < e->extents.count; i++) {
        const struct extent *x = &e->extents.items[i];
        const uint64_t extent[] = {x->kind, x->len};
        (void)crypto_generichash_update(&h->hash, (const void *)extent, sizeof(extent));
        if (x->kind == EXTENT_DATA)
            (void)crypto_generichash_update(&h->hash, x->chunk.id.bytes, CHUNK_ID_LEN);
    }
}

/* The directory part of a key, which stands before its name. */
static bool same_directory(const struct buffer *key, const struct entry *e)
{
    size_t name_len, last_len;

    (void)key_name(e->key, e->key_len, &name_len);
    (void)key_name(key->data, key->len, &last_len);
    size_t len = e->key_len - name_len;
    return key->len - last_len == len && memcmp(key->data, e->key, len) == 0;
}

static int plan_directory_locked(struct hydrator *h, const struct entry *e)
{
    uint32_t number = h->directories.count > 0 ? h->directories.items[h->directories.count - 1] : 0;

    number += !same_directory(&h->last_key, e);
    buffer_clear(&h->last_key);
    buffer_put(&h->last_key, e->key, e->key_len);
    int r = buffer_finish(&h->last_key);
    return r < 0 ? r : directory_vector_push(&h->directories, &number);
}

static int plan_one(const struct entry *e, uint64_t *ret_ordinal, void *userdata)
{
    struct hydrator *h = userdata;
    uint8_t planned = FILE_PLANNED;

    int r = manifest_add(h->manifest, e, ret_ordinal);
    if (r < 0)
        return r;
    add_to_digest(h, e);
    pthread_mutex_lock(&h->lock);
    uint64_t bytes = data_bytes(e);
    r = plan_directory_locked(h, e);
    if (r >= 0)
        r = state_vector_push(&h->states, &planned);
    if (r >= 0 && h->resumed)
        r = ordinal_vector_push(&h->planned_bytes, &bytes);
    if (r >= 0) {
        h->remaining++;
        h->bytes_total += bytes;
        order_plan_locked(h, e, *ret_ordinal);
    }
    pthread_mutex_unlock(&h->lock);
    return r;
}

int note_found(struct hydrator *h, uint64_t ordinal, int fd, enum file_state state)
{
    struct filter_handle handle;

    if (ordinal >= manifest_count(h->manifest))
        return error_note(-UMBRA_E_CORRUPT, "%s names no file of the backup", PENDING_XATTR);
    int r = handle_of(fd, &handle);
    if (r >= 0)
        r = manifest_set_handle(h->manifest, ordinal, &handle);
    if (r < 0)
        return r;
    pthread_mutex_lock(&h->lock);
    if (ordinal < h->states.count) {
        enum file_state old = h->states.items[ordinal];
        if (old == FILE_PLANNED || old == FILE_DONE || old == FILE_GONE)
            set_state_locked(h, ordinal, state);
    }
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static void placed(uint64_t ordinal, int fd, void *userdata)
{
    struct hydrator *h = userdata;

    int r = note_found(h, ordinal, fd, FILE_FRESH);
    if (r < 0)
        h->walk_needed = true; /* which finds it */
}

static void on_problem(const char *path, const char *what, void *userdata)
{
    note_problem(userdata, path, what);
}

static int make_patterns(const struct string_vector *patterns, struct exclude_set **ret_set)
{
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;

    *ret_set = NULL;
    if (patterns->count == 0)
        return 0;
    int r = exclude_set_new(&set);
    for (size_t i = 0; i < patterns->count && r >= 0; i++)
        r = exclude_set_add(set, patterns->items[i], strlen(patterns->items[i]), "pattern");
    if (r >= 0)
        *ret_set = TAKE_PTR(set);
    return r;
}

/* Walks the catalog; list_only: to have the same ordinals again. */
static int walk_catalog(struct hydrator *h, bool list_only, struct restore_stats *ret_stats)
{
    const size_t digest_len = INSTANT_DIGEST_LEN / 2;
    CLEANUP(exclude_set_freep) struct exclude_set *includes = NULL;
    CLEANUP(exclude_set_freep) struct exclude_set *excludes = NULL;
    const struct restore_placeholders placeholders = {
        .restore_id = h->config.restore_id,
        .add = plan_one,
        .placed = placed,
        .userdata = h,
    };
    char target[32];

    int r = make_patterns(&h->config.includes, &includes);
    if (r >= 0)
        r = make_patterns(&h->config.excludes, &excludes);
    if (r < 0)
        return r;
    /* through the private mount, by its descriptor */
    (void)snprintf(target, sizeof(target), "/proc/self/fd/%d", h->tree_fd);
    (void)crypto_generichash_init(&h->hash, NULL, 0, digest_len);
    struct restore_options options = {
        .subpath = h->config.subpath,
        .target = target,
        .includes = includes,
        .excludes = excludes,
        .numeric_owner = h->config.numeric_owner,
        .no_sync = true,
        .problem = on_problem,
        .action = list_only ? NULL : hydrator_note_made,
        .userdata = h,
        .placeholders = &placeholders,
        .list_only = list_only,
    };
    return restore_run(h->repo, h->backup, &options, ret_stats);
}

/* What was planned and is not there: it could not be made, which was told, or it is complete. */
static void settle_planned(struct hydrator *h, enum file_state state)
{
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < h->states.count; i++) {
        if (h->states.items[i] == FILE_PLANNED)
            set_state_locked(h, i, state);
    }
    pthread_mutex_unlock(&h->lock);
}

static int begin_filling(struct hydrator *h)
{
    if (syncfs(h->tree_fd) < 0)
        return error_note_describe(-errno, "cannot sync '%s'", h->config.target);
    pthread_mutex_lock(&h->lock);
    h->config.phase = INSTANT_FILLING;
    pthread_mutex_unlock(&h->lock);
    return hydrator_record(h);
}

static int take_digest(struct hydrator *h, char **ret_digest)
{
    uint8_t bytes[INSTANT_DIGEST_LEN / 2];
    char *text = malloc(INSTANT_DIGEST_LEN + 1);

    if (!text)
        return -ENOMEM;
    (void)crypto_generichash_final(&h->hash, bytes, sizeof(bytes));
    hex_encode(bytes, sizeof(bytes), text);
    *ret_digest = text;
    return 0;
}

static int check_selection(const struct hydrator *h, const struct restore_stats *stats)
{
    if (h->config.includes.count == 0 ||
        stats->file_count + stats->directory_count + stats->other_count > 0)
        return 0;
    return error_note(-ENOENT, "nothing in backup %.12s matches --include", h->backup->id);
}

int hydrator_place(struct hydrator *h, struct restore_stats *ret_stats)
{
    atomic_store(&h->has_manifest, true);
    int r = hydrator_record(h);
    if (r >= 0)
        r = walk_catalog(h, false, ret_stats);
    if (r >= 0)
        r = check_selection(h, ret_stats);
    free(TAKE_PTR(h->config.digest));
    if (r >= 0)
        r = take_digest(h, &h->config.digest);
    if (r >= 0)
        r = begin_filling(h);
    if (r < 0)
        return r;
    hydrator_forget_made(h);
    settle_planned(h, FILE_GONE);
    return 0;
}

/* ---- finding ---- */

static int found_again(struct hydrator *h, int dir_fd, const char *name, int fd,
                       const struct pending *pending, void *userdata)
{
    (void)dir_fd;
    (void)name;
    *(uint64_t *)userdata += 1;
    return note_found(h, pending->ordinal, fd, FILE_TODO);
}

int hydrator_walk(struct hydrator *h, uint64_t *ret_count, uint64_t *ret_unread)
{
    uint64_t count = 0, unread = 0;

    int r = walk_mount(h, found_again, &count, &unread);
    if (r < 0)
        return error_prefix(r, "cannot walk the file system of '%s'", h->config.target);
    *ret_count = count;
    *ret_unread = unread;
    return 0;
}

/* A damaged page of the catalog leaves its files out, and all others get other numbers: then nobody
 * may be given anything. */
static int check_digest(struct hydrator *h)
{
    CLEANUP_FREE char *digest = NULL;

    int r = take_digest(h, &digest);
    if (r < 0)
        return r;
    if (h->config.digest && strcmp(digest, h->config.digest) != 0)
        return error_note(-UMBRA_E_CORRUPT,
                          "the catalog of the backup does not say what it said when the restore "
                          "began: some of it cannot be read");
    atomic_store(&h->has_manifest, true);
    return 0;
}

/* What predecessors have brought: whole files. */
static void count_done_before(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < h->planned_bytes.count; i++)
        h->bytes_done += h->states.items[i] == FILE_DONE ? h->planned_bytes.items[i] : 0;
    ordinal_vector_release(&h->planned_bytes);
    pthread_mutex_unlock(&h->lock);
}

int hydrator_find(struct hydrator *h, struct restore_stats *ret_stats)
{
    uint64_t count = 0, unread = 0;

    h->walk_needed = true;
    int r = walk_catalog(h, true, ret_stats);
    if (r >= 0)
        r = check_digest(h);
    if (r >= 0)
        r = walk_path(h, "", found_again, &count, &unread);
    if (r >= 0) {
        settle_planned(h, FILE_DONE);
        count_done_before(h);
    }
    return r;
}

static int want_one(struct hydrator *h, int dir_fd, const char *name, int fd,
                    const struct pending *pending, void *userdata)
{
    (void)dir_fd;
    (void)name;
    (void)fd;
    *(uint64_t *)userdata += 1;
    pthread_mutex_lock(&h->lock);
    background_ask_locked(h, pending->ordinal);
    pthread_mutex_unlock(&h->lock);
    return 0;
}

int hydrator_want_path(struct hydrator *h, const char *path, uint64_t *ret_count)
{
    uint64_t unread;

    return walk_path(h, path, want_one, ret_count, &unread);
}

struct path_count {
    uint64_t count, failed;
};

static int count_one(struct hydrator *h, int dir_fd, const char *name, int fd,
                     const struct pending *pending, void *userdata)
{
    struct path_count *count = userdata;
    uint64_t ordinal = pending->ordinal;

    (void)dir_fd;
    (void)name;
    (void)fd;
    pthread_mutex_lock(&h->lock);
    count->count++;
    count->failed += ordinal < h->states.count && h->states.items[ordinal] == FILE_FAILED;
    pthread_mutex_unlock(&h->lock);
    return 0;
}

int hydrator_count_path(struct hydrator *h, const char *path, uint64_t *ret_count,
                        uint64_t *ret_failed)
{
    struct path_count count = {0};
    uint64_t unread;

    int r = walk_path(h, path, count_one, &count, &unread);
    if (r < 0)
        return r;
    *ret_count = count.count + unread;
    *ret_failed = count.failed + unread;
    return 0;
}

/* ---- taking away ---- */

/* Of what happened before this process began, only the mark tells. */
static bool is_untouched_locked(const struct hydrator *h, const struct pending *pending)
{
    if (pending->ordinal >= h->states.count)
        return false;
    enum file_state state = h->states.items[pending->ordinal];
    return state == FILE_FRESH ||
           (h->resumed && state == FILE_TODO && !(pending->flags & PENDING_WRITTEN));
}

/* Whether anybody but the caller, who has it for reading, has it open, maps or runs it: then the
 * kernel gives no lease.  Who opens it while there is one waits for the next line, and the signal
 * that announces him is one that nobody minds. */
static bool is_open_elsewhere(int fd)
{
    if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        return true;
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
}

/* Its last name is.  Who has opened it before that keeps it, and gets his data: by its handle. */
static void note_removed(struct hydrator *h, uint64_t ordinal, int fd)
{
    pthread_mutex_lock(&h->lock);
    set_state_locked(h, ordinal, FILE_GONE);
    pthread_mutex_unlock(&h->lock);
    bool open = is_open_elsewhere(fd);
    pthread_mutex_lock(&h->lock);
    if (open && ordinal < h->states.count && h->states.items[ordinal] == FILE_GONE)
        set_state_locked(h, ordinal, FILE_TODO);
    pthread_mutex_unlock(&h->lock);
}

/* It is gone with its last name only: until then the others are as untouched as this one. */
static int remove_one(struct hydrator *h, int dir_fd, const char *name, int fd,
                      const struct pending *pending, void *userdata)
{
    const bool *all = userdata;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    pthread_mutex_lock(&h->lock);
    bool untouched = is_untouched_locked(h, pending);
    pthread_mutex_unlock(&h->lock);
    if (!*all && (!untouched || is_open_elsewhere(fd)))
        return 0;
    if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
        return error_note_describe(-errno, "cannot remove a placeholder");
    if (st.st_nlink == 1)
        note_removed(h, pending->ordinal, fd);
    return 0;
}

int hydrator_remove_untouched(struct hydrator *h)
{
    bool all = false;
    uint64_t unread; /* the walk at the end meets it again */

    return walk_path(h, "", remove_one, &all, &unread);
}

int hydrator_remove_placed(struct hydrator *h)
{
    bool all = true;
    uint64_t unread;

    int r = walk_path(h, "", remove_one, &all, &unread);
    if (r >= 0 && unread > 0)
        r = error_note(-EIO, "cannot remove all that was made in '%s'", h->config.target);
    return r;
}
