/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "filter/fds.h"
#include "filter/filter-private.h"

void slot_queue_push(struct slot_queue *queue, uint32_t slot)
{
    if (queue->has[slot])
        return;
    assert(queue->count < TABLE_SLOTS);
    queue->slots[(queue->first + queue->count) % TABLE_SLOTS] = (uint16_t)slot;
    queue->count++;
    queue->has[slot] = true;
}

bool slot_queue_pop(struct slot_queue *queue, uint32_t *ret_slot)
{
    if (queue->count == 0)
        return false;
    uint32_t slot = queue->slots[queue->first];
    queue->first = (queue->first + 1) % TABLE_SLOTS;
    queue->count--;
    queue->has[slot] = false;
    *ret_slot = slot;
    return true;
}

static bool is_asked(const struct filter *f, uint32_t slot)
{
    return atomic_load(&f->table->slots[slot].state) == SLOT_ASKED;
}

void filter_take_channel(struct filter *f)
{
    uint32_t channel = atomic_load(&f->table->channel);

    if (channel == f->channel || channel == atomic_load(&f->table->channel_over))
        return;
    f->channel = channel;
    f->has_channel = true;
    for (uint32_t slot = 0; slot < atomic_load(&f->table->slots_end); slot++)
        if (is_asked(f, slot))
            slot_queue_push(&f->unsent, slot);
}

/* The keeper starts the next hydrator when this one has been heard to the end. */
static void end_channel(struct filter *f)
{
    uint64_t one = 1;

    f->has_channel = false;
    atomic_store(&f->table->channel_over, f->channel);
    IGNORE_RESULT(write(FD_WAKE_KEEPER, &one, sizeof(one)));
}

void filter_send_requests(struct filter *f)
{
    uint32_t slot;

    while (f->has_channel && slot_queue_pop(&f->unsent, &slot)) {
        if (!is_asked(f, slot))
            continue; /* answered by its deadline meanwhile */
        const struct filter_request *request = &f->table->slots[slot].request;
        if (send(FD_CHANNEL, request, sizeof(*request), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            continue;
        slot_queue_push(&f->unsent, slot);
        return; /* full, or its end is near and will be read */
    }
}

static void take_answer(struct filter *f, const struct filter_answer *answer)
{
    if (answer->kind == FILTER_FINISH) {
        atomic_store(&f->table->finish, FINISH_SAID);
        return;
    }
    if (answer->kind != FILTER_ANSWER || answer->slot >= TABLE_SLOTS) {
        log_error("the hydrator sent an answer that makes no sense");
        return;
    }
    if (is_asked(f, answer->slot) &&
        f->table->slots[answer->slot].request.sequence == answer->sequence)
        filter_take_answer(f, answer->slot, answer->error);
}

void filter_receive_answers(struct filter *f)
{
    struct filter_answer answer;

    for (;;) {
        ssize_t n = recv(FD_CHANNEL, &answer, sizeof(answer), MSG_DONTWAIT);
        if (n == (ssize_t)sizeof(answer)) {
            take_answer(f, &answer);
        } else if (n > 0) {
            log_error("the hydrator sent an answer of %zd bytes, not %zu", n, sizeof(answer));
        } else if (n < 0 && (errno == ECONNRESET || errno == EINTR)) {
            continue; /* died without having read all; what it wrote comes yet */
        } else {
            if (n == 0 || errno != EAGAIN)
                end_channel(f);
            return;
        }
    }
}
