/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packs: building, storing, and reading their directories.  The bytes are in pack-format.h. */
#include "repo/pack.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "basic/checked.h"
#include "basic/error.h"
#include "basic/text.h"
#include "repo/pack-format.h"

static_assert(PACK_HEADER_LEN == sizeof(struct pack_header), "where the first frame begins");

/* ---- names ---- */

void pack_object_name(const struct pack_name *name, char ret_name[PACK_OBJECT_NAME_LEN + 1])
{
    char hex[2 * PACK_NAME_LEN + 1];
    hex_encode(name->bytes, PACK_NAME_LEN, hex);
    memcpy(ret_name, "packs/", 6);
    memcpy(ret_name + 6, hex, 2);
    ret_name[8] = '/';
    memcpy(ret_name + 9, hex, sizeof(hex));
}

int pack_name_parse(const char *object_name, struct pack_name *ret_name)
{
    struct pack_name name;
    char proper[PACK_OBJECT_NAME_LEN + 1];
    if (strlen(object_name) != PACK_OBJECT_NAME_LEN ||
        hex_decode(object_name + 9, name.bytes, PACK_NAME_LEN) < 0)
        return -EINVAL;
    pack_object_name(&name, proper);
    if (strcmp(proper, object_name) != 0)
        return -EINVAL;
    *ret_name = name;
    return 0;
}

/* ---- building ---- */

struct pack_builder {
    const struct keyring *keyring;
    struct pack_header header;
    struct buffer frames;
    struct pack_directory directory;
};

void pack_directory_release(struct pack_directory *directory)
{
    pack_frame_vector_release(&directory->frames);
    pack_chunk_vector_release(&directory->chunks);
}

void pack_builder_free(struct pack_builder *builder)
{
    if (!builder)
        return;
    buffer_release(&builder->frames);
    pack_directory_release(&builder->directory);
    free(builder);
}

int pack_builder_new(const struct keyring *keyring, enum pack_kind kind,
                     struct pack_builder **ret_builder)
{
    struct pack_builder *builder = calloc(1, sizeof(*builder));
    if (!builder)
        return -ENOMEM;
    builder->keyring = keyring;
    memcpy(builder->header.magic, PACK_HEADER_MAGIC, sizeof(builder->header.magic));
    builder->header.version = le16_make(PACK_VERSION);
    builder->header.kind = (uint8_t)kind;
    builder->directory.kind = kind;
    *ret_builder = builder;
    return 0;
}

static size_t directory_plain_len(const struct pack_directory *directory)
{
    return sizeof(struct pack_directory_head) +
           directory->frames.count * sizeof(struct pack_directory_frame) +
           directory->chunks.count * sizeof(struct pack_directory_chunk);
}

uint32_t pack_builder_len(const struct pack_builder *builder)
{
    return (uint32_t)(sizeof(struct pack_header) + builder->frames.len +
                      directory_plain_len(&builder->directory) + SEAL_OVERHEAD +
                      sizeof(struct pack_trailer));
}

size_t pack_builder_chunk_count(const struct pack_builder *builder)
{
    return builder->directory.chunks.count;
}

bool pack_builder_is_full(const struct pack_builder *builder, uint32_t target_bytes)
{
    /* A frame has a chunk a byte at worst. */
    return pack_builder_len(builder) >= target_bytes ||
           builder->directory.chunks.count > PACK_CHUNKS_MAX - FRAME_PLAIN_MAX;
}

const struct pack_directory *pack_builder_directory(const struct pack_builder *builder)
{
    return &builder->directory;
}

void pack_builder_take_directory(struct pack_builder *builder, struct pack_directory *ret_directory)
{
    *ret_directory = builder->directory;
    builder->directory = (struct pack_directory){.kind = ret_directory->kind};
}

