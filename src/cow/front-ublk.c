/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front end for kernels with ublk (Linux 6.9, CONFIG_BLK_DEV_UBLK): block devices whose
 * requests come to us through io_uring.
 *
 *     application -> /dev/ublkb7 -> queue -> thread of it -> thread of the server -> engine ->
 * origin
 *
 * The volume has a queue for each processor, but four at most; a shadow has one.  The threads that
 * call the engine (request.c) are shared by all devices.  Each copies the data of its request
 * itself.
 *
 * Finding devices again.  A device is made with a mark, which the kernel keeps and nobody else
 * uses: a sum of the path of the volume's run directory, and the number of the shadow.  So it is
 * never there without saying whose it is, and nothing has to be remembered about it elsewhere.
 *
 * After the death of the worker the kernel keeps the devices with all that waits for them; the next
 * one takes them over as its first act.  The keeper has nothing to hold.  When it dies, too,
 * whoever attaches the volume next does the same.
 *
 * What may wait for a device of ours (opening it, its settings in sysfs) is done by a child, which
 * keeps nothing of ours open: see hand().
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/crc32c.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/vector.h"
#include "cow/front.h"
#include "cow/ublk-device.h"

#define CLASS_DIR     "/sys/class/ublk-char"
#define NAME_PREFIX   "ublkc"
#define BLOCK_DEVICE  "/dev/ublkb%" PRIu32
#define IO_TIMEOUT    "/sys/block/ublkb%" PRIu32 "/queue/io_timeout"
#define IO_TIMEOUT_MS "1000"
#define THREADS       48u
#define QUEUES_MAX    4u
#define DEPTH         64u
#define REQUEST_BYTES ((uint32_t)256 << 10)
#define DISCARD_BYTES ((uint32_t)256 << 20)
#define SECTOR_SHIFT  9u
#define PAGE_SHIFT    12u
#define HAND_LIMIT_MS 30000
#define HAND_PATH_MAX 64u

struct entry {
    uint32_t number;
    struct ublk_device *device;
};
DEFINE_VECTOR(entry_vector, struct entry);
DEFINE_VECTOR(info_vector, struct ublksrv_ctrl_dev_info);
DEFINE_CLEANUP_PTR(DIR *, closedir);

struct cow_front {
    struct cow *cow;
    char *run_dir;
    uint32_t sector_bytes;
    struct ublk_control *control;
    struct cow_server *server;
    struct entry_vector entries;
};

/* ---- marks ---- */

static uint32_t volume_sum(const char *run_dir)
{
    return crc32c(0, run_dir, strlen(run_dir));
}

static uint64_t mark_of(const char *run_dir, uint32_t number)
{
    return (uint64_t)volume_sum(run_dir) << 32 | number;
}

/* All devices of the volume, whoever serves them. */
static int find_devices(struct ublk_control *control, const char *run_dir,
                        struct info_vector *infos)
{
    CLEANUP(closedirp) DIR *dir = opendir(CLASS_DIR);
    const struct dirent *entry;
    if (!dir)
        return error_note_describe(-errno, "cannot read '" CLASS_DIR "'");
    while ((entry = readdir(dir))) {
        struct ublksrv_ctrl_dev_info info;
        const char *digits = entry->d_name + strlen(NAME_PREFIX);
        if (strncmp(entry->d_name, NAME_PREFIX, strlen(NAME_PREFIX)) != 0 ||
            !isdigit((unsigned char)*digits))
            continue;
        int r = ublk_control_get_info(control, (uint32_t)strtoul(digits, NULL, 10), &info);
        if (r == 0 && info.ublksrv_flags >> 32 == volume_sum(run_dir))
            r = info_vector_push(infos, &info);
        if (r < 0 && r != -ENODEV)
            return r;
    }
    return 0;
}

/* ---- the hand: a child that may wait for our devices ---- */

struct hand {
    pid_t pid;
    int fd; /* of a socket pair: the child lives as long as this end is open */
};

struct hand_task {
    int (*fn)(int fd); /* 0 or negative errno */
    const char *path;
    int flags;
};

static int do_nothing(int fd _unused_)
{
    return 0;
}

static int do_sync(int fd)
{
    return fsync(fd) < 0 ? -errno : 0;
}

static int do_seal(int fd)
{
    static const int on = 1;
    return fsync(fd) < 0 || ioctl(fd, BLKROSET, &on) < 0 ? -errno : 0;
}

static int do_set_timeout(int fd)
{
    return write(fd, IO_TIMEOUT_MS, strlen(IO_TIMEOUT_MS)) < 0 ? -errno : 0;
}

