/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading and writing, one system call at a time. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "basic/test.h"
#include "model.h"

/* Writes that end here: files stay small. */
static uint64_t limited_len(struct actor *a, uint64_t offset)
{
    uint64_t len = pick_len(a);

    return offset + len > SIZE_MAX_LEN ? 0 : len;
}

static void check_read(struct actor *a, const struct handle *h, const long results[SIDES],
                       const int errors[SIDES], uint64_t offset)
{
    long n = same(a, h->path, results, errors);
    if (n > 0)
        same_bytes(a, h->path, a->buffers[SUBJECT], a->buffers[MODEL], (uint64_t)n, offset);
}

static void op_read(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    uint64_t len = pick_len(a);
    off_t offset = lseek(h->fds[MODEL], 0, SEEK_CUR);
    trace(a, "%s at %lld, %llu", h->path, (long long)offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = read(h->fds[side], a->buffers[side], len);
        errors[side] = errno;
    }
    check_read(a, h, results, errors, (uint64_t)offset);
}

static void op_pread(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    uint64_t offset = pick_offset(a, handle_size(h)), len = pick_len(a);
    trace(a, "%s at %llu, %llu", h->path, (unsigned long long)offset, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = pread(h->fds[side], a->buffers[side], len, (off_t)offset);
        errors[side] = errno;
    }
    check_read(a, h, results, errors, offset);
}

/* All of a file, from its beginning to its end. */
static void op_read_all(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);
    uint64_t offset = 0;
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    trace(a, "%s", h->path);
    do {
        for (unsigned side = 0; side < SIDES; side++) {
            results[side] = pread(h->fds[side], a->buffers[side], BUFFER_LEN, (off_t)offset);
            errors[side] = errno;
        }
        check_read(a, h, results, errors, offset);
        offset += (uint64_t)MAX(results[MODEL], 0L);
    } while (results[MODEL] > 0);
}

static void op_readv(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    uint64_t offset = pick_offset(a, handle_size(h)), first = 1 + pick(a, 5000), len = pick_len(a);
    trace(a, "%s at %llu, %llu and %llu", h->path, (unsigned long long)offset,
          (unsigned long long)first, (unsigned long long)len);
    for (unsigned side = 0; side < SIDES; side++) {
        const struct iovec parts[2] = {{a->buffers[side], first}, {a->buffers[side] + first, len}};
        results[side] = preadv(h->fds[side], parts, 2, (off_t)offset);
        errors[side] = errno;
    }
    check_read(a, h, results, errors, offset);
}

static void op_write(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_WRONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], 0);
    off_t offset = lseek(h->fds[MODEL], 0, SEEK_CUR);
    uint64_t len = limited_len(a, (uint64_t)offset);
    trace(a, "%s at %lld, %llu", h->path, (long long)offset, (unsigned long long)len);
    test_random_fill(&a->random, a->data, len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = write(h->fds[side], a->data, len);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

static void op_pwrite(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_WRONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], 0);
    uint64_t offset = pick_offset(a, handle_size(h)), len = limited_len(a, offset);
    trace(a, "%s at %llu, %llu", h->path, (unsigned long long)offset, (unsigned long long)len);
    test_random_fill(&a->random, a->data, len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = pwrite(h->fds[side], a->data, len, (off_t)offset);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

static void op_writev(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_WRONLY);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], 0);
    uint64_t offset = pick_offset(a, handle_size(h)), first = 1 + pick(a, 100);
    uint64_t len = limited_len(a, offset + first);
    trace(a, "%s at %llu, %llu and %llu", h->path, (unsigned long long)offset,
          (unsigned long long)first, (unsigned long long)len);
    test_random_fill(&a->random, a->data, first + len);
    for (unsigned side = 0; side < SIDES; side++) {
        const struct iovec parts[2] = {{a->data, first}, {a->data + first, len}};
        results[side] = pwritev(h->fds[side], parts, 2, (off_t)offset);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

static void op_append(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_WRONLY | O_APPEND);
    long results[SIDES];
    int errors[SIDES];

    if (!h)
        return;
    note_write_to(a, h->fds[MODEL], 0);
    uint64_t len = limited_len(a, handle_size(h));
    trace(a, "%s, %llu", h->path, (unsigned long long)len);
    test_random_fill(&a->random, a->data, len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = write(h->fds[side], a->data, len);
        errors[side] = errno;
    }
    (void)same(a, h->path, results, errors);
}

