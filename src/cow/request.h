/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of a block device, done by threads: the engine's calls return when all is done, and a
 * front end has many requests at the same time.
 *
 * A front end fills in a request, submits it, and is told when it is done.  What a request reads or
 * writes is in a buffer of the thread; the front end moves it from there and to there.  Requests
 * may finish in any order.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"
#include "basic/pool.h"
#include "cow/cow.h"

enum cow_request_kind {
    COW_REQUEST_READ,
    COW_REQUEST_WRITE,
    COW_REQUEST_FLUSH,
    COW_REQUEST_DISCARD,
};

struct cow_request;

/* All are called in a thread of the server.  0, or negative errno, which is the result then. */
struct cow_request_ops {
    int (*get)(struct cow_request *request, void *data); /* of a write, what is to be written */
    int (*put)(struct cow_request *request, const void *data); /* of a read, what was read */
    void (*done)(struct cow_request *request);                 /* may free it, or submit it again */
};

struct cow_request {
    const struct cow_request_ops *ops;
    enum cow_request_kind kind;
    bool force_unit_access; /* a write that is durable when it is done */
    uint32_t number;        /* 0: the volume, N: its shadow N */
    uint64_t offset, len;   /* bytes; reads and writes: up to what the server was made for */
    int result;             /* 0 or negative errno: what the kernel may be told */

    struct cow_server *server; /* the server's, like all below */
    struct pool_task task;
};

struct cow_server;

/* buffer_bytes: of the longest read or write; touched as it is needed. */
_must_check_ int cow_server_new(struct cow *cow, unsigned threads, size_t buffer_bytes,
                                struct cow_server **ret_server);
/* After all that was submitted is done. */
void cow_server_free(struct cow_server *server);
DEFINE_CLEANUP_PTR(struct cow_server *, cow_server_free);
/* Any thread; never waits. */
void cow_server_submit(struct cow_server *server, struct cow_request *request);