/* Forked off a process with threads: nothing but system calls. */
_noreturn_ static void hand_main(const struct hand_task *task, int socket_fd)
{
    char c;
    (void)dup2(socket_fd, STDIN_FILENO);
    (void)close_range(STDERR_FILENO + 1, UINT32_MAX, 0);
    int fd = open(task->path, task->flags | O_CLOEXEC);
    int r = fd < 0 ? -errno : task->fn(fd);
    IGNORE_RESULT(send(STDIN_FILENO, &r, sizeof(r), MSG_NOSIGNAL));
    IGNORE_RESULT(read(STDIN_FILENO, &c, 1)); /* until we are let go */
    _exit(EXIT_SUCCESS);
}

static bool is_readable(int fd, int limit_ms)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    int n;
    do {
        n = poll(&poll_fd, 1, limit_ms);
    } while (n < 0 && errno == EINTR);
    return n > 0;
}

/* One that waits for us in the kernel dies when that is over, not now. */
static void hand_let_go(struct hand *hand)
{
    CLEANUP_CLOSE int pid_fd = (int)syscall(SYS_pidfd_open, hand->pid, 0);
    (void)close(hand->fd);
    if (pid_fd >= 0 && !is_readable(pid_fd, HAND_LIMIT_MS))
        (void)kill(hand->pid, SIGKILL);
    (void)waitpid(hand->pid, NULL, WNOHANG);
}

/* Opens the path and does the task; what is open stays so until the hand is let go. */
static int hand_take(const struct hand_task *task, struct hand *ret_hand)
{
    int ends[2], said = -ETIMEDOUT;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return error_note_describe(-errno, "cannot make a socket pair");
    struct hand hand = {.pid = fork(), .fd = ends[0]};
    if (hand.pid == 0)
        hand_main(task, ends[1]);
    int saved = errno;
    (void)close(ends[1]);
    if (hand.pid < 0) {
        (void)close(hand.fd);
        return error_note_describe(-saved, "cannot start a child");
    }
    if (!is_readable(hand.fd, HAND_LIMIT_MS))
        (void)kill(hand.pid, SIGKILL);
    else if (read(hand.fd, &said, sizeof(said)) != (ssize_t)sizeof(said))
        said = -EIO;
    if (said < 0) {
        hand_let_go(&hand);
        return error_note_describe(said, "'%s'", task->path);
    }
    *ret_hand = hand;
    return 0;
}

static int hand_do(const struct hand_task *task)
{
    struct hand hand;
    int r = hand_take(task, &hand);
    if (r == 0)
        hand_let_go(&hand);
    return r;
}

/* ---- making devices ---- */

static unsigned shift_of(uint32_t bytes)
{
    return (unsigned)__builtin_ctz(bytes);
}

static void describe(const struct cow_front *front, uint32_t number, bool read_only,
                     struct ublk_params *params)
{
    struct cow_stat stat;
    cow_stat(front->cow, &stat);
    const unsigned sector_shift = shift_of(front->sector_bytes);
    *params = (struct ublk_params){
        .types = UBLK_PARAM_TYPE_BASIC,
        .basic =
            {
                /* Writes to a shadow are durable when they are done. */
                .attrs = number == 0 ? UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA
                         : read_only ? UBLK_ATTR_READ_ONLY
                                     : 0,
                .logical_bs_shift = (uint8_t)sector_shift,
                .physical_bs_shift = (uint8_t)MAX(sector_shift, PAGE_SHIFT),
                .io_min_shift = (uint8_t)MAX(sector_shift, PAGE_SHIFT),
                .io_opt_shift = (uint8_t)shift_of((uint32_t)stat.block_bytes),
                .max_sectors = REQUEST_BYTES >> SECTOR_SHIFT,
                .dev_sectors = stat.origin_bytes >> SECTOR_SHIFT,
            },
    };
    if (number == 0) {
        params->types |= UBLK_PARAM_TYPE_DISCARD;
        params->discard = (struct ublk_param_discard){
            .discard_granularity = (uint32_t)stat.block_bytes,
            .max_discard_sectors = DISCARD_BYTES >> SECTOR_SHIFT,
            .max_discard_segments = 1,
        };
    }
}

static unsigned processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)MIN(n, (long)QUEUES_MAX) : 1;
}

static struct ublk_device_place place_of(struct cow_front *front, uint32_t number)
{
    return (struct ublk_device_place){
        .control = front->control, .server = front->server, .number = number};
}

/* When we die while all tags of a queue are with us, the kernel notices only at the time limit of a
 * request, which is 30 s. */
