/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walks over whole trees: comparing two, visiting all pages, damaged ones on the way. */
#include <stdlib.h>

#include "tree/test-page-store.h"

struct fixture {
    struct test_store s;
    struct entry_vector old_tree, new_tree;
    struct catalog_root old_root, new_root;
};

static void copy_tree(const struct entry_vector *from, struct entry_vector *to)
{
    for (size_t i = 0; i < from->count; i++) {
        struct entry e;
        ASSERT_OK(entry_copy(&from->items[i], &e));
        ASSERT_OK(entry_vector_push(to, &e));
    }
}

static void fixture_init(struct fixture *f, uint64_t seed, size_t count)
{
    *f = (struct fixture){0};
    test_store_init(&f->s);
    test_tree(&f->s, seed, count, &f->old_tree);
    copy_tree(&f->old_tree, &f->new_tree);
    test_build(&f->s, &f->old_tree, &f->old_root);
}

static void fixture_release(struct fixture *f)
{
    test_tree_release(&f->old_tree);
    test_tree_release(&f->new_tree);
    catalog_root_release(&f->old_root);
    catalog_root_release(&f->new_root);
    test_store_release(&f->s);
}

/* ---- comparing ---- */

struct change {
    enum catalog_change change;
    const struct entry *old_entry, *new_entry;
};
DEFINE_VECTOR(change_vector, struct change);

static bool time_equal(const struct entry_time *a, const struct entry_time *b)
{
    return a->sec == b->sec && a->nsec == b->nsec;
}

/* What the comparison must find, by walking two sorted arrays. */
static void expect_changes(const struct fixture *f, struct change_vector *changes)
{
    size_t i = 0, k = 0;

    while (i < f->old_tree.count || k < f->new_tree.count) {
        const struct entry *a = i < f->old_tree.count ? &f->old_tree.items[i] : NULL;
        const struct entry *b = k < f->new_tree.count ? &f->new_tree.items[k] : NULL;
        int c = !a ? 1 : !b ? -1 : key_compare(a->key, a->key_len, b->key, b->key_len);
        struct change change = {.change = CATALOG_REMOVED,
                                .old_entry = c <= 0 ? a : NULL,
                                .new_entry = c >= 0 ? b : NULL};
        i += c <= 0;
        k += c >= 0;
        if (c > 0)
            change.change = CATALOG_ADDED;
        if (c == 0 && a->type != b->type)
            change.change = CATALOG_TYPE_CHANGED;
        else if (c == 0 && (a->size != b->size || !entry_contents_same(a, b)))
            change.change = CATALOG_MODIFIED;
        else if (c == 0 && !entry_attributes_same(a, b))
            change.change = CATALOG_METADATA;
        else if (c == 0)
            continue;
        ASSERT_OK(change_vector_push(changes, &change));
    }
}

struct check {
    struct change_vector expected;
    size_t at;
};

static void assert_key_equal(const struct entry *a, const struct entry *b)
{
    ASSERT_EQ(!a, !b);
    if (a)
        ASSERT_EQ(key_compare(a->key, a->key_len, b->key, b->key_len), 0);
}

static int check_change(enum catalog_change change, const struct entry *old_entry,
                        const struct entry *new_entry, void *userdata)
{
    struct check *check = userdata;

    ASSERT_LT(check->at, check->expected.count);
    const struct change *expected = &check->expected.items[check->at++];
    ASSERT_EQ(change, expected->change);
    assert_key_equal(old_entry, expected->old_entry);
    assert_key_equal(new_entry, expected->new_entry);
    if (new_entry) {
        ASSERT_EQ(new_entry->size, expected->new_entry->size);
        ASSERT_TRUE(time_equal(&new_entry->mtime, &expected->new_entry->mtime));
    }
    return 0;
}

static size_t diff(struct fixture *f)
{
    struct check check = {0};

    catalog_root_release(&f->new_root);
    test_build(&f->s, &f->new_tree, &f->new_root);
    expect_changes(f, &check.expected);
    test_store_reset_counts(&f->s);
    ASSERT_OK(catalog_diff(&f->s.store, &f->old_root, &f->new_root, check_change, &check));
    ASSERT_EQ(check.at, check.expected.count);
    change_vector_release(&check.expected);
    return check.at;
}

