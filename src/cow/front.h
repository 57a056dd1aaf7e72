/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A front end: what makes block devices of a cow volume and its shadows.
 *
 * umbra-cowd is two processes.  The keeper does nothing but hold what must outlive the worker, and
 * start the worker, anew when it dies.  The worker has the engine (struct cow) and serves the
 * devices out of it.  Devices are known by number: 0 is the volume, N its shadow N.
 *
 *     keeper      worker                     its next life, after a kill
 *     ------      ------                     ---------------------------
 *     probe()
 *     hold()
 *                 start(is_return: false)    start(is_return: true)
 *                 add(0), add(1), ...        add(0), add(1), ...: found as they were
 *                 add, seal, remove ...      add, seal, remove ...
 *                 remove() of all
 *                 stop()
 *     release()
 *
 * Duties of a front end
 *  1. A request is answered after the engine's call for it has returned, with its errno.  Reads of
 *     a shadow that is gone (-ENOENT) fail with EIO.
 *  2. A flush (and FUA) is cow_flush().  Zeroing is cow_write() of zeros, or is not offered:
 *     cow_discard() is advice only.  A shadow takes no discards.
 *  3. After the death of the worker devices stay, and requests wait.  What the dead worker had
 *     taken and not answered is served again by the next one: from start(is_return) on, which does
 *     not wait for any add().
 *  4. The worker never waits for a device of its own, nor for anything that the kernel may make
 *     wait for one: who is killed while he waits so does not die, and no other worker is started.
 *     Such work (opening a device, attaching, detaching) is done by a child that is waited for with
 *     a time limit.
 *  5. add(), remove(), seal() and stop() are called by one thread.  Every wait has a limit.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"
#include "cow/cow.h"

#define COW_DEVICE_MAX 64u /* bytes of the path of a device, with its NUL */

struct cow_front;

struct cow_front_place {
    const char *volume_name;
    const char *run_dir;   /* of the volume, 0700, on a tmpfs; the front end's own */
    uint32_t sector_bytes; /* what requests have to be multiples of: that of the origin */
    struct cow *cow;
    int held_fd;    /* of hold(); -1: none */
    bool is_return; /* a worker died before, and its devices are there */
};

struct cow_front_ops {
    const char *name; /* "ublk", "fuse" */
    /* Whether this kernel has it: 0, or -EOPNOTSUPP with a note of what is missing. */
    int (*probe)(void);
    /* In the keeper, once.  Clears away what a daemon that was killed as a whole has left behind;
     * -EBUSY: somebody still uses it.  *ret_fd is inherited by each worker; -1: nothing to hold. */
    int (*hold)(const char *run_dir, int *ret_fd);
    /* In the keeper, at the end, however it comes: fd has been closed, whatever is left goes. */
    void (*release)(const char *run_dir);

    /* In the worker.  Serves as soon as it returns. */
    int (*start)(const struct cow_front_place *place, struct cow_front **ret_front);
    /* Makes the device, and returns its path ("/dev/..."). */
    int (*add)(struct cow_front *front, uint32_t number, bool read_only,
               char ret_device[COW_DEVICE_MAX]);
    /* -EBUSY: mounted, or open; then it stays.  -ENOENT. */
    int (*remove)(struct cow_front *front, uint32_t number);
    /* -EBUSY as remove() would say it, and nothing is changed. */
    int (*check_free)(struct cow_front *front, uint32_t number);
    /* Read-only from now on.  The engine refuses writes already. */
    int (*seal)(struct cow_front *front, uint32_t number);
    /* All devices have been removed. */
    void (*stop)(struct cow_front *front);
};

/* In the order of preference; NULL at the end. */
extern const struct cow_front_ops *const cow_fronts[];
/* By name; NULL: the first whose probe() succeeds.  -EOPNOTSUPP with what each says is missing;
 * -EINVAL: no such front end. */
_must_check_ int cow_front_choose(const char *name, const struct cow_front_ops **ret_ops);

extern const struct cow_front_ops cow_front_fuse, cow_front_ublk;
