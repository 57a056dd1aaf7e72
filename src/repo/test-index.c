/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/durable.h"
#include "basic/log.h"
#include "repo/test-index-fixture.h"

static void add_pack(struct index *index, const struct made_pack *pack)
{
    const struct index_pack item = as_index_pack(pack);
    ASSERT_OK(index_add_packs(index, &item, 1));
}

static void assert_hit(const struct fixture *f, const struct index *index,
                       const struct made_pack *pack, const struct pack_frame *frame,
                       uint32_t chunk_offset, const struct pack_chunk *chunk)
{
    struct index_hit hit;
    struct pack_name name;
    ASSERT_TRUE(index_lookup(index, &chunk->id, &hit));
    pack_table_name(f->names, hit.location.pack_no, &name);
    ASSERT_MEMEQ(name.bytes, pack->name.bytes, PACK_NAME_LEN);
    ASSERT_EQ(hit.location.frame_offset, frame->offset);
    ASSERT_EQ(hit.location.frame_len, frame->len);
    ASSERT_EQ(hit.location.chunk_offset, chunk_offset);
    ASSERT_EQ(hit.len, chunk->len);
    ASSERT_EQ(hit.kind, pack->directory.kind);
}

/* All chunks of the pack are found where they lie. */
static void assert_pack_found(const struct fixture *f, const struct index *index,
                              const struct made_pack *pack)
{
    ASSERT_TRUE(index_has_pack(index, &pack->name));
    for (size_t i = 0; i < pack->directory.frames.count; i++) {
        const struct pack_frame *frame = &pack->directory.frames.items[i];
        uint32_t offset = 0;
        for (uint32_t j = 0; j < frame->chunk_count; j++) {
            const struct pack_chunk *chunk = &pack->directory.chunks.items[frame->first_chunk + j];
            assert_hit(f, index, pack, frame, offset, chunk);
            offset += chunk->len;
        }
    }
}

static void assert_absent(struct fixture *f, size_t count)
{
    struct index_hit hit;
    for (size_t i = 0; i < count; i++) {
        struct chunk_id id;
        test_random_fill(&f->random, id.bytes, sizeof(id.bytes));
        ASSERT_FALSE(index_lookup(f->index, &id, &hit));
    }
}

static uint64_t segment_count(const struct index *index)
{
    struct index_stats stats;
    index_stats(index, &stats);
    return stats.segment_count;
}

static int count_object(const char *name _unused_, uint64_t size_bytes _unused_, void *userdata)
{
    ++*(size_t *)userdata;
    return 0;
}

static size_t object_count(const struct fixture *f)
{
    size_t count = 0;
    ASSERT_OK(backend_list(f->backend, "index/", count_object, &count));
    return count;
}

static int take_name(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    memcpy(userdata, name, strlen(name) + 1);
    return 0;
}

/* The path of the only object, and of its file in the cache. */
static void only_segment(const struct fixture *f, char object[512], char cached[512])
{
    char name[BACKEND_NAME_MAX + 1] = "";
    ASSERT_EQ(object_count(f), 1u);
    ASSERT_OK(backend_list(f->backend, "index/", take_name, name));
    (void)snprintf(object, 512, "%s/%s", f->dir, name);
    (void)snprintf(cached, 512, "%s/index-%s", f->cache, name + strlen("index/"));
}

static size_t file_len(const char *path)
{
    struct stat st;
    ASSERT_OK(stat(path, &st));
    return (size_t)st.st_size;
}

static void flip(const char *path, size_t offset)
{
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x20;
    ASSERT_EQ(pwrite(fd, &byte, 1, (off_t)offset), 1);
    (void)close(fd);
}

static void ignore_line(enum log_level level _unused_, const char *line _unused_,
                        void *userdata _unused_)
{
}

static void count_line(enum log_level level, const char *line _unused_, void *userdata)
{
    if (level <= LOG_LEVEL_WARNING)
        ++*(unsigned *)userdata;
}

/* ---- adding and finding ---- */

