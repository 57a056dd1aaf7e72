/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel does on its own with the contents of files: copying, sending, executing, and
 * reading and writing past the page cache or behind the program's back. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

#define PAGE UINT64_C(4096)

/* ---- from one file to another ---- */

/* Two handles; the first stays open while the second is opened. */
static bool pick_two(struct actor *a, struct handle **ret_from, struct handle **ret_to)
{
    *ret_from = handle_pick(a, O_RDONLY);
    if (!*ret_from)
        return false;
    a->pinned = *ret_from;
    *ret_to = handle_pick(a, O_RDWR);
    a->pinned = NULL;
    return *ret_to && *ret_to != *ret_from;
}

static ssize_t copy_range(int from, int to, uint64_t from_offset, uint64_t to_offset, uint64_t len)
{
    off_t in = (off_t)from_offset, out = (off_t)to_offset;
    ssize_t total = 0;

    for (ssize_t n; len > 0; total += n, len -= (uint64_t)n) {
        n = copy_file_range(from, &in, to, &out, len, 0);
        if (n < 0)
            return total > 0 ? total : n;
        if (n == 0)
            break;
    }
    return total;
}

/* Not within one file that has two names: what overlaps depends on where a copy stops. */
static bool is_same_file(const struct handle *x, const struct handle *y)
{
    struct stat st[2];

    ASSERT_EQ(fstat(x->fds[MODEL], &st[0]), 0);
    ASSERT_EQ(fstat(y->fds[MODEL], &st[1]), 0);
    return st[0].st_ino == st[1].st_ino;
}

static void op_copy_range(struct actor *a)
{
    struct handle *from, *to;
    long results[SIDES];
    int errors[SIDES];

    if (!pick_two(a, &from, &to) || is_same_file(from, to))
        return;
    note_write_to(a, to->fds[MODEL], 0);
    uint64_t from_offset = pick_offset(a, handle_size(from));
    uint64_t to_offset = pick_offset(a, handle_size(to)), len = pick_len(a);
    if (to_offset + len > SIZE_MAX_LEN)
        return;
    trace(a, "%s at %llu to %s at %llu, %llu", from->path, (unsigned long long)from_offset,
          to->path, (unsigned long long)to_offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = copy_range(from->fds[side], to->fds[side], from_offset, to_offset, len);
        errors[side] = errno;
    }
    (void)same(a, to->path, results, errors);
}

/* Into a new file: how files are copied where that is cheap. */
static void op_clone(struct actor *a)
{
    const struct handle *from = handle_pick(a, O_RDONLY);
    long results[SIDES];
    int errors[SIDES];
    char path[PATH_LEN];

    struct name *name = from ? new_name(a) : NULL;
    if (!name)
        return;
    name_path(a, name, path);
    int from_fds[SIDES] = {from->fds[SUBJECT], from->fds[MODEL]};
    a->pinned = from;
    const struct handle *to = handle_open(a, path, O_RDWR | O_CREAT | O_EXCL);
    a->pinned = NULL;
    ASSERT_TRUE(to != NULL);
    note_create(a, to);
    note_write_to(a, to->fds[MODEL], 0);
    trace(a, "%s to %s", from->path, path);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = ioctl(to->fds[side], FICLONE, from_fds[side]);
        errors[side] = errno;
    }
    (void)same(a, path, results, errors);
}

static void op_clone_range(struct actor *a)
{
    struct handle *from, *to;
    long results[SIDES];
    int errors[SIDES];

    if (a->run->settings.fs == FS_EXT4 || !pick_two(a, &from, &to))
        return;
    note_write_to(a, to->fds[MODEL], 0);
    struct file_clone_range range = {
        .src_offset = pick_offset(a, handle_size(from)) & ~(PAGE - 1),
        .src_length = chance(a, 30) ? 0 : (pick_len(a) + PAGE - 1) & ~(PAGE - 1),
        .dest_offset = pick_offset(a, handle_size(to)) & ~(PAGE - 1),
    };
    trace(a, "%s at %llu to %s at %llu, %llu", from->path, (unsigned long long)range.src_offset,
          to->path, (unsigned long long)range.dest_offset, (unsigned long long)range.src_length);
    for (unsigned side = 0; side < SIDES; side++) {
        range.src_fd = from->fds[side];
        results[side] = ioctl(to->fds[side], FICLONERANGE, &range);
        errors[side] = errno;
    }
    (void)same(a, to->path, results, errors);
}

