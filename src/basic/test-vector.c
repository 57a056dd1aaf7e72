/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/cleanup.h"
#include "basic/test.h"
#include "basic/vector.h"

DEFINE_VECTOR(u64_vector, uint64_t);

TEST(push_keeps_items)
{
    CLEANUP(u64_vector_release) struct u64_vector v = {0};

    for (uint64_t i = 0; i < 1000; i++)
        ASSERT_OK(u64_vector_push(&v, &i));
    ASSERT_EQ(v.count, 1000);
    for (uint64_t i = 0; i < 1000; i++)
        ASSERT_EQ(v.items[i], i);
    size_t allocated = v.allocated;
    u64_vector_clear(&v);
    ASSERT_EQ(v.count, 0);
    ASSERT_EQ(v.allocated, allocated);
}

TEST(reserve_makes_room)
{
    CLEANUP(u64_vector_release) struct u64_vector v = {0};

    ASSERT_OK(u64_vector_reserve(&v, 100));
    ASSERT_GE(v.allocated, 100);
    const uint64_t *items = v.items;
    uint64_t x = 1;
    for (int i = 0; i < 100; i++)
        ASSERT_OK(u64_vector_push(&v, &x));
    ASSERT_TRUE(v.items == items);
}

TEST(overflow_is_no_memory)
{
    CLEANUP_FREE void *items = NULL;
    size_t allocated = 0;

    ASSERT_ERR(vector_grow(&items, &allocated, SIZE_MAX / 4, 8), -ENOMEM);
    ASSERT_EQ(allocated, 0);
    ASSERT_TRUE(items == NULL);
}

TEST_MAIN()
