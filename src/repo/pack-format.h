/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packs on disk: packs/<first two hex digits of the name>/<name>, the name being the SHA-256 of all
 * bytes.
 *
 *     header[16]  frame...  directory  trailer[16]
 *
 * Frames follow one another without any visible border.  A frame is a sealed box (crypt.h; kind
 * SEAL_DATA_FRAME or SEAL_META_FRAME; associated data: the pack kind, one byte) of
 *
 *     00      codec: 0 = the rest is the contents,
 *                    1 = the rest is one zstd frame, which states its content size
 *     01-     contents: whole chunks, one after the other, at most FRAME_PLAIN_MAX bytes
 *
 * The directory is a sealed box (SEAL_PACK_DIRECTORY; associated data: the header) of
 *
 *     00-03   count of frames
 *     04-07   count of chunks, at most PACK_CHUNKS_MAX
 *     then    for each frame, in order: le32 sealed length, le32 count of chunks (at least 1)
 *     then    for each chunk, in order: id[32], le32 length (at least 1)
 *
 * Duties of a reader: refuse wrong magic, unknown version or kind, reserved bytes that are not
 * zero, frames that do not fill the space between header and directory exactly, chunk counts that
 * do not add up, chunks of one frame longer than FRAME_PLAIN_MAX together; and check each chunk
 * that it uses against its id, a keyed hash of its contents.
 */
#pragma once

#include <assert.h>

#include "basic/le.h"

#define PACK_HEADER_MAGIC  "UMBRAPAK"
#define PACK_TRAILER_MAGIC "UPAKEND1"
#define PACK_VERSION       1u

enum frame_codec_id {
    FRAME_RAW = 0,
    FRAME_ZSTD = 1,
};

struct pack_header {
    uint8_t magic[8];    /* 00-07: PACK_HEADER_MAGIC */
    le16_t version;      /* 08-09: PACK_VERSION */
    uint8_t kind;        /* 10: enum pack_kind */
    uint8_t reserved[5]; /* 11-15: zero */
};
static_assert(sizeof(struct pack_header) == 16, "on disk");

struct pack_trailer {
    le32_t directory_len; /* 00-03: sealed bytes of the directory, which ends where the trailer
                             begins */
    le32_t reserved;      /* 04-07: zero */
    uint8_t magic[8];     /* 08-15: PACK_TRAILER_MAGIC */
};
static_assert(sizeof(struct pack_trailer) == 16, "on disk");

struct pack_directory_head {
    le32_t frame_count;
    le32_t chunk_count;
};
static_assert(sizeof(struct pack_directory_head) == 8, "on disk");

struct pack_directory_frame {
    le32_t sealed_len;
    le32_t chunk_count;
};
static_assert(sizeof(struct pack_directory_frame) == 8, "on disk");

struct pack_directory_chunk {
    uint8_t id[32];
    le32_t len;
};
static_assert(sizeof(struct pack_directory_chunk) == 36, "on disk");
