/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/test.h"
#include "basic/text.h"
#include "repo/cache-dir.h"
#include "repo/config-format.h"
#include "repo/repository.h"

static const struct repo_init_options quick = {
    .key_cost = {.memory_bytes = 8192, .passes = 1},
    .label = "first",
};

static void ignore_message(enum log_level level _unused_, const char *line _unused_,
                           void *userdata _unused_)
{
}

/* A directory of this test's own, below the test's temporary directory. */
static char *fresh_dir(void)
{
    static unsigned count;
    char *path = NULL;
    ASSERT_TRUE(asprintf(&path, "%s/repo-%u", test_tmpdir(), ++count) > 0);
    return path;
}

static struct repository *init(const char *dir)
{
    struct repository *repo = NULL;
    struct backend *backend = NULL;

    log_set_sink(ignore_message, NULL);
    ASSERT_OK(backend_open(dir, true, &backend));
    ASSERT_OK(repository_init(backend, "secret", 6, &quick, &repo));
    return repo;
}

static int open_repo(const char *dir, const char *passphrase, struct repository **ret_repo)
{
    struct backend *backend = NULL;
    int r = backend_open(dir, false, &backend);
    return r < 0 ? r : repository_open(backend, passphrase, strlen(passphrase), "", ret_repo);
}

/* ---- init and open ---- */

TEST(init_and_open)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *a = init(dir), *b = NULL;

    ASSERT_OK(open_repo(dir, "secret", &b));
    ASSERT_MEMEQ(a->config.id, b->config.id, REPO_ID_LEN);
    ASSERT_MEMEQ(a->gear_table, b->gear_table, sizeof(a->gear_table));
    ASSERT_STREQ(a->key_name, b->key_name);
    ASSERT_EQ(b->config.chunker.max_bytes, chunker_params_default.max_bytes);
    ASSERT_EQ(b->config.pack_target_bytes, PACK_LEN_TARGET);
    ASSERT_TRUE(b->cache_dir == NULL);
}

TEST(two_repositories_have_nothing_in_common)
{
    CLEANUP_FREE char *dir_a = fresh_dir(), *dir_b = fresh_dir();
    CLEANUP(repository_freep) struct repository *a = init(dir_a), *b = init(dir_b);

    ASSERT_TRUE(memcmp(a->config.id, b->config.id, REPO_ID_LEN) != 0);
    ASSERT_TRUE(memcmp(a->gear_table, b->gear_table, sizeof(a->gear_table)) != 0);
}

TEST(open_refuses)
{
    CLEANUP_FREE char *dir = fresh_dir();
    struct repository *other = NULL;

    repository_free(init(dir));
    ASSERT_ERR(open_repo(dir, "Secret", &other), -UMBRA_E_PASSPHRASE);
    ASSERT_ERR(open_repo(test_tmpdir(), "secret", &other), -UMBRA_E_NOT_REPO);
    ASSERT_ERR(open_repo("/nonexistent/umbra", "secret", &other), -UMBRA_E_NOT_REPO);
}

/* Overwrites bytes of a file of the repository. */
static void poke(const char *dir, const char *name, off_t offset, const void *bytes, size_t len)
{
    char path[600];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(pwrite(fd, bytes, len, offset), (ssize_t)len);
}

/* Also with a passphrase that nobody would get as far as being asked for. */
TEST(a_newer_repository_is_told_from_a_wrong_passphrase)
{
    CLEANUP_FREE char *dir = fresh_dir();
    struct repository *other = NULL;

    repository_free(init(dir));
    poke(dir, "config", offsetof(struct config_header, incompat), "\1", 1);
    ASSERT_ERR(open_repo(dir, "wrong", &other), -UMBRA_E_VERSION);
    poke(dir, "config", offsetof(struct config_header, incompat), "\0", 1);
    poke(dir, "config", offsetof(struct config_header, version), "\2", 1);
    ASSERT_ERR(open_repo(dir, "wrong", &other), -UMBRA_E_VERSION);
    poke(dir, "config", 0, "X", 1);
    ASSERT_ERR(open_repo(dir, "secret", &other), -UMBRA_E_NOT_REPO);
}

TEST(a_damaged_config)
{
    CLEANUP_FREE char *dir = fresh_dir();
    struct repository *other = NULL;

    repository_free(init(dir));
    poke(dir, "config", 100, "damage", 6);
    ASSERT_ERR(open_repo(dir, "secret", &other), -UMBRA_E_SEAL);
}

