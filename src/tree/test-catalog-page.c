/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages, the root and runs as bytes: there is one encoding, and whatever else is refused. */
#include <stdlib.h>

#include "tree/test-page-store.h"

/* One page of each form, of some kilobytes. */
enum form { LEAF, LEAF_WITH_CONTENT, INNER, CONTENT, CONTENT_UPPER, RUN, FORM_COUNT };

struct fixture {
    struct test_store s;
    struct entry_vector tree;
    struct buffer page;
};

static void put_tree(struct fixture *f, struct page_encoder *enc)
{
    for (size_t i = 0; i < f->tree.count; i++) {
        const struct entry *e = &f->tree.items[i];
        struct catalog_contents contents = {.extents = e->extents.items,
                                            .extent_count = e->extents.count,
                                            .refs = e->content_refs.items,
                                            .ref_count = e->content_refs.count,
                                            .ref_level = e->content_level};
        page_encoder_put_entry(enc, e, &contents);
    }
}

/* References in the place of extents, as if each covered a page. */
static void unload(struct entry *e, uint32_t level)
{
    for (size_t i = 0; i < e->extents.count; i++) {
        e->extents.items[i].kind = EXTENT_DATA;
        e->extents.items[i].chunk.len = 1000;
    }
    e->content_refs = e->extents;
    e->extents = (struct extent_vector){0};
    e->content_level = level;
}

static void put_children(struct fixture *f, struct page_encoder *enc, uint64_t *seed)
{
    for (size_t i = 0; i < f->tree.count; i++) {
        struct catalog_child child = {.first_key = f->tree.items[i].key,
                                      .first_key_len = f->tree.items[i].key_len,
                                      .page = test_extent(&f->s, seed).chunk};
        child.page.len = 1 + (uint32_t)(test_random(seed) % CATALOG_PAGE_LEN_MAX);
        if (i % 7 == 0)
            child.page.location = (struct chunk_location){.pack_no = PACK_NO_NONE};
        page_encoder_put_child(enc, &child);
    }
}

static void put_extents(struct fixture *f, struct page_encoder *enc, uint64_t *seed, size_t count,
                        bool is_upper)
{
    struct entry e = test_file(&f->s, seed, "f", count);

    if (is_upper)
        unload(&e, 0);
    for (size_t i = 0; i < e.extents.count; i++)
        page_encoder_put_extent(enc, &e.extents.items[i]);
    for (size_t i = 0; i < e.content_refs.count; i++)
        page_encoder_put_reference(enc, &e.content_refs.items[i]);
    entry_release(&e);
}

static void fixture_init_sized(struct fixture *f, enum form form, uint64_t seed, size_t count)
{
    static const enum catalog_page_kind kinds[] = {CATALOG_PAGE_LEAF,    CATALOG_PAGE_LEAF,
                                                   CATALOG_PAGE_INNER,   CATALOG_PAGE_CONTENT,
                                                   CATALOG_PAGE_CONTENT, CATALOG_PAGE_RUN};
    CLEANUP(page_encoder_release) struct page_encoder enc = {0};
    uint32_t level = form == INNER || form == CONTENT_UPPER;

    *f = (struct fixture){0};
    test_store_init(&f->s);
    test_tree(&f->s, seed, count, &f->tree);
    for (size_t i = 0; form == LEAF_WITH_CONTENT && i < f->tree.count; i++)
        if (f->tree.items[i].extents.count > 0 && i % 2)
            unload(&f->tree.items[i], i % 4);
    if (form == INNER)
        put_children(f, &enc, &seed);
    else if (form == CONTENT || form == CONTENT_UPPER)
        put_extents(f, &enc, &seed, count, form == CONTENT_UPPER);
    else
        put_tree(f, &enc);
    ASSERT_OK(page_encoder_finish(&enc, kinds[form], level, f->s.store.names, &f->page));
}

static void fixture_init(struct fixture *f, enum form form, uint64_t seed)
{
    fixture_init_sized(f, form, seed, 30);
}

static void fixture_release(struct fixture *f)
{
    buffer_release(&f->page);
    test_tree_release(&f->tree);
    test_store_release(&f->s);
}

