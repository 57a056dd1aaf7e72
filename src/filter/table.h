/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory that filter and keeper share, and that outlives each of them: what was read from the
 * group and is not answered yet.  The essay in filter.c says in which order it changes.
 */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"
#include "filter/protocol.h"

#define TABLE_SLOTS         16384u
#define EVENTS_PER_READ_MAX 64u /* at least: the smallest event has 24 bytes */
#define EVENT_BUFFER_LEN    (EVENTS_PER_READ_MAX * 24u)
/* For what both processes have without a role for a moment. */
#define SPARE_FDS 64u

enum slot_state {
    SLOT_FREE = 0,  /* nothing of the slot means anything */
    SLOT_NOTED = 1, /* an event, as it was read: event, tid, offset, count, sequence, times */
    SLOT_ASKED = 2, /* the whole request; it waits for an answer of the hydrator */
};

enum table_finish {
    FINISH_NOT = 0,
    FINISH_SAID = 1, /* the hydrator said FILTER_FINISH, or there is none */
    FINISH_DONE = 2, /* no mark is left, and the group is closed */
};

struct slot {
    _Atomic uint32_t state; /* enum slot_state; published last */
    uint32_t is_adopted;    /* its descriptor is not the event's: adopt.h */
    uint32_t looking;       /* how many filters have begun to look at the thread, and died of it */
    uint64_t noted_ns;      /* CLOCK_MONOTONIC: for the deadline, which stops in suspend */
    struct filter_request request;
};

#define TABLE_LAYOUT_VERSION UINT64_C(1)

struct table {
    uint64_t layout; /* TABLE_LAYOUT_VERSION, and its size */
    uint64_t restore_id;
    uint64_t volume_magic;         /* statfs.f_type */
    _Atomic uint64_t sequence;     /* the last one used; only the filter changes it */
    _Atomic uint32_t finish;       /* enum table_finish; the filter's, see keeper.c */
    _Atomic uint32_t channel;      /* which socket pair FD_CHANNEL is; only the keeper changes it */
    _Atomic uint32_t channel_over; /* the last one that the filter has read to its end */
    _Atomic uint32_t slots_end;    /* from here on a slot has never been anything but free */
    _Atomic uint32_t is_served;    /* there has been a filter */
    _Atomic int32_t hydrator_pid;  /* of the one that FD_PIDFD_HYDRATOR is about */
    uint8_t events[EVENT_BUFFER_LEN] __attribute__((aligned(8))); /* what was read last; 0-ended */
    struct slot slots[TABLE_SLOTS];
};

/* Makes the memfd, as FD_TABLE. */
_must_check_ int table_new(uint64_t restore_id, uint64_t volume_magic, struct table **ret_table);

/* Maps what FD_TABLE has.  -EBADMSG: no table of this program. */
_must_check_ int table_map(struct table **ret_table);

/* Closes what a process left behind that was killed before it could give it a role.  Only for a
 * process that is alone with the descriptors. */
void table_close_strays(const struct table *table);

/* -ENOENT: the number is none of an event. */
_must_check_ int table_slot_of_fd(int fd, uint32_t *ret_slot);
int table_fd_of_slot(uint32_t slot);

/* All slots whose descriptor can be open lie before this one: the kernel gives the lowest number
 * that is free, so there are no more than were ever noted, one read, and the spare ones. */
uint32_t table_scan_end(const struct table *table);
