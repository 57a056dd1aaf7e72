/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "basic/durable.h"
#include "basic/io-crash.h"
#include "basic/io.h"
#include "basic/test.h"
#include "repo/backends/backend-private.h"

static struct iovec piece(const void *data, size_t len)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = len};
}

static int put_text(struct backend *b, const char *name, const char *text)
{
    const struct iovec iov = piece(text, strlen(text));
    return backend_put(b, name, &iov, 1);
}

static void assert_text(struct backend *b, const char *name, const char *text)
{
    CLEANUP_FREE void *data = NULL;
    size_t len = 0;
    ASSERT_OK(backend_get_all(b, name, 1000, &data, &len));
    ASSERT_EQ(len, strlen(text));
    ASSERT_MEMEQ(data, text, len);
}

static struct backend *memory_backend(struct io **ret_io)
{
    struct backend *b = NULL;
    struct io *io = NULL;
    ASSERT_OK(io_new_memory(1, &io));
    ASSERT_OK(backend_new_local(io, "memory:", &b));
    if (ret_io)
        *ret_io = io;
    return b;
}

struct listed {
    char names[32][BACKEND_NAME_MAX + 1];
    uint64_t sizes[32];
    size_t count;
};

static int remember(const char *name, uint64_t size_bytes, void *userdata)
{
    struct listed *l = userdata;
    ASSERT_LT(l->count, ELEMENTSOF(l->names));
    (void)snprintf(l->names[l->count], sizeof(l->names[0]), "%s", name);
    l->sizes[l->count++] = size_bytes;
    return 0;
}

static bool has_name(const struct listed *l, const char *name)
{
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->names[i], name) == 0)
            return true;
    }
    return false;
}

static size_t list_count(struct backend *b, const char *prefix, struct listed *l)
{
    *l = (struct listed){0};
    ASSERT_OK(backend_list(b, prefix, remember, l));
    return l->count;
}

static int count_name(const char *name _unused_, void *userdata)
{
    ++*(size_t *)userdata;
    return 0;
}

static size_t tmp_count(struct io *io)
{
    size_t count = 0;
    ASSERT_OK(io_list(io, "tmp", count_name, &count));
    return count;
}

TEST(names)
{
    char longest[BACKEND_NAME_MAX + 2];

    ASSERT_TRUE(backend_name_valid("config"));
    ASSERT_TRUE(backend_name_valid("packs/ab/0123-4.5"));
    static const char *const bad[] = {"",     "/", "/a",  "a/",  "a//b", ".",        "..", "a/../b",
                                      "a/.b", "A", "a b", "a_b", "a\n",  "\xc3\xa4", "a/."};
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        ASSERT_FALSE(backend_name_valid(bad[i]));
    memset(longest, 'a', sizeof(longest));
    longest[BACKEND_NAME_MAX] = '\0';
    ASSERT_TRUE(backend_name_valid(longest));
    longest[BACKEND_NAME_MAX] = 'a';
    longest[BACKEND_NAME_MAX + 1] = '\0';
    ASSERT_FALSE(backend_name_valid(longest));
}

TEST(bad_names_are_refused_everywhere)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    struct listed l = {0};
    uint64_t size_bytes = 0;
    char byte;

    ASSERT_ERR(put_text(b, "../x", "x"), -EINVAL);
    ASSERT_ERR(backend_get(b, "../x", 0, &byte, 1), -EINVAL);
    ASSERT_ERR(backend_stat(b, "../x", &size_bytes), -EINVAL);
    ASSERT_ERR(backend_remove(b, "../x"), -EINVAL);
    ASSERT_ERR(backend_list(b, "../", remember, &l), -EINVAL);
}

