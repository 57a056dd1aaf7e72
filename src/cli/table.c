/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/output.h"

void text_table_release(struct text_table *table)
{
    string_vector_release_all(&table->cells);
}

void text_table_begin(struct text_table *table, size_t column_count, const char *alignment)
{
    assert(column_count > 0 && column_count <= TABLE_COLUMNS_MAX);
    assert(strlen(alignment) == column_count);
    *table = (struct text_table){.column_count = column_count, .alignment = alignment};
}

void text_table_row(struct text_table *table, ...)
{
    va_list ap;
    va_start(ap, table);
    for (size_t i = 0; i < table->column_count; i++) {
        if (string_vector_add(&table->cells, va_arg(ap, const char *)) < 0) {
            talk("cannot print a table: out of memory");
            _exit(1);
        }
    }
    va_end(ap);
}

/* Characters, not bytes: cells are valid UTF-8, in which only bytes 10xxxxxx continue one.  Wide
 * and combining characters are counted as one column each; the table is only for the eye. */
static size_t text_columns(const char *text)
{
    size_t columns = 0;
    for (; *text != '\0'; text++)
        columns += ((unsigned char)*text & 0xc0u) != 0x80;
    return columns;
}

static void print_cell(const char *text, size_t width, char alignment, bool last)
{
    int padding = (int)(width - text_columns(text));
    if (alignment == 'R')
        printf("%*s%s", padding, "", text);
    else
        printf("%s%*s", text, last ? 0 : padding, "");
}

void text_table_print(const struct text_table *table)
{
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < table->cells.count; i++) {
        size_t *width = &widths[i % table->column_count];
        size_t columns = text_columns(table->cells.items[i]);
        *width = columns > *width ? columns : *width;
    }
    for (size_t i = 0; i < table->cells.count; i++) {
        size_t column = i % table->column_count;
        bool last = column == table->column_count - 1;
        print_cell(table->cells.items[i], widths[column], table->alignment[column], last);
        fputs(last ? "\n" : "  ", stdout);
    }
}
