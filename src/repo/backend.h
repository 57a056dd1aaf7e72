/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the objects of a repository are kept.
 *
 * A backend is a flat store of immutable objects: put if absent, get a range, list by prefix,
 * remove.  That is all that S3, SFTP and a directory have in common, and all that umbra asks for.
 * An object is there whole or not at all, and durable when put returns.  Every call may come from
 * any thread.  Errors are negative errno with a note that names the object.
 *
 * Object names are ASCII: lower-case letters, digits, '-', '.', '/' between parts; at most
 * BACKEND_NAME_MAX bytes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/macro.h"

#define BACKEND_NAME_MAX 200

struct backend;

/* Return 0 to go on; anything else ends the listing and is returned. */
typedef int (*backend_list_fn)(const char *name, uint64_t size_bytes, void *userdata);

struct backend_ops {
    const char *scheme; /* "file" */
    /* Creates the object; -EEXIST when the name is taken (nothing is changed then). */
    int (*put)(struct backend *backend, const char *name, const struct iovec *iov,
               size_t iov_count);
    /* Exactly len bytes from offset; -ENODATA when the object ends earlier, -ENOENT when it is not
     * there. */
    int (*get)(struct backend *backend, const char *name, uint64_t offset, void *data, size_t len);
    int (*stat)(struct backend *backend, const char *name, uint64_t *ret_size_bytes);
    /* All objects whose name begins with prefix ("packs/"), any order. Objects that appear or go
     * meanwhile may be missed. */
    int (*list)(struct backend *backend, const char *prefix, backend_list_fn fn, void *userdata);
    int (*remove)(struct backend *backend, const char *name); /* -ENOENT */
    void (*free)(struct backend *backend);
};

struct backend {
    const struct backend_ops *ops;
    char *url;        /* for messages */
    char *local_path; /* of a repository in a directory: absolute, without links; else NULL */
};

/* url: "/path" or "file:///path" or a relative path.  create: the directory may be missing or
 * empty. The local backend removes temporary files older than a day when opened for writing. */
_must_check_ int backend_open(const char *url, bool create, struct backend **ret_backend);
/* A local backend over any io (simulators); takes the io over. */
_must_check_ int backend_new_local(struct io *io, const char *url, struct backend **ret_backend);
struct backend *backend_free(struct backend *backend);
DEFINE_CLEANUP_PTR(struct backend *, backend_free);

_must_check_ int backend_put(struct backend *b, const char *name, const struct iovec *iov,
                             size_t iov_count);
_must_check_ int backend_get(struct backend *b, const char *name, uint64_t offset, void *data,
                             size_t len);
/* Whole object, malloc'ed; -UMBRA_E_LIMIT when larger than max_bytes. */
_must_check_ int backend_get_all(struct backend *b, const char *name, size_t max_bytes,
                                 void **ret_data, size_t *ret_len);
_must_check_ int backend_stat(struct backend *b, const char *name, uint64_t *ret_size_bytes);
_must_check_ int backend_list(struct backend *b, const char *prefix, backend_list_fn fn,
                              void *userdata);
_must_check_ int backend_remove(struct backend *b, const char *name);
