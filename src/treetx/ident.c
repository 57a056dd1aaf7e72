/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/ident.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/le.h"

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200 /* Linux 6.5: a handle that need not lead back to the file */
#endif

#define IDENT_INODE \
    0xffff0001u /* no handle: inode number and birth; no file system has this type */

static int get_handle(int dir_fd, const char *name, int flags, struct ident *ret_ident)
{
    union {
        struct file_handle head;
        uint8_t room[sizeof(struct file_handle) + IDENT_LEN_MAX];
    } h = {.head.handle_bytes = IDENT_LEN_MAX};
    int mount_id;

    if (name_to_handle_at(dir_fd, name, &h.head, &mount_id, flags) < 0)
        return -errno;
    ret_ident->type = (uint32_t)h.head.handle_type;
    ret_ident->len = h.head.handle_bytes;
    memcpy(ret_ident->bytes, h.room + sizeof(struct file_handle), h.head.handle_bytes);
    return 0;
}

static int get_inode(int dir_fd, const char *name, int flags, struct ident *ret_ident)
{
    struct {
        le64_t inode, birth_sec;
        le32_t birth_nsec;
    } bytes;
    struct statx stx;

    if (statx(dir_fd, name, flags | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &stx) < 0)
        return -errno;
    bytes.inode = le64_make(stx.stx_ino);
    bytes.birth_sec = le64_make((uint64_t)stx.stx_btime.tv_sec);
    bytes.birth_nsec = le32_make(stx.stx_btime.tv_nsec);
    ret_ident->type = IDENT_INODE;
    ret_ident->len = sizeof(bytes);
    memcpy(ret_ident->bytes, &bytes, sizeof(bytes));
    return 0;
}

int ident_get(int dir_fd, const char *name, struct ident *ret_ident)
{
    struct ident ident;
    int flags = *name ? 0 : AT_EMPTY_PATH;
    int r = get_handle(dir_fd, name, flags, &ident);
    if (r == -EOPNOTSUPP || r == -EOVERFLOW)
        r = get_handle(dir_fd, name, flags | AT_HANDLE_FID, &ident);
    if (r == -EOPNOTSUPP || r == -EOVERFLOW || r == -EINVAL)
        r = get_inode(dir_fd, name, flags, &ident);
    if (r == 0)
        *ret_ident = ident;
    return r;
}

bool ident_equal(const struct ident *a, const struct ident *b)
{
    return a->type == b->type && a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

void ident_put(struct buffer *b, const struct ident *ident)
{
    buffer_put_u32(b, ident->type);
    buffer_put_blob(b, ident->bytes, ident->len);
}

void ident_read(struct reader *r, struct ident *ret_ident)
{
    size_t len = 0;
    ret_ident->type = reader_u32(r);
    const uint8_t *bytes = reader_blob(r, IDENT_LEN_MAX, &len);
    ret_ident->len = bytes ? (uint32_t)len : 0;
    if (bytes)
        memcpy(ret_ident->bytes, bytes, len);
}
