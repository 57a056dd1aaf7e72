/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is the plain contents of a session object: the head of a session, then a run of
 * entries. What is accepted must encode to the very bytes it came from.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/vector.h"
#include "repo/session-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

DEFINE_VECTOR(entry_pointer_vector, const struct entry *);

static void expect_refused(int r)
{
    if (r != -UMBRA_E_CORRUPT && r != -UMBRA_E_VERSION)
        abort();
}

static int collect_entries(struct catalog_run *run, struct entry_pointer_vector *entries)
{
    struct entry *e = NULL;
    int r;
    while ((r = catalog_run_next(run, &e)) >= 0 && e) {
        const struct entry *pointer = e;
        if (entry_pointer_vector_push(entries, &pointer) < 0)
            abort();
    }
    return r;
}

static void try_object(const uint8_t *data, size_t len, struct pack_table *names)
{
    CLEANUP(session_head_release) struct session_head head = {0};
    CLEANUP(catalog_run_freep) struct catalog_run *run = NULL;
    CLEANUP(entry_pointer_vector_release) struct entry_pointer_vector entries = {0};
    CLEANUP(buffer_release) struct buffer again = {0};
    struct reader reader = reader_make(data, len);

    int r = session_head_decode(&reader, &head);
    if (r >= 0)
        r = catalog_run_open(reader.pos, reader_left(&reader), names, &run);
    if (r >= 0)
        r = collect_entries(run, &entries);
    if (r < 0) {
        expect_refused(r);
        return;
    }
    session_head_encode(&head, &again);
    if (catalog_run_encode(entries.items, entries.count, names, &again) < 0 || again.len != len ||
        memcmp(again.data, data, len) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(pack_table_freep) struct pack_table *names = NULL;

    if (pack_table_new(&names) < 0)
        abort();
    try_object(data, len, names);
    return 0;
}
