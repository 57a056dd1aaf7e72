/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Repositories made by the backup engine, damaged, and checked. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/log.h"
#include "basic/test.h"
#include "basic/text.h"
#include "repo/backup.h"
#include "repo/check.h"
#include "repo/index-private.h"
#include "repo/pack-format.h"

#define PASSPHRASE "correct horse"
#define LINES_MAX  20000u

/* What a check had to say. */
struct report {
    struct check_result result;
    char *problems[LINES_MAX];
    size_t problem_count;
    size_t remark_count;
    char last_remark[512];
};

struct fixture {
    char base[256], source[300], repo_dir[300];
    struct repository *repo;
    struct report report;
    unsigned percent, threads;
    uint64_t seed;
};

static void ignore_line(enum log_level level _unused_, const char *line _unused_,
                        void *userdata _unused_)
{
}

static void fixture_init(struct fixture *f, const char *name)
{
    struct backend *backend;
    const struct repo_init_options options = {
        .key_cost = key_cost_minimal,
        .pack_target_bytes = 1u << 20,
        .chunker = {.min_bytes = 256, .normal_bytes = 1024, .max_bytes = 4096},
    };
    *f = (struct fixture){.percent = 100, .threads = 2};
    (void)snprintf(f->base, sizeof(f->base), "%s/%s", test_tmpdir(), name);
    (void)snprintf(f->source, sizeof(f->source), "%s/source", f->base);
    (void)snprintf(f->repo_dir, sizeof(f->repo_dir), "%s/repo", f->base);
    ASSERT_OK(mkdir(f->base, 0700));
    ASSERT_OK(mkdir(f->source, 0700));
    ASSERT_OK(backend_open(f->repo_dir, true, &backend));
    ASSERT_OK(repository_init(backend, PASSPHRASE, strlen(PASSPHRASE), &options, &f->repo));
    log_set_sink(ignore_line, NULL);
}

static void reopen(struct fixture *f)
{
    struct backend *backend;
    repository_free(f->repo);
    ASSERT_OK(backend_open(f->repo_dir, false, &backend));
    ASSERT_OK(repository_open(backend, PASSPHRASE, strlen(PASSPHRASE), "", &f->repo));
}

static void report_clear(struct report *report)
{
    for (size_t i = 0; i < report->problem_count; i++)
        free(report->problems[i]);
    report->problem_count = report->remark_count = 0;
    report->last_remark[0] = '\0';
}

static void fixture_release(struct fixture *f)
{
    report_clear(&f->report);
    repository_free(f->repo);
    log_set_sink(NULL, NULL);
}

static void write_random_file(const struct fixture *f, const char *name, size_t len, uint64_t seed)
{
    char path[400];
    uint8_t *data = malloc(len + 1);
    ASSERT_TRUE(data != NULL);
    (void)snprintf(path, sizeof(path), "%s/%s", f->source, name);
    test_random_fill(&seed, data, len);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, data, len), (ssize_t)len);
    ASSERT_OK(close(fd));
    free(data);
}

static void make_backup(struct fixture *f)
{
    const char *roots[] = {f->source};
    struct backup *backup;
    const struct backup_options options = {
        .roots = roots, .root_count = 1, .host = "testhost", .threads = 2};
    ASSERT_OK(backup_create(f->repo, &options, &backup));
    backup_free(backup);
}

/* Two backups of small files and one whose extents fill content pages. */
static void make_backups(struct fixture *f)
{
    char name[64];
    for (unsigned i = 0; i < 40; i++) {
        (void)snprintf(name, sizeof(name), "small-%u", i);
        write_random_file(f, name, 3000 + i * 100, i);
    }
    write_random_file(f, "large", 2u << 20, 1000);
    make_backup(f);
    write_random_file(f, "small-3", 5000, 2000);
    write_random_file(f, "new", 5000, 2001);
    make_backup(f);
    reopen(f);
}

/* ---- checking ---- */

