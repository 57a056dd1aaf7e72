/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra-cowd: what its two processes share.  The essay is in cowd-main.c. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cow/front.h"
#include "cow/origin.h"
#include "cow/volume-config.h"

/* What both have, made by the keeper before there is a worker. */
struct cowd {
    struct volume_config config;
    struct cow_origin origin;
    const struct cow_front_ops *ops;
    char *run_dir;  /* of the front end */
    int storage_fd; /* O_PATH: the volume may be mounted above its storage */
    int lock_fd;    /* of the configuration: the volume is attached as long as it is open */
    int held_fd;    /* of the front end; -1: none */
    uint64_t attached_ns;
    uint32_t life; /* how many workers there were before this one */
};

/* Messages of the worker to the keeper, each one packet: a letter, and words behind it. */
enum cowd_message {
    COWD_READY = 'R',
    COWD_FAILED = 'F',   /* and words; then it ends */
    COWD_DETACHED = 'D', /* nothing is served any more: close all, answer with the same */
};
#define COWD_MESSAGE_MAX ((size_t)2048)

/* The end: what is left of the front end goes, and then cowd_let_go(). */
void cowd_leave(struct cowd *d);
/* Closes what keeps others from the origin and the volume. */
void cowd_let_go(struct cowd *d);

/* The worker, with its end of the channel to the keeper; returns the status to end with. */
int cowd_worker_main(struct cowd *d, int channel_fd);

/* ---- cowd-log.c ---- */
/* Messages go to the system's log, or, in the foreground, to standard error, and never wait. */
void cowd_log_start(bool foreground);

/* ---- in the worker ---- */

#define HOLDS_KEPT 4096u

struct worker {
    struct cowd *cowd;
    struct io *storage;
    struct cow_device *device;
    struct cow *cow;
    struct cow_front *front;
    int channel_fd;
    int wake_fd; /* eventfd: the main thread has something to look at */

    /* Of all below, and of the devices. */
    pthread_mutex_t lock;
    bool detached;
    char device_path[COW_DEVICE_MAX]; /* of the volume */
    uint64_t fault_count;             /* seen */
    uint32_t hold_us[HOLDS_KEPT];     /* of shadows taken, the last ones */
    uint64_t hold_count;
};

/* All devices that should be there, and links to them; none else, but those that are in use.
 * is_return: as the dead worker left them. */
_must_check_ int devices_start(struct worker *w, bool is_return);
/* Those of shadows that have gone meanwhile are removed, if they are free. */
void devices_sync_locked(struct worker *w);
/* A device of a shadow; "" when there is none. */
void devices_path_locked(const struct worker *w, uint32_t number, char path[COW_DEVICE_MAX]);
_must_check_ int devices_add_locked(struct worker *w, uint32_t number, bool read_only);
/* -EBUSY; -ENOENT does not happen: what is not there is removed. */
_must_check_ int devices_remove_locked(struct worker *w, uint32_t number);
/* All or, with -EBUSY, none. */
_must_check_ int devices_remove_all_locked(struct worker *w);

/* The whole volume; -EBUSY: some device is in use, and all are as they were. */
_must_check_ int worker_detach_locked(struct worker *w);

/* A control_fn. */
int worker_control(const char *request, size_t len, char **ret_response, void *userdata);
