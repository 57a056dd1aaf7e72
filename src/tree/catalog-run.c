/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs: entries outside of a tree, in the form of one page of any length. */
#include "basic/error.h"
#include "tree/catalog-private.h"

int catalog_run_encode(const struct entry *const *entries, size_t count,
                       const struct pack_table *names, struct buffer *b)
{
    CLEANUP(page_encoder_release) struct page_encoder enc = {0};
    CLEANUP(buffer_release) struct buffer run = {0};
    int r;

    if (count > UINT32_MAX)
        return error_note(-UMBRA_E_LIMIT, "run of %zu entries", count);
    for (size_t i = 0; i < count; i++) {
        const struct entry *e = entries[i], *before = i > 0 ? entries[i - 1] : NULL;
        r = catalog_entry_check(e, true);
        if (r < 0)
            return r;
        if (before && key_compare(before->key, before->key_len, e->key, e->key_len) >= 0)
            return error_note(-EINVAL, "entries of a run do not ascend");
        struct catalog_contents contents = {.extents = e->extents.items,
                                            .extent_count = e->extents.count,
                                            .refs = e->content_refs.items,
                                            .ref_count = e->content_refs.count,
                                            .ref_level = e->content_level};
        page_encoder_put_entry(&enc, e, &contents);
    }
    r = page_encoder_finish(&enc, CATALOG_PAGE_RUN, 0, names, &run);
    if (r < 0)
        return r;
    buffer_put(b, run.data, run.len);
    return buffer_finish(b);
}

struct catalog_run {
    struct catalog_page page;
    uint32_t at;
};

int catalog_run_open(const void *data, size_t len, struct pack_table *names,
                     struct catalog_run **ret_run)
{
    CLEANUP(catalog_run_freep) struct catalog_run *run = calloc(1, sizeof(*run));
    int r;

    if (!run)
        return -ENOMEM;
    r = catalog_page_decode(&run->page, data, len, names);
    if (r < 0)
        return r;
    if (run->page.kind != CATALOG_PAGE_RUN)
        return error_note(-UMBRA_E_CORRUPT, "catalog page: not a run");
    *ret_run = TAKE_PTR(run);
    return 0;
}

void catalog_run_free(struct catalog_run *run)
{
    if (!run)
        return;
    catalog_page_release(&run->page);
    free(run);
}

int catalog_run_next(struct catalog_run *run, struct entry **ret_entry)
{
    if (run->at == run->page.count) {
        *ret_entry = NULL;
        return 0;
    }
    struct entry *e = &run->page.entries[run->at++];
    int r = catalog_entry_check(e, true);
    if (r < 0)
        return error_note(-UMBRA_E_CORRUPT, "%s", error_text(r));
    *ret_entry = e;
    return 0;
}