static void shorten_timeout(const struct ublk_device *device)
{
    char path[HAND_PATH_MAX];
    (void)snprintf(path, sizeof(path), IO_TIMEOUT, ublk_device_id(device));
    const struct hand_task task = {.fn = do_set_timeout, .path = path, .flags = O_WRONLY};
    int r = hand_do(&task);
    if (r < 0)
        log_warning("cannot set a time limit: %s", error_text(r));
}

static int make_device(struct cow_front *front, uint32_t number, bool read_only,
                       struct ublk_device **ret_device)
{
    const struct ublk_device_place place = place_of(front, number);
    const struct ublksrv_ctrl_dev_info info = {
        .dev_id = UINT32_MAX,
        .nr_hw_queues = (uint16_t)(number == 0 ? processors() : 1),
        .queue_depth = DEPTH,
        .max_io_buf_bytes = REQUEST_BYTES,
        .flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_USER_COPY |
                 UBLK_F_CMD_IOCTL_ENCODE,
        .ublksrv_flags = mark_of(front->run_dir, number),
    };
    struct ublk_params params;
    describe(front, number, read_only, &params);
    int r = ublk_device_make(&place, &info, &params, ret_device);
    if (r == 0)
        shorten_timeout(*ret_device);
    return r;
}

/* ---- finding them again ---- */

static struct entry *find_entry(struct cow_front *front, uint32_t number)
{
    for (size_t i = 0; i < front->entries.count; i++)
        if (front->entries.items[i].number == number)
            return &front->entries.items[i];
    return NULL;
}

static bool is_known(struct cow_front *front, uint32_t number)
{
    CLEANUP_FREE struct cow_shadow *shadows = calloc(COW_SHADOWS_MAX, sizeof(*shadows));
    if (number == 0 || !shadows)
        return true;
    size_t count = MIN(cow_shadows(front->cow, shadows, COW_SHADOWS_MAX), (size_t)COW_SHADOWS_MAX);
    for (size_t i = 0; i < count; i++)
        if (shadows[i].number == number)
            return true;
    return false;
}

/* The queue lengths are ours, and the device is as large as it should be. */
static bool is_usable(struct cow_front *front, const struct ublksrv_ctrl_dev_info *info)
{
    struct ublk_params params;
    struct cow_stat stat;
    cow_stat(front->cow, &stat);
    return info->state != UBLK_S_DEV_DEAD && info->nr_hw_queues <= QUEUES_MAX &&
           info->queue_depth <= DEPTH && (info->flags & UBLK_F_USER_COPY) != 0 &&
           ublk_control_get_params(front->control, info->dev_id, &params) == 0 &&
           params.basic.max_sectors <= REQUEST_BYTES >> SECTOR_SHIFT &&
           params.basic.dev_sectors == stat.origin_bytes >> SECTOR_SHIFT;
}

static int take_over(struct cow_front *front, const struct ublksrv_ctrl_dev_info *info)
{
    const uint32_t number = (uint32_t)info->ublksrv_flags;
    const struct ublk_device_place place = place_of(front, number);
    struct entry entry = {.number = number};
    int r = entry_vector_reserve(&front->entries, 1);
    if (r == 0)
        r = ublk_device_take_over(&place, front->run_dir, info, &entry.device);
    if (r == 0)
        r = entry_vector_push(&front->entries, &entry);
    return r;
}

/* A half-made device has no users.  Nor can one have that is not of a shadow any more, or of what
 * was a volume of another size: not any that would get anything but errors. */
static int take_over_or_clear(struct cow_front *front, const struct ublksrv_ctrl_dev_info *info,
                              bool is_return)
{
    const uint32_t number = (uint32_t)info->ublksrv_flags;
    const bool is_wanted = is_return || is_known(front, number);
    if (is_wanted && !find_entry(front, number) && is_usable(front, info)) {
        int r = take_over(front, info);
        if (r != -UMBRA_E_CHANGED)
            return r;
        log_error("the device of %s %" PRIu32 " is lost, and who uses it gets errors: %s",
                  number == 0 ? "volume" : "shadow", number, error_text(r));
    }
    return ublk_device_clear(front->control, front->run_dir, info->dev_id);
}

static int take_over_all(struct cow_front *front, bool is_return)
{
    CLEANUP(info_vector_release) struct info_vector infos = {0};
    int r = find_devices(front->control, front->run_dir, &infos);
    for (size_t i = 0; i < infos.count && r == 0; i++)
        r = take_over_or_clear(front, &infos.items[i], is_return);
    return r;
}

/* ---- in the keeper ---- */

static int ublk_probe(void)
{
    CLEANUP(ublk_control_closep) struct ublk_control *control = NULL;
    return ublk_control_open(&control);
}

static int ublk_hold(const char *run_dir _unused_, int *ret_fd)
{
    *ret_fd = -1;
    return 0;
}

