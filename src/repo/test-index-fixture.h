/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the index share: a repository of made-up packs. */
#pragma once

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "basic/test.h"
#include "repo/index-private.h"

struct fixture {
    char dir[256], cache[256];
    struct backend *backend;
    struct keyring *keyring;
    struct pack_table *names;
    struct index *index;
    uint64_t random;
};

static inline void fixture_open_index(struct fixture *f)
{
    ASSERT_OK(index_open(f->backend, f->keyring, f->cache, f->names, &f->index));
}

static inline void fixture_reopen(struct fixture *f)
{
    index_free(f->index);
    fixture_open_index(f);
}

static inline void fixture_init(struct fixture *f)
{
    static atomic_uint serial;
    static const uint8_t master[MASTER_KEY_LEN] = "index test";
    unsigned n = atomic_fetch_add(&serial, 1);
    *f = (struct fixture){.random = n + 1};
    (void)snprintf(f->dir, sizeof(f->dir), "%s/repo-%u", test_tmpdir(), n);
    (void)snprintf(f->cache, sizeof(f->cache), "%s/cache-%u", test_tmpdir(), n);
    ASSERT_OK(mkdir(f->cache, 0700));
    ASSERT_OK(backend_open(f->dir, true, &f->backend));
    ASSERT_OK(keyring_new(master, &f->keyring));
    ASSERT_OK(pack_table_new(&f->names));
    fixture_open_index(f);
}

static inline void fixture_release(struct fixture *f)
{
    index_free(f->index);
    pack_table_free(f->names);
    keyring_free(f->keyring);
    backend_free(f->backend);
}

struct made_pack {
    struct pack_name name;
    uint64_t size_bytes;
    struct pack_directory directory;
};

/* A directory with random ids; the pack itself does not exist. */
static inline void make_pack(uint64_t *random, size_t frame_count, size_t frame_chunks,
                             struct made_pack *pack)
{
    uint32_t offset = PACK_HEADER_LEN;
    *pack = (struct made_pack){.directory.kind = test_random(random) % 2 ? PACK_DATA : PACK_META};
    test_random_fill(random, pack->name.bytes, PACK_NAME_LEN);
    for (size_t i = 0; i < frame_count; i++) {
        struct pack_frame frame = {
            .offset = offset,
            .len = (uint32_t)(SEAL_OVERHEAD + 2 + test_random(random) % 100000),
            .first_chunk = (uint32_t)pack->directory.chunks.count,
            .chunk_count = (uint32_t)(1 + test_random(random) % frame_chunks),
        };
        offset += frame.len;
        for (uint32_t j = 0; j < frame.chunk_count; j++) {
            struct pack_chunk chunk = {
                .len = (uint32_t)(1 + test_random(random) % (FRAME_PLAIN_MAX / frame_chunks))};
            test_random_fill(random, chunk.id.bytes, CHUNK_ID_LEN);
            ASSERT_OK(pack_chunk_vector_push(&pack->directory.chunks, &chunk));
        }
        ASSERT_OK(pack_frame_vector_push(&pack->directory.frames, &frame));
    }
    pack->size_bytes = offset + 100;
}

static inline struct index_pack as_index_pack(const struct made_pack *pack)
{
    return (struct index_pack){
        .name = pack->name, .size_bytes = pack->size_bytes, .directory = &pack->directory};
}
