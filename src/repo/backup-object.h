/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backup object: one recorded point, the sole commit of a backup.
 *
 * backups/<sha256> is made with one put-if-absent after everything it refers to is durable.  What
 * is not named by a backup object does not exist for readers.
 */
#pragma once

#include "basic/buffer.h"
#include "basic/string-vector.h"
#include "repo/backend.h"
#include "repo/crypt.h"
#include "tree/catalog.h"
#include "tree/meta.h"

#define BACKUP_OBJECT_LEN_MAX (64u << 20)
#define BACKUP_STRINGS_MAX    1024u
#define BACKUP_ID_LEN         64 /* hex digits */

/* A file system that the backup's files were on. */
struct backup_fs {
    char *type;   /* "ext4" */
    char *source; /* "/dev/sda1" */
    char *mount;  /* where it was mounted */
};
DEFINE_VECTOR(backup_fs_vector, struct backup_fs);

struct backup_stats {
    uint64_t file_count, directory_count, other_count; /* in the backup */
    uint64_t size_bytes; /* of all regular files' contents (hard links once) */
    uint64_t new_count, changed_count, unchanged_count; /* regular files, against the parent */
    uint64_t read_bytes;                                /* read from the source */
    uint64_t new_chunk_count, new_chunk_bytes;          /* not in the repository before, plain */
    uint64_t stored_bytes;                              /* added to the repository, packs */
    uint64_t problem_count; /* files that could not be read, wholly or in part */
};

struct backup {
    char id[BACKUP_ID_LEN +
            1]; /* hex of the object's SHA-256: not stored, but filled in by load and store */
    int64_t start_ns, end_ns;    /* since the epoch */
    char *host, *user, *program; /* program: "umbra 0.1.0" */
    struct string_vector roots;  /* absolute paths, sorted */
    struct string_vector tags;   /* sorted */
    struct string_vector excludes;
    char parent[BACKUP_ID_LEN + 1]; /* id of the backup that this one was compared with; "" */
    struct backup_stats stats;
    struct owner_vector owners;
    struct backup_fs_vector file_systems;
    struct catalog_root catalog;
};

void backup_release(struct backup *backup);
void backup_free(struct backup *backup); /* release and free */
DEFINE_CLEANUP_PTR(struct backup *, backup_free);

/* Commits: durable on return, backup->id filled in. */
_must_check_ int backup_store(struct backend *backend, const struct keyring *keyring,
                              const struct pack_table *names, struct backup *backup);
_must_check_ int backup_load(struct backend *backend, const struct keyring *keyring,
                             struct pack_table *names, const char *id, struct backup **ret_backup);
/* The plain body, parsed (load, and the fuzzer). */
_must_check_ int backup_parse(const void *data, size_t len, struct pack_table *names,
                              struct backup *ret_backup);

/* Each backup in turn, any order; it is the callback's for the call alone, unless it takes *backup
 * (TAKE_PTR).  Other than 0 ends it and is returned.  Damaged ones: warned of and counted. */
typedef int (*backup_each_fn)(struct backup **backup, void *userdata);
_must_check_ int backup_each(struct backend *backend, const struct keyring *keyring,
                             struct pack_table *names, backup_each_fn fn, void *userdata,
                             size_t *ret_damaged_count);
/* All backups, oldest first (by start, then id).  Damaged ones: warned of and counted. */
DEFINE_VECTOR(backup_vector, struct backup *);
void backup_vector_release_all(struct backup_vector *v);
_must_check_ int backup_load_all(struct backend *backend, const struct keyring *keyring,
                                 struct pack_table *names, struct backup_vector *ret_backups,
                                 size_t *ret_damaged_count);
/* "latest", a tag (its newest backup), an id, or a unique prefix of one (4 digits at least).  A tag
 * that is a prefix of another backup's id, too, is ambiguous.
 * -UMBRA_E_NO_BACKUP, -UMBRA_E_AMBIGUOUS. host: restricts "latest" and tags to a host; NULL: any.
 */
_must_check_ int backup_find(struct backend *backend, const struct keyring *keyring,
                             struct pack_table *names, const char *name, const char *host,
                             struct backup **ret_backup);
