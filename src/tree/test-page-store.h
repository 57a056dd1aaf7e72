/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the tests of the catalog: a page store in memory that counts, and random trees. */
#pragma once

#include "basic/test.h"
#include "tree/catalog-private.h"

struct test_page {
    struct chunk_ref ref;
    uint8_t *data;
};
DEFINE_VECTOR(test_page_vector, struct test_page);

/* Pages by id.  A page has no location until somebody asks for one; then all that have none move
 * into one new pack, as in a repository. */
struct test_store {
    struct catalog_store store;
    struct test_page_vector pages;
    size_t located_count; /* of pages */
    uint32_t *slots;      /* index + 1 by id; 0 is empty */
    size_t slot_count;
    size_t put_count, new_count, get_count, locate_count;
    int fail_get; /* what get_page returns, if not 0 */
};

void test_store_init(struct test_store *s);
void test_store_release(struct test_store *s);
void test_store_reset_counts(struct test_store *s);
struct test_page *test_store_page(struct test_store *s, const struct chunk_id *id);

DEFINE_VECTOR(entry_vector, struct entry);

/* An entry with that path ("" is the root) and random attributes and contents of its type. */
struct entry test_entry(struct test_store *s, uint64_t *seed, const char *path,
                        enum entry_type type);
/* A regular file of that many data extents (ids from seed). */
struct entry test_file(struct test_store *s, uint64_t *seed, const char *path, size_t extent_count);
struct extent test_extent(struct test_store *s, uint64_t *seed);
/* A tree of about count entries, in key order, every parent there. */
void test_tree(struct test_store *s, uint64_t seed, size_t count, struct entry_vector *tree);
void test_sort(struct entry_vector *tree);
void test_tree_release(struct entry_vector *tree);
void test_build(struct test_store *s, const struct entry_vector *tree, struct catalog_root *root);

/* All that a catalog keeps, hints and access times included. */
void test_assert_equal(const struct entry *a, const struct entry *b);
void test_assert_roots_equal(const struct catalog_root *a, const struct catalog_root *b);
/* The one encoding of what a page was decoded to. */
void test_reencode(const struct catalog_page *page, const struct pack_table *names,
                   struct buffer *b);