static void remove_entry(struct entry_vector *tree, size_t i)
{
    entry_release(&tree->items[i]);
    tree->count--;
    memmove(&tree->items[i], &tree->items[i + 1], (tree->count - i) * sizeof(*tree->items));
}

/* One change of any kind to the new tree. */
static void change_something(struct fixture *f, uint64_t *seed)
{
    size_t i = test_random(seed) % f->new_tree.count;
    struct entry *e = &f->new_tree.items[i];
    char name[40];

    switch (test_random(seed) % 9) {
    case 0: remove_entry(&f->new_tree, i); return;
    case 1: e->mtime.nsec ^= 1; return;
    case 2: e->atime.nsec ^= 1; return; /* no change */
    case 3: e->inode++; return;         /* no change */
    case 4: e->mode ^= 1; return;
    case 5:
        if (e->extents.count > 0)
            e->extents.items[0].chunk.id.bytes[0] ^= 1; /* of a hole that changes nothing */
        return;
    case 6:
        if (e->type == ENTRY_FIFO || e->type == ENTRY_SOCKET || e->type == ENTRY_DIRECTORY)
            e->type = e->type == ENTRY_FIFO ? ENTRY_SOCKET : ENTRY_FIFO;
        return;
    case 7:
        if (e->type == ENTRY_CHAR)
            e->rdev_minor++;
        return;
    default: break;
    }
    snprintf(name, sizeof(name), "%c-%" PRIu64, (char)('a' + test_random(seed) % 26),
             test_random(seed));
    struct entry added = test_file(&f->s, seed, name, 1);
    ASSERT_OK(entry_vector_push(&f->new_tree, &added));
    test_sort(&f->new_tree);
}

TEST(diff_of_any_trees)
{
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct fixture f;
        uint64_t dice = seed;
        fixture_init(&f, seed, 1 + test_random(&dice) % 4000);
        for (int round = 0; round < 5; round++) {
            for (size_t i = test_random(&dice) % 30; i > 0 && f.new_tree.count > 0; i--)
                change_something(&f, &dice);
            diff(&f);
        }
        fixture_release(&f);
    }
}

TEST(diff_of_trees_without_anything_in_common)
{
    struct fixture f;

    fixture_init(&f, 1, 3000);
    test_tree_release(&f.new_tree);
    f.new_tree = (struct entry_vector){0};
    ASSERT_EQ(diff(&f), f.old_tree.count); /* all removed */
    test_tree(&f.s, 2, 5000, &f.new_tree);
    ASSERT_GT(diff(&f), 7500);
    test_tree_release(&f.old_tree);
    f.old_tree = (struct entry_vector){0};
    catalog_root_release(&f.old_root);
    test_build(&f.s, &f.old_tree, &f.old_root);
    ASSERT_EQ(diff(&f), f.new_tree.count); /* all added */
    fixture_release(&f);
}

TEST(diff_reads_only_what_differs)
{
    struct fixture f;

    fixture_init(&f, 3, 50000);
    ASSERT_EQ(diff(&f), 0);
    ASSERT_EQ(f.s.get_count, 0);
    f.new_tree.items[20000].mode ^= 1;
    ASSERT_EQ(diff(&f), 1);
    ASSERT_EQ(f.s.get_count, 2);
    remove_entry(&f.new_tree, 40000);
    remove_entry(&f.new_tree, 10);
    ASSERT_EQ(diff(&f), 3);
    ASSERT_LE(f.s.get_count, 10);
    fixture_release(&f);
}

static int stop_at_first(enum catalog_change change, const struct entry *old_entry,
                         const struct entry *new_entry, void *userdata)
{
    size_t *count = userdata;

    (void)change, (void)old_entry, (void)new_entry;
    ++*count;
    return -UMBRA_E_CANCELLED;
}

TEST(diff_ends_when_told)
{
    struct fixture f;
    size_t count = 0;

    fixture_init(&f, 4, 500);
    ASSERT_ERR(catalog_diff(&f.s.store, &f.old_root, &f.new_root, stop_at_first, &count),
               -UMBRA_E_CANCELLED);
    ASSERT_EQ(count, 1);
    fixture_release(&f);
}

