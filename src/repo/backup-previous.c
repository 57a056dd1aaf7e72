/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What earlier backups know: which files need not be read again.
 *
 * Two sources are read in step with the walk, in key order: the catalog of the newest backup of the
 * same host and roots, and the journal of interrupted sessions.  A file is unchanged when type,
 * inode, size, mtime and ctime are those recorded.  ctime has a granularity: a file that changed
 * within RACY_NS of the moment when the earlier backup began, or later, is read again even then.
 */
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "basic/error.h"
#include "basic/log.h"
#include "repo/backup-run.h"
#include "tree/key.h"

#define RACY_NS (10 * INT64_C(1000000)) /* a tick of 100 Hz */

/* ---- choosing ---- */

static bool same_roots(const struct backup *a, const struct backup *b)
{
    if (a->roots.count != b->roots.count)
        return false;
    for (size_t i = 0; i < a->roots.count; i++)
        if (strcmp(a->roots.items[i], b->roots.items[i]) != 0)
            return false;
    return true;
}

static int find_previous(struct backup_run *run, struct backup **ret_backup)
{
    struct backup_vector all = {0};
    size_t damaged;
    int r =
        backup_load_all(run->repo->backend, run->repo->keyring, run->repo->names, &all, &damaged);
    if (r < 0)
        return r;
    struct backup *found = NULL;
    for (size_t i = all.count; i > 0 && !found; i--) {
        struct backup *b = all.items[i - 1];
        if (strcmp(b->host, run->backup->host) == 0 && same_roots(b, run->backup))
            found = TAKE_PTR(all.items[i - 1]);
    }
    backup_vector_release_all(&all);
    *ret_backup = found;
    return 0;
}

static int copy_file_systems(const struct backup *from, struct backup *to)
{
    for (size_t i = 0; i < from->file_systems.count; i++) {
        const struct backup_fs *fs = &from->file_systems.items[i];
        struct backup_fs copy = {
            .type = strdup(fs->type), .source = strdup(fs->source), .mount = strdup(fs->mount)};
        int r = copy.type && copy.source && copy.mount
                    ? backup_fs_vector_push(&to->file_systems, &copy)
                    : -ENOMEM;
        if (r < 0) {
            free(copy.type);
            free(copy.source);
            free(copy.mount);
            return r;
        }
    }
    return 0;
}

/* A page of the previous catalog that cannot be read costs time, not the backup. */
static void previous_skip(struct backup_run *run, int r)
{
    struct previous *previous = &run->previous;
    previous->current = NULL;
    while (r < 0) {
        log_warning("a page of backup %.12s cannot be read, its files will be read again: %s",
                    previous->backup->id, error_text(r));
        if (catalog_cursor_skip_page(previous->cursor) < 0)
            return;
        r = catalog_cursor_next(previous->cursor, &previous->current);
    }
}

int previous_open(struct backup_run *run)
{
    struct previous *previous = &run->previous;
    int r = find_previous(run, &previous->backup);
    if (r < 0 || !previous->backup)
        return r;
    memcpy(run->backup->parent, previous->backup->id, sizeof(run->backup->parent));
    r = copy_file_systems(previous->backup, run->backup);
    if (r >= 0)
        r = page_reader_new(run->repo, &previous->reader);
    if (r >= 0)
        r = catalog_cursor_new(page_reader_store(previous->reader), &previous->backup->catalog,
                               &previous->cursor);
    if (r < 0)
        return r;
    r = catalog_cursor_next(previous->cursor, &previous->current);
    if (r < 0)
        previous_skip(run, r);
    return 0;
}

void previous_release(struct previous *previous)
{
    catalog_cursor_free(previous->cursor);
    page_reader_free(previous->reader);
    backup_free(previous->backup);
    *previous = (struct previous){0};
}

/* ---- comparing ---- */

static struct entry *previous_seek(struct backup_run *run, const struct buffer *key)
{
    struct previous *previous = &run->previous;
    while (previous->current) {
        int order =
            key_compare(previous->current->key, previous->current->key_len, key->data, key->len);
        if (order == 0)
            return previous->current;
        if (order > 0)
            return NULL;
        int r = catalog_cursor_next(previous->cursor, &previous->current);
        if (r < 0)
            previous_skip(run, r);
    }
    return NULL;
}

static bool same_time(const struct statx_timestamp *now, const struct entry_time *then)
{
    return now->tv_sec == then->sec && now->tv_nsec == then->nsec;
}

static int64_t time_ns(const struct entry_time *t)
{
    int64_t ns;
    if (__builtin_mul_overflow(t->sec, (int64_t)NSEC_PER_SEC, &ns) ||
        __builtin_add_overflow(ns, (int64_t)t->nsec, &ns))
        return INT64_MAX; /* far in the future: never taken for settled */
    return ns;
}

static enum entry_type type_of(const struct statx *stx)
{
    struct entry e = {0};
    meta_from_statx(stx, &e);
    return e.type;
}

