/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The window: entries between the walk and the catalog.
 *
 * Workers finish entries in any order, and a chunk gets its location only when its pack is durable;
 * the catalog wants entries in key order with their locations.  So each entry that has to wait
 * stands in a ring, in key order, until it is captured and all its chunks are durable.  The window
 * is bounded; when it is full, the open packs are pushed out.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "repo/backup-run.h"
#include "tree/key.h"

int window_init(struct backup_run *run)
{
    run->window.items = calloc(WINDOW_ITEMS_MAX, sizeof(*run->window.items));
    return run->window.items ? 0 : -ENOMEM;
}

void item_free(struct item *item)
{
    if (!item)
        return;
    scan_dir_unref(item->dir);
    entry_release(&item->entry);
    free(item);
}

static struct item *window_at(const struct backup_run *run, size_t i)
{
    return run->window.items[(run->window.first + i) % WINDOW_ITEMS_MAX];
}

void window_release(struct backup_run *run)
{
    for (size_t i = 0; run->window.items && i < run->window.count; i++)
        item_free(window_at(run, i));
    free(run->window.items);
    for (size_t i = 0; i < run->emitted.count; i++)
        item_free(run->emitted.items[i]);
    item_vector_release(&run->emitted);
    for (size_t i = 0; i < LINK_BUCKETS; i++)
        for (struct link_group *g = run->links[i], *next; g; g = next) {
            next = g->next;
            entry_release(&g->entry);
            free(g);
        }
}

/* ---- hard links ---- */

