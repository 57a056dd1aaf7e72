/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directories of the target.
 *
 * A directory is made 0700 and is given its attributes when all below it is done, so that nobody
 * looks into it meanwhile, its times stay, and neither its default ACL nor its setgid bit gets into
 * what is put there.  A directory that is there is used as it is; +i and +a are cleared for the
 * time being.  Directories that merely lead to what is restored get attributes only if they were
 * made here: they are not part of what was asked for.
 *
 * Only the planning thread is here.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/restore-private.h"

/* What new files take over from their directory. */
#define INHERITED_FLAGS (META_FLAGS_RECORDED & ~(META_FLAGS_LOCKS | FS_TOPDIR_FL))

struct restore_node *restore_node_ref(struct restore_node *node)
{
    node->refs++;
    return node;
}

void restore_node_unref(struct restore_node *node)
{
    if (!node || --node->refs > 0)
        return;
    if (node->fd >= 0)
        (void)close(node->fd);
    entry_release(&node->entry);
    string_vector_release_all(&node->names);
    free(node->path);
    free(node->place);
    free(node->source);
    free(node);
}
DEFINE_CLEANUP_PTR(struct restore_node *, restore_node_unref);

/* Names what is wrong, and leaves it in the node for all below it. */
static void node_fail(struct restore *restore, struct restore_node *node, int r, const char *what)
{
    error_save(&node->error, r);
    if (restore->mode == RESTORE_VERIFY && restore_has_failed(restore, node->path))
        return;
    restore_problem(restore, node->path, "%s: %s", what, error_text(r));
}

/* ---- descriptors ---- */

/* Of a directory that was there: what keeps us from working in it, and what it does to new files.
 */
static int prepare_existing(struct restore *restore, struct restore_node *node)
{
    unsigned flags = 0;
    struct stat st;

    if (fstat(node->fd, &st) < 0)
        return -errno;
    if (restore->stage)
        return st.st_dev == restore->root_dev
                   ? 0
                   : error_note(-EXDEV, "another file system is mounted there, or it is another "
                                        "subvolume: nothing can change both at once");
    if (ioctl(node->fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & META_FLAGS_LOCKS)) {
        int r = meta_clear_immutable(node->fd);
        if (r < 0)
            return r;
        node->saved_flags = flags & META_FLAGS_LOCKS;
    }
    node->inherits |= (flags & INHERITED_FLAGS) != 0;
    return restore_note_fs(restore, node->fd, st.st_dev);
}

int restore_node_get_fd(struct restore *restore, struct restore_node *node)
{
    if (node->error.code < 0)
        return error_raise(&node->error);
    if (node->fd_users == 0) {
        int r = beneath_open_dir(restore->root_fd, node->place, &node->fd);
        if (r >= 0 && restore->mode == RESTORE_WRITE && !node->made && !node->prepared) {
            r = prepare_existing(restore, node);
            node->prepared = r >= 0;
            if (r < 0)
                (void)close(TAKE_FD(node->fd));
        }
        if (r < 0) {
            node_fail(restore, node, r, "the directory cannot be used");
            return r;
        }
    }
    node->fd_users++;
    return 0;
}

void restore_node_put_fd(struct restore_node *node)
{
    if (--node->fd_users == 0)
        (void)close(TAKE_FD(node->fd));
}

/* ---- making ---- */

static int make_directory(struct restore_node *node, int parent_fd, const char *name)
{
    CLEANUP_CLOSE int fd = -EBADF;

    if (mkdirat(parent_fd, name, 0700) < 0)
        return -errno;
    node->made = true;
    if (!(node->entry.flags & META_FLAGS_EARLY) && node->entry.xattrs.count == 0 && !node->inherits)
        return 0;
    fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    meta_apply_early_fd(fd, &node->entry, node->inherits);
    node->inherits = true;
    return 0;
}

/* Who is not root may have locked himself out of a directory of his own. */
static int unlock_existing(struct restore_node *node, int parent_fd, const char *name,
                           const struct stat *st)
{
    CLEANUP_CLOSE int fd = -EBADF;
    struct stat now;

    if (geteuid() == 0 || st->st_uid != geteuid() || (st->st_mode & 0700) == 0700)
        return 0;
    int r = open_path(parent_fd, name, &fd, &now);
    if (r >= 0 && !S_ISDIR(now.st_mode))
        r = -ENOTDIR;
    if (r < 0)
        return r;
    node->saved_mode = now.st_mode & 07777;
    node->mode_changed = true;
    return chmod_path(fd, node->saved_mode | 0700);
}

/* In the place of name, where something else is or nothing. */
static int make_in_place(struct restore *restore, struct restore_node *node,
                         struct restore_node *parent, const char *name, bool something_is_there)
{
    char staged[TEMPORARY_NAME_MAX];

    if (!restore->stage) {
        int r = something_is_there ? beneath_remove(parent->fd, name) : 0;
        return r < 0 ? r : make_directory(node, parent->fd, name);
    }
    stage_name(restore->stage, staged);
    char *place = stage_place(staged);
    if (!place)
        return -ENOMEM;
    free(node->place);
    node->place = place;
    node->inherits = true;
    node->staged = true;
    node->replaces = something_is_there;
    atomic_store(&parent->changed, true);
    return make_directory(node, stage_fd(restore->stage), staged);
}

