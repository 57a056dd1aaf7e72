/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parallel walk.
 *
 * Directories are delivered in catalog order (key.h): a directory, then the first of its
 * subdirectories with all that is below it, and so on.  That is the order of a depth-first walk
 * that takes names in byte order, so the list of all directories which are known and not delivered
 * yet stays in order if the subdirectories of a directory, once it is read, are put right behind
 * it.  Nothing is recursive, and a path may be of any length, for each directory is opened by its
 * name in its parent.
 *
 *     scan.c        the list, the readers, the consumer
 *     scan-read.c   reading one directory
 *     scan-dir.c    scan_dir, open fds and their number
 *     scan-roots.c  the roots, and what leads to them
 *
 * A node goes through these states:
 *
 *     WAITING   in both lists                      anybody may claim it
 *     CLAIMED   in both lists, keeping its place   one thread reads it, without the lock
 *     DONE      in the list of order only          waits for its delivery
 *
 * Invariants (under the lock):
 *
 * 1. "order" holds all nodes in catalog order; its head is what is delivered next.
 * 2. "todo" holds those of them that are not DONE, in the same order; a reader takes the first that
 *    is WAITING.  So what the consumer needs next is always read first.
 * 3. ahead_dirs counts the nodes that are CLAIMED or DONE, ahead_children the entries of those that
 *    are DONE.  Readers stop when one of the two is at its limit, and are started again when both
 *    are below half of it, so that they have something to do when they wake up.
 *
 * The consumer never waits for a directory that nobody has begun: it reads it itself.  So a walk
 * goes on even if all threads of the pool have other things to do.
 *
 * Lock: scan->lock, over both lists and the counters; no other lock is taken under it but the
 * pool's.  Files opened from a scan_dir do not need the scan any more.
 */
#include "tree/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/scan-private.h"

#define AHEAD_DIRS_DEFAULT 256u
#define AHEAD_CHILDREN_MAX (64u << 10)
#define READERS_MAX        16u

struct reader {
    struct pool_task task;
    struct scan *scan;
    struct scan_scratch *scratch;
    bool is_busy; /* queued in the pool or running */
};

struct scan {
    struct scan_plan plan;
    struct statx top;
    struct pool *pool;
    size_t ahead_max;
    struct scan_scratch *scratch; /* the consumer's */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* the node that the consumer waits for is done; a reader ends */
    struct scan_node *order;
    struct scan_node *todo;
    size_t ahead_dirs;
    size_t ahead_children;
    bool stop;
    unsigned busy_count;
    unsigned reader_count;
    struct reader readers[READERS_MAX];
};

static void scan_lock(struct scan *scan)
{
    (void)pthread_mutex_lock(&scan->lock);
}

static void scan_unlock(struct scan *scan)
{
    (void)pthread_mutex_unlock(&scan->lock);
}

/* ---- the lists ---- */

static struct scan_node *first_waiting_locked(const struct scan *scan)
{
    struct scan_node *node = scan->todo;
    while (node && node->state != NODE_WAITING)
        node = node->todo_next;
    return node;
}

static void claim_locked(struct scan *scan, struct scan_node *node)
{
    node->state = NODE_CLAIMED;
    scan->ahead_dirs++;
}

/* Links new nodes in the list of what is to be done as they are in that of order.  Returns the
 * last. */
static struct scan_node *link_todo(struct scan_node *nodes)
{
    struct scan_node *node = nodes;
    while (node->next) {
        node->todo_next = node->next;
        node->next->todo_link = &node->todo_next;
        node = node->next;
    }
    return node;
}

/* In the list of what is to be done, node is replaced by the nodes first to last (NULL: none). */
static void replace_todo_locked(struct scan_node *node, struct scan_node *first,
                                struct scan_node *last)
{
    struct scan_node *after = node->todo_next;
    *node->todo_link = first ? first : after;
    if (first)
        first->todo_link = node->todo_link;
    if (last)
        last->todo_next = after;
    if (after)
        after->todo_link = last ? &last->todo_next : node->todo_link;
    node->todo_next = NULL;
    node->todo_link = NULL;
}

/* Reads a claimed node; the lock is not held at the call and held on return. */
static void read_and_lock(struct scan *scan, struct scan_node *node, struct scan_scratch *scratch)
{
    struct scan_node *subdirs = NULL;
    node->failure = scan_read_node(&scan->plan, scratch, node, &subdirs);
    struct scan_node *last = subdirs ? link_todo(subdirs) : NULL;

    scan_lock(scan);
    replace_todo_locked(node, subdirs, last);
    if (last) {
        last->next = node->next;
        node->next = subdirs;
    }
    node->state = NODE_DONE;
    if (node->dir)
        scan->ahead_children += node->dir->children.count;
    if (scan->order == node)
        (void)pthread_cond_broadcast(&scan->changed);
}

/* ---- the readers ---- */

static void start_reader_locked(struct scan *scan)
{
    for (unsigned i = 0; i < scan->reader_count; i++) {
        struct reader *reader = &scan->readers[i];
        if (reader->is_busy)
            continue;
        reader->is_busy = true;
        scan->busy_count++;
        pool_submit(scan->pool, &reader->task, POOL_HIGH);
        return;
    }
}

static bool may_read_ahead_locked(const struct scan *scan)
{
    return !scan->stop && scan->ahead_dirs < scan->ahead_max &&
           scan->ahead_children < AHEAD_CHILDREN_MAX;
}

