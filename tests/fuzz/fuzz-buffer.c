/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is a program for struct reader: each step reads one byte as the kind of the next read.
 * What was read as a varint must encode to the very bytes it came from (shortest form).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void read_varint(struct reader *r)
{
    CLEANUP(buffer_release) struct buffer b = {0};
    const uint8_t *before = r->pos;

    uint64_t value = reader_varint(r);
    if (r->failed)
        return;
    buffer_put_varint(&b, value);
    if (b.failed || b.len != (size_t)(r->pos - before) || memcmp(b.data, before, b.len) != 0)
        abort();
}

static void read_string(struct reader *r)
{
    CLEANUP_FREE char *s = reader_string(r, 64);

    if (s && strlen(s) > 64)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct reader r = reader_make(data, len);

    while (reader_left(&r) > 0) {
        size_t n;
        switch (reader_u8(&r) % 7) {
        case 0: (void)reader_u16(&r); break;
        case 1: (void)reader_u32(&r); break;
        case 2: (void)reader_u64(&r); break;
        case 3: read_varint(&r); break;
        case 4: (void)reader_zigzag(&r); break;
        case 5: (void)reader_blob(&r, 32, &n); break;
        default: read_string(&r); break;
        }
        if (r.pos > r.end)
            abort();
    }
    return 0;
}