TEST(empty)
{
    struct fixture f;
    fixture_init(&f);
    assert_absent(&f, 100);
    ASSERT_EQ(segment_count(f.index), 0u);
    ASSERT_OK(index_add_packs(f.index, NULL, 0));
    ASSERT_OK(index_compact(f.index));
    ASSERT_EQ(object_count(&f), 0u);
    fixture_release(&f);
}

TEST(chunks_are_found)
{
    struct fixture f;
    struct made_pack packs[20];
    struct index_pack items[ELEMENTSOF(packs)];

    fixture_init(&f);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++) {
        make_pack(&f.random, 1 + i, 30, &packs[i]);
        items[i] = as_index_pack(&packs[i]);
    }
    ASSERT_OK(index_add_packs(f.index, items, ELEMENTSOF(items)));
    /* At once, from the cache, without one, and from an unlinked file. */
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < ELEMENTSOF(packs); i++)
            assert_pack_found(&f, f.index, &packs[i]);
        assert_absent(&f, 2000);
        char object[512], cached[512];
        only_segment(&f, object, cached);
        if (round == 1)
            ASSERT_OK(unlink(cached));
        fixture_reopen(&f);
        if (round < 2)
            ASSERT_OK(access(cached, F_OK));
        if (round == 2) {
            index_free(f.index);
            ASSERT_OK(index_open(f.backend, f.keyring, NULL, f.names, &f.index));
        }
    }
    struct index_stats stats;
    uint64_t chunk_count = 0, pack_bytes = 0;
    index_stats(f.index, &stats);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++) {
        chunk_count += packs[i].directory.chunks.count;
        pack_bytes += packs[i].size_bytes;
        pack_directory_release(&packs[i].directory);
    }
    ASSERT_EQ(stats.segment_count, 1u);
    ASSERT_EQ(stats.pack_count, ELEMENTSOF(packs));
    ASSERT_EQ(stats.chunk_count, chunk_count);
    ASSERT_EQ(stats.pack_bytes, pack_bytes);
    fixture_release(&f);
}

TEST(same_pack_twice_counts_once)
{
    struct fixture f;
    struct made_pack pack;
    struct index_stats stats;

    fixture_init(&f);
    make_pack(&f.random, 3, 10, &pack);
    const struct index_pack twice[] = {as_index_pack(&pack), as_index_pack(&pack)};
    ASSERT_OK(index_add_packs(f.index, twice, 2));
    add_pack(f.index, &pack);
    index_stats(f.index, &stats);
    ASSERT_EQ(stats.segment_count, 2u);
    ASSERT_EQ(stats.pack_count, 1u);
    ASSERT_EQ(stats.pack_bytes, pack.size_bytes);
    for (unsigned i = 0; i < 10; i++)
        add_pack(f.index, &pack);
    ASSERT_OK(index_compact(f.index));
    index_stats(f.index, &stats);
    ASSERT_LT(stats.segment_count, 8u);
    assert_pack_found(&f, f.index, &pack);
    ASSERT_OK(index_verify_pack(f.index, &pack.name, &pack.directory));
    pack_directory_release(&pack.directory);
    fixture_release(&f);
}

static int count_place(const struct index_hit *hit, void *userdata)
{
    ASSERT_GT(hit->len, 0u);
    ++*(unsigned *)userdata;
    return 0;
}

static int stop_at_place(const struct index_hit *hit _unused_, void *userdata _unused_)
{
    return 7;
}

