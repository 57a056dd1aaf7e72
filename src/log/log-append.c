/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records into the active buffer, and buffers into the ring.
 *
 * There are two buffers.  Records are copied into the active one under the lock; a flush takes it
 * away, makes the other one active, and writes without the lock.  Only one flush runs at a time, so
 * the other buffer is always free when there is none.  Whoever needs something durable and finds a
 * flush running waits with those whose records are in the same buffer.  When a flush ends, all who
 * wait for its buffer go on, and of those who wait for the other one a single thread is woken up,
 * to flush for all of them.
 */
#include <string.h>

#include "basic/crc32c.h"
#include "log/log-private.h"

/* ---- sizes ---- */

uint64_t wal_record_bytes(uint64_t redo_len, uint64_t undo_len)
{
    uint64_t len = sizeof(struct wal_record_header) + redo_len + undo_len;
    return (len + WAL_RECORD_ALIGN - 1) / WAL_RECORD_ALIGN * WAL_RECORD_ALIGN;
}

/* Half a buffer at most, so that a record that does not fit leaves a flush of half a buffer. */
size_t wal_data_max(const struct wal_geometry *g)
{
    uint64_t half = g->flush_bytes / WAL_PAGE_BYTES / 2 * WAL_PAGE_ROOM;
    uint64_t room = half - sizeof(struct wal_record_header) - WAL_RECORD_ALIGN;
    return (size_t)MIN(room, (uint64_t)UMBRA_LOG_DATA_MAX);
}

/* ---- failure ---- */

int wal_failure_locked(const struct umbra_log *log)
{
    return error_raise(&log->failure);
}

int wal_fail_locked(struct umbra_log *log, int r)
{
    error_save(&log->failure, r);
    for (unsigned i = 0; i < ELEMENTSOF(log->flushed); i++)
        pthread_cond_broadcast(&log->flushed[i]);
    pthread_cond_broadcast(&log->room);
    return r;
}

int wal_fail(struct umbra_log *log, int r)
{
    pthread_mutex_lock(&log->lock);
    r = wal_fail_locked(log, r);
    pthread_mutex_unlock(&log->lock);
    return r;
}

/* ---- buffers ---- */

int wal_buffers_new(struct umbra_log *log)
{
    for (unsigned i = 0; i < ELEMENTSOF(log->buffers); i++) {
        void *pages = NULL;
        if (posix_memalign(&pages, WAL_PAGE_BYTES, log->geometry.flush_bytes) != 0)
            return -ENOMEM;
        log->buffers[i].pages = pages;
    }
    return 0;
}

void wal_buffers_start(struct umbra_log *log, const struct wal_end *end)
{
    log->active = 0;
    log->buffers[0].lsn = end->lsn;
    log->head_lsn = end->lsn;
    log->durable_lsn = end->lsn;
    log->last_checksum = end->last_checksum;
}

static struct wal_buffer *active(struct umbra_log *log)
{
    return &log->buffers[log->active];
}

static bool active_is_empty(struct umbra_log *log)
{
    return log->head_lsn == active(log)->lsn;
}

/* Bytes of records that the active buffer still takes. */
static uint64_t room_left(struct umbra_log *log)
{
    uint64_t filled = log->head_lsn - active(log)->lsn;
    uint64_t in_page = filled % WAL_PAGE_BYTES;
    uint64_t whole_pages = (log->geometry.flush_bytes - filled) / WAL_PAGE_BYTES;
    return whole_pages * WAL_PAGE_ROOM + (in_page > 0 ? WAL_PAGE_BYTES - in_page : 0);
}

static uint8_t *page_at(struct umbra_log *log, umbra_log_lsn lsn)
{
    return active(log)->pages + (wal_page_of(lsn) - active(log)->lsn);
}

static void begin_page_if_needed(struct umbra_log *log)
{
    if (log->head_lsn % WAL_PAGE_BYTES != 0)
        return;
    memset(page_at(log, log->head_lsn), 0, WAL_PAGE_BYTES);
    log->head_lsn += sizeof(struct wal_page_header);
}

