/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <stdlib.h>

#include <zstd.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/test.h"
#include "basic/text.h"
#include "repo/backup-format.h"
#include "repo/backup-private.h"
#include "tree/key.h"

struct fixture {
    struct backend *backend;
    struct keyring *keyring;
    struct pack_table *names;
};

static size_t warning_count;

static void count_warning(enum log_level level, const char *line _unused_, void *userdata _unused_)
{
    warning_count += level == LOG_LEVEL_WARNING;
}

static struct fixture make_fixture(void)
{
    const uint8_t master[MASTER_KEY_LEN] = {1};
    struct fixture f = {0};
    struct io *io = NULL;

    ASSERT_OK(io_new_memory(1, &io));
    ASSERT_OK(backend_new_local(io, "memory:", &f.backend));
    ASSERT_OK(keyring_new(master, &f.keyring));
    ASSERT_OK(pack_table_new(&f.names));
    warning_count = 0;
    log_set_sink(count_warning, NULL);
    return f;
}

static void fixture_release(struct fixture *f)
{
    log_set_sink(NULL, NULL);
    backend_free(f->backend);
    keyring_free(f->keyring);
    pack_table_free(f->names);
}

static char *copy_of(const char *s)
{
    char *copy = strdup(s);
    ASSERT_TRUE(copy != NULL);
    return copy;
}

/* A page whose first key is that of the name in the root directory. */
static void add_child(struct fixture *f, struct backup *backup, const char *name, uint8_t pack)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    const struct pack_name pack_name = {.bytes = {pack}};
    struct catalog_child child = {
        .page = {.len = 1000, .location = {.frame_offset = 16, .frame_len = 500}},
    };

    key_put(&key, "", 0, name, strlen(name));
    ASSERT_OK(buffer_finish(&key));
    child.first_key_len = (uint32_t)key.len;
    child.first_key = TAKE_PTR(key.data);
    chunk_id_compute(f->keyring, CHUNK_META, name, strlen(name), &child.page.id);
    ASSERT_OK(pack_table_intern(f->names, &pack_name, &child.page.location.pack_no));
    ASSERT_OK(catalog_child_vector_push(&backup->catalog.children, &child));
}

static struct backup full_backup(struct fixture *f)
{
    struct backup b = {
        .start_ns = INT64_C(1700000000123456789),
        .end_ns = INT64_C(1700000060000000000),
        .host = copy_of("server"),
        .user = copy_of("root"),
        .program = copy_of("umbra 0.1.0"),
        .stats = {.file_count = 1,
                  .directory_count = 2,
                  .other_count = 3,
                  .size_bytes = UINT64_MAX,
                  .new_count = 5,
                  .changed_count = 6,
                  .unchanged_count = 7,
                  .read_bytes = 8,
                  .new_chunk_count = 9,
                  .new_chunk_bytes = 10,
                  .stored_bytes = 11,
                  .problem_count = 12},
        .catalog = {.level = 1, .entry_count = 77},
    };
    const struct owner owner = {.id = UINT32_MAX, .is_group = true, .name = copy_of("staff")};
    const struct backup_fs fs = {
        .type = copy_of("ext4"), .source = copy_of("/dev/sda1"), .mount = copy_of("/")};

    memset(b.parent, 'a', BACKUP_ID_LEN);
    ASSERT_OK(string_vector_add(&b.roots, "/etc"));
    ASSERT_OK(string_vector_add(&b.roots, "/srv"));
    ASSERT_OK(string_vector_add(&b.tags, "nightly"));
    ASSERT_OK(string_vector_add(&b.excludes, "*.tmp"));
    ASSERT_OK(owner_vector_push(&b.owners, &owner));
    ASSERT_OK(backup_fs_vector_push(&b.file_systems, &fs));
    add_child(f, &b, "aaa", 1);
    add_child(f, &b, "bbb", 2);
    return b;
}

static struct backup small_backup(int64_t start_ns, const char *host, const char *tag)
{
    struct backup b = {.start_ns = start_ns,
                       .host = copy_of(host),
                       .user = copy_of("root"),
                       .program = copy_of("umbra")};
    if (tag)
        ASSERT_OK(string_vector_add(&b.tags, tag));
    return b;
}

static void store_small(struct fixture *f, int64_t start_ns, const char *host, const char *tag,
                        char ret_id[BACKUP_ID_LEN + 1])
{
    CLEANUP(backup_release) struct backup b = small_backup(start_ns, host, tag);
    ASSERT_OK(backup_store(f->backend, f->keyring, f->names, &b));
    memcpy(ret_id, b.id, sizeof(b.id));
}

