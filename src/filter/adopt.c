/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/adopt.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "filter/events.h"
#include "filter/fds.h"
#include "filter/gate.h"
#include "filter/protocol.h"

/* What was read and not noted. */
static void deny_buffer(struct table *table)
{
    struct event_walk walk = {.data = table->events, .len = sizeof(table->events)};
    struct gate_event event;
    uint32_t slot;

    while (event_walk_next(&walk, &event) > 0)
        if (event.fd >= 0 && table_slot_of_fd(event.fd, &slot) == 0 &&
            atomic_load(&table->slots[slot].state) == SLOT_FREE)
            gate_deny(event.fd, EIO);
    memset(table->events, 0, sizeof(table->events));
}

static int adopt_slot(struct table *table, uint32_t index)
{
    struct slot *slot = &table->slots[index];
    int fd = table_fd_of_slot(index);

    switch (atomic_load(&slot->state)) {
    case SLOT_NOTED:
        gate_deny(fd, EIO);
        atomic_store(&slot->state, SLOT_FREE);
        return 0;
    case SLOT_ASKED:
        slot->is_adopted = 1;
        if (dup3(HYDRATOR_CHANNEL_FD, fd, O_CLOEXEC) < 0)
            return error_note_describe(-errno, "cannot occupy descriptor %d", fd);
        return 0;
    default: return 0;
    }
}

int adopt_table(struct table *table)
{
    int r = 0;

    deny_buffer(table);
    for (uint32_t i = 0; r >= 0 && i < MIN(atomic_load(&table->slots_end), TABLE_SLOTS); i++)
        r = adopt_slot(table, i);
    atomic_store(&table->channel, 0);
    atomic_store(&table->channel_over, 0);
    atomic_store(&table->is_served, 0);
    atomic_store(&table->hydrator_pid, 0);
    return r;
}

int adopt(uint64_t restore_id, struct table **ret_table)
{
    struct table *table = NULL;

    int r = table_map(&table);
    if (r < 0) {
        log_warning("the table of requests is not there: who waits gets an error");
        for (uint32_t slot = 0; slot < TABLE_SLOTS; slot++)
            gate_deny(table_fd_of_slot(slot), EIO);
        return -ENODATA;
    }
    if (table->restore_id != restore_id)
        return error_note(-EBUSY, "the gate that stands belongs to restore %016llx",
                          (unsigned long long)table->restore_id);
    r = adopt_table(table);
    if (r >= 0)
        *ret_table = table;
    return r;
}
