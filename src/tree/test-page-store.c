/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/test-page-store.h"

#include <stdlib.h>

/* ---- the store ---- */

static struct chunk_id id_of(const void *data, size_t len)
{
    struct chunk_id id;

    for (uint32_t i = 0; i < 4; i++) {
        uint64_t h = catalog_key_hash(data, len, i);
        memcpy(id.bytes + i * 8, &h, 8);
    }
    return id;
}

static uint32_t *slot_of(struct test_store *s, const struct chunk_id *id)
{
    uint64_t h;

    memcpy(&h, id->bytes, sizeof(h));
    size_t i = (size_t)h & (s->slot_count - 1);
    while (s->slots[i] != 0 && !chunk_id_equal(&s->pages.items[s->slots[i] - 1].ref.id, id))
        i = (i + 1) & (s->slot_count - 1);
    return &s->slots[i];
}

struct test_page *test_store_page(struct test_store *s, const struct chunk_id *id)
{
    uint32_t found = *slot_of(s, id);

    return found != 0 ? &s->pages.items[found - 1] : NULL;
}

static void grow(struct test_store *s)
{
    free(s->slots);
    s->slot_count *= 2;
    s->slots = calloc(s->slot_count, sizeof(*s->slots));
    ASSERT_TRUE(s->slots);
    for (uint32_t i = 0; i < s->pages.count; i++)
        *slot_of(s, &s->pages.items[i].ref.id) = i + 1;
}

static int put_page(void *userdata, const void *page, size_t len, struct chunk_ref *ret_ref)
{
    struct test_store *s = userdata;
    struct chunk_id id = id_of(page, len);
    struct test_page *found = test_store_page(s, &id);

    ASSERT_LE(len, CATALOG_PAGE_LEN_MAX);
    s->put_count++;
    if (!found) {
        struct test_page add = {
            .ref = {.id = id, .len = (uint32_t)len, .location.pack_no = PACK_NO_NONE},
            .data = malloc(len)};
        ASSERT_TRUE(add.data);
        memcpy(add.data, page, len);
        ASSERT_OK(test_page_vector_push(&s->pages, &add));
        if (s->pages.count * 2 > s->slot_count)
            grow(s);
        else
            *slot_of(s, &id) = (uint32_t)s->pages.count;
        found = &s->pages.items[s->pages.count - 1];
        s->new_count++;
    }
    *ret_ref = found->ref;
    return 0;
}

static int locate(void *userdata, struct chunk_ref **refs, size_t n)
{
    struct test_store *s = userdata;
    struct pack_name name;
    uint32_t pack_no = 0;

    s->locate_count++;
    if (s->located_count < s->pages.count) {
        memcpy(name.bytes, s->pages.items[s->located_count].ref.id.bytes, PACK_NAME_LEN);
        ASSERT_OK(pack_table_intern(s->store.names, &name, &pack_no));
    }
    for (uint32_t offset = 64; s->located_count < s->pages.count; s->located_count++) {
        struct chunk_ref *ref = &s->pages.items[s->located_count].ref;
        ref->location = (struct chunk_location){
            .pack_no = pack_no, .frame_offset = offset, .frame_len = ref->len / 2};
        offset += ref->len / 2;
    }
    for (size_t i = 0; i < n; i++) {
        ASSERT_EQ(refs[i]->location.pack_no, PACK_NO_NONE);
        *refs[i] = test_store_page(s, &refs[i]->id)->ref;
    }
    return 0;
}

static int get_page(void *userdata, const struct chunk_ref *ref, void **ret_page, size_t *ret_len)
{
    struct test_store *s = userdata;
    struct test_page *page = test_store_page(s, &ref->id);

    s->get_count++;
    if (s->fail_get < 0)
        return s->fail_get;
    if (!page)
        return error_note(-UMBRA_E_NO_CHUNK, "no such page");
    /* of exactly that length, so that the sanitizer sees each byte read behind it */
    void *copy = malloc(page->ref.len);
    ASSERT_TRUE(copy);
    memcpy(copy, page->data, page->ref.len);
    *ret_page = copy;
    *ret_len = page->ref.len;
    return 0;
}

