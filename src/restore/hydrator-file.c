/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files that somebody works on.
 *
 * A file has one owner at a time, the thread that set it busy: a demand thread that answers the
 * requests of the file, a background thread that fills one unit of it, or the sync thread that
 * takes its mark off.  Whoever comes meanwhile leaves his request in the file's list, and the owner
 * serves the list before he lets go; so two who want the same share one fetch, and no thread ever
 * waits for another one's file.
 *
 * Before anything else, the owner looks at the size: an open with O_TRUNC raises no event when it
 * truncates, so a file that has become shorter than what was to come from the backup is noticed
 * with the next access (every one raises an event, as long as the file has its mark) or by the
 * background.  From then on only that much is to come; this is in the mark before the access is let
 * go on.
 */
#include <assert.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/log.h"
#include "restore/hydrator-private.h"
#include "tree/key.h"

#define BUCKETS            8192u
#define FDS_WANTED         (4 * FILLED_FILES_MAX)
#define TRUNCATOR_MAX_NS   (5 * NSEC_PER_SEC)
#define TRUNCATOR_PAUSE_NS 1000000
#define UNTOLD_MAX_NS      (NSEC_PER_SEC / 10) /* of a thread whose system call could not be told */

/* ---- the table ---- */

static size_t bucket_of(const struct hydrator *h, const struct filter_handle *handle)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (uint32_t i = 0; i < handle->len; i++)
        hash = (hash ^ handle->bytes[i]) * UINT64_C(0x100000001b3);
    return (size_t)(hash ^ (hash >> 32)) % h->bucket_count;
}

