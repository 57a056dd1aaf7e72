/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front end for every kernel: a FUSE file for each device, and a loop device on it.
 *
 *     application -> /dev/loop7 -> RUN_DIR/fuse/0 -> /dev/fuse -> thread -> engine -> origin
 *
 * The protocol (linux/fuse.h) is spoken here, without libfuse: the file system is one directory
 * whose files have fixed names and node ids, so there is nothing to remember between two requests,
 * nor between two lives of the worker.  And the data of a write can be received where the page
 * begins, so that it goes to the disk from there.
 *
 * Invariants
 *  1. The descriptor of the connection is one open file, that of the keeper.  As long as it is
 *     open, requests wait whatever dies.  (Clones of it would fail what they had taken when they
 *     are closed.)
 *  2. A request that a dead worker had taken is sent again (FUSE_NOTIFY_RESEND, Linux 6.9) before
 *     the first is read.  Doing it twice is harmless: nobody has been told that it was done.
 *  3. What is written to a device that is not ready fails.  But the zeros that the kernel writes
 *     while it is being made (loop-hand.c) are dropped.  Ready is what has a record in RUN_DIR, so
 *     the next worker knows.
 *  4. Punched holes come from discards alone, or are refused: a device whose record does not say
 *     so could also send them for zeroing (loop-hand.c).
 *  5. Nothing in here touches the file system or a loop device: that is done by a child (front.h,
 *     duty 4).
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "cow/front.h"
#include "cow/loop-hand.h"

#define READERS_MIN    16u /* threads that read requests whenever they have nothing to do */
#define READERS_MAX    64u
#define SPARE_COUNT    48u /* that do so when all of these have been busy for a while */
#define BUSY_US        500
#define STACK_BYTES    ((size_t)1 << 20)
#define DATA_BYTES     ((size_t)256 << 10) /* of a request, at most */
#define PAGE_BYTES     ((size_t)4096)
#define MAX_BACKGROUND 128u
#define NODE_FILES     1000u /* node id of device 0 */
#define FOR_EVER_S     (UINT64_C(1) << 40)
#define STOP_TIME_S    10
#define NOTIFY_RESEND  7 /* FUSE_NOTIFY_RESEND, not in older headers */
#define MOUNT_OPTIONS  "fd=%d,rootmode=40000,user_id=0,group_id=0"
#define PATH_LEN_MAX   4096u

static_assert(NODE_FILES > FUSE_ROOT_ID, "node ids");

#define NO_DEVICE UINT64_MAX

enum volume_flags { VOLUME_READY = 1u << 0, VOLUME_PUNCH = 1u << 1 };

struct cow_front {
    struct cow *cow;
    char *run_dir;
    int fd;
    uint64_t size_bytes, block_bytes;
    uint32_t sector_bytes;

    atomic_uint volume_flags; /* of the volume, which is asked about most */
    atomic_ullong making;     /* the number of the device that is being made, or NO_DEVICE */
    pthread_rwlock_t lock;    /* of ready */
    struct loop_record_vector ready;

    size_t reader_count; /* READERS_MIN to READERS_MAX, by processors */
    atomic_uint idle;    /* threads that wait for a request */
    atomic_bool watched; /* by a spare thread: that idle gets 0 */
    atomic_bool ends;
    sem_t busy; /* idle was 0 */
    pthread_t threads[READERS_MAX + SPARE_COUNT];
    size_t thread_count;
};

/* ---- which devices are ready ---- */

static struct loop_record *find_ready_locked(struct cow_front *front, uint32_t number)
{
    for (size_t i = 0; i < front->ready.count; i++)
        if (front->ready.items[i].number == number)
            return &front->ready.items[i];
    return NULL;
}

static bool is_ready(struct cow_front *front, uint32_t number)
{
    if (number == 0)
        return (atomic_load(&front->volume_flags) & VOLUME_READY) != 0;
    pthread_rwlock_rdlock(&front->lock);
    const struct loop_record *record = find_ready_locked(front, number);
    pthread_rwlock_unlock(&front->lock);
    return record;
}

