/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decoding pages, the root and runs: see catalog-format.h.
 *
 * A page is decoded as a whole and refused as a whole.  All functions that take a struct decoder
 * return whether all is well so far; the first to find a fault leaves words in it (or an errno, for
 * want of memory), and decode_finish() makes the error of them.  Whatever the bytes are, nothing is
 * read outside of them and no more memory is taken than in proportion to them.
 */
#include <string.h>

#include "basic/error.h"
#include "tree/catalog-private.h"

#define NSEC_MAX 999999999u

/* ---- arena ---- */

#define ARENA_BLOCK_LEN_MIN (64u << 10)

struct arena_block {
    struct arena_block *next;
    size_t len; /* of data */
    _Alignas(max_align_t) uint8_t data[];
};

void arena_release(struct arena *arena)
{
    for (struct arena_block *block = arena->blocks; block;) {
        struct arena_block *next = block->next;
        free(block);
        block = next;
    }
    *arena = (struct arena){0};
}

static bool arena_add_block(struct arena *arena, size_t len)
{
    struct arena_block *block = malloc(sizeof(*block) + len);

    if (!block)
        return false;
    block->next = arena->blocks;
    block->len = len;
    arena->blocks = block;
    arena->pos = block->data;
    arena->end = block->data + len;
    return true;
}

void arena_clear(struct arena *arena)
{
    size_t used = arena->used;

    if (arena->blocks && arena->blocks->next) {
        arena_release(arena);
        (void)arena_add_block(arena, used + used / 4); /* without memory: tried again when used */
    } else if (arena->blocks) {
        arena->pos = arena->blocks->data;
    }
    arena->used = 0;
}

void *arena_alloc(struct arena *arena, size_t len)
{
    const size_t align = _Alignof(max_align_t);

    if (len > SIZE_MAX - align)
        return NULL;
    size_t rounded = (MAX(len, (size_t)1) + align - 1) & ~(align - 1);
    if (rounded > (size_t)(arena->end - arena->pos) &&
        !arena_add_block(arena, MAX(rounded, (size_t)ARENA_BLOCK_LEN_MIN)))
        return NULL;
    void *p = arena->pos;
    arena->pos += rounded;
    arena->used += rounded;
    return p;
}

/* ---- the decoder ---- */

struct decoder {
    struct reader r;
    struct catalog_page *page;
    uint32_t packs_used; /* how many of page->packs have been used by a hint */
    uint32_t inline_extents_max;
    uint32_t key_len_max;
    size_t xattr_bytes_max;
    struct entry_base base;
    const uint8_t *key; /* of the entry before */
    uint32_t key_len;
    const char *why; /* the first fault, or NULL */
    int error;       /* not a fault of the page: -ENOMEM */
};

static bool refuse(struct decoder *d, const char *why)
{
    if (!d->why)
        d->why = why;
    return false;
}

static bool require(struct decoder *d, bool condition, const char *why)
{
    return condition ? true : refuse(d, why);
}

static void *allocate(struct decoder *d, size_t count, size_t item_len)
{
    size_t len;
    void *p =
        __builtin_mul_overflow(count, item_len, &len) ? NULL : arena_alloc(&d->page->arena, len);

    if (!p)
        d->error = -ENOMEM;
    return p;
}

static bool decode_ok(const struct decoder *d)
{
    return !d->why && d->error == 0 && !d->r.failed;
}

/* at: how many entries were fine. */
static int decode_finish(const struct decoder *d, uint32_t at)
{
    if (d->error < 0)
        return d->error;
    if (d->r.failed) /* what was found wrong after that says nothing */
        return error_note(
            -UMBRA_E_CORRUPT,
            "catalog page: entry %u: ends early, or a number is malformed or too large", at);
    if (d->why)
        return error_note(-UMBRA_E_CORRUPT, "catalog page: entry %u: %s", at, d->why);
    return 0;
}

