/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file system in memory that io-memory.c and io-crash.c share; its design is in io-memory.c.
 * Whoever calls a function named *_locked holds fs->lock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "basic/io.h"
#include "basic/vector.h"

/* Bytes of a file, shared between states and clones until one of them writes. */
struct blob {
    atomic_uint refs;
    size_t len;
    size_t allocated;
    uint8_t *data;
};

/* A change of a file's bytes that no sync has made durable yet. */
struct file_change {
    uint64_t offset;   /* of a write; of a truncation, the new length */
    struct blob *data; /* what was written; NULL: a truncation */
};

struct entry {
    char *name;
    struct node *node; /* holds a reference */
};

DEFINE_VECTOR(file_change_vector, struct file_change);
DEFINE_VECTOR(entry_vector, struct entry);

/* What programs see now, and what the disk would show if it kept nothing of its cache. */
enum memory_state { MEMORY_NOW, MEMORY_DURABLE, MEMORY_STATE_MAX };

struct node {
    struct memory_io *fs;
    unsigned refs; /* entries, name changes, open files */
    bool is_directory;
    uint64_t mtime_ns;
    struct blob *contents[MEMORY_STATE_MAX];     /* of a file; NULL: empty */
    struct file_change_vector changes;           /* of a file: leads from durable to now */
    struct entry_vector names[MEMORY_STATE_MAX]; /* of a directory; sorted */
    struct node *prev, *next;                    /* all nodes of fs, oldest first */
    struct node *copy;                           /* used while cloning */
};

/* A change of names that no sync_dir has made durable yet: from is taken away, to is set.  Only the
 * one or the other for an unlink or a new file; both, and atomic, for a rename. */
struct name_change {
    struct node *from_dir, *to_dir; /* each may be NULL */
    char *from, *to;
    struct node *node;
};

DEFINE_VECTOR(name_change_vector, struct name_change);

struct memory_io {
    struct io io;
    pthread_mutex_t lock; /* guards all below */
    bool has_cache;       /* a crash simulator: changes are recorded */
    bool crashed;
    unsigned epoch; /* counts reboots; files opened before the last one are dead */
    uint64_t sync_count;
    uint64_t crash_at_sync;
    uint64_t random_state;
    uint64_t clock_ns;
    struct node *root;
    struct node *first, *last;
    struct name_change_vector name_changes; /* in the order they were made */
};

_must_check_ int memory_new(uint64_t seed, bool has_cache, struct memory_io **ret_fs);
/* NULL when io is of another kind. */
struct memory_io *memory_of(struct io *io);

void blob_unref(struct blob *blob);
struct blob *blob_ref(struct blob *blob);
/* Both make the blob the caller's alone first.  Bytes between the old end and offset become 0. */
_must_check_ int blob_write(struct blob **blob, const void *data, size_t len, uint64_t offset);
_must_check_ int blob_truncate(struct blob **blob, uint64_t len_bytes);

_must_check_ int node_new(struct memory_io *fs, bool is_directory, struct node **ret_node);
struct node *node_ref(struct node *node);
void node_unref(struct node *node);
void file_change_release(struct file_change *change);
void file_changes_clear(struct node *node);
void names_clear(struct entry_vector *names);
_must_check_ int names_copy(const struct entry_vector *from, struct entry_vector *to);

_must_check_ int name_change_apply(const struct name_change *change, enum memory_state state);
void name_change_release(struct name_change *change);

/* In io-crash.c: decides what of the cache the disk has kept. */
void crash_power_cut_locked(struct memory_io *fs);
