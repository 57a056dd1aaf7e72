/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The filter process: filter.c the loop, filter-event.c events, filter-channel.c the hydrator. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"
#include "filter/filterd.h"

#define REFUSED_MAX 64u

/* A queue of slots; a slot is in it once at most. */
struct slot_queue {
    uint16_t slots[TABLE_SLOTS];
    bool has[TABLE_SLOTS];
    uint32_t first, count;
};

void slot_queue_push(struct slot_queue *queue, uint32_t slot); /* does nothing if it is in */
_must_check_ bool slot_queue_pop(struct slot_queue *queue, uint32_t *ret_slot);

struct filter {
    struct filterd *d;
    struct table *table;
    uint32_t busy;              /* slots that are not free */
    uint32_t brief;             /* slots whose thread cannot be kept for long */
    struct slot_queue fresh;    /* noted, to be looked at; again, if their thread still ran */
    struct slot_queue answered; /* by the hydrator; the kernel has not been told */
    struct filter_answer answers[TABLE_SLOTS]; /* of those in it */
    uint64_t answers_due_ns;                   /* when it is to be told, if there are any */
    struct slot_queue unsent;                  /* to be asked */
    bool has_channel;              /* FD_CHANNEL is the one that channel says, and not at its end */
    uint32_t channel;              /* the generation that has_channel is about */
    uint64_t refused[REFUSED_MAX]; /* inodes that have been complained about */
    uint32_t refused_count;
};

static_assert(TABLE_SLOTS <= UINT16_MAX, "a slot fits");

/* filter-event.c */

/* Whether another read() fits. */
bool filter_has_room(const struct filter *f);
/* Reads once, and notes what came.  -EAGAIN: nothing was there. */
_must_check_ int filter_read_events(struct filter *f);
/* Notes what a predecessor read and may not have noted. */
void filter_note_buffer(struct filter *f);
/* Whoever waits for an event that is in no slot: those, too. */
void filter_note_lost(struct filter *f);
/* Answers the noted events that can be answered here, and makes requests of the others. */
void filter_look_at_fresh(struct filter *f);
/* Passes the hydrator's answers on, when it is time: see filter-event.c. */
void filter_pass_answers(struct filter *f);
void filter_take_answer(struct filter *f, uint32_t slot, int error);
/* Answers with 0 or a positive errno, and frees the slot. */
void filter_answer(struct filter *f, uint32_t slot, int error);

/* filter-channel.c */

/* Takes the socket pair that the keeper has put into FD_CHANNEL, if it is a new one. */
void filter_take_channel(struct filter *f);
void filter_send_requests(struct filter *f);
void filter_receive_answers(struct filter *f);
