/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a backup: from paths to a committed backup object.  The essay is in backup.c. */
#pragma once

#include "basic/progress.h"
#include "repo/repository.h"
#include "tree/exclude.h"

struct backup_options {
    /* Absolute paths.  One that is not there is a problem, told and counted, and no failure unless
     * there is no other. */
    const char *const *roots;
    size_t root_count;
    const char *host; /* NULL: this machine's name */
    const char *const *tags;
    size_t tag_count;
    const struct exclude_set *excludes; /* may be NULL */
    const char *const *exclude_texts;   /* the rules as they were given, for the record */
    size_t exclude_text_count;
    bool exclude_caches;
    bool one_file_system;
    bool read_all;     /* read files that look unchanged, too */
    bool fixed_blocks; /* cut files at fixed offsets: for disk images */
    bool dry_run;      /* walk and compare only: nothing is read or written */
    int zstd_level;    /* 0: default */
    unsigned threads;  /* 0: one a processor */
    /* A file that could not be read, wholly or in part, or changed meanwhile: path (of any bytes),
     * what went wrong.  Any thread, one at a time. */
    void (*problem)(const char *path, const char *what, bool incomplete, void *userdata);
    /* A finished entry (for --verbose): 'N' new, 'C' changed, 'U' unchanged; NULL: not wanted.  One
     * thread. */
    void (*entry)(char state, const struct entry *e, void *userdata);
    void *userdata;
    struct progress *progress; /* may be NULL */
};

/*
 * Makes and commits one backup.  *ret_backup (the caller's) has its id and stats;
 * stats.problem_count > 0 means that it is incomplete. After an interruption (error, signal,
 * SIGKILL) nothing is committed, and the next backup of the same host and roots takes over what was
 * finished.  With dry_run nothing is stored and *ret_backup has an empty id.
 */
_must_check_ int backup_create(struct repository *repo, const struct backup_options *options,
                               struct backup **ret_backup);
