/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading the attributes of files.
 *
 * A backup calls this for every file that it reads, so a file that has nothing special costs three
 * system calls: one that says that there are no xattrs, FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR.  To
 * find out first whether a file system knows projects would cost one call as well.
 *
 * The kernel's *xattr calls know no directory fd before 6.13, and fgetxattr does not take O_PATH
 * fds.  What is not to be opened is therefore reached by /proc/self/fd/N, which leads to the very
 * inode that fd N holds, even to a symbolic link, and follows nothing behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/le.h"
#include "basic/text.h"
#include "tree/meta-private.h"

/* ---- statx ---- */

static enum entry_type type_from_mode(unsigned mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR: return ENTRY_DIRECTORY;
    case S_IFLNK: return ENTRY_SYMLINK;
    case S_IFIFO: return ENTRY_FIFO;
    case S_IFSOCK: return ENTRY_SOCKET;
    case S_IFCHR: return ENTRY_CHAR;
    case S_IFBLK: return ENTRY_BLOCK;
    default: return ENTRY_REGULAR;
    }
}

static struct entry_time time_from_statx(const struct statx_timestamp *t)
{
    return (struct entry_time){.sec = t->tv_sec, .nsec = t->tv_nsec};
}

void meta_from_statx(const struct statx *stx, struct entry *e)
{
    e->type = type_from_mode(stx->stx_mode);
    e->mode = stx->stx_mode & 07777u;
    e->uid = stx->stx_uid;
    e->gid = stx->stx_gid;
    e->nlink = stx->stx_nlink;
    e->inode = stx->stx_ino;
    bool has_size = e->type == ENTRY_REGULAR || e->type == ENTRY_SYMLINK;
    e->size = has_size ? stx->stx_size : 0;
    bool is_device = e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK;
    e->rdev_major = is_device ? stx->stx_rdev_major : 0;
    e->rdev_minor = is_device ? stx->stx_rdev_minor : 0;
    e->mtime = time_from_statx(&stx->stx_mtime);
    e->ctime = time_from_statx(&stx->stx_ctime);
    e->atime = time_from_statx(&stx->stx_atime);
    e->btime = (struct entry_time){0};
    if (stx->stx_mask & STATX_BTIME)
        e->btime = time_from_statx(&stx->stx_btime);
}

/* ---- access to a file ---- */

void meta_file_of(int path_fd, struct meta_file *ret_file)
{
    ret_file->fd = path_fd;
    (void)snprintf(ret_file->link, sizeof(ret_file->link), "/proc/self/fd/%d", path_fd);
}

int meta_file_open(int dir_fd, const char *name, struct meta_file *ret_file)
{
    int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    meta_file_of(fd, ret_file);
    return 0;
}

ssize_t meta_xattr_list(const struct meta_file *file, char *list, size_t size)
{
    return file->link[0] ? listxattr(file->link, list, size) : flistxattr(file->fd, list, size);
}

ssize_t meta_xattr_get(const struct meta_file *file, const char *name, void *value, size_t size)
{
    return file->link[0] ? getxattr(file->link, name, value, size)
                         : fgetxattr(file->fd, name, value, size);
}

bool meta_error_is_unsupported(int r)
{
    return r == -EOPNOTSUPP || r == -ENOTTY || r == -ENOSYS || r == -EINVAL;
}

bool meta_xattr_is_label(const char *name)
{
    return strncmp(name, "security.", strlen("security.")) == 0 &&
           strcmp(name, "security.capability") != 0;
}

void meta_problem_xattr(const char *name, int r, meta_problem_fn problem, void *userdata)
{
    CLEANUP_FREE char *shown = text_escape(name, strlen(name));
    char what[4 * XATTR_NAME_MAX + 8];
    (void)snprintf(what, sizeof(what), "xattr %s", shown ? shown : "");
    problem(what, r, userdata);
}

/* XFS shows its ACLs to root a second time, as it keeps them; and a file that an instant restore
 * has not completed yet is marked by an attribute that is not the file's own. */
static bool is_internal(const char *name)
{
    return strcmp(name, "trusted.SGI_ACL_FILE") == 0 ||
           strcmp(name, "trusted.SGI_ACL_DEFAULT") == 0 ||
           strncmp(name, "trusted.umbra.", strlen("trusted.umbra.")) == 0;
}

