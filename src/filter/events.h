/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The buffer that read() of a fanotify group fills, event by event (fanotify(7)). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

struct gate_event {
    int32_t fd;             /* negative: an error in place of a descriptor; nothing to answer */
    int32_t tid;            /* 0: unknown */
    uint32_t kind;          /* enum filter_event; FILTER_LOST: not one that was asked for */
    uint64_t offset, count; /* FILTER_ACCESS; 0, 0, which is all, when it does not say */
};

struct event_walk {
    const void *data;
    size_t len;
    size_t at;
};

/*
 * 1: *ret_event is the next one.  0: there is none; a length of 0 ends the buffer, too.
 * -EBADMSG: the length of an event is impossible, and where the next one begins unknown.
 *
 * Records that are unknown are skipped, and what is wrong inside an event is that event's affair.
 */
_must_check_ int event_walk_next(struct event_walk *walk, struct gate_event *ret_event);
