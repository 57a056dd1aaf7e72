/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/options.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/text.h"

#define OPTIONS_MAX     64  /* of all sets together */
#define LONG_VALUE_BASE 256 /* getopt values of options are this + their index */

#define HELP_COLUMN 30
#define HELP_WIDTH  80

/* What getopt_long(3) wants to be told, made from the tables. */
struct parser {
    struct option longs[OPTIONS_MAX + 1];
    char letters[2 + 3 * OPTIONS_MAX + 1];
    const struct option_spec *specs[OPTIONS_MAX];
    void *values[OPTIONS_MAX];
    int count;
};

static void parser_add(struct parser *p, const struct option_spec *spec, void *values)
{
    assert(p->count < OPTIONS_MAX);
    int has_arg = spec->arg_optional          ? optional_argument
                  : spec->kind == OPTION_FLAG ? no_argument
                                              : required_argument;
    p->longs[p->count] =
        (struct option){.name = spec->name, .has_arg = has_arg, .val = LONG_VALUE_BASE + p->count};
    p->specs[p->count] = spec;
    p->values[p->count] = values;
    p->count++;

    if (spec->letter != 0) {
        size_t len = strlen(p->letters);
        p->letters[len++] = spec->letter;
        if (has_arg != no_argument)
            p->letters[len++] = ':';
        if (has_arg == optional_argument)
            p->letters[len] = ':';
    }
}

static void parser_init(struct parser *p, const struct option_set *sets, size_t set_count,
                        enum option_order order)
{
    memset(p, 0, sizeof(*p));
    /* '+': stop at the first word; ':': tell a missing argument from an unknown option. */
    p->letters[0] = order == OPTIONS_BEFORE_WORDS ? '+' : ':';
    if (order == OPTIONS_BEFORE_WORDS)
        p->letters[1] = ':';
    for (size_t i = 0; i < set_count; i++)
        for (const struct option_spec *spec = sets[i].specs; spec->name; spec++)
            parser_add(p, spec, sets[i].values);
}

/* Index of the option that getopt returned or complained about; -1 when it is none of ours. */
static int parser_index(const struct parser *p, int value)
{
    if (value >= LONG_VALUE_BASE && value - LONG_VALUE_BASE < p->count)
        return value - LONG_VALUE_BASE;
    for (int i = 0; i < p->count; i++)
        if (value != 0 && p->specs[i]->letter == value)
            return i;
    return -1;
}

static int check_range(const struct option_spec *spec, const char *text, uint64_t value)
{
    if (value >= spec->min && value <= spec->max)
        return 0;
    if (spec->kind == OPTION_NUMBER)
        return error_note(-UMBRA_E_USAGE,
                          "bad value '%s' for --%s: expected %" PRIu64 " to %" PRIu64, text,
                          spec->name, spec->min, spec->max);
    char min[16], max[16];
    return error_note(-UMBRA_E_USAGE, "bad value '%s' for --%s: expected %s to %s", text,
                      spec->name, text_format_bytes(spec->min, min),
                      text_format_bytes(spec->max, max));
}

static int parse_bytes(const struct option_spec *spec, const char *text, uint64_t *ret_value)
{
    uint64_t value;
    if (text_parse_bytes(text, &value) < 0)
        return error_note(-UMBRA_E_USAGE,
                          "bad value '%s' for --%s: expected a size such as 512K or 8M", text,
                          spec->name);
    int r = check_range(spec, text, value);
    if (r < 0)
        return r;
    *ret_value = value;
    return 0;
}

static int parse_number(const struct option_spec *spec, const char *text, uint64_t *ret_value)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    /* strtoull takes blanks and signs, too: a number here begins with a digit. */
    if (errno != 0 || *end != '\0' || text[0] < '0' || text[0] > '9')
        return error_note(-UMBRA_E_USAGE, "bad value '%s' for --%s: expected a number", text,
                          spec->name);
    int r = check_range(spec, text, value);
    if (r < 0)
        return r;
    *ret_value = value;
    return 0;
}

