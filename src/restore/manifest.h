/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an instant restore has to fill in: for each placeholder, by its ordinal, the entry of the
 * catalog and the handle of the inode.
 *
 * It is made anew in each process, from the catalog (the ordinals come out the same) and from the
 * tree; nothing of it is kept on disk, so nothing of it can be stale.  Entries lie encoded in a
 * memfd: some 150 bytes a file, which may be swapped out.
 */
#pragma once

#include "filter/protocol.h"
#include "tree/catalog.h"

struct manifest;
/* names: where the locations of chunks come from. */
_must_check_ int manifest_new(struct pack_table *names, struct manifest **ret_manifest);
void manifest_free(struct manifest *manifest);
DEFINE_CLEANUP_PTR(struct manifest *, manifest_free);
/* One thread adds; everything else may happen at the same time in any thread. */
_must_check_ int manifest_add(struct manifest *manifest, const struct entry *e,
                              uint64_t *ret_ordinal);
uint64_t manifest_count(struct manifest *manifest);
/* The entry, extents loaded; the caller's.  -ENOENT: no such ordinal (yet). */
_must_check_ int manifest_get(struct manifest *manifest, uint64_t ordinal, struct entry *ret_entry);
_must_check_ int manifest_set_handle(struct manifest *manifest, uint64_t ordinal,
                                     const struct filter_handle *handle);
/* -ENOENT: none is known. */
_must_check_ int manifest_get_handle(struct manifest *manifest, uint64_t ordinal,
                                     struct filter_handle *ret_handle);
