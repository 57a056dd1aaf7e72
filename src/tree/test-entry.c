/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/entry.h"

#include <pthread.h>

#include "tree/test-page-store.h"

TEST(entry_copy_is_deep)
{
    static const enum entry_type types[] = {ENTRY_REGULAR, ENTRY_DIRECTORY, ENTRY_SYMLINK,
                                            ENTRY_FIFO,    ENTRY_SOCKET,    ENTRY_CHAR,
                                            ENTRY_BLOCK};
    struct test_store s;
    uint64_t seed = 5;

    test_store_init(&s);
    for (size_t i = 0; i < 70; i++) {
        struct entry e = test_entry(&s, &seed, "some/where", types[i % ELEMENTSOF(types)]);
        struct entry copy;
        ASSERT_OK(entry_copy(&e, &copy));
        test_assert_equal(&e, &copy);
        ASSERT_TRUE(copy.key != e.key);
        entry_release(&e); /* the sanitizer would see what is shared */
        ASSERT_TRUE(!e.key && e.xattrs.count == 0);
        struct entry again;
        ASSERT_OK(entry_copy(&copy, &again));
        test_assert_equal(&again, &copy);
        entry_release(&copy);
        entry_release(&again);
    }
    test_store_release(&s);
}

TEST(entry_copy_keeps_unloaded_contents)
{
    struct test_store s;
    uint64_t seed = 6;

    test_store_init(&s);
    struct entry e = test_file(&s, &seed, "f", 5), copy;
    e.content_refs = e.extents;
    e.extents = (struct extent_vector){0};
    e.content_level = 2;
    ASSERT_OK(entry_copy(&e, &copy));
    ASSERT_TRUE(entry_is_unloaded(&copy) && copy.content_level == 2);
    test_assert_equal(&e, &copy);

    copy.content_refs.items[3].chunk.id.bytes[31] ^= 1;
    ASSERT_FALSE(entry_same(&e, &copy));
    copy.content_refs.items[3].chunk.id.bytes[31] ^= 1;
    copy.content_level = 1;
    ASSERT_FALSE(entry_same(&e, &copy));
    copy.content_level = 0; /* the same list, but of extents */
    copy.extents = copy.content_refs;
    copy.content_refs = (struct extent_vector){0};
    ASSERT_FALSE(entry_same(&e, &copy));
    entry_release(&e);
    entry_release(&copy);
    test_store_release(&s);
}

/* What counts for entry_same, entry_attributes_same and entry_contents_same. */
TEST(entry_same_sees_what_counts)
{
    struct test_store s;
    uint64_t seed = 7;
    struct entry e, other;

    test_store_init(&s);
    e = test_file(&s, &seed, "f", 3);
    while (e.xattrs.count == 0) {
        entry_release(&e);
        e = test_entry(&s, &seed, "f", ENTRY_REGULAR);
    }
    struct extent extent = test_extent(&s, &seed);
    ASSERT_OK(extent_vector_push(&e.extents, &extent));
    e.size += extent.len;
    ASSERT_OK(entry_copy(&e, &other));

#define CHANGES(change, undo, same, attributes, contents)         \
    do {                                                          \
        change;                                                   \
        ASSERT_EQ(entry_same(&e, &other), same);                  \
        ASSERT_EQ(entry_attributes_same(&e, &other), attributes); \
        ASSERT_EQ(entry_contents_same(&e, &other), contents);     \
        undo;                                                     \
        ASSERT_TRUE(entry_same(&e, &other));                      \
    } while (0)
#define FLIPS(field, same, attributes, contents) \
    CHANGES(other.field ^= 1, other.field ^= 1, same, attributes, contents)

    FLIPS(mode, false, false, true);
    FLIPS(uid, false, false, true);
    FLIPS(gid, false, false, true);
    FLIPS(nlink, false, false, true);
    FLIPS(flags, false, false, true);
    FLIPS(project_id, false, false, true);
    FLIPS(mtime.sec, false, false, true);
    FLIPS(mtime.nsec, false, false, true);
    FLIPS(ctime.sec, false, false, true);
    FLIPS(ctime.nsec, false, false, true);
    FLIPS(btime.nsec, false, false, true);
    FLIPS(xattrs.items[0].name[0], false, false, true);
    FLIPS(xattrs.items[0].value_len, false, false, true);
    FLIPS(xattrs.count, false, false, true);
    FLIPS(fs_index, false, true, true);
    FLIPS(inode, false, true, true);
    FLIPS(atime.sec, true, true, true);
    FLIPS(remarks, true, true, true);
    FLIPS(size, false, true, false);
    FLIPS(extents.items[0].len, false, true, false);
    size_t last = other.extents.count - 1;
    FLIPS(extents.items[last].chunk.id.bytes[0], false, true, false);
    CHANGES(other.extents.count--, other.extents.count++, false, true, false);
    FLIPS(extents.items[last].chunk.location.frame_offset, true, true, true);
    CHANGES(other.type = ENTRY_FIFO, other.type = ENTRY_REGULAR, false, true, true);
#undef FLIPS
#undef CHANGES
    entry_release(&e);
    entry_release(&other);
    test_store_release(&s);
}

