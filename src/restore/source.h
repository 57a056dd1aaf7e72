/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the contents of placeholders come from: the repository, and whatever else has the same
 * files.  The essay is in source.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/vector.h"
#include "repo/backup-object.h"
#include "repo/frame-cache.h"
#include "tree/entry.h"

#define SOURCE_REPO           "repo"
#define SOURCE_DIR            "dir:"  /* and an absolute path */
#define SOURCE_EXEC           "exec:" /* and a command of sh(1) */
#define SOURCE_ANSWER_TIME_MS 30000u  /* that another source may take for one chunk */
#define SOURCES_MAX           16u

struct source_options {
    struct repository *repo;
    struct frame_cache *frames;
    /* Valid ones (instant.h), in the order in which they are tried; "repo" comes first when it is
     * not among them. */
    const struct string_vector *specs;
    const char *base; /* the path of the backup that becomes the target: restore_find_base() */
    int volume_fd;    /* on the file system that is restored, which no source may be on; -1: none */
    bool may_be_absent;      /* a source that cannot be opened is tried again later, and no error */
    uint32_t answer_time_ms; /* 0: SOURCE_ANSWER_TIME_MS */
    /* Called once, by any thread: another source had to stand in.  May be NULL. */
    void (*on_stand_in)(const char *text, void *userdata);
    void *userdata;
};

/* All sources of a restore.  Any thread.  Repository and frame cache stay the caller's, and so do
 * base and descriptor, which are only used until this returns. */
struct source_set;
_must_check_ int source_set_new(const struct source_options *options, struct source_set **ret_set);
/* After all its readers. */
void source_set_free(struct source_set *set);
DEFINE_CLEANUP_PTR(struct source_set *, source_set_free);

struct source_stats {
    const char *spec;       /* the set's */
    uint64_t read_bytes;    /* given */
    uint64_t failure_count; /* chunks that it did not have, or not as they should be */
};
size_t source_set_count(const struct source_set *set);
void source_set_stats(struct source_set *set, size_t i, struct source_stats *ret_stats);

/* What one thread reads through. */
struct source_reader;
_must_check_ int source_reader_new(struct source_set *set, struct source_reader **ret_reader);
void source_reader_free(struct source_reader *reader);
DEFINE_CLEANUP_PTR(struct source_reader *, source_reader_free);

/*
 * Copies len bytes from offset of the chunk ref, which stands at file_offset of the file e.  What
 * is copied was verified against the chunk's id.  Fails when no source has it: with a failure for
 * which source_may_come_back() if there was one, else with that of the first source.
 */
_must_check_ int source_read(struct source_reader *reader, const struct entry *e,
                             uint64_t file_offset, const struct chunk_ref *ref, uint32_t offset,
                             void *to, uint32_t len);
/* Whether trying again later makes sense. */
bool source_may_come_back(int r);
