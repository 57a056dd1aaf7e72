/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/entry.h"

#include <string.h>

static void xattrs_release(struct xattr_vector *xattrs)
{
    for (size_t i = 0; i < xattrs->count; i++) {
        free(xattrs->items[i].name);
        free(xattrs->items[i].value);
    }
    xattr_vector_release(xattrs);
}

void entry_release(struct entry *e)
{
    free(e->key);
    free(e->symlink);
    xattrs_release(&e->xattrs);
    extent_vector_release(&e->extents);
    extent_vector_release(&e->content_refs);
    *e = (struct entry){0};
}

/* malloc'ed copy, never NULL for want of bytes. */
static void *copy_bytes(const void *data, size_t len)
{
    void *copy = malloc(len > 0 ? len : 1);

    if (copy && len > 0)
        memcpy(copy, data, len);
    return copy;
}

static int copy_xattr(const struct xattr *from, struct xattr_vector *to)
{
    struct xattr copy = {
        .name = copy_bytes(from->name, strlen(from->name) + 1),
        .value = copy_bytes(from->value, from->value_len),
        .value_len = from->value_len,
    };
    int r = copy.name && copy.value ? xattr_vector_push(to, &copy) : -ENOMEM;

    if (r < 0) {
        free(copy.name);
        free(copy.value);
    }
    return r;
}

static int copy_extents(const struct extent_vector *from, struct extent_vector *to)
{
    if (from->count == 0)
        return 0;
    int r = extent_vector_reserve(to, from->count);
    if (r < 0)
        return r;
    memcpy(to->items, from->items, from->count * sizeof(*from->items));
    to->count = from->count;
    return 0;
}

int entry_copy(const struct entry *from, struct entry *ret_entry)
{
    CLEANUP(entry_release) struct entry copy = *from;
    int r;

    copy.xattrs = (struct xattr_vector){0};
    copy.extents = copy.content_refs = (struct extent_vector){0};
    copy.symlink = NULL;
    copy.key = copy_bytes(from->key, from->key_len);
    if (!copy.key)
        return -ENOMEM;
    if (from->symlink) {
        copy.symlink = copy_bytes(from->symlink, strlen(from->symlink) + 1);
        if (!copy.symlink)
            return -ENOMEM;
    }
    for (size_t i = 0; i < from->xattrs.count; i++) {
        r = copy_xattr(&from->xattrs.items[i], &copy.xattrs);
        if (r < 0)
            return r;
    }
    r = copy_extents(&from->extents, &copy.extents);
    if (r < 0)
        return r;
    r = copy_extents(&from->content_refs, &copy.content_refs);
    if (r < 0)
        return r;
    *ret_entry = copy;
    copy = (struct entry){0};
    return 0;
}

static bool time_same(const struct entry_time *a, const struct entry_time *b)
{
    return a->sec == b->sec && a->nsec == b->nsec;
}

static bool xattrs_same(const struct xattr_vector *a, const struct xattr_vector *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct xattr *x = &a->items[i], *y = &b->items[i];
        if (x->value_len != y->value_len || strcmp(x->name, y->name) != 0)
            return false;
        if (x->value_len > 0 && memcmp(x->value, y->value, x->value_len) != 0)
            return false;
    }
    return true;
}

static bool extents_same(const struct extent_vector *a, const struct extent_vector *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct extent *x = &a->items[i], *y = &b->items[i];
        if (x->kind != y->kind || x->len != y->len)
            return false;
        if (x->kind == EXTENT_DATA && !chunk_id_equal(&x->chunk.id, &y->chunk.id))
            return false;
    }
    return true;
}

bool entry_attributes_same(const struct entry *a, const struct entry *b)
{
    return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->nlink == b->nlink &&
           a->flags == b->flags && a->project_id == b->project_id &&
           time_same(&a->mtime, &b->mtime) && time_same(&a->ctime, &b->ctime) &&
           time_same(&a->btime, &b->btime) && xattrs_same(&a->xattrs, &b->xattrs);
}

bool entry_contents_same(const struct entry *a, const struct entry *b)
{
    switch (a->type) {
    case ENTRY_REGULAR:
        return a->size == b->size && a->content_level == b->content_level &&
               extents_same(&a->extents, &b->extents) &&
               extents_same(&a->content_refs, &b->content_refs);
    case ENTRY_SYMLINK:
        return strcmp(a->symlink ? a->symlink : "", b->symlink ? b->symlink : "") == 0;
    case ENTRY_CHAR:
    case ENTRY_BLOCK: return a->rdev_major == b->rdev_major && a->rdev_minor == b->rdev_minor;
    case ENTRY_DIRECTORY:
    case ENTRY_FIFO:
    case ENTRY_SOCKET:
    case ENTRY_TYPE_MAX: break;
    }
    return true;
}

bool entry_same(const struct entry *a, const struct entry *b)
{
    return a->type == b->type && a->fs_index == b->fs_index && a->inode == b->inode &&
           entry_attributes_same(a, b) && entry_contents_same(a, b);
}

char entry_type_letter(enum entry_type type)
{
    switch (type) {
    case ENTRY_REGULAR: return '-';
    case ENTRY_DIRECTORY: return 'd';
    case ENTRY_SYMLINK: return 'l';
    case ENTRY_FIFO: return 'p';
    case ENTRY_SOCKET: return 's';
    case ENTRY_CHAR: return 'c';
    case ENTRY_BLOCK: return 'b';
    case ENTRY_TYPE_MAX: break;
    }
    return '?';
}