/* Room for as many items, if so many can be left at all. */
static void *allocate_counted(struct decoder *d, uint64_t count, size_t encoded_min,
                              size_t item_len)
{
    if (count > reader_left(&d->r) / encoded_min) {
        refuse(d, "more items than there are bytes");
        return NULL;
    }
    return allocate(d, (size_t)count, item_len);
}

static bool decode_pack_names(struct decoder *d, uint64_t count, struct pack_table *names)
{
    struct pack_name name;
    uint32_t pack_no, place;
    int r;

    if (count > reader_left(&d->r) / PACK_NAME_LEN)
        return refuse(d, "more packs than there are bytes");
    for (uint32_t i = 0; i < count; i++) {
        reader_copy(&d->r, name.bytes, PACK_NAME_LEN);
        r = pack_table_intern(names, &name, &pack_no);
        if (r == 0)
            r = pack_index_put(&d->page->packs, pack_no, &place);
        if (r < 0) {
            d->error = r;
            return false;
        }
        if (place != i)
            return refuse(d, "pack named twice");
    }
    return true;
}

static bool decode_hint(struct decoder *d, struct chunk_location *ret_location)
{
    const struct u32_vector *pack_nos = &d->page->packs.pack_nos;
    uint64_t place = reader_varint_max(&d->r, pack_nos->count);

    if (place == 0) {
        *ret_location = (struct chunk_location){.pack_no = PACK_NO_NONE};
        return true;
    }
    if (place > d->packs_used) {
        d->packs_used++;
        if (place != d->packs_used)
            return refuse(d, "packs are not in the order of their use");
    }
    ret_location->pack_no = pack_nos->items[place - 1];
    ret_location->frame_offset = (uint32_t)reader_varint_max(&d->r, UINT32_MAX);
    ret_location->frame_len = (uint32_t)reader_varint_max(&d->r, UINT32_MAX);
    ret_location->chunk_offset = (uint32_t)reader_varint_max(&d->r, UINT32_MAX);
    return true;
}

static bool decode_chunk(struct decoder *d, struct chunk_ref *chunk)
{
    reader_copy(&d->r, chunk->id.bytes, CHUNK_ID_LEN);
    return decode_hint(d, &chunk->location);
}

/* Leaves the key in d->key; its last byte is followed by one that is not used. */
static bool decode_key(struct decoder *d, bool is_first)
{
    uint64_t shared = reader_varint_max(&d->r, d->key_len);
    size_t rest_len;
    const uint8_t *rest = reader_blob(&d->r, d->key_len_max, &rest_len);

    if (!rest)
        return refuse(d, "malformed key");
    if (shared + rest_len > d->key_len_max)
        return refuse(d, "key is too long");
    /* All that is shared is shared, so the next byte tells the order. */
    if (!is_first && (rest_len == 0 || (shared < d->key_len && rest[0] <= d->key[shared])))
        return refuse(d, "keys do not ascend");

    uint8_t *key = allocate(d, shared + rest_len + 1, 1);
    if (!key)
        return false;
    if (shared > 0)
        memcpy(key, d->key, shared);
    if (rest_len > 0)
        memcpy(key + shared, rest, rest_len);
    d->key = key;
    d->key_len = (uint32_t)(shared + rest_len);
    return require(d, key_valid(key, d->key_len), "key is not well-formed");
}

/* ---- inner and content pages ---- */

static bool decode_child(struct decoder *d, struct catalog_child *child, bool is_first)
{
    if (!decode_key(d, is_first))
        return false;
    child->first_key = (uint8_t *)(uintptr_t)d->key;
    child->first_key_len = d->key_len;
    child->page.len = (uint32_t)reader_varint_max(&d->r, CATALOG_PAGE_LEN_MAX);
    return require(d, child->page.len > 0, "page without bytes") && decode_chunk(d, &child->page);
}

