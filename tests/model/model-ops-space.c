/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What changes the size of a file, makes holes, or moves data; and what looks for holes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

static uint64_t pick_size(struct actor *a, uint64_t size)
{
    return MIN(pick_offset(a, size), SIZE_MAX_LEN);
}

static void op_ftruncate(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_WRONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], 0);
    uint64_t size = handle_size(h), new_size = pick_size(a, size);
    trace(a, "%s from %llu to %llu", h->path, (unsigned long long)size,
          (unsigned long long)new_size);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = ftruncate(h->fds[side], (off_t)new_size);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

/* A path that truncate(2) takes: it knows no directory descriptors. */
static void op_truncate(struct actor *a)
{
    char path[PATH_LEN], full[PATH_LEN * 2 + 1];
    const struct name *name = pick_name(a);
    uint64_t size = chance(a, 20) ? 0 : pick(a, chance(a, 50) ? 10000 : 1000000);
    long results[SIDES];
    int errors[SIDES];

    if (name->is_program)
        return;
    name_path(a, name, path);
    CLEANUP_CLOSE int fd = openat(a->run->tree_fds[MODEL], path, O_PATH | O_CLOEXEC);
    note_write_to(a, fd, 0);
    trace(a, "%s to %llu", path, (unsigned long long)size);
    for (unsigned side = 0; side < SIDES; side++) {
        (void)snprintf(full, sizeof(full), "%s/%s", a->run->trees[side], path);
        results[side] = truncate(full, (off_t)size);
        errors[side] = errno;
    }
    (void)same(a, path, results, errors);
}

/* And perhaps writes something new, as most who open so do. */
static void op_open_truncating(struct actor *a)
{
    char path[PATH_LEN];
    const struct name *name = pick_name(a);
    long results[SIDES];
    int errors[SIDES];

    if (name->is_program)
        return;
    name_path(a, name, path);
    const struct handle *h = handle_open(a, path, O_TRUNC | (chance(a, 50) ? O_RDWR : O_WRONLY));
    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], CHANGE_EMPTIES);
    if (chance(a, 40))
        return;
    uint64_t len = pick_len(a);
    trace(a, "%s: then writes %llu", path, (unsigned long long)len);
    test_random_fill(&a->random, a->data, len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = write(h->fds[side], a->data, len);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

static void op_fallocate(struct actor *a)
{
    static const int modes[] = {
        0,
        FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_ZERO_RANGE,
        FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_COLLAPSE_RANGE,
        FALLOC_FL_INSERT_RANGE,
    };
    const struct handle *h = handle_pick(a, O_WRONLY);
    int mode = modes[pick(a, ELEMENTSOF(modes))];
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    uint64_t size = handle_size(h), offset = pick_offset(a, size), len = pick_len(a);
    if (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) && chance(a, 90)) {
        offset &= ~UINT64_C(4095);
        len = (len + 4095) & ~UINT64_C(4095);
    }
    if (MAX(size, offset) + len > SIZE_MAX_LEN)
        return;
    note_write_to(a, h->fds[MODEL],
                  mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) ? CHANGE_MOVES : 0);
    trace(a, "%s of %llu, mode %#x, at %llu, %llu", h->path, (unsigned long long)size,
          (unsigned)mode, (unsigned long long)offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = fallocate(h->fds[side], mode, (off_t)offset, (off_t)len);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

/* ---- looking for holes ---- */

/* The contents as cp would copy them: what is said to be a hole is taken for zeros. */
static void read_around_holes(struct actor *a, int fd, uint8_t *buffer, uint64_t len)
{
    off_t at = 0;

    memset(buffer, 0, len);
    while (at < (off_t)len) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0) {
            ASSERT_EQ(errno, ENXIO);
            return;
        }
        off_t end = lseek(fd, data, SEEK_HOLE);
        ASSERT_TRUE(end > data);
        if (data >= (off_t)len)
            return;
        ssize_t wanted = (ssize_t)(MIN(end, (off_t)len) - data);
        ssize_t n = pread(fd, buffer + data, (size_t)wanted, data);
        if (n != wanted)
            differ(a, "read %zd of %zd bytes at %lld", n, wanted, (long long)data);
        at = end;
    }
}

/* As a program that is known to look for holes. */
static void op_copy_sparse(struct actor *a)
{
    static const char *const seekers[] = {"cp", "tar", "rsync"};
    char path[PATH_LEN], before[17] = "";

    name_path(a, pick_name(a), path);
    (void)prctl(PR_GET_NAME, before);
    (void)prctl(PR_SET_NAME, seekers[pick(a, ELEMENTSOF(seekers))]);
    const struct handle *h = handle_open(a, path, O_RDONLY);
    (void)prctl(PR_SET_NAME, before);
    if (!h)
        return;
    uint64_t len = MIN(handle_size(h), (uint64_t)BUFFER_LEN);
    for (unsigned side = 0; side < SIDES; side++)
        read_around_holes(a, h->fds[side], a->buffers[side], len);
    same_bytes(a, path, a->buffers[SUBJECT], a->buffers[MODEL], len, 0);
}

/* Raises no event, and may put zeros into the page cache. */
static void op_read_ahead(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);

    if (!h)
        return;
    uint64_t size = handle_size(h), offset = pick(a, size + 1);
    int advice = chance(a, 60) ? POSIX_FADV_WILLNEED : POSIX_FADV_DONTNEED;
    trace(a, "%s at %llu, advice %d", h->path, (unsigned long long)offset, advice);
    for (unsigned side = 0; side < SIDES; side++)
        (void)posix_fadvise(h->fds[side], (off_t)offset, (off_t)pick_len(a), advice);
}

static const struct operation items[] = {
    {"ftruncate", 4, op_ftruncate},        {"truncate", 3, op_truncate},
    {"open_trunc", 4, op_open_truncating}, {"fallocate", 8, op_fallocate},
    {"copy_sparse", 3, op_copy_sparse},    {"read_ahead", 3, op_read_ahead},
};
const struct operations space_operations = {items, ELEMENTSOF(items)};
