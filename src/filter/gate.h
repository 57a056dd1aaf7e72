/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The gate: a fanotify group that is asked before anybody opens or reads a regular file of one
 * file system, through whichever mount.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"

/* Whether this kernel and this user can do it at all: notes in words if not. */
_must_check_ int gate_check(void);

/*
 * Stands the gate before the file system of the directory, and fills the roles FD_LOCK, FD_CLONE,
 * FD_TREE and, unless there is one, FD_GROUP.  What is opened through FD_TREE raises no event.
 *
 * -EBUSY: another gate stands; -EOPNOTSUPP: not on this kind of file system.
 */
_must_check_ int gate_stand(const char *target, uint64_t restore_id, bool has_group,
                            uint64_t *ret_volume_magic);

/* The number of the event descriptor is enough to answer; it may be closed. */
void gate_answer(int event_fd, uint32_t response);
/* error: a positive errno. */
void gate_deny(int event_fd, int error);
/* The inode raises no more events, until the kernel forgets it. */
void gate_ignore(int event_fd);
/* Removes all marks. */
void gate_remove_marks(void);