TEST(put_get_stat_remove)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    const struct iovec iov[] = {piece("hello ", 6), piece("", 0), piece("world", 5)};
    uint64_t size_bytes = 0;
    char part[5];

    ASSERT_OK(backend_put(b, "packs/ab/abc", iov, 3));
    assert_text(b, "packs/ab/abc", "hello world");
    ASSERT_OK(backend_stat(b, "packs/ab/abc", &size_bytes));
    ASSERT_EQ(size_bytes, 11u);
    ASSERT_OK(backend_get(b, "packs/ab/abc", 6, part, 5));
    ASSERT_MEMEQ(part, "world", 5);
    ASSERT_OK(backend_remove(b, "packs/ab/abc"));
    ASSERT_ERR(backend_get(b, "packs/ab/abc", 0, part, 1), -ENOENT);
    ASSERT_ERR(backend_stat(b, "packs/ab/abc", &size_bytes), -ENOENT);
    ASSERT_ERR(backend_remove(b, "packs/ab/abc"), -ENOENT);
}

TEST(an_object_is_never_replaced)
{
    struct io *io = NULL;
    CLEANUP(backend_freep) struct backend *b = memory_backend(&io);

    ASSERT_OK(put_text(b, "config", "first"));
    ASSERT_ERR(put_text(b, "config", "second"), -EEXIST);
    assert_text(b, "config", "first");
    ASSERT_EQ(tmp_count(io), 0u);
}

TEST(reads_beyond_the_end)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    char bytes[8];

    ASSERT_OK(put_text(b, "packs/00/00", "12345"));
    ASSERT_ERR(backend_get(b, "packs/00/00", 0, bytes, 6), -ENODATA);
    ASSERT_ERR(backend_get(b, "packs/00/00", 5, bytes, 1), -ENODATA);
    ASSERT_ERR(backend_get(b, "packs/00/00", UINT64_C(1) << 40, bytes, 1), -ENODATA);
    ASSERT_OK(backend_get(b, "packs/00/00", 4, bytes, 1));
    ASSERT_TRUE(strstr(error_text(-ENODATA), "packs/00/00") != NULL);
}

TEST(get_all_is_bounded)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    CLEANUP_FREE void *data = NULL;
    size_t len = 0;

    ASSERT_OK(put_text(b, "empty", ""));
    ASSERT_OK(put_text(b, "five", "12345"));
    ASSERT_ERR(backend_get_all(b, "five", 4, &data, &len), -UMBRA_E_LIMIT);
    ASSERT_OK(backend_get_all(b, "empty", 0, &data, &len));
    ASSERT_EQ(len, 0u);
    ASSERT_ERR(backend_get_all(b, "none", 4, &data, &len), -ENOENT);
}

TEST(list_by_prefix)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    struct listed l;

    ASSERT_EQ(list_count(b, "", &l), 0u);
    ASSERT_EQ(list_count(b, "packs/", &l), 0u);
    ASSERT_OK(put_text(b, "config", "c"));
    ASSERT_OK(put_text(b, "packs/aa/aa01", "12"));
    ASSERT_OK(put_text(b, "packs/ab/ab01", "123"));
    ASSERT_OK(put_text(b, "packs/ab/ab02", "1234"));
    ASSERT_OK(put_text(b, "backups/ab", "b"));
    ASSERT_EQ(list_count(b, "", &l), 5u);
    ASSERT_EQ(list_count(b, "packs/", &l), 3u);
    ASSERT_TRUE(has_name(&l, "packs/aa/aa01"));
    ASSERT_EQ(list_count(b, "packs/ab/", &l), 2u);
    ASSERT_EQ(list_count(b, "packs/ab/ab02", &l), 1u);
    ASSERT_STREQ(l.names[0], "packs/ab/ab02");
    ASSERT_EQ(l.sizes[0], 4u);
    ASSERT_EQ(list_count(b, "packs/a", &l), 3u);
    ASSERT_EQ(list_count(b, "pa", &l), 3u);
    ASSERT_EQ(list_count(b, "conf", &l), 1u);
    ASSERT_EQ(list_count(b, "packs/b", &l), 0u);
    ASSERT_EQ(list_count(b, "config", &l), 1u);
}

static int stop_at_once(const char *name _unused_, uint64_t size_bytes _unused_, void *userdata)
{
    ++*(int *)userdata;
    return 7;
}

TEST(a_listing_can_be_ended)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    int calls = 0;

    ASSERT_OK(put_text(b, "a/a", "1"));
    ASSERT_OK(put_text(b, "a/b", "1"));
    ASSERT_EQ(backend_list(b, "a/", stop_at_once, &calls), 7);
    ASSERT_EQ(calls, 1);
}