static bool decode_extent(struct decoder *d, struct extent *extent)
{
    uint64_t kind = reader_varint_max(&d->r, EXTENT_DATA);

    extent->kind = (enum extent_kind)kind;
    extent->len = reader_varint_max(&d->r, kind == EXTENT_DATA ? UINT32_MAX : INT64_MAX);
    if (extent->len == 0)
        return refuse(d, "extent without bytes");
    if (kind != EXTENT_DATA) {
        extent->chunk = (struct chunk_ref){.location.pack_no = PACK_NO_NONE};
        return true;
    }
    extent->chunk.len = (uint32_t)extent->len;
    return decode_chunk(d, &extent->chunk);
}

static bool decode_reference(struct decoder *d, struct extent *ref)
{
    ref->kind = EXTENT_DATA;
    ref->len = reader_varint_max(&d->r, INT64_MAX);
    ref->chunk.len = (uint32_t)reader_varint_max(&d->r, CATALOG_PAGE_LEN_MAX);
    return require(d, ref->len > 0 && ref->chunk.len > 0, "page reference without bytes") &&
           decode_chunk(d, &ref->chunk);
}

/* Adds the lengths up; they must not pass what is left of a file. */
static bool take_bytes(struct decoder *d, uint64_t *left, uint64_t len)
{
    if (len > *left)
        return refuse(d, "extents are longer than the file");
    *left -= len;
    return true;
}

/* ---- leaves ---- */

/* A value that is left out when it is what it would be anyway. */
static bool decode_optional(struct decoder *d, bool is_present, uint32_t otherwise, uint32_t max,
                            uint32_t *ret_value)
{
    if (!is_present) {
        *ret_value = otherwise;
        return true;
    }
    *ret_value = (uint32_t)reader_varint_max(&d->r, max);
    return require(d, *ret_value != otherwise, "a value that should be left out");
}

static void decode_time(struct decoder *d, int64_t base_sec, struct entry_time *ret_time)
{
    ret_time->sec = (int64_t)((uint64_t)base_sec + (uint64_t)reader_zigzag(&d->r));
    ret_time->nsec = (uint32_t)reader_varint_max(&d->r, NSEC_MAX);
}

static bool decode_optional_time(struct decoder *d, bool is_present, const struct entry_time *mtime,
                                 const struct entry_time *otherwise, struct entry_time *ret_time)
{
    if (!is_present) {
        *ret_time = *otherwise;
        return true;
    }
    decode_time(d, mtime->sec, ret_time);
    return require(d, ret_time->sec != otherwise->sec || ret_time->nsec != otherwise->nsec,
                   "a time that should be left out");
}

static bool decode_attributes(struct decoder *d, struct entry *e, uint32_t bits)
{
    static const struct entry_time unknown;
    struct entry_base *base = &d->base;

    if (!decode_optional(d, bits & CATALOG_ENTRY_MODE, base->mode, 07777, &e->mode) ||
        !decode_optional(d, bits & CATALOG_ENTRY_UID, base->uid, UINT32_MAX, &e->uid) ||
        !decode_optional(d, bits & CATALOG_ENTRY_GID, base->gid, UINT32_MAX, &e->gid))
        return false;
    e->inode = base->inode + (uint64_t)reader_zigzag(&d->r);
    decode_time(d, base->mtime_sec, &e->mtime);
    if (!decode_optional_time(d, bits & CATALOG_ENTRY_CTIME, &e->mtime, &e->mtime, &e->ctime) ||
        !decode_optional_time(d, bits & CATALOG_ENTRY_ATIME, &e->mtime, &e->mtime, &e->atime) ||
        !decode_optional_time(d, bits & CATALOG_ENTRY_BTIME, &e->mtime, &unknown, &e->btime))
        return false;
    if (!decode_optional(d, bits & CATALOG_ENTRY_FLAGS, base->flags, UINT32_MAX, &e->flags) ||
        !decode_optional(d, bits & CATALOG_ENTRY_NLINK, 1, UINT32_MAX, &e->nlink) ||
        !decode_optional(d, bits & CATALOG_ENTRY_FS_INDEX, base->fs_index, UINT32_MAX,
                         &e->fs_index) ||
        !decode_optional(d, bits & CATALOG_ENTRY_PROJECT, base->project_id, UINT32_MAX,
                         &e->project_id) ||
        !decode_optional(d, bits & CATALOG_ENTRY_REMARKS, 0, CATALOG_REMARKS_MASK, &e->remarks))
        return false;
    *base = (struct entry_base){.mode = e->mode,
                                .uid = e->uid,
                                .gid = e->gid,
                                .flags = e->flags,
                                .fs_index = e->fs_index,
                                .project_id = e->project_id,
                                .inode = e->inode,
                                .mtime_sec = e->mtime.sec};
    return true;
}

