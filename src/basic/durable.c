/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/durable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/text.h"

#define TMP_NAME_TRIES  16u
#define READ_STEP_BYTES ((size_t)16 * 1024)

static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strndup(path, slash ? (size_t)(slash - path) : 0);
}

static int create_tmp(struct io *io, const char *tmp_dir, char **ret_path,
                      struct io_file **ret_file)
{
    for (unsigned i = 0; i < TMP_NAME_TRIES; i++) {
        uint8_t random[12];
        char hex[2 * sizeof(random) + 1];
        CLEANUP_FREE char *path = NULL;
        int r = io_random(io, random, sizeof(random));
        if (r < 0)
            return r;
        hex_encode(random, sizeof(random), hex);
        if (asprintf(&path, "%s%stmp-%s", tmp_dir, tmp_dir[0] ? "/" : "", hex) < 0) {
            path = NULL;
            return -ENOMEM;
        }
        r = io_open(io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE, ret_file);
        if (r == 0)
            *ret_path = TAKE_PTR(path);
        if (r != -EEXIST)
            return r;
    }
    return -EEXIST;
}

static int write_tmp(struct io *io, const char *tmp_dir, const struct iovec *iov, size_t iov_count,
                     char **ret_path)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    CLEANUP_FREE char *path = NULL;
    int r = create_tmp(io, tmp_dir, &path, &file);
    if (r < 0)
        return r;
    r = io_pwritev(file, iov, iov_count, 0);
    if (r >= 0)
        r = io_sync(file);
    if (r < 0) {
        struct error_report first = {0};
        error_save(&first, r);
        IGNORE_RESULT(io_unlink(io, path));
        return error_raise(&first);
    }
    *ret_path = TAKE_PTR(path);
    return 0;
}

int durable_write(struct io *io, const char *tmp_dir, const char *path, enum durable_mode mode,
                  const struct iovec *iov, size_t iov_count)
{
    CLEANUP_FREE char *parent = parent_of(path);
    CLEANUP_FREE char *tmp = NULL;
    if (!parent)
        return -ENOMEM;
    int r = write_tmp(io, tmp_dir, iov, iov_count, &tmp);
    if (r < 0)
        return r;
    r = io_rename(io, tmp, path, mode == DURABLE_REPLACE);
    if (r < 0) {
        struct error_report first = {0};
        error_save(&first, r);
        IGNORE_RESULT(io_unlink(io, tmp));
        return error_raise(&first);
    }
    return io_sync_dir(io, parent);
}

static int durable_mkdir(struct io *io, const char *path)
{
    CLEANUP_FREE char *parent = parent_of(path);
    if (!parent)
        return -ENOMEM;
    int r = io_mkdir(io, path);
    if (r == -EEXIST) {
        struct io_stat st;
        r = io_stat(io, path, &st);
        if (r >= 0 && !st.is_directory)
            r = error_note_describe(-ENOTDIR, "'%s'", path);
    }
    if (r < 0)
        return r;
    return io_sync_dir(io, parent); /* also when it exists: who made it may not have come to this */
}

int durable_mkdir_parents(struct io *io, const char *path)
{
    for (const char *end = path; *end; end++) {
        if (end[1] != '/' && end[1] != 0)
            continue;
        CLEANUP_FREE char *prefix = strndup(path, (size_t)(end - path) + 1);
        if (!prefix)
            return -ENOMEM;
        int r = durable_mkdir(io, prefix);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Reads on until the end of the file or one byte more than allowed: the size may change meanwhile.
 */
static int read_to_end(struct io_file *file, size_t max_bytes, struct buffer *data)
{
    size_t want, got;
    do {
        size_t before = data->len;
        want = MIN(MAX(READ_STEP_BYTES, before), max_bytes - before + 1);
        uint8_t *room = buffer_extend(data, want);
        if (!room)
            return -ENOMEM;
        int r = io_pread(file, room, want, before, &got);
        if (r < 0)
            return r;
        data->len = before + got;
    } while (got == want && data->len <= max_bytes);
    return 0;
}

int durable_read(struct io *io, const char *path, size_t max_bytes, void **ret_data,
                 size_t *ret_len)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    CLEANUP(buffer_release) struct buffer data = {0};
    int r = io_open(io, path, IO_READ, &file);
    if (r < 0)
        return r;
    r = read_to_end(file, max_bytes, &data);
    if (r < 0)
        return r;
    if (data.len > max_bytes)
        return error_note(-UMBRA_E_LIMIT, "'%s' is larger than %zu bytes", path, max_bytes);
    buffer_put_u8(&data, 0);
    if (buffer_finish(&data) < 0)
        return -ENOMEM;
    *ret_len = data.len - 1;
    *ret_data = TAKE_PTR(data.data);
    return 0;
}
