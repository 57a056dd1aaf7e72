/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>

#include "tree/test-page-store.h"

/* A tree in a store. */
struct fixture {
    struct test_store s;
    struct entry_vector tree;
    struct catalog_root root;
};

static void fixture_init(struct fixture *f, uint64_t seed, size_t count)
{
    *f = (struct fixture){0};
    test_store_init(&f->s);
    test_tree(&f->s, seed, count, &f->tree);
    test_build(&f->s, &f->tree, &f->root);
}

static void fixture_release(struct fixture *f)
{
    test_tree_release(&f->tree);
    catalog_root_release(&f->root);
    test_store_release(&f->s);
}

static struct catalog_cursor *cursor_of(struct fixture *f)
{
    struct catalog_cursor *cursor;

    ASSERT_OK(catalog_cursor_new(&f->s.store, &f->root, &cursor));
    return cursor;
}

static struct entry *next(struct catalog_cursor *cursor)
{
    struct entry *e;

    ASSERT_OK(catalog_cursor_next(cursor, &e));
    return e;
}

/* ---- the whole tree ---- */

TEST(cursor_returns_what_was_added)
{
    static const size_t counts[] = {1, 2, 63, 64, 65, 1000, 20000, 100000};

    for (size_t i = 0; i < ELEMENTSOF(counts); i++) {
        struct fixture f;
        fixture_init(&f, i, counts[i]);
        ASSERT_EQ(f.root.entry_count, f.tree.count);
        ASSERT_EQ(f.root.level, 0);
        CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
        for (size_t k = 0; k < f.tree.count; k++) {
            struct entry *e = next(cursor);
            ASSERT_TRUE(e);
            test_assert_equal(&f.tree.items[k], e);
        }
        ASSERT_TRUE(!next(cursor));
        ASSERT_TRUE(!next(cursor));
        ASSERT_EQ(f.s.get_count, f.root.children.count);
        if (counts[i] >= 20000) { /* about 512 entries a leaf */
            ASSERT_GT(f.root.children.count, f.tree.count / 800);
            ASSERT_LT(f.root.children.count, f.tree.count / 350);
        }
        fixture_release(&f);
    }
}

TEST(empty_tree)
{
    struct fixture f;

    fixture_init(&f, 1, 0);
    test_tree_release(&f.tree);
    f.tree = (struct entry_vector){0};
    catalog_root_release(&f.root);
    test_build(&f.s, &f.tree, &f.root);
    ASSERT_EQ(f.root.entry_count, 0);
    ASSERT_EQ(f.root.children.count, 0);
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
    ASSERT_TRUE(!next(cursor));
    ASSERT_OK(catalog_cursor_seek(cursor, (const uint8_t *)"\0\0a", 3));
    ASSERT_TRUE(!next(cursor));
    struct entry e;
    ASSERT_ERR(catalog_find(&f.s.store, &f.root, (const uint8_t *)"", 0, &e), -ENOENT);

    CLEANUP(buffer_release) struct buffer b = {0};
    ASSERT_OK(catalog_root_encode(&f.root, f.s.store.names, &b));
    struct reader r = reader_make(b.data, b.len);
    struct catalog_root back;
    ASSERT_OK(catalog_root_decode(&r, f.s.store.names, &back));
    ASSERT_EQ(reader_left(&r), 0);
    test_assert_roots_equal(&f.root, &back);
    fixture_release(&f);
}

