/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is a buffer as read() of a fanotify group fills it.  Each event begins behind the one
 * before, its descriptor is the one that stands there, and zeros behind the input change nothing
 * before its end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filter/events.h"
#include "filter/protocol.h"
#include "filter/uapi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_event(const uint8_t *data, const struct event_walk *walk, size_t before,
                        const struct gate_event *event)
{
    struct fanotify_event_metadata meta;

    if (walk->at < before + sizeof(meta) || walk->at > walk->len)
        abort();
    memcpy(&meta, data + before, sizeof(meta));
    if (event->fd != meta.fd || event->tid != meta.pid || walk->at - before != meta.event_len)
        abort();
    if (event->kind < FILTER_OPEN || event->kind > FILTER_LOST)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t longer[4096] = {0};
    struct event_walk walk = {.data = data, .len = len};
    struct event_walk other = {.data = longer, .len = sizeof(longer)};
    struct gate_event event, same;
    int r;

    if (len > sizeof(longer) - sizeof(struct fanotify_event_metadata))
        return 0;
    if (len > 0)
        memcpy(longer, data, len);
    for (size_t before = 0; (r = event_walk_next(&walk, &event)) > 0; before = walk.at) {
        check_event(data, &walk, before, &event);
        if (event_walk_next(&other, &same) != 1 || event.fd != same.fd || event.kind != same.kind ||
            event.offset != same.offset || event.count != same.count)
            abort();
    }
    if (r == 0 && event_walk_next(&other, &same) != 0)
        abort();
    return 0;
}
