/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/pending.h"

#include <assert.h>
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "basic/crc32c.h"
#include "basic/error.h"
#include "basic/le.h"

struct pending_value {
    uint8_t version;    /* 0 */
    uint8_t flags;      /* 1 */
    le16_t reserved;    /* 2 */
    le32_t generation;  /* 4 */
    le64_t inode;       /* 8 */
    le64_t restore_id;  /* 16 */
    le64_t ordinal;     /* 24 */
    le64_t valid_bytes; /* 32 */
    le32_t crc;         /* 40 */
};
static_assert(sizeof(struct pending_value) == PENDING_LEN, "the value has no padding");
static_assert(offsetof(struct pending_value, crc) == 40, "the checksum ends it");

void pending_encode(const struct pending *pending, uint8_t ret_value[PENDING_LEN])
{
    struct pending_value v = {
        .version = PENDING_VERSION,
        .flags = pending->flags,
        .generation = le32_make(pending->generation),
        .inode = le64_make(pending->inode),
        .restore_id = le64_make(pending->restore_id),
        .ordinal = le64_make(pending->ordinal),
        .valid_bytes = le64_make(pending->valid_bytes),
    };

    v.crc = le32_make(crc32c(0, &v, offsetof(struct pending_value, crc)));
    memcpy(ret_value, &v, PENDING_LEN);
}

int pending_decode(const void *value, size_t len, struct pending *ret_pending)
{
    struct pending_value v;

    if (len < 1)
        return error_note(-UMBRA_E_CORRUPT, "%s is empty", PENDING_XATTR);
    if (*(const uint8_t *)value > PENDING_VERSION)
        return error_note(-UMBRA_E_VERSION, "%s has version %u, this program knows %u",
                          PENDING_XATTR, *(const uint8_t *)value, PENDING_VERSION);
    if (len != PENDING_LEN)
        return error_note(-UMBRA_E_CORRUPT, "%s has %zu bytes, not %u", PENDING_XATTR, len,
                          PENDING_LEN);
    memcpy(&v, value, PENDING_LEN);
    if (le32_get(&v.crc) != crc32c(0, &v, offsetof(struct pending_value, crc)))
        return error_note(-UMBRA_E_CORRUPT, "the checksum of %s is wrong", PENDING_XATTR);
    if (v.version == 0 || (v.flags & ~PENDING_FLAGS_MASK) || le16_get(&v.reserved) ||
        le64_get(&v.valid_bytes) > INT64_MAX)
        return error_note(-UMBRA_E_CORRUPT, "%s has impossible fields", PENDING_XATTR);
    *ret_pending = (struct pending){
        .flags = v.flags,
        .generation = le32_get(&v.generation),
        .inode = le64_get(&v.inode),
        .restore_id = le64_get(&v.restore_id),
        .ordinal = le64_get(&v.ordinal),
        .valid_bytes = le64_get(&v.valid_bytes),
    };
    return 0;
}

static int identity_of(int fd, uint64_t *ret_inode, uint32_t *ret_generation)
{
    struct stat st;
    int generation = 0; /* the kernel writes an int, whatever the number of the ioctl says */

    if (fstat(fd, &st) < 0 || ioctl(fd, FS_IOC_GETVERSION, &generation) < 0)
        return -errno;
    *ret_inode = st.st_ino;
    *ret_generation = (uint32_t)generation;
    return 0;
}

int pending_get(int fd, struct pending *ret_pending, bool *ret_foreign)
{
    uint8_t value[PENDING_LEN + 1];
    struct pending pending;
    uint32_t generation;
    uint64_t inode;

    if (ret_foreign)
        *ret_foreign = false;
    ssize_t n = fgetxattr(fd, PENDING_XATTR, value, sizeof(value));
    if (n < 0)
        return errno == ERANGE ? error_note(-UMBRA_E_CORRUPT, "%s is too long", PENDING_XATTR)
                               : -errno;
    int r = pending_decode(value, (size_t)n, &pending);
    if (r < 0)
        return r;
    r = identity_of(fd, &inode, &generation);
    if (r < 0)
        return r;
    if (inode != pending.inode || generation != pending.generation) {
        if (ret_foreign)
            *ret_foreign = true;
        return -ENODATA;
    }
    *ret_pending = pending;
    return 0;
}

int pending_set(int fd, struct pending *pending)
{
    uint8_t value[PENDING_LEN];

    int r = identity_of(fd, &pending->inode, &pending->generation);
    if (r < 0)
        return r;
    pending_encode(pending, value);
    return fsetxattr(fd, PENDING_XATTR, value, sizeof(value), 0) < 0 ? -errno : 0;
}

int pending_remove(int fd)
{
    return fremovexattr(fd, PENDING_XATTR) < 0 && errno != ENODATA ? -errno : 0;
}