/* A NUL-terminated copy; NULL after a failure. */
static char *decode_string(struct decoder *d, size_t len_max, const char *why)
{
    size_t len;
    const uint8_t *data = reader_blob(&d->r, len_max, &len);

    if (!data || (len > 0 && memchr(data, 0, len))) {
        refuse(d, why);
        return NULL;
    }
    char *copy = allocate(d, len + 1, 1);
    if (!copy)
        return NULL;
    memcpy(copy, data, len);
    copy[len] = '\0';
    return copy;
}

static bool decode_xattr(struct decoder *d, struct xattr *x)
{
    size_t len;

    x->name = decode_string(d, ENTRY_XATTR_NAME_MAX, "malformed name of an extended attribute");
    if (!x->name)
        return false;
    const uint8_t *value = reader_blob(&d->r, ENTRY_XATTR_VALUE_MAX, &len);
    if (!value)
        return refuse(d, "malformed value of an extended attribute");
    x->value = allocate(d, len + 1, 1);
    if (!x->value)
        return false;
    memcpy(x->value, value, len);
    x->value_len = (uint32_t)len;
    return require(d, x->name[0] != '\0', "extended attribute without a name");
}

static bool decode_xattrs(struct decoder *d, struct xattr_vector *xattrs)
{
    uint64_t count = reader_varint_max(&d->r, ENTRY_XATTR_COUNT_MAX);
    size_t bytes = 0;

    if (count == 0)
        return refuse(d, "no extended attributes where some were announced");
    xattrs->items = allocate_counted(d, count, 3, sizeof(*xattrs->items));
    if (!xattrs->items)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct xattr *x = &xattrs->items[i];
        if (!decode_xattr(d, x))
            return false;
        if (i > 0 && strcmp(xattrs->items[i - 1].name, x->name) >= 0)
            return refuse(d, "extended attributes are not sorted");
        bytes += strlen(x->name) + x->value_len;
    }
    xattrs->count = (size_t)count;
    return require(d, bytes <= d->xattr_bytes_max, "too long extended attributes");
}

/* Of a regular file; references are announced here and come behind all entries. */
static bool decode_contents(struct decoder *d, struct entry *e, uint32_t bits)
{
    e->size = reader_varint_max(&d->r, INT64_MAX);
    if (bits & CATALOG_ENTRY_CONTENT_PAGES) {
        e->content_level = (uint32_t)reader_varint_max(&d->r, CATALOG_DEPTH_MAX - 1);
        e->content_refs.count = (size_t)reader_varint_max(&d->r, d->inline_extents_max);
        d->page->has_content_refs = true;
        return require(d, e->content_refs.count > 0,
                       "no page references where some were announced");
    }

    uint64_t count = reader_varint_max(&d->r, d->inline_extents_max), left = e->size;
    if (count > 0) {
        e->extents.items =
            allocate_counted(d, count, CATALOG_EXTENT_LEN_MIN, sizeof(*e->extents.items));
        if (!e->extents.items)
            return false;
    }
    for (size_t i = 0; i < count; i++) {
        struct extent *extent = &e->extents.items[i];
        if (!decode_extent(d, extent) || !take_bytes(d, &left, extent->len))
            return false;
    }
    e->extents.count = (size_t)count;
    return require(d, left == 0, "extents are shorter than the file");
}

