/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving files their attributes back.
 *
 * The order is fixed by what undoes what:
 *
 *   chattr i and a off   nothing else can be set under them
 *   owner                clears setuid bits, file capabilities
 *   xattrs               an ACL changes the group bits of the mode; setting user xattrs needs
 *                        write permission, which the mode may take away
 *   mode
 *   project id
 *   times                before the flags: nothing may follow i and a
 *   chattr flags
 *
 * What is not to be opened is reached through an O_PATH fd (see meta-capture.c).  Its type is
 * compared with the entry first: somebody who can write to the directory may have put another file
 * in its place, and would get that one as a present.
 *
 * A fresh file of a usual kind costs fstat, fchown (if it is for another owner), flistxattr, fchmod
 * and futimens.  The listing is not spared: a default ACL of the directory that we restore into
 * would stay on the file and let others read it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/meta-private.h"

#define MODE_ALL    07777u
#define MODE_SET_ID 06000u

struct apply {
    const struct meta_file *file;
    const struct entry *e;
    const struct owner_map *owners;
    bool fresh;
    bool owner_is_wrong;  /* could not be set */
    bool mode_is_unclear; /* something may have changed it since st was taken */
    struct stat st;
    meta_problem_fn problem;
    void *userdata;
};

static void report(struct apply *a, const char *what, int r)
{
    a->problem(what, r, a->userdata);
}

/* ---- owner and mode ---- */