void test_store_init(struct test_store *s)
{
    *s = (struct test_store){
        .store = {.put_page = put_page, .locate = locate, .get_page = get_page, .userdata = s},
        .slot_count = 64};
    s->slots = calloc(s->slot_count, sizeof(*s->slots));
    ASSERT_TRUE(s->slots);
    ASSERT_OK(pack_table_new(&s->store.names));
}

void test_store_release(struct test_store *s)
{
    for (size_t i = 0; i < s->pages.count; i++)
        free(s->pages.items[i].data);
    test_page_vector_release(&s->pages);
    free(s->slots);
    pack_table_free(s->store.names);
}

void test_store_reset_counts(struct test_store *s)
{
    s->put_count = s->new_count = s->get_count = s->locate_count = 0;
}

/* ---- entries ---- */

struct extent test_extent(struct test_store *s, uint64_t *seed)
{
    struct extent e = {.kind = EXTENT_DATA, .len = 1 + test_random(seed) % (8u << 20)};
    uint64_t pack = test_random(seed) % 8;
    struct pack_name name;

    e.chunk.len = (uint32_t)e.len;
    test_random_fill(seed, e.chunk.id.bytes, CHUNK_ID_LEN);
    test_random_fill(&pack, name.bytes, PACK_NAME_LEN);
    ASSERT_OK(pack_table_intern(s->store.names, &name, &e.chunk.location.pack_no));
    e.chunk.location.frame_offset = (uint32_t)test_random(seed) >> 8;
    e.chunk.location.frame_len = (uint32_t)e.len / 2 + 1;
    e.chunk.location.chunk_offset = (uint32_t)test_random(seed) % 3 * 4096;
    return e;
}

static struct entry_time random_time(uint64_t *seed)
{
    switch (test_random(seed) % 16) {
    case 0: return (struct entry_time){.sec = INT64_MIN, .nsec = 999999999};
    case 1: return (struct entry_time){.sec = INT64_MAX};
    case 2: return (struct entry_time){0};
    default:
        return (struct entry_time){.sec = 1700000000 + (int64_t)(test_random(seed) % 100000000),
                                   .nsec = (uint32_t)(test_random(seed) % 1000000000)};
    }
}

static void add_xattrs(struct entry *e, uint64_t *seed)
{
    size_t count = 1 + test_random(seed) % 3;

    for (size_t i = 0; i < count; i++) {
        struct xattr x = {.value_len = (uint32_t)(test_random(seed) % 100)};
        ASSERT_TRUE(asprintf(&x.name, "user.%zu", i) > 0);
        x.value = malloc(x.value_len + 1);
        ASSERT_TRUE(x.value);
        test_random_fill(seed, x.value, x.value_len);
        ASSERT_OK(xattr_vector_push(&e->xattrs, &x));
    }
}

static struct entry plain_entry(const char *path, enum entry_type type)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    struct entry e = {.type = type, .mode = 0644, .nlink = 1};

    key_put_path(&key, path, strlen(path));
    ASSERT_OK(buffer_finish(&key));
    e.key = malloc(key.len + 1);
    ASSERT_TRUE(e.key);
    if (key.len > 0)
        memcpy(e.key, key.data, key.len);
    e.key_len = (uint32_t)key.len;
    return e;
}

static void add_extents(struct test_store *s, uint64_t *seed, struct entry *e, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct extent extent = test_extent(s, seed);
        if (test_random(seed) % 16 == 0)
            extent = (struct extent){.kind = test_random(seed) % 2 ? EXTENT_HOLE : EXTENT_ZERO,
                                     .len = 1 + test_random(seed) % (UINT64_C(1) << 40),
                                     .chunk.location.pack_no = PACK_NO_NONE};
        ASSERT_OK(extent_vector_push(&e->extents, &extent));
        e->size += extent.len;
    }
}

