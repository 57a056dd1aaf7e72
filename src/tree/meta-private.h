/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files meta-*.c share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/macro.h"
#include "tree/meta.h"

/* A file by an open fd, or, when it must not be opened, by an O_PATH fd and the link in /proc that
 * leads to the same inode.  Either way it is one inode from the first call to the last. */
struct meta_file {
    int fd;
    char link[40]; /* "": fd is open for reading */
};

/* Opens name in dir_fd with O_PATH, following nothing.  The fd is the caller's to close. */
_must_check_ int meta_file_open(int dir_fd, const char *name, struct meta_file *ret_file);
/* Of an O_PATH fd. */
void meta_file_of(int path_fd, struct meta_file *ret_file);
ssize_t meta_xattr_list(const struct meta_file *file, char *list, size_t size);
ssize_t meta_xattr_get(const struct meta_file *file, const char *name, void *value, size_t size);

/* Calls fn with each xattr name of the file but those that file systems and umbra keep for
 * themselves.  0, -ENOMEM, what fn returned when not 0, or the
 * negative errno of the listing; a file system without xattrs has none. */
typedef int (*meta_xattr_fn)(const char *name, void *userdata);
_must_check_ int meta_xattr_each(const struct meta_file *file, meta_xattr_fn fn, void *userdata);

/* xattrs, flags, project id and symlink target into e. */
_must_check_ int meta_capture(const struct meta_file *file, struct entry *e,
                              meta_problem_fn problem, void *userdata);

/* Whether the error says that the file system has no such thing. */
bool meta_error_is_unsupported(int r);

void meta_problem_xattr(const char *name, int r, meta_problem_fn problem, void *userdata);

/* Whether a security module gives this xattr to every file by itself. */
bool meta_xattr_is_label(const char *name);

/* system.posix_acl_access or system.posix_acl_default, as the kernel hands them out. */
bool meta_xattr_is_acl(const char *name);
/* Entries of an ACL; 0 when it is malformed. */
size_t meta_acl_count(const uint8_t *value, size_t len);
/* Whether that entry of an ACL names a user or group, and which. */
bool meta_acl_get_id(const uint8_t *value, size_t index, bool *ret_is_group, uint32_t *ret_id);
/* Replaces the recorded ids of the ACL by those of this system. */
void meta_acl_map(uint8_t *value, size_t len, const struct owner_map *owners);
