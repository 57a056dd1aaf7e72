/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A ublk device: its queues, and how it comes and goes.
 *
 *     kernel --- command done ---> queue's thread --- request ---> thread of the server
 *            <-- commit and fetch ---             <-- eventfd ---
 *
 * For each tag of a queue one command is with the kernel, or its request is with us.  A command
 * that is done is a request; the command that says its result fetches the next one.
 *
 * Invariants
 *  1. Commands of a queue come from its thread alone; the kernel insists on that.
 *  2. A queue's thread waits for nothing but its ring.
 *  3. That thread has no CAP_SYS_ADMIN when it fetches: the kernel does not look for partitions
 * then on a device of ours.  It would read from it with a lock held that taking the device over
 *     needs, too: who is killed at that moment would leave it locked for ever.
 *  4. No child of ours has a copy of the maps of a ring or of /dev/ublkcN: they are open as long as
 *     one exists, and nobody could take the device over.
 */
#include "cow/ublk-device.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <limits.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "basic/error.h"
#include "basic/log.h"

#define SECTOR_SHIFT   9u
#define EVENT          UINT64_MAX /* user_data of the read of the eventfd; of others: the tag */
#define STACK_BYTES    ((size_t)256 << 10)
#define PATH_LEN       32u
#define CHAR_DEVICE    "/dev/ublkc%" PRIu32
#define POLL_MS        5u
#define DEATH_LIMIT_MS 60000u
#define PAGE_BYTES     ((size_t)4096)

/* A request of a tag, while it is with us. */
struct slot {
    struct cow_request request;
    struct queue *queue;
    uint16_t tag;
    struct slot *next; /* in the queue's list of what is done */
};

struct queue {
    struct ublk_device *device;
    uint16_t index;
    pthread_t thread;
    struct io_uring ring;
    const struct ublksrv_io_desc *descs; /* what the requests are; the kernel's */
    unsigned live;                       /* tags that still work */
    uint64_t event_count;                /* read from event_fd; of no interest */
    int event_fd;
    int result; /* of its step; guarded by device->lock */

    pthread_mutex_t lock; /* of done, and of signalling it */
    struct slot *done;
    struct slot *slots;
};

enum step { STEP_OPEN, STEP_FETCH, STEP_GIVE_UP };

struct ublk_device {
    struct ublk_device_place place;
    uint32_t id;
    unsigned queue_count, depth;
    size_t descs_bytes;
    int fd; /* /dev/ublkcN */

    pthread_mutex_t lock; /* of the next three */
    pthread_cond_t changed;
    enum step step;
    unsigned arrived;

    unsigned thread_count;
    struct queue queues[];
};

/* ---- what is done, in threads of the server ---- */

static off_t data_position(const struct slot *slot)
{
    return UBLKSRV_IO_BUF_OFFSET + ((off_t)slot->queue->index << UBLK_QID_OFF) +
           ((off_t)slot->tag << UBLK_TAG_OFF);
}

static int moved(ssize_t n, const struct slot *slot)
{
    if (n == (ssize_t)slot->request.len)
        return 0;
    return error_note_describe(n < 0 ? -errno : -EIO, "cannot get at the data of a request");
}

static int get_data(struct cow_request *request, void *data)
{
    const struct slot *slot = CONTAINER_OF(request, struct slot, request);
    return moved(pread(slot->queue->device->fd, data, (size_t)request->len, data_position(slot)),
                 slot);
}

static int put_data(struct cow_request *request, const void *data)
{
    const struct slot *slot = CONTAINER_OF(request, struct slot, request);
    return moved(pwrite(slot->queue->device->fd, data, (size_t)request->len, data_position(slot)),
                 slot);
}

/* All under the lock, so that the queue is not gone before we are out of here (queue_close). */
static void request_done(struct cow_request *request)
{
    static const uint64_t one = 1;
    struct slot *slot = CONTAINER_OF(request, struct slot, request);
    struct queue *queue = slot->queue;
    pthread_mutex_lock(&queue->lock);
    const bool is_first = !queue->done;
    slot->next = queue->done;
    queue->done = slot;
    if (is_first)
        IGNORE_RESULT(write(queue->event_fd, &one, sizeof(one)));
    pthread_mutex_unlock(&queue->lock);
}

