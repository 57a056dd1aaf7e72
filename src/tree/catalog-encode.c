/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Encoding pages and the root: see catalog-format.h. */
#include <endian.h>
#include <string.h>

#include "basic/error.h"
#include "tree/catalog-private.h"

/* ---- where pages are cut ---- */

static uint64_t load_word(const uint8_t *p, size_t len)
{
    uint64_t word = 0;

    memcpy(&word, p, len);
    return le64toh(word);
}

/*
 * Eight bytes at a time are mixed in by xor, multiplication with an odd number and a shift; the end
 * is the finaliser of splitmix64.  The hash need not be secret: it decides only where a page ends,
 * pages are sealed, and who chooses file names so that it never or always cuts meets the limits on
 * the size of pages, and spoils the sharing of nothing but his own pages.
 */
uint64_t catalog_key_hash(const uint8_t *key, size_t len, uint32_t level)
{
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15) * (level + 1) ^ len;

    for (; len >= 8; key += 8, len -= 8) {
        h = (h ^ load_word(key, 8)) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    if (len > 0)
        h = (h ^ load_word(key, len)) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ (h >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ (h >> 27)) * UINT64_C(0x94d049bb133111eb);
    return h ^ (h >> 31);
}

size_t catalog_common_prefix(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    size_t len = MIN(a_len, b_len), i = 0;

    for (; len - i >= 8; i += 8) {
        uint64_t difference = load_word(a + i, 8) ^ load_word(b + i, 8);
        if (difference != 0)
            return i + (size_t)__builtin_ctzll(difference) / 8;
    }
    while (i < len && a[i] == b[i])
        i++;
    return i;
}

/* ---- packs of a page ---- */

void pack_index_release(struct pack_index *index)
{
    u32_vector_release(&index->pack_nos);
    free(index->slots);
    *index = (struct pack_index){0};
}

void pack_index_clear(struct pack_index *index)
{
    if (index->pack_nos.count > 0)
        memset(index->slots, 0, index->slot_count * sizeof(*index->slots));
    u32_vector_clear(&index->pack_nos);
    index->last = 0;
}

/* Where pack_no stands, or the empty slot where it belongs. */
static uint32_t *pack_slot(const struct pack_index *index, uint32_t pack_no)
{
    size_t slot = (pack_no * UINT32_C(0x9e3779b1) >> 7) & (index->slot_count - 1);

    while (index->slots[slot] != 0 && index->pack_nos.items[index->slots[slot] - 1] != pack_no)
        slot = (slot + 1) & (index->slot_count - 1);
    return &index->slots[slot];
}

