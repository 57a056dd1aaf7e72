/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content-defined chunking: where a stream of bytes is cut.
 *
 * Keyed Gear (FastCDC, Xia et al., USENIX ATC'16) with normalised chunking: h = 2h + table[byte], a
 * cut where the masked bits of h are zero, with a stricter mask below the normal size and a looser
 * one above, none below min, always at max.  The table is secret. A cut depends on the bytes of its
 * own chunk alone, so cuts re-align soon after a change.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

enum chunker_kind {
    CHUNKER_GEAR = 1,
    CHUNKER_FIXED = 2, /* every normal_bytes: for disk images */
};

struct chunker_params {
    uint32_t min_bytes;
    uint32_t normal_bytes; /* a power of two */
    uint32_t max_bytes;
};

/* The sizes and why: docs/decisions/001-chunk-and-frame-sizes.md. */
extern const struct chunker_params chunker_params_default;

struct chunker {
    enum chunker_kind kind;
    struct chunker_params params;
    uint64_t mask_strict, mask_loose;
    const uint64_t *table; /* 256 entries, the caller's */
};

/* -EINVAL when the sizes make no sense (64 <= min <= normal <= max <= 16 MiB). */
_must_check_ int chunker_init(struct chunker *chunker, enum chunker_kind kind,
                              const struct chunker_params *params, const uint64_t table[256]);
/*
 * Length of the chunk that begins at data.  len: bytes there; at_end: the stream ends after them.
 * 0: not enough to decide (never when len >= max_bytes or at_end and len > 0).
 */
size_t chunker_next(const struct chunker *chunker, const uint8_t *data, size_t len, bool at_end);
/* How many of the first len bytes are zero. */
size_t zero_prefix_len(const uint8_t *data, size_t len);
