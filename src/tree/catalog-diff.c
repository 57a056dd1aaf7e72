/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comparing two trees.
 *
 * Both are walked at once, and each walk stands before an entry or before a page that has not been
 * read.  Two walks before the same page pass it.  Otherwise the one that stands further back moves:
 * it opens its page, or its entry is one that the other tree does not have.  Since pages are cut by
 * content, walks that have come out of step are back in step at the next cut that both trees have.
 *
 * Invariant: all entries of either tree below both places have been reported or are the same in
 * both.
 */
#include "basic/error.h"
#include "tree/catalog-private.h"

struct diff {
    const struct catalog_store *store;
    struct tree_walk old_walk, new_walk;
    catalog_diff_fn fn;
    void *userdata;
};

static bool is_end(const struct tree_item *item)
{
    return !item->entry && !item->child;
}

/* By the first key; the end is behind all. */
static int compare_items(const struct tree_item *a, const struct tree_item *b)
{
    if (is_end(a) || is_end(b))
        return (int)is_end(a) - (int)is_end(b);
    return key_compare(a->entry ? a->entry->key : a->child->first_key,
                       a->entry ? a->entry->key_len : a->child->first_key_len,
                       b->entry ? b->entry->key : b->child->first_key,
                       b->entry ? b->entry->key_len : b->child->first_key_len);
}

/* ---- contents ---- */

/* Opens what keeps the two walks from being compared extent by extent. */
static int open_contents(struct content_walk *a, const struct content_item *at_a,
                         struct content_walk *b, const struct content_item *at_b)
{
    int r = 0;

    if (at_a->ref && (!at_b->ref || at_a->level >= at_b->level))
        r = content_walk_open(a);
    if (r == 0 && at_b->ref && (!at_a->ref || at_b->level >= at_a->level))
        r = content_walk_open(b);
    return r;
}

static bool extent_same(const struct extent *a, const struct extent *b)
{
    return a && b && a->kind == b->kind && a->len == b->len &&
           (a->kind != EXTENT_DATA || chunk_id_equal(&a->chunk.id, &b->chunk.id));
}

/* Both walks are always at the same byte of the file.  1: the same, 0: not. */
static int compare_contents(struct content_walk *a, struct content_walk *b)
{
    struct content_item at_a, at_b;
    int r;

    for (;;) {
        content_walk_peek(a, &at_a);
        content_walk_peek(b, &at_b);
        bool same_page =
            at_a.ref && at_b.ref && chunk_id_equal(&at_a.ref->chunk.id, &at_b.ref->chunk.id);
        if (!same_page && (at_a.ref || at_b.ref)) {
            r = open_contents(a, &at_a, b, &at_b);
            if (r < 0)
                return r;
            continue;
        }
        if (!at_a.ref && !at_a.extent && !at_b.extent)
            return 1;
        if (!same_page && !extent_same(at_a.extent, at_b.extent))
            return 0;
        content_walk_advance(a);
        content_walk_advance(b);
    }
}

/* 1: the same, 0: not.  Content pages may differ in nothing but hints, so they are compared by what
 * they hold. */
static int contents_same(struct diff *d, const struct entry *a, const struct entry *b)
{
    CLEANUP(content_walk_release) struct content_walk walk_a;
    CLEANUP(content_walk_release) struct content_walk walk_b;

    content_walk_init(&walk_a, d->store, a);
    content_walk_init(&walk_b, d->store, b);
    if (entry_contents_same(a, b))
        return 1;
    if (!entry_is_unloaded(a) || !entry_is_unloaded(b) || a->size != b->size)
        return 0;
    return compare_contents(&walk_a, &walk_b);
}

/* ---- entries ---- */

static int report_common(struct diff *d, const struct entry *a, const struct entry *b)
{
    int r;

    if (a->type != b->type)
        return d->fn(CATALOG_TYPE_CHANGED, a, b, d->userdata);
    r = contents_same(d, a, b);
    if (r < 0)
        return r;
    if (r == 0)
        return d->fn(CATALOG_MODIFIED, a, b, d->userdata);
    return entry_attributes_same(a, b) ? 0 : d->fn(CATALOG_METADATA, a, b, d->userdata);
}

/* At least one stands before a page.  c: how they compare. */
static int step_pages(struct diff *d, const struct tree_item *a, const struct tree_item *b, int c)
{
    bool open_a = a->child && c <= 0, open_b = b->child && c >= 0;
    int r = 0;

    if (a->child && b->child && chunk_id_equal(&a->child->page.id, &b->child->page.id)) {
        tree_walk_advance(&d->old_walk);
        tree_walk_advance(&d->new_walk);
        return 0;
    }
    if (open_a && open_b && a->level != b->level) {
        open_a = a->level > b->level;
        open_b = !open_a;
    }
    if (open_a)
        r = tree_walk_open(&d->old_walk);
    if (r == 0 && open_b)
        r = tree_walk_open(&d->new_walk);
    return r;
}

static int step(struct diff *d, const struct tree_item *a, const struct tree_item *b)
{
    int c = compare_items(a, b);

    if ((a->child && c <= 0) || (b->child && c >= 0))
        return step_pages(d, a, b, c);
    if (c <= 0)
        tree_walk_advance(&d->old_walk);
    if (c >= 0)
        tree_walk_advance(&d->new_walk);
    if (c < 0)
        return d->fn(CATALOG_REMOVED, a->entry, NULL, d->userdata);
    if (c > 0)
        return d->fn(CATALOG_ADDED, NULL, b->entry, d->userdata);
    return report_common(d, a->entry, b->entry);
}

int catalog_diff(const struct catalog_store *store, const struct catalog_root *old_root,
                 const struct catalog_root *new_root, catalog_diff_fn fn, void *userdata)
{
    struct diff *d = malloc(sizeof(*d));
    struct tree_item a, b;
    int r = 0;

    if (!d)
        return -ENOMEM;
    *d = (struct diff){.store = store, .fn = fn, .userdata = userdata};
    tree_walk_init(&d->old_walk, store, old_root);
    tree_walk_init(&d->new_walk, store, new_root);
    while (r == 0) {
        tree_walk_peek(&d->old_walk, &a);
        tree_walk_peek(&d->new_walk, &b);
        if (is_end(&a) && is_end(&b))
            break;
        r = step(d, &a, &b);
    }
    tree_walk_release(&d->old_walk);
    tree_walk_release(&d->new_walk);
    free(d);
    return r;
}
