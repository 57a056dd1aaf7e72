/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables of text for standard output: columns as wide as their widest cell. */
#pragma once

#include "repo/backup-object.h"

#define TABLE_COLUMNS_MAX 16

struct table {
    size_t column_count;
    const char *alignment;      /* one letter a column: 'L' or 'R' */
    struct string_vector cells; /* row by row */
};

void table_release(struct table *table);
void table_begin(struct table *table, size_t column_count, const char *alignment);
/* As many strings as there are columns; they are copied. */
void table_row(struct table *table, ...);
void table_print(const struct table *table);
