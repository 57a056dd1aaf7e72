/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small tree with one of everything, a change of it with every kind of step, and a way to
 * compare. */
#pragma once

#include <stdbool.h>

#include "treetx/treetx.h"

/* Makes the old tree in dir, which is empty. */
void tree_make(const char *dir);
/* Begins a change, fills its stage, and plans all of it. */
struct treetx *tree_plan_change(const char *dir);
/* All that is to be seen of the tree, as text, malloc'ed: names, contents, holes, attributes, inode
 * numbers, and which names are one file.  The stage is left out.  loose: without what differs from
 * one such change to the next (inode numbers, the mtime of directories that were given none). */
char *tree_dump(const char *dir, bool loose);
/* Removes all below dir, chattr +i included. */
void tree_remove(const char *dir);

/*
 * Runs fn in a process of its own, which gets SIGKILL at the system call with this number (from 0)
 * of those that it makes.  False: it ended before.  fn's process must end by itself with status 0.
 */
bool tree_kill_at(unsigned call, void (*fn)(const char *dir), const char *dir);
/* How many it makes. */
unsigned tree_count_calls(void (*fn)(const char *dir), const char *dir);
/* The same as tree_kill_at(); before it is killed, while it stands still, moment() is called. */
bool tree_stop_at(unsigned call, void (*fn)(const char *dir), const char *dir,
                  void (*moment)(void *userdata), void *userdata);