/* Decodes a copy of exactly that length, so that the sanitizer sees each byte read behind it. */
static int decode(struct fixture *f, struct catalog_page *page, const void *data, size_t len)
{
    CLEANUP_FREE void *copy = malloc(len > 0 ? len : 1);

    ASSERT_TRUE(copy);
    memcpy(copy, data, len);
    return catalog_page_decode(page, copy, len, f->s.store.names);
}

TEST(page_round_trip)
{
    for (enum form form = LEAF; form < FORM_COUNT; form++)
        for (uint64_t seed = 1; seed < 20; seed++) {
            struct fixture f;
            CLEANUP(catalog_page_release) struct catalog_page page = {0};
            CLEANUP(buffer_release) struct buffer again = {0};
            fixture_init(&f, form, seed);
            ASSERT_OK(decode(&f, &page, f.page.data, f.page.len));
            ASSERT_EQ(page.level, form == INNER || form == CONTENT_UPPER);
            for (uint32_t i = 0; page.entries && i < page.count; i++)
                test_assert_equal(&f.tree.items[i], &page.entries[i]);
            test_reencode(&page, f.s.store.names, &again);
            ASSERT_EQ(again.len, f.page.len);
            ASSERT_MEMEQ(again.data, f.page.data, again.len);
            fixture_release(&f);
        }
}

TEST(truncated_pages_are_refused)
{
    for (enum form form = LEAF; form < FORM_COUNT; form++) {
        struct fixture f;
        CLEANUP(catalog_page_release) struct catalog_page page = {0};
        fixture_init(&f, form, 3);
        for (size_t len = 0; len < f.page.len; len++) {
            ASSERT_ERR(decode(&f, &page, f.page.data, len), -UMBRA_E_CORRUPT);
            ASSERT_TRUE(page.count == 0 && !page.entries && !page.children && !page.extents);
        }
        buffer_put_u8(&f.page, 0);
        ASSERT_ERR(decode(&f, &page, f.page.data, f.page.len), -UMBRA_E_CORRUPT);
        ASSERT_TRUE(strstr(error_text(-UMBRA_E_CORRUPT), "left over"));
        fixture_release(&f);
    }
}

/* What a damaged page decodes to, if it does, is encoded to the damaged page: nothing is read over.
 */
static void try_damaged(struct fixture *f, struct catalog_page *page, struct buffer *again)
{
    int r = decode(f, page, f->page.data, f->page.len);

    if (r < 0) {
        ASSERT_TRUE(r == -UMBRA_E_CORRUPT || r == -UMBRA_E_VERSION);
        ASSERT_TRUE(strncmp(error_text(r), "catalog page", 12) == 0);
        return;
    }
    test_reencode(page, f->s.store.names, again);
    ASSERT_EQ(again->len, f->page.len);
    ASSERT_MEMEQ(again->data, f->page.data, again->len);
}

TEST(damaged_pages_are_refused_or_valid)
{
    for (enum form form = LEAF; form < FORM_COUNT; form++) {
        struct fixture f;
        CLEANUP(catalog_page_release) struct catalog_page page = {0};
        CLEANUP(buffer_release) struct buffer again = {0};
        uint64_t seed = form;
        fixture_init(&f, form, 4);
        for (size_t i = 0; i < f.page.len; i++) {
            uint8_t was = f.page.data[i];
            uint8_t masks[] = {0x01, 0x80, (uint8_t)test_random(&seed)};
            for (size_t k = 0; k < sizeof(masks); k++) {
                f.page.data[i] = was ^ masks[k];
                try_damaged(&f, &page, &again);
            }
            f.page.data[i] = was;
        }
        for (int i = 0; i < 1500; i++) { /* several at once */
            uint8_t saved[8];
            size_t at = test_random(&seed) % (f.page.len - sizeof(saved));
            memcpy(saved, f.page.data + at, sizeof(saved));
            test_random_fill(&seed, f.page.data + at, 1 + test_random(&seed) % sizeof(saved));
            try_damaged(&f, &page, &again);
            memcpy(f.page.data + at, saved, sizeof(saved));
        }
        fixture_release(&f);
    }
}

