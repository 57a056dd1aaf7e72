/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/table.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "filter/fds.h"

static const uint64_t layout = TABLE_LAYOUT_VERSION << 32 | sizeof(struct table);

int table_new(uint64_t restore_id, uint64_t volume_magic, struct table **ret_table)
{
    CLEANUP_CLOSE int fd = memfd_create("umbra-requests", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, sizeof(struct table)) < 0 ||
        pwrite(fd, &layout, sizeof(layout), offsetof(struct table, layout)) != sizeof(layout))
        return error_note_describe(-errno, "cannot make the table of requests");
    int r = fds_place(FD_TABLE, TAKE_FD(fd));
    if (r >= 0)
        r = table_map(ret_table);
    if (r < 0)
        return error_prefix(r, "cannot make the table of requests");
    (*ret_table)->restore_id = restore_id;
    (*ret_table)->volume_magic = volume_magic;
    return 0;
}

int table_map(struct table **ret_table)
{
    struct stat st;

    if (fstat(FD_TABLE, &st) < 0 || !S_ISREG(st.st_mode) ||
        st.st_size != (off_t)sizeof(struct table))
        return -EBADMSG;
    struct table *table =
        mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, FD_TABLE, 0);
    if (table == MAP_FAILED)
        return -errno;
    if (table->layout != layout) {
        (void)munmap(table, sizeof(*table));
        return -EBADMSG;
    }
    *ret_table = table;
    return 0;
}

void table_close_strays(const struct table *table)
{
    for (uint32_t slot = 0; slot < table_scan_end(table); slot++) {
        int fd = table_fd_of_slot(slot);
        if (fcntl(fd, F_GETFD) >= 0 && !fds_is_event(fd, table->volume_magic) &&
            !(atomic_load(&table->slots[slot].state) != SLOT_FREE && table->slots[slot].is_adopted))
            (void)close(fd);
    }
}

int table_slot_of_fd(int fd, uint32_t *ret_slot)
{
    if (fd < FD_EVENTS_FIRST || (uint32_t)(fd - FD_EVENTS_FIRST) >= TABLE_SLOTS)
        return -ENOENT;
    *ret_slot = (uint32_t)(fd - FD_EVENTS_FIRST);
    return 0;
}

uint32_t table_scan_end(const struct table *table)
{
    uint32_t end = atomic_load(&table->slots_end) + EVENTS_PER_READ_MAX + SPARE_FDS;
    return MIN(end, TABLE_SLOTS);
}

int table_fd_of_slot(uint32_t slot)
{
    return FD_EVENTS_FIRST + (int)slot;
}
