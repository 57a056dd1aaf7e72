/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/loop-hand.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"

#define TIME_LIMIT_MS 60000
#define GONE_LIMIT_MS 5000
#define PAUSE_MS      10
#define FREE_TRIES    100u /* others take loop devices, too */
#define LOOP_MAJOR    7u
#define RECORD_PREFIX "device-"
#define NEW_SUFFIX    ".new"
#define REQUEST_KB    "1024" /* of a request to a device, at most */
#define LINE_MAX_LEN  512u
#define PATH_LEN_MAX  4096u

DEFINE_CLEANUP_PTR(DIR *, closedir);
DEFINE_CLEANUP_PTR(FILE *, fclose);

/* ---- sysfs ---- */

/* Of a "/dev/loopN"; without its newline.  -ENOENT: the device is not bound, for most of them. */
static int read_sysfs(const char *device, const char *attribute, char text[PATH_LEN_MAX])
{
    char path[256];
    (void)snprintf(path, sizeof(path), "/sys/block/%s/%s", device + strlen("/dev/"), attribute);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, PATH_LEN_MAX - 1);
    if (len < 0)
        return -errno;
    text[len] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return 0;
}

static int read_sysfs_number(const char *device, const char *attribute, uint64_t *ret_value)
{
    char text[PATH_LEN_MAX], *end = NULL;
    int r = read_sysfs(device, attribute, text);
    if (r < 0)
        return r;
    *ret_value = strtoull(text, &end, 10);
    return end == text || *end != '\0' ? -EINVAL : 0;
}

static void write_sysfs(const char *device, const char *attribute, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "/sys/block/%s/%s", device + strlen("/dev/"), attribute);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        log_debug("cannot set '%s': %s", path, error_describe(-errno));
}

/* Whether the device is still that of the record; an error: nobody knows. */
static int look_bound(const char *device, uint64_t disk_sequence, bool *ret_bound)
{
    char text[PATH_LEN_MAX];
    uint64_t now = 0;
    int r = read_sysfs(device, "loop/backing_file", text);
    if (r == 0)
        r = read_sysfs_number(device, "diskseq", &now);
    if (r < 0 && r != -ENOENT)
        return error_note_describe(r, "cannot look at '%s'", device);
    *ret_bound = r == 0 && now == disk_sequence;
    return 0;
}

static bool is_bound(const char *device, uint64_t disk_sequence)
{
    bool bound;
    return look_bound(device, disk_sequence, &bound) < 0 || bound;
}

/* ---- records ---- */

static void record_path(const char *run_dir, uint32_t number, const char *suffix,
                        char path[PATH_LEN_MAX])
{
    (void)snprintf(path, PATH_LEN_MAX, "%s/" RECORD_PREFIX "%" PRIu32 "%s", run_dir, number,
                   suffix);
}

static int record_write(const char *run_dir, const struct loop_record *record)
{
    char path[PATH_LEN_MAX], new_path[PATH_LEN_MAX];
    record_path(run_dir, record->number, "", path);
    record_path(run_dir, record->number, NEW_SUFFIX, new_path);
    CLEANUP_CLOSE int fd = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 ||
        dprintf(fd, "%s %" PRIu64 " %s\n", record->device, record->disk_sequence,
                record->has_punch ? "punch" : "-") < 0 ||
        rename(new_path, path) < 0)
        return error_note_describe(-errno, "cannot write '%s'", path);
    return 0;
}

static void record_remove(const char *run_dir, uint32_t number)
{
    char path[PATH_LEN_MAX];
    record_path(run_dir, number, "", path);
    (void)unlink(path);
}

static int record_read(int dir_fd, const char *name, struct loop_record *ret_record)
{
    char text[LINE_MAX_LEN], sequence[24], punch[8], *end = NULL, *sequence_end = NULL;
    struct loop_record record = {0};
    unsigned long number = strtoul(name + strlen(RECORD_PREFIX), &end, 10);
    CLEANUP_CLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (len < 0)
        return -errno;
    text[len] = '\0';
    if (*end != '\0' || number > UINT32_MAX ||
        sscanf(text, "%63s %23s %7s", record.device, sequence, punch) != 3)
        return -EINVAL;
    record.number = (uint32_t)number;
    record.disk_sequence = strtoull(sequence, &sequence_end, 10);
    record.has_punch = strcmp(punch, "punch") == 0;
    if (*sequence_end != '\0')
        return -EINVAL;
    *ret_record = record;
    return 0;
}