static bool decode_by_type(struct decoder *d, struct entry *e, uint32_t bits)
{
    switch (e->type) {
    case ENTRY_REGULAR: return decode_contents(d, e, bits);
    case ENTRY_SYMLINK:
        e->symlink = decode_string(d, ENTRY_SYMLINK_MAX, "malformed target of a symlink");
        e->size = e->symlink ? strlen(e->symlink) : 0;
        return e->symlink;
    case ENTRY_CHAR:
    case ENTRY_BLOCK:
        e->rdev_major = (uint32_t)reader_varint_max(&d->r, UINT32_MAX);
        e->rdev_minor = (uint32_t)reader_varint_max(&d->r, UINT32_MAX);
        return true;
    case ENTRY_DIRECTORY:
    case ENTRY_FIFO:
    case ENTRY_SOCKET:
    case ENTRY_TYPE_MAX: break;
    }
    return true;
}

static bool decode_entry(struct decoder *d, struct entry *e, bool is_first)
{
    if (!decode_key(d, is_first))
        return false;
    e->key = (uint8_t *)(uintptr_t)d->key;
    e->key_len = d->key_len;

    uint32_t bits = (uint32_t)reader_varint_max(&d->r, CATALOG_ENTRY_BITS_MAX);
    uint32_t type = bits & CATALOG_ENTRY_TYPE_MASK;
    if (type == 0)
        return refuse(d, "unknown type");
    e->type = (enum entry_type)type;
    if ((bits & CATALOG_ENTRY_CONTENT_PAGES) && e->type != ENTRY_REGULAR)
        return refuse(d, "content pages of what is no regular file");
    if (!decode_attributes(d, e, bits))
        return false;
    if ((bits & CATALOG_ENTRY_XATTRS) && !decode_xattrs(d, &e->xattrs))
        return false;
    return decode_by_type(d, e, bits);
}

static bool decode_entry_references(struct decoder *d, struct entry *e)
{
    size_t count = e->content_refs.count;
    uint64_t left = e->size;

    e->content_refs.items =
        allocate_counted(d, count, CATALOG_REFERENCE_LEN_MIN, sizeof(*e->content_refs.items));
    if (!e->content_refs.items)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct extent *ref = &e->content_refs.items[i];
        if (!decode_reference(d, ref) || !take_bytes(d, &left, ref->len))
            return false;
    }
    return require(d, left == 0, "content pages are shorter than the file");
}

/* ---- pages ---- */

void catalog_page_clear(struct catalog_page *page)
{
    for (uint32_t i = 0; page->has_content_refs && page->entries && i < page->count; i++)
        if (page->entries[i].extents.allocated > 0)
            extent_vector_release(&page->entries[i].extents);
    arena_clear(&page->arena);
    pack_index_clear(&page->packs);
    page->level = page->count = 0;
    page->has_content_refs = false;
    page->entries = NULL;
    page->children = NULL;
    page->extents = NULL;
}

void catalog_page_release(struct catalog_page *page)
{
    catalog_page_clear(page);
    arena_release(&page->arena);
    pack_index_release(&page->packs);
}

/* Returns how many entries were fine. */
static uint32_t decode_leaf(struct decoder *d, uint32_t count)
{
    struct entry *entries = allocate_counted(d, count, CATALOG_ENTRY_LEN_MIN, sizeof(struct entry));
    uint32_t i;

    if (!entries)
        return 0;
    memset(entries, 0, count * sizeof(*entries));
    for (i = 0; i < count; i++)
        if (!decode_entry(d, &entries[i], i == 0) || d->r.failed)
            return i;
    if (d->page->has_content_refs)
        for (i = 0; i < count; i++)
            if (entries[i].content_refs.count > 0 && !decode_entry_references(d, &entries[i]))
                return i;
    d->page->entries = entries;
    return count;
}

static uint32_t decode_inner(struct decoder *d, uint32_t count)
{
    struct catalog_child *children =
        allocate_counted(d, count, CATALOG_CHILD_LEN_MIN, sizeof(*children));

    if (!children)
        return 0;
    for (uint32_t i = 0; i < count; i++)
        if (!decode_child(d, &children[i], i == 0) || d->r.failed)
            return i;
    d->page->children = children;
    return count;
}

