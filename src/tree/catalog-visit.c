/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every page of a tree once over, damaged ones included. */
#include "basic/error.h"
#include "tree/catalog-private.h"

struct visitor {
    const struct catalog_store *store;
    int (*enter)(const struct chunk_ref *page, void *userdata);
    catalog_visit_fn visit;
    void *userdata;
    struct tree_walk tree;
    struct content_walk content;
    const struct entry *file; /* whose content is walked */
};

/* Whether a failure is the page's and not the walk's own. */
static bool is_of_page(int r)
{
    return r != -ENOMEM && r != -UMBRA_E_CANCELLED;
}

static int visit_content_page(struct visitor *v, const struct content_item *item)
{
    struct catalog_visit visit = {
        .page = &item->ref->chunk, .level = item->level, .is_content = true, .file = v->file};
    int r;

    r = v->enter(visit.page, v->userdata);
    if (r != 0) {
        content_walk_advance(&v->content);
        return MIN(r, 0);
    }
    visit.error = content_walk_open(&v->content);
    if (visit.error < 0) {
        content_walk_advance(&v->content);
        return is_of_page(visit.error) ? v->visit(&visit, v->userdata) : visit.error;
    }
    struct content_frame *frame = &v->content.frames[v->content.depth - 1];
    if (frame->has_extents) {
        visit.extents = frame->items;
        visit.extent_count = frame->count;
        frame->at = frame->count;
    }
    return v->visit(&visit, v->userdata);
}

static int visit_content_of(struct visitor *v, const struct entry *e)
{
    struct content_item item;
    int r = 0;

    v->file = e;
    content_walk_init(&v->content, v->store, e);
    while (r == 0) {
        content_walk_peek(&v->content, &item);
        if (!item.ref)
            break;
        r = visit_content_page(v, &item);
    }
    content_walk_release(&v->content);
    return r;
}

static int visit_tree_page(struct visitor *v, const struct tree_item *item)
{
    struct catalog_visit visit = {.page = &item->child->page, .level = item->level};
    int r;

    r = v->enter(visit.page, v->userdata);
    if (r != 0) {
        tree_walk_advance(&v->tree);
        return MIN(r, 0);
    }
    visit.error = tree_walk_open(&v->tree);
    if (visit.error < 0) {
        tree_walk_advance(&v->tree);
        return is_of_page(visit.error) ? v->visit(&visit, v->userdata) : visit.error;
    }
    struct tree_frame *frame = &v->tree.frames[v->tree.depth - 1];
    visit.entries = frame->page.entries;
    visit.entry_count = frame->page.entries ? frame->count : 0;
    r = v->visit(&visit, v->userdata);
    for (size_t i = 0; r == 0 && frame->page.has_content_refs && i < frame->count; i++)
        if (entry_is_unloaded(&frame->page.entries[i]))
            r = visit_content_of(v, &frame->page.entries[i]);
    if (frame->page.entries)
        frame->at = frame->count;
    return r;
}

int catalog_walk_pages(const struct catalog_store *store, const struct catalog_root *root,
                       int (*enter)(const struct chunk_ref *page, void *userdata),
                       catalog_visit_fn visit, void *userdata)
{
    struct visitor *v = malloc(sizeof(*v));
    struct tree_item item;
    int r = 0;

    if (!v)
        return -ENOMEM;
    *v = (struct visitor){.store = store, .enter = enter, .visit = visit, .userdata = userdata};
    tree_walk_init(&v->tree, store, root);
    while (r == 0) {
        tree_walk_peek(&v->tree, &item);
        if (!item.child)
            break;
        r = visit_tree_page(v, &item);
    }
    tree_walk_release(&v->tree);
    free(v);
    return r;
}
