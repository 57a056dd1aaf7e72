/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is a file of exclude rules, a NUL byte, and paths with a NUL byte after each.  What the
 * set says of a path must be what the last of its rules says that has an opinion.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "tree/exclude.h"

#define RULES_MAX 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* One rule by itself, without its '!'. */
struct single {
    struct exclude_set *set;
    bool is_negated;
};

static struct exclude_set *new_set(void)
{
    struct exclude_set *set = NULL;
    if (exclude_set_new(&set) < 0)
        abort();
    return set;
}

/* Length of the line with its newline. */
static size_t line_len(const char *text, size_t len)
{
    const char *newline = memchr(text, '\n', len);
    return newline ? (size_t)(newline - text) + 1 : len;
}

/* Adds the line to the set, and by itself to singles.  Returns how many rules there are then. */
static size_t add_line(struct exclude_set *all, struct single *singles, size_t count,
                       const char *line, size_t len)
{
    size_t skip = line[0] == '!' ? 1 : 0;
    /* Some patterns would be something else at the beginning of a line: '!', '#', a byte order
     * mark. */
    if (count == RULES_MAX || (skip < len && strchr("!#\xef", line[skip])) ||
        exclude_set_parse(all, line, len, "input") < 0)
        return count;
    struct single *single = &singles[count];
    single->set = new_set();
    single->is_negated = skip > 0;
    if (exclude_set_parse(single->set, line + skip, len - skip, "input") < 0)
        abort(); /* it was fine with its '!' */
    return count + 1;
}

static void check_path(const struct exclude_set *all, const struct single *singles, size_t count,
                       const char *path, size_t len)
{
    for (int is_directory = 0; is_directory < 2; is_directory++) {
        bool expected = false;
        for (size_t i = 0; i < count; i++)
            if (exclude_set_match(singles[i].set, path, len, is_directory))
                expected = !singles[i].is_negated;
        if (exclude_set_match(all, path, len, is_directory) != expected)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(exclude_set_freep) struct exclude_set *all = new_set();
    struct single singles[RULES_MAX];
    size_t count = 0;
    const char *text = (const char *)data;
    const char *nul = len > 0 ? memchr(text, '\0', len) : NULL;
    size_t rules_len = nul ? (size_t)(nul - text) : len;
    for (size_t at = 0; at < rules_len;) {
        size_t line = line_len(text + at, rules_len - at);
        count = add_line(all, singles, count, text + at, line);
        at += line;
    }
    for (size_t at = rules_len + 1; at < len;) {
        const char *end = memchr(text + at, '\0', len - at);
        size_t path_len = end ? (size_t)(end - (text + at)) : len - at;
        if (path_len > 0 && text[at + path_len - 1] != '/')
            check_path(all, singles, count, text + at, path_len);
        at += path_len + 1;
    }
    for (size_t i = 0; i < count; i++)
        exclude_set_free(singles[i].set);
    return 0;
}
