/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A place in the tree: a stack of decoded pages, from the root's list down. */
#include <string.h>

#include "basic/error.h"
#include "tree/catalog-private.h"

void tree_walk_init(struct tree_walk *walk, const struct catalog_store *store,
                    const struct catalog_root *root)
{
    static const uint8_t first[1];

    memset(walk, 0, sizeof(*walk));
    walk->store = store;
    walk->depth = 1;
    walk->frames[0].children = root->children.items;
    walk->frames[0].count = root->children.count;
    walk->frames[0].level = root->level;
    walk->frames[0].lower = first;
}

void tree_walk_release(struct tree_walk *walk)
{
    for (size_t i = 0; i < ELEMENTSOF(walk->frames); i++)
        catalog_page_release(&walk->frames[i].page);
}

static struct tree_frame *top(struct tree_walk *walk)
{
    return &walk->frames[walk->depth - 1];
}

void tree_walk_peek(struct tree_walk *walk, struct tree_item *ret_item)
{
    while (walk->depth > 1 && top(walk)->at == top(walk)->count)
        walk->depth--;

    struct tree_frame *frame = top(walk);
    *ret_item = (struct tree_item){0};
    if (frame->at == frame->count)
        return;
    if (frame->page.entries) {
        ret_item->entry = &frame->page.entries[frame->at];
    } else {
        ret_item->child = &frame->children[frame->at];
        ret_item->level = frame->level;
    }
}

void tree_walk_advance(struct tree_walk *walk)
{
    struct tree_frame *frame = top(walk);

    if (frame->at < frame->count)
        frame->at++;
}

static int misplaced(void)
{
    return error_note(-UMBRA_E_CORRUPT,
                      "catalog page: its keys are not those that its reference says");
}

/* The keys of a page must lie where its parent says; then keys ascend over the whole tree. */
static int check_bounds(const struct tree_frame *frame)
{
    const struct catalog_page *page = &frame->page;
    uint32_t last = page->count - 1;
    const uint8_t *first_key = page->entries ? page->entries[0].key : page->children[0].first_key;
    const uint8_t *last_key =
        page->entries ? page->entries[last].key : page->children[last].first_key;
    uint32_t first_len = page->entries ? page->entries[0].key_len : page->children[0].first_key_len;
    uint32_t last_len =
        page->entries ? page->entries[last].key_len : page->children[last].first_key_len;

    if (key_compare(first_key, first_len, frame->lower, frame->lower_len) != 0)
        return misplaced();
    if (frame->upper && key_compare(last_key, last_len, frame->upper, frame->upper_len) >= 0)
        return misplaced();
    return 0;
}

int tree_walk_open(struct tree_walk *walk)
{
    struct tree_frame *parent = top(walk), *frame = parent + 1;
    const struct catalog_child *child = &parent->children[parent->at];
    bool is_last = parent->at + 1 == parent->count;
    int r;

    if (walk->depth == ELEMENTSOF(walk->frames))
        return error_note(-UMBRA_E_CORRUPT, "catalog is too deep");
    r = catalog_page_read(&frame->page, walk->store, &child->page,
                          parent->level == 0 ? CATALOG_PAGE_LEAF : CATALOG_PAGE_INNER,
                          parent->level);
    if (r < 0)
        return r;
    frame->lower = child->first_key;
    frame->lower_len = child->first_key_len;
    frame->upper = is_last ? parent->upper : child[1].first_key;
    frame->upper_len = is_last ? parent->upper_len : child[1].first_key_len;
    r = check_bounds(frame);
    if (r < 0)
        return r;
    frame->children = frame->page.children;
    frame->count = frame->page.count;
    frame->level = parent->level > 0 ? parent->level - 1 : 0;
    frame->at = 0;
    parent->at++;
    walk->depth++;
    return 0;
}

/* How many entries (of a leaf) are less than the key, or how many children begin at or before it.
 */
static size_t search(const struct tree_frame *frame, const uint8_t *key, size_t len)
{
    const struct entry *entries = frame->page.entries;
    size_t low = 0, high = frame->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = entries ? key_compare(entries[middle].key, entries[middle].key_len, key, len)
                        : key_compare(frame->children[middle].first_key,
                                      frame->children[middle].first_key_len, key, len);
        if (c < 0 || (c == 0 && !entries))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool covers(const struct tree_frame *frame, const uint8_t *key, size_t len)
{
    return key_compare(key, len, frame->lower, frame->lower_len) >= 0 &&
           (!frame->upper || key_compare(key, len, frame->upper, frame->upper_len) < 0);
}

int tree_walk_seek(struct tree_walk *walk, const uint8_t *key, size_t len)
{
    while (walk->depth > 1 && !covers(top(walk), key, len))
        walk->depth--;

    for (;;) {
        struct tree_frame *frame = top(walk);
        size_t found = search(frame, key, len);

        if (frame->page.entries) {
            frame->at = found;
            return 0;
        }
        if (found == 0) {
            frame->at = 0;
            return 0;
        }
        const struct catalog_child *child = &frame->children[found - 1];
        frame->at = found - 1;
        if (key_compare(child->first_key, child->first_key_len, key, len) == 0)
            return 0;
        int r = tree_walk_open(walk);
        if (r < 0)
            return r;
    }
}
