/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The descriptor table that keeper and filter share has two parts.  Below FD_EVENTS_FIRST every
 * number has its role, and is always occupied: by /dev/null as long as nobody plays it.  So the
 * kernel puts everything new at FD_EVENTS_FIRST or above: the descriptors of events, and for a
 * moment what is then moved to its role with fds_place().
 *
 * The event descriptor N belongs to slot N - FD_EVENTS_FIRST of the table of requests.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

enum {
    /* 3 .. 7 stay free for what a hydrator gets (protocol.h). */
    FD_GROUP = 8,      /* fanotify */
    FD_CLONE,          /* the private mount, as open_tree() gave it */
    FD_TREE,           /* the target directory through it */
    FD_CONFIG,         /* for the hydrator */
    FD_REPORT,         /* for the hydrator */
    FD_PROC,           /* /proc */
    FD_LOG,            /* connected to /dev/log */
    FD_TABLE,          /* memfd of the table of requests */
    FD_LOCK,           /* one gate a file system */
    FD_CHANNEL,        /* the filter's end of the socket pair */
    FD_WAKE_FILTER,    /* eventfd: look at the table's header */
    FD_WAKE_KEEPER,    /* the same */
    FD_PIDFD_FILTER,   /* of the process that is the filter now; readable: dead */
    FD_PIDFD_KEEPER,   /* ... */
    FD_PIDFD_HYDRATOR, /* ... */
    FD_HYDRATOR_EXE,   /* the program, O_PATH */
    FD_NOTIFY,         /* socket to the descriptor store */
    FD_EVENTS_FIRST = 32,
};

struct fds_kept {
    int fd; /* negative: there is none */
    int role;
    const char *name; /* for messages */
};

/* Closes everything but 0, 1, 2 and what is kept, and occupies the numbers of the roles.  The
 * kept ones move to their roles; -EBADF when one is not open. */
_must_check_ int fds_prepare(struct fds_kept *kept, size_t count);
/* Moves fd to the role.  Takes fd, also on failure. */
_must_check_ int fds_place(int role, int fd);
/* Nobody plays the role any more. */
void fds_vacate(int role);
/* Whether fd is open on a file system of the volume's kind: an event descriptor, because nothing
 * else of us ever is. */
bool fds_is_event(int fd, uint64_t volume_magic);
