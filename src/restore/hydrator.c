/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umbra-hydrated: fills in what an instant restore has promised.
 *
 * A restore begins with placeholders: every file of the backup with its size, space and attributes,
 * and a mark that says that its data is not here (filter/pending.h).  umbra-filterd holds back
 * whoever wants to open or use one, and asks the hydrator; the hydrator gets the data from the
 * repository, writes it into the file, and answers.  Nobody waiting, it fills the rest.  At the end
 * no mark is left, and with it nothing of umbra.
 *
 * Where the state is
 * ------------------
 * In the file system, and only there: the mark of each file, its extents, and a record on the
 * target directory. This process can be killed at any instruction, and the machine can lose its
 * power: the next one reads the catalog and the tree, and goes on.
 *
 *  1. The record on the target is on disk before the first placeholder; a file gets its mark before
 * it gets its size.
 *  2. A page of a file with a mark is written only whole and only with right bytes: by us, out of
 *     chunks that were verified, or by an application, which is let go on only when the page is
 * there. So whatever extent the file system has converted to written holds right bytes, and the
 * rest of what has data in the backup is missing.
 *  3. What makes holes or moves data is let go on only when the file is complete, synced, and its
 *     mark gone.  The exception is open(O_TRUNC), see hydrator-file.c: there the mark is lowered to
 *     the size that is found before the next access is let go on.
 *  4. A mark is removed after the data has been synced.
 *  5. A request is answered with success only when what it is about is in the file.
 *  6. Our own writing never changes a size: what is written ends at the size that the file was seen
 *     to have, and nothing that shortens a file is let go on while its owner writes.
 *
 * Deadlocks
 * ---------
 * All I/O on the volume goes through a private mount that raises no events.  The thread that reads
 * requests does nothing else; requests have threads of their own, which the background never uses;
 * nobody waits for another's file (hydrator-file.c).  Memory is locked by nobody here: this process
 * may be swapped out to, or its programs lie on, the very volume; that is allowed as long as those
 * files are not placeholders.
 *
 * Locks: there is one, hydrator.lock, for all that several threads use; it is never held during
 * I/O.  What belongs to the owner of a file is said in hydrator-private.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/log.h"
#include "control/control.h"
#include "restore/hydrator-private.h"
#include "restore/instant-note.h"

#define CONFIG_LEN_MAX   (16u << 20)
#define RETRY_ALONE_S    5
#define REOPEN_S         1
#define LOOK_PAUSE_NS    (5 * NSEC_PER_SEC)
#define LOOK_PAUSE_TIMES 10u /* as long as the last look took */
#define KNOWN_THREADS    1024u
#define KNOWN_NS         (10 * NSEC_PER_SEC)

/* ---- requests ---- */

static int receive(struct hydrator *h, struct request **ret_request)
{
    struct request *request = calloc(1, sizeof(*request));
    if (!request)
        return -ENOMEM;
    ssize_t n;
    do
        n = recv(h->channel_fd, &request->filter, sizeof(request->filter), 0);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof(request->filter) && request->filter.handle.len <= FILTER_HANDLE_MAX) {
        request->received_ns = now_ns();
        *ret_request = request;
        return 0;
    }
    int r = n < 0 ? -errno : n == 0 ? -ECONNRESET : -EBADMSG;
    free(request);
    return r;
}

/* The process of a thread, by what is known of it: threads ask again and again.  A number may come
 * to belong to another one, which is then taken for its predecessor for a moment. */
