/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source tree, its backup, and what is restored from it. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "control/control.h"
#include "model.h"
#include "repo/backup.h"
#include "restore/instant-private.h"
#include "restore/restore.h"

#define TREE_SEED   UINT64_C(0x6d6f64656c)
#define RESTORE_ID  UINT64_C(0x5eed000000000000)
#define DEADLINE_S  50u
#define SOURCE_SEC  1000000000 /* mtimes */
#define ASK_MS      1000
#define END_WAIT_US 3000

/* What was built with this program, which is in tests/model. */
static void build_path(const char *name, char path[PATH_LEN])
{
    char own[PATH_LEN - 64];

    ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);
    ASSERT_TRUE(len > 0);
    own[len] = '\0';
    *strrchr(own, '/') = '\0';
    (void)snprintf(path, PATH_LEN, "%s/../../%s", own, name);
}

/* ---- the source ---- */

static const struct {
    const char *name;
    uint32_t len;
    bool holes;
} kinds_of_files[] = {
    {"empty", 0, false},      {"one", 1, false},         {"tiny", 100, false},
    {"page-1", 4095, false},  {"page", 4096, false},     {"page+1", 4097, false},
    {"two", 8192, false},     {"blocks", 20000, false},  {"16k", 16384, false},
    {"64k", 65536, false},    {"64k+1", 65537, false},   {"100k", 102400, false},
    {"sparse", 300000, true}, {"large", 700001, true},   {"hole", 262144, true},
    {"big", 2500000, true},   {"a/inside", 9000, false}, {"a/large", 400000, false},
    {"b/inside", 50, false},  {"b/large", 800000, true}, {"b/page", 4096, false},
};

struct source {
    char dir[PATH_LEN];
    uint64_t random;
    unsigned files;
};

/* Data, a run of zeros, data; with holes: real ones instead of every third part. */
static void write_contents(struct source *s, int fd, uint32_t len, bool holes)
{
    uint8_t data[4096];

    ASSERT_EQ(ftruncate(fd, len), 0);
    for (uint32_t at = 0; at < len; at += (uint32_t)sizeof(data)) {
        const uint32_t rest = len - at, stripe = at / 65536 % 4;
        const uint32_t part = rest < sizeof(data) ? rest : (uint32_t)sizeof(data);
        if (holes && stripe == 1)
            continue;
        if (holes && stripe == 3 && at / 32768 % 2)
            memset(data, 0, part);
        else
            test_random_fill(&s->random, data, part);
        ASSERT_EQ(pwrite(fd, data, part, at), part);
    }
}

static void set_attributes(struct source *s, int fd)
{
    unsigned n = ++s->files;
    const struct timespec times[2] = {{.tv_sec = SOURCE_SEC + n}, {.tv_sec = SOURCE_SEC + n, 7}};
    char id[16];

    int len = snprintf(id, sizeof(id), "%u", n);
    ASSERT_EQ(fsetxattr(fd, ID_XATTR, id, (size_t)len, 0), 0);
    ASSERT_EQ(fchown(fd, n % 5 ? 0 : 1000 + n, n % 7 ? 0 : 1000), 0);
    ASSERT_EQ(fchmod(fd, n % 3 ? 0644 : 0750), 0);
    ASSERT_EQ(futimens(fd, times), 0);
}