static void ublk_release(const char *run_dir)
{
    CLEANUP(ublk_control_closep) struct ublk_control *control = NULL;
    CLEANUP(info_vector_release) struct info_vector infos = {0};
    int r = ublk_control_open(&control);
    if (r == 0)
        r = find_devices(control, run_dir, &infos);
    for (size_t i = 0; i < infos.count && r == 0; i++)
        r = ublk_device_clear(control, run_dir, infos.items[i].dev_id);
    if (r < 0)
        log_warning("%s", error_text(r));
}

/* ---- in the worker ---- */

static void front_free(struct cow_front *front)
{
    cow_server_free(front->server);
    ublk_control_close(front->control);
    entry_vector_release(&front->entries);
    free(front->run_dir);
    free(front);
}

static int ublk_start(const struct cow_front_place *place, struct cow_front **ret_front)
{
    struct cow_front *front = calloc(1, sizeof(*front));
    if (!front)
        return -ENOMEM;
    front->cow = place->cow;
    front->sector_bytes = place->sector_bytes;
    front->run_dir = strdup(place->run_dir);
    int r = front->run_dir ? ublk_control_open(&front->control) : -ENOMEM;
    if (r == 0)
        r = cow_server_new(front->cow, THREADS, REQUEST_BYTES, &front->server);
    if (r < 0) {
        front_free(front);
        return r;
    }
    r = take_over_all(front, place->is_return);
    if (r == 0)
        *ret_front = front;
    return r; /* an error: the process ends now, and with it the threads of what it had taken */
}

static int ublk_add(struct cow_front *front, uint32_t number, bool read_only,
                    char ret_device[COW_DEVICE_MAX])
{
    const struct entry *found = find_entry(front, number);
    struct entry entry = {.number = number, .device = found ? found->device : NULL};
    int r = found ? 0 : entry_vector_reserve(&front->entries, 1);
    if (r == 0 && !found)
        r = make_device(front, number, read_only, &entry.device);
    if (r == 0 && !found)
        r = entry_vector_push(&front->entries, &entry);
    if (r < 0)
        return r;
    (void)snprintf(ret_device, COW_DEVICE_MAX, BLOCK_DEVICE, ublk_device_id(entry.device));
    if (!found || !read_only)
        return 0;
    /* Sealed, perhaps, in the moment before its worker died. */
    const struct hand_task task = {.fn = do_seal, .path = ret_device, .flags = O_RDONLY};
    return hand_do(&task);
}

static int find_device(struct cow_front *front, uint32_t number, struct entry **ret_entry,
                       char path[HAND_PATH_MAX])
{
    struct entry *entry = find_entry(front, number);
    if (!entry)
        return error_note(-ENOENT, "there is no such device");
    (void)snprintf(path, HAND_PATH_MAX, BLOCK_DEVICE, ublk_device_id(entry->device));
    *ret_entry = entry;
    return 0;
}

/* The hand keeps it from being mounted meanwhile. */
static int ublk_remove(struct cow_front *front, uint32_t number)
{
    char path[HAND_PATH_MAX];
    struct entry *entry;
    struct hand hand;
    int r = find_device(front, number, &entry, path);
    if (r < 0)
        return r;
    const struct hand_task task = {.fn = do_sync, .path = path, .flags = O_RDONLY | O_EXCL};
    r = hand_take(&task, &hand);
    if (r < 0)
        return r;
    r = ublk_device_end(entry->device);
    if (r == 0)
        *entry = front->entries.items[--front->entries.count];
    hand_let_go(&hand);
    return r;
}

static int ublk_check_free(struct cow_front *front, uint32_t number)
{
    char path[HAND_PATH_MAX];
    struct entry *entry;
    int r = find_device(front, number, &entry, path);
    const struct hand_task task = {.fn = do_nothing, .path = path, .flags = O_RDONLY | O_EXCL};
    return r < 0 ? r : hand_do(&task);
}

static int ublk_seal(struct cow_front *front, uint32_t number)
{
    char path[HAND_PATH_MAX];
    struct entry *entry;
    int r = find_device(front, number, &entry, path);
    const struct hand_task task = {.fn = do_seal, .path = path, .flags = O_RDONLY};
    return r < 0 ? r : hand_do(&task);
}

static void ublk_stop(struct cow_front *front)
{
    front_free(front);
}

const struct cow_front_ops cow_front_ublk = {
    .name = "ublk",
    .probe = ublk_probe,
    .hold = ublk_hold,
    .release = ublk_release,
    .start = ublk_start,
    .add = ublk_add,
    .remove = ublk_remove,
    .check_free = ublk_check_free,
    .seal = ublk_seal,
    .stop = ublk_stop,
};