static bool same_handle(const struct filter_handle *a, const struct filter_handle *b)
{
    return a->type == b->type && a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static void unload(struct file *file)
{
    if (file->fd >= 0)
        (void)close(TAKE_FD(file->fd));
    if (file->loaded)
        fill_release(&file->fill);
    file->loaded = false;
    file->doubtful = false;
}

static void file_free(struct file *file)
{
    while (file->requests.first) {
        struct request *request = file->requests.first;
        file->requests.first = request->next;
        free(request);
    }
    unload(file);
    free(file);
}

bool file_is_idle(const struct file *file)
{
    return !file->busy && !file->queued && !file->in_filled && !file->requests.first;
}

static void forget_locked(struct hydrator *h, struct file *file)
{
    struct file **link = &h->buckets[bucket_of(h, &file->handle)];

    while (*link != file)
        link = &(*link)->hash_next;
    *link = file->hash_next;
    h->file_count--;
    file_free(file);
}

static void forget_until_locked(struct hydrator *h, uint64_t border)
{
    for (size_t i = 0; i < h->bucket_count; i++) {
        for (struct file *file = h->buckets[i], *next; file; file = next) {
            next = file->hash_next;
            if (file_is_idle(file) && file->last_used <= border) {
                h->idle_count--;
                forget_locked(h, file);
            }
        }
    }
}

/* Half of the idle ones, the oldest, so that this is rare. */
static void forget_old_locked(struct hydrator *h)
{
    forget_until_locked(h, h->clock > h->idle_max / 2 ? h->clock - h->idle_max / 2 : 0);
}

void hydrator_set_files_max(struct hydrator *h)
{
    struct rlimit limit = {0};

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max = MAX(limit.rlim_max, (rlim_t)FDS_WANTED);
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        (void)getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    h->filled_max = MIN((size_t)limit.rlim_cur / 2, (size_t)FILLED_FILES_MAX);
    h->idle_max = MIN((size_t)limit.rlim_cur / 8, (size_t)IDLE_FILES_MAX);
}

void file_forget_idle_locked(struct hydrator *h)
{
    forget_until_locked(h, UINT64_MAX);
}

static int make_table_locked(struct hydrator *h)
{
    if (h->buckets)
        return 0;
    h->buckets = calloc(BUCKETS, sizeof(*h->buckets));
    h->bucket_count = BUCKETS;
    return h->buckets ? 0 : -ENOMEM;
}

struct file *file_get_locked(struct hydrator *h, const struct filter_handle *handle)
{
    if (make_table_locked(h) < 0)
        return NULL;
    size_t bucket = bucket_of(h, handle);
    for (struct file *file = h->buckets[bucket]; file; file = file->hash_next) {
        if (same_handle(&file->handle, handle)) {
            if (file_is_idle(file))
                h->idle_count--;
            return file;
        }
    }
    if (h->idle_count >= h->idle_max)
        forget_old_locked(h);
    struct file *file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    file->handle = *handle;
    file->fd = -EBADF;
    file->ordinal = UINT64_MAX;
    file->requests.last = &file->requests.first;
    file->hash_next = h->buckets[bucket];
    h->buckets[bucket] = file;
    h->file_count++;
    return file;
}

static bool only_crawlers_wait(const struct file *file)
{
    for (const struct request *request = file->requests.first; request; request = request->next) {
        if (!request->crawls)
            return false;
    }
    return true;
}

void file_queue_locked(struct hydrator *h, struct file *file)
{
    file->in_crawl = only_crawlers_wait(file);
    struct file_queue *queue = file->in_crawl ? &h->crawl : &h->demand;

    file->queued = true;
    file->queue_next = NULL;
    *queue->last = file;
    queue->last = &file->queue_next;
    pthread_cond_signal(&h->demand_ready);
}

void file_promote_locked(struct hydrator *h, struct file *file)
{
    struct file **link = &h->crawl.first;

    if (!file->in_crawl)
        return;
    while (*link != file)
        link = &(*link)->queue_next;
    *link = file->queue_next;
    if (!*link)
        h->crawl.last = link;
    file_queue_locked(h, file);
}

void file_release_locked(struct hydrator *h, struct file *file)
{
    file->busy = false;
    file->last_used = ++h->clock;
    if (file->requests.first && !file->queued)
        file_queue_locked(h, file);
    pthread_cond_broadcast(&h->released);
    if (!file_is_idle(file))
        return;
    if (!file->loaded)
        forget_locked(h, file);
    else
        h->idle_count++;
}

void files_free(struct hydrator *h)
{
    for (size_t i = 0; i < h->bucket_count; i++) {
        for (struct file *file = h->buckets[i], *next; file; file = next) {
            next = file->hash_next;
            file_free(file);
        }
    }
    free(h->buckets);
}

void set_state_locked(struct hydrator *h, uint64_t ordinal, enum file_state state)
{
    if (ordinal >= h->states.count)
        return;
    enum file_state old = h->states.items[ordinal];
    bool was = old == FILE_DONE || old == FILE_GONE, is = state == FILE_DONE || state == FILE_GONE;
    h->states.items[ordinal] = (uint8_t)state;
    h->files_failed += (state == FILE_FAILED);
    h->files_failed -= (old == FILE_FAILED);
    h->remaining += was;
    h->remaining -= is;
    h->files_done += is;
    h->files_done -= was;
    if (h->remaining == 0)
        pthread_cond_broadcast(&h->ended);
}

static void set_state(struct hydrator *h, uint64_t ordinal, enum file_state state)
{
    pthread_mutex_lock(&h->lock);
    set_state_locked(h, ordinal, state);
    pthread_mutex_unlock(&h->lock);
}

/* ---- opening ---- */

/*
 * Which file of the backup it is, and whether it is the one we made and nobody has touched.
 *
 * In a snapshot of a btrfs subvolume, an inode with the same number has the same mark.  It is
 * filled when somebody uses it, but that does not complete the one that we made; looking for marks
 * at the end tells.
 */
static int identify(struct hydrator *h, struct file *file)
{
    struct filter_handle own;

    int r = pending_get(file->fd, &file->pending, NULL);
    if (r < 0)
        return r;
    uint64_t ordinal = file->pending.ordinal;
    bool is_own =
        manifest_get_handle(h->manifest, ordinal, &own) == 0 && same_handle(&own, &file->handle);
    pthread_mutex_lock(&h->lock);
    if (!is_own)
        h->walk_needed = true;
    file->ordinal = ordinal;
    file->own = is_own;
    file->fresh = is_own && ordinal < h->states.count && h->states.items[ordinal] == FILE_FRESH;
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static bool is_before(const struct timespec *a, const struct statx_timestamp *b)
{
    return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && (uint32_t)a->tv_nsec < b->tv_nsec);
}

/* A predecessor may have been killed between writing and setting the time back.  A time since the
 * file was made, in a file that no application has written to or shortened, is that of such a
 * write. */
static int mend_time(struct file *file)
{
    const struct entry_time *mtime = &file->fill.entry.mtime;
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = mtime->sec, .tv_nsec = (long)mtime->nsec},
    };
    struct statx st;

    if ((file->pending.flags & PENDING_WRITTEN) || mtime->nsec >= NSEC_PER_SEC)
        return 0;
    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_MTIME | STATX_BTIME | STATX_SIZE, &st) < 0)
        return -errno;
    if (st.stx_size < file->pending.valid_bytes)
        return 0;
    const struct timespec now = {.tv_sec = st.stx_mtime.tv_sec,
                                 .tv_nsec = (long)st.stx_mtime.tv_nsec};
    if (!(st.stx_mask & STATX_BTIME) || is_before(&now, &st.stx_btime))
        return 0;
    return futimens(file->fd, times) < 0 ? -errno : 0;
}

