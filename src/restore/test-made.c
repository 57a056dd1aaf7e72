/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/test-made.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/log.h"

#define PATHS_KEPT 16u

static void ignore_message(enum log_level level _unused_, const char *line _unused_,
                           void *userdata _unused_)
{
}

static int put_page(void *userdata, const void *page, size_t len, struct chunk_ref *ret_ref)
{
    struct made *m = userdata;
    return writer_put_meta(m->writer, page, len, ret_ref);
}

static int locate(void *userdata, struct chunk_ref **refs, size_t n)
{
    struct made *m = userdata;

    int r = writer_push_out(m->writer, CHUNK_META);
    for (size_t i = 0; r >= 0 && i < n; i++)
        ASSERT_TRUE(writer_resolve(m->writer, refs[i]));
    return r;
}

static int get_page(void *userdata _unused_, const struct chunk_ref *ref _unused_,
                    void **ret_page _unused_, size_t *ret_len _unused_)
{
    return -ENOENT;
}

void made_init(struct made *m)
{
    static unsigned count;
    struct backend *backend = NULL;
    const struct repo_init_options options = {.key_cost = key_cost_minimal};

    *m = (struct made){0};
    log_set_sink(ignore_message, NULL);
    ASSERT_OK(io_new_memory(1, &m->io));
    ASSERT_OK(backend_new_local(m->io, "memory:", &backend));
    ASSERT_OK(repository_init(backend, "secret", 6, &options, &m->repo));
    ASSERT_OK(pool_new(2, &m->pool));
    ASSERT_OK(writer_new(m->repo, m->pool, 1, &m->writer));
    m->store = (struct catalog_store){
        .put_page = put_page,
        .locate = locate,
        .get_page = get_page,
        .userdata = m,
        .names = m->repo->names,
    };
    ASSERT_TRUE(asprintf(&m->around, "%s/%u", test_tmpdir(), ++count) > 0);
    ASSERT_TRUE(asprintf(&m->target, "%s/target", m->around) > 0);
    ASSERT_EQ(mkdir(m->around, 0755), 0);
    m->options.numeric_owner = true;
    m->options.threads = 2;
}

static void forget_run(struct made *m)
{
    string_vector_release_all(&m->problems);
    string_vector_release_all(&m->actions);
}

void made_release(struct made *m)
{
    forget_run(m);
    for (size_t i = 0; i < m->entries.count; i++) {
        entry_release(m->entries.items[i]);
        free(m->entries.items[i]);
    }
    made_entry_vector_release(&m->entries);
    writer_free(m->writer);
    pool_free(m->pool);
    if (m->backup)
        backup_free(m->backup);
    repository_free(m->repo);
    free(m->around);
    free(m->target);
}

/* ---- entries ---- */

struct entry *made_add(struct made *m, const char *path, enum entry_type type)
{
    struct entry *e = calloc(1, sizeof(*e));
    struct buffer key = {0};

    ASSERT_TRUE(e);
    key_put_path(&key, path, strlen(path));
    ASSERT_OK(buffer_finish(&key));
    e->key = key.data;
    e->key_len = (uint32_t)key.len;
    e->type = type;
    e->mode = type == ENTRY_DIRECTORY ? 0755 : type == ENTRY_SYMLINK ? 0777 : 0644;
    e->uid = geteuid();
    e->gid = getegid();
    e->nlink = 1;
    e->inode = 1000 + m->entries.count;
    e->mtime =
        (struct entry_time){.sec = 1600000000 + (int64_t)m->entries.count, .nsec = 123456789};
    e->atime = e->mtime;
    e->ctime = (struct entry_time){.sec = 1600000000}; /* names of one file share it */
    ASSERT_OK(made_entry_vector_push(&m->entries, &e));
    return e;
}

struct entry *made_directory(struct made *m, const char *path)
{
    return made_add(m, path, ENTRY_DIRECTORY);
}

struct entry *made_symlink(struct made *m, const char *path, const char *target)
{
    struct entry *e = made_add(m, path, ENTRY_SYMLINK);
    e->symlink = strdup(target);
    e->size = strlen(target);
    return e;
}

