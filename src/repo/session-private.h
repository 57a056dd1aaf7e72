/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of session.c its tests and its fuzzer need, too. */
#pragma once

#include "basic/buffer.h"
#include "repo/backup-object.h"
#include "repo/session.h"

#define BOOT_ID_LEN 16

/* Who is making a backup, as every object of the session says. */
struct session_head {
    int64_t start_ns;
    uint64_t pid, pid_start;
    uint8_t boot_id[BOOT_ID_LEN];
    char *host;
    struct string_vector roots;
};
void session_head_release(struct session_head *head);

/* The plain contents of an object begin with the head; the rest is a run (tree/catalog.h). */
void session_head_encode(const struct session_head *head, struct buffer *b);
/* On failure, too, the head is to be released. */
_must_check_ int session_head_decode(struct reader *reader, struct session_head *head);

/* session_journal() with another limit than SESSION_OBJECT_LEN_MAX. */
_must_check_ int session_journal_limited(struct session *session,
                                         const struct entry *const *entries, size_t count,
                                         size_t object_len_max);