static bool is_unfinished(const char *name)
{
    size_t len = strlen(name);
    return len > strlen(NEW_SUFFIX) && strcmp(name + len - strlen(NEW_SUFFIX), NEW_SUFFIX) == 0;
}

/* A record only goes when its device certainly has: what is written to a device without one is
 * refused. */
static int take_record(int dir_fd, const char *name, struct loop_record_vector *records)
{
    struct loop_record record;
    bool bound = false;
    int r = is_unfinished(name) ? 0 : record_read(dir_fd, name, &record);
    if (r == 0 && !is_unfinished(name))
        r = look_bound(record.device, record.disk_sequence, &bound);
    if (r < 0)
        return r;
    if (bound)
        return loop_record_vector_push(records, &record);
    (void)unlinkat(dir_fd, name, 0);
    return 0;
}

int loop_records_read(const char *run_dir, struct loop_record_vector *ret_records)
{
    CLEANUP(closedirp) DIR *dir = opendir(run_dir);
    CLEANUP(loop_record_vector_release) struct loop_record_vector records = {0};
    const struct dirent *entry;
    if (!dir)
        return error_note_describe(-errno, "cannot read '%s'", run_dir);
    while ((entry = readdir(dir))) {
        if (strncmp(entry->d_name, RECORD_PREFIX, strlen(RECORD_PREFIX)) != 0)
            continue;
        int r = take_record(dirfd(dir), entry->d_name, &records);
        if (r < 0)
            return error_prefix(r, "'%s/%s'", run_dir, entry->d_name);
    }
    *ret_records = records;
    records = (struct loop_record_vector){0};
    return 0;
}

/* ---- in the child: a new device ---- */

static void pause_ms(int ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    (void)nanosleep(&time, NULL);
}

/* Containers have no devtmpfs that makes it. */
static int open_loop(const char *device, unsigned minor_number, int flags)
{
    int fd = open(device, flags | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT)
        return fd < 0 ? -errno : fd;
    if (mknod(device, S_IFBLK | 0600, makedev(LOOP_MAJOR, minor_number)) < 0 && errno != EEXIST)
        return -errno;
    fd = open(device, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int configure(int loop_fd, int file_fd, bool read_only, uint32_t sector_bytes)
{
    const struct loop_config config = {
        .fd = (uint32_t)file_fd,
        .block_size = sector_bytes,
        .info.lo_flags = LO_FLAGS_DIRECT_IO | (read_only ? LO_FLAGS_READ_ONLY : 0u),
    };
    return ioctl(loop_fd, LOOP_CONFIGURE, &config) < 0 ? -errno : 0;
}

/* What hand_seal() says stays with the number of the device, whoever gets it next. */
static void forget_seal(int loop_fd)
{
    const int no = 0;
    (void)ioctl(loop_fd, BLKROSET, &no);
}

/* A free one, bound to the file; the fd of the device. */
static int bind_loop(int file_fd, bool read_only, uint32_t sector_bytes,
                     char device[COW_DEVICE_MAX], int *ret_fd)
{
    CLEANUP_CLOSE int control_fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control_fd < 0)
        return error_note_describe(-errno, "cannot open /dev/loop-control");
    for (unsigned i = 0; i < FREE_TRIES; i++) {
        int number = ioctl(control_fd, LOOP_CTL_GET_FREE);
        if (number < 0)
            return error_note_describe(-errno, "cannot get a loop device");
        (void)snprintf(device, COW_DEVICE_MAX, "/dev/loop%d", number);
        CLEANUP_CLOSE int fd = open_loop(device, (unsigned)number, O_RDWR);
        if (fd < 0)
            return error_note_describe(fd, "cannot open '%s'", device);
        int r = configure(fd, file_fd, read_only, sector_bytes);
        if (r == 0) {
            forget_seal(fd); /* of somebody else */
            *ret_fd = TAKE_FD(fd);
            return 0;
        }
        if (r != -EBUSY)
            return error_note_describe(r, "cannot set '%s' up", device);
    }
    return error_note(-EBUSY, "cannot get a loop device: others take them all");
}

/* Whether punches are only discards from now on. */
static bool settle_zeroing(const char *device)
{
    uint64_t zeroes_max = UINT64_MAX;
    CLEANUP_CLOSE int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0 ||
        fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, LOOP_PROBE_BYTES) < 0)
        log_debug("'%s' takes no zero ranges: %s", device, error_describe(-errno));
    return read_sysfs_number(device, "queue/write_zeroes_max_bytes", &zeroes_max) == 0 &&
           zeroes_max == 0;
}

