/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Contents of files: copied from one to another, and compared, at the same offsets. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"

/*
 * Makes the range of to_fd what that of from_fd is, holes included.  Blocks are shared where the
 * file system can.  What lies beyond the end of from_fd counts as a hole; a hole at the end makes
 * to_fd no longer.
 */
_must_check_ int data_copy(int from_fd, int to_fd, uint64_t offset, uint64_t len);
/* Zeros, without space where the file system can; never makes the file longer. */
_must_check_ int data_punch(int fd, uint64_t offset, uint64_t len);
/* Whether the range has the same bytes in both, zeros behind the ends; from_fd -EBADF: zeros. */
_must_check_ int data_compare(int from_fd, int fd, uint64_t offset, uint64_t len, bool *ret_same);