static void on_problem(const struct check_problem *problem, void *userdata)
{
    struct report *report = &((struct fixture *)userdata)->report;
    ASSERT_LT(report->problem_count, LINES_MAX);
    ASSERT_TRUE((problem->object != NULL) != (problem->backup != NULL));
    ASSERT_TRUE(problem->backup || !problem->path);
    ASSERT_TRUE(!problem->backup || strlen(problem->backup) == BACKUP_ID_LEN);
    ASSERT_TRUE(!problem->path || problem->path[0] == '/');
    ASSERT_TRUE(asprintf(&report->problems[report->problem_count++], "%s%s: %s: %s",
                         problem->backup ? "backup " : "",
                         problem->backup ? problem->backup : problem->object,
                         problem->path ? problem->path : "", problem->why) > 0);
}

static void on_remark(const char *what, const char *why, void *userdata)
{
    struct report *report = &((struct fixture *)userdata)->report;
    report->remark_count++;
    (void)snprintf(report->last_remark, sizeof(report->last_remark), "%s: %s", what, why);
}

static void check(struct fixture *f)
{
    struct progress progress = {0};
    const struct check_options options = {
        .read_data_percent = f->percent,
        .seed = f->seed,
        .threads = f->threads,
        .problem = on_problem,
        .remark = on_remark,
        .userdata = f,
        .progress = &progress,
    };
    report_clear(&f->report);
    ASSERT_OK(check_repository(f->repo, &options, &f->report.result));
    ASSERT_EQ(f->report.problem_count, f->report.result.problem_count);
    ASSERT_EQ(atomic_load(&progress.problems), f->report.problem_count);
    ASSERT_EQ(atomic_load(&progress.files_done), atomic_load(&progress.files_total));
}

static void assert_no_problem(const struct fixture *f)
{
    for (size_t i = 0; i < f->report.problem_count; i++)
        test_fail(__FILE__, __LINE__, "unexpected problem: %s", f->report.problems[i]);
}

/* How many problems have the text in them. */
static size_t problems_with(const struct fixture *f, const char *text)
{
    size_t count = 0;
    for (size_t i = 0; i < f->report.problem_count; i++)
        count += strstr(f->report.problems[i], text) != NULL;
    return count;
}

/* ---- objects ---- */

struct object {
    char name[BACKEND_NAME_MAX + 1];
    uint64_t size_bytes;
};
DEFINE_VECTOR(object_vector, struct object);

static int collect_object(const char *name, uint64_t size_bytes, void *userdata)
{
    struct object object = {.size_bytes = size_bytes};
    memcpy(object.name, name, strlen(name) + 1);
    return object_vector_push(userdata, &object);
}

static void list(const struct fixture *f, const char *prefix, struct object_vector *objects)
{
    object_vector_clear(objects);
    ASSERT_OK(backend_list(f->repo->backend, prefix, collect_object, objects));
}

static void path_of(const struct fixture *f, const char *object, char path[600])
{
    (void)snprintf(path, 600, "%s/%s", f->repo_dir, object);
}

static void flip(const struct fixture *f, const char *object, uint64_t offset)
{
    char path[600];
    uint8_t byte;
    path_of(f, object, path);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x04;
    ASSERT_EQ(pwrite(fd, &byte, 1, (off_t)offset), 1);
}

static void remove_all(const struct fixture *f, const char *prefix)
{
    CLEANUP(object_vector_release) struct object_vector objects = {0};
    char path[600];
    list(f, prefix, &objects);
    for (size_t i = 0; i < objects.count; i++) {
        path_of(f, objects.items[i].name, path);
        ASSERT_OK(unlink(path));
    }
}

/* The pack of that kind with the most bytes, and its directory. */
static void largest_pack(const struct fixture *f, enum pack_kind kind, struct object *ret_object,
                         struct pack_name *ret_name, struct pack_directory *ret_directory)
{
    CLEANUP(object_vector_release) struct object_vector objects = {0};
    *ret_object = (struct object){0};
    list(f, "packs/", &objects);
    for (size_t i = 0; i < objects.count; i++) {
        struct pack_directory directory;
        struct pack_name name;
        const struct object *object = &objects.items[i];
        ASSERT_OK(pack_name_parse(object->name, &name));
        ASSERT_OK(pack_read_directory(f->repo->backend, f->repo->keyring, &name, object->size_bytes,
                                      &directory));
        if (directory.kind == kind && object->size_bytes > ret_object->size_bytes) {
            if (ret_object->size_bytes > 0)
                pack_directory_release(ret_directory);
            *ret_object = *object;
            *ret_name = name;
            *ret_directory = directory;
        } else {
            pack_directory_release(&directory);
        }
    }
    ASSERT_GT(ret_object->size_bytes, 0u);
}