static void assert_strings_equal(const struct string_vector *a, const struct string_vector *b)
{
    ASSERT_EQ(a->count, b->count);
    for (size_t i = 0; i < a->count; i++)
        ASSERT_STREQ(a->items[i], b->items[i]);
}

static void assert_backups_equal(const struct backup *a, const struct backup *b)
{
    ASSERT_EQ(a->start_ns, b->start_ns);
    ASSERT_EQ(a->end_ns, b->end_ns);
    ASSERT_STREQ(a->host, b->host);
    ASSERT_STREQ(a->user, b->user);
    ASSERT_STREQ(a->program, b->program);
    ASSERT_STREQ(a->parent, b->parent);
    assert_strings_equal(&a->roots, &b->roots);
    assert_strings_equal(&a->tags, &b->tags);
    assert_strings_equal(&a->excludes, &b->excludes);
    ASSERT_MEMEQ(&a->stats, &b->stats, sizeof(a->stats));
    ASSERT_EQ(a->owners.count, b->owners.count);
    for (size_t i = 0; i < a->owners.count; i++) {
        ASSERT_EQ(a->owners.items[i].id, b->owners.items[i].id);
        ASSERT_EQ(a->owners.items[i].is_group, b->owners.items[i].is_group);
        ASSERT_STREQ(a->owners.items[i].name, b->owners.items[i].name);
    }
    ASSERT_EQ(a->file_systems.count, b->file_systems.count);
    for (size_t i = 0; i < a->file_systems.count; i++) {
        ASSERT_STREQ(a->file_systems.items[i].type, b->file_systems.items[i].type);
        ASSERT_STREQ(a->file_systems.items[i].source, b->file_systems.items[i].source);
        ASSERT_STREQ(a->file_systems.items[i].mount, b->file_systems.items[i].mount);
    }
    ASSERT_EQ(a->catalog.level, b->catalog.level);
    ASSERT_EQ(a->catalog.entry_count, b->catalog.entry_count);
    ASSERT_EQ(a->catalog.children.count, b->catalog.children.count);
    for (size_t i = 0; i < a->catalog.children.count; i++) {
        const struct catalog_child *x = &a->catalog.children.items[i];
        const struct catalog_child *y = &b->catalog.children.items[i];
        ASSERT_EQ(x->first_key_len, y->first_key_len);
        ASSERT_MEMEQ(x->first_key, y->first_key, x->first_key_len);
        ASSERT_TRUE(chunk_id_equal(&x->page.id, &y->page.id));
        ASSERT_EQ(x->page.len, y->page.len);
        ASSERT_EQ(x->page.location.pack_no, y->page.location.pack_no);
        ASSERT_EQ(x->page.location.frame_offset, y->page.location.frame_offset);
    }
}

TEST(round_trip)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    CLEANUP(backup_release) struct backup b = full_backup(&f);
    CLEANUP(backup_freep) struct backup *again = NULL;

    ASSERT_OK(backup_store(f.backend, f.keyring, f.names, &b));
    ASSERT_EQ(strlen(b.id), BACKUP_ID_LEN);
    ASSERT_OK(backup_load(f.backend, f.keyring, f.names, b.id, &again));
    ASSERT_STREQ(b.id, again->id);
    assert_backups_equal(&b, again);
}

TEST(every_damaged_byte_is_noticed)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    CLEANUP(backup_release) struct backup b = full_backup(&f);
    CLEANUP_FREE void *object = NULL;
    char path[sizeof(BACKUP_OBJECT_PREFIX) + BACKUP_ID_LEN];
    size_t len = 0;

    ASSERT_OK(backup_store(f.backend, f.keyring, f.names, &b));
    (void)snprintf(path, sizeof(path), BACKUP_OBJECT_PREFIX "%s", b.id);
    ASSERT_OK(backend_get_all(f.backend, path, 1 << 20, &object, &len));
    for (size_t i = 0; i < len; i++) {
        struct backup *again = NULL;
        char id[BACKUP_ID_LEN + 1];
        uint8_t digest[32];
        const struct iovec iov = {.iov_base = object, .iov_len = len};

        /* Under the name that fits, so that the seal has to say it. */
        ((uint8_t *)object)[i] ^= 0x10;
        ASSERT_OK(sha256(&iov, 1, digest));
        hex_encode(digest, sizeof(digest), id);
        (void)snprintf(path, sizeof(path), BACKUP_OBJECT_PREFIX "%s", id);
        ASSERT_OK(backend_put(f.backend, path, &iov, 1));
        ASSERT_TRUE(backup_load(f.backend, f.keyring, f.names, id, &again) < 0);
        ((uint8_t *)object)[i] ^= 0x10;
    }
}

