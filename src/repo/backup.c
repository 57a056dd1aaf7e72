/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making a backup.
 *
 *     walk (scan)  -->  compare with     -->  unchanged: the old entry  ------------------>  window
 * -->  catalog in key order      earlier backups  -->  else: a batch for the workers, who capture,
 * in key       builder cut, look up and store (writer)  ---------->  order
 *
 * The main thread walks, compares, and emits; workers of one pool read directories ahead, capture
 * files and seal frames.  Files of one directory go to a worker together, so that their chunks come
 * to lie in one frame.
 *
 * Invariants
 *  1. An entry enters the catalog only when all its chunks are durable, so each page may say where
 * they are.
 *  2. The backup object is stored last, after packs, index segments and pages: nobody ever sees a
 * backup that refers to what is not there.  Storing it is the commit; before it, there is no
 * backup.
 *  3. What a file could not give is told (problem) and counted; only what makes the repository
 * unusable ends the backup.
 *  4. Memory is bounded by the window, the batches under way and the writer, whatever the tree.
 *
 * Resuming: each time that a data pack has become durable, the entries finished since the last time
 * are journaled (session.c).  The next backup of the same host and roots finds the packs
 * (index_adopt_packs) and the entries.
 */
#include <assert.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "repo/backup-run.h"
#include "tree/key.h"

#define ZSTD_LEVEL_DEFAULT 2

/* ---- beginning ---- */

static int64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * (int64_t)NSEC_PER_SEC + now.tv_nsec;
}

static int set_string(char **where, const char *value)
{
    *where = strdup(value);
    return *where ? 0 : -ENOMEM;
}

static int describe_host(struct backup *backup, const char *host)
{
    char name[256] = "";
    if (!host && gethostname(name, sizeof(name) - 1) < 0)
        return error_note_describe(-errno, "cannot get the name of this host");
    return set_string(&backup->host, host ? host : name);
}

