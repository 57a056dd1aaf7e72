/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Building a catalog.
 *
 * A catalog is a B-tree that is never changed: entries come in key order, go straight into the leaf
 * page under construction, and each page that is full goes to the store; what remains of it is its
 * first key and its id.  Where a page is full is decided by its contents (a hash of the key last
 * added), not by a count.  So two trees that differ in a few entries have the same pages but for
 * the few in which those entries stand and the pages above them; stored under their ids, equal
 * pages exist once.  A list of page ids would do for that; the tree makes it possible to find one
 * entry by reading one page a level, and to find the differences of two trees by reading little
 * more than what differs.
 *
 * Only as many levels are built as are needed: the references to the pages of a level are kept in
 * memory, and while they are few enough they are the root.  When there are too many, the level
 * above comes into being: inner pages are cut from the list so far, and from then on as references
 * come.
 *
 *     entries -> leaf -> levels[0].pending -> inner pages of level 1 -> levels[1].pending -> ...
 * root
 *
 * A reference carries a hint where its page lies, and a page that has just been put may not know
 * that yet; asking can force the store to write out what it has gathered.  The builder asks as late
 * as it can, and for many at once: when references are encoded into a page or handed out in the
 * root.
 *
 * Invariants
 * 1. The same entries (hints included) give the same pages and the same root, whatever was added
 *    before: no byte of a page depends on another page, on time or on numbers of this process.
 * 2. Every page of a level has keys below those of the next; keys ascend strictly over all.
 * 3. levels[n].pending holds the references to pages of level n that no page of level n + 1 has
 * yet, in order.  If levels[n].has_parents, less than a page of them; else all there are, and they
 * would fit into a root.
 * 4. An entry that is refused leaves the builder as it was.  Any other failure is final: the
 * builder returns it from then on.
 *
 * Memory: the page under construction, its encoding, and per level at most CATALOG_ROOT_REFS_MAX
 * references.  One thread.
 */
#include <string.h>

#include "basic/error.h"
#include "basic/le.h"
#include "tree/catalog-private.h"

struct level {
    struct catalog_child_vector pending;
    size_t examined;  /* how many of pending count in len */
    size_t len;       /* bytes the examined ones take in a page */
    bool has_parents; /* the level above exists */
};

DEFINE_VECTOR(ref_vector, struct chunk_ref *);

struct catalog_builder {
    struct catalog_store store;
    struct page_encoder leaf;
    struct page_encoder other; /* an inner or content page: from empty to finished in one go */
    struct buffer page;        /* as it goes to the store */
    struct buffer leaf_key;    /* first key of the leaf */
    struct buffer last_key;    /* of all entries */
    struct extent_vector content_refs, lower_refs; /* of the file being added; its level below */
    struct ref_vector unlocated;
    struct level levels[CATALOG_DEPTH_MAX];
    uint64_t entry_count;
    int error;
};

int catalog_builder_new(const struct catalog_store *store, struct catalog_builder **ret_builder)
{
    struct catalog_builder *b = calloc(1, sizeof(*b));

    if (!b)
        return -ENOMEM;
    b->store = *store;
    *ret_builder = b;
    return 0;
}

static void release_children(struct catalog_child_vector *children)
{
    for (size_t i = 0; i < children->count; i++)
        free(children->items[i].first_key);
    catalog_child_vector_release(children);
}

void catalog_builder_free(struct catalog_builder *b)
{
    if (!b)
        return;
    page_encoder_release(&b->leaf);
    page_encoder_release(&b->other);
    buffer_release(&b->page);
    buffer_release(&b->leaf_key);
    buffer_release(&b->last_key);
    extent_vector_release(&b->content_refs);
    extent_vector_release(&b->lower_refs);
    ref_vector_release(&b->unlocated);
    for (size_t i = 0; i < ELEMENTSOF(b->levels); i++)
        release_children(&b->levels[i].pending);
    free(b);
}

/* ---- references and where they lie ---- */

static int gather(struct catalog_builder *b, struct chunk_ref *ref)
{
    return ref->location.pack_no == PACK_NO_NONE ? ref_vector_push(&b->unlocated, &ref) : 0;
}