static int pack_index_grow(struct pack_index *index)
{
    size_t slot_count = index->slot_count > 0 ? index->slot_count * 2 : 64;
    uint32_t *slots = calloc(slot_count, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    free(index->slots);
    index->slots = slots;
    index->slot_count = slot_count;
    for (uint32_t i = 0; i < index->pack_nos.count; i++)
        *pack_slot(index, index->pack_nos.items[i]) = i + 1;
    return 0;
}

int pack_index_put(struct pack_index *index, uint32_t pack_no, uint32_t *ret_place)
{
    int r;

    if (index->pack_nos.count > 0 && index->pack_nos.items[index->last] == pack_no) {
        *ret_place = index->last;
        return 0;
    }
    if ((index->pack_nos.count + 1) * 2 > index->slot_count) {
        r = pack_index_grow(index);
        if (r < 0)
            return r;
    }
    uint32_t *slot = pack_slot(index, pack_no);
    if (*slot == 0) {
        r = u32_vector_push(&index->pack_nos, &pack_no);
        if (r < 0)
            return r;
        *slot = (uint32_t)index->pack_nos.count;
    }
    *ret_place = index->last = *slot - 1;
    return 0;
}

/* ---- pages ---- */

void page_encoder_release(struct page_encoder *enc)
{
    buffer_release(&enc->body);
    buffer_release(&enc->key);
    pack_index_release(&enc->packs);
    extent_vector_release(&enc->content_refs);
    *enc = (struct page_encoder){0};
}

void page_encoder_clear(struct page_encoder *enc)
{
    buffer_clear(&enc->body);
    buffer_clear(&enc->key);
    pack_index_clear(&enc->packs);
    extent_vector_clear(&enc->content_refs);
    enc->base = (struct entry_base){0};
    enc->count = 0;
    enc->error = 0;
}

size_t page_encoder_len(const struct page_encoder *enc)
{
    return sizeof(struct catalog_page_header) + enc->body.len +
           enc->packs.pack_nos.count * PACK_NAME_LEN +
           enc->content_refs.count * CATALOG_REFERENCE_LEN_BOUND;
}

static void put_key(struct page_encoder *enc, const uint8_t *key, size_t len)
{
    size_t shared = catalog_common_prefix(enc->key.data, enc->key.len, key, len);

    buffer_put_varint(&enc->body, shared);
    buffer_put_blob(&enc->body, key + shared, len - shared);
    enc->key.len = shared;
    buffer_put(&enc->key, key + shared, len - shared);
}

static void put_chunk(struct page_encoder *enc, const struct chunk_ref *chunk)
{
    const struct chunk_location *at = &chunk->location;
    uint32_t place;

    buffer_put(&enc->body, chunk->id.bytes, CHUNK_ID_LEN);
    if (at->pack_no == PACK_NO_NONE) {
        buffer_put_varint(&enc->body, 0);
        return;
    }
    int r = pack_index_put(&enc->packs, at->pack_no, &place);
    if (r < 0) {
        enc->error = r;
        return;
    }
    buffer_put_varint(&enc->body, (uint64_t)place + 1);
    buffer_put_varint(&enc->body, at->frame_offset);
    buffer_put_varint(&enc->body, at->frame_len);
    buffer_put_varint(&enc->body, at->chunk_offset);
}

void page_encoder_put_child(struct page_encoder *enc, const struct catalog_child *child)
{
    put_key(enc, child->first_key, child->first_key_len);
    buffer_put_varint(&enc->body, child->page.len);
    put_chunk(enc, &child->page);
    enc->count++;
}

static void put_extent(struct page_encoder *enc, const struct extent *extent)
{
    buffer_put_varint(&enc->body, extent->kind);
    buffer_put_varint(&enc->body, extent->len);
    if (extent->kind == EXTENT_DATA)
        put_chunk(enc, &extent->chunk);
}

static void put_reference(struct page_encoder *enc, const struct extent *ref)
{
    buffer_put_varint(&enc->body, ref->len);
    buffer_put_varint(&enc->body, ref->chunk.len);
    put_chunk(enc, &ref->chunk);
}

void page_encoder_put_extent(struct page_encoder *enc, const struct extent *extent)
{
    put_extent(enc, extent);
    enc->count++;
}

void page_encoder_put_reference(struct page_encoder *enc, const struct extent *ref)
{
    put_reference(enc, ref);
    enc->count++;
}

/* a - b modulo 2^64. */
static int64_t difference(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b);
}

static void put_time(struct buffer *b, const struct entry_time *time, int64_t base_sec)
{
    buffer_put_zigzag(b, difference((uint64_t)time->sec, (uint64_t)base_sec));
    buffer_put_varint(b, time->nsec);
}

static bool time_differs(const struct entry_time *a, const struct entry_time *b)
{
    return a->sec != b->sec || a->nsec != b->nsec;
}

