/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ordinary restore: from a backup to files in a directory.  The essay is in restore.c. */
#pragma once

#include "basic/progress.h"
#include "repo/repository.h"
#include "tree/exclude.h"

struct restore_options {
    const char *
        subpath; /* only what is at or below this path of the backup (absolute); NULL: everything */
    const char *target;                 /* directory; made when missing */
    const struct exclude_set *includes; /* when not NULL: only paths it matches (a directory: with
                                           all below), and the directories on their way */
    const struct exclude_set *excludes; /* may be NULL */
    bool numeric_owner;                 /* ids as recorded, not by name */
    bool delete_extra; /* remove what the backup does not have, inside the restored directories */
    bool verify;  /* afterwards read back and compare contents and attributes of everything restored
                   */
    bool dry_run; /* report only */
    /* All or nothing (treetx/treetx.h): the target, which must exist, changes when everything is
     * there, and not at all when there is a single problem: then the result is -UMBRA_E_UNCHANGED.
     * The transaction is kept, for treetx_rollback(). */
    bool atomic;
    bool no_sync;     /* return before what was written is on the disk; verify syncs all the same */
    unsigned threads; /* 0: one a processor */
    /* A path (below the target) that could not be restored or verified, wholly or in part.  Any
     * thread, one at a time. */
    void (*problem)(const char *path, const char *what, void *userdata);
    /* What is done with a path (for --verbose and --dry-run): 'c' created, 'w' contents rewritten
     * (wholly or in part), 'a' attributes only, '=' nothing to do, 'd' deleted, 'p' made as a
     * placeholder.  One at a time.
     * NULL: not wanted. */
    void (*action)(char action, const char *path, void *userdata);
    void *userdata;
    struct progress *progress; /* may be NULL */

    /* Instant restore (NULL: an ordinary one): regular files that have data are made with all
     * their attributes (but chattr +i and +a) and marked as pending, see filter/pending.h; the
     * data is not written. */
    const struct restore_placeholders *placeholders;
    bool list_only; /* with placeholders: no target, only their add() is called */
};

struct restore_placeholders {
    uint64_t restore_id;
    /* A file that becomes one, its contents loaded.  From one thread, in an order that is the same
     * each time; *ret_ordinal is for its mark.  A failure ends the run. */
    int (*add)(const struct entry *e, uint64_t *ret_ordinal, void *userdata);
    /* It stands, open as fd.  Any thread. */
    void (*placed)(uint64_t ordinal, int fd, void *userdata);
    void *userdata;
};

struct restore_stats {
    uint64_t file_count, directory_count, other_count; /* in the selection */
    uint64_t created_count, rewritten_count, attributes_count, unchanged_count, deleted_count;
    uint64_t size_bytes;                 /* of the selected files */
    uint64_t failed_count, failed_bytes; /* of them: files that could not be given their contents */
    uint64_t written_bytes;              /* contents actually written */
    uint64_t verified_bytes;             /* read back */
    uint64_t problem_count;
    uint64_t restore_ns, sync_ns, verify_ns; /* what the three parts took */
};

/*
 * Layout: with a subpath, or when the backup has a single root, the contents of that root land
 * directly in the target (a root that is a file: the file, under its own name); several roots each
 * land under their own full path. Returns 0 also when single paths failed (stats.problem_count);
 * negative when the work as a whole failed.
 */
_must_check_ int restore_run(struct repository *repo, const struct backup *backup,
                             const struct restore_options *options,
                             struct restore_stats *ret_stats);

/* The path of the backup that becomes the target, without '/' around it; malloc'ed.  When it is
 * that of a file, its directory does. */
_must_check_ int restore_find_base(const char *subpath, const struct string_vector *roots,
                                   char **ret_base);