static bool find_ready(struct cow_front *front, uint32_t number, struct loop_record *ret_record)
{
    pthread_rwlock_rdlock(&front->lock);
    const struct loop_record *record = find_ready_locked(front, number);
    if (record)
        *ret_record = *record;
    pthread_rwlock_unlock(&front->lock);
    return record;
}

static int add_ready(struct cow_front *front, const struct loop_record *record)
{
    pthread_rwlock_wrlock(&front->lock);
    int r = loop_record_vector_push(&front->ready, record);
    pthread_rwlock_unlock(&front->lock);
    if (r == 0 && record->number == 0)
        atomic_store(&front->volume_flags,
                     VOLUME_READY | (record->has_punch ? (unsigned)VOLUME_PUNCH : 0u));
    return r;
}

static void drop_ready(struct cow_front *front, uint32_t number)
{
    pthread_rwlock_wrlock(&front->lock);
    struct loop_record *record = find_ready_locked(front, number);
    if (record)
        *record = front->ready.items[--front->ready.count];
    pthread_rwlock_unlock(&front->lock);
    if (number == 0)
        atomic_store(&front->volume_flags, 0);
}

/* ---- requests ---- */

struct request {
    struct cow_front *front;
    const struct fuse_in_header *in;
    const void *arg; /* what follows the header */
    size_t arg_len;
    uint8_t *data; /* DATA_BYTES, of which the page begins; of a write what is written */
};

static int answer(const struct request *request, int error, const void *data, size_t len)
{
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof(out) + len),
        .error = error,
        .unique = request->in->unique,
    };
    struct iovec iov[] = {
        {.iov_base = &out, .iov_len = sizeof(out)},
        {.iov_base = (void *)(uintptr_t)data, .iov_len = len},
    };
    /* -ENOENT: nobody waits for it any more. */
    return writev(request->front->fd, iov, len > 0 ? 2 : 1) < 0 ? -errno : 0;
}

static int answer_error(const struct request *request, int error)
{
    return answer(request, error, NULL, 0);
}

/* What the kernel gets to know of an error of the engine. */
static int to_errno(int r)
{
    int class = r < 0 ? error_class(r) : 0;
    return class == ENOENT || class > 255 ? -EIO : -class;
}

static int finish(const struct request *request, const char *what, int r)
{
    if (r < 0 && r != -EROFS && r != -ENOENT)
        log_warning("%s failed: %s", what, error_text(r));
    return answer_error(request, to_errno(r));
}

static uint32_t number_of(const struct request *request)
{
    return (uint32_t)(request->in->nodeid - NODE_FILES);
}

static int do_init(const struct request *request)
{
    static const uint32_t wanted =
        FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS;
    const struct fuse_init_in *in = request->arg;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = MIN(in->minor, (uint32_t)FUSE_KERNEL_MINOR_VERSION),
        .max_readahead = in->max_readahead,
        .flags = in->flags & wanted,
        .max_background = MAX_BACKGROUND,
        .congestion_threshold = MAX_BACKGROUND,
        .max_write = DATA_BYTES,
        .max_pages = DATA_BYTES / PAGE_BYTES,
        .time_gran = 1,
    };
    if (in->major != FUSE_KERNEL_VERSION)
        return answer_error(request, -EPROTO);
    return answer(request, 0, &out, sizeof(out));
}

static void fill_attributes(const struct cow_front *front, uint64_t node, struct fuse_attr *attr)
{
    bool is_root = node == FUSE_ROOT_ID;
    *attr = (struct fuse_attr){
        .ino = node,
        .size = is_root ? 0 : front->size_bytes,
        .mode = is_root ? S_IFDIR | 0700 : S_IFREG | 0600,
        .nlink = 1,
        .blksize = (uint32_t)front->block_bytes,
    };
}

static int do_getattr(const struct request *request)
{
    struct fuse_attr_out out = {.attr_valid = FOR_EVER_S};
    fill_attributes(request->front, request->in->nodeid, &out.attr);
    return answer(request, 0, &out, sizeof(out));
}

