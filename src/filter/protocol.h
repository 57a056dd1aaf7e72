/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What umbra-filterd and the hydrator say to each other: messages of fixed size over a socket pair
 * of type SOCK_SEQPACKET, in the byte order of the machine.
 *
 * The filter asks, once for each event that it cannot answer by itself; the hydrator answers each
 * request once, in any order.  A reader waits until its request is answered.  After either of them
 * has been restarted, the filter asks again for everything that is unanswered; an answer to
 * something that is no longer asked is ignored.
 *
 * Whoever is started as a hydrator gets these descriptors:
 *
 *   - 3, HYDRATOR_CHANNEL_FD: its end of the socket pair
 *   - 4, HYDRATOR_TREE_FD: the target directory, open for reading, through a private mount: nothing
 *     that is opened beneath it raises an event, and it serves open_by_handle_at()
 *   - 5, HYDRATOR_CONFIG_FD: what the one who started the filter had to say to the hydrator: a
 *     sealed memfd, at offset 0 each time
 *   - 6, HYDRATOR_REPORT_FD: a pipe to whoever started the filter, for one report in text (how it
 *     looks is between those two); nobody may be reading any more
 *   - 7, HYDRATOR_GROUP_FD: the fanotify group, only to be held: as long as one process holds it,
 *     readers wait
 *
 * The end of the channel before FILTER_FINISH means that both processes of the filter are dead.
 * Then the hydrator alone keeps readers waiting, and must not end before all files are complete.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "filter/pending.h"

enum {
    HYDRATOR_CHANNEL_FD = 3,
    HYDRATOR_TREE_FD = 4,
    HYDRATOR_CONFIG_FD = 5,
    HYDRATOR_REPORT_FD = 6,
    HYDRATOR_GROUP_FD = 7,
};

/* What a target carries from before its first placeholder is made until after the last is gone. */
#define FILTER_RECORD_XATTR "trusted.umbra.restore"

#define FILTER_HANDLE_MAX 64u /* bytes of a file handle; ext4 8, xfs 24, btrfs 40 at most */
#define FILTER_COMM_LEN   16u

enum filter_event {
    FILTER_OPEN = 1,     /* FAN_OPEN_PERM */
    FILTER_EXEC = 2,     /* FAN_OPEN_EXEC_PERM */
    FILTER_ACCESS = 3,   /* FAN_PRE_ACCESS: offset and count are known */
    FILTER_TRUNCATE = 5, /* FAN_OPEN_PERM of an open that may truncate the file: it is let go on as
                            soon as nothing is being written, and soon in any case */
    FILTER_LOST = 4,     /* an event that the filter could not understand: anything */
};

/* A file, as open_by_handle_at() takes it. */
struct filter_handle {
    int32_t type;
    uint32_t len;
    uint8_t bytes[FILTER_HANDLE_MAX];
};

/* Filter to hydrator. */
struct filter_request {
    uint64_t sequence;      /* never used twice in one restore */
    uint32_t slot;          /* with sequence: what the answer is for */
    uint32_t event;         /* enum filter_event */
    int32_t tid;            /* of the thread that waits, as seen by the filter; 0: unknown */
    int32_t syscall;        /* it is in: a number of this architecture; -1: could not be told */
    uint64_t arguments[6];  /* of the system call, when that is known */
    uint64_t offset, count; /* FILTER_ACCESS: as in the event; count 0 means to the end of file */
    uint64_t waiting_since_ns; /* CLOCK_BOOTTIME, when the event was read */
    struct filter_handle handle;
    struct pending pending;     /* as the filter read it: a hint, it may have changed since */
    char comm[FILTER_COMM_LEN]; /* of the thread; NUL-terminated; "" when unknown */
};

enum filter_answer_kind {
    FILTER_ANSWER = 1,
    /* Nothing is pending any more (or the restore was cancelled and nothing is left of it): the
     * filter removes the marks, closes the group everywhere, and ends.  The hydrator closes its own
     * descriptor of the group and exits with 0. */
    FILTER_FINISH = 2,
};

/* Hydrator to filter. */
struct filter_answer {
    uint32_t kind; /* enum filter_answer_kind */
    uint32_t slot;
    uint64_t sequence;
    int32_t error; /* 0: go on; else a positive errno: one of EIO, ENOSPC, EDQUOT, EAGAIN, EBUSY,
                      EPERM */
    uint32_t reserved;
};
static_assert(sizeof(struct filter_answer) == 24, "no padding");