static int locate_gathered(struct catalog_builder *b)
{
    int r = 0;

    if (b->unlocated.count > 0)
        r = b->store.locate(b->store.userdata, b->unlocated.items, b->unlocated.count);
    for (size_t i = 0; r == 0 && i < b->unlocated.count; i++)
        if (b->unlocated.items[i]->location.pack_no == PACK_NO_NONE)
            r = error_note(-EIO, "catalog page has no location");
    ref_vector_clear(&b->unlocated);
    return r;
}

static int locate_extents(struct catalog_builder *b, struct extent_vector *refs)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < refs->count; i++)
        r = gather(b, &refs->items[i].chunk);
    return r < 0 ? r : locate_gathered(b);
}

static int locate_children(struct catalog_builder *b, struct catalog_child *children, size_t count)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++)
        r = gather(b, &children[i].page);
    return r < 0 ? r : locate_gathered(b);
}

/* Finishes the page in enc and puts it. */
static int put_page(struct catalog_builder *b, struct page_encoder *enc,
                    enum catalog_page_kind kind, uint32_t level, struct chunk_ref *ret_ref)
{
    struct chunk_ref ref = {.location.pack_no = PACK_NO_NONE};
    int r;

    r = page_encoder_finish(enc, kind, level, b->store.names, &b->page);
    if (r < 0)
        return r;
    r = b->store.put_page(b->store.userdata, b->page.data, b->page.len, &ref);
    if (r < 0)
        return r;
    *ret_ref = ref;
    return 0;
}

/* ---- levels ---- */

static int add_page(struct catalog_builder *b, uint32_t level, const void *first_key,
                    size_t first_key_len, const struct chunk_ref *page);

/* The first `count` pending references of a level become one page of the level above. */
static int put_inner(struct catalog_builder *b, uint32_t level, size_t count)
{
    struct catalog_child_vector *pending = &b->levels[level].pending;
    struct chunk_ref ref;
    int r;

    if (level + 1 >= CATALOG_DEPTH_MAX)
        return error_note(-UMBRA_E_LIMIT, "catalog would be too deep");
    r = locate_children(b, pending->items, count);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        page_encoder_put_child(&b->other, &pending->items[i]);
    r = put_page(b, &b->other, CATALOG_PAGE_INNER, level + 1, &ref);
    if (r == 0)
        r = add_page(b, level + 1, pending->items[0].first_key, pending->items[0].first_key_len,
                     &ref);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        free(pending->items[i].first_key);
    pending->count -= count;
    memmove(pending->items, pending->items + count, pending->count * sizeof(*pending->items));
    return 0;
}

/* How many bytes child adds to a page in which it stands behind before (NULL: first). */
static size_t child_len(const struct catalog_child *before, const struct catalog_child *child)
{
    size_t shared = before ? catalog_common_prefix(before->first_key, before->first_key_len,
                                                   child->first_key, child->first_key_len)
                           : 0;

    return child->first_key_len - shared + 8 + CATALOG_REFERENCE_LEN_BOUND;
}

/* Counts one more pending reference in. */
static void examine(struct level *l)
{
    size_t i = l->examined++;

    l->len += child_len(i > 0 ? &l->pending.items[i - 1] : NULL, &l->pending.items[i]);
}

static bool ends_inner(const struct level *l, uint32_t level)
{
    const struct catalog_child *last = &l->pending.items[l->examined - 1];

    if (l->len >= CATALOG_PAGE_LEN_TARGET)
        return true;
    return l->examined >= CATALOG_CUT_MIN &&
           catalog_key_cuts(last->first_key, last->first_key_len, level + 1);
}

static int cut_inner(struct catalog_builder *b, uint32_t level)
{
    struct level *l = &b->levels[level];

    while (l->examined < l->pending.count) {
        examine(l);
        if (!ends_inner(l, level))
            continue;
        int r = put_inner(b, level, l->examined);
        if (r < 0)
            return r;
        l->examined = 0;
        l->len = 0;
    }
    return 0;
}

