/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/plan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "treetx/attributes.h"
#include "treetx/data.h"
#include "treetx/plan-private.h"

static const struct instruction nothing = {.kind = INSTRUCTION_NOTHING};

int plan_init(struct plan *plan, const struct stage *stage)
{
    struct statx stx;

    *plan = (struct plan){0};
    if (statx(stage->root_fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &stx) < 0)
        return -errno;
    plan->dev_major = stx.stx_dev_major;
    plan->dev_minor = stx.stx_dev_minor;
    plan->mount_id = stx.stx_mnt_id;
    return actor_init(&plan->actor, stage);
}

static void object_free(struct object *object)
{
    buffer_release(&object->old);
    buffer_release(&object->wanted);
    free(object->path);
    free(object->stage_path);
    free(object);
}

void plan_release(struct plan *plan)
{
    nodes_release(plan);
    for (size_t i = 0; i < plan->objects.count; i++)
        object_free(plan->objects.items[i]);
    object_vector_release(&plan->objects);
    step_vector_release(&plan->steps);
    buffer_release(&plan->bytes);
    actor_release(&plan->actor);
}

/* ---- what may be done where ---- */

/* A name in a directory that is there and stays. */
static int check_place(struct plan *plan, const char *path, bool may_be_deleted)
{
    if (!*path || !tree_path_valid(path))
        return plan_error(-EINVAL, path, "is no path in a tree that can be changed");
    if (node_cover(plan, path, false))
        return plan_error(-EINVAL, path, "is in something that is put, linked or deleted");
    const struct node *node = node_find(plan, path);
    if (!node || (may_be_deleted && node->state == NODE_DELETED))
        return 0;
    if (node->state != NODE_WAY)
        return plan_error(-EINVAL, path, "is put, linked or deleted twice");
    return plan_error(-EINVAL, path, "is changed, or something below it, and shall move, too");
}

static int check_absent(struct plan *plan, const char *path)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};

    if (node_find(plan, path))
        return 0; /* goes before */
    int r = look_live(plan, path, &seen);
    if (r == 0)
        return plan_error(-EEXIST, path, "is there already");
    return r == -ENOENT ? 0 : r;
}

static int look_present(struct plan *plan, const char *path, struct seen *ret_seen)
{
    int r = look_live(plan, path, ret_seen);

    return r == -ENOENT ? plan_error(r, path, "is not there") : r;
}

static int look_present_staged(struct plan *plan, const char *stage_name, struct seen *ret_seen)
{
    int r = look_staged(plan, stage_name, "", ret_seen);

    return r == -ENOENT ? plan_error(r, stage_name, "is not in the stage") : r;
}

/* Names in the directory of path are going to change. */
static int touch_parent(struct plan *plan, const char *path)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    const char *slash = strrchr(path, '/');
    CLEANUP_FREE char *dir = strndup(path, slash ? (size_t)(slash - path) : 0);
    struct object *object;

    if (!dir)
        return -ENOMEM;
    const struct node *node = node_find(plan, dir);
    if (node && node->object && node->object->names)
        return 0;
    int r = look_present(plan, dir, &seen);
    if (r >= 0 && seen.type != ENTRY_DIRECTORY)
        r = plan_error(-ENOTDIR, dir, "is no directory");
    if (r >= 0)
        r = object_get(plan, dir, &seen, false, &object);
    if (r >= 0)
        r = object_keep_old(object, &seen);
    if (r < 0)
        return r;
    object->names = true;
    /* What has another project id could not be moved into it. */
    if (object->old_flags & FS_PROJINHERIT_FL)
        object->locked = true;
    return 0;
}

static int set_state(struct plan *plan, const char *path, enum node_state state,
                     const char *stage_name)
{
    struct node *node;

    int r = node_get(plan, path, &node);
    if (r < 0)
        return r;
    node->state = state;
    if (!stage_name)
        return 0;
    node->stage_name = strdup(stage_name);
    return node->stage_name ? 0 : -ENOMEM;
}

/* Some file systems give a directory another mtime when its ".." changes. */
static bool needs_attributes(const struct seen *seen)
{
    return seen_is_locked(seen) || seen->type == ENTRY_DIRECTORY;
}

/* What is moved away must be movable, and be as before when it comes back. */
static int leave(struct plan *plan, const char *path, const struct seen *seen)
{
    struct object *object;

    if (!needs_attributes(seen))
        return 0;
    int r = object_get(plan, path, seen, false, &object);
    if (r < 0)
        return r;
    object->gone = true;
    node_find(plan, path)->object = NULL; /* whatever comes here is another one */
    return object_keep_old(object, seen);
}

