/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every implementation of struct io has to do, and what the fault one does on request. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "basic/io-crash.h"
#include "basic/io.h"
#include "basic/test.h"

enum kind { REAL, MEMORY, CRASH, FAULT, KIND_MAX };

static char *real_root(void)
{
    static unsigned number;
    char *root;

    ASSERT_TRUE(asprintf(&root, "%s/%u", test_tmpdir(), number++) > 0);
    ASSERT_EQ(mkdir(root, 0700), 0);
    return root;
}

static struct io *new_io(enum kind kind)
{
    CLEANUP_FREE char *root = kind == REAL ? real_root() : NULL;
    struct io *io = NULL, *inner = NULL;

    switch (kind) {
    case REAL: ASSERT_OK(io_new_real(root, &io)); break;
    case MEMORY: ASSERT_OK(io_new_memory(1, &io)); break;
    case CRASH: ASSERT_OK(io_new_crash(1, &io)); break;
    case FAULT:
    case KIND_MAX:
        ASSERT_OK(io_new_memory(1, &inner));
        ASSERT_OK(io_new_fault(inner, &io));
        break;
    }
    return io;
}

/* A test with this body over each implementation. */
#define IO_TEST(io_test_name)                              \
    static void io_body_##io_test_name(struct io *io);     \
    TEST(io_test_name)                                     \
    {                                                      \
        for (unsigned kind = 0; kind < KIND_MAX; kind++) { \
            CLEANUP(io_freep)                              \
            struct io *io = new_io((enum kind)kind);       \
            io_body_##io_test_name(io);                    \
        }                                                  \
    }                                                      \
    static void io_body_##io_test_name(struct io *io)

static struct io_file *open_ok(struct io *io, const char *path, unsigned flags)
{
    struct io_file *file = NULL;
    ASSERT_OK(io_open(io, path, flags, &file));
    return file;
}

static int write_at(struct io_file *file, const char *text, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
    return io_pwritev(file, &iov, 1, offset);
}

static void put(struct io *io, const char *path, const char *text)
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, path, IO_WRITE | IO_CREATE);
    ASSERT_OK(io_truncate(file, 0));
    ASSERT_OK(write_at(file, text, 0));
}

static void assert_bytes(struct io *io, const char *path, const char *expected, size_t len)
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, path, IO_READ);
    char data[256];
    size_t got;

    ASSERT_OK(io_pread(file, data, sizeof(data), 0, &got));
    ASSERT_EQ(got, len);
    ASSERT_MEMEQ(data, expected, len);
}

static void assert_text(struct io *io, const char *path, const char *expected)
{
    assert_bytes(io, path, expected, strlen(expected));
}

static void assert_absent(struct io *io, const char *path)
{
    struct io_stat st;
    ASSERT_ERR(io_stat(io, path, &st), -ENOENT);
}

IO_TEST(open_flags)
{
    struct io_file *file = NULL;

    ASSERT_ERR(io_open(io, "f", IO_READ, &file), -ENOENT);
    ASSERT_ERR(io_open(io, "f", IO_WRITE, &file), -ENOENT);
    ASSERT_ERR(io_open(io, "no/f", IO_WRITE | IO_CREATE, &file), -ENOENT);
    ASSERT_ERR(io_open(io, "f", 0, &file), -EINVAL);
    ASSERT_ERR(io_open(io, "f", IO_READ | IO_CREATE, &file), -EINVAL);
    ASSERT_ERR(io_open(io, "f", IO_WRITE | IO_EXCLUSIVE, &file), -EINVAL);
    ASSERT_TRUE(file == NULL);
    put(io, "f", "text");
    ASSERT_ERR(io_open(io, "f", IO_WRITE | IO_CREATE | IO_EXCLUSIVE, &file), -EEXIST);
    ASSERT_ERR(io_open(io, "f/g", IO_WRITE | IO_CREATE, &file), -ENOTDIR);
    io_close(open_ok(io, "f", IO_WRITE | IO_CREATE)); /* does not truncate */
    assert_text(io, "f", "text");
    ASSERT_OK(io_mkdir(io, "d"));
    ASSERT_ERR(io_open(io, "d", IO_READ, &file), -EISDIR);
    ASSERT_ERR(io_open(io, "d", IO_WRITE, &file), -EISDIR);
    io_close(NULL);
}

