/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking a repository: is everything there, whole, and in agreement?
 *
 * Structure: every object has a proper name, small ones have the SHA-256 that their name says;
 * every pack's header, trailer and directory open and agree with the index; every page of every
 * catalog opens, and all that it refers to is in the index and its pack is there (a pack that is
 * whole but not in the index makes one problem of the index, not one of each file).  With data:
 * packs are read whole, their SHA-256, each frame and each chunk id verified, and the files are
 * named that have what is damaged.  Checking changes nothing, never stops at a problem, and may run
 * while backups are made.
 */
#pragma once

#include "basic/progress.h"
#include "repo/repository.h"

struct check_problem {
    const char *object; /* its name, or "index" for all of it; NULL: something in a backup */
    const char *backup; /* id; NULL with an object */
    const char *path;   /* in that backup: absolute, of any bytes; NULL: not of one file */
    const char *why;
};

struct check_options {
    unsigned read_data_percent; /* of the packs, rounded up, chosen at random: 0 to 100 */
    uint64_t seed;              /* of the choice */
    unsigned threads;           /* 0: one a processor */
    /* Something is wrong.  One call at a time. */
    void (*problem)(const struct check_problem *problem, void *userdata);
    /* Something is unusual but not wrong; may be NULL. */
    void (*remark)(const char *object, const char *why, void *userdata);
    void *userdata;
    struct progress *progress; /* files: packs; bytes: of packs read with data; may be NULL */
};

struct check_result {
    uint64_t key_count, index_count, backup_count, session_count;
    uint64_t pack_count, pack_bytes;
    uint64_t unindexed_pack_count;    /* whole, but not in the index */
    uint64_t page_count, entry_count; /* each page once, however many backups share it */
    uint64_t reference_count;         /* to chunks, in those pages */
    uint64_t read_pack_count, read_bytes, read_chunk_count; /* with data */
    uint64_t damaged_chunk_count;
    uint64_t problem_count;
};

/* 0 also when there are problems: they are counted.  Negative when the check itself could not be
 * done. */
_must_check_ int check_repository(struct repository *repo, const struct check_options *options,
                                  struct check_result *ret_result);
