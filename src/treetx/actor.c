/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/actor.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/log.h"
#include "basic/text.h"
#include "treetx/attributes.h"
#include "treetx/data.h"

/* ---- places ---- */

int actor_init(struct actor *actor, const struct stage *stage)
{
    *actor = (struct actor){.root_fd = stage->root_fd,
                            .stage_fd = stage->fd,
                            .new_fd = stage->new_fd,
                            .old_fd = stage->old_fd};
    return dir_cache_new(actor->root_fd, &actor->dirs);
}

void actor_release(struct actor *actor)
{
    dir_cache_free(actor->dirs);
    actor->dirs = NULL;
}

/* The directory, valid until the next call, and the name in it; of the root itself: "". */
static int find_parent(struct actor *actor, const struct locator *where, int *ret_fd,
                       const char **ret_name)
{
    const char *slash = strrchr(where->path, '/');

    *ret_name = slash ? slash + 1 : where->path;
    if (where->place != PLACE_TREE) {
        *ret_fd = where->place == PLACE_NEW ? actor->new_fd : actor->old_fd;
        return 0;
    }
    CLEANUP_FREE char *dir = strndup(where->path, slash ? (size_t)(slash - where->path) : 0);
    if (!dir)
        return -ENOMEM;
    return dir_cache_get(actor->dirs, dir, ret_fd);
}

static bool is_absent(int r)
{
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
}

int actor_look(struct actor *actor, const struct locator *where, const struct ident *want,
               enum look *ret_look)
{
    struct ident ident;
    const char *name;
    int dir_fd;

    int r = find_parent(actor, where, &dir_fd, &name);
    if (r >= 0)
        r = ident_get(dir_fd, name, &ident);
    if (r < 0 && !is_absent(r))
        return r;
    *ret_look = r < 0 ? LOOK_ABSENT : ident_equal(&ident, want) ? LOOK_SAME : LOOK_FOREIGN;
    return 0;
}

/* An O_PATH fd of the object, if it is there; else -EBADF, and what is. */
static int open_object(struct actor *actor, const struct instruction *i, int *ret_fd,
                       enum look *ret_look)
{
    CLEANUP_CLOSE int fd = -EBADF;
    struct ident ident;
    const char *name;
    int dir_fd;

