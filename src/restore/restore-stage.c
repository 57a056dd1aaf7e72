/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stage of an atomic restore.
 *
 * An atomic restore changes a tree wholly or not at all (treetx/treetx.h).  The engine works as
 * ever, but what it would change in a directory that was there it makes in the stage, a directory
 * of the transaction on the same file system, and notes here what is to become of it: take the
 * place of a name, be written over parts of a large file.  A directory that is new is made in the
 * stage with all that is in it, by the usual way.  When everything is there, without a single
 * problem, the commit does what was noted; until then nothing in the tree has changed.
 *
 * chattr +i and +a come last of all: they would be in the way of the other steps.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "restore/restore-private.h"
#include "treetx/treetx.h"

struct locked {
    char *path;
    struct entry entry;
};
DEFINE_VECTOR(locked_vector, struct locked);

struct restore_stage {
    struct restore *restore;
    struct treetx *tx;
    pthread_mutex_t lock; /* all below, and the transaction */
    bool has_steps;
    struct locked_vector locked;
};

/* What the commit cannot set would make the tree something between the two. */
static int on_problem(const char *path, const char *what, int r, void *userdata)
{
    struct restore_stage *stage = userdata;

    restore_meta_problem(what, r, &(struct meta_report){stage->restore, path, ""});
    return r;
}

/* The way back from an earlier change is given up for the way back from this one. */
static int make_room(const char *target)
{
    enum treetx_outcome outcome;
    enum treetx_state state;

    int r = treetx_look(target, &state);
    if (r < 0)
        return r;
    switch (state) {
    case TREETX_UNFINISHED: return treetx_recover(target, 0, &outcome);
    case TREETX_KEPT: return treetx_discard(target);
    case TREETX_NONE:
    case TREETX_RUNNING: break; /* which treetx_begin() tells */
    }
    return 0;
}

/* The target is as it was but for the stage, which is nobody's: no reason to set its times. */
static int begin(struct restore_stage *stage, const struct treetx_options *options)
{
    const struct restore *restore = stage->restore;
    struct stat st;

    if (fstat(restore->root_fd, &st) < 0)
        return -errno;
    int r = treetx_begin(restore->options->target, restore->root_fd, options, &stage->tx);
    if (r >= 0 && futimens(restore->root_fd, (struct timespec[]){st.st_atim, st.st_mtim}) < 0)
        r = -errno;
    return r;
}

int stage_new(struct restore *restore, struct restore_stage **ret_stage)
{
    const char *target = restore->options->target;
    struct restore_stage *stage = calloc(1, sizeof(*stage));
    if (!stage)
        return -ENOMEM;
    const struct treetx_options options = {.problem = on_problem, .userdata = stage};
    stage->restore = restore;
    int r = make_room(target);
    if (r >= 0)
        r = begin(stage, &options);
    if (r < 0) {
        struct error_report first = {0};
        error_save(&first, r);
        treetx_free(stage->tx);
        free(stage);
        return error_raise(&first);
    }
    (void)pthread_mutex_init(&stage->lock, NULL);
    *ret_stage = stage;
    return 0;
}

void stage_free(struct restore_stage *stage)
{
    if (!stage)
        return;
    treetx_free(stage->tx);
    for (size_t i = 0; i < stage->locked.count; i++) {
        free(stage->locked.items[i].path);
        entry_release(&stage->locked.items[i].entry);
    }
    locked_vector_release(&stage->locked);
    (void)pthread_mutex_destroy(&stage->lock);
    free(stage);
}

int stage_fd(const struct restore_stage *stage)
{
    return treetx_stage_fd(stage->tx);
}

void stage_name(struct restore_stage *stage, char ret_name[TEMPORARY_NAME_MAX])
{
    _Static_assert(TREETX_STAGE_NAME_MAX <= TEMPORARY_NAME_MAX, "names of the stage fit");
    treetx_stage_name(stage->tx, ret_name);
}

char *stage_place(const char *name)
{
    return restore_join(TREETX_STAGE_PATH, name);
}

bool stage_owns(const struct restore_node *node, const char *name)
{
    return !*node->path && strcmp(name, TREETX_STAGE_NAME) == 0;
}

/* ---- steps ---- */

static char *path_of(const struct restore_node *node, const char *name)
{
    return *name ? restore_join(node->path, name) : strdup(node->path);
}

static void lock_for_step(struct restore_stage *stage)
{
    pthread_mutex_lock(&stage->lock);
    stage->has_steps = true;
}