/* What was staged is as it was when it is in its place. */
static int arrive(struct plan *plan, const char *path, const char *stage_name,
                  const struct seen *seen)
{
    CLEANUP(entry_release) struct entry e = {0};
    struct object *object;

    if (!needs_attributes(seen))
        return 0;
    int r = object_get(plan, path, seen, true, &object);
    if (r >= 0)
        r = attributes_capture(seen->path_fd, &seen->stx, &e);
    if (r >= 0)
        r = attributes_put(&object->wanted, &e, NULL);
    if (r < 0)
        return r;
    object->wanted_locks = object->locked;
    object->stage_path = strdup(stage_name);
    return object->stage_path ? 0 : -ENOMEM;
}

static void name_old(struct plan *plan, char ret_name[TREETX_STAGE_NAME_MAX])
{
    (void)snprintf(ret_name, TREETX_STAGE_NAME_MAX, "%" PRIx64, ++plan->old_count);
}

static unsigned flags_of(const struct seen *a, const struct seen *b)
{
    bool is_directory = a->type == ENTRY_DIRECTORY || (b && b->type == ENTRY_DIRECTORY);
    return is_directory ? INSTRUCTION_DIRECTORY : 0;
}

/* ---- names ---- */

static int add_rename(struct plan *plan, struct locator from, struct locator to,
                      const struct seen *seen)
{
    struct instruction redo = {.kind = INSTRUCTION_RENAME,
                               .flags = flags_of(seen, NULL),
                               .path = to,
                               .from = from,
                               .want = seen->ident};
    struct instruction undo = redo;

    undo.path = from;
    undo.from = to;
    return step_add(plan, &redo, &undo);
}

int plan_put(struct plan *plan, const char *stage_name, const char *path)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};

    int r = check_place(plan, path, true);
    if (r >= 0)
        r = check_absent(plan, path);
    if (r >= 0)
        r = look_present_staged(plan, stage_name, &seen);
    if (r >= 0)
        r = touch_parent(plan, path);
    if (r >= 0)
        r = add_rename(plan, (struct locator){PLACE_NEW, stage_name},
                       (struct locator){PLACE_TREE, path}, &seen);
    if (r >= 0)
        r = set_state(plan, path, NODE_PUT, stage_name);
    return r < 0 ? r : arrive(plan, path, stage_name, &seen);
}

int plan_delete(struct plan *plan, const char *path)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    char old[TREETX_STAGE_NAME_MAX];

    int r = check_place(plan, path, false);
    if (r >= 0)
        r = look_present(plan, path, &seen);
    if (r >= 0)
        r = touch_parent(plan, path);
    if (r >= 0)
        r = leave(plan, path, &seen);
    if (r < 0)
        return r;
    name_old(plan, old);
    r = add_rename(plan, (struct locator){PLACE_TREE, path}, (struct locator){PLACE_OLD, old},
                   &seen);
    return r < 0 ? r : set_state(plan, path, NODE_DELETED, NULL);
}

static int add_exchange(struct plan *plan, const char *path, const char *stage_name,
                        const struct seen *was, const struct seen *comes)
{
    struct instruction redo = {.kind = INSTRUCTION_EXCHANGE,
                               .flags = flags_of(was, comes),
                               .path = {PLACE_TREE, path},
                               .from = {PLACE_NEW, stage_name},
                               .want = comes->ident,
                               .other = was->ident};
    struct instruction undo = redo;

    undo.want = was->ident;
    undo.other = comes->ident;
    return step_add(plan, &redo, &undo);
}

int plan_replace(struct plan *plan, const char *stage_name, const char *path)
{
    CLEANUP(seen_release) struct seen was = {.path_fd = -EBADF}, comes = {.path_fd = -EBADF};

    int r = check_place(plan, path, false);
    if (r >= 0)
        r = look_present(plan, path, &was);
    if (r >= 0)
        r = look_present_staged(plan, stage_name, &comes);
    if (r >= 0)
        r = touch_parent(plan, path);
    if (r >= 0)
        r = leave(plan, path, &was);
    if (r >= 0)
        r = add_exchange(plan, path, stage_name, &was, &comes);
    if (r >= 0)
        r = set_state(plan, path, NODE_PUT, stage_name);
    return r < 0 ? r : arrive(plan, path, stage_name, &comes);
}

