/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Passphrases from the outside: a file, the environment, or the terminal with the echo off.
 *
 * A passphrase lives in locked memory (sodium_malloc) from the moment it is read and is wiped when
 * released.  It never comes from argv.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/macro.h"

struct passphrase {
    char *data; /* sodium_malloc'ed; not NUL-terminated */
    size_t len;
};

/* Turns core dumps and ptrace by others off for this process.  Call before the first secret. */
_must_check_ int passphrase_protect_process(void);

/* The first line of a file, without its newline; a warning when others may read the file. */
_must_check_ int passphrase_read_file(const char *path, struct passphrase *ret_passphrase);
/* From the environment variable, whose value is wiped there; -ENOENT when it is not set. */
_must_check_ int passphrase_read_env(const char *name, struct passphrase *ret_passphrase);
/* Asks on the controlling terminal; twice when confirm is set. */
_must_check_ int passphrase_ask(const char *prompt, bool confirm,
                                struct passphrase *ret_passphrase);
/*
 * Where umbra takes the passphrase of a repository from: file (may be NULL), UMBRA_PASSWORD_FILE,
 * UMBRA_PASSWORD, the terminal; the first that is set counts.
 */
_must_check_ int passphrase_get(const char *file, bool confirm, struct passphrase *ret_passphrase);

void passphrase_release(struct passphrase *passphrase);