void made_append_data(struct made *m, struct entry *e, const void *data, size_t len)
{
    struct writer_stream *stream = NULL;

    ASSERT_OK(writer_stream_acquire(m->writer, &stream));
    for (size_t at = 0; at < len; at += MADE_CHUNK_LEN) {
        size_t n = MIN(len - at, (size_t)MADE_CHUNK_LEN);
        struct extent x = {.kind = EXTENT_DATA, .len = n};
        bool is_new;
        ASSERT_OK(writer_put(stream, (const uint8_t *)data + at, n, &x.chunk, &is_new));
        ASSERT_OK(extent_vector_push(&e->extents, &x));
        e->size += n;
    }
    writer_stream_release(m->writer, stream);
}

void made_append_space(struct entry *e, enum extent_kind kind, uint64_t len)
{
    const struct extent x = {.kind = kind, .len = len};
    ASSERT_OK(extent_vector_push(&e->extents, &x));
    e->size += len;
}

struct entry *made_file(struct made *m, const char *path, const void *data, size_t len)
{
    struct entry *e = made_add(m, path, ENTRY_REGULAR);
    made_append_data(m, e, data, len);
    return e;
}

struct entry *made_text(struct made *m, const char *path, const char *text)
{
    return made_file(m, path, text, strlen(text));
}

static uint8_t *random_data(size_t len, uint64_t seed)
{
    uint8_t *data = malloc(len + 1);
    ASSERT_TRUE(data);
    test_random_fill(&seed, data, len);
    return data;
}

struct entry *made_random(struct made *m, const char *path, size_t len, uint64_t seed)
{
    CLEANUP_FREE uint8_t *data = random_data(len, seed);
    return made_file(m, path, data, len);
}

void made_xattr(struct entry *e, const char *name, const char *value)
{
    const struct xattr x = {
        .name = strdup(name),
        .value = (uint8_t *)strdup(value),
        .value_len = (uint32_t)strlen(value),
    };
    ASSERT_OK(xattr_vector_push(&e->xattrs, &x));
}

static int compare_entries(const void *a, const void *b)
{
    struct entry *const *x = a, *const *y = b;
    return key_compare((*x)->key, (*x)->key_len, (*y)->key, (*y)->key_len);
}

static void resolve(struct made *m, struct entry *e)
{
    for (size_t i = 0; i < e->extents.count; i++) {
        struct extent *x = &e->extents.items[i];
        if (x->kind == EXTENT_DATA && x->chunk.location.pack_no == PACK_NO_NONE)
            ASSERT_TRUE(writer_resolve(m->writer, &x->chunk));
    }
}

void made_finish(struct made *m, const char *root, ...)
{
    CLEANUP(catalog_builder_freep) struct catalog_builder *builder = NULL;
    struct backup *backup = calloc(1, sizeof(*backup));
    va_list ap;

    ASSERT_TRUE(backup);
    ASSERT_OK(writer_push_out(m->writer, CHUNK_DATA));
    qsort(m->entries.items, m->entries.count, sizeof(*m->entries.items), compare_entries);
    ASSERT_OK(catalog_builder_new(&m->store, &builder));
    for (size_t i = 0; i < m->entries.count; i++) {
        resolve(m, m->entries.items[i]);
        ASSERT_OK(catalog_builder_add(builder, m->entries.items[i]));
    }
    ASSERT_OK(catalog_builder_finish(builder, &backup->catalog));
    ASSERT_OK(writer_finish(m->writer));
    va_start(ap, root);
    for (; root; root = va_arg(ap, const char *)) {
        CLEANUP_FREE char *absolute = NULL;
        ASSERT_TRUE(asprintf(&absolute, "/%s", root) > 0);
        ASSERT_OK(string_vector_add(&backup->roots, absolute));
    }
    va_end(ap);
    m->backup = backup;
}

void made_damage(struct made *m, const struct chunk_ref *ref)
{
    struct pack_name name;
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    struct io_file *file = NULL;
    uint8_t byte;
    size_t len;

    pack_table_name(m->repo->names, ref->location.pack_no, &name);
    pack_object_name(&name, object_name);
    ASSERT_OK(io_open(m->io, object_name, IO_READ | IO_WRITE, &file));
    uint64_t at = ref->location.frame_offset + ref->location.frame_len / 2;
    ASSERT_OK(io_pread(file, &byte, 1, at, &len));
    byte ^= 0x40;
    const struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    ASSERT_OK(io_pwritev(file, &iov, 1, at));
    io_close(file);
}

