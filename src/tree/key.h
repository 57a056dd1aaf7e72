/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Catalog keys: paths as byte strings whose memcmp order is the order of the catalog.
 *
 * The key of DIR/NAME is DIR with each '/' replaced by a NUL byte, then two NUL bytes, then NAME.
 * So the entries of one directory stand together, sorted by name, and are followed by the contents
 * of its first subdirectory, and so on: a walk that emits a directory's entries and then descends
 * into its subdirectories in name order emits keys in ascending order.  The root itself has the
 * empty key; entries of the root begin with two NUL bytes.  A well-formed key has no empty, "." or
 * ".." component and no '/' in any.
 *
 * A path here is absolute without the leading '/': "" is the root, "usr/bin/env" a file.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/buffer.h"
#include "basic/macro.h"

/* vfat, exfat and ntfs have names of 255 UTF-16 units: up to 765 bytes of UTF-8, not NAME_MAX */
#define KEY_NAME_MAX 1023
#define KEY_LEN_MAX  (1u << 20) /* paths of Linux have no limit; this one does */

/* memcmp, then the shorter one first. */
int key_compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len);

/* Whether it could be a key at all: everything that is parsed goes through this. */
bool key_valid(const uint8_t *key, size_t len);

/* Appends the key of dir/name to b; dir as a path ("" for the root). */
void key_put(struct buffer *b, const char *dir, size_t dir_len, const char *name, size_t name_len);
/* Appends the key of a whole path ("" gives the empty key). */
void key_put_path(struct buffer *b, const char *path, size_t path_len);
/* Appends what all keys of the entries of directory dir begin with. */
void key_put_children_prefix(struct buffer *b, const char *dir, size_t dir_len);

/* The name part, inside the key; of the root's key nothing. */
const uint8_t *key_name(const uint8_t *key, size_t len, size_t *ret_name_len);
/* The path, malloc'ed, NUL-terminated, without leading '/'; NULL without memory. */
char *key_to_path(const uint8_t *key, size_t len);
/* The path of the directory that holds it, in the same form. */
char *key_to_dir(const uint8_t *key, size_t len);
