/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The answers of a command that is a source: a line, and contents after an "ok".
 *
 *     ok LENGTH       that many bytes follow, at most what was asked for
 *     error TEXT      it does not have them
 *     later TEXT      it cannot tell now
 *
 * The command may be anything, so the line is bounded, numbers have one form only, and whatever
 * comes behind an answer before the next question is a breach.
 */
#include <errno.h>
#include <string.h>

#include "basic/error.h"
#include "restore/source-private.h"

void exec_reply_init(struct exec_reply *reply, void *to, uint32_t want)
{
    *reply = (struct exec_reply){.to = to, .want = want};
}

/* Digits, no sign, no leading zero, at most max. */
static bool parse_length(const char *text, uint32_t max, uint32_t *ret_value)
{
    uint64_t value = 0;

    if (*text == '\0' || (text[0] == '0' && text[1] != '\0'))
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > max)
            return false;
    }
    *ret_value = (uint32_t)value;
    return true;
}

static bool skip_word(const char *line, const char *word, const char **ret_rest)
{
    size_t len = strlen(word);

    if (strncmp(line, word, len) != 0)
        return false;
    *ret_rest = line + len;
    return true;
}

static int parse_line(struct exec_reply *reply)
{
    const char *rest;

    if (memchr(reply->line, '\0', reply->line_len))
        return error_note(-EPROTO, "its answer has a NUL byte");
    if (skip_word(reply->line, "ok ", &rest)) {
        if (!parse_length(rest, reply->want, &reply->len))
            return error_note(-EPROTO, "its answer has a bad length");
        reply->verdict = EXEC_OK;
    } else if (skip_word(reply->line, "error ", &reply->words)) {
        reply->verdict = EXEC_ERROR;
    } else if (skip_word(reply->line, "later ", &reply->words)) {
        reply->verdict = EXEC_LATER;
    } else {
        return error_note(-EPROTO, "it does not speak the protocol");
    }
    reply->has_line = true;
    return 0;
}

/* *ret_used of the bytes belong to the line. */
static int feed_line(struct exec_reply *reply, const char *data, size_t len, size_t *ret_used)
{
    const char *newline = memchr(data, '\n', len);
    size_t n = newline ? (size_t)(newline - data) : len;

    if (n >= EXEC_LINE_MAX - reply->line_len)
        return error_note(-EPROTO, "its answer has no end of line");
    memcpy(reply->line + reply->line_len, data, n);
    reply->line_len += (uint32_t)n;
    *ret_used = n + (newline != NULL);
    if (!newline)
        return 0;
    reply->line[reply->line_len] = '\0';
    return parse_line(reply);
}

int exec_reply_feed(struct exec_reply *reply, const void *data, size_t len)
{
    const char *from = data;
    size_t used = 0;

    if (len > 0 && !reply->has_line) {
        int r = feed_line(reply, from, len, &used);
        if (r < 0)
            return r;
    }
    if (len - used > reply->len - reply->got)
        return error_note(-EPROTO, "it says more than it was asked");
    if (len > used)
        memcpy(reply->to + reply->got, from + used, len - used);
    reply->got += (uint32_t)(len - used);
    return reply->has_line && reply->got == reply->len;
}
