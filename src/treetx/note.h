/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What this machine knows of changes that are not ended: one small file each, in the directory
 * `transactions` of UMBRA_STATE_DIR, else of /var/lib/umbra (root), else of umbra in XDG_STATE_HOME
 * or
 * ~/.local/state.  It is written before the stage is made, and goes when nothing is left to be
 * done.
 *
 * Bytes of a note, named by 16 hex digits at random:
 *
 *     0 ..  3   magic "UTXN"
 *     4         version, 1
 *     5         flags: 1 there are times; others zero
 *     6 ..      blob target (absolute path), u32 type and blob handle of the target (ident.h),
 *               atime and mtime of the target: zigzag seconds, varint nanoseconds each; zeros
 *               without the flag
 *       ..      u32 CRC-32C of all before
 */
#pragma once

#include <time.h>

#include "basic/buffer.h"
#include "basic/vector.h"
#include "treetx/ident.h"

#define NOTE_NAME_LEN 16u

struct note {
    char name[NOTE_NAME_LEN + 1]; /* "": has not been written */
    char *target;
    struct ident root;
    /* Those that the target shall have when the stage has been made and removed. */
    bool has_times;
    struct timespec times[2];
};
DEFINE_VECTOR(note_vector, struct note);

void note_release(struct note *note);
void note_vector_release_all(struct note_vector *notes);
/* Durable on return; gives it a name if it has none. */
_must_check_ int note_write(struct note *note);
/* One that is not there, or has no name, is fine. */
_must_check_ int note_drop(const struct note *note);
/* Those that can be read; of others the log warns. */
_must_check_ int note_list(struct note_vector *ret_notes);
/* The note of this tree; -ENOENT.  What lies at the noted path must be the tree, or nothing. */
_must_check_ int note_find(const struct ident *root, int root_fd, struct note *ret_note);
/* As long as *ret_fd is open, nobody else is between a note and its stage. */
_must_check_ int note_hold(int *ret_fd);

_must_check_ int note_encode(const struct note *note, struct buffer *b);
_must_check_ int note_decode(const void *data, size_t len, struct note *ret_note);
