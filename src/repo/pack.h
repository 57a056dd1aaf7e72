/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames and packs.
 *
 * A chunk is the unit of deduplication, a frame that of compression and sealing, a pack that of
 * storage.  A frame holds one or more whole chunks, at most FRAME_PLAIN_MAX bytes: small files of
 * one directory share a frame, which is why they compress together, and a read of any 4 KiB opens
 * one frame at most. Frames follow one another in a pack without any visible border; where they are
 * says the pack's directory, sealed at its end:
 *
 *     header[16] frame... directory(sealed) trailer[16]
 *
 * The pack is named by the SHA-256 of all its bytes.  Data and metadata packs are apart.  See
 * pack-format.h for the bytes.
 */
#pragma once

#include "basic/buffer.h"
#include "basic/vector.h"
#include "repo/backend.h"
#include "repo/crypt.h"

#define FRAME_PLAIN_MAX      (512u << 10)
#define FRAME_SEALED_MAX     (FRAME_PLAIN_MAX + 1 + SEAL_OVERHEAD)
#define PACK_HEADER_LEN      16u
#define PACK_LEN_MAX         (1u << 30) /* a reader refuses more */
#define PACK_LEN_TARGET      (32u << 20)
#define PACK_CHUNKS_MAX      (1u << 20) /* of one pack, so that one index segment can hold them */
#define PACK_OBJECT_NAME_LEN 73         /* "packs/xx/" and 64 hex digits, without the NUL */

enum pack_kind {
    PACK_DATA = CHUNK_DATA,
    PACK_META = CHUNK_META,
};

/* A chunk of a frame; its place in the frame follows from the order. */
struct pack_chunk {
    struct chunk_id id;
    uint32_t len;
};
DEFINE_VECTOR(pack_chunk_vector, struct pack_chunk);

/* Compresses and seals frames, and opens them: one a thread (it holds the zstd contexts). */
struct frame_codec;
_must_check_ int frame_codec_new(const struct keyring *keyring, int zstd_level,
                                 struct frame_codec **ret_codec);
void frame_codec_free(struct frame_codec *codec);
DEFINE_CLEANUP_PTR(struct frame_codec *, frame_codec_free);
/* Appends the sealed frame to out.  Incompressible contents are noticed early and kept raw. */
_must_check_ int frame_seal(struct frame_codec *codec, enum pack_kind kind, const void *plain,
                            size_t len, struct buffer *out);
/* Opens a frame; *ret_plain lies in the codec and is valid until its next call. -UMBRA_E_SEAL,
 * -UMBRA_E_CORRUPT. */
_must_check_ int frame_unseal(struct frame_codec *codec, enum pack_kind kind, const void *sealed,
                              size_t len, const uint8_t **ret_plain, size_t *ret_len);

/* A pack being filled, in memory. One thread at a time. */
struct pack_builder;
_must_check_ int pack_builder_new(const struct keyring *keyring, enum pack_kind kind,
                                  struct pack_builder **ret_builder);
void pack_builder_free(struct pack_builder *builder);
DEFINE_CLEANUP_PTR(struct pack_builder *, pack_builder_free);
/* Adds a sealed frame with the chunks in it; says where it lies. */
_must_check_ int pack_builder_add(struct pack_builder *builder, const void *frame, size_t len,
                                  const struct pack_chunk *chunks, size_t chunk_count,
                                  uint32_t *ret_frame_offset);
uint32_t pack_builder_len(
    const struct pack_builder *builder); /* bytes of the pack so far, directory included */
size_t pack_builder_chunk_count(const struct pack_builder *builder);
/* Whether it should be stored before another frame is added: it has its target length, or another
 * frame might exceed PACK_CHUNKS_MAX. */
bool pack_builder_is_full(const struct pack_builder *builder, uint32_t target_bytes);
/* Seals the directory, verifies that it opens again, names the pack and puts it into the backend
 * (durable on return; a pack that is there already is fine).  The builder stays readable
 * (pack_builder_directory) until freed. */
_must_check_ int pack_builder_store(struct pack_builder *builder, struct backend *backend,
                                    struct pack_name *ret_name, uint64_t *ret_size_bytes);

struct pack_frame {
    uint32_t offset, len; /* sealed */
    uint32_t first_chunk, chunk_count;
};
DEFINE_VECTOR(pack_frame_vector, struct pack_frame);

struct pack_directory {
    enum pack_kind kind;
    struct pack_frame_vector frames;
    struct pack_chunk_vector chunks;
};
void pack_directory_release(struct pack_directory *directory);
/* The directory of a builder, as a view: do not release. */
const struct pack_directory *pack_builder_directory(const struct pack_builder *builder);
/* Hands the directory over to the caller, who releases it; the builder's is empty afterwards. */
void pack_builder_take_directory(struct pack_builder *builder,
                                 struct pack_directory *ret_directory);
/* Reads header, trailer and directory of a stored pack.  Damage is -UMBRA_E_CORRUPT or
 * -UMBRA_E_SEAL with a note that names the pack and the part. */
_must_check_ int pack_read_directory(struct backend *backend, const struct keyring *keyring,
                                     const struct pack_name *name, uint64_t size_bytes,
                                     struct pack_directory *ret_directory);
/* The directory's plain bytes, parsed (for the fuzzer): data_end = offset where frames end. */
_must_check_ int pack_directory_parse(const void *data, size_t len, enum pack_kind kind,
                                      uint32_t data_end, struct pack_directory *ret_directory);

void pack_object_name(const struct pack_name *name, char ret_name[PACK_OBJECT_NAME_LEN + 1]);
/* From an object name; -EINVAL. */
_must_check_ int pack_name_parse(const char *object_name, struct pack_name *ret_name);
