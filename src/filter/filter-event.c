/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What becomes of an event: noted, then answered at once, or made a request. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "filter/events.h"
#include "filter/fds.h"
#include "filter/filter-private.h"
#include "filter/gate.h"
#include "filter/process.h"
#include "filter/uapi.h"
#include "filter/waiter.h"

#define LOOK_NS_MAX   UINT64_C(50000000) /* for a thread to go to sleep */
#define LOOKERS_MAX   2u
#define LOOK_TIME_SEC 2u

#define FEW              32u            /* waiting threads */
#define HOLD_BACK_NS     UINT64_C(8000) /* for each */
#define HOLD_BACK_NS_MAX UINT64_C(50000000)

/* ---- noting ---- */

bool filter_has_room(const struct filter *f)
{
    return f->busy + EVENTS_PER_READ_MAX + SPARE_FDS <= TABLE_SLOTS;
}

static uint64_t clock_boottime_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

static void note(struct filter *f, uint32_t index, const struct gate_event *event)
{
    struct slot *slot = &f->table->slots[index];

    slot->is_adopted = 0;
    slot->looking = 0;
    slot->noted_ns = clock_monotonic_ns();
    slot->request = (struct filter_request){
        .sequence = atomic_fetch_add(&f->table->sequence, 1) + 1,
        .slot = index,
        .event = event->kind,
        .tid = event->tid,
        .syscall = -1,
        .offset = event->offset,
        .count = event->count,
        .waiting_since_ns = clock_boottime_ns(),
    };
    if (atomic_load(&f->table->slots_end) <= index)
        atomic_store(&f->table->slots_end, index + 1);
    atomic_store(&slot->state, SLOT_NOTED);
    f->busy++;
    slot_queue_push(&f->fresh, index);
}

static bool is_free(const struct filter *f, uint32_t slot)
{
    return atomic_load(&f->table->slots[slot].state) == SLOT_FREE;
}

void filter_note_lost(struct filter *f)
{
    static const struct gate_event anything = {.kind = FILTER_LOST};

    uint32_t end = table_scan_end(f->table); /* before it moves */

    for (uint32_t slot = 0; slot < end; slot++)
        if (is_free(f, slot) && fds_is_event(table_fd_of_slot(slot), f->table->volume_magic)) {
            log_warning("an event was not understood; taking it for any");
            note(f, slot, &anything);
        }
}

void filter_note_buffer(struct filter *f)
{
    struct event_walk walk = {.data = f->table->events, .len = sizeof(f->table->events)};
    struct gate_event event;
    uint32_t slot;
    int r;

    while ((r = event_walk_next(&walk, &event)) > 0)
        if (event.fd >= 0 && table_slot_of_fd(event.fd, &slot) == 0 && is_free(f, slot))
            note(f, slot, &event);
    /* From here on a slot may be freed: what the buffer says is no longer true. */
    memset(f->table->events, 0, sizeof(f->table->events));
    if (r < 0)
        filter_note_lost(f);
}

int filter_read_events(struct filter *f)
{
    ssize_t n = read(FD_GROUP, f->table->events, sizeof(f->table->events));
    if (n <= 0)
        return n < 0 ? -errno : -EAGAIN;
    filter_note_buffer(f);
    return 0;
}

/* ---- answering ---- */

static bool is_brief(const struct filter *f, uint32_t slot)
{
    return atomic_load(&f->table->slots[slot].state) == SLOT_ASKED &&
           f->table->slots[slot].request.event == FILTER_TRUNCATE;
}

void filter_answer(struct filter *f, uint32_t slot, int error)
{
    int fd = table_fd_of_slot(slot);

    if (error)
        gate_deny(fd, error);
    else
        gate_answer(fd, FAN_ALLOW);
    f->brief -= is_brief(f, slot);
    /* In this order: the number is taken until nothing needs it any more. */
    (void)close(fd);
    atomic_store(&f->table->slots[slot].state, SLOT_FREE);
    f->busy--;
}

/*
 * All threads that wait for any answer sleep in one queue of the kernel, and each answer wakes all
 * of them up to look.  When they are many, answers are held back for a moment, about as long as
 * the waking takes, and then passed on together: most are still awake from the first of them.
 */
void filter_take_answer(struct filter *f, uint32_t slot, int error)
{
    if (f->answered.count == 0)
        f->answers_due_ns = clock_monotonic_ns() +
                            (f->busy <= FEW ? 0 : MIN(f->busy * HOLD_BACK_NS, HOLD_BACK_NS_MAX));
    f->answers[slot] = (struct filter_answer){
        .sequence = f->table->slots[slot].request.sequence,
        .error = error,
    };
    slot_queue_push(&f->answered, slot);
}

void filter_pass_answers(struct filter *f)
{
    uint32_t slot;

    if (f->answered.count < f->busy && clock_monotonic_ns() < f->answers_due_ns)
        return;
    while (slot_queue_pop(&f->answered, &slot))
        if (atomic_load(&f->table->slots[slot].state) == SLOT_ASKED &&
            f->table->slots[slot].request.sequence == f->answers[slot].sequence)
            filter_answer(f, slot, f->answers[slot].error);
}

