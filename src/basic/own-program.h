/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the programs are that only umbra starts. */
#pragma once

#include "basic/macro.h"

/* Beside ourselves, in a build tree, or installed.  The path is malloc'ed; -ENOENT. */
_must_check_ int own_program_find(const char *name, char **ret_path);
