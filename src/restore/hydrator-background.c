/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The threads: who takes what from which queue.
 *
 *     demand       files with requests, first come first served
 *     background   1. files that were asked for by name, without regard to pauses and limits
 *                  2. the rest of large files somebody reads, and files behind those that were
 *                     opened ("wanted", the newest first)
 *                  3. those of the load order, if there is one
 *                  4. all others in the order of the catalog ("bulk"), which is the order in which
 *                     they lie in the repository
 *     sync         files that are full
 *
 *     rate         samples for throttle.c, which says how fast the background may go
 *
 * The background fills one unit, lets go of the file, and looks again.  It stands still while
 * requests are being served, but for the floor of its rate, so that it always ends.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/log.h"
#include "restore/hydrator-private.h"

#define AHEAD_FIRST   16u
#define AHEAD_MAX     1024u
#define PASS_PAUSE_NS NSEC_PER_SEC
#define IDLE_NS       (NSEC_PER_SEC / 10)

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
static struct file *take_demand_locked(struct hydrator *h)
{
    while (h->demand_first) {
        struct file *file = h->demand_first;
        h->demand_first = file->queue_next;
        if (!h->demand_first)
            h->demand_last = &h->demand_first;
        file->queued = false;
        if (!file->busy && file->requests.first) {
            file->busy = true;
            return file;
        }
    }
    return NULL;
}

