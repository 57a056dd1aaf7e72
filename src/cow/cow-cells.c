/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cells are written and flushed by a thread, for all who wait at that time: what is copied for
 * different writers at the same time goes to cells side by side, and so becomes one write.  The
 * writers commit to the log meanwhile.
 *
 * What has been handed over has a ticket.  The thread takes the list as it is, writes, flushes, and
 * all tickets of that list are done.  A failed write concerns those whose cells it was; a failed
 * flush everybody, for ever.  Without threads (options) who waits does it.
 */
#include <stdlib.h>
#include <string.h>

#include "cow/cow-private.h"

#define WRITES_ATONCE 256u

/* ---- writing ---- */

static int compare_cells(const void *a, const void *b)
{
    const struct cow_cells *x = *(struct cow_cells *const *)a, *y = *(struct cow_cells *const *)b;
    return (x->cell > y->cell) - (x->cell < y->cell);
}

/* How many of the writes, one behind the other, fit into one. */
static size_t count_run(const struct cow *cow, struct cow_cells *const *writes, size_t count)
{
    size_t n = 1, cells = writes[0]->count;
    while (n < count && writes[n]->cell == writes[0]->cell + cells &&
           (cells + writes[n]->count) * cow->block_bytes <= COW_STAGE_BYTES)
        cells += writes[n++]->count;
    return n;
}

static void write_run(struct cow *cow, struct cow_cells *const *writes, size_t count)
{
    const uint8_t *data = writes[0]->data;
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        size_t n = writes[i]->count * cow->block_bytes;
        if (count > 1)
            memcpy(cow->stage + len, writes[i]->data, n);
        len += n;
    }
    int r = cow->cells->ops->write(cow->cells, count > 1 ? cow->stage : data, len,
                                   writes[0]->cell * cow->block_bytes);
    for (size_t i = 0; r < 0 && i < count; i++)
        error_save(writes[i]->failure, r);
}

/* Returns what is left of the list. */
static struct cow_cells *write_some(struct cow *cow, struct cow_cells *list)
{
    struct cow_cells *writes[WRITES_ATONCE];
    size_t count = 0;
    for (; list && count < WRITES_ATONCE; list = list->next)
        writes[count++] = list;
    qsort(writes, count, sizeof(writes[0]), compare_cells);
    for (size_t i = 0, n; i < count; i += n) {
        n = count_run(cow, writes + i, count - i);
        write_run(cow, writes + i, n);
    }
    return list;
}

/* ---- one flush for all who wait ---- */

static void lead_locked(struct cow *cow)
{
    uint64_t ticket = cow->sync_wanted;
    struct cow_cells *list = cow->unwritten;
    cow->unwritten = NULL;
    pthread_mutex_unlock(&cow->sync_lock);
    while (list)
        list = write_some(cow, list);
    int r = cow->cells->ops->flush(cow->cells);
    pthread_mutex_lock(&cow->sync_lock);
    cow->sync_over = ticket;
    if (r < 0)
        error_save(&cow->sync_failure, r);
    else if (!cow->sync_failure.code) /* which this flush does not make good */
        cow->sync_done = ticket;
    pthread_cond_broadcast(&cow->synced);
}

static void *run(void *userdata)
{
    struct cow *cow = userdata;
    pthread_mutex_lock(&cow->sync_lock);
    while (!cow->writer.stop)
        if (cow->unwritten)
            lead_locked(cow);
        else
            pthread_cond_wait(&cow->writer.wake, &cow->sync_lock);
    pthread_mutex_unlock(&cow->sync_lock);
    return NULL;
}

int cow_cells_start(struct cow *cow)
{
    int r = cow_thread_start(&cow->writer.thread, run, cow);
    cow->writer.is_running = r == 0;
    return r;
}

void cow_cells_stop(struct cow *cow)
{
    if (!cow->writer.is_running)
        return;
    pthread_mutex_lock(&cow->sync_lock);
    cow->writer.stop = true;
    pthread_cond_signal(&cow->writer.wake);
    pthread_mutex_unlock(&cow->sync_lock);
    (void)pthread_join(cow->writer.thread, NULL);
    cow->writer.is_running = false;
}

uint64_t cow_cells_write(struct cow *cow, struct cow_cells *writes, size_t count)
{
    pthread_mutex_lock(&cow->sync_lock);
    for (size_t i = 0; i < count; i++) {
        writes[i].next = cow->unwritten;
        cow->unwritten = &writes[i];
    }
    uint64_t ticket = ++cow->sync_wanted;
    if (cow->writer.is_running)
        pthread_cond_signal(&cow->writer.wake);
    pthread_mutex_unlock(&cow->sync_lock);
    return ticket;
}

uint64_t cow_cells_settled(struct cow *cow)
{
    pthread_mutex_lock(&cow->sync_lock);
    uint64_t ticket = cow->sync_done;
    pthread_mutex_unlock(&cow->sync_lock);
    return ticket;
}

int cow_cells_wait(struct cow *cow, uint64_t ticket)
{
    pthread_mutex_lock(&cow->sync_lock);
    while (cow->sync_over < ticket)
        if (cow->writer.is_running)
            pthread_cond_wait(&cow->synced, &cow->sync_lock);
        else
            lead_locked(cow);
    int r = error_raise(&cow->sync_failure);
    pthread_mutex_unlock(&cow->sync_lock);
    return r;
}

/* ---- what the log must not forget yet ---- */

void cow_pending_add(struct cow *cow, struct cow_pending *pending)
{
    pthread_mutex_lock(&cow->sync_lock);
    pending->floor_lsn = cow->last_lsn;
    pending->prev = NULL;
    pending->next = cow->pending;
    if (cow->pending)
        cow->pending->prev = pending;
    cow->pending = pending;
    pthread_mutex_unlock(&cow->sync_lock);
}

void cow_pending_remove(struct cow *cow, struct cow_pending *pending)
{
    pthread_mutex_lock(&cow->sync_lock);
    if (pending->prev)
        pending->prev->next = pending->next;
    else
        cow->pending = pending->next;
    if (pending->next)
        pending->next->prev = pending->prev;
    pthread_mutex_unlock(&cow->sync_lock);
}

void cow_committed(struct cow *cow, umbra_log_lsn lsn)
{
    pthread_mutex_lock(&cow->sync_lock);
    cow->last_lsn = MAX(cow->last_lsn, lsn);
    pthread_mutex_unlock(&cow->sync_lock);
}

umbra_log_lsn cow_pending_floor(struct cow *cow, umbra_log_lsn lsn)
{
    pthread_mutex_lock(&cow->sync_lock);
    for (const struct cow_pending *p = cow->pending; p; p = p->next)
        lsn = MIN(lsn, p->floor_lsn);
    pthread_mutex_unlock(&cow->sync_lock);
    return lsn;
}

int cow_failure(struct cow *cow)
{
    pthread_mutex_lock(&cow->sync_lock);
    int r = error_raise(&cow->sync_failure);
    pthread_mutex_unlock(&cow->sync_lock);
    return r;
}

int cow_fail(struct cow *cow, int r)
{
    pthread_mutex_lock(&cow->sync_lock);
    error_save(&cow->sync_failure, r);
    pthread_mutex_unlock(&cow->sync_lock);
    return r;
}