/* Chunks of one id in several packs, and twice in one. */
TEST(same_chunk_in_several_places)
{
    struct fixture f;
    struct made_pack packs[3];
    struct index_hit hit;

    fixture_init(&f);
    for (size_t i = 0; i < 3; i++) {
        make_pack(&f.random, 4, 4, &packs[i]);
        struct pack_directory *d = &packs[i].directory;
        d->chunks.items[d->chunks.count - 1].id = packs[0].directory.chunks.items[0].id;
        d->chunks.items[d->chunks.count - 1].len = packs[0].directory.chunks.items[0].len;
        d->kind = PACK_DATA;
        add_pack(f.index, &packs[i]);
    }
    ASSERT_TRUE(index_lookup(f.index, &packs[0].directory.chunks.items[0].id, &hit));
    ASSERT_EQ(hit.len, packs[0].directory.chunks.items[0].len);
    const struct chunk_id *id = &packs[0].directory.chunks.items[0].id;
    unsigned count = 0;
    ASSERT_OK(index_each_location(f.index, id, count_place, &count));
    ASSERT_EQ(count, 4u);
    ASSERT_EQ(index_each_location(f.index, id, stop_at_place, NULL), 7);
    struct chunk_id absent = *id;
    absent.bytes[0] ^= 1;
    ASSERT_OK(index_each_location(f.index, &absent, stop_at_place, NULL));
    for (size_t i = 0; i < 3; i++) {
        ASSERT_OK(index_verify_pack(f.index, &packs[i].name, &packs[i].directory));
        pack_directory_release(&packs[i].directory);
    }
    fixture_release(&f);
}

TEST(cache_that_cannot_be_written)
{
    struct fixture f;
    struct made_pack pack;
    unsigned warnings = 0;

    fixture_init(&f);
    index_free(f.index);
    ASSERT_OK(index_open(f.backend, f.keyring, "/proc/no/such/directory", f.names, &f.index));
    make_pack(&f.random, 3, 10, &pack);
    log_set_sink(count_line, &warnings);
    add_pack(f.index, &pack);
    add_pack(f.index, &pack);
    log_set_sink(NULL, NULL);
    ASSERT_EQ(warnings, 1u); /* said once */
    assert_pack_found(&f, f.index, &pack);
    pack_directory_release(&pack.directory);
    fixture_release(&f);
}