IO_TEST(access_is_what_it_was_opened_for)
{
    char byte;
    size_t got;

    put(io, "f", "x");
    CLEANUP(io_closep) struct io_file *reader = open_ok(io, "f", IO_READ);
    CLEANUP(io_closep) struct io_file *writer = open_ok(io, "f", IO_WRITE);
    ASSERT_ERR(write_at(reader, "y", 0), -EBADF);
    ASSERT_ERR(io_pread(writer, &byte, 1, 0, &got), -EBADF);
    CLEANUP(io_closep) struct io_file *both = open_ok(io, "f", IO_READ | IO_WRITE);
    ASSERT_OK(write_at(both, "z", 0));
    ASSERT_OK(io_pread(reader, &byte, 1, 0, &got));
    ASSERT_EQ(byte, 'z');
}

IO_TEST(paths_stay_below_the_root)
{
    static const char *const hostile[] = {"..",  "../f", "/f", "a/../../f", "a//f",
                                          "./f", "a/.",  "f/", "/"};
    struct io_file *file = NULL;
    struct io_stat st;

    for (size_t i = 0; i < ELEMENTSOF(hostile); i++) {
        ASSERT_ERR(io_open(io, hostile[i], IO_WRITE | IO_CREATE, &file), -UMBRA_E_HOSTILE);
        ASSERT_ERR(io_stat(io, hostile[i], &st), -UMBRA_E_HOSTILE);
        ASSERT_ERR(io_rename(io, "a", hostile[i], true), -UMBRA_E_HOSTILE);
        ASSERT_ERR(io_sync_dir(io, hostile[i]), -UMBRA_E_HOSTILE);
    }
    ASSERT_ERR(io_unlink(io, ""), -EINVAL);
    put(io, "..f", "dots in front are fine");
    put(io, "...", "and so are three");
}

IO_TEST(sparse_writes_and_short_reads)
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_READ | IO_WRITE | IO_CREATE);
    char data[16];
    size_t got;

    ASSERT_OK(io_pread(file, data, sizeof(data), 0, &got));
    ASSERT_EQ(got, 0);
    ASSERT_OK(write_at(file, "end", 5));
    ASSERT_OK(io_pread(file, data, sizeof(data), 0, &got));
    ASSERT_EQ(got, 8);
    ASSERT_MEMEQ(data, "\0\0\0\0\0end", 8);
    ASSERT_OK(io_pread(file, data, 2, 6, &got));
    ASSERT_EQ(got, 2);
    ASSERT_MEMEQ(data, "nd", 2);
    ASSERT_OK(io_pread(file, data, 2, 100, &got));
    ASSERT_EQ(got, 0);
}

IO_TEST(pieces_are_written_in_a_row)
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_WRITE | IO_CREATE);
    char a[] = "ab", b[] = "cde";
    struct iovec iov[200] = {{.iov_base = a, .iov_len = 2}, {0}, {.iov_base = b, .iov_len = 3}};

    ASSERT_OK(io_pwritev(file, iov, 3, 1));
    assert_bytes(io, "f", "\0abcde", 6);
    for (size_t i = 0; i < ELEMENTSOF(iov); i++)
        iov[i] = (struct iovec){.iov_base = a + i % 2, .iov_len = 1};
    ASSERT_OK(io_pwritev(file, iov, ELEMENTSOF(iov), 0));
    struct io_stat st;
    ASSERT_OK(io_stat(io, "f", &st));
    ASSERT_EQ(st.size_bytes, ELEMENTSOF(iov));
    ASSERT_OK(io_pwritev(file, iov, 0, 1000)); /* nothing: not even a new size */
    ASSERT_OK(io_stat(io, "f", &st));
    ASSERT_EQ(st.size_bytes, ELEMENTSOF(iov));
}

IO_TEST(offsets_are_bounded)
{
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_READ | IO_WRITE | IO_CREATE);
    char byte = 0;
    size_t got;
    struct iovec huge[2] = {{.iov_base = &byte, .iov_len = SIZE_MAX},
                            {.iov_base = &byte, .iov_len = 2}};

    ASSERT_ERR(io_pread(file, &byte, 1, (uint64_t)INT64_MAX, &got), -EFBIG);
    ASSERT_ERR(write_at(file, "x", UINT64_MAX), -EFBIG);
    ASSERT_ERR(io_pwritev(file, huge, 2, 0), -EFBIG);
    ASSERT_ERR(io_truncate(file, UINT64_MAX), -EFBIG);
}