static int remove_listed(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    return backend_remove(userdata, name);
}

TEST(objects_may_be_removed_while_listed)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    struct listed l;

    ASSERT_OK(put_text(b, "index/a", "1"));
    ASSERT_OK(put_text(b, "index/b", "1"));
    ASSERT_OK(backend_list(b, "index/", remove_listed, b));
    ASSERT_EQ(list_count(b, "index/", &l), 0u);
}

TEST(more_packs_than_stay_open)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    char name[40], byte;

    for (unsigned i = 0; i < 200; i++) {
        (void)snprintf(name, sizeof(name), "packs/%02x/%04x", i % 16, i);
        const uint8_t value = (uint8_t)i;
        const struct iovec iov = piece(&value, 1);
        ASSERT_OK(backend_put(b, name, &iov, 1));
    }
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 200; i++) {
            (void)snprintf(name, sizeof(name), "packs/%02x/%04x", i % 16, i);
            ASSERT_OK(backend_get(b, name, 0, &byte, 1));
            ASSERT_EQ((uint8_t)byte, i);
        }
    }
}

struct reader_job {
    struct backend *backend;
    uint64_t seed;
};

static void *read_packs(void *userdata)
{
    struct reader_job *job = userdata;
    char name[40];
    uint8_t byte;

    for (unsigned i = 0; i < 3000; i++) {
        unsigned n = (unsigned)(test_random(&job->seed) % 100);
        (void)snprintf(name, sizeof(name), "packs/00/%04x", n);
        int r = backend_get(job->backend, name, 0, &byte, 1);
        if (r == -ENOENT) /* the other thread removes those below 10 */
            ASSERT_LT(n, 10u);
        else
            ASSERT_OK(r);
        if (r == 0)
            ASSERT_EQ(byte, n);
    }
    return NULL;
}

