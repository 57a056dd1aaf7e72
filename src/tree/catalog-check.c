/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether an entry may stand in a catalog: asked before it is encoded. */
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "tree/catalog-private.h"

#define SECOND_NSEC_MAX 999999999u

static int refuse(const struct entry *e, int r, const char *why)
{
    CLEANUP_FREE char *path = key_to_path(e->key, e->key_len);
    CLEANUP_FREE char *text = path ? text_escape(path, MIN(strlen(path), (size_t)512)) : NULL;

    return error_note(r, "cannot record '/%s': %s", text ? text : "?", why);
}

static bool times_valid(const struct entry *e)
{
    return e->mtime.nsec <= SECOND_NSEC_MAX && e->ctime.nsec <= SECOND_NSEC_MAX &&
           e->atime.nsec <= SECOND_NSEC_MAX && e->btime.nsec <= SECOND_NSEC_MAX;
}

static int check_xattrs(const struct entry *e, bool is_run)
{
    size_t bytes = 0;

    if (e->xattrs.count > ENTRY_XATTR_COUNT_MAX)
        return refuse(e, -UMBRA_E_LIMIT, "too many extended attributes");
    for (size_t i = 0; i < e->xattrs.count; i++) {
        const struct xattr *x = &e->xattrs.items[i];
        size_t name_len = strlen(x->name);

        if (name_len == 0 || name_len > ENTRY_XATTR_NAME_MAX)
            return refuse(e, -UMBRA_E_LIMIT, "name of an extended attribute is too long or empty");
        if (x->value_len > ENTRY_XATTR_VALUE_MAX)
            return refuse(e, -UMBRA_E_LIMIT, "value of an extended attribute is too long");
        if (i > 0 && strcmp(e->xattrs.items[i - 1].name, x->name) >= 0)
            return refuse(e, -EINVAL, "extended attributes are not sorted");
        bytes += name_len + x->value_len;
    }
    if (!is_run && bytes > CATALOG_XATTR_BYTES_MAX)
        return refuse(e, -UMBRA_E_LIMIT, "extended attributes have more than 256 KiB");
    return 0;
}

static int check_extents(const struct entry *e, const struct extent_vector *extents)
{
    uint64_t left = e->size;

    for (size_t i = 0; i < extents->count; i++) {
        const struct extent *x = &extents->items[i];

        if (x->kind > EXTENT_DATA)
            return refuse(e, -EINVAL, "extent of an unknown kind");
        if (x->len == 0 || x->len > left)
            return refuse(e, -EINVAL, "extents do not add up to the size");
        left -= x->len;
        if (x->kind != EXTENT_DATA)
            continue;
        if (x->chunk.location.pack_no == PACK_NO_NONE)
            return refuse(e, -EINVAL, "chunk without a location");
        if (extents == &e->extents && x->len != x->chunk.len)
            return refuse(e, -EINVAL, "extent and chunk have different lengths");
    }
    return left == 0 ? 0 : refuse(e, -EINVAL, "extents do not add up to the size");
}

static int check_contents(const struct entry *e, bool is_run)
{
    if (e->type != ENTRY_REGULAR)
        return e->extents.count == 0 && e->content_refs.count == 0
                   ? 0
                   : refuse(e, -EINVAL, "contents of what is no regular file");
    if (e->size > INT64_MAX)
        return refuse(e, -UMBRA_E_LIMIT, "file is too large");
    if (!entry_is_unloaded(e))
        return check_extents(e, &e->extents);
    if (e->extents.count > 0 || e->content_level >= CATALOG_DEPTH_MAX)
        return refuse(e, -EINVAL, "contents both loaded and not");
    if (!is_run && e->content_refs.count > CATALOG_INLINE_EXTENTS_MAX)
        return refuse(e, -EINVAL, "too many content pages");
    return check_extents(e, &e->content_refs);
}

int catalog_entry_check(const struct entry *e, bool is_run)
{
    if (!key_valid(e->key, e->key_len))
        return error_note(-EINVAL, "cannot record a file: its name is malformed");
    if (!is_run && e->key_len > CATALOG_KEY_LEN_MAX)
        return refuse(e, -UMBRA_E_LIMIT, "path is longer than 64 KiB");
    if (e->type < ENTRY_REGULAR || e->type >= ENTRY_TYPE_MAX)
        return refuse(e, -EINVAL, "unknown type");
    if (e->mode > 07777 || (e->remarks & ~CATALOG_REMARKS_MASK) != 0 || !times_valid(e))
        return refuse(e, -EINVAL, "mode, remarks or times are out of range");
    if (e->type == ENTRY_SYMLINK && e->symlink && strlen(e->symlink) > ENTRY_SYMLINK_MAX)
        return refuse(e, -UMBRA_E_LIMIT, "target of the symlink is longer than 64 KiB");

    int r = e->xattrs.count > 0 ? check_xattrs(e, is_run) : 0;
    return r < 0 ? r : check_contents(e, is_run);
}