/* What is there in a directory that we did not make. */
static int use_or_make(struct restore *restore, struct restore_node *node,
                       struct restore_node *parent, const char *name)
{
    struct stat st;

    if (fstatat(parent->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT)
            return -errno;
        if (restore->mode == RESTORE_VERIFY)
            return error_note(-ENOENT, "verification: it is not there");
        node->made = restore->mode == RESTORE_DRY_RUN;
        return node->made ? 0 : make_in_place(restore, node, parent, name, false);
    }
    if (S_ISDIR(st.st_mode)) {
        bool unlock = restore->mode == RESTORE_WRITE && !restore->stage;
        return unlock ? unlock_existing(node, parent->fd, name, &st) : 0;
    }
    if (restore->mode == RESTORE_VERIFY)
        return error_note(-ENOTDIR, "verification: it is no directory");
    if (restore->mode == RESTORE_DRY_RUN) {
        node->made = true;
        return 0;
    }
    return make_in_place(restore, node, parent, name, true);
}

static int node_make(struct restore *restore, struct restore_node *node,
                     struct restore_node *parent, const char *name)
{
    if (restore->mode == RESTORE_DRY_RUN && parent->made) {
        node->made = true;
        return 0;
    }
    int r = restore_node_get_fd(restore, parent);
    if (r < 0)
        return r;
    node->inherits = parent->inherits;
    r = parent->made ? make_directory(node, parent->fd, name) : -EEXIST;
    if (r == -EEXIST)
        r = use_or_make(restore, node, parent, name);
    restore_node_put_fd(parent);
    return r;
}

/* Everything in it is the backup's, and may go when the backup does not have it. */
static bool may_delete(const struct restore *restore, const struct restore_node *node)
{
    return restore->options->delete_extra && restore->mode != RESTORE_VERIFY && !node->way &&
           !node->made && !(node->entry.remarks & ENTRY_CONTENT_UNREADABLE);
}

/* Takes the three paths over. */
static int node_alloc(const struct entry *e, char *path, char *place, char *source,
                      struct restore_node **ret_node)
{
    CLEANUP(restore_node_unrefp) struct restore_node *node = calloc(1, sizeof(*node));
    if (!node) {
        free(path);
        free(place);
        free(source);
        return -ENOMEM;
    }
    node->refs = 1;
    node->fd = -EBADF;
    node->path = path;
    node->place = place;
    node->source = source;
    if (!path || !place || !source)
        return -ENOMEM;
    if (e) {
        int r = entry_copy(e, &node->entry);
        if (r < 0)
            return r;
        node->has_entry = true;
    }
    *ret_node = TAKE_PTR(node);
    return 0;
}

int restore_node_new(struct restore *restore, struct restore_node *parent, const struct entry *e,
                     const char *name, bool way, struct restore_node **ret_node)
{
    struct restore_node *node = NULL;

    int r = node_alloc(e, restore_join(parent->path, name), restore_join(parent->place, name),
                       restore_join(parent->source, name), &node);
    if (r < 0)
        return r;
    node->parent = parent;
    node->way = way;
    if (parent->error.code < 0) {
        (void)error_raise(&parent->error);
        node_fail(restore, node, parent->error.code, "its directory cannot be used");
    } else {
        r = node_make(restore, node, parent, name);
        if (r < 0 && restore_error_is_fatal(r)) {
            r = error_prefix(r, "cannot make directory '%s'", node->path);
            restore_node_unref(node);
            return r;
        }
        if (r < 0)
            node_fail(restore, node, r,
                      restore->mode == RESTORE_VERIFY ? "verification" : "cannot be made");
    }
    if (node->made && restore->mode != RESTORE_VERIFY)
        restore_action(restore, 'c', node->path, "");
    node->delete_extra = may_delete(restore, node);
    *ret_node = node;
    return 0;
}

int restore_node_new_root(struct restore *restore, struct restore_node **ret_node)
{
    const struct selection *s = &restore->selection;
    const struct entry *e = s->base_found && !s->single ? &s->base_entry : NULL;
    struct restore_node *node = NULL;

    int r = node_alloc(e, strdup(""), strdup(""), strdup(s->base), &node);
    if (r < 0)
        return r;
    node->way = !e || selection_is_way(s, s->base) || !selection_includes_dir(s, s->base);
    node->made = restore->mode != RESTORE_VERIFY && restore->root_made;
    if (node->made)
        restore_action(restore, 'c', "", "");
    node->delete_extra = may_delete(restore, node);
    *ret_node = node;
    return 0;
}

/* ---- finishing ---- */