/* Names are numbers of devices; whether there is such a shadow shows when it is read. */
static int do_lookup(const struct request *request)
{
    const char *name = request->arg;
    char *end = NULL;
    if (request->arg_len == 0 || name[request->arg_len - 1] != '\0' || *name < '0' || *name > '9')
        return answer_error(request, -ENOENT);
    unsigned long number = strtoul(name, &end, 10);
    if (*end != '\0' || number > UINT32_MAX || request->in->nodeid != FUSE_ROOT_ID)
        return answer_error(request, -ENOENT);
    struct fuse_entry_out out = {
        .nodeid = NODE_FILES + number, .entry_valid = FOR_EVER_S, .attr_valid = FOR_EVER_S};
    fill_attributes(request->front, out.nodeid, &out.attr);
    return answer(request, 0, &out, sizeof(out));
}

static int do_open(const struct request *request)
{
    const struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES};
    return answer(request, 0, &out, sizeof(out));
}

static int do_nothing(const struct request *request)
{
    return answer_error(request, 0);
}

/* Requests that want no answer. */
static int do_not_answer(const struct request *request _unused_)
{
    return 0;
}

static int do_statfs(const struct request *request)
{
    const uint32_t block_bytes = (uint32_t)request->front->block_bytes;
    /* The loop driver takes it for the granularity of discards. */
    const struct fuse_statfs_out out = {
        .st = {.bsize = block_bytes, .frsize = block_bytes, .namelen = 16}};
    return answer(request, 0, &out, sizeof(out));
}

static int do_read(const struct request *request)
{
    const struct fuse_read_in *in = request->arg;
    const struct cow_front *front = request->front;
    uint32_t number = number_of(request);
    if (in->size > DATA_BYTES || request->in->nodeid < NODE_FILES)
        return answer_error(request, -EINVAL);
    size_t len = in->offset >= front->size_bytes
                     ? 0
                     : (size_t)MIN((uint64_t)in->size, front->size_bytes - in->offset);
    int r = number == 0 ? cow_read(front->cow, request->data, len, in->offset)
                        : cow_shadow_read(front->cow, number, request->data, len, in->offset);
    return r < 0 ? finish(request, "a read", r) : answer(request, 0, request->data, len);
}

/* Zeros of the kernel, in the device that is being made. */
static bool is_probe(const struct request *request, const struct fuse_write_in *in)
{
    if (atomic_load(&request->front->making) != number_of(request) ||
        in->offset > LOOP_PROBE_BYTES || in->size > LOOP_PROBE_BYTES - in->offset)
        return false;
    for (size_t i = 0; i < in->size; i++)
        if (request->data[i] != 0)
            return false;
    return true;
}

static int do_write(const struct request *request)
{
    const struct fuse_write_in *in = request->arg;
    const struct fuse_write_out out = {.size = in->size};
    struct cow_front *front = request->front;
    uint32_t number = number_of(request);
    int r = 0;
    if (in->size > request->arg_len - sizeof(*in) || request->in->nodeid < NODE_FILES)
        return answer_error(request, -EINVAL);
    if (!is_ready(front, number))
        r = is_probe(request, in) ? 0 : error_note(-EIO, "device %" PRIu32 " is not ready", number);
    else
        r = number == 0 ? cow_write(front->cow, request->data, in->size, in->offset)
                        : cow_shadow_write(front->cow, number, request->data, in->size, in->offset);
    return r < 0 ? finish(request, "a write", r) : answer(request, 0, &out, sizeof(out));
}

static int do_fsync(const struct request *request)
{
    return finish(request, "a flush", cow_flush(request->front->cow));
}

static int do_fallocate(const struct request *request)
{
    const struct fuse_fallocate_in *in = request->arg;
    if (request->in->nodeid != NODE_FILES ||
        in->mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ||
        (atomic_load(&request->front->volume_flags) & VOLUME_PUNCH) == 0)
        return answer_error(request, -EOPNOTSUPP);
    return finish(request, "a discard", cow_discard(request->front->cow, in->length, in->offset));
}

