/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/meta.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/test.h"
#include "tree/test-mounts.h"

/* ---- helpers ---- */

/* The words of all problems, one a line. */
static void collect(const char *what, int r, void *userdata)
{
    struct buffer *b = userdata;
    ASSERT_TRUE(r < 0);
    buffer_put(b, what, strlen(what));
    buffer_put_u8(b, '\n');
}

static void no_problem(const char *what, int r, void *userdata)
{
    (void)userdata;
    test_fail(__FILE__, __LINE__, "problem with '%s': %s", what, error_describe(r));
}

static const char *collected(struct buffer *b)
{
    buffer_put_u8(b, '\0');
    ASSERT_OK(buffer_finish(b));
    b->len--;
    return (const char *)b->data;
}

static void arena(const char *name, char path[PATH_MAX])
{
    ASSERT_LT(snprintf(path, PATH_MAX, "%s/%s", test_tmpdir(), name), PATH_MAX);
    ASSERT_EQ(mkdir(path, 0700), 0);
}

static int open_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static int make_file(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static void capture_statx(int dir_fd, const char *name, struct entry *e)
{
    struct statx stx;
    ASSERT_EQ(statx(dir_fd, name, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH,
                    STATX_BASIC_STATS | STATX_BTIME, &stx),
              0);
    meta_from_statx(&stx, e);
}

static void capture_fd(int fd, struct entry *e)
{
    *e = (struct entry){0};
    capture_statx(fd, "", e);
    ASSERT_OK(meta_capture_fd(fd, e, no_problem, NULL));
}

static void capture_at(int dir_fd, const char *name, struct entry *e)
{
    *e = (struct entry){0};
    capture_statx(dir_fd, name, e);
    ASSERT_OK(meta_capture_at(dir_fd, name, e, no_problem, NULL));
}

static const struct xattr *find(const struct entry *e, const char *name)
{
    for (size_t i = 0; i < e->xattrs.count; i++)
        if (strcmp(e->xattrs.items[i].name, name) == 0)
            return &e->xattrs.items[i];
    return NULL;
}

static void set_flags(int fd, unsigned flags)
{
    unsigned now = 0;
    ASSERT_EQ(ioctl(fd, FS_IOC_GETFLAGS, &now), 0);
    now |= flags;
    ASSERT_EQ(ioctl(fd, FS_IOC_SETFLAGS, &now), 0);
}

static unsigned get_flags(int fd)
{
    unsigned now = 0;
    ASSERT_EQ(ioctl(fd, FS_IOC_GETFLAGS, &now), 0);
    return now;
}

static void set_project(int fd, uint32_t id)
{
    struct fsxattr extended;
    ASSERT_EQ(ioctl(fd, FS_IOC_FSGETXATTR, &extended), 0);
    extended.fsx_projid = id;
    ASSERT_EQ(ioctl(fd, FS_IOC_FSSETXATTR, &extended), 0);
}

#define ACL_BYTES 52

/* An ACL with one named user and one named group, as setxattr takes it. */
static void acl_make(uint8_t value[ACL_BYTES], uint32_t uid, uint32_t gid)
{
    const struct {
        uint16_t tag, permissions;
        uint32_t id;
    } items[] = {
        {0x01, 6, UINT32_MAX}, /* user:: */
        {0x02, 6, uid},        /* user:UID: */
        {0x04, 4, UINT32_MAX}, /* group:: */
        {0x08, 5, gid},        /* group:GID: */
        {0x10, 5, UINT32_MAX}, /* mask:: */
        {0x20, 0, UINT32_MAX}, /* other:: */
    };
    struct buffer b = {0};
    buffer_put_u32(&b, 2);
    for (size_t i = 0; i < ELEMENTSOF(items); i++) {
        buffer_put_u16(&b, items[i].tag);
        buffer_put_u16(&b, items[i].permissions);
        buffer_put_u32(&b, items[i].id);
    }
    ASSERT_EQ(b.len, ACL_BYTES);
    memcpy(value, b.data, ACL_BYTES);
    buffer_release(&b);
}

static void assert_no_difference(char *differences)
{
    ASSERT_STREQ(differences, "");
    free(differences);
}

/* ---- all file systems ---- */

struct fs {
    const char *name;
    const char *mkfs[8];
    uint64_t size_bytes;
    unsigned flags;      /* to be tried on a file, set before anything is written */
    unsigned dir_flags;  /* on a directory */
    size_t value_bytes;  /* of the largest xattr */
    uint32_t project_id; /* 0: has none */
};

static const struct fs file_systems[] = {
    {
        .name = "ext4",
        .mkfs = {"mkfs.ext4", "-q", "-F", "-O", "ea_inode", NULL},
        .size_bytes = 64 * MIB,
        .flags = FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL | FS_IMMUTABLE_FL,
        .dir_flags = FS_DIRSYNC_FL | FS_TOPDIR_FL | FS_APPEND_FL,
        .value_bytes = 30000,
    },
    {
        .name = "ext4-project", /* many kernels have no quotas */
        .mkfs = {"mkfs.ext4", "-q", "-F", "-O", "project,ea_inode", NULL},
        .size_bytes = 64 * MIB,
        .flags = FS_NODUMP_FL | FS_APPEND_FL,
        .dir_flags = FS_PROJINHERIT_FL,
        .value_bytes = 3000,
        .project_id = 4711,
    },
    {
        .name = "xfs",
        .mkfs = {"mkfs.xfs", "-q", "-f", NULL},
        .size_bytes = 512 * MIB,
        .flags = FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL | FS_APPEND_FL,
        .dir_flags = FS_NODUMP_FL | FS_PROJINHERIT_FL | FS_IMMUTABLE_FL,
        .value_bytes = ENTRY_XATTR_VALUE_MAX,
        .project_id = 4711,
    },
    {
        .name = "btrfs",
        .mkfs = {"mkfs.btrfs", "-q", "-f", NULL},
        .size_bytes = 256 * MIB,
        .flags = FS_NODUMP_FL | FS_NOATIME_FL | FS_NOCOW_FL | FS_IMMUTABLE_FL,
        .dir_flags = FS_COMPR_FL | FS_DIRSYNC_FL,
        .value_bytes = 12000,
    },
};

static void set_xattrs(int fd, const struct fs *fs)
{
    /* VFS_CAP_REVISION_2, cap_net_bind_service+ep */
    static const uint8_t capability[20] = {1, 0, 0, 2, 0, 4};
    uint8_t acl[ACL_BYTES];
    ASSERT_EQ(fsetxattr(fd, "user.empty", "", 0, 0), 0);
    ASSERT_EQ(fsetxattr(fd, "user.\xc3\xa4 name", "v\0lue", 5, 0), 0);
    ASSERT_EQ(fsetxattr(fd, "trusted.secret", "x", 1, 0), 0);
    ASSERT_EQ(fsetxattr(fd, "security.capability", capability, sizeof(capability), 0), 0);
    acl_make(acl, 1001, 1002);
    ASSERT_EQ(fsetxattr(fd, "system.posix_acl_access", acl, sizeof(acl), 0), 0);
    CLEANUP_FREE char *large = malloc(fs->value_bytes);
    ASSERT_TRUE(large);
    memset(large, 'L', fs->value_bytes);
    ASSERT_EQ(fsetxattr(fd, "user.large", large, fs->value_bytes, 0), 0);
}

static const struct timespec old_times[2] = {{.tv_sec = 1000000000, .tv_nsec = 123456789},
                                             {.tv_sec = 1234567890, .tv_nsec = 987654321}};

static int make_rich_file(int dir_fd, const struct fs *fs)
{
    int fd = make_file(dir_fd, "rich");
    set_flags(fd, fs->flags & META_FLAGS_EARLY);
    ASSERT_EQ(write(fd, "hello", 5), 5);
    ASSERT_EQ(fchown(fd, 1234, 5678), 0);
    set_xattrs(fd, fs);
    ASSERT_EQ(fchmod(fd, 04751), 0);
    if (fs->project_id)
        set_project(fd, fs->project_id);
    ASSERT_EQ(futimens(fd, old_times), 0);
    set_flags(fd, fs->flags);
    return fd;
}

static int make_rich_dir(int dir_fd, const struct fs *fs)
{
    uint8_t acl[ACL_BYTES];
    ASSERT_EQ(mkdirat(dir_fd, "dir", 0700), 0);
    int fd = openat(dir_fd, "dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(fchown(fd, 4242, 4343), 0);
    acl_make(acl, 1003, 1004);
    ASSERT_EQ(fsetxattr(fd, "system.posix_acl_default", acl, sizeof(acl), 0), 0);
    ASSERT_EQ(fsetxattr(fd, "user.x", "y", 1, 0), 0);
    ASSERT_EQ(fchmod(fd, 03775), 0);
    if (fs->project_id)
        set_project(fd, fs->project_id);
    ASSERT_EQ(futimens(fd, old_times), 0);
    set_flags(fd, fs->dir_flags);
    return fd;
}

static void check_rich_entry(const struct entry *e, const struct fs *fs)
{
    ASSERT_EQ(e->type, ENTRY_REGULAR);
    ASSERT_EQ(e->mode, 04751);
    ASSERT_EQ(e->uid, 1234);
    ASSERT_EQ(e->gid, 5678);
    ASSERT_EQ(e->size, 5);
    ASSERT_EQ(e->flags, fs->flags);
    ASSERT_EQ(e->project_id, fs->project_id);
    ASSERT_EQ(e->mtime.sec, 1234567890);
    ASSERT_EQ(e->mtime.nsec, 987654321);
    ASSERT_EQ(e->atime.nsec, 123456789);
    ASSERT_EQ(e->remarks, 0);
    ASSERT_EQ(e->xattrs.count, 6);
    for (size_t i = 1; i < e->xattrs.count; i++)
        ASSERT_TRUE(strcmp(e->xattrs.items[i - 1].name, e->xattrs.items[i].name) < 0);
    ASSERT_EQ(find(e, "user.large")->value_len, fs->value_bytes);
    ASSERT_EQ(find(e, "user.empty")->value_len, 0);
    ASSERT_MEMEQ(find(e, "user.\xc3\xa4 name")->value, "v\0lue", 5);
}

/* Whether both entries are the same in all that can be given back. */
static void assert_same(const struct entry *a, const struct entry *b)
{
    ASSERT_EQ(a->mode, b->mode);
    ASSERT_EQ(a->uid, b->uid);
    ASSERT_EQ(a->gid, b->gid);
    ASSERT_EQ(a->flags, b->flags);
    ASSERT_EQ(a->project_id, b->project_id);
    ASSERT_EQ(a->mtime.sec, b->mtime.sec);
    ASSERT_EQ(a->mtime.nsec, b->mtime.nsec);
    ASSERT_EQ(a->atime.sec, b->atime.sec);
    ASSERT_EQ(a->atime.nsec, b->atime.nsec);
    ASSERT_EQ(a->xattrs.count, b->xattrs.count);
    for (size_t i = 0; i < a->xattrs.count; i++) {
        const struct xattr *x = &a->xattrs.items[i], *y = &b->xattrs.items[i];
        ASSERT_STREQ(x->name, y->name);
        ASSERT_EQ(x->value_len, y->value_len);
        ASSERT_MEMEQ(x->value, y->value, x->value_len);
    }
}

static void give_back(int fd, const struct entry *e, bool fresh)
{
    CLEANUP(entry_release) struct entry now = {0};
    char *differences = NULL;
    ASSERT_OK(meta_apply_fd(fd, e, NULL, fresh, no_problem, NULL));
    capture_fd(fd, &now);
    assert_same(e, &now);
    ASSERT_OK(meta_compare_fd(fd, e, NULL, &differences));
    assert_no_difference(differences);
}

static void regular_file(int dir_fd, const struct fs *fs)
{
    CLEANUP_CLOSE int rich = make_rich_file(dir_fd, fs);
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(rich, &e);
    check_rich_entry(&e, fs);

    CLEANUP_CLOSE int fresh = make_file(dir_fd, "fresh");
    meta_apply_early_fd(fresh, &e, false);
    ASSERT_EQ(write(fresh, "HELLO", 5), 5);
    give_back(fresh, &e, true);

    /* Again, over what is there: immutable, and with a foreign xattr. */
    ASSERT_OK(meta_clear_immutable(fresh));
    ASSERT_EQ(get_flags(fresh) & (FS_IMMUTABLE_FL | FS_APPEND_FL), 0);
    ASSERT_EQ(fsetxattr(fresh, "user.foreign", "1", 1, 0), 0);
    ASSERT_EQ(fsetxattr(fresh, "user.empty", "full", 4, 0), 0);
    set_flags(fresh, FS_IMMUTABLE_FL);
    give_back(fresh, &e, false);
    ASSERT_OK(meta_clear_immutable(fresh));
    ASSERT_OK(meta_clear_immutable(rich));
}

static void directory(int dir_fd, const struct fs *fs)
{
    CLEANUP_CLOSE int rich = make_rich_dir(dir_fd, fs);
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(rich, &e);
    ASSERT_EQ(e.flags, fs->dir_flags);
    ASSERT_EQ(e.size, 0);
    ASSERT_TRUE(find(&e, "system.posix_acl_default"));
    ASSERT_EQ(mkdirat(dir_fd, "dir2", 0700), 0);
    CLEANUP_CLOSE int fresh = openat(dir_fd, "dir2", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    meta_apply_early_fd(fresh, &e, false);
    give_back(fresh, &e, true);
    give_back(fresh, &e, false);
    ASSERT_OK(meta_clear_immutable(fresh));
    ASSERT_OK(meta_clear_immutable(rich));
}

static void make_special(int dir_fd, const char *prefix)
{
    char name[32];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(name, sizeof(name), "%s-link", prefix);
    ASSERT_EQ(symlinkat("some/where/else", dir_fd, name), 0);
    (void)snprintf(name, sizeof(name), "%s-fifo", prefix);
    ASSERT_EQ(mkfifoat(dir_fd, name, 0600), 0);
    (void)snprintf(name, sizeof(name), "%s-chr", prefix);
    ASSERT_EQ(mknodat(dir_fd, name, S_IFCHR | 0600, makedev(4, 77)), 0);
    (void)snprintf(name, sizeof(name), "%s-blk", prefix);
    ASSERT_EQ(mknodat(dir_fd, name, S_IFBLK | 0600, makedev(259, 70000)), 0);
    CLEANUP_CLOSE int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_TRUE(s >= 0);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s-sock", dir_fd,
                   prefix);
    ASSERT_EQ(bind(s, (const struct sockaddr *)(const void *)&address, sizeof(address)), 0);
}

static void special_files(int dir_fd)
{
    static const char *const kinds[] = {"link", "fifo", "chr", "blk", "sock"};
    make_special(dir_fd, "old");
    make_special(dir_fd, "new");
    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        char old[32], new[32], path[64];
        (void)snprintf(old, sizeof(old), "old-%s", kinds[i]);
        (void)snprintf(new, sizeof(new), "new-%s", kinds[i]);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir_fd, old);
        ASSERT_EQ(lsetxattr(path, "trusted.t", old, strlen(old), 0), 0);
        ASSERT_EQ(fchownat(dir_fd, old, 77, 88, AT_SYMLINK_NOFOLLOW), 0);
        if (strcmp(kinds[i], "link") != 0)
            ASSERT_EQ(fchmodat(dir_fd, old, 0642, 0), 0);
        ASSERT_EQ(utimensat(dir_fd, old, old_times, AT_SYMLINK_NOFOLLOW), 0);

        CLEANUP(entry_release) struct entry e = {0}, now = {0};
        char *differences = NULL;
        capture_at(dir_fd, old, &e);
        ASSERT_EQ(e.xattrs.count, 1);
        ASSERT_OK(meta_apply_at(dir_fd, new, &e, NULL, true, no_problem, NULL));
        capture_at(dir_fd, new, &now);
        assert_same(&e, &now);
        ASSERT_EQ(e.rdev_major, now.rdev_major);
        ASSERT_EQ(e.rdev_minor, now.rdev_minor);
        ASSERT_OK(meta_compare_at(dir_fd, new, &e, NULL, &differences));
        assert_no_difference(differences);
        if (e.type == ENTRY_SYMLINK)
            ASSERT_STREQ(e.symlink, "some/where/else");
        if (e.type == ENTRY_BLOCK)
            ASSERT_EQ(e.rdev_minor, 70000);
        ASSERT_OK(meta_apply_at(dir_fd, new, &e, NULL, false, no_problem, NULL));
    }
}

