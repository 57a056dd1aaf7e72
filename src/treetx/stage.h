/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stage: TREETX_STAGE_NAME in the target, for one process at a time (a lock on the directory).
 *
 *     log      the log; is there from the moment when the change is about to begin
 *     new/     what is to be put in place; after an exchange, what was there before
 *     old/     what was taken away, and ranges of files whose contents are changed
 *     begun    which transaction has begun to change the tree
 *     left     is there when something in new/ or old/ could not go back to its place
 *
 * Without a log nothing of the tree has been changed.  So the log is the first to go.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <sys/types.h>

#include "treetx/ident.h"
#include "treetx/note.h"

#define STAGE_LOG   "log"
#define STAGE_BEGUN "begun"
#define STAGE_LEFT  "left"

struct stage {
    char *target; /* as it was named */
    int root_fd, fd, new_fd, old_fd;
    struct ident root;
    struct note note; /* without a name: there is none */
};

#define STAGE_NONE \
    ((struct stage){.root_fd = -EBADF, .fd = -EBADF, .new_fd = -EBADF, .old_fd = -EBADF})

/* Makes it, empty, and the note; the lock is ours.  See treetx_begin() for errors. */
_must_check_ int stage_make(const char *target, int target_fd, struct stage *ret_stage);
/* Opens one that is there.  -ENOENT; -EBUSY: another process has it; -EPERM: it is another user's.
 * new_fd and old_fd are -EBADF when they are not there. */
_must_check_ int stage_open(const char *target, struct stage *ret_stage);
/* Closes everything and frees the memory; on disk all stays. */
void stage_release(struct stage *stage);
/* Removes it with all that is in it; the target's times stay.  Then the note goes. */
_must_check_ int stage_remove(struct stage *stage);
/* A note that something is to be done in it. */
_must_check_ int stage_note(struct stage *stage);
_must_check_ int stage_has_log(const struct stage *stage, bool *ret_has);
/* No stage is there (any more): does what is left to do. */
_must_check_ int stage_finish_gone(const char *target);
/* A path of the log that no rename of a directory spoils. */
void stage_log_path(const struct stage *stage, const char *name, char ret_path[64]);
