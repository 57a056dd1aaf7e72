/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file system in memory: struct io for unit tests, and the disk under the crash simulator.
 *
 * Every file and every directory is a node that has two states.  NOW is what programs see.  DURABLE
 * is what a power cut leaves for certain.  Without a cache (io_new_memory) only NOW is kept.  With
 * one (io_new_crash) each change is applied to NOW and recorded: changes of bytes at the file,
 * changes of names in one list for the whole file system, because a rename touches two directories.
 *
 *     call        NOW        DURABLE and the records
 *     write       changed    recorded at the file
 *     sync        -          file: DURABLE = NOW, its records forgotten
 *     rename      changed    recorded in the list
 *     sync_dir    -          records that touch the directory are applied and forgotten
 *     power cut   lost       some of the records are applied (io-crash.c)
 *     reboot      = DURABLE  -
 *
 * Invariants:
 *  1. DURABLE with all records applied in order is NOW.
 *  2. Records of one name are made durable in the order of their making.  So sync_dir also takes
 * along older records of other directories that share a name with one it applies: a rename out of a
 *     directory makes durable that the file had been there.
 *  3. A blob that is shared (several references) is never written; blob_own() copies it first.
 * States and clones therefore cost memory only where they differ.
 *  4. Nodes stand in fs->first..last in the order of their making, and everything random is decided
 * in that order: the same seed and the same calls give the same disk.
 *
 * One lock for everything; list() calls its function without it.
 */
#include "basic/io-memory-private.h"

#include <stdio.h>
#include <string.h>

#include "basic/error.h"
#include "basic/splitmix.h"

#define FILE_BYTES_MAX (4 * GIB)
/* 2026-01-01 00:00:00 UTC */
#define CLOCK_START_NS (UINT64_C(1767225600) * NSEC_PER_SEC)

struct memory_file {
    struct io_file file;
    struct node *node;
    unsigned flags;
    unsigned epoch;
};

static const struct io_ops memory_ops;

static struct memory_file *file_of(struct io_file *file)
{
    return CONTAINER_OF(file, struct memory_file, file);
}

struct memory_io *memory_of(struct io *io)
{
    return io->ops == &memory_ops ? CONTAINER_OF(io, struct memory_io, io) : NULL;
}

/* ---- blobs ---- */

struct blob *blob_ref(struct blob *blob)
{
    if (blob)
        (void)atomic_fetch_add(&blob->refs, 1);
    return blob;
}

void blob_unref(struct blob *blob)
{
    if (!blob || atomic_fetch_sub(&blob->refs, 1) > 1)
        return;
    free(blob->data);
    free(blob);
}

static int blob_new(size_t allocated, struct blob **ret_blob)
{
    CLEANUP_FREE struct blob *blob = calloc(1, sizeof(*blob));

    if (!blob)
        return -ENOMEM;
    atomic_init(&blob->refs, 1);
    blob->data = malloc(MAX(allocated, (size_t)1));
    if (!blob->data)
        return -ENOMEM;
    blob->allocated = allocated;
    *ret_blob = TAKE_PTR(blob);
    return 0;
}

/* Makes *blob one that only the caller has, with room for len bytes. */
static int blob_own(struct blob **blob, size_t len)
{
    struct blob *old = *blob;

    if (old && atomic_load(&old->refs) == 1) {
        void *data = old->data;
        if (len > old->allocated && vector_grow(&data, &old->allocated, len, 1) < 0)
            return -ENOMEM;
        old->data = data;
        return 0;
    }

    struct blob *own;
    int r = blob_new(MAX(len, old ? old->len : 0), &own);
    if (r < 0)
        return r;
    if (old && old->len > 0)
        memcpy(own->data, old->data, old->len);
    own->len = old ? old->len : 0;
    blob_unref(old);
    *blob = own;
    return 0;
}

