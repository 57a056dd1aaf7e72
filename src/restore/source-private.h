/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of kinds of sources.  The essay is in source.c. */
#pragma once

#include "restore/source.h"

/* A whole chunk of a file. */
struct source_want {
    const char *path;    /* below the target, of any bytes but NUL */
    uint64_t size_bytes; /* of the file */
    uint64_t offset;     /* in the file */
    uint32_t len;        /* 1 to FRAME_PLAIN_MAX */
};

/*
 * A kind.  It has either read or fetch.  All may fail with -ENOMEM; other failures say what
 * happened but not to which source, which the caller puts in front.
 */
struct source_ops {
    /* What its readers share; argument: the spec without its kind. */
    int (*open)(const char *argument, const struct source_options *options, void **ret_shared);
    void (*close)(void *shared);
    /* What a reader has for itself.  Nothing slow: it may never be used. */
    int (*attach)(void *shared, void **ret_state);
    void (*detach)(void *state);
    /* A part of a chunk, verified. */
    int (*read)(void *state, const struct chunk_ref *ref, uint32_t offset, void *to, uint32_t len);
    /* A whole chunk, not verified.  -UMBRA_E_NO_CHUNK: it has no such file, or a shorter one. */
    int (*fetch)(void *state, const struct source_want *want, void *to);
};

extern const struct source_ops source_repo_ops, source_dir_ops, source_exec_ops;

/* ---- answers of a command: source-exec-reply.c ---- */

#define EXEC_LINE_MAX 1024u /* of an answer, with its newline */

enum exec_verdict {
    EXEC_OK,    /* contents follow */
    EXEC_ERROR, /* it does not have that */
    EXEC_LATER, /* it cannot say now */
};

/* An answer as it comes in. */
struct exec_reply {
    char line[EXEC_LINE_MAX]; /* without its newline, with a NUL behind it once it is whole */
    uint32_t line_len;
    bool has_line;
    enum exec_verdict verdict;
    const char *words;  /* inside line: what an error or delay was explained with */
    uint8_t *to;        /* room for want */
    uint32_t want, len; /* asked for; promised, at most want */
    uint32_t got;
};
void exec_reply_init(struct exec_reply *reply, void *to, uint32_t want);
/* 1: the answer is whole; 0: there is more to come; -EPROTO: it is no answer, or more than one. */
_must_check_ int exec_reply_feed(struct exec_reply *reply, const void *data, size_t len);
