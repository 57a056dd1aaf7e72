/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading a catalog: the cursor, finding one entry, visiting all pages. */
#include <string.h>

#include "basic/error.h"
#include "tree/catalog-private.h"

/*
 * The subtree of a directory is all keys that begin with its path and a NUL byte.  It does not
 * follow upon the directory's entry (the entries of one directory stand together), so the cursor
 * remembers what to leave out until it gets there.
 */
struct skip {
    uint8_t *prefix;
    size_t len;
};
DEFINE_VECTOR(skip_vector, struct skip);

struct catalog_cursor {
    struct tree_walk walk;
    const struct entry *last; /* what next() returned; NULL after a seek */
    struct skip_vector skips; /* ascending; all behind the current place, or next to it */
};

int catalog_cursor_new(const struct catalog_store *store, const struct catalog_root *root,
                       struct catalog_cursor **ret_cursor)
{
    struct catalog_cursor *cursor = calloc(1, sizeof(*cursor));

    if (!cursor)
        return -ENOMEM;
    tree_walk_init(&cursor->walk, store, root);
    *ret_cursor = cursor;
    return 0;
}

static void drop_skips(struct catalog_cursor *cursor, size_t count)
{
    struct skip_vector *skips = &cursor->skips;

    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++)
        free(skips->items[i].prefix);
    skips->count -= count;
    memmove(skips->items, skips->items + count, skips->count * sizeof(*skips->items));
}

void catalog_cursor_free(struct catalog_cursor *cursor)
{
    if (!cursor)
        return;
    drop_skips(cursor, cursor->skips.count);
    skip_vector_release(&cursor->skips);
    tree_walk_release(&cursor->walk);
    free(cursor);
}

static bool begins_with(const uint8_t *key, size_t len, const struct skip *skip)
{
    return len >= skip->len && memcmp(key, skip->prefix, skip->len) == 0;
}

/* Goes past the subtrees to leave out that begin at item.  Returns 1 when that moved the cursor. */
static int leave_out(struct catalog_cursor *cursor, const struct tree_item *item)
{
    const uint8_t *key = item->entry ? item->entry->key : item->child->first_key;
    size_t len = item->entry ? item->entry->key_len : item->child->first_key_len;
    struct skip_vector *skips = &cursor->skips;
    size_t passed = 0;
    int r;

    while (passed < skips->count && !begins_with(key, len, &skips->items[passed]) &&
           key_compare(skips->items[passed].prefix, skips->items[passed].len, key, len) < 0)
        passed++;
    drop_skips(cursor, passed);
    if (skips->count == 0 || !begins_with(key, len, &skips->items[0]))
        return 0;

    /* The first key that does not begin with "path NUL" is not below "path 0x01". */
    skips->items[0].prefix[skips->items[0].len - 1] = 1;
    r = tree_walk_seek(&cursor->walk, skips->items[0].prefix, skips->items[0].len);
    skips->items[0].prefix[skips->items[0].len - 1] = 0;
    return r < 0 ? r : 1;
}

int catalog_cursor_next(struct catalog_cursor *cursor, struct entry **ret_entry)
{
    struct tree_item item;
    int r;

    for (;;) {
        tree_walk_peek(&cursor->walk, &item);
        if (!item.entry && !item.child)
            break;
        if (cursor->skips.count > 0) {
            r = leave_out(cursor, &item);
            if (r < 0)
                return r;
            if (r > 0)
                continue;
        }
        if (item.entry) {
            tree_walk_advance(&cursor->walk);
            break;
        }
        r = tree_walk_open(&cursor->walk);
        if (r < 0)
            return r;
    }
    cursor->last = item.entry;
    *ret_entry = item.entry;
    return 0;
}

int catalog_cursor_seek(struct catalog_cursor *cursor, const uint8_t *key, size_t len)
{
    drop_skips(cursor, cursor->skips.count);
    cursor->last = NULL;
    return tree_walk_seek(&cursor->walk, key, len);
}

int catalog_cursor_skip_page(struct catalog_cursor *cursor)
{
    struct tree_item item;

    tree_walk_peek(&cursor->walk, &item);
    if (!item.child)
        return -EINVAL;
    tree_walk_advance(&cursor->walk);
    cursor->last = NULL;
    return 0;
}

static int add_skip(struct catalog_cursor *cursor, struct skip *skip)
{
    struct skip_vector *skips = &cursor->skips;
    size_t at = skips->count;
    int r;

    r = skip_vector_push(skips, skip);
    if (r < 0)
        return r;
    while (at > 0 && key_compare(skips->items[at - 1].prefix, skips->items[at - 1].len,
                                 skip->prefix, skip->len) > 0) {
        skips->items[at] = skips->items[at - 1];
        at--;
    }
    skips->items[at] = *skip;
    return 0;
}

int catalog_cursor_skip_subtree(struct catalog_cursor *cursor)
{
    const struct entry *e = cursor->last;
    struct skip skip;
    int r;

    if (!e)
        return -EINVAL;
    if (e->type != ENTRY_DIRECTORY)
        return 0;
    if (e->key_len == 0) { /* the root: nothing else is left */
        cursor->walk.depth = 1;
        cursor->walk.frames[0].at = cursor->walk.frames[0].count;
        return 0;
    }
    skip.prefix = (uint8_t *)key_to_path(e->key, e->key_len);
    if (!skip.prefix)
        return -ENOMEM;
    skip.len = strlen((char *)skip.prefix) + 1;
    for (size_t i = 0; i < skip.len; i++)
        if (skip.prefix[i] == '/')
            skip.prefix[i] = 0;
    r = add_skip(cursor, &skip);
    if (r < 0)
        free(skip.prefix);
    return r;
}

/* ---- finding ---- */

static int find(struct tree_walk *walk, const uint8_t *key, size_t len, struct entry *ret_entry)
{
    struct tree_item item;
    int r;

    r = tree_walk_seek(walk, key, len);
    while (r == 0) {
        tree_walk_peek(walk, &item);
        if (item.entry && key_compare(item.entry->key, item.entry->key_len, key, len) == 0)
            return entry_copy(item.entry, ret_entry);
        if (!item.child ||
            key_compare(item.child->first_key, item.child->first_key_len, key, len) != 0)
            return -ENOENT;
        r = tree_walk_open(walk);
    }
    return r;
}

int catalog_find(const struct catalog_store *store, const struct catalog_root *root,
                 const uint8_t *key, size_t len, struct entry *ret_entry)
{
    CLEANUP(entry_release) struct entry e = {0};
    CLEANUP(tree_walk_release) struct tree_walk walk;
    int r;

    tree_walk_init(&walk, store, root);
    r = find(&walk, key, len, &e);
    if (r < 0)
        return r;
    r = catalog_load_extents(store, &e);
    if (r < 0)
        return r;
    *ret_entry = e;
    e = (struct entry){0};
    return 0;
}