TEST(init_refuses_a_second_time)
{
    CLEANUP_FREE char *dir = fresh_dir();
    struct repository *other = NULL;
    struct backend *backend = NULL;

    repository_free(init(dir));
    ASSERT_OK(backend_open(dir, false, &backend));
    ASSERT_ERR(repository_init(backend, "secret", 6, &quick, &other), -EEXIST);
}

TEST(init_refuses_a_used_place)
{
    struct io *io = NULL;
    struct backend *backend = NULL;
    struct repository *repo = NULL;
    const struct iovec iov = {.iov_base = (void *)(uintptr_t) "x", .iov_len = 1};

    ASSERT_OK(io_new_memory(1, &io));
    ASSERT_OK(backend_new_local(io, "memory:", &backend));
    ASSERT_OK(backend_put(backend, "packs/00/x", &iov, 1));
    ASSERT_ERR(repository_init(backend, "secret", 6, &quick, &repo), -EEXIST);
}

/* The key object of the first attempt is there, its config not. */
TEST(init_after_an_interrupted_one)
{
    CLEANUP_FREE char *dir = fresh_dir();
    char config[600];
    struct repository *repo = init(dir);

    repository_free(repo);
    (void)snprintf(config, sizeof(config), "%s/config", dir);
    ASSERT_EQ(unlink(config), 0);
    repository_free(init(dir));
    for (int i = 0; i < 2; i++) {
        ASSERT_OK(open_repo(dir, "secret", &repo));
        repository_free(repo);
    }
}

TEST(init_with_bad_options)
{
    CLEANUP_FREE char *dir = fresh_dir();
    struct repo_init_options options = quick;
    struct backend *backend = NULL;
    struct repository *repo = NULL;

    options.pack_target_bytes = 1;
    ASSERT_OK(backend_open(dir, true, &backend));
    ASSERT_ERR(repository_init(backend, "secret", 6, &options, &repo), -EINVAL);
    ASSERT_OK(backend_open(dir, true, &backend)); /* nothing was written */
    ASSERT_ERR(repository_init(backend, "", 0, &quick, &repo), -EINVAL);
}

/* ---- cache directory ---- */