IO_TEST(truncate_cuts_and_extends)
{
    put(io, "f", "abcdef");
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_WRITE);
    ASSERT_OK(io_truncate(file, 3));
    assert_text(io, "f", "abc");
    ASSERT_OK(io_truncate(file, 5)); /* zeros, not the old bytes */
    assert_bytes(io, "f", "abc\0\0", 5);
}

IO_TEST(stat_tells_sizes_and_kinds)
{
    struct io_stat st;

    ASSERT_OK(io_stat(io, "", &st));
    ASSERT_TRUE(st.is_directory);
    ASSERT_EQ(st.size_bytes, 0);
    put(io, "f", "abc");
    ASSERT_OK(io_stat(io, "f", &st));
    ASSERT_FALSE(st.is_directory);
    ASSERT_EQ(st.size_bytes, 3);
    ASSERT_GT(st.mtime_ns, UINT64_C(1000000000) * NSEC_PER_SEC);
    assert_absent(io, "g");
    ASSERT_ERR(io_stat(io, "f/g", &st), -ENOTDIR);
}

IO_TEST(mkdir_once)
{
    ASSERT_OK(io_mkdir(io, "d"));
    ASSERT_ERR(io_mkdir(io, "d"), -EEXIST);
    ASSERT_ERR(io_mkdir(io, "no/d"), -ENOENT);
    ASSERT_OK(io_mkdir(io, "d/e"));
    put(io, "d/e/f", "deep");
    ASSERT_ERR(io_mkdir(io, "d/e/f"), -EEXIST);
    assert_text(io, "d/e/f", "deep");
}

IO_TEST(rename_replaces_only_when_told)
{
    put(io, "a", "first");
    put(io, "b", "second");
    ASSERT_ERR(io_rename(io, "a", "b", false), -EEXIST);
    assert_text(io, "b", "second");
    ASSERT_OK(io_rename(io, "a", "b", true));
    assert_text(io, "b", "first");
    assert_absent(io, "a");
    ASSERT_OK(io_rename(io, "b", "c", false));
    assert_text(io, "c", "first");
    ASSERT_ERR(io_rename(io, "b", "d", true), -ENOENT);
    ASSERT_ERR(io_rename(io, "c", "no/c", true), -ENOENT);
    ASSERT_OK(io_rename(io, "c", "c", true));
    ASSERT_ERR(io_rename(io, "c", "c", false), -EEXIST);
    assert_text(io, "c", "first");
}

IO_TEST(rename_between_directories)
{
    ASSERT_OK(io_mkdir(io, "d"));
    ASSERT_OK(io_mkdir(io, "e"));
    put(io, "d/f", "moved");
    ASSERT_OK(io_rename(io, "d/f", "e/g", false));
    assert_absent(io, "d/f");
    assert_text(io, "e/g", "moved");
    ASSERT_OK(io_rename(io, "e", "d/e", false));
    assert_text(io, "d/e/g", "moved");
    ASSERT_ERR(io_rename(io, "d", "d/e/d", true), -EINVAL);
    put(io, "f", "file");
    ASSERT_ERR(io_rename(io, "f", "d", true), -EISDIR);
    ASSERT_ERR(io_rename(io, "d", "f", true), -ENOTDIR);
    ASSERT_OK(io_mkdir(io, "other"));
    ASSERT_ERR(io_rename(io, "other", "d", true), -ENOTEMPTY);
}

IO_TEST(unlink_files_and_empty_directories)
{
    put(io, "f", "x");
    ASSERT_OK(io_unlink(io, "f"));
    assert_absent(io, "f");
    ASSERT_ERR(io_unlink(io, "f"), -ENOENT);
    ASSERT_OK(io_mkdir(io, "d"));
    put(io, "d/f", "x");
    ASSERT_ERR(io_unlink(io, "d"), -ENOTEMPTY);
    ASSERT_OK(io_unlink(io, "d/f"));
    ASSERT_OK(io_unlink(io, "d"));
    assert_absent(io, "d");
}

IO_TEST(open_file_outlives_its_name)
{
    char data[8];
    size_t got;

    put(io, "f", "old");
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_READ | IO_WRITE);
    ASSERT_OK(io_unlink(io, "f"));
    put(io, "f", "new");
    ASSERT_OK(write_at(file, "O", 0));
    ASSERT_OK(io_pread(file, data, sizeof(data), 0, &got));
    ASSERT_EQ(got, 3);
    ASSERT_MEMEQ(data, "Old", 3);
    assert_text(io, "f", "new");
}

struct listing {
    char names[8][16];
    size_t count;
    size_t stop_after;
};