static int finish_device(const char *run_dir, bool read_only, struct loop_record *record)
{
    /* Whoever had the loop device before may have set it, and the kernel does not forget. */
    write_sysfs(record->device, "queue/max_sectors_kb", REQUEST_KB);
    record->has_punch = !read_only && settle_zeroing(record->device);
    if (read_sysfs_number(record->device, "diskseq", &record->disk_sequence) < 0)
        return error_note(-EOPNOTSUPP, "'%s' has no sequence number: Linux 5.15 is needed",
                          record->device);
    return record_write(run_dir, record);
}

static int hand_add(const char *run_dir, char **words)
{
    struct loop_record record = {.number = (uint32_t)strtoul(words[0], NULL, 10)};
    bool read_only = strcmp(words[1], "ro") == 0;
    char path[PATH_LEN_MAX];
    CLEANUP_CLOSE int loop_fd = -EBADF;
    (void)snprintf(path, sizeof(path), "%s/" LOOP_MOUNT_NAME "/%" PRIu32, run_dir, record.number);
    CLEANUP_CLOSE int file_fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (file_fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", path);
    int r = bind_loop(file_fd, read_only, (uint32_t)strtoul(words[2], NULL, 10), record.device,
                      &loop_fd);
    if (r == 0)
        r = finish_device(run_dir, read_only, &record);
    if (r < 0 && loop_fd >= 0)
        (void)ioctl(loop_fd, LOOP_CLR_FD);
    return r;
}

/* ---- in the child: other things ---- */

static int open_free(const char *device, int *ret_fd)
{
    int fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd < 0 && errno == EBUSY)
        return error_note(-EBUSY, "'%s' is in use: mounted, or part of something else", device);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", device);
    *ret_fd = fd;
    return 0;
}

/* Somebody has it open, and it would go when he closes it. */
static int keep(const char *device, uint64_t disk_sequence)
{
    struct loop_info64 info;
    CLEANUP_CLOSE int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (!is_bound(device, disk_sequence))
        return 0;
    if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0) {
        info.lo_flags &= ~(uint32_t)LO_FLAGS_AUTOCLEAR;
        (void)ioctl(fd, LOOP_SET_STATUS64, &info);
    }
    return error_note(-EBUSY, "'%s' is in use: somebody has it open", device);
}

static int remove_device(const char *device, uint64_t disk_sequence)
{
    CLEANUP_CLOSE int fd = -EBADF;
    if (!is_bound(device, disk_sequence)) /* somebody else may have it */
        return 0;
    int r = open_free(device, &fd);
    if (r < 0)
        return r;
    if (!is_bound(device, disk_sequence))
        return 0;
    (void)fsync(fd);
    forget_seal(fd);
    if (ioctl(fd, LOOP_CLR_FD) < 0 && errno != ENXIO)
        return error_note_describe(-errno, "cannot detach '%s'", device);
    cleanup_closep(&fd);
    fd = -EBADF;
    /* Whoever looks at new devices may still have it open. */
    for (int waited_ms = 0; waited_ms < GONE_LIMIT_MS; waited_ms += PAUSE_MS) {
        if (!is_bound(device, disk_sequence))
            return 0;
        pause_ms(PAUSE_MS);
    }
    return keep(device, disk_sequence);
}

static int hand_remove(const char *run_dir, char **words)
{
    int r = remove_device(words[1], strtoull(words[2], NULL, 10));
    if (r == 0)
        record_remove(run_dir, (uint32_t)strtoul(words[0], NULL, 10));
    return r;
}

static int hand_check(const char *run_dir _unused_, char **words)
{
    CLEANUP_CLOSE int fd = -EBADF;
    return is_bound(words[1], strtoull(words[2], NULL, 10)) ? open_free(words[1], &fd) : 0;
}

static int hand_seal(const char *run_dir _unused_, char **words)
{
    const int yes = 1;
    CLEANUP_CLOSE int fd = open(words[1], O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && !is_bound(words[1], strtoull(words[2], NULL, 10)))
        return error_note(-ENODEV, "'%s' was taken away", words[1]);
    if (fd < 0 || ioctl(fd, BLKROSET, &yes) < 0)
        return error_note_describe(-errno, "cannot make '%s' read-only", words[1]);
    return 0;
}

