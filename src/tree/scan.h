/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parallel walk: directories in catalog order, each with its entries sorted by name and their
 * statx done.
 *
 * Threads of a pool read directories ahead of the consumer, in the order in which it will ask.
 * Directories are opened one component at a time beneath their parent (O_NOFOLLOW), so paths may be
 * longer than PATH_MAX and nobody can redirect the walk.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "basic/pool.h"
#include "basic/vector.h"
#include "tree/exclude.h"

/* Where an atomic change of a tree is prepared (treetx/treetx.h), in the tree itself: a directory
 * of this name is none of the tree's, and left out. */
#define TREE_STAGE_NAME ".umbra-atomic"

struct scan;

struct scan_child {
    char *name;       /* memory of the directory: valid as long as a reference to it is held */
    struct statx stx; /* all of STATX_BASIC_STATS and STATX_BTIME; valid when error == 0 */
    int error;        /* negative errno when it could not be looked at */
};
DEFINE_VECTOR(scan_child_vector, struct scan_child);

/* One directory with its entries.  An entry that vanishes during the walk is just not in it, but a
 * root that does is listed with its error.  Reference counted: whoever opens its files later keeps
 * a reference; its fd stays open as long. */
struct scan_dir {
    char *path; /* absolute without the leading '/'; "" is the root */
    int fd;     /* O_RDONLY|O_DIRECTORY; -EBADF when it could not be opened */
    int error;  /* negative errno: could not be opened or listed (completely) */
    struct scan_child_vector children; /* excluded ones are not in it */
    /* the rest is private to scan.c */
    unsigned ref_count;
    struct scan_dir_private *private;
};

struct scan_dir *scan_dir_ref(struct scan_dir *dir); /* thread-safe */
void scan_dir_unref(struct scan_dir *dir);           /* thread-safe; NULL is fine */
DEFINE_CLEANUP_PTR(struct scan_dir *, scan_dir_unref);

/*
 * Opens a regular file of the directory for reading, without following a link, without waiting for
 * a fifo, and without a new atime where that is allowed.  -UMBRA_E_CHANGED when the name is
 * something else by now.
 */
_must_check_ int scan_child_open(struct scan_dir *dir, const char *name, int *ret_fd);

struct scan_options {
    const struct exclude_set *excludes; /* may be NULL; roots and their parents are exempt */
    bool exclude_caches;  /* of a directory with a valid CACHEDIR.TAG only the tag is listed */
    bool one_file_system; /* mount points are listed but not entered, unless a root is there */
    unsigned ahead_max;   /* directories read ahead of the consumer at most; 0: a default */
    /* A root that is not there or cannot be reached, and why; it counts as a root all the same. Not
     * when there is no other, and when NULL: scan_new() fails then. */
    void (*missing)(const char *path, int error, void *userdata);
    void *userdata;
};

/*
 * roots: absolute paths, any order; nested and repeated ones collapse.  Parents of a root are
 * delivered too, with only the children that lead to a root.  A root that does not exist is -ENOENT
 * here, with a note, unless options->missing is told.  Symbolic links in a root's own parents are
 * resolved first (realpath of the parent); a root that is a symlink itself is backed up as a
 * symlink, unless it ends in '/'.  The limit of open files of the process is raised as far as it
 * goes.  The pool is borrowed; pool tasks are submitted at POOL_HIGH.
 */
_must_check_ int scan_new(const char *const *roots, size_t root_count,
                          const struct scan_options *options, struct pool *pool,
                          struct scan **ret_scan);
void scan_free(struct scan *scan);
DEFINE_CLEANUP_PTR(struct scan *, scan_free);
/* The roots as they will be recorded: sorted, collapsed, absolute with leading '/'. */
size_t scan_root_count(const struct scan *scan);
const char *scan_root(const struct scan *scan, size_t index);
/* statx of "/" itself. */
const struct statx *scan_top(const struct scan *scan);
/* The next directory in catalog order, with a reference for the caller; NULL at the end. */
_must_check_ int scan_next(struct scan *scan, struct scan_dir **ret_dir);
