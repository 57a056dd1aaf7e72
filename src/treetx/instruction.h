/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instructions: the redo part and the undo part of a record are one of these each, so a change is
 * taken back by doing what the undo part says, and the inverse of a record is the record with its
 * parts exchanged.
 *
 * Bytes of one:
 *
 *     0        kind (enum instruction_kind)
 *     1        flags (enum instruction_flags)
 *     2 ..     the fields that INSTRUCTION_LIST gives to the kind, in this order:
 *     PATH     u8 place, blob path
 *     FROM     u8 place, blob path
 *     WANT     u32 type, blob handle (ident.h)
 *     OTHER    the same
 *     RANGE    varint offset, varint length; the sum below 2^63
 *     META     blob: one entry with the empty key, as a run of the catalog (catalog.h)
 *
 * A blob is a varint length and so many bytes.  Nothing follows.  In PLACE_TREE the path is that of
 * the tree ("" the root); in the other places it is one name.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/buffer.h"
#include "treetx/ident.h"

enum instruction_field {
    FIELD_PATH = 1 << 0,
    FIELD_FROM = 1 << 1,
    FIELD_WANT = 1 << 2,
    FIELD_OTHER = 1 << 3,
    FIELD_RANGE = 1 << 4,
    FIELD_META = 1 << 5,
};

/*
 * NAME, "name", fields.  Append only: the position is on disk.
 *
 * RENAME    the object WANT comes from FROM to PATH
 * EXCHANGE  PATH and FROM are exchanged; then WANT is at PATH, and OTHER at FROM
 * LINK      PATH becomes one more name of WANT, which is at FROM, too
 * UNLINK    PATH, a name of WANT, goes; FROM is another one
 * UNLOCK    WANT at PATH can be changed: chattr +i, +a and +P go, the owner may write
 * META      WANT at PATH gets the attributes
 * COPY      the RANGE of the side file FROM, with its holes, over that of WANT at PATH
 * PUNCH     the RANGE of WANT at PATH becomes a hole
 * SIZE      WANT at PATH gets the size that is RANGE's offset; its length is 0
 */
#define INSTRUCTION_LIST(X)                                                     \
    X(NOTHING, "nothing", 0)                                                    \
    X(RENAME, "rename", FIELD_PATH | FIELD_FROM | FIELD_WANT)                   \
    X(EXCHANGE, "exchange", FIELD_PATH | FIELD_FROM | FIELD_WANT | FIELD_OTHER) \
    X(LINK, "link", FIELD_PATH | FIELD_FROM | FIELD_WANT)                       \
    X(UNLINK, "unlink", FIELD_PATH | FIELD_FROM | FIELD_WANT)                   \
    X(UNLOCK, "unlock", FIELD_PATH | FIELD_WANT)                                \
    X(META, "attributes", FIELD_PATH | FIELD_WANT | FIELD_META)                 \
    X(COPY, "copy", FIELD_PATH | FIELD_FROM | FIELD_WANT | FIELD_RANGE)         \
    X(PUNCH, "punch", FIELD_PATH | FIELD_WANT | FIELD_RANGE)                    \
    X(SIZE, "size", FIELD_PATH | FIELD_WANT | FIELD_RANGE)

enum instruction_kind {
#define X(name, text, fields) INSTRUCTION_##name,
    INSTRUCTION_LIST(X)
#undef X
        INSTRUCTION_MAX,
};

enum instruction_flags {
    /* What moves is a directory: paths below it lead elsewhere afterwards. */
    INSTRUCTION_DIRECTORY = 1 << 0,
};
#define INSTRUCTION_FLAGS_KNOWN 1u

/* The numbers are on disk. */
enum place {
    PLACE_TREE = 0,
    PLACE_NEW = 1, /* new/ in the stage */
    PLACE_OLD = 2, /* old/ in the stage */
    PLACE_MAX,
};

struct locator {
    enum place place;
    const char *path;
};

struct instruction {
    enum instruction_kind kind;
    unsigned flags;
    struct locator path, from;
    struct ident want, other;
    uint64_t offset, len;
    const uint8_t *meta;
    size_t meta_len;
};

/* Appends it. */
void instruction_put(struct buffer *b, const struct instruction *i);
/*
 * Takes one apart.  data must outlive it, and storage holds its paths.  -UMBRA_E_CORRUPT, without a
 * note.
 */
struct instruction_storage {
    char *path, *from;
};
void instruction_storage_release(struct instruction_storage *storage);
_must_check_ int instruction_decode(const void *data, size_t len, struct instruction *ret_i,
                                    struct instruction_storage *ret_storage);
/* In words, on one line, cut at size. */
void instruction_describe(const void *data, size_t len, char *text, size_t size);

/* Whether it is a path in the tree: "" or components with '/' between, none empty, "." or "..", and
 * not the stage or in it. */
bool tree_path_valid(const char *path);