/* ---- whole repositories ---- */

TEST(empty_repository)
{
    static struct fixture f;
    fixture_init(&f, "empty");
    check(&f);
    assert_no_problem(&f);
    ASSERT_EQ(f.report.remark_count, 0u);
    ASSERT_EQ(f.report.result.key_count, 1u);
    ASSERT_EQ(f.report.result.pack_count, 0u);
    fixture_release(&f);
}

TEST(whole_repository)
{
    static struct fixture f;
    CLEANUP(object_vector_release) struct object_vector packs = {0};
    uint64_t bytes = 0;
    fixture_init(&f, "whole");
    make_backups(&f);
    list(&f, "packs/", &packs);
    for (size_t i = 0; i < packs.count; i++)
        bytes += packs.items[i].size_bytes;
    for (f.percent = 0; f.percent <= 100; f.percent += 20) {
        check(&f);
        assert_no_problem(&f);
        ASSERT_EQ(f.report.remark_count, 0u);
        const struct check_result *r = &f.report.result;
        ASSERT_EQ(r->backup_count, 2u);
        ASSERT_EQ(r->pack_count, packs.count);
        ASSERT_EQ(r->pack_bytes, bytes);
        ASSERT_EQ(r->read_pack_count, (packs.count * f.percent + 99) / 100);
        ASSERT_GE(r->entry_count, 42u);
        ASSERT_GT(r->reference_count, 1000u); /* the large file alone has nearly twice as many */
        ASSERT_GT(r->page_count, 2u);
    }
    ASSERT_EQ(f.report.result.read_bytes, bytes);
    ASSERT_GT(f.report.result.read_chunk_count, 1000u);
    fixture_release(&f);
}

/* The same catalog in another backup object. */
static int store_again(struct backup **backup, void *userdata)
{
    struct fixture *f = userdata;
    (*backup)->start_ns++;
    return backup_store(f->repo->backend, f->repo->keyring, f->repo->names, *backup);
}

/* What backups share is looked at once. */
TEST(shared_pages_count_once)
{
    static struct fixture f;
    size_t damaged_count;
    fixture_init(&f, "shared");
    make_backups(&f);
    check(&f);
    uint64_t page_count = f.report.result.page_count;
    uint64_t reference_count = f.report.result.reference_count;
    ASSERT_OK(backup_each(f.repo->backend, f.repo->keyring, f.repo->names, store_again, &f,
                          &damaged_count));
    check(&f);
    assert_no_problem(&f);
    ASSERT_EQ(f.report.result.backup_count, 4u);
    ASSERT_EQ(f.report.result.page_count, page_count);
    ASSERT_EQ(f.report.result.reference_count, reference_count);
    fixture_release(&f);
}

TEST(too_much_is_refused)
{
    static struct fixture f;
    struct check_result result;
    fixture_init(&f, "percent");
    const struct check_options options = {.read_data_percent = 101};
    ASSERT_ERR(check_repository(f.repo, &options, &result), -EINVAL);
    fixture_release(&f);
}

TEST(cancelling)
{
    static struct fixture f;
    struct check_result result;
    struct progress progress = {0};
    fixture_init(&f, "cancel");
    make_backups(&f);
    atomic_store(&progress.cancelled, 1);
    const struct check_options options = {.progress = &progress, .threads = 2};
    ASSERT_ERR(check_repository(f.repo, &options, &result), -UMBRA_E_CANCELLED);
    fixture_release(&f);
}

/* ---- damage ---- */

