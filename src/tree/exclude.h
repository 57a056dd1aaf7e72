/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules that leave files out, with the pattern language of gitignore(5).
 *
 * Later rules win; '!' takes a file back in, but not below an excluded directory.  A pattern with a
 * '/' before its end is anchored at the rule set's base directory, others match at any depth; "**"
 * crosses directories; a trailing '/' matches directories only; '\\' quotes; '#' begins a comment
 * line in files.  --exclude gives single rules and --exclude-file whole files of them, both with
 * base "/" so that an absolute path is a pattern.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/cleanup.h"
#include "basic/macro.h"

#define EXCLUDE_PATTERN_MAX 4096  /* bytes of one pattern */
#define EXCLUDE_RULES_MAX   65536 /* rules of one set */

struct exclude_set;

_must_check_ int exclude_set_new(struct exclude_set **ret_set);
void exclude_set_free(struct exclude_set *set);
DEFINE_CLEANUP_PTR(struct exclude_set *, exclude_set_free);
/* One rule; source names it in errors ("--exclude", "FILE:12").  Matching is linear in the
 * pattern's and the path's length product at worst. */
_must_check_ int exclude_set_add(struct exclude_set *set, const char *pattern, size_t len,
                                 const char *source);
/* All lines of a file's contents. */
_must_check_ int exclude_set_parse(struct exclude_set *set, const char *text, size_t len,
                                   const char *source);
bool exclude_set_empty(const struct exclude_set *set);
/* path: absolute without the leading '/', no trailing '/'.  The parents of path are taken to be
 * included already. */
bool exclude_set_match(const struct exclude_set *set, const char *path, size_t len,
                       bool is_directory);
