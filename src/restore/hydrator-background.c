/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The threads: who takes what from which queue.
 *
 *     demand       files with requests, first come first served; those that only crawlers wait for
 *                  (crawler.h) after all others, and by CRAWL_THREADS at most, so that a thread is
 *                  soon free for somebody else.  Now and then one of them goes first: nobody
 * starves. background   files that were asked for by name, without regard to pauses and limits; and
 * then, each class before the next:
 *                  1. the rest of files that somebody reads (the newest first)
 *                  2. files beside and behind those in the catalog (the nearest first)
 *                  3. the load order, if there is one
 *                  4. what crawlers will come to
 *                  5. all others in the order of the catalog ("bulk"), which is the order in which
 *                     they lie in the repository
 *     sync         files that are full.  Each of them keeps a descriptor until it has been synced,
 *                  which may take its time: with filled_max of them the background waits, and those
 *                  that somebody asks for are left to it, for later
 *
 *     rate         samples for throttle.c, which says how fast the background may go
 *
 * The background fills one unit, lets go of the file, and looks again.  It stands still while
 * requests are being served, but for the floor of its rate, so that it always ends.  For crawlers
 * it does not: they would ask for each of the files that it does not bring.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/log.h"
#include "restore/hydrator-private.h"

#define CRAWL_THREADS (DEMAND_THREADS / 2)
#define CRAWL_TURN    8u /* so many files of others before one of a crawler */
#define AHEAD_FIRST   16u
#define AHEAD_MAX     1024u
#define BEFORE_MAX    8u
#define NEXT_MAX      (64u << 10) /* of a class */
#define PASS_PAUSE_NS NSEC_PER_SEC
#define IDLE_NS       (NSEC_PER_SEC / 10)
#define RATE_PAST_NS  (10 * NSEC_PER_SEC)

static void wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec ts = {
        .tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
        .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC),
    };

    (void)pthread_cond_timedwait(condition, lock, &ts);
}

/* ---- demand ---- */

/* Files whose source was out of reach a while ago. */
static uint64_t requeue_retries_locked(struct hydrator *h, uint64_t now)
{
    struct file **link = &h->retry_first;
    uint64_t next_ns = now + NSEC_PER_SEC;

    while (*link) {
        struct file *file = *link;
        if (file->retry_ns > now) {
            next_ns = MIN(next_ns, file->retry_ns);
            link = &file->queue_next;
            continue;
        }
        *link = file->queue_next;
        file_queue_locked(h, file);
    }
    return next_ns;
}

/* The first file that has no owner; those that have one are served by it. */
static struct file *take_queued_locked(struct file_queue *queue)
{
    while (queue->first) {
        struct file *file = queue->first;
        queue->first = file->queue_next;
        if (!queue->first)
            queue->last = &queue->first;
        file->queued = file->in_crawl = false;
        if (!file->busy && file->requests.first) {
            file->busy = true;
            return file;
        }
    }
    return NULL;
}

static struct file *take_demand_locked(struct hydrator *h, bool *ret_crawl)
{
    bool may_crawl = h->crawl.first && h->crawl_busy < CRAWL_THREADS;
    struct file *file = NULL;

    if (may_crawl && h->crawl_passed >= CRAWL_TURN)
        file = take_queued_locked(&h->crawl);
    *ret_crawl = file;
    if (!file)
        file = take_queued_locked(&h->demand);
    if (!file && may_crawl) {
        file = take_queued_locked(&h->crawl);
        *ret_crawl = file;
    }
    h->crawl_passed = *ret_crawl ? 0 : h->crawl_passed + (h->crawl.first && file);
    return file;
}

static void serve(struct hydrate_worker *worker, struct file *file, bool crawl)
{
    struct hydrator *h = worker->hydrator;

    h->crawl_busy += crawl;
    pthread_mutex_unlock(&h->lock);
    bool others = file_serve(worker, file);
    pthread_mutex_lock(&h->lock);
    h->crawl_busy -= crawl;
    if (others && file->ordinal != UINT64_MAX)
        background_expect_locked(h, file);
    file_release_locked(h, file);
}