static void put_bytes(struct umbra_log *log, const void *data, size_t len)
{
    const uint8_t *from = data;
    while (len > 0) {
        begin_page_if_needed(log);
        uint64_t in_page = log->head_lsn % WAL_PAGE_BYTES;
        size_t n = (size_t)MIN((uint64_t)len, WAL_PAGE_BYTES - in_page);
        memcpy(page_at(log, log->head_lsn) + in_page, from, n);
        log->head_lsn += n;
        from += n;
        len -= n;
    }
}

/* ---- appending ---- */

static struct wal_record_header make_header(const struct wal_draft *draft, umbra_log_lsn lsn)
{
    size_t len = sizeof(struct wal_record_header) + draft->redo_len + draft->undo_len;
    struct wal_record_header h = {
        .len = le32_make((uint32_t)len),
        .lsn = le64_make(lsn),
        .txn = le64_make(draft->txn),
        .prev_lsn = le64_make(draft->prev_lsn),
        .undo_next_lsn = le64_make(draft->undo_next_lsn),
        .undoes_lsn = le64_make(draft->undoes_lsn),
        .type = (uint8_t)draft->type,
        .client = draft->client,
        .op = le16_make(draft->op),
        .redo_len = le32_make((uint32_t)draft->redo_len),
        .undo_len = le32_make((uint32_t)draft->undo_len),
        .manager = draft->manager,
        .flags = draft->flags,
    };
    uint32_t crc = crc32c(0, &h, sizeof(h));
    crc = crc32c(crc, draft->redo, draft->redo_len);
    h.checksum = le32_make(crc32c(crc, draft->undo, draft->undo_len));
    return h;
}

/* It fits. */
static umbra_log_lsn put_record(struct umbra_log *log, const struct wal_draft *draft)
{
    static const uint8_t zeros[WAL_RECORD_ALIGN] = {0};

    begin_page_if_needed(log);
    umbra_log_lsn lsn = log->head_lsn;
    struct wal_page_header *page = (struct wal_page_header *)(void *)page_at(log, lsn);
    if (le16_get(&page->first_record) == 0)
        page->first_record = le16_make((uint16_t)(lsn % WAL_PAGE_BYTES));
    struct wal_record_header h = make_header(draft, lsn);
    put_bytes(log, &h, sizeof(h));
    put_bytes(log, draft->redo, draft->redo_len);
    put_bytes(log, draft->undo, draft->undo_len);
    uint64_t stored = wal_record_bytes(draft->redo_len, draft->undo_len);
    put_bytes(log, zeros, (size_t)(stored - le32_get(&h.len)));
    return lsn;
}

static int flush_active_locked(struct umbra_log *log);

/* For the end of the flush that is running, or for being woken up to make the next one. */
static void wait_with_locked(struct umbra_log *log, unsigned buffer)
{
    pthread_cond_wait(&log->flushed[buffer], &log->lock);
}

int wal_make_fit_locked(struct umbra_log *log, uint64_t record_bytes)
{
    for (;;) {
        int r = wal_failure_locked(log);
        if (r < 0 || record_bytes <= room_left(log))
            return r;
        if (log->flushing)
            wait_with_locked(log, log->active ^ 1u);
        else if ((r = flush_active_locked(log)) < 0)
            return r;
    }
}

int wal_append_locked(struct umbra_log *log, const struct wal_draft *draft, umbra_log_lsn *ret_lsn)
{
    int r = wal_make_fit_locked(log, wal_record_bytes(draft->redo_len, draft->undo_len));
    if (r == 0)
        *ret_lsn = put_record(log, draft);
    return r;
}

/* ---- flushing ---- */

uint32_t wal_page_checksum(const uint8_t *page)
{
    struct wal_page_header h;
    memcpy(&h, page, sizeof(h));
    h.checksum = le32_make(0);
    return crc32c(crc32c(0, &h, sizeof(h)), page + sizeof(h), WAL_PAGE_BYTES - sizeof(h));
}

struct flush {
    const struct wal_buffer *buffer;
    uint64_t pages;
    uint64_t last_used; /* bytes of the last page */
    umbra_log_lsn durable_lsn;
};

