/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The plan of a change: what was asked for, checked against what is there, and turned into updates
 * of the log.  The rules that it keeps are in treetx.c. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "basic/buffer.h"
#include "basic/vector.h"
#include "treetx/actor.h"
#include "treetx/treetx.h"

/* One update: where its two parts stand in plan->bytes. */
struct step {
    size_t at;
    uint32_t redo_len, undo_len;
};
DEFINE_VECTOR(step_vector, struct step);

/* What has its attributes, or its contents, changed, or must be made changeable. */
struct object {
    char *path;
    char *stage_path; /* of a staged thing as a whole: its name in the stage; else NULL */
    struct ident ident;
    enum entry_type type;
    bool staged;   /* it is put in place by this change: there is no old state */
    bool locked;   /* as it is, it cannot be changed */
    bool names;    /* of a directory: names in it change */
    bool contents; /* of a file */
    bool linked;   /* it gets one more name */
    bool gone;     /* it is moved away */
    bool resized;
    uint64_t old_size, new_size;
    struct statx_timestamp ctime; /* when its contents were kept aside */
    struct buffer old, wanted;    /* attributes; empty: none */
    bool wanted_locks;            /* wanted has +i or +a */
    uint32_t old_flags, project_id;
    char saved[TREETX_STAGE_NAME_MAX]; /* in old/: what is overwritten; "": nothing yet */
};
DEFINE_VECTOR(object_vector, struct object *);

struct node;

struct plan {
    struct actor actor; /* to look with; its fds are the stage's */
    uint32_t dev_major, dev_minor;
    uint64_t mount_id;
    struct node **buckets; /* by path: plan-node.c */
    size_t bucket_count, node_count;
    struct object_vector objects;
    struct step_vector steps;
    struct buffer bytes;
    uint64_t old_count; /* names in old/ given out */
};

/* The stage must outlive it. */
_must_check_ int plan_init(struct plan *plan, const struct stage *stage);
void plan_release(struct plan *plan);

/* As those of treetx.h. */
_must_check_ int plan_put(struct plan *plan, const char *stage_name, const char *path);
_must_check_ int plan_replace(struct plan *plan, const char *stage_name, const char *path);
_must_check_ int plan_delete(struct plan *plan, const char *path);
_must_check_ int plan_link(struct plan *plan, const char *existing, const char *path);
_must_check_ int plan_set_meta(struct plan *plan, const char *path, const struct entry *wanted,
                               const struct owner_map *owners);
_must_check_ int plan_copy(struct plan *plan, const char *path, const char *stage_name,
                           uint64_t offset, uint64_t len);
_must_check_ int plan_punch(struct plan *plan, const char *path, uint64_t offset, uint64_t len);
_must_check_ int plan_resize(struct plan *plan, const char *path, uint64_t size);
/* The times that the target itself is to have if nothing else is asked for: without the stage. */
_must_check_ int plan_root_times(struct plan *plan, const struct timespec times[2]);

/* Looks once more at what cannot be seen from identities alone. */
_must_check_ int plan_check(struct plan *plan);
/* Hands out all updates in order; the same ones each time. */
typedef int (*plan_fn)(const void *redo, size_t redo_len, const void *undo, size_t undo_len,
                       void *userdata);
_must_check_ int plan_each(struct plan *plan, const struct timespec *now, plan_fn fn,
                           void *userdata);
