/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/gate-holder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "filter/digits.h"

static void fclosep(FILE **file)
{
    if (*file)
        (void)fclose(*file);
}

/*
 * The number of the file system.  st_dev will not do: each subvolume of a btrfs has one of its own.
 * A mount that is not visible here (yet) has only that, though.
 */
static int file_system_of(const char *target, unsigned *ret_major, unsigned *ret_minor)
{
    CLEANUP_FREE char *line = NULL;
    size_t size = 0;
    struct statx st;

    if (statx(AT_FDCWD, target, 0, STATX_MNT_ID, &st) < 0)
        return error_note_describe(-errno, "'%s'", target);
    *ret_major = st.stx_dev_major;
    *ret_minor = st.stx_dev_minor;
    CLEANUP(fclosep) FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (!mounts)
        return error_note_describe(-errno, "cannot open '/proc/self/mountinfo'");
    while (getline(&line, &size, mounts) >= 0) {
        const char *at = line; /* "id parent major:minor ..." */
        unsigned id, parent, major, minor;
        if (digits_take(&at, ' ', &id) == 0 && id == st.stx_mnt_id &&
            digits_take(&at, ' ', &parent) == 0 && digits_take(&at, ':', &major) == 0 &&
            digits_take(&at, ' ', &minor) == 0) {
            *ret_major = major;
            *ret_minor = minor;
        }
    }
    return 0;
}

int gate_lock_path(const char *target, char ret_path[GATE_LOCK_PATH_MAX])
{
    unsigned major = 0, minor = 0;

    int r = file_system_of(target, &major, &minor);
    if (r >= 0)
        (void)snprintf(ret_path, GATE_LOCK_PATH_MAX, RUN_DIR "/gate-%u:%u", major, minor);
    return r;
}

/* A lock that we get is given back by the close. */
int gate_holder(const char *target, uint64_t *ret_restore_id)
{
    char path[GATE_LOCK_PATH_MAX], who[32];

    int r = gate_lock_path(target, path);
    if (r < 0)
        return r;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : error_note_describe(-errno, "cannot open '%s'", path);
    if (flock(fd, LOCK_SH | LOCK_NB) == 0)
        return -ENOENT;
    if (errno != EWOULDBLOCK)
        return error_note_describe(-errno, "cannot lock '%s'", path);
    ssize_t n = pread(fd, who, sizeof(who) - 1, 0);
    who[n > 0 ? n : 0] = '\0';
    *ret_restore_id = strtoull(who, NULL, 16);
    return 0;
}
