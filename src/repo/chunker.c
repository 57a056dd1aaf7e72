/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content-defined chunking with Gear.
 *
 * 1. A cut depends on nothing but the bytes of its own chunk, the sizes and the table.  Hence equal
 *    contents are cut alike wherever they stand, from the first common cut on.
 * 2. After 64 steps a byte has left the 64-bit state, so the state at n depends on bytes n-64..n-1
 *    alone.  That is why hashing may begin 64 bytes before the first place where a cut is possible,
 *    and the masks take the highest bits, which depend on most of the window.
 * 3. Below the normal size the mask has two bits more than the normal size would ask for, above it
 *    two bits less (normalised chunking, level 2 of the FastCDC paper), so most chunks end soon
 *    after the normal size.
 *
 * Nothing here allocates or fails after chunker_init().
 */
#include "repo/chunker.h"

#include <string.h>

#include "basic/error.h"
#include "repo/pack.h"

#define GEAR_WINDOW        64u
#define NORMALISATION_BITS 2u
#define CHUNK_LEN_MIN      64u
#define CHUNK_LEN_MAX      (16u << 20)
#define DEFAULT_MAX        (512u << 10)

const struct chunker_params chunker_params_default = {
    .min_bytes = 64u << 10,
    .normal_bytes = 256u << 10,
    .max_bytes = DEFAULT_MAX,
};

static bool params_make_sense(const struct chunker_params *p)
{
    return p->min_bytes >= CHUNK_LEN_MIN && p->min_bytes <= p->normal_bytes &&
           p->normal_bytes <= p->max_bytes && p->max_bytes <= CHUNK_LEN_MAX &&
           (p->normal_bytes & (p->normal_bytes - 1)) == 0;
}

static uint64_t mask_of_high_bits(unsigned count)
{
    return ~UINT64_C(0) << (64 - count);
}

int chunker_init(struct chunker *chunker, enum chunker_kind kind,
                 const struct chunker_params *params, const uint64_t table[256])
{
    if (kind != CHUNKER_GEAR && kind != CHUNKER_FIXED)
        return error_note(-EINVAL, "unknown chunker %d", (int)kind);
    if (!params_make_sense(params))
        return error_note(-EINVAL,
                          "chunk sizes %u/%u/%u make no sense: expected %u <= min <= normal <= max "
                          "<= %u, normal a power of two",
                          params->min_bytes, params->normal_bytes, params->max_bytes, CHUNK_LEN_MIN,
                          CHUNK_LEN_MAX);
    unsigned bits = (unsigned)__builtin_ctz(params->normal_bytes);
    *chunker = (struct chunker){
        .kind = kind,
        .params = *params,
        .mask_strict = mask_of_high_bits(bits + NORMALISATION_BITS),
        .mask_loose = mask_of_high_bits(bits - NORMALISATION_BITS),
        .table = table,
    };
    return 0;
}

/*
 * One step.  The empty asm keeps the loaded value apart from the sum: compilers then add and shift
 * with one lea, one cycle of the chain h -> h, where clang would otherwise make two of it, and gcc
 * has no loop that it could vectorise (which makes it eight times slower).
 */
#define GEAR_STEP(h, table, byte)              \
    do {                                       \
        uint64_t gear_value = (table)[(byte)]; \
        __asm__("" : "+r"(gear_value));        \
        (h) = (h)*2 + gear_value;              \
    } while (0)

static uint64_t gear_warm_up(const uint64_t *table, const uint8_t *data, size_t begin, size_t end)
{
    uint64_t h = 0;
    for (size_t i = begin; i < end; i++)
        GEAR_STEP(h, table, data[i]);
    return h;
}

/* Hashes on from begin, where the state is *h.  The first n in begin < n <= end after whose last
 * byte the masked bits are zero; 0 when there is none. */
static size_t gear_scan(const uint64_t *table, uint64_t mask, uint64_t *h_inout,
                        const uint8_t *data, size_t begin, size_t end)
{
    uint64_t h = *h_inout;
    size_t i = begin;

    for (; end - i >= 4; i += 4) {
        GEAR_STEP(h, table, data[i]);
        if ((h & mask) == 0)
            return i + 1;
        GEAR_STEP(h, table, data[i + 1]);
        if ((h & mask) == 0)
            return i + 2;
        GEAR_STEP(h, table, data[i + 2]);
        if ((h & mask) == 0)
            return i + 3;
        GEAR_STEP(h, table, data[i + 3]);
        if ((h & mask) == 0)
            return i + 4;
    }
    for (; i < end; i++) {
        GEAR_STEP(h, table, data[i]);
        if ((h & mask) == 0)
            return i + 1;
    }
    *h_inout = h;
    return 0;
}

/* The first cut in data[0..len), len <= max; 0: none. */
static size_t gear_find_cut(const struct chunker *c, const uint8_t *data, size_t len)
{
    size_t min = c->params.min_bytes;
    if (len < min)
        return 0;

    /* Up to min - 1; the step to min is the first that may cut. */
    uint64_t h = gear_warm_up(c->table, data, min - GEAR_WINDOW, min - 1);
    size_t strict_end = MIN(len, (size_t)c->params.normal_bytes - 1);
    size_t begin = min - 1;
    if (begin < strict_end) {
        size_t cut = gear_scan(c->table, c->mask_strict, &h, data, begin, strict_end);
        if (cut > 0)
            return cut;
        begin = strict_end;
    }
    return gear_scan(c->table, c->mask_loose, &h, data, begin, len);
}

size_t chunker_next(const struct chunker *chunker, const uint8_t *data, size_t len, bool at_end)
{
    size_t max =
        chunker->kind == CHUNKER_FIXED ? chunker->params.normal_bytes : chunker->params.max_bytes;
    size_t window = MIN(len, max);

    if (chunker->kind == CHUNKER_GEAR) {
        size_t cut = gear_find_cut(chunker, data, window);
        if (cut > 0)
            return cut;
    }
    if (len >= max)
        return max;
    return at_end ? len : 0;
}

size_t zero_prefix_len(const uint8_t *data, size_t len)
{
    size_t i = 0;
    uint64_t words[8];

    for (; len - i >= sizeof(words); i += sizeof(words)) {
        memcpy(words, data + i, sizeof(words));
        if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] |
             words[7]) != 0)
            break;
    }
    while (i < len && data[i] == 0)
        i++;
    return i;
}
