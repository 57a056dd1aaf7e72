/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Index segments as objects of the repository: compressed, sealed, named by their SHA-256. */
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "basic/error.h"
#include "basic/text.h"
#include "repo/index-private.h"

#define OBJECT_PREFIX     "index/"
#define OBJECT_PREFIX_LEN 6
/* Ids do not compress and the rest does with any effort. */
#define OBJECT_ZSTD_LEVEL 1

#define PLAIN_LEN_MAX                                              \
    (sizeof(struct index_segment_header) +                         \
     (size_t)INDEX_PACKS_LIMIT * sizeof(struct index_pack_entry) + \
     (size_t)INDEX_SEGMENT_RECORDS_MAX * sizeof(struct index_record))

static_assert(INDEX_OBJECT_NAME_LEN == OBJECT_PREFIX_LEN + 64, "prefix and SHA-256");

int index_object_name_parse(const char *object_name, uint8_t ret_digest[32])
{
    index_object_name proper;
    uint8_t digest[32];
    if (strlen(object_name) != INDEX_OBJECT_NAME_LEN ||
        hex_decode(object_name + OBJECT_PREFIX_LEN, digest, sizeof(digest)) < 0)
        return -EINVAL;
    index_object_name_make(digest, proper);
    if (strcmp(proper, object_name) != 0)
        return -EINVAL;
    memcpy(ret_digest, digest, sizeof(digest));
    return 0;
}

void index_object_name_make(const uint8_t digest[32], index_object_name ret_name)
{
    memcpy(ret_name, OBJECT_PREFIX, OBJECT_PREFIX_LEN);
    hex_encode(digest, 32, ret_name + OBJECT_PREFIX_LEN);
}

static struct index_object_header object_header(void)
{
    struct index_object_header header = {.version = le32_make(INDEX_VERSION)};
    memcpy(header.magic, INDEX_OBJECT_MAGIC, sizeof(header.magic));
    return header;
}

static int compress(const void *plain, size_t len, struct buffer *packed)
{
    uint8_t *out = buffer_extend(packed, ZSTD_compressBound(len));
    if (!out)
        return error_note(-ENOMEM, "no memory for an index segment");
    size_t n = ZSTD_compress(out, packed->len, plain, len, OBJECT_ZSTD_LEVEL);
    if (ZSTD_isError(n))
        return error_note(-EIO, "cannot compress an index segment: %s", ZSTD_getErrorName(n));
    packed->len = n;
    return 0;
}

int segment_object_store(struct backend *backend, const struct keyring *keyring, const void *plain,
                         size_t len, uint8_t ret_digest[32])
{
    CLEANUP(buffer_release) struct buffer packed = {0};
    CLEANUP(buffer_release) struct buffer box = {0};
    struct index_object_header header = object_header();
    index_object_name name;
    uint8_t digest[32];

    int r = compress(plain, len, &packed);
    if (r < 0)
        return r;
    uint8_t *out = buffer_extend(&box, packed.len + SEAL_OVERHEAD);
    if (!out)
        return error_note(-ENOMEM, "no memory for an index segment");
    r = seal(keyring, SEAL_INDEX, &header, sizeof(header), &(struct iovec){packed.data, packed.len},
             1, out);
    if (r < 0)
        return r;
    buffer_release(&packed); /* tens of megabytes when the segment is large */

    const struct iovec pieces[] = {{&header, sizeof(header)}, {box.data, box.len}};
    r = sha256(pieces, ELEMENTSOF(pieces), digest);
    if (r < 0)
        return r;
    index_object_name_make(digest, name);
    r = backend_put(backend, name, pieces, ELEMENTSOF(pieces));
    if (r < 0 && r != -EEXIST)
        return r;
    memcpy(ret_digest, digest, sizeof(digest));
    return 0;
}

/* ---- loading ---- */