/* Those that nobody uses are closed, and those that are full are synced now. */
static void make_room(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    h->shortage_ns = now_ns();
    file_forget_idle_locked(h);
    pthread_cond_signal(&h->filled_ready);
    pthread_mutex_unlock(&h->lock);
}

int file_load(struct hydrator *h, struct file *file)
{
    struct entry entry = {0};

    if (file->loaded && !file->doubtful)
        return 0;
    bool again = file->loaded;
    unload(file);
    int r = open_handle(h, &file->handle, O_RDWR | O_NOATIME, &file->fd);
    if (r >= 0)
        r = identify(h, file);
    file->fresh = file->fresh && !again;
    if (r >= 0 && !atomic_load(&h->has_manifest))
        r = -EAGAIN;
    if (r >= 0)
        r = manifest_get(h->manifest, file->pending.ordinal, &entry);
    if (r == -ENOENT)
        r = -EAGAIN; /* the catalog has not been walked that far */
    if (r >= 0) {
        file->loaded = true;
        r = fill_init(&file->fill, &entry, file->pending.valid_bytes, file->fd, !file->fresh);
    }
    if (r >= 0 && h->resumed)
        r = mend_time(file);
    if (r < 0)
        unload(file);
    if (is_shortage(r))
        make_room(h);
    return r == -ESTALE ? -ENODATA : r;
}

/* ---- its size and its mark ---- */

static int update_mark(struct file *file)
{
    int r = pending_set(file->fd, &file->pending);
    return r < 0 ? error_note_describe(r, "cannot change its mark") : 0;
}

static int look_at_size(struct file *file, struct stat *ret_st)
{
    if (fstat(file->fd, ret_st) < 0)
        return -errno;
    uint64_t size_bytes = (uint64_t)ret_st->st_size;
    if (size_bytes >= file->pending.valid_bytes)
        return 0;
    int r = fill_shorten(&file->fill, size_bytes);
    if (r < 0)
        return r;
    file->pending.valid_bytes = size_bytes;
    file->pending.flags |= PENDING_WRITTEN;
    return update_mark(file);
}