    int r = find_parent(actor, &i->path, &dir_fd, &name);
    if (r >= 0)
        fd = openat(dir_fd, *name ? name : ".", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (r >= 0)
        r = fd < 0 ? -errno : ident_get(fd, "", &ident);
    if (r < 0 && !is_absent(r))
        return r;
    *ret_look = r < 0 ? LOOK_ABSENT : ident_equal(&ident, &i->want) ? LOOK_SAME : LOOK_FOREIGN;
    *ret_fd = *ret_look == LOOK_SAME ? TAKE_FD(fd) : -EBADF;
    return 0;
}

/* ---- words ---- */

static int failed(const struct instruction *i, int r, const char *what)
{
    CLEANUP_FREE char *path = text_escape(i->path.path, strlen(i->path.path));

    return error_note_describe(r, "cannot %s '%s'", what, path ? path : "?");
}

static int changed(const struct locator *where, const char *what)
{
    CLEANUP_FREE char *path = text_escape(where->path, strlen(where->path));

    return error_note(-UMBRA_E_TREE_CHANGED, "somebody else has changed the tree: '%s' %s",
                      path ? path : "?", what);
}

/* ---- names ---- */

/* With the fds of both directories.  The first one is a duplicate: finding the second may close it.
 */
struct two_names {
    int path_dir_fd, from_dir_fd;
    const char *path_name, *from_name;
    int owned_fd;
};

static void two_names_release(const struct two_names *n)
{
    if (n->owned_fd >= 0)
        (void)close(n->owned_fd);
}

static int find_names(struct actor *actor, const struct instruction *i, struct two_names *ret_names)
{
    struct two_names n = {.owned_fd = -EBADF};

    int r = find_parent(actor, &i->path, &n.path_dir_fd, &n.path_name);
    if (r < 0)
        return r;
    if (i->path.place == PLACE_TREE && i->from.place == PLACE_TREE) {
        n.owned_fd = n.path_dir_fd = fcntl(n.path_dir_fd, F_DUPFD_CLOEXEC, 3);
        if (n.owned_fd < 0)
            return -errno;
    }
    r = find_parent(actor, &i->from, &n.from_dir_fd, &n.from_name);
    if (r < 0)
        two_names_release(&n);
    else
        *ret_names = n;
    return r;
}

static int rename_names(struct actor *actor, const struct instruction *i, unsigned flags)
{
    struct two_names n;

    int r = find_names(actor, i, &n);
    if (r < 0)
        return r;
    if (renameat2(n.from_dir_fd, n.from_name, n.path_dir_fd, n.path_name, flags) < 0)
        r = -errno;
    two_names_release(&n);
    if (r < 0 || !(i->flags & INSTRUCTION_DIRECTORY))
        return r;
    /* What the cache holds may have gone elsewhere. */
    dir_cache_free(actor->dirs);
    actor->dirs = NULL;
    return dir_cache_new(actor->root_fd, &actor->dirs);
}

static int do_rename(struct actor *actor, const struct instruction *i)
{
    enum look at_path, at_from;

    int r = actor_look(actor, &i->path, &i->want, &at_path);
    if (r >= 0)
        r = actor_look(actor, &i->from, &i->want, &at_from);
    if (r < 0)
        return failed(i, r, "look at");
    if (at_path == LOOK_SAME)
        return 0;
    /* Nobody else is in the stage: what is not there has left it, or never came. */
    if (at_from != LOOK_SAME && i->from.place != PLACE_TREE)
        return 0;
    if (at_from != LOOK_SAME)
        return changed(&i->from, "is not what was left there");
    if (at_path == LOOK_FOREIGN)
        return changed(&i->path, "is taken by something else");
    r = rename_names(actor, i, RENAME_NOREPLACE);
    if (r == -EEXIST)
        return changed(&i->path, "is taken by something else");
    return r < 0 ? failed(i, r, "rename to") : 0;
}

static int do_exchange(struct actor *actor, const struct instruction *i)
{
    enum look want_at_path, want_at_from, other_at_path, other_at_from;

    int r = actor_look(actor, &i->path, &i->want, &want_at_path);
    if (r >= 0)
        r = actor_look(actor, &i->from, &i->want, &want_at_from);
    if (r >= 0)
        r = actor_look(actor, &i->path, &i->other, &other_at_path);
    if (r >= 0)
        r = actor_look(actor, &i->from, &i->other, &other_at_from);
    if (r < 0)
        return failed(i, r, "look at");
    if (want_at_path == LOOK_SAME || other_at_from == LOOK_SAME)
        return 0;
    if (want_at_from != LOOK_SAME || other_at_path != LOOK_SAME)
        return changed(&i->path, "is not what was left there");
    r = rename_names(actor, i, RENAME_EXCHANGE);
    return r < 0 ? failed(i, r, "exchange") : 0;
}

static int link_names(struct actor *actor, const struct instruction *i)
{
    struct two_names n;

    int r = find_names(actor, i, &n);
    if (r < 0)
        return r;
    if (linkat(n.from_dir_fd, n.from_name, n.path_dir_fd, n.path_name, 0) < 0)
        r = -errno;
    two_names_release(&n);
    return r;
}

static int do_link(struct actor *actor, const struct instruction *i)
{
    enum look at_path, at_from;

    int r = actor_look(actor, &i->path, &i->want, &at_path);
    if (r >= 0)
        r = actor_look(actor, &i->from, &i->want, &at_from);
    if (r < 0)
        return failed(i, r, "look at");
    if (at_path == LOOK_SAME)
        return 0;
    if (at_path == LOOK_FOREIGN)
        return changed(&i->path, "is taken by something else");
    if (at_from != LOOK_SAME)
        return changed(&i->from, "is not what was left there");
    r = link_names(actor, i);
    return r < 0 ? failed(i, r, "make the link") : 0;
}

/* Whatever else has the name is not ours: what was put there is gone, and that is all that is
 * asked. */
static int do_unlink(struct actor *actor, const struct instruction *i)
{
    enum look at_path, at_from;
    const char *name;
    int dir_fd;

    int r = actor_look(actor, &i->path, &i->want, &at_path);
    if (r >= 0)
        r = actor_look(actor, &i->from, &i->want, &at_from);
    if (r < 0)
        return failed(i, r, "look at");
    if (at_path != LOOK_SAME)
        return 0;
    if (at_from != LOOK_SAME)
        return changed(&i->from, "is not what was left there");
    r = find_parent(actor, &i->path, &dir_fd, &name);
    if (r >= 0 && unlinkat(dir_fd, name, 0) < 0)
        r = -errno;
    return r < 0 ? failed(i, r, "unlink") : 0;
}

/* ---- attributes ---- */

static int change_mode(int path_fd, mode_t mode)
{
    char link[40];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
    return chmod(link, mode) < 0 ? -errno : 0;
}

/* Root needs no permission. */
static int give_permission(int path_fd)
{
    struct stat st;

    if (geteuid() == 0)
        return 0;
    if (fstat(path_fd, &st) < 0)
        return -errno;
    mode_t mode = (st.st_mode & 07777) | (S_ISDIR(st.st_mode) ? 0700 : 0600);
    return mode == (st.st_mode & 07777) ? 0 : change_mode(path_fd, mode);
}

static bool is_opened(int path_fd)
{
    struct stat st;

    return fstat(path_fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

static int open_for_attributes(int path_fd, int *ret_fd)
{
    int r = reopen(path_fd, O_RDONLY, ret_fd);

    if (r == -EACCES && give_permission(path_fd) >= 0)
        r = reopen(path_fd, O_RDONLY, ret_fd);
    return r;
}

/* P keeps what has another project id out of a directory. */
static int clear_flags(int fd)
{
    const unsigned in_the_way = META_FLAGS_LOCKS | FS_PROJINHERIT_FL;
    unsigned flags = 0;

    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & in_the_way))
        return 0;
    flags &= ~in_the_way;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}

static int unlock(int path_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;

    if (!is_opened(path_fd))
        return 0;
    int r = open_for_attributes(path_fd, &fd);
    if (r >= 0)
        r = clear_flags(fd);
    return r < 0 ? r : give_permission(path_fd);
}

/* What is not there needs no unlocking: who needs it finds out. */
static int do_unlock(struct actor *actor, const struct instruction *i)
{
    CLEANUP_CLOSE int path_fd = -EBADF;
    enum look at_path;

    int r = open_object(actor, i, &path_fd, &at_path);
    if (r >= 0 && at_path == LOOK_SAME)
        r = unlock(path_fd);
    return r < 0 ? failed(i, r, "make changeable") : 0;
}

struct setting {
    struct actor *actor;
    const struct instruction *i;
    int problem; /* the first one; of strict ones only */
    char what[256];
    int refused; /* by options->problem() */
};

static void on_problem(const char *what, int r, void *userdata)
{
    struct setting *s = userdata;
    const struct treetx_options *options = s->actor->options;
    const char *path = s->i->path.path;

    if (s->actor->strict) {
        if (s->problem == 0)
            (void)snprintf(s->what, sizeof(s->what), "%s", what);
        s->problem = s->problem < 0 ? s->problem : r;
    } else if (options && options->problem) {
        r = options->problem(path, what, r, options->userdata);
        s->refused = s->refused < 0 ? s->refused : r;
    } else {
        CLEANUP_FREE char *shown = text_escape(path, strlen(path));
        log_warning("'%s': cannot set %s: %s", shown ? shown : "?", what, error_describe(r));
    }
}

/* A problem with what was right before is none: some labels may be had, but not set. */
static int judge(const struct setting *s, int path_fd, int fd, struct entry *e)
{
    CLEANUP_FREE char *differences = NULL;
    struct stat st;

    if (s->problem == 0)
        return s->refused;
    if (fstat(path_fd, &st) < 0)
        return -errno;
    e->size = (uint64_t)st.st_size; /* is no attribute */
    int r = fd >= 0 ? meta_compare_fd(fd, e, NULL, &differences)
                    : meta_compare_path_fd(path_fd, e, NULL, &differences);
    if (r < 0 || *differences == '\0')
        return r;
    CLEANUP_FREE char *path = text_escape(s->i->path.path, strlen(s->i->path.path));
    return error_note_describe(s->problem, "cannot set %s of '%s'", s->what, path ? path : "?");
}

static int set_attributes(struct setting *s, int path_fd, struct entry *e)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = 0;

