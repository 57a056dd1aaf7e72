/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is a load order.  What it names is a file below the root, and comes once, in order. */
#include <stdlib.h>
#include <string.h>

#include "restore/load-order.h"
#include "tree/key.h"

#define PATHS_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Finds names that are likely to be in the list: each line as it is. */
static uint64_t find_lines(struct load_order *order, const char *text, size_t len)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    uint64_t ordinal = 0;

    for (size_t at = 0; at < len && ordinal < PATHS_MAX; ordinal++) {
        const char *newline = memchr(text + at, '\n', len - at);
        size_t line_len = newline ? (size_t)(newline - text) - at : len - at;
        buffer_clear(&key);
        if (line_len > 1)
            key_put_path(&key, text + at + 1, line_len - 1);
        if (buffer_finish(&key) == 0 && key.len > 0 && key_valid(key.data, key.len))
            load_order_found(order, key.data, key.len, ordinal);
        at += line_len + 1;
    }
    return ordinal;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(load_order_freep) struct load_order *order = NULL;
    const char *text = (const char *)data;
    uint64_t ordinal, next_count = 0;

    if (load_order_parse(text, len, &order) < 0)
        return 0;
    uint64_t line_count = find_lines(order, text, len);
    while (load_order_next(order, &ordinal)) {
        if (ordinal >= line_count)
            abort();
        next_count++;
    }
    if (next_count != load_order_found_count(order) || next_count > load_order_path_count(order) ||
        load_order_path_count(order) + load_order_bad_count(order) > len)
        abort();
    return 0;
}
