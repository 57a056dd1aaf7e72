/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The wrappers over struct io_ops.  What every implementation would have to check is checked here
 * once: paths stay below the root, offsets stay within what off_t can say, flags make sense.
 */
#include "basic/io.h"

#include <errno.h>
#include <string.h>

#include "basic/checked.h"
#include "basic/error.h"

#define IO_OFFSET_MAX ((uint64_t)INT64_MAX)

/* Components that are not empty, "." or "..", divided by single slashes. */
static int check_path(const char *path)
{
    const char *p = path;

    if (*p == '\0')
        return 0;
    for (;;) {
        size_t len = strcspn(p, "/");
        if (len == 0 || (len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
            return error_note_describe(-UMBRA_E_HOSTILE, "path '%s'", path);
        if (p[len] == '\0')
            return 0;
        p += len + 1;
    }
}

/* The same for a path that has to name something below the root. */
static int check_name(const char *path)
{
    if (path[0] == '\0')
        return error_note(-EINVAL, "an empty path names nothing below the root");
    return check_path(path);
}

static int check_range(uint64_t len_bytes, uint64_t offset)
{
    uint64_t end;

    if (!checked_add_u64(offset, len_bytes, &end) || end > IO_OFFSET_MAX)
        return error_note(-EFBIG, "offset is beyond the largest file size");
    return 0;
}

struct io *io_free(struct io *io)
{
    if (io)
        io->ops->free(io);
    return NULL;
}

int io_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
    int r = check_name(path);

    if (r < 0)
        return r;
    if (!(flags & (IO_READ | IO_WRITE)) || ((flags & IO_CREATE) && !(flags & IO_WRITE)) ||
        ((flags & IO_EXCLUSIVE) && !(flags & IO_CREATE)))
        return error_note(-EINVAL, "flags %#x for '%s' make no sense", flags, path);
    return io->ops->open(io, path, flags, ret_file);
}

void io_close(struct io_file *file)
{
    if (file)
        file->ops->close(file);
}

int io_pread(struct io_file *file, void *data, size_t len, uint64_t offset, size_t *ret_len)
{
    int r = check_range(len, offset);

    if (r < 0)
        return r;
    return file->ops->pread(file, data, len, offset, ret_len);
}

int io_pwritev(struct io_file *file, const struct iovec *iov, size_t n, uint64_t offset)
{
    uint64_t total = 0;

    for (size_t i = 0; i < n; i++)
        if (!checked_add_u64(total, iov[i].iov_len, &total))
            return error_note(-EFBIG, "offset is beyond the largest file size");
    int r = check_range(total, offset);
    if (r < 0 || total == 0)
        return r;
    return file->ops->pwritev(file, iov, n, offset);
}

int io_sync(struct io_file *file)
{
    return file->ops->sync(file);
}

int io_truncate(struct io_file *file, uint64_t len_bytes)
{
    int r = check_range(len_bytes, 0);

    if (r < 0)
        return r;
    return file->ops->truncate(file, len_bytes);
}

int io_punch(struct io_file *file, uint64_t len, uint64_t offset)
{
    return file->ops->punch ? file->ops->punch(file, len, offset) : -EOPNOTSUPP;
}

int io_stat(struct io *io, const char *path, struct io_stat *ret_stat)
{
    int r = check_path(path);

    if (r < 0)
        return r;
    return io->ops->stat(io, path, ret_stat);
}

int io_mkdir(struct io *io, const char *path)
{
    int r = check_name(path);

    if (r < 0)
        return r;
    return io->ops->mkdir(io, path);
}

int io_rename(struct io *io, const char *from, const char *to, bool replace)
{
    int r = check_name(from);

    if (r >= 0)
        r = check_name(to);
    if (r < 0)
        return r;
    return io->ops->rename(io, from, to, replace);
}

int io_unlink(struct io *io, const char *path)
{
    int r = check_name(path);

    if (r < 0)
        return r;
    return io->ops->unlink(io, path);
}

int io_sync_dir(struct io *io, const char *path)
{
    int r = check_path(path);

    if (r < 0)
        return r;
    return io->ops->sync_dir(io, path);
}

int io_list(struct io *io, const char *path, io_list_fn fn, void *userdata)
{
    int r = check_path(path);

    if (r < 0)
        return r;
    return io->ops->list(io, path, fn, userdata);
}

uint64_t io_now_ns(struct io *io)
{
    return io->ops->now_ns(io);
}

int io_random(struct io *io, void *data, size_t len)
{
    return io->ops->random(io, data, len);
}
