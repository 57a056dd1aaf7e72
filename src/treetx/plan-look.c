/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/text.h"
#include "treetx/attributes.h"
#include "treetx/plan-private.h"

int plan_error(int r, const char *path, const char *what)
{
    CLEANUP_FREE char *shown = text_escape(path, strlen(path));

    return error_note(r, "'%s' %s", *path ? (shown ? shown : "?") : ".", what);
}

void seen_release(struct seen *seen)
{
    if (seen->path_fd >= 0)
        (void)close(seen->path_fd);
    seen->path_fd = -EBADF;
}

bool seen_is_locked(const struct seen *seen)
{
    if (seen->stx.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
        return true;
    if (geteuid() == 0)
        return false;
    unsigned need = seen->type == ENTRY_DIRECTORY ? 0700 : seen->type == ENTRY_REGULAR ? 0600 : 0;
    return (seen->stx.stx_mode & need) != need;
}

static int look_fd(struct seen *seen)
{
    struct entry e = {0};

    if (statx(seen->path_fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID,
              &seen->stx) < 0)
        return -errno;
    meta_from_statx(&seen->stx, &e);
    seen->type = e.type;
    return ident_get(seen->path_fd, "", &seen->ident);
}

static int look_at(int dir_fd, const char *name, struct seen *ret_seen)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};

    seen.path_fd = openat(dir_fd, *name ? name : ".", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int r = seen.path_fd < 0 ? -errno : look_fd(&seen);
    if (r < 0)
        return r;
    *ret_seen = seen;
    seen.path_fd = -EBADF;
    return 0;
}

static int split(const char *path, char **ret_dir, const char **ret_name)
{
    const char *slash = strrchr(path, '/');

    *ret_name = slash ? slash + 1 : path;
    *ret_dir = strndup(path, slash ? (size_t)(slash - path) : 0);
    return *ret_dir ? 0 : -ENOMEM;
}

static int describe_failure(int r, const char *path)
{
    CLEANUP_FREE char *shown = text_escape(path, strlen(path));

    if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
        return -ENOENT;
    return error_note_describe(r, "cannot look at '%s'", shown ? shown : "?");
}

int look_live(struct plan *plan, const char *path, struct seen *ret_seen)
{
    CLEANUP_FREE char *dir = NULL;
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    const char *name;
    int dir_fd;

    if (!tree_path_valid(path))
        return plan_error(-EINVAL, path, "is no path in a tree that can be changed");
    int r = split(path, &dir, &name);
    if (r >= 0)
        r = dir_cache_get(plan->actor.dirs, dir, &dir_fd);
    if (r >= 0)
        r = look_at(dir_fd, name, &seen);
    if (r < 0)
        return describe_failure(r, path);
    if (seen.stx.stx_dev_major != plan->dev_major || seen.stx.stx_dev_minor != plan->dev_minor ||
        seen.stx.stx_mnt_id != plan->mount_id)
        return plan_error(-EXDEV, path, "is on another volume than the target");
    *ret_seen = seen;
    seen.path_fd = -EBADF;
    return 0;
}

int look_staged(struct plan *plan, const char *stage_name, const char *below, struct seen *ret_seen)
{
    CLEANUP_FREE char *path = NULL, *dir = NULL;
    CLEANUP_CLOSE int dir_fd = -EBADF;
    const char *name;

    if (!tree_path_valid(stage_name) || !*stage_name || strchr(stage_name, '/'))
        return plan_error(-EINVAL, stage_name, "is no name in the stage");
    if (asprintf(&path, "%s%s%s", stage_name, *below ? "/" : "", below) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    int r = split(path, &dir, &name);
    if (r >= 0)
        r = beneath_open_dir(plan->actor.new_fd, dir, &dir_fd);
    if (r >= 0)
        r = look_at(dir_fd, name, ret_seen);
    return r < 0 ? describe_failure(r, path) : 0;
}

/* ---- objects ---- */

int object_get(struct plan *plan, const char *path, const struct seen *seen, bool staged,
               struct object **ret_object)
{
    struct node *node;

    int r = node_get(plan, path, &node);
    if (r < 0)
        return r;
    if (!node->object) {
        struct object *object = calloc(1, sizeof(*object));
        if (!object)
            return -ENOMEM;
        object->path = strdup(path);
        r = object->path ? object_vector_push(&plan->objects, &object) : -ENOMEM;
        if (r < 0) {
            free(object->path);
            free(object);
            return r;
        }
        object->ident = seen->ident;
        object->type = seen->type;
        object->staged = staged;
        object->locked = seen_is_locked(seen);
        node->object = object;
    }
    if (!ident_equal(&node->object->ident, &seen->ident))
        return plan_error(-UMBRA_E_TREE_CHANGED, path, "has been changed by somebody else");
    *ret_object = node->object;
    return 0;
}

int object_keep_old(struct object *object, const struct seen *seen)
{
    CLEANUP(entry_release) struct entry e = {0};

    if (object->old.len > 0)
        return 0;
    int r = attributes_capture(seen->path_fd, &seen->stx, &e);
    if (r >= 0)
        r = attributes_put(&object->old, &e, NULL);
    if (r < 0)
        return describe_failure(r, object->path);
    object->old_flags = e.flags;
    object->project_id = e.project_id;
    return 0;
}

int step_add(struct plan *plan, const struct instruction *redo, const struct instruction *undo)
{
    struct step step = {.at = plan->bytes.len};

    instruction_put(&plan->bytes, redo);
    step.redo_len = (uint32_t)(plan->bytes.len - step.at);
    instruction_put(&plan->bytes, undo);
    step.undo_len = (uint32_t)(plan->bytes.len - step.at) - step.redo_len;
    int r = buffer_finish(&plan->bytes);
    return r < 0 ? r : step_vector_push(&plan->steps, &step);
}