struct operation {
    int (*fn)(const struct request *request);
    size_t arg_len_min;
};

/* What is not here is answered with ENOSYS, which the kernel remembers. */
static const struct operation operations[] = {
    [FUSE_INIT] = {do_init, offsetof(struct fuse_init_in, max_readahead)},
    [FUSE_GETATTR] = {do_getattr, 0},
    [FUSE_LOOKUP] = {do_lookup, 1},
    [FUSE_FORGET] = {do_not_answer, 0},
    [FUSE_BATCH_FORGET] = {do_not_answer, 0},
    [FUSE_INTERRUPT] = {do_not_answer, 0},
    [FUSE_OPEN] = {do_open, 0},
    [FUSE_OPENDIR] = {do_open, 0},
    [FUSE_READDIR] = {do_nothing, 0},
    [FUSE_RELEASE] = {do_nothing, 0},
    [FUSE_RELEASEDIR] = {do_nothing, 0},
    [FUSE_FLUSH] = {do_nothing, 0},
    [FUSE_DESTROY] = {do_nothing, 0},
    [FUSE_STATFS] = {do_statfs, 0},
    [FUSE_READ] = {do_read, sizeof(struct fuse_read_in)},
    [FUSE_WRITE] = {do_write, sizeof(struct fuse_write_in)},
    [FUSE_FSYNC] = {do_fsync, 0},
    [FUSE_FALLOCATE] = {do_fallocate, sizeof(struct fuse_fallocate_in)},
};

static int serve(const struct request *request)
{
    uint32_t opcode = request->in->opcode;
    const struct operation *operation =
        opcode < ELEMENTSOF(operations) ? &operations[opcode] : NULL;
    if (!operation || !operation->fn)
        return answer_error(request, -ENOSYS);
    if (request->arg_len < operation->arg_len_min)
        return answer_error(request, -EINVAL);
    return operation->fn(request);
}

/* ---- threads ---- */

/* A write is received as header, struct fuse_write_in, data: so that the data begin with a page. */
#define HEAD_BYTES (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define ROOM_BYTES (PAGE_BYTES + DATA_BYTES)

/* False: it is unmounted, or aborted. */
static bool serve_next(struct cow_front *front, uint8_t *room)
{
    uint8_t *buffer = room + PAGE_BYTES - HEAD_BYTES;
    (void)atomic_fetch_add(&front->idle, 1);
    ssize_t n = read(front->fd, buffer, HEAD_BYTES + DATA_BYTES);
    if (atomic_fetch_sub(&front->idle, 1) == 1 && atomic_exchange(&front->watched, false))
        (void)sem_post(&front->busy);
    /* ENOENT: it was interrupted before it got here. */
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
        return true;
    if (n < (ssize_t)sizeof(struct fuse_in_header))
        return false;
    const struct request request = {
        .front = front,
        .in = (const struct fuse_in_header *)(const void *)buffer,
        .arg = buffer + sizeof(struct fuse_in_header),
        .arg_len = (size_t)n - sizeof(struct fuse_in_header),
        .data = room + PAGE_BYTES,
    };
    int r = serve(&request);
    if (r < 0 && r != -ENOENT)
        log_warning("cannot answer a request of the kernel: %s", error_describe(r));
    return true;
}

/* With all its pages: when a thread is killed while the kernel must first find a page to copy a
 * request to, the request fails (fuse_dev_do_read()), and is not sent again. */