int pack_builder_add(struct pack_builder *builder, const void *frame, size_t len,
                     const struct pack_chunk *chunks, size_t chunk_count,
                     uint32_t *ret_frame_offset)
{
    struct pack_directory *directory = &builder->directory;
    size_t room = len + sizeof(struct pack_directory_frame) +
                  chunk_count * sizeof(struct pack_directory_chunk);
    assert(len <= FRAME_SEALED_MAX);
    assert(chunk_count > 0);
    if (room > PACK_LEN_MAX - pack_builder_len(builder))
        return error_note(-UMBRA_E_LIMIT, "a pack would become larger than %u bytes", PACK_LEN_MAX);
    if (chunk_count > PACK_CHUNKS_MAX - directory->chunks.count)
        return error_note(-UMBRA_E_LIMIT, "a pack would have more than %u chunks", PACK_CHUNKS_MAX);

    struct pack_frame entry = {
        .offset = (uint32_t)(sizeof(struct pack_header) + builder->frames.len),
        .len = (uint32_t)len,
        .first_chunk = (uint32_t)directory->chunks.count,
        .chunk_count = (uint32_t)chunk_count,
    };
    int r = pack_chunk_vector_reserve(&directory->chunks, chunk_count);
    if (r >= 0)
        r = pack_frame_vector_push(&directory->frames, &entry);
    if (r < 0)
        return r;
    buffer_put(&builder->frames, frame, len);
    r = buffer_finish(&builder->frames);
    if (r < 0)
        return r;
    memcpy(directory->chunks.items + directory->chunks.count, chunks,
           chunk_count * sizeof(*chunks));
    directory->chunks.count += chunk_count;
    *ret_frame_offset = entry.offset;
    return 0;
}

static int directory_encode(const struct pack_directory *directory, struct buffer *b)
{
    buffer_reserve(b, directory_plain_len(directory));
    buffer_put_u32(b, (uint32_t)directory->frames.count);
    buffer_put_u32(b, (uint32_t)directory->chunks.count);
    for (size_t i = 0; i < directory->frames.count; i++) {
        buffer_put_u32(b, directory->frames.items[i].len);
        buffer_put_u32(b, directory->frames.items[i].chunk_count);
    }
    for (size_t i = 0; i < directory->chunks.count; i++) {
        buffer_put(b, directory->chunks.items[i].id.bytes, CHUNK_ID_LEN);
        buffer_put_u32(b, directory->chunks.items[i].len);
    }
    return buffer_finish(b);
}

/* Opens what was just sealed: a fault of memory or processor must not make a pack unreadable. */
static int verify_directory(const struct pack_builder *builder, const struct buffer *sealed,
                            const struct buffer *plain)
{
    CLEANUP_FREE uint8_t *opened = malloc(plain->len);
    if (!opened)
        return -ENOMEM;
    int r = unseal(builder->keyring, SEAL_PACK_DIRECTORY, &builder->header, sizeof(builder->header),
                   sealed->data, sealed->len, opened);
    if (r >= 0 && memcmp(opened, plain->data, plain->len) != 0)
        r = -UMBRA_E_CORRUPT;
    return r < 0 ? error_prefix(r, "a pack's directory does not open again after sealing") : 0;
}

static int seal_directory(const struct pack_builder *builder, struct buffer *sealed)
{
    CLEANUP(buffer_release) struct buffer plain = {0};
    int r = directory_encode(&builder->directory, &plain);
    if (r < 0)
        return r;
    uint8_t *out = buffer_extend(sealed, plain.len + SEAL_OVERHEAD);
    if (!out)
        return -ENOMEM;
    r = seal(builder->keyring, SEAL_PACK_DIRECTORY, &builder->header, sizeof(builder->header),
             &(struct iovec){plain.data, plain.len}, 1, out);
    return r < 0 ? r : verify_directory(builder, sealed, &plain);
}

