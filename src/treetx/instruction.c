/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/instruction.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/text.h"
#include "tree/key.h"
#include "treetx/treetx.h"

#define META_LEN_MAX (1u << 24) /* the log has a limit of its own, far below */

static const struct {
    const char *name;
    unsigned fields;
} kinds[] = {
#define X(name_, text_, fields_) [INSTRUCTION_##name_] = {.name = (text_), .fields = (fields_)},
    INSTRUCTION_LIST(X)
#undef X
};

static const char *const place_prefixes[] = {
    [PLACE_TREE] = "",
    [PLACE_NEW] = "new:",
    [PLACE_OLD] = "old:",
};

/* ---- encoding ---- */

static void put_locator(struct buffer *b, const struct locator *l)
{
    buffer_put_u8(b, (uint8_t)l->place);
    buffer_put_string(b, l->path);
}

void instruction_put(struct buffer *b, const struct instruction *i)
{
    unsigned fields = kinds[i->kind].fields;

    buffer_put_u8(b, (uint8_t)i->kind);
    buffer_put_u8(b, (uint8_t)i->flags);
    if (fields & FIELD_PATH)
        put_locator(b, &i->path);
    if (fields & FIELD_FROM)
        put_locator(b, &i->from);
    if (fields & FIELD_WANT)
        ident_put(b, &i->want);
    if (fields & FIELD_OTHER)
        ident_put(b, &i->other);
    if (fields & FIELD_RANGE) {
        buffer_put_varint(b, i->offset);
        buffer_put_varint(b, i->len);
    }
    if (fields & FIELD_META)
        buffer_put_blob(b, i->meta, i->meta_len);
}

/* ---- decoding ---- */

static bool component_valid(const char *name, size_t len)
{
    if (len == 0 || len > KEY_NAME_MAX)
        return false;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

bool tree_path_valid(const char *path)
{
    size_t len = strcspn(path, "/");

    if (*path == '\0')
        return true;
    if (len == strlen(TREETX_STAGE_NAME) && memcmp(path, TREETX_STAGE_NAME, len) == 0)
        return false;
    while (component_valid(path, len)) {
        if (path[len] == '\0')
            return true;
        path += len + 1;
        len = strcspn(path, "/");
    }
    return false;
}

static bool locator_valid(const struct locator *l)
{
    if (l->place == PLACE_TREE)
        return tree_path_valid(l->path);
    return l->place < PLACE_MAX && !strchr(l->path, '/') &&
           component_valid(l->path, strlen(l->path));
}

static void read_locator(struct reader *r, struct locator *ret_locator, char **ret_storage)
{
    unsigned place = reader_u8(r);
    char *path = reader_string(r, KEY_LEN_MAX);

    *ret_storage = path;
    *ret_locator = (struct locator){.place = place, .path = path};
    if (!path || !locator_valid(ret_locator))
        r->failed = true;
}

static bool range_valid(const struct instruction *i)
{
    if (i->offset > INT64_MAX || i->len > INT64_MAX - i->offset)
        return false;
    return i->kind != INSTRUCTION_SIZE || i->len == 0;
}

static bool flags_valid(const struct instruction *i)
{
    return (i->flags & ~INSTRUCTION_FLAGS_KNOWN) == 0;
}

static void read_fields(struct reader *r, unsigned fields, struct instruction *i,
                        struct instruction_storage *storage)
{
    if (fields & FIELD_PATH)
        read_locator(r, &i->path, &storage->path);
    if (fields & FIELD_FROM)
        read_locator(r, &i->from, &storage->from);
    if (fields & FIELD_WANT)
        ident_read(r, &i->want);
    if (fields & FIELD_OTHER)
        ident_read(r, &i->other);
    if (fields & FIELD_RANGE) {
        i->offset = reader_varint(r);
        i->len = reader_varint(r);
    }
    if (fields & FIELD_META)
        i->meta = reader_blob(r, META_LEN_MAX, &i->meta_len);
}

/* A name is changed in a directory of the tree, and only the root has none. */
static bool names_valid(const struct instruction *i)
{
    bool moves = i->kind == INSTRUCTION_RENAME || i->kind == INSTRUCTION_EXCHANGE ||
                 i->kind == INSTRUCTION_LINK || i->kind == INSTRUCTION_UNLINK;
    return !moves || (*i->path.path && *i->from.path);
}

int instruction_decode(const void *data, size_t len, struct instruction *ret_i,
                       struct instruction_storage *ret_storage)
{
    CLEANUP(instruction_storage_release) struct instruction_storage storage = {0};
    struct reader r = reader_make(data, len);
    struct instruction i = {.kind = reader_u8(&r)};

    i.flags = reader_u8(&r);
    if (reader_finish(&r) < 0 || i.kind >= INSTRUCTION_MAX || !flags_valid(&i))
        return -UMBRA_E_CORRUPT;
    read_fields(&r, kinds[i.kind].fields, &i, &storage);
    if (reader_finish_at_end(&r) < 0 || !range_valid(&i) || !names_valid(&i))
        return -UMBRA_E_CORRUPT;
    *ret_i = i;
    *ret_storage = storage;
    storage = (struct instruction_storage){0};
    return 0;
}

void instruction_storage_release(struct instruction_storage *storage)
{
    free(storage->path);
    free(storage->from);
    *storage = (struct instruction_storage){0};
}

/* ---- words ---- */

struct words {
    char *text;
    size_t size, len;
};

_printf_(2, 3) static void say(struct words *w, const char *fmt, ...)
{
    va_list args;

    if (w->len + 1 >= w->size)
        return;
    va_start(args, fmt);
    int n = vsnprintf(w->text + w->len, w->size - w->len, fmt, args);
    va_end(args);
    if (n > 0)
        w->len = MIN(w->len + (size_t)n, w->size - 1);
}

static void say_locator(struct words *w, const struct locator *l)
{
    CLEANUP_FREE char *shown = text_escape(l->path, strlen(l->path));

    say(w, " '%s%s'", place_prefixes[l->place], shown ? shown : "?");
}

void instruction_describe(const void *data, size_t len, char *text, size_t size)
{
    CLEANUP(instruction_storage_release) struct instruction_storage storage = {0};
    struct words w = {.text = text, .size = size};
    struct instruction i;

    if (size == 0)
        return;
    *text = '\0';
    if (instruction_decode(data, len, &i, &storage) < 0) {
        say(&w, "malformed, %zu bytes", len);
        return;
    }
    unsigned fields = kinds[i.kind].fields;
    say(&w, "%s", kinds[i.kind].name);
    if (fields & FIELD_FROM)
        say_locator(&w, &i.from);
    if (fields & FIELD_FROM && fields & FIELD_PATH)
        say(&w, " ->");
    if (fields & FIELD_PATH)
        say_locator(&w, &i.path);
    if (i.kind == INSTRUCTION_SIZE)
        say(&w, " %" PRIu64, i.offset);
    else if (fields & FIELD_RANGE)
        say(&w, " bytes %" PRIu64 " +%" PRIu64, i.offset, i.len);
}
