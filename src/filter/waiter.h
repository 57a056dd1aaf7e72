/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the thread is doing that waits for an event: /proc/TID/syscall and /proc/TID/comm
 * (proc_pid_syscall(5)).
 *
 * All of it is advice.  The thread may be gone and its number in use again, other threads may
 * change its memory meanwhile: nothing that is learnt here may let anybody see a wrong byte.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"
#include "filter/protocol.h"

struct waiter {
    int32_t syscall; /* -1: could not be told; the arguments are 0 then */
    uint64_t arguments[6];
    char comm[FILTER_COMM_LEN];
};

/*
 * Parses the text of /proc/TID/syscall.  -EAGAIN: the thread still runs.  -ENODATA: it is in no
 * system call whose number can be trusted: a thread of the kernel, a worker of io_uring, or of a
 * process with another set of system calls (its stack lies below 4 GiB).  -EBADMSG: not such a
 * text.
 */
_must_check_ int waiter_parse(const char *text, size_t len, int32_t *ret_syscall,
                              uint64_t ret_arguments[6]);

/* Reads all that can be read.  -EAGAIN: the thread has not gone to sleep yet, ask again; *ret is
 * written then, too, without the system call. */
_must_check_ int waiter_read(int proc_fd, int32_t tid, struct waiter *ret_waiter);

/*
 * The flags that a thread in one of the calls that open a file passed.  -ENODATA: it is in none of
 * them, or they could not be read.  May block in the memory of the thread (openat2): callers guard
 * themselves.
 */
_must_check_ int waiter_open_flags(const struct waiter *waiter, int32_t tid, uint64_t *ret_flags);
