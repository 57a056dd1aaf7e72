/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors.
 *
 * A function that can fail returns 0 or a negative number: a negative errno, or one of the private
 * codes below where errno is too coarse.  Private codes lie above 4095, the kernel's last errno,
 * and each has a parent errno, so that code which only cares for the class can ask error_class().
 *
 * The words go along in a thread-local note: the function that first sees the failure calls
 *
 *     return error_note(-ENOENT, "cannot open '%s'", path);
 *
 * and callers just pass the code on; the program prints error_text(r) once.  A note belongs to the
 * code it was made for: error_text() falls back to the code's own description when the last note
 * was made for another code.  A thread that hands its failure to another uses
 * error_save()/error_raise().
 */
#pragma once

#include <errno.h>
#include <stdbool.h>

#include "basic/macro.h"

/* name, parent errno, description (lower case, no full stop).  Append only. */
#define ERROR_LIST(X)                                                    \
    X(CORRUPT, EBADMSG, "data is damaged")                               \
    X(SEAL, EBADMSG, "authentication failed: wrong key or damaged data") \
    X(VERSION, EPROTONOSUPPORT, "format is newer than this program")     \
    X(NOT_REPO, ENOENT, "not an umbra repository")                       \
    X(PASSPHRASE, EACCES, "wrong passphrase")                            \
    X(NO_CHUNK, ENODATA, "chunk is not in the repository")               \
    X(NO_BACKUP, ENOENT, "no such backup")                               \
    X(AMBIGUOUS, ENOTUNIQ, "name is ambiguous")                          \
    X(LIMIT, EOVERFLOW, "a size or count is beyond its limit")           \
    X(CHANGED, EBUSY, "changed while it was being read")                 \
    X(HOSTILE, EBADMSG, "refused: the name would leave its directory")   \
    X(CRASHED, EIO, "simulated power loss")                              \
    X(USAGE, EINVAL, "usage")                                            \
    X(CANCELLED, ECANCELED, "interrupted")                               \
    X(TREE_CHANGED, EBUSY, "somebody else has changed it meanwhile")     \
    X(FOREIGN, EXDEV, "belongs to something else")                       \
    X(UNCHANGED, ECANCELED, "nothing was changed")

enum error_code {
    ERROR_PRIVATE_FIRST = 4096,
#define X(name, parent, text) UMBRA_E_##name,
    ERROR_LIST(X)
#undef X
        ERROR_PRIVATE_END,
};

/* Positive errno of the class that r (negative) belongs to: the parent of a private code, else -r.
 */
int error_class(int r);

/* What the code itself means.  Never NULL; static or thread-local storage. */
const char *error_describe(int r);

/* Remembers the words for r and returns r.  The code's description is not appended. */
int error_note(int r, const char *fmt, ...) _printf_(2, 3);

/* The same, with ": " and error_describe(r) appended. */
int error_note_describe(int r, const char *fmt, ...) _printf_(2, 3);

/* Puts words in front of the note of r: "prefix: what was there". */
int error_prefix(int r, const char *fmt, ...) _printf_(2, 3);

/* The words for r: the note made for it in this thread, else error_describe(r). */
const char *error_text(int r);

struct error_report {
    int code; /* 0: none */
    char text[1024];
};

/* Keeps r and its words, if the report is still empty; the first failure wins. */
void error_save(struct error_report *report, int r);

/* Makes the report the current thread's error and returns its code (0 when empty). */
int error_raise(const struct error_report *report);
