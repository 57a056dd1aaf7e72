/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is an instruction of a tree's log, with the attributes in it, or a note of an
 * unfinished change.  What decodes must encode to the very bytes it came from.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "treetx/attributes.h"
#include "treetx/instruction.h"
#include "treetx/note.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void expect_same(const struct buffer *b, const uint8_t *data, size_t len)
{
    if (b->failed || b->len != len || memcmp(b->data, data, len) != 0)
        abort();
}

static void expect_refused(int r)
{
    if (r != -UMBRA_E_CORRUPT && r != -UMBRA_E_VERSION)
        abort();
}

static void try_attributes(const struct instruction *i)
{
    CLEANUP(entry_release) struct entry e = {0};

    if (i->kind != INSTRUCTION_META)
        return;
    int r = attributes_decode(i->meta, i->meta_len, &e);
    if (r < 0)
        expect_refused(r);
}

static void try_instruction(const uint8_t *data, size_t len)
{
    CLEANUP(instruction_storage_release) struct instruction_storage storage = {0};
    CLEANUP(buffer_release) struct buffer b = {0};
    struct instruction i;
    char text[64];

    instruction_describe(data, len, text, sizeof(text));
    if (strlen(text) >= sizeof(text))
        abort();
    int r = instruction_decode(data, len, &i, &storage);
    if (r < 0) {
        expect_refused(r);
        return;
    }
    instruction_put(&b, &i);
    expect_same(&b, data, len);
    try_attributes(&i);
}

static void try_note(const uint8_t *data, size_t len)
{
    CLEANUP(note_release) struct note note = {0};
    CLEANUP(buffer_release) struct buffer b = {0};

    int r = note_decode(data, len, &note);
    if (r < 0)
        expect_refused(r);
    else if (note_encode(&note, &b) < 0)
        abort();
    else
        expect_same(&b, data, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    try_instruction(data, len);
    try_note(data, len);
    return 0;
}
