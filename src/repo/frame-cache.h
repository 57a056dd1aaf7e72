/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Data chunks, read in any order by several threads, where neighbours are likely to be asked for
 * together: opened frames are kept.  A frame holds many small files, so whoever reads one of them
 * has paid for those beside it.
 */
#pragma once

#include "repo/repository.h"

struct frame_cache;
/* Keeps at most bytes_max of plain contents (at least one frame). */
_must_check_ int frame_cache_new(struct repository *repo, size_t bytes_max,
                                 struct frame_cache **ret_cache);
void frame_cache_free(struct frame_cache *cache);
DEFINE_CLEANUP_PTR(struct frame_cache *, frame_cache_free);
/*
 * Copies len bytes from offset of the data chunk ref, which is verified against its id first.  Any
 * thread; codec is the caller's own.  Two who want the same frame read it once.  -EINVAL beyond the
 * chunk's end, else as repository_read_chunk().
 */
_must_check_ int frame_cache_read(struct frame_cache *cache, struct frame_codec *codec,
                                  const struct chunk_ref *ref, uint32_t offset, void *to,
                                  uint32_t len);
