/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hydrator that the tests play: fills whole files, in order of the requests. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/macro.h"
#include "basic/test.h"
#include "gated-private.h"

#define HELD_MAX 20000u

static struct filter_request held[HELD_MAX];
static uint32_t held_count;

uint8_t gated_byte(uint64_t ordinal, uint64_t offset)
{
    uint64_t x = ordinal * 1000003 + offset / 8 + 1;
    uint64_t word = x * UINT64_C(0x9e3779b97f4a7c15);
    return (uint8_t)(word >> (8 * (offset % 8))) | 1; /* never zero */
}

int gated_make_at(int dir_fd, const char *path, uint64_t ordinal, uint64_t len, unsigned pause_us)
{
    struct pending pending = {
        .restore_id = GATED_RESTORE_ID, .ordinal = ordinal, .valid_bytes = len};

    CLEANUP_CLOSE int fd = openat(dir_fd, path, O_RDWR | O_CREAT | O_CLOEXEC, 0755);
    if (fd < 0)
        return -errno;
    (void)usleep(pause_us);
    int r = pending_set(fd, &pending);
    (void)usleep(pause_us);
    if (r >= 0 && ftruncate(fd, (off_t)len) < 0)
        r = -errno;
    return r;
}

static void make(struct gated_control *control)
{
    uint32_t ordinal = atomic_load(&control->make);
    char name[16];

    (void)snprintf(name, sizeof(name), "%u", ordinal);
    if (gated_make_at(HYDRATOR_TREE_FD, name, ordinal, 4000, 300) < 0)
        _exit(6);
    atomic_store(&control->make, 0);
}

static int open_handle(const struct filter_handle *handle)
{
    union {
        struct file_handle header;
        uint8_t room[sizeof(struct file_handle) + FILTER_HANDLE_MAX];
    } h = {.header.handle_bytes = handle->len, .header.handle_type = handle->type};

    memcpy(h.room + sizeof(struct file_handle), handle->bytes, handle->len);
    int fd = open_by_handle_at(HYDRATOR_TREE_FD, &h.header, O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int fill_program(int fd, void *data, size_t size)
{
    CLEANUP_CLOSE int from = open("/bin/true", O_RDONLY | O_CLOEXEC);
    ssize_t n;

    for (off_t at = 0; (n = pread(from, data, size, at)) > 0; at += n)
        if (pwrite(fd, data, (size_t)n, at) != n)
            return -errno;
    return n < 0 ? -errno : pending_remove(fd);
}

static int fill(int fd, const struct pending *pending)
{
    static uint8_t data[1 << 16];
    struct stat st;

    if (pending->ordinal == GATED_PROGRAM)
        return fill_program(fd, data, sizeof(data));
    if (fstat(fd, &st) < 0)
        return -errno;
    uint64_t end = MIN(pending->valid_bytes, (uint64_t)st.st_size);
    for (uint64_t at = 0; at < end;) {
        size_t n = (size_t)MIN(end - at, (uint64_t)sizeof(data));
        for (size_t i = 0; i < n; i++)
            data[i] = gated_byte(pending->ordinal, at + i);
        if (pwrite(fd, data, n, (off_t)at) != (ssize_t)n)
            return -errno;
        at += n;
    }
    return pending_remove(fd);
}

static int hydrate(const struct filter_request *request)
{
    struct pending pending;

    CLEANUP_CLOSE int fd = open_handle(&request->handle);
    if (fd < 0)
        return fd;
    int r = pending_get(fd, &pending, NULL);
    if (r == -ENODATA)
        return 0;
    return r < 0 ? r : fill(fd, &pending);
}

static void answer(const struct filter_request *request, int error)
{
    const struct filter_answer a = {
        .kind = FILTER_ANSWER,
        .slot = request->slot,
        .sequence = request->sequence,
        .error = error,
    };
    if (send(HYDRATOR_CHANNEL_FD, &a, sizeof(a), MSG_NOSIGNAL) != (ssize_t)sizeof(a))
        _exit(3);
}

static bool is_passed(const struct gated_control *control, const struct filter_request *request)
{
    uint32_t lazy = atomic_load(&control->lazy);

    if (request->event == FILTER_TRUNCATE)
        return true;
    return request->event == FILTER_OPEN && lazy > 0 && (lazy == 1 || request->sequence % 2 == 0);
}

static void serve(struct gated_control *control, const struct filter_request *request)
{
    uint32_t error = atomic_load(&control->error);

    if (atomic_load(&control->delay_us) > 0)
        (void)usleep(atomic_load(&control->delay_us));
    if (error == 0 && !is_passed(control, request)) {
        int r = hydrate(request);
        error = r < 0 ? (uint32_t)-r : 0;
    }
    answer(request, (int)error);
}

static void take_request(struct gated_control *control)
{
    struct filter_request request;

    ssize_t n = recv(HYDRATOR_CHANNEL_FD, &request, sizeof(request), 0);
    if (n == 0)
        (void)pause(); /* as long as this process lives, the group is open, and readers wait */
    if (n != (ssize_t)sizeof(request))
        _exit(4);
    if (request.event < ELEMENTSOF(control->asked))
        (void)atomic_fetch_add(&control->asked[request.event], 1);
    control->last = request;
    if (atomic_load(&control->hold) && held_count < HELD_MAX)
        held[held_count++] = request;
    else
        serve(control, &request);
}

static void finish(struct gated_control *control)
{
    const struct filter_answer a = {.kind = FILTER_FINISH};

    (void)close(HYDRATOR_GROUP_FD);
    if (send(HYDRATOR_CHANNEL_FD, &a, sizeof(a), MSG_NOSIGNAL) != (ssize_t)sizeof(a))
        _exit(5);
    atomic_store(&control->finished, 1);
    _exit(0);
}

int gated_be_hydrator(void)
{
    struct gated_control *control =
        mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, HYDRATOR_CONFIG_FD, 0);
    struct pollfd channel = {.fd = HYDRATOR_CHANNEL_FD, .events = POLLIN};

    if (control == MAP_FAILED || prctl(PR_SET_NAME, "test-hydrator") < 0)
        return 2;
    (void)atomic_fetch_add(&control->starts, 1);
    for (;;) {
        if (atomic_load(&control->exit_now)) {
            atomic_store(&control->exit_now, 0);
            return 0;
        }
        if (!atomic_load(&control->hold))
            while (held_count > 0)
                serve(control, &held[--held_count]);
        if (atomic_load(&control->make) > 0)
            make(control);
        if (atomic_load(&control->finish))
            finish(control);
        if (poll(&channel, 1, 2) > 0)
            take_request(control);
    }
}