void *demand_thread(void *data)
{
    struct hydrate_worker *worker = data;
    struct hydrator *h = worker->hydrator;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        uint64_t next_ns = requeue_retries_locked(h, now_ns());
        bool crawl;
        struct file *file = take_demand_locked(h, &crawl);
        if (file)
            serve(worker, file, crawl);
        else
            wait_until(&h->demand_ready, &h->lock, next_ns);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* ---- background: what next ---- */

static bool is_open_state(uint8_t state)
{
    return state == FILE_FRESH || state == FILE_TODO;
}

/* Of too many, the older half is left to the bulk. */
static void want_locked(struct hydrator *h, enum background_class class, uint64_t ordinal)
{
    struct ordinal_vector *next = &h->next[class];

    if (ordinal >= h->states.count || !is_open_state(h->states.items[ordinal]))
        return;
    if (next->count >= NEXT_MAX) {
        memmove(next->items, next->items + NEXT_MAX / 2, NEXT_MAX / 2 * sizeof(*next->items));
        next->count = NEXT_MAX / 2;
    }
    if (ordinal_vector_push(next, &ordinal) == 0)
        pthread_cond_signal(&h->background_ready);
}

void background_ask_locked(struct hydrator *h, uint64_t ordinal)
{
    if (ordinal < h->states.count && is_open_state(h->states.items[ordinal]) &&
        ordinal_vector_push(&h->asked, &ordinal) == 0)
        pthread_cond_signal(&h->background_ready);
}

/* How many files just before that one are in the same directory. */
static uint64_t count_before_locked(const struct hydrator *h, uint64_t ordinal, uint64_t max)
{
    uint64_t count = 0;

    while (count < max && count < ordinal &&
           h->directories.items[ordinal - count - 1] == h->directories.items[ordinal])
        count++;
    return count;
}

/* Whoever goes through a tree file by file finds more and more of what comes next already there:
 * the distance doubles with each file that he asks for near where he was. */
void background_expect_locked(struct hydrator *h, const struct file *file)
{
    uint64_t ordinal = file->ordinal, before = 0;

    if (ordinal >= h->directories.count)
        return;
    if (h->ahead == 0 || ordinal + h->ahead < h->ahead_end || ordinal > h->ahead_end + AHEAD_MAX) {
        h->ahead = AHEAD_FIRST;
        h->ahead_end = ordinal + 1;
        before = count_before_locked(h, ordinal, BEFORE_MAX);
    } else {
        h->ahead = MIN(h->ahead * 2, AHEAD_MAX);
    }
    for (uint64_t i = before; i > 0; i--)
        want_locked(h, CLASS_BESIDE, ordinal - i);
    uint64_t from = MAX(h->ahead_end, ordinal + 1), to = ordinal + 1 + h->ahead;
    for (uint64_t i = MIN(to, h->states.count); i > from; i--)
        want_locked(h, CLASS_BESIDE, i - 1);
    h->ahead_end = MAX(to, from);
    want_locked(h, CLASS_REST, ordinal);
}

/* The directory it is in, and more and more behind it. */
void background_follow_locked(struct hydrator *h, struct crawler *crawler, uint64_t ordinal)
{
    bool near = ordinal + AHEAD_MAX >= crawler->end && ordinal <= crawler->end + AHEAD_MAX;

    if (crawler->distance == 0 || !near) {
        crawler->distance = AHEAD_FIRST;
        crawler->next = ordinal - count_before_locked(h, ordinal, AHEAD_MAX);
        crawler->end = ordinal + 1;
    } else {
        crawler->distance = MIN(crawler->distance * 2, AHEAD_MAX);
    }
    crawler->end = MAX(crawler->end, ordinal + 1 + crawler->distance);
    pthread_cond_signal(&h->background_ready);
}

static bool take_ordered_locked(struct hydrator *h, uint64_t *ret_ordinal)
{
    while (h->order && load_order_next(h->order, ret_ordinal)) {
        if (is_open_state(h->states.items[*ret_ordinal]))
            return true;
    }
    return false;
}

/* One crawler after the other, and each on its way through the catalog. */
static bool take_crawled_locked(struct hydrator *h, uint64_t *ret_ordinal)
{
    for (size_t i = 0; i < CRAWLER_PROCESSES; i++) {
        struct crawler *crawler = &h->crawlers.items[h->crawl_next++ % CRAWLER_PROCESSES];
        while (crawler->crawls && crawler->next < MIN(crawler->end, h->states.count)) {
            uint64_t ordinal = crawler->next++;
            if (is_open_state(h->states.items[ordinal])) {
                *ret_ordinal = ordinal;
                return true;
            }
        }
    }
    return false;
}

/* At the end, those that were busy or failed are looked at once more, after a pause. */
static bool take_bulk_locked(struct hydrator *h, uint64_t *ret_ordinal)
{
    if (h->bulk_next == 0 && now_ns() < h->pass_ns)
        return false;
    while (h->bulk_next < h->states.count) {
        uint64_t ordinal = h->bulk_next++;
        if (is_open_state(h->states.items[ordinal])) {
            *ret_ordinal = ordinal;
            return true;
        }
    }
    for (size_t i = 0; i < h->states.count; i++) {
        if (h->states.items[i] == FILE_FAILED)
            set_state_locked(h, i, FILE_TODO);
    }
    h->bulk_next = 0;
    h->pass_ns = now_ns() + PASS_PAUSE_NS;
    return false;
}

/* The file, owned by the caller; NULL when somebody else has it, or it cannot be had. */
static struct file *own_ordinal_locked(struct hydrator *h, uint64_t ordinal)
{
    struct filter_handle handle;

    if (manifest_get_handle(h->manifest, ordinal, &handle) < 0)
        return NULL;
    struct file *file = file_get_locked(h, &handle);
    if (!file)
        return NULL;
    if (file->busy || file->queued)
        return NULL;
    file->busy = true;
    file->ordinal = ordinal;
    return file;
}

/* One that was asked for by name.  It stays in the list until it is full. */
static struct file *take_asked_locked(struct hydrator *h)
{
    for (size_t i = h->asked.count; i > 0; i--) {
        uint64_t ordinal = h->asked.items[i - 1];
        if (!is_open_state(h->states.items[ordinal])) {
            h->asked.items[i - 1] = h->asked.items[--h->asked.count];
            continue;
        }
        struct file *file = own_ordinal_locked(h, ordinal);
        if (file)
            return file;
    }
    return NULL;
}

/* Those that were begun or named, and then what the class finds by itself. */
static bool take_of_class_locked(struct hydrator *h, enum background_class class,
                                 uint64_t *ret_ordinal)
{
    struct ordinal_vector *next = &h->next[class];

    while (next->count > 0) {
        uint64_t ordinal = next->items[--next->count];
        if (is_open_state(h->states.items[ordinal])) {
            *ret_ordinal = ordinal;
            return true;
        }
    }
    switch (class) {
    case CLASS_ORDER: return take_ordered_locked(h, ret_ordinal);
    case CLASS_CRAWL: return take_crawled_locked(h, ret_ordinal);
    case CLASS_BULK: return take_bulk_locked(h, ret_ordinal);
    default: return false;
    }
}

static struct file *take_background_locked(struct hydrator *h, enum background_class *ret_class)
{
    uint64_t ordinal;

    for (enum background_class class = 0; class < CLASS_COUNT; class ++) {
        while (take_of_class_locked(h, class, &ordinal)) {
            struct file *file = own_ordinal_locked(h, ordinal);
            *ret_class = class;
            if (file)
                return file;
        }
    }
    return NULL;
}

/* ---- background: how much ---- */

/* Nor was there none of late. */
static bool may_open_locked(const struct hydrator *h)
{
    return background_has_room_locked(h) &&
           (h->shortage_ns == 0 || now_ns() - h->shortage_ns >= RETRY_NS);
}

/* 0, or how long to wait before the next unit.  A unit is paid for when it is known how long it
 * was: before the next one. */
static uint64_t pause_locked(struct hydrator *h, struct hydrate_worker *worker)
{
    if (h->lost) /* somebody may wait for any file */
        return 0;
    if (!h->background_on || h->paused)
        return NSEC_PER_SEC;
    uint64_t wait_ns = throttle_take(&h->throttle, worker->debt_bytes,
                                     h->demand_active > h->crawl_active, now_ns());
    if (wait_ns == 0)
        worker->debt_bytes = 0;
    return wait_ns;
}

/* A file that is not full yet goes on in its class; one that was asked for is in its list still. */
static void run_unit(struct hydrator *h, struct hydrate_worker *worker, struct file *file,
                     enum background_class class)
{
    bool asked = class == CLASS_COUNT;
    uint64_t bytes = 0;

    h->background_active++;
    pthread_mutex_unlock(&h->lock);
    int r = file_fill_unit(worker, file, &bytes);
    pthread_mutex_lock(&h->lock);
    h->background_active--;
    if (!asked)
        worker->debt_bytes = bytes;
    if (r < 0 && !is_shortage(r))
        set_state_locked(h, file->ordinal, FILE_FAILED);
    else if (r > 0 && !asked)
        want_locked(h, class, file->ordinal);
    file_release_locked(h, file);
}

void *background_thread(void *data)
{
    struct hydrate_worker *worker = data;
    struct hydrator *h = worker->hydrator;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        enum background_class class = CLASS_COUNT;
        uint64_t wait_ns = 0;
        bool may_open = h->background_on && may_open_locked(h);
        struct file *file = may_open ? take_asked_locked(h) : NULL;
        if (!file && may_open && (wait_ns = pause_locked(h, worker)) == 0)
            file = take_background_locked(h, &class);
        if (file)
            run_unit(h, worker, file, class);
        else
            wait_until(&h->background_ready, &h->lock,
                       now_ns() + (wait_ns > 0 ? wait_ns : IDLE_NS));
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* ---- the rate ---- */

/* The mean since the beginning, and after some seconds of the last ones. */
static void note_rate_locked(struct hydrator *h, uint64_t bytes, uint64_t window_ns)
{
    if (h->filling_ns == 0 || window_ns == 0)
        return;
    double rate = (double)bytes * (double)NSEC_PER_SEC / (double)window_ns;
    double past_ns = (double)MIN(now_ns() - h->filling_ns + window_ns, RATE_PAST_NS);
    h->rate_bytes_per_s += (rate - h->rate_bytes_per_s) * MIN((double)window_ns / past_ns, 1.0);
}

/* Feeds the throttle. */
void *rate_thread(void *data)
{
    const struct timespec interval = {.tv_nsec = (long)THROTTLE_SAMPLE_INTERVAL_NS};
    struct hydrator *h = data;
    struct throttle_files files;
    uint64_t last_ns = now_ns(), last_bytes = h->bytes_done;

    throttle_files_open(&files, h->tree_fd, h->repo->backend->local_path);
    for (bool stopping = false; !stopping;) {
        struct throttle_sample sample = {0};
        throttle_files_sample(&files, &sample);
        pthread_mutex_lock(&h->lock);
        sample.own_busy = h->background_active > 0;
        sample.left_bytes = h->bytes_total - MIN(h->bytes_total, h->bytes_done);
        if (h->background_on) /* what making placeholders writes is not that of others */
            throttle_feed(&h->throttle, &sample, now_ns());
        uint64_t at_ns = now_ns();
        note_rate_locked(h, h->bytes_done - last_bytes, at_ns - last_ns);
        last_ns = at_ns;
        last_bytes = h->bytes_done;
        stopping = h->stopping;
        pthread_mutex_unlock(&h->lock);
        (void)nanosleep(&interval, NULL);
    }
    throttle_files_close(&files);
    return NULL;
}

/* ---- sync ---- */

bool background_has_room_locked(const struct hydrator *h)
{
    return h->filled_count + h->syncing_count < h->filled_max;
}

size_t background_sync_files_locked(const struct hydrator *h)
{
    return MIN(h->filled_max / 4 + 1, (size_t)SYNC_FILES_MAX);
}

static bool sync_is_due_locked(const struct hydrator *h, uint64_t now)
{
    return h->filled_count > 0 &&
           (h->stopping || h->filled_count >= background_sync_files_locked(h) ||
            h->filled_bytes >= SYNC_BYTES_MAX || h->filled_count >= h->remaining ||
            h->shortage_ns >= h->filled_since_ns || now >= h->filled_since_ns + SYNC_INTERVAL_NS);
}

/* Of a file that is to be synced; afterwards it is not any more. */
static void own_filled(struct hydrator *h, struct file *file)
{
    pthread_mutex_lock(&h->lock);
    while (file->busy)
        pthread_cond_wait(&h->released, &h->lock);
    file->busy = true;
    file->in_filled = false;
    pthread_mutex_unlock(&h->lock);
}

/* What could not be synced is looked at again: its extents say what is there. */
static void complete_synced(struct hydrator *h, struct file *file, int synced)
{
    if (!file->loaded)
        return;
    file->doubtful = file->doubtful || synced < 0;
    if (file->doubtful || !fill_is_complete(&file->fill))
        return;
    int r = file_complete(h, file);
    if (r < 0)
        note_problem(h, "?", error_text(r));
}

static void release_synced(struct hydrator *h, struct file *file)
{
    uint64_t ordinal = file->ordinal;

    pthread_mutex_lock(&h->lock);
    if (ordinal < h->states.count && h->states.items[ordinal] == FILE_FILLED)
        set_state_locked(h, ordinal, FILE_FAILED);
    h->syncing_count--;
    file_release_locked(h, file);
    pthread_mutex_unlock(&h->lock);
}

static void sync_filled(struct hydrator *h, struct file *files)
{
    int r = syncfs(h->tree_fd) < 0 ? -errno : 0;

    if (r < 0) {
        CLEANUP_FREE char *text = NULL;
        if (asprintf(&text, "cannot sync the target: %s", strerror(-r)) >= 0)
            set_degraded(h, text);
    }
    while (files) {
        struct file *next = files->filled_next;
        own_filled(h, files);
        complete_synced(h, files, r);
        release_synced(h, files);
        files = next;
    }
}

/* For those who come after us.  Here, because the file system may be frozen, and whoever has
 * changed it need not wait.  While placeholders are being made there will be a record anyway. */
static bool note_limit_locked(struct hydrator *h)
{
    if (!h->limit_due || h->config.phase == INSTANT_PLACING)
        return false;
    h->limit_due = false;
    pthread_mutex_unlock(&h->lock);
    int r = hydrator_record(h);
    if (r < 0)
        log_warning("%s", error_text(r));
    pthread_mutex_lock(&h->lock);
    return true;
}

void *sync_thread(void *data)
{
    struct hydrator *h = data;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        if (note_limit_locked(h))
            continue;
        if (!sync_is_due_locked(h, now_ns())) {
            wait_until(&h->filled_ready, &h->lock, now_ns() + SYNC_INTERVAL_NS / 10);
            continue;
        }
        struct file *files = h->filled_first;
        h->filled_first = NULL;
        h->syncing_count = h->filled_count;
        h->filled_count = 0;
        h->filled_bytes = 0;
        h->background_active++;
        pthread_mutex_unlock(&h->lock);
        sync_filled(h, files);
        pthread_mutex_lock(&h->lock);
        h->background_active--;
        pthread_cond_broadcast(&h->background_ready);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}