/* A directory that passes an ACL and flags on must not leave the ACL on what is restored. */
static void inherited_acl(int dir_fd)
{
    uint8_t acl[ACL_BYTES];
    ASSERT_EQ(mkdirat(dir_fd, "giver", 0700), 0);
    CLEANUP_CLOSE int giver = openat(dir_fd, "giver", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    acl_make(acl, 1001, 1002);
    ASSERT_EQ(fsetxattr(giver, "system.posix_acl_default", acl, sizeof(acl), 0), 0);
    set_flags(giver, FS_NODUMP_FL);
    CLEANUP_CLOSE int plain = make_file(dir_fd, "plain");
    CLEANUP_CLOSE int fresh = make_file(giver, "file");
    ASSERT_TRUE(fgetxattr(fresh, "system.posix_acl_access", NULL, 0) > 0);
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(plain, &e);
    ASSERT_OK(meta_apply_fd(fresh, &e, NULL, true, no_problem, NULL));
    ASSERT_TRUE(fgetxattr(fresh, "system.posix_acl_access", NULL, 0) < 0);
    struct stat st;
    ASSERT_EQ(fstat(fresh, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0600);
}

static void run_on(const char *name)
{
    const struct fs *fs = file_systems;
    while (strcmp(fs->name, name) != 0)
        fs++;
    char path[PATH_MAX];
    arena(name, path);
    test_mount_image(path, fs->mkfs, fs->size_bytes, NULL);
    CLEANUP_CLOSE int dir_fd = open_dir(path);
    regular_file(dir_fd, fs);
    directory(dir_fd, fs);
    special_files(dir_fd);
    inherited_acl(dir_fd);
}

TEST(ext4)
{
    run_on("ext4");
}

TEST(ext4_with_projects)
{
    run_on("ext4-project");
}

TEST(xfs)
{
    run_on("xfs");
}

TEST(btrfs)
{
    run_on("btrfs");
}

/* ---- problems ---- */

TEST(what_cannot_be_set_is_told)
{
    char path[PATH_MAX];
    arena("plain", path);
    static const char *const mkfs[] = {"mkfs.ext4", "-q", "-F", "-O", "^has_journal", NULL};
    test_mount_image(path, mkfs, 16 * MIB, NULL);
    CLEANUP_CLOSE int dir_fd = open_dir(path);
    CLEANUP_CLOSE int fd = make_file(dir_fd, "file");
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(fd, &e);
    e.flags = FS_NODUMP_FL | FS_NOCOW_FL;
    e.project_id = 5;
    e.mtime.nsec = 2000000000;
    struct xattr x = {.name = strdup("nonsense.x"), .value = malloc(1), .value_len = 1};
    x.value[0] = 0;
    ASSERT_OK(xattr_vector_push(&e.xattrs, &x));
    CLEANUP(buffer_release) struct buffer problems = {0};
    ASSERT_OK(meta_apply_fd(fd, &e, NULL, true, collect, &problems));
    ASSERT_STREQ(collected(&problems), "xattr nonsense.x\nproject id\ntimes\nflag C\n");
    ASSERT_TRUE(get_flags(fd) & FS_NODUMP_FL); /* the rest is done */
}

TEST(another_type_is_refused)
{
    char path[PATH_MAX];
    arena("type", path);
    CLEANUP_CLOSE int dir_fd = open_dir(path);
    ASSERT_EQ(mkfifoat(dir_fd, "fifo", 0600), 0);
    CLEANUP_CLOSE int fd = make_file(dir_fd, "file");
    CLEANUP(entry_release) struct entry e = {0};
    capture_at(dir_fd, "fifo", &e);
    e.uid = 1000;
    ASSERT_ERR(meta_apply_at(dir_fd, "file", &e, NULL, true, no_problem, NULL), -UMBRA_E_CHANGED);
    ASSERT_ERR(meta_apply_fd(fd, &e, NULL, true, no_problem, NULL), -UMBRA_E_CHANGED);
    ASSERT_ERR(meta_capture_at(dir_fd, "file", &e, no_problem, NULL), -UMBRA_E_CHANGED);
    ASSERT_ERR(meta_capture_at(dir_fd, "none", &e, no_problem, NULL), -ENOENT);
    struct stat st;
    ASSERT_EQ(fstat(fd, &st), 0);
    ASSERT_EQ(st.st_uid, geteuid());
}

static void child_without_root(const char *path)
{
    ASSERT_EQ(setgroups(0, NULL), 0);
    ASSERT_EQ(setresgid(65534, 65534, 65534), 0);
    ASSERT_EQ(setresuid(65534, 65534, 65534), 0);
    CLEANUP_CLOSE int dir_fd = open_dir(path);
    CLEANUP_CLOSE int fd = make_file(dir_fd, "file");
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(fd, &e);
    struct xattr x = {.name = strdup("user.x"), .value = malloc(1), .value_len = 0};
    ASSERT_OK(xattr_vector_push(&e.xattrs, &x));
    e.uid = 1;
    e.gid = 2;
    e.mode = 04555;
    CLEANUP(buffer_release) struct buffer problems = {0};
    ASSERT_OK(meta_apply_fd(fd, &e, NULL, true, collect, &problems));
    ASSERT_STREQ(collected(&problems), "owner and group\nmode\n");
    struct stat st;
    ASSERT_EQ(fstat(fd, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0555);

    /* Over a file that is not writable any more. */
    e.uid = 65534;
    e.gid = 65534;
    problems.len = 0;
    ASSERT_OK(meta_apply_fd(fd, &e, NULL, false, collect, &problems));
    ASSERT_STREQ(collected(&problems), "");
    ASSERT_EQ(fstat(fd, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 04555);
}

TEST(without_root_what_can_be_done_is_done)
{
    if (geteuid() != 0)
        test_skip("needs root to become somebody else");
    char path[PATH_MAX];
    arena("nobody", path);
    ASSERT_EQ(chmod(test_tmpdir(), 0711), 0);
    ASSERT_EQ(chmod(path, 0777), 0);
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0) {
        child_without_root(path);
        _exit(0);
    }
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0);
}

TEST(every_difference_is_named)
{
    char path[PATH_MAX];
    arena("compare", path);
    CLEANUP_CLOSE int dir_fd = open_dir(path);
    CLEANUP_CLOSE int fd = make_file(dir_fd, "file");
    if (fsetxattr(fd, "user.a", "1", 1, 0) < 0)
        test_skip("no user xattrs here");
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(fd, &e);
    char *differences = NULL;
    ASSERT_OK(meta_compare_fd(fd, &e, NULL, &differences));
    assert_no_difference(differences);

    e.uid++;
    e.gid++;
    e.mode ^= 1;
    e.size++;
    e.mtime.nsec ^= 1;
    e.flags ^= FS_NODUMP_FL;
    e.project_id++;
    e.xattrs.items[0].value[0] = '2';
    ASSERT_EQ(fsetxattr(fd, "user.b", "1", 1, 0), 0);
    ASSERT_OK(meta_compare_fd(fd, &e, NULL, &differences));
    ASSERT_STREQ(differences,
                 "owner group mode size mtime flags project xattr user.a xattr user.b");
    free(differences);
    e.remarks = ENTRY_XATTRS_INCOMPLETE;
    ASSERT_EQ(fremovexattr(fd, "user.a"), 0);
    ASSERT_OK(meta_compare_fd(fd, &e, NULL, &differences));
    ASSERT_STREQ(differences, "owner group mode size mtime flags project xattr user.a");
    free(differences);

    ASSERT_EQ(symlinkat("one", dir_fd, "link"), 0);
    CLEANUP(entry_release) struct entry link = {0};
    capture_at(dir_fd, "link", &link);
    link.symlink[0] = 'O';
    ASSERT_OK(meta_compare_at(dir_fd, "link", &link, NULL, &differences));
    ASSERT_STREQ(differences, "target");
    free(differences);
    ASSERT_OK(meta_compare_at(dir_fd, "file", &link, NULL, &differences));
    ASSERT_STREQ(differences, "type");
    free(differences);
}

/* ---- owners ---- */

TEST(names_of_owners)
{
    struct owner_vector owners = {0};
    for (unsigned i = 0; i < 3; i++) {
        ASSERT_OK(owner_vector_add(&owners, 0, 0));
        ASSERT_OK(owner_vector_add(&owners, 1, 4000000000u)); /* daemon; nobody has that one */
    }
    ASSERT_EQ(owners.count, 3);
    ASSERT_STREQ(owners.items[0].name, "root");
    ASSERT_EQ(owners.items[1].id, 1);
    ASSERT_FALSE(owners.items[1].is_group);
    ASSERT_TRUE(owners.items[2].is_group);
    ASSERT_STREQ(owners.items[2].name, "root");
    owner_vector_release_all(&owners);
}

static void add_owner(struct owner_vector *owners, bool is_group, uint32_t id, const char *name)
{
    struct owner owner = {.id = id, .is_group = is_group, .name = strdup(name)};
    ASSERT_OK(owner_vector_push(owners, &owner));
}

TEST(ids_are_mapped_by_name)
{
    struct owner_vector owners = {0};
    add_owner(&owners, false, 500, "daemon");
    add_owner(&owners, false, 501, "no-such-user-here");
    add_owner(&owners, true, 500, "root");
    CLEANUP(owner_map_freep) struct owner_map *map = NULL, *numeric = NULL;
    ASSERT_OK(owner_map_new(&owners, false, &map));
    ASSERT_OK(owner_map_new(&owners, true, &numeric));
    ASSERT_EQ(owner_map_uid(map, 500), 1);
    ASSERT_EQ(owner_map_uid(map, 501), 501);
    ASSERT_EQ(owner_map_uid(map, 502), 502);
    ASSERT_EQ(owner_map_gid(map, 500), 0);
    ASSERT_EQ(owner_map_gid(map, 501), 501);
    ASSERT_EQ(owner_map_uid(numeric, 500), 500);
    ASSERT_EQ(owner_map_gid(NULL, 500), 500);
    owner_vector_release_all(&owners);
}

TEST(ids_in_acls_are_mapped)
{
    char path[PATH_MAX];
    arena("acl", path);
    CLEANUP_CLOSE int dir_fd = open_dir(path);
    CLEANUP_CLOSE int fd = make_file(dir_fd, "old"), fresh = make_file(dir_fd, "new");
    uint8_t acl[ACL_BYTES], expected[ACL_BYTES], found[ACL_BYTES];
    acl_make(acl, 500, 501);
    if (fsetxattr(fd, "system.posix_acl_access", acl, sizeof(acl), 0) < 0)
        test_skip("no ACLs here");
    CLEANUP(entry_release) struct entry e = {0};
    capture_fd(fd, &e);

    struct owner_vector owners = {0};
    add_owner(&owners, false, 500, "daemon");
    add_owner(&owners, true, 501, "root");
    CLEANUP(owner_map_freep) struct owner_map *map = NULL;
    ASSERT_OK(owner_map_new(&owners, false, &map));
    owner_vector_release_all(&owners);
    ASSERT_OK(meta_apply_fd(fresh, &e, map, true, no_problem, NULL));
    acl_make(expected, 1, 0);
    ASSERT_EQ(fgetxattr(fresh, "system.posix_acl_access", found, sizeof(found)), ACL_BYTES);
    ASSERT_MEMEQ(found, expected, ACL_BYTES);
    char *differences = NULL;
    ASSERT_OK(meta_compare_fd(fresh, &e, map, &differences));
    assert_no_difference(differences);

    /* Who is named in an ACL gets into the names of the backup. */
    acl_make(e.xattrs.items[0].value, 1, 1);
    ASSERT_OK(owner_vector_add_entry(&owners, &e));
    ASSERT_EQ(owners.count, 4);
    ASSERT_EQ(owners.items[1].id, 1);
    ASSERT_EQ(owners.items[3].id, 1);
    owner_vector_release_all(&owners);
}

TEST_MAIN()
