/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Load orders: the list that the background follows, and the one that is recorded.
 *
 * Both are conveniences.  A list that cannot be read, or a file that cannot be written, is told,
 * and the restore goes on without.  The files may be on a disk that is slow or stands still, or be
 * placeholders themselves: threads that do nothing else open, read and write them.  The list is of
 * use only before the catalog is walked, so its text is waited for, but not long.
 *
 * A process of its own life appends to what its predecessors wrote; then a file may be named twice,
 * and its first place counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/log.h"
#include "restore/hydrator-private.h"

#define RECORD_BYTES_MAX (8u << 20) /* lines that wait to be written; more of them are left out */
#define END_WAIT_NS      (5 * NSEC_PER_SEC)
#define READ_WAIT_NS     (5 * NSEC_PER_SEC)

/* ---- the list that is followed ---- */

static void *read_thread(void *data)
{
    struct hydrator *h = data;
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;

    int r = load_order_fetch(h->config.load_order, &text, &len);
    if (r < 0)
        log_warning("%s: the background goes by the catalog alone", error_text(r));
    pthread_mutex_lock(&h->lock);
    if (!h->order_late) {
        h->order_text = TAKE_PTR(text);
        h->order_text_len = len;
    }
    h->order_busy = false;
    pthread_cond_broadcast(&h->record_ready);
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

static struct timespec deadline_in(uint64_t ns)
{
    uint64_t deadline_ns = now_ns() + ns;

    return (struct timespec){.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
                             .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};
}

/* False: it is not there, which was told. */
static bool fetch_order(struct hydrator *h)
{
    const struct timespec deadline = deadline_in(READ_WAIT_NS);
    pthread_t thread;
    int r = 0;

    h->order_busy = true;
    if (pthread_create(&thread, NULL, read_thread, h) != 0) {
        log_warning("cannot start a thread: the background goes by the catalog alone");
        return false;
    }
    (void)pthread_detach(thread);
    pthread_mutex_lock(&h->lock);
    while (r == 0 && h->order_busy)
        r = pthread_cond_timedwait(&h->record_ready, &h->lock, &deadline);
    h->order_late = h->order_busy;
    bool late = h->order_late;
    pthread_mutex_unlock(&h->lock);
    if (late)
        log_warning("the load order '%s' cannot be read in time: the background goes by the "
                    "catalog alone",
                    h->config.load_order);
    return !late && h->order_text;
}

static void read_order(struct hydrator *h)
{
    struct load_order *order = NULL;

    if (!fetch_order(h))
        return;
    int r = load_order_parse(h->order_text, h->order_text_len, &order);
    if (r < 0)
        log_warning("%s: the background goes by the catalog alone", error_text(r));
    free(TAKE_PTR(h->order_text));
    pthread_mutex_lock(&h->lock);
    h->order = order;
    pthread_mutex_unlock(&h->lock);
}

uint64_t order_ignored_locked(const struct hydrator *h)
{
    return load_order_bad_count(h->order) + load_order_path_count(h->order) -
           load_order_found_count(h->order);
}

void order_tell(struct hydrator *h)
{
    if (!h->order)
        return;
    pthread_mutex_lock(&h->lock);
    uint64_t found = load_order_found_count(h->order), ignored = order_ignored_locked(h);
    pthread_mutex_unlock(&h->lock);
    if (ignored > 0)
        log_warning("load order '%s': %llu files come first, %llu lines name no file of this "
                    "restore and are ignored",
                    h->config.load_order, (unsigned long long)found, (unsigned long long)ignored);
}

/* ---- the list that is recorded ---- */

static int write_text(int fd, const void *text, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)text + done, len - done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* A predecessor may have been killed in the middle of a line. */
static int end_last_line(int fd, off_t size)
{
    char last = '\n';

    if (size > 0 && pread(fd, &last, 1, size - 1) < 0)
        return -errno;
    return last == '\n' || write(fd, "\n", 1) == 1 ? 0 : -EIO;
}

static int open_record(struct hydrator *h, int *ret_fd)
{
    struct stat st;
    CLEANUP_CLOSE int fd =
        open(h->config.record_order,
             O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return error_note(-EINVAL, "it is no regular file");
    if (h->record_anew && ftruncate(fd, 0) < 0)
        return -errno;
    int r = h->record_anew || st.st_size == 0
                ? write_text(fd, LOAD_ORDER_HEAD, strlen(LOAD_ORDER_HEAD))
                : end_last_line(fd, st.st_size);
    if (r < 0)
        return r;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static void begin_record(struct hydrator *h)
{
    int fd = -EBADF;
    int r = open_record(h, &fd);

    if (r < 0)
        log_warning("cannot record the load order in '%s': %s", h->config.record_order,
                    error_text(r));
    pthread_mutex_lock(&h->lock);
    h->record_fd = fd;
    h->recording = r >= 0;
    h->record_busy = false;
    pthread_cond_broadcast(&h->record_ready);
    pthread_mutex_unlock(&h->lock);
}

void order_note_demand(struct hydrator *h, const struct file *file)
{
    const struct entry *e = &file->fill.entry;

    pthread_mutex_lock(&h->lock);
    bool noted = !h->recording || file->ordinal >= h->demands.count ||
                 h->demands.items[file->ordinal] || h->recorded.len > RECORD_BYTES_MAX;
    if (!noted) {
        h->demands.items[file->ordinal] = true;
        load_order_put(&h->recorded, e->key, e->key_len);
        pthread_cond_signal(&h->record_ready);
    }
    pthread_mutex_unlock(&h->lock);
}

/* Under the lock, which it lets go of meanwhile. */
static void write_record_locked(struct hydrator *h)
{
    struct buffer lines = h->recorded;
    int fd = h->record_fd;

    h->recorded = (struct buffer){0};
    pthread_mutex_unlock(&h->lock);
    int r = buffer_finish(&lines);
    if (r >= 0)
        r = write_text(fd, lines.data, lines.len);
    if (r < 0)
        log_warning("cannot record the load order in '%s': %s", h->config.record_order,
                    error_text(r));
    buffer_release(&lines);
    if (r < 0)
        (void)close(fd);
    pthread_mutex_lock(&h->lock);
    if (r < 0)
        h->recording = false;
    h->record_busy = false;
    pthread_cond_broadcast(&h->record_ready);
}

void *order_thread(void *data)
{
    struct hydrator *h = data;

    begin_record(h);
    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        if (!h->recording || h->recorded.len == 0) {
            pthread_cond_wait(&h->record_ready, &h->lock);
            continue;
        }
        h->record_busy = true;
        write_record_locked(h);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* ---- begin and end ---- */

void order_begin(struct hydrator *h)
{
    if (h->config.load_order)
        read_order(h);
    h->recording = h->record_busy = h->config.record_order != NULL;
    h->record_anew = !h->resumed;
}

void order_plan_locked(struct hydrator *h, const struct entry *e, uint64_t ordinal)
{
    uint8_t noted = false;

    if (h->order)
        load_order_found(h->order, e->key, e->key_len, ordinal);
    if (h->recording)
        IGNORE_RESULT(state_vector_push(&h->demands, &noted));
}

/* A restore does not wait for ever for a disk that is not its own. */
void order_end(struct hydrator *h)
{
    const struct timespec deadline = deadline_in(END_WAIT_NS);
    int r = 0;

    pthread_mutex_lock(&h->lock);
    while (r == 0 && h->recording && (h->record_busy || h->recorded.len > 0))
        r = pthread_cond_timedwait(&h->record_ready, &h->lock, &deadline);
    pthread_mutex_unlock(&h->lock);
}
