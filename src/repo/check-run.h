/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the check share.  check.c has the essay. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "basic/error.h"
#include "basic/vector.h"
#include "repo/check.h"
#include "repo/id-set.h"

struct checked_pack {
    struct pack_name name;
    uint64_t size_bytes;
    bool read_data; /* chosen */
    bool unindexed; /* whole, and no segment names it: set by the worker that checks it */
};
DEFINE_VECTOR(checked_pack_vector, struct checked_pack);
DEFINE_VECTOR(check_name_vector, char *);

struct pack_fact {
    uint64_t size_bytes; /* 0: gone */
    bool unindexed;
};

struct check_run {
    struct repository *repo;
    const struct check_options *options;
    struct index *index;
    struct check_name_vector backups; /* names of their objects */
    struct checked_pack_vector packs; /* sorted by name */
    _Atomic size_t next_pack;         /* the next one that a worker takes */

    pthread_mutex_t lock; /* guards the three below, and the callbacks, while packs are checked */
    struct check_result result;
    struct id_set damaged;     /* chunks that do not verify, tagged with the number of their pack */
    struct error_report error; /* ends the check */

    /* By the pack's number, for the catalogs. */
    struct pack_fact *packs_there;
    uint32_t packs_there_count;
    bool needs_unindexed; /* a backup has a chunk that only packs without an index have */
};

void check_tell(struct check_run *run, const struct check_problem *problem);
void check_problem(struct check_run *run, const char *object, const char *why);
void check_remark(struct check_run *run, const char *object, const char *why);
bool check_cancelled(const struct check_run *run);
/* A failure that is not the repository's: it ends the check. */
bool check_is_fatal(int r);

/* Reads an object and compares it with the SHA-256 in its name, then hands it to parse, which may
 * be NULL.  1: all right; 0: it is not, and that has been told, or it is gone; negative: fatal. */
_must_check_ int check_object(struct check_run *run, const char *object_name,
                              int (*parse)(const void *data, size_t len));

/* check-packs.c: all packs, and whether the index names others. */
_must_check_ int check_packs(struct check_run *run);
/* check-backups.c */
_must_check_ int check_backups(struct check_run *run);