static const struct cow_request_ops request_ops = {
    .get = get_data,
    .put = put_data,
    .done = request_done,
};

/* ---- the commands of a queue ---- */

/* There is room for one command of each tag, and the event. */
static void put_command(struct queue *queue, unsigned op, uint16_t tag, int result)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
    const struct ublksrv_io_cmd cmd = {.q_id = queue->index, .tag = tag, .result = result};
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, queue->device->fd, NULL, 0, 0);
    sqe->cmd_op = op;
    sqe->user_data = tag;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static void put_event_read(struct queue *queue)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
    io_uring_prep_read(sqe, queue->event_fd, &queue->event_count, sizeof(queue->event_count), 0);
    sqe->user_data = EVENT;
}

static void commit(struct queue *queue, const struct slot *slot)
{
    const struct cow_request *request = &slot->request;
    const bool has_data = request->kind == COW_REQUEST_READ || request->kind == COW_REQUEST_WRITE;
    int result = request->result < 0 ? request->result : has_data ? (int)request->len : 0;
    put_command(queue, UBLK_U_IO_COMMIT_AND_FETCH_REQ, slot->tag, result);
}

static void commit_all_done(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    const struct slot *slot = queue->done;
    queue->done = NULL;
    pthread_mutex_unlock(&queue->lock);
    while (slot) {
        const struct slot *next = slot->next; /* the tag may come again at once */
        commit(queue, slot);
        slot = next;
    }
}

static bool kind_of(const struct ublksrv_io_desc *desc, enum cow_request_kind *ret_kind)
{
    switch (ublksrv_get_op(desc)) {
    case UBLK_IO_OP_READ: *ret_kind = COW_REQUEST_READ; return true;
    case UBLK_IO_OP_WRITE: *ret_kind = COW_REQUEST_WRITE; return true;
    case UBLK_IO_OP_FLUSH: *ret_kind = COW_REQUEST_FLUSH; return true;
    case UBLK_IO_OP_DISCARD: *ret_kind = COW_REQUEST_DISCARD; return true;
    default: return false;
    }
}

static void take_request(struct queue *queue, struct slot *slot)
{
    const struct ublksrv_io_desc *desc = &queue->descs[slot->tag];
    struct cow_request *request = &slot->request;
    *request = (struct cow_request){
        .ops = &request_ops,
        .force_unit_access = (desc->op_flags & UBLK_IO_F_FUA) != 0,
        .number = queue->device->place.number,
        .offset = desc->start_sector << SECTOR_SHIFT,
        .len = (uint64_t)desc->nr_sectors << SECTOR_SHIFT,
    };
    if (kind_of(desc, &request->kind)) {
        cow_server_submit(queue->device->place.server, request);
        return;
    }
    request->result = -EOPNOTSUPP;
    commit(queue, slot);
}

static void take_completion(struct queue *queue, const struct io_uring_cqe *cqe)
{
    if (cqe->user_data == EVENT) {
        put_event_read(queue);
        commit_all_done(queue);
    } else if (cqe->res == UBLK_IO_RES_OK) {
        take_request(queue, &queue->slots[cqe->user_data]);
    } else {
        queue->live--;
        if (cqe->res != UBLK_IO_RES_ABORT)
            log_error("ublk device %" PRIu32 ": a command failed: %s", queue->device->id,
                      error_describe(cqe->res));
    }
}

static unsigned take_completions(struct queue *queue)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&queue->ring, head, cqe)
    {
        take_completion(queue, cqe);
        count++;
    }
    io_uring_cq_advance(&queue->ring, count);
    return count;
}

static void serve(struct queue *queue)
{
    while (queue->live > 0) {
        int r = io_uring_submit_and_wait(&queue->ring, 1);
        if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
            log_error("ublk device %" PRIu32 ": io_uring: %s", queue->device->id,
                      error_describe(r));
            abort(); /* the next worker can serve it; nobody else can */
        }
        (void)take_completions(queue);
    }
}