/* A bit flipped anywhere is seen, the object is named, and nothing is wrong without it. */
TEST(any_bit)
{
    static const char *const prefixes[] = {"keys/", "index/", "backups/", "packs/"};
    static struct fixture f;
    CLEANUP(object_vector_release) struct object_vector objects = {0};
    uint64_t random = 17;
    fixture_init(&f, "any-bit");
    make_backups(&f);
    for (size_t i = 0; i < ELEMENTSOF(prefixes); i++) {
        list(&f, prefixes[i], &objects);
        ASSERT_GT(objects.count, 0u);
        for (unsigned j = 0; j < 15; j++) {
            const struct object *object = &objects.items[test_random(&random) % objects.count];
            uint64_t offset = test_random(&random) % object->size_bytes;
            if (i > 0)
                reopen(&f);
            flip(&f, object->name, offset);
            check(&f);
            ASSERT_GE(problems_with(&f, object->name), 1u);
            flip(&f, object->name, offset);
        }
        reopen(&f);
        check(&f);
        assert_no_problem(&f);
    }
    fixture_release(&f);
}

TEST(damaged_frame_names_its_files)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    fixture_init(&f, "frame");
    make_backups(&f);
    largest_pack(&f, PACK_DATA, &object, &name, &directory);
    const struct pack_frame *frame = &directory.frames.items[directory.frames.count / 2];
    flip(&f, object.name, frame->offset + frame->len / 2);

    f.percent = 0;
    check(&f);
    assert_no_problem(&f); /* who does not look does not see */
    f.percent = 100;
    check(&f);
    ASSERT_EQ(f.report.result.damaged_chunk_count, frame->chunk_count);
    ASSERT_EQ(problems_with(&f, object.name), 1u);
    ASSERT_GE(problems_with(&f, f.source), 2u); /* at least one file, in both backups */
    ASSERT_EQ(problems_with(&f, f.source) + 1, f.report.problem_count);
    pack_directory_release(&directory);
    fixture_release(&f);
}

TEST(damaged_metadata_names_the_backups)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    fixture_init(&f, "meta");
    make_backups(&f);
    largest_pack(&f, PACK_META, &object, &name, &directory);
    for (size_t i = 0; i < directory.frames.count; i++)
        flip(&f, object.name, directory.frames.items[i].offset + 10);
    f.percent = 0;
    check(&f); /* pages are read in any case */
    ASSERT_GE(problems_with(&f, "a page of its catalog cannot be read"), 1u);
    ASSERT_EQ(problems_with(&f, "backup "), f.report.problem_count);
    pack_directory_release(&directory);
    fixture_release(&f);
}

/* Half of a pack: its directory is gone with the other half, the index tells which files are hit,
 * without any data being read. */
TEST(truncated_pack)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    char path[600];
    fixture_init(&f, "truncated");
    make_backups(&f);
    largest_pack(&f, PACK_DATA, &object, &name, &directory);
    path_of(&f, object.name, path);
    ASSERT_OK(truncate(path, (off_t)(object.size_bytes / 2)));
    for (f.percent = 0; f.percent <= 100; f.percent += 100) {
        reopen(&f);
        check(&f);
        ASSERT_GE(problems_with(&f, object.name), 2u);
        ASSERT_GE(problems_with(&f, "is lost: a pack is cut short"), 2u);
    }
    /* Frames in the first half are found through the index, and are fine. */
    ASSERT_GT(f.report.result.damaged_chunk_count, 0u);
    ASSERT_LT(f.report.result.damaged_chunk_count, directory.chunks.count);
    pack_directory_release(&directory);
    fixture_release(&f);
}

TEST(damaged_directory_of_a_pack)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    fixture_init(&f, "directory");
    make_backups(&f);
    largest_pack(&f, PACK_DATA, &object, &name, &directory);
    flip(&f, object.name, object.size_bytes - 100);
    check(&f);
    /* All files can still be read. */
    ASSERT_EQ(f.report.problem_count, 1u);
    ASSERT_EQ(problems_with(&f, object.name), 1u);
    ASSERT_EQ(f.report.result.damaged_chunk_count, 0u);
    /* A frame, too: found through the index. */
    const struct pack_frame *frame = &directory.frames.items[0];
    flip(&f, object.name, frame->offset);
    check(&f);
    ASSERT_EQ(f.report.result.damaged_chunk_count, frame->chunk_count);
    ASSERT_EQ(problems_with(&f, object.name), 2u);
    ASSERT_GE(problems_with(&f, f.source), 1u);
    pack_directory_release(&directory);
    fixture_release(&f);
}