/* How many entries of the tree are less than the key. */
static size_t rank(const struct entry_vector *tree, const uint8_t *key, size_t len)
{
    size_t low = 0, high = tree->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct entry *e = &tree->items[middle];
        if (key_compare(e->key, e->key_len, key, len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A key of the tree, or one beside or between; room for a key and 8. */
static size_t some_key(const struct fixture *f, uint64_t *seed, size_t near, uint8_t *key)
{
    size_t i = test_random(seed) % 2 ? test_random(seed) % f->tree.count
                                     : MIN(near + test_random(seed) % 50, f->tree.count - 1);
    const struct entry *e = &f->tree.items[i];
    size_t len = e->key_len;

    memcpy(key, e->key, len);
    switch (test_random(seed) % 5) {
    case 0: len = test_random(seed) % (len + 1); break;
    case 1: key[len++] = (uint8_t)test_random(seed); break;
    case 2:
        if (len > 0)
            key[test_random(seed) % len] ^= (uint8_t)test_random(seed);
        break;
    default: break;
    }
    return len;
}

TEST(seek_goes_where_the_model_says)
{
    struct fixture f;
    uint64_t seed = 11;
    size_t at = 0;

    fixture_init(&f, 3, 20000);
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
    CLEANUP_FREE uint8_t *key = malloc(CATALOG_KEY_LEN_MAX);
    ASSERT_TRUE(key);
    for (int i = 0; i < 2000; i++) {
        size_t len = some_key(&f, &seed, at, key);
        ASSERT_OK(catalog_cursor_seek(cursor, key, len));
        at = rank(&f.tree, key, len);
        for (size_t steps = test_random(&seed) % 4; steps > 0; steps--) {
            struct entry *e = next(cursor);
            ASSERT_EQ(!e, at == f.tree.count);
            if (e)
                test_assert_equal(&f.tree.items[at++], e);
        }
    }
    fixture_release(&f);
}

TEST(seek_nearby_reads_no_page)
{
    struct fixture f;

    fixture_init(&f, 3, 20000);
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
    ASSERT_TRUE(next(cursor));
    test_store_reset_counts(&f.s);
    for (size_t i = 1; i < 60; i++) { /* a leaf has at least 64 */
        const struct entry *e = &f.tree.items[60 - i];
        ASSERT_OK(catalog_cursor_seek(cursor, e->key, e->key_len));
        test_assert_equal(e, next(cursor));
    }
    ASSERT_EQ(f.s.get_count, 0);
    fixture_release(&f);
}

TEST(find_reads_one_page)
{
    struct fixture f;
    uint64_t seed = 12;

    fixture_init(&f, 4, 20000);
    CLEANUP_FREE uint8_t *key = malloc(CATALOG_KEY_LEN_MAX);
    ASSERT_TRUE(key);
    for (int i = 0; i < 300; i++) {
        size_t len = some_key(&f, &seed, 0, key), at = rank(&f.tree, key, len);
        const struct entry *expected = at < f.tree.count ? &f.tree.items[at] : NULL;
        bool is_there = expected && key_compare(expected->key, expected->key_len, key, len) == 0;
        struct entry e;
        test_store_reset_counts(&f.s);
        ASSERT_ERR(catalog_find(&f.s.store, &f.root, key, len, &e), is_there ? 0 : -ENOENT);
        ASSERT_LE(f.s.get_count, 1);
        if (is_there) {
            test_assert_equal(expected, &e);
            entry_release(&e);
        }
    }
    fixture_release(&f);
}

/* Whether e lies below directory dir. */
static bool is_below(const struct entry *e, const struct entry *dir)
{
    CLEANUP_FREE char *path = key_to_path(e->key, e->key_len);
    CLEANUP_FREE char *dir_path = key_to_path(dir->key, dir->key_len);
    size_t dir_len = strlen(dir_path);

    if (e->key_len == 0)
        return false;
    return dir_len == 0 || (strncmp(path, dir_path, dir_len) == 0 && path[dir_len] == '/');
}

TEST(skip_subtree_leaves_out_what_is_below)
{
    for (uint64_t seed = 20; seed < 40; seed++) {
        struct fixture f;
        uint64_t dice = seed;
        fixture_init(&f, seed, seed % 2 ? 600 : 4000);
        CLEANUP_FREE bool *skipped = calloc(f.tree.count, sizeof(*skipped));
        CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
        ASSERT_TRUE(skipped);
        for (size_t i = 0; i < f.tree.count; i++) {
            const struct entry *dir = &f.tree.items[i];
            if (skipped[i])
                continue;
            test_assert_equal(dir, next(cursor));
            bool skip = i > 0 && test_random(&dice) % 3 == 0;
            if (!skip)
                continue;
            ASSERT_OK(catalog_cursor_skip_subtree(cursor));
            for (size_t k = i + 1; dir->type == ENTRY_DIRECTORY && k < f.tree.count; k++)
                skipped[k] = skipped[k] || is_below(&f.tree.items[k], dir);
        }
        ASSERT_TRUE(!next(cursor));
        fixture_release(&f);
    }
}

TEST(skip_subtree_passes_whole_pages)
{
    struct fixture f;

    fixture_init(&f, 5, 20000);
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
    ASSERT_ERR(catalog_cursor_skip_subtree(cursor), -EINVAL);
    ASSERT_TRUE(next(cursor));
    struct entry *e = next(cursor);
    while (e) { /* only what stands in the root */
        ASSERT_EQ(e->key[0], 0);
        ASSERT_OK(catalog_cursor_skip_subtree(cursor));
        e = next(cursor);
    }
    ASSERT_LT(f.s.get_count, f.root.children.count);

    ASSERT_OK(catalog_cursor_seek(cursor, NULL, 0)); /* forgets the skips */
    for (size_t i = 0; i < f.tree.count; i++)
        test_assert_equal(&f.tree.items[i], next(cursor));
    ASSERT_OK(catalog_cursor_seek(cursor, NULL, 0));
    ASSERT_TRUE(next(cursor));
    ASSERT_OK(catalog_cursor_skip_subtree(cursor)); /* of the root */
    ASSERT_TRUE(!next(cursor));
    fixture_release(&f);
}

/* ---- sharing ---- */

TEST(same_entries_same_pages)
{
    struct fixture f, g;

    fixture_init(&f, 6, 30000);
    g = (struct fixture){0};
    test_store_init(&g.s);
    /* pack numbers of another process: in reverse */
    for (uint32_t no = pack_table_count(f.s.store.names); no > 0; no--) {
        struct pack_name name;
        uint32_t ignored;
        pack_table_name(f.s.store.names, no - 1, &name);
        ASSERT_OK(pack_table_intern(g.s.store.names, &name, &ignored));
    }
    test_tree(&g.s, 6, 30000, &g.tree);
    test_build(&g.s, &g.tree, &g.root);
    test_assert_roots_equal(&f.root, &g.root);
    fixture_release(&f);
    fixture_release(&g);
}

/* A new version of the catalog from the cursor over the old one; edit changes entries on the way.
 */
static void rebuild(struct fixture *f, struct catalog_root *ret_root,
                    void (*edit)(size_t i, struct entry *e))
{
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(f);
    CLEANUP(catalog_builder_freep) struct catalog_builder *b = NULL;

    test_store_reset_counts(&f->s);
    ASSERT_OK(catalog_builder_new(&f->s.store, &b));
    for (size_t i = 0; i < f->tree.count; i++) {
        struct entry *e = next(cursor);
        if (edit)
            edit(i, e);
        ASSERT_OK(catalog_builder_add(b, e));
    }
    ASSERT_OK(catalog_builder_finish(b, ret_root));
}

static void edit_one(size_t i, struct entry *e)
{
    if (i == 7777)
        e->mtime.nsec ^= 1;
}

TEST(unchanged_entries_share_all_pages)
{
    struct fixture f;
    struct catalog_root root;

    fixture_init(&f, 8, 30000);
    rebuild(&f, &root, NULL);
    ASSERT_EQ(f.s.new_count, 0);
    ASSERT_EQ(f.s.locate_count, 0);
    test_assert_roots_equal(&f.root, &root);
    catalog_root_release(&root);

    rebuild(&f, &root, edit_one);
    ASSERT_EQ(f.s.new_count, 1);
    ASSERT_EQ(f.s.locate_count, 1);
    catalog_root_release(&root);
    fixture_release(&f);
}

TEST(added_and_removed_entries_cost_few_pages)
{
    struct fixture f;
    uint64_t seed = 14;
    size_t new_count = 0;

    fixture_init(&f, 9, 30000);
    for (int i = 0; i < 20; i++) {
        struct catalog_root root;
        char path[40];
        test_store_reset_counts(&f.s);
        if (i % 2) {
            entry_release(&f.tree.items[1000 * i]);
            f.tree.items[1000 * i] = f.tree.items[--f.tree.count];
        } else {
            snprintf(path, sizeof(path), "added-%" PRIu64, test_random(&seed));
            struct entry e = test_file(&f.s, &seed, path, 1);
            ASSERT_OK(entry_vector_push(&f.tree, &e));
        }
        test_sort(&f.tree);
        test_build(&f.s, &f.tree, &root);
        ASSERT_LE(f.s.new_count, 3); /* a cut may have come or gone */
        new_count += f.s.new_count;
        catalog_root_release(&root);
    }
    ASSERT_LE(new_count, 26);
    fixture_release(&f);
}

/* ---- big files ---- */

static void assert_loads(struct fixture *f, const struct entry *expected)
{
    struct entry e;

    ASSERT_OK(catalog_find(&f->s.store, &f->root, expected->key, expected->key_len, &e));
    ASSERT_FALSE(entry_is_unloaded(&e));
    test_assert_equal(expected, &e);
    entry_release(&e);
}

/* A tree with one file of so many extents. */
static void big_fixture(struct fixture *f, size_t extent_count)
{
    uint64_t seed = 17;
    struct entry e;

    *f = (struct fixture){0};
    test_store_init(&f->s);
    test_tree(&f->s, 17, 300, &f->tree);
    e = test_file(&f->s, &seed, "big", extent_count);
    ASSERT_OK(entry_vector_push(&f->tree, &e));
    e = test_file(&f->s, &seed, "big-too", CATALOG_INLINE_EXTENTS_MAX + 1);
    ASSERT_OK(entry_vector_push(&f->tree, &e));
    e = test_file(&f->s, &seed, "medium", CATALOG_INLINE_EXTENTS_MAX);
    ASSERT_OK(entry_vector_push(&f->tree, &e));
    test_sort(&f->tree);
    test_build(&f->s, &f->tree, &f->root);
}

static struct entry *by_path(struct fixture *f, const char *path)
{
    CLEANUP(buffer_release) struct buffer key = {0};

    key_put_path(&key, path, strlen(path));
    return &f->tree.items[rank(&f->tree, key.data, key.len)];
}

TEST(big_files_have_content_pages)
{
    static const size_t counts[] = {257, 5000, 100000, 400000};

    for (size_t i = 0; i < ELEMENTSOF(counts); i++) {
        struct fixture f;
        big_fixture(&f, counts[i]);
        ASSERT_LE(f.s.locate_count, 3); /* the upper content level, the leaf, the root */
        assert_loads(&f, by_path(&f, "big"));
        assert_loads(&f, by_path(&f, "big-too"));
        assert_loads(&f, by_path(&f, "medium"));
        CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
        const struct entry *big = by_path(&f, "big");
        ASSERT_OK(catalog_cursor_seek(cursor, big->key, big->key_len));
        struct entry *e = next(cursor);
        ASSERT_TRUE(entry_is_unloaded(e));
        ASSERT_EQ(e->extents.count, 0);
        ASSERT_EQ(e->size, big->size);
        ASSERT_EQ(e->content_level, counts[i] >= 400000 ? 1 : 0);
        ASSERT_OK(catalog_load_extents(&f.s.store, e)); /* the cursor's: freed with it */
        test_assert_equal(big, e);
        ASSERT_OK(catalog_load_extents(&f.s.store, e)); /* nothing to do */
        fixture_release(&f);
    }
}

TEST(unloaded_contents_are_added_as_they_are)
{
    struct fixture f;
    struct catalog_root root;

    big_fixture(&f, 100000);
    rebuild(&f, &root, NULL);
    ASSERT_EQ(f.s.new_count, 0);
    ASSERT_LE(f.s.get_count, 2); /* leaves */
    ASSERT_EQ(f.s.put_count, f.root.children.count);
    test_assert_roots_equal(&f.root, &root);
    catalog_root_release(&root);
    fixture_release(&f);
}

TEST(edit_in_a_big_file_shares_most_pages)
{
    struct fixture f;
    struct catalog_root root;
    uint64_t seed = 18;

    big_fixture(&f, 100000);
    struct entry *big = by_path(&f, "big");
    struct extent *middle = &big->extents.items[50000];
    big->size -= middle->len;
    *middle = test_extent(&f.s, &seed);
    big->size += middle->len;
    test_store_reset_counts(&f.s);
    test_build(&f.s, &f.tree, &root);
    ASSERT_LE(f.s.new_count, 3); /* one or two content pages, one leaf */
    ASSERT_GT(f.s.put_count, 60);
    catalog_root_release(&root);

    big->extents.count--; /* and an extent less: all behind it moves */
    big->size -= middle->len;
    memmove(middle, middle + 1, (big->extents.count - 50000) * sizeof(*middle));
    test_store_reset_counts(&f.s);
    test_build(&f.s, &f.tree, &root);
    ASSERT_LE(f.s.new_count, 4);
    catalog_root_release(&root);
    fixture_release(&f);
}

TEST(repeated_chunks_are_cut_by_count)
{
    struct fixture f = {0};
    uint64_t seed = 19;

    test_store_init(&f.s);
    struct entry e = test_file(&f.s, &seed, "same", 0);
    struct extent extent = test_extent(&f.s, &seed);
    for (int i = 0; i < 20000; i++) {
        ASSERT_OK(extent_vector_push(&e.extents, &extent));
        e.size += extent.len;
    }
    ASSERT_OK(entry_vector_push(&f.tree, &e));
    test_build(&f.s, &f.tree, &f.root);
    ASSERT_EQ(f.s.put_count, 1 + 20000 / CATALOG_CONTENT_COUNT_MAX + 1);
    assert_loads(&f, &f.tree.items[0]);
    fixture_release(&f);
}

/* ---- deep trees ---- */

#define DEEP_DIRS  600u
#define DEEP_FILES 5u

/* Entry i of a tree with paths so long that few references fill a page. */
static struct entry deep_entry(struct test_store *s, size_t i)
{
    static char path[62000];
    size_t dir = i / DEEP_FILES;
    uint64_t seed = i;

    memset(path, 'x', sizeof(path));
    for (size_t k = 999; k < sizeof(path) - 20; k += 1000)
        path[k] = '/';
    for (size_t k = 0; k < 4; k++)
        path[k] = (char)('a' + (dir >> (4 * (3 - k)) & 15));
    snprintf(path + sizeof(path) - 10, 10, "/%zu", i % DEEP_FILES);
    return test_file(s, &seed, path, 1);
}

static void deep_build(struct test_store *s, struct catalog_root *root, size_t changed)
{
    CLEANUP(catalog_builder_freep) struct catalog_builder *b = NULL;

    test_store_reset_counts(s);
    ASSERT_OK(catalog_builder_new(&s->store, &b));
    for (size_t i = 0; i < (size_t)DEEP_DIRS * DEEP_FILES; i++) {
        struct entry e = deep_entry(s, i);
        e.uid = i == changed;
        ASSERT_OK(catalog_builder_add(b, &e));
        entry_release(&e);
    }
    ASSERT_OK(catalog_builder_finish(b, root));
}

TEST(deep_trees)
{
    struct fixture f = {0};
    uint64_t seed = 21;

    test_store_init(&f.s);
    deep_build(&f.s, &f.root, SIZE_MAX);
    ASSERT_EQ(f.root.level, 2);
    ASSERT_GT(f.root.children.count, 1);
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
    for (size_t i = 0; i < (size_t)DEEP_DIRS * DEEP_FILES; i++) {
        struct entry e = deep_entry(&f.s, i);
        test_assert_equal(&e, next(cursor));
        entry_release(&e);
    }
    ASSERT_TRUE(!next(cursor));
    for (int i = 0; i < 50; i++) {
        size_t at = test_random(&seed) % (DEEP_DIRS * DEEP_FILES);
        struct entry e = deep_entry(&f.s, at), found;
        test_store_reset_counts(&f.s);
        ASSERT_OK(catalog_cursor_seek(cursor, e.key, e.key_len));
        test_assert_equal(&e, next(cursor));
        ASSERT_LE(f.s.get_count, 3);
        test_store_reset_counts(&f.s);
        ASSERT_OK(catalog_find(&f.s.store, &f.root, e.key, e.key_len, &found));
        ASSERT_EQ(f.s.get_count, 3);
        test_assert_equal(&e, &found);
        entry_release(&found);
        e.key[e.key_len - 1] = '~';
        ASSERT_ERR(catalog_find(&f.s.store, &f.root, e.key, e.key_len, &found), -ENOENT);
        entry_release(&e);
    }

    struct catalog_root changed;
    deep_build(&f.s, &changed, 1500);
    ASSERT_EQ(f.s.new_count, 3); /* the leaf and the two pages above */
    catalog_root_release(&changed);
    fixture_release(&f);
}

/* ---- what the builder refuses ---- */

static void fill_xattrs(struct entry *e, size_t count, uint32_t value_len)
{
    for (size_t i = 0; i < count; i++) {
        struct xattr x = {.value = calloc(1, value_len + 1), .value_len = value_len};
        ASSERT_TRUE(x.value && asprintf(&x.name, "user.%04zu", i) > 0);
        ASSERT_OK(xattr_vector_push(&e->xattrs, &x));
    }
}

TEST(largest_entries_fit)
{
    struct fixture f = {0};
    CLEANUP_FREE char *path = malloc(70000);
    uint64_t seed = 22;

    ASSERT_TRUE(path);
    test_store_init(&f.s);
    for (size_t i = 0; i < 12; i++) {
        memset(path, 'y', 70000);
        for (size_t k = 999; k < 70000; k += 1000)
            path[k] = '/';
        size_t len = CATALOG_KEY_LEN_MAX - 1; /* the key has one byte more */
        path[len] = '\0';
        path[0] = (char)('a' + i);
        struct entry e = test_file(&f.s, &seed, path, i % 2 ? CATALOG_INLINE_EXTENTS_MAX : 0);
        ASSERT_EQ(e.key_len, CATALOG_KEY_LEN_MAX);
        if (i % 2 == 0) {
            e.type = ENTRY_SYMLINK;
            e.symlink = calloc(1, ENTRY_SYMLINK_MAX + 1);
            ASSERT_TRUE(e.symlink);
            memset(e.symlink, 'z', ENTRY_SYMLINK_MAX);
            e.size = ENTRY_SYMLINK_MAX;
        }
        if (i % 3)
            fill_xattrs(&e, 4, ENTRY_XATTR_VALUE_MAX - 9);
        else
            fill_xattrs(&e, ENTRY_XATTR_COUNT_MAX,
                        CATALOG_XATTR_BYTES_MAX / ENTRY_XATTR_COUNT_MAX - 9);
        ASSERT_OK(entry_vector_push(&f.tree, &e));
    }
    test_build(&f.s, &f.tree, &f.root);
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = cursor_of(&f);
    for (size_t i = 0; i < f.tree.count; i++)
        test_assert_equal(&f.tree.items[i], next(cursor));
    fixture_release(&f);
}

static void refuse(struct catalog_builder *b, struct entry *e, int error, const char *words)
{
    int r = catalog_builder_add(b, e);

    ASSERT_ERR(r, error);
    if (!strstr(error_text(r), words))
        test_fail(__FILE__, __LINE__, "'%s' does not say '%s'", error_text(r), words);
    entry_release(e);
}

/* Refused entries leave the builder as it was. */
TEST(builder_refuses_and_goes_on)
{
    struct test_store s;
    uint64_t seed = 23;
    struct catalog_root root;
    struct entry e;

    test_store_init(&s);
    CLEANUP(catalog_builder_freep) struct catalog_builder *b = NULL;
    ASSERT_OK(catalog_builder_new(&s.store, &b));
    e = test_file(&s, &seed, "b", 1);
    ASSERT_OK(catalog_builder_add(b, &e));
    refuse(b, &e, -EINVAL, "ascend");
    e = test_file(&s, &seed, "a", 1);
    refuse(b, &e, -EINVAL, "ascend");
    e = test_file(&s, &seed, "", 0);
    refuse(b, &e, -EINVAL, "ascend");

    CLEANUP_FREE char *path = malloc(70000);
    ASSERT_TRUE(path);
    memset(path, 'y', 70000);
    for (size_t k = 999; k < 70000; k += 1000)
        path[k] = '/';
    path[CATALOG_KEY_LEN_MAX] = '\0';
    e = test_file(&s, &seed, path, 0);
    refuse(b, &e, -UMBRA_E_LIMIT, "longer than 64 KiB");
    e = test_file(&s, &seed, "c", 1);
    fill_xattrs(&e, 5, ENTRY_XATTR_VALUE_MAX - 9);
    refuse(b, &e, -UMBRA_E_LIMIT, "'/c': extended attributes have more");
    e = test_file(&s, &seed, "c", 1);
    fill_xattrs(&e, 1, ENTRY_XATTR_VALUE_MAX + 1);
    refuse(b, &e, -UMBRA_E_LIMIT, "value of an extended attribute");
    e = test_file(&s, &seed, "c", 1);
    fill_xattrs(&e, 2, 1);
    e.xattrs.items[1].name[8] = '0';
    refuse(b, &e, -EINVAL, "not sorted");
    e = test_file(&s, &seed, "c", 4);
    e.size++;
    refuse(b, &e, -EINVAL, "add up");
    e = test_file(&s, &seed, "c", 4);
    e.size--;
    refuse(b, &e, -EINVAL, "add up");
    e = test_file(&s, &seed, "c", 1);
    e.extents.items[0] = test_extent(&s, &seed);
    e.size = e.extents.items[0].len;
    e.extents.items[0].chunk.location.pack_no = PACK_NO_NONE;
    refuse(b, &e, -EINVAL, "without a location");
    e = test_file(&s, &seed, "c", 1);
    e.type = ENTRY_FIFO;
    refuse(b, &e, -EINVAL, "no regular file");
    e = test_file(&s, &seed, "c", 1);
    e.mtime.nsec = 1000000000;
    refuse(b, &e, -EINVAL, "out of range");
    e = test_file(&s, &seed, "c", 1);
    e.mode = 010000;
    refuse(b, &e, -EINVAL, "out of range");
    e = test_file(&s, &seed, "c", 0);
    e.key[2] = '/';
    refuse(b, &e, -EINVAL, "malformed");

    e = test_file(&s, &seed, "bb", 1);
    ASSERT_OK(catalog_builder_add(b, &e));
    ASSERT_OK(catalog_builder_finish(b, &root));
    ASSERT_EQ(root.entry_count, 2);
    ASSERT_ERR(catalog_builder_add(b, &e), -EINVAL);
    struct catalog_root again;
    ASSERT_ERR(catalog_builder_finish(b, &again), -EINVAL);
    entry_release(&e);
    catalog_root_release(&root);
    test_store_release(&s);
}

static int put_fails(void *userdata, const void *page, size_t len, struct chunk_ref *ret_ref)
{
    (void)userdata, (void)page, (void)len, (void)ret_ref;
    return error_note(-ENOSPC, "no space");
}

TEST(failure_of_the_store_is_final)
{
    struct fixture f;
    struct catalog_root root;
    int r = 0;

    fixture_init(&f, 24, 3000);
    struct catalog_store store = f.s.store;
    store.put_page = put_fails;
    CLEANUP(catalog_builder_freep) struct catalog_builder *b = NULL;
    ASSERT_OK(catalog_builder_new(&store, &b));
    for (size_t i = 0; i < f.tree.count && r == 0; i++)
        r = catalog_builder_add(b, &f.tree.items[i]);
    ASSERT_ERR(r, -ENOSPC);
    ASSERT_ERR(catalog_builder_add(b, &f.tree.items[f.tree.count - 1]), -ENOSPC);
    ASSERT_ERR(catalog_builder_finish(b, &root), -ENOSPC);
    fixture_release(&f);
}

TEST_MAIN()
