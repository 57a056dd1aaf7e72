/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The answers of commands, as bytes. */
#include "basic/test.h"
#include "restore/source-private.h"

#define WANT 8u

static const struct {
    const char *bytes;
    int result;
    enum exec_verdict verdict;
    const char *rest; /* contents or words */
} cases[] = {
    {"ok 8\nabcdefgh", 1, EXEC_OK, "abcdefgh"},
    {"ok 3\nabc", 1, EXEC_OK, "abc"},
    {"ok 0\n", 1, EXEC_OK, ""},
    {"ok 8\n\n\n\n\n\n\n\n\n", 1, EXEC_OK, "\n\n\n\n\n\n\n\n"},
    {"error no such file\n", 1, EXEC_ERROR, "no such file"},
    {"error \n", 1, EXEC_ERROR, ""},
    {"later in a minute\n", 1, EXEC_LATER, "in a minute"},
    {"", 0, EXEC_OK, ""},
    {"ok 8", 0, EXEC_OK, ""},
    {"ok 8\nabcdefg", 0, EXEC_OK, "abcdefg"},
    {"ok 9\n", -EPROTO, EXEC_OK, ""},
    {"ok 99999999999999999999999999\n", -EPROTO, EXEC_OK, ""},
    {"ok -1\n", -EPROTO, EXEC_OK, ""},
    {"ok +1\n", -EPROTO, EXEC_OK, ""},
    {"ok 01\n", -EPROTO, EXEC_OK, ""},
    {"ok 1 \na", -EPROTO, EXEC_OK, ""},
    {"ok  1\na", -EPROTO, EXEC_OK, ""},
    {"ok\n", -EPROTO, EXEC_OK, ""},
    {"ok \n", -EPROTO, EXEC_OK, ""},
    {"OK 1\na", -EPROTO, EXEC_OK, ""},
    {"ok 1\r\na", -EPROTO, EXEC_OK, ""},
    {"error\n", -EPROTO, EXEC_OK, ""},
    {"\n", -EPROTO, EXEC_OK, ""},
    {"ok 1\nab", -EPROTO, EXEC_OK, ""},
    {"error no\nmore", -EPROTO, EXEC_OK, ""},
};

static void expect_reply(const struct exec_reply *reply, size_t i)
{
    const char *rest = cases[i].rest;

    ASSERT_EQ(reply->verdict, cases[i].verdict);
    if (reply->verdict != EXEC_OK) {
        ASSERT_STREQ(reply->words, rest);
        return;
    }
    ASSERT_EQ(reply->got, strlen(rest));
    ASSERT_MEMEQ(reply->to, rest, strlen(rest));
}

TEST(answers_at_once)
{
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct exec_reply reply;
        uint8_t to[WANT];
        exec_reply_init(&reply, to, WANT);
        int r = exec_reply_feed(&reply, cases[i].bytes, strlen(cases[i].bytes));
        if (r != cases[i].result)
            test_fail(__FILE__, __LINE__, "'%s' gives %d", cases[i].bytes, r);
        if (r >= 0)
            expect_reply(&reply, i);
    }
}

TEST(answers_byte_by_byte)
{
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct exec_reply reply;
        uint8_t to[WANT];
        int r = 0;
        exec_reply_init(&reply, to, WANT);
        for (const char *p = cases[i].bytes; *p && r >= 0; p++)
            r = exec_reply_feed(&reply, p, 1);
        if (r != cases[i].result)
            test_fail(__FILE__, __LINE__, "'%s' gives %d", cases[i].bytes, r);
        if (r >= 0)
            expect_reply(&reply, i);
    }
}

TEST(a_nul_byte_is_no_text)
{
    struct exec_reply reply;

    exec_reply_init(&reply, NULL, 0);
    ASSERT_ERR(exec_reply_feed(&reply, "error a\0b\n", 10), -EPROTO);
}

TEST(a_line_has_an_end)
{
    char line[EXEC_LINE_MAX + 1];
    struct exec_reply reply;

    memset(line, 'x', sizeof(line));
    memcpy(line, "error ", 6);
    exec_reply_init(&reply, NULL, 0);
    ASSERT_ERR(exec_reply_feed(&reply, line, EXEC_LINE_MAX), -EPROTO);
    line[EXEC_LINE_MAX - 1] = '\n';
    exec_reply_init(&reply, NULL, 0);
    ASSERT_EQ(exec_reply_feed(&reply, line, EXEC_LINE_MAX), 1);
    ASSERT_EQ(strlen(reply.words), EXEC_LINE_MAX - 7u);
    for (size_t at = 0, r = 0; at < EXEC_LINE_MAX && r == 0; at++) { /* one by one */
        if (at == 0)
            exec_reply_init(&reply, NULL, 0);
        line[EXEC_LINE_MAX - 1] = 'x';
        int got = exec_reply_feed(&reply, line + at, 1);
        ASSERT_EQ(got < 0, at == EXEC_LINE_MAX - 1);
        r = got < 0;
    }
}

TEST_MAIN()