static uint32_t decode_content(struct decoder *d, uint32_t level, uint32_t count)
{
    struct extent *extents =
        allocate_counted(d, count, level == 0 ? CATALOG_EXTENT_LEN_MIN : CATALOG_REFERENCE_LEN_MIN,
                         sizeof(*extents));
    uint64_t left = INT64_MAX;

    if (!extents)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        bool ok = level == 0 ? decode_extent(d, &extents[i]) : decode_reference(d, &extents[i]);
        if (!ok || d->r.failed || !take_bytes(d, &left, extents[i].len))
            return i;
    }
    d->page->extents = extents;
    return count;
}

static int header_refuse(const char *why)
{
    return error_note(-UMBRA_E_CORRUPT, "catalog page: %s", why);
}

static int check_header(const struct catalog_page_header *header, size_t len)
{
    bool has_level = header->kind == CATALOG_PAGE_INNER || header->kind == CATALOG_PAGE_CONTENT;

    if (memcmp(header->magic, CATALOG_PAGE_MAGIC, sizeof(header->magic)) != 0)
        return header_refuse("bad magic");
    if (header->version > CATALOG_PAGE_VERSION)
        return error_note(-UMBRA_E_VERSION, "catalog page of version %u, this program knows %u",
                          header->version, CATALOG_PAGE_VERSION);
    if (header->version == 0)
        return header_refuse("version 0");
    if (header->kind < CATALOG_PAGE_LEAF || header->kind > CATALOG_PAGE_RUN)
        return header_refuse("unknown kind");
    if (len > (header->kind == CATALOG_PAGE_RUN ? CATALOG_RUN_LEN_MAX : CATALOG_PAGE_LEN_MAX))
        return header_refuse("too long");
    if (header->flags != 0 || le16_get(&header->reserved) != 0)
        return header_refuse("unknown flags");
    if (header->level >= CATALOG_DEPTH_MAX || (header->level > 0 && !has_level) ||
        (header->level == 0 && header->kind == CATALOG_PAGE_INNER))
        return header_refuse("bad level");
    if (le32_get(&header->count) == 0 && header->kind != CATALOG_PAGE_RUN)
        return header_refuse("no entries");
    return 0;
}

static int decode_body(struct decoder *d, const struct catalog_page_header *header,
                       struct pack_table *names)
{
    uint32_t count = le32_get(&header->count), at = 0;
    struct catalog_page *page = d->page;

    if (!decode_pack_names(d, le16_get(&header->pack_count), names))
        return decode_finish(d, 0);
    switch (page->kind) {
    case CATALOG_PAGE_LEAF:
    case CATALOG_PAGE_RUN: at = decode_leaf(d, count); break;
    case CATALOG_PAGE_INNER: at = decode_inner(d, count); break;
    case CATALOG_PAGE_CONTENT: at = decode_content(d, page->level, count); break;
    }
    page->count = count;
    if (decode_ok(d)) {
        require(d, d->packs_used == page->packs.pack_nos.count, "a pack name is not used");
        require(d, reader_left(&d->r) == 0, "bytes left over");
    }
    return decode_finish(d, at);
}

int catalog_page_decode(struct catalog_page *page, const void *data, size_t len,
                        struct pack_table *names)
{
    struct catalog_page_header header;
    int r;

    catalog_page_clear(page);
    if (len < sizeof(header))
        return header_refuse("shorter than its header");
    memcpy(&header, data, sizeof(header));
    r = check_header(&header, len);
    if (r < 0)
        return r;
    page->kind = (enum catalog_page_kind)header.kind;
    page->level = header.level;

