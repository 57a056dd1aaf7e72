/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The backup engine on real trees: what is in the repository afterwards is compared with the files
 * themselves. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/test.h"
#include "basic/text.h"
#include "repo/backup.h"
#include "tree/key.h"

#define PASSPHRASE "correct horse"

struct fixture {
    char *base, *source, *repo_dir;
    struct repository *repo;
    struct progress progress;
    unsigned problem_count;
    uint64_t cancel_after_files; /* 0: never */
};

static char *join(const char *a, const char *b)
{
    char *path;
    ASSERT_TRUE(asprintf(&path, "%s/%s", a, b) >= 0);
    return path;
}

static void fixture_init(struct fixture *f, const char *name, uint32_t pack_target_bytes)
{
    *f = (struct fixture){0};
    f->base = join(test_tmpdir(), name);
    ASSERT_EQ(mkdir(f->base, 0700), 0);
    f->source = join(f->base, "source");
    f->repo_dir = join(f->base, "repo");
    ASSERT_EQ(mkdir(f->source, 0755), 0);
    struct backend *backend;
    ASSERT_OK(backend_open(f->repo_dir, true, &backend));
    struct repo_init_options options = {.key_cost = key_cost_minimal,
                                        .pack_target_bytes = pack_target_bytes};
    ASSERT_OK(repository_init(backend, PASSPHRASE, strlen(PASSPHRASE), &options, &f->repo));
}

static void fixture_reopen(struct fixture *f)
{
    struct backend *backend;
    repository_free(f->repo);
    ASSERT_OK(backend_open(f->repo_dir, false, &backend));
    ASSERT_OK(repository_open(backend, PASSPHRASE, strlen(PASSPHRASE), "", &f->repo));
}

static void fixture_release(struct fixture *f)
{
    repository_free(f->repo);
    free(f->base);
    free(f->source);
    free(f->repo_dir);
}

static void on_problem(const char *path _unused_, const char *what _unused_,
                       bool incomplete _unused_, void *userdata)
{
    ((struct fixture *)userdata)->problem_count++;
}

static int try_backup(struct fixture *f, struct backup **ret_backup)
{
    const char *roots[] = {f->source};
    struct backup_options options = {
        .roots = roots,
        .root_count = 1,
        .host = "testhost",
        .problem = on_problem,
        .userdata = f,
        .progress = &f->progress,
        .threads = 2,
    };
    return backup_create(f->repo, &options, ret_backup);
}

static struct backup *make_backup(struct fixture *f)
{
    struct backup *backup;
    ASSERT_OK(try_backup(f, &backup));
    return backup;
}

static void write_file(const struct fixture *f, const char *name, const void *data, size_t len)
{
    char *path = join(f->source, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, data, len), (ssize_t)len);
    ASSERT_EQ(close(fd), 0);
    free(path);
}

static void write_random_file(const struct fixture *f, const char *name, size_t len, uint64_t seed)
{
    uint8_t *data = malloc(len + 1);
    test_random_fill(&seed, data, len);
    write_file(f, name, data, len);
    free(data);
}

/* The file's contents as the repository has them. */
static uint8_t *read_stored(struct fixture *f, const struct entry *e)
{
    struct frame_codec *codec;
    ASSERT_OK(frame_codec_new(f->repo->keyring, 1, &codec));
    uint8_t *data = calloc(1, e->size + 1);
    uint64_t pos = 0;
    for (size_t i = 0; i < e->extents.count; i++) {
        const struct extent *extent = &e->extents.items[i];
        if (extent->kind == EXTENT_DATA) {
            void *chunk;
            ASSERT_OK(repository_read_chunk(f->repo, codec, CHUNK_DATA, &extent->chunk, &chunk));
            memcpy(data + pos, chunk, extent->len);
            free(chunk);
        }
        pos += extent->len;
    }
    ASSERT_EQ(pos, e->size);
    frame_codec_free(codec);
    return data;
}

