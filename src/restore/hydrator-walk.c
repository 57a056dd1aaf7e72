/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking the tree: which files have our mark.
 *
 * The tree is anybody's.  It may be of any depth: below DEPTH_OPEN, directories are noted by their
 * handles and read when all above them has been, so that neither the descriptors nor the stack grow
 * with it.  Something in it may be damaged: that is noted as a problem and passed over, and whoever
 * asked is told how often; the rest is looked at all the same.
 *
 * What cannot be opened may have nothing to do with us, as a file whose key is missing (fscrypt) or
 * one that somebody has a lease on: the mark can be read without opening it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "restore/hydrator-private.h"

#define DEPTH_OPEN 64u /* directories that are open at a time */

struct deep_directory {
    struct filter_handle handle;
    dev_t dev;
};
DEFINE_VECTOR(deep_vector, struct deep_directory);

struct walk {
    struct hydrator *h;
    pending_fn fn;
    void *userdata;
    dev_t dev; /* of the directory that is being read */
    struct deep_vector deep;
    uint64_t unread;
};

/* ---- handles ---- */

union raw_handle {
    struct file_handle head;
    uint8_t room[sizeof(struct file_handle) + FILTER_HANDLE_MAX];
};

int handle_of(int fd, struct filter_handle *ret_handle)
{
    union raw_handle raw = {.head = {.handle_bytes = FILTER_HANDLE_MAX}};
    int mount_id;

    if (name_to_handle_at(fd, "", &raw.head, &mount_id, AT_EMPTY_PATH) < 0)
        return -errno;
    *ret_handle = (struct filter_handle){
        .type = raw.head.handle_type,
        .len = raw.head.handle_bytes,
    };
    memcpy(ret_handle->bytes, raw.head.f_handle, raw.head.handle_bytes);
    return 0;
}

