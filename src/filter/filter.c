/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umbra-filterd: between applications and a file system whose files are still being restored.
 *
 * The kernel asks before a regular file is opened, executed or accessed (gate.c).  Complete files
 * are let through and raise no further events; for a placeholder the hydrator is asked, and the
 * reader waits.  What must never happen is that a reader gets zeros: the kernel lets everybody
 * through as soon as nobody holds the group any more, or an event is answered wrongly.
 *
 * Processes
 *
 *     keeper (keeper.c)  <--pidfd-->  filter (this file)        hydrator
 *            one table of descriptors, one shared table of requests     its own, by fork and exec
 *
 * Keeper and filter are copies of one process that share the table of descriptors (CLONE_FILES) and
 * nothing else but the table of requests.  Each sees the other die and makes a new one.  The event
 * descriptors that the kernel installs for the filter are still there when the filter has been
 * killed, under the same numbers; the number is what an answer names.
 *
 * Invariants
 *
 *  1. A number in the descriptor table that belongs to an unanswered event stays occupied until the
 *     answer has been written.  So a slot is an event: slot N is descriptor FD_EVENTS_FIRST + N.
 *     (When all processes are dead, and systemd has kept group and table, the numbers are occupied
 *     anew before anything is read: adopt.h.)
 *  2. An event that has left the kernel's queue is in the events buffer or in a slot.  read() puts
 * it straight into the buffer, which is shared and zeroed before; it completes even in a process
 *     that is being killed.
 *  3. While the buffer is not zero, no slot is freed; so a successor may note again what it finds
 *     there, and skips slots that are not free.
 *  4. A slot is written before its state is published: NOTED (an event as it was read), then ASKED
 *     (a whole request).  A successor looks at NOTED ones again, and asks for ASKED ones again.
 *  5. A slot is freed in this order: answer, close, FREE.  A successor that finds the descriptor
 *     closed finishes it; one that finds it open asks again, and the second answer hits nothing.
 *  6. Only the filter changes slots and buffer.  Who makes a successor is alone with the table of
 *     descriptors then, and closes what the dead one had open without a role (fds.h).
 *  7. The hydrator's FILTER_FINISH is noted in the table first.  Then marks go, then answers, then
 * the group: killed in between, the successor does it again.
 *  8. Nothing blocks but ppoll(): group, socket and eventfds are non-blocking; a look at the thread
 *     that waits is guarded by a timer that kills this process.  No path is opened but in /proc.
 *
 * What an open with O_TRUNC waits for, it waits for with the file system's write lock held, so a
 * freeze would wait for it, and the hydrator for the thaw.  It is kept only until the hydrator says
 * that it writes nothing to the file, which it does not fill first, and no longer than a quarter of
 * a second.  So is an open whose flags cannot be told.  Reading and writing are asked about again,
 * which is the gate that holds.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "filter/fds.h"
#include "filter/filter-private.h"
#include "filter/gate.h"
#include "filter/process.h"
#include "filter/store.h"

#define RETRY_NS        100000       /* a thread was not asleep yet, or answers are held back */
#define DEADLINES_NS    NSEC_PER_SEC /* between two looks at the deadlines */
#define BRIEF_NS        (NSEC_PER_SEC / 4) /* how long an open that may truncate is kept at most */
#define BRIEF_CHECK_NS  20000000
#define KEEPER_PAUSE_MS 1 /* between two tries to make one */

/* What the predecessor has left: invariants 3, 4 and 5. */
static void take_over(struct filter *f)
{
    for (uint32_t slot = 0; slot < atomic_load(&f->table->slots_end); slot++) {
        _Atomic uint32_t *state = &f->table->slots[slot].state;
        if (atomic_load(state) == SLOT_FREE)
            continue;
        if (!f->table->slots[slot].is_adopted &&
            !fds_is_event(table_fd_of_slot(slot), f->table->volume_magic)) {
            atomic_store(state, SLOT_FREE);
            continue;
        }
        f->busy++;
        if (atomic_load(state) == SLOT_NOTED)
            slot_queue_push(&f->fresh, slot);
        else
            f->brief += f->table->slots[slot].request.event == FILTER_TRUNCATE;
    }
    filter_note_buffer(f);
    filter_note_lost(f);
    filter_take_channel(f);
}

static void enforce_deadlines(struct filter *f, uint64_t now_ns)
{
    for (uint32_t index = 0; f->busy > 0 && index < atomic_load(&f->table->slots_end); index++) {
        struct slot *slot = &f->table->slots[index];
        if (atomic_load(&slot->state) != SLOT_ASKED)
            continue;
        if (slot->request.event == FILTER_TRUNCATE) {
            if (now_ns >= slot->noted_ns + BRIEF_NS)
                filter_answer(f, index, 0);
            continue;
        }
        if (now_ns < slot->noted_ns + f->d->deadline_ns)
            continue;
        log_error("inode %llu: not restored in time for '%s' (%d)",
                  (unsigned long long)slot->request.pending.inode, slot->request.comm,
                  slot->request.tid);
        filter_answer(f, index, EIO);
    }
}