TEST(concurrent_reads_and_removes)
{
    CLEANUP(backend_freep) struct backend *b = memory_backend(NULL);
    struct reader_job jobs[3];
    pthread_t threads[3];
    char name[40];

    for (unsigned i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof(name), "packs/00/%04x", i);
        const uint8_t value = (uint8_t)i;
        const struct iovec iov = piece(&value, 1);
        ASSERT_OK(backend_put(b, name, &iov, 1));
    }
    for (unsigned i = 0; i < 3; i++) {
        jobs[i] = (struct reader_job){.backend = b, .seed = i};
        ASSERT_EQ(pthread_create(&threads[i], NULL, read_packs, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < 10; i++) {
        (void)snprintf(name, sizeof(name), "packs/00/%04x", i);
        ASSERT_OK(backend_remove(b, name));
    }
    for (unsigned i = 0; i < 3; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
}

/* ---- a real directory ---- */

static char *subdir(const char *name)
{
    char *path = NULL;
    ASSERT_TRUE(asprintf(&path, "%s/%s", test_tmpdir(), name) > 0);
    return path;
}

static void write_file(const char *dir, const char *name, time_t mtime)
{
    char path[500];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    CLEANUP_CLOSE int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    const struct timespec times[2] = {{.tv_sec = mtime}, {.tv_sec = mtime}};
    ASSERT_EQ(futimens(fd, times), 0);
}

static bool exists(const char *dir, const char *name)
{
    char path[500];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

TEST(open_by_path_and_url)
{
    CLEANUP_FREE char *dir = subdir("by url");
    CLEANUP_FREE char *url = NULL;
    CLEANUP(backend_freep) struct backend *a = NULL, *b = NULL;

    ASSERT_ERR(backend_open(dir, false, &a), -UMBRA_E_NOT_REPO);
    ASSERT_OK(backend_open(dir, true, &a));
    ASSERT_OK(put_text(a, "config", "x"));
    ASSERT_TRUE(asprintf(&url, "file://%s/by%%20url", test_tmpdir()) > 0);
    ASSERT_OK(backend_open(url, false, &b));
    assert_text(b, "config", "x");
}

TEST(bad_urls)
{
    struct backend *b = NULL;

    ASSERT_ERR(backend_open("", false, &b), -EINVAL);
    ASSERT_ERR(backend_open("s3://bucket", false, &b), -EINVAL);
    ASSERT_ERR(backend_open("s3:bucket/path", true, &b), -EINVAL);
    ASSERT_ERR(backend_open("sftp:user@host:/path", true, &b), -EINVAL);
    ASSERT_ERR(backend_open("./s3:bucket", false, &b), -UMBRA_E_NOT_REPO);
    ASSERT_ERR(backend_open("s3/bucket", false, &b), -UMBRA_E_NOT_REPO);
    ASSERT_ERR(backend_open("file://host/path", false, &b), -EINVAL);
    ASSERT_ERR(backend_open("file:///a%2", false, &b), -EINVAL);
    ASSERT_ERR(backend_open("file:///a%zz", false, &b), -EINVAL);
    ASSERT_ERR(backend_open("file:///a%00b", false, &b), -EINVAL);
}

TEST(create_refuses_what_is_not_empty)
{
    CLEANUP_FREE char *used = subdir("used");
    CLEANUP_FREE char *fresh = subdir("fresh");
    struct backend *b = NULL;

    ASSERT_EQ(mkdir(used, 0700), 0);
    write_file(used, "Photos", 0);
    ASSERT_ERR(backend_open(used, true, &b), -EEXIST);
    ASSERT_EQ(mkdir(fresh, 0700), 0);
    CLEANUP_FREE char *lost = NULL;
    ASSERT_TRUE(asprintf(&lost, "%s/lost+found", fresh) > 0);
    ASSERT_EQ(mkdir(lost, 0700), 0);
    ASSERT_OK(backend_open(fresh, true, &b));
    ASSERT_OK(put_text(b, "config", "x"));
    backend_free(b);
    ASSERT_ERR(backend_open(fresh, true, &b), -EEXIST);
}

TEST(old_temporaries_are_removed_by_the_first_put)
{
    CLEANUP_FREE char *dir = subdir("sweep");
    CLEANUP(backend_freep) struct backend *b = NULL;
    struct listed l;
    time_t now = time(NULL);

    ASSERT_OK(backend_open(dir, true, &b));
    ASSERT_OK(put_text(b, "config", "x"));
    backend_free(TAKE_PTR(b));
    write_file(dir, "tmp/tmp-old", now - 25 * 3600);
    write_file(dir, "tmp/tmp-recent", now - 23 * 3600);

    ASSERT_OK(backend_open(dir, false, &b));
    ASSERT_EQ(list_count(b, "", &l), 1u);
    ASSERT_TRUE(exists(dir, "tmp/tmp-old"));
    ASSERT_OK(put_text(b, "index/a", "x"));
    ASSERT_FALSE(exists(dir, "tmp/tmp-old"));
    ASSERT_TRUE(exists(dir, "tmp/tmp-recent"));
}

TEST(a_directory_removed_meanwhile)
{
    CLEANUP_FREE char *dir = subdir("gone");
    CLEANUP(backend_freep) struct backend *b = NULL;
    char path[500], byte;

    ASSERT_OK(backend_open(dir, true, &b));
    ASSERT_OK(put_text(b, "packs/ab/ab", "x"));
    (void)snprintf(path, sizeof(path), "%s/packs/ab/ab", dir);
    ASSERT_EQ(unlink(path), 0);
    (void)snprintf(path, sizeof(path), "%s/packs/ab", dir);
    ASSERT_EQ(rmdir(path), 0);
    ASSERT_ERR(backend_get(b, "packs/ab/ab", 0, &byte, 1), -ENOENT);
    ASSERT_OK(put_text(b, "packs/ab/ac", "y")); /* made again */

    (void)snprintf(path, sizeof(path), "rm -rf '%s'", dir);
    ASSERT_EQ(system(path), 0);
    ASSERT_ERR(put_text(b, "packs/ab/ad", "z"), -ENOENT);
    ASSERT_TRUE(strstr(error_text(-ENOENT), dir) != NULL);
}

/* ---- failures ---- */

TEST(a_full_disk_leaves_nothing_behind)
{
    struct io *memory = NULL, *io = NULL;
    CLEANUP(backend_freep) struct backend *b = NULL;
    static uint8_t data[10000];
    const struct iovec iov = piece(data, sizeof(data));
    uint64_t size_bytes = 0;

    ASSERT_OK(io_new_memory(1, &memory));
    ASSERT_OK(io_new_fault(memory, &io));
    ASSERT_OK(backend_new_local(io, "disk:", &b));
    io_fault_set_space(io, 4000);
    ASSERT_ERR(backend_put(b, "packs/00/00", &iov, 1), -ENOSPC);
    ASSERT_TRUE(strstr(error_text(-ENOSPC), "packs/00/00") != NULL);
    ASSERT_ERR(backend_stat(b, "packs/00/00", &size_bytes), -ENOENT);
    ASSERT_EQ(tmp_count(io), 0u);
    io_fault_set_space(io, UINT64_MAX);
    ASSERT_OK(backend_put(b, "packs/00/00", &iov, 1));
}

TEST(errors_are_passed_on_and_name_the_object)
{
    static const enum io_fault_op put_ops[] = {IO_FAULT_WRITE, IO_FAULT_SYNC, IO_FAULT_RENAME};
    struct io *memory = NULL, *io = NULL;
    CLEANUP(backend_freep) struct backend *b = NULL;
    char byte;

    ASSERT_OK(io_new_memory(1, &memory));
    ASSERT_OK(io_new_fault(memory, &io));
    ASSERT_OK(backend_new_local(io, "disk:", &b));
    ASSERT_OK(put_text(b, "packs/00/00", "x"));
    for (size_t i = 0; i < ELEMENTSOF(put_ops); i++) {
        io_fault_set(io, put_ops[i], 1, 1, EIO);
        ASSERT_ERR(put_text(b, "packs/00/01", "x"), -EIO);
        ASSERT_TRUE(strstr(error_text(-EIO), "packs/00/01") != NULL);
    }
    io_fault_set(io, IO_FAULT_READ, 1, 1, EIO);
    ASSERT_ERR(backend_get(b, "packs/00/00", 0, &byte, 1), -EIO);
    ASSERT_OK(backend_get(b, "packs/00/00", 0, &byte, 1));
}

/* ---- power cuts ---- */

static void put_three(struct backend *b, size_t *ret_confirmed)
{
    static const char *const names[] = {"packs/aa/one", "packs/ab/two", "index/three"};
    for (*ret_confirmed = 0; *ret_confirmed < 3; ++*ret_confirmed) {
        if (put_text(b, names[*ret_confirmed], names[*ret_confirmed]) < 0)
            return;
    }
}

/* What was confirmed is whole after the cut; what was not is whole or not there. */
static void check_after_cut(struct backend *b, size_t confirmed)
{
    static const char *const names[] = {"packs/aa/one", "packs/ab/two", "index/three"};
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        uint64_t size_bytes = 0;
        int r = backend_stat(b, names[i], &size_bytes);
        if (r == -ENOENT)
            ASSERT_GE(i, confirmed);
        else
            assert_text(b, names[i], names[i]);
    }
}

TEST(power_cuts_at_every_sync)
{
    uint64_t sync_count = 1000;

    for (uint64_t nth = 1; nth <= sync_count; nth++) {
        for (uint64_t seed = 0; seed < 8; seed++) {
            CLEANUP(backend_freep) struct backend *b = NULL;
            struct io *io = NULL;
            size_t confirmed = 0;

            ASSERT_OK(io_new_crash(seed, &io));
            ASSERT_OK(backend_new_local(io, "disk:", &b));
            io_crash_at_sync(io, nth);
            put_three(b, &confirmed);
            if (!io_crash_crashed(io)) {
                ASSERT_EQ(confirmed, 3u);
                sync_count = io_crash_sync_count(io);
                io_crash_now(io);
            }
            io_crash_reboot(io);
            check_after_cut(b, confirmed);
            put_three(b, &confirmed); /* and writing goes on, or finds them there */
        }
    }
    ASSERT_LT(sync_count, 1000u);
}

TEST_MAIN()
