/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/log-describe.h"

#include "basic/test.h"
#include "cow/cow-format.h"

static void assert_described(unsigned op, const void *data, size_t len, const char *expected)
{
    char text[512], small[8];
    const struct umbra_log_record record = {
        .op = (uint16_t)op, .redo = data, .redo_len = (uint32_t)len};
    cow_log_describe(&record, text, sizeof(text));
    ASSERT_STREQ(text, expected);
    cow_log_describe(&record, small, sizeof(small));
    ASSERT_EQ(strlen(small), sizeof(small) - 1);
    ASSERT_MEMEQ(small, text, sizeof(small) - 1);
}

static struct cow_log_entry make_entry(uint64_t slot, uint32_t number, uint64_t block,
                                       uint64_t flags, uint64_t value)
{
    return (struct cow_log_entry){.slot = le64_make(slot),
                                  .entry = {.number = le32_make(number),
                                            .where = le64_make(block | flags << COW_WHERE_BITS),
                                            .value = le64_make(value)}};
}

TEST(entries)
{
    const struct cow_log_entry entries[] = {
        make_entry(7, 3, 1000, 0, 42),
        make_entry(8, 3, 128, COW_ENTRY_ZERO, 0xff),
        make_entry(9, 4, 5, COW_ENTRY_OWN, 1),
        make_entry(10, 0, 0, 0, 0),
    };
    assert_described(COW_LOG_ENTRIES, entries, sizeof(entries),
                     "entry 7: block 1000 in cell 42, kept for shadow 3; "
                     "entry 8: zeros from block 128, mask 00000000000000ff, kept for shadow 3; "
                     "entry 9: block 5 in cell 1, written to shadow 4; entry 10: none");
}

TEST(copies)
{
    const struct {
        struct cow_log_copies head;
        struct cow_log_entry entry;
    } copies = {{.ticket = le64_make(12), .settled = le64_make(10)}, make_entry(7, 3, 1000, 0, 42)};
    assert_described(COW_LOG_COPIES, &copies, sizeof(copies),
                     "copies 12, durable to 10; entry 7: block 1000 in cell 42, kept for shadow 3");
}

TEST(zeros)
{
    const struct cow_log_zero zero = {.group = le64_make(2), .mask = le64_make(1)};
    assert_described(COW_LOG_ZERO_SET, &zero, sizeof(zero),
                     "zero from block 128, mask 0000000000000001");
    assert_described(COW_LOG_ZERO_CLEAR, &zero, sizeof(zero),
                     "not zero from block 128, mask 0000000000000001");
}

static void assert_state(uint64_t index, const void *record, const char *expected)
{
    struct cow_log_state state = {.index = le64_make(index)};
    memcpy(state.record, record, sizeof(state.record));
    assert_described(COW_LOG_STATE, &state, sizeof(state), expected);
}

TEST(states)
{
    const struct cow_settings_record settings = {.cells_max = le64_make(100),
                                                 .last_number = le32_make(5),
                                                 .flags = le32_make(COW_SETTINGS_PROTECT_SHADOWS)};
    const struct cow_shadow_record shadow = {.number = le32_make(5),
                                             .flags = le16_make(COW_SHADOW_WRITABLE),
                                             .taken_ns = le64_make(NSEC_PER_SEC)};
    const struct cow_shadow_record none = {0};
    const struct cow_fault_record fault = {.number = le32_make(4),
                                           .reason = le16_make(COW_REASON_FULL)};
    assert_state(COW_STATE_SETTINGS, &settings,
                 "settings: at most 100 cells, last shadow 5, 0 faults, shadows are protected");
    assert_state(COW_STATE_SHADOWS + 2, &shadow,
                 "shadow place 2: shadow 5, id 00000000000000000000000000000000, taken "
                 "1970-01-01T00:00:01Z, writable");
    assert_state(COW_STATE_SHADOWS, &none, "shadow place 0: none");
    assert_state(COW_STATE_FAULTS, &fault, "fault at 1970-01-01T00:00:00Z: shadow 4, reason 1");
}

TEST(anything_else)
{
    static const uint8_t data[33];
    const char *expected = "not a record of a cow volume";
    assert_described(COW_LOG_ENTRIES, data, 33, expected);
    assert_described(COW_LOG_ENTRIES, data, 0, expected);
    assert_described(0, data, 32, expected);
    assert_described(999, data, 32, expected);
}

TEST_MAIN()
