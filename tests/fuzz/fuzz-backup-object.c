/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is the plain body of a backup object.  What parses must encode, and what was encoded
 * must parse to the same. */
#include <stdlib.h>
#include <string.h>

#include "repo/backup-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* false: the bytes are refused. */
static bool parse_and_encode(const void *data, size_t len, struct buffer *ret_body)
{
    CLEANUP(pack_table_freep) struct pack_table *names = NULL;
    CLEANUP(backup_release) struct backup backup = {0};

    if (pack_table_new(&names) < 0 || backup_parse(data, len, names, &backup) < 0)
        return false;
    if (backup_encode(&backup, names, ret_body) < 0)
        abort();
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(buffer_release) struct buffer once = {0}, twice = {0};

    if (!parse_and_encode(data, len, &once))
        return 0;
    if (!parse_and_encode(once.data, once.len, &twice) || once.len != twice.len ||
        memcmp(once.data, twice.data, once.len) != 0)
        abort();
    return 0;
}
