/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which object a name leads to: the file handle (inode and generation), which is the same after a
 * rename, a restart or another mount, and never given to a second object.  A file system without
 * handles has inode number and time of birth in its place.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/buffer.h"
#include "basic/macro.h"

#define IDENT_LEN_MAX 128u /* MAX_HANDLE_SZ */

struct ident {
    uint32_t type; /* of the handle, as the kernel has it */
    uint32_t len;
    uint8_t bytes[IDENT_LEN_MAX];
};

/* Of name in dir_fd, following nothing; "" is dir_fd itself, which may be an O_PATH one. */
_must_check_ int ident_get(int dir_fd, const char *name, struct ident *ret_ident);
bool ident_equal(const struct ident *a, const struct ident *b);
void ident_put(struct buffer *b, const struct ident *ident);
void ident_read(struct reader *r, struct ident *ret_ident);