/* ---- the thread of a queue ---- */

static int drop_admin(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &= ~CAP_TO_MASK(CAP_SYS_ADMIN);
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static void queue_close(struct queue *queue)
{
    io_uring_queue_exit(&queue->ring);
    pthread_mutex_lock(&queue->lock); /* whoever signals has done so */
    (void)close(queue->event_fd);
    pthread_mutex_unlock(&queue->lock);
}

static int queue_open(struct queue *queue)
{
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    queue->event_fd = eventfd(0, EFD_CLOEXEC);
    if (queue->event_fd < 0)
        return -errno;
    int r = io_uring_queue_init_params(queue->device->depth + 1, &queue->ring, &params);
    if (r < 0) {
        (void)close(queue->event_fd);
        return r;
    }
    r = io_uring_ring_dontfork(&queue->ring);
    if (r == 0)
        r = drop_admin();
    if (r < 0)
        queue_close(queue);
    return r;
}

/* What the kernel refuses is answered at once; nothing else is, before the device is started. */
static int fetch_all(struct queue *queue)
{
    const unsigned depth = queue->device->depth;
    for (unsigned tag = 0; tag < depth; tag++)
        put_command(queue, UBLK_U_IO_FETCH_REQ, (uint16_t)tag, 0);
    put_event_read(queue);
    int r = io_uring_submit(&queue->ring);
    if (r < 0)
        return r;
    queue->live = depth;
    return take_completions(queue) > 0 ? -EIO : 0;
}

/* Says what came of a step; before the first one it waits for what comes next. */
static enum step next_step(struct queue *queue, int result)
{
    struct ublk_device *device = queue->device;
    pthread_mutex_lock(&device->lock);
    queue->result = result;
    device->arrived++;
    pthread_cond_broadcast(&device->changed);
    while (device->step == STEP_OPEN)
        pthread_cond_wait(&device->changed, &device->lock);
    enum step step = device->step;
    pthread_mutex_unlock(&device->lock);
    return step;
}

static void *queue_main(void *arg)
{
    struct queue *queue = arg;
    int r = queue_open(queue);
    const bool is_open = r == 0;
    if (next_step(queue, r) == STEP_FETCH) {
        r = fetch_all(queue);
        (void)next_step(queue, r);
        serve(queue);
    }
    if (is_open)
        queue_close(queue);
    return NULL;
}

/* ---- all queues ---- */

static int await_all(struct ublk_device *device)
{
    int r = 0;
    pthread_mutex_lock(&device->lock);
    while (device->arrived < device->thread_count)
        pthread_cond_wait(&device->changed, &device->lock);
    for (unsigned i = 0; i < device->thread_count && r == 0; i++)
        r = device->queues[i].result;
    pthread_mutex_unlock(&device->lock);
    return r < 0 ? error_note_describe(r, "cannot set up a queue of a ublk device") : 0;
}

static void set_step(struct ublk_device *device, enum step step)
{
    pthread_mutex_lock(&device->lock);
    device->step = step;
    device->arrived = 0;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

static void join_all(struct ublk_device *device)
{
    while (device->thread_count > 0)
        (void)pthread_join(device->queues[--device->thread_count].thread, NULL);
}

static int start_threads(struct ublk_device *device)
{
    pthread_attr_t attributes;
    int r = -pthread_attr_init(&attributes);
    if (r < 0)
        return r;
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    while (r == 0 && device->thread_count < device->queue_count) {
        struct queue *queue = &device->queues[device->thread_count];
        r = -pthread_create(&queue->thread, &attributes, queue_main, queue);
        device->thread_count += r == 0;
    }
    (void)pthread_attr_destroy(&attributes);
    return r < 0 ? error_note_describe(r, "cannot start a thread") : await_all(device);
}

static void device_free(struct ublk_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        struct queue *queue = &device->queues[i];
        if (queue->descs)
            (void)munmap((void *)(uintptr_t)queue->descs, device->descs_bytes);
        free(queue->slots);
        (void)pthread_mutex_destroy(&queue->lock);
    }
    cleanup_closep(&device->fd);
    (void)pthread_cond_destroy(&device->changed);
    (void)pthread_mutex_destroy(&device->lock);
    free(device);
}

static void give_up(struct ublk_device *device)
{
    set_step(device, STEP_GIVE_UP);
    join_all(device);
    device_free(device);
}

static int queue_init(struct ublk_device *device, unsigned index)
{
    struct queue *queue = &device->queues[index];
    queue->device = device;
    queue->index = (uint16_t)index;
    queue->slots = calloc(device->depth, sizeof(*queue->slots));
    for (unsigned tag = 0; tag < device->depth && queue->slots; tag++) {
        queue->slots[tag].queue = queue;
        queue->slots[tag].tag = (uint16_t)tag;
    }
    return queue->slots ? 0 : -ENOMEM;
}

/* With threads that only wait to fetch. */
static int device_new(const struct ublk_device_place *place,
                      const struct ublksrv_ctrl_dev_info *info, struct ublk_device **ret_device)
{
    struct ublk_device *device =
        calloc(1, sizeof(*device) + info->nr_hw_queues * sizeof(device->queues[0]));
    if (!device)
        return -ENOMEM;
    device->place = *place;
    device->id = info->dev_id;
    device->fd = -EBADF;
    device->queue_count = info->nr_hw_queues;
    device->depth = info->queue_depth;
    device->descs_bytes =
        (device->depth * sizeof(struct ublksrv_io_desc) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    (void)pthread_mutex_init(&device->lock, NULL);
    (void)pthread_cond_init(&device->changed, NULL);
    int r = 0;
    for (unsigned i = 0; i < device->queue_count; i++) {
        (void)pthread_mutex_init(&device->queues[i].lock, NULL);
        if (r == 0)
            r = queue_init(device, i);
    }
    if (r == 0)
        r = start_threads(device);
    if (r < 0) {
        give_up(device);
        return r;
    }
    *ret_device = device;
    return 0;
}

static int map_descs(struct ublk_device *device, struct queue *queue)
{
    static const size_t queue_bytes = UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc);
    void *descs = mmap(NULL, device->descs_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, device->fd,
                       UBLKSRV_CMD_BUF_OFFSET + (off_t)(queue->index * queue_bytes));
    if (descs == MAP_FAILED)
        return -errno;
    queue->descs = descs;
    return madvise(descs, device->descs_bytes, MADV_DONTFORK) < 0 ? -errno : 0;
}

/* From here on the kernel takes us for its server. */
static int fetch(struct ublk_device *device)
{
    char path[PATH_LEN];
    (void)snprintf(path, sizeof(path), CHAR_DEVICE, device->id);
    device->fd = open(path, O_RDWR | O_CLOEXEC);
    int r = device->fd < 0 ? -errno : 0;
    for (unsigned i = 0; i < device->queue_count && r == 0; i++)
        r = map_descs(device, &device->queues[i]);
    if (r < 0)
        return error_note_describe(r, "cannot open '%s'", path);
    set_step(device, STEP_FETCH);
    return await_all(device);
}

/* ---- how it comes ---- */

int ublk_device_make(const struct ublk_device_place *place,
                     const struct ublksrv_ctrl_dev_info *info, const struct ublk_params *params,
                     struct ublk_device **ret_device)
{
    struct ublksrv_ctrl_dev_info made = *info;
    struct ublk_device *device;
    struct error_report why = {0};
    int r = ublk_control_add(place->control, &made);
    if (r < 0)
        return r;
    r = ublk_control_set_params(place->control, made.dev_id, params);
    if (r == 0)
        r = device_new(place, &made, &device);
    if (r < 0) {
        error_save(&why, r);
        IGNORE_RESULT(ublk_control_delete(place->control, made.dev_id));
        return error_raise(&why);
    }
    r = fetch(device);
    if (r == 0)
        r = ublk_control_start(place->control, made.dev_id);
    if (r < 0) {
        error_save(&why, r);
        IGNORE_RESULT(ublk_device_end(device));
        return error_raise(&why);
    }
    *ret_device = device;
    return 0;
}

static void note_path(const char *run_dir, uint32_t id, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%s/taking-over-%" PRIu32, run_dir, id);
}

static int put_note(const char *run_dir, uint32_t id)
{
    char path[PATH_MAX];
    note_path(run_dir, id, path);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? error_note_describe(-errno, "cannot make '%s'", path) : 0;
}

static bool has_note(const char *run_dir, uint32_t id)
{
    char path[PATH_MAX];
    note_path(run_dir, id, path);
    return access(path, F_OK) == 0;
}

static void remove_note(const char *run_dir, uint32_t id)
{
    char path[PATH_MAX];
    note_path(run_dir, id, path);
    (void)unlink(path);
}

/* Whether the kernel is done with the dead process, and would let somebody take the device over. */
static int is_abandoned(const struct ublk_device *device)
{
    struct ublksrv_ctrl_dev_info info;
    char path[PATH_LEN];
    int r = ublk_control_get_info(device->place.control, device->id, &info);
    if (r < 0)
        return r;
    (void)snprintf(path, sizeof(path), CHAR_DEVICE, device->id);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC); /* one at a time */
    if (fd < 0 && errno != EBUSY)
        return error_note_describe(-errno, "cannot open '%s'", path);
    return fd >= 0 && info.state == UBLK_S_DEV_QUIESCED;
}