static int add_name(const char *name, void *userdata)
{
    struct listing *l = userdata;

    ASSERT_LT(l->count, ELEMENTSOF(l->names));
    (void)snprintf(l->names[l->count++], sizeof(l->names[0]), "%s", name);
    return l->count == l->stop_after ? 7 : 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

IO_TEST(list_names)
{
    struct listing l = {0};

    ASSERT_OK(io_list(io, "", add_name, &l));
    ASSERT_EQ(l.count, 0);
    ASSERT_OK(io_mkdir(io, "d"));
    put(io, "d/b", "");
    put(io, "d/a", "");
    ASSERT_OK(io_mkdir(io, "d/c"));
    ASSERT_OK(io_list(io, "d", add_name, &l));
    ASSERT_EQ(l.count, 3);
    qsort(l.names, l.count, sizeof(l.names[0]), compare_names);
    for (size_t i = 0; i < 3; i++) {
        ASSERT_EQ(l.names[i][0], 'a' + i);
        ASSERT_EQ(l.names[i][1], 0);
    }
    l = (struct listing){.stop_after = 2};
    ASSERT_EQ(io_list(io, "d", add_name, &l), 7);
    ASSERT_EQ(l.count, 2);
    ASSERT_ERR(io_list(io, "d/a", add_name, &l), -ENOTDIR);
    ASSERT_ERR(io_list(io, "no", add_name, &l), -ENOENT);
}

static int unlink_name(const char *name, void *userdata)
{
    return io_unlink(userdata, name);
}

IO_TEST(list_function_may_change_the_directory)
{
    struct listing l = {0};

    for (char name[2] = "a"; name[0] <= 'g'; name[0]++)
        put(io, name, "x");
    ASSERT_OK(io_list(io, "", unlink_name, io));
    ASSERT_OK(io_list(io, "", add_name, &l));
    ASSERT_EQ(l.count, 0);
}

IO_TEST(syncs_succeed)
{
    ASSERT_OK(io_mkdir(io, "d"));
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "d/f", IO_WRITE | IO_CREATE);
    ASSERT_OK(write_at(file, "x", 0));
    ASSERT_OK(io_sync(file));
    ASSERT_OK(io_sync_dir(io, "d"));
    ASSERT_OK(io_sync_dir(io, ""));
    ASSERT_ERR(io_sync_dir(io, "no"), -ENOENT);
    ASSERT_ERR(io_sync_dir(io, "d/f"), -ENOTDIR);
    assert_text(io, "d/f", "x");
}

IO_TEST(clock_and_random)
{
    uint8_t a[33] = {0}, b[33] = {0};
    uint64_t before = io_now_ns(io);

    ASSERT_GT(before, UINT64_C(1000000000) * NSEC_PER_SEC);
    ASSERT_GE(io_now_ns(io), before);
    ASSERT_OK(io_random(io, a, sizeof(a)));
    ASSERT_OK(io_random(io, b, sizeof(b)));
    ASSERT_TRUE(memcmp(a, b, sizeof(a)) != 0);
}

IO_TEST(errors_name_the_path)
{
    struct io_stat st;

    ASSERT_ERR(io_stat(io, "missing/file", &st), -ENOENT);
    ASSERT_TRUE(strstr(error_text(-ENOENT), "missing/file'") != NULL);
}

TEST(simulators_repeat_themselves)
{
    for (unsigned i = 0; i < 2; i++) {
        CLEANUP(io_freep) struct io *a = NULL;
        CLEANUP(io_freep) struct io *b = NULL;
        uint64_t x, y;

        ASSERT_OK(i == 0 ? io_new_memory(5, &a) : io_new_crash(5, &a));
        ASSERT_OK(i == 0 ? io_new_memory(5, &b) : io_new_crash(5, &b));
        ASSERT_EQ(io_now_ns(a), io_now_ns(b));
        ASSERT_OK(io_random(a, &x, sizeof(x)));
        ASSERT_OK(io_random(b, &y, sizeof(y)));
        ASSERT_EQ(x, y);
    }
}