TEST(cache_is_swept)
{
    struct fixture f;
    char stale[600], mine[600];

    fixture_init(&f);
    (void)snprintf(stale, sizeof(stale), "%s/index-%064d", f.cache, 7);
    (void)snprintf(mine, sizeof(mine), "%s/other-file", f.cache);
    ASSERT_TRUE(close(open(stale, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
    ASSERT_TRUE(close(open(mine, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
    fixture_reopen(&f);
    ASSERT_TRUE(access(stale, F_OK) < 0);
    ASSERT_OK(access(mine, F_OK));
    fixture_release(&f);
}

/* ---- against a model ---- */

#define MODEL_PACKS 300u

TEST(random_steps_against_model)
{
    static struct made_pack packs[MODEL_PACKS];
    struct fixture f;
    size_t count = 0;

    fixture_init(&f);
    while (count < MODEL_PACKS) {
        uint64_t step = test_random(&f.random) % 20;
        if (step == 0) {
            ASSERT_OK(index_compact(f.index));
            ASSERT_EQ(segment_count(f.index), object_count(&f));
        } else if (step == 1) {
            fixture_reopen(&f);
        } else {
            struct index_pack items[8];
            size_t n = MIN(1 + test_random(&f.random) % 8, MODEL_PACKS - count);
            for (size_t i = 0; i < n; i++) {
                make_pack(&f.random, 1 + test_random(&f.random) % 20, 8, &packs[count + i]);
                items[i] = as_index_pack(&packs[count + i]);
            }
            ASSERT_OK(index_add_packs(f.index, items, n));
            count += n;
        }
        assert_absent(&f, 50);
        if (count > 0)
            assert_pack_found(&f, f.index, &packs[test_random(&f.random) % count]);
    }
    for (size_t i = 0; i < MODEL_PACKS; i++) {
        assert_pack_found(&f, f.index, &packs[i]);
        ASSERT_OK(index_verify_pack(f.index, &packs[i].name, &packs[i].directory));
        pack_directory_release(&packs[i].directory);
    }
    fixture_release(&f);
}

/* ---- merging ---- */

TEST(many_small_segments_become_few)
{
    static struct made_pack packs[200];
    struct fixture f;

    fixture_init(&f);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++) {
        make_pack(&f.random, 1, 4, &packs[i]);
        add_pack(f.index, &packs[i]);
        if (i % 5 == 0)
            ASSERT_OK(index_compact(f.index));
        ASSERT_LE(segment_count(f.index), 12u);
    }
    ASSERT_OK(index_compact(f.index));
    ASSERT_LT(segment_count(f.index), 8u);
    ASSERT_EQ(segment_count(f.index), object_count(&f));
    fixture_reopen(&f);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++) {
        assert_pack_found(&f, f.index, &packs[i]);
        pack_directory_release(&packs[i].directory);
    }
    fixture_release(&f);
}

/* A damaged cache file must not be merged into a new object. */
TEST(merging_verifies_the_cache)
{
    struct made_pack packs[8];
    struct fixture f;
    char object[512], cached[512];

    fixture_init(&f);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++) {
        make_pack(&f.random, 10, 10, &packs[i]);
        add_pack(f.index, &packs[i]);
        if (i == 0)
            only_segment(&f, object, cached);
    }
    size_t first_record = sizeof(struct index_segment_header) + sizeof(struct index_pack_entry);
    fixture_reopen(&f);
    flip(cached, first_record + 20); /* the map sees it, too */
    log_set_sink(ignore_line, NULL);
    ASSERT_ERR(index_compact(f.index), -UMBRA_E_CORRUPT);
    ASSERT_EQ(object_count(&f), 8u);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++)
        assert_pack_found(&f, f.index, &packs[i]); /* repairs it */
    log_set_sink(NULL, NULL);
    ASSERT_OK(index_compact(f.index));
    ASSERT_EQ(object_count(&f), 1u);
    for (size_t i = 0; i < ELEMENTSOF(packs); i++) {
        assert_pack_found(&f, f.index, &packs[i]);
        pack_directory_release(&packs[i].directory);
    }
    fixture_release(&f);
}

/* ---- damage ---- */

TEST(each_byte_of_a_cache_file)
{
    struct made_pack pack;
    struct fixture f;
    char object[512], cached[512];

    fixture_init(&f);
    make_pack(&f.random, 4, 60, &pack);
    add_pack(f.index, &pack);
    only_segment(&f, object, cached);
    size_t len = file_len(cached);
    log_set_sink(ignore_line, NULL);
    for (size_t i = 0; i < len; i++) {
        flip(cached, i);
        fixture_reopen(&f);
        assert_pack_found(&f, f.index, &pack);
        assert_absent(&f, 3);
        ASSERT_EQ(file_len(cached), len); /* made again, when the damage was met */
    }
    for (size_t i = 0; i < len; i += 97) {
        ASSERT_OK(truncate(cached, (off_t)i));
        fixture_reopen(&f);
        assert_pack_found(&f, f.index, &pack);
    }
    log_set_sink(NULL, NULL);
    pack_directory_release(&pack.directory);
    fixture_release(&f);
}

/* One that is whole, but of another segment. */
TEST(foreign_cache_file)
{
    struct made_pack packs[2];
    struct fixture f, other;
    char object[512], cached[512], other_object[512], other_cached[512];

    fixture_init(&f);
    fixture_init(&other);
    for (size_t i = 0; i < 2; i++)
        make_pack(&f.random, 4, 10, &packs[i]);
    add_pack(f.index, &packs[0]);
    add_pack(other.index, &packs[1]);
    only_segment(&f, object, cached);
    only_segment(&other, other_object, other_cached);
    ASSERT_OK(rename(other_cached, cached));
    fixture_reopen(&f);
    assert_pack_found(&f, f.index, &packs[0]);
    ASSERT_FALSE(index_has_pack(f.index, &packs[1].name));
    for (size_t i = 0; i < 2; i++)
        pack_directory_release(&packs[i].directory);
    fixture_release(&f);
    fixture_release(&other);
}

static int expect_named(const char *object_name, const char *why, void *userdata)
{
    ASSERT_STREQ(object_name, (const char *)userdata);
    ASSERT_TRUE(strlen(why) > 0);
    return 1;
}

/* Each byte of a segment's object wrong, and each length: it is named and left out. */
TEST(each_byte_of_an_object)
{
    struct made_pack pack;
    struct fixture f;
    char object[512], cached[512];

    fixture_init(&f);
    make_pack(&f.random, 2, 4, &pack);
    add_pack(f.index, &pack);
    only_segment(&f, object, cached);
    const char *name = object + strlen(f.dir) + 1;
    size_t len = file_len(object);
    log_set_sink(ignore_line, NULL);
    for (size_t i = 0; i < len; i++) {
        (void)unlink(cached);
        flip(object, i);
        fixture_reopen(&f);
        ASSERT_EQ(segment_count(f.index), 0u);
        ASSERT_EQ(index_each_damaged(f.index, expect_named, (void *)(uintptr_t)name), 1);
        flip(object, i);
    }
    for (size_t i = len; i-- > 0;) {
        ASSERT_OK(truncate(object, (off_t)i));
        fixture_reopen(&f);
        ASSERT_EQ(segment_count(f.index), 0u);
        ASSERT_EQ(index_each_damaged(f.index, expect_named, (void *)(uintptr_t)name), 1);
    }
    log_set_sink(NULL, NULL);
    pack_directory_release(&pack.directory);
    fixture_release(&f);
}

/* ---- real packs ---- */

/* Stores a pack of a few frames; fills in what the index should say of it. */
static void store_pack(struct fixture *f, enum pack_kind kind, struct made_pack *pack)
{
    struct frame_codec *codec;
    struct pack_builder *builder;
    uint8_t plain[600];

    ASSERT_OK(frame_codec_new(f->keyring, 1, &codec));
    ASSERT_OK(pack_builder_new(f->keyring, kind, &builder));
    for (unsigned i = 0; i < 3; i++) {
        CLEANUP(buffer_release) struct buffer frame = {0};
        struct pack_chunk chunks[2] = {{.len = 200}, {.len = 400}};
        uint32_t offset;
        test_random_fill(&f->random, plain, sizeof(plain));
        chunk_id_compute(f->keyring, (enum chunk_kind)kind, plain, 200, &chunks[0].id);
        chunk_id_compute(f->keyring, (enum chunk_kind)kind, plain + 200, 400, &chunks[1].id);
        ASSERT_OK(frame_seal(codec, kind, plain, sizeof(plain), &frame));
        ASSERT_OK(pack_builder_add(builder, frame.data, frame.len, chunks, 2, &offset));
    }
    *pack = (struct made_pack){0};
    ASSERT_OK(pack_builder_store(builder, f->backend, &pack->name, &pack->size_bytes));
    pack_builder_take_directory(builder, &pack->directory);
    pack_builder_free(builder);
    frame_codec_free(codec);
}

static void pack_path(const struct fixture *f, const struct made_pack *pack, char path[512])
{
    char name[PACK_OBJECT_NAME_LEN + 1];
    pack_object_name(&pack->name, name);
    (void)snprintf(path, 512, "%s/%s", f->dir, name);
}

#define REAL_PACKS 12u

TEST(lost_packs_are_adopted)
{
    struct made_pack packs[REAL_PACKS];
    struct fixture f;
    char path[512];
    size_t count;

    fixture_init(&f);
    for (size_t i = 0; i < REAL_PACKS; i++)
        store_pack(&f, i % 2 ? PACK_META : PACK_DATA, &packs[i]);
    for (size_t i = 0; i < 4; i++)
        add_pack(f.index, &packs[i]);
    pack_path(&f, &packs[11], path);
    flip(path, file_len(path) - 30); /* its directory */
    log_set_sink(ignore_line, NULL);
    ASSERT_OK(index_adopt_packs(f.index, &count));
    ASSERT_EQ(count, 7u);
    ASSERT_OK(index_adopt_packs(f.index, &count));
    ASSERT_EQ(count, 0u);
    log_set_sink(NULL, NULL);
    fixture_reopen(&f);
    for (size_t i = 0; i < REAL_PACKS - 1; i++)
        assert_pack_found(&f, f.index, &packs[i]);
    ASSERT_FALSE(index_has_pack(f.index, &packs[11].name));
    for (size_t i = 0; i < REAL_PACKS; i++)
        pack_directory_release(&packs[i].directory);
    fixture_release(&f);
}

TEST(packs_of_a_damaged_segment_are_adopted)
{
    struct made_pack packs[2];
    struct fixture f;
    char object[512], cached[512];
    size_t count;

    fixture_init(&f);
    store_pack(&f, PACK_DATA, &packs[0]);
    store_pack(&f, PACK_META, &packs[1]);
    add_pack(f.index, &packs[0]);
    only_segment(&f, object, cached);
    add_pack(f.index, &packs[1]);
    ASSERT_OK(unlink(cached));
    flip(object, 100);
    log_set_sink(ignore_line, NULL);
    fixture_reopen(&f);
    ASSERT_FALSE(index_has_pack(f.index, &packs[0].name));
    assert_pack_found(&f, f.index, &packs[1]);
    ASSERT_OK(index_adopt_packs(f.index, &count));
    log_set_sink(NULL, NULL);
    ASSERT_EQ(count, 1u);
    for (size_t i = 0; i < 2; i++) {
        assert_pack_found(&f, f.index, &packs[i]);
        pack_directory_release(&packs[i].directory);
    }
    fixture_release(&f);
}

TEST(rebuilding)
{
    struct made_pack packs[REAL_PACKS], ghost;
    struct fixture f;
    char object[512], cached[512];

    fixture_init(&f);
    make_pack(&f.random, 3, 3, &ghost); /* in the index only */
    add_pack(f.index, &ghost);
    only_segment(&f, object, cached);
    for (size_t i = 0; i < REAL_PACKS; i++) {
        store_pack(&f, PACK_DATA, &packs[i]);
        add_pack(f.index, &packs[i]);
    }
    flip(object, 60);
    ASSERT_OK(index_rebuild(f.index));
    for (int round = 0; round < 2; round++) {
        ASSERT_EQ(segment_count(f.index), 1u);
        ASSERT_EQ(object_count(&f), 1u);
        ASSERT_FALSE(index_has_pack(f.index, &ghost.name));
        for (size_t i = 0; i < REAL_PACKS; i++)
            assert_pack_found(&f, f.index, &packs[i]);
        fixture_reopen(&f);
    }
    pack_directory_release(&ghost.directory);
    for (size_t i = 0; i < REAL_PACKS; i++)
        pack_directory_release(&packs[i].directory);
    fixture_release(&f);
}

/* The index knows a pack's directory, but for half of each id. */
static void assert_directory_known(const struct fixture *f, const struct made_pack *pack)
{
    CLEANUP(pack_directory_release) struct pack_directory known = {0};
    const struct pack_directory *d = &pack->directory;
    ASSERT_OK(index_pack_directory(f->index, &pack->name, &known));
    ASSERT_EQ(known.kind, d->kind);
    ASSERT_EQ(known.frames.count, d->frames.count);
    ASSERT_EQ(known.chunks.count, d->chunks.count);
    for (size_t i = 0; i < d->frames.count; i++)
        ASSERT_MEMEQ(&known.frames.items[i], &d->frames.items[i], sizeof(struct pack_frame));
    for (size_t i = 0; i < d->chunks.count; i++) {
        ASSERT_EQ(known.chunks.items[i].len, d->chunks.items[i].len);
        ASSERT_MEMEQ(known.chunks.items[i].id.bytes, d->chunks.items[i].id.bytes,
                     INDEX_ID_KNOWN_LEN);
    }
}

TEST(index_is_compared_with_packs)
{
    struct made_pack pack, unknown;
    struct fixture f;

    fixture_init(&f);
    make_pack(&f.random, 5, 5, &pack);
    make_pack(&f.random, 5, 5, &unknown);
    add_pack(f.index, &pack);
    ASSERT_OK(index_verify_pack(f.index, &pack.name, &pack.directory));
    ASSERT_ERR(index_verify_pack(f.index, &unknown.name, &unknown.directory), -ENOENT);
    assert_directory_known(&f, &pack);
    struct pack_directory none;
    ASSERT_ERR(index_pack_directory(f.index, &unknown.name, &none), -ENOENT);
    ASSERT_ERR(index_verify_pack(f.index, &pack.name, &unknown.directory), -UMBRA_E_CORRUPT);

    struct pack_directory *d = &pack.directory;
    d->chunks.items[0].len++;
    ASSERT_ERR(index_verify_pack(f.index, &pack.name, d), -UMBRA_E_CORRUPT);
    d->chunks.items[0].len--;
    d->frames.items[1].offset++;
    ASSERT_ERR(index_verify_pack(f.index, &pack.name, d), -UMBRA_E_CORRUPT);
    d->frames.items[1].offset--;
    d->chunks.items[2].id.bytes[3] ^= 1;
    ASSERT_ERR(index_verify_pack(f.index, &pack.name, d), -UMBRA_E_CORRUPT);
    d->chunks.items[2].id.bytes[3] ^= 1;
    d->kind = d->kind == PACK_DATA ? PACK_META : PACK_DATA;
    ASSERT_ERR(index_verify_pack(f.index, &pack.name, d), -UMBRA_E_CORRUPT);
    d->kind = d->kind == PACK_DATA ? PACK_META : PACK_DATA;
    /* The index knows of more than the pack has. */
    d->chunks.count -= d->frames.items[4].chunk_count;
    d->frames.count--;
    ASSERT_ERR(index_verify_pack(f.index, &pack.name, d), -UMBRA_E_CORRUPT);

    pack_directory_release(&pack.directory);
    pack_directory_release(&unknown.directory);
    fixture_release(&f);
}

/* ---- the plain form ---- */

TEST(each_byte_of_a_plain_form)
{
    struct made_pack pack;
    struct segment_draft draft;
    uint64_t random = 99;

    make_pack(&random, 3, 5, &pack);
    const struct index_pack item = as_index_pack(&pack);
    ASSERT_OK(segment_draft_from_packs(&item, 1, &draft));
    ASSERT_OK(index_segment_parse(draft.plain.data, draft.plain.len));
    for (size_t i = 0; i < draft.plain.len; i++) {
        ASSERT_ERR(index_segment_parse(draft.plain.data, i), -UMBRA_E_CORRUPT);
        draft.plain.data[i] ^= 0x80;
        IGNORE_RESULT(index_segment_parse(draft.plain.data, draft.plain.len)); /* sanitizers see */
        draft.plain.data[i] ^= 0x80;
    }
    /* What no field may say. */
    const struct {
        size_t offset;
        uint8_t value;
    } wrong[] = {
        {8, 2},                                             /* version */
        {12, 2},                                            /* packs */
        {16, 0},                                            /* records */
        {30, 1},                                            /* reserved */
        {64 + 35, 0xff},                                    /* size of the pack */
        {64 + 36, 0},                                       /* its chunks */
        {64 + 40, 3},                                       /* kind */
        {64 + 47, 1},                                       /* reserved */
        {64 + 48 + 16, 1},                                  /* pack of a record */
        {64 + 48 + 23, 0xff},                               /* offset of the frame */
        {64 + 48 + 27, 1},                                  /* its length */
        {64 + 48 + 31, 0xff},                               /* offset of the chunk */
        {64 + 48 + 35, 0xff},                               /* its length */
        {draft.plain.len - sizeof(struct index_record), 0}, /* order */
    };
    for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
        uint8_t saved = draft.plain.data[wrong[i].offset];
        draft.plain.data[wrong[i].offset] = wrong[i].value;
        ASSERT_ERR(index_segment_parse(draft.plain.data, draft.plain.len),
                   i == 0 ? -UMBRA_E_VERSION : -UMBRA_E_CORRUPT);
        draft.plain.data[wrong[i].offset] = saved;
    }
    segment_draft_release(&draft);
    pack_directory_release(&pack.directory);
}

TEST(filter_has_few_false_positives)
{
    enum { COUNT = 100000 };
    CLEANUP_FREE uint8_t *ids = malloc((size_t)COUNT * INDEX_PREFIX_LEN);
    uint32_t blocks = filter_blocks_for(COUNT);
    CLEANUP_FREE uint8_t *filter = calloc(blocks, INDEX_FILTER_BLOCK);
    uint64_t random = 5;
    unsigned false_count = 0;

    ASSERT_TRUE(ids && filter);
    test_random_fill(&random, ids, (size_t)COUNT * INDEX_PREFIX_LEN);
    for (size_t i = 0; i < COUNT; i++)
        filter_insert(filter, blocks, ids + i * INDEX_PREFIX_LEN);
    for (size_t i = 0; i < COUNT; i++)
        ASSERT_TRUE(filter_may_contain(filter, blocks, ids + i * INDEX_PREFIX_LEN));
    for (size_t i = 0; i < COUNT; i++) {
        uint8_t id[INDEX_PREFIX_LEN];
        test_random_fill(&random, id, sizeof(id));
        false_count += filter_may_contain(filter, blocks, id);
    }
    ASSERT_LT(false_count, COUNT / 50); /* 1.3 % expected */
}

/* ---- threads ---- */

struct race {
    struct fixture *f;
    struct made_pack packs[120];
    _Atomic size_t published;
    atomic_bool stop;
};

/* A second program: it opens the index again and again, and must always see what was published. */
static void *race_reader(void *userdata)
{
    struct race *race = userdata;
    while (!atomic_load(&race->stop)) {
        struct index *index;
        size_t count = atomic_load(&race->published);
        ASSERT_OK(index_open(race->f->backend, race->f->keyring, NULL, race->f->names, &index));
        for (size_t i = 0; i < count; i++)
            ASSERT_TRUE(index_has_pack(index, &race->packs[i].name));
        if (count > 0)
            assert_pack_found(race->f, index, &race->packs[count - 1]);
        index_free(index);
    }
    return NULL;
}

/* A thread of the same program: lookups while segments come and go. */
static void *race_lookup(void *userdata)
{
    struct race *race = userdata;
    uint64_t random = 3;
    while (!atomic_load(&race->stop)) {
        size_t count = atomic_load(&race->published);
        if (count > 0)
            assert_pack_found(race->f, race->f->index, &race->packs[test_random(&random) % count]);
    }
    return NULL;
}

/* A program that merges, too. */
static void *race_compactor(void *userdata)
{
    struct race *race = userdata;
    while (!atomic_load(&race->stop)) {
        struct index *index;
        ASSERT_OK(index_open(race->f->backend, race->f->keyring, NULL, race->f->names, &index));
        for (unsigned i = 0; i < 5; i++)
            ASSERT_OK(index_compact(index));
        index_free(index);
    }
    return NULL;
}

TEST(readers_and_compactors_race)
{
    void *(*const bodies[])(void *) = {race_reader, race_lookup, race_compactor};
    static struct race race;
    struct fixture f;
    pthread_t threads[ELEMENTSOF(bodies)];

    fixture_init(&f);
    race.f = &f;
    for (size_t i = 0; i < ELEMENTSOF(race.packs); i++)
        make_pack(&f.random, 3, 5, &race.packs[i]);
    for (size_t i = 0; i < ELEMENTSOF(bodies); i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, bodies[i], &race), 0);
    for (size_t i = 0; i < ELEMENTSOF(race.packs); i++) {
        add_pack(f.index, &race.packs[i]);
        atomic_store(&race.published, i + 1);
        if (i % 10 == 9)
            ASSERT_OK(index_compact(f.index));
    }
    atomic_store(&race.stop, true);
    for (size_t i = 0; i < ELEMENTSOF(bodies); i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    fixture_reopen(&f);
    for (size_t i = 0; i < ELEMENTSOF(race.packs); i++) {
        assert_pack_found(&f, f.index, &race.packs[i]);
        pack_directory_release(&race.packs[i].directory);
    }
    fixture_release(&f);
}

TEST_MAIN()