static uint32_t entry_bits(const struct entry *e, const struct entry_base *base,
                           const struct catalog_contents *contents)
{
    static const struct entry_time unknown;

    return (uint32_t)e->type | (e->mode != base->mode ? CATALOG_ENTRY_MODE : 0) |
           (e->uid != base->uid ? CATALOG_ENTRY_UID : 0) |
           (e->gid != base->gid ? CATALOG_ENTRY_GID : 0) |
           (time_differs(&e->ctime, &e->mtime) ? CATALOG_ENTRY_CTIME : 0) |
           (time_differs(&e->atime, &e->mtime) ? CATALOG_ENTRY_ATIME : 0) |
           (time_differs(&e->btime, &unknown) ? CATALOG_ENTRY_BTIME : 0) |
           (e->flags != base->flags ? CATALOG_ENTRY_FLAGS : 0) |
           (e->xattrs.count > 0 ? CATALOG_ENTRY_XATTRS : 0) |
           (contents->ref_count > 0 ? CATALOG_ENTRY_CONTENT_PAGES : 0) |
           (e->nlink != 1 ? CATALOG_ENTRY_NLINK : 0) |
           (e->fs_index != base->fs_index ? CATALOG_ENTRY_FS_INDEX : 0) |
           (e->project_id != base->project_id ? CATALOG_ENTRY_PROJECT : 0) |
           (e->remarks != 0 ? CATALOG_ENTRY_REMARKS : 0);
}

static void put_if(struct buffer *b, uint32_t condition, uint64_t value)
{
    if (condition)
        buffer_put_varint(b, value);
}

static void put_attributes(struct buffer *b, const struct entry *e, const struct entry_base *base,
                           uint32_t bits)
{
    buffer_put_varint(b, bits);
    put_if(b, bits & CATALOG_ENTRY_MODE, e->mode);
    put_if(b, bits & CATALOG_ENTRY_UID, e->uid);
    put_if(b, bits & CATALOG_ENTRY_GID, e->gid);
    buffer_put_zigzag(b, difference(e->inode, base->inode));
    put_time(b, &e->mtime, base->mtime_sec);
    if (bits & CATALOG_ENTRY_CTIME)
        put_time(b, &e->ctime, e->mtime.sec);
    if (bits & CATALOG_ENTRY_ATIME)
        put_time(b, &e->atime, e->mtime.sec);
    if (bits & CATALOG_ENTRY_BTIME)
        put_time(b, &e->btime, e->mtime.sec);
    put_if(b, bits & CATALOG_ENTRY_FLAGS, e->flags);
    put_if(b, bits & CATALOG_ENTRY_NLINK, e->nlink);
    put_if(b, bits & CATALOG_ENTRY_FS_INDEX, e->fs_index);
    put_if(b, bits & CATALOG_ENTRY_PROJECT, e->project_id);
    put_if(b, bits & CATALOG_ENTRY_REMARKS, e->remarks);
}

static void put_xattrs(struct buffer *b, const struct xattr_vector *xattrs)
{
    buffer_put_varint(b, xattrs->count);
    for (size_t i = 0; i < xattrs->count; i++) {
        buffer_put_string(b, xattrs->items[i].name);
        buffer_put_blob(b, xattrs->items[i].value, xattrs->items[i].value_len);
    }
}

static void put_contents(struct page_encoder *enc, uint64_t size,
                         const struct catalog_contents *contents)
{
    struct buffer *b = &enc->body;

    buffer_put_varint(b, size);
    if (contents->ref_count > 0) {
        buffer_put_varint(b, contents->ref_level);
        buffer_put_varint(b, contents->ref_count);
        for (size_t i = 0; i < contents->ref_count && enc->error == 0; i++)
            enc->error = extent_vector_push(&enc->content_refs, &contents->refs[i]);
        return;
    }
    buffer_put_varint(b, contents->extent_count);
    for (size_t i = 0; i < contents->extent_count; i++)
        put_extent(enc, &contents->extents[i]);
}