static bool same_timestamp(const struct statx_timestamp *a, const struct statx_timestamp *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

int link_group_get(struct backup_run *run, uint32_t fs_index, const struct statx *stx,
                   struct link_group **ret_group, bool *ret_first)
{
    struct link_group **bucket = &run->links[(stx->stx_ino * 31 + fs_index) % LINK_BUCKETS];
    *ret_first = false;
    for (struct link_group *g = *bucket; g; g = g->next)
        if (g->inode == stx->stx_ino && g->fs_index == fs_index) {
            bool same = same_timestamp(&g->btime, &stx->stx_btime) &&
                        same_timestamp(&g->ctime, &stx->stx_ctime);
            *ret_group = same ? g : NULL;
            return 0;
        }
    struct link_group *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    *g = (struct link_group){
        .fs_index = fs_index,
        .inode = stx->stx_ino,
        .btime = stx->stx_btime,
        .ctime = stx->stx_ctime,
        .names_left = stx->stx_nlink,
        .next = *bucket,
    };
    *bucket = g;
    *ret_group = g;
    *ret_first = true;
    return 0;
}

/* One more name has been dealt with; with the last one, the copy of the entry is of no use any
 * more. */
static void link_group_seen(struct link_group *g)
{
    if (g->names_left > 0 && --g->names_left == 0)
        entry_release(&g->entry);
}

/* What was captured under the first name serves the others only if it is the inode that the walk
 * saw there: somebody may have put another file under that name meanwhile. */
static int link_group_keep(struct link_group *g, const struct item *item)
{
    const struct entry *e = &item->entry;
    g->unusable = item->failed || e->inode != g->inode || e->ctime.sec != g->ctime.tv_sec ||
                  e->ctime.nsec != g->ctime.tv_nsec;
    if (g->unusable || g->names_left <= 1)
        return 0;
    return entry_copy(e, &g->entry);
}

static void entry_problem(struct backup_run *run, const struct entry *e, const char *what)
{
    CLEANUP(buffer_release) struct buffer path = {0};
    CLEANUP_FREE char *relative = key_to_path(e->key, e->key_len);
    buffer_put_u8(&path, '/');
    if (relative)
        buffer_put(&path, relative, strlen(relative));
    buffer_put_u8(&path, 0);
    backup_problem(run, buffer_finish(&path) < 0 ? "?" : (const char *)path.data, what, true);
}

/* Gives a further name everything but the key from the first one. */
static int link_fill(struct backup_run *run, struct item *item)
{
    struct entry full;
    run->links_waiting--;
    int r = entry_copy(&item->link->entry, &full);
    if (r < 0)
        return r;
    free(full.key);
    full.key = TAKE_PTR(item->entry.key);
    full.key_len = item->entry.key_len;
    entry_release(&item->entry);
    item->entry = full;
    return 0;
}

/* A further name whose first one is of no use is captured like any file. */
static int link_give_up(struct backup_run *run, struct item *item)
{
    run->links_waiting--;
    item->link = NULL;
    atomic_store(&item->done, false);
    return batch_submit_alone(run, item);
}

/* ---- emitting ---- */

static void count_entry(struct backup_run *run, const struct entry *e, char change,
                        bool further_name)
{
    struct backup_stats *stats = &run->backup->stats;
    switch (e->type) {
    case ENTRY_DIRECTORY: stats->directory_count++; return;
    case ENTRY_REGULAR: break;
    default: stats->other_count++; return;
    }
    stats->file_count++;
    if (!further_name)
        stats->size_bytes += e->size;
    if (change == 'N')
        stats->new_count++;
    else if (change == 'C')
        stats->changed_count++;
    else
        stats->unchanged_count++;
}

static int note_owners(struct backup_run *run, const struct entry *e)
{
    if (run->owner_known && e->uid == run->last_uid && e->gid == run->last_gid &&
        e->xattrs.count == 0)
        return 0;
    int r = owner_vector_add_entry(&run->backup->owners, e);
    if (r < 0)
        return r;
    run->owner_known = true;
    run->last_uid = e->uid;
    run->last_gid = e->gid;
    return 0;
}

/* An entry that the catalog cannot hold as it is: without its xattrs, or not at all.  Both is told.
 */
static int add_reduced(struct backup_run *run, const struct entry *e, int error, bool *ret_added)
{
    CLEANUP_FREE char *what = strdup(error_text(error));
    struct entry bare = *e;
    bare.xattrs = (struct xattr_vector){0};
    bare.remarks |= ENTRY_XATTRS_INCOMPLETE;
    entry_problem(run, e, what ? what : "cannot be recorded");
    int r = error == -UMBRA_E_LIMIT && e->xattrs.count > 0
                ? catalog_builder_add(run->builder, &bare)
                : error;
    *ret_added = r >= 0;
    return r == -UMBRA_E_LIMIT || r == -EINVAL ? 0 : r;
}

static int add_to_catalog(struct backup_run *run, const struct entry *e, bool *ret_added)
{
    int r = run->builder ? catalog_builder_add(run->builder, e) : 0;
    if (r == -UMBRA_E_LIMIT || r == -EINVAL)
        return add_reduced(run, e, r, ret_added);
    *ret_added = r >= 0;
    return r;
}

static int emit(struct backup_run *run, const struct entry *e, char change, bool further_name)
{
    bool added;
    int r = add_to_catalog(run, e, &added);
    if (r < 0 || !added)
        return r;
    count_entry(run, e, change, further_name);
    r = note_owners(run, e);
    if (r < 0)
        return r;
    if (run->options->entry)
        run->options->entry(change, e, run->options->userdata);
    if (run->options->progress)
        atomic_fetch_add(&run->options->progress->files_done, 1);
    return 0;
}

/* Whether this is a further name of an unchanged inode that has been counted. */
static int seen_before(struct backup_run *run, const struct entry *e, bool *ret_seen)
{
    struct statx stx = {
        .stx_ino = e->inode,
        .stx_nlink = e->nlink,
        .stx_btime = {.tv_sec = e->btime.sec, .tv_nsec = e->btime.nsec},
        .stx_ctime = {.tv_sec = e->ctime.sec, .tv_nsec = e->ctime.nsec},
    };
    struct link_group *g;
    bool first = true;
    *ret_seen = false;
    if (e->type != ENTRY_REGULAR || e->nlink < 2)
        return 0;
    int r = link_group_get(run, e->fs_index, &stx, &g, &first);
    if (r < 0 || !g)
        return r;
    link_group_seen(g);
    *ret_seen = !first;
    return 0;
}

int backup_emit(struct backup_run *run, const struct entry *e, char change)
{
    bool seen;
    int r = seen_before(run, e, &seen);
    if (r < 0)
        return r;
    return emit(run, e, change, seen);
}

/* The first name stands earlier in the window: at the front of it, its fate is known. */
static bool link_is_useless(const struct item *item)
{
    return item->link && !item->link_first && (item->link->unusable || !item->link->entry.key);
}

static bool item_ready(struct backup_run *run, struct item *item)
{
    if (!atomic_load_explicit(&item->done, memory_order_acquire))
        return false;
    if (item->failed || !run->writer)
        return true;
    struct extent_vector *extents = &item->entry.extents;
    for (; item->resolved_count < extents->count; item->resolved_count++) {
        struct extent *extent = &extents->items[item->resolved_count];
        if (extent->kind == EXTENT_DATA && !writer_resolve(run->writer, &extent->chunk))
            return false;
    }
    return true;
}

/* Links are filled here, not in item_ready: the first name stands earlier and has been emitted by
 * now. */
static int emit_item(struct backup_run *run, struct item *item)
{
    int r = 0;
    if (item->link && item->link_first)
        r = link_group_keep(item->link, item);
    else if (item->link)
        r = link_fill(run, item);
    if (r >= 0 && !item->failed) {
        if (item->change == 'U' && !item->link)
            r = backup_emit(run, &item->entry, item->change);
        else
            r = emit(run, &item->entry, item->change, item->link && !item->link_first);
    }
    if (item->link)
        link_group_seen(item->link);
    return r;
}

/* ---- the journal ---- */

DEFINE_VECTOR(entry_ptr_vector, const struct entry *);

static bool wants_journal(const struct item *item)
{
    return !item->journaled && !item->failed && item->change != 'U' &&
           item->entry.type == ENTRY_REGULAR;
}

static int journal_collect(struct backup_run *run, struct entry_ptr_vector *entries)
{
    for (size_t i = 0; i < run->emitted.count; i++) {
        const struct entry *e = &run->emitted.items[i]->entry;
        if (!run->emitted.items[i]->journaled) {
            int r = entry_ptr_vector_push(entries, &e);
            if (r < 0)
                return r;
        }
    }
    for (size_t i = 0; i < run->window.count; i++) {
        struct item *item = window_at(run, i);
        const struct entry *e = &item->entry;
        if (item->link || !item_ready(run, item) || !wants_journal(item))
            continue;
        int r = entry_ptr_vector_push(entries, &e);
        if (r < 0)
            return r;
        item->journaled = true;
    }
    return 0;
}

static int journal_write(struct backup_run *run)
{
    struct entry_ptr_vector entries = {0};
    int r = journal_collect(run, &entries);
    if (r >= 0 && entries.count > 0)
        r = session_journal(run->session, entries.items, entries.count);
    entry_ptr_vector_release(&entries);
    for (size_t i = 0; i < run->emitted.count; i++)
        item_free(run->emitted.items[i]);
    item_vector_clear(&run->emitted);
    return r;
}

static int journal_if_due(struct backup_run *run)
{
    struct writer_stats stats;
    if (!run->session)
        return 0;
    writer_get_stats(run->writer, &stats);
    if (stats.pack_count == run->journaled_packs && run->emitted.count < JOURNAL_ENTRIES_MAX)
        return 0;
    run->journaled_packs = stats.pack_count;
    return journal_write(run);
}

/* ---- the ring ---- */

static int retire(struct backup_run *run, struct item *item)
{
    if (run->session && wants_journal(item)) {
        int r = item_vector_push(&run->emitted, &item);
        if (r < 0)
            item_free(item);
        return r;
    }
    item_free(item);
    return 0;
}

int backup_run_error(struct backup_run *run)
{
    pthread_mutex_lock(&run->lock);
    int r = error_raise(&run->error);
    pthread_mutex_unlock(&run->lock);
    if (r >= 0 && run->writer)
        r = writer_error(run->writer);
    if (r >= 0 && run->options->progress && atomic_load(&run->options->progress->cancelled))
        r = -UMBRA_E_CANCELLED;
    return r;
}

int window_drain(struct backup_run *run)
{
    bool drained = false;
    while (run->window.count > 0) {
        struct item *item = window_at(run, 0);
        if (link_is_useless(item))
            return link_give_up(run, item);
        if (!item_ready(run, item))
            break;
        run->window.first = (run->window.first + 1) % WINDOW_ITEMS_MAX;
        run->window.count--;
        drained = true;
        int r = emit_item(run, item);
        int retired = retire(run, item);
        r = r < 0 ? r : retired;
        if (r < 0)
            return r;
    }
    return drained ? journal_if_due(run) : 0;
}

static bool captured_at_most(struct backup_run *run, unsigned at_most)
{
    pthread_mutex_lock(&run->lock);
    bool fine = run->captures_under_way <= at_most;
    pthread_mutex_unlock(&run->lock);
    return fine;
}

int window_wait_captures(struct backup_run *run, unsigned at_most)
{
    while (!captured_at_most(run, at_most)) {
        int r = window_drain(run);
        if (r >= 0)
            r = backup_run_error(run);
        if (r < 0)
            return r;
        if (pool_run_one(run->pool, POOL_NORMAL))
            continue;
        pthread_mutex_lock(&run->lock);
        if (run->captures_under_way > at_most)
            pthread_cond_wait(&run->captured, &run->lock);
        pthread_mutex_unlock(&run->lock);
    }
    return backup_run_error(run);
}

/* Everything in the window is captured, becomes durable, and leaves it. */
static int window_push_out(struct backup_run *run)
{
    while (run->window.count > 0) { /* more than once if names of a useless link group turn up */
        batch_submit(run);
        int r = window_wait_captures(run, 0);
        if (r >= 0)
            r = window_drain(run);
        if (r >= 0 && run->window.count > 0 && captured_at_most(run, 0))
            r = writer_push_out(run->writer, CHUNK_DATA);
        if (r >= 0)
            r = window_drain(run);
        if (r < 0)
            return r;
    }
    return 0;
}

int window_push(struct backup_run *run, struct item *item)
{
    int r = window_drain(run);
    if (r >= 0 && run->window.count == WINDOW_ITEMS_MAX)
        r = window_push_out(run);
    if (r < 0) {
        item_free(item);
        return r;
    }
    run->window.items[(run->window.first + run->window.count) % WINDOW_ITEMS_MAX] = item;
    run->window.count++;
    return backup_run_error(run);
}

int window_finish(struct backup_run *run)
{
    return window_push_out(run);
}
