/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Paths that stay beneath a directory.
 *
 * A restore runs as root in a directory that others may be able to write to.  Invariants:
 *
 * 1. Every open names a directory fd that we opened the same way, and a relative path without "."
 *    and ".." that the kernel resolves with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
 *    RESOLVE_NO_MAGICLINKS (openat2(2)).  So what is opened was inside when it was looked up.
 * 2. Every change (mkdir, unlink, chattr) goes to an fd of such a directory and one single name, or
 *    to an fd of the object itself after its type was looked at.
 * 3. No path is taken up again by "..": a directory that somebody moves elsewhere in the middle
 *    does not take us along.
 * 4. Nothing is recursive and the number of fds is bounded, however deep the tree is.
 *
 * Removal keeps the fds of the deepest levels only, at most REMOVE_WINDOW.  When it comes up to a
 * level whose fd is closed, it opens REMOVE_REOPEN levels above again by their path from the top,
 * so that the price for a level stays small.  If the path leads nowhere any more, because somebody
 * has moved a part of the tree, it begins again at the top.
 */
#include "tree/beneath.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/meta.h"

#define DIRECTORY_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

#define REMOVE_WINDOW     64u
#define REMOVE_REOPEN     32u /* together with the level that is open they fit in the window */
#define REMOVE_TRIES      64u /* of one directory that does not get empty */
#define REMOVE_LEVELS_MAX (1u << 19) /* no shorter path fits into a key of the catalog */
#define MAKE_TRIES        16u        /* of one component that somebody keeps changing */
#define LOOKUP_TRIES      32u