int blob_truncate(struct blob **blob, uint64_t len_bytes)
{
    if (len_bytes > FILE_BYTES_MAX)
        return -EFBIG;
    size_t len = (size_t)len_bytes;
    int r = blob_own(blob, len);
    if (r < 0)
        return r;
    if (len > (*blob)->len)
        memset((*blob)->data + (*blob)->len, 0, len - (*blob)->len);
    (*blob)->len = len;
    return 0;
}

int blob_write(struct blob **blob, const void *data, size_t len, uint64_t offset)
{
    size_t old_len = *blob ? (*blob)->len : 0;

    if (offset + len > FILE_BYTES_MAX)
        return -EFBIG;
    int r = blob_truncate(blob, MAX(old_len, (size_t)offset + len));
    if (r < 0)
        return r;
    if (len > 0)
        memcpy((*blob)->data + offset, data, len);
    return 0;
}

/* ---- nodes and names ---- */

int node_new(struct memory_io *fs, bool is_directory, struct node **ret_node)
{
    struct node *node = calloc(1, sizeof(*node));

    if (!node)
        return -ENOMEM;
    *node = (struct node){.fs = fs,
                          .refs = 1,
                          .is_directory = is_directory,
                          .mtime_ns = fs->clock_ns,
                          .prev = fs->last};
    if (fs->last)
        fs->last->next = node;
    else
        fs->first = node;
    fs->last = node;
    *ret_node = node;
    return 0;
}

struct node *node_ref(struct node *node)
{
    if (node)
        node->refs++;
    return node;
}

void file_change_release(struct file_change *change)
{
    blob_unref(change->data);
}

void file_changes_clear(struct node *node)
{
    for (size_t i = 0; i < node->changes.count; i++)
        file_change_release(&node->changes.items[i]);
    file_change_vector_release(&node->changes);
}

void names_clear(struct entry_vector *names)
{
    struct entry_vector old = *names;

    *names = (struct entry_vector){0};
    for (size_t i = 0; i < old.count; i++) {
        free(old.items[i].name);
        node_unref(old.items[i].node);
    }
    entry_vector_release(&old);
}

static void node_free(struct node *node)
{
    struct memory_io *fs = node->fs;

    if (node->prev)
        node->prev->next = node->next;
    else
        fs->first = node->next;
    if (node->next)
        node->next->prev = node->prev;
    else
        fs->last = node->prev;
    for (unsigned i = 0; i < MEMORY_STATE_MAX; i++) {
        names_clear(&node->names[i]);
        blob_unref(node->contents[i]);
    }
    file_changes_clear(node);
    free(node);
}

void node_unref(struct node *node)
{
    if (node && --node->refs == 0)
        node_free(node);
}

static void node_unrefp(struct node **node)
{
    node_unref(*node);
}

