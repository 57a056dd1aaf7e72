/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/options.h"

#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/test.h"

struct values {
    bool flag, other;
    const char *text, *optional;
    struct option_list list;
    uint64_t size, number;
};

static const struct option_spec specs[] = {
    {'f', "flag", OPTION_FLAG, offsetof(struct values, flag), .help = "a flag"},
    {0, "other", OPTION_FLAG, offsetof(struct values, other), .help = "another"},
    {'t', "text", OPTION_STRING, offsetof(struct values, text), .arg = "TEXT", .help = "a text"},
    {0, "optional", OPTION_STRING, offsetof(struct values, optional), .arg = "TEXT",
     .help = "with or without a value", .arg_optional = true},
    {'e', "exclude", OPTION_LIST, offsetof(struct values, list), .arg = "P", .help = "a pattern"},
    {0, "exclude-file", OPTION_LIST, offsetof(struct values, list), .arg = "FILE",
     .help = "patterns of a file, explained in so many words that the text must be wrapped"},
    {0, "size", OPTION_BYTES, offsetof(struct values, size), .arg = "SIZE", .help = "a size",
     .min = 1024, .max = 1 << 20},
    {'n', "number", OPTION_NUMBER, offsetof(struct values, number), .arg = "N", .help = "a number",
     .min = 1, .max = 19},
    {0},
};

/* Parses the words up to NULL. */
static int parse(struct values *values, enum option_order order, int *ret_index, char *argv[])
{
    int argc = 0;
    while (argv[argc])
        argc++;
    struct option_set set = {.specs = specs, .values = values};
    return options_parse(&set, 1, order, argc, argv, ret_index);
}

/* getopt moves the words, but does not write into them. */
#define W(text)    ((char *)(uintptr_t)(text))
#define WORDS(...) ((char *[]){W("verb"), __VA_ARGS__, NULL})

static void release(struct values *values)
{
    options_release(&(struct option_set){.specs = specs, .values = values});
}

TEST(every_kind)
{
    CLEANUP(release) struct values v = {0};
    int index;
    ASSERT_OK(parse(&v, OPTIONS_ANYWHERE, &index,
                    WORDS(W("-f"), W("--text=a b"), W("--size"), W("64K"), W("-n"), W("19"),
                          W("--exclude"), W("x"), W("word"))));
    ASSERT_TRUE(v.flag);
    ASSERT_FALSE(v.other);
    ASSERT_STREQ(v.text, "a b");
    ASSERT_EQ(v.size, 65536);
    ASSERT_EQ(v.number, 19);
    ASSERT_EQ(v.list.count, 1);
    ASSERT_EQ(index, 9);
}

TEST(words_may_stand_anywhere)
{
    CLEANUP(release) struct values v = {0};
    char **argv = WORDS(W("one"), W("-f"), W("two"), W("--"), W("-t"));
    int index;
    ASSERT_OK(parse(&v, OPTIONS_ANYWHERE, &index, argv));
    ASSERT_TRUE(v.flag);
    ASSERT_TRUE(v.text == NULL);
    ASSERT_EQ(index, 3);
    ASSERT_STREQ(argv[3], "one");
    ASSERT_STREQ(argv[4], "two");
    ASSERT_STREQ(argv[5], "-t");
}

TEST(stops_before_the_first_word_when_asked)
{
    CLEANUP(release) struct values v = {0};
    char **argv = WORDS(W("-f"), W("list"), W("--other"), W("--unknown"));
    int index;
    ASSERT_OK(parse(&v, OPTIONS_BEFORE_WORDS, &index, argv));
    ASSERT_TRUE(v.flag);
    ASSERT_FALSE(v.other);
    ASSERT_EQ(index, 2);
    ASSERT_STREQ(argv[2], "list");
}

TEST(optional_value)
{
    CLEANUP(release) struct values v = {0};
    int index;
    ASSERT_OK(parse(&v, OPTIONS_ANYWHERE, &index, WORDS(W("--optional"), W("word"))));
    ASSERT_STREQ(v.optional, "");
    ASSERT_EQ(index, 2);
    ASSERT_OK(parse(&v, OPTIONS_ANYWHERE, &index, WORDS(W("--optional=5%"))));
    ASSERT_STREQ(v.optional, "5%");
}

