/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash and the fault implementation of struct io.
 *
 * io-crash models a disk with a volatile cache.  Each file and each directory has a durable state
 * and a list of operations since its last sync.  A power cut (crash_at_sync: during the n-th sync
 * or sync_dir, counted from 1; or io_crash_now()) keeps, for every file, a random subset of its
 * unsynced writes, some torn at a multiple of 512 bytes, and, for every directory, a random subset
 * of its unsynced name changes; the n-th sync itself is cut in the middle, so even what it was to
 * make durable may be lost.  From then on every call returns -UMBRA_E_CRASHED, until
 * io_crash_reboot() throws the volatile state away.  The seed decides everything; the same seed and
 * the same calls give the same disk.
 */
#pragma once

#include "basic/io.h"

_must_check_ int io_new_crash(uint64_t seed, struct io **ret_io);
/* nth: counted since io_new_crash(), as io_crash_sync_count() does; 0: never. */
void io_crash_at_sync(struct io *io, uint64_t nth);
/* Without any effect after a crash. */
void io_crash_now(struct io *io);
bool io_crash_crashed(const struct io *io);
/* How many syncs have been asked for so far. */
uint64_t io_crash_sync_count(const struct io *io);
/* Cuts the power first where that has not happened.  Open files stay allocated until closed, but
 * answer -UMBRA_E_CRASHED. */
void io_crash_reboot(struct io *io);
/* A deep copy of the durable and volatile state, counters included, with a seed of its own: where
 * one history forks.  Without open files, as if their process had been killed. */
_must_check_ int io_crash_clone(struct io *io, uint64_t seed, struct io **ret_io);

enum io_fault_op {
    IO_FAULT_OPEN, /* mkdir too */
    IO_FAULT_READ,
    IO_FAULT_WRITE, /* truncate too */
    IO_FAULT_SYNC,  /* sync_dir too */
    IO_FAULT_RENAME,
    IO_FAULT_UNLINK,
    IO_FAULT_LIST, /* stat too */
    IO_FAULT_OP_MAX,
};

/* Wraps io, which it owns from then on. */
_must_check_ int io_new_fault(struct io *inner, struct io **ret_io);
/* From the nth call (from 1, counted from here on) of this kind on, count calls fail with -error
 * (count 0: all; nth 0: none); a failing write leaves its first half written. */
void io_fault_set(struct io *io, enum io_fault_op op, uint64_t nth, uint64_t count, int error);
/* How many calls of this kind there were since the last io_fault_set() for it, failed ones too. */
uint64_t io_fault_calls(struct io *io, enum io_fault_op op);
/* Writes beyond this many bytes in total fail with -ENOSPC after filling the rest; UINT64_MAX: no
 * limit. */
void io_fault_set_space(struct io *io, uint64_t len_bytes);