TEST(newer_version_is_told_apart)
{
    struct fixture f;
    CLEANUP(catalog_page_release) struct catalog_page page = {0};

    fixture_init(&f, LEAF, 5);
    f.page.data[4] = CATALOG_PAGE_VERSION + 1;
    ASSERT_ERR(decode(&f, &page, f.page.data, f.page.len), -UMBRA_E_VERSION);
    fixture_release(&f);
}

/* ---- inputs for the fuzzer ---- */

static void write_input(const char *dir, const char *name, const struct buffer *b)
{
    CLEANUP_FREE char *path = NULL;

    ASSERT_TRUE(asprintf(&path, "%s/%s", dir, name) > 0);
    FILE *file = fopen(path, "we");
    ASSERT_TRUE(file);
    ASSERT_EQ(fwrite(b->data, 1, b->len, file), b->len);
    ASSERT_EQ(fclose(file), 0);
}

/* UMBRA_FUZZ_CORPUS=tests/fuzz/corpus/catalog-page makes the corpus anew. */
TEST(small_pages_for_the_fuzzer)
{
    static const char *const names[] = {
        "leaf", "leaf-with-content", "inner", "content", "content-upper", "run", "root"};
    const char *dir = getenv("UMBRA_FUZZ_CORPUS");

    for (enum form form = LEAF; form <= FORM_COUNT; form++) {
        struct fixture f;
        CLEANUP(catalog_page_release) struct catalog_page page = {0};
        struct catalog_root root;
        fixture_init_sized(&f, form < FORM_COUNT ? form : LEAF, 7, 12);
        ASSERT_LT(f.page.len, 2500);
        ASSERT_OK(decode(&f, &page, f.page.data, f.page.len));
        if (form == FORM_COUNT) {
            test_build(&f.s, &f.tree, &root);
            buffer_clear(&f.page);
            ASSERT_OK(catalog_root_encode(&root, f.s.store.names, &f.page));
            catalog_root_release(&root);
        }
        if (dir)
            write_input(dir, names[form], &f.page);
        fixture_release(&f);
    }
}

/* ---- single faults, by hand ---- */

#define HEADER(kind, level, count, packs) \
    'U', 'C', 'T', 'P', 1, kind, level, 0, count, 0, 0, 0, packs, 0, 0, 0
/* key, a directory with inode 0 and mtime 0 */
#define ROOT_DIR           0, 0, 2, 0, 0, 0
#define DIR_A              0, 3, 0, 0, 'a', 2, 0, 0, 0
#define FILE_A(size, rest) 0, 3, 0, 0, 'a', 1, 0, 0, 0, size, rest

static void assert_decodes(const void *data, size_t len, const char *why, int line)
{
    struct fixture f = {0};
    CLEANUP(catalog_page_release) struct catalog_page page = {0};

    test_store_init(&f.s);
    int r = decode(&f, &page, data, len);
    if (!why && r < 0)
        test_fail(__FILE__, line, "refused: %s", error_text(r));
    if (why && (r != -UMBRA_E_CORRUPT || !strstr(error_text(r), why)))
        test_fail(__FILE__, line, "'%s' does not say '%s'", r < 0 ? error_text(r) : "all well",
                  why);
    fixture_release(&f);
}
#define ASSERT_DECODES(why, ...)                                       \
    do {                                                               \
        static const uint8_t page_bytes[] = {__VA_ARGS__};             \
        assert_decodes(page_bytes, sizeof(page_bytes), why, __LINE__); \
    } while (0)

