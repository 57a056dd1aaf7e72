/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* struct io on a directory of the real file system. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/io.h"

struct io_real {
    struct io io;
    int root_fd;
    char *root; /* for messages */
};

struct io_real_file {
    struct io_file file;
    int fd;
    char *path; /* for messages, root included */
};

static struct io_real *real_of(struct io *io)
{
    return CONTAINER_OF(io, struct io_real, io);
}

static struct io_real_file *file_of(struct io_file *file)
{
    return CONTAINER_OF(file, struct io_real_file, file);
}

/* "" is the root itself. */
static const char *at(const char *path)
{
    return path[0] ? path : ".";
}

static int fail(const struct io_real *real, int error, const char *what, const char *path)
{
    return error_note_describe(-error, "cannot %s '%s%s%s'", what, real->root, path[0] ? "/" : "",
                               path);
}

static int file_fail(const struct io_real_file *f, int error, const char *what)
{
    return error_note_describe(-error, "cannot %s '%s'", what, f->path);
}

static int open_flags(unsigned flags)
{
    int mode = flags & IO_WRITE ? (flags & IO_READ ? O_RDWR : O_WRONLY) : O_RDONLY;
    /* O_NONBLOCK: a FIFO in place of a file must not hang us; it means nothing to regular files. */
    return mode | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK |
           (flags & IO_CREATE ? O_CREAT : 0) | (flags & IO_EXCLUSIVE ? O_EXCL : 0) |
           (flags & IO_DIRECT ? O_DIRECT : 0);
}

static void real_close(struct io_file *file)
{
    struct io_real_file *f = file_of(file);
    if (f->fd >= 0)
        (void)close(f->fd);
    free(f->path);
    free(f);
}

static int open_fd(struct io_real_file *f, int root_fd, const char *path, unsigned flags)
{
    struct stat st;
    f->fd = openat(root_fd, path, open_flags(flags), 0600);
    if (f->fd < 0 && errno == EINVAL && (flags & IO_DIRECT))
        f->fd = openat(root_fd, path, open_flags(flags & ~(unsigned)IO_DIRECT), 0600);
    if (f->fd < 0)
        return file_fail(f, errno, flags & IO_CREATE ? "create" : "open");
    if (fstat(f->fd, &st) < 0)
        return file_fail(f, errno, "stat");
    if (!S_ISREG(st.st_mode))
        return file_fail(f, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, "open as a file");
    return 0;
}

static int real_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    struct io_real *real = real_of(io);
    struct io_real_file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->file.ops = io->ops;
    f->fd = -EBADF;
    if (asprintf(&f->path, "%s/%s", real->root, path) < 0) {
        f->path = NULL;
        real_close(&f->file);
        return -ENOMEM;
    }
    int r = open_fd(f, real->root_fd, path, flags);
    if (r < 0) {
        real_close(&f->file);
        return r;
    }
    *ret_file = &f->file;
    return 0;
}