/* Whether a thread that was let through to truncate the file is still at it. */
static bool truncator_is_at_it(struct hydrator *h, struct file *file)
{
    char path[48], text[32] = "";

    if (file->truncator == 0)
        return false;
    (void)snprintf(path, sizeof(path), "%d/syscall", file->truncator);
    CLEANUP_CLOSE int fd = openat(h->proc_fd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    bool there = n > 0 && (strncmp(text, "running", 7) == 0 ||
                           strtol(text, NULL, 10) == file->truncator_call);
    uint64_t most_ns = file->truncator_call < 0 ? UNTOLD_MAX_NS : TRUNCATOR_MAX_NS;
    if (there && now_ns() - file->truncator_ns < most_ns)
        return true;
    file->truncator = 0;
    return false;
}

/* ---- filling ---- */

static const struct xattr *find_capability(const struct entry *e)
{
    for (size_t i = 0; i < e->xattrs.count; i++) {
        if (strcmp(e->xattrs.items[i].name, "security.capability") == 0)
            return &e->xattrs.items[i];
    }
    return NULL;
}

static bool is_between(const struct timespec *t, const struct timespec *from,
                       const struct timespec *to)
{
    uint64_t ns = (uint64_t)t->tv_sec * NSEC_PER_SEC + (uint64_t)t->tv_nsec;

    return ns >= (uint64_t)from->tv_sec * NSEC_PER_SEC + (uint64_t)from->tv_nsec &&
           ns <= (uint64_t)to->tv_sec * NSEC_PER_SEC + (uint64_t)to->tv_nsec;
}

/* Undoes what our own writing did since then: it changes the time, and takes away file
 * capabilities.  A time that is not that of our writing has been set by somebody meanwhile. */
static int after_writing(struct file *file, const struct stat *before, const struct timespec *began)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, before->st_mtim};
    const struct xattr *capability = find_capability(&file->fill.entry);
    struct timespec now;
    struct stat st;

    if (file->pending.flags & PENDING_WRITTEN)
        return 0;
    if (fstat(file->fd, &st) < 0 || clock_gettime(CLOCK_REALTIME, &now) < 0)
        return -errno;
    if (is_between(&st.st_mtim, began, &now) && futimens(file->fd, times) < 0)
        return error_note_describe(-errno, "cannot set its time back");
    if (capability &&
        fsetxattr(file->fd, capability->name, capability->value, capability->value_len, 0) < 0)
        return error_note_describe(-errno, "cannot set its capabilities again");
    return 0;
}

static void count_bytes(struct hydrator *h, uint64_t bytes, bool demand)
{
    pthread_mutex_lock(&h->lock);
    h->bytes_done += bytes;
    h->demand_bytes += demand ? bytes : 0;
    pthread_mutex_unlock(&h->lock);
}

/* What a failure means for those who wait. */
enum verdict {
    VERDICT_FAIL,  /* tell them */
    VERDICT_RETRY, /* the source may come back */
};

static enum verdict judge_source(struct hydrator *h, int r)
{
    if (!source_may_come_back(r))
        return VERDICT_FAIL;
    note_outage(h, error_text(r));
    return VERDICT_RETRY;
}

/* What has been fetched, which may have taken its time: an open that truncates waits for us only so
 * long.  *ret_bytes: 0 when it is not wanted any more. */
static int store(struct hydrate_worker *worker, struct file *file, uint64_t start, uint64_t end,
                 uint64_t *ret_bytes)
{
    uint64_t wanted_start, wanted_end;
    struct timespec began;
    struct stat before;

    /* the coarse clock is the one that files get their times from */
    if (clock_gettime(CLOCK_REALTIME_COARSE, &began) < 0)
        return -errno;
    int r = look_at_size(file, &before);
    if (r < 0)
        return r;
    if (!fill_next(&file->fill, start, end, &wanted_start, &wanted_end) || wanted_end != end)
        return 0;
    r = fill_store(&file->fill, &worker->source, file->fd, start, end);
    int a = after_writing(file, &before, &began);
    if (r >= 0)
        *ret_bytes = end - start;
    return r < 0 ? r : a;
}

/* *ret_bytes has a value when it fails, too. */
static int fetch_and_store(struct hydrate_worker *worker, struct file *file, uint64_t start,
                           uint64_t end, enum verdict *ret_verdict, uint64_t *ret_bytes)
{
    *ret_bytes = 0;
    int r = fill_fetch(&file->fill, &worker->source, start, end);
    if (r < 0) {
        *ret_verdict = judge_source(worker->hydrator, r);
        return r;
    }
    *ret_verdict = VERDICT_FAIL;
    return store(worker, file, start, end, ret_bytes);
}

static int fill_from_to(struct hydrate_worker *worker, struct file *file, uint64_t from,
                        uint64_t to, enum verdict *ret_verdict)
{
    uint64_t start, end, bytes;
    int r = 0;

    while (r >= 0 && fill_next(&file->fill, from, to, &start, &end)) {
        r = fetch_and_store(worker, file, start, end, ret_verdict, &bytes);
        count_bytes(worker->hydrator, bytes, true);
    }
    return r;
}

