/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Atomic changes that were interrupted, as commands come across them. */
#pragma once

#include "cli/cli.h"
#include "treetx/treetx.h"

/* "'DIR' is as before ...": what has become of it.  NULL: there is nothing to be said. */
const char *atomic_describe(enum treetx_outcome outcome);
/*
 * Ends all that this machine has a note of and that no live process works on, and says so.  What
 * cannot be ended is said, too, and is the business of whoever needs that directory.
 */
void atomic_recover_noted(const struct cli *cli);
