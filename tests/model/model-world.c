/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A world: processes and mounts that end together.
 *
 * Volumes are loop devices over images.  The images lie on an xfs, which itself is a loop device
 * over a file in a tmpfs: so that a new volume, and a snapshot of one in use, is one FICLONE.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

#define LOOP_TRIES   200
#define BUSY_TRIES   500
#define BUSY_WAIT_US 10000

static const struct {
    const char *name, *make, *size;
} kinds[FS_KINDS] = {
    [FS_EXT4] = {"ext4",
                 "mkfs.ext4 -q -F -b 4096 -J size=16 -E lazy_itable_init=0,lazy_journal_init=0",
                 "400M"},
    [FS_XFS] = {"xfs", "mkfs.xfs -q -f -K", "400M"},
    [FS_BTRFS] = {"btrfs", "mkfs.btrfs -q -f -K", "600M"},
};
static bool is_here[FS_KINDS];

_printf_(1, 2) static int run(const char *format, ...)
{
    char command[2048];
    va_list args;

    va_start(args, format);
    int len = vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    ASSERT_TRUE(len > 0 && (size_t)len < sizeof(command));
    return system(command);
}

/* ---- processes ---- */

/* The first process of a pid namespace inherits the daemons, and has to wait for them. */
_noreturn_ static void be_first(void (*fn)(void *), void *data)
{
    int status = 0;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setsid();
    ASSERT_EQ(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    ASSERT_EQ(mount("proc", "/proc", "proc", 0, NULL), 0);
    ASSERT_EQ(mount("tmpfs", "/run", "tmpfs", 0, "mode=755"), 0);
    ASSERT_EQ(mount("tmpfs", test_tmpdir(), "tmpfs", 0, "size=4g,mode=755"), 0);
    pid_t runner = fork();
    ASSERT_TRUE(runner >= 0);
    if (runner == 0) {
        fn(data);
        (void)fflush(NULL);
        _exit(EXIT_SUCCESS);
    }
    for (;;) {
        pid_t pid = wait(&status);
        if (pid == runner)
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
    }
}

pid_t world_start(void (*fn)(void *), void *data, int *ret_pidfd)
{
    int pidfd = -1;
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD,
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };

    (void)fflush(NULL);
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    ASSERT_TRUE(pid >= 0);
    if (pid == 0)
        be_first(fn, data);
    *ret_pidfd = pidfd;
    return pid;
}

static bool read_comm(const char *pid, char comm[32])
{
    char path[64], state = 'Z', text[32] = "";

    (void)snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    FILE *stat = fopen(path, "re");
    if (!stat)
        return false;
    int n = fscanf(stat, "%*d (%31[^)]) %c", text, &state);
    (void)fclose(stat);
    memcpy(comm, text, sizeof(text));
    return n == 2 && state != 'Z' && state != 'X';
}

bool world_is_alive(pid_t pid)
{
    char text[16], comm[32];

    (void)snprintf(text, sizeof(text), "%d", (int)pid);
    return read_comm(text, comm);
}

void world_each(void (*fn)(pid_t pid, const char *comm, void *data), void *data)
{
    DIR *proc = opendir("/proc");
    char comm[32];

    ASSERT_TRUE(proc != NULL);
    for (const struct dirent *d; (d = readdir(proc));)
        if (strspn(d->d_name, "0123456789") == strlen(d->d_name) && read_comm(d->d_name, comm))
            fn((pid_t)strtol(d->d_name, NULL, 10), comm, data);
    (void)closedir(proc);
}

struct finding {
    const char *comm; /* NULL: any daemon */
    pid_t pid;
};

bool world_is_daemon(const char *comm)
{
    return strncmp(comm, "umbra-", 6) == 0;
}

static void find_one(pid_t pid, const char *comm, void *data)
{
    struct finding *finding = data;

    if (finding->comm ? strcmp(comm, finding->comm) == 0 : world_is_daemon(comm))
        finding->pid = pid;
}

pid_t world_find(const char *comm)
{
    struct finding finding = {.comm = comm};

    world_each(find_one, &finding);
    return finding.pid;
}

/* ---- loop devices ---- */

