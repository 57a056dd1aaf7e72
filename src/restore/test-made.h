/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the tests of restore: backups made up entry by entry, in a repository in memory. */
#pragma once

#include "basic/test.h"
#include "repo/writer.h"
#include "restore/restore.h"
#include "tree/key.h"

#define MADE_CHUNK_LEN (64u << 10)

DEFINE_VECTOR(made_entry_vector, struct entry *);

struct made {
    struct io *io; /* of the backend: what is put into packs can be damaged through it */
    struct repository *repo;
    struct backup *backup;
    struct pool *pool;
    struct writer *writer;
    struct catalog_store store;
    struct made_entry_vector entries;
    char *target; /* a directory that is not there yet, inside a new one */
    char *around; /* that one */

    /* what the callbacks of the last run said: lines "PATH: WHAT" and "LETTER PATH" */
    struct string_vector problems, actions;
    void (*on_action)(struct made *m, char action, const char *path);
    struct restore_options options; /* of the next run; target is filled in */
    struct restore_stats stats;
};

void made_init(struct made *m);
void made_release(struct made *m);

/* An entry with usual attributes; the caller may change them until made_finish().  path is one of
 * the backup, without leading '/'. */
struct entry *made_add(struct made *m, const char *path, enum entry_type type);
struct entry *made_directory(struct made *m, const char *path);
struct entry *made_symlink(struct made *m, const char *path, const char *target);
/* A file of chunks of MADE_CHUNK_LEN. */
struct entry *made_file(struct made *m, const char *path, const void *data, size_t len);
struct entry *made_text(struct made *m, const char *path, const char *text);
/* Of len bytes that only the seed decides. */
struct entry *made_random(struct made *m, const char *path, size_t len, uint64_t seed);
void made_append_data(struct made *m, struct entry *e, const void *data, size_t len);
void made_append_space(struct entry *e, enum extent_kind kind, uint64_t len);
void made_xattr(struct entry *e, const char *name, const char *value);

/* Writes catalog and backup object.  Roots without leading '/'; the list ends with NULL. */
void made_finish(struct made *m, const char *root, ...);
/* Finds the pack that has the chunk and overwrites one byte of its frame. */
void made_damage(struct made *m, const struct chunk_ref *ref);

/* Runs with m->options; problems, actions and stats are those of this run. */
int made_try(struct made *m);
/* The same; must succeed with that many problems. */
void made_run(struct made *m, size_t problem_count);
/* What was done with that path: the letter, or 0. */
char made_action(const struct made *m, const char *path);
bool made_has_problem(const struct made *m, const char *path, const char *word);

/* ---- the target ---- */

/* target/path, or around/path when it begins with "../"; valid until the 16th call after it */
const char *made_path(const struct made *m, const char *path);
void made_write(const struct made *m, const char *path, const void *data, size_t len);
bool made_exists(const struct made *m, const char *path);
void made_assert_file(const struct made *m, const char *path, const void *data, size_t len);
void made_assert_text(const struct made *m, const char *path, const char *text);
void made_assert_random(const struct made *m, const char *path, size_t len, uint64_t seed);
/* How many names the directory has. */
size_t made_count(const struct made *m, const char *path);
