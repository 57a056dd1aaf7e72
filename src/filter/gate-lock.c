/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/gate-lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "filter/digits.h"
#include "filter/fds.h"
#include "filter/gate.h"

#define ATTEMPTS_MAX 100

static char lock_path[64];

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

static int held_by_another(int fd, const char *target)
{
    char who[32] = "";

    ssize_t n = pread(fd, who, sizeof(who) - 1, 0);
    who[n > 0 ? n : 0] = '\0';
    return error_note(-EBUSY, "restore %.16s is running on the file system of '%s'",
                      n >= 16 ? who : "(unknown)", target);
}

/* Whether the file that is locked is the one that the path names. */
static bool is_current(int fd)
{
    struct stat own, named;
    return fstat(fd, &own) == 0 && stat(lock_path, &named) == 0 && own.st_ino == named.st_ino &&
           own.st_dev == named.st_dev;
}

static int try_lock(const char *target, int *ret_fd)
{
    CLEANUP_CLOSE int fd = open(lock_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", lock_path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? held_by_another(fd, target)
                                    : error_note_describe(-errno, "cannot lock '%s'", lock_path);
    if (!is_current(fd))
        return -EAGAIN; /* its owner has just removed it */
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int gate_lock(const char *target, uint64_t restore_id)
{
    unsigned major = 0, minor = 0;
    char who[32];
    int fd = -EBADF;

    int r = file_system_of(target, &major, &minor);
    if (r < 0)
        return r;
    if (mkdir(RUN_DIR, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make '%s'", RUN_DIR);
    (void)snprintf(lock_path, sizeof(lock_path), RUN_DIR "/gate-%u:%u", major, minor);
    r = -EAGAIN;
    for (int i = 0; r == -EAGAIN && i < ATTEMPTS_MAX; i++)
        r = try_lock(target, &fd);
    if (r < 0)
        return r;
    int len = snprintf(who, sizeof(who), "%016" PRIx64 "\n", restore_id);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, who, (size_t)len, 0) != len) {
        (void)close(fd);
        return error_note(-EIO, "cannot write '%s'", lock_path);
    }
    return fds_place(FD_LOCK, fd);
}

void gate_unlock(void)
{
    if (is_current(FD_LOCK))
        (void)unlink(lock_path);
    fds_vacate(FD_LOCK);
}