int open_handle(const struct hydrator *h, const struct filter_handle *handle, int flags,
                int *ret_fd)
{
    union raw_handle raw = {.head = {.handle_bytes = handle->len, .handle_type = handle->type}};

    memcpy(raw.head.f_handle, handle->bytes, handle->len);
    int fd = open_by_handle_at(h->tree_fd, &raw.head, flags | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

/* ---- what is in the way ---- */

bool is_shortage(int r)
{
    int class = r < 0 ? error_class(r) : 0;

    return class == EMFILE || class == ENFILE || class == ENOMEM;
}

/* Or something else is there now. */
static bool is_gone(int r)
{
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -ESTALE;
}

static int tell(int r, const char *words)
{
    return r < 0 && r > -ERROR_PRIVATE_FIRST ? error_note_describe(r, "%s", words) : r;
}

/* In the file system; -errno. */
static int path_of_fd(const struct hydrator *h, int fd, char *ret_path, size_t size)
{
    char link[32];

    (void)snprintf(link, sizeof(link), "self/fd/%d", fd);
    ssize_t n = readlinkat(h->proc_fd, link, ret_path, size - 1);
    if (n < 0)
        return -errno;
    ret_path[n] = '\0';
    if (strcmp(ret_path, "/") == 0)
        ret_path[0] = '\0';
    return 0;
}

/* How much of the path of the target says where its file system is mounted. */
static size_t mount_point_len(const struct hydrator *h)
{
    size_t len = strlen(h->config.target);
    char tree[PATH_MAX];

    if (path_of_fd(h, h->tree_fd, tree, sizeof(tree)) < 0 || strlen(tree) > len)
        return 0;
    len -= strlen(tree);
    return strcmp(h->config.target + len, tree) == 0 ? len : 0;
}

/* For people.  name: "" for the directory itself.  NULL without memory. */
static char *path_of(const struct hydrator *h, int dir_fd, const char *name)
{
    size_t mount_len = mount_point_len(h);
    char dir[PATH_MAX], *path = NULL;

    bool known =
        path_of_fd(h, dir_fd, dir, sizeof(dir)) >= 0; /* one that is too long cannot be had */
    if (asprintf(&path, "%.*s%s%s%s", (int)mount_len, h->config.target, known ? dir : "/...",
                 *name ? "/" : "", name) < 0)
        return NULL;
    return path;
}

static int pass_over(struct walk *walk, int dir_fd, const char *name, int r)
{
    if (r >= 0 || is_shortage(r))
        return r;
    if (is_gone(r))
        return 0;
    CLEANUP_FREE char *path = path_of(walk->h, dir_fd, name);
    note_problem(walk->h, path ? path : name, error_text(r));
    walk->unread++;
    return 0;
}

/* ---- files ---- */

/* The mark of a file that cannot be opened.  -ENODATA: it has none. */
static int read_unopened(int dir_fd, const char *name, int *ret_fd, struct pending *ret_pending)
{
    uint8_t value[PENDING_LEN + 1];
    struct pending pending;
    char path[32];
    struct stat st;

    CLEANUP_CLOSE int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = S_ISREG(st.st_mode) ? getxattr(path, PENDING_XATTR, value, sizeof(value)) : -1;
    if (n < 0)
        return S_ISREG(st.st_mode) ? -errno : -ENODATA;
    int r = pending_decode(value, (size_t)n, &pending);
    if (r < 0)
        return r;
    if (pending.inode != st.st_ino) /* copied along; the generation cannot be had */
        return -ENODATA;
    *ret_fd = TAKE_FD(fd);
    *ret_pending = pending;
    return 0;
}

static int read_file(struct walk *walk, int dir_fd, const char *name)
{
    struct pending pending;
    bool foreign = false;
    int r;

    CLEANUP_CLOSE int fd =
        openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME | O_CLOEXEC);
    if (fd >= 0)
        r = pending_get(fd, &pending, &foreign);
    else if (is_gone(-errno) || is_shortage(-errno))
        return tell(-errno, "cannot open it");
    else
        r = read_unopened(dir_fd, name, &fd, &pending);
    if (r == -ENODATA) {
        if (foreign) /* it says nothing; where it cannot be removed, it may stay */
            IGNORE_RESULT(pending_remove(fd));
        return 0;
    }
    if (r < 0)
        return tell(r, "it cannot be told whether it is complete");
    if (pending.restore_id != walk->h->config.restore_id)
        return 0;
    return tell(walk->fn(walk->h, dir_fd, name, fd, &pending, walk->userdata), "cannot note it");
}

static int visit_file(struct walk *walk, int dir_fd, const char *name)
{
    return pass_over(walk, dir_fd, name, read_file(walk, dir_fd, name));
}

/* ---- directories ---- */

static int walk_directory(struct walk *walk, int dir_fd, unsigned depth);

static int visit_directory(struct walk *walk, int dir_fd, const char *name, unsigned depth)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return pass_over(walk, dir_fd, name, tell(-errno, "cannot open the directory"));
    return walk_directory(walk, fd, depth + 1);
}