static int chown_file(const struct meta_file *file, uid_t uid, gid_t gid)
{
    return fchownat(file->fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static void apply_owner(struct apply *a)
{
    uid_t uid = owner_map_uid(a->owners, a->e->uid);
    gid_t gid = owner_map_gid(a->owners, a->e->gid);
    if (a->st.st_uid == uid && a->st.st_gid == gid)
        return;
    a->mode_is_unclear = true;
    int r = chown_file(a->file, uid, gid);
    if (r >= 0)
        return;
    bool wrong_user = a->st.st_uid != uid, wrong_group = a->st.st_gid != gid;
    /* Who is not root may still give a file to a group of his. */
    if (wrong_group)
        wrong_group = chown_file(a->file, (uid_t)-1, gid) < 0;
    a->owner_is_wrong = wrong_user || wrong_group;
    if (a->owner_is_wrong)
        report(a, !wrong_group ? "owner" : wrong_user ? "owner and group" : "group", r);
}

static int chmod_file(const struct meta_file *file, mode_t mode)
{
    int r = file->link[0] ? chmod(file->link, mode) : fchmod(file->fd, mode);
    return r < 0 ? -errno : 0;
}

static void apply_mode(struct apply *a)
{
    if (a->e->type == ENTRY_SYMLINK)
        return;
    mode_t recorded = a->e->mode & MODE_ALL, mode = recorded;
    /* A setuid program of somebody else is not what was backed up. */
    if (a->owner_is_wrong && a->e->type != ENTRY_DIRECTORY)
        mode &= ~MODE_SET_ID;
    if (a->mode_is_unclear || (a->st.st_mode & MODE_ALL) != mode) {
        int r = chmod_file(a->file, mode);
        if (r < 0) {
            report(a, "mode", r);
            return;
        }
    }
    /* The kernel drops a set-id bit that the caller may not give, and says nothing. */
    struct stat st;
    if ((recorded & MODE_SET_ID) != 0 && fstat(a->file->fd, &st) >= 0 &&
        (st.st_mode & MODE_ALL) != recorded)
        report(a, "mode", -EPERM);
}

/* ---- xattrs ---- */

static const struct xattr *find_xattr(const struct entry *e, const char *name)
{
    for (size_t i = 0; i < e->xattrs.count; i++)
        if (strcmp(e->xattrs.items[i].name, name) == 0)
            return &e->xattrs.items[i];
    return NULL;
}

static int remove_foreign(const char *name, void *userdata)
{
    struct apply *a = userdata;
    bool keep = a->fresh ? !meta_xattr_is_acl(name)
                         : (a->e->remarks & ENTRY_XATTRS_INCOMPLETE) || meta_xattr_is_label(name);
    if (keep || find_xattr(a->e, name))
        return 0;
    a->mode_is_unclear = true;
    const struct meta_file *file = a->file;
    int r = file->link[0] ? removexattr(file->link, name) : fremovexattr(file->fd, name);
    if (r < 0 && errno != ENODATA)
        meta_problem_xattr(name, -errno, a->problem, a->userdata);
    return 0;
}

static int set_xattr(const struct meta_file *file, const char *name, const void *value, size_t len)
{
    int r = file->link[0] ? setxattr(file->link, name, value, len, 0)
                          : fsetxattr(file->fd, name, value, len, 0);
    return r < 0 ? -errno : 0;
}

/* With the ids of this system. */
static int set_acl(struct apply *a, const struct xattr *x)
{
    CLEANUP_FREE uint8_t *value = malloc((size_t)x->value_len + 1);
    if (!value)
        return -ENOMEM;
    memcpy(value, x->value, x->value_len);
    meta_acl_map(value, x->value_len, a->owners);
    a->mode_is_unclear = true;
    return set_xattr(a->file, x->name, value, x->value_len);
}

static int apply_xattrs(struct apply *a)
{
    int r = meta_xattr_each(a->file, remove_foreign, a);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        report(a, "xattrs", r);
    for (size_t i = 0; i < a->e->xattrs.count; i++) {
        const struct xattr *x = &a->e->xattrs.items[i];
        r = meta_xattr_is_acl(x->name) && x->value_len > 0
                ? set_acl(a, x)
                : set_xattr(a->file, x->name, x->value, x->value_len);
        if (r == -ENOMEM)
            return r;
        if (r < 0)
            meta_problem_xattr(x->name, r, a->problem, a->userdata);
    }
    return 0;
}

/* ---- project id, times, flags ---- */

static void apply_project(struct apply *a)
{
    if (a->fresh && a->e->project_id == 0)
        return;
    struct fsxattr extended = {0};
    int r = 0;
    if (ioctl(a->file->fd, FS_IOC_FSGETXATTR, &extended) < 0) {
        r = -errno;
        if (a->e->project_id == 0 && meta_error_is_unsupported(r))
            return;
    } else if (extended.fsx_projid != a->e->project_id) {
        extended.fsx_projid = a->e->project_id;
        if (ioctl(a->file->fd, FS_IOC_FSSETXATTR, &extended) < 0)
            r = -errno;
    }
    if (r < 0)
        report(a, "project id", r);
}

static void apply_times(struct apply *a)
{
    const struct entry *e = a->e;
    int r = 0;
    if (e->atime.nsec >= NSEC_PER_SEC || e->mtime.nsec >= NSEC_PER_SEC) {
        r = -EINVAL; /* some numbers above mean "now" or "leave it" to the kernel */
    } else {
        const struct timespec times[2] = {
            {.tv_sec = e->atime.sec, .tv_nsec = (long)e->atime.nsec},
            {.tv_sec = e->mtime.sec, .tv_nsec = (long)e->mtime.nsec},
        };
        int set = a->file->link[0] ? utimensat(a->file->fd, "", times, AT_EMPTY_PATH)
                                   : futimens(a->file->fd, times);
        r = set < 0 ? -errno : 0;
    }
    if (r < 0)
        report(a, "times", r);
}

/* In the order in which they are tried when they cannot be set all at once: i and a come last. */
static const struct {
    unsigned flag;
    const char *what;
} flag_names[] = {
    {FS_SECRM_FL, "flag s"},        {FS_UNRM_FL, "flag u"},      {FS_COMPR_FL, "flag c"},
    {FS_NOCOMP_FL, "flag m"},       {FS_NOCOW_FL, "flag C"},     {FS_SYNC_FL, "flag S"},
    {FS_DIRSYNC_FL, "flag D"},      {FS_NODUMP_FL, "flag d"},    {FS_NOATIME_FL, "flag A"},
    {FS_JOURNAL_DATA_FL, "flag j"}, {FS_NOTAIL_FL, "flag t"},    {FS_TOPDIR_FL, "flag T"},
    {FS_PROJINHERIT_FL, "flag P"},  {FS_DAX_FL, "flag x"},       {FS_CASEFOLD_FL, "flag F"},
    {FS_APPEND_FL, "flag a"},       {FS_IMMUTABLE_FL, "flag i"},
};

static int set_flags(int fd, unsigned flags)
{
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}

static int get_flags(int fd, unsigned *ret_flags)
{
    unsigned flags = 0;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        return -errno;
    *ret_flags = flags;
    return 0;
}

/* Sets what can be set of wanted, and reports the rest. */
static void set_flags_one_by_one(struct apply *a, unsigned now, unsigned wanted)
{
    for (size_t i = 0; i < ELEMENTSOF(flag_names); i++) {
        unsigned flag = flag_names[i].flag;
        if (((now ^ wanted) & flag) == 0)
            continue;
        int r = set_flags(a->file->fd, now ^ flag);
        if (r < 0)
            report(a, flag_names[i].what, r);
        else
            now ^= flag;
    }
}

/* File systems ignore some flags that they do not know, and some that come too late. */
static void report_ignored_flags(struct apply *a, unsigned wanted)
{
    unsigned now = 0;
    if (get_flags(a->file->fd, &now) < 0)
        return;
    for (size_t i = 0; i < ELEMENTSOF(flag_names); i++)
        if ((now ^ wanted) & flag_names[i].flag)
            report(a, flag_names[i].what, -EOPNOTSUPP);
}

static void apply_flags(struct apply *a)
{
    unsigned recorded = a->e->flags & META_FLAGS_RECORDED;
    if (a->fresh && recorded == 0)
        return;
    unsigned now = 0;
    int r = get_flags(a->file->fd, &now);
    if (r < 0) {
        if (recorded != 0 || !meta_error_is_unsupported(r))
            report(a, "flags", r);
        return;
    }
    unsigned wanted = (a->fresh ? now : now & ~META_FLAGS_RECORDED) | recorded;
    if (wanted == now)
        return;
    if (set_flags(a->file->fd, wanted) < 0)
        set_flags_one_by_one(a, now, wanted);
    else
        report_ignored_flags(a, wanted);
}

int meta_clear_immutable(int fd)
{
    unsigned now = 0;
    int r = get_flags(fd, &now);
    if (r < 0)
        return meta_error_is_unsupported(r) ? 0 : r;
    return now & META_FLAGS_LOCKS ? set_flags(fd, now & ~META_FLAGS_LOCKS) : 0;
}

/* What the directory has handed down goes, too: C could not be taken off later. */
static void apply_early_flags(int fd, unsigned early, bool inherits)
{
    unsigned now = 0;
    if ((early == 0 && !inherits) || get_flags(fd, &now) < 0)
        return;
    unsigned wanted = (now & ~META_FLAGS_EARLY) | early;
    if (wanted == now || set_flags(fd, wanted) >= 0)
        return;
    /* One of them is not for this file system. */
    for (size_t i = 0; i < ELEMENTSOF(flag_names); i++) {
        unsigned flag = flag_names[i].flag;
        if (((now ^ wanted) & flag) && set_flags(fd, now ^ flag) >= 0)
            now ^= flag;
    }
}

void meta_apply_early_fd(int fd, const struct entry *e, bool inherits)
{
    const struct meta_file file = {.fd = fd};
    apply_early_flags(fd, e->flags & META_FLAGS_EARLY, inherits);
    const struct xattr *compression = find_xattr(e, "btrfs.compression");
    if (compression &&
        set_xattr(&file, compression->name, compression->value, compression->value_len) < 0)
        return; /* no btrfs: meta_apply_fd tells */
}

/* ---- all of it ---- */

static mode_t mode_of_type(enum entry_type type)
{
    switch (type) {
    case ENTRY_REGULAR: return S_IFREG;
    case ENTRY_DIRECTORY: return S_IFDIR;
    case ENTRY_SYMLINK: return S_IFLNK;
    case ENTRY_FIFO: return S_IFIFO;
    case ENTRY_SOCKET: return S_IFSOCK;
    case ENTRY_CHAR: return S_IFCHR;
    case ENTRY_BLOCK: return S_IFBLK;
    case ENTRY_TYPE_MAX: break;
    }
    return 0;
}

/* Flags and permissions that would be in the way of what follows. */
static void make_changeable(struct apply *a)
{
    if (!a->fresh && !a->file->link[0]) {
        int r = meta_clear_immutable(a->file->fd);
        if (r < 0)
            report(a, "flags", r);
    }
    bool is_file = a->e->type == ENTRY_REGULAR || a->e->type == ENTRY_DIRECTORY;
    if (is_file && a->e->xattrs.count > 0 && geteuid() != 0 && !(a->st.st_mode & S_IWUSR) &&
        chmod_file(a->file, S_IRWXU) >= 0)
        a->mode_is_unclear = true;
}

static int apply(struct apply *a)
{
    if (fstat(a->file->fd, &a->st) < 0)
        return -errno;
    if ((a->st.st_mode & S_IFMT) != mode_of_type(a->e->type))
        return -UMBRA_E_CHANGED;
    make_changeable(a);
    apply_owner(a);
    int r = apply_xattrs(a);
    if (r < 0)
        return r;
    apply_mode(a);
    bool is_file = a->e->type == ENTRY_REGULAR || a->e->type == ENTRY_DIRECTORY;
    if (is_file)
        apply_project(a);
    apply_times(a);
    if (is_file)
        apply_flags(a);
    return 0;
}

int meta_apply_fd(int fd, const struct entry *e, const struct owner_map *owners, bool fresh,
                  meta_problem_fn problem, void *userdata)
{
    const struct meta_file file = {.fd = fd};
    struct apply a = {
        .file = &file,
        .e = e,
        .owners = owners,
        .fresh = fresh,
        .problem = problem,
        .userdata = userdata,
    };
    return apply(&a);
}

int meta_apply_path_fd(int path_fd, const struct entry *e, const struct owner_map *owners,
                       bool fresh, meta_problem_fn problem, void *userdata)
{
    struct meta_file file;
    meta_file_of(path_fd, &file);
    struct apply a = {
        .file = &file,
        .e = e,
        .owners = owners,
        .fresh = fresh,
        .problem = problem,
        .userdata = userdata,
    };
    return apply(&a);
}

int meta_apply_at(int dir_fd, const char *name, const struct entry *e,
                  const struct owner_map *owners, bool fresh, meta_problem_fn problem,
                  void *userdata)
{
    struct meta_file file;
    int r = meta_file_open(dir_fd, name, &file);
    if (r < 0)
        return r;
    r = meta_apply_path_fd(file.fd, e, owners, fresh, problem, userdata);
    (void)close(file.fd);
    return r;
}
