/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A repository in a directory.
 *
 * An object is a file of the same name below the root; "tmp" holds files that are being written.
 *
 * 1. An object has its name only when it is complete and durable: durable_write() writes to tmp,
 *    syncs, renames without replacing, and syncs the directory.
 * 2. What a crash leaves in tmp belongs to nobody.  Files older than a day are removed at the first
 *    put, the time when the repository is known to be writable and written to; a reader changes
 *    nothing.
 * 3. Objects never change, so an open file may be read for as long as it is open: get keeps the
 *    most recently used packs open, and a read of a frame is a single pread.
 *
 * Files whose names are no object names (lost+found, an editor's backup) are ignored.
 *
 * Locks: files.lock guards the table of open files, not their use: a file in use has users > 0 and
 * is not closed.  dirs.lock guards the list of directories known to exist, and is held while one is
 * made.  Neither is taken under the other.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/durable.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/vector.h"
#include "repo/backends/backend-private.h"

#define TMP_DIR           "tmp"
#define TMP_AGE_MAX_NS    (24 * 3600 * NSEC_PER_SEC)
#define OPEN_FILES_MAX    64u
#define LIST_DEPTH_MAX    8u
#define LIST_NAME_LEN_MAX 255u

DEFINE_VECTOR(name_vector, char *);

struct open_file {
    char name[BACKEND_NAME_MAX + 1]; /* "": slot is free */
    struct io_file *file;
    unsigned users;
    uint64_t last_used; /* a tick of files.clock */
    bool doomed;        /* the object was removed: close after the last user */
};

struct backend_local {
    struct backend backend;
    struct io *io;
    struct {
        pthread_mutex_t lock;
        uint64_t clock;
        struct open_file slots[OPEN_FILES_MAX];
    } files;
    struct {
        pthread_mutex_t lock;
        struct name_vector known;
        bool tmp_swept;
    } dirs;
};

static struct backend_local *local_of(struct backend *backend)
{
    return CONTAINER_OF(backend, struct backend_local, backend);
}

static void name_vector_release_all(struct name_vector *v)
{
    for (size_t i = 0; i < v->count; i++)
        free(v->items[i]);
    name_vector_release(v);
}

static int name_vector_add(struct name_vector *v, const char *name, size_t len)
{
    CLEANUP_FREE char *copy = strndup(name, len);
    if (!copy || name_vector_push(v, &copy) < 0)
        return error_note(-ENOMEM, "no memory for a list of names");
    copy = NULL;
    return 0;
}

static int collect_name(const char *name, void *userdata)
{
    return name_vector_add(userdata, name, strnlen(name, LIST_NAME_LEN_MAX));
}

/* ---- directories ---- */

static bool dir_known_locked(const struct backend_local *local, const char *path, size_t len)
{
    for (size_t i = 0; i < local->dirs.known.count; i++) {
        const char *known = local->dirs.known.items[i];
        if (strncmp(known, path, len) == 0 && known[len] == '\0')
            return true;
    }
    return false;
}

static int ensure_dir_locked(struct backend_local *local, const char *path, size_t len)
{
    char dir[BACKEND_NAME_MAX + 1];

    if (dir_known_locked(local, path, len))
        return 0;
    memcpy(dir, path, len);
    dir[len] = '\0';
    int r = durable_mkdir_parents(local->io, dir);
    if (r < 0)
        return r;
    return name_vector_add(&local->dirs.known, dir, len);
}

/* Temporaries of processes that died.  Whatever goes wrong here, writing can go on. */
static void sweep_tmp_locked(struct backend_local *local)
{
    CLEANUP(name_vector_release_all) struct name_vector names = {0};
    uint64_t now_ns = io_now_ns(local->io);

    local->dirs.tmp_swept = true;
    int r = io_list(local->io, TMP_DIR, collect_name, &names);
    if (r < 0) {
        log_warning("cannot list old temporary files in '%s': %s", local->backend.url,
                    error_text(r));
        return;
    }
    for (size_t i = 0; i < names.count; i++) {
        char path[sizeof(TMP_DIR) + 1 + LIST_NAME_LEN_MAX];
        struct io_stat st;
        (void)snprintf(path, sizeof(path), TMP_DIR "/%s", names.items[i]);
        if (io_stat(local->io, path, &st) < 0 || st.is_directory || st.mtime_ns > now_ns ||
            now_ns - st.mtime_ns < TMP_AGE_MAX_NS)
            continue;
        r = io_unlink(local->io, path);
        if (r < 0 && r != -ENOENT)
            log_warning("cannot remove old temporary file '%s' in '%s': %s", path,
                        local->backend.url, error_text(r));
    }
}

/* tmp and the directory of the object. */
static int ensure_dirs(struct backend_local *local, const char *name)
{
    const char *slash = strrchr(name, '/');

    pthread_mutex_lock(&local->dirs.lock);
    int r = ensure_dir_locked(local, TMP_DIR, strlen(TMP_DIR));
    if (r == 0 && !local->dirs.tmp_swept)
        sweep_tmp_locked(local);
    if (r == 0 && slash)
        r = ensure_dir_locked(local, name, (size_t)(slash - name));
    pthread_mutex_unlock(&local->dirs.lock);
    return r;
}

static void forget_dirs(struct backend_local *local)
{
    pthread_mutex_lock(&local->dirs.lock);
    name_vector_release_all(&local->dirs.known);
    pthread_mutex_unlock(&local->dirs.lock);
}

/* ---- open files ---- */

static struct open_file *find_file_locked(struct backend_local *local, const char *name)
{
    for (size_t i = 0; i < OPEN_FILES_MAX; i++) {
        struct open_file *slot = &local->files.slots[i];
        if (slot->file && !slot->doomed && strcmp(slot->name, name) == 0)
            return slot;
    }
    return NULL;
}

/* A free slot, or the one that was not used for longest; NULL when all are in use. */
static struct open_file *take_slot_locked(struct backend_local *local)
{
    struct open_file *oldest = NULL;
    for (size_t i = 0; i < OPEN_FILES_MAX; i++) {
        struct open_file *slot = &local->files.slots[i];
        if (!slot->file)
            return slot;
        if (slot->users == 0 && (!oldest || slot->last_used < oldest->last_used))
            oldest = slot;
    }
    return oldest;
}

/* An open file and, when it is in the table, its slot. */
struct file_use {
    struct io_file *file;
    struct open_file *slot;
};

static bool use_open_file(struct backend_local *local, const char *name, struct file_use *ret_use)
{
    pthread_mutex_lock(&local->files.lock);
    struct open_file *slot = find_file_locked(local, name);
    if (slot) {
        slot->users++;
        slot->last_used = ++local->files.clock;
        *ret_use = (struct file_use){.file = slot->file, .slot = slot};
    }
    pthread_mutex_unlock(&local->files.lock);
    return slot;
}

/* Puts a file that was just opened into the table, if there is room and no other thread did. */
static void keep_file_open(struct backend_local *local, const char *name, struct file_use *use)
{
    struct io_file *evicted = NULL;

    pthread_mutex_lock(&local->files.lock);
    struct open_file *slot = find_file_locked(local, name) ? NULL : take_slot_locked(local);
    if (slot) {
        evicted = slot->file;
        *slot =
            (struct open_file){.file = use->file, .users = 1, .last_used = ++local->files.clock};
        memcpy(slot->name, name, strlen(name) + 1);
        use->slot = slot;
    }
    pthread_mutex_unlock(&local->files.lock);
    io_close(evicted);
}

static int use_file(struct backend_local *local, const char *name, struct file_use *ret_use)
{
    if (use_open_file(local, name, ret_use))
        return 0;
    struct file_use use = {0};
    int r = io_open(local->io, name, IO_READ, &use.file);
    if (r < 0)
        return r;
    if (strncmp(name, "packs/", 6) == 0)
        keep_file_open(local, name, &use);
    *ret_use = use;
    return 0;
}

static void unuse_file(struct backend_local *local, struct file_use *use)
{
    struct io_file *to_close = use->file;

    if (use->slot) {
        pthread_mutex_lock(&local->files.lock);
        bool close_now = --use->slot->users == 0 && use->slot->doomed;
        if (close_now)
            *use->slot = (struct open_file){0};
        else
            to_close = NULL;
        pthread_mutex_unlock(&local->files.lock);
    }
    io_close(to_close);
}

static void forget_file(struct backend_local *local, const char *name)
{
    struct io_file *to_close = NULL;

    pthread_mutex_lock(&local->files.lock);
    struct open_file *slot = find_file_locked(local, name);
    if (slot && slot->users > 0) {
        slot->doomed = true;
    } else if (slot) {
        to_close = slot->file;
        *slot = (struct open_file){0};
    }
    pthread_mutex_unlock(&local->files.lock);
    io_close(to_close);
}

/* ---- the operations ---- */

static int local_put(struct backend *backend, const char *name, const struct iovec *iov,
                     size_t iov_count)
{
    struct backend_local *local = local_of(backend);

    int r = ensure_dirs(local, name);
    if (r == 0)
        r = durable_write(local->io, TMP_DIR, name, DURABLE_CREATE, iov, iov_count);
    if (r == -ENOENT) {
        /* Somebody removed a directory that had been there. */
        forget_dirs(local);
        r = ensure_dirs(local, name);
        if (r == 0)
            r = durable_write(local->io, TMP_DIR, name, DURABLE_CREATE, iov, iov_count);
    }
    /* What failed may have been a temporary file, whose name says nothing. */
    return r < 0 ? error_prefix(r, "cannot store '%s' in '%s'", name, backend->url) : 0;
}

static int local_get(struct backend *backend, const char *name, uint64_t offset, void *data,
                     size_t len)
{
    struct backend_local *local = local_of(backend);
    struct file_use use = {0};
    size_t got = 0;

    int r = use_file(local, name, &use);
    if (r < 0)
        return r;
    r = io_pread(use.file, data, len, offset, &got);
    unuse_file(local, &use);
    if (r < 0)
        return r;
    if (got < len)
        return error_note(-ENODATA, "'%s' in '%s' ends at byte %llu, expected %llu", name,
                          backend->url, (unsigned long long)(offset + got),
                          (unsigned long long)(offset + len));
    return 0;
}

static int local_stat(struct backend *backend, const char *name, uint64_t *ret_size_bytes)
{
    struct backend_local *local = local_of(backend);
    struct io_stat st;

    int r = io_stat(local->io, name, &st);
    if (r < 0)
        return r;
    if (st.is_directory)
        return error_note(-ENOENT, "'%s' in '%s' is a directory", name, backend->url);
    *ret_size_bytes = st.size_bytes;
    return 0;
}

struct listing {
    struct backend_local *local;
    const char *prefix;
    backend_list_fn fn;
    void *userdata;
};

/* Whether objects below the directory can begin with the prefix. */
static bool dir_may_match(const char *dir, const char *prefix)
{
    size_t dir_len = strlen(dir), prefix_len = strlen(prefix);
    return strncmp(dir, prefix, MIN(dir_len, prefix_len)) == 0 &&
           (dir_len >= prefix_len || prefix[dir_len] == '/');
}

static int list_dir(const struct listing *l, const char *dir, unsigned depth);

static int list_one(const struct listing *l, const char *path, unsigned depth)
{
    struct io_stat st;
    int r = io_stat(l->local->io, path, &st);
    if (r == -ENOENT) /* removed meanwhile */
        return 0;
    if (r < 0)
        return r;
    if (st.is_directory)
        return dir_may_match(path, l->prefix) ? list_dir(l, path, depth + 1) : 0;
    if (strncmp(path, l->prefix, strlen(l->prefix)) != 0)
        return 0;
    return l->fn(path, st.size_bytes, l->userdata);
}

/* dir: "" or "packs/ab".  Names are collected first: fn may use the backend. */
static int list_dir(const struct listing *l, const char *dir, unsigned depth)
{
    CLEANUP(name_vector_release_all) struct name_vector names = {0};

    if (depth > LIST_DEPTH_MAX)
        return 0; /* no object of ours lies that deep */
    int r = io_list(l->local->io, dir, collect_name, &names);
    if (r == -ENOENT && dir[0] != '\0')
        return 0; /* a kind of objects of which there is none yet */
    for (size_t i = 0; r == 0 && i < names.count; i++) {
        char path[BACKEND_NAME_MAX + 1];
        int len = snprintf(path, sizeof(path), "%s%s%s", dir, dir[0] ? "/" : "", names.items[i]);
        if (len < 0 || (size_t)len >= sizeof(path) || !backend_name_valid(path) ||
            strcmp(path, TMP_DIR) == 0)
            continue;
        r = list_one(l, path, depth);
    }
    return r;
}

static int local_list(struct backend *backend, const char *prefix, backend_list_fn fn,
                      void *userdata)
{
    const struct listing l = {
        .local = local_of(backend), .prefix = prefix, .fn = fn, .userdata = userdata};
    const char *slash = strrchr(prefix, '/');
    char dir[BACKEND_NAME_MAX + 1] = "";

    if (slash)
        memcpy(dir, prefix, (size_t)(slash - prefix));
    return list_dir(&l, dir, 0);
}

/* Of packs/ab or sessions/x nothing is left when it is empty.  Whoever is about to put an object
 * into it finds it gone, and makes it again (local_put). */
static void remove_empty_dir(struct backend_local *local, const char *dir)
{
    if (io_unlink(local->io, dir) >= 0)
        forget_dirs(local);
}

static int local_remove(struct backend *backend, const char *name)
{
    struct backend_local *local = local_of(backend);
    const char *slash = strrchr(name, '/');
    char dir[BACKEND_NAME_MAX + 1] = "";

    forget_file(local, name);
    int r = io_unlink(local->io, name);
    if (r < 0)
        return r;
    if (slash)
        memcpy(dir, name, (size_t)(slash - name));
    /* A passphrase that was removed must not come back with the power. */
    r = io_sync_dir(local->io, dir);
    if (r >= 0 && strchr(dir, '/'))
        remove_empty_dir(local, dir);
    return r;
}

static void local_free(struct backend *backend)
{
    struct backend_local *local = local_of(backend);

    for (size_t i = 0; i < OPEN_FILES_MAX; i++)
        io_close(local->files.slots[i].file);
    name_vector_release_all(&local->dirs.known);
    pthread_mutex_destroy(&local->files.lock);
    pthread_mutex_destroy(&local->dirs.lock);
    io_free(local->io);
    free(backend->url);
    free(backend->local_path);
    free(local);
}

static const struct backend_ops local_ops = {
    .scheme = "file",
    .put = local_put,
    .get = local_get,
    .stat = local_stat,
    .list = local_list,
    .remove = local_remove,
    .free = local_free,
};

int backend_new_local(struct io *io, const char *url, struct backend **ret_backend)
{
    struct backend_local *local = calloc(1, sizeof(*local));
    char *url_copy = strdup(url);
    if (!local || !url_copy) {
        free(local);
        free(url_copy);
        io_free(io);
        return error_note(-ENOMEM, "no memory for the repository '%s'", url);
    }
    local->backend = (struct backend){.ops = &local_ops, .url = url_copy};
    local->io = io;
    (void)pthread_mutex_init(&local->files.lock, NULL);
    (void)pthread_mutex_init(&local->dirs.lock, NULL);
    *ret_backend = &local->backend;
    return 0;
}

/* ---- opening a path ---- */

static int find_foreign(const char *name, void *userdata)
{
    bool *config_found = userdata;
    if (strcmp(name, "config") == 0) {
        *config_found = true;
        return 1;
    }
    /* keys: an init was interrupted before it wrote the config. */
    bool ours = strcmp(name, TMP_DIR) == 0 || strcmp(name, "keys") == 0;
    return ours || strcmp(name, "lost+found") == 0 ? 0 : 1;
}

static int check_place_for_creation(struct io *io, const char *url)
{
    bool config_found = false;
    int r = io_list(io, "", find_foreign, &config_found);
    if (r < 0)
        return r;
    if (config_found)
        return error_note(-EEXIST, "there is a repository in '%s' already", url);
    if (r > 0)
        return error_note(-EEXIST, "'%s' is not empty", url);
    return 0;
}

/* The directory, its name durable.  One that is there already is fine. */
static int make_root(const char *path)
{
    if (mkdir(path, 0700) < 0) {
        if (errno == EEXIST)
            return 0;
        return error_note_describe(-errno, "cannot make the directory '%s'", path);
    }
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP_CLOSE int parent_fd = fd < 0 ? -EBADF : openat(fd, "..", O_RDONLY | O_CLOEXEC);
    if (parent_fd < 0 || fsync(parent_fd) < 0)
        return error_note_describe(-errno, "cannot sync the directory above '%s'", path);
    return 0;
}

int backend_local_open(const char *path, const char *url, bool create, struct backend **ret_backend)
{
    CLEANUP(io_freep) struct io *io = NULL;

    int r = create ? make_root(path) : 0;
    if (r < 0)
        return r;
    r = io_new_real(path, &io);
    if (r == -ENOENT || r == -ENOTDIR)
        return error_note(-UMBRA_E_NOT_REPO, "'%s' is not an umbra repository: no such directory",
                          url);
    if (r < 0)
        return r;
    if (create) {
        r = check_place_for_creation(io, url);
        if (r < 0)
            return r;
    }
    r = backend_new_local(TAKE_PTR(io), url, ret_backend);
    if (r >= 0)
        (*ret_backend)->local_path = realpath(path, NULL);
    return r;
}