/* ---- the end of a file ---- */

static int set_locks(struct file *file)
{
    unsigned locks = file->fill.entry.flags & META_FLAGS_LOCKS, now = 0;

    if (!locks)
        return 0;
    if (ioctl(file->fd, FS_IOC_GETFLAGS, &now) < 0)
        return error_note_describe(-errno, "cannot read its flags");
    now |= locks;
    return ioctl(file->fd, FS_IOC_SETFLAGS, &now) < 0
               ? error_note_describe(-errno, "cannot set its flags")
               : 0;
}

/* A page that the kernel could not write back counts as clean: whoever syncs it once more is told
 * that all is well.  What is not on the disk is missing still, as the extents say. */
static int doubt(struct file *file, int r)
{
    file->doubtful = true;
    return error_note_describe(r, "cannot sync it");
}

int file_complete(struct hydrator *h, struct file *file)
{
    /* Nothing is left to be waited for; it tells whether any page of the file has failed since it
     * was opened, whoever has heard of it by a sync of the file system. */
    if (sync_file_range(file->fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE) < 0)
        return doubt(file, -errno);
    int r = pending_remove(file->fd);
    if (r < 0)
        return error_note_describe(r, "cannot remove its mark");
    r = set_locks(file);
    if (r < 0)
        log_warning("%s", error_text(r));
    set_state(h, file->ordinal, FILE_DONE);
    unload(file);
    return 0;
}

/* Now, and not with many others. */
static int complete_durably(struct hydrator *h, struct file *file)
{
    if (fdatasync(file->fd) < 0)
        return doubt(file, -errno);
    return file_complete(h, file);
}

/* Too many wait for the disk.  Whoever asked for it has it; the background comes to it later, and
 * finds that nothing is missing. */
static void leave_filled_locked(struct hydrator *h, struct file *file)
{
    if (file->ordinal < h->states.count && h->states.items[file->ordinal] == FILE_FRESH)
        set_state_locked(h, file->ordinal, FILE_TODO);
    file->fresh = false;
}

/* Everything is there: it waits for the next syncfs. */
static void note_filled(struct hydrator *h, struct file *file)
{
    pthread_mutex_lock(&h->lock);
    if (!file->in_filled && !background_has_room_locked(h)) {
        leave_filled_locked(h, file);
    } else if (!file->in_filled) {
        file->in_filled = true;
        file->filled_next = h->filled_first;
        h->filled_first = file;
        if (h->filled_count++ == 0)
            h->filled_since_ns = now_ns();
        h->filled_bytes += file->fill.entry.size;
        set_state_locked(h, file->ordinal, FILE_FILLED);
        if (h->filled_count == 1 || h->filled_count >= background_sync_files_locked(h) ||
            h->filled_bytes >= SYNC_BYTES_MAX || h->filled_count >= h->remaining)
            pthread_cond_signal(&h->filled_ready);
    }
    pthread_mutex_unlock(&h->lock);
}

/* ---- requests ---- */

static void answer(struct hydrator *h, const struct request *request, int error)
{
    struct filter_answer answer = {
        .kind = FILTER_ANSWER,
        .slot = request->filter.slot,
        .sequence = request->filter.sequence,
        .error = error,
    };

    pthread_mutex_lock(&h->lock);
    h->demand_active -= h->demand_active > 0;
    h->crawl_active -= request->crawls && h->crawl_active > 0;
    h->demand_count++;
    note_latency_locked(h, now_ns() - request->received_ns);
    pthread_cond_broadcast(&h->background_ready);
    pthread_mutex_unlock(&h->lock);
    /* When nobody listens any more, the next one to listen asks again. */
    (void)!send(h->channel_fd, &answer, sizeof(answer), MSG_NOSIGNAL);
}

static int answer_of(int r)
{
    int class = r < 0 ? error_class(r) : 0;

    return class == 0 || class == ENOSPC || class == EDQUOT ? class : EIO;
}