TEST(a_wrong_name_is_noticed)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    const char *id = "0000000000000000000000000000000000000000000000000000000000000000";
    struct backup *b = NULL;
    const struct iovec iov = {.iov_base = (void *)(uintptr_t) "x", .iov_len = 1};

    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_NO_BACKUP);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, "00", &b), -EINVAL);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, "../../x", &b), -EINVAL);
    ASSERT_OK(backend_put(f.backend,
                          "backups/"
                          "0000000000000000000000000000000000000000000000000000000000000000",
                          &iov, 1));
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_CORRUPT);
}

/* An object with this clear header over this sealed and packed body. */
static void put_object(struct fixture *f, uint32_t version, const void *packed, size_t len,
                       char id[BACKUP_ID_LEN + 1])
{
    CLEANUP(buffer_release) struct buffer object = {0};
    struct backup_header header = {.version = le32_make(version)};
    char path[sizeof(BACKUP_OBJECT_PREFIX) + BACKUP_ID_LEN];
    const struct iovec plain = {.iov_base = (void *)(uintptr_t)packed, .iov_len = len};
    uint8_t digest[32];

    memcpy(header.magic, BACKUP_MAGIC, sizeof(header.magic));
    buffer_put(&object, &header, sizeof(header));
    ASSERT_OK(seal(f->keyring, SEAL_BACKUP, &header, sizeof(header), &plain, 1,
                   buffer_extend(&object, len + SEAL_OVERHEAD)));
    const struct iovec iov = {.iov_base = object.data, .iov_len = object.len};
    ASSERT_OK(sha256(&iov, 1, digest));
    hex_encode(digest, sizeof(digest), id);
    (void)snprintf(path, sizeof(path), BACKUP_OBJECT_PREFIX "%s", id);
    ASSERT_OK(backend_put(f->backend, path, &iov, 1));
}

TEST(versions_and_bombs)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    const size_t bomb_len = (size_t)BACKUP_BODY_LEN_MAX + 1;
    CLEANUP_FREE uint8_t *zeros = calloc(1, bomb_len);
    CLEANUP_FREE uint8_t *packed = malloc(ZSTD_compressBound(bomb_len));
    char id[BACKUP_ID_LEN + 1];
    struct backup *b = NULL;

    put_object(&f, 2, "x", 1, id);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_VERSION);
    put_object(&f, 0, "x", 1, id);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_CORRUPT);
    put_object(&f, 1, "not zstd", 8, id);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_CORRUPT);
    put_object(&f, 1, "", 0, id);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_CORRUPT);
    size_t len = ZSTD_compress(packed, ZSTD_compressBound(bomb_len), zeros, bomb_len, 1);
    ASSERT_FALSE(ZSTD_isError(len));
    put_object(&f, 1, packed, len, id);
    ASSERT_ERR(backup_load(f.backend, f.keyring, f.names, id, &b), -UMBRA_E_CORRUPT);
}

TEST(bodies_cut_short_or_with_a_tail)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    CLEANUP(backup_release) struct backup b = full_backup(&f), again = {0};
    CLEANUP(buffer_release) struct buffer body = {0};

    ASSERT_OK(backup_encode(&b, f.names, &body));
    for (size_t len = 0; len < body.len; len++)
        ASSERT_TRUE(backup_parse(body.data, len, f.names, &again) < 0);
    buffer_put_u8(&body, 0);
    ASSERT_ERR(backup_parse(body.data, body.len, f.names, &again), -UMBRA_E_CORRUPT);
    ASSERT_OK(backup_parse(body.data, body.len - 1, f.names, &again));
    assert_backups_equal(&b, &again);
}

TEST(limits_are_kept_when_storing)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    CLEANUP(backup_release) struct backup b = full_backup(&f);
    static char long_name[BACKUP_NAME_LEN_MAX + 2];

    memset(long_name, 'n', sizeof(long_name) - 1);
    free(b.host);
    b.host = copy_of(long_name);
    ASSERT_ERR(backup_store(f.backend, f.keyring, f.names, &b), -UMBRA_E_LIMIT);
    b.host[BACKUP_NAME_LEN_MAX] = '\0';
    ASSERT_OK(backup_store(f.backend, f.keyring, f.names, &b));
    for (size_t i = b.tags.count; i < BACKUP_STRINGS_MAX; i++)
        ASSERT_OK(string_vector_add(&b.tags, "t"));
    ASSERT_OK(backup_store(f.backend, f.keyring, f.names, &b));
    ASSERT_OK(string_vector_add(&b.tags, "one too many"));
    ASSERT_ERR(backup_store(f.backend, f.keyring, f.names, &b), -UMBRA_E_LIMIT);
}