/* Returns the checksum of the last page. */
static uint32_t seal_pages(const struct umbra_log *log, const struct flush *f, uint32_t checksum)
{
    for (uint64_t i = 0; i < f->pages; i++) {
        uint8_t *page = f->buffer->pages + i * WAL_PAGE_BYTES;
        struct wal_page_header *h = (struct wal_page_header *)(void *)page;
        uint64_t used = i + 1 < f->pages ? WAL_PAGE_BYTES : f->last_used;
        memcpy(h->magic, WAL_PAGE_MAGIC, sizeof(h->magic));
        memcpy(h->log_id, log->geometry.id, sizeof(h->log_id));
        h->lsn = le64_make(f->buffer->lsn + i * WAL_PAGE_BYTES);
        h->durable_lsn = le64_make(f->durable_lsn);
        h->prev_checksum = le32_make(checksum);
        h->incarnation = le32_make(log->incarnation);
        h->used = le16_make((uint16_t)used);
        h->flush_index = le16_make((uint16_t)i);
        h->flush_count = le16_make((uint16_t)f->pages);
        checksum = wal_page_checksum(page);
        h->checksum = le32_make(checksum);
    }
    return checksum;
}

static int write_at(struct umbra_log *log, uint8_t *data, uint64_t len, umbra_log_lsn lsn)
{
    struct iovec iov = {.iov_base = data, .iov_len = len};
    return io_pwritev(log->out, &iov, 1, wal_offset_of(&log->geometry, lsn));
}

/* The ring may end in between. */
static int write_pages(struct umbra_log *log, const struct flush *f)
{
    umbra_log_lsn lsn = f->buffer->lsn;
    uint64_t len = f->pages * WAL_PAGE_BYTES;
    uint64_t to_end = log->geometry.ring_bytes - lsn % log->geometry.ring_bytes;
    uint64_t first = MIN(len, to_end);

    int r = write_at(log, f->buffer->pages, first, lsn);
    if (r == 0 && first < len)
        r = write_at(log, f->buffer->pages + first, len - first, lsn + first);
    return r < 0 ? r : io_sync(log->out);
}

/* Takes the active buffer away; there is no other flush, and something to flush. */
static struct flush take_active_locked(struct umbra_log *log)
{
    const struct wal_buffer *buffer = active(log);
    uint64_t in_page = log->head_lsn % WAL_PAGE_BYTES;
    umbra_log_lsn end = wal_page_up(log->head_lsn);
    struct flush f = {
        .buffer = buffer,
        .pages = (end - buffer->lsn) / WAL_PAGE_BYTES,
        .last_used = in_page > 0 ? in_page : WAL_PAGE_BYTES,
        .durable_lsn = log->durable_lsn,
    };
    log->active ^= 1u;
    active(log)->lsn = end;
    log->head_lsn = end;
    log->flushing = true;
    return f;
}

static int flush_active_locked(struct umbra_log *log)
{
    int r = 0;
    struct flush f = take_active_locked(log);
    umbra_log_lsn end = f.buffer->lsn + f.pages * WAL_PAGE_BYTES;
    /* The reserves make this impossible; it would overwrite what recovery needs. */
    bool overrun = end - log->tail_lsn > log->geometry.ring_bytes;

    pthread_mutex_unlock(&log->lock);
    if (overrun)
        r = error_note(-ENOSPC, "log '%s' has run over its reserve", log->name);
    if (r == 0) {
        log->last_checksum = seal_pages(log, &f, log->last_checksum);
        r = write_pages(log, &f);
    }
    pthread_mutex_lock(&log->lock);
    log->flushing = false;
    if (r < 0)
        return wal_fail_locked(log, r);
    log->durable_lsn = end;
    log->flush_count++;
    pthread_cond_broadcast(&log->flushed[log->active ^ 1u]);
    pthread_cond_signal(&log->flushed[log->active]);
    return 0;
}

int wal_flush_locked(struct umbra_log *log, umbra_log_lsn lsn)
{
    while (log->durable_lsn < lsn) {
        int r = wal_failure_locked(log);
        if (r < 0)
            return r;
        if (log->flushing)
            wait_with_locked(log, lsn > active(log)->lsn ? log->active : log->active ^ 1u);
        else if (active_is_empty(log))
            return 0; /* there is nothing before lsn that is not durable */
        else if ((r = flush_active_locked(log)) < 0)
            return r;
    }
    return 0;
}

int wal_flush_all_locked(struct umbra_log *log)
{
    return wal_flush_locked(log, log->head_lsn);
}