TEST(missing_objects)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    char path[600];
    fixture_init(&f, "missing");
    make_backups(&f);
    largest_pack(&f, PACK_DATA, &object, &name, &directory);
    pack_directory_release(&directory);
    path_of(&f, object.name, path);
    ASSERT_OK(unlink(path));
    check(&f);
    ASSERT_EQ(problems_with(&f, object.name), 1u);
    ASSERT_GE(problems_with(&f, "is lost: a pack is gone"), 2u);

    remove_all(&f, "index/");
    reopen(&f);
    check(&f);
    ASSERT_GE(problems_with(&f, "is lost: no readable pack has a chunk of it"), 2u);
    ASSERT_EQ(problems_with(&f, "index: : is missing"), 1u);
    fixture_release(&f);
}

/* Whatever of the index is lost: no file is called lost, and one problem says what to do. */
TEST(index_lost)
{
    static struct fixture f;
    CLEANUP(object_vector_release) struct object_vector objects = {0};
    char path[600];
    fixture_init(&f, "index-lost");
    make_backups(&f);
    list(&f, "index/", &objects);
    ASSERT_GT(objects.count, 1u);
    path_of(&f, objects.items[0].name, path);
    ASSERT_OK(unlink(path));
    reopen(&f);
    check(&f);
    ASSERT_EQ(f.report.problem_count, 1u);
    ASSERT_EQ(problems_with(&f, "index: : is incomplete"), 1u);
    ASSERT_EQ(problems_with(&f, "rebuild-index"), 1u);

    remove_all(&f, "index/");
    for (f.percent = 0; f.percent <= 100; f.percent += 100) {
        reopen(&f);
        check(&f);
        ASSERT_EQ(f.report.problem_count, 1u);
        ASSERT_EQ(problems_with(&f, "index: : is missing"), 1u);
        ASSERT_EQ(f.report.result.unindexed_pack_count, f.report.result.pack_count);
        ASSERT_EQ(f.report.remark_count, 0u);
    }
    list(&f, "index/", &objects);
    ASSERT_EQ(objects.count, 0u); /* checking changes nothing */
    fixture_release(&f);
}

/* A frame that is damaged in a pack that no index names hits the files that need it, and only
 * those. */
TEST(index_lost_and_a_frame_damaged)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    fixture_init(&f, "index-and-frame");
    make_backups(&f);
    largest_pack(&f, PACK_DATA, &object, &name, &directory);
    flip(&f, object.name, directory.frames.items[0].offset + 20);
    remove_all(&f, "index/");
    reopen(&f);
    check(&f);
    ASSERT_EQ(problems_with(&f, "index: : is missing"), 1u);
    ASSERT_EQ(problems_with(&f, object.name), 1u);
    ASSERT_GE(problems_with(&f, "is damaged"), 2u);
    ASSERT_EQ(problems_with(&f, "is lost"), 0u);
    pack_directory_release(&directory);
    fixture_release(&f);
}

/* What an interrupted backup left: nobody needs it yet. */
TEST(packs_that_no_backup_needs)
{
    static struct fixture f;
    fixture_init(&f, "unneeded");
    make_backups(&f);
    remove_all(&f, "backups/");
    remove_all(&f, "index/");
    reopen(&f);
    check(&f);
    assert_no_problem(&f);
    ASSERT_EQ(f.report.remark_count, 1u);
    ASSERT_TRUE(strstr(f.report.last_remark, "the next backup takes them in") != NULL);
    fixture_release(&f);
}

TEST(foreign_objects)
{
    static struct fixture f;
    static const char *const names[] = {"packs/00/zz", "keys/x", "index/0123", "backups/latest"};
    fixture_init(&f, "foreign");
    make_backups(&f);
    char contents[] = "x";
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        ASSERT_OK(backend_put(f.repo->backend, names[i], &(struct iovec){contents, 1}, 1));
    check(&f);
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        ASSERT_EQ(problems_with(&f, names[i]), 1u);
    ASSERT_EQ(f.report.problem_count, ELEMENTSOF(names));
    fixture_release(&f);
}

