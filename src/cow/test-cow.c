/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/test.h"
#include "cow/cow.h"

TEST(reasons_have_words)
{
    ASSERT_STREQ(cow_reason_text(COW_REASON_FULL), "the storage was full");
    ASSERT_STREQ(cow_reason_text(COW_REASON_COUNT), "unknown");
}

TEST_MAIN()