/* ---- mapped ---- */

/* A range that has pages of the file only; false: there is none. */
static bool pick_mapping(struct actor *a, const struct handle *h, uint64_t *ret_offset,
                         uint64_t *ret_len)
{
    uint64_t size = handle_size(h);

    if (size == 0)
        return false;
    *ret_offset = pick(a, size) & ~UINT64_C(4095);
    if (chance(a, 30))
        *ret_offset = 0;
    *ret_len = MIN(size - *ret_offset, chance(a, 30) ? SIZE_MAX_LEN : pick_len(a));
    return true;
}

static void map_both(struct actor *a, const struct handle *h, uint64_t offset, uint64_t len,
                     int protection, int flags, uint8_t *ret_maps[SIDES])
{
    long results[SIDES];
    int errors[SIDES];

    trace(a, "%s at %llu, %llu, flags %#x", h->path, (unsigned long long)offset,
          (unsigned long long)len, (unsigned)flags);
    for (unsigned side = 0; side < SIDES; side++) {
        ret_maps[side] = mmap(NULL, len, protection, flags, h->fds[side], (off_t)offset);
        results[side] = ret_maps[side] == MAP_FAILED ? -1 : 0;
        errors[side] = errno;
    }
    ASSERT_EQ(same(a, h->path, results, errors), 0);
}

static void op_map_read(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDONLY);
    uint64_t offset, len;
    uint8_t *maps[SIDES];

    if (!h || !pick_mapping(a, h, &offset, &len))
        return;
    int flags = chance(a, 50) ? MAP_SHARED : MAP_PRIVATE;
    if (flags == MAP_SHARED && h->writable) /* it may be made writable later */
        note_write_to(a, h->fds[MODEL], 0);
    map_both(a, h, offset, len, PROT_READ, flags, maps);
    same_bytes(a, h->path, maps[SUBJECT], maps[MODEL], len, offset);
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(munmap(maps[side], len), 0);
}

static void op_map_write(struct actor *a)
{
    const struct handle *h = handle_pick(a, O_RDWR);
    int flags = chance(a, 70) ? MAP_SHARED : MAP_PRIVATE;
    uint64_t offset, len;
    uint8_t *maps[SIDES];

    if (!h || !pick_mapping(a, h, &offset, &len))
        return;
    if (flags == MAP_SHARED)
        note_write_to(a, h->fds[MODEL], 0);
    map_both(a, h, offset, len, PROT_READ | PROT_WRITE, flags, maps);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t at = pick(a, len), part = MIN(1 + pick(a, 6000), len - at);
        test_random_fill(&a->random, a->data, part);
        for (unsigned side = 0; side < SIDES; side++)
            memcpy(maps[side] + at, a->data, part);
    }
    if (chance(a, 30))
        for (unsigned side = 0; side < SIDES; side++)
            ASSERT_EQ(msync(maps[side], len, MS_SYNC), 0);
    same_bytes(a, h->path, maps[SUBJECT], maps[MODEL], len, offset);
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(munmap(maps[side], len), 0);
}

static const struct operation items[] = {
    {"read", 6, op_read},           {"pread", 8, op_pread},   {"read_all", 3, op_read_all},
    {"readv", 2, op_readv},         {"write", 4, op_write},   {"pwrite", 8, op_pwrite},
    {"writev", 2, op_writev},       {"append", 5, op_append}, {"map_read", 5, op_map_read},
    {"map_write", 5, op_map_write},
};
const struct operations data_operations = {items, ELEMENTSOF(items)};