/* ---- more than one copy ---- */

/* All frames of a pack in another one, in another order. */
static void copy_pack(struct fixture *f, const struct object *object,
                      const struct pack_directory *directory)
{
    struct pack_builder *builder;
    struct index *index;
    struct pack_name name;
    uint64_t size_bytes;
    CLEANUP_FREE uint8_t *sealed = malloc(FRAME_SEALED_MAX);
    ASSERT_TRUE(sealed != NULL);
    ASSERT_OK(pack_builder_new(f->repo->keyring, directory->kind, &builder));
    for (size_t i = directory->frames.count; i-- > 0;) {
        const struct pack_frame *frame = &directory->frames.items[i];
        uint32_t offset;
        ASSERT_OK(backend_get(f->repo->backend, object->name, frame->offset, sealed, frame->len));
        ASSERT_OK(pack_builder_add(builder, sealed, frame->len,
                                   directory->chunks.items + frame->first_chunk, frame->chunk_count,
                                   &offset));
    }
    ASSERT_OK(pack_builder_store(builder, f->repo->backend, &name, &size_bytes));
    const struct index_pack pack = {
        .name = name, .size_bytes = size_bytes, .directory = pack_builder_directory(builder)};
    ASSERT_OK(repository_index(f->repo, &index));
    ASSERT_OK(index_add_packs(index, &pack, 1));
    pack_builder_free(builder);
}

TEST(another_copy_counts)
{
    static struct fixture f;
    struct object object;
    struct pack_name name;
    struct pack_directory directory;
    struct index *index;
    char path[600];
    fixture_init(&f, "copy");
    make_backups(&f);
    largest_pack(&f, PACK_DATA, &object, &name, &directory);
    copy_pack(&f, &object, &directory);
    check(&f);
    assert_no_problem(&f);
    ASSERT_EQ(f.report.remark_count, 0u);

    flip(&f, object.name, directory.frames.items[0].offset + 20);
    check(&f);
    ASSERT_EQ(f.report.problem_count, 1u); /* the pack, but no file */
    ASSERT_EQ(problems_with(&f, object.name), 1u);

    /* Hints to the pack that is gone are stale, and no more than that. */
    path_of(&f, object.name, path);
    ASSERT_OK(unlink(path));
    reopen(&f);
    ASSERT_OK(repository_index(f.repo, &index));
    ASSERT_OK(index_rebuild(index));
    check(&f);
    assert_no_problem(&f);
    ASSERT_GE(f.report.remark_count, 1u);
    ASSERT_TRUE(strstr(f.report.last_remark, "say where their chunk was") != NULL);
    pack_directory_release(&directory);
    fixture_release(&f);
}

/* ---- while backups are made ---- */

struct racing_check {
    struct fixture f;
    atomic_bool stop;
};

static void *check_again_and_again(void *userdata)
{
    struct racing_check *race = userdata;
    while (!atomic_load(&race->stop)) {
        reopen(&race->f);
        check(&race->f);
        assert_no_problem(&race->f);
    }
    return NULL;
}

TEST(checking_while_backups_are_made)
{
    static struct racing_check race;
    struct fixture *writer = &race.f;
    static struct fixture other;
    pthread_t thread;
    char name[64];
    fixture_init(writer, "racing");
    make_backups(writer);
    other = *writer; /* the same repository, opened on its own */
    other.report = (struct report){0};
    struct backend *backend;
    ASSERT_OK(backend_open(other.repo_dir, false, &backend));
    ASSERT_OK(repository_open(backend, PASSPHRASE, strlen(PASSPHRASE), "", &other.repo));
    ASSERT_EQ(pthread_create(&thread, NULL, check_again_and_again, &race), 0);
    for (unsigned i = 0; i < 15; i++) {
        (void)snprintf(name, sizeof(name), "racing-%u", i);
        write_random_file(&other, name, 20000, 5000 + i);
        make_backup(&other);
    }
    atomic_store(&race.stop, true);
    ASSERT_EQ(pthread_join(thread, NULL), 0);
    repository_free(other.repo);
    fixture_release(writer);
}

TEST_MAIN()