static int decompress(const uint8_t *packed, size_t packed_len, void **ret_plain, size_t *ret_len)
{
    unsigned long long size = ZSTD_getFrameContentSize(packed, packed_len);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size == 0 ||
        size > PLAIN_LEN_MAX)
        return error_note(-UMBRA_E_CORRUPT, "it does not state a fitting size");
    CLEANUP_FREE void *plain = malloc((size_t)size);
    if (!plain)
        return error_note(-ENOMEM, "no memory for an index segment");
    size_t n = ZSTD_decompress(plain, (size_t)size, packed, packed_len);
    if (ZSTD_isError(n) || n != size)
        return error_note(-UMBRA_E_CORRUPT, "it does not decompress: %s",
                          ZSTD_isError(n) ? ZSTD_getErrorName(n) : "too short");
    int r = index_segment_parse(plain, n);
    if (r < 0)
        return r;
    *ret_plain = TAKE_PTR(plain);
    *ret_len = n;
    return 0;
}

static int open_object(const struct keyring *keyring, const uint8_t *object, size_t len,
                       uint8_t **ret_packed, size_t *ret_len)
{
    const struct index_object_header expected = object_header();
    const struct index_object_header *header = (const struct index_object_header *)object;
    if (len < sizeof(*header) || memcmp(header->magic, expected.magic, sizeof(expected.magic)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "it does not begin like an index segment");
    if (le32_get(&header->version) != INDEX_VERSION)
        return error_note(-UMBRA_E_VERSION, "its version is %u", le32_get(&header->version));
    if (le32_get(&header->reserved) != 0)
        return error_note(-UMBRA_E_CORRUPT, "its header is damaged");
    if (len < sizeof(*header) + SEAL_OVERHEAD)
        return error_note(-UMBRA_E_CORRUPT, "it is cut short");

    size_t box_len = len - sizeof(*header);
    CLEANUP_FREE uint8_t *packed = malloc(box_len);
    if (!packed)
        return error_note(-ENOMEM, "no memory for an index segment");
    int r = unseal(keyring, SEAL_INDEX, header, sizeof(*header), object + sizeof(*header), box_len,
                   packed);
    if (r < 0)
        return r;
    *ret_packed = TAKE_PTR(packed);
    *ret_len = box_len - SEAL_OVERHEAD;
    return 0;
}

/* A sealed box says that a keyholder wrote it, the name says which one it is. */
static int check_digest(const void *object, size_t len, const uint8_t digest[32])
{
    uint8_t actual[32];
    const struct iovec piece = {(void *)(uintptr_t)object, len};
    int r = sha256(&piece, 1, actual);
    if (r < 0)
        return r;
    if (memcmp(actual, digest, sizeof(actual)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "its contents do not have the SHA-256 of its name");
    return 0;
}

/* Unsealed; the object's own memory is given back on the way. */
static int load_packed(struct backend *backend, const struct keyring *keyring,
                       const uint8_t digest[32], uint8_t **ret_packed, size_t *ret_len)
{
    CLEANUP_FREE void *object = NULL;
    index_object_name name;
    size_t object_len = 0;

    index_object_name_make(digest, name);
    int r = backend_get_all(backend, name,
                            sizeof(struct index_object_header) + SEAL_OVERHEAD +
                                ZSTD_COMPRESSBOUND(PLAIN_LEN_MAX),
                            &object, &object_len);
    if (r < 0)
        return r;
    r = check_digest(object, object_len, digest);
    return r < 0 ? r : open_object(keyring, object, object_len, ret_packed, ret_len);
}

int segment_object_load(struct backend *backend, const struct keyring *keyring,
                        const uint8_t digest[32], void **ret_plain, size_t *ret_len)
{
    CLEANUP_FREE uint8_t *packed = NULL;
    size_t packed_len = 0;

    int r = load_packed(backend, keyring, digest, &packed, &packed_len);
    return r < 0 ? r : decompress(packed, packed_len, ret_plain, ret_len);
}