TEST(headers)
{
    ASSERT_DECODES(NULL, HEADER(1, 0, 2, 0), ROOT_DIR, DIR_A);
    ASSERT_DECODES(NULL, HEADER(4, 0, 0, 0));
    ASSERT_DECODES("no entries", HEADER(1, 0, 0, 0));
    ASSERT_DECODES("unknown kind", HEADER(0, 0, 1, 0), ROOT_DIR);
    ASSERT_DECODES("unknown kind", HEADER(5, 0, 1, 0), ROOT_DIR);
    ASSERT_DECODES("bad level", HEADER(1, 1, 1, 0), ROOT_DIR);
    ASSERT_DECODES("bad level", HEADER(2, 0, 1, 0), ROOT_DIR);
    ASSERT_DECODES("bad level", HEADER(3, 8, 1, 0), ROOT_DIR);
    ASSERT_DECODES("bad magic", 'U', 'C', 'T', 'Q', 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, ROOT_DIR);
    ASSERT_DECODES("flags", 'U', 'C', 'T', 'P', 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, ROOT_DIR);
    ASSERT_DECODES("flags", 'U', 'C', 'T', 'P', 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, ROOT_DIR);
    ASSERT_DECODES("more items", 'U', 'C', 'T', 'P', 1, 1, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0,
                   ROOT_DIR);
    ASSERT_DECODES("more packs", HEADER(1, 0, 1, 1), ROOT_DIR);
}

TEST(keys)
{
    ASSERT_DECODES("do not ascend", HEADER(1, 0, 2, 0), DIR_A, DIR_A);
    ASSERT_DECODES("do not ascend", HEADER(1, 0, 2, 0), DIR_A, 3, 0, 2, 0, 0, 0);
    ASSERT_DECODES("do not ascend", HEADER(1, 0, 2, 0), DIR_A, 2, 1, 'A', 2, 0, 0, 0);
    /* more could be shared */
    ASSERT_DECODES("do not ascend", HEADER(1, 0, 2, 0), DIR_A, 2, 2, 'a', 'a', 2, 0, 0, 0);
    ASSERT_DECODES(NULL, HEADER(1, 0, 2, 0), DIR_A, 3, 1, 'a', 2, 0, 0, 0);
    ASSERT_DECODES("not well-formed", HEADER(1, 0, 1, 0), 0, 4, 0, 0, '.', '.', 2, 0, 0, 0);
    ASSERT_DECODES("not well-formed", HEADER(1, 0, 1, 0), 0, 4, 0, 0, 'a', '/', 2, 0, 0, 0);
    ASSERT_DECODES("not well-formed", HEADER(1, 0, 1, 0), 0, 4, 0, 0, 0, 'a', 2, 0, 0, 0);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), 1, 3, 0, 0, 'a', 2, 0, 0, 0); /* shares none */
    ASSERT_DECODES("ends early", HEADER(1, 0, 1, 0), 0, 100, 0, 0, 'a', 2, 0, 0, 0);
    ASSERT_DECODES("do not ascend", HEADER(2, 1, 2, 0), 0, 0, 1, [19 ... 51] = 0, 0, 0, 1,
                   [55 ... 87] = 0);
}

TEST(attributes)
{
    ASSERT_DECODES("unknown type", HEADER(1, 0, 1, 0), 0, 0, 0, 0, 0, 0);
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), 0, 0, 2 | 8, 1, 0, 0, 0);
    ASSERT_DECODES("left out", HEADER(1, 0, 1, 0), 0, 0, 2 | 8, 0, 0, 0, 0);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), 0, 0, 2 | 8, 0x80, 0x20, 0, 0, 0); /* 010000 */
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), 0, 0, 2 | 8, 0xff, 0x1f, 0, 0, 0);        /* 07777 */
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), 0, 0, 0x82, 0x80, 4, 0, 0, 0);     /* bit 16 */
    ASSERT_DECODES("left out", HEADER(1, 0, 1, 0), 0, 0, 2 | 64, 0, 0, 0, 0, 0);       /* ctime */
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), 0, 0, 2 | 64, 0, 0, 0, 0, 1);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), 0, 0, 2, 0, 0, 0x80, 0x94, 0xeb, 0xdc, 3);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), 0, 0, 0x82, 0x80, 2, 0, 0, 0, 8); /* remarks */
    ASSERT_DECODES("left out", HEADER(1, 0, 1, 0), 0, 0, 0x82, 0x80, 2, 0, 0, 0, 0);
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), 0, 0, 0x82, 0x80, 2, 0, 0, 0, 7);
    ASSERT_DECODES("malformed", HEADER(1, 0, 1, 0), 0, 0, 0x82, 0x00, 0, 0, 0); /* long varint */
}

