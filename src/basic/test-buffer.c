/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/test.h"

static const uint64_t samples[] = {
    0, 1, 127, 128, 300, 16383, 16384, UINT32_MAX, (uint64_t)1 << 63, UINT64_MAX - 1, UINT64_MAX,
};

TEST(fixed_integers_are_little_endian)
{
    static const uint8_t expected[] = {0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f,
                                       0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08};
    CLEANUP(buffer_release) struct buffer b = {0};

    buffer_put_u8(&b, 0x01);
    buffer_put_u16(&b, 0x0203);
    buffer_put_u32(&b, 0x04050607);
    buffer_put_u64(&b, 0x08090a0b0c0d0e0f);
    ASSERT_OK(buffer_finish(&b));
    ASSERT_EQ(b.len, sizeof(expected));
    ASSERT_MEMEQ(b.data, expected, sizeof(expected));

    struct reader r = reader_make(b.data, b.len);
    ASSERT_EQ(reader_u8(&r), 0x01);
    ASSERT_EQ(reader_u16(&r), 0x0203);
    ASSERT_EQ(reader_u32(&r), 0x04050607);
    ASSERT_EQ(reader_u64(&r), 0x08090a0b0c0d0e0f);
    ASSERT_OK(reader_finish_at_end(&r));
}

TEST(varint_round_trip)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
        buffer_put_varint(&b, samples[i]);
        buffer_put_zigzag(&b, (int64_t)samples[i]);
    }
    ASSERT_OK(buffer_finish(&b));
    struct reader r = reader_make(b.data, b.len);
    for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
        ASSERT_EQ(reader_varint(&r), samples[i]);
        ASSERT_EQ(reader_zigzag(&r), samples[i]);
    }
    ASSERT_OK(reader_finish_at_end(&r));
}

TEST(varint_known_bytes)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    buffer_put_varint(&b, 300);
    buffer_put_zigzag(&b, -1);
    ASSERT_EQ(b.len, 3);
    ASSERT_MEMEQ(b.data, "\xac\x02\x01", 3);
}

static void assert_varint_refused(const char *bytes, size_t len)
{
    struct reader r = reader_make(bytes, len);

    ASSERT_EQ(reader_varint(&r), 0);
    ASSERT_ERR(reader_finish(&r), -UMBRA_E_CORRUPT);
    /* Sticky: nothing more is handed out. */
    ASSERT_EQ(reader_left(&r), 0);
    ASSERT_TRUE(reader_get(&r, 0) == NULL);
}

TEST(bad_varints_are_refused)
{
    assert_varint_refused("", 0);
    assert_varint_refused("\x80", 1);
    assert_varint_refused("\x80\x00", 2);                                  /* not the shortest */
    assert_varint_refused("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10); /* 65 bits */
    assert_varint_refused("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11);
}

TEST(varint_max_is_a_bound)
{
    struct reader r = reader_make("\x05\x06", 2);

    ASSERT_EQ(reader_varint_max(&r, 5), 5);
    ASSERT_OK(reader_finish(&r));
    ASSERT_EQ(reader_varint_max(&r, 5), 0);
    ASSERT_ERR(reader_finish(&r), -UMBRA_E_CORRUPT);
}

TEST(blob_and_string)
{
    CLEANUP(buffer_release) struct buffer b = {0};
    size_t len;

    buffer_put_blob(&b, "a\0b", 3);
    buffer_put_string(&b, "name");
    buffer_put_string(&b, "");
    ASSERT_OK(buffer_finish(&b));

    struct reader r = reader_make(b.data, b.len);
    const uint8_t *blob = reader_blob(&r, 3, &len);
    ASSERT_EQ(len, 3);
    ASSERT_MEMEQ(blob, "a\0b", 3);
    CLEANUP_FREE char *name = reader_string(&r, 4);
    ASSERT_STREQ(name, "name");
    CLEANUP_FREE char *empty = reader_string(&r, 4);
    ASSERT_STREQ(empty, "");
    ASSERT_OK(reader_finish_at_end(&r));

    r = reader_make(b.data, b.len);
    ASSERT_TRUE(reader_blob(&r, 2, &len) == NULL); /* longer than the bound */
    ASSERT_EQ(len, 0);
    ASSERT_ERR(reader_finish(&r), -UMBRA_E_CORRUPT);

    r = reader_make(b.data, b.len);
    ASSERT_TRUE(reader_string(&r, 100) == NULL); /* a NUL inside */
    ASSERT_ERR(reader_finish(&r), -UMBRA_E_CORRUPT);
}

TEST(read_past_the_end_gives_zeros)
{
    uint8_t data[4] = {1, 1, 1, 1};
    struct reader r = reader_make("\x01\x02", 2);

    reader_copy(&r, data, sizeof(data));
    ASSERT_MEMEQ(data, "\0\0\0\0", 4);
    ASSERT_EQ(reader_u8(&r), 0);
    ASSERT_ERR(reader_finish_at_end(&r), -UMBRA_E_CORRUPT);
}

TEST(left_over_bytes_fail_only_at_end)
{
    struct reader r = reader_make("\x01\x02", 2);

    ASSERT_EQ(reader_u8(&r), 1);
    ASSERT_OK(reader_finish(&r));
    ASSERT_ERR(reader_finish_at_end(&r), -UMBRA_E_CORRUPT);
}

TEST(impossible_size_fails_for_good)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    buffer_put_u8(&b, 7);
    ASSERT_TRUE(buffer_extend(&b, SIZE_MAX) == NULL);
    buffer_put_u8(&b, 8);
    ASSERT_EQ(b.len, 1);
    ASSERT_ERR(buffer_finish(&b), -ENOMEM);
    buffer_clear(&b);
    ASSERT_OK(buffer_finish(&b));
}

TEST(reserved_room_does_not_move)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    buffer_reserve(&b, 1000);
    const uint8_t *data = b.data;
    for (int i = 0; i < 1000; i++)
        buffer_put_u8(&b, 1);
    ASSERT_TRUE(b.data == data);
}

TEST_MAIN()