    if (e->type == ENTRY_REGULAR || e->type == ENTRY_DIRECTORY)
        r = open_for_attributes(path_fd, &fd);
    if (r >= 0 && fd >= 0)
        r = meta_apply_fd(fd, e, NULL, false, on_problem, s);
    else if (r >= 0)
        r = meta_apply_path_fd(path_fd, e, NULL, false, on_problem, s);
    if (r < 0)
        return failed(s->i, r, "set the attributes of");
    return judge(s, path_fd, fd, e);
}

static int do_meta(struct actor *actor, const struct instruction *i)
{
    CLEANUP_CLOSE int path_fd = -EBADF;
    CLEANUP(entry_release) struct entry e = {0};
    struct setting s = {.actor = actor, .i = i};
    enum look at_path;

    int r = attributes_decode(i->meta, i->meta_len, &e);
    if (r < 0)
        return r;
    r = open_object(actor, i, &path_fd, &at_path);
    if (r < 0)
        return failed(i, r, "open");
    if (at_path != LOOK_SAME)
        return changed(&i->path, "is not what was left there");
    return set_attributes(&s, path_fd, &e);
}

/* ---- contents ---- */

/* To write to; while somebody executes it, to read from only, and then *ret_busy. */
static int open_file(struct actor *actor, const struct instruction *i, int *ret_fd, bool *ret_busy)
{
    CLEANUP_CLOSE int path_fd = -EBADF;
    enum look at_path;

    int r = open_object(actor, i, &path_fd, &at_path);
    if (r < 0)
        return failed(i, r, "open");
    if (at_path != LOOK_SAME)
        return changed(&i->path, "is not what was left there");
    r = is_opened(path_fd) ? reopen(path_fd, O_RDWR, ret_fd) : -EINVAL;
    /* Undone before it was made changeable, or once more: its attributes are set after this. */
    if ((r == -EPERM || r == -EACCES) && unlock(path_fd) >= 0)
        r = reopen(path_fd, O_RDWR, ret_fd);
    *ret_busy = r == -ETXTBSY;
    if (*ret_busy)
        r = reopen(path_fd, O_RDONLY, ret_fd);
    return r < 0 ? failed(i, r, "open") : 0;
}

