/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/test.h"
#include "basic/text.h"
#include "repo/pack-format.h"
#include "repo/pack.h"

#define FRAMES       5u
#define FRAME_CHUNKS 3u

struct fixture {
    char dir[256];
    struct backend *backend;
    struct keyring *keyring;
    struct pack_builder *builder;
    struct pack_chunk chunks[FRAMES][FRAME_CHUNKS];
    uint32_t offsets[FRAMES];
    struct pack_name name;
    uint64_t size_bytes;
    uint64_t random;
};

static void fixture_init(struct fixture *f)
{
    static unsigned serial;
    static const uint8_t master[MASTER_KEY_LEN] = "pack test";
    *f = (struct fixture){.random = 1};
    (void)snprintf(f->dir, sizeof(f->dir), "%s/repo-%u", test_tmpdir(), serial++);
    ASSERT_OK(backend_open(f->dir, true, &f->backend));
    ASSERT_OK(keyring_new(master, &f->keyring));
    ASSERT_OK(pack_builder_new(f->keyring, PACK_META, &f->builder));
}

static void fixture_release(struct fixture *f)
{
    pack_builder_free(f->builder);
    keyring_free(f->keyring);
    backend_free(f->backend);
}

/* Frames are opaque to a pack: these are random bytes. */
static void fill(struct fixture *f)
{
    uint32_t expected = PACK_HEADER_LEN;
    for (unsigned i = 0; i < FRAMES; i++) {
        uint8_t frame[300];
        size_t len = 100 + i;
        test_random_fill(&f->random, frame, len);
        for (unsigned j = 0; j < FRAME_CHUNKS; j++) {
            f->chunks[i][j].len = 1 + i * 10 + j;
            test_random_fill(&f->random, f->chunks[i][j].id.bytes, CHUNK_ID_LEN);
        }
        ASSERT_OK(
            pack_builder_add(f->builder, frame, len, f->chunks[i], FRAME_CHUNKS, &f->offsets[i]));
        ASSERT_EQ(f->offsets[i], expected);
        expected += (uint32_t)len;
    }
}

static void store(struct fixture *f)
{
    uint32_t announced = pack_builder_len(f->builder);
    fill(f);
    ASSERT_GT(pack_builder_len(f->builder), announced);
    announced = pack_builder_len(f->builder);
    ASSERT_OK(pack_builder_store(f->builder, f->backend, &f->name, &f->size_bytes));
    ASSERT_EQ(f->size_bytes, announced);
}

static void object_path(const struct fixture *f, char path[512])
{
    char name[PACK_OBJECT_NAME_LEN + 1];
    pack_object_name(&f->name, name);
    (void)snprintf(path, 512, "%s/%s", f->dir, name);
}

static int read_back(struct fixture *f, uint64_t size_bytes, struct pack_directory *ret_directory)
{
    return pack_read_directory(f->backend, f->keyring, &f->name, size_bytes, ret_directory);
}

TEST(round_trip)
{
    struct fixture f;
    struct pack_directory directory;
    struct pack_name again;
    uint8_t digest[32];
    void *object;
    size_t len;
    char name[PACK_OBJECT_NAME_LEN + 1];

    fixture_init(&f);
    store(&f);
    ASSERT_OK(read_back(&f, f.size_bytes, &directory));
    ASSERT_EQ(directory.kind, PACK_META);
    ASSERT_EQ(directory.frames.count, FRAMES);
    ASSERT_EQ(directory.chunks.count, FRAMES * FRAME_CHUNKS);
    for (unsigned i = 0; i < FRAMES; i++) {
        ASSERT_EQ(directory.frames.items[i].offset, f.offsets[i]);
        ASSERT_EQ(directory.frames.items[i].len, 100 + i);
        ASSERT_EQ(directory.frames.items[i].first_chunk, i * FRAME_CHUNKS);
        ASSERT_EQ(directory.frames.items[i].chunk_count, FRAME_CHUNKS);
        for (unsigned j = 0; j < FRAME_CHUNKS; j++) {
            const struct pack_chunk *chunk = &directory.chunks.items[i * FRAME_CHUNKS + j];
            ASSERT_TRUE(chunk_id_equal(&chunk->id, &f.chunks[i][j].id));
            ASSERT_EQ(chunk->len, f.chunks[i][j].len);
        }
    }
    /* The name is the hash of all bytes. */
    pack_object_name(&f.name, name);
    ASSERT_OK(backend_get_all(f.backend, name, PACK_LEN_MAX, &object, &len));
    ASSERT_EQ(len, f.size_bytes);
    ASSERT_OK(sha256(&(struct iovec){object, len}, 1, digest));
    ASSERT_MEMEQ(digest, f.name.bytes, 32);
    free(object);
    /* Another store seals with another salt, so it is another pack. */
    ASSERT_OK(pack_builder_store(f.builder, f.backend, &again, &f.size_bytes));
    ASSERT_TRUE(memcmp(again.bytes, f.name.bytes, 32) != 0);
    pack_directory_release(&directory);
    fixture_release(&f);
}

