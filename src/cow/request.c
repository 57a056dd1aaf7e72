/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/request.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "basic/error.h"
#include "basic/log.h"

struct cow_server {
    struct cow *cow;
    struct pool *pool;
    uint8_t *room; /* of all buffers */
    size_t room_bytes, buffer_bytes;
    pthread_mutex_t lock;
    /* Buffers that are free; what was used last is given out first, so that few are touched. */
    unsigned free_count;
    void *free[];
};

/* There are as many buffers as threads. */
static void *take_buffer(struct cow_server *server)
{
    pthread_mutex_lock(&server->lock);
    void *buffer = server->free[--server->free_count];
    pthread_mutex_unlock(&server->lock);
    return buffer;
}

static void give_buffer(struct cow_server *server, void *buffer)
{
    pthread_mutex_lock(&server->lock);
    server->free[server->free_count++] = buffer;
    pthread_mutex_unlock(&server->lock);
}

static int do_read(struct cow_request *request, void *buffer)
{
    struct cow *cow = request->server->cow;
    size_t len = (size_t)request->len;
    int r = request->number == 0
                ? cow_read(cow, buffer, len, request->offset)
                : cow_shadow_read(cow, request->number, buffer, len, request->offset);
    return r < 0 ? r : request->ops->put(request, buffer);
}

static int do_write(struct cow_request *request, void *buffer)
{
    struct cow *cow = request->server->cow;
    size_t len = (size_t)request->len;
    int r = request->ops->get(request, buffer);
    if (r < 0)
        return r;
    if (request->number != 0) /* durable when it returns */
        return cow_shadow_write(cow, request->number, buffer, len, request->offset);
    r = cow_write(cow, buffer, len, request->offset);
    return r == 0 && request->force_unit_access ? cow_flush(cow) : r;
}

static int transfer(struct cow_request *request)
{
    struct cow_server *server = request->server;
    if (request->len > server->buffer_bytes)
        return error_note(-EINVAL, "a request of %llu bytes", (unsigned long long)request->len);
    void *buffer = take_buffer(server);
    int r =
        request->kind == COW_REQUEST_READ ? do_read(request, buffer) : do_write(request, buffer);
    give_buffer(server, buffer);
    return r;
}

static int execute(struct cow_request *request)
{
    struct cow *cow = request->server->cow;
    switch (request->kind) {
    case COW_REQUEST_READ:
    case COW_REQUEST_WRITE: return transfer(request);
    case COW_REQUEST_FLUSH: return request->number == 0 ? cow_flush(cow) : 0;
    case COW_REQUEST_DISCARD:
        return request->number == 0 ? cow_discard(cow, request->len, request->offset) : -EOPNOTSUPP;
    }
    return -EOPNOTSUPP;
}

/* A shadow that is gone is not a thing that the kernel has a word for. */
static int to_errno(int r)
{
    int class = r < 0 ? error_class(r) : 0;
    return class == ENOENT ? -EIO : -class;
}

static void run(struct pool_task *task)
{
    static const char *const names[] = {
        [COW_REQUEST_READ] = "read",
        [COW_REQUEST_WRITE] = "write",
        [COW_REQUEST_FLUSH] = "flush",
        [COW_REQUEST_DISCARD] = "discard",
    };
    struct cow_request *request = CONTAINER_OF(task, struct cow_request, task);
    int r = execute(request);
    if (r < 0 && r != -EROFS && r != -ENOENT && r != -EOPNOTSUPP)
        log_warning("a %s failed: %s", names[request->kind], error_text(r));
    request->result = to_errno(r);
    request->ops->done(request);
}

static int make_buffers(struct cow_server *server, unsigned count)
{
    server->room_bytes = count * server->buffer_bytes;
    void *room = mmap(NULL, server->room_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return -errno;
    server->room = room;
    for (unsigned i = 0; i < count; i++)
        server->free[i] = server->room + (size_t)(count - 1 - i) * server->buffer_bytes;
    server->free_count = count;
    return 0;
}

int cow_server_new(struct cow *cow, unsigned threads, size_t buffer_bytes,
                   struct cow_server **ret_server)
{
    CLEANUP(cow_server_freep)
    struct cow_server *server = calloc(1, sizeof(*server) + threads * sizeof(server->free[0]));
    if (!server || pthread_mutex_init(&server->lock, NULL) != 0) {
        free(TAKE_PTR(server));
        return -ENOMEM;
    }
    server->cow = cow;
    server->buffer_bytes = buffer_bytes;
    int r = make_buffers(server, threads);
    if (r == 0)
        r = pool_new(threads, &server->pool);
    if (r < 0)
        return r;
    *ret_server = TAKE_PTR(server);
    return 0;
}

void cow_server_free(struct cow_server *server)
{
    if (!server)
        return;
    pool_free(server->pool);
    if (server->room)
        (void)munmap(server->room, server->room_bytes);
    (void)pthread_mutex_destroy(&server->lock);
    free(server);
}

void cow_server_submit(struct cow_server *server, struct cow_request *request)
{
    request->server = server;
    request->task.run = run;
    pool_submit(server->pool, &request->task, POOL_NORMAL);
}