static int option_set_value(const struct option_spec *spec, void *values, const char *text)
{
    void *value = (char *)values + spec->offset;
    switch (spec->kind) {
    case OPTION_FLAG: *(bool *)value = true; return 0;
    case OPTION_STRING: *(const char **)value = text ? text : ""; return 0;
    case OPTION_LIST: {
        struct option_item item = {.value = text, .spec = spec};
        return option_list_push(value, &item);
    }
    case OPTION_BYTES: return parse_bytes(spec, text, value);
    case OPTION_NUMBER: return parse_number(spec, text, value);
    }
    assert(false);
    return -EINVAL;
}

/* getopt_long returned '?' or ':': say what was wrong with the word before optind. */
static int usage_error(const struct parser *p, int result, char **argv)
{
    int index = parser_index(p, optopt);
    if (result == ':')
        return error_note(-UMBRA_E_USAGE, "option --%s needs a value",
                          index >= 0 ? p->specs[index]->name : "?");
    if (index >= 0)
        return error_note(-UMBRA_E_USAGE, "option --%s takes no value", p->specs[index]->name);
    if (optopt != 0)
        return error_note(-UMBRA_E_USAGE, "unknown option '-%c'", optopt);
    CLEANUP_FREE char *word = text_escape(argv[optind - 1], strlen(argv[optind - 1]));
    return error_note(-UMBRA_E_USAGE, "unknown or ambiguous option '%s'", word ? word : "");
}

int options_parse(const struct option_set *sets, size_t set_count, enum option_order order,
                  int argc, char **argv, int *ret_index)
{
    struct parser parser;
    parser_init(&parser, sets, set_count, order);

    optind = 0; /* glibc: start afresh, also for another argv */
    opterr = 0;
    for (;;) {
        int result = getopt_long(argc, argv, parser.letters, parser.longs, NULL);
        if (result == -1)
            break;
        int index = result == '?' || result == ':' ? -1 : parser_index(&parser, result);
        if (index < 0)
            return usage_error(&parser, result, argv);
        int r = option_set_value(parser.specs[index], parser.values[index], optarg);
        if (r < 0)
            return r;
    }
    *ret_index = optind;
    return 0;
}

void options_release(const struct option_set *set)
{
    for (const struct option_spec *spec = set->specs; spec->name; spec++)
        if (spec->kind == OPTION_LIST)
            option_list_release((struct option_list *)(void *)((char *)set->values + spec->offset));
}

/* Prints text word by word from the given column on; further lines begin at HELP_COLUMN. */
static void print_wrapped(FILE *file, const char *text, size_t column)
{
    const char *space = "";
    while (*text != '\0') {
        size_t len = strcspn(text, " ");
        if (column + strlen(space) + len > HELP_WIDTH && *space != '\0') {
            fprintf(file, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
            space = "";
        }
        fprintf(file, "%s%.*s", space, (int)len, text);
        column += strlen(space) + len;
        text += len;
        text += strspn(text, " ");
        space = " ";
    }
    fputc('\n', file);
}

static void print_option(FILE *file, const struct option_spec *spec)
{
    char head[64];
    const char *open = spec->arg_optional ? "[=" : " ", *close = spec->arg_optional ? "]" : "";
    int len = snprintf(head, sizeof(head), "  %c%c%c --%s%s%s%s", spec->letter ? '-' : ' ',
                       spec->letter ? spec->letter : ' ', spec->letter ? ',' : ' ', spec->name,
                       spec->arg ? open : "", spec->arg ? spec->arg : "", spec->arg ? close : "");
    assert(len > 0 && (size_t)len < sizeof(head));
    if (len + 2 > HELP_COLUMN)
        fprintf(file, "%s\n%*s", head, HELP_COLUMN, "");
    else
        fprintf(file, "%-*s", HELP_COLUMN, head);
    print_wrapped(file, spec->help, HELP_COLUMN);
}

void options_print_help(FILE *file, const struct option_spec *specs)
{
    for (const struct option_spec *spec = specs; spec->name; spec++)
        print_option(file, spec);
}
