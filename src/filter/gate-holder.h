/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose gate stands before a file system: there is a file beneath RUN_DIR, locked by the gate. */
#pragma once

#include <stdint.h>

#include "basic/macro.h"

#define RUN_DIR            "/run/umbra"
#define GATE_LOCK_PATH_MAX 64u

/* The file for the file system of the directory; nothing is made. */
_must_check_ int gate_lock_path(const char *target, char ret_path[GATE_LOCK_PATH_MAX]);
/* -ENOENT: no gate stands there. */
_must_check_ int gate_holder(const char *target, uint64_t *ret_restore_id);