/* Levels of inner pages on both sides, and on one side only. */
static void build_long_paths(struct test_store *s, size_t dir_count, size_t changed,
                             struct catalog_root *root)
{
    CLEANUP(catalog_builder_freep) struct catalog_builder *b = NULL;
    static char path[62000];

    ASSERT_OK(catalog_builder_new(&s->store, &b));
    for (size_t i = 0; i < dir_count; i++) {
        uint64_t seed = i;
        memset(path, 'x', sizeof(path));
        for (size_t k = 999; k < sizeof(path) - 20; k += 1000)
            path[k] = '/';
        for (size_t k = 0; k < 4; k++)
            path[k] = (char)('a' + (i >> (4 * (3 - k)) & 15));
        path[sizeof(path) - 10] = '\0';
        struct entry e = test_file(s, &seed, path, 1);
        e.mode = i == changed ? 0600 : 0644;
        ASSERT_OK(catalog_builder_add(b, &e));
        entry_release(&e);
    }
    ASSERT_OK(catalog_builder_finish(b, root));
}

static int count_change(enum catalog_change change, const struct entry *old_entry,
                        const struct entry *new_entry, void *userdata)
{
    size_t *counts = userdata;

    (void)old_entry, (void)new_entry;
    counts[change]++;
    return 0;
}

TEST(diff_of_deep_trees)
{
    struct fixture f = {0};
    size_t counts[5] = {0};

    test_store_init(&f.s);
    build_long_paths(&f.s, 600, SIZE_MAX, &f.old_root);
    ASSERT_EQ(f.old_root.level, 2);
    build_long_paths(&f.s, 600, 300, &f.new_root);
    test_store_reset_counts(&f.s);
    ASSERT_OK(catalog_diff(&f.s.store, &f.old_root, &f.new_root, count_change, counts));
    ASSERT_EQ(counts[CATALOG_METADATA], 1);
    ASSERT_EQ(f.s.get_count, 6); /* three levels on both sides */

    catalog_root_release(&f.new_root);
    build_long_paths(&f.s, 30, SIZE_MAX, &f.new_root);
    ASSERT_EQ(f.new_root.level, 0);
    memset(counts, 0, sizeof(counts));
    ASSERT_OK(catalog_diff(&f.s.store, &f.old_root, &f.new_root, count_change, counts));
    ASSERT_EQ(counts[CATALOG_REMOVED], 570);
    ASSERT_OK(catalog_diff(&f.s.store, &f.new_root, &f.old_root, count_change, counts));
    ASSERT_EQ(counts[CATALOG_ADDED], 570);
    ASSERT_EQ(counts[CATALOG_METADATA] + counts[CATALOG_MODIFIED], 0);
    fixture_release(&f);
}

/* ---- big files ---- */

static void big_fixture(struct fixture *f, size_t extent_count)
{
    uint64_t seed = 5;
    struct entry e;

    *f = (struct fixture){0};
    test_store_init(&f->s);
    test_tree(&f->s, 5, 50, &f->old_tree);
    e = test_file(&f->s, &seed, "big", extent_count);
    ASSERT_OK(entry_vector_push(&f->old_tree, &e));
    test_sort(&f->old_tree);
    copy_tree(&f->old_tree, &f->new_tree);
    test_build(&f->s, &f->old_tree, &f->old_root);
}

static struct entry *big_file(struct fixture *f)
{
    for (size_t i = 0; i < f->new_tree.count; i++)
        if (f->new_tree.items[i].extents.count > CATALOG_INLINE_EXTENTS_MAX)
            return &f->new_tree.items[i];
    test_fail(__FILE__, __LINE__, "no big file");
}

TEST(diff_sees_through_hints_of_big_files)
{
    struct fixture f;

    big_fixture(&f, 400000); /* two levels of content pages */
    struct entry *big = big_file(&f);
    big->extents.items[300000].chunk.location.frame_offset++;
    ASSERT_EQ(diff(&f), 0);
    ASSERT_LE(f.s.get_count, 8); /* leaf, upper page, page of extents on both sides */
    big->mode ^= 1;
    ASSERT_EQ(diff(&f), 1); /* the model says METADATA */
    big->extents.items[300001].kind = EXTENT_DATA;
    big->extents.items[300001].chunk.id.bytes[9] ^= 1;
    big->extents.items[300001].len = big->extents.items[300001].chunk.len = 77;
    big->size = 0;
    for (size_t i = 0; i < big->extents.count; i++)
        big->size += big->extents.items[i].len;
    ASSERT_EQ(diff(&f), 1); /* MODIFIED, by the size */
    fixture_release(&f);
}

