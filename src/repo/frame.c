/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames: compress and seal, open and decompress.
 *
 * Most data that does not compress (media, archives, ciphertext) shows it at once: a few blocks of
 * the frame are tried with level 1 first, and when they do not shrink, the frame is kept raw
 * without a real attempt.  The levels below 1 would be faster, but they store literals as they are,
 * so that text without repetitions (hex, base64) would look incompressible.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "basic/error.h"
#include "repo/pack-format.h"
#include "repo/pack.h"

#define PROBE_MIN_LEN     (64u << 10) /* shorter frames are just compressed */
#define PROBE_BLOCK_LEN   (4u << 10)
#define PROBE_BLOCK_COUNT 8u
#define PROBE_LEVEL       1
#define PROBE_ENOUGH      2u /* blocks that shrink by a quarter: the rest is not tried */

/* A hash table that stays in a core's first-level cache: at level 2 a tenth less CPU for 1.5 % more
 * space (docs/decisions/001). */
#define FAST_LEVEL    2
#define FAST_HASH_LOG 14

struct frame_codec {
    const struct keyring *keyring;
    ZSTD_CCtx *probe; /* apart: a context whose level changes clears its tables */
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    uint8_t *packed; /* codec byte and payload: room for the worst compression */
    size_t packed_size;
    uint8_t *plain; /* FRAME_PLAIN_MAX */
};

void frame_codec_free(struct frame_codec *codec)
{
    if (!codec)
        return;
    ZSTD_freeCCtx(codec->probe);
    ZSTD_freeCCtx(codec->compress);
    ZSTD_freeDCtx(codec->decompress);
    free(codec->packed);
    free(codec->plain);
    free(codec);
}

static ZSTD_CCtx *new_context(int level)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    if (!context)
        return NULL;
    size_t result = ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
    if (level == FAST_LEVEL)
        result = ZSTD_CCtx_setParameter(context, ZSTD_c_hashLog, FAST_HASH_LOG);
    assert(!ZSTD_isError(result)); /* zstd clamps levels */
    return context;
}

int frame_codec_new(const struct keyring *keyring, int zstd_level, struct frame_codec **ret_codec)
{
    CLEANUP(frame_codec_freep) struct frame_codec *codec = calloc(1, sizeof(*codec));
    if (!codec)
        return -ENOMEM;
    codec->keyring = keyring;
    codec->packed_size = 1 + ZSTD_compressBound(FRAME_PLAIN_MAX);
    codec->packed = malloc(codec->packed_size);
    codec->plain = malloc(FRAME_PLAIN_MAX);
    codec->probe = new_context(PROBE_LEVEL);
    codec->compress = new_context(zstd_level);
    codec->decompress = ZSTD_createDCtx();
    if (!codec->packed || !codec->plain || !codec->probe || !codec->compress || !codec->decompress)
        return -ENOMEM;
    *ret_codec = TAKE_PTR(codec);
    return 0;
}

static enum seal_kind seal_kind_of(enum pack_kind kind)
{
    return kind == PACK_META ? SEAL_META_FRAME : SEAL_DATA_FRAME;
}

static int zstd_error(size_t result, const char *what)
{
    return error_note(-UMBRA_E_CORRUPT, "cannot %s a frame: %s", what, ZSTD_getErrorName(result));
}

/* Whether a few blocks spread over the contents shrink at all. */
static bool looks_compressible(struct frame_codec *codec, const uint8_t *plain, size_t len)
{
    if (len < PROBE_MIN_LEN)
        return true;
    size_t packed = 0;
    for (size_t i = 0; i < PROBE_BLOCK_COUNT; i++) {
        if (i == PROBE_ENOUGH && packed < PROBE_ENOUGH * PROBE_BLOCK_LEN * 3 / 4)
            return true;
        size_t offset = (len - PROBE_BLOCK_LEN) / (PROBE_BLOCK_COUNT - 1) * i;
        size_t n = ZSTD_compress2(codec->probe, codec->packed, codec->packed_size, plain + offset,
                                  PROBE_BLOCK_LEN);
        packed += ZSTD_isError(n) ? PROBE_BLOCK_LEN : n;
    }
    return packed < PROBE_BLOCK_COUNT * PROBE_BLOCK_LEN * 31 / 32;
}

/* Fills packed[1..] when that is worth it: at least three percent shorter.  0: not. */
static int compress(struct frame_codec *codec, const uint8_t *plain, size_t len, size_t *ret_len)
{
    *ret_len = 0;
    if (!looks_compressible(codec, plain, len))
        return 0;
    size_t n =
        ZSTD_compress2(codec->compress, codec->packed + 1, codec->packed_size - 1, plain, len);
    if (ZSTD_isError(n))
        return zstd_error(n, "compress");
    if (n < len - len / 32)
        *ret_len = n;
    return 0;
}

int frame_seal(struct frame_codec *codec, enum pack_kind kind, const void *plain, size_t len,
               struct buffer *out)
{
    assert(len > 0);
    assert(len <= FRAME_PLAIN_MAX);
    size_t packed_len;
    int r = compress(codec, plain, len, &packed_len);
    if (r < 0)
        return r;
    uint8_t codec_id = packed_len > 0 ? FRAME_ZSTD : FRAME_RAW;
    const struct iovec pieces[] = {
        {&codec_id, 1},
        {packed_len > 0 ? codec->packed + 1 : (void *)(uintptr_t)plain,
         packed_len > 0 ? packed_len : len},
    };
    uint8_t *box = buffer_extend(out, 1 + pieces[1].iov_len + SEAL_OVERHEAD);
    if (!box)
        return -ENOMEM;
    uint8_t aad = (uint8_t)kind;
    return seal(codec->keyring, seal_kind_of(kind), &aad, 1, pieces, ELEMENTSOF(pieces), box);
}

static int decompress(struct frame_codec *codec, size_t packed_len, const uint8_t **ret_plain,
                      size_t *ret_len)
{
    unsigned long long size = ZSTD_getFrameContentSize(codec->packed + 1, packed_len);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size == 0 ||
        size > FRAME_PLAIN_MAX)
        return error_note(-UMBRA_E_CORRUPT, "a frame does not state a fitting size");
    size_t n = ZSTD_decompressDCtx(codec->decompress, codec->plain, FRAME_PLAIN_MAX,
                                   codec->packed + 1, packed_len);
    if (ZSTD_isError(n))
        return zstd_error(n, "decompress");
    if (n != size)
        return error_note(-UMBRA_E_CORRUPT, "a frame has more than the one it should have");
    *ret_plain = codec->plain;
    *ret_len = n;
    return 0;
}

int frame_unseal(struct frame_codec *codec, enum pack_kind kind, const void *sealed, size_t len,
                 const uint8_t **ret_plain, size_t *ret_len)
{
    uint8_t aad = (uint8_t)kind;
    if (len < SEAL_OVERHEAD + 2 || len > FRAME_SEALED_MAX)
        return error_note(-UMBRA_E_CORRUPT, "a frame of %zu bytes cannot be", len);
    int r = unseal(codec->keyring, seal_kind_of(kind), &aad, 1, sealed, len, codec->packed);
    if (r < 0)
        return r;
    size_t packed_len = len - SEAL_OVERHEAD - 1;
    switch (codec->packed[0]) {
    case FRAME_ZSTD: return decompress(codec, packed_len, ret_plain, ret_len);
    case FRAME_RAW:
        *ret_plain = codec->packed + 1;
        *ret_len = packed_len;
        return 0;
    default:
        return error_note(-UMBRA_E_CORRUPT, "a frame has an unknown codec, %u", codec->packed[0]);
    }
}