static int each_name(const char *list, size_t len, meta_xattr_fn fn, void *userdata)
{
    for (const char *name = list; name < list + len; name += strlen(name) + 1) {
        int r = is_internal(name) ? 0 : fn(name, userdata);
        if (r != 0)
            return r;
    }
    return 0;
}

int meta_xattr_each(const struct meta_file *file, meta_xattr_fn fn, void *userdata)
{
    char small[1024];
    CLEANUP_FREE char *large = NULL;
    char *list = small;
    ssize_t len = meta_xattr_list(file, small, sizeof(small));
    if (len < 0 && errno == ERANGE) {
        large = list = malloc(XATTR_LIST_MAX);
        if (!large)
            return -ENOMEM;
        len = meta_xattr_list(file, large, XATTR_LIST_MAX);
    }
    if (len < 0)
        return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : -errno;
    return each_name(list, (size_t)len, fn, userdata);
}

/* ---- ACLs ---- */

/* linux/posix_acl_xattr.h */
struct acl_head {
    le32_t version;
};
struct acl_item {
    le16_t tag;
    le16_t permissions;
    le32_t id; /* of ACL_TAG_USER and ACL_TAG_GROUP */
};

#define ACL_VERSION   2u
#define ACL_TAG_USER  0x02u
#define ACL_TAG_GROUP 0x08u

bool meta_xattr_is_acl(const char *name)
{
    return strcmp(name, "system.posix_acl_access") == 0 ||
           strcmp(name, "system.posix_acl_default") == 0;
}

size_t meta_acl_count(const uint8_t *value, size_t len)
{
    struct acl_head head;
    if (len < sizeof(head) || (len - sizeof(head)) % sizeof(struct acl_item) != 0)
        return 0;
    memcpy(&head, value, sizeof(head));
    return le32_get(&head.version) == ACL_VERSION ? (len - sizeof(head)) / sizeof(struct acl_item)
                                                  : 0;
}

bool meta_acl_get_id(const uint8_t *value, size_t index, bool *ret_is_group, uint32_t *ret_id)
{
    struct acl_item item;
    memcpy(&item, value + sizeof(struct acl_head) + index * sizeof(item), sizeof(item));
    uint16_t tag = le16_get(&item.tag);
    if (tag != ACL_TAG_USER && tag != ACL_TAG_GROUP)
        return false;
    *ret_is_group = tag == ACL_TAG_GROUP;
    *ret_id = le32_get(&item.id);
    return true;
}

void meta_acl_map(uint8_t *value, size_t len, const struct owner_map *owners)
{
    size_t count = meta_acl_count(value, len);
    for (size_t i = 0; i < count; i++) {
        bool is_group;
        uint32_t id;
        if (!meta_acl_get_id(value, i, &is_group, &id))
            continue;
        uint8_t *at = value + sizeof(struct acl_head) + i * sizeof(struct acl_item);
        struct acl_item item;
        memcpy(&item, at, sizeof(item));
        item.id = le32_make(is_group ? owner_map_gid(owners, id) : owner_map_uid(owners, id));
        memcpy(at, &item, sizeof(item));
    }
}

/* ---- capture ---- */

struct capture {
    const struct meta_file *file;
    struct entry *e;
    meta_problem_fn problem;
    void *userdata;
};

static void xattr_failed(struct capture *c, const char *name, int r)
{
    c->e->remarks |= ENTRY_XATTRS_INCOMPLETE;
    meta_problem_xattr(name, r, c->problem, c->userdata);
}

/* Takes over a copy of the value. */
static int xattr_add(struct capture *c, const char *name, const void *value, size_t len)
{
    struct xattr x = {.name = strdup(name), .value = malloc(len + 1), .value_len = (uint32_t)len};
    if (x.name && x.value) {
        if (len > 0)
            memcpy(x.value, value, len);
        if (xattr_vector_push(&c->e->xattrs, &x) >= 0)
            return 0;
    }
    free(x.name);
    free(x.value);
    return -ENOMEM;
}

