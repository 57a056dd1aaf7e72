/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is a catalog page of any kind, or a catalog root.  What decodes must encode to the very
 * bytes it came from: the format has one encoding, so nothing in a page is read over.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "tree/catalog-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void expect_same(int r, const struct buffer *b, const uint8_t *data, size_t len)
{
    if (r < 0 || b->len != len || memcmp(b->data, data, len) != 0)
        abort();
}

static void expect_refused(int r)
{
    if (r != -UMBRA_E_CORRUPT && r != -UMBRA_E_VERSION)
        abort();
}

static void put_item(struct page_encoder *enc, const struct catalog_page *page, uint32_t i)
{
    if (page->entries) {
        const struct entry *e = &page->entries[i];
        struct catalog_contents contents = {.extents = e->extents.items,
                                            .extent_count = e->extents.count,
                                            .refs = e->content_refs.items,
                                            .ref_count = e->content_refs.count,
                                            .ref_level = e->content_level};
        page_encoder_put_entry(enc, e, &contents);
    } else if (page->children) {
        page_encoder_put_child(enc, &page->children[i]);
    } else if (page->level == 0) {
        page_encoder_put_extent(enc, &page->extents[i]);
    } else {
        page_encoder_put_reference(enc, &page->extents[i]);
    }
}

static void try_page(const uint8_t *data, size_t len, struct pack_table *names)
{
    CLEANUP(catalog_page_release) struct catalog_page page = {0};
    CLEANUP(page_encoder_release) struct page_encoder enc = {0};
    CLEANUP(buffer_release) struct buffer b = {0};

    int r = catalog_page_decode(&page, data, len, names);
    if (r < 0) {
        expect_refused(r);
        return;
    }
    for (uint32_t i = 0; i < page.count; i++)
        put_item(&enc, &page, i);
    expect_same(page_encoder_finish(&enc, page.kind, page.level, names, &b), &b, data, len);
}

static void try_root(const uint8_t *data, size_t len, struct pack_table *names)
{
    CLEANUP(catalog_root_release) struct catalog_root root = {0};
    CLEANUP(buffer_release) struct buffer b = {0};
    struct reader r = reader_make(data, len);

    int e = catalog_root_decode(&r, names, &root);
    if (e < 0)
        expect_refused(e);
    else
        expect_same(catalog_root_encode(&root, names, &b), &b, data, (size_t)(r.pos - data));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(pack_table_freep) struct pack_table *names = NULL;

    if (pack_table_new(&names) < 0)
        abort();
    try_page(data, len, names);
    try_root(data, len, names);
    return 0;
}