struct entry test_file(struct test_store *s, uint64_t *seed, const char *path, size_t extent_count)
{
    struct entry e = plain_entry(path, ENTRY_REGULAR);

    e.inode = test_random(seed);
    e.mtime = e.ctime = e.atime = random_time(seed);
    add_extents(s, seed, &e, extent_count);
    return e;
}

struct entry test_entry(struct test_store *s, uint64_t *seed, const char *path,
                        enum entry_type type)
{
    struct entry e = plain_entry(path, type);
    uint64_t dice = test_random(seed);

    e.mode = (uint32_t)(dice % 4 ? 0644 : dice >> 8 & 07777);
    e.uid = dice & 0x10 ? 0 : (uint32_t)(dice >> 40);
    e.gid = dice & 0x20 ? 0 : (uint32_t)(dice >> 32);
    e.nlink = dice & 0xc0 ? 1 : (uint32_t)(dice >> 50);
    e.fs_index = (dice >> 9 & 7) == 0;
    e.flags = dice & 0x1000 ? 0x80000 : 0;
    e.project_id = (dice >> 13 & 15) == 0 ? 7 : 0;
    e.remarks = (dice >> 17 & 15) == 0 ? 5 : 0;
    e.inode = test_random(seed) % 1000000;
    e.mtime = random_time(seed);
    e.ctime = dice & 0x100000 ? e.mtime : random_time(seed);
    e.atime = dice & 0x200000 ? e.mtime : random_time(seed);
    if (dice & 0x400000)
        e.btime = random_time(seed);
    if ((dice >> 23 & 7) == 0)
        add_xattrs(&e, seed);
    if (type == ENTRY_REGULAR)
        add_extents(s, seed, &e, test_random(seed) % 4);
    if (type == ENTRY_SYMLINK) {
        ASSERT_TRUE(asprintf(&e.symlink, "../%" PRIu64, test_random(seed)) > 0);
        e.size = strlen(e.symlink);
    }
    if (type == ENTRY_CHAR || type == ENTRY_BLOCK) {
        e.rdev_major = (uint32_t)(test_random(seed) % 300);
        e.rdev_minor = (uint32_t)(test_random(seed) % 300);
    }
    return e;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return key_compare(x->key, x->key_len, y->key, y->key_len);
}

void test_sort(struct entry_vector *tree)
{
    qsort(tree->items, tree->count, sizeof(*tree->items), compare_entries);
}

static void random_name(uint64_t *seed, char name[24])
{
    static const char letters[] = "abcdefghijklm-._ \x01\xff";
    size_t len = 1 + test_random(seed) % 16;

    name[0] = (char)('a' + test_random(seed) % 26);
    for (size_t i = 1; i < len; i++)
        name[i] = letters[test_random(seed) % (sizeof(letters) - 1)];
    name[len] = '\0';
}

void test_tree(struct test_store *s, uint64_t seed, size_t count, struct entry_vector *tree)
{
    char **dirs = calloc(count + 1, sizeof(*dirs));
    size_t dir_count = 1, kept = 1;
    struct entry e = test_entry(s, &seed, "", ENTRY_DIRECTORY);
    char name[24];

    ASSERT_TRUE(dirs);
    dirs[0] = strdup("");
    ASSERT_OK(entry_vector_push(tree, &e));
    for (size_t i = 1; i < count; i++) {
        const char *dir = dirs[test_random(&seed) % dir_count];
        char *path;
        random_name(&seed, name);
        ASSERT_TRUE(asprintf(&path, "%s%s%s", dir, *dir ? "/" : "", name) > 0);
        uint64_t dice = test_random(&seed) % 64;
        enum entry_type type = dice < 7    ? (enum entry_type)(1 + dice)
                               : dice < 16 ? ENTRY_DIRECTORY
                                           : ENTRY_REGULAR;
        e = test_entry(s, &seed, path, type);
        ASSERT_OK(entry_vector_push(tree, &e));
        if (type == ENTRY_DIRECTORY)
            dirs[dir_count++] = path;
        else
            free(path);
    }
    while (dir_count > 0)
        free(dirs[--dir_count]);
    free(dirs);

    test_sort(tree);
    for (size_t i = 1; i < tree->count; i++) { /* names may have come twice */
        if (compare_entries(&tree->items[kept - 1], &tree->items[i]) == 0)
            entry_release(&tree->items[i]);
        else
            tree->items[kept++] = tree->items[i];
    }
    tree->count = kept;
}