void page_encoder_put_entry(struct page_encoder *enc, const struct entry *e,
                            const struct catalog_contents *contents)
{
    struct buffer *b = &enc->body;
    uint32_t bits = entry_bits(e, &enc->base, contents);

    put_key(enc, e->key, e->key_len);
    put_attributes(b, e, &enc->base, bits);
    if (bits & CATALOG_ENTRY_XATTRS)
        put_xattrs(b, &e->xattrs);
    if (e->type == ENTRY_SYMLINK) {
        buffer_put_string(b, e->symlink ? e->symlink : "");
    } else if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK) {
        buffer_put_varint(b, e->rdev_major);
        buffer_put_varint(b, e->rdev_minor);
    } else if (e->type == ENTRY_REGULAR) {
        put_contents(enc, e->size, contents);
    }
    enc->base = (struct entry_base){.mode = e->mode,
                                    .uid = e->uid,
                                    .gid = e->gid,
                                    .flags = e->flags,
                                    .fs_index = e->fs_index,
                                    .project_id = e->project_id,
                                    .inode = e->inode,
                                    .mtime_sec = e->mtime.sec};
    enc->count++;
}

static void put_pack_names(const struct pack_index *packs, const struct pack_table *names,
                           struct buffer *b)
{
    struct pack_name name;

    for (size_t i = 0; i < packs->pack_nos.count; i++) {
        pack_table_name(names, packs->pack_nos.items[i], &name);
        buffer_put(b, name.bytes, PACK_NAME_LEN);
    }
}

int page_encoder_finish(struct page_encoder *enc, enum catalog_page_kind kind, uint32_t level,
                        const struct pack_table *names, struct buffer *b)
{
    struct catalog_page_header header = {.version = CATALOG_PAGE_VERSION,
                                         .kind = (uint8_t)kind,
                                         .level = (uint8_t)level,
                                         .count = le32_make(enc->count)};
    size_t len_max = kind == CATALOG_PAGE_RUN ? CATALOG_RUN_LEN_MAX : CATALOG_PAGE_LEN_MAX;
    int r;

    for (size_t i = 0; i < enc->content_refs.count; i++)
        put_reference(enc, &enc->content_refs.items[i]);
    if (enc->error < 0)
        return enc->error;
    r = buffer_finish(&enc->body);
    if (r == 0)
        r = buffer_finish(&enc->key);
    if (r < 0)
        return r;
    if (enc->packs.pack_nos.count > UINT16_MAX)
        return error_note(-UMBRA_E_LIMIT, "catalog page refers to %zu packs",
                          enc->packs.pack_nos.count);

    memcpy(header.magic, CATALOG_PAGE_MAGIC, sizeof(header.magic));
    header.pack_count = le16_make((uint16_t)enc->packs.pack_nos.count);
    buffer_clear(b);
    buffer_put(b, &header, sizeof(header));
    put_pack_names(&enc->packs, names, b);
    buffer_put(b, enc->body.data, enc->body.len);
    page_encoder_clear(enc);
    r = buffer_finish(b);
    if (r == 0 && b->len > len_max)
        r = error_note(-UMBRA_E_LIMIT, "catalog page would have %zu bytes", b->len);
    return r;
}

/* ---- root ---- */

int catalog_root_encode(const struct catalog_root *root, const struct pack_table *names,
                        struct buffer *b)
{
    CLEANUP(page_encoder_release) struct page_encoder enc = {0};
    size_t start = b->len;
    int r;

    for (size_t i = 0; i < root->children.count; i++)
        page_encoder_put_child(&enc, &root->children.items[i]);
    r = enc.error < 0 ? enc.error : buffer_finish(&enc.body);
    if (r == 0)
        r = buffer_finish(&enc.key);
    if (r < 0)
        return r;
    buffer_put_u8(b, CATALOG_ROOT_VERSION);
    buffer_put_varint(b, root->level);
    buffer_put_varint(b, root->entry_count);
    buffer_put_varint(b, enc.packs.pack_nos.count);
    put_pack_names(&enc.packs, names, b);
    buffer_put_varint(b, root->children.count);
    buffer_put(b, enc.body.data, enc.body.len);
    r = buffer_finish(b);
    if (r == 0 &&
        (b->len - start > CATALOG_ROOT_LEN_MAX || root->children.count > CATALOG_ROOT_REFS_MAX))
        r = error_note(-UMBRA_E_LIMIT, "catalog root would have %zu bytes, %zu children",
                       b->len - start, root->children.count);
    return r;
}
