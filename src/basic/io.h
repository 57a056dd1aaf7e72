/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All input and output of durable state goes through struct io: a small file system below one root
 * directory, with four implementations.
 *
 *     real    the directory itself
 *     memory  files in memory, for unit tests
 *     fault   wraps another one and fails or shortens chosen calls (EIO, ENOSPC, ...)
 *     crash   memory with a volatile cache: what was not synced may be lost or torn at a power cut
 *
 * Paths are relative to the root, components divided by '/'; "" is the root itself.  Every call may
 * come from any thread.  Errors are negative errno, with a note that names the path.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/macro.h"

struct io;
struct io_file;

enum io_open_flags {
    IO_READ = 1 << 0,
    IO_WRITE = 1 << 1,
    IO_CREATE = 1 << 2,    /* create when absent */
    IO_EXCLUSIVE = 1 << 3, /* with IO_CREATE: -EEXIST when there */
    /* Past the page cache, where the file system can: addresses, offsets and lengths must be
     * multiples of 4096.  Elsewhere it means nothing. */
    IO_DIRECT = 1 << 4,
};

struct io_stat {
    uint64_t size_bytes;
    uint64_t mtime_ns; /* since the epoch */
    bool is_directory;
};

/* Return 0 to go on; anything else ends the listing and is returned by it. */
typedef int (*io_list_fn)(const char *name, void *userdata);

struct io_ops {
    int (*open)(struct io *io, const char *path, unsigned flags, struct io_file **ret_file);
    void (*close)(struct io_file *file);
    /* Reads until len bytes or end of file; *ret_len says how many. */
    int (*pread)(struct io_file *file, void *data, size_t len, uint64_t offset, size_t *ret_len);
    /* Writes all or fails. */
    int (*pwritev)(struct io_file *file, const struct iovec *iov, size_t iov_count,
                   uint64_t offset);
    int (*sync)(struct io_file *file); /* data and size are durable on return */
    int (*truncate)(struct io_file *file, uint64_t len_bytes);
    int (*punch)(struct io_file *file, uint64_t len, uint64_t offset); /* may be NULL */
    int (*stat)(struct io *io, const char *path, struct io_stat *ret_stat);
    int (*mkdir)(struct io *io, const char *path); /* -EEXIST when there */
    int (*rename)(struct io *io, const char *from, const char *to, bool replace); /* -EEXIST */
    int (*unlink)(struct io *io, const char *path);   /* a file or an empty directory */
    int (*sync_dir)(struct io *io, const char *path); /* names in it are durable on return */
    int (*list)(struct io *io, const char *path, io_list_fn fn,
                void *userdata);       /* any order, no "." */
    uint64_t (*now_ns)(struct io *io); /* real time since the epoch */
    int (*random)(struct io *io, void *data,
                  size_t len); /* unpredictable, save in the simulators */
    void (*free)(struct io *io);
};

struct io {
    const struct io_ops *ops;
};

struct io_file {
    const struct io_ops *ops;
};

/* The directory must exist.  Files are made 0600, directories 0700. */
_must_check_ int io_new_real(const char *root, struct io **ret_io);
/* seed: of the random numbers and of the clock, which moves only by now_ns() calls. */
_must_check_ int io_new_memory(uint64_t seed, struct io **ret_io);
struct io *io_free(struct io *io); /* NULL is fine; returns NULL */
DEFINE_CLEANUP_PTR(struct io *, io_free);

/* Typed wrappers, so that callers never touch the table. */
_must_check_ int io_open(struct io *io, const char *path, unsigned flags,
                         struct io_file **ret_file);
void io_close(struct io_file *file); /* NULL is fine */
DEFINE_CLEANUP_PTR(struct io_file *, io_close);
_must_check_ int io_pread(struct io_file *file, void *data, size_t len, uint64_t offset,
                          size_t *ret_len);
_must_check_ int io_pwritev(struct io_file *file, const struct iovec *iov, size_t n,
                            uint64_t offset);
_must_check_ int io_sync(struct io_file *file);
_must_check_ int io_truncate(struct io_file *file, uint64_t len_bytes);
/* The range reads as zeros, and takes no space; the file keeps its size.  -EOPNOTSUPP. */
_must_check_ int io_punch(struct io_file *file, uint64_t len, uint64_t offset);
_must_check_ int io_stat(struct io *io, const char *path, struct io_stat *ret_stat);
_must_check_ int io_mkdir(struct io *io, const char *path);
_must_check_ int io_rename(struct io *io, const char *from, const char *to, bool replace);
_must_check_ int io_unlink(struct io *io, const char *path);
_must_check_ int io_sync_dir(struct io *io, const char *path);
_must_check_ int io_list(struct io *io, const char *path, io_list_fn fn, void *userdata);
uint64_t io_now_ns(struct io *io);
_must_check_ int io_random(struct io *io, void *data, size_t len);
