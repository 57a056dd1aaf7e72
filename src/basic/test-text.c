/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/cleanup.h"
#include "basic/test.h"
#include "basic/text.h"

TEST(hex_both_ways)
{
    uint8_t data[4] = {0x00, 0x9f, 0xaB, 0xff}, back[4];
    char text[9];

    hex_encode(data, 4, text);
    ASSERT_STREQ(text, "009fabff");
    ASSERT_OK(hex_decode(text, back, 4));
    ASSERT_MEMEQ(data, back, 4);
    ASSERT_OK(hex_decode("009FABFF", back, 4));
    ASSERT_MEMEQ(data, back, 4);
}

TEST(hex_wants_exact_digits)
{
    uint8_t back[2] = {7, 7};

    ASSERT_ERR(hex_decode("123", back, 2), -EINVAL);
    ASSERT_ERR(hex_decode("12345", back, 2), -EINVAL);
    ASSERT_ERR(hex_decode("12g4", back, 2), -EINVAL);
    ASSERT_ERR(hex_decode("", back, 2), -EINVAL);
    ASSERT_EQ(back[0], 7);
    ASSERT_OK(hex_decode("", back, 0));
}

static void assert_escaped(const char *data, size_t len, const char *expected)
{
    CLEANUP_FREE char *text = text_escape(data, len);
    ASSERT_STREQ(text, expected);
}

TEST(escape)
{
    assert_escaped("plain name", 10, "plain name");
    assert_escaped("", 0, "");
    assert_escaped("a\nb\\c\x7f", 6, "a\\x0ab\\x5cc\\x7f");
    assert_escaped("gr\xc3\xbc\xc3\x9f", 6, "gr\xc3\xbc\xc3\x9f");
    assert_escaped("\xe2\x82\xac", 3, "\xe2\x82\xac");
    assert_escaped("\xf0\x9f\x98\x80", 4, "\xf0\x9f\x98\x80");
    assert_escaped("nul\0in", 6, "nul\\x00in");
}

TEST(escape_refuses_bad_utf8)
{
    assert_escaped("\xc3", 1, "\\xc3");                            /* cut off */
    assert_escaped("\xc0\xaf", 2, "\\xc0\\xaf");                   /* overlong slash */
    assert_escaped("\xe0\x80\xaf", 3, "\\xe0\\x80\\xaf");          /* overlong */
    assert_escaped("\xed\xa0\x80", 3, "\\xed\\xa0\\x80");          /* surrogate */
    assert_escaped("\xf4\x90\x80\x80", 4, "\\xf4\\x90\\x80\\x80"); /* above U+10FFFF */
    assert_escaped("\xc2\x9b", 2, "\\xc2\\x9b");                   /* CSI, a C1 control */
    assert_escaped("\xe2\x82(", 3, "\\xe2\\x82(");
}

TEST(unescape_is_the_way_back)
{
    uint64_t seed = 7;
    for (size_t len = 0; len < 200; len++) {
        uint8_t data[200];
        test_random_fill(&seed, data, len);
        CLEANUP_FREE char *text = text_escape(data, len);
        CLEANUP_FREE char *back = NULL;
        size_t back_len;
        ASSERT_OK(text_unescape(text, strlen(text), &back, &back_len));
        ASSERT_EQ(back_len, len);
        ASSERT_MEMEQ(back, data, len);
        ASSERT_EQ(back[len], 0);
    }
}

TEST(unescape_refuses_what_escape_never_writes)
{
    static const char *const wrong[] = {"\\", "a\\x", "\\x4", "\\n", "\\\\", "\\x4g", "\\X41"};
    for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
        char *back;
        size_t back_len;
        ASSERT_ERR(text_unescape(wrong[i], strlen(wrong[i]), &back, &back_len), -EINVAL);
    }
}

static void assert_bytes(uint64_t bytes, const char *expected)
{
    char text[16];
    ASSERT_STREQ(text_format_bytes(bytes, text), expected);
}

TEST(format_bytes)
{
    assert_bytes(0, "0 B");
    assert_bytes(999, "999 B");
    assert_bytes(1000, "0.98 KiB"); /* three digits, never four */
    assert_bytes(1024, "1.00 KiB");
    assert_bytes(1536, "1.50 KiB");
    assert_bytes(MIB - 1, "1.00 MiB"); /* never 1024 KiB */
    assert_bytes(10 * MIB + MIB / 4, "10.2 MiB");
    assert_bytes(100 * GIB, "100 GiB");
    assert_bytes(999 * GIB, "999 GiB");
    assert_bytes(1000 * GIB, "0.98 TiB");
    assert_bytes(UINT64_MAX, "16.0 EiB");
}

TEST(format_time)
{
    char text[40];

    ASSERT_STREQ(text_format_time(0, text), "1970-01-01T00:00:00Z");
    ASSERT_STREQ(text_format_time(1795235878 * INT64_C(1000000000), text), "2026-11-21T04:37:58Z");
    ASSERT_STREQ(text_format_time(1500000000, text), "1970-01-01T00:00:01.500000000Z");
    ASSERT_STREQ(text_format_time(-1, text), "1969-12-31T23:59:59.999999999Z");
    ASSERT_STREQ(text_format_time(INT64_MIN, text), "1677-09-21T00:12:43.145224192Z");
    ASSERT_STREQ(text_format_time(INT64_MAX, text), "2262-04-11T23:47:16.854775807Z");
}

TEST(parse_bytes)
{
    static const char *const bad[] = {
        "", "K", "-1", "1.5G", "1X", "8m", "1KB", " 1", "1 ", "18446744073709551616", "16777216T"};
    uint64_t n = 7;

    ASSERT_OK(text_parse_bytes("512", &n));
    ASSERT_EQ(n, 512);
    ASSERT_OK(text_parse_bytes("512K", &n));
    ASSERT_EQ(n, 512 * KIB);
    ASSERT_OK(text_parse_bytes("8M", &n));
    ASSERT_EQ(n, 8 * MIB);
    ASSERT_OK(text_parse_bytes("1T", &n));
    ASSERT_EQ(n, 1024 * GIB);
    n = 7;
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        ASSERT_ERR(text_parse_bytes(bad[i], &n), -EINVAL);
    ASSERT_EQ(n, 7);
}

TEST_MAIN()