TEST(real_refuses_what_is_no_regular_file)
{
    CLEANUP_FREE char *root = real_root();
    CLEANUP_FREE char *fifo = NULL;
    CLEANUP_FREE char *link = NULL;
    CLEANUP(io_freep) struct io *io = NULL;
    struct io_file *file = NULL;

    ASSERT_TRUE(asprintf(&fifo, "%s/fifo", root) > 0);
    ASSERT_TRUE(asprintf(&link, "%s/link", root) > 0);
    ASSERT_EQ(mkfifo(fifo, 0600), 0);
    ASSERT_EQ(symlink("/etc/passwd", link), 0);
    ASSERT_OK(io_new_real(root, &io));
    ASSERT_ERR(io_open(io, "fifo", IO_READ, &file), -EINVAL); /* and does not hang */
    ASSERT_ERR(io_open(io, "link", IO_READ, &file), -ELOOP);
    ASSERT_ERR(io_new_real("/no/such/directory", &io), -ENOENT);
}

TEST(real_files_are_private)
{
    CLEANUP_FREE char *root = real_root();
    CLEANUP_FREE char *path = NULL;
    CLEANUP(io_freep) struct io *io = NULL;
    struct stat st;

    ASSERT_OK(io_new_real(root, &io));
    put(io, "f", "x");
    ASSERT_TRUE(asprintf(&path, "%s/f", root) > 0);
    ASSERT_EQ(stat(path, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0600);
}

TEST(fault_hits_the_chosen_calls)
{
    CLEANUP(io_freep) struct io *io = new_io(FAULT);
    CLEANUP(io_closep) struct io_file *file = NULL;
    struct listing l = {0};
    char byte;
    size_t got;

    io_fault_set(io, IO_FAULT_OPEN, 1, 1, EACCES);
    ASSERT_ERR(io_open(io, "f", IO_WRITE | IO_CREATE, &file), -EACCES);
    ASSERT_OK(io_open(io, "f", IO_READ | IO_WRITE | IO_CREATE, &file));
    ASSERT_EQ(io_fault_calls(io, IO_FAULT_OPEN), 2);
    ASSERT_OK(write_at(file, "x", 0));

    io_fault_set(io, IO_FAULT_READ, 2, 2, EIO);
    ASSERT_OK(io_pread(file, &byte, 1, 0, &got));
    ASSERT_ERR(io_pread(file, &byte, 1, 0, &got), -EIO);
    ASSERT_ERR(io_pread(file, &byte, 1, 0, &got), -EIO);
    ASSERT_OK(io_pread(file, &byte, 1, 0, &got));

    io_fault_set(io, IO_FAULT_SYNC, 1, 0, EIO);
    ASSERT_ERR(io_sync(file), -EIO);
    ASSERT_ERR(io_sync_dir(io, ""), -EIO);
    io_fault_set(io, IO_FAULT_SYNC, 0, 0, 0);
    ASSERT_OK(io_sync(file));

    io_fault_set(io, IO_FAULT_RENAME, 1, 1, EROFS);
    ASSERT_ERR(io_rename(io, "f", "g", true), -EROFS);
    io_fault_set(io, IO_FAULT_UNLINK, 1, 1, EPERM);
    ASSERT_ERR(io_unlink(io, "f"), -EPERM);
    io_fault_set(io, IO_FAULT_LIST, 1, 1, EIO);
    ASSERT_ERR(io_list(io, "", add_name, &l), -EIO);
    ASSERT_OK(io_list(io, "", add_name, &l));
    ASSERT_EQ(l.count, 1);
}

TEST(failing_write_leaves_half)
{
    CLEANUP(io_freep) struct io *io = new_io(FAULT);
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_WRITE | IO_CREATE);
    char a[] = "abc", b[] = "defgh";
    struct iovec iov[2] = {{.iov_base = a, .iov_len = 3}, {.iov_base = b, .iov_len = 5}};

    io_fault_set(io, IO_FAULT_WRITE, 1, 1, EIO);
    ASSERT_ERR(io_pwritev(file, iov, 2, 0), -EIO);
    assert_text(io, "f", "abcd");
    ASSERT_OK(io_pwritev(file, iov, 2, 0));
    assert_text(io, "f", "abcdefgh");
}

TEST(space_runs_out)
{
    CLEANUP(io_freep) struct io *io = new_io(FAULT);
    CLEANUP(io_closep) struct io_file *file = open_ok(io, "f", IO_WRITE | IO_CREATE);

    io_fault_set_space(io, 5);
    ASSERT_OK(write_at(file, "abc", 0));
    ASSERT_ERR(write_at(file, "def", 3), -ENOSPC);
    assert_text(io, "f", "abcde");
    ASSERT_ERR(write_at(file, "x", 0), -ENOSPC);
    io_fault_set_space(io, UINT64_MAX);
    ASSERT_OK(write_at(file, "xyz", 0));
    assert_text(io, "f", "xyzde");
}

TEST_MAIN()