/* ---- what is there after the steps so far ---- */

static int resolve(struct plan *plan, const char *path, struct seen *ret_seen, bool *ret_staged)
{
    if (!tree_path_valid(path))
        return plan_error(-EINVAL, path, "is no path in a tree that can be changed");
    const struct node *cover = node_cover(plan, path, true);
    *ret_staged = cover != NULL;
    if (!cover)
        return look_present(plan, path, ret_seen);
    if (cover->state == NODE_LINK)
        return plan_error(-EINVAL, path, "is a link: it has to be named as what it is linked to");
    if (cover->state == NODE_DELETED)
        return plan_error(-ENOENT, path, "is deleted");
    const char *below = path + strlen(cover->path);
    int r = look_staged(plan, cover->stage_name, *below == '/' ? below + 1 : below, ret_seen);
    return r == -ENOENT ? plan_error(r, path, "is not in what is put there") : r;
}

/* Where the new name goes to: a directory that stays, or one that is put. */
static int prepare_link(struct plan *plan, const char *path)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    const struct node *cover = node_cover(plan, path, false);

    if (!cover) {
        int r = check_place(plan, path, true);
        if (r >= 0)
            r = check_absent(plan, path);
        return r < 0 ? r : touch_parent(plan, path);
    }
    if (cover->state != NODE_PUT || !tree_path_valid(path))
        return plan_error(-EINVAL, path, "is in something that is linked or deleted");
    if (node_find(plan, path))
        return plan_error(-EINVAL, path, "is put, linked or deleted twice");
    int r = look_staged(plan, cover->stage_name, path + strlen(cover->path) + 1, &seen);
    if (r == 0)
        return plan_error(-EEXIST, path, "is in what is put there already");
    return r == -ENOENT ? 0 : r;
}

static int keep_linked(struct plan *plan, const char *path, const struct seen *seen, bool staged)
{
    struct object *object;
    struct node *node;

    if (staged)
        return 0;
    if (!seen_is_locked(seen))
        return node_get(plan, path, &node);
    int r = object_get(plan, path, seen, false, &object);
    if (r < 0)
        return r;
    object->linked = true;
    return object_keep_old(object, seen);
}

int plan_link(struct plan *plan, const char *existing, const char *path)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    bool staged;

    int r = prepare_link(plan, path);
    if (r >= 0)
        r = resolve(plan, existing, &seen, &staged);
    if (r >= 0 && seen.type == ENTRY_DIRECTORY)
        r = plan_error(-EPERM, existing, "is a directory, which cannot be linked to");
    if (r >= 0)
        r = keep_linked(plan, existing, &seen, staged);
    if (r < 0)
        return r;
    struct instruction redo = {.kind = INSTRUCTION_LINK,
                               .path = {PLACE_TREE, path},
                               .from = {PLACE_TREE, existing},
                               .want = seen.ident};
    struct instruction undo = redo;
    undo.kind = INSTRUCTION_UNLINK;
    r = step_add(plan, &redo, &undo);
    return r < 0 ? r : set_state(plan, path, NODE_LINK, NULL);
}

/* ---- attributes ---- */

static bool has_locks(uint32_t flags)
{
    return flags & (META_FLAGS_LOCKS | FS_PROJINHERIT_FL);
}

int plan_set_meta(struct plan *plan, const char *path, const struct entry *wanted,
                  const struct owner_map *owners)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    struct object *object;
    bool staged;

    int r = resolve(plan, path, &seen, &staged);
    if (r >= 0 && !*path && (wanted->flags & META_FLAGS_LOCKS))
        r = plan_error(-EPERM, path,
                       "is to be immutable or append-only: the stage in it could not "
                       "be removed any more");
    if (r >= 0 && seen.type != wanted->type)
        r = plan_error(-EINVAL, path, "is of another type than the attributes");
    if (r >= 0)
        r = object_get(plan, path, &seen, staged, &object);
    if (r >= 0 && !staged)
        r = object_keep_old(object, &seen);
    if (r < 0)
        return r;
    buffer_clear(&object->wanted);
    object->wanted_locks = has_locks(wanted->flags);
    return attributes_put(&object->wanted, wanted, owners);
}