static int put(struct restore_stage *stage, const char *staged, const char *path,
               bool something_is_there)
{
    lock_for_step(stage);
    int r = something_is_there ? treetx_replace(stage->tx, staged, path)
                               : treetx_put(stage->tx, staged, path);
    pthread_mutex_unlock(&stage->lock);
    return r;
}

int stage_put(struct restore_stage *stage, struct restore_node *node, const char *staged,
              const char *name, bool something_is_there)
{
    CLEANUP_FREE char *path = path_of(node, name);
    if (!path)
        return -ENOMEM;
    atomic_store(&node->changed, true);
    return put(stage, staged, path, something_is_there);
}

int stage_put_node(struct restore_stage *stage, const struct restore_node *node)
{
    return put(stage, strrchr(node->place, '/') + 1, node->path, node->replaces);
}

int stage_delete(struct restore_stage *stage, struct restore_node *node, const char *name)
{
    CLEANUP_FREE char *path = path_of(node, name);
    if (!path)
        return -ENOMEM;
    atomic_store(&node->changed, true);
    lock_for_step(stage);
    int r = treetx_delete(stage->tx, path);
    pthread_mutex_unlock(&stage->lock);
    return r;
}

int stage_link(struct restore_stage *stage, struct restore_node *node, const char *first,
               const char *name)
{
    CLEANUP_FREE char *path = path_of(node, name);
    if (!path)
        return -ENOMEM;
    atomic_store(&node->changed, true);
    lock_for_step(stage);
    int r = treetx_link(stage->tx, first, path);
    pthread_mutex_unlock(&stage->lock);
    return r;
}

static int put_off(struct restore_stage *stage, const char *path, const struct entry *e)
{
    struct locked locked = {.path = strdup(path)};

    int r = locked.path ? entry_copy(e, &locked.entry) : -ENOMEM;
    if (r < 0) {
        free(locked.path);
        return r;
    }
    r = locked_vector_push(&stage->locked, &locked);
    if (r < 0) {
        free(locked.path);
        entry_release(&locked.entry);
    }
    return r;
}

int stage_set_attributes(struct restore_stage *stage, const struct restore_node *node,
                         const char *name, const struct entry *e)
{
    CLEANUP_FREE char *path = path_of(node, name);
    if (!path)
        return -ENOMEM;
    lock_for_step(stage);
    int r = e->flags & META_FLAGS_LOCKS
                ? put_off(stage, path, e)
                : treetx_set_meta(stage->tx, path, e, stage->restore->owners);
    pthread_mutex_unlock(&stage->lock);
    return r;
}

/* The length of this extent and of all after it that differ as it does, or do not. */
static uint64_t run_of(const struct job *job, size_t *index)
{
    const struct extent_vector *extents = &job->entry.extents;
    const bool differs = job->differs[*index];
    uint64_t len = 0;

    for (; *index < extents->count && (job->differs[*index] != 0) == differs; (*index)++)
        len += extents->items[*index].len;
    return len;
}

static int write_extents(struct restore_stage *stage, const struct job *job, const char *path,
                         const char *staged)
{
    const struct extent_vector *extents = &job->entry.extents;
    uint64_t offset = 0;
    int r = 0;

    for (size_t i = 0; i < extents->count && r >= 0;) {
        bool differs = job->differs[i];
        uint64_t len = run_of(job, &i);
        if (differs) /* holes, too: the stage has them */
            r = treetx_copy(stage->tx, path, staged, offset, len);
        offset += len;
    }
    return r < 0 ? r : treetx_resize(stage->tx, path, job->entry.size);
}

int stage_write(struct restore_stage *stage, const struct job *job, const char *staged)
{
    CLEANUP_FREE char *path = path_of(job->node, job->name);
    if (!path)
        return -ENOMEM;
    lock_for_step(stage);
    int r = write_extents(stage, job, path, staged);
    pthread_mutex_unlock(&stage->lock);
    return r;
}

/* ---- the end ---- */

int stage_commit(struct restore_stage *stage)
{
    int r = 0;

    if (!stage->has_steps) /* nothing to be taken back either */
        return treetx_abandon(TAKE_PTR(stage->tx));
    for (size_t i = 0; i < stage->locked.count && r >= 0; i++)
        r = treetx_set_meta(stage->tx, stage->locked.items[i].path, &stage->locked.items[i].entry,
                            stage->restore->owners);
    return r < 0 ? r : treetx_commit(stage->tx, NULL);
}
