/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Index segments: in the repository, opened, and in the cache.
 *
 * In the repository, index/<sha256 of all bytes>:
 *
 *     header[16]  sealed box (crypt.h; SEAL_INDEX; associated data: the header) of
 *                 one zstd frame, which states its content size, of the plain form
 *
 * The plain form:
 *
 *     header[64]  pack[48]...  record[36]...
 *
 * Packs ascend by name, each once; records ascend by (prefix of the chunk id, number of the pack in
 * this segment's table, offset of the frame, offset of the chunk), each once.  All records of a
 * pack stand in the segment that has the pack in its table, so "is this pack indexed" is a question
 * to the tables alone.  There are at most INDEX_SEGMENT_RECORDS_MAX records; no pack has more
 * chunks than that.
 *
 * The prefix is half of the chunk id.  An id is a keyed hash, so that nobody without the master key
 * can look for two chunks with the same 128 bits, and by chance two of 2^40 chunks have the same
 * with a probability of 2^-49.
 *
 * In the cache directory, index-<hex of the object's name>:
 *
 *     plain form  zeros up to a multiple of 32  filter  checksums  trailer[96]
 *
 * filter: a split-block Bloom filter (Apache Parquet, BloomFilter.md; Putze, Sanders, Singler,
 * "Cache-, Hash- and Space-Efficient Bloom Filters", WEA 2007) of blocks of eight 32-bit words,
 * with the salts of Parquet.  The hash is bytes 08-15 of the id prefix. checksums: for each
 * INDEX_BLOCK_RECORDS records the first 8 bytes of their BLAKE3. trailer.hash: BLAKE3 of all but
 * the records: header and packs, filter (with the zeros before it), checksums, trailer (with a hash
 * of zeros).
 *
 * Durability: the object is, when its writer returns.  Cache files are not synced: what a crash
 * leaves of one does not have the hash, or a block of records does not have its checksum, and then
 * it is made again from the object.
 */
#pragma once

#include <assert.h>

#include "basic/le.h"
#include "tree/chunk-ref.h"

#define INDEX_OBJECT_MAGIC  "UMBRAIDX"
#define INDEX_SEGMENT_MAGIC "UMBRASEG"
#define INDEX_CACHE_MAGIC   "UMBRASGC"
#define INDEX_VERSION       1u

#define INDEX_PREFIX_LEN     16u
#define INDEX_BLOCK_RECORDS  128u
#define INDEX_PACKS_LIMIT    (1u << 20)
#define INDEX_CHECKSUM_LEN   8u
#define INDEX_FILTER_BLOCK   32u /* bytes */
#define INDEX_FILTER_BITS    10u /* a record */
#define INDEX_CACHE_HASH_LEN 32u

struct index_object_header {
    uint8_t magic[8]; /* 00-07: INDEX_OBJECT_MAGIC */
    le32_t version;   /* 08-11: INDEX_VERSION */
    le32_t reserved;  /* 12-15: zero */
};
static_assert(sizeof(struct index_object_header) == 16, "on disk");

struct index_segment_header {
    uint8_t magic[8];     /* 00-07: INDEX_SEGMENT_MAGIC */
    le32_t version;       /* 08-11: INDEX_VERSION */
    le32_t pack_count;    /* 12-15 */
    le32_t record_count;  /* 16-19 */
    uint8_t reserved[44]; /* 20-63: zero */
};
static_assert(sizeof(struct index_segment_header) == 64, "on disk");

struct index_pack_entry {
    uint8_t name[PACK_NAME_LEN]; /* 00-31 */
    le32_t size_bytes;           /* 32-35: of the whole pack */
    le32_t chunk_count;          /* 36-39: records of this segment that name it */
    uint8_t kind;                /* 40: enum pack_kind */
    uint8_t reserved[7];         /* 41-47: zero */
};
static_assert(sizeof(struct index_pack_entry) == 48, "on disk");

struct index_record {
    uint8_t prefix[INDEX_PREFIX_LEN]; /* 00-15: of the chunk id */
    le32_t pack;                      /* 16-19: in the table of this segment, from 0 */
    le32_t frame_offset;              /* 20-23 */
    le32_t frame_len;                 /* 24-27: sealed */
    le32_t chunk_offset;              /* 28-31: in the plain frame */
    le32_t chunk_len;                 /* 32-35 */
};
static_assert(sizeof(struct index_record) == 36, "on disk");

struct index_cache_trailer {
    uint8_t magic[8];                   /* 00-07: INDEX_CACHE_MAGIC */
    le32_t version;                     /* 08-11: INDEX_VERSION */
    le32_t filter_block_count;          /* 12-15 */
    uint8_t object_name[32];            /* 16-47: SHA-256 of the segment's object */
    uint8_t reserved[16];               /* 48-63: zero */
    uint8_t hash[INDEX_CACHE_HASH_LEN]; /* 64-95 */
};
static_assert(sizeof(struct index_cache_trailer) == 96, "on disk");
