/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The contents of one file, whose extents stand in its entry or in content pages. */
#include <string.h>

#include "basic/error.h"
#include "tree/catalog-private.h"

void content_walk_init(struct content_walk *walk, const struct catalog_store *store,
                       const struct entry *e)
{
    bool is_unloaded = entry_is_unloaded(e);
    const struct extent_vector *items = is_unloaded ? &e->content_refs : &e->extents;

    memset(walk, 0, sizeof(*walk));
    walk->store = store;
    walk->depth = 1;
    walk->frames[0].items = items->items;
    walk->frames[0].count = items->count;
    walk->frames[0].has_extents = !is_unloaded;
    walk->frames[0].level = e->content_level;
}

void content_walk_release(struct content_walk *walk)
{
    for (size_t i = 0; i < ELEMENTSOF(walk->frames); i++)
        catalog_page_release(&walk->frames[i].page);
}

static struct content_frame *top(struct content_walk *walk)
{
    return &walk->frames[walk->depth - 1];
}

void content_walk_peek(struct content_walk *walk, struct content_item *ret_item)
{
    while (walk->depth > 1 && top(walk)->at == top(walk)->count)
        walk->depth--;

    struct content_frame *frame = top(walk);
    *ret_item = (struct content_item){.level = frame->level};
    if (frame->at == frame->count)
        return;
    if (frame->has_extents)
        ret_item->extent = &frame->items[frame->at];
    else
        ret_item->ref = &frame->items[frame->at];
}

void content_walk_advance(struct content_walk *walk)
{
    struct content_frame *frame = top(walk);

    if (frame->at < frame->count)
        frame->at++;
}

int content_walk_open(struct content_walk *walk)
{
    struct content_frame *parent = top(walk), *frame = parent + 1;
    const struct extent *ref = &parent->items[parent->at];
    uint64_t covered = 0;
    int r;

    if (walk->depth == ELEMENTSOF(walk->frames))
        return error_note(-UMBRA_E_CORRUPT, "contents are too deep");
    r = catalog_page_read(&frame->page, walk->store, &ref->chunk, CATALOG_PAGE_CONTENT,
                          parent->level);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < frame->page.count; i++)
        covered += frame->page.extents[i].len; /* the decoder has bounded the sum */
    if (covered != ref->len)
        return error_note(-UMBRA_E_CORRUPT,
                          "catalog page: its extents are not as long as its reference says");
    frame->items = frame->page.extents;
    frame->count = frame->page.count;
    frame->has_extents = parent->level == 0;
    frame->level = parent->level > 0 ? parent->level - 1 : 0;
    frame->at = 0;
    parent->at++;
    walk->depth++;
    return 0;
}

int content_walk_next(struct content_walk *walk, const struct extent **ret_extent)
{
    struct content_item item;
    int r;

    for (;;) {
        content_walk_peek(walk, &item);
        if (!item.ref)
            break;
        r = content_walk_open(walk);
        if (r < 0)
            return r;
    }
    if (item.extent)
        content_walk_advance(walk);
    *ret_extent = item.extent;
    return 0;
}

static int load(const struct catalog_store *store, const struct entry *e, struct content_walk *walk,
                struct extent_vector *extents)
{
    const struct extent *extent;
    int r;

    content_walk_init(walk, store, e);
    for (;;) {
        r = content_walk_next(walk, &extent);
        if (r < 0 || !extent)
            return r;
        r = extent_vector_push(extents, extent);
        if (r < 0)
            return r;
    }
}

int catalog_load_extents(const struct catalog_store *store, struct entry *e)
{
    CLEANUP(extent_vector_release) struct extent_vector extents = {0};
    struct content_walk walk;
    int r;

    if (!entry_is_unloaded(e))
        return 0;
    r = load(store, e, &walk, &extents);
    content_walk_release(&walk);
    if (r < 0)
        return r;
    if (e->content_refs.allocated > 0)
        extent_vector_release(&e->content_refs);
    e->content_refs = (struct extent_vector){0}; /* what a cursor owns stays with its page */
    e->content_level = 0;
    e->extents = extents;
    extents = (struct extent_vector){0};
    return 0;
}