/* Once for an inode, as far as can be remembered. */
static void complain(struct filter *f, uint64_t inode, const char *words)
{
    for (uint32_t i = 0; i < MIN(f->refused_count, REFUSED_MAX); i++)
        if (f->refused[i] == inode)
            return;
    f->refused[f->refused_count++ % REFUSED_MAX] = inode;
    log_error("inode %llu cannot be read: %s", (unsigned long long)inode, words);
}

/*
 * 0: a placeholder of this restore, *ret_pending is its mark.  -ENODATA: complete.  Else the file
 * cannot be served, and is not to be read.
 *
 * *ret_final: it will not become a placeholder any more.  A file gets its mark while it is empty,
 * and somebody may have opened it before; so the size is looked at before the mark is.
 */
static int read_mark(struct filter *f, int fd, struct pending *ret_pending, bool *ret_final)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_final = !S_ISREG(st.st_mode) || st.st_size > 0;
    if (!S_ISREG(st.st_mode))
        return -ENODATA;
    int r = pending_get(fd, ret_pending, NULL);
    if (r == 0 && ret_pending->restore_id != f->table->restore_id)
        r = error_note(-EIO, "it belongs to restore %016llx, which is not running",
                       (unsigned long long)ret_pending->restore_id);
    if (r < 0 && r != -ENODATA)
        complain(f, st.st_ino, error_text(r));
    return r;
}

/* An open with O_TRUNC has the file system's lock in its hands, and cannot be kept for long. */
static bool may_truncate(const struct waiter *waiter, int32_t tid)
{
    uint64_t flags;

    return waiter_open_flags(waiter, tid, &flags) != 0 || (flags & O_TRUNC);
}

/*
 * Learns what the thread does.  -EAGAIN: ask again.
 *
 * The memory of the thread can be a trap, whose pages come from a server that never answers.  So a
 * look that takes too long kills this process, which is safe at any time, and the next ones see
 * that somebody tried.  They try once more: a filter may have been killed for other reasons, and
 * without a look an opener that looks for holes is not known for one.
 */
static int look_at_thread(struct filter *f, uint32_t index)
{
    struct slot *slot = &f->table->slots[index];
    struct waiter waiter = {.syscall = -1};
    bool truncates = true;
    int r = 0;

    if (slot->looking < LOOKERS_MAX) {
        slot->looking++;
        (void)alarm(LOOK_TIME_SEC);
        r = waiter_read(FD_PROC, slot->request.tid, &waiter);
        if (r == 0)
            truncates = may_truncate(&waiter, slot->request.tid);
        (void)alarm(0);
        slot->looking = 0;
    }
    if (r == -EAGAIN && clock_monotonic_ns() < slot->noted_ns + LOOK_NS_MAX)
        return r;
    slot->request.syscall = waiter.syscall;
    memcpy(slot->request.arguments, waiter.arguments, sizeof(waiter.arguments));
    memcpy(slot->request.comm, waiter.comm, sizeof(waiter.comm));
    if (slot->request.event == FILTER_OPEN && truncates)
        slot->request.event = FILTER_TRUNCATE;
    return 0;
}

static int take_handle(int fd, struct filter_handle *handle)
{
    union {
        struct file_handle header;
        uint8_t room[sizeof(struct file_handle) + FILTER_HANDLE_MAX];
    } h = {.header.handle_bytes = FILTER_HANDLE_MAX};
    int mount_id;

    if (name_to_handle_at(fd, "", &h.header, &mount_id, AT_EMPTY_PATH) < 0)
        return -errno;
    handle->type = h.header.handle_type;
    handle->len = h.header.handle_bytes;
    memcpy(handle->bytes, h.room + sizeof(struct file_handle), h.header.handle_bytes);
    return 0;
}

static void look_at(struct filter *f, uint32_t index)
{
    struct slot *slot = &f->table->slots[index];
    int fd = table_fd_of_slot(index);
    bool final = false;

    int r = read_mark(f, fd, &slot->request.pending, &final);
    if (r == -ENODATA) {
        if (final)
            gate_ignore(fd);
        filter_answer(f, index, 0);
        return;
    }
    if (r == 0)
        r = take_handle(fd, &slot->request.handle);
    if (r < 0) {
        filter_answer(f, index, EIO);
        return;
    }
    if (look_at_thread(f, index) == -EAGAIN) {
        slot_queue_push(&f->fresh, index);
        return;
    }
    f->brief += slot->request.event == FILTER_TRUNCATE;
    atomic_store(&slot->state, SLOT_ASKED);
    slot_queue_push(&f->unsent, index);
}

void filter_look_at_fresh(struct filter *f)
{
    uint32_t index;

    for (uint32_t left = f->fresh.count; left > 0 && slot_queue_pop(&f->fresh, &index); left--)
        if (atomic_load(&f->table->slots[index].state) == SLOT_NOTED)
            look_at(f, index);
}