void *demand_thread(void *data)
{
    struct hydrate_worker *worker = data;
    struct hydrator *h = worker->hydrator;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        uint64_t next_ns = requeue_retries_locked(h, now_ns());
        struct file *file = take_demand_locked(h);
        if (!file) {
            wait_until(&h->demand_ready, &h->lock, next_ns);
            continue;
        }
        pthread_mutex_unlock(&h->lock);
        file_serve(worker, file);
        pthread_mutex_lock(&h->lock);
        if (file->ordinal != UINT64_MAX)
            background_expect_locked(h, file);
        file_release_locked(h, file);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* ---- background: what next ---- */

static bool is_open_state(uint8_t state)
{
    return state == FILE_FRESH || state == FILE_TODO;
}

void background_want_locked(struct hydrator *h, uint64_t ordinal)
{
    if (ordinal < h->states.count && is_open_state(h->states.items[ordinal]) &&
        ordinal_vector_push(&h->wanted, &ordinal) == 0)
        pthread_cond_signal(&h->background_ready);
}

void background_ask_locked(struct hydrator *h, uint64_t ordinal)
{
    if (ordinal < h->states.count && is_open_state(h->states.items[ordinal]) &&
        ordinal_vector_push(&h->asked, &ordinal) == 0)
        pthread_cond_signal(&h->background_ready);
}

/* Whoever goes through a tree file by file finds more and more of what comes next already there:
 * the distance doubles with each file that he asks for near where he was. */
void background_expect_locked(struct hydrator *h, const struct file *file)
{
    uint64_t ordinal = file->ordinal;

    if (ordinal + h->ahead < h->ahead_end || ordinal > h->ahead_end + AHEAD_MAX) {
        h->ahead = AHEAD_FIRST;
        h->ahead_end = ordinal + 1;
    } else {
        h->ahead = MIN(h->ahead * 2, AHEAD_MAX);
    }
    uint64_t from = MAX(h->ahead_end, ordinal + 1), to = ordinal + 1 + h->ahead;
    for (uint64_t i = MIN(to, h->states.count); i > from; i--)
        background_want_locked(h, i - 1);
    h->ahead_end = MAX(to, from);
    background_want_locked(h, ordinal); /* the rest of a large one comes before them */
}

static bool take_wanted_locked(struct hydrator *h, uint64_t *ret_ordinal)
{
    while (h->wanted.count > 0) {
        uint64_t ordinal = h->wanted.items[--h->wanted.count];
        if (is_open_state(h->states.items[ordinal])) {
            *ret_ordinal = ordinal;
            return true;
        }
    }
    return false;
}

static bool take_ordered_locked(struct hydrator *h, uint64_t *ret_ordinal)
{
    while (h->order && load_order_next(h->order, ret_ordinal)) {
        if (is_open_state(h->states.items[*ret_ordinal]))
            return true;
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

static struct file *take_background_locked(struct hydrator *h)
{
    uint64_t ordinal;

    while (take_wanted_locked(h, &ordinal) || take_ordered_locked(h, &ordinal) ||
           take_bulk_locked(h, &ordinal)) {
        struct file *file = own_ordinal_locked(h, ordinal);
        if (file)
            return file;
    }
    return NULL;
}

/* ---- background: how much ---- */

/* 0, or how long to wait before the next unit.  A unit is paid for when it is known how long it
 * was: before the next one. */
static uint64_t pause_locked(struct hydrator *h, struct hydrate_worker *worker)
{
    if (h->lost) /* somebody may wait for any file */
        return 0;
    if (!h->background_on || h->paused)
        return NSEC_PER_SEC;
    uint64_t wait_ns =
        throttle_take(&h->throttle, worker->debt_bytes, h->demand_active > 0, now_ns());
    if (wait_ns == 0)
        worker->debt_bytes = 0;
    return wait_ns;
}

static void run_unit(struct hydrator *h, struct hydrate_worker *worker, struct file *file,
                     bool asked)
{
    uint64_t bytes = 0;

    h->background_active++;
    pthread_mutex_unlock(&h->lock);
    int r = file_fill_unit(worker, file, &bytes);
    pthread_mutex_lock(&h->lock);
    h->background_active--;
    if (!asked)
        worker->debt_bytes = bytes;
    if (r < 0)
        set_state_locked(h, file->ordinal, FILE_FAILED);
    else if (r > 0 && !asked)
        background_want_locked(h, file->ordinal);
    file_release_locked(h, file);
}

void *background_thread(void *data)
{
    struct hydrate_worker *worker = data;
    struct hydrator *h = worker->hydrator;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        uint64_t wait_ns = 0;
        struct file *file = h->background_on ? take_asked_locked(h) : NULL;
        bool asked = file;
        if (!file && (wait_ns = pause_locked(h, worker)) == 0)
            file = take_background_locked(h);
        if (file)
            run_unit(h, worker, file, asked);
        else
            wait_until(&h->background_ready, &h->lock,
                       now_ns() + (wait_ns > 0 ? wait_ns : IDLE_NS));
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* ---- the rate ---- */

/* Feeds the throttle. */
void *rate_thread(void *data)
{
    const struct timespec interval = {.tv_nsec = (long)THROTTLE_SAMPLE_INTERVAL_NS};
    struct hydrator *h = data;
    struct throttle_files files;

    throttle_files_open(&files, h->tree_fd, h->repo->backend->local_path);
    for (bool stopping = false; !stopping;) {
        struct throttle_sample sample = {0};
        throttle_files_sample(&files, &sample);
        pthread_mutex_lock(&h->lock);
        sample.own_busy = h->background_active > 0;
        throttle_feed(&h->throttle, &sample, now_ns());
        stopping = h->stopping;
        pthread_mutex_unlock(&h->lock);
        (void)nanosleep(&interval, NULL);
    }
    throttle_files_close(&files);
    return NULL;
}

/* ---- sync ---- */

static bool sync_is_due_locked(const struct hydrator *h, uint64_t now)
{
    return h->filled_count > 0 &&
           (h->stopping || h->filled_count >= SYNC_FILES_MAX || h->filled_bytes >= SYNC_BYTES_MAX ||
            h->filled_count >= h->remaining || now >= h->filled_since_ns + SYNC_INTERVAL_NS);
}

/* Takes the mark off a synced file, as its owner. */
static void complete_synced(struct hydrator *h, struct file *file)
{
    pthread_mutex_lock(&h->lock);
    while (file->busy)
        pthread_cond_wait(&h->released, &h->lock);
    if (file_is_idle(file))
        h->idle_count--;
    file->busy = true;
    file->in_filled = false;
    pthread_mutex_unlock(&h->lock);
    int r = file->loaded ? file_complete(h, file) : 0;
    if (r < 0)
        note_problem(h, "?", error_text(r));
    pthread_mutex_lock(&h->lock);
    if (r < 0)
        set_state_locked(h, file->ordinal, FILE_FAILED);
    file_release_locked(h, file);
    pthread_mutex_unlock(&h->lock);
}

/* What could not be synced is looked at again: its extents say what is there. */
static void forget_synced(struct hydrator *h, struct file *file)
{
    pthread_mutex_lock(&h->lock);
    file->in_filled = false;
    set_state_locked(h, file->ordinal, FILE_FAILED);
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
        if (r < 0)
            forget_synced(h, files);
        else
            complete_synced(h, files);
        files = next;
    }
}

void *sync_thread(void *data)
{
    struct hydrator *h = data;

    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        if (!sync_is_due_locked(h, now_ns())) {
            wait_until(&h->filled_ready, &h->lock, now_ns() + SYNC_INTERVAL_NS / 10);
            continue;
        }
        struct file *files = h->filled_first;
        h->filled_first = NULL;
        h->filled_count = 0;
        h->filled_bytes = 0;
        h->background_active++;
        pthread_mutex_unlock(&h->lock);
        sync_filled(h, files);
        pthread_mutex_lock(&h->lock);
        h->background_active--;
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}