/* It may stop where it likes. */
static ssize_t send_range(int from, int to, uint64_t from_offset, uint64_t len)
{
    off_t offset = (off_t)from_offset;
    ssize_t total = 0;

    for (ssize_t n; len > 0; total += n, len -= (uint64_t)n) {
        n = sendfile(to, from, &offset, len);
        if (n < 0)
            return total > 0 ? total : n;
        if (n == 0)
            break;
    }
    return total;
}

static void op_send(struct actor *a)
{
    struct handle *from, *to;
    long results[SIDES];
    int errors[SIDES];

    if (!pick_two(a, &from, &to) || is_same_file(from, to))
        return;
    note_write_to(a, to->fds[MODEL], 0);
    uint64_t from_offset = pick_offset(a, handle_size(from));
    uint64_t to_offset = pick_offset(a, handle_size(to)), len = pick_len(a);
    if (to_offset + len > SIZE_MAX_LEN)
        return;
    trace(a, "%s at %llu to %s at %llu, %llu", from->path, (unsigned long long)from_offset,
          to->path, (unsigned long long)to_offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        ASSERT_EQ(lseek(to->fds[side], (off_t)to_offset, SEEK_SET), to_offset);
        results[side] = send_range(from->fds[side], to->fds[side], from_offset, len);
        errors[side] = errno;
    }
    (void)same(a, to->path, results, errors);
}

/* Into a pipe, which has room for that much. */
static void op_splice(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);
    long results[SIDES];
    int errors[SIDES], ends[2];

    if (!h)
        return;
    uint64_t offset = pick_offset(a, handle_size(h)), len = MIN(pick_len(a), 15 * PAGE);
    trace(a, "%s at %llu, %llu", h->path, (unsigned long long)offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        off_t from = (off_t)offset;
        ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
        results[side] = splice(h->fds[side], &from, ends[1], NULL, len, 0);
        errors[side] = errno;
        if (results[side] > 0)
            ASSERT_EQ(read(ends[0], a->buffers[side], len), results[side]);
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
    if (same(a, h->path, results, errors) > 0)
        same_bytes(a, h->path, a->buffers[SUBJECT], a->buffers[MODEL], (uint64_t)results[MODEL],
                   offset);
}

/* ---- io_uring ---- */

static long uring_do(struct io_uring *ring, bool write, int fd, void *buffer, uint64_t len,
                     uint64_t offset)
{
    struct io_uring_cqe *cqe = NULL;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    ASSERT_TRUE(sqe != NULL);
    if (write)
        io_uring_prep_write(sqe, fd, buffer, (unsigned)len, offset);
    else
        io_uring_prep_read(sqe, fd, buffer, (unsigned)len, offset);
    ASSERT_EQ(io_uring_submit(ring), 1);
    int r;
    do
        r = io_uring_wait_cqe(ring, &cqe);
    while (r == -EINTR);
    ASSERT_EQ(r, 0);
    long result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

static void uring_both(struct actor *a, const struct handle *h, bool write)
{
    long results[SIDES];
    int errors[SIDES];
    struct io_uring ring;

    uint64_t offset = pick_offset(a, handle_size(h)), len = pick_len(a);
    if (write && offset + len > SIZE_MAX_LEN)
        return;
    trace(a, "%s at %llu, %llu", h->path, (unsigned long long)offset, (unsigned long long)len);
    ASSERT_EQ(io_uring_queue_init(4, &ring, 0), 0);
    if (write) {
        note_write_to(a, h->fds[MODEL], 0);
        test_random_fill(&a->random, a->data, len);
    }
    for (unsigned side = 0; side < SIDES; side++) {
        long r =
            uring_do(&ring, write, h->fds[side], write ? a->data : a->buffers[side], len, offset);
        results[side] = r < 0 ? -1 : r;
        errors[side] = (int)-r;
    }
    io_uring_queue_exit(&ring);
    long n = same(a, h->path, results, errors);
    if (!write && n > 0)
        same_bytes(a, h->path, a->buffers[SUBJECT], a->buffers[MODEL], (uint64_t)n, offset);
}

static void op_uring_read(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);

    if (h)
        uring_both(a, h, false);
}