#define WITH_XATTRS 0, 0, 0x82, 0x08, 0, 0, 0 /* the root, bit 10 */

TEST(xattrs)
{
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), WITH_XATTRS, 2, 1, 'a', 0, 1, 'b', 1, 0);
    ASSERT_DECODES("not sorted", HEADER(1, 0, 1, 0), WITH_XATTRS, 2, 1, 'b', 0, 1, 'a', 1, 0);
    ASSERT_DECODES("not sorted", HEADER(1, 0, 1, 0), WITH_XATTRS, 2, 1, 'a', 0, 1, 'a', 1, 0);
    ASSERT_DECODES("without a name", HEADER(1, 0, 1, 0), WITH_XATTRS, 1, 0, 1, 0);
    ASSERT_DECODES("malformed name", HEADER(1, 0, 1, 0), WITH_XATTRS, 1, 2, 'a', 0, 0);
    ASSERT_DECODES("no extended", HEADER(1, 0, 1, 0), WITH_XATTRS, 0);
    ASSERT_DECODES("more items", HEADER(1, 0, 1, 0), WITH_XATTRS, 9, 1, 'a', 0);
}

TEST(contents)
{
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), FILE_A(0, 0));
    ASSERT_DECODES(NULL, HEADER(1, 0, 1, 0), FILE_A(5, 2), 0, 2, 1, 3);
    ASSERT_DECODES("shorter", HEADER(1, 0, 1, 0), FILE_A(6, 2), 0, 2, 1, 3);
    ASSERT_DECODES("longer", HEADER(1, 0, 1, 0), FILE_A(4, 2), 0, 2, 1, 3);
    ASSERT_DECODES("shorter", HEADER(1, 0, 1, 0), FILE_A(1, 0));
    ASSERT_DECODES("without bytes", HEADER(1, 0, 1, 0), FILE_A(5, 2), 0, 5, 1, 0);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), FILE_A(5, 1), 3, 5);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), FILE_A(0xff, 0xff), 0xff, 0xff, 0xff, 0xff,
                   0xff, 0xff, 0xff, 1, 0);                              /* a size of 2^64 - 1 */
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), FILE_A(5, 0x81), 2); /* 257 extents */
    /* the sum of a content page */
    ASSERT_DECODES(NULL, HEADER(3, 0, 1, 0), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                   0x7f);
    ASSERT_DECODES("longer", HEADER(3, 0, 2, 0), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                   0x7f, 0, 1);
    /* a directory with content pages; a file with none */
    ASSERT_DECODES("no regular file", HEADER(1, 0, 1, 0), 0, 0, 0x82, 0x10, 0, 0, 0);
    ASSERT_DECODES("no page references", HEADER(1, 0, 1, 0), 0, 0, 0x81, 0x10, 0, 0, 0, 0, 0, 0);
    ASSERT_DECODES("too large", HEADER(1, 0, 1, 0), 0, 0, 0x81, 0x10, 0, 0, 0, 5, 8, 1); /* level */
    ASSERT_DECODES("more items", HEADER(1, 0, 1, 0), 0, 0, 0x81, 0x10, 0, 0, 0, 5, 0, 1, 5, 1);
    ASSERT_DECODES("not used", HEADER(1, 0, 1, 1), [16 ... 47] = 'P', ROOT_DIR);
    ASSERT_DECODES("named twice", HEADER(1, 0, 1, 2), [16 ... 79] = 'P', ROOT_DIR);
    /* the second of two packs first */
    ASSERT_DECODES("order of their use", HEADER(3, 0, 1, 2), [16 ... 47] = 'P', [48 ... 79] = 'Q',
                   2, 1, [82 ... 113] = 'I', 2, 0, 0, 0);
    ASSERT_DECODES("too large", HEADER(3, 0, 1, 1), [16 ... 47] = 'P', 2, 1, [50 ... 81] = 'I', 2,
                   0, 0, 0);
    ASSERT_DECODES(NULL, HEADER(3, 0, 1, 1), [16 ... 47] = 'P', 2, 1, [50 ... 81] = 'I', 1, 0, 0,
                   0);
    ASSERT_DECODES("too large", HEADER(2, 1, 1, 0), 0, 0, 0x81, 0x80, 0x20, [21 ... 53] = 0);
    ASSERT_DECODES("page without bytes", HEADER(2, 1, 1, 0), 0, 0, 0, [19 ... 51] = 0);
}

