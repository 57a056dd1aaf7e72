/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A change of a directory tree that is, after any crash, either wholly there or not at all.
 *
 *     treetx_begin(target, -EBADF, &options, &tx);       makes the stage, TREETX_STAGE_NAME in
 * target treetx_stage_name(tx, name);                       what is new is made there, as NAME in
 *     fd = openat(treetx_stage_fd(tx), name, ...);       treetx_stage_fd(): files, links,
 * directories treetx_put(tx, name, "dir/file");                  with all that is in them, with
 * their treetx_delete(tx, "dir/other");                    attributes.  Then it is said what
 * becomes of treetx_set_meta(tx, "dir", &entry, owners);        the tree; nothing is done yet r =
 * treetx_commit(tx, &stats);                     all of it treetx_free(tx); not committed: removes
 * the stage
 *
 * After the commit the stage holds what was there before, for treetx_rollback(), until
 * treetx_discard() (so a file of which one of several names was deleted still has one link more).
 * Killed before, or without power: treetx_recover() makes one or the other of the tree.  How it is
 * done is said in treetx.c, the bytes on disk are in umbra-log(5).
 *
 * Paths are relative to the target, without empty, "." or ".." components; "" is the target itself,
 * which can be given attributes and nothing else.  No symbolic link is followed, no mount point and
 * no other subvolume is entered (-EXDEV).
 *
 * One thread at a time, but treetx_stage_fd() and treetx_stage_name(), which any thread may call.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/macro.h"
#include "tree/entry.h"
#include "tree/meta.h"
#include "tree/scan.h"

#define TREETX_STAGE_NAME     TREE_STAGE_NAME
#define TREETX_STAGE_PATH     TREE_STAGE_NAME "/new" /* of treetx_stage_fd(), below the target */
#define TREETX_STAGE_NAME_MAX 24u                    /* of a name in the stage, with its NUL */

struct treetx;
struct umbra_log_manager;

struct treetx_options {
    /* An attribute that the file system, or not being root, keeps from being set, when the change
     * is made: what as in meta.h.  Negative: the commit fails with it.  NULL: told by the log as
     * warnings.  Taking a change back is stricter: what was there is there again, or it fails. */
    int (*problem)(const char *path, const char *what, int r, void *userdata);
    void *userdata;
};

/*
 * Makes the stage, and a note that there is one.  target_fd: the directory, open, if the caller has
 * it (stays the caller's), else -EBADF.  options may be NULL.
 * -EBUSY: another process works on this tree; -EEXIST: there is a change that has to be recovered,
 * or one that is kept for rollback and has to be discarded first (treetx_look()); -EOPNOTSUPP: the
 * file system cannot exchange names; -EPERM: the target itself has chattr +i or +a.
 */
_must_check_ int treetx_begin(const char *target, int target_fd,
                              const struct treetx_options *options, struct treetx **ret_tx);
/* Abandons it, unless it was committed.  NULL is fine. */
void treetx_free(struct treetx *tx);
DEFINE_CLEANUP_PTR(struct treetx *, treetx_free);

/* ---- the stage ---- */

/* The directory in which new things are made.  Same file system as the target. */
int treetx_stage_fd(const struct treetx *tx);
/* A name that is not taken in it, nor will be by anybody else. */
void treetx_stage_name(struct treetx *tx, char ret_name[TREETX_STAGE_NAME_MAX]);

/* ---- planning ----
 *
 * Each call looks at what is there now and remembers it; nothing of the tree is changed.  What is
 * there must still be so at the commit: by file handle, not by name.  A path is put, replaced,
 * deleted or linked once, and nothing else is done at or below it, save that attributes are set,
 * and links are made, in what was put there; -EINVAL else.  A staged thing is used once.
 */

/* The staged thing gets the path, where nothing is (-EEXIST). */
_must_check_ int treetx_put(struct treetx *tx, const char *stage_name, const char *path);
/* It is exchanged with what is there, whatever the types: directories with all that is in them. */
_must_check_ int treetx_replace(struct treetx *tx, const char *stage_name, const char *path);
/* What is there goes, a directory with all that is in it. */
_must_check_ int treetx_delete(struct treetx *tx, const char *path);
/* One more name for what existing is, after what was said so far; existing keeps its place. */
_must_check_ int treetx_link(struct treetx *tx, const char *existing, const char *path);
/* Attributes of what is at path after what was said so far, of any type (the same as wanted's).
 * Set last, so that times stay.  wanted is copied.  -EPERM: +i or +a of the target itself.
 * Directories in which names change, and files whose contents do, have the time of the commit as
 * mtime if they are not given any here. */
