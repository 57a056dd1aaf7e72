/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/gate-lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "filter/fds.h"
#include "filter/gate-holder.h"

#define ATTEMPTS_MAX 100

static char lock_path[GATE_LOCK_PATH_MAX];

static int held_by_another(int fd, const char *target)
{
    char who[32] = "";

    ssize_t n = pread(fd, who, sizeof(who) - 1, 0);
    who[n > 0 ? n : 0] = '\0';
    return error_note(-EBUSY,
                      "restore %.16s is running on the file system of '%s', see 'umbra status': "
                      "wait for it with 'umbra wait', or end it with 'umbra cancel --target' and "
                      "its directory",
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
    char who[32];
    int fd = -EBADF;

    int r = gate_lock_path(target, lock_path);
    if (r < 0)
        return r;
    if (mkdir(RUN_DIR, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make '%s'", RUN_DIR);
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
