/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Going on with a group whose processes have all died: only the store had it (store.h).
 *
 * The event descriptors are gone, and the kernel would give their numbers to new events; but an
 * answer names a number.  So before the first event is read, each number that is still to be
 * answered is occupied.  What had been asked is asked again, by its file handle.  What had only
 * been read cannot be, without its descriptor: its readers get an error.
 */
#pragma once

#include <stdint.h>

#include "basic/macro.h"
#include "filter/table.h"

/* FD_GROUP, and FD_TABLE if there is one.  Without a table, or with one of another program, all who
 * wait get an error, and the table is to be made anew: -ENODATA.  -EBUSY: of another restore. */
_must_check_ int adopt(uint64_t restore_id, struct table **ret_table);

/* The part of it that is about a table. */
_must_check_ int adopt_table(struct table *table);
