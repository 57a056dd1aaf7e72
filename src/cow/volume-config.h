/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What this machine knows of its cow volumes: a small JSON file for each, in VOLUME_CONFIG_DIR.  It
 * is written last when a volume is made, and removed first when it is deleted, so what has one is
 * whole.  All else is in the volume's storage (cow-format.h).
 *
 * Who uses a volume (attaches it, deletes it) holds its lock meanwhile.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/string-vector.h"

#define VOLUME_CONFIG_DIR   "/var/lib/umbra/volumes"
#define VOLUME_RUN_DIR      "/run/umbra/volumes" /* NAME.sock: where an attached one listens */
#define VOLUME_DEVICE_DIR   "/dev/umbra"         /* NAME, NAME@N */
#define VOLUME_NAME_MAX     64u
#define VOLUME_PATH_MAX     4095u
#define VOLUME_EXCLUDES_MAX 256u
#define VOLUME_COUNT_MAX    4096u

struct volume_config {
    char *name;                    /* volume_name_valid() */
    char *origin;                  /* absolute path of a block device or regular file */
    char *storage;                 /* absolute path of a directory */
    struct string_vector excludes; /* patterns, of files whose blocks need not be kept */
};
void volume_config_release(struct volume_config *config);

/* A letter or digit, then letters, digits, '_', '.' and '-'; at most VOLUME_NAME_MAX. */
bool volume_name_valid(const char *name);
/* -EINVAL, with words, when it is not. */
_must_check_ int volume_name_check(const char *name);

/* One line, malloc'ed. */
_must_check_ int volume_config_to_json(const struct volume_config *config, char **ret_text);
/* -UMBRA_E_CORRUPT, -UMBRA_E_VERSION. */
_must_check_ int volume_config_from_json(const char *text, size_t len,
                                         struct volume_config *ret_config);

/* Durable on return.  Makes the directory, too.  -EEXIST: there is a volume of this name. */
_must_check_ int volume_config_save(const char *dir, const struct volume_config *config);
/* -ENOENT: there is no such volume; -EINVAL: it is no name; and those of volume_config_from_json().
 */
_must_check_ int volume_config_load(const char *dir, const char *name,
                                    struct volume_config *ret_config);
/* Durable on return.  -ENOENT. */
_must_check_ int volume_config_remove(const char *dir, const char *name);
/* The names, sorted; whether they can be loaded is another question.  None when the directory is
 * not there. */
_must_check_ int volume_config_list(const char *dir, struct string_vector *ret_names);
/* For as long as *ret_fd is open, in any process.  -EBUSY: somebody else has it; -ENOENT. */
_must_check_ int volume_config_lock(const char *dir, const char *name, int *ret_fd);
/* Whether somebody has it: 1 or 0.  -ENOENT. */
_must_check_ int volume_config_is_locked(const char *dir, const char *name);