static int32_t process_of(struct hydrator *h, int32_t tid)
{
    static struct known_thread {
        int32_t tid, process;
        uint64_t ns;
    } known[KNOWN_THREADS]; /* the channel thread's own */
    struct known_thread *slot = &known[(uint32_t)tid % KNOWN_THREADS];
    char path[32], text[512];

    if (tid <= 0)
        return 0;
    if (slot->tid == tid && now_ns() - slot->ns < KNOWN_NS)
        return slot->process;
    (void)snprintf(path, sizeof(path), "%d/status", tid);
    CLEANUP_CLOSE int fd = openat(h->proc_fd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    text[MAX(n, (ssize_t)0)] = '\0';
    const char *line = strstr(text, "\nTgid:\t");
    int32_t process = line ? (int32_t)strtol(line + strlen("\nTgid:\t"), NULL, 10) : tid;
    *slot = (struct known_thread){.tid = tid, .process = process, .ns = now_ns()};
    return process;
}

/* The mark that the filter saw is a hint, and good enough here. */
static void note_process_locked(struct hydrator *h, struct request *request, int32_t process)
{
    uint64_t ordinal = request->filter.pending.ordinal;

    if (process <= 0 || ordinal >= h->directories.count)
        return;
    struct crawler *crawler =
        crawler_note(&h->crawlers, process, h->directories.items[ordinal], request->received_ns);
    request->crawls = crawler->crawls;
    if (request->crawls)
        background_follow_locked(h, crawler, ordinal);
}

static int enqueue(struct hydrator *h, struct request *request)
{
    int32_t process = process_of(h, request->filter.tid);

    pthread_mutex_lock(&h->lock);
    note_process_locked(h, request, process);
    struct file *file = file_get_locked(h, &request->filter.handle);
    if (file) {
        *file->requests.last = request;
        file->requests.last = &request->next;
        h->demand_active++;
        h->crawl_active += request->crawls;
        if (!file->busy && !file->queued)
            file_queue_locked(h, file);
        else if (!request->crawls)
            file_promote_locked(h, file);
    }
    pthread_mutex_unlock(&h->lock);
    return file ? 0 : -ENOMEM;
}

/* Both processes of the filter are dead.  Who waits for an answer waits as long as we hold the
 * group: so it is held until everything is there, and then they may all go on. */
static void note_lost_filter(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    bool early = !h->stopping;
    h->lost = true;
    h->demand_active = h->crawl_active = 0; /* nobody is told any more */
    pthread_cond_broadcast(&h->background_ready);
    pthread_mutex_unlock(&h->lock);
    if (early)
        set_degraded(h, "the filter is dead: readers wait until all files are there");
}

static void *channel_thread(void *data)
{
    struct hydrator *h = data;
    struct request *request = NULL;

    while (receive(h, &request) >= 0 && enqueue(h, request) >= 0)
        ;
    note_lost_filter(h);
    return NULL;
}

/* ---- threads ---- */

struct threads {
    struct hydrate_worker demand[DEMAND_THREADS], background[BACKGROUND_THREADS];
    pthread_t channel, sync, rate, order;
};

static int start_worker(struct hydrator *h, struct hydrate_worker *worker, void *(*run)(void *))
{
    worker->hydrator = h;
    worker->source.buffer = malloc(FILL_UNIT_MAX);
    if (!worker->source.buffer)
        return -ENOMEM;
    int r = source_reader_new(h->sources, &worker->source.reader);
    return r < 0 ? r : -pthread_create(&worker->thread, NULL, run, worker);
}

static int start_threads(struct hydrator *h, struct threads *threads)
{
    int r = 0;

    for (unsigned i = 0; i < DEMAND_THREADS && r >= 0; i++)
        r = start_worker(h, &threads->demand[i], demand_thread);
    for (unsigned i = 0; i < BACKGROUND_THREADS && r >= 0; i++)
        r = start_worker(h, &threads->background[i], background_thread);
    if (r >= 0)
        r = -pthread_create(&threads->sync, NULL, sync_thread, h);
    if (r >= 0)
        r = -pthread_create(&threads->rate, NULL, rate_thread, h);
    if (r >= 0 && h->recording)
        r = -pthread_create(&threads->order, NULL, order_thread, h);
    if (r >= 0)
        r = -pthread_create(&threads->channel, NULL, channel_thread, h);
    return r < 0 ? error_note_describe(r, "cannot start a thread") : 0;
}

/* ---- the end ---- */

static void wait_until_all_is_done(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    while (h->remaining > 0 && !h->stopping && !h->cancelled)
        pthread_cond_wait(&h->ended, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

static bool is_lost(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    bool lost = h->lost;
    pthread_mutex_unlock(&h->lock);
    return lost;
}

static bool is_cancelled(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    bool cancelled = h->cancelled;
    pthread_mutex_unlock(&h->lock);
    return cancelled;
}

static int cancel(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    h->walk_needed = true;
    h->phase = h->config.phase = INSTANT_CANCELLED;
    h->config.limit_bytes_per_s = 0; /* what is left has to end, and soon */
    h->background_on = false;
    file_forget_idle_locked(h); /* those are not in use */
    pthread_mutex_unlock(&h->lock);
    int r = hydrator_record(h);
    if (r >= 0)
        r = hydrator_remove_untouched(h);
    pthread_mutex_lock(&h->lock);
    h->background_on = true;
    h->cancelled = false;
    h->paused = false;
    throttle_set_limit(&h->throttle, 0, now_ns());
    pthread_cond_broadcast(&h->background_ready);
    pthread_mutex_unlock(&h->lock);
    return r;
}

static void start_background(struct hydrator *h)
{
    pthread_mutex_lock(&h->lock);
    h->background_on = true;
    if (h->phase == INSTANT_PLACING)
        h->phase = INSTANT_FILLING;
    h->filling_ns = now_ns();
    pthread_cond_broadcast(&h->background_ready);
    pthread_mutex_unlock(&h->lock);
}

/* The gate goes. */
static int say_finish(struct hydrator *h)
{
    const struct filter_answer answer = {.kind = FILTER_FINISH};

    (void)close(HYDRATOR_GROUP_FD);
    return send(h->channel_fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* This machine need not know of the restore any more.  Where that cannot be written, the next
 * command that sees the target takes the note away. */
static void forget(struct hydrator *h)
{
    int r = instant_note_remove(h->config.restore_id);
    if (r < 0)
        log_warning("cannot remove the note of the restore of '%s': %s", h->config.target,
                    error_text(r));
}

static int finish(struct hydrator *h)
{
    int r = syncfs(h->tree_fd) < 0 ? -errno : hydrator_unrecord(h);
    if (r < 0)
        return error_note_describe(r, "cannot end the restore of '%s'", h->config.target);
    order_end(h);
    forget(h);
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    bool lost = h->lost;
    pthread_mutex_unlock(&h->lock);
    r = say_finish(h);
    return lost ? 0 : r;
}

/* *ret_left: what is not complete, or could not be looked at. */
static int look_for_more(struct hydrator *h, uint64_t *ret_left)
{
    uint64_t found = 0, unnamed = 0, unread = 0;

    int r = hydrator_walk(h, &found, &unread);
    if (r >= 0)
        r = hydrator_find_unnamed(h, &unnamed);
    if (r < 0)
        return r;
    pthread_mutex_lock(&h->lock);
    h->unread = unread;
    pthread_mutex_unlock(&h->lock);
    *ret_left = found + unnamed + unread;
    return 0;
}

/* What cannot be looked at may be a placeholder of ours, and could be read without a gate once
 * somebody has mended it: so it is as a file that cannot be filled, until it can be looked at or
 * has been removed.  To see that costs reading the whole tree, which is not done all the time. */
static void pause_before_next_look(struct hydrator *h, uint64_t took_ns)
{
    uint64_t until_ns = now_ns() + MAX(LOOK_PAUSE_NS, LOOK_PAUSE_TIMES * took_ns);
    const struct timespec ts = {
        .tv_sec = (time_t)(until_ns / NSEC_PER_SEC),
        .tv_nsec = (long)(until_ns % NSEC_PER_SEC),
    };

    pthread_mutex_lock(&h->lock);
    while (h->unread > 0 && h->remaining == 0 && !h->stopping && !h->cancelled &&
           pthread_cond_timedwait(&h->ended, &h->lock, &ts) == 0)
        ;
    pthread_mutex_unlock(&h->lock);
}

/* Until nothing is pending.  Walks that find nothing are the proof where the handles of all files
 * were not noted when they were made. */
static int fill_all(struct hydrator *h)
{
    uint64_t left = 0;
    int r = 0;

    start_background(h);
    do {
        wait_until_all_is_done(h);
        if (is_cancelled(h))
            r = cancel(h);
        left = 0;
        uint64_t began_ns = now_ns();
        for (unsigned i = 0; i < 2 && r >= 0 && left == 0 && h->walk_needed; i++)
            r = look_for_more(h, &left);
        if (r >= 0 && left > 0)
            pause_before_next_look(h, now_ns() - began_ns);
    } while (r >= 0 && left > 0);
    return r < 0 ? r : finish(h);
}

/* Whoever starts us again when we end is dead, when the filter is: then we must not. */
static int fill_all_or_go_on(struct hydrator *h)
{
    for (;;) {
        int r = fill_all(h);
        if (r >= 0 || !is_lost(h))
            return r;
        log_error("%s", error_text(r));
        (void)sleep(RETRY_ALONE_S);
    }
}

/* ---- reports ---- */

static void report(struct hydrator *h, const char *text)
{
    if (h->report_fd < 0)
        return;
    (void)!write(h->report_fd, text, strlen(text));
    (void)close(TAKE_FD(h->report_fd));
}

static void report_ready(struct hydrator *h, const struct restore_stats *stats)
{
    CLEANUP_FREE char *text = NULL;

    if (asprintf(&text,
                 "{\"ready\": true, \"files\": %llu, \"directories\": %llu, \"bytes\": %llu, "
                 "\"problems\": %llu, \"seconds\": %.3f}\n",
                 (unsigned long long)stats->file_count, (unsigned long long)stats->directory_count,
                 (unsigned long long)stats->size_bytes, (unsigned long long)stats->problem_count,
                 (double)(now_ns() - h->start_ns) / 1e9) >= 0)
        report(h, text);
}

static void report_error(struct hydrator *h, int r)
{
    CLEANUP_FREE char *text = hydrator_error_report(error_text(r));

    report(h, text ? text : "{\"error\": \"no memory\", \"exit\": 1}\n");
}

/* ---- the beginning ---- */

static int read_config(struct hydrator *h)
{
    struct stat st;

    if (fstat(HYDRATOR_CONFIG_FD, &st) < 0)
        return error_note_describe(-errno, "cannot read what is to be restored");
    if (st.st_size <= 0 || st.st_size > CONFIG_LEN_MAX)
        return error_note(-UMBRA_E_LIMIT, "the description of the restore has %lld bytes",
                          (long long)st.st_size);
    char *text = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, HYDRATOR_CONFIG_FD, 0);
    if (text == MAP_FAILED)
        return error_note_describe(-errno, "cannot read what is to be restored");
    int r = instant_config_from_json(text, (size_t)st.st_size, &h->config);
    (void)munmap(text, (size_t)st.st_size);
    return r;
}

/* What the target says of an earlier life of this restore. */
static int read_record(struct hydrator *h)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    char text[64 << 10];

    ssize_t n = fgetxattr(h->tree_fd, INSTANT_XATTR, text, sizeof(text));
    if (n < 0)
        return errno == ENODATA
                   ? 0
                   : error_note_describe(-errno, "cannot read the record on the target");
    int r = instant_config_from_json(text, (size_t)n, &record);
    if (r < 0)
        return error_prefix(r, "the record on the target");
    if (record.restore_id != h->config.restore_id)
        return error_note(-EBUSY, "the target belongs to another restore, of backup %.12s",
                          record.backup_id);
    h->resumed = true;
    h->config.phase = record.phase;
    h->config.limit_bytes_per_s = record.limit_bytes_per_s; /* as it was told last */
    free(h->config.digest);
    h->config.digest = TAKE_PTR(record.digest);
    return 0;
}

static void on_stand_in(const char *text, void *userdata)
{
    set_degraded(userdata, text);
}

static int open_sources(struct hydrator *h)
{
    CLEANUP_FREE char *base = NULL;

    int r = frame_cache_new(h->repo, FRAME_CACHE_BYTES, &h->frames);
    if (r >= 0)
        r = restore_find_base(h->config.subpath, &h->backup->roots, &base);
    if (r < 0)
        return r;
    const struct source_options options = {
        .repo = h->repo,
        .frames = h->frames,
        .specs = &h->config.sources,
        .base = base,
        .volume_fd = h->tree_fd,
        .may_be_absent = h->resumed, /* who waits for a file must not wait for all of them */
        .on_stand_in = on_stand_in,
        .userdata = h,
    };
    struct source_set *sources = NULL;
    r = source_set_new(&options, &sources);
    if (r < 0)
        return r;
    pthread_mutex_lock(&h->lock);
    h->sources = sources;
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static int open_backup(struct hydrator *h)
{
    struct backend *backend = NULL;

    int r = backend_open(h->config.repo_url, false, &backend);
    if (r >= 0)
        r = repository_open(backend, h->config.passphrase, h->config.passphrase_len,
                            h->config.cache_dir, &h->repo);
    if (r >= 0)
        r = backup_find(h->repo->backend, h->repo->keyring, h->repo->names, h->config.backup_id,
                        NULL, &h->backup);
    if (r >= 0)
        r = manifest_new(h->repo->names, &h->manifest);
    if (r >= 0 && h->waiting)
        set_degraded(h, ""); /* from here on, others have something to say */
    if (r >= 0)
        r = open_sources(h);
    if (r >= 0)
        order_begin(h);
    return r;
}

/* What was opened before it failed; sources come last. */
static void close_backup(struct hydrator *h)
{
    frame_cache_free(TAKE_PTR(h->frames));
    manifest_free(TAKE_PTR(h->manifest));
    backup_free(TAKE_PTR(h->backup));
    repository_free(TAKE_PTR(h->repo));
}

static void set_waiting(struct hydrator *h, bool waiting)
{
    pthread_mutex_lock(&h->lock);
    h->waiting = waiting;
    pthread_mutex_unlock(&h->lock);
}

/* Who reads waits in the filter.  Whoever has started us need not: it may take days. */
static int open_backup_or_wait(struct hydrator *h)
{
    for (;;) {
        int r = open_backup(h);
        if (r >= 0 || !h->resumed || h->config.phase == INSTANT_PLACING)
            return r;
        set_degraded(h, error_text(r));
        set_waiting(h, true);
        report_error(h, r);
        close_backup(h);
        (void)sleep(REOPEN_S);
    }
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attr;

    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(condition, &attr);
    (void)pthread_condattr_destroy(&attr);
}

static int hydrator_init(struct hydrator *h)
{
    h->channel_fd = HYDRATOR_CHANNEL_FD;
    h->tree_fd = HYDRATOR_TREE_FD;
    h->report_fd = HYDRATOR_REPORT_FD;
    h->start_ns = now_ns();
    h->demand.last = &h->demand.first;
    h->crawl.last = &h->crawl.first;
    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_mutex_init(&h->record_lock, NULL);
    init_condition(&h->demand_ready);
    init_condition(&h->background_ready);
    init_condition(&h->released);
    init_condition(&h->filled_ready);
    init_condition(&h->ended);
    init_condition(&h->record_ready);
    h->record_fd = -EBADF;
    hydrator_set_files_max(h);
    h->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (h->proc_fd < 0)
        return error_note_describe(-errno, "cannot open /proc");
    int r = read_config(h);
    if (r < 0)
        return r;
    r = read_record(h);
    if (r >= 0)
        throttle_init(&h->throttle, h->config.limit_bytes_per_s, h->config.idle, now_ns());
    return r;
}

/* Before anybody relies on the placeholders: there are none, and nothing else of ours, and no gate,
 * afterwards. */
static int give_up(struct hydrator *h, int r)
{
    struct error_report why = {0};

    error_save(&why, r);
    log_error("%s", why.text);
    r = hydrator_remove_placed(h);
    if (r >= 0)
        hydrator_remove_made(h);
    if (r >= 0)
        r = finish(h);
    report_error(h, hydrator_tell_space(h, &why));
    return r;
}

/* ---- all of it ---- */

static int place_or_find(struct hydrator *h)
{
    struct restore_stats stats = {0};
    int r;

    if (h->resumed && h->config.phase == INSTANT_PLACING) {
        r = hydrator_remove_placed(h); /* what was not finished is begun again */
        if (r < 0)
            return r;
        h->resumed = false;
    }
    h->phase = h->config.phase;
    h->cancelled = h->phase == INSTANT_CANCELLED; /* a predecessor did not get to its end */
    if (!h->resumed)
        r = hydrator_place(h, &stats);
    else
        r = hydrator_find(h, &stats);
    if (r < 0)
        return r;
    order_tell(h);
    report_ready(h, &stats);
    return 0;
}

static int run(struct hydrator *h, struct threads *threads, struct control_server **ret_control)
{
    char id[INSTANT_ID_LEN + 1];
    instant_id_format(h->config.restore_id, id);
    int r = control_server_start(INSTANT_SOCKET_DIR, id, hydrator_control, h, ret_control);
    if (r >= 0)
        r = open_backup_or_wait(h);
    set_waiting(h, false);
    if (r >= 0)
        r = start_threads(h, threads);
    if (r >= 0)
        r = place_or_find(h);
    if (r < 0 && h->config.phase == INSTANT_PLACING)
        return give_up(h, r);
    if (r >= 0)
        return fill_all_or_go_on(h);
    report_error(h, r); /* the gate stays up, and it is tried again */
    return r;
}

/* What is asked for cannot be done, and not later either: then nothing of ours is in the target. */
static void refuse(struct hydrator *h, int r)
{
    /* another restore's target, or a description that cannot be read */
    bool for_good = r == -EBUSY || h->config.restore_id == 0;
    struct error_report why = {0};

    error_save(&why, r);
    if (for_good)
        IGNORE_RESULT(say_finish(h));
    report_error(h, error_raise(&why));
}

int hydrator_main(void)
{
    /* Never freed: the threads use it until the process ends. */
    static struct hydrator hydrator;
    static struct threads threads;
    struct control_server *control = NULL;

    int r = hydrator_init(&hydrator);
    if (r >= 0)
        r = run(&hydrator, &threads, &control);
    else
        refuse(&hydrator, r);
    if (r < 0)
        log_error("%s", error_text(r));
    if (control)
        control_server_stop(control);
    return r < 0;
}