void test_tree_release(struct entry_vector *tree)
{
    for (size_t i = 0; i < tree->count; i++)
        entry_release(&tree->items[i]);
    entry_vector_release(tree);
}

void test_build(struct test_store *s, const struct entry_vector *tree, struct catalog_root *root)
{
    CLEANUP(catalog_builder_freep) struct catalog_builder *b = NULL;

    ASSERT_OK(catalog_builder_new(&s->store, &b));
    for (size_t i = 0; i < tree->count; i++)
        ASSERT_OK(catalog_builder_add(b, &tree->items[i]));
    ASSERT_OK(catalog_builder_finish(b, root));
}

/* ---- comparing ---- */

static void assert_extents_equal(const struct extent_vector *a, const struct extent_vector *b)
{
    ASSERT_EQ(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct extent *x = &a->items[i], *y = &b->items[i];
        ASSERT_EQ(x->kind, y->kind);
        ASSERT_EQ(x->len, y->len);
        if (x->kind != EXTENT_DATA)
            continue;
        ASSERT_TRUE(chunk_id_equal(&x->chunk.id, &y->chunk.id));
        ASSERT_EQ(x->chunk.len, y->chunk.len);
        ASSERT_MEMEQ(&x->chunk.location, &y->chunk.location, sizeof(x->chunk.location));
    }
}

void test_assert_equal(const struct entry *a, const struct entry *b)
{
    ASSERT_EQ(key_compare(a->key, a->key_len, b->key, b->key_len), 0);
    ASSERT_TRUE(entry_same(a, b));
    ASSERT_EQ(a->size, b->size);
    ASSERT_EQ(a->remarks, b->remarks);
    ASSERT_EQ(a->atime.sec, b->atime.sec);
    ASSERT_EQ(a->atime.nsec, b->atime.nsec);
    assert_extents_equal(&a->extents, &b->extents);
    assert_extents_equal(&a->content_refs, &b->content_refs);
}

void test_assert_roots_equal(const struct catalog_root *a, const struct catalog_root *b)
{
    ASSERT_EQ(a->level, b->level);
    ASSERT_EQ(a->entry_count, b->entry_count);
    ASSERT_EQ(a->children.count, b->children.count);
    for (size_t i = 0; i < a->children.count; i++) {
        const struct catalog_child *x = &a->children.items[i], *y = &b->children.items[i];
        ASSERT_EQ(key_compare(x->first_key, x->first_key_len, y->first_key, y->first_key_len), 0);
        ASSERT_TRUE(chunk_id_equal(&x->page.id, &y->page.id));
        ASSERT_EQ(x->page.len, y->page.len);
    }
}

void test_reencode(const struct catalog_page *page, const struct pack_table *names,
                   struct buffer *b)
{
    CLEANUP(page_encoder_release) struct page_encoder enc = {0};

    for (uint32_t i = 0; i < page->count; i++) {
        if (page->entries) {
            const struct entry *e = &page->entries[i];
            struct catalog_contents contents = {.extents = e->extents.items,
                                                .extent_count = e->extents.count,
                                                .refs = e->content_refs.items,
                                                .ref_count = e->content_refs.count,
                                                .ref_level = e->content_level};
            page_encoder_put_entry(&enc, e, &contents);
        } else if (page->children) {
            page_encoder_put_child(&enc, &page->children[i]);
        } else if (page->level == 0) {
            page_encoder_put_extent(&enc, &page->extents[i]);
        } else {
            page_encoder_put_reference(&enc, &page->extents[i]);
        }
    }
    ASSERT_OK(page_encoder_finish(&enc, page->kind, page->level, names, b));
}
