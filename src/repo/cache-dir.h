/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a repository's reader keeps what it can always make again. */
#pragma once

#include "repo/crypt.h"

/*
 * Makes <root>/<repo id in hex>, 0700, and the directories above it.  cache_root as in
 * repository_open().  *ret_path is malloc'ed; NULL when no directory is wanted ("") or none can be
 * made or trusted, which a warning says.  Fails for want of memory alone.
 */
_must_check_ int cache_dir_make(const char *cache_root, const uint8_t repo_id[REPO_ID_LEN],
                                char **ret_path);
