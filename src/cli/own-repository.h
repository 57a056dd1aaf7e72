/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A backup does not contain the repository it goes to. */
#pragma once

#include "cli/cli.h"
#include "tree/exclude.h"

/*
 * When the repository is a directory below one of the roots (absolute, parents resolved), adds a
 * rule that leaves it out, and the rule's text, and says so unless cli->quiet.  The rule is part of
 * the backup's record like any other, because what it left out must not be deleted by restoring.
 * -UMBRA_E_USAGE when a root is the repository itself.
 */
_must_check_ int own_repository_leave_out(const struct cli *cli, const struct repository *repo,
                                          const struct string_vector *roots, bool one_file_system,
                                          struct exclude_set *excludes,
                                          struct string_vector *exclude_texts);
