/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Placeholders without a name, which somebody has open still.
 *
 * Whoever made them knows their handles and fills them as all others.  A hydrator that comes later
 * reads the tree, where they are not; so it looks at what the processes have open or mapped before
 * it lets the gate go.  What is on its way between two of them, or registered with an io_uring
 * only, cannot be seen.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/hydrator-private.h"

static const char deleted[] = " (deleted)";

struct scan {
    struct hydrator *h;
    pid_t process; /* that is being looked at */
    uint64_t count;
    int error; /* the first */
};

typedef void (*entry_fn)(struct scan *scan, int dir_fd, const char *name);

/* A process can end at any time: what cannot be read is not there. */
static void for_each(struct scan *scan, int at_fd, const char *path, entry_fn fn)
{
    int fd = openat(at_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        if (is_shortage(-errno))
            scan->error = -errno;
        return;
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        (void)close(fd);
        scan->error = -ENOMEM;
        return;
    }
    for (const struct dirent *d; scan->error == 0 && (d = readdir(dir));) {
        if (d->d_name[0] != '.')
            fn(scan, dirfd(dir), d->d_name);
    }
    (void)closedir(dir);
}

/* A path that is too long to be told may be such a one. */
static bool is_deleted(int dir_fd, const char *name)
{
    const size_t deleted_len = strlen(deleted);
    char path[PATH_MAX];

    ssize_t n = readlinkat(dir_fd, name, path, sizeof(path));
    if (n < 0)
        return errno == ENAMETOOLONG;
    size_t len = (size_t)n;
    return len >= deleted_len && memcmp(path + len - deleted_len, deleted, deleted_len) == 0;
}

/* Through our own mount.  One of another file system leads to anything, or nowhere. */
static int reopen(const struct hydrator *h, int dir_fd, const char *name, const struct stat *st)
{
    struct {
        struct file_handle head;
        uint8_t bytes[FILTER_HANDLE_MAX];
    } raw = {.head = {.handle_bytes = FILTER_HANDLE_MAX}};
    struct stat own;
    int mount_id;

    if (name_to_handle_at(dir_fd, name, &raw.head, &mount_id, AT_SYMLINK_FOLLOW) < 0)
        return -errno;
    CLEANUP_CLOSE int fd =
        open_by_handle_at(h->tree_fd, &raw.head, O_RDONLY | O_NOATIME | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &own) < 0)
        return -errno;
    return own.st_dev == st->st_dev && own.st_ino == st->st_ino ? TAKE_FD(fd) : -ENOENT;
}

static void look_at_file(struct scan *scan, int dir_fd, const char *name)
{
    struct pending pending;
    struct stat st;

    if (!is_deleted(dir_fd, name) || fstatat(dir_fd, name, &st, 0) < 0 || !S_ISREG(st.st_mode) ||
        st.st_nlink > 0)
        return;
    CLEANUP_CLOSE int fd = reopen(scan->h, dir_fd, name, &st);
    if (fd < 0 || pending_get(fd, &pending, NULL) < 0 ||
        pending.restore_id != scan->h->config.restore_id)
        return;
    scan->count++;
    scan->error = note_found(scan->h, pending.ordinal, fd, FILE_TODO);
}

/* Most threads share the descriptors of the first one. */
static bool shares_descriptors(pid_t tid, pid_t process)
{
    return tid != process && syscall(SYS_kcmp, process, tid, KCMP_FILES, 0, 0) == 0;
}

static void look_at_thread(struct scan *scan, int dir_fd, const char *name)
{
    char path[NAME_MAX + 4];

    if (shares_descriptors((pid_t)strtol(name, NULL, 10), scan->process))
        return;
    (void)snprintf(path, sizeof(path), "%s/fd", name);
    for_each(scan, dir_fd, path, look_at_file);
}

/* What is open here only is nobody's. */
static void look_at_process(struct scan *scan, int dir_fd, const char *name)
{
    char path[NAME_MAX + 16];

    scan->process = (pid_t)strtol(name, NULL, 10);
    if (scan->process <= 0 || scan->process == getpid())
        return;
    (void)snprintf(path, sizeof(path), "%s/task", name);
    for_each(scan, dir_fd, path, look_at_thread);
    if (scan->error < 0)
        return;
    (void)snprintf(path, sizeof(path), "%s/map_files", name);
    for_each(scan, dir_fd, path, look_at_file);
}

int hydrator_find_unnamed(struct hydrator *h, uint64_t *ret_count)
{
    struct scan scan = {.h = h};

    for_each(&scan, h->proc_fd, ".", look_at_process);
    if (scan.error < 0)
        return error_note_describe(scan.error, "cannot tell what is open without a name");
    *ret_count = scan.count;
    return 0;
}
