/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "gated.h"

/* Makes a placeholder in three steps, with that pause before and between them. */
_must_check_ int gated_make_at(int dir_fd, const char *path, uint64_t ordinal, uint64_t len,
                               unsigned pause_us);

/* Returns the exit status. */
int gated_be_hydrator(void);
