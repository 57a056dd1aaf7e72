/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/gate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "filter/digits.h"
#include "filter/fds.h"
#include "filter/gate-lock.h"
#include "filter/protocol.h"
#include "filter/uapi.h"

#define KERNEL_MAJOR_MIN 6u
#define KERNEL_MINOR_MIN 18u

#define GROUP_FLAGS                                                                            \
    (FAN_CLASS_PRE_CONTENT | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_REPORT_FD_ERROR | \
     FAN_REPORT_TID | FAN_NONBLOCK | FAN_CLOEXEC)

static int check_kernel(void)
{
    struct utsname name;
    unsigned major;

    if (uname(&name) < 0)
        return -errno;
    const char *text = name.release;
    if (digits_take(&text, '.', &major) < 0)
        return error_note(-ENOTSUP, "cannot tell the version of this kernel from '%s'",
                          name.release);
    unsigned long minor = strtoul(text, NULL, 10);
    if (major > KERNEL_MAJOR_MIN || (major == KERNEL_MAJOR_MIN && minor >= KERNEL_MINOR_MIN))
        return 0;
    return error_note(-ENOTSUP,
                      "this kernel is %s, instant restore needs %u.%u or later; use an ordinary "
                      "restore",
                      name.release, KERNEL_MAJOR_MIN, KERNEL_MINOR_MIN);
}

static int check_capability(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    if (data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN))
        return 0;
    return error_note(-EPERM, "instant restore needs root (CAP_SYS_ADMIN)");
}

int gate_check(void)
{
    int r = check_capability();
    return r < 0 ? r : check_kernel();
}

static int file_system_cannot(const char *target)
{
    return error_note(-EOPNOTSUPP,
                      "the file system of '%s' cannot do it: instant restore works on ext4, "
                      "xfs and btrfs; use an ordinary restore",
                      target);
}

/* The root of the mount that the directory is in. */
static int open_mount_root(int dir, int *ret_root)
{
    CLEANUP_CLOSE int at = openat(dir, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct statx st;

    for (;;) {
        if (at < 0 || statx(at, "", AT_EMPTY_PATH, 0, &st) < 0)
            return -errno;
        if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) {
            *ret_root = TAKE_FD(at);
            return 0;
        }
        int up = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        (void)close(at);
        at = up;
    }
}

/* The same directory, through another mount of its file system. */
static int open_through(int mount, int dir)
{
    union {
        struct file_handle header;
        uint8_t room[sizeof(struct file_handle) + FILTER_HANDLE_MAX];
    } h = {.header.handle_bytes = FILTER_HANDLE_MAX};
    int mount_id;

    if (name_to_handle_at(dir, "", &h.header, &mount_id, AT_EMPTY_PATH) < 0)
        return -1;
    CLEANUP_CLOSE int root = openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root < 0 ? -1 : open_by_handle_at(root, &h.header, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* All of it, and not only the target: files can be moved out of that. */
static int clone_mount(const char *target)
{
    CLEANUP_CLOSE int root = -EBADF;
    CLEANUP_CLOSE int dir = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    int r = dir < 0 ? -errno : open_mount_root(dir, &root);
    if (r < 0)
        return error_note_describe(r, "cannot open '%s'", target);
    int clone =
        (int)syscall(SYS_open_tree, root, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (clone < 0)
        return error_note_describe(-errno, "cannot clone the mount of '%s'", target);
    r = fds_place(FD_CLONE, clone);
    if (r < 0)
        return r;
    int tree = open_through(FD_CLONE, dir);
    if (tree < 0)
        return errno == EOPNOTSUPP
                   ? file_system_cannot(target)
                   : error_note_describe(-errno, "cannot open '%s' by its handle", target);
    return fds_place(FD_TREE, tree);
}

static int new_group(void)
{
    int group = fanotify_init(GROUP_FLAGS, O_RDONLY | O_LARGEFILE | O_CLOEXEC);
    if (group < 0)
        return error_note_describe(-errno, "cannot make a fanotify group with pre-content events");
    return fds_place(FD_GROUP, group);
}

/* The private mount first: afterwards nothing of our own can ever wait for us. */
static int add_marks(const char *target)
{
    if (fanotify_mark(FD_GROUP, FAN_MARK_ADD | FAN_MARK_MOUNT | FAN_MARK_IGNORE_SURV, GATE_EVENTS,
                      FD_TREE, ".") == 0 &&
        fanotify_mark(FD_GROUP, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, GATE_EVENTS, FD_TREE, ".") == 0)
        return 0;
    if (errno == EOPNOTSUPP || errno == EINVAL || errno == ENODEV || errno == EXDEV)
        return file_system_cannot(target);
    return error_note_describe(-errno, "cannot mark the file system of '%s'", target);
}

int gate_stand(const char *target, uint64_t restore_id, bool has_group, uint64_t *ret_volume_magic)
{
    struct statfs fs;

    int r = clone_mount(target);
    if (r >= 0)
        r = gate_lock(target, restore_id);
    if (r >= 0 && !has_group)
        r = new_group();
    if (r >= 0)
        r = add_marks(target);
    if (r < 0)
        return r;
    if (fstatfs(FD_TREE, &fs) < 0)
        return -errno;
    *ret_volume_magic = (uint64_t)fs.f_type;
    return 0;
}

void gate_answer(int event_fd, uint32_t response)
{
    struct fanotify_response answer = {.fd = event_fd, .response = response};

    /* ENOENT: who waited has been killed, or a predecessor has answered. */
    if (write(FD_GROUP, &answer, sizeof(answer)) < 0 && errno != ENOENT)
        log_error("cannot answer an event: %s", error_describe(-errno));
}

void gate_deny(int event_fd, int error)
{
    switch (error) { /* what the kernel takes */
    case EPERM:
    case EBUSY:
    case ETXTBSY:
    case EAGAIN:
    case ENOSPC:
    case EDQUOT: break;
    default: error = EIO;
    }
    gate_answer(event_fd, FAN_DENY_ERRNO(error));
}

void gate_ignore(int event_fd)
{
    /* It is only about time: without memory for the mark there will be another event. */
    (void)fanotify_mark(FD_GROUP, FAN_MARK_ADD | FAN_MARK_IGNORE_SURV | FAN_MARK_EVICTABLE,
                        GATE_EVENTS, event_fd, NULL);
}

void gate_remove_marks(void)
{
    (void)fanotify_mark(FD_GROUP, FAN_MARK_FLUSH | FAN_MARK_FILESYSTEM, 0, AT_FDCWD, NULL);
    (void)fanotify_mark(FD_GROUP, FAN_MARK_FLUSH, 0, AT_FDCWD, NULL);
    (void)fanotify_mark(FD_GROUP, FAN_MARK_FLUSH | FAN_MARK_MOUNT, 0, AT_FDCWD, NULL);
}