static int unmount(const char *run_dir)
{
    char path[PATH_LEN_MAX];
    (void)snprintf(path, sizeof(path), "%s/" LOOP_MOUNT_NAME, run_dir);
    if (umount2(path, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT)
        return 0;
    if (umount2(path, UMOUNT_NOFOLLOW | MNT_DETACH) == 0)
        return 0;
    return error_note_describe(-errno, "cannot unmount '%s'", path);
}

/* ---- in the child: what is left over ---- */

/* "0:65" */
static dev_t parse_dev(const char *text)
{
    char *end = NULL;
    unsigned long a = strtoul(text, &end, 10);
    return *end == ':' ? makedev((unsigned)a, (unsigned)strtoul(end + 1, NULL, 10)) : 0;
}

/* The number of the file system mounted there, without asking it; 0: none. */
static dev_t mounted_device(const char *path)
{
    CLEANUP(fclosep) FILE *file = fopen("/proc/self/mountinfo", "re");
    CLEANUP_FREE char *line = NULL;
    size_t size = 0;
    dev_t dev = 0;
    while (file && getline(&line, &size, file) > 0) {
        char number[32], where[PATH_LEN_MAX];
        if (sscanf(line, "%*s %*s %31s %*s %4095s", number, where) == 2 && strcmp(where, path) == 0)
            dev = parse_dev(number);
    }
    return dev;
}

static bool shows_file_of(const char *device, dev_t dev)
{
    struct loop_info64 info;
    char text[PATH_LEN_MAX];
    if (dev == 0 || read_sysfs(device, "loop/backing_file", text) < 0)
        return false;
    CLEANUP_CLOSE int fd = open(device, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && info.lo_device == dev;
}

static bool is_recorded(const struct loop_record_vector *records, const char *device)
{
    for (size_t i = 0; i < records->count; i++)
        if (strcmp(records->items[i].device, device) == 0)
            return true;
    return false;
}

/* Of this mount: a worker died, or had a time limit, while its child was at it. */
static int remove_unrecorded(const char *run_dir)
{
    CLEANUP(loop_record_vector_release) struct loop_record_vector records = {0};
    CLEANUP(closedirp) DIR *dir = opendir("/sys/block");
    const struct dirent *entry;
    char path[PATH_LEN_MAX];
    (void)snprintf(path, sizeof(path), "%s/" LOOP_MOUNT_NAME, run_dir);
    const dev_t dev = mounted_device(path);
    int r = loop_records_read(run_dir, &records);
    while (r == 0 && dir && (entry = readdir(dir))) {
        char device[sizeof("/dev/") + NAME_MAX];
        uint64_t disk_sequence;
        (void)snprintf(device, sizeof(device), "/dev/%s", entry->d_name);
        if (strncmp(entry->d_name, "loop", 4) == 0 && !is_recorded(&records, device) &&
            shows_file_of(device, dev) && read_sysfs_number(device, "diskseq", &disk_sequence) == 0)
            r = remove_device(device, disk_sequence);
    }
    return r;
}

static int hand_tidy(const char *run_dir, char **words _unused_)
{
    return remove_unrecorded(run_dir);
}

static int hand_unmount(const char *run_dir, char **words _unused_)
{
    int r = remove_unrecorded(run_dir);
    return r < 0 ? r : unmount(run_dir);
}

static int hand_clear(const char *run_dir, char **words _unused_)
{
    CLEANUP(loop_record_vector_release) struct loop_record_vector records = {0};
    int r = loop_records_read(run_dir, &records);
    for (size_t i = 0; i < records.count && r == 0; i++) {
        r = remove_device(records.items[i].device, records.items[i].disk_sequence);
        if (r == 0)
            record_remove(run_dir, records.items[i].number);
    }
    if (r == 0)
        r = remove_unrecorded(run_dir);
    if (r < 0)
        return error_prefix(r, "a device of an umbra-cowd that was killed is left");
    return unmount(run_dir);
}

/* ---- the child ---- */

static const struct {
    const char *name;
    int (*fn)(const char *run_dir, char **words);
    int word_count;
} tasks[] = {
    {"add", hand_add, 3},   {"remove", hand_remove, 3},   {"check", hand_check, 3},
    {"seal", hand_seal, 3}, {"unmount", hand_unmount, 0}, {"clear", hand_clear, 0},
    {"tidy", hand_tidy, 0},
};

/* Task, pid of the parent, run directory, words of the task. */
int loop_hand_main(int argc, char **argv)
{
    int r = error_note(-UMBRA_E_USAGE, "no such task");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc < 3 || getppid() != (pid_t)strtol(argv[1], NULL, 10))
        return EXIT_FAILURE;
    for (size_t i = 0; i < ELEMENTSOF(tasks); i++)
        if (strcmp(argv[0], tasks[i].name) == 0 && argc - 3 == tasks[i].word_count)
            r = tasks[i].fn(argv[2], argv + 3);
    if (r < 0)
        (void)dprintf(STDOUT_FILENO, "%d %s\n", r, error_text(r));
    else
        (void)dprintf(STDOUT_FILENO, "0\n");
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- its parent ---- */

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int spawn_hand(const char *const *argv, int write_fd, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return -ENOMEM;
    int r = -posix_spawn_file_actions_adddup2(&actions, write_fd, STDOUT_FILENO);
    if (r == 0)
        r = -posix_spawn(ret_pid, "/proc/self/exe", &actions, NULL, (char *const *)(uintptr_t)argv,
                         environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    return r < 0 ? error_note_describe(r, "cannot start a child") : 0;
}

/* All that it says until it ends. */
static int read_answer(int fd, char text[LINE_MAX_LEN])
{
    const int64_t deadline_ms = now_ms() + TIME_LIMIT_MS;
    size_t len = 0;
    for (;;) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        int64_t left_ms = deadline_ms - now_ms();
        if (left_ms <= 0)
            return error_note(-ETIMEDOUT, "the kernel has not answered for %d s",
                              TIME_LIMIT_MS / 1000);
        if (poll(&poll_fd, 1, (int)left_ms) <= 0)
            continue;
        ssize_t n = read(fd, text + len, LINE_MAX_LEN - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return 0;
}

static int parse_answer(const char *text)
{
    char *end = NULL;
    long code = strtol(text, &end, 10);
    if (end == text)
        return error_note(-EIO, "a child has died");
    return code == 0 ? 0 : error_note((int)code, "%s", *end == ' ' ? end + 1 : end);
}

static int run(const char *task, const char *run_dir, const char *const words[3])
{
    char parent[16], text[LINE_MAX_LEN];
    int fds[2];
    pid_t pid;
    (void)snprintf(parent, sizeof(parent), "%d", (int)getpid());
    const char *const argv[] = {"umbra-cowd", "--hand", task,     parent, run_dir,
                                words[0],     words[1], words[2], NULL};
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_note_describe(-errno, "cannot make a pipe");
    CLEANUP_CLOSE int read_fd = fds[0];
    int r = spawn_hand(argv, fds[1], &pid);
    (void)close(fds[1]);
    if (r < 0)
        return r;
    r = read_answer(read_fd, text);
    /* One that waits for us in the kernel dies when that is over, not now. */
    if (r < 0)
        (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, r < 0 ? WNOHANG : 0);
    return r < 0 ? r : parse_answer(text);
}

static int run_for(const char *task, const char *run_dir, const struct loop_record *record)
{
    char number[16], sequence[24];
    (void)snprintf(number, sizeof(number), "%" PRIu32, record->number);
    (void)snprintf(sequence, sizeof(sequence), "%" PRIu64, record->disk_sequence);
    return run(task, run_dir, (const char *const[3]){number, record->device, sequence});
}

int loop_add(const char *run_dir, uint32_t number, bool read_only, uint32_t sector_bytes,
             struct loop_record *ret_record)
{
    char name[sizeof(RECORD_PREFIX) + 16], sector[16];
    (void)snprintf(name, sizeof(name), RECORD_PREFIX "%" PRIu32, number);
    (void)snprintf(sector, sizeof(sector), "%" PRIu32, sector_bytes);
    int r =
        run("add", run_dir,
            (const char *const[3]){name + strlen(RECORD_PREFIX), read_only ? "ro" : "rw", sector});
    if (r < 0)
        return r;
    CLEANUP_CLOSE int dir_fd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = dir_fd < 0 ? -errno : record_read(dir_fd, name, ret_record);
    return r < 0 ? error_note_describe(r, "cannot read '%s/%s'", run_dir, name) : 0;
}

int loop_remove(const char *run_dir, const struct loop_record *record)
{
    return run_for("remove", run_dir, record);
}

int loop_check_free(const char *run_dir, const struct loop_record *record)
{
    return run_for("check", run_dir, record);
}

int loop_seal(const char *run_dir, const struct loop_record *record)
{
    return run_for("seal", run_dir, record);
}

static const char *const no_words[3];

int loop_unmount(const char *run_dir)
{
    return run("unmount", run_dir, no_words);
}

int loop_tidy(const char *run_dir)
{
    return run("tidy", run_dir, no_words);
}

int loop_clear_stale(const char *run_dir)
{
    return run("clear", run_dir, no_words);
}