TEST(cache_directory)
{
    const uint8_t id[REPO_ID_LEN] = {0xab, 0xcd};
    CLEANUP_FREE char *root = NULL, *path = NULL, *again = NULL, *none = NULL, *expected = NULL;
    CLEANUP_FREE char *by_variable = NULL;
    struct stat st;

    log_set_sink(ignore_message, NULL);
    ASSERT_TRUE(asprintf(&root, "%s/cache/below", test_tmpdir()) > 0);
    ASSERT_TRUE(asprintf(&expected, "%s/abcd0000000000000000000000000000", root) > 0);
    ASSERT_OK(cache_dir_make(root, id, &path));
    ASSERT_STREQ(path, expected);
    ASSERT_EQ(stat(path, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0700u);
    ASSERT_OK(cache_dir_make(root, id, &again));
    ASSERT_STREQ(again, expected);
    ASSERT_OK(cache_dir_make("", id, &none));
    ASSERT_TRUE(none == NULL);
    ASSERT_OK(cache_dir_make("none", id, &none));
    ASSERT_TRUE(none == NULL);
    static const char *const values[] = {"", "none"};
    for (size_t i = 0; i < ELEMENTSOF(values); i++) {
        ASSERT_EQ(setenv("UMBRA_CACHE_DIR", values[i], 1), 0);
        ASSERT_OK(cache_dir_make(NULL, id, &none));
        ASSERT_TRUE(none == NULL);
    }
    ASSERT_EQ(setenv("UMBRA_CACHE_DIR", root, 1), 0);
    ASSERT_OK(cache_dir_make(NULL, id, &by_variable));
    ASSERT_STREQ(by_variable, expected);
    ASSERT_OK(cache_dir_make("/proc/nothing/here", id, &none));
    ASSERT_TRUE(none == NULL);
    ASSERT_EQ(chmod(path, 0777), 0); /* others could put files there */
    ASSERT_OK(cache_dir_make(root, id, &none));
    ASSERT_TRUE(none == NULL);
}

/* ---- reading ---- */

struct stored {
    struct chunk_ref refs[3]; /* the first two share a frame */
    uint8_t *data[3];
};

static void fill_chunk(const struct repository *repo, enum chunk_kind kind, struct stored *s,
                       size_t i, uint64_t seed, size_t len)
{
    s->data[i] = malloc(len);
    ASSERT_TRUE(s->data[i] != NULL);
    test_random_fill(&seed, s->data[i], len);
    s->refs[i].len = (uint32_t)len;
    chunk_id_compute(repo->keyring, kind, s->data[i], len, &s->refs[i].id);
}

static void stored_release(struct stored *s)
{
    for (size_t i = 0; i < 3; i++)
        free(s->data[i]);
}

static void add_frame(struct repository *repo, struct pack_builder *builder, enum chunk_kind kind,
                      struct stored *s, size_t first, size_t count)
{
    CLEANUP(frame_codec_freep) struct frame_codec *codec = NULL;
    CLEANUP(buffer_release) struct buffer plain = {0}, sealed = {0};
    struct pack_chunk chunks[3];
    uint32_t offset = 0;

    ASSERT_OK(frame_codec_new(repo->keyring, 1, &codec));
    for (size_t i = 0; i < count; i++) {
        struct chunk_ref *ref = &s->refs[first + i];
        chunks[i] = (struct pack_chunk){.id = ref->id, .len = ref->len};
        ref->location.chunk_offset = (uint32_t)plain.len;
        buffer_put(&plain, s->data[first + i], ref->len);
    }
    ASSERT_OK(frame_seal(codec, (enum pack_kind)kind, plain.data, plain.len, &sealed));
    ASSERT_OK(pack_builder_add(builder, sealed.data, sealed.len, chunks, count, &offset));
    for (size_t i = 0; i < count; i++) {
        s->refs[first + i].location.frame_offset = offset;
        s->refs[first + i].location.frame_len = (uint32_t)sealed.len;
    }
}

/* A pack with three chunks, indexed if wanted. */
static struct pack_name store_chunks(struct repository *repo, enum chunk_kind kind, uint64_t seed,
                                     bool indexed, struct stored *s)
{
    CLEANUP(pack_builder_freep) struct pack_builder *builder = NULL;
    struct index_pack pack;
    struct pack_name name;

    *s = (struct stored){0};
    for (size_t i = 0; i < 3; i++)
        fill_chunk(repo, kind, s, i, seed + i, 1000 * (i + 1));
    ASSERT_OK(pack_builder_new(repo->keyring, (enum pack_kind)kind, &builder));
    add_frame(repo, builder, kind, s, 0, 2);
    add_frame(repo, builder, kind, s, 2, 1);
    ASSERT_OK(pack_builder_store(builder, repo->backend, &name, &pack.size_bytes));
    for (size_t i = 0; i < 3; i++)
        ASSERT_OK(pack_table_intern(repo->names, &name, &s->refs[i].location.pack_no));
    if (indexed) {
        struct index *index = NULL;
        pack.name = name;
        pack.directory = pack_builder_directory(builder);
        ASSERT_OK(repository_index(repo, &index));
        ASSERT_OK(index_add_packs(index, &pack, 1));
    }
    return name;
}

static void assert_reads(struct repository *repo, enum chunk_kind kind, const struct chunk_ref *ref,
                         const uint8_t *expected)
{
    CLEANUP(frame_codec_freep) struct frame_codec *codec = NULL;
    CLEANUP_FREE void *data = NULL;
    ASSERT_OK(frame_codec_new(repo->keyring, 1, &codec));
    ASSERT_OK(repository_read_chunk(repo, codec, kind, ref, &data));
    ASSERT_MEMEQ(data, expected, ref->len);
}

static void assert_read_fails(struct repository *repo, enum chunk_kind kind,
                              const struct chunk_ref *ref, int expected)
{
    CLEANUP(frame_codec_freep) struct frame_codec *codec = NULL;
    void *data = NULL;
    ASSERT_OK(frame_codec_new(repo->keyring, 1, &codec));
    ASSERT_ERR(repository_read_chunk(repo, codec, kind, ref, &data), expected);
    ASSERT_TRUE(data == NULL);
}

TEST(reading_with_good_hints_opens_no_index)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(stored_release) struct stored s;

    (void)store_chunks(repo, CHUNK_DATA, 1, false, &s);
    for (size_t i = 0; i < 3; i++)
        assert_reads(repo, CHUNK_DATA, &s.refs[i], s.data[i]);
    ASSERT_TRUE(repo->index == NULL);
}

