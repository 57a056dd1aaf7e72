/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mappings. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fileop.h"

static size_t whole_pages(const struct side *side)
{
    return (size_t)((side->size_bytes + PAGE - 1) / PAGE * PAGE);
}

static int with_map(struct side *side, int open_flags, int prot, int flags, uint64_t offset,
                    size_t len, int (*body)(struct side *side, uint8_t *map, size_t len))
{
    int fd = side_open(side, open_flags);
    if (fd < 0)
        return fd;
    uint8_t *map = mmap(NULL, len, prot, flags, fd, (off_t)offset);
    int error = errno;
    (void)close(fd);
    if (map == MAP_FAILED)
        return -error;
    int r = body(side, map, len);
    (void)munmap(map, len);
    return r;
}

static int look(struct side *side, uint8_t *map, size_t len)
{
    side_saw(side, map, len); /* the rest of the last page is zero on both sides */
    return 0;
}

static int op_shared(struct side *side)
{
    return with_map(side, O_RDONLY, PROT_READ, MAP_SHARED, 0, whole_pages(side), look);
}

static int op_private(struct side *side)
{
    return with_map(side, O_RDONLY, PROT_READ, MAP_PRIVATE, 0, whole_pages(side), look);
}

static int op_populate(struct side *side)
{
    return with_map(side, O_RDONLY, PROT_READ, MAP_PRIVATE | MAP_POPULATE, 0, whole_pages(side),
                    look);
}

/* Faults map the pages around, too, which must not be those of before. */
static int op_part(struct side *side)
{
    int r = with_map(side, O_RDONLY, PROT_READ, MAP_SHARED, side->middle, PAGE, look);
    return r < 0 ? r : with_map(side, O_RDONLY, PROT_READ, MAP_SHARED, 0, whole_pages(side), look);
}

static int grow(struct side *side, uint8_t *map, size_t len)
{
    (void)*(volatile uint8_t *)map;
    uint8_t *larger = mremap(map, len, whole_pages(side), MREMAP_MAYMOVE);
    if (larger == MAP_FAILED)
        return -errno;
    side_saw(side, larger, whole_pages(side));
    return munmap(larger, whole_pages(side)) < 0 ? -errno : 0;
}

static int op_mremap(struct side *side)
{
    return with_map(side, O_RDONLY, PROT_READ, MAP_SHARED, 0, PAGE, grow);
}

/* ---- writing ---- */

static int store(struct side *side, uint8_t *map, size_t len)
{
    side_pattern(map + len / 2 - 50, 5000 < len / 2 ? 5000 : len / 2, 7);
    if (msync(map, len, MS_SYNC) < 0)
        return -errno;
    side_saw(side, map, len);
    return 0;
}

static int op_write_shared(struct side *side)
{
    return with_map(side, O_RDWR, PROT_READ | PROT_WRITE, MAP_SHARED, 0, whole_pages(side), store);
}

static int op_write_private(struct side *side)
{
    return with_map(side, O_RDONLY, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, whole_pages(side),
                    store);
}

/* The right to write comes later. */
static int protect(struct side *side, uint8_t *map, size_t len)
{
    if (mprotect(map, len, PROT_READ | PROT_WRITE) < 0)
        return -errno;
    return store(side, map, len);
}

static int op_write_protect(struct side *side)
{
    return with_map(side, O_RDWR, PROT_READ, MAP_SHARED, 0, whole_pages(side), protect);
}

const struct operation map_operations[] = {
    {9, "mmap-shared", op_shared},
    {9, "mmap-private", op_private},
    {9, "mmap-populate", op_populate},
    {9, "mmap-part", op_part},
    {9, "mremap-grow", op_mremap},
    {14, "mmap-write-shared", op_write_shared},
    {14, "mmap-write-private", op_write_private},
    {14, "mmap-mprotect", op_write_protect},
    {0, NULL, NULL},
};
