/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/fill.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "basic/error.h"

#define PAGE           UINT64_C(4096)
#define FIEMAP_EXTENTS 64u

static uint64_t page_down(uint64_t offset)
{
    return offset & ~(PAGE - 1);
}

static uint64_t page_up(uint64_t offset)
{
    return page_down(offset + PAGE - 1);
}

/* ---- what is missing ---- */

/* Everything in which the backup has data. */
static int want_all_data(struct fill *fill)
{
    const struct extent_vector *extents = &fill->entry.extents;
    uint64_t start = 0;

    for (size_t i = 0; i < extents->count; i++) {
        uint64_t end = fill->extent_ends[i];
        if (extents->items[i].kind == EXTENT_DATA) {
            int r = extent_map_add(&fill->missing, page_down(start), page_up(end));
            if (r < 0)
                return r;
        }
        start = end;
    }
    return extent_map_remove(&fill->missing, fill->valid_bytes, UINT64_MAX);
}

/* struct fiemap and the array that follows it. */
union fiemap_batch {
    struct fiemap head;
    uint8_t room[sizeof(struct fiemap) + FIEMAP_EXTENTS * sizeof(struct fiemap_extent)];
};

/* Written extents are here; *ret_next: where to go on, UINT64_MAX at the end. */
static int take_off_written(struct fill *fill, const union fiemap_batch *batch, uint64_t *ret_next)
{
    for (uint32_t i = 0; i < batch->head.fm_mapped_extents; i++) {
        const struct fiemap_extent *x = &batch->head.fm_extents[i];
        uint64_t end = x->fe_logical + x->fe_length;
        if (end <= x->fe_logical)
            return error_note(-UMBRA_E_CORRUPT, "the file system's list of extents makes no sense");
        *ret_next = x->fe_flags & FIEMAP_EXTENT_LAST ? UINT64_MAX : end;
        if (x->fe_flags & FIEMAP_EXTENT_UNWRITTEN)
            continue;
        int r = extent_map_remove(&fill->missing, page_down(x->fe_logical), page_up(end));
        if (r < 0)
            return r;
    }
    return 0;
}

/* FIEMAP_FLAG_SYNC: data that is only in memory counts as written, once it is.  SEEK_DATA would
 * call pages of zeros data that a readahead has put into the cache. */
static int look_at_extents(struct fill *fill, int fd)
{
    for (uint64_t next = 0; next < fill->valid_bytes;) {
        union fiemap_batch batch = {
            .head = {.fm_start = next,
                     .fm_length = FIEMAP_MAX_OFFSET - next,
                     .fm_flags = FIEMAP_FLAG_SYNC,
                     .fm_extent_count = FIEMAP_EXTENTS},
        };
        if (ioctl(fd, FS_IOC_FIEMAP, &batch) < 0)
            return error_note_describe(-errno, "cannot list the extents");
        if (batch.head.fm_mapped_extents == 0)
            break;
        int r = take_off_written(fill, &batch, &next);
        if (r < 0)
            return r;
    }
    return 0;
}

static int sum_up(struct fill *fill)
{
    const struct extent_vector *extents = &fill->entry.extents;
    uint64_t end = 0;

    fill->extent_ends = calloc(extents->count + 1, sizeof(*fill->extent_ends));
    if (!fill->extent_ends)
        return -ENOMEM;
    for (size_t i = 0; i < extents->count; i++) {
        end += extents->items[i].len;
        fill->extent_ends[i] = end;
    }
    return 0;
}

int fill_init(struct fill *fill, struct entry *entry, uint64_t valid_bytes, int fd, bool looked_at)
{
    *fill = (struct fill){.entry = *entry, .valid_bytes = MIN(valid_bytes, entry->size)};
    *entry = (struct entry){0};
    int r = sum_up(fill);
    if (r >= 0)
        r = want_all_data(fill);
    if (r >= 0 && looked_at)
        r = look_at_extents(fill, fd);
    return r;
}

void fill_release(struct fill *fill)
{
    entry_release(&fill->entry);
    free(fill->extent_ends);
    extent_map_release(&fill->missing);
    *fill = (struct fill){0};
}

int fill_shorten(struct fill *fill, uint64_t valid_bytes)
{
    if (valid_bytes >= fill->valid_bytes)
        return 0;
    fill->valid_bytes = valid_bytes;
    return extent_map_remove(&fill->missing, valid_bytes, UINT64_MAX);
}

bool fill_is_complete(const struct fill *fill)
{
    return fill->missing.count == 0;
}

bool fill_next(const struct fill *fill, uint64_t start, uint64_t end, uint64_t *ret_start,
               uint64_t *ret_end)
{
    struct extent_range range;

    if (!extent_map_next(&fill->missing, page_down(start),
                         end > UINT64_MAX - PAGE ? end : page_up(end), &range))
        return false;
    *ret_start = range.start;
    *ret_end = MIN(range.end, range.start + FILL_UNIT_MAX);
    return true;
}

/* ---- contents ---- */

/* The extent in which offset lies. */
static size_t find_extent(const struct fill *fill, uint64_t offset)
{
    size_t low = 0, high = fill->entry.extents.count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (fill->extent_ends[middle] <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int fill_fetch(const struct fill *fill, const struct fill_source *source, uint64_t start,
               uint64_t end)
{
    uint8_t *to = source->buffer;

    for (size_t i = find_extent(fill, start); start < end; i++) {
        const struct extent *x = &fill->entry.extents.items[i];
        uint64_t x_start = fill->extent_ends[i] - x->len;
        uint32_t len = (uint32_t)(MIN(end, fill->extent_ends[i]) - start);
        if (x->kind == EXTENT_DATA) {
            int r = source_read(source->reader, &fill->entry, x_start, &x->chunk,
                                (uint32_t)(start - x_start), to, len);
            if (r < 0)
                return r;
        } else {
            memset(to, 0, len);
        }
        to += len;
        start += len;
    }
    return 0;
}

static int write_all(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);
        if (n < 0 && errno != EINTR)
            return error_note_describe(-errno, "cannot write");
        if (n > 0) {
            data += n;
            offset += (uint64_t)n;
            len -= (size_t)n;
        }
    }
    return 0;
}

int fill_store(struct fill *fill, const struct fill_source *source, int fd, uint64_t start,
               uint64_t end)
{
    int r = write_all(fd, source->buffer, (size_t)(end - start), start);
    return r < 0 ? r : extent_map_remove(&fill->missing, start, end);
}