static int make_file(const struct source *s, const char *dir, const char *name)
{
    char path[PATH_LEN * 2];

    (void)snprintf(path, sizeof(path), "%s/%s/%s", s->dir, dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static void make_dir(const struct source *s, const char *dir, const char *name)
{
    char path[PATH_LEN * 2];

    (void)snprintf(path, sizeof(path), "%s/%s/%s", s->dir, dir, name);
    ASSERT_EQ(mkdir(path, 0755), 0);
}

static void make_link(const struct source *s, const char *dir, const char *from, const char *to)
{
    char paths[2][PATH_LEN * 2];

    (void)snprintf(paths[0], sizeof(paths[0]), "%s/%s/%s", s->dir, dir, from);
    (void)snprintf(paths[1], sizeof(paths[1]), "%s/%s/%s", s->dir, dir, to);
    ASSERT_EQ(link(paths[0], paths[1]), 0);
}

static void make_child(struct source *s, const char *dir, const char *name)
{
    char program[PATH_LEN];

    build_path("tests/model/model-child", program);
    CLEANUP_CLOSE int from = open(program, O_RDONLY | O_CLOEXEC);
    CLEANUP_CLOSE int to = make_file(s, dir, name);
    ASSERT_TRUE(from >= 0);
    for (ssize_t n; (n = sendfile(to, from, NULL, 1 << 20)) != 0;)
        ASSERT_TRUE(n > 0);
    set_attributes(s, to);
    ASSERT_EQ(fchmod(to, 0755), 0);
}

static void make_actor_tree(struct source *s, const char *dir)
{
    make_dir(s, "", dir);
    make_dir(s, dir, "a");
    make_dir(s, dir, "b");
    for (size_t i = 0; i < ELEMENTSOF(kinds_of_files); i++) {
        CLEANUP_CLOSE int fd = make_file(s, dir, kinds_of_files[i].name);
        write_contents(s, fd, kinds_of_files[i].len, kinds_of_files[i].holes);
        set_attributes(s, fd);
    }
    make_link(s, dir, "64k", "a/link");
    make_link(s, dir, "large", "b/link");
    make_child(s, dir, "program");
}

static void make_shared_tree(struct source *s)
{
    char name[16];

    make_dir(s, "", "s");
    for (unsigned i = 0; i < SHARED_FILES; i++) {
        (void)snprintf(name, sizeof(name), "f%u", i);
        CLEANUP_CLOSE int fd = make_file(s, "s", name);
        write_contents(s, fd, 5000 + i * i * 40000, i % 2);
        set_attributes(s, fd);
    }
    for (unsigned i = 0; i < CHILD_FILES; i++) {
        (void)snprintf(name, sizeof(name), "program%u", i);
        make_child(s, "s", name);
    }
}

static void make_source(struct source *s)
{
    char name[8];

    s->random = TREE_SEED;
    (void)snprintf(s->dir, sizeof(s->dir), "%.300s/source", test_tmpdir());
    ASSERT_EQ(mkdir(s->dir, 0755), 0);
    for (unsigned i = 0; i < ACTORS_MAX; i++) {
        (void)snprintf(name, sizeof(name), "t%u", i);
        make_actor_tree(s, name);
    }
    make_shared_tree(s);
}

/* ---- the repository ---- */

static void back_up(struct origin *origin, const char *source)
{
    const char *roots[] = {source};
    const struct backup_options options = {.roots = roots, .root_count = 1, .host = "model"};

    ASSERT_OK(backup_create(origin->repo, &options, &origin->backup));
    ASSERT_EQ(origin->backup->stats.problem_count, 0);
}

void origin_make(struct origin *origin)
{
    const struct repo_init_options options = {.key_cost = key_cost_minimal};
    struct source source = {0};
    struct backend *backend = NULL;
    struct repository *made = NULL;

    make_source(&source);
    (void)snprintf(origin->repo_dir, sizeof(origin->repo_dir), "%.300s/repo", test_tmpdir());
    ASSERT_OK(backend_open(origin->repo_dir, true, &backend));
    ASSERT_OK(repository_init(backend, "x", 1, &options, &made));
    repository_free(made);
    ASSERT_OK(backend_open(origin->repo_dir, false, &backend));
    ASSERT_OK(repository_open(backend, "x", 1, "", &origin->repo));
    back_up(origin, source.dir);
}

void origin_release(struct origin *origin)
{
    backup_free(origin->backup);
    repository_free(origin->repo);
}

static void restore_problem(const char *path, const char *what, void *userdata)
{
    (void)userdata;
    test_fail(__FILE__, __LINE__, "ordinary restore: '%s': %s", path, what);
}

void origin_restore(struct origin *origin, const char *target)
{
    const struct restore_options options = {
        .target = target, .no_sync = true, .problem = restore_problem};
    struct restore_stats stats;

    ASSERT_OK(restore_run(origin->repo, origin->backup, &options, &stats));
    ASSERT_EQ(stats.problem_count, 0);
}

/* ---- the instant restore ---- */

static uint64_t restore_id_of(const struct settings *s)
{
    return RESTORE_ID | s->seed;
}

void origin_start_instant(struct origin *origin, const struct settings *s, const char *target)
{
    char empty[] = "";
    char filterd[PATH_LEN], hydrator[PATH_LEN];
    const struct instant_programs programs = {.filterd = filterd, .hydrator = hydrator};
    struct instant_config config = {
        .restore_id = restore_id_of(s),
        .repo_url = origin->repo_dir,
        .cache_dir = empty,
        .backup_id = origin->backup->id,
        .target = strdup(target),
        .whole_file_max = s->whole_file_max,
        .limit_bytes_per_s = s->limit_bytes_per_s,
        .deadline_s = DEADLINE_S,
        .passphrase = sodium_malloc(1),
        .passphrase_len = 1,
    };
    struct instant_report report;

    ASSERT_TRUE(config.target && config.passphrase);
    build_path("umbra-filterd", filterd);
    build_path("umbra-hydrated", hydrator);
    config.passphrase[0] = 'x';
    ASSERT_OK(instant_start_programs(&programs, &config, -EBADF, NULL, &report));
    ASSERT_EQ(report.problem_count, 0);
    sodium_free(config.passphrase);
    free(config.target);
}

void instant_tell(const struct settings *s, const char *request)
{
    char id[INSTANT_ID_LEN + 1], path[128];
    char *response = NULL;

    instant_id_format(restore_id_of(s), id);
    (void)snprintf(path, sizeof(path), INSTANT_SOCKET_DIR "/%s.sock", id);
    int r = control_ask(path, request, ASK_MS, &response);
    if (r >= 0 && s->verbose)
        fprintf(stderr, "%s -> %s\n", request, response);
    free(response);
}

void instant_wait_for_end(void)
{
    while (world_find(NULL) != 0)
        (void)usleep(END_WAIT_US);
}

static void print_words_of(pid_t pid, const char *comm, void *data)
{
    char path[64], text[16 << 10];

    (void)data;
    if (!world_is_daemon(comm))
        return;
    (void)snprintf(path, sizeof(path), "/proc/%d/fd/2", (int)pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : pread(fd, text, sizeof(text), 0);
    size_t len = n > 0 ? strnlen(text, (size_t)n) : 0;
    fprintf(stderr, "--- words of %s (%d):\n%.*s\n", comm, (int)pid, (int)len, text);
}

void instant_print_words(void)
{
    world_each(print_words_of, NULL);
}
