/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/test.h"
#include "repo/id-set.h"

#define COUNT 5000u

static void numbered_id(uint64_t n, struct chunk_id *id)
{
    uint64_t state = n * UINT64_C(0x9e3779b97f4a7c15);
    test_random_fill(&state, id->bytes, sizeof(id->bytes));
}

TEST(members_are_found)
{
    CLEANUP(id_set_release) struct id_set set = {0};
    struct chunk_id id;
    bool added;
    for (uint64_t i = 0; i < COUNT; i++) {
        numbered_id(i, &id);
        ASSERT_FALSE(id_set_has(&set, &id, 0));
        ASSERT_OK(id_set_add(&set, &id, 0, &added));
        ASSERT_TRUE(added);
        ASSERT_OK(id_set_add(&set, &id, 0, &added));
        ASSERT_FALSE(added);
    }
    ASSERT_EQ(set.count, COUNT);
    for (uint64_t i = 0; i < 2 * COUNT; i++) {
        numbered_id(i, &id);
        ASSERT_EQ(id_set_has(&set, &id, 0), i < COUNT);
    }
}

TEST(tags_distinguish)
{
    CLEANUP(id_set_release) struct id_set set = {0};
    struct chunk_id id;
    bool added;
    numbered_id(1, &id);
    ASSERT_OK(id_set_add(&set, &id, 7, &added));
    ASSERT_TRUE(id_set_has(&set, &id, 7));
    ASSERT_FALSE(id_set_has(&set, &id, 0));
    ASSERT_FALSE(id_set_has(&set, &id, 8));
}

TEST(zero_id)
{
    CLEANUP(id_set_release) struct id_set set = {0};
    const struct chunk_id zero = {0};
    bool added;
    ASSERT_FALSE(id_set_has(&set, &zero, 0));
    ASSERT_OK(id_set_add(&set, &zero, 0, &added));
    ASSERT_TRUE(added);
    ASSERT_TRUE(id_set_has(&set, &zero, 0));
    ASSERT_EQ(set.count, 1u);
}

TEST_MAIN()