/* In the backup.  NULL: it is not known, or there is no memory. */
static char *path_in_backup(struct hydrator *h, const struct file *file)
{
    struct entry entry = {0};
    char *path = NULL;

    if (file->loaded)
        return key_to_path(file->fill.entry.key, file->fill.entry.key_len);
    if (manifest_get(h->manifest, file->ordinal, &entry) >= 0)
        path = key_to_path(entry.key, entry.key_len);
    entry_release(&entry);
    return path;
}

static void tell_failure(struct hydrator *h, struct file *file, int r)
{
    struct error_report why = {0};

    error_save(&why, r);
    CLEANUP_FREE char *path = path_in_backup(h, file);
    note_problem(h, path ? path : "?", why.text);
}

static int fill_for_access(struct hydrate_worker *worker, struct file *file,
                           const struct access *access, enum verdict *ret_verdict)
{
    int r = 0;

    if (access->whole)
        return fill_from_to(worker, file, 0, UINT64_MAX, ret_verdict);
    if (access->start < access->end)
        r = fill_from_to(worker, file, access->start, access->end, ret_verdict);
    if (r >= 0 && access->tail != UINT64_MAX)
        r = fill_from_to(worker, file, access->tail, access->tail + 1, ret_verdict);
    return r;
}

/* That it is written to is noted when all is filled: so the time is set back until then. */
static int serve_access(struct hydrate_worker *worker, struct file *file,
                        const struct access *access, enum verdict *ret_verdict)
{
    int r = fill_for_access(worker, file, access, ret_verdict);

    if (r >= 0 && access->durable)
        return complete_durably(worker->hydrator, file);
    if (r < 0 || !access->writes || (file->pending.flags & PENDING_WRITTEN))
        return r;
    file->pending.flags |= PENDING_WRITTEN;
    return update_mark(file);
}

/* Between being let through and the truncation nobody writes.  Who asks again is through. */
static void await_truncator(struct hydrator *h, struct file *file,
                            const struct filter_request *request)
{
    long pause_ns = 50000;

    if (request->tid == file->truncator)
        file->truncator = 0;
    while (truncator_is_at_it(h, file)) {
        const struct timespec pause = {.tv_nsec = pause_ns};
        (void)nanosleep(&pause, NULL);
        pause_ns = TRUNCATOR_PAUSE_NS;
    }
}

static int serve_loaded(struct hydrate_worker *worker, struct file *file,
                        const struct request *request, enum verdict *ret_verdict)
{
    struct access access;
    struct stat st;

    int r = look_at_size(file, &st);
    if (r < 0)
        return r;
    access_of_request(&request->filter, &worker->hydrator->config, worker->hydrator->proc_fd, &st,
                      &access);
    await_truncator(worker->hydrator, file, &request->filter);
    if (access.truncating_open) {
        file->truncator = request->filter.tid;
        file->truncator_call = request->filter.syscall;
        file->truncator_ns = now_ns();
        return 0;
    }
    r = look_at_size(file, &st);
    return r < 0 ? r : serve_access(worker, file, &access, ret_verdict);
}

/* Somebody uses it; before he goes on, so that it is filled, and not removed, whatever happens to
 * its name.  One that has no handle has lost its name before this process began, or has just got
 * it. */
static int note_use(struct hydrator *h, struct file *file)
{
    struct filter_handle own;
    uint64_t ordinal = file->ordinal;

    if (!file->own && manifest_get_handle(h->manifest, ordinal, &own) == -ENOENT) {
        int r = manifest_set_handle(h->manifest, ordinal, &file->handle);
        if (r < 0)
            return r;
        file->own = true;
    }
    pthread_mutex_lock(&h->lock);
    uint8_t state = ordinal < h->states.count ? h->states.items[ordinal] : FILE_TODO;
    if (file->own &&
        (state == FILE_PLANNED || state == FILE_FRESH || state == FILE_GONE || state == FILE_DONE))
        set_state_locked(h, ordinal, FILE_TODO);
    file->fresh = false;
    pthread_mutex_unlock(&h->lock);
    return 0;
}