/* Nothing is pending: everybody may go on. */
static void finish(struct filter *f)
{
    gate_remove_marks();
    do {
        for (uint32_t slot = 0; slot < atomic_load(&f->table->slots_end); slot++)
            if (atomic_load(&f->table->slots[slot].state) != SLOT_FREE)
                filter_answer(f, slot, 0);
    } while (filter_read_events(f) >= 0);
    fds_vacate(FD_GROUP);
    store_remove();
    atomic_store(&f->table->finish, FINISH_DONE);
}

/* NULL: for ever. */
static const struct timespec *timeout_of(const struct filter *f)
{
    static const struct timespec retry = {.tv_nsec = RETRY_NS};
    static const struct timespec brief = {.tv_nsec = BRIEF_CHECK_NS};
    static const struct timespec deadlines = {.tv_sec = DEADLINES_NS / NSEC_PER_SEC};

    if (f->fresh.count > 0 || f->answered.count > 0)
        return &retry;
    if (f->brief > 0)
        return &brief;
    return f->busy > 0 ? &deadlines : NULL;
}

/* Whether the keeper has died. */
static bool serve_once(struct filter *f)
{
    enum { WAKE, KEEPER, GROUP, CHANNEL };
    struct pollfd fds[] = {
        [WAKE] = {.fd = FD_WAKE_FILTER, .events = POLLIN},
        [KEEPER] = {.fd = FD_PIDFD_KEEPER, .events = POLLIN},
        [GROUP] = {.fd = filter_has_room(f) ? FD_GROUP : -1, .events = POLLIN},
        [CHANNEL] = {.fd = f->has_channel ? FD_CHANNEL : -1,
                     .events = (short)(f->unsent.count > 0 ? POLLIN | POLLOUT : POLLIN)},
    };
    uint64_t wakes;

    if (ppoll(fds, ELEMENTSOF(fds), timeout_of(f), NULL) < 0)
        return false;
    if (fds[WAKE].revents)
        IGNORE_RESULT(read(FD_WAKE_FILTER, &wakes, sizeof(wakes)));
    if (fds[CHANNEL].revents & ~POLLOUT)
        filter_receive_answers(f);
    if (fds[GROUP].revents)
        IGNORE_RESULT(filter_read_events(f));
    filter_pass_answers(f);
    filter_look_at_fresh(f);
    filter_send_requests(f);
    return fds[KEEPER].revents != 0;
}

/* Whether this process is the copy, and the keeper. */
static bool replace_keeper(struct filter *f)
{
    log_warning("the keeper has been killed; making a new one");
    (void)process_is_dead(FD_PIDFD_KEEPER, NULL);
    table_close_strays(f->table);
    pid_t pid = process_clone(true, FD_PIDFD_KEEPER);
    if (pid < 0) {
        log_error("cannot start a keeper: %s", error_text(pid));
        (void)poll(NULL, 0, KEEPER_PAUSE_MS);
    }
    return pid == 0;
}

/*
 * Each answer wakes up every thread that waits for any.  So that they do not all run between one
 * answer and the next, this process goes first; it never computes for long.
 */
static void go_first(void)
{
    const struct sched_param param = {.sched_priority = 1};

    if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) < 0)
        log_info("no real-time priority: %s", error_describe(-errno));
}

enum role filter_run(struct filterd *d)
{
    static struct filter filter; /* large */
    struct filter *f = &filter;
    uint64_t checked_ns = clock_monotonic_ns();

    memset(f, 0, sizeof(*f));
    f->d = d;
    f->table = d->table;
    int r = process_begin("umbra-filterd", FD_PIDFD_FILTER);
    if (r < 0)
        log_warning("%s", error_text(r));
    go_first();
    take_over(f);
    atomic_store(&f->table->is_served, 1);
    while (atomic_load(&f->table->finish) == FINISH_NOT) {
        filter_take_channel(f);
        if (serve_once(f) && replace_keeper(f))
            return ROLE_KEEPER;
        uint64_t now_ns = clock_monotonic_ns();
        if (now_ns - checked_ns >= (f->brief > 0 ? BRIEF_CHECK_NS : DEADLINES_NS)) {
            enforce_deadlines(f, now_ns);
            checked_ns = now_ns;
        }
    }
    finish(f);
    return ROLE_NONE;
}