static bool is_unchanged(const struct entry *e, const struct statx *stx, int64_t start_ns)
{
    return e->remarks == 0 && e->inode == stx->stx_ino && e->type == type_of(stx) &&
           (e->type != ENTRY_REGULAR || e->size == stx->stx_size) &&
           same_time(&stx->stx_mtime, &e->mtime) && same_time(&stx->stx_ctime, &e->ctime) &&
           time_ns(&e->ctime) < start_ns - RACY_NS;
}

/* Whether the repository still has all that the entry refers to: a damaged one heals by reading the
 * file again. */
static bool all_stored(const struct index *index, const struct extent_vector *extents)
{
    struct index_hit hit;
    for (size_t i = 0; i < extents->count; i++)
        if (extents->items[i].kind == EXTENT_DATA &&
            !index_lookup(index, &extents->items[i].chunk.id, &hit))
            return false;
    return true;
}

static bool is_stored(const struct backup_run *run, const struct entry *e)
{
    return !run->index ||
           (all_stored(run->index, &e->extents) && all_stored(run->index, &e->content_refs));
}

int previous_unchanged(struct backup_run *run, const struct buffer *key, const struct statx *stx,
                       struct entry **ret_entry, char *ret_change)
{
    struct entry *e = previous_seek(run, key);
    *ret_change = e ? 'C' : 'N';
    *ret_entry = NULL;
    bool trust = e && (e->type != ENTRY_REGULAR || !run->options->read_all);
    if (trust && is_unchanged(e, stx, run->previous.backup->start_ns) && is_stored(run, e)) {
        *ret_entry = e;
        *ret_change = 'U';
        return 0;
    }

    int64_t start_ns;
    struct entry *journaled = NULL;
    int r =
        run->session ? session_find(run->session, key->data, key->len, &journaled, &start_ns) : 0;
    if (r < 0 || !journaled)
        return r;
    if (is_unchanged(journaled, stx, start_ns) && is_stored(run, journaled))
        *ret_entry = journaled;
    return 0;
}

/* ---- file systems ---- */

static int describe_fs(const struct statx *stx, struct backup_fs *ret_fs)
{
    char device[32];
    (void)snprintf(device, sizeof(device), "%u:%u", stx->stx_dev_major, stx->stx_dev_minor);
    struct backup_fs fs = {0};
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    char text[8192];
    struct mntent mount;
    while (mounts && getmntent_r(mounts, &mount, text, sizeof(text))) {
        struct statx at;
        if (statx(AT_FDCWD, mount.mnt_dir,
                  AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE,
                  &at) < 0 ||
            at.stx_dev_major != stx->stx_dev_major || at.stx_dev_minor != stx->stx_dev_minor)
            continue;
        fs = (struct backup_fs){.type = strdup(mount.mnt_type),
                                .source = strdup(mount.mnt_fsname),
                                .mount = strdup(mount.mnt_dir)};
        break;
    }
    if (mounts)
        (void)endmntent(mounts);
    if (!fs.mount) /* a subvolume, or not in this mount namespace */
        fs = (struct backup_fs){
            .type = strdup("unknown"), .source = strdup(device), .mount = strdup("")};
    *ret_fs = fs;
    return fs.type && fs.source && fs.mount ? 0 : -ENOMEM;
}

/* Device names change from boot to boot; the place in the tree says what is meant. */
static bool same_fs(const struct backup_fs *a, const struct backup_fs *b)
{
    return strcmp(a->type, b->type) == 0 && strcmp(a->mount, b->mount) == 0;
}

static void fs_release(struct backup_fs *fs)
{
    free(fs->type);
    free(fs->source);
    free(fs->mount);
}

/* The place of fs in the backup's table; takes its strings over. */
static int fs_record(struct backup_run *run, struct backup_fs *fs, uint32_t *ret_index)
{
    struct backup_fs_vector *all = &run->backup->file_systems;
    for (size_t i = 0; i < all->count; i++)
        if (fs->mount[0] && same_fs(&all->items[i], fs)) {
            fs_release(&all->items[i]);
            all->items[i] = *fs;
            *ret_index = (uint32_t)i;
            return 0;
        }
    int r = backup_fs_vector_push(all, fs);
    if (r < 0) {
        fs_release(fs);
        return r;
    }
    *ret_index = (uint32_t)(all->count - 1);
    return 0;
}

int fs_index_of(struct backup_run *run, const struct statx *stx, uint32_t *ret_index)
{
    for (size_t i = run->known_fs.count; i > 0; i--) {
        const struct known_fs *known = &run->known_fs.items[i - 1];
        if (known->dev_major == stx->stx_dev_major && known->dev_minor == stx->stx_dev_minor) {
            *ret_index = known->fs_index;
            return 0;
        }
    }
    struct backup_fs fs;
    struct known_fs known = {.dev_major = stx->stx_dev_major, .dev_minor = stx->stx_dev_minor};
    int r = describe_fs(stx, &fs);
    if (r >= 0)
        r = fs_record(run, &fs, &known.fs_index);
    if (r >= 0)
        r = known_fs_vector_push(&run->known_fs, &known);
    if (r < 0)
        return r;
    *ret_index = known.fs_index;
    return 0;
}