static int open_beneath(int dir_fd, const char *path, uint64_t more_resolve, int *ret_fd)
{
    const struct open_how how = {
        .flags = DIRECTORY_FLAGS,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | more_resolve,
    };
    /* EAGAIN: a rename or mount elsewhere kept the kernel from being sure. */
    for (unsigned tries = 0; tries < LOOKUP_TRIES; tries++) {
        long fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
        if (fd >= 0) {
            *ret_fd = (int)fd;
            return 0;
        }
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return -EAGAIN;
}

static bool component_valid(const char *name, size_t len)
{
    if (len == 0 || len > NAME_MAX || memchr(name, '/', len))
        return false;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

/* Length of the first component. */
static size_t component_len(const char *path)
{
    return strcspn(path, "/");
}

static int path_check(const char *path)
{
    if (*path == '\0')
        return 0;
    for (const char *p = path;; p++) {
        size_t len = component_len(p);
        if (len > NAME_MAX)
            return -ENAMETOOLONG;
        if (!component_valid(p, len))
            return error_note(-UMBRA_E_HOSTILE, "refused: '%.200s' is no path inside a directory",
                              path);
        p += len;
        if (*p == '\0')
            return 0;
    }
}

/* Length of as many whole components as openat2 takes at once. */
static size_t piece_len(const char *path)
{
    size_t len = strnlen(path, PATH_MAX);
    if (len < PATH_MAX)
        return len;
    len = PATH_MAX - 1;
    while (path[len] != '/')
        len--;
    return len;
}

/* path has passed path_check. */
static int open_pieces(int root_fd, const char *path, uint64_t more_resolve, int *ret_fd)
{
    if (*path == '\0')
        return open_beneath(root_fd, ".", more_resolve, ret_fd);
    CLEANUP_CLOSE int fd = -EBADF;
    while (*path != '\0') {
        char piece[PATH_MAX];
        size_t len = piece_len(path);
        memcpy(piece, path, len);
        piece[len] = '\0';
        int next_fd;
        int r = open_beneath(fd >= 0 ? fd : root_fd, piece, more_resolve, &next_fd);
        if (r < 0)
            return r;
        if (fd >= 0)
            (void)close(fd);
        fd = next_fd;
        path += len;
        path += *path == '/';
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int beneath_open_dir(int root_fd, const char *path, int *ret_fd)
{
    int r = path_check(path);
    if (r < 0)
        return r;
    return open_pieces(root_fd, path, 0, ret_fd);
}

/* ---- making ---- */

static bool is_no_directory(int r)
{
    return r == -ENOTDIR || r == -ELOOP;
}

/* Opens name in dir_fd, making it if need be. */
static int make_component(int dir_fd, const char *name, bool replace, int *ret_fd)
{
    int r = -EAGAIN;
    for (unsigned tries = 0; tries < MAKE_TRIES; tries++) {
        r = open_beneath(dir_fd, name, 0, ret_fd);
        if (r == -ENOENT) {
            if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
                return -errno;
        } else if (replace && is_no_directory(r)) {
            int e = beneath_remove(dir_fd, name);
            if (e < 0 && e != -ENOENT)
                return e;
        } else {
            return is_no_directory(r) ? -ENOTDIR : r;
        }
    }
    return r;
}

int beneath_make_dirs(int root_fd, const char *path, bool replace, int *ret_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = beneath_open_dir(root_fd, path, &fd);
    if (r >= 0) {
        *ret_fd = TAKE_FD(fd);
        return 0;
    }
    if (r != -ENOENT && !is_no_directory(r))
        return r;

    while (*path != '\0') {
        char name[NAME_MAX + 1];
        size_t len = component_len(path);
        memcpy(name, path, len);
        name[len] = '\0';
        int next_fd;
        r = make_component(fd >= 0 ? fd : root_fd, name, replace, &next_fd);
        if (r < 0)
            return r;
        if (fd >= 0)
            (void)close(fd);
        fd = next_fd;
        path += len;
        path += *path == '/';
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- removing ---- */

/* Clears chattr +i and +a of a regular file or directory.  A device is never opened. */
static int unlock_child(int dir_fd, const char *name)
{
    CLEANUP_CLOSE int path_fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (path_fd < 0 || fstat(path_fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return 0;
    char link[40];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
    CLEANUP_CLOSE int fd = open(link, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return meta_clear_immutable(fd);
}

/* unlinkat that gets past chattr flags of the file and, if it is ours to change, its directory. */
static int unlink_hard(int dir_fd, const char *name, int flags, bool may_unlock_dir)
{
    if (unlinkat(dir_fd, name, flags) >= 0)
        return 0;
    if (errno != EPERM)
        return -errno;
    if (may_unlock_dir && meta_clear_immutable(dir_fd) < 0)
        return -EPERM;
    int r = unlock_child(dir_fd, name);
    if (r < 0)
        return r == -ENOENT ? r : -EPERM;
    return unlinkat(dir_fd, name, flags) < 0 ? -errno : 0;
}

/* One directory on the way down. */
struct level {
    DIR *stream;
    unsigned tries;
};

/* The levels first to count - 1 are open; level l stands in levels[l % REMOVE_WINDOW]. */
struct descent {
    int dir_fd; /* where the tree to be removed hangs; the caller's */
    unsigned first;
    unsigned count;
    struct buffer path; /* of the deepest level, from dir_fd, NUL-terminated */
    struct level levels[REMOVE_WINDOW];
};

static struct level *descent_level(struct descent *d, unsigned index)
{
    return &d->levels[index % REMOVE_WINDOW];
}

static int descent_fd(struct descent *d, unsigned index)
{
    return dirfd(descent_level(d, index)->stream);
}

static void level_close(struct level *level)
{
    if (level->stream)
        (void)closedir(level->stream);
    level->stream = NULL;
}

static void descent_close(struct descent *d)
{
    for (unsigned i = 0; i < REMOVE_WINDOW; i++)
        level_close(&d->levels[i]);
    d->first = d->count = 0;
    buffer_clear(&d->path);
}

static void descent_free(struct descent *d)
{
    descent_close(d);
    buffer_release(&d->path);
    free(d);
}
DEFINE_CLEANUP_PTR(struct descent *, descent_free);

/* Opens the level in its slot; dir_fd and path say where it is. */
static int descent_open(struct descent *d, unsigned index, int dir_fd, const char *path)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = open_pieces(dir_fd, path, RESOLVE_NO_XDEV, &fd);
    if (r < 0)
        return r == -EXDEV ? -EBUSY : r;
    DIR *stream = fdopendir(fd);
    if (!stream)
        return -errno;
    (void)TAKE_FD(fd);
    struct level *level = descent_level(d, index);
    level_close(level);
    level->stream = stream;
    level->tries = 0;
    return 0;
}

static int descent_enter(struct descent *d, const char *name)
{
    if (d->count >= REMOVE_LEVELS_MAX)
        return -UMBRA_E_LIMIT;
    size_t name_len = strlen(name);
    buffer_reserve(&d->path, name_len + 2);
    if (d->path.failed)
        return -ENOMEM;
    int parent_fd = d->count > 0 ? descent_fd(d, d->count - 1) : d->dir_fd;
    int r = descent_open(d, d->count, parent_fd, name);
    if (r < 0)
        return r;
    if (d->count > 0)
        d->path.data[d->path.len - 1] = '/';
    buffer_put(&d->path, name, name_len + 1);
    d->count++;
    if (d->count - d->first > REMOVE_WINDOW)
        d->first = d->count - REMOVE_WINDOW;
    return 0;
}

/* Where the last component of the path's first len bytes begins. */
static size_t last_component(const struct descent *d, size_t len)
{
    const uint8_t *slash = memrchr(d->path.data, '/', len);
    return slash ? (size_t)(slash - d->path.data) + 1 : 0;
}

/* Opens levels above the deepest one again. */
static int descent_open_parents(struct descent *d)
{
    unsigned deepest = d->count - 1, begin = deepest - MIN(deepest, REMOVE_REOPEN);
    CLEANUP_FREE char *path = strdup((const char *)d->path.data);
    if (!path)
        return -ENOMEM;
    size_t end = d->path.len - 1;
    for (unsigned level = deepest; level > begin; level--)
        end = last_component(d, end) - 1;
    path[end] = '\0';

    int r = descent_open(d, begin, d->dir_fd, path);
    for (unsigned level = begin + 1; r >= 0 && level < deepest; level++) {
        char *name = path + end + 1;
        end += 1 + component_len(name);
        path[end] = '\0';
        r = descent_open(d, level, descent_fd(d, level - 1), name);
    }
    if (r >= 0)
        d->first = begin;
    return r;
}

/* Removes one child of the deepest level, or goes down into it when it is a directory. */
static int descent_take_child(struct descent *d, const char *name, unsigned char type)
{
    int r = -EISDIR;
    if (type != DT_DIR)
        r = unlink_hard(descent_fd(d, d->count - 1), name, 0, true);
    if (r == -EISDIR)
        r = descent_enter(d, name);
    /* Gone, or changed its type in the meantime: looked at again if it is still there. */
    return r == -ENOENT || is_no_directory(r) ? 0 : r;
}

/* The deepest level has no more entries: removes it and goes up.  -ESTALE: the way up is lost. */
static int descent_leave(struct descent *d)
{
    unsigned deepest = d->count - 1;
    struct level *level = descent_level(d, deepest);
    if (deepest > 0 && d->first == deepest) {
        int r = descent_open_parents(d);
        if (r < 0)
            return r == -ENOENT || is_no_directory(r) ? -ESTALE : r;
    }
    size_t name = last_component(d, d->path.len);
    int parent_fd = deepest > 0 ? descent_fd(d, deepest - 1) : d->dir_fd;
    /* Level 0 hangs in the caller's directory, whose flags are not ours to clear. */
    int r = unlink_hard(parent_fd, (const char *)d->path.data + name, AT_REMOVEDIR, deepest > 0);
    if ((r == -ENOTEMPTY || r == -EEXIST) && ++level->tries < REMOVE_TRIES) {
        rewinddir(level->stream);
        return 0;
    }
    if (r < 0 && r != -ENOENT)
        return r;
    level_close(level);
    d->count--;
    d->path.len = name;
    if (d->count > 0)
        d->path.data[name - 1] = '\0';
    return 0;
}

/* Goes on until nothing is left. */
static int descent_run(struct descent *d)
{
    while (d->count > 0) {
        errno = 0;
        const struct dirent *entry = readdir(descent_level(d, d->count - 1)->stream);
        if (!entry && errno != 0)
            return -errno;
        int r = 0;
        if (!entry)
            r = descent_leave(d);
        else if (component_valid(entry->d_name, strlen(entry->d_name)))
            r = descent_take_child(d, entry->d_name, entry->d_type);
        if (r < 0)
            return r;
    }
    return 0;
}

static int remove_tree(int dir_fd, const char *name)
{
    CLEANUP(descent_freep) struct descent *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->dir_fd = dir_fd;
    int r = -ESTALE;
    for (unsigned tries = 0; r == -ESTALE && tries < REMOVE_TRIES; tries++) {
        descent_close(d);
        r = descent_enter(d, name);
        if (r >= 0)
            r = descent_run(d);
    }
    return r;
}

int beneath_remove(int dir_fd, const char *name)
{
    if (!component_valid(name, strlen(name)))
        return error_note(-UMBRA_E_HOSTILE, "refused: '%.200s' is no file name", name);
    /* Each turn finds either a directory or something else; somebody may keep swapping the two. */
    int r = -EAGAIN;
    for (unsigned tries = 0; tries < MAKE_TRIES; tries++) {
        r = unlink_hard(dir_fd, name, 0, false);
        if (r != -EISDIR)
            return r;
        r = remove_tree(dir_fd, name);
        if (!is_no_directory(r))
            return r;
    }
    return r;
}

/* ---- the cache ---- */

#define CACHE_SLOTS 8u

struct dir_slot {
    char *path; /* NULL: unused */
    size_t len;
    int fd;
    uint64_t used; /* the higher, the later */
};

struct dir_cache {
    int root_fd;
    uint64_t clock;
    struct dir_slot slots[CACHE_SLOTS];
};

int dir_cache_new(int root_fd, struct dir_cache **ret_cache)
{
    struct dir_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return -ENOMEM;
    cache->root_fd = root_fd;
    *ret_cache = cache;
    return 0;
}

static void slot_release(struct dir_slot *slot)
{
    if (!slot->path)
        return;
    (void)close(slot->fd);
    free(slot->path);
    *slot = (struct dir_slot){0};
}

void dir_cache_free(struct dir_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < CACHE_SLOTS; i++)
        slot_release(&cache->slots[i]);
    free(cache);
}

/* The slot of the directory itself, or of its closest parent; NULL: none is there. */
static struct dir_slot *cache_closest(struct dir_cache *cache, const char *path, size_t len)
{
    struct dir_slot *best = NULL;
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        struct dir_slot *slot = &cache->slots[i];
        if (!slot->path || slot->len > len || memcmp(slot->path, path, slot->len) != 0)
            continue;
        if (slot->len < len && slot->len > 0 && path[slot->len] != '/')
            continue;
        if (!best || slot->len > best->len)
            best = slot;
    }
    return best;
}

static struct dir_slot *cache_oldest(struct dir_cache *cache)
{
    struct dir_slot *oldest = &cache->slots[0];
    for (size_t i = 1; i < CACHE_SLOTS; i++)
        if (cache->slots[i].used < oldest->used)
            oldest = &cache->slots[i];
    return oldest;
}

int dir_cache_get(struct dir_cache *cache, const char *path, int *ret_fd)
{
    size_t len = strlen(path);
    struct dir_slot *near = cache_closest(cache, path, len);
    if (near) {
        near->used = ++cache->clock;
        if (near->len == len) {
            *ret_fd = near->fd;
            return 0;
        }
    }
    const char *rest = path;
    if (near && near->len > 0)
        rest += near->len + 1;

    struct dir_slot slot = {.path = strdup(path), .len = len, .used = ++cache->clock};
    if (!slot.path)
        return -ENOMEM;
    int r = beneath_open_dir(near ? near->fd : cache->root_fd, rest, &slot.fd);
    if (r < 0) {
        free(slot.path);
        return r;
    }
    struct dir_slot *oldest = cache_oldest(cache);
    slot_release(oldest);
    *oldest = slot;
    *ret_fd = slot.fd;
    return 0;
}