static int visit_entry(struct walk *walk, int dir_fd, const struct dirent *d, unsigned depth)
{
    struct stat st = {.st_mode = DTTOIF(d->d_type)};

    if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
        return 0;
    if (d->d_type == DT_UNKNOWN && fstatat(dir_fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return pass_over(walk, dir_fd, d->d_name, tell(-errno, "cannot tell what it is"));
    if (S_ISREG(st.st_mode))
        return visit_file(walk, dir_fd, d->d_name);
    return S_ISDIR(st.st_mode) ? visit_directory(walk, dir_fd, d->d_name, depth) : 0;
}

static int read_entries(struct walk *walk, DIR *dir, unsigned depth)
{
    for (;;) {
        errno = 0;
        const struct dirent *d = readdir(dir);
        if (!d)
            return pass_over(walk, dirfd(dir), "", tell(-errno, "cannot read the directory"));
        int r = visit_entry(walk, dirfd(dir), d, depth);
        if (r < 0)
            return r;
    }
}

/* A btrfs subvolume in another one.  What cannot be written cannot be completed. */
static bool is_snapshot_to_leave(const struct walk *walk, int dir_fd, dev_t dev)
{
    return walk->dev != dev && faccessat(dir_fd, ".", W_OK, AT_EACCESS) < 0 && errno == EROFS;
}

static int leave_for_later(struct walk *walk, int dir_fd, dev_t dev)
{
    struct deep_directory deep = {.dev = dev};

    int r = handle_of(dir_fd, &deep.handle);
    return r < 0 ? r : deep_vector_push(&walk->deep, &deep);
}

/* Takes dir_fd over. */
static int walk_directory(struct walk *walk, int dir_fd, unsigned depth)
{
    dev_t dev = walk->dev;
    struct stat st;

    int r = fstat(dir_fd, &st) < 0 ? -errno : 0;
    bool leave = r >= 0 && is_snapshot_to_leave(walk, dir_fd, st.st_dev);
    if (r >= 0 && !leave && depth >= DEPTH_OPEN) {
        r = leave_for_later(walk, dir_fd, st.st_dev);
        leave = true;
    }
    DIR *dir = r >= 0 && !leave ? fdopendir(dir_fd) : NULL;
    if (!dir) {
        r = pass_over(walk, dir_fd, "", tell(leave || r < 0 ? r : -errno, "cannot look into it"));
        (void)close(dir_fd);
        return r;
    }
    walk->dev = st.st_dev;
    r = read_entries(walk, dir, depth);
    walk->dev = dev;
    (void)closedir(dir);
    return r;
}

/* What has been moved or removed meanwhile is found where it is now, or not there.  The kernel says
 * that a directory is gone, too, when it cannot be read any more: it could when its handle was
 * taken, and the next walk comes to it by its name. */
static int walk_deep(struct walk *walk)
{
    struct deep_directory deep = walk->deep.items[--walk->deep.count];
    int fd = -EBADF;

    int r = open_handle(walk->h, &deep.handle, O_RDONLY | O_DIRECTORY, &fd);
    if (r < 0)
        return pass_over(walk, walk->h->tree_fd, "...", tell(r, "cannot open a deep directory"));
    walk->dev = deep.dev;
    return walk_directory(walk, fd, 0);
}

/* Takes dir_fd over. */
static int walk_all(struct walk *walk, int dir_fd)
{
    int r = walk_directory(walk, dir_fd, 0);

    while (r >= 0 && walk->deep.count > 0)
        r = walk_deep(walk);
    deep_vector_release(&walk->deep);
    return r;
}

/* ---- where to begin ---- */

int walk_path(struct hydrator *h, const char *path, pending_fn fn, void *userdata,
              uint64_t *ret_unread)
{
    struct open_how how = {
        .flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    struct walk walk = {.h = h, .fn = fn, .userdata = userdata};
    struct stat st;
    int r = 0;

    long fd = syscall(SYS_openat2, h->tree_fd, *path ? path : ".", &how, sizeof(how));
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", path);
    if (fstat((int)fd, &st) < 0) {
        (void)close((int)fd);
        return -errno;
    }
    walk.dev = st.st_dev;
    if (S_ISDIR(st.st_mode)) {
        r = walk_all(&walk, (int)fd);
    } else {
        (void)close((int)fd);
        if (S_ISREG(st.st_mode))
            r = visit_file(&walk, h->tree_fd, path);
    }
    *ret_unread = walk.unread;
    return r;
}

/* The private mount begins at the root of the mount that the target is in (filter/gate.c). */
static int open_mount_root(struct hydrator *h, int *ret_fd)
{
    CLEANUP_CLOSE int at = openat(h->tree_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct statx st;

    for (;;) {
        if (at < 0 || statx(at, "", AT_EMPTY_PATH, 0, &st) < 0)
            return -errno;
        if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) {
            *ret_fd = TAKE_FD(at);
            return 0;
        }
        int up = openat(at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)close(at);
        at = up;
    }
}

int walk_mount(struct hydrator *h, pending_fn fn, void *userdata, uint64_t *ret_unread)
{
    struct walk walk = {.h = h, .fn = fn, .userdata = userdata};
    struct stat st;
    int root = -EBADF;

    int r = open_mount_root(h, &root);
    if (r >= 0) {
        walk.dev = fstat(root, &st) < 0 ? 0 : st.st_dev;
        r = walk_all(&walk, root);
    }
    *ret_unread = walk.unread;
    return r;
}