static int compare_names(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static bool belongs(const struct restore_node *node, const char *name)
{
    return node->names.count > 0 && bsearch(&name, node->names.items, node->names.count,
                                            sizeof(*node->names.items), compare_names) != NULL;
}

static bool is_directory(int dir_fd, const char *name)
{
    struct stat st;
    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* What an exclude rule matches was not to be looked at, so it is not to be deleted either. */
static int is_excluded(struct restore *restore, const struct restore_node *node, const char *name,
                       bool *ret_excluded)
{
    *ret_excluded = false;
    if (!restore->selection.excludes)
        return 0;
    CLEANUP_FREE char *source = restore_join(node->source, name);
    if (!source)
        return -ENOMEM;
    *ret_excluded = exclude_set_match(restore->selection.excludes, source, strlen(source),
                                      is_directory(node->fd, name));
    return 0;
}

static int list_extra(struct restore *restore, const struct restore_node *node,
                      struct string_vector *extra)
{
    int fd = openat(node->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *stream = fdopendir(fd);
    if (!stream) {
        int saved = -errno;
        (void)close(fd);
        return saved;
    }
    int r = 0;
    const struct dirent *d;
    for (errno = 0; r >= 0 && (d = readdir(stream)); errno = 0) {
        bool excluded = false;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
            belongs(node, d->d_name) || stage_owns(node, d->d_name))
            continue;
        r = is_excluded(restore, node, d->d_name, &excluded);
        if (r >= 0 && !excluded)
            r = string_vector_add(extra, d->d_name);
    }
    if (r >= 0)
        r = -errno;
    (void)closedir(stream);
    return r;
}

static int delete_one(struct restore *restore, struct restore_node *node, const char *name)
{
    if (restore->mode != RESTORE_WRITE)
        return 0;
    return restore->stage ? stage_delete(restore->stage, node, name)
                          : beneath_remove(node->fd, name);
}

static int delete_extra(struct restore *restore, struct restore_node *node)
{
    struct string_vector extra = {0};

    int r = list_extra(restore, node, &extra);
    if (r == -ENOMEM)
        goto out;
    if (r < 0)
        restore_problem(restore, node->path, "cannot look for what is to be deleted: %s",
                        error_text(r));
    for (size_t i = 0; i < extra.count && !restore_stopping(restore); i++) {
        const char *name = extra.items[i];
        int d = delete_one(restore, node, name);
        if (d >= 0) {
            restore_action(restore, 'd', node->path, name);
            continue;
        }
        CLEANUP_FREE char *path = restore_join(node->path, name);
        restore_problem(restore, path, "cannot be deleted: %s", error_text(d));
    }
    r = 0;
out:
    string_vector_release_all(&extra);
    return r;
}

static void put_back(const struct restore_node *node)
{
    unsigned flags;

    if (node->mode_changed)
        (void)fchmod(node->fd, node->saved_mode);
    if (node->saved_flags && ioctl(node->fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= node->saved_flags;
        (void)ioctl(node->fd, FS_IOC_SETFLAGS, &flags);
    }
}

static int set_attributes(struct restore *restore, struct restore_node *node)
{
    struct meta_report report = {restore, node->path, ""};
    struct entry e = node->entry;
    bool locked = node->staged && (e.flags & META_FLAGS_LOCKS);

    if (locked) /* it could not be put in its place */
        e.flags &= ~META_FLAGS_LOCKS;
    int r = meta_apply_fd(node->fd, &e, restore->owners, node->made && !node->inherits,
                          restore_meta_problem, &report);
    return r < 0 || !locked ? r : stage_set_attributes(restore->stage, node, "", &node->entry);
}

static int finish_existing(struct restore *restore, struct restore_node *node)
{
    CLEANUP_FREE char *differences = NULL;

    int r = meta_compare_fd(node->fd, &node->entry, restore->owners, &differences);
    if (r < 0)
        return r;
    if (restore->mode == RESTORE_VERIFY) {
        if (*differences && !restore_has_failed(restore, node->path))
            restore_problem(restore, node->path, "verification: attributes differ: %s",
                            differences);
        return 0;
    }
    if (restore->stage && (*differences || atomic_load(&node->changed)))
        r = stage_set_attributes(restore->stage, node, "", &node->entry);
    else if (*differences && restore->mode == RESTORE_WRITE)
        r = set_attributes(restore, node);
    restore_action(restore, *differences ? 'a' : '=', node->path, "");
    return r;
}

static int finish_open(struct restore *restore, struct restore_node *node)
{
    int r = 0;

    if (node->delete_extra && !restore_stopping(restore))
        r = delete_extra(restore, node);
    if (r < 0)
        return r;
    if (node->way && !(node->made && node->has_entry))
        put_back(node);
    else
        r = node->made ? set_attributes(restore, node) : finish_existing(restore, node);
    return r < 0 || !node->staged ? r : stage_put_node(restore->stage, node);
}

int restore_node_finish(struct restore *restore, struct restore_node *node)
{
    if (node->error.code < 0 || (restore->mode == RESTORE_DRY_RUN && node->made))
        return 0;
    int r = restore_node_get_fd(restore, node);
    if (r < 0)
        return 0; /* told */
    r = finish_open(restore, node);
    if (r < 0 && !restore_error_is_fatal(r)) {
        restore_problem(restore, node->path, "cannot set attributes: %s", error_text(r));
        r = 0;
    }
    restore_node_put_fd(node);
    return r;
}
