/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Command-line options as tables.
 *
 * A verb describes its options in one constant table; parsing, the checks of values and the text of
 * --help all come from it.  An option writes into a struct of values through its offset:
 *
 *     struct ls_values { bool long_format; };
 *     static const struct option_spec ls_options[] = {
 *         {'l', "long", OPTION_FLAG, offsetof(struct ls_values, long_format), .help = "..."},
 *         {0},
 *     };
 *
 * Values start as zeros, which always means "not given".
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "basic/macro.h"
#include "basic/vector.h"

enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_STRING, /* const char *, pointing into argv; "" when optional and without a value */
    OPTION_LIST,   /* struct option_list: each use adds one item */
    OPTION_BYTES,  /* uint64_t: "512K", "8M", ...; within min and max */
    OPTION_NUMBER, /* uint64_t, decimal; within min and max */
};

struct option_spec {
    char letter;      /* 0: none */
    const char *name; /* without the dashes; NULL ends the table */
    enum option_kind kind;
    size_t offset;    /* of the value, in the struct of values */
    const char *arg;  /* name of the argument in the help text; NULL for flags */
    const char *help; /* lower case, no full stop; wrapped when printed */
    uint64_t min, max;
    bool arg_optional; /* "--name" or "--name=VALUE"; OPTION_STRING only */
};

/* Options that share one list (equal offsets) keep their common order: spec says which one it was.
 */
struct option_item {
    const char *value; /* into argv */
    const struct option_spec *spec;
};
DEFINE_VECTOR(option_list, struct option_item);

/* A table together with the struct it fills. */
struct option_set {
    const struct option_spec *specs;
    void *values;
};

enum option_order {
    OPTIONS_ANYWHERE,     /* words are moved behind the options */
    OPTIONS_BEFORE_WORDS, /* stops at the first word */
};

/*
 * Parses argv[1] and what follows; argv[0] is skipped.  On success *ret_index is the index of the
 * first word in argv (argc when there is none).  -UMBRA_E_USAGE with a note.
 */
_must_check_ int options_parse(const struct option_set *sets, size_t set_count,
                               enum option_order order, int argc, char **argv, int *ret_index);

/* Frees the lists in the values; borrowed strings stay what they are. */
void options_release(const struct option_set *set);

/* One paragraph an option, wrapped at 80 columns. */
void options_print_help(FILE *file, const struct option_spec *specs);