static int add_page(struct catalog_builder *b, uint32_t level, const void *first_key,
                    size_t first_key_len, const struct chunk_ref *page)
{
    struct level *l = &b->levels[level];
    CLEANUP_FREE void *key = malloc(first_key_len + 1);
    struct catalog_child child = {
        .first_key = key, .first_key_len = (uint32_t)first_key_len, .page = *page};
    int r;

    if (!key)
        return -ENOMEM;
    if (first_key_len > 0)
        memcpy(key, first_key, first_key_len);
    r = catalog_child_vector_push(&l->pending, &child);
    if (r < 0)
        return r;
    key = NULL;
    if (l->has_parents)
        return cut_inner(b, level);
    examine(l);
    if (l->pending.count <= CATALOG_ROOT_REFS_MAX && l->len < CATALOG_ROOT_LEN_TARGET)
        return 0;
    l->has_parents = true;
    l->examined = 0;
    l->len = 0;
    return cut_inner(b, level);
}

/* ---- leaves ---- */

static int finish_leaf(struct catalog_builder *b)
{
    struct chunk_ref ref;
    int r;

    r = locate_extents(b, &b->leaf.content_refs);
    if (r < 0)
        return r;
    r = put_page(b, &b->leaf, CATALOG_PAGE_LEAF, 0, &ref);
    if (r < 0)
        return r;
    return add_page(b, 0, b->leaf_key.data, b->leaf_key.len, &ref);
}

/* How many bytes the entry adds to a page at most. */
static size_t entry_len_bound(const struct entry *e, const struct catalog_contents *contents)
{
    size_t len = CATALOG_ENTRY_FIXED_BOUND + e->key_len +
                 contents->extent_count * CATALOG_EXTENT_LEN_BOUND +
                 contents->ref_count * CATALOG_REFERENCE_LEN_BOUND;

    if (e->symlink)
        len += strlen(e->symlink);
    for (size_t i = 0; i < e->xattrs.count; i++)
        len += strlen(e->xattrs.items[i].name) + e->xattrs.items[i].value_len +
               CATALOG_XATTR_FRAME_BOUND;
    return len;
}

static int put_entry(struct catalog_builder *b, const struct entry *e,
                     const struct catalog_contents *contents)
{
    struct page_encoder *leaf = &b->leaf;
    int r;

    if (leaf->count > 0 &&
        page_encoder_len(leaf) + entry_len_bound(e, contents) > CATALOG_PAGE_LEN_MAX) {
        r = finish_leaf(b);
        if (r < 0)
            return r;
    }
    if (leaf->count == 0) {
        buffer_clear(&b->leaf_key);
        buffer_put(&b->leaf_key, e->key, e->key_len);
        r = buffer_finish(&b->leaf_key);
        if (r < 0)
            return r;
    }
    page_encoder_put_entry(leaf, e, contents);
    b->entry_count++;
    if (page_encoder_len(leaf) >= CATALOG_PAGE_LEN_TARGET ||
        (leaf->count >= CATALOG_CUT_MIN && catalog_key_cuts(e->key, e->key_len, 0)))
        return finish_leaf(b);
    return 0;
}

/* ---- contents ---- */

static bool ends_content(const struct extent *last, size_t count)
{
    le64_t head;

    if (count >= CATALOG_CONTENT_COUNT_MAX)
        return true;
    if (count < CATALOG_CONTENT_CUT_MIN || last->kind != EXTENT_DATA)
        return false;
    memcpy(&head, last->chunk.id.bytes, sizeof(head));
    return le64_get(&head) < UINT64_MAX / CATALOG_CONTENT_CUT_ODDS;
}

/* Puts the items into pages of that level and lists the pages in refs. */
static int put_content_level(struct catalog_builder *b, uint32_t level, const struct extent *items,
                             size_t count, struct extent_vector *refs)
{
    struct extent ref = {.kind = EXTENT_DATA};
    int r;

    extent_vector_clear(refs);
    for (size_t i = 0; i < count; i++) {
        if (level == 0)
            page_encoder_put_extent(&b->other, &items[i]);
        else
            page_encoder_put_reference(&b->other, &items[i]);
        ref.len += items[i].len;
        if (!ends_content(&items[i], b->other.count) && i + 1 < count)
            continue;
        r = put_page(b, &b->other, CATALOG_PAGE_CONTENT, level, &ref.chunk);
        if (r == 0)
            r = extent_vector_push(refs, &ref);
        if (r < 0)
            return r;
        ref.len = 0;
    }
    return 0;
}