int pack_builder_store(struct pack_builder *builder, struct backend *backend,
                       struct pack_name *ret_name, uint64_t *ret_size_bytes)
{
    CLEANUP(buffer_release) struct buffer directory = {0};
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    struct pack_name name;
    int r = seal_directory(builder, &directory);
    if (r < 0)
        return r;
    struct pack_trailer trailer = {.directory_len = le32_make((uint32_t)directory.len)};
    memcpy(trailer.magic, PACK_TRAILER_MAGIC, sizeof(trailer.magic));
    const struct iovec pieces[] = {
        {&builder->header, sizeof(builder->header)},
        {builder->frames.data, builder->frames.len},
        {directory.data, directory.len},
        {&trailer, sizeof(trailer)},
    };
    r = sha256(pieces, ELEMENTSOF(pieces), name.bytes);
    if (r < 0)
        return r;
    pack_object_name(&name, object_name);
    r = backend_put(backend, object_name, pieces, ELEMENTSOF(pieces));
    if (r < 0 && r != -EEXIST) /* the same name is the same contents */
        return r;
    *ret_name = name;
    *ret_size_bytes =
        sizeof(builder->header) + builder->frames.len + directory.len + sizeof(trailer);
    return 0;
}

/* ---- reading ---- */

static int damaged(const char *what)
{
    return error_note(-UMBRA_E_CORRUPT, "%s", what);
}

static int parse_frames(struct reader *reader, uint32_t frame_count, uint32_t data_end,
                        struct pack_directory *directory)
{
    uint64_t offset = sizeof(struct pack_header);
    uint64_t chunk_count = 0;
    for (uint32_t i = 0; i < frame_count; i++) {
        struct pack_frame frame = {.offset = (uint32_t)offset,
                                   .first_chunk = (uint32_t)chunk_count};
        frame.len = reader_u32(reader);
        frame.chunk_count = reader_u32(reader);
        if (frame.len < SEAL_OVERHEAD + 2 || frame.len > FRAME_SEALED_MAX ||
            frame.chunk_count == 0 || frame.chunk_count > FRAME_PLAIN_MAX)
            return damaged("the directory has a frame that cannot be");
        offset += frame.len;
        chunk_count += frame.chunk_count;
        if (offset > data_end || chunk_count > UINT32_MAX)
            return damaged("the directory has frames beyond the data");
        int r = pack_frame_vector_push(&directory->frames, &frame);
        if (r < 0)
            return r;
    }
    return offset == data_end ? 0 : damaged("the directory's frames do not fill the pack");
}

static int parse_frame_chunks(struct reader *reader, const struct pack_frame *frame,
                              struct pack_directory *directory)
{
    uint64_t plain_len = 0;
    if (frame->first_chunk != directory->chunks.count)
        return damaged("the directory's chunk counts do not add up");
    for (uint32_t i = 0; i < frame->chunk_count; i++) {
        struct pack_chunk chunk;
        reader_copy(reader, chunk.id.bytes, CHUNK_ID_LEN);
        chunk.len = reader_u32(reader);
        plain_len += chunk.len;
        if (chunk.len == 0 || plain_len > FRAME_PLAIN_MAX)
            return damaged("the directory has a chunk that cannot be");
        int r = pack_chunk_vector_push(&directory->chunks, &chunk);
        if (r < 0)
            return r;
    }
    return 0;
}

static int parse_into(struct reader *reader, uint32_t data_end, struct pack_directory *directory)
{
    uint32_t frame_count = reader_u32(reader);
    uint32_t chunk_count = reader_u32(reader);
    uint64_t expected = (uint64_t)frame_count * sizeof(struct pack_directory_frame) +
                        (uint64_t)chunk_count * sizeof(struct pack_directory_chunk);
    if (reader->failed || expected != reader_left(reader) || chunk_count > PACK_CHUNKS_MAX)
        return damaged("the directory's counts do not fit its length");
    int r = parse_frames(reader, frame_count, data_end, directory);
    for (uint32_t i = 0; r >= 0 && i < frame_count; i++)
        r = parse_frame_chunks(reader, &directory->frames.items[i], directory);
    if (r < 0)
        return r;
    return reader_finish_at_end(reader) < 0 ? damaged("the directory's chunk counts do not add up")
                                            : 0;
}

