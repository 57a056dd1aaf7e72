/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/crc32c.h"

#include "basic/test.h"

/* RFC 3720, appendix B.4. */
TEST(known_answers)
{
    uint8_t data[32] = {0};

    ASSERT_EQ(crc32c(0, data, sizeof(data)), UINT32_C(0x8a9136aa));
    memset(data, 0xff, sizeof(data));
    ASSERT_EQ(crc32c(0, data, sizeof(data)), UINT32_C(0x62a8ab43));
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;
    ASSERT_EQ(crc32c(0, data, sizeof(data)), UINT32_C(0x46dd794e));
    ASSERT_EQ(crc32c(0, "123456789", 9), UINT32_C(0xe3069283));
}

TEST(parts_give_the_same_as_the_whole)
{
    const char *text = "the quick brown fox";
    uint32_t whole = crc32c(0, text, 19);

    for (size_t i = 0; i <= 19; i++)
        ASSERT_EQ(crc32c(crc32c(0, text, i), text + i, 19 - i), whole);
}

TEST(both_ways_give_the_same)
{
    static uint8_t data[600];
    uint64_t random = 1;

    test_random_fill(&random, data, sizeof(data));
    for (unsigned i = 0; i < 2000; i++) {
        size_t from = test_random(&random) % 300, len = test_random(&random) % 300;
        uint32_t start = (uint32_t)test_random(&random);
        ASSERT_EQ(crc32c(start, data + from, len), crc32c_by_shifts(start, data + from, len));
    }
}

TEST_MAIN()