TEST(entry_contents_by_type)
{
    struct entry a = {.type = ENTRY_SYMLINK, .symlink = (char *)(uintptr_t) "x"}, b = a;

    b.size = 9; /* the target says it */
    ASSERT_TRUE(entry_contents_same(&a, &b));
    b.symlink = (char *)(uintptr_t) "y";
    ASSERT_FALSE(entry_contents_same(&a, &b));
    a = b = (struct entry){.type = ENTRY_CHAR, .rdev_major = 1, .rdev_minor = 3};
    ASSERT_TRUE(entry_contents_same(&a, &b));
    b.rdev_minor = 5;
    ASSERT_FALSE(entry_contents_same(&a, &b));
    a.type = b.type = ENTRY_DIRECTORY;
    b.size = 4096;
    ASSERT_TRUE(entry_same(&a, &b));
}

TEST(entry_type_letters)
{
    const char *letters = "-dlpscb";

    for (int type = ENTRY_REGULAR; type < ENTRY_TYPE_MAX; type++)
        ASSERT_EQ(entry_type_letter((enum entry_type)type), letters[type - 1]);
    ASSERT_EQ(entry_type_letter(ENTRY_TYPE_MAX), '?');
}

/* ---- pack table ---- */

static struct pack_name numbered_name(uint64_t n)
{
    struct pack_name name;

    test_random_fill(&n, name.bytes, PACK_NAME_LEN);
    return name;
}

TEST(pack_table_numbers_are_dense)
{
    CLEANUP(pack_table_freep) struct pack_table *table = NULL;
    struct pack_name name, back;
    uint32_t no;

    ASSERT_OK(pack_table_new(&table));
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < 20000; i++) {
            name = numbered_name(i);
            ASSERT_OK(pack_table_intern(table, &name, &no));
            ASSERT_EQ(no, i);
            ASSERT_EQ(pack_table_count(table), round == 0 ? i + 1 : 20000);
        }
    for (uint32_t i = 0; i < 20000; i++) {
        name = numbered_name(i);
        pack_table_name(table, i, &back);
        ASSERT_MEMEQ(name.bytes, back.bytes, PACK_NAME_LEN);
    }
}

static void *intern_many(void *userdata)
{
    struct pack_table *table = userdata;

    for (uint64_t i = 0; i < 5000; i++) {
        struct pack_name name = numbered_name(i), back;
        uint32_t no;
        ASSERT_OK(pack_table_intern(table, &name, &no));
        pack_table_name(table, no, &back);
        ASSERT_MEMEQ(name.bytes, back.bytes, PACK_NAME_LEN);
    }
    return NULL;
}

TEST(pack_table_is_thread_safe)
{
    CLEANUP(pack_table_freep) struct pack_table *table = NULL;
    pthread_t threads[4];

    ASSERT_OK(pack_table_new(&table));
    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, intern_many, table), 0);
    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    ASSERT_EQ(pack_table_count(table), 5000);
}

TEST_MAIN()