TEST(diff_sees_a_changed_chunk_of_a_big_file)
{
    struct fixture f;

    big_fixture(&f, 100000);
    struct entry *big = big_file(&f);
    size_t i = 60000;
    while (big->extents.items[i].kind != EXTENT_DATA)
        i++;
    big->extents.items[i].chunk.id.bytes[20] ^= 1;
    ASSERT_EQ(diff(&f), 1); /* the model says MODIFIED */
    ASSERT_LE(f.s.get_count, 4);
    big->extents.items[i].chunk.id.bytes[20] ^= 1;
    big->size -= big->extents.items[big->extents.count - 1].len;
    big->extents.count = CATALOG_INLINE_EXTENTS_MAX; /* from content pages to none */
    big->size = 0;
    for (i = 0; i < big->extents.count; i++)
        big->size += big->extents.items[i].len;
    ASSERT_EQ(diff(&f), 1);
    fixture_release(&f);
}

/* ---- visiting pages ---- */

struct visits {
    struct fixture *f;
    size_t entered, visited, entries, extents, content_pages, errors;
    uint32_t level_before;
    bool leave_out_content;
    const struct chunk_id *leave_out;
    bool *seen;
};

static int enter_page(const struct chunk_ref *page, void *userdata)
{
    struct visits *v = userdata;
    struct test_page *found = test_store_page(&v->f->s, &page->id);
    size_t i = (size_t)(found - v->f->s.pages.items);

    if (v->leave_out && chunk_id_equal(&page->id, v->leave_out))
        return 1;
    if (v->seen[i])
        return 1;
    v->seen[i] = true;
    v->entered++;
    return 0;
}

static int visit_page(const struct catalog_visit *visit, void *userdata)
{
    struct visits *v = userdata;

    v->visited++;
    v->errors += visit->error < 0;
    v->content_pages += visit->is_content;
    v->entries += visit->entry_count;
    v->extents += visit->extent_count;
    ASSERT_TRUE(visit->error < 0 || visit->level > 0 ||
                (visit->is_content ? visit->extents : (const void *)visit->entries) != NULL);
    return 0;
}

static struct visits walk(struct fixture *f, const struct chunk_id *leave_out)
{
    struct visits v = {.f = f, .leave_out = leave_out};

    v.seen = calloc(f->s.pages.count, sizeof(*v.seen));
    ASSERT_TRUE(v.seen);
    ASSERT_OK(catalog_walk_pages(&f->s.store, &f->old_root, enter_page, visit_page, &v));
    ASSERT_EQ(v.entered, v.visited);
    free(v.seen);
    return v;
}

TEST(walk_visits_every_page_once)
{
    struct fixture f;

    big_fixture(&f, 400000);
    struct visits v = walk(&f, NULL);
    ASSERT_EQ(v.visited, f.s.pages.count);
    ASSERT_EQ(v.errors, 0);
    ASSERT_EQ(v.entries, f.old_tree.count);
    ASSERT_EQ(v.extents, 400000);
    ASSERT_EQ(v.content_pages, f.s.pages.count - f.old_root.children.count);

    v = walk(&f, &f.old_root.children.items[0].page.id); /* and with it all below */
    ASSERT_EQ(v.visited, f.old_root.children.count - 1);
    fixture_release(&f);
}

TEST(walk_goes_on_past_damaged_pages)
{
    struct fixture f;

    big_fixture(&f, 5000);
    size_t page_count = f.s.pages.count;
    for (size_t i = 0; i < page_count; i++) {
        struct test_page *page = &f.s.pages.items[i];
        bool is_leaf = page->data[5] == CATALOG_PAGE_LEAF;
        page->data[0] ^= 1;
        struct visits v = walk(&f, NULL);
        page->data[0] ^= 1;
        ASSERT_EQ(v.errors, 1);
        ASSERT_EQ(v.content_pages, is_leaf && v.extents == 0 ? 0 : page_count - 1);
    }
    fixture_release(&f);
}

