/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One gate a file system: a locked file beneath RUN_DIR that says whose it is.  The lock lasts as
 * long as a process has FD_LOCK, whatever happens to the processes.
 */
#pragma once

#include <stdint.h>

#include "basic/macro.h"

/* -EBUSY, with words that name the other restore. */
_must_check_ int gate_lock(const char *target, uint64_t restore_id);
/* Removes the file, if it is ours; the lock itself goes with FD_LOCK. */
void gate_unlock(void);