static uint8_t *new_room(void)
{
    void *room = mmap(NULL, ROOM_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return room == MAP_FAILED ? NULL : room;
}

static void *reader_main(void *arg)
{
    struct cow_front *front = arg;
    uint8_t *room = new_room();
    while (room && serve_next(front, room))
        ;
    if (room)
        (void)munmap(room, ROOM_BYTES);
    return NULL;
}

/*
 * A few threads keep the disk busy with less switching than many.  But requests can also wait for
 * long: for a flush that they share, or while writes are held.  So the spare threads come in when
 * nobody has been idle for a while; one of them watches.
 */
static void *spare_main(void *arg)
{
    struct cow_front *front = arg;
    uint8_t *room = new_room();
    bool goes_on = room;
    while (goes_on && !atomic_load(&front->ends)) {
        while (sem_wait(&front->busy) < 0)
            ;
        (void)usleep(BUSY_US);
        atomic_store(&front->watched, true);
        while (goes_on && !atomic_load(&front->ends) && atomic_load(&front->idle) == 0)
            goes_on = serve_next(front, room);
    }
    if (room)
        (void)munmap(room, ROOM_BYTES);
    return NULL;
}

static int start_thread(struct cow_front *front, const pthread_attr_t *attributes,
                        void *(*fn)(void *front))
{
    int r = -pthread_create(&front->threads[front->thread_count], attributes, fn, front);
    front->thread_count += r == 0;
    return r;
}

static int start_threads(struct cow_front *front)
{
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_attr_t attributes;
    int r = -pthread_attr_init(&attributes);
    if (r < 0)
        return r;
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    front->reader_count =
        MIN(MAX((size_t)MAX(processors, 1L) * 4, (size_t)READERS_MIN), (size_t)READERS_MAX);
    atomic_store(&front->watched, true);
    for (size_t i = 0; r == 0 && i < front->reader_count; i++)
        r = start_thread(front, &attributes, reader_main);
    for (size_t i = 0; r == 0 && i < SPARE_COUNT; i++)
        r = start_thread(front, &attributes, spare_main);
    (void)pthread_attr_destroy(&attributes);
    if (front->thread_count > 1) /* enough to go on with */
        return 0;
    return r < 0 ? error_note_describe(r, "cannot start a thread") : 0;
}

static void end_spare_threads(struct cow_front *front)
{
    atomic_store(&front->ends, true);
    for (size_t i = 0; i < SPARE_COUNT; i++)
        (void)sem_post(&front->busy);
}

/* ---- in the keeper ---- */

static void mount_path(const char *run_dir, char path[PATH_LEN_MAX])
{
    (void)snprintf(path, PATH_LEN_MAX, "%s/" LOOP_MOUNT_NAME, run_dir);
}

static int fuse_probe(void)
{
    static const char *const needed[] = {"/dev/fuse", "/dev/loop-control"};
    for (size_t i = 0; i < ELEMENTSOF(needed); i++) {
        CLEANUP_CLOSE int fd = open(needed[i], O_RDWR | O_CLOEXEC);
        if (fd < 0)
            return error_note(-EOPNOTSUPP, "cannot open '%s': %s", needed[i],
                              error_describe(-errno));
    }
    return 0;
}

static int fuse_hold(const char *run_dir, int *ret_fd)
{
    char path[PATH_LEN_MAX], options[128];
    int r = loop_clear_stale(run_dir);
    if (r < 0)
        return r;
    mount_path(run_dir, path);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make '%s'", path);
    CLEANUP_CLOSE int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open /dev/fuse");
    (void)snprintf(options, sizeof(options), MOUNT_OPTIONS, fd);
    if (mount("umbra", path, "fuse", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME, options) < 0)
        return error_note_describe(-errno, "cannot mount a FUSE file system at '%s'", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static void fuse_release(const char *run_dir)
{
    char path[PATH_LEN_MAX];
    mount_path(run_dir, path);
    int r = loop_clear_stale(run_dir);
    if (r < 0)
        log_warning("%s", error_text(r));
    (void)rmdir(path);
}

/* ---- in the worker ---- */

static void front_free(struct cow_front *front)
{
    loop_record_vector_release(&front->ready);
    (void)pthread_rwlock_destroy(&front->lock);
    (void)sem_destroy(&front->busy);
    free(front->run_dir);
    free(front);
}
DEFINE_CLEANUP_PTR(struct cow_front *, front_free);

static int take_records(struct cow_front *front)
{
    CLEANUP(loop_record_vector_release) struct loop_record_vector records = {0};
    int r = loop_records_read(front->run_dir, &records);
    for (size_t i = 0; i < records.count && r == 0; i++)
        r = add_ready(front, &records.items[i]);
    return r;
}

static int resend(const struct cow_front *front)
{
    const struct fuse_out_header out = {.len = sizeof(out), .error = NOTIFY_RESEND};
    if (write(front->fd, &out, sizeof(out)) == (ssize_t)sizeof(out))
        return 0;
    return error_note_describe(-errno, "cannot take over from a worker that died (this needs "
                                       "Linux 6.9)");
}

static int fuse_start(const struct cow_front_place *place, struct cow_front **ret_front)
{
    struct cow_stat stat;
    CLEANUP(front_freep) struct cow_front *front = calloc(1, sizeof(*front));
    if (!front || pthread_rwlock_init(&front->lock, NULL) != 0)
        return -ENOMEM;
    (void)sem_init(&front->busy, 0, 0);
    cow_stat(place->cow, &stat);
    atomic_init(&front->making, NO_DEVICE);
    front->cow = place->cow;
    front->fd = place->held_fd;
    front->size_bytes = stat.origin_bytes;
    front->block_bytes = stat.block_bytes;
    front->sector_bytes = place->sector_bytes;
    front->run_dir = strdup(place->run_dir);
    int r = front->run_dir ? take_records(front) : -ENOMEM;
    if (r == 0 && place->is_return)
        r = resend(front);
    if (r == 0)
        r = start_threads(front);
    if (r < 0)
        return r;
    struct cow_front *started = TAKE_PTR(front); /* its threads run */
    if (place->is_return && loop_tidy(started->run_dir) < 0)
        log_warning("cannot remove a device that a worker had begun with");
    *ret_front = started;
    return 0;
}

static int fuse_add(struct cow_front *front, uint32_t number, bool read_only,
                    char ret_device[COW_DEVICE_MAX])
{
    struct loop_record record;
    int r = 0;
    if (!find_ready(front, number, &record)) {
        atomic_store(&front->making, number);
        r = loop_add(front->run_dir, number, read_only, front->sector_bytes, &record);
        if (r == 0)
            r = add_ready(front, &record);
        atomic_store(&front->making, NO_DEVICE);
    }
    if (r == 0)
        memcpy(ret_device, record.device, COW_DEVICE_MAX);
    return r;
}

static int on_device(struct cow_front *front, uint32_t number,
                     int (*fn)(const char *run_dir, const struct loop_record *record))
{
    struct loop_record record;
    if (!find_ready(front, number, &record))
        return error_note(-ENOENT, "there is no such device");
    return fn(front->run_dir, &record);
}

static int fuse_remove(struct cow_front *front, uint32_t number)
{
    int r = on_device(front, number, loop_remove);
    if (r == 0)
        drop_ready(front, number);
    return r;
}

static int fuse_check_free(struct cow_front *front, uint32_t number)
{
    return on_device(front, number, loop_check_free);
}

static int fuse_seal(struct cow_front *front, uint32_t number)
{
    return on_device(front, number, loop_seal);
}

static void fuse_stop(struct cow_front *front)
{
    struct timespec until;
    int r = loop_unmount(front->run_dir);
    if (r < 0)
        log_warning("%s", error_text(r));
    end_spare_threads(front);
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_TIME_S;
    for (size_t i = 0; i < front->thread_count; i++)
        if (pthread_timedjoin_np(front->threads[i], NULL, &until) != 0)
            return; /* somebody still uses the mount; the process ends now, and with it the rest */
    front_free(front);
}

const struct cow_front_ops cow_front_fuse = {
    .name = "fuse",
    .probe = fuse_probe,
    .hold = fuse_hold,
    .release = fuse_release,
    .start = fuse_start,
    .add = fuse_add,
    .remove = fuse_remove,
    .check_free = fuse_check_free,
    .seal = fuse_seal,
    .stop = fuse_stop,
};
