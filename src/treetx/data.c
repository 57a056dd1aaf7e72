/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/data.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "tree/meta.h"

#define COPY_BYTES_MAX (1u << 30) /* of one call */
#define BLOCK_BYTES    (256u << 10)

/* ---- holes ---- */

static int write_zeros(int fd, uint64_t offset, uint64_t len)
{
    CLEANUP_FREE uint8_t *zeros = calloc(1, BLOCK_BYTES);

    if (!zeros)
        return -ENOMEM;
    while (len > 0) {
        ssize_t n = pwrite(fd, zeros, MIN(len, (uint64_t)BLOCK_BYTES), (off_t)offset);
        if (n < 0)
            return -errno;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

int data_punch(int fd, uint64_t offset, uint64_t len)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    uint64_t size = (uint64_t)st.st_size;
    if (offset >= size)
        return 0;
    len = MIN(len, size - offset);
    if (len == 0)
        return 0;
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (fallocate(fd, mode, (off_t)offset, (off_t)len) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(fd, offset, len) : -errno;
}

/* ---- data ---- */

static int copy_by_hand(int from_fd, int to_fd, uint64_t offset, uint64_t len)
{
    CLEANUP_FREE uint8_t *block = malloc(BLOCK_BYTES);

    if (!block)
        return -ENOMEM;
    while (len > 0) {
        ssize_t n = pread(from_fd, block, MIN(len, (uint64_t)BLOCK_BYTES), (off_t)offset);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        for (ssize_t done = 0; done < n;) {
            ssize_t m = pwrite(to_fd, block + done, (size_t)(n - done), (off_t)offset + done);
            if (m < 0)
                return -errno;
            done += m;
        }
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

static bool cannot_copy_inside(int error)
{
    return error == EXDEV || error == EINVAL || error == EOPNOTSUPP || error == ENOSYS ||
           error == ETXTBSY;
}

/* The kernel shares the blocks that can be shared, and copies the others. */
static int copy_data(int from_fd, int to_fd, uint64_t offset, uint64_t len)
{
    while (len > 0) {
        off_t from = (off_t)offset, to = (off_t)offset;
        ssize_t n =
            copy_file_range(from_fd, &from, to_fd, &to, MIN(len, (uint64_t)COPY_BYTES_MAX), 0);
        if (n < 0 && !cannot_copy_inside(errno))
            return -errno;
        if (n <= 0)
            return copy_by_hand(from_fd, to_fd, offset, len);
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* Where the next data (or, with SEEK_HOLE, hole) of the range begins; its end when there is none.
 */
static int seek(int fd, uint64_t offset, uint64_t end, int whence, uint64_t *ret_offset)
{
    off_t found = lseek(fd, (off_t)offset, whence);

    if (found < 0 && errno != ENXIO)
        return -errno;
    *ret_offset = found < 0 ? end : MIN((uint64_t)found, end);
    return 0;
}

int data_copy(int from_fd, int to_fd, uint64_t offset, uint64_t len)
{
    uint64_t end = offset + len, data_begin = end, data_end = end;

    while (offset < end) {
        int r = seek(from_fd, offset, end, SEEK_DATA, &data_begin);
        if (r >= 0 && data_begin > offset)
            r = data_punch(to_fd, offset, data_begin - offset);
        if (r < 0)
            return r;
        if (data_begin == end)
            break;
        r = seek(from_fd, data_begin, end, SEEK_HOLE, &data_end);
        if (r >= 0)
            r = copy_data(from_fd, to_fd, data_begin, data_end - data_begin);
        if (r < 0)
            return r;
        offset = data_end;
    }
    return 0;
}

/* ---- comparing ---- */

/* Zeros in place of what lies behind the end, and in place of all that no fd is for. */
static int read_block(int fd, uint8_t *block, size_t len, uint64_t offset)
{
    size_t done = 0;

    memset(block, 0, len);
    while (fd >= 0 && done < len) {
        ssize_t n = pread(fd, block + done, len - done, (off_t)(offset + done));
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return 0;
}

int data_compare(int from_fd, int fd, uint64_t offset, uint64_t len, bool *ret_same)
{
    CLEANUP_FREE uint8_t *blocks = malloc(2 * BLOCK_BYTES);
    bool same = true;

    if (!blocks)
        return -ENOMEM;
    while (same && len > 0) {
        size_t n = MIN(len, (uint64_t)BLOCK_BYTES);
        int r = read_block(from_fd, blocks, n, offset);
        if (r >= 0)
            r = read_block(fd, blocks + n, n, offset);
        if (r < 0)
            return r;
        same = memcmp(blocks, blocks + n, n) == 0;
        offset += n;
        len -= n;
    }
    *ret_same = same;
    return 0;
}