static int capture_xattr(const char *name, void *userdata)
{
    struct capture *c = userdata;
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len > ENTRY_XATTR_NAME_MAX ||
        c->e->xattrs.count >= ENTRY_XATTR_COUNT_MAX) {
        xattr_failed(c, name, -E2BIG);
        return 0;
    }
    char small[1024];
    CLEANUP_FREE char *large = NULL;
    char *value = small;
    ssize_t len = meta_xattr_get(c->file, name, small, sizeof(small));
    if (len < 0 && errno == ERANGE) {
        large = value = malloc(ENTRY_XATTR_VALUE_MAX);
        if (!large)
            return -ENOMEM;
        len = meta_xattr_get(c->file, name, large, ENTRY_XATTR_VALUE_MAX);
    }
    if (len < 0) {
        if (errno != ENODATA) /* removed between the two calls */
            xattr_failed(c, name, -errno);
        return 0;
    }
    return xattr_add(c, name, value, (size_t)len);
}

static int xattr_compare(const void *a, const void *b)
{
    const struct xattr *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int capture_xattrs(struct capture *c)
{
    int r = meta_xattr_each(c->file, capture_xattr, c);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        c->e->remarks |= ENTRY_XATTRS_INCOMPLETE;
        c->problem("xattrs", r, c->userdata);
    }
    if (c->e->xattrs.count > 1)
        qsort(c->e->xattrs.items, c->e->xattrs.count, sizeof(struct xattr), xattr_compare);
    return 0;
}

static void capture_flags(struct capture *c)
{
    unsigned flags = 0;
    if (ioctl(c->file->fd, FS_IOC_GETFLAGS, &flags) < 0) {
        if (!meta_error_is_unsupported(-errno))
            c->problem("flags", -errno, c->userdata);
        return;
    }
    c->e->flags = flags & META_FLAGS_RECORDED;
    struct fsxattr extended = {0};
    if (ioctl(c->file->fd, FS_IOC_FSGETXATTR, &extended) >= 0)
        c->e->project_id = extended.fsx_projid;
    else if (!meta_error_is_unsupported(-errno))
        c->problem("project id", -errno, c->userdata);
}

static int capture_symlink(struct capture *c)
{
    char target[PATH_MAX];
    ssize_t len = readlinkat(c->file->fd, "", target, sizeof(target));
    if (len < 0)
        return -errno;
    if ((size_t)len == sizeof(target)) /* the kernel takes none that long */
        return -ENAMETOOLONG;
    char *copy = strndup(target, (size_t)len);
    if (!copy)
        return -ENOMEM;
    free(c->e->symlink);
    c->e->symlink = copy;
    c->e->size = (uint64_t)len;
    return 0;
}

int meta_capture(const struct meta_file *file, struct entry *e, meta_problem_fn problem,
                 void *userdata)
{
    struct capture c = {.file = file, .e = e, .problem = problem, .userdata = userdata};
    int r = capture_xattrs(&c);
    if (r < 0)
        return r;
    if (e->type == ENTRY_REGULAR || e->type == ENTRY_DIRECTORY)
        capture_flags(&c);
    return e->type == ENTRY_SYMLINK ? capture_symlink(&c) : 0;
}

int meta_capture_fd(int fd, struct entry *e, meta_problem_fn problem, void *userdata)
{
    struct meta_file file = {.fd = fd};
    return meta_capture(&file, e, problem, userdata);
}

int meta_capture_path_fd(int path_fd, struct entry *e, meta_problem_fn problem, void *userdata)
{
    struct meta_file file;
    meta_file_of(path_fd, &file);
    return meta_capture(&file, e, problem, userdata);
}

int meta_capture_at(int dir_fd, const char *name, struct entry *e, meta_problem_fn problem,
                    void *userdata)
{
    struct meta_file file;
    int r = meta_file_open(dir_fd, name, &file);
    if (r < 0)
        return r;
    struct stat st;
    if (fstat(file.fd, &st) < 0)
        r = -errno;
    else if (type_from_mode(st.st_mode) != e->type)
        r = -UMBRA_E_CHANGED;
    else
        r = meta_capture(&file, e, problem, userdata);
    (void)close(file.fd);
    return r;
}
