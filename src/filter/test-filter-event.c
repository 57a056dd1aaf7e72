/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of requests: what is noted, what is found again, and in which slot. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "filter/adopt.h"
#include "filter/fds.h"
#include "filter/filter-private.h"
#include "filter/uapi.h"

static struct table table;
static struct filter filter;
static int volume_fd, other_fd; /* other_fd: not on a volume */

/* A file on the volume, at the number of that slot, as the kernel would put it. */
static void open_event(uint32_t slot)
{
    ASSERT_EQ(dup3(volume_fd, table_fd_of_slot(slot), O_CLOEXEC), table_fd_of_slot(slot));
}

static void begin(void)
{
    char path[4096];
    struct statfs fs;

    memset(&table, 0, sizeof(table));
    memset(&filter, 0, sizeof(filter));
    (void)snprintf(path, sizeof(path), "%s/file", test_tmpdir());
    (void)close_range(FD_EVENTS_FIRST, ~0u, 0);
    volume_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_TRUE(volume_fd >= 0 && volume_fd < FD_EVENTS_FIRST);
    other_fd = memfd_create("other", MFD_CLOEXEC);
    ASSERT_TRUE(other_fd >= 0 && other_fd < FD_EVENTS_FIRST);
    ASSERT_TRUE(fstatfs(volume_fd, &fs) == 0);
    table.volume_magic = (uint64_t)fs.f_type;
    filter.table = &table;
}

static void end(void)
{
    (void)close_range(FD_EVENTS_FIRST, ~0u, 0);
    (void)close(volume_fd);
    (void)close(other_fd);
}

static void put_event(size_t *at, uint32_t slot, uint32_t event_len)
{
    const struct fanotify_event_metadata meta = {
        .event_len = event_len,
        .vers = FANOTIFY_METADATA_VERSION,
        .metadata_len = sizeof(meta),
        .mask = FAN_OPEN_PERM,
        .fd = table_fd_of_slot(slot),
        .pid = 5,
    };
    memcpy(table.events + *at, &meta, sizeof(meta));
    *at += sizeof(meta);
}

static uint32_t state_of(uint32_t slot)
{
    return atomic_load(&table.slots[slot].state);
}

TEST(what_is_in_the_buffer_is_noted_once)
{
    size_t at = 0;

    begin();
    open_event(0);
    open_event(1);
    put_event(&at, 0, sizeof(struct fanotify_event_metadata));
    put_event(&at, 1, sizeof(struct fanotify_event_metadata));
    /* A predecessor was killed when it had noted the first one. */
    atomic_store(&table.slots[0].state, SLOT_NOTED);
    table.slots[0].request.sequence = 77;
    filter_note_buffer(&filter);
    ASSERT_EQ(table.slots[0].request.sequence, 77);
    ASSERT_EQ(state_of(1), SLOT_NOTED);
    ASSERT_EQ(table.slots[1].request.tid, 5);
    ASSERT_EQ(table.slots[1].request.event, FILTER_OPEN);
    ASSERT_EQ(table.slots[1].request.slot, 1);
    ASSERT_EQ(filter.busy, 1);
    ASSERT_EQ(filter.fresh.count, 1);
    for (size_t i = 0; i < sizeof(table.events); i++)
        ASSERT_EQ(table.events[i], 0);
    end();
}

TEST(what_cannot_be_parsed_is_found_by_its_descriptor)
{
    size_t at = 0;

    begin();
    for (uint32_t slot = 0; slot < 4; slot++)
        open_event(slot);
    ASSERT_EQ(dup3(other_fd, table_fd_of_slot(4), O_CLOEXEC), table_fd_of_slot(4));
    put_event(&at, 0, sizeof(struct fanotify_event_metadata));
    put_event(&at, 1, 3); /* and nobody knows where the next one begins */
    put_event(&at, 2, sizeof(struct fanotify_event_metadata));
    filter_note_buffer(&filter);
    ASSERT_EQ(table.slots[0].request.event, FILTER_OPEN);
    for (uint32_t slot = 1; slot < 4; slot++) {
        ASSERT_EQ(state_of(slot), SLOT_NOTED);
        ASSERT_EQ(table.slots[slot].request.event, FILTER_LOST);
    }
    for (uint32_t slot = 4; slot < table_scan_end(&table); slot++)
        ASSERT_EQ(state_of(slot), SLOT_FREE);
    ASSERT_EQ(filter.busy, 4);
    end();
}

