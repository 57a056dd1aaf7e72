/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/events.h"

#include <errno.h>

#include "basic/test.h"
#include "filter/protocol.h"
#include "filter/uapi.h"

struct made {
    uint8_t data[512];
    size_t len;
};

static struct fanotify_event_metadata *add_event(struct made *made, int fd, uint64_t mask)
{
    struct fanotify_event_metadata *meta = (void *)(made->data + made->len);
    *meta = (struct fanotify_event_metadata){
        .event_len = sizeof(*meta),
        .vers = FANOTIFY_METADATA_VERSION,
        .metadata_len = sizeof(*meta),
        .mask = mask,
        .fd = fd,
        .pid = 1000 + fd,
    };
    made->len += sizeof(*meta);
    return meta;
}

static void add_record(struct made *made, struct fanotify_event_metadata *meta, uint8_t type,
                       uint16_t len, uint64_t offset, uint64_t count)
{
    struct fanotify_event_info_range *range = (void *)(made->data + made->len);
    *range = (struct fanotify_event_info_range){
        .hdr = {.info_type = type, .len = len}, .offset = offset, .count = count};
    made->len += sizeof(*range);
    meta->event_len += (uint32_t)sizeof(*range);
}

static struct event_walk walk_of(const struct made *made)
{
    return (struct event_walk){.data = made->data, .len = made->len};
}

static struct gate_event next_of(struct event_walk *walk)
{
    struct gate_event event;
    ASSERT_EQ(event_walk_next(walk, &event), 1);
    return event;
}

TEST(events_of_one_read_come_in_order)
{
    struct made made = {0};
    struct gate_event event;

    (void)add_event(&made, 40, FAN_OPEN_PERM);
    add_record(&made, add_event(&made, 41, FAN_PRE_ACCESS), FAN_EVENT_INFO_TYPE_RANGE,
               sizeof(struct fanotify_event_info_range), 4096, 8192);
    (void)add_event(&made, 42, FAN_OPEN_EXEC_PERM);
    (void)add_event(&made, -EMFILE, FAN_OPEN_PERM);
    struct event_walk walk = walk_of(&made);
    event = next_of(&walk);
    ASSERT_TRUE(event.fd == 40 && event.tid == 1040 && event.kind == FILTER_OPEN);
    event = next_of(&walk);
    ASSERT_TRUE(event.fd == 41 && event.kind == FILTER_ACCESS);
    ASSERT_TRUE(event.offset == 4096 && event.count == 8192);
    event = next_of(&walk);
    ASSERT_TRUE(event.fd == 42 && event.kind == FILTER_EXEC);
    ASSERT_EQ(next_of(&walk).fd, -EMFILE);
    ASSERT_EQ(event_walk_next(&walk, &event), 0);
}

TEST(a_length_of_zero_ends_the_buffer)
{
    struct made made = {0};
    struct gate_event event;

    (void)add_event(&made, 40, FAN_OPEN_PERM);
    made.len = sizeof(made.data);
    struct event_walk walk = walk_of(&made);
    ASSERT_EQ(next_of(&walk).fd, 40);
    ASSERT_EQ(event_walk_next(&walk, &event), 0);
}

TEST(unknown_records_are_skipped)
{
    struct made made = {0};

    struct fanotify_event_metadata *meta = add_event(&made, 40, FAN_PRE_ACCESS);
    add_record(&made, meta, 200, sizeof(struct fanotify_event_info_range), 1, 2);
    add_record(&made, meta, FAN_EVENT_INFO_TYPE_RANGE, sizeof(struct fanotify_event_info_range),
               4096, 8192);
    struct event_walk walk = walk_of(&made);
    struct gate_event event = next_of(&walk);
    ASSERT_TRUE(event.offset == 4096 && event.count == 8192);
}

/* An access whose range is not known is one of everything. */
TEST(a_broken_record_is_the_affair_of_its_event)
{
    static const uint16_t lengths[] = {0, 3, 4, 31, 33, UINT16_MAX};

    for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
        struct made made = {0};
        add_record(&made, add_event(&made, 40, FAN_PRE_ACCESS), FAN_EVENT_INFO_TYPE_RANGE,
                   lengths[i], 4096, 8192);
        (void)add_event(&made, 41, FAN_OPEN_PERM);
        struct event_walk walk = walk_of(&made);
        struct gate_event event = next_of(&walk);
        ASSERT_TRUE(event.fd == 40 && event.kind == FILTER_ACCESS);
        ASSERT_TRUE(event.offset == 0 && event.count == 0);
        ASSERT_EQ(next_of(&walk).fd, 41);
    }
}

TEST(an_event_that_is_not_understood_is_anything)
{
    struct made made = {0};

    add_event(&made, 40, FAN_OPEN_PERM)->vers++;
    add_event(&made, 41, FAN_OPEN_PERM)->metadata_len = 500;
    add_event(&made, 42, FAN_OPEN_PERM)->metadata_len = 3;
    (void)add_event(&made, 43, FAN_MODIFY);
    struct event_walk walk = walk_of(&made);
    for (int fd = 40; fd < 44; fd++) {
        struct gate_event event = next_of(&walk);
        ASSERT_TRUE(event.fd == fd && event.kind == FILTER_LOST);
    }
}

TEST(an_impossible_length_is_said)
{
    static const uint32_t lengths[] = {1, sizeof(struct fanotify_event_metadata) - 1,
                                       sizeof(struct fanotify_event_metadata) + 1, UINT32_MAX};
    struct gate_event event;

    for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
        struct made made = {0};
        add_event(&made, 40, FAN_OPEN_PERM)->event_len = lengths[i];
        struct event_walk walk = walk_of(&made);
        ASSERT_ERR(event_walk_next(&walk, &event), -EBADMSG);
    }
    struct made made = {0};
    (void)add_event(&made, 40, FAN_OPEN_PERM);
    made.len--;
    struct event_walk walk = walk_of(&made);
    ASSERT_ERR(event_walk_next(&walk, &event), -EBADMSG);
}

TEST_MAIN()