int plan_root_times(struct plan *plan, const struct timespec times[2])
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    struct object *object;

    int r = look_present(plan, "", &seen);
    if (r < 0)
        return r;
    seen.stx.stx_atime =
        (struct statx_timestamp){.tv_sec = times[0].tv_sec, .tv_nsec = (uint32_t)times[0].tv_nsec};
    seen.stx.stx_mtime =
        (struct statx_timestamp){.tv_sec = times[1].tv_sec, .tv_nsec = (uint32_t)times[1].tv_nsec};
    r = object_get(plan, "", &seen, false, &object);
    return r < 0 ? r : object_keep_old(object, &seen);
}

/* ---- contents ---- */

static int open_contents(struct plan *plan, const char *path, struct object **ret_object,
                         int *ret_fd)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    struct object *object;
    bool staged;

    int r = resolve(plan, path, &seen, &staged);
    if (r >= 0 && (staged || seen.type != ENTRY_REGULAR))
        r = plan_error(-EINVAL, path, "is no file that was there before");
    if (r >= 0)
        r = object_get(plan, path, &seen, false, &object);
    if (r >= 0)
        r = object_keep_old(object, &seen);
    if (r >= 0)
        r = reopen(seen.path_fd, O_RDONLY, ret_fd);
    if (r < 0)
        return r;
    if (!object->contents) {
        object->contents = true;
        object->old_size = seen.stx.stx_size;
        object->ctime = seen.stx.stx_ctime;
        name_old(plan, object->saved);
    }
    *ret_object = object;
    return 0;
}

/* Of what lies before the old end. */
static int save_range(struct plan *plan, const struct object *object, int fd, uint64_t offset,
                      uint64_t *len)
{
    if (offset >= object->old_size) {
        *len = 0;
        return 0;
    }
    *len = MIN(*len, object->old_size - offset);
    CLEANUP_CLOSE int saved_fd =
        openat(plan->actor.old_fd, object->saved, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r = saved_fd < 0 ? -errno : data_copy(fd, saved_fd, offset, *len);
    if (r < 0)
        return error_note_describe(r, "cannot keep the contents of '%s' aside", object->path);
    return 0;
}

/* Whatever redo does to the range: what was there is copied back. */
static int add_contents(struct plan *plan, const char *path, struct instruction *redo,
                        uint64_t offset, uint64_t len)
{
    CLEANUP_CLOSE int fd = -EBADF;
    struct object *object;
    struct instruction undo = nothing;

    int r = open_contents(plan, path, &object, &fd);
    if (r >= 0)
        r = save_range(plan, object, fd, offset, &len);
    if (r < 0)
        return r;
    redo->want = object->ident;
    if (len > 0)
        undo = (struct instruction){.kind = INSTRUCTION_COPY,
                                    .path = {PLACE_TREE, path},
                                    .from = {PLACE_OLD, object->saved},
                                    .want = object->ident,
                                    .offset = offset,
                                    .len = len};
    return step_add(plan, redo, &undo);
}

static int check_range(const char *path, uint64_t offset, uint64_t len)
{
    if (offset > INT64_MAX || len > INT64_MAX - offset)
        return plan_error(-EINVAL, path, "cannot have that range");
    return 0;
}

int plan_copy(struct plan *plan, const char *path, const char *stage_name, uint64_t offset,
              uint64_t len)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};
    struct instruction redo = {.kind = INSTRUCTION_COPY,
                               .path = {PLACE_TREE, path},
                               .from = {PLACE_NEW, stage_name},
                               .offset = offset,
                               .len = len};

    int r = check_range(path, offset, len);
    if (r >= 0)
        r = look_present_staged(plan, stage_name, &seen);
    if (r >= 0 && (seen.type != ENTRY_REGULAR || seen.stx.stx_size < offset + len))
        r = plan_error(-EINVAL, stage_name, "in the stage does not have that range");
    return r < 0 ? r : add_contents(plan, path, &redo, offset, len);
}

int plan_punch(struct plan *plan, const char *path, uint64_t offset, uint64_t len)
{
    struct instruction redo = {
        .kind = INSTRUCTION_PUNCH, .path = {PLACE_TREE, path}, .offset = offset, .len = len};

    int r = check_range(path, offset, len);
    return r < 0 ? r : add_contents(plan, path, &redo, offset, len);
}

int plan_resize(struct plan *plan, const char *path, uint64_t size)
{
    struct instruction redo = nothing;

    int r = check_range(path, size, 0);
    if (r >= 0)
        r = add_contents(plan, path, &redo, size, INT64_MAX - size);
    if (r < 0)
        return r;
    struct object *object = node_find(plan, path)->object;
    object->resized = true;
    object->new_size = size;
    return 0;
}