static void assert_same_as_file(struct fixture *f, const struct entry *e)
{
    CLEANUP_FREE char *relative = key_to_path(e->key, e->key_len);
    CLEANUP_FREE char *path = join("", relative);
    CLEANUP_FREE uint8_t *stored = read_stored(f, e);
    struct stat st;
    ASSERT_EQ(lstat(path, &st), 0);
    ASSERT_EQ(st.st_size, e->size);
    ASSERT_EQ(st.st_mode & 07777, e->mode);
    ASSERT_EQ(st.st_mtim.tv_nsec, e->mtime.nsec);
    CLEANUP_FREE uint8_t *actual = malloc(e->size + 1);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(read(fd, actual, e->size), (ssize_t)e->size);
    ASSERT_MEMEQ(actual, stored, e->size);
}

/* Every regular file of the backup against the source; returns how many there are. */
static uint64_t assert_backup_whole(struct fixture *f, const struct backup *backup)
{
    struct page_reader *reader;
    struct catalog_cursor *cursor;
    struct entry *e;
    uint64_t count = 0;
    ASSERT_OK(page_reader_new(f->repo, &reader));
    ASSERT_OK(catalog_cursor_new(page_reader_store(reader), &backup->catalog, &cursor));
    for (;;) {
        ASSERT_OK(catalog_cursor_next(cursor, &e));
        if (!e)
            break;
        if (e->type != ENTRY_REGULAR)
            continue;
        ASSERT_OK(catalog_load_extents(page_reader_store(reader), e));
        assert_same_as_file(f, e);
        count++;
    }
    catalog_cursor_free(cursor);
    page_reader_free(reader);
    return count;
}

static void settle(void)
{
    ASSERT_EQ(usleep(30000), 0); /* ctime has a granularity: see RACY_NS */
}

TEST(whole_tree)
{
    struct fixture f;
    fixture_init(&f, "whole", 0);
    write_file(&f, "empty", "", 0);
    write_file(&f, "small", "hello", 5);
    for (unsigned i = 0; i < 300; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "file-%u", i);
        write_random_file(&f, name, (i * 7919) % 20000, i);
    }
    write_random_file(&f, "large", 9 << 20, 1);
    settle();
    struct backup *first = make_backup(&f);
    ASSERT_EQ(f.problem_count, 0);
    ASSERT_EQ(first->stats.file_count, 303);
    ASSERT_EQ(first->stats.new_count, 303);
    ASSERT_EQ(assert_backup_whole(&f, first), 303);

    struct backup *second = make_backup(&f);
    ASSERT_EQ(second->stats.unchanged_count, 303);
    ASSERT_EQ(second->stats.read_bytes, 0);
    ASSERT_EQ(second->stats.new_chunk_count, 0);
    ASSERT_STREQ(second->parent, first->id);
    backup_free(second);

    write_random_file(&f, "file-7", 12345, 4711);
    struct backup *third = make_backup(&f);
    ASSERT_EQ(third->stats.changed_count, 1);
    ASSERT_EQ(third->stats.read_bytes, 12345);
    CLEANUP_FREE char *third_id = strdup(third->id);
    backup_free(third); /* its pack numbers end with the repository */
    fixture_reopen(&f);
    ASSERT_OK(backup_load(f.repo->backend, f.repo->keyring, f.repo->names, third_id, &third));
    ASSERT_EQ(assert_backup_whole(&f, third), 303);
    backup_free(third);
    backup_free(first);
    fixture_release(&f);
}

TEST(edit_in_the_middle_stores_little)
{
    struct fixture f;
    fixture_init(&f, "edit", 0);
    size_t len = 16 << 20;
    uint8_t *data = malloc(len + 100);
    uint64_t seed = 5;
    test_random_fill(&seed, data, len);
    write_file(&f, "large", data, len);
    backup_free(make_backup(&f));
    memmove(data + len / 2 + 100, data + len / 2, len / 2);
    write_file(&f, "large", data, len + 100);
    struct backup *second = make_backup(&f);
    ASSERT_LE(second->stats.new_chunk_bytes, 3 * f.repo->config.chunker.max_bytes);
    ASSERT_EQ(assert_backup_whole(&f, second), 1);
    backup_free(second);
    free(data);
    fixture_release(&f);
}

static void find_entry(struct fixture *f, const struct backup *backup, const char *name,
                       struct entry *ret_entry)
{
    struct page_reader *reader;
    CLEANUP(buffer_release) struct buffer key = {0};
    CLEANUP_FREE char *path = join(f->source, name);
    ASSERT_OK(page_reader_new(f->repo, &reader));
    key_put_path(&key, path + 1, strlen(path) - 1);
    ASSERT_OK(
        catalog_find(page_reader_store(reader), &backup->catalog, key.data, key.len, ret_entry));
    page_reader_free(reader);
}

