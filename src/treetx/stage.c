/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/beneath.h"
#include "tree/meta.h"
#include "treetx/treetx.h"

#define NEW_NAME "new" /* see TREETX_STAGE_PATH */
#define OLD_NAME "old"

void stage_release(struct stage *stage)
{
    const int fds[] = {stage->new_fd, stage->old_fd, stage->fd, stage->root_fd};

    for (size_t i = 0; i < ELEMENTSOF(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    free(stage->target);
    note_release(&stage->note);
    *stage = STAGE_NONE;
}

static int failed(const struct stage *stage, int r, const char *what)
{
    return error_note_describe(r, "cannot %s '%s/" TREETX_STAGE_NAME "'", what, stage->target);
}

static int open_root(const char *target, int target_fd, struct stage *stage)
{
    *stage = STAGE_NONE;
    stage->target = strdup(target);
    if (!stage->target)
        return -ENOMEM;
    stage->root_fd = target_fd >= 0 ? fcntl(target_fd, F_DUPFD_CLOEXEC, 3)
                                    : open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (stage->root_fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", target);
    int r = ident_get(stage->root_fd, "", &stage->root);
    return r < 0 ? error_note_describe(r, "cannot look at '%s'", target) : 0;
}

static int lock(const struct stage *stage)
{
    struct stat st;

    if (flock(stage->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? error_note(-EBUSY, "another process is changing '%s'", stage->target)
                   : failed(stage, -errno, "lock");
    /* Whoever had it may have removed it. */
    if (fstat(stage->fd, &st) < 0)
        return failed(stage, -errno, "look at");
    return st.st_nlink == 0 ? -ENOENT : 0;
}

static int open_subdir(const struct stage *stage, const char *name, int *ret_fd)
{
    int fd = openat(stage->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0 && errno != ENOENT)
        return failed(stage, -errno, "open");
    *ret_fd = fd < 0 ? -EBADF : fd;
    return 0;
}

static int open_subdirs(struct stage *stage)
{
    int r = open_subdir(stage, NEW_NAME, &stage->new_fd);

    return r < 0 ? r : open_subdir(stage, OLD_NAME, &stage->old_fd);
}

static int open_dir(struct stage *stage)
{
    stage->fd =
        openat(stage->root_fd, TREETX_STAGE_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return stage->fd < 0 ? -errno : 0;
}

/* ---- one that is there ---- */

/* What others can write to is nothing that we would act upon. */
static int check_owner(const struct stage *stage)
{
    struct stat st;

    if (fstat(stage->fd, &st) < 0)
        return failed(stage, -errno, "look at");
    if (st.st_uid != geteuid())
        return error_note(-EPERM,
                          "'%s/" TREETX_STAGE_NAME "' belongs to user %u: only that user can go on",
                          stage->target, st.st_uid);
    if (st.st_mode & 077)
        return error_note(-EPERM, "'%s/" TREETX_STAGE_NAME "' is open to others: it is not trusted",
                          stage->target);
    return 0;
}

static int open_there(struct stage *stage)
{
    int r = open_dir(stage);

    if (r < 0)
        return r == -ENOENT ? r : failed(stage, r, "open");
    r = check_owner(stage);
    if (r >= 0)
        r = lock(stage);
    return r < 0 ? r : open_subdirs(stage);
}

int stage_open(const char *target, struct stage *ret_stage)
{
    CLEANUP(stage_release) struct stage stage;

    int r = open_root(target, -EBADF, &stage);
    if (r >= 0)
        r = open_there(&stage);
    if (r < 0)
        return r;
    r = note_find(&stage.root, stage.root_fd, &stage.note);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_stage = stage;
    stage = STAGE_NONE;
    return 0;
}

int stage_has_log(const struct stage *stage, bool *ret_has)
{
    if (faccessat(stage->fd, STAGE_LOG, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        *ret_has = true;
    else if (errno == ENOENT)
        *ret_has = false;
    else
        return failed(stage, -errno, "look into");
    return 0;
}

void stage_log_path(const struct stage *stage, const char *name, char ret_path[64])
{
    (void)snprintf(ret_path, 64, "/proc/self/fd/%d/%s", stage->fd, name);
}

/* ---- making ---- */

static int read_path(int fd, char **ret_path)
{
    char link[40], path[PATH_MAX];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof(path) - 1);
    if (len < 0)
        return -errno;
    path[len] = '\0';
    *ret_path = strdup(path);
    return *ret_path ? 0 : -ENOMEM;
}

static int read_times(int fd, struct timespec *ret_times)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    ret_times[0] = st.st_atim;
    ret_times[1] = st.st_mtim;
    return 0;
}

/* What the target hands down to everything that is made in it is not for the stage. */
static int shed_inheritance(int fd)
{
    unsigned flags = 0;

    if (fchown(fd, geteuid(), getegid()) < 0 || fchmod(fd, 0700) < 0)
        return -errno;
    if (fremovexattr(fd, "system.posix_acl_default") < 0 && errno != ENODATA && errno != EOPNOTSUPP)
        return -errno;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & META_FLAGS_RECORDED))
        return 0;
    flags &= ~META_FLAGS_RECORDED;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}

static int make_subdirs(struct stage *stage)
{
    if (mkdirat(stage->fd, NEW_NAME, 0700) < 0 || mkdirat(stage->fd, OLD_NAME, 0700) < 0)
        return failed(stage, -errno, "make directories in");
    /* All that is done to the tree later can be done here: */
    if (renameat2(stage->fd, NEW_NAME, stage->fd, OLD_NAME, RENAME_EXCHANGE) < 0)
        return error_note(
            -EOPNOTSUPP,
            "the file system of '%s' cannot exchange names, which an atomic change needs",
            stage->target);
    return open_subdirs(stage);
}

static int make_dir(struct stage *stage)
{
    if (mkdirat(stage->root_fd, TREETX_STAGE_NAME, 0700) < 0)
        return failed(stage, -errno, "make");
    int r = open_dir(stage);
    if (r >= 0)
        r = shed_inheritance(stage->fd);
    if (r < 0)
        return failed(stage, r, "set up");
    r = lock(stage);
    return r < 0 ? r : make_subdirs(stage);
}

/* Nothing could be removed from it again. */
static int check_changeable(const struct stage *stage)
{
    unsigned flags = 0;

    if (ioctl(stage->root_fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & META_FLAGS_LOCKS))
        return 0;
    return error_note(-EPERM, "'%s' is immutable or append-only itself: take that off with chattr",
                      stage->target);
}

/* 0: there is none. */
static int check_free(struct stage *stage)
{
    int r = open_there(stage);

    if (r >= 0)
        return error_note(-EEXIST,
                          "'%s' has an atomic change already: 'umbra log recover' or 'umbra log "
                          "discard' that first",
                          stage->target);
    if (r != -ENOENT)
        return r;
    if (stage->fd >= 0)
        (void)close(TAKE_FD(stage->fd));
    return 0;
}

static int write_note(struct stage *stage)
{
    struct note *note = &stage->note;

    int r = note_find(&stage->root, stage->root_fd, note);
    if (r < 0 && r != -ENOENT)
        return r;
    free(TAKE_PTR(note->target));
    note->root = stage->root;
    note->has_times = true;
    r = read_times(stage->root_fd, note->times);
    if (r >= 0)
        r = read_path(stage->root_fd, &note->target);
    if (r < 0)
        return error_note_describe(r, "cannot look at '%s'", stage->target);
    return note_write(note);
}

int stage_make(const char *target, int target_fd, struct stage *ret_stage)
{
    CLEANUP(stage_release) struct stage stage;
    CLEANUP_CLOSE int hold_fd = -EBADF;

    int r = open_root(target, target_fd, &stage);
    if (r >= 0)
        r = note_hold(&hold_fd);
    if (r >= 0)
        r = check_free(&stage);
    if (r >= 0)
        r = check_changeable(&stage);
    if (r >= 0)
        r = write_note(&stage);
    if (r < 0)
        return r;
    r = make_dir(&stage);
    if (r < 0) {
        struct error_report first = {0};
        error_save(&first, r);
        IGNORE_RESULT(stage_remove(&stage));
        return error_raise(&first);
    }
    *ret_stage = stage;
    stage = STAGE_NONE;
    return 0;
}

/* ---- removing ---- */

/* Who is not root needs permission, in directories with the modes that they had in the tree. */
static int open_up(const struct stage *stage)
{
    char path[64];
    char *const paths[] = {path, NULL};

    stage_log_path(stage, ".", path);
    FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOSTAT | FTS_XDEV, NULL);
    if (!walk)
        return -errno;
    int r = 0;
    for (const FTSENT *at = fts_read(walk); at && r >= 0; at = fts_read(walk))
        if (at->fts_info == FTS_D && at->fts_level > 0 &&
            fchmodat(AT_FDCWD, at->fts_accpath, 0700, 0) < 0)
            r = -errno;
    (void)fts_close(walk);
    return r;
}

static int remove_name(int dir_fd, const char *name)
{
    int r = beneath_remove(dir_fd, name);

    return r == -ENOENT ? 0 : r;
}

/* The log is gone for good before anything that it names. */
static int remove_log(const struct stage *stage)
{
    if (stage->fd < 0)
        return 0;
    int r = remove_name(stage->fd, STAGE_LOG);
    if (r >= 0 && fsync(stage->fd) < 0)
        r = -errno;
    return r;
}

static int set_times(int root_fd, const struct note *note)
{
    if (futimens(root_fd, note->times) < 0 || fsync(root_fd) < 0)
        return -errno;
    return 0;
}

int stage_note(struct stage *stage)
{
    struct note *note = &stage->note;

    note->root = stage->root;
    if (!note->target) {
        int r = read_path(stage->root_fd, &note->target);
        if (r < 0)
            return error_note_describe(r, "cannot look at '%s'", stage->target);
    }
    return note_write(note);
}

/* The last entry of the target that goes changes its times. */
static int keep_times(struct stage *stage)
{
    struct note *note = &stage->note;

    if (note->name[0] && note->has_times)
        return 0;
    note->has_times = true;
    int r = read_times(stage->root_fd, note->times);
    return r < 0 ? r : stage_note(stage);
}

int stage_remove(struct stage *stage)
{
    int r = keep_times(stage);
    if (r >= 0)
        r = remove_log(stage);
    if (r >= 0)
        r = remove_name(stage->root_fd, TREETX_STAGE_NAME);
    if (r == -EACCES && geteuid() != 0 && open_up(stage) >= 0)
        r = remove_name(stage->root_fd, TREETX_STAGE_NAME);
    if (r < 0)
        return failed(stage, r, "remove");
    r = set_times(stage->root_fd, &stage->note);
    if (r < 0 && r != -EPERM)
        return error_note_describe(r, "cannot set the times of '%s'", stage->target);
    return note_drop(&stage->note);
}

int stage_finish_gone(const char *target)
{
    CLEANUP(stage_release) struct stage stage;
    CLEANUP_CLOSE int hold_fd = -EBADF;

    int r = open_root(target, -EBADF, &stage);
    if (r < 0)
        return r;
    r = note_find(&stage.root, stage.root_fd, &stage.note);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    /* Who is about to make one holds this, and has written the note. */
    r = note_hold(&hold_fd);
    if (r < 0)
        return r;
    note_release(&stage.note);
    r = note_find(&stage.root, stage.root_fd, &stage.note);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (faccessat(stage.root_fd, TREETX_STAGE_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    if (stage.note.has_times) {
        r = set_times(stage.root_fd, &stage.note);
        if (r < 0 && r != -EPERM)
            return error_note_describe(r, "cannot set the times of '%s'", target);
    }
    return note_drop(&stage.note);
}