/* Nobody tells us when. */
static int await_abandoned(const struct ublk_device *device)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    for (unsigned waited_ms = 0; waited_ms < DEATH_LIMIT_MS; waited_ms += POLL_MS) {
        int r = is_abandoned(device);
        if (r != 0)
            return r < 0 ? r : 0;
        (void)nanosleep(&pause, NULL);
    }
    return error_note(-ETIMEDOUT,
                      "the process that served the ublk device %" PRIu32 " has not ended for %u s",
                      device->id, DEATH_LIMIT_MS / 1000);
}

/* As short as can be: whoever dies in here takes the device along. */
static int recover(struct ublk_device *device, const char *run_dir)
{
    int r = put_note(run_dir, device->id);
    if (r < 0)
        return r;
    r = ublk_control_start_recovery(device->place.control, device->id);
    if (r == -EBUSY) {
        remove_note(run_dir, device->id);
        return r;
    }
    if (r == 0)
        r = fetch(device);
    remove_note(run_dir, device->id);
    if (r == 0)
        r = ublk_control_end_recovery(device->place.control, device->id);
    return r < 0 ? error_note(-UMBRA_E_CHANGED, "%s", error_text(r)) : 0;
}

int ublk_device_take_over(const struct ublk_device_place *place, const char *run_dir,
                          const struct ublksrv_ctrl_dev_info *info, struct ublk_device **ret_device)
{
    struct ublk_device *device;
    struct error_report why = {0};
    if (has_note(run_dir, info->dev_id))
        return error_note(-UMBRA_E_CHANGED, "who took over the ublk device %u died on the way",
                          info->dev_id);
    int r = device_new(place, info, &device);
    if (r < 0)
        return r;
    r = await_abandoned(device);
    if (r == 0)
        r = recover(device, run_dir);
    if (r == 0) {
        *ret_device = device;
        return 0;
    }
    error_save(&why, r);
    if (r == -UMBRA_E_CHANGED) /* its threads end when it is stopped */
        IGNORE_RESULT(ublk_control_stop(place->control, info->dev_id));
    give_up(device);
    return error_raise(&why);
}

uint32_t ublk_device_id(const struct ublk_device *device)
{
    return device->id;
}

/* ---- how it goes ---- */

int ublk_device_end(struct ublk_device *device)
{
    struct ublk_control *control = device->place.control;
    const uint32_t id = device->id;
    int r = ublk_control_stop(control, id);
    if (r < 0)
        return r;
    give_up(device); /* those that wait to fetch; others end by themselves */
    return ublk_control_delete(control, id);
}

int ublk_device_clear(struct ublk_control *control, const char *run_dir, uint32_t id)
{
    int r = ublk_control_stop(control, id);
    if (r == 0)
        r = ublk_control_delete(control, id);
    remove_note(run_dir, id);
    return r;
}