/* What is executed cannot be written to, nor has it to be if it is as it shall be: so what was
 * refused can be taken back. */
static int expect_contents(const struct instruction *i, int from_fd, int fd)
{
    bool same;

    int r = data_compare(from_fd, fd, i->offset, i->len, &same);
    return r < 0 ? r : same ? 0 : -ETXTBSY;
}

static int do_copy(struct actor *actor, const struct instruction *i)
{
    CLEANUP_CLOSE int fd = -EBADF, from_fd = -EBADF;
    const char *name;
    bool busy;
    int dir_fd;

    int r = open_file(actor, i, &fd, &busy);
    if (r < 0)
        return r;
    r = find_parent(actor, &i->from, &dir_fd, &name);
    if (r >= 0) {
        from_fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        r = from_fd < 0 ? -errno
            : busy      ? expect_contents(i, from_fd, fd)
                        : data_copy(from_fd, fd, i->offset, i->len);
    }
    return r < 0 ? failed(i, r, "write to") : 0;
}

static int do_punch(struct actor *actor, const struct instruction *i)
{
    CLEANUP_CLOSE int fd = -EBADF;
    bool busy;

    int r = open_file(actor, i, &fd, &busy);
    if (r < 0)
        return r;
    r = busy ? expect_contents(i, -EBADF, fd) : data_punch(fd, i->offset, i->len);
    return r < 0 ? failed(i, r, "make a hole in") : 0;
}

static int do_size(struct actor *actor, const struct instruction *i)
{
    CLEANUP_CLOSE int fd = -EBADF;
    struct stat st;
    bool busy;

    int r = open_file(actor, i, &fd, &busy);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (busy)
        r = (uint64_t)st.st_size == i->offset ? 0 : -ETXTBSY;
    else if (ftruncate(fd, (off_t)i->offset) < 0)
        r = -errno;
    return r < 0 ? failed(i, r, "change the size of") : 0;
}

/* ---- any ---- */

static int do_nothing(struct actor *actor, const struct instruction *i)
{
    (void)actor;
    (void)i;
    return 0;
}

static int (*const doers[])(struct actor *actor, const struct instruction *i) = {
    [INSTRUCTION_NOTHING] = do_nothing,   [INSTRUCTION_RENAME] = do_rename,
    [INSTRUCTION_EXCHANGE] = do_exchange, [INSTRUCTION_LINK] = do_link,
    [INSTRUCTION_UNLINK] = do_unlink,     [INSTRUCTION_UNLOCK] = do_unlock,
    [INSTRUCTION_META] = do_meta,         [INSTRUCTION_COPY] = do_copy,
    [INSTRUCTION_PUNCH] = do_punch,       [INSTRUCTION_SIZE] = do_size,
};

/* Before anything counts as taken back that is not. */
static int mark_left(const struct actor *actor)
{
    CLEANUP_CLOSE int fd =
        openat(actor->stage_fd, STAGE_LEFT, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0 || fsync(fd) < 0 || fsync(actor->stage_fd) < 0)
        return error_note_describe(-errno, "cannot keep what somebody else has changed");
    return 0;
}

int actor_do(struct actor *actor, const void *data, size_t len)
{
    CLEANUP(instruction_storage_release) struct instruction_storage storage = {0};
    struct instruction i;

    int r = instruction_decode(data, len, &i, &storage);
    if (r < 0)
        return error_note(r, "the log has a record of a tree that is malformed");
    r = doers[i.kind](actor, &i);
    if (r != -UMBRA_E_TREE_CHANGED || !actor->force)
        return r;
    struct error_report skipped = {0};
    error_save(&skipped, r);
    r = mark_left(actor);
    if (r < 0)
        return r;
    r = error_raise(&skipped);
    log_warning("%s; left alone", error_text(r));
    return 0;
}