/* One reader is started; it starts the next one if there is enough for two. */
static void wake_readers_locked(struct scan *scan)
{
    if (scan->busy_count < scan->reader_count && scan->ahead_dirs <= scan->ahead_max / 2 &&
        scan->ahead_children <= AHEAD_CHILDREN_MAX / 2 && first_waiting_locked(scan))
        start_reader_locked(scan);
}

static void reader_run(struct pool_task *task)
{
    struct reader *reader = CONTAINER_OF(task, struct reader, task);
    struct scan *scan = reader->scan;
    scan_lock(scan);
    while (may_read_ahead_locked(scan)) {
        struct scan_node *node = first_waiting_locked(scan);
        if (!node)
            break;
        claim_locked(scan, node);
        if (scan->busy_count < scan->reader_count && may_read_ahead_locked(scan) &&
            first_waiting_locked(scan))
            start_reader_locked(scan);
        scan_unlock(scan);
        read_and_lock(scan, node, reader->scratch);
    }
    reader->is_busy = false;
    scan->busy_count--;
    (void)pthread_cond_broadcast(&scan->changed);
    scan_unlock(scan);
}

/* ---- for the caller ---- */

int scan_next(struct scan *scan, struct scan_dir **ret_dir)
{
    scan_lock(scan);
    CLEANUP(scan_node_freep) struct scan_node *node = scan->order;
    if (!node) {
        scan_unlock(scan);
        *ret_dir = NULL;
        return 0;
    }
    if (node->state == NODE_WAITING) {
        claim_locked(scan, node);
        wake_readers_locked(scan);
        scan_unlock(scan);
        read_and_lock(scan, node, scan->scratch);
    }
    while (node->state != NODE_DONE)
        (void)pthread_cond_wait(&scan->changed, &scan->lock);
    scan->order = node->next;
    scan->ahead_dirs--;
    if (node->dir)
        scan->ahead_children -= node->dir->children.count;
    wake_readers_locked(scan);
    scan_unlock(scan);

    if (node->failure < 0)
        return node->failure;
    *ret_dir = TAKE_PTR(node->dir);
    return 0;
}

static int add_readers(struct scan *scan)
{
    unsigned count = MIN(pool_thread_count(scan->pool), READERS_MAX);
    for (unsigned i = 0; i < count; i++) {
        struct reader *reader = &scan->readers[i];
        reader->scan = scan;
        reader->task.run = reader_run;
        int r = scan_scratch_new(&reader->scratch);
        if (r < 0)
            return r;
        scan->reader_count++;
    }
    return scan_scratch_new(&scan->scratch);
}

static int add_top(struct scan *scan)
{
    if (statx(AT_FDCWD, "/", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &scan->top) < 0)
        return error_note_describe(-errno, "cannot read '/'");
    struct scan_node *node;
    int r = scan_node_new(NULL, "", 0, &node);
    if (r < 0)
        return r;
    node->root = &scan->plan.roots.tree.items[0];
    node->partial = !node->root->is_root;
    node->dev_major = scan->top.stx_dev_major;
    node->dev_minor = scan->top.stx_dev_minor;
    node->todo_link = &scan->todo;
    scan->order = scan->todo = node;
    return 0;
}

int scan_new(const char *const *roots, size_t root_count, const struct scan_options *options,
             struct pool *pool, struct scan **ret_scan)
{
    CLEANUP(scan_freep) struct scan *scan = calloc(1, sizeof(*scan));
    if (!scan)
        return -ENOMEM;
    (void)pthread_mutex_init(&scan->lock, NULL); /* neither fails without attributes */
    (void)pthread_cond_init(&scan->changed, NULL);
    scan->pool = pool;
    unsigned ahead_max = options->ahead_max > 0 ? options->ahead_max : AHEAD_DIRS_DEFAULT;
    scan->ahead_max = MIN(ahead_max, scan_raise_fd_limit());
    scan->plan.one_file_system = options->one_file_system;
    scan->plan.exclude_caches = options->exclude_caches;
    if (options->excludes && !exclude_set_empty(options->excludes))
        scan->plan.excludes = options->excludes;

    int r = scan_roots_init(&scan->plan.roots, roots, root_count, options);
    if (r >= 0)
        r = add_readers(scan);
    if (r >= 0)
        r = add_top(scan);
    if (r < 0)
        return r;
    *ret_scan = TAKE_PTR(scan);
    return 0;
}

/* Readers that are still queued end as soon as they run; they may need this very thread for it. */
static void stop_readers(struct scan *scan)
{
    scan_lock(scan);
    scan->stop = true;
    while (scan->busy_count > 0) {
        scan_unlock(scan);
        bool ran = pool_run_one(scan->pool, POOL_HIGH);
        scan_lock(scan);
        if (!ran && scan->busy_count > 0)
            (void)pthread_cond_wait(&scan->changed, &scan->lock);
    }
    scan_unlock(scan);
}

void scan_free(struct scan *scan)
{
    if (!scan)
        return;
    stop_readers(scan);
    while (scan->order) {
        struct scan_node *node = scan->order;
        scan->order = node->next;
        scan_node_free(node);
    }
    for (unsigned i = 0; i < scan->reader_count; i++)
        scan_scratch_free(scan->readers[i].scratch);
    scan_scratch_free(scan->scratch);
    scan_roots_release(&scan->plan.roots);
    (void)pthread_mutex_destroy(&scan->lock);
    (void)pthread_cond_destroy(&scan->changed);
    free(scan);
}

size_t scan_root_count(const struct scan *scan)
{
    return scan->plan.roots.listed.count;
}

const char *scan_root(const struct scan *scan, size_t index)
{
    return scan->plan.roots.listed.items[index];
}

const struct statx *scan_top(const struct scan *scan)
{
    return &scan->top;
}
