/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The deduplicating writer: chunks in, references out, packs and index segments written behind.
 *
 * writer_put() may be called by many threads, each with a stream of its own.  A reference comes
 * back at once; where a new chunk will lie is known only when its pack is durable, and
 * writer_resolve() tells.  The essay is in writer.c.
 */
#pragma once

#include "basic/pool.h"
#include "repo/repository.h"

struct writer;

/* One thread's way into the writer: the frame that it is filling. */
struct writer_stream;

struct writer_stats {
    uint64_t new_chunk_count, new_chunk_bytes; /* plain */
    uint64_t stored_bytes;                     /* of packs */
    uint64_t pack_count;                       /* data packs durable so far */
};

/* Frames are compressed by tasks of the pool (POOL_HIGH), which must outlive the writer. */
_must_check_ int writer_new(struct repository *repo, struct pool *pool, int zstd_level,
                            struct writer **ret_writer);
/* Waits for what is under way; what was not flushed is lost. */
void writer_free(struct writer *writer);
DEFINE_CLEANUP_PTR(struct writer *, writer_free);

/* A stream that nobody uses, or a new one; give it back when done. Its unfinished frame stays with
 * it. */
_must_check_ int writer_stream_acquire(struct writer *writer, struct writer_stream **ret_stream);
void writer_stream_release(struct writer *writer, struct writer_stream *stream);

/*
 * Makes sure that the repository has, or will have, these bytes (1 to FRAME_PLAIN_MAX).  *ret_ref
 * has id and length, and the location if the chunk was in the repository before.  *ret_new says
 * whether it was not.
 */
_must_check_ int writer_put(struct writer_stream *stream, const void *data, size_t len,
                            struct chunk_ref *ret_ref, bool *ret_new);
/* A metadata chunk: each gets a frame of its own. */
_must_check_ int writer_put_meta(struct writer *writer, const void *data, size_t len,
                                 struct chunk_ref *ret_ref);

/* Fills in the location of a chunk that writer_put() or writer_put_meta() gave.  True when its pack
 * is durable. */
bool writer_resolve(struct writer *writer, struct chunk_ref *ref);

/* Ends all frames of idle streams and the open packs of that kind, and waits until all of it is
 * durable. */
_must_check_ int writer_push_out(struct writer *writer, enum chunk_kind kind);
/* push_out of both kinds, then the index segments for everything written: after this a backup
 * object may refer to it. */
_must_check_ int writer_finish(struct writer *writer);

/* The first failure of a background task, as this thread's error; 0 if none. */
_must_check_ int writer_error(struct writer *writer);
void writer_get_stats(struct writer *writer, struct writer_stats *ret_stats);