TEST(holes_and_zeros_are_told_apart)
{
    struct fixture f;
    fixture_init(&f, "holes", 0);
    CLEANUP_FREE uint8_t *zeros = calloc(1, 1 << 20);
    write_file(&f, "zeros", zeros, 1 << 20);
    CLEANUP_FREE char *path = join(f.source, "sparse");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(pwrite(fd, "middle", 6, 5 << 20), 6);
    ASSERT_EQ(ftruncate(fd, (off_t)1 << 40), 0);
    ASSERT_EQ(close(fd), 0);
    struct backup *backup = make_backup(&f);
    struct entry e;
    find_entry(&f, backup, "zeros", &e);
    ASSERT_EQ(e.extents.count, 1);
    ASSERT_EQ(e.extents.items[0].kind, EXTENT_ZERO);
    entry_release(&e);
    find_entry(&f, backup, "sparse", &e);
    ASSERT_EQ(e.size, (uint64_t)1 << 40);
    ASSERT_EQ(e.extents.count, 3);
    ASSERT_EQ(e.extents.items[0].kind, EXTENT_HOLE);
    ASSERT_EQ(e.extents.items[1].kind, EXTENT_DATA);
    ASSERT_EQ(e.extents.items[2].kind, EXTENT_HOLE);
    entry_release(&e);
    backup_free(backup);
    fixture_release(&f);
}

TEST(hard_links_are_read_once)
{
    struct fixture f;
    fixture_init(&f, "links", 0);
    write_random_file(&f, "one", 3 << 20, 3);
    CLEANUP_FREE char *one = join(f.source, "one");
    CLEANUP_FREE char *two = join(f.source, "two");
    ASSERT_EQ(link(one, two), 0);
    settle();
    struct backup *backup = make_backup(&f);
    ASSERT_EQ(backup->stats.read_bytes, 3 << 20);
    ASSERT_EQ(backup->stats.size_bytes, 3 << 20);
    ASSERT_EQ(assert_backup_whole(&f, backup), 2);
    struct entry a;
    struct entry b;
    find_entry(&f, backup, "one", &a);
    find_entry(&f, backup, "two", &b);
    ASSERT_EQ(a.inode, b.inode);
    ASSERT_EQ(a.nlink, 2);
    ASSERT_TRUE(entry_same(&a, &b));
    entry_release(&a);
    entry_release(&b);
    backup_free(backup);
    backup = make_backup(&f);
    ASSERT_EQ(backup->stats.read_bytes, 0);
    ASSERT_EQ(backup->stats.size_bytes, 3 << 20);
    backup_free(backup);
    fixture_release(&f);
}

static void on_entry(char state _unused_, const struct entry *e _unused_, void *userdata)
{
    struct fixture *f = userdata;
    if (f->cancel_after_files && atomic_load(&f->progress.files_done) >= f->cancel_after_files)
        atomic_store(&f->progress.cancelled, 1);
}

TEST(interrupted_backup_is_taken_over)
{
    struct fixture f;
    fixture_init(&f, "resume", 1 << 20);
    for (unsigned i = 0; i < 200; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "file-%03u", i);
        write_random_file(&f, name, 100000, i);
    }
    settle();
    f.cancel_after_files = 120;
    const char *roots[] = {f.source};
    struct backup_options options = {.roots = roots,
                                     .root_count = 1,
                                     .host = "testhost",
                                     .entry = on_entry,
                                     .userdata = &f,
                                     .progress = &f.progress,
                                     .threads = 2};
    struct backup *backup;
    ASSERT_ERR(backup_create(f.repo, &options, &backup), -UMBRA_E_CANCELLED);
    f.progress = (struct progress){0};
    f.cancel_after_files = 0;

    fixture_reopen(&f);
    backup = make_backup(&f);
    ASSERT_EQ(backup->stats.file_count, 200);
    ASSERT_LE(backup->stats.read_bytes, 110 * 100000);
    ASSERT_LE(backup->stats.new_chunk_bytes, 110 * 100000);
    ASSERT_EQ(assert_backup_whole(&f, backup), 200);
    backup_free(backup);
    fixture_release(&f);
}

TEST_MAIN()