static void op_uring_write(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_WRONLY);

    if (h)
        uring_both(a, h, true);
}

/* ---- O_DIRECT ---- */

static void op_direct_read(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY | O_DIRECT);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    uint64_t offset = pick_offset(a, handle_size(h)) & ~(PAGE - 1);
    uint64_t len = (pick_len(a) + PAGE - 1) & ~(PAGE - 1);
    trace(a, "%s at %llu, %llu", h->path, (unsigned long long)offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = pread(h->fds[side], a->buffers[side], len, (off_t)offset);
        errors[side] = errno;
    }
    if (same(a, h->path, results, errors) > 0)
        same_bytes(a, h->path, a->buffers[SUBJECT], a->buffers[MODEL], (uint64_t)results[MODEL],
                   offset);
}

static void op_direct_write(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDWR | O_DIRECT);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], 0);
    uint64_t offset = pick_offset(a, handle_size(h)) & ~(PAGE - 1);
    uint64_t len = (pick_len(a) + PAGE - 1) & ~(PAGE - 1);
    if (offset + len > SIZE_MAX_LEN)
        return;
    trace(a, "%s at %llu, %llu", h->path, (unsigned long long)offset, (unsigned long long)len);
    test_random_fill(&a->random, a->data, len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = pwrite(h->fds[side], a->data, len, (off_t)offset);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

/* ---- programs ---- */

static const struct name *find_program(struct actor *a)
{
    for (unsigned i = 0; i < 20; i++) {
        const struct name *name = pick_name(a);
        if (name->is_program)
            return name;
    }
    return NULL;
}

static void op_exec(struct actor *a)
{
    const struct name *name = chance(a, 50) ? find_program(a) : NULL;
    char path[PATH_LEN], full[PATH_LEN * 2 + 1];
    long results[SIDES];
    int errors[SIDES] = {0}, status;

    if (name)
        name_path(a, name, path);
    else
        (void)snprintf(path, sizeof(path), "s/program%u", (unsigned)pick(a, CHILD_FILES));
    trace(a, "%s", path);
    for (unsigned side = 0; side < SIDES; side++) {
        pid_t pid;
        (void)snprintf(full, sizeof(full), "%s/%s", a->run->trees[side], path);
        char *const argv[] = {full, NULL};
        int r = posix_spawn(&pid, full, NULL, NULL, argv, environ);
        results[side] = r == 0 ? 0 : -1;
        errors[side] = r;
        if (r != 0)
            continue;
        ASSERT_EQ(waitpid(pid, &status, 0), pid);
        results[side] = status;
    }
    if (same(a, path, results, errors) < 0 || !WIFEXITED(results[MODEL]))
        differ(a, "%s: %s", path, strerror(errors[MODEL]));
}

/* ---- to the disk ---- */

static void op_sync(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDWR);
    bool only_data = chance(a, 50);

    if (!h)
        return;
    trace(a, "%s%s", h->path, only_data ? ", only data" : "");
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(only_data ? fdatasync(h->fds[side]) : fsync(h->fds[side]), 0);
    note_sync(a, h->fds[MODEL]);
}

static const struct operation items[] = {
    {"copy_range", 4, op_copy_range},
    {"clone", 3, op_clone},
    {"clone_range", 3, op_clone_range},
    {"send", 3, op_send},
    {"splice", 3, op_splice},
    {"uring_read", 2, op_uring_read},
    {"uring_write", 2, op_uring_write},
    {"direct_read", 4, op_direct_read},
    {"direct_write", 4, op_direct_write},
    {"exec", 3, op_exec},
    {"sync", 4, op_sync},
};
const struct operations kernel_operations = {items, ELEMENTSOF(items)};
