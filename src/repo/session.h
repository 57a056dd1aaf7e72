/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of a backup under way, and taking over that of a dead one. */
#pragma once

#include "repo/repository.h"

struct session;

/* A session of this process; nothing is stored until the first journal. */
_must_check_ int session_new(struct repository *repo, const char *host, const char *const *roots,
                             size_t root_count, int64_t start_ns, struct session **ret_session);
void session_free(struct session *session);
DEFINE_CLEANUP_PTR(struct session *, session_free);
/* Journals entries (keys ascending) whose chunks are all durable, in as many objects as it takes;
 * an entry that is too large for any is left out.  Durable on return. */
_must_check_ int session_journal(struct session *session, const struct entry *const *entries,
                                 size_t count);
/* Removes this session's objects, those of the dead sessions that were taken over, and those that
 * nobody can use; failures are only warned of. */
void session_remove_all(struct session *session);

/* Finds the dead sessions of the same host and roots.  Damaged objects are warned of and left out.
 */
_must_check_ int session_adopt(struct session *session);
/* The adopted entry with that key, or NULL; keys must ascend from call to call. Valid until the
 * next call.  *ret_start_ns: when its session began. */
_must_check_ int session_find(struct session *session, const uint8_t *key, size_t len,
                              struct entry **ret_entry, int64_t *ret_start_ns);
