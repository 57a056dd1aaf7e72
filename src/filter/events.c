/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/events.h"

#include <errno.h>
#include <string.h>

#include "filter/protocol.h"
#include "filter/uapi.h"

static uint32_t kind_of(uint64_t mask)
{
    if (mask & FAN_PRE_ACCESS)
        return FILTER_ACCESS;
    if (mask & FAN_OPEN_EXEC_PERM)
        return FILTER_EXEC;
    return mask & FAN_OPEN_PERM ? FILTER_OPEN : FILTER_LOST;
}

/* The records behind the metadata. */
static void take_records(const uint8_t *data, size_t len, struct gate_event *event)
{
    struct fanotify_event_info_header header;
    struct fanotify_event_info_range range;

    while (len >= sizeof(header)) {
        memcpy(&header, data, sizeof(header));
        if (header.len < sizeof(header) || header.len > len)
            return;
        if (header.info_type == FAN_EVENT_INFO_TYPE_RANGE && header.len >= sizeof(range)) {
            memcpy(&range, data, sizeof(range));
            event->offset = range.offset;
            event->count = range.count;
        }
        data += header.len;
        len -= header.len;
    }
}

int event_walk_next(struct event_walk *walk, struct gate_event *ret_event)
{
    struct fanotify_event_metadata meta;
    const uint8_t *data = (const uint8_t *)walk->data + walk->at;
    size_t left = walk->len - walk->at;

    if (left == 0)
        return 0;
    if (left < sizeof(meta))
        return -EBADMSG;
    memcpy(&meta, data, sizeof(meta));
    if (meta.event_len == 0)
        return 0;
    if (meta.event_len < sizeof(meta) || meta.event_len > left)
        return -EBADMSG;
    walk->at += meta.event_len;
    *ret_event = (struct gate_event){.fd = meta.fd, .tid = meta.pid, .kind = FILTER_LOST};
    if (meta.vers != FANOTIFY_METADATA_VERSION || meta.metadata_len < sizeof(meta) ||
        meta.metadata_len > meta.event_len)
        return 1; /* somebody waits for it all the same */
    ret_event->kind = kind_of(meta.mask);
    take_records(data + meta.metadata_len, meta.event_len - meta.metadata_len, ret_event);
    return 1;
}
