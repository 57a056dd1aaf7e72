/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files plan*.c share. */
#pragma once

#include "treetx/plan.h"

/* ---- paths that the plan has to do with: plan-node.c ---- */

enum node_state {
    NODE_WAY,     /* it, or something below it, is worked on; it stays where it is */
    NODE_PUT,     /* a staged thing comes here */
    NODE_LINK,    /* one more name */
    NODE_DELETED, /* what was here goes */
};

struct node {
    struct node *next; /* of the bucket */
    char *path;
    enum node_state state;
    char *stage_name; /* of NODE_PUT */
    struct object *object;
};

struct node *node_find(const struct plan *plan, const char *path);
/* Makes it if need be, as NODE_WAY, and the directories on its way. */
_must_check_ int node_get(struct plan *plan, const char *path, struct node **ret_node);
/* The node of path or of the closest directory above it that does not stay: put, linked or deleted.
 * NULL: none. */
struct node *node_cover(const struct plan *plan, const char *path, bool itself);
void nodes_release(struct plan *plan);

/* ---- what is there: plan-look.c ---- */

struct seen {
    int path_fd;
    struct ident ident;
    struct statx stx;
    enum entry_type type;
};
void seen_release(struct seen *seen);
/* -ENOENT, quietly; -EXDEV, -EINVAL (no path) with words. */
_must_check_ int look_live(struct plan *plan, const char *path, struct seen *ret_seen);
_must_check_ int look_staged(struct plan *plan, const char *stage_name, const char *below,
                             struct seen *ret_seen);
/* Whether something must be done before it can be moved, linked to or changed. */
bool seen_is_locked(const struct seen *seen);

/* The object of path, made if need be. */
_must_check_ int object_get(struct plan *plan, const char *path, const struct seen *seen,
                            bool staged, struct object **ret_object);
/* Its attributes as they are, if they are not there yet. */
_must_check_ int object_keep_old(struct object *object, const struct seen *seen);

_must_check_ int plan_error(int r, const char *path, const char *what);
_must_check_ int step_add(struct plan *plan, const struct instruction *redo,
                          const struct instruction *undo);