TEST(options_of_one_list_keep_their_order)
{
    CLEANUP(release) struct values v = {0};
    int index;
    ASSERT_OK(parse(&v, OPTIONS_ANYWHERE, &index,
                    WORDS(W("-e"), W("a"), W("--exclude-file=b"), W("--exclude"), W("c"))));
    ASSERT_EQ(v.list.count, 3);
    ASSERT_STREQ(v.list.items[0].value, "a");
    ASSERT_STREQ(v.list.items[0].spec->name, "exclude");
    ASSERT_STREQ(v.list.items[1].value, "b");
    ASSERT_STREQ(v.list.items[1].spec->name, "exclude-file");
    ASSERT_STREQ(v.list.items[2].value, "c");
}

TEST(two_sets_together)
{
    struct values a = {0}, b = {0};
    static const struct option_spec more[] = {
        {'m', "more", OPTION_FLAG, offsetof(struct values, other), .help = "more"}, {0}};
    const struct option_set sets[] = {{specs, &a}, {more, &b}};
    char **argv = WORDS(W("-m"), W("-f"));
    int index;
    ASSERT_OK(options_parse(sets, 2, OPTIONS_ANYWHERE, 3, argv, &index));
    ASSERT_TRUE(a.flag);
    ASSERT_FALSE(a.other);
    ASSERT_TRUE(b.other);
}

/* What is wrong must be said, with the word that is wrong. */
static void expect_error(char *argv[], const char *words)
{
    CLEANUP(release) struct values v = {0};
    int index = -1;
    ASSERT_ERR(parse(&v, OPTIONS_ANYWHERE, &index, argv), -UMBRA_E_USAGE);
    if (!strstr(error_text(-UMBRA_E_USAGE), words))
        test_fail(__FILE__, __LINE__, "'%s' does not say '%s'", error_text(-UMBRA_E_USAGE), words);
    ASSERT_EQ(index, -1);
}

TEST(errors_name_the_option)
{
    expect_error(WORDS(W("--bogus")), "option '--bogus'");
    expect_error(WORDS(W("-z")), "option '-z'");
    expect_error(WORDS(W("--text")), "--text needs a value");
    expect_error(WORDS(W("-t")), "--text needs a value");
    expect_error(WORDS(W("--flag=1")), "--flag takes no value");
    expect_error(WORDS(W("--o")), "ambiguous option '--o'");
}

TEST(values_are_checked)
{
    expect_error(WORDS(W("--size=12Q")), "'12Q' for --size");
    expect_error(WORDS(W("--size=1")), "1.00 KiB to 1.00 MiB");
    expect_error(WORDS(W("--size=2M")), "'2M' for --size");
    expect_error(WORDS(W("--number=0")), "1 to 19");
    expect_error(WORDS(W("--number=20")), "1 to 19");
    expect_error(WORDS(W("--number=-3")), "expected a number");
    expect_error(WORDS(W("--number= 3")), "expected a number");
    expect_error(WORDS(W("--number=3x")), "expected a number");
    expect_error(WORDS(W("--number=")), "expected a number");
    expect_error(WORDS(W("--number=99999999999999999999")), "expected a number");
}

TEST(hostile_words_are_escaped)
{
    expect_error(WORDS(W("--bo\ngus")), "--bo\\x0agus");
}

TEST(help_has_every_option_within_80_columns)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    ASSERT_TRUE(file != NULL);
    options_print_help(file, specs);
    ASSERT_EQ(fclose(file), 0);

    ASSERT_TRUE(strstr(text, "  -f, --flag                  a flag\n") != NULL);
    ASSERT_TRUE(strstr(text, "  -n, --number N ") != NULL);
    ASSERT_TRUE(strstr(text, "      --optional[=TEXT] ") != NULL);
    for (const struct option_spec *spec = specs; spec->name; spec++)
        ASSERT_TRUE(strstr(text, spec->name) != NULL);
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        ASSERT_LE(strlen(line), 80);
}

TEST_MAIN()