static int loop_attach_once(int control, int image, char device[32])
{
    struct loop_config config = {.fd = (uint32_t)image, .info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};
    int number = ioctl(control, LOOP_CTL_GET_FREE);

    ASSERT_TRUE(number >= 0);
    (void)snprintf(device, 32, "/dev/loop%d", number);
    CLEANUP_CLOSE int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ioctl(fd, LOOP_CONFIGURE, &config) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* Others on this machine want one, too. */
static int loop_attach(const char *path, char device[32])
{
    CLEANUP_CLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    CLEANUP_CLOSE int image = open(path, O_RDWR | O_CLOEXEC);
    int fd = -1;

    ASSERT_TRUE(control >= 0 && image >= 0);
    for (int i = 0; i < LOOP_TRIES && fd < 0; i++) {
        fd = loop_attach_once(control, image, device);
        if (fd < 0)
            (void)usleep(1000);
    }
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static int try_mount(const char *fs, const char *image, const char *dir, char device[32])
{
    int fd = loop_attach(image, device);
    int r = mount(device, dir, fs, 0, NULL) < 0 ? -errno : 0;

    (void)close(fd); /* the mount keeps the device; without one it goes */
    return r;
}

static void unmount(const char *dir)
{
    for (int i = 0; i < BUSY_TRIES; i++) {
        if (umount(dir) == 0)
            return;
        ASSERT_EQ(errno, EBUSY);
        (void)usleep(BUSY_WAIT_US);
    }
    test_fail(__FILE__, __LINE__, "'%s' stays busy", dir);
}

/* btrfs remembers the devices it has seen, and does not mount an older copy of one. */
static void forget_device(const char *device)
{
    struct btrfs_ioctl_vol_args args = {0};
    CLEANUP_CLOSE int fd = open("/dev/btrfs-control", O_RDWR | O_CLOEXEC);

    (void)snprintf(args.name, sizeof(args.name), "%s", device);
    if (fd >= 0)
        (void)ioctl(fd, BTRFS_IOC_FORGET_DEV, &args);
}

/* ---- images ---- */

static const char *images(void)
{
    static char dir[PATH_LEN];

    (void)snprintf(dir, sizeof(dir), "%s/images", test_tmpdir());
    return dir;
}

static void clone_file(const char *from, const char *to)
{
    CLEANUP_CLOSE int source = open(from, O_RDONLY | O_CLOEXEC);
    CLEANUP_CLOSE int target = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    ASSERT_TRUE(source >= 0 && target >= 0);
    ASSERT_EQ(ioctl(target, FICLONE, source), 0);
}

/* One for each side: a file system is not mounted twice with the same id. */
static bool make_pristine(enum file_system fs, enum side side)
{
    char image[PATH_LEN + 64], dir[PATH_LEN], device[32];

    (void)snprintf(image, sizeof(image), "%s/%s.%d", images(), kinds[fs].name, (int)side);
    if (run("truncate -s %s '%s' && %s '%s' >/dev/null 2>&1", kinds[fs].size, image, kinds[fs].make,
            image) != 0)
        return false;
    (void)snprintf(dir, sizeof(dir), "%.300s/probe", test_tmpdir());
    (void)mkdir(dir, 0700);
    if (try_mount(kinds[fs].name, image, dir, device) < 0)
        return false;
    unmount(dir);
    forget_device(device);
    return true;
}

void world_make_images(void)
{
    char outer[PATH_LEN + 64], device[32];

    (void)snprintf(outer, sizeof(outer), "%s/outer", test_tmpdir());
    ASSERT_EQ(mkdir(images(), 0700), 0);
    if (run("truncate -s 8G '%s' && mkfs.xfs -q -K -m reflink=1 '%s' >/dev/null 2>&1", outer,
            outer) != 0 ||
        try_mount("xfs", outer, images(), device) < 0)
        return;
    for (enum file_system fs = 0; fs < FS_KINDS; fs++)
        is_here[fs] = make_pristine(fs, SUBJECT) && make_pristine(fs, MODEL);
}

bool world_has(enum file_system fs)
{
    return is_here[fs];
}

const char *world_fs_name(enum file_system fs)
{
    return kinds[fs].name;
}

/* ---- volumes ---- */

void volume_make(struct volume *v, enum file_system fs, enum side side)
{
    char pristine[PATH_LEN + 64];
    const char *name = side == SUBJECT ? "subject" : "model";

    *v = (struct volume){.fs = fs, .side = side};
    (void)snprintf(pristine, sizeof(pristine), "%s/%s.%d", images(), kinds[fs].name, (int)side);
    (void)snprintf(v->image, sizeof(v->image), "%.300s/%s", images(), name);
    (void)snprintf(v->dir, sizeof(v->dir), "%.300s/%s", test_tmpdir(), name);
    clone_file(pristine, v->image);
    ASSERT_TRUE(mkdir(v->dir, 0755) == 0 || errno == EEXIST);
    volume_mount(v);
}

/* What was mounted before may still be on its way out. */
void volume_mount(struct volume *v)
{
    int r = try_mount(kinds[v->fs].name, v->image, v->dir, v->device);

    for (int i = 0; i < BUSY_TRIES && r < 0; i++) {
        (void)usleep(BUSY_WAIT_US);
        r = try_mount(kinds[v->fs].name, v->image, v->dir, v->device);
    }
    ASSERT_OK(r);
}

static void volume_unmount(struct volume *v)
{
    unmount(v->dir);
    if (v->fs == FS_BTRFS)
        forget_device(v->device);
    v->device[0] = '\0';
}

void volume_remove(struct volume *v)
{
    volume_unmount(v);
    ASSERT_EQ(unlink(v->image), 0);
}

static const char *snapshot_path(void)
{
    static char path[PATH_LEN + 64];

    (void)snprintf(path, sizeof(path), "%s/snapshot", images());
    return path;
}

void volume_snapshot(const struct volume *v)
{
    clone_file(v->image, snapshot_path());
}

void volume_return_to_snapshot(struct volume *v)
{
    volume_unmount(v);
    ASSERT_EQ(rename(snapshot_path(), v->image), 0);
    volume_mount(v);
}