/* ---- root ---- */

TEST(root_round_trip_and_damage)
{
    struct fixture f = {0};
    struct catalog_root root, back;
    CLEANUP(buffer_release) struct buffer b = {0}, again = {0};

    test_store_init(&f.s);
    test_tree(&f.s, 8, 20000, &f.tree);
    test_build(&f.s, &f.tree, &root);
    ASSERT_OK(catalog_root_encode(&root, f.s.store.names, &b));
    size_t len = b.len;
    buffer_put(&b, "tail", 4); /* the backup object goes on */
    for (size_t i = 0; i < len; i++)
        for (uint8_t mask = 0; mask < 3; mask++) { /* the first round: no damage */
            struct reader r = reader_make(b.data, b.len);
            b.data[i] ^= mask;
            int e = catalog_root_decode(&r, f.s.store.names, &back);
            if (mask == 0) {
                ASSERT_OK(e);
                test_assert_roots_equal(&root, &back);
                ASSERT_EQ(reader_left(&r), 4);
            }
            ASSERT_TRUE(e == 0 || e == -UMBRA_E_CORRUPT || e == -UMBRA_E_VERSION);
            if (e == 0) {
                buffer_clear(&again);
                ASSERT_OK(catalog_root_encode(&back, f.s.store.names, &again));
                ASSERT_EQ(again.len, (size_t)(r.pos - b.data));
                ASSERT_MEMEQ(again.data, b.data, again.len);
                catalog_root_release(&back);
            }
            b.data[i] ^= mask;
        }
    for (size_t i = 0; i < len; i++) {
        struct reader r = reader_make(b.data, i);
        ASSERT_ERR(catalog_root_decode(&r, f.s.store.names, &back), -UMBRA_E_CORRUPT);
    }
    catalog_root_release(&root);
    fixture_release(&f);
}

/* ---- runs ---- */

TEST(run_round_trip)
{
    struct fixture f = {0};
    uint64_t seed = 9;
    CLEANUP(buffer_release) struct buffer b = {0};
    CLEANUP(catalog_run_freep) struct catalog_run *run = NULL;
    struct entry *e;

    test_store_init(&f.s);
    test_tree(&f.s, 9, 500, &f.tree);
    struct entry big = test_file(&f.s, &seed, "big", 50000); /* inline: a run has no other pages */
    ASSERT_OK(entry_vector_push(&f.tree, &big));
    test_sort(&f.tree);
    CLEANUP_FREE const struct entry **entries = calloc(f.tree.count, sizeof(*entries));
    ASSERT_TRUE(entries);
    for (size_t i = 0; i < f.tree.count; i++)
        entries[i] = &f.tree.items[i];

    buffer_put(&b, "head", 4);
    ASSERT_OK(catalog_run_encode(entries, f.tree.count, f.s.store.names, &b));
    ASSERT_GT(b.len, CATALOG_PAGE_LEN_MAX);
    ASSERT_OK(catalog_run_open(b.data + 4, b.len - 4, f.s.store.names, &run));
    for (size_t i = 0; i < f.tree.count; i++) {
        ASSERT_OK(catalog_run_next(run, &e));
        test_assert_equal(&f.tree.items[i], e);
    }
    ASSERT_OK(catalog_run_next(run, &e));
    ASSERT_TRUE(!e);

    struct catalog_run *other;
    ASSERT_ERR(catalog_run_open(b.data + 4, b.len - 5, f.s.store.names, &other), -UMBRA_E_CORRUPT);
    entries[1] = entries[0];
    ASSERT_ERR(catalog_run_encode(entries, 2, f.s.store.names, &b), -EINVAL);
    buffer_clear(&b);
    ASSERT_OK(catalog_run_encode(entries, 0, f.s.store.names, &b));
    ASSERT_OK(catalog_run_open(b.data, b.len, f.s.store.names, &other));
    ASSERT_OK(catalog_run_next(other, &e));
    ASSERT_TRUE(!e);
    catalog_run_free(other);
    fixture_release(&f);
}