/* ---- running ---- */

static void on_problem(const char *path, const char *what, void *userdata)
{
    struct made *m = userdata;
    CLEANUP_FREE char *line = NULL;
    ASSERT_TRUE(asprintf(&line, "%s: %s", path, what) > 0);
    ASSERT_OK(string_vector_add(&m->problems, line));
}

static void on_action(char action, const char *path, void *userdata)
{
    struct made *m = userdata;
    CLEANUP_FREE char *line = NULL;
    ASSERT_TRUE(asprintf(&line, "%c %s", action, path) > 0);
    ASSERT_OK(string_vector_add(&m->actions, line));
    if (m->on_action)
        m->on_action(m, action, path);
}

int made_try(struct made *m)
{
    forget_run(m);
    m->options.target = m->target;
    m->options.problem = on_problem;
    m->options.action = on_action;
    m->options.userdata = m;
    m->stats = (struct restore_stats){0};
    return restore_run(m->repo, m->backup, &m->options, &m->stats);
}

void made_run(struct made *m, size_t problem_count)
{
    ASSERT_OK(made_try(m));
    if (m->problems.count != problem_count && m->problems.count > 0)
        test_fail(__FILE__, __LINE__, "unexpected problem: %s", m->problems.items[0]);
    ASSERT_EQ(m->problems.count, problem_count);
    ASSERT_EQ(m->stats.problem_count, problem_count);
}

char made_action(const struct made *m, const char *path)
{
    for (size_t i = 0; i < m->actions.count; i++) {
        if (strcmp(m->actions.items[i] + 2, path) == 0)
            return m->actions.items[i][0];
    }
    return 0;
}

bool made_has_problem(const struct made *m, const char *path, const char *word)
{
    size_t len = strlen(path);

    for (size_t i = 0; i < m->problems.count; i++) {
        const char *line = m->problems.items[i];
        if (strncmp(line, path, len) == 0 && line[len] == ':' && strstr(line + len, word))
            return true;
    }
    return false;
}

/* ---- the target ---- */

const char *made_path(const struct made *m, const char *path)
{
    static char *paths[PATHS_KEPT];
    static unsigned next;
    char **slot = &paths[next++ % PATHS_KEPT];
    bool outside = strncmp(path, "../", 3) == 0;

    free(*slot);
    *slot = NULL;
    ASSERT_TRUE(
        asprintf(slot, "%s/%s", outside ? m->around : m->target, outside ? path + 3 : path) > 0);
    return *slot;
}

void made_write(const struct made *m, const char *path, const void *data, size_t len)
{
    int fd = open(made_path(m, path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, data, len), len);
    ASSERT_EQ(close(fd), 0);
}

bool made_exists(const struct made *m, const char *path)
{
    struct stat st;
    return lstat(made_path(m, path), &st) == 0;
}

void made_assert_file(const struct made *m, const char *path, const void *data, size_t len)
{
    CLEANUP_CLOSE int fd = open(made_path(m, path), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    CLEANUP_FREE uint8_t *now = malloc(len + 1);

    if (fd < 0)
        test_fail(__FILE__, __LINE__, "'%s' cannot be opened: %m", path);
    size_t got = 0;
    ssize_t n;
    while ((n = read(fd, now + got, len + 1 - got)) > 0)
        got += (size_t)n;
    if (got != len || memcmp(now, data, len) != 0)
        test_fail(__FILE__, __LINE__, "'%s' has other contents (%zu bytes, expected %zu)", path,
                  got, len);
}

void made_assert_text(const struct made *m, const char *path, const char *text)
{
    made_assert_file(m, path, text, strlen(text));
}

void made_assert_random(const struct made *m, const char *path, size_t len, uint64_t seed)
{
    CLEANUP_FREE uint8_t *data = random_data(len, seed);
    made_assert_file(m, path, data, len);
}

size_t made_count(const struct made *m, const char *path)
{
    DIR *stream = opendir(made_path(m, path));
    size_t count = 0;

    ASSERT_TRUE(stream);
    const struct dirent *d;
    while ((d = readdir(stream)))
        count += strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
    (void)closedir(stream);
    return count;
}
