/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Session objects: the journal of a backup that is being made.
 *
 * sessions/<session id, 32 hex digits>/<number, 8 hex digits> holds the entries that were finished
 * since the object before: all their chunks are durable.  Readers of backups never look here.  The
 * next backup of the same host and roots takes the entries of dead sessions for entries of a
 * previous backup, and so does not read unchanged finished files again; after its commit it removes
 * the objects.
 *
 *     header[16] sealed(SEAL_SESSION; associated data: header, session id, number)
 *
 * The sealed contents:
 *
 *     varint  start of the session, nanoseconds since the epoch
 *     varint  process id, and varint its start time in clock ticks since boot (proc(5), stat, field
 * 22) 16      boot id (/proc/sys/kernel/random/boot_id) string  host varint  count of roots, then
 * that many strings rest    a run of entries: a page of kind run, see tree/catalog-format.h
 *
 * A session is alive, and is left alone, while a process with that id and start time exists under
 * that boot id.
 */
#pragma once

#include <assert.h>

#include "basic/le.h"

#define SESSION_MAGIC          "UMBRASES"
#define SESSION_VERSION        1u
#define SESSION_ID_LEN         16
#define SESSION_OBJECT_LEN_MAX (256u << 20)
#define SESSION_HOST_MAX       4096u
#define SESSION_ROOT_MAX       (1u << 20)
#define SESSION_ROOTS_MAX      65536u

struct session_header {
    uint8_t magic[8]; /* 00-07: SESSION_MAGIC */
    le32_t version;   /* 08-11: SESSION_VERSION; a newer one is left alone */
    le32_t reserved;  /* 12-15: zero */
};
static_assert(sizeof(struct session_header) == 16, "on disk");