TEST(directory_can_be_taken)
{
    struct fixture f;
    struct pack_directory directory;
    fixture_init(&f);
    store(&f);
    ASSERT_EQ(pack_builder_chunk_count(f.builder), FRAMES * FRAME_CHUNKS);
    ASSERT_EQ(pack_builder_directory(f.builder)->frames.count, FRAMES);
    pack_builder_take_directory(f.builder, &directory);
    ASSERT_EQ(directory.frames.count, FRAMES);
    ASSERT_EQ(pack_builder_directory(f.builder)->frames.count, 0u);
    pack_directory_release(&directory);
    fixture_release(&f);
}

TEST(full)
{
    struct fixture f;
    fixture_init(&f);
    fill(&f);
    uint32_t len = pack_builder_len(f.builder);
    ASSERT_TRUE(pack_builder_is_full(f.builder, len));
    ASSERT_FALSE(pack_builder_is_full(f.builder, len + 1));
    fixture_release(&f);
}

/* Frames of one-byte chunks, as many as fit. */
TEST(full_of_chunks)
{
    struct fixture f;
    struct pack_chunk *chunks = calloc(FRAME_PLAIN_MAX, sizeof(*chunks));
    uint8_t frame[SEAL_OVERHEAD + 2] = {0};
    uint32_t offset;
    fixture_init(&f);
    ASSERT_TRUE(chunks != NULL);
    ASSERT_OK(pack_builder_add(f.builder, frame, sizeof(frame), chunks, FRAME_PLAIN_MAX, &offset));
    ASSERT_FALSE(pack_builder_is_full(f.builder, UINT32_MAX));
    ASSERT_OK(pack_builder_add(f.builder, frame, sizeof(frame), chunks, FRAME_PLAIN_MAX, &offset));
    ASSERT_TRUE(pack_builder_is_full(f.builder, UINT32_MAX));
    ASSERT_ERR(pack_builder_add(f.builder, frame, sizeof(frame), chunks, 1, &offset),
               -UMBRA_E_LIMIT);
    free(chunks);
    fixture_release(&f);
}

/* ---- damage ---- */

static void flip(const char *path, size_t offset)
{
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    ASSERT_EQ(pwrite(fd, &byte, 1, (off_t)offset), 1);
    (void)close(fd);
}

/* The pack is named and the directory is not believed. */
static void assert_damaged(struct fixture *f, uint64_t size_bytes)
{
    struct pack_directory directory;
    char name[PACK_OBJECT_NAME_LEN + 1];
    int r = read_back(f, size_bytes, &directory);
    ASSERT_TRUE(r == -UMBRA_E_CORRUPT || r == -UMBRA_E_SEAL || r == -UMBRA_E_VERSION ||
                r == -ENODATA);
    pack_object_name(&f->name, name);
    ASSERT_TRUE(strstr(error_text(r), name) != NULL);
}

TEST(each_byte)
{
    struct fixture f;
    struct pack_directory directory;
    char path[512];
    fixture_init(&f);
    store(&f);
    object_path(&f, path);
    size_t frames_end = f.offsets[FRAMES - 1] + 100 + FRAMES - 1;
    for (size_t i = 0; i < f.size_bytes; i++) {
        flip(path, i);
        if (i >= PACK_HEADER_LEN && i < frames_end) {
            /* Frames are sealed on their own. */
            ASSERT_OK(read_back(&f, f.size_bytes, &directory));
            pack_directory_release(&directory);
        } else {
            assert_damaged(&f, f.size_bytes);
        }
        flip(path, i);
    }
    fixture_release(&f);
}

TEST(each_length)
{
    struct fixture f;
    char path[512];
    fixture_init(&f);
    store(&f);
    object_path(&f, path);
    for (uint64_t i = 0; i < f.size_bytes; i++)
        assert_damaged(&f, i); /* said to be shorter */
    assert_damaged(&f, f.size_bytes + 1);
    assert_damaged(&f, (uint64_t)PACK_LEN_MAX + 1);
    for (uint64_t i = f.size_bytes; i-- > 0;) {
        ASSERT_OK(truncate(path, (off_t)i));
        assert_damaged(&f, f.size_bytes);
        assert_damaged(&f, i);
    }
    ASSERT_OK(unlink(path));
    fixture_release(&f);
}