TEST(load_all_in_order_with_damaged_ones)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    CLEANUP(backup_vector_release_all) struct backup_vector all = {0};
    const struct iovec iov = {.iov_base = (void *)(uintptr_t) "x", .iov_len = 1};
    char id[BACKUP_ID_LEN + 1];
    size_t damaged_count = 0;

    store_small(&f, 300, "a", NULL, id);
    store_small(&f, -5, "a", NULL, id);
    store_small(&f, 200, "b", NULL, id);
    put_object(&f, 1, "not zstd", 8, id);
    ASSERT_OK(backend_put(f.backend, "backups/stray", &iov, 1));
    ASSERT_OK(backup_load_all(f.backend, f.keyring, f.names, &all, &damaged_count));
    ASSERT_EQ(damaged_count, 1u);
    ASSERT_EQ(warning_count, 2u);
    ASSERT_EQ(all.count, 3u);
    ASSERT_EQ(all.items[0]->start_ns, (int64_t)-5);
    ASSERT_EQ(all.items[1]->start_ns, 200);
    ASSERT_EQ(all.items[2]->start_ns, 300);
}

static void assert_found(struct fixture *f, const char *name, const char *host, const char *id)
{
    CLEANUP(backup_freep) struct backup *b = NULL;
    ASSERT_OK(backup_find(f->backend, f->keyring, f->names, name, host, &b));
    ASSERT_STREQ(b->id, id);
}

TEST(find)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    char first[BACKUP_ID_LEN + 1], second[BACKUP_ID_LEN + 1], third[BACKUP_ID_LEN + 1], prefix[9];
    struct backup *b = NULL;

    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, "latest", NULL, &b), -UMBRA_E_NO_BACKUP);
    store_small(&f, 100, "a", "weekly", first);
    store_small(&f, 300, "b", "weekly", second);
    store_small(&f, 200, "a", "cafe", third);
    assert_found(&f, "latest", NULL, second);
    assert_found(&f, "latest", "a", third);
    assert_found(&f, "weekly", NULL, second);
    assert_found(&f, "weekly", "a", first);
    assert_found(&f, first, NULL, first);
    (void)snprintf(prefix, sizeof(prefix), "%.8s", third);
    assert_found(&f, prefix, "b", third);
    assert_found(&f, "cafe", NULL, third);
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, "cafe", "b", &b), -UMBRA_E_NO_BACKUP);
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, "latest", "c", &b), -UMBRA_E_NO_BACKUP);
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, "", NULL, &b), -UMBRA_E_NO_BACKUP);
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, "ffffffff", NULL, &b),
               -UMBRA_E_NO_BACKUP);
    prefix[3] = '\0'; /* too short to name a backup */
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, prefix, NULL, &b), -UMBRA_E_NO_BACKUP);
}

TEST(tag_that_looks_like_an_id)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    char first[BACKUP_ID_LEN + 1], second[BACKUP_ID_LEN + 1], third[BACKUP_ID_LEN + 1], prefix[9];
    struct backup *b = NULL;

    store_small(&f, 100, "a", NULL, first);
    (void)snprintf(prefix, sizeof(prefix), "%.8s", first);
    assert_found(&f, prefix, NULL, first);
    store_small(&f, 200, "a", prefix, second);
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, prefix, NULL, &b), -UMBRA_E_AMBIGUOUS);
    assert_found(&f, prefix, "b", first); /* of another host than the tag's */
    assert_found(&f, first, NULL, first);
    store_small(&f, 300, "a", first, third);
    assert_found(&f, first, NULL, first); /* a whole id is never a tag */
    prefix[7] = '\0';
    assert_found(&f, prefix, NULL, first);
}

TEST(ambiguous_prefix)
{
    CLEANUP(fixture_release) struct fixture f = make_fixture();
    const struct iovec iov = {.iov_base = (void *)(uintptr_t) "x", .iov_len = 1};
    struct backup *b = NULL;

    ASSERT_OK(backend_put(f.backend,
                          "backups/"
                          "abcd000000000000000000000000000000000000000000000000000000000000",
                          &iov, 1));
    ASSERT_OK(backend_put(f.backend,
                          "backups/"
                          "abcd000000000000000000000000000000000000000000000000000000000001",
                          &iov, 1));
    ASSERT_ERR(backup_find(f.backend, f.keyring, f.names, "abcd", NULL, &b), -UMBRA_E_AMBIGUOUS);
}

TEST_MAIN()
