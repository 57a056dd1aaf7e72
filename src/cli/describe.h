/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backups and catalog entries as people and programs read them. */
#pragma once

#include "cli/output.h"
#include "repo/backup-object.h"
#include "tree/entry.h"

/* A backup without its catalog. */
struct json_object *backup_to_json(const struct backup *backup);

/* An entry with all its metadata, but not its extents. */
struct json_object *entry_to_json(const struct backup *backup, const struct entry *e);

/* "drwxr-sr-x": ten characters; an eleventh, '+', when there is an ACL. */
char *entry_mode_text(const struct entry *e, char text[12]);
/* The name of an owner as the backup recorded it; else its number, in the buffer. */
const char *owner_name(const struct owner_vector *owners, uint32_t id, bool is_group,
                       char buffer[16]);
/* The path with a leading '/', malloc'ed; NULL without memory. */
char *entry_path(const struct entry *e);