_must_check_ int treetx_set_meta(struct treetx *tx, const char *path, const struct entry *wanted,
                                 const struct owner_map *owners);

/* Contents of a file that keeps its inode; what is overwritten is kept aside at once. */
/* A range of a staged file, with its holes, over the same range of the file at path. */
_must_check_ int treetx_copy(struct treetx *tx, const char *path, const char *stage_name,
                             uint64_t offset, uint64_t len);
_must_check_ int treetx_punch(struct treetx *tx, const char *path, uint64_t offset, uint64_t len);
/* After all copying and punching. */
_must_check_ int treetx_resize(struct treetx *tx, const char *path, uint64_t size);

/* ---- doing ---- */

struct treetx_stats {
    uint64_t step_count;
    uint64_t log_bytes;
    uint64_t stage_sync_ns, apply_ns, commit_ns;
};

/*
 * Makes the stage durable, writes the log, makes the change, makes that durable, commits.  On
 * failure the tree is as it was before; -UMBRA_E_TREE_CHANGED: somebody else has changed what is to
 * be changed, the words name it.  If even taking back fails, the words say so: treetx_recover()
 * then. ret_stats may be NULL.
 */
_must_check_ int treetx_commit(struct treetx *tx, struct treetx_stats *ret_stats);
/* Before a commit, or after one that failed: removes the stage, and frees tx in any case. */
_must_check_ int treetx_abandon(struct treetx *tx);

/* ---- afterwards ---- */

enum treetx_state {
    TREETX_NONE,       /* no stage */
    TREETX_RUNNING,    /* a live process works on it */
    TREETX_UNFINISHED, /* treetx_recover() */
    TREETX_KEPT,       /* done, and can be rolled back */
};
/* What is to be said of target. */
_must_check_ int treetx_look(const char *target, enum treetx_state *ret_state);

enum treetx_outcome {
    TREETX_NOTHING,       /* there was nothing to recover */
    TREETX_STAGE_REMOVED, /* it was being prepared: the tree had not been changed */
    TREETX_ROLLED_BACK,   /* the tree is as before the change (or, of a rollback, as after it) */
    TREETX_COMPLETED,     /* the change (or the rollback) was done, and is made durable */
};
enum treetx_recover_flags {
    /* Leaves alone what somebody else has changed meanwhile, and warns of each.  What cannot go
     * back to its place then is kept, in a directory that a warning names. */
    TREETX_FORCE = 1u << 0,
};
/*
 * Ends what was interrupted.  May itself be killed at any time, and called again.
 * -EBUSY: a live process works on it.  -UMBRA_E_TREE_CHANGED, or damage of the log: no more is
 * changed, the words say what can be done.
 */
_must_check_ int treetx_recover(const char *target, unsigned flags,
                                enum treetx_outcome *ret_outcome);
/* Takes the last change back and removes the stage.  -ENOENT: nothing is kept.  On failure the tree
 * is as after the change, and it can be tried again.  flags as above. */
_must_check_ int treetx_rollback(const char *target, unsigned flags);
/* Removes what is kept for a rollback.  -ENOENT: nothing is; -EBUSY: see treetx_look(). */
_must_check_ int treetx_discard(const char *target);

/*
 * All trees of which this machine has a note that something is unfinished; one readdir when there
 * is none.  A tree that a live process works on, or that is not there (not mounted, say), is passed
 * over. done is told of each other: r is what treetx_recover() returned.  Not 0 ends it, and is
 * returned.
 */
typedef int (*treetx_recovered_fn)(const char *target, int r, enum treetx_outcome outcome,
                                   void *userdata);
_must_check_ int treetx_recover_all(treetx_recovered_fn done, void *userdata);

/* For `umbra log dump`: describes the records of such a log. */
const struct umbra_log_manager *treetx_log_manager(void);