/* Extents in content pages, level above level until the references are few enough for a leaf. */
static int put_content(struct catalog_builder *b, const struct entry *e,
                       struct catalog_contents *ret_contents)
{
    uint32_t level = 0;
    int r;

    r = put_content_level(b, 0, e->extents.items, e->extents.count, &b->content_refs);
    if (r < 0)
        return r;
    while (b->content_refs.count > CATALOG_INLINE_EXTENTS_MAX) {
        if (++level >= CATALOG_DEPTH_MAX)
            return error_note(-UMBRA_E_LIMIT, "file has too many extents");
        struct extent_vector lower = b->content_refs;
        b->content_refs = b->lower_refs;
        b->lower_refs = lower;
        r = locate_extents(b, &b->lower_refs);
        if (r < 0)
            return r;
        r = put_content_level(b, level, b->lower_refs.items, b->lower_refs.count, &b->content_refs);
        if (r < 0)
            return r;
    }
    *ret_contents = (struct catalog_contents){
        .refs = b->content_refs.items, .ref_count = b->content_refs.count, .ref_level = level};
    return 0;
}

/* ---- the builder ---- */

/* Ascending?  If so, the key becomes the last one. */
static int take_key(struct catalog_builder *b, const struct entry *e)
{
    struct buffer *last = &b->last_key;
    size_t shared = catalog_common_prefix(last->data, last->len, e->key, e->key_len);

    if (b->entry_count > 0 &&
        (shared == e->key_len || (shared < last->len && e->key[shared] < last->data[shared])))
        return error_note(-EINVAL, "catalog entries do not ascend");
    last->len = shared;
    buffer_put(last, e->key + shared, e->key_len - shared);
    return buffer_finish(last);
}

static int add(struct catalog_builder *b, const struct entry *e)
{
    struct catalog_contents contents = {.extents = e->extents.items,
                                        .extent_count = e->extents.count,
                                        .refs = e->content_refs.items,
                                        .ref_count = e->content_refs.count,
                                        .ref_level = e->content_level};

    if (e->extents.count > CATALOG_INLINE_EXTENTS_MAX) {
        int r = put_content(b, e, &contents);
        if (r < 0)
            return r;
    }
    return put_entry(b, e, &contents);
}

int catalog_builder_add(struct catalog_builder *b, const struct entry *e)
{
    int r;

    if (b->error < 0)
        return b->error;
    r = catalog_entry_check(e, false);
    if (r < 0)
        return r;
    r = take_key(b, e);
    if (r == -EINVAL)
        return r;
    if (r == 0)
        r = add(b, e);
    b->error = r;
    return r;
}

/* Up to the level whose references are the root. */
static int finish(struct catalog_builder *b, struct catalog_root *ret_root)
{
    uint32_t level = 0;
    int r;

    if (b->leaf.count > 0) {
        r = finish_leaf(b);
        if (r < 0)
            return r;
    }
    while (b->levels[level].has_parents) {
        struct level *l = &b->levels[level];
        if (l->pending.count > 0) {
            r = put_inner(b, level, l->pending.count);
            if (r < 0)
                return r;
        }
        level++;
    }
    struct catalog_child_vector *pending = &b->levels[level].pending;
    r = locate_children(b, pending->items, pending->count);
    if (r < 0)
        return r;
    *ret_root =
        (struct catalog_root){.level = level, .entry_count = b->entry_count, .children = *pending};
    *pending = (struct catalog_child_vector){0};
    return 0;
}

int catalog_builder_finish(struct catalog_builder *b, struct catalog_root *ret_root)
{
    int r;

    if (b->error < 0)
        return b->error;
    r = finish(b, ret_root);
    b->error = r < 0 ? r : -EINVAL; /* nothing can follow */
    return r;
}