/* The place of name, or where it would be put. */
static bool names_find(const struct entry_vector *names, const char *name, size_t *ret_index)
{
    size_t low = 0, high = names->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(names->items[middle].name, name);
        if (order == 0) {
            *ret_index = middle;
            return true;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_index = low;
    return false;
}

static struct node *names_get(const struct entry_vector *names, const char *name)
{
    size_t i;
    return names_find(names, name, &i) ? names->items[i].node : NULL;
}

static int names_set(struct entry_vector *names, const char *name, struct node *node)
{
    size_t i;

    if (names_find(names, name, &i)) {
        struct node *old = names->items[i].node;
        names->items[i].node = node_ref(node);
        node_unref(old);
        return 0;
    }
    char *own_name = strdup(name);
    if (!own_name || entry_vector_reserve(names, 1) < 0) {
        free(own_name);
        return -ENOMEM;
    }
    memmove(names->items + i + 1, names->items + i, (names->count - i) * sizeof(names->items[0]));
    names->items[i] = (struct entry){.name = own_name, .node = node_ref(node)};
    names->count++;
    return 0;
}

/* Takes the name away if it still stands for this node. */
static void names_remove(struct entry_vector *names, const char *name, const struct node *node)
{
    size_t i;

    if (!names_find(names, name, &i) || names->items[i].node != node)
        return;
    struct entry gone = names->items[i];
    names->count--;
    memmove(names->items + i, names->items + i + 1, (names->count - i) * sizeof(names->items[0]));
    free(gone.name);
    node_unref(gone.node);
}

int names_copy(const struct entry_vector *from, struct entry_vector *to)
{
    for (size_t i = 0; i < from->count; i++) {
        int r = names_set(to, from->items[i].name, from->items[i].node);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- changes of names ---- */

void name_change_release(struct name_change *change)
{
    free(change->from);
    free(change->to);
    node_unref(change->from_dir);
    node_unref(change->to_dir);
    node_unref(change->node);
}

int name_change_apply(const struct name_change *change, enum memory_state state)
{
    if (change->to_dir) {
        int r = names_set(&change->to_dir->names[state], change->to, change->node);
        if (r < 0)
            return r;
    }
    if (change->from_dir)
        names_remove(&change->from_dir->names[state], change->from, change->node);
    return 0;
}

/* Applies the change now, and records it where there is a cache.  from or to may be NULL. */
static int change_names_locked(struct memory_io *fs, struct node *from_dir, const char *from,
                               struct node *to_dir, const char *to, struct node *node)
{
    CLEANUP(name_change_release)
    struct name_change change = {.from_dir = node_ref(from_dir),
                                 .to_dir = node_ref(to_dir),
                                 .from = from ? strdup(from) : NULL,
                                 .to = to ? strdup(to) : NULL,
                                 .node = node_ref(node)};

    if ((from && !change.from) || (to && !change.to) ||
        name_change_vector_reserve(&fs->name_changes, 1) < 0)
        return -ENOMEM;
    int r = name_change_apply(&change, MEMORY_NOW);
    if (r < 0 || !fs->has_cache)
        return r;
    r = name_change_vector_push(&fs->name_changes, &change);
    if (r >= 0)
        change = (struct name_change){0};
    return r;
}

static bool same_name(const struct node *dir_a, const char *a, const struct node *dir_b,
                      const char *b)
{
    return dir_a && dir_a == dir_b && strcmp(a, b) == 0;
}

static bool share_a_name(const struct name_change *a, const struct name_change *b)
{
    return same_name(a->from_dir, a->from, b->from_dir, b->from) ||
           same_name(a->from_dir, a->from, b->to_dir, b->to) ||
           same_name(a->to_dir, a->to, b->from_dir, b->from) ||
           same_name(a->to_dir, a->to, b->to_dir, b->to);
}

/* Invariant 2: from the newest to the oldest, what has to be durable when the names in dir are. */
static void mark_for_sync(const struct name_change_vector *changes, const struct node *dir,
                          bool *marks)
{
    for (size_t i = changes->count; i-- > 0;) {
        const struct name_change *change = &changes->items[i];
        marks[i] = change->from_dir == dir || change->to_dir == dir;
        for (size_t later = i + 1; !marks[i] && later < changes->count; later++)
            marks[i] = marks[later] && share_a_name(change, &changes->items[later]);
    }
}

static int sync_names_locked(struct memory_io *fs, const struct node *dir)
{
    struct name_change_vector *changes = &fs->name_changes;
    size_t kept = 0;
    int r = 0;

    if (changes->count == 0)
        return 0;
    CLEANUP_FREE bool *marks = calloc(changes->count, sizeof(bool));
    if (!marks)
        return -ENOMEM;
    mark_for_sync(changes, dir, marks);
    for (size_t i = 0; i < changes->count; i++) {
        if (r >= 0 && marks[i])
            r = name_change_apply(&changes->items[i], MEMORY_DURABLE);
        if (r >= 0 && marks[i])
            name_change_release(&changes->items[i]);
        else
            changes->items[kept++] = changes->items[i];
    }
    changes->count = kept;
    return r;
}

/* ---- paths ---- */

static int check_alive_locked(const struct memory_io *fs)
{
    return fs->crashed ? error_note_describe(-UMBRA_E_CRASHED, "disk is gone") : 0;
}

static int fail(int r, const char *what, const char *path)
{
    return r < 0 ? error_note_describe(r, "cannot %s '%s'", what, path) : r;
}

static int walk_locked(struct memory_io *fs, const char *path, size_t len, struct node **ret_node)
{
    struct node *node = fs->root;
    const char *end = path + len;

    while (path < end) {
        size_t n = strcspn(path, "/");
        CLEANUP_FREE char *name = strndup(path, MIN(n, (size_t)(end - path)));
        if (!name)
            return -ENOMEM;
        if (!node->is_directory)
            return -ENOTDIR;
        node = names_get(&node->names[MEMORY_NOW], name);
        if (!node)
            return -ENOENT;
        path += MIN(n + 1, (size_t)(end - path));
    }
    *ret_node = node;
    return 0;
}

static int find_locked(struct memory_io *fs, const char *path, struct node **ret_node)
{
    return walk_locked(fs, path, strlen(path), ret_node);
}

/* The directory that path is in, and its last component. */
static int find_dir_locked(struct memory_io *fs, const char *path, struct node **ret_dir,
                           const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    struct node *dir;

    int r = walk_locked(fs, path, slash ? (size_t)(slash - path) : 0, &dir);
    if (r < 0)
        return r;
    if (!dir->is_directory)
        return -ENOTDIR;
    *ret_dir = dir;
    *ret_name = slash ? slash + 1 : path;
    return 0;
}

/* A new file or directory; -EEXIST.  The reference belongs to the directory. */
static int make_locked(struct memory_io *fs, const char *path, bool is_directory,
                       struct node **ret_node)
{
    CLEANUP(node_unrefp) struct node *node = NULL;
    struct node *dir;
    const char *name;

    int r = find_dir_locked(fs, path, &dir, &name);
    if (r < 0)
        return r;
    if (names_get(&dir->names[MEMORY_NOW], name))
        return -EEXIST;
    r = node_new(fs, is_directory, &node);
    if (r < 0)
        return r;
    r = change_names_locked(fs, NULL, NULL, dir, name, node);
    if (r >= 0)
        *ret_node = node;
    return r;
}

/* ---- the calls ---- */

static int open_locked(struct memory_io *fs, const char *path, unsigned flags,
                       struct node **ret_node)
{
    struct node *node = NULL;

    int r = check_alive_locked(fs);
    if (r < 0)
        return r;
    r = find_locked(fs, path, &node);
    if (r >= 0 && (flags & IO_EXCLUSIVE))
        r = -EEXIST;
    else if (r == -ENOENT && (flags & IO_CREATE))
        r = make_locked(fs, path, false, &node);
    if (r >= 0 && node->is_directory)
        r = -EISDIR;
    if (r < 0)
        return fail(r, flags & IO_CREATE ? "create" : "open", path);
    *ret_node = node_ref(node);
    return 0;
}

static int memory_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct memory_io *fs = memory_of(io);
    struct memory_file *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->file.ops = &memory_ops;
    f->flags = flags;
    pthread_mutex_lock(&fs->lock);
    f->epoch = fs->epoch;
    int r = open_locked(fs, path, flags, &f->node);
    pthread_mutex_unlock(&fs->lock);
    if (r < 0) {
        free(f);
        return r;
    }
    *ret_file = &f->file;
    return 0;
}

static void memory_close(struct io_file *file)
{
    struct memory_file *f = file_of(file);
    struct memory_io *fs = f->node->fs;

    pthread_mutex_lock(&fs->lock);
    node_unref(f->node);
    pthread_mutex_unlock(&fs->lock);
    free(f);
}

/* flags: what the file must have been opened for. */
static int check_file_locked(const struct memory_file *f, unsigned flags)
{
    int r = check_alive_locked(f->node->fs);

    if (r < 0)
        return r;
    if (f->epoch != f->node->fs->epoch)
        return error_note_describe(-UMBRA_E_CRASHED, "file was open");
    if ((f->flags & flags) != flags)
        return error_note(-EBADF, "file is not open for this");
    return 0;
}

static int memory_pread(struct io_file *file, void *data, size_t len, uint64_t offset,
                        size_t *ret_len)
{
    struct memory_file *f = file_of(file);

    pthread_mutex_lock(&f->node->fs->lock);
    int r = check_file_locked(f, IO_READ);
    if (r >= 0) {
        const struct blob *blob = f->node->contents[MEMORY_NOW];
        size_t size = blob ? blob->len : 0;
        size_t n = offset >= size ? 0 : MIN(len, size - (size_t)offset);
        if (n > 0)
            memcpy(data, blob->data + offset, n);
        *ret_len = n;
    }
    pthread_mutex_unlock(&f->node->fs->lock);
    return r;
}

/* The pieces as one blob, for the record of changes. */
static int gather(const struct iovec *iov, size_t iov_count, struct blob **ret_blob)
{
    struct blob *blob = NULL;
    size_t total = 0;

    for (size_t i = 0; i < iov_count; i++)
        total += iov[i].iov_len;
    int r = blob_new(total, &blob);
    for (size_t i = 0; r >= 0 && i < iov_count; i++)
        r = blob_write(&blob, iov[i].iov_base, iov[i].iov_len, blob->len);
    if (r < 0) {
        blob_unref(blob);
        return r;
    }
    *ret_blob = blob;
    return 0;
}

/* Takes over the change, on failure too. */
static int change_file_locked(struct node *node, struct file_change change)
{
    struct blob **now = &node->contents[MEMORY_NOW];

    int r = node->fs->has_cache ? file_change_vector_reserve(&node->changes, 1) : 0;
    if (r >= 0)
        r = change.data ? blob_write(now, change.data->data, change.data->len, change.offset)
                        : blob_truncate(now, change.offset);
    if (r >= 0 && node->fs->has_cache)
        r = file_change_vector_push(&node->changes, &change); /* there is room */
    else
        file_change_release(&change);
    if (r >= 0)
        node->mtime_ns = node->fs->clock_ns;
    return r;
}

static int memory_pwritev(struct io_file *file, const struct iovec *iov, size_t iov_count,
                          uint64_t offset)
{
    struct memory_file *f = file_of(file);
    struct file_change change = {.offset = offset};

    int r = gather(iov, iov_count, &change.data);
    if (r < 0)
        return error_note_describe(r, "cannot write");
    pthread_mutex_lock(&f->node->fs->lock);
    r = check_file_locked(f, IO_WRITE);
    if (r >= 0)
        r = change_file_locked(f->node, change);
    else
        file_change_release(&change);
    pthread_mutex_unlock(&f->node->fs->lock);
    return r;
}

static int memory_truncate(struct io_file *file, uint64_t len_bytes)
{
    struct memory_file *f = file_of(file);

    pthread_mutex_lock(&f->node->fs->lock);
    int r = check_file_locked(f, IO_WRITE);
    if (r >= 0)
        r = change_file_locked(f->node, (struct file_change){.offset = len_bytes});
    pthread_mutex_unlock(&f->node->fs->lock);
    return r;
}

/* Every sync comes through here first: it may be the one at which the power goes. */
static int begin_sync_locked(struct memory_io *fs)
{
    fs->sync_count++;
    if (fs->crash_at_sync == 0 || fs->sync_count != fs->crash_at_sync)
        return 0;
    crash_power_cut_locked(fs);
    return check_alive_locked(fs);
}

static int memory_sync(struct io_file *file)
{
    struct memory_file *f = file_of(file);
    struct node *node = f->node;

    pthread_mutex_lock(&node->fs->lock);
    int r = check_file_locked(f, 0);
    if (r >= 0)
        r = begin_sync_locked(node->fs);
    if (r >= 0 && node->fs->has_cache) {
        file_changes_clear(node);
        blob_unref(node->contents[MEMORY_DURABLE]);
        node->contents[MEMORY_DURABLE] = blob_ref(node->contents[MEMORY_NOW]);
    }
    pthread_mutex_unlock(&node->fs->lock);
    return r;
}

static int memory_stat(struct io *io, const char *path, struct io_stat *ret_stat)
{
    struct memory_io *fs = memory_of(io);
    struct node *node;

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    if (r >= 0)
        r = fail(find_locked(fs, path, &node), "stat", path);
    if (r >= 0) {
        const struct blob *blob = node->contents[MEMORY_NOW];
        *ret_stat = (struct io_stat){.size_bytes = blob ? blob->len : 0,
                                     .mtime_ns = node->mtime_ns,
                                     .is_directory = node->is_directory};
    }
    pthread_mutex_unlock(&fs->lock);
    return r;
}

static int memory_mkdir(struct io *io, const char *path)
{
    struct memory_io *fs = memory_of(io);
    struct node *node;

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    if (r >= 0)
        r = fail(make_locked(fs, path, true, &node), "make directory", path);
    pthread_mutex_unlock(&fs->lock);
    return r;
}

/* May this node take the place of that one? */
static int check_replace(const struct node *node, const struct node *old)
{
    if (old->is_directory && !node->is_directory)
        return -EISDIR;
    if (!old->is_directory && node->is_directory)
        return -ENOTDIR;
    return old->names[MEMORY_NOW].count > 0 ? -ENOTEMPTY : 0;
}

static int rename_locked(struct memory_io *fs, const char *from, const char *to, bool replace)
{
    struct node *from_dir, *to_dir;
    const char *from_name, *to_name;
    size_t from_len = strlen(from);

    int r = find_dir_locked(fs, from, &from_dir, &from_name);
    if (r < 0)
        return r;
    struct node *node = names_get(&from_dir->names[MEMORY_NOW], from_name);
    if (!node)
        return -ENOENT;
    if (strncmp(to, from, from_len) == 0 && to[from_len] == '/')
        return node->is_directory ? -EINVAL : -ENOTDIR;
    r = find_dir_locked(fs, to, &to_dir, &to_name);
    if (r < 0)
        return r;
    const struct node *old = names_get(&to_dir->names[MEMORY_NOW], to_name);
    if (old && !replace)
        return -EEXIST;
    if (old == node)
        return 0;
    r = old ? check_replace(node, old) : 0;
    if (r < 0)
        return r;
    return change_names_locked(fs, from_dir, from_name, to_dir, to_name, node);
}

static int memory_rename(struct io *io, const char *from, const char *to, bool replace)
{
    struct memory_io *fs = memory_of(io);

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    if (r >= 0) {
        r = rename_locked(fs, from, to, replace);
        r = r == -ENOENT ? fail(r, "rename", from) : fail(r, "rename to", to);
    }
    pthread_mutex_unlock(&fs->lock);
    return r;
}

static int unlink_locked(struct memory_io *fs, const char *path)
{
    struct node *dir;
    const char *name;

    int r = find_dir_locked(fs, path, &dir, &name);
    if (r < 0)
        return r;
    struct node *node = names_get(&dir->names[MEMORY_NOW], name);
    if (!node)
        return -ENOENT;
    if (node->names[MEMORY_NOW].count > 0)
        return -ENOTEMPTY;
    return change_names_locked(fs, dir, name, NULL, NULL, node);
}

static int memory_unlink(struct io *io, const char *path)
{
    struct memory_io *fs = memory_of(io);

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    if (r >= 0)
        r = fail(unlink_locked(fs, path), "remove", path);
    pthread_mutex_unlock(&fs->lock);
    return r;
}

static int find_directory_locked(struct memory_io *fs, const char *path, struct node **ret_dir)
{
    int r = find_locked(fs, path, ret_dir);

    if (r >= 0 && !(*ret_dir)->is_directory)
        r = -ENOTDIR;
    return fail(r, "open directory", path);
}

static int memory_sync_dir(struct io *io, const char *path)
{
    struct memory_io *fs = memory_of(io);
    struct node *dir;

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    if (r >= 0)
        r = find_directory_locked(fs, path, &dir);
    if (r >= 0)
        r = begin_sync_locked(fs);
    if (r >= 0)
        r = sync_names_locked(fs, dir);
    pthread_mutex_unlock(&fs->lock);
    return r;
}

static int memory_list(struct io *io, const char *path, io_list_fn fn, void *userdata)
{
    struct memory_io *fs = memory_of(io);
    struct entry_vector names = {0};
    struct node *dir;

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    if (r >= 0)
        r = find_directory_locked(fs, path, &dir);
    if (r >= 0)
        r = names_copy(&dir->names[MEMORY_NOW], &names);
    pthread_mutex_unlock(&fs->lock);

    for (size_t i = 0; r == 0 && i < names.count; i++)
        r = fn(names.items[i].name, userdata);

    pthread_mutex_lock(&fs->lock);
    names_clear(&names);
    pthread_mutex_unlock(&fs->lock);
    return r;
}

static uint64_t memory_now_ns(struct io *io)
{
    struct memory_io *fs = memory_of(io);

    pthread_mutex_lock(&fs->lock);
    fs->clock_ns += 1 + splitmix64_next(&fs->random_state) % (NSEC_PER_SEC / 100);
    uint64_t now_ns = fs->clock_ns;
    pthread_mutex_unlock(&fs->lock);
    return now_ns;
}

static int memory_random(struct io *io, void *data, size_t len)
{
    struct memory_io *fs = memory_of(io);
    uint8_t *bytes = data;

    pthread_mutex_lock(&fs->lock);
    int r = check_alive_locked(fs);
    for (size_t i = 0; r >= 0 && i < len; i += sizeof(uint64_t)) {
        uint64_t word = splitmix64_next(&fs->random_state);
        memcpy(bytes + i, &word, MIN(len - i, sizeof(word)));
    }
    pthread_mutex_unlock(&fs->lock);
    return r;
}

static void memory_free(struct io *io)
{
    struct memory_io *fs = memory_of(io);

    for (size_t i = 0; i < fs->name_changes.count; i++)
        name_change_release(&fs->name_changes.items[i]);
    name_change_vector_release(&fs->name_changes);
    /* Moved directories can hold each other in their two states: names go first, then every node.
     */
    for (struct node *node = fs->first; node; node = node->next)
        node_ref(node);
    for (struct node *node = fs->first; node; node = node->next)
        for (unsigned i = 0; i < MEMORY_STATE_MAX; i++)
            names_clear(&node->names[i]);
    node_unref(fs->root);
    for (struct node *node = fs->first, *next; node; node = next) {
        next = node->next;
        node_unref(node);
    }
    (void)pthread_mutex_destroy(&fs->lock);
    free(fs);
}

static const struct io_ops memory_ops = {
    .open = memory_open,
    .close = memory_close,
    .pread = memory_pread,
    .pwritev = memory_pwritev,
    .sync = memory_sync,
    .truncate = memory_truncate,
    .stat = memory_stat,
    .mkdir = memory_mkdir,
    .rename = memory_rename,
    .unlink = memory_unlink,
    .sync_dir = memory_sync_dir,
    .list = memory_list,
    .now_ns = memory_now_ns,
    .random = memory_random,
    .free = memory_free,
};

int memory_new(uint64_t seed, bool has_cache, struct memory_io **ret_fs)
{
    struct memory_io *fs = calloc(1, sizeof(*fs));

    if (!fs)
        return -ENOMEM;
    fs->io.ops = &memory_ops;
    fs->has_cache = has_cache;
    fs->random_state = seed;
    fs->clock_ns = CLOCK_START_NS;
    (void)pthread_mutex_init(&fs->lock, NULL);
    int r = node_new(fs, true, &fs->root);
    if (r < 0) {
        memory_free(&fs->io);
        return r;
    }
    *ret_fs = fs;
    return 0;
}

int io_new_memory(uint64_t seed, struct io **ret_io)
{
    struct memory_io *fs;

    int r = memory_new(seed, false, &fs);
    if (r >= 0)
        *ret_io = &fs->io;
    return r;
}