int pack_directory_parse(const void *data, size_t len, enum pack_kind kind, uint32_t data_end,
                         struct pack_directory *ret_directory)
{
    CLEANUP(pack_directory_release) struct pack_directory directory = {.kind = kind};
    struct reader reader = reader_make(data, len);
    int r = parse_into(&reader, data_end, &directory);
    if (r < 0)
        return r;
    *ret_directory = directory;
    directory = (struct pack_directory){.kind = kind};
    return 0;
}

static int read_ends(struct backend *backend, const char *object_name, uint64_t size_bytes,
                     struct pack_header *header, struct pack_trailer *trailer)
{
    static const uint8_t zeros[sizeof(header->reserved)];
    if (size_bytes < sizeof(*header) + sizeof(*trailer) || size_bytes > PACK_LEN_MAX)
        return damaged("its size cannot be that of a pack");
    int r = backend_get(backend, object_name, 0, header, sizeof(*header));
    if (r >= 0)
        r = backend_get(backend, object_name, size_bytes - sizeof(*trailer), trailer,
                        sizeof(*trailer));
    if (r < 0)
        return r;
    if (memcmp(header->magic, PACK_HEADER_MAGIC, sizeof(header->magic)) != 0)
        return damaged("its header is damaged");
    if (le16_get(&header->version) != PACK_VERSION)
        return error_note(-UMBRA_E_VERSION, "its version is %u", le16_get(&header->version));
    if ((header->kind != PACK_DATA && header->kind != PACK_META) ||
        memcmp(header->reserved, zeros, sizeof(zeros)) != 0)
        return damaged("its header is damaged");
    if (memcmp(trailer->magic, PACK_TRAILER_MAGIC, sizeof(trailer->magic)) != 0 ||
        le32_get(&trailer->reserved) != 0)
        return damaged("its trailer is damaged, or its end is missing");
    return 0;
}

static int read_directory(struct backend *backend, const struct keyring *keyring,
                          const char *object_name, uint64_t size_bytes,
                          struct pack_directory *ret_directory)
{
    struct pack_header header;
    struct pack_trailer trailer;
    int r = read_ends(backend, object_name, size_bytes, &header, &trailer);
    if (r < 0)
        return r;
    uint64_t room = size_bytes - sizeof(header) - sizeof(trailer);
    uint32_t sealed_len = le32_get(&trailer.directory_len);
    if (sealed_len > room || sealed_len < SEAL_OVERHEAD + sizeof(struct pack_directory_head))
        return damaged("its trailer is damaged");
    uint32_t data_end = (uint32_t)(size_bytes - sizeof(trailer) - sealed_len);

    CLEANUP_FREE uint8_t *sealed = malloc(sealed_len);
    CLEANUP_FREE uint8_t *plain = malloc(sealed_len);
    if (!sealed || !plain)
        return -ENOMEM;
    r = backend_get(backend, object_name, data_end, sealed, sealed_len);
    if (r < 0)
        return r;
    r = unseal(keyring, SEAL_PACK_DIRECTORY, &header, sizeof(header), sealed, sealed_len, plain);
    if (r < 0)
        return error_prefix(r, "its directory does not open");
    return pack_directory_parse(plain, sealed_len - SEAL_OVERHEAD, (enum pack_kind)header.kind,
                                data_end, ret_directory);
}

int pack_read_directory(struct backend *backend, const struct keyring *keyring,
                        const struct pack_name *name, uint64_t size_bytes,
                        struct pack_directory *ret_directory)
{
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    pack_object_name(name, object_name);
    int r = read_directory(backend, keyring, object_name, size_bytes, ret_directory);
    return r == -UMBRA_E_CORRUPT || r == -UMBRA_E_SEAL || r == -UMBRA_E_VERSION
               ? error_prefix(r, "%s", object_name)
               : r;
}
