/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/fds.h"

#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "filter/protocol.h"

#define ASIDE_FIRST 64 /* above all roles */

/* One after the other: their numbers ascend. */
static int set_aside(struct fds_kept *kept, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (kept[i].fd < 0)
            continue;
        int aside = fcntl(kept[i].fd, F_DUPFD_CLOEXEC, ASIDE_FIRST);
        if (aside < 0)
            return error_note_describe(-errno, "%s (descriptor %d)", kept[i].name, kept[i].fd);
        kept[i].fd = aside;
    }
    return 0;
}

static int close_others(const struct fds_kept *kept, size_t count)
{
    unsigned first = STDERR_FILENO + 1;

    for (size_t i = 0; i < count; i++) {
        if (kept[i].fd < 0)
            continue;
        if (first < (unsigned)kept[i].fd && close_range(first, (unsigned)kept[i].fd - 1, 0) < 0)
            return -errno;
        first = (unsigned)kept[i].fd + 1;
    }
    return close_range(first, ~0u, 0) < 0 ? -errno : 0;
}

/* 0, 1 and 2, too, if whoever started this has closed them. */
static int occupy(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return error_note_describe(-errno, "cannot open '/dev/null'");
    for (int fd = 0; fd < FD_EVENTS_FIRST; fd++)
        if (fd != null && (fd > STDERR_FILENO || fcntl(fd, F_GETFD) < 0) &&
            dup3(null, fd, O_CLOEXEC) < 0)
            return -errno;
    return 0;
}

int fds_prepare(struct fds_kept *kept, size_t count)
{
    int r = set_aside(kept, count);
    if (r >= 0)
        r = close_others(kept, count);
    if (r >= 0)
        r = occupy();
    for (size_t i = 0; r >= 0 && i < count; i++)
        if (kept[i].fd >= 0)
            r = fds_place(kept[i].role, kept[i].fd);
    return r;
}

int fds_place(int role, int fd)
{
    CLEANUP_CLOSE int own = fd;
    if (dup3(own, role, O_CLOEXEC) < 0)
        return error_note_describe(-errno, "cannot move descriptor %d to %d", fd, role);
    return 0;
}

void fds_vacate(int role)
{
    /* Number 3 is null as long as this process lives; it is another thing only in hydrators. */
    (void)dup3(HYDRATOR_CHANNEL_FD, role, O_CLOEXEC);
}

bool fds_is_event(int fd, uint64_t volume_magic)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (uint64_t)fs.f_type == volume_magic;
}