TEST(strays_are_closed_and_events_are_not)
{
    begin();
    open_event(0);
    open_event(2);
    ASSERT_EQ(dup3(other_fd, table_fd_of_slot(1), O_CLOEXEC), table_fd_of_slot(1));
    int proc = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(proc >= 0);
    ASSERT_EQ(dup3(proc, table_fd_of_slot(3), O_CLOEXEC), table_fd_of_slot(3));
    (void)close(proc);
    table_close_strays(&table);
    ASSERT_TRUE(fcntl(table_fd_of_slot(0), F_GETFD) >= 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(1), F_GETFD) < 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(2), F_GETFD) >= 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(3), F_GETFD) < 0);
    end();
}

/* After the death of all processes: no descriptor is what it was. */
TEST(adoption_occupies_the_numbers_of_what_was_asked)
{
    size_t at = 0;

    begin();
    ASSERT_TRUE(dup2(other_fd, HYDRATOR_CHANNEL_FD) == HYDRATOR_CHANNEL_FD);
    atomic_store(&table.slots[0].state, SLOT_ASKED);
    atomic_store(&table.slots[1].state, SLOT_NOTED);
    atomic_store(&table.slots[3].state, SLOT_ASKED);
    atomic_store(&table.slots_end, 4);
    atomic_store(&table.channel, 7);
    put_event(&at, 5, sizeof(struct fanotify_event_metadata));
    ASSERT_OK(adopt_table(&table));
    ASSERT_EQ(state_of(0), SLOT_ASKED);
    ASSERT_EQ(state_of(1), SLOT_FREE);
    ASSERT_EQ(state_of(3), SLOT_ASKED);
    ASSERT_EQ(state_of(5), SLOT_FREE);
    ASSERT_EQ(table.events[0], 0);
    ASSERT_EQ(atomic_load(&table.channel), 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(0), F_GETFD) >= 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(1), F_GETFD) < 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(3), F_GETFD) >= 0);
    table_close_strays(&table); /* these are none */
    ASSERT_TRUE(fcntl(table_fd_of_slot(0), F_GETFD) >= 0);
    ASSERT_TRUE(fcntl(table_fd_of_slot(3), F_GETFD) >= 0);
    end();
}

TEST(there_is_room_for_a_read_or_there_is_none)
{
    begin();
    ASSERT_TRUE(filter_has_room(&filter));
    filter.busy = TABLE_SLOTS - EVENTS_PER_READ_MAX - SPARE_FDS;
    ASSERT_TRUE(filter_has_room(&filter));
    filter.busy++;
    ASSERT_FALSE(filter_has_room(&filter));
    end();
}

TEST(numbers_outside_the_table_are_no_slots)
{
    uint32_t slot;

    ASSERT_ERR(table_slot_of_fd(-1, &slot), -ENOENT);
    ASSERT_ERR(table_slot_of_fd(FD_EVENTS_FIRST - 1, &slot), -ENOENT);
    ASSERT_ERR(table_slot_of_fd(FD_EVENTS_FIRST + (int)TABLE_SLOTS, &slot), -ENOENT);
    ASSERT_OK(table_slot_of_fd(FD_EVENTS_FIRST + (int)TABLE_SLOTS - 1, &slot));
    ASSERT_EQ(slot, TABLE_SLOTS - 1);
}

TEST(a_slot_is_in_a_queue_once)
{
    static struct slot_queue queue;
    uint32_t slot;

    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < TABLE_SLOTS; i++)
            slot_queue_push(&queue, i);
        slot_queue_push(&queue, 5);
        ASSERT_EQ(queue.count, TABLE_SLOTS);
        for (uint32_t i = 0; i < TABLE_SLOTS; i++) {
            ASSERT_TRUE(slot_queue_pop(&queue, &slot));
            ASSERT_EQ(slot, i);
        }
        ASSERT_FALSE(slot_queue_pop(&queue, &slot));
        slot_queue_push(&queue, 7);
        ASSERT_TRUE(slot_queue_pop(&queue, &slot));
    }
}

TEST_MAIN()