static int real_pread(struct io_file *file, void *data, size_t len, uint64_t offset,
                      size_t *ret_len)
{
    struct io_real_file *f = file_of(file);
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(f->fd, (uint8_t *)data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return file_fail(f, errno, "read");
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_len = done;
    return 0;
}

static int write_all(struct io_real_file *f, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(f->fd, data, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return file_fail(f, errno, "write");
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int real_pwritev(struct io_file *file, const struct iovec *iov, size_t iov_count,
                        uint64_t offset)
{
    for (size_t i = 0; i < iov_count; i++) {
        int r = write_all(file_of(file), iov[i].iov_base, iov[i].iov_len, offset);
        if (r < 0)
            return r;
        offset += iov[i].iov_len;
    }
    return 0;
}

static int real_sync(struct io_file *file)
{
    struct io_real_file *f = file_of(file);
    return fdatasync(f->fd) < 0 ? file_fail(f, errno, "sync") : 0;
}

static int real_truncate(struct io_file *file, uint64_t len_bytes)
{
    struct io_real_file *f = file_of(file);
    return ftruncate(f->fd, (off_t)len_bytes) < 0 ? file_fail(f, errno, "truncate") : 0;
}

static int real_punch(struct io_file *file, uint64_t len, uint64_t offset)
{
    struct io_real_file *f = file_of(file);
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (fallocate(f->fd, mode, (off_t)offset, (off_t)len) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? -EOPNOTSUPP : file_fail(f, errno, "punch");
}

static int real_stat(struct io *io, const char *path, struct io_stat *ret_stat)
{
    struct io_real *real = real_of(io);
    struct stat st;
    if (fstatat(real->root_fd, at(path), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return fail(real, errno, "stat", path);
    *ret_stat = (struct io_stat){
        .size_bytes = S_ISDIR(st.st_mode) ? 0 : (uint64_t)st.st_size,
        .mtime_ns = (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec,
        .is_directory = S_ISDIR(st.st_mode),
    };
    return 0;
}

static int real_mkdir(struct io *io, const char *path)
{
    struct io_real *real = real_of(io);
    return mkdirat(real->root_fd, path, 0700) < 0 ? fail(real, errno, "make directory", path) : 0;
}

static int real_rename(struct io *io, const char *from, const char *to, bool replace)
{
    struct io_real *real = real_of(io);
    unsigned flags = replace ? 0 : RENAME_NOREPLACE;
    if (renameat2(real->root_fd, from, real->root_fd, to, flags) == 0)
        return 0;
    if (replace || (errno != EINVAL && errno != ENOSYS))
        return fail(real, errno, errno == ENOENT ? "rename" : "rename to",
                    errno == ENOENT ? from : to);
    /* A file system without RENAME_NOREPLACE (NFS, FUSE): a hard link is as good, and never
     * replaces. */
    if (linkat(real->root_fd, from, real->root_fd, to, 0) < 0)
        return fail(real, errno, "link to", to);
    return unlinkat(real->root_fd, from, 0) < 0 ? fail(real, errno, "remove", from) : 0;
}

static int real_unlink(struct io *io, const char *path)
{
    struct io_real *real = real_of(io);
    if (unlinkat(real->root_fd, path, 0) == 0)
        return 0;
    if (errno == EISDIR && unlinkat(real->root_fd, path, AT_REMOVEDIR) == 0)
        return 0;
    return fail(real, errno, "remove", path);
}

static int real_sync_dir(struct io *io, const char *path)
{
    struct io_real *real = real_of(io);
    CLEANUP_CLOSE int fd = openat(real->root_fd, at(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(real, errno, "open", path);
    return fsync(fd) < 0 ? fail(real, errno, "sync", path) : 0;
}

static void closedirp(DIR **dir)
{
    if (*dir)
        (void)closedir(*dir);
}

static int real_list(struct io *io, const char *path, io_list_fn fn, void *userdata)
{
    struct io_real *real = real_of(io);
    CLEANUP_CLOSE int fd = openat(real->root_fd, at(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(real, errno, "open", path);
    CLEANUP(closedirp) DIR *dir = fdopendir(fd);
    if (!dir)
        return fail(real, errno, "list", path);
    (void)TAKE_FD(fd);
    for (;;) {
        errno = 0;
        const struct dirent *d = readdir(dir);
        if (!d)
            return errno ? fail(real, errno, "list", path) : 0;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        int r = fn(d->d_name, userdata);
        if (r != 0)
            return r;
    }
}

static uint64_t real_now_ns(struct io *io _unused_)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

static int real_random(struct io *io _unused_, void *data, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = getrandom((uint8_t *)data + done, len - done, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_note_describe(-errno, "cannot get random bytes");
        done += (size_t)n;
    }
    return 0;
}

static void real_free(struct io *io)
{
    struct io_real *real = real_of(io);
    if (real->root_fd >= 0)
        (void)close(real->root_fd);
    free(real->root);
    free(real);
}

static const struct io_ops real_ops = {
    .open = real_open,
    .close = real_close,
    .pread = real_pread,
    .pwritev = real_pwritev,
    .sync = real_sync,
    .truncate = real_truncate,
    .punch = real_punch,
    .stat = real_stat,
    .mkdir = real_mkdir,
    .rename = real_rename,
    .unlink = real_unlink,
    .sync_dir = real_sync_dir,
    .list = real_list,
    .now_ns = real_now_ns,
    .random = real_random,
    .free = real_free,
};

int io_new_real(const char *root, struct io **ret_io)
{
    struct io_real *real = calloc(1, sizeof(*real));
    if (!real)
        return -ENOMEM;
    real->io.ops = &real_ops;
    real->root = strdup(root);
    real->root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!real->root || real->root_fd < 0) {
        int r = real->root ? error_note_describe(-errno, "cannot open '%s'", root) : -ENOMEM;
        real_free(&real->io);
        return r;
    }
    *ret_io = &real->io;
    return 0;
}
