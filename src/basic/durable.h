/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one way in which umbra writes a small durable file: temporary name, write, sync, rename, sync
 * of the directory. */
#pragma once

#include "basic/io.h"

enum durable_mode {
    DURABLE_CREATE,  /* -EEXIST when the name is taken; nothing is changed then */
    DURABLE_REPLACE, /* the old or the new contents survive a crash, never a mixture */
};

/*
 * Writes the pieces to path.  tmp_dir is a directory of the same file system that exists; a
 * temporary file in it is removed on failure (a crash may leave one behind: names begin with
 * "tmp-", their owner may delete them at will). On return 0, contents and name are durable.
 * Directories on the way are not made.
 */
_must_check_ int durable_write(struct io *io, const char *tmp_dir, const char *path,
                               enum durable_mode mode, const struct iovec *iov, size_t iov_count);

/* mkdir that is durable and does not mind an existing directory; parents first ("a/b" makes "a",
 * then "a/b"). */
_must_check_ int durable_mkdir_parents(struct io *io, const char *path);

/* Whole file into malloc'ed memory, with a NUL behind it; -UMBRA_E_LIMIT when larger than
 * max_bytes. */
_must_check_ int durable_read(struct io *io, const char *path, size_t max_bytes, void **ret_data,
                              size_t *ret_len);