static int describe_user(struct backup *backup)
{
    struct passwd pw;
    struct passwd *found = NULL;
    char text[4096];
    (void)getpwuid_r(geteuid(), &pw, text, sizeof(text), &found);
    return set_string(&backup->user, found ? found->pw_name : "");
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int describe_strings(struct string_vector *to, const char *const *from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int r = string_vector_add(to, from[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int describe_backup(struct backup_run *run)
{
    const struct backup_options *options = run->options;
    struct backup *backup = run->backup;
    backup->start_ns = now_ns();
    int r = describe_host(backup, options->host);
    if (r >= 0)
        r = describe_user(backup);
    if (r >= 0)
        r = set_string(&backup->program, "umbra " UMBRA_VERSION);
    if (r >= 0)
        r = describe_strings(&backup->tags, options->tags, options->tag_count);
    if (r >= 0)
        r = describe_strings(&backup->excludes, options->exclude_texts,
                             options->exclude_text_count);
    if (r >= 0 && options->exclude_caches)
        r = string_vector_add(&backup->excludes, "--exclude-caches");
    if (r >= 0 && options->one_file_system)
        r = string_vector_add(&backup->excludes, "--one-file-system");
    for (size_t i = 0; r >= 0 && i < scan_root_count(run->scan); i++)
        r = string_vector_add(&backup->roots, scan_root(run->scan, i));
    if (r >= 0 && backup->tags.count > 1)
        qsort(backup->tags.items, backup->tags.count, sizeof(*backup->tags.items), compare_strings);
    return r;
}

static void tell_missing(const char *path, int error, void *userdata)
{
    backup_problem(userdata, path, error_describe(error), true);
}

static int start_scan(struct backup_run *run)
{
    struct scan_options options = {
        .missing = tell_missing,
        .userdata = run,
        .excludes = run->options->excludes,
        .exclude_caches = run->options->exclude_caches,
        .one_file_system = run->options->one_file_system,
    };
    return scan_new(run->options->roots, run->options->root_count, &options, run->pool, &run->scan);
}

/* ---- the catalog's pages, by way of the writer ---- */

static int store_put_page(void *userdata, const void *page, size_t len, struct chunk_ref *ret_ref)
{
    struct backup_run *run = userdata;
    return writer_put_meta(run->writer, page, len, ret_ref);
}

static int store_locate(void *userdata, struct chunk_ref **refs, size_t n)
{
    struct backup_run *run = userdata;
    int r = writer_push_out(run->writer, CHUNK_META);
    for (size_t i = 0; r >= 0 && i < n; i++)
        if (!writer_resolve(run->writer, refs[i]))
            return error_note(-ENODATA, "a page of the catalog was lost on its way");
    return r;
}

static int store_get_page(void *userdata, const struct chunk_ref *ref, void **ret_page,
                          size_t *ret_len)
{
    struct backup_run *run = userdata;
    const struct catalog_store *store = page_reader_store(run->pages);
    return store->get_page(store->userdata, ref, ret_page, ret_len);
}

DEFINE_VECTOR(pack_name_vector, struct pack_name);

static int collect_pack_name(const char *object_name, uint64_t size_bytes _unused_, void *userdata)
{
    struct pack_name name;
    return pack_name_parse(object_name, &name) < 0 ? 0 : pack_name_vector_push(userdata, &name);
}

static int compare_pack_names(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct pack_name));
}

struct pack_search {
    struct pack_name_vector there;
    size_t gone_count;
};

static int count_gone(const struct pack_name *name, enum pack_kind kind _unused_,
                      uint64_t size_bytes _unused_, void *userdata)
{
    struct pack_search *search = userdata;
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    if (search->there.count > 0 &&
        bsearch(name, search->there.items, search->there.count, sizeof(*name), compare_pack_names))
        return 0;
    search->gone_count++;
    pack_object_name(name, object_name);
    log_warning("%s is gone: what was in it is stored again if it is found", object_name);
    return 0;
}

/* Nothing may be taken for stored because of an index that is not true any more: when packs have
 * been lost, the index is made anew from those that are there. */
static int forget_lost_packs(struct backup_run *run)
{
    struct pack_search search = {0};
    int r = backend_list(run->repo->backend, "packs/", collect_pack_name, &search.there);
    if (r >= 0 && search.there.count > 0)
        qsort(search.there.items, search.there.count, sizeof(*search.there.items),
              compare_pack_names);
    if (r >= 0)
        r = index_each_pack(run->index, count_gone, &search);
    pack_name_vector_release(&search.there);
    return r >= 0 && search.gone_count > 0 ? index_rebuild(run->index) : r;
}

static int start_storing(struct backup_run *run)
{
    int level = run->options->zstd_level ? run->options->zstd_level : ZSTD_LEVEL_DEFAULT;
    struct catalog_store store = {
        .put_page = store_put_page,
        .locate = store_locate,
        .get_page = store_get_page,
        .userdata = run,
        .names = run->repo->names,
    };
    size_t adopted;
    int r = repository_index(run->repo, &run->index);
    if (r >= 0)
        r = index_adopt_packs(run->index, &adopted);
    if (r >= 0)
        r = forget_lost_packs(run);
    if (r >= 0)
        r = session_new(run->repo, run->backup->host, (const char *const *)run->backup->roots.items,
                        run->backup->roots.count, run->backup->start_ns, &run->session);
    if (r >= 0)
        r = session_adopt(run->session);
    if (r >= 0)
        r = writer_new(run->repo, run->pool, level, &run->writer);
    if (r >= 0)
        r = page_reader_new(run->repo, &run->pages);
    if (r >= 0)
        r = catalog_builder_new(&store, &run->builder);
    return r;
}

static int start(struct backup_run *run)
{
    const struct backup_options *options = run->options;
    enum chunker_kind kind = options->fixed_blocks ? CHUNKER_FIXED : CHUNKER_GEAR;
    unsigned threads =
        options->threads ? options->threads : (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    run->backup = calloc(1, sizeof(*run->backup));
    if (!run->backup)
        return -ENOMEM;
    int r = chunker_init(&run->chunker, kind, &run->repo->config.chunker, run->repo->gear_table);
    if (r >= 0)
        r = pool_new(threads, &run->pool);
    if (r >= 0)
        r = start_scan(run);
    if (r >= 0)
        r = describe_backup(run);
    if (r >= 0)
        r = window_init(run);
    if (r >= 0 && !options->dry_run)
        r = start_storing(run);
    if (r >= 0)
        r = previous_open(run);
    return r;
}

/* ---- one entry ---- */

void batch_submit(struct backup_run *run)
{
    struct batch *batch = TAKE_PTR(run->batch);
    if (!batch)
        return;
    pthread_mutex_lock(&run->lock);
    run->captures_under_way += (unsigned)batch->count;
    pthread_mutex_unlock(&run->lock);
    batch->task = (struct pool_task){.run = batch_run};
    pool_submit(run->pool, &batch->task, POOL_NORMAL);
}

int batch_submit_alone(struct backup_run *run, struct item *item)
{
    struct batch *batch = calloc(1, sizeof(*batch));
    if (!batch)
        return -ENOMEM;
    *batch = (struct batch){.task.run = batch_run, .run = run, .count = 1, .items = {item}};
    pthread_mutex_lock(&run->lock);
    run->captures_under_way++;
    pthread_mutex_unlock(&run->lock);
    pool_submit(run->pool, &batch->task, POOL_NORMAL);
    return 0;
}

/* Puts a captured-to-be item into the batch; a large file goes alone, so that others need not wait
 * for it. */
static int batch_add(struct backup_run *run, struct item *item)
{
    uint64_t bytes = S_ISREG(item->stx.stx_mode) ? item->stx.stx_size : 0;
    /* Of a sparse file only what is allocated is read. */
    if (run->options->progress)
        atomic_fetch_add(&run->options->progress->bytes_total,
                         MIN(bytes, item->stx.stx_blocks * 512));
    if (run->batch && run->batch->bytes + bytes > BATCH_BYTES_MAX)
        batch_submit(run);
    if (!run->batch) {
        run->batch = calloc(1, sizeof(*run->batch));
        if (!run->batch)
            return -ENOMEM;
        run->batch->run = run;
    }
    run->batch->items[run->batch->count++] = item;
    run->batch->bytes += bytes;
    if (run->batch->count == BATCH_ITEMS_MAX || run->batch->bytes >= BATCH_BYTES_MAX)
        batch_submit(run);
    return window_wait_captures(run, CAPTURES_UNDER_WAY);
}

static int item_new(const struct buffer *key, uint32_t fs_index, char change,
                    struct item **ret_item)
{
    struct item *item = calloc(1, sizeof(*item));
    uint8_t *copy = malloc(key->len + 1);
    if (!item || !copy) {
        free(item);
        free(copy);
        return -ENOMEM;
    }
    if (key->len > 0)
        memcpy(copy, key->data, key->len);
    item->entry.key = copy;
    item->entry.key_len = (uint32_t)key->len;
    item->entry.fs_index = fs_index;
    item->change = change;
    *ret_item = item;
    return 0;
}

static int link_item(struct backup_run *run, struct item *item)
{
    if (!S_ISREG(item->stx.stx_mode) || item->stx.stx_nlink < 2)
        return 0;
    int r = link_group_get(run, item->entry.fs_index, &item->stx, &item->link, &item->link_first);
    if (r < 0)
        return r;
    if (!item->link)
        return 0;
    bool taken_over = !item->link_first && !item->link->captured; /* from an earlier backup */
    bool too_many = !item->link_first && run->links_waiting >= CAPTURES_UNDER_WAY;
    if (taken_over || too_many)
        item->link = NULL; /* read like any file: its chunks are there already */
    else
        item->link->captured = true;
    return 0;
}

/* With dry_run: what would be captured is only counted. */
static int visit_dry(struct backup_run *run, struct item *item)
{
    meta_from_statx(&item->stx, &item->entry);
    int r = backup_emit(run, &item->entry, item->change);
    item_free(item);
    return r;
}

static int visit_changed(struct backup_run *run, struct scan_dir *dir, const char *name,
                         const struct statx *stx, const struct buffer *key, uint32_t fs_index,
                         char change)
{
    struct item *item;
    int r = item_new(key, fs_index, change, &item);
    if (r < 0)
        return r;
    item->stx = *stx;
    item->name = name;
    if (run->options->dry_run)
        return visit_dry(run, item);
    r = link_item(run, item);
    if (r < 0) {
        item_free(item);
        return r;
    }
    bool further_name = item->link && !item->link_first;
    atomic_store(&item->done, further_name);
    run->links_waiting += further_name;
    if (dir)
        item->dir = scan_dir_ref(dir);
    r = window_push(run, item);
    if (r < 0 || further_name)
        return r;
    return batch_add(run, item);
}

static int visit_unchanged(struct backup_run *run, struct entry *e, uint32_t fs_index)
{
    e->fs_index = fs_index;
    int r = window_drain(run);
    if (r < 0)
        return r;
    if (window_empty(run))
        return backup_emit(run, e, 'U');

    struct item *item = calloc(1, sizeof(*item));
    if (!item)
        return -ENOMEM;
    r = entry_copy(e, &item->entry);
    if (r < 0) {
        free(item);
        return r;
    }
    item->change = 'U';
    atomic_store(&item->done, true);
    return window_push(run, item);
}

static int visit(struct backup_run *run, struct scan_dir *dir, const char *name,
                 const struct statx *stx, const struct buffer *key)
{
    struct entry *unchanged;
    uint32_t fs_index;
    char change;
    int r = fs_index_of(run, stx, &fs_index);
    if (r >= 0)
        r = previous_unchanged(run, key, stx, &unchanged, &change);
    if (r < 0)
        return r;
    if (run->options->progress)
        atomic_fetch_add(&run->options->progress->files_total, 1);
    if (unchanged)
        return visit_unchanged(run, unchanged, fs_index);
    return visit_changed(run, dir, name, stx, key, fs_index, change);
}

/* ---- the walk ---- */

static int visit_child(struct backup_run *run, struct scan_dir *dir, const struct scan_child *child,
                       struct buffer *key, size_t prefix_len)
{
    if (child->error < 0) {
        backup_problem_at(run, dir, child->name, error_describe(child->error), true);
        return 0;
    }
    key->len = prefix_len;
    buffer_put(key, child->name, strlen(child->name));
    int r = buffer_finish(key);
    if (r < 0)
        return r;
    if (key->len > KEY_LEN_MAX) {
        backup_problem_at(run, dir, child->name, "the path is too long", true);
        return 0;
    }
    return visit(run, dir, child->name, &child->stx, key);
}

static int visit_dir(struct backup_run *run, struct scan_dir *dir)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    if (dir->error < 0)
        backup_problem_at(run, dir, "", error_describe(dir->error), true);
    key_put_children_prefix(&key, dir->path, strlen(dir->path));
    size_t prefix_len = key.len;
    for (size_t i = 0; i < dir->children.count; i++) {
        int r = visit_child(run, dir, &dir->children.items[i], &key, prefix_len);
        if (r < 0)
            return r;
    }
    return 0;
}

static int walk(struct backup_run *run)
{
    struct buffer root_key = {0};
    int r = visit(run, NULL, "", scan_top(run->scan), &root_key);
    while (r >= 0) {
        CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
        r = scan_next(run->scan, &dir);
        if (r < 0 || !dir)
            return r;
        r = visit_dir(run, dir);
    }
    return r;
}

/* ---- the end ---- */

static void fill_stats(struct backup_run *run)
{
    struct writer_stats written;
    struct backup_stats *stats = &run->backup->stats;
    writer_get_stats(run->writer, &written);
    pthread_mutex_lock(&run->lock);
    stats->read_bytes = run->read_bytes;
    stats->problem_count = run->problem_count;
    pthread_mutex_unlock(&run->lock);
    stats->new_chunk_count = written.new_chunk_count;
    stats->new_chunk_bytes = written.new_chunk_bytes;
    stats->stored_bytes = written.stored_bytes;
}

static int commit(struct backup_run *run)
{
    int r = window_finish(run);
    if (r >= 0)
        r = catalog_builder_finish(run->builder, &run->backup->catalog);
    if (r >= 0)
        r = writer_finish(run->writer);
    if (r >= 0)
        r = backup_run_error(run);
    if (r < 0)
        return r;
    fill_stats(run);
    run->backup->end_ns = now_ns();
    r = backup_store(run->repo->backend, run->repo->keyring, run->repo->names, run->backup);
    if (r < 0)
        return r;
    session_remove_all(run->session);
    if (index_compact(run->index) < 0) /* the backup is safe: the next one will try again */
        log_warning("the index could not be compacted, ignoring");
    return 0;
}

static void run_release(struct backup_run *run)
{
    /* Tasks hold items, directories and streams: they come to an end first. */
    if (run->pool) {
        if (run->batch)
            batch_submit(run);
        pthread_mutex_lock(&run->lock);
        if (run->captures_under_way > 0)
            error_save(&run->error, -UMBRA_E_CANCELLED);
        pthread_mutex_unlock(&run->lock);
        scan_free(run->scan);
        while (pool_run_one(run->pool, POOL_LOW))
            ;
        pthread_mutex_lock(&run->lock);
        while (run->captures_under_way > 0)
            pthread_cond_wait(&run->captured, &run->lock);
        pthread_mutex_unlock(&run->lock);
    }
    writer_free(run->writer);
    catalog_builder_free(run->builder);
    window_release(run);
    previous_release(&run->previous);
    page_reader_free(run->pages);
    session_free(run->session);
    pool_free(run->pool);
    for (struct read_buffer *b = run->free_buffers, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    known_fs_vector_release(&run->known_fs);
    backup_free(run->backup);
    pthread_cond_destroy(&run->captured);
    pthread_mutex_destroy(&run->lock);
}

int backup_create(struct repository *repo, const struct backup_options *options,
                  struct backup **ret_backup)
{
    static_assert(BATCH_BYTES_MAX <= READ_BUFFER_LEN, "a small file is read at once");
    CLEANUP(run_release) struct backup_run run = {.repo = repo, .options = options};
    pthread_mutex_init(&run.lock, NULL);
    pthread_cond_init(&run.captured, NULL);

    int r = start(&run);
    if (r >= 0)
        r = walk(&run);
    if (r >= 0 && !options->dry_run)
        r = commit(&run);
    if (r < 0)
        return r;
    if (options->dry_run)
        run.backup->stats.problem_count = run.problem_count;
    *ret_backup = TAKE_PTR(run.backup);
    return 0;
}