    bool is_run = page->kind == CATALOG_PAGE_RUN;
    struct decoder d = {
        .r = reader_make((const uint8_t *)data + sizeof(header), len - sizeof(header)),
        .page = page,
        .inline_extents_max = is_run ? UINT32_MAX : CATALOG_INLINE_EXTENTS_MAX,
        .key_len_max = is_run ? KEY_LEN_MAX : CATALOG_KEY_LEN_MAX,
        .xattr_bytes_max = is_run ? SIZE_MAX : CATALOG_XATTR_BYTES_MAX,
    };
    r = decode_body(&d, &header, names);
    if (r < 0) {
        page->has_content_refs = false;
        catalog_page_clear(page);
    }
    return r;
}

int catalog_page_read(struct catalog_page *page, const struct catalog_store *store,
                      const struct chunk_ref *ref, enum catalog_page_kind kind, uint32_t level)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;
    int r;

    r = store->get_page(store->userdata, ref, &data, &len);
    if (r < 0)
        return r;
    r = catalog_page_decode(page, data, len, store->names);
    if (r < 0)
        return r;
    if (page->kind != kind || page->level != level) {
        catalog_page_clear(page);
        return header_refuse("not of the kind and level that its reference says");
    }
    return 0;
}

/* ---- root ---- */

void catalog_root_release(struct catalog_root *root)
{
    for (size_t i = 0; i < root->children.count; i++)
        free(root->children.items[i].first_key);
    catalog_child_vector_release(&root->children);
    *root = (struct catalog_root){0};
}

static int copy_children(const struct catalog_page *page, struct catalog_root *root)
{
    for (uint32_t i = 0; i < page->count; i++) {
        struct catalog_child child = page->children[i];
        child.first_key = malloc((size_t)child.first_key_len + 1);
        if (!child.first_key)
            return -ENOMEM;
        memcpy(child.first_key, page->children[i].first_key, child.first_key_len);
        int r = catalog_child_vector_push(&root->children, &child);
        if (r < 0) {
            free(child.first_key);
            return r;
        }
    }
    return 0;
}

static bool decode_root(struct decoder *d, struct pack_table *names, struct catalog_root *root)
{
    uint8_t version = reader_u8(&d->r);

    if (version > CATALOG_ROOT_VERSION) {
        d->error = error_note(-UMBRA_E_VERSION, "catalog root of version %u, this program knows %u",
                              version, CATALOG_ROOT_VERSION);
        return false;
    }
    if (version == 0)
        return refuse(d, "version 0");
    root->level = (uint32_t)reader_varint_max(&d->r, CATALOG_DEPTH_MAX - 1);
    root->entry_count = reader_varint(&d->r);
    if (!decode_pack_names(d, reader_varint_max(&d->r, CATALOG_ROOT_REFS_MAX), names))
        return false;
    d->page->count = (uint32_t)reader_varint_max(&d->r, CATALOG_ROOT_REFS_MAX);
    if (decode_inner(d, d->page->count) < d->page->count)
        return false;
    require(d, d->packs_used == d->page->packs.pack_nos.count, "a pack name is not used");
    return require(d,
                   d->page->count > 0 ? root->entry_count >= d->page->count
                                      : root->entry_count == 0 && root->level == 0,
                   "the number of entries cannot be");
}

int catalog_root_decode(struct reader *r, struct pack_table *names, struct catalog_root *ret_root)
{
    CLEANUP(catalog_page_release) struct catalog_page page = {.kind = CATALOG_PAGE_INNER};
    CLEANUP(catalog_root_release) struct catalog_root root = {0};
    struct decoder d = {.r = *r, .page = &page, .key_len_max = CATALOG_KEY_LEN_MAX};
    size_t len = reader_left(r);
    int e;

    if (!decode_root(&d, names, &root) || !decode_ok(&d)) {
        e = decode_finish(&d, 0);
        return error_prefix(e, "catalog root");
    }
    if (len - reader_left(&d.r) > CATALOG_ROOT_LEN_MAX)
        return error_note(-UMBRA_E_CORRUPT, "catalog root: too long");
    e = copy_children(&page, &root);
    if (e < 0)
        return e;
    *r = d.r;
    *ret_root = root;
    root = (struct catalog_root){0};
    return 0;
}