TEST(reading_with_wrong_hints_goes_to_the_index)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(stored_release) struct stored s;
    const struct pack_name gone = {.bytes = {0xee}};
    struct chunk_ref ref;

    (void)store_chunks(repo, CHUNK_DATA, 1, true, &s);
    ref = s.refs[1];
    ref.location.pack_no = PACK_NO_NONE; /* no hint at all */
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ASSERT_OK(pack_table_intern(repo->names, &gone, &ref.location.pack_no));
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location = s.refs[2].location; /* another chunk's place */
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location = s.refs[1].location;
    ref.location.chunk_offset++;
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location.chunk_offset = UINT32_MAX;
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location = s.refs[1].location;
    ref.location.frame_offset++;
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location.frame_len = UINT32_MAX;
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location.frame_len = 1;
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
    ref.location = s.refs[1].location;
    ref.location.frame_offset = UINT32_MAX;
    assert_reads(repo, CHUNK_DATA, &ref, s.data[1]);
}

TEST(chunks_that_are_nowhere)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(stored_release) struct stored s;
    struct chunk_ref ref;

    (void)store_chunks(repo, CHUNK_DATA, 1, true, &s);
    ref = s.refs[0];
    ref.id.bytes[0] ^= 1;
    ref.location.pack_no = PACK_NO_NONE;
    assert_read_fails(repo, CHUNK_DATA, &ref, -UMBRA_E_NO_CHUNK);
    ref.location = s.refs[0].location; /* the hint leads somewhere, to something else */
    assert_read_fails(repo, CHUNK_DATA, &ref, -UMBRA_E_CORRUPT);
    ref = s.refs[0];
    ref.len = 0;
    assert_read_fails(repo, CHUNK_DATA, &ref, -UMBRA_E_CORRUPT);
    ref.len = FRAME_PLAIN_MAX + 1;
    assert_read_fails(repo, CHUNK_DATA, &ref, -UMBRA_E_CORRUPT);
    ref.len = s.refs[0].len - 1;
    assert_read_fails(repo, CHUNK_DATA, &ref, -UMBRA_E_CORRUPT);
    assert_read_fails(repo, CHUNK_META, &s.refs[0], -UMBRA_E_SEAL);
}

TEST(damage_is_reported_with_the_pack)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(stored_release) struct stored s;
    char name[PACK_OBJECT_NAME_LEN + 1];

    struct pack_name pack = store_chunks(repo, CHUNK_DATA, 1, true, &s);
    pack_object_name(&pack, name);
    poke(dir, name, s.refs[2].location.frame_offset + 100, "damage", 6);
    assert_reads(repo, CHUNK_DATA, &s.refs[0], s.data[0]);
    assert_read_fails(repo, CHUNK_DATA, &s.refs[2], -UMBRA_E_SEAL);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_SEAL), name) != NULL);
    ASSERT_OK(backend_remove(repo->backend, name));
    assert_read_fails(repo, CHUNK_DATA, &s.refs[0], -UMBRA_E_NO_CHUNK);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_NO_CHUNK), name) != NULL);
}

/* Two packs with the same chunks: each does for the other. */
TEST(another_copy_is_found)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(stored_release) struct stored a, b, c;
    char names[3][PACK_OBJECT_NAME_LEN + 1];
    struct pack_name packs[3];

    packs[0] = store_chunks(repo, CHUNK_DATA, 1, true, &a);
    packs[1] = store_chunks(repo, CHUNK_DATA, 1, true, &b);
    packs[2] = store_chunks(repo, CHUNK_DATA, 1, true, &c);
    for (size_t i = 0; i < 3; i++)
        pack_object_name(&packs[i], names[i]);
    poke(dir, names[0], a.refs[2].location.frame_offset + 100, "damage", 6);
    ASSERT_OK(backend_remove(repo->backend, names[1]));
    assert_reads(repo, CHUNK_DATA, &a.refs[2], a.data[2]);
    assert_reads(repo, CHUNK_DATA, &b.refs[2], a.data[2]);
    assert_reads(repo, CHUNK_DATA, &c.refs[2], a.data[2]);
    ASSERT_OK(backend_remove(repo->backend, names[2]));
    assert_read_fails(repo, CHUNK_DATA, &a.refs[2], -ENOENT);
    assert_reads(repo, CHUNK_DATA, &c.refs[0], a.data[0]);
}

