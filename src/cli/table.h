/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables of text for standard output: columns as wide as their widest cell. */
#pragma once

#include "repo/backup-object.h"

#define TABLE_COLUMNS_MAX 16

struct text_table {
    size_t column_count;
    const char *alignment;      /* one letter a column: 'L' or 'R' */
    struct string_vector cells; /* row by row */
};

void text_table_release(struct text_table *table);
void text_table_begin(struct text_table *table, size_t column_count, const char *alignment);
/* As many strings as there are columns; they are copied. */
void text_table_row(struct text_table *table, ...);
void text_table_print(const struct text_table *table);
