/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes that share the table of descriptors, and know each other by pidfd. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/macro.h"

/*
 * Copies this process.  0 in the copy, in the other its pid, with its pidfd in the role.  A copy
 * that shares the descriptors puts itself there, too, in case the other is killed first
 * (process_begin()).
 */
_must_check_ pid_t process_clone(bool share_fds, int pidfd_role);

/* The first thing a keeper or filter does: says who plays the role, and locks its memory. */
_must_check_ int process_begin(const char *name, int pidfd_role);

/* Whether the one that the pidfd is about is dead.  Reaps it if it was ours.  *ret_status, unless
 * it is NULL: what it exited with; -1 when it was killed, or was not ours. */
bool process_is_dead(int pidfd_role, int *ret_status);

/* How much the kernel likes to kill this process without memory.  *ret_before, unless it is NULL,
 * gets what it was, "" when that cannot be told. */
void process_set_oom_score(const char *score, char *ret_before, size_t size);

uint64_t clock_monotonic_ns(void);
