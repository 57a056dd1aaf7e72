/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "basic/checked.h"
#include "basic/error.h"
#include "basic/le.h"

#define ALLOCATED_MIN  256u
#define VARINT_LEN_MAX 10u

/* ---- encoding ---- */

void buffer_release(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

void buffer_clear(struct buffer *b)
{
    b->len = 0;
    b->failed = false;
}

void buffer_reserve(struct buffer *b, size_t n)
{
    if (b->failed || (b->data && b->allocated - b->len >= n))
        return;
    size_t need;
    if (!checked_add_size(b->len, n, &need) || need > SIZE_MAX / 2) {
        b->failed = true;
        return;
    }
    size_t allocated = MAX(b->allocated + b->allocated / 2, MAX(need, (size_t)ALLOCATED_MIN));
    uint8_t *data = realloc(b->data, allocated);
    if (!data) {
        b->failed = true;
        return;
    }
    b->data = data;
    b->allocated = allocated;
}

uint8_t *buffer_extend(struct buffer *b, size_t n)
{
    buffer_reserve(b, n);
    if (b->failed)
        return NULL;
    uint8_t *start = b->data + b->len;
    b->len += n;
    return start;
}

void buffer_put(struct buffer *b, const void *data, size_t n)
{
    if (n == 0)
        return;
    uint8_t *to = buffer_extend(b, n);
    if (to)
        memcpy(to, data, n);
}

void buffer_put_u8(struct buffer *b, uint8_t value)
{
    buffer_put(b, &value, 1);
}

void buffer_put_u16(struct buffer *b, uint16_t value)
{
    le16_t field = le16_make(value);
    buffer_put(b, &field, sizeof(field));
}

void buffer_put_u32(struct buffer *b, uint32_t value)
{
    le32_t field = le32_make(value);
    buffer_put(b, &field, sizeof(field));
}

void buffer_put_u64(struct buffer *b, uint64_t value)
{
    le64_t field = le64_make(value);
    buffer_put(b, &field, sizeof(field));
}

void buffer_put_varint(struct buffer *b, uint64_t value)
{
    uint8_t bytes[VARINT_LEN_MAX];
    size_t n = 0;
    while (value >= 0x80) {
        bytes[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    bytes[n++] = (uint8_t)value;
    buffer_put(b, bytes, n);
}

void buffer_put_zigzag(struct buffer *b, int64_t value)
{
    buffer_put_varint(b, ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0));
}

void buffer_put_blob(struct buffer *b, const void *data, size_t n)
{
    buffer_put_varint(b, n);
    buffer_put(b, data, n);
}

void buffer_put_string(struct buffer *b, const char *s)
{
    buffer_put_blob(b, s, strlen(s));
}

int buffer_finish(const struct buffer *b)
{
    return b->failed ? -ENOMEM : 0;
}

/* ---- decoding ---- */

const uint8_t *reader_get(struct reader *r, size_t n)
{
    if (r->failed || (size_t)(r->end - r->pos) < n) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *start = r->pos;
    r->pos += n;
    return start;
}

void reader_copy(struct reader *r, void *data, size_t n)
{
    const uint8_t *from = reader_get(r, n);
    if (n == 0)
        return;
    if (from)
        memcpy(data, from, n);
    else
        memset(data, 0, n);
}

uint8_t reader_u8(struct reader *r)
{
    const uint8_t *from = reader_get(r, 1);
    return from ? *from : 0;
}

uint16_t reader_u16(struct reader *r)
{
    le16_t field;
    reader_copy(r, &field, sizeof(field));
    return le16_get(&field);
}

uint32_t reader_u32(struct reader *r)
{
    le32_t field;
    reader_copy(r, &field, sizeof(field));
    return le32_get(&field);
}

uint64_t reader_u64(struct reader *r)
{
    le64_t field;
    reader_copy(r, &field, sizeof(field));
    return le64_get(&field);
}

uint64_t reader_varint(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 7 * VARINT_LEN_MAX; shift += 7) {
        const uint8_t byte = reader_u8(r);
        if (r->failed)
            return 0;
        bool overflows = shift == 63 && byte > 1;
        bool overlong = shift > 0 && byte == 0;
        if (overflows || overlong)
            break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    r->failed = true;
    return 0;
}

int64_t reader_zigzag(struct reader *r)
{
    uint64_t value = reader_varint(r);
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

uint64_t reader_varint_max(struct reader *r, uint64_t max)
{
    uint64_t value = reader_varint(r);
    if (value <= max)
        return value;
    r->failed = true;
    return 0;
}

const uint8_t *reader_blob(struct reader *r, size_t max, size_t *ret_len)
{
    size_t len = (size_t)reader_varint_max(r, max);
    const uint8_t *data = reader_get(r, len);
    *ret_len = data ? len : 0;
    return data;
}

char *reader_string(struct reader *r, size_t max)
{
    size_t len;
    const uint8_t *data = reader_blob(r, max, &len);
    if (!data)
        return NULL;
    if (memchr(data, 0, len)) {
        r->failed = true;
        return NULL;
    }
    char *s = malloc(len + 1);
    if (!s) {
        r->failed = true;
        return NULL;
    }
    if (len > 0)
        memcpy(s, data, len);
    s[len] = 0;
    return s;
}

int reader_finish(const struct reader *r)
{
    return r->failed ? -UMBRA_E_CORRUPT : 0;
}

int reader_finish_at_end(const struct reader *r)
{
    return r->failed || r->pos != r->end ? -UMBRA_E_CORRUPT : 0;
}
