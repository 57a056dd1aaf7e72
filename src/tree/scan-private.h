/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files scan*.c share.  The essay is in scan.c. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "basic/macro.h"
#include "tree/scan.h"

/* ---- scan-dir.c: directories and their fds ---- */

/* A directory that was opened, as long as anybody needs to open something in it: the scan_dir, and
 * each subdirectory that is not opened yet. */
struct dir_handle;

/* Takes over fd and path. */
_must_check_ int dir_handle_new(char *path, int fd, struct dir_handle **ret_handle);
struct dir_handle *dir_handle_ref(struct dir_handle *handle);
void dir_handle_unref(struct dir_handle *handle);
DEFINE_CLEANUP_PTR(struct dir_handle *, dir_handle_unref);
const char *dir_handle_path(const struct dir_handle *handle);
/* An fd that stays open until dir_handle_return. -UMBRA_E_CHANGED: another directory is there now.
 */
_must_check_ int dir_handle_borrow(struct dir_handle *handle, int *ret_fd);
void dir_handle_return(struct dir_handle *handle);

/* Raises the limit of open files as far as it goes, and returns the share of it for directories. */
unsigned scan_raise_fd_limit(void);

/* Opens a file of any type in dir_fd without leaving a trace where that is allowed. */
_must_check_ int scan_open_quietly(int dir_fd, const char *name, int flags, int *ret_fd);

/* A scan_dir with a reference for the caller.  Takes over the handle's reference; handle NULL: it
 * could not be opened, and path is taken over in place of the handle's. */
_must_check_ int scan_dir_new(struct dir_handle *handle, char *path, struct scan_dir **ret_dir);
/* NULL: it could not be opened. */
struct dir_handle *scan_dir_handle(const struct scan_dir *dir);
/* Memory for the names of dir's children; freed with it. */
_must_check_ int scan_dir_alloc_names(struct scan_dir *dir, size_t bytes, char **ret_names);

/* ---- scan-roots.c: what is to be walked ---- */

/* One component of the roots' paths; all of them are a tree. */
struct scan_root {
    const char *name;
    uint32_t name_len;
    bool is_root;          /* all that is below is wanted, else only what leads to a root */
    uint32_t first_child;  /* in order of the names; 0: none (number 0 is the top) */
    uint32_t next_sibling; /* 0: none */
};
DEFINE_VECTOR(scan_root_vector, struct scan_root);
DEFINE_VECTOR(scan_path_vector, char *);

struct scan_roots {
    struct scan_path_vector paths;   /* resolved, sorted in catalog order */
    struct scan_path_vector listed;  /* those of them that are not below another; not owned */
    struct scan_path_vector missing; /* those of them that are not there; not owned */
    struct scan_root_vector tree;    /* of the others; number 0 is "/" */
};

_must_check_ int scan_roots_init(struct scan_roots *roots, const char *const *paths, size_t count,
                                 const struct scan_options *options);
void scan_roots_release(struct scan_roots *roots);
/* The child of that name, or NULL.  parent may be NULL. */
const struct scan_root *scan_roots_find(const struct scan_roots *roots,
                                        const struct scan_root *parent, const char *name,
                                        size_t len);
const struct scan_root *scan_roots_first(const struct scan_roots *roots,
                                         const struct scan_root *parent);
const struct scan_root *scan_roots_next(const struct scan_roots *roots,
                                        const struct scan_root *root);

/* ---- scan-read.c: reading one directory ---- */

enum scan_node_state {
    NODE_WAITING, /* known from its parent */
    NODE_CLAIMED, /* a thread reads it */
    NODE_DONE,
};

/* A directory that is known and not delivered yet. */
struct scan_node {
    struct scan_node *next;       /* in catalog order */
    struct scan_node *todo_next;  /* the same, without those that are done */
    struct scan_node **todo_link; /* what points here in that list */
    enum scan_node_state state;
    bool partial;                 /* only what leads to a root is wanted */
    const struct scan_root *root; /* NULL: no root here or below */
    struct dir_handle *parent;    /* NULL: the top; dropped as soon as it is opened */
    uint32_t dev_major, dev_minor;
    int failure;          /* negative: the walk cannot go on (no memory) */
    struct scan_dir *dir; /* when done */
    char name[];
};

void scan_node_free(struct scan_node *node); /* with its references */
DEFINE_CLEANUP_PTR(struct scan_node *, scan_node_free);
_must_check_ int scan_node_new(struct dir_handle *parent, const char *name, size_t len,
                               struct scan_node **ret_node);

/* Memory that one reader at a time uses again and again. */
struct scan_scratch;
_must_check_ int scan_scratch_new(struct scan_scratch **ret_scratch);
void scan_scratch_free(struct scan_scratch *scratch);

/* What all readers share; constant during the walk. */
struct scan_plan {
    struct scan_roots roots;
    const struct exclude_set *excludes; /* NULL: none */
    bool exclude_caches;
    bool one_file_system;
};

/* Opens and lists node's directory: fills in node->dir, and gives the nodes of its subdirectories
 * as a list.  Only for want of memory does it fail. */
_must_check_ int scan_read_node(const struct scan_plan *plan, struct scan_scratch *scratch,
                                struct scan_node *node, struct scan_node **ret_subdirs);
