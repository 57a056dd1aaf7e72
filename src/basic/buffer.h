/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A growable byte buffer to encode into, and a bounded reader to decode from.
 *
 * Both are sticky: after the first failure (no memory; a read past the end, an overlong varint)
 * every further call does nothing, and the caller asks once at the end.  Readers hand out zeros
 * after a failure. Integers are little-endian; a varint is unsigned LEB128 (at most 10 bytes,
 * shortest form required when read), signed numbers are zigzag varints.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

struct buffer {
    uint8_t *data;
    size_t len;
    size_t allocated;
    bool failed; /* an allocation failed */
};

void buffer_release(struct buffer *b); /* frees the memory; the buffer is empty and usable again */
void buffer_clear(struct buffer *b);   /* len = 0, memory kept, failure forgotten */

/* Room for n more bytes, counted into len; NULL on failure.  Contents undefined. */
uint8_t *buffer_extend(struct buffer *b, size_t n);
/* Makes sure that n more bytes can be added without moving. */
void buffer_reserve(struct buffer *b, size_t n);

void buffer_put(struct buffer *b, const void *data, size_t n);
void buffer_put_u8(struct buffer *b, uint8_t value);
void buffer_put_u16(struct buffer *b, uint16_t value);
void buffer_put_u32(struct buffer *b, uint32_t value);
void buffer_put_u64(struct buffer *b, uint64_t value);
void buffer_put_varint(struct buffer *b, uint64_t value);
void buffer_put_zigzag(struct buffer *b, int64_t value);
/* varint length, then the bytes. */
void buffer_put_blob(struct buffer *b, const void *data, size_t n);
void buffer_put_string(struct buffer *b, const char *s);

/* 0, or -ENOMEM when anything failed. */
_must_check_ int buffer_finish(const struct buffer *b);

struct reader {
    const uint8_t *pos;
    const uint8_t *end;
    bool failed;
};

static inline struct reader reader_make(const void *data, size_t len)
{
    return (struct reader){.pos = data, .end = (const uint8_t *)data + len};
}

static inline size_t reader_left(const struct reader *r)
{
    return r->failed ? 0 : (size_t)(r->end - r->pos);
}

/* A pointer to the next n bytes inside the input, or NULL. */
const uint8_t *reader_get(struct reader *r, size_t n);
/* Copies the next n bytes, or zeros. */
void reader_copy(struct reader *r, void *data, size_t n);
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
uint64_t reader_varint(struct reader *r);
int64_t reader_zigzag(struct reader *r);
/* A varint that may not exceed max; beyond it the reader fails. */
uint64_t reader_varint_max(struct reader *r, uint64_t max);
/* varint length (at most max), then the bytes, inside the input. */
const uint8_t *reader_blob(struct reader *r, size_t max, size_t *ret_len);
/* The same as a malloc'ed string; a NUL byte inside is a failure.  NULL on failure. */
char *reader_string(struct reader *r, size_t max);

/* 0, or -UMBRA_E_CORRUPT when anything failed (without a note: the caller knows what it was
 * reading). */
_must_check_ int reader_finish(const struct reader *r);
/* The same; bytes left over are a failure too. */
_must_check_ int reader_finish_at_end(const struct reader *r);
