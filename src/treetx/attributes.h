/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All attributes of an object as bytes of an instruction: a run of one entry of the catalog, with
 * the ids of this system. */
#pragma once

#include "basic/buffer.h"
#include "tree/entry.h"
#include "tree/meta.h"

/* Everything that is on the object open as path_fd (O_PATH); stx is of it.  The caller's. */
_must_check_ int attributes_capture(int path_fd, const struct statx *stx, struct entry *ret_entry);
/* Appends e, owners and ACLs mapped (NULL: as they are). */
_must_check_ int attributes_put(struct buffer *b, const struct entry *e,
                                const struct owner_map *owners);
/* A copy, the caller's.  -UMBRA_E_CORRUPT. */
_must_check_ int attributes_decode(const void *data, size_t len, struct entry *ret_entry);
/* Opens for reading what path_fd (O_PATH) leads to, a regular file or a directory. */
_must_check_ int reopen(int path_fd, int flags, int *ret_fd);