/* 0 or an error with a verdict. */
static int serve_one(struct hydrate_worker *worker, struct file *file,
                     const struct request *request, enum verdict *ret_verdict)
{
    struct hydrator *h = worker->hydrator;

    *ret_verdict = VERDICT_FAIL;
    int r = file_load(h, file);
    if (r == -ENODATA)
        return 0;
    if (r == -EAGAIN || is_shortage(r))
        *ret_verdict = VERDICT_RETRY;
    if (r >= 0)
        r = note_use(h, file);
    if (r < 0)
        return r;
    if (request->filter.event != FILTER_TRUNCATE && !request->crawls)
        order_note_demand(h, file);
    r = serve_loaded(worker, file, request, ret_verdict);
    if (r >= 0 && file->loaded && fill_is_complete(&file->fill) && file->truncator == 0)
        note_filled(h, file);
    return r;
}

static struct request *take_request_locked(struct file *file)
{
    struct request *request = file->requests.first;

    if (request) {
        file->requests.first = request->next;
        if (!request->next)
            file->requests.last = &file->requests.first;
    }
    return request;
}

/* Back to the front of the list, and the file to those that are tried again later. */
static void put_off(struct hydrator *h, struct file *file, struct request *request)
{
    pthread_mutex_lock(&h->lock);
    request->next = file->requests.first;
    if (!file->requests.first)
        file->requests.last = &request->next;
    file->requests.first = request;
    file->queued = true;
    file->retry_ns = now_ns() + RETRY_NS;
    file->queue_next = h->retry_first;
    h->retry_first = file;
    pthread_cond_signal(&h->demand_ready);
    pthread_mutex_unlock(&h->lock);
}

bool file_serve(struct hydrate_worker *worker, struct file *file)
{
    struct hydrator *h = worker->hydrator;
    bool others = false;

    for (;;) {
        enum verdict verdict;
        pthread_mutex_lock(&h->lock);
        struct request *request = take_request_locked(file);
        pthread_mutex_unlock(&h->lock);
        if (!request)
            break;
        others = others || !request->crawls;
        int r = serve_one(worker, file, request, &verdict);
        if (r < 0 && verdict == VERDICT_RETRY) {
            put_off(h, file, request);
            break;
        }
        if (r < 0)
            tell_failure(h, file, r);
        answer(h, request, answer_of(r));
        free(request);
    }
    return others;
}

/* ---- the background ---- */

static int fill_unit(struct hydrate_worker *worker, struct file *file, uint64_t *ret_bytes)
{
    uint64_t start, end;
    enum verdict verdict;
    struct stat before;

    int r = look_at_size(file, &before);
    if (r < 0 || !fill_next(&file->fill, 0, UINT64_MAX, &start, &end))
        return r;
    r = fetch_and_store(worker, file, start, end, &verdict, ret_bytes);
    count_bytes(worker->hydrator, *ret_bytes, false);
    /* Large files are not left to the sync: it would take long, and applications' with it. */
    if (*ret_bytes == FILL_UNIT_MAX)
        (void)sync_file_range(file->fd, (off_t)start, (off_t)*ret_bytes, SYNC_FILE_RANGE_WRITE);
    return r;
}

int file_fill_unit(struct hydrate_worker *worker, struct file *file, uint64_t *ret_bytes)
{
    struct hydrator *h = worker->hydrator;

    *ret_bytes = 0;
    int r = file_load(h, file);
    if (r == -ENODATA) {
        set_state(h, file->ordinal, FILE_GONE);
        return 0;
    }
    if (r < 0) {
        if (r != -EAGAIN && !is_shortage(r))
            tell_failure(h, file, r);
        return r;
    }
    if (truncator_is_at_it(h, file)) {
        const struct timespec pause = {.tv_nsec = TRUNCATOR_PAUSE_NS};
        (void)nanosleep(&pause, NULL);
        return 1;
    }
    r = fill_unit(worker, file, ret_bytes);
    if (r < 0) {
        tell_failure(h, file, r);
        return r;
    }
    if (fill_is_complete(&file->fill)) {
        note_filled(h, file);
        return 0;
    }
    if (file->fresh)
        set_state(h, file->ordinal, FILE_TODO);
    file->fresh = false;
    return 1;
}
