/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backup objects, backups/<sha256 of the object>: one recorded point.
 *
 *     header[16] sealed( zstd( body ) )
 *
 * The header is the associated data of the box (kind SEAL_BACKUP).  The zstd frame says how long
 * the body is.  Durable when written (put-if-absent, after all that it refers to), never replaced.
 *
 * The body, in the encoding of basic/buffer.h (z: zigzag varint, v: varint, s: string with its
 * length before it):
 *
 *     z start_ns   z end_ns   s host   s user   s program
 *     v count, s ...                 roots, ascending
 *     v count, s ...                 tags, ascending
 *     v count, s ...                 excludes
 *     s parent                       64 hex digits or nothing
 *     v x 12                         the numbers of struct backup_stats, in its order
 *     v count, (u8 is_group, v id, s name) ...      owners, ascending by (is_group, id)
 *     v count, (s type, s source, s mount) ...      file systems
 *     catalog root                   see tree/catalog.h
 *
 * and nothing behind it.  A reader refuses a higher version; whatever is out of the bounds below is
 * damage.
 */
#pragma once

#include <stddef.h>

#include "basic/le.h"

#define BACKUP_OBJECT_PREFIX    "backups/"
#define BACKUP_MAGIC            "UMBRABAK"
#define BACKUP_VERSION          1u
#define BACKUP_BODY_LEN_MAX     (256u << 20)
#define BACKUP_NAME_LEN_MAX     1024u  /* host, user, program, owners, types of file systems */
#define BACKUP_STRING_LEN_MAX   65536u /* roots, tags, excludes, mounts */
#define BACKUP_OWNERS_MAX       (1u << 20)
#define BACKUP_FILE_SYSTEMS_MAX (1u << 16)

struct backup_header {
    uint8_t magic[8]; /*  0..7  */
    le32_t version;   /*  8..11 */
    le32_t reserved;  /* 12..15 zero */
};
_Static_assert(sizeof(struct backup_header) == 16, "on disk");
_Static_assert(offsetof(struct backup_header, version) == 8, "on disk");
