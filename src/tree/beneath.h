/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Paths that stay beneath a directory.
 *
 * All that a restore makes goes through these: openat2(2) with RESOLVE_BENEATH |
 * RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, in pieces where a path is longer than PATH_MAX.
 * Nothing in the target can lead out of it, whoever puts a symlink there and whenever.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/macro.h"

/* Opens directory path (relative, '/'-divided, "" = the root) as O_RDONLY|O_DIRECTORY|O_CLOEXEC.
 * -ENOTDIR or -ELOOP when a component is something else.  Mount points inside are crossed. */
_must_check_ int beneath_open_dir(int root_fd, const char *path, int *ret_fd);
/* The same, making what is missing with mode 0700. Existing non-directories on the way: replace =
 * false: -ENOTDIR; true: they are removed. */
_must_check_ int beneath_make_dirs(int root_fd, const char *path, bool replace, int *ret_fd);
/* Removes name in dir_fd whatever it is, directories with all they hold (chattr +i/+a cleared
 * first), never following links and not crossing mount points (-EBUSY). */
_must_check_ int beneath_remove(int dir_fd, const char *name);

/* A cache of the last few directories opened, for restores in catalog order.  One thread at a time.
 */
struct dir_cache;
_must_check_ int dir_cache_new(int root_fd,
                               struct dir_cache **ret_cache); /* root_fd stays the caller's */
void dir_cache_free(struct dir_cache *cache);
/* The fd belongs to the cache and is valid until the next call. */
_must_check_ int dir_cache_get(struct dir_cache *cache, const char *path, int *ret_fd);