/* ---- pages ---- */

static void assert_page(struct page_reader *reader, const struct chunk_ref *ref,
                        const uint8_t *expected)
{
    const struct catalog_store *store = page_reader_store(reader);
    CLEANUP_FREE void *page = NULL;
    size_t len = 0;
    ASSERT_OK(store->get_page(store->userdata, ref, &page, &len));
    ASSERT_EQ(len, ref->len);
    ASSERT_MEMEQ(page, expected, len);
}

TEST(pages_are_read_once)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(page_reader_freep) struct page_reader *reader = NULL;
    CLEANUP(stored_release) struct stored s;
    char name[PACK_OBJECT_NAME_LEN + 1];

    struct pack_name pack = store_chunks(repo, CHUNK_META, 1, true, &s);
    ASSERT_OK(page_reader_new(repo, &reader));
    assert_page(reader, &s.refs[0], s.data[0]);
    pack_object_name(&pack, name);
    ASSERT_OK(backend_remove(repo->backend, name));
    assert_page(reader, &s.refs[1], s.data[1]); /* of the same frame */
    assert_page(reader, &s.refs[0], s.data[0]);
    const struct catalog_store *store = page_reader_store(reader);
    void *page = NULL;
    size_t len = 0;
    ASSERT_ERR(store->get_page(store->userdata, &s.refs[2], &page, &len), -UMBRA_E_NO_CHUNK);
}

TEST(pages_with_wrong_hints)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(page_reader_freep) struct page_reader *reader = NULL;
    CLEANUP(stored_release) struct stored s;
    struct chunk_ref ref;

    (void)store_chunks(repo, CHUNK_META, 1, true, &s);
    ASSERT_OK(page_reader_new(repo, &reader));
    for (size_t i = 0; i < 3; i++) {
        ref = s.refs[i];
        ref.location = s.refs[(i + 1) % 3].location;
        assert_page(reader, &ref, s.data[i]);
        ref.location.pack_no = PACK_NO_NONE;
        assert_page(reader, &ref, s.data[i]);
    }
    const struct catalog_store *store = page_reader_store(reader);
    void *page = NULL;
    size_t len = 0;
    ref = s.refs[0];
    ref.len = CATALOG_PAGE_LEN_MAX + 1;
    ASSERT_ERR(store->get_page(store->userdata, &ref, &page, &len), -UMBRA_E_CORRUPT);
    ASSERT_ERR(store->put_page(store->userdata, "x", 1, &ref), -EROFS);
}

struct page_job {
    struct page_reader *reader;
    const struct stored *stored;
    size_t count;
    uint64_t seed;
};

static void *read_pages(void *userdata)
{
    struct page_job *job = userdata;
    for (int i = 0; i < 400; i++) {
        const struct stored *s = &job->stored[test_random(&job->seed) % job->count];
        size_t n = test_random(&job->seed) % 3;
        assert_page(job->reader, &s->refs[n], s->data[n]);
    }
    return NULL;
}

TEST(pages_in_many_threads)
{
    CLEANUP_FREE char *dir = fresh_dir();
    CLEANUP(repository_freep) struct repository *repo = init(dir);
    CLEANUP(page_reader_freep) struct page_reader *reader = NULL;
    struct stored stored[8];
    struct page_job jobs[3];
    pthread_t threads[3];

    for (size_t i = 0; i < ELEMENTSOF(stored); i++)
        (void)store_chunks(repo, CHUNK_META, 10 * i, false, &stored[i]);
    ASSERT_OK(page_reader_new(repo, &reader));
    for (size_t i = 0; i < 3; i++) {
        jobs[i] = (struct page_job){
            .reader = reader, .stored = stored, .count = ELEMENTSOF(stored), .seed = i};
        ASSERT_EQ(pthread_create(&threads[i], NULL, read_pages, &jobs[i]), 0);
    }
    for (size_t i = 0; i < 3; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    for (size_t i = 0; i < ELEMENTSOF(stored); i++)
        stored_release(&stored[i]);
}

TEST_MAIN()