/* More xattrs and a longer path than a tree takes. */
TEST(run_has_wide_limits)
{
    struct fixture f = {0};
    uint64_t seed = 11;
    CLEANUP(buffer_release) struct buffer b = {0};
    CLEANUP(catalog_run_freep) struct catalog_run *run = NULL;
    CLEANUP_FREE char *path = calloc(1, 100001);
    struct entry *back;

    ASSERT_TRUE(path);
    test_store_init(&f.s);
    for (size_t i = 0; i < 100000; i++)
        path[i] = i % 100 == 99 ? '/' : 'p';
    path[99999] = 'p';
    struct entry e = test_file(&f.s, &seed, path, 1);
    for (size_t i = 0; i < 8; i++) {
        struct xattr x = {.value = calloc(1, ENTRY_XATTR_VALUE_MAX),
                          .value_len = ENTRY_XATTR_VALUE_MAX};
        ASSERT_TRUE(x.value && asprintf(&x.name, "user.%zu", i) > 0);
        ASSERT_OK(xattr_vector_push(&e.xattrs, &x));
    }
    const struct entry *entries[] = {&e};
    ASSERT_OK(catalog_run_encode(entries, 1, f.s.store.names, &b));
    ASSERT_OK(catalog_run_open(b.data, b.len, f.s.store.names, &run));
    ASSERT_OK(catalog_run_next(run, &back));
    test_assert_equal(&e, back);
    b.data[5] = CATALOG_PAGE_LEAF;
    CLEANUP(catalog_page_release) struct catalog_page page = {0};
    ASSERT_ERR(decode(&f, &page, b.data, b.len), -UMBRA_E_CORRUPT);
    entry_release(&e);
    fixture_release(&f);
}

/* A run is from outside: its entries go into the next catalog, which would refuse this one. */
TEST(run_of_what_no_catalog_may_have)
{
    struct fixture f = {0};
    uint64_t seed = 12;
    CLEANUP(buffer_release) struct buffer b = {0};
    CLEANUP(page_encoder_release) struct page_encoder enc = {0};
    CLEANUP(catalog_run_freep) struct catalog_run *run = NULL;
    struct entry *back;

    test_store_init(&f.s);
    struct entry good = test_file(&f.s, &seed, "a", 5), bad = test_file(&f.s, &seed, "b", 5);
    bad.extents.items[0].chunk.location.pack_no = PACK_NO_NONE;
    const struct catalog_contents contents[] = {
        {.extents = good.extents.items, .extent_count = good.extents.count},
        {.extents = bad.extents.items, .extent_count = bad.extents.count},
    };
    page_encoder_put_entry(&enc, &good, &contents[0]);
    page_encoder_put_entry(&enc, &bad, &contents[1]);
    ASSERT_OK(page_encoder_finish(&enc, CATALOG_PAGE_RUN, 0, f.s.store.names, &b));
    ASSERT_OK(catalog_run_open(b.data, b.len, f.s.store.names, &run));
    ASSERT_OK(catalog_run_next(run, &back));
    test_assert_equal(&good, back);
    ASSERT_ERR(catalog_run_next(run, &back), -UMBRA_E_CORRUPT);
    entry_release(&good);
    entry_release(&bad);
    fixture_release(&f);
}

TEST(run_is_no_leaf)
{
    struct fixture f;
    struct catalog_run *run;

    fixture_init(&f, LEAF, 10);
    ASSERT_ERR(catalog_run_open(f.page.data, f.page.len, f.s.store.names, &run), -UMBRA_E_CORRUPT);
    fixture_release(&f);
}

TEST_MAIN()
