/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is where the frames end (le32), then the plain directory of a pack.  What is accepted
 * must describe a pack: frames that fill it, and chunks that fill the frames.
 */
#include <stdint.h>
#include <stdlib.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "repo/pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool fact)
{
    if (!fact)
        abort();
}

static void check_directory(const struct pack_directory *directory, uint32_t data_end)
{
    uint64_t offset = PACK_HEADER_LEN;
    size_t chunk = 0;

    for (size_t i = 0; i < directory->frames.count; i++) {
        const struct pack_frame *frame = &directory->frames.items[i];
        uint64_t plain_len = 0;

        require(frame->offset == offset && frame->first_chunk == chunk && frame->chunk_count > 0);
        require(frame->len > SEAL_OVERHEAD + 1 && frame->len <= FRAME_SEALED_MAX);
        offset += frame->len;
        for (uint32_t j = 0; j < frame->chunk_count; j++, chunk++) {
            require(chunk < directory->chunks.count && directory->chunks.items[chunk].len > 0);
            plain_len += directory->chunks.items[chunk].len;
        }
        require(plain_len <= FRAME_PLAIN_MAX);
    }
    require(offset == data_end && chunk == directory->chunks.count && chunk <= PACK_CHUNKS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct reader r = reader_make(data, len);
    uint32_t data_end = reader_u32(&r);
    CLEANUP(pack_directory_release) struct pack_directory directory = {.kind = PACK_DATA};

    if (!r.failed &&
        pack_directory_parse(r.pos, reader_left(&r), PACK_DATA, data_end, &directory) == 0)
        check_directory(&directory, data_end);
    return 0;
}