TEST(missing_pack_is_enoent)
{
    struct fixture f;
    struct pack_directory directory;
    fixture_init(&f);
    test_random_fill(&f.random, f.name.bytes, PACK_NAME_LEN);
    ASSERT_ERR(read_back(&f, 1000, &directory), -ENOENT);
    fixture_release(&f);
}

/* ---- the plain directory ---- */

static void put_directory(struct buffer *b, const uint32_t *words, size_t count,
                          const uint32_t *lens, size_t chunk_count)
{
    static const uint8_t id[CHUNK_ID_LEN];
    for (size_t i = 0; i < count; i++)
        buffer_put_u32(b, words[i]);
    for (size_t i = 0; i < chunk_count; i++) {
        buffer_put(b, id, sizeof(id));
        buffer_put_u32(b, lens[i]);
    }
    ASSERT_OK(buffer_finish(b));
}

TEST(directories_that_cannot_be)
{
    const struct {
        uint32_t words[6]; /* counts; of two frames: sealed length, chunks */
        uint32_t lens[3];
        int expected;
    } cases[] = {
        {{2, 3, 100, 1, 200, 2}, {1, 2, 3}, 0},
        {{2, 3, 101, 1, 200, 2}, {1, 2, 3}, -UMBRA_E_CORRUPT}, /* beyond the data */
        {{2, 3, 99, 1, 200, 2}, {1, 2, 3}, -UMBRA_E_CORRUPT},  /* a gap */
        {{2, 3, 41, 1, 259, 2}, {1, 2, 3}, -UMBRA_E_CORRUPT},  /* too short to be sealed */
        {{2, 3, 100, 0, 200, 3}, {1, 2, 3}, -UMBRA_E_CORRUPT}, /* without chunks */
        {{2, 3, 100, 1, 200, 3}, {1, 2, 3}, -UMBRA_E_CORRUPT}, /* counts do not add up */
        {{2, 3, 100, 1, 200, 1}, {1, 2, 3}, -UMBRA_E_CORRUPT},
        {{2, 2, 100, 1, 200, 2}, {1, 2, 3}, -UMBRA_E_CORRUPT},
        {{1, 3, 100, 1, 200, 2}, {1, 2, 3}, -UMBRA_E_CORRUPT},
        {{2, 3, 100, 1, 200, 2}, {1, 0, 3}, -UMBRA_E_CORRUPT}, /* an empty chunk */
        {{2, 3, 100, 1, 200, 2}, {1, FRAME_PLAIN_MAX, 1}, -UMBRA_E_CORRUPT},
        {{2, 3, 100, 1, 200, 2}, {FRAME_PLAIN_MAX, FRAME_PLAIN_MAX - 1, 1}, 0},
        {{2, 3, 100, 1, 200, 2}, {FRAME_PLAIN_MAX + 1, 1, 1}, -UMBRA_E_CORRUPT},
        {{2, 3, 100, 1, 200, 0xffffffff}, {1, 2, 3}, -UMBRA_E_CORRUPT},
        {{0x80000000, 0x80000000, 100, 1, 200, 2}, {1, 2, 3}, -UMBRA_E_CORRUPT},
    };
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        CLEANUP(buffer_release) struct buffer b = {0};
        struct pack_directory directory;
        put_directory(&b, cases[i].words, 6, cases[i].lens, 3);
        ASSERT_ERR(
            pack_directory_parse(b.data, b.len, PACK_DATA, PACK_HEADER_LEN + 300, &directory),
            cases[i].expected);
        if (cases[i].expected == 0) {
            for (size_t len = 0; len < b.len; len++) {
                struct pack_directory cut;
                ASSERT_ERR(
                    pack_directory_parse(b.data, len, PACK_DATA, PACK_HEADER_LEN + 300, &cut),
                    -UMBRA_E_CORRUPT);
            }
            pack_directory_release(&directory);
        }
    }
}

TEST(names)
{
    static const char good[] =
        "packs/0a/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeeff";
    static const char *const bad[] = {
        "",
        "packs/0a/",
        "packs/0b/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeeff",
        "packs/0a/0A112233445566778899aabbccddeeff0a112233445566778899aabbccddeeff",
        "packs/0a/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeef",
        "packs/0a/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeefff",
        "packs/0a/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeefg",
        "pocks/0a/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeeff",
        "packs-0a/0a112233445566778899aabbccddeeff0a112233445566778899aabbccddeeff",
    };
    struct pack_name name;
    char again[PACK_OBJECT_NAME_LEN + 1];
    ASSERT_OK(pack_name_parse(good, &name));
    pack_object_name(&name, again);
    ASSERT_STREQ(again, good);
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        ASSERT_ERR(pack_name_parse(bad[i], &name), -EINVAL);
}

TEST_MAIN()
