/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The worker: engine, front end, control socket.  Its main thread only waits: for signals, for
 * shadows that the engine gives up, and for the end.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "control/control.h"
#include "cow/cowd-private.h"

#define LOOK_MS   1000 /* between two looks at faults, and tries to detach */
#define LET_GO_MS 10000

/* ---- the keeper ---- */

static int tell_keeper(const struct worker *w, enum cowd_message letter, const char *words)
{
    char message[COWD_MESSAGE_MAX];
    int len = snprintf(message, sizeof(message), "%c%s", (int)letter, words);
    size_t size = MIN((size_t)MAX(len, 0), sizeof(message) - 1);
    return send(w->channel_fd, message, size, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The keeper may have been killed: then there is nothing that it holds. */
static void leave(const struct worker *w)
{
    struct pollfd fd = {.fd = w->channel_fd, .events = POLLIN};
    if (tell_keeper(w, COWD_DETACHED, "") < 0)
        cowd_leave(w->cowd);
    else if (poll(&fd, 1, LET_GO_MS) == 0)
        log_warning("the keeper has not let go of the origin");
    cowd_let_go(w->cowd);
}

/* ---- the end of an attached volume ---- */

/* The front end has gone.  What was flushed is durable however closing goes. */
static void close_engine(struct worker *w)
{
    int r = cow_close(w->cow);
    if (r < 0)
        log_error("closing the volume failed: %s", error_text(r));
    w->cow = NULL;
    cow_device_free(w->device);
    w->device = NULL;
    w->storage = io_free(w->storage);
}

int worker_detach_locked(struct worker *w)
{
    const uint64_t one = 1;
    int r = devices_remove_all_locked(w);
    if (r < 0)
        return r;
    w->cowd->ops->stop(w->front);
    w->front = NULL;
    close_engine(w);
    w->detached = true;
    leave(w);
    IGNORE_RESULT(write(w->wake_fd, &one, sizeof(one)));
    return 0;
}

/* ---- the beginning ---- */

static int open_engine(struct worker *w)
{
    struct cowd *d = w->cowd;
    const struct cow_options options = {0};
    char storage[32];
    (void)snprintf(storage, sizeof(storage), "/proc/self/fd/%d", d->storage_fd);
    int r = io_new_real(storage, &w->storage);
    if (r < 0)
        return r;
    int fd = dup(d->origin.fd);
    if (fd < 0)
        return error_note_describe(-errno, "cannot use the origin");
    r = cow_device_new_fd(fd, &w->device);
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    const struct cow_place place = {
        .storage = w->storage,
        .origin = w->device,
        .identity = d->origin.identity,
        .identity_len = d->origin.identity_len,
    };
    r = cow_open(&place, &options, &w->cow);
    return r < 0 ? error_prefix(r, "storage '%s'", d->config.storage) : 0;
}

static int start_front(struct worker *w)
{
    struct cowd *d = w->cowd;
    const struct cow_front_place place = {
        .volume_name = d->config.name,
        .run_dir = d->run_dir,
        .sector_bytes = d->origin.sector_bytes,
        .cow = w->cow,
        .held_fd = d->held_fd,
        .is_return = d->life > 0,
    };
    return d->ops->start(&place, &w->front);
}

static int start_all(struct worker *w, struct control_server **ret_control)
{
    struct cow_stat stat;
    int r = open_engine(w);
    if (r < 0)
        return r;
    cow_stat(w->cow, &stat);
    w->fault_count = stat.fault_count;
    r = start_front(w);
    if (r == 0)
        r = devices_start(w, w->cowd->life > 0);
    return r < 0 ? r
                 : control_server_start(VOLUME_RUN_DIR, w->cowd->config.name, worker_control, w,
                                        ret_control);
}

/* When it could not be attached in the first place; on a return the next worker tries. */
static void give_up(struct worker *w)
{
    if (w->cowd->life > 0 || !w->cow)
        return;
    if (w->front) {
        if (devices_remove_all_locked(w) < 0)
            return;
        w->cowd->ops->stop(w->front);
    }
    close_engine(w);
}

/* ---- while it is attached ---- */

static void log_faults(struct worker *w, uint64_t new_count)
{
    struct cow_fault faults[COW_FAULTS_KEPT];
    size_t count = cow_faults(w->cow, faults);
    for (size_t i = count - MIN((size_t)MIN(new_count, (uint64_t)count), count); i < count; i++)
        log_warning("volume '%s': shadow %u: %s", w->cowd->config.name, faults[i].number,
                    cow_reason_text(faults[i].reason));
}

static void look_locked(struct worker *w)
{
    struct cow_stat stat;
    if (w->detached)
        return;
    cow_stat(w->cow, &stat);
    if (stat.fault_count > w->fault_count)
        log_faults(w, stat.fault_count - w->fault_count);
    w->fault_count = stat.fault_count;
    devices_sync_locked(w);
}

static void try_to_stop_locked(struct worker *w, bool *told)
{
    int r = w->detached ? 0 : worker_detach_locked(w);
    if (r < 0 && !*told)
        log_warning("told to end, which has to wait: %s", error_text(r));
    *told = r < 0;
}

static void main_loop(struct worker *w, int signal_fd)
{
    bool stop_wanted = false, told = false, detached = false;
    while (!detached) {
        struct pollfd fds[] = {
            {.fd = signal_fd, .events = POLLIN},
            {.fd = w->wake_fd, .events = POLLIN},
        };
        struct signalfd_siginfo info;
        (void)poll(fds, ELEMENTSOF(fds), LOOK_MS);
        if (fds[0].revents != 0 && read(signal_fd, &info, sizeof(info)) > 0)
            stop_wanted = true;
        pthread_mutex_lock(&w->lock);
        look_locked(w);
        if (stop_wanted)
            try_to_stop_locked(w, &told);
        detached = w->detached;
        pthread_mutex_unlock(&w->lock);
    }
}

static int run(struct worker *w, int signal_fd)
{
    struct control_server *control = NULL;
    int r = start_all(w, &control);
    if (r < 0) {
        struct error_report why = {0};
        error_save(&why, r);
        give_up(w);
        return error_raise(&why);
    }
    (void)tell_keeper(w, COWD_READY, "");
    log_info("volume '%s' is attached as '%s' (%s)", w->cowd->config.name, w->device_path,
             w->cowd->ops->name);
    main_loop(w, signal_fd);
    control_server_stop(control); /* after its answer */
    log_info("volume '%s' is detached", w->cowd->config.name);
    return 0;
}

static int make_signal_fd(void)
{
    sigset_t signals;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int cowd_worker_main(struct cowd *d, int channel_fd)
{
    /* Never freed: threads use it until the process ends. */
    static struct worker w = {.lock = PTHREAD_MUTEX_INITIALIZER};
    w.cowd = d;
    w.channel_fd = channel_fd;
    w.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int signal_fd = make_signal_fd();
    (void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT); /* not inherited */
    int r = w.wake_fd < 0 || signal_fd < 0 ? error_note_describe(-errno, "cannot wait for events")
                                           : run(&w, signal_fd);
    if (r == 0)
        return EXIT_SUCCESS;
    log_error("volume '%s': %s", d->config.name, error_text(r));
    (void)tell_keeper(&w, COWD_FAILED, error_text(r));
    return EXIT_FAILURE;
}