static int stop_visit(const struct catalog_visit *visit, void *userdata)
{
    (void)visit, (void)userdata;
    return -UMBRA_E_CANCELLED;
}

TEST(walk_ends_when_told)
{
    struct fixture f;
    struct visits v = {.f = &f};

    fixture_init(&f, 6, 5000);
    v.seen = calloc(f.s.pages.count, sizeof(*v.seen));
    ASSERT_TRUE(v.seen);
    ASSERT_ERR(catalog_walk_pages(&f.s.store, &f.old_root, enter_page, stop_visit, &v),
               -UMBRA_E_CANCELLED);
    ASSERT_EQ(v.entered, 1);
    free(v.seen);
    fixture_release(&f);
}

/* ---- pages that are not what their reference says ---- */

static void swap_pages(struct test_page *a, struct test_page *b)
{
    uint8_t *data = a->data;
    uint32_t len = a->ref.len;

    a->data = b->data;
    a->ref.len = b->ref.len;
    b->data = data;
    b->ref.len = len;
}

static int read_all(struct fixture *f)
{
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = NULL;
    struct entry *e;
    int r;

    ASSERT_OK(catalog_cursor_new(&f->s.store, &f->old_root, &cursor));
    do {
        r = catalog_cursor_next(cursor, &e);
        if (r == 0 && e)
            r = catalog_load_extents(&f->s.store, e);
    } while (r == 0 && e);
    return r;
}

TEST(misplaced_pages_are_refused)
{
    struct fixture f;

    big_fixture(&f, 400000);
    ASSERT_OK(read_all(&f));
    size_t step = f.s.pages.count / 20;
    for (size_t i = 1; i < f.s.pages.count; i += step) { /* in the place of the one before it */
        struct test_page *a = &f.s.pages.items[i - 1], *b = &f.s.pages.items[i];
        swap_pages(a, b);
        ASSERT_ERR(read_all(&f), -UMBRA_E_CORRUPT);
        swap_pages(a, b);
    }
    fixture_release(&f);

    fixture_init(&f, 7, 4000);
    for (size_t i = 1; i < f.s.pages.count; i++) {
        struct test_page *a = &f.s.pages.items[i - 1], *b = &f.s.pages.items[i];
        swap_pages(a, b);
        ASSERT_ERR(read_all(&f), -UMBRA_E_CORRUPT);
        swap_pages(a, b);
    }
    ASSERT_OK(read_all(&f));
    f.s.fail_get = -EIO;
    ASSERT_ERR(read_all(&f), -EIO);
    fixture_release(&f);
}

/* A page whose last keys belong into the next one. */
TEST(overlapping_pages_are_refused)
{
    struct fixture f;

    fixture_init(&f, 8, 3000);
    ASSERT_GT(f.old_root.children.count, 2);
    struct catalog_child *second = &f.old_root.children.items[1];
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = NULL;
    struct entry *e;
    size_t count = 0;
    ASSERT_OK(catalog_cursor_new(&f.s.store, &f.old_root, &cursor));
    ASSERT_OK(catalog_cursor_seek(cursor, second->first_key, second->first_key_len));
    uint8_t *key = second->first_key;
    uint32_t key_len = second->first_key_len;
    second->first_key = f.old_tree.items[2].key; /* the root now says: the first page ends here */
    second->first_key_len = f.old_tree.items[2].key_len;
    ASSERT_OK(catalog_cursor_seek(cursor, (const uint8_t *)"", 0));
    ASSERT_ERR(catalog_cursor_next(cursor, &e), -UMBRA_E_CORRUPT);
    second->first_key = key;
    second->first_key_len = key_len;
    ASSERT_OK(catalog_cursor_seek(cursor, (const uint8_t *)"", 0));
    do {
        ASSERT_OK(catalog_cursor_next(cursor, &e));
        count += !!e;
    } while (e);
    ASSERT_EQ(count, f.old_tree.count);
    fixture_release(&f);
}

TEST_MAIN()
