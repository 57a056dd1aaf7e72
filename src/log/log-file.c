/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creating, opening and closing a log; its clients. */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "log/log-private.h"

#define CHECKPOINT_BYTES_DEFAULT (64 * MIB)
#define ZEROS_BYTES              ((size_t)1 << 20)

static void log_release(struct umbra_log *log)
{
    io_close(log->file);
    io_close(log->out);
    io_free(log->own_io);
    if (log->lock_fd >= 0)
        (void)close(log->lock_fd);
    for (unsigned i = 0; i < ELEMENTSOF(log->buffers); i++)
        free(log->buffers[i].pages);
    free(log->name);
    pthread_cond_destroy(&log->room);
    for (unsigned i = 0; i < ELEMENTSOF(log->flushed); i++)
        pthread_cond_destroy(&log->flushed[i]);
    pthread_mutex_destroy(&log->lock);
    free(log);
}

void umbra_log_free(struct umbra_log *log)
{
    if (!log)
        return;
    while (log->txns) {
        struct umbra_log_txn *txn = log->txns;
        log->txns = txn->next;
        wal_txn_free(txn);
    }
    log_release(log);
}

DEFINE_CLEANUP_PTR(struct umbra_log *, umbra_log_free);

static int log_new(const struct umbra_log_options *options, const char *name,
                   struct umbra_log **ret_log)
{
    struct umbra_log *log = calloc(1, sizeof(*log));
    if (!log)
        return -ENOMEM;
    log->lock_fd = -EBADF;
    log->flags = options->flags;
    log->checkpoint_bytes =
        options->checkpoint_bytes > 0 ? options->checkpoint_bytes : CHECKPOINT_BYTES_DEFAULT;
    pthread_mutex_init(&log->lock, NULL);
    for (unsigned i = 0; i < ELEMENTSOF(log->flushed); i++)
        pthread_cond_init(&log->flushed[i], NULL);
    pthread_cond_init(&log->room, NULL);
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++) {
        log->clients[i].log = log;
        log->clients[i].index = (uint8_t)i;
    }
    log->name = strdup(name);
    if (!log->name) {
        log_release(log);
        return -ENOMEM;
    }
    *ret_log = log;
    return 0;
}

/* With the geometry known: what only a log that is written to needs. */
static int log_prepare(struct umbra_log *log)
{
    log->checkpoint_bytes = MIN(log->checkpoint_bytes, log->geometry.ring_bytes / 4);
    return wal_buffers_new(log);
}

/* Its pages are read through the page cache, and written past it. */
static int open_files(struct umbra_log *log, const struct wal_place *place)
{
    int r = io_open(place->io, place->path, IO_READ, &log->file);
    return r < 0 ? r : io_open(place->io, place->path, IO_WRITE | IO_DIRECT, &log->out);
}

/* ---- creating ---- */

static int write_zeros(struct io_file *file, uint64_t file_bytes)
{
    CLEANUP_FREE uint8_t *zeros = calloc(1, ZEROS_BYTES);
    if (!zeros)
        return -ENOMEM;
    for (uint64_t at = 0; at < file_bytes; at += ZEROS_BYTES) {
        struct iovec iov = {.iov_base = zeros, .iov_len = MIN(ZEROS_BYTES, file_bytes - at)};
        int r = io_pwritev(file, &iov, 1, at);
        if (r < 0)
            return r;
    }
    return io_sync(file);
}

static int fill_file(struct umbra_log *log, const struct wal_place *place, const char *tmp_path)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    int r = io_open(place->io, tmp_path, IO_READ | IO_WRITE | IO_CREATE | IO_EXCLUSIVE, &file);
    if (r == 0)
        r = write_zeros(file, log->geometry.file_bytes);
    if (r == 0)
        r = wal_areas_write(file, &log->geometry, &log->state);
    return r;
}

/* "dir/tmp-name", so that nobody takes a file for a log that is not wholly there. */
static int temporary_path(const char *path, char **ret_tmp)
{
    const char *slash = strrchr(path, '/');
    int dir_len = slash ? (int)(slash + 1 - path) : 0;
    return asprintf(ret_tmp, "%.*stmp-%s", dir_len, path, path + dir_len) < 0 ? -ENOMEM : 0;
}

static int directory_of(const char *path, char **ret_dir)
{
    const char *slash = strrchr(path, '/');
    *ret_dir = strndup(path, slash ? (size_t)(slash - path) : 0);
    return *ret_dir ? 0 : -ENOMEM;
}

/* One that a crash has left behind. */
static int remove_old(struct io *io, const char *tmp_path)
{
    int r = io_unlink(io, tmp_path);
    return error_class(r) == ENOENT ? 0 : r;
}

static int create_file(struct umbra_log *log, const struct wal_place *place)
{
    CLEANUP_FREE char *tmp_path = NULL, *dir = NULL;
    int r = temporary_path(place->path, &tmp_path);
    if (r == 0)
        r = directory_of(place->path, &dir);
    if (r == 0)
        r = remove_old(place->io, tmp_path);
    if (r < 0)
        return r;
    r = fill_file(log, place, tmp_path);
    if (r == 0)
        r = io_rename(place->io, tmp_path, place->path, false);
    if (r < 0) {
        struct error_report first = {0};
        error_save(&first, r);
        IGNORE_RESULT(io_unlink(place->io, tmp_path));
        r = error_raise(&first);
        return error_prefix(r, "cannot make a log of %" PRIu64 " bytes", log->geometry.file_bytes);
    }
    return io_sync_dir(place->io, dir);
}

static int choose_geometry(const struct umbra_log_options *options, uint64_t flush_bytes,
                           struct io *io, struct wal_geometry *ret_geometry)
{
    struct wal_geometry g = {.file_bytes = (options->file_bytes + WAL_PAGE_BYTES - 1) /
                                           WAL_PAGE_BYTES * WAL_PAGE_BYTES};
    if (options->file_bytes < WAL_FILE_MIN || options->file_bytes > UMBRA_LOG_FILE_MAX)
        return error_note(-EINVAL, "a log cannot have %" PRIu64 " bytes", options->file_bytes);
    g.ring_bytes = g.file_bytes - 2 * WAL_PAGE_BYTES;
    uint64_t most = g.ring_bytes / 8 / WAL_PAGE_BYTES * WAL_PAGE_BYTES;
    g.flush_bytes = flush_bytes > 0 ? flush_bytes : MIN(WAL_FLUSH_BYTES_DEFAULT, most);
    if (options->id) {
        memcpy(g.id, options->id, sizeof(g.id));
    } else {
        int r = io_random(io, g.id, sizeof(g.id));
        if (r < 0)
            return r;
    }
    *ret_geometry = g;
    return 0;
}

int wal_create(const struct wal_place *place, const struct umbra_log_options *options,
               uint64_t flush_bytes, struct umbra_log **ret_log)
{
    CLEANUP(umbra_log_freep) struct umbra_log *log = NULL;
    int r = log_new(options, place->name, &log);
    if (r == 0)
        r = choose_geometry(options, flush_bytes, place->io, &log->geometry);
    if (r == 0)
        r = log_prepare(log);
    if (r < 0)
        return r;
    log->incarnation = 1;
    log->next_txn = 1;
    log->state = (struct wal_state){
        .incarnation = log->incarnation, .durable_lsn = WAL_LSN_FIRST, .next_txn = log->next_txn};
    r = create_file(log, place);
    if (r == 0)
        r = open_files(log, place);
    if (r < 0)
        return r;
    const struct wal_end start = {.lsn = WAL_LSN_FIRST};
    wal_buffers_start(log, &start);
    log->tail_lsn = log->checkpoint_head_lsn = WAL_LSN_FIRST;
    log->ready = true;
    *ret_log = TAKE_PTR(log);
    return 0;
}

/* ---- opening ---- */

int wal_open(const struct wal_place *place, const struct umbra_log_options *options,
             struct umbra_log **ret_log)
{
    CLEANUP(umbra_log_freep) struct umbra_log *log = NULL;
    struct io_stat st;
    int r = log_new(options, place->name, &log);
    if (r == 0)
        r = io_stat(place->io, place->path, &st);
    if (r == 0)
        r = open_files(log, place);
    if (r == 0)
        r = wal_areas_read(log->file, log->name, st.size_bytes, options->id, &log->found);
    if (r < 0)
        return r;
    log->geometry = log->found.geometry;
    log->state = log->found.state;
    log->next_txn = log->state.next_txn;
    r = log_prepare(log);
    if (r == 0)
        *ret_log = TAKE_PTR(log);
    return r;
}

/* A path of the real file system, as a place in a struct io of its directory. */
struct real_place {
    struct wal_place place;
    struct io *io;
    char *dir;
};

static void real_place_release(struct real_place *real)
{
    io_free(real->io);
    free(real->dir);
}

static int real_place_init(const char *path, struct real_place *real)
{
    const char *slash = strrchr(path, '/');
    real->dir = !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!real->dir)
        return -ENOMEM;
    int r = io_new_real(real->dir, &real->io);
    real->place =
        (struct wal_place){.io = real->io, .path = slash ? slash + 1 : path, .name = path};
    return r;
}

/* Held as long as the log is open. */
static int lock_file(struct umbra_log *log, const char *path)
{
    log->lock_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (log->lock_fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", path);
    if (flock(log->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? error_note(-EBUSY, "log '%s' is in use by another process", path)
                                : error_note_describe(-errno, "cannot lock '%s'", path);
}

/* Its io and its lock become the log's. */
static int adopt(struct umbra_log *log, struct real_place *real, struct umbra_log **ret_log)
{
    log->own_io = TAKE_PTR(real->io);
    int r = lock_file(log, real->place.name);
    if (r < 0) {
        umbra_log_free(log);
        return r;
    }
    *ret_log = log;
    return 0;
}

static const struct umbra_log_options no_options;

int umbra_log_create(const char *path, const struct umbra_log_options *options,
                     struct umbra_log **ret_log)
{
    CLEANUP(real_place_release) struct real_place real = {0};
    struct umbra_log *log;
    if (options->file_bytes < UMBRA_LOG_FILE_MIN)
        return error_note(-EINVAL, "a log cannot have %" PRIu64 " bytes", options->file_bytes);
    int r = real_place_init(path, &real);
    if (r == 0)
        r = wal_create(&real.place, options, 0, &log);
    return r < 0 ? r : adopt(log, &real, ret_log);
}

int umbra_log_open(const char *path, const struct umbra_log_options *options,
                   struct umbra_log **ret_log)
{
    CLEANUP(real_place_release) struct real_place real = {0};
    struct umbra_log *log;
    int r = real_place_init(path, &real);
    if (r == 0)
        r = wal_open(&real.place, options ? options : &no_options, &log);
    return r < 0 ? r : adopt(log, &real, ret_log);
}

int umbra_log_scan(const char *path, const struct umbra_log_scan_options *options,
                   struct umbra_log_info *ret_info)
{
    CLEANUP(real_place_release) struct real_place real = {0};
    int r = real_place_init(path, &real);
    return r < 0 ? r : wal_scan(&real.place, options, ret_info);
}

int umbra_log_close(struct umbra_log *log)
{
    int r = 0;
    if (!log)
        return 0;
    pthread_mutex_lock(&log->lock);
    if (log->ready)
        r = wal_failure_locked(log);
    if (log->ready && r == 0)
        r = wal_flush_all_locked(log); /* also when there is no room for the checkpoint */
    if (log->ready && r == 0 && log->head_lsn != log->checkpoint_head_lsn)
        r = wal_checkpoint_locked(log);
    pthread_mutex_unlock(&log->lock);
    umbra_log_free(log);
    return r;
}

void umbra_log_id(const struct umbra_log *log, uint8_t *ret_id)
{
    memcpy(ret_id, log->geometry.id, sizeof(log->geometry.id));
}

void umbra_log_stat(struct umbra_log *log, struct umbra_log_stat *ret_stat)
{
    pthread_mutex_lock(&log->lock);
    *ret_stat = (struct umbra_log_stat){
        .ring_bytes = log->geometry.ring_bytes,
        .used_bytes = wal_page_up(log->head_lsn) - log->tail_lsn,
        .reserved_bytes = log->reserved_bytes + wal_kept(&log->geometry),
        .flush_count = log->flush_count,
        .checkpoint_count = log->checkpoint_count,
        .commit_count = log->commit_count,
        .end_lsn = log->head_lsn,
        .durable_lsn = log->durable_lsn,
        .txn_count = log->txn_count,
    };
    pthread_mutex_unlock(&log->lock);
}

/* ---- clients ---- */

static struct umbra_log_client *client_by_name(struct umbra_log *log, const char *name)
{
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        if (strcmp(log->state.clients[i].name, name) == 0)
            return &log->clients[i];
    return NULL;
}

/* Lets go of the lock.  An area is written, so no checkpoint may be doing that. */
static int write_state_locked(struct umbra_log *log)
{
    int r;
    while (log->checkpointing)
        pthread_cond_wait(&log->room, &log->lock);
    log->checkpointing = true;
    r = wal_failure_locked(log);
    if (r == 0)
        r = wal_write_state_locked(log);
    log->checkpointing = false;
    pthread_cond_broadcast(&log->room);
    return r;
}

/* A client that the log does not know yet.  Its name is durable before it can have records. */
static int add_client_locked(struct umbra_log *log, const char *name,
                             const struct umbra_log_manager *manager,
                             struct umbra_log_client **ret_client)
{
    struct umbra_log_client *client = client_by_name(log, "");
    if (!client)
        return error_note(-ENOSPC, "log '%s' has %u clients already", log->name,
                          UMBRA_LOG_CLIENTS_MAX);
    struct wal_client_state *state = &log->state.clients[client->index];
    memcpy(state->name, name, strlen(name) + 1);
    state->manager = (uint8_t)manager->id;
    *ret_client = client;
    return log->ready ? write_state_locked(log) : 0;
}

static int attach_locked(struct umbra_log *log, const char *name,
                         const struct umbra_log_manager *manager, void *userdata,
                         struct umbra_log_client **ret_client)
{
    struct umbra_log_client *client = client_by_name(log, name);
    int r = wal_failure_locked(log);
    if (r < 0)
        return r;
    if (client && client->manager)
        return error_note(-EEXIST, "log '%s': client '%s' is attached already", log->name, name);
    if (client && log->state.clients[client->index].manager != manager->id)
        return error_note(-EINVAL, "log '%s': client '%s' has another manager", log->name, name);
    if (!client && (r = add_client_locked(log, name, manager, &client)) < 0)
        return r;
    client->manager = manager;
    client->userdata = userdata;
    *ret_client = client;
    return 0;
}

int umbra_log_attach(struct umbra_log *log, const char *name,
                     const struct umbra_log_manager *manager, void *userdata,
                     struct umbra_log_client **ret_client)
{
    size_t len = strlen(name);
    if (len == 0 || len > UMBRA_LOG_NAME_MAX || (unsigned)manager->id >= UMBRA_LOG_MANAGER_MAX ||
        !manager->redo || !manager->undo)
        return error_note(-EINVAL, "client '%s' of a log is not well described", name);
    pthread_mutex_lock(&log->lock);
    int r = attach_locked(log, name, manager, userdata, ret_client);
    pthread_mutex_unlock(&log->lock);
    return r;
}

size_t umbra_log_get_restart(const struct umbra_log_client *client, void *data, size_t size)
{
    struct umbra_log *log = client->log;
    pthread_mutex_lock(&log->lock);
    const struct wal_client_state *state = &log->state.clients[client->index];
    size_t len = state->restart_len;
    if (size > 0 && len > 0)
        memcpy(data, state->restart, MIN(size, len));
    pthread_mutex_unlock(&log->lock);
    return len;
}

static int set_restart_locked(struct umbra_log_client *client, const void *data, size_t len)
{
    struct umbra_log *log = client->log;
    struct wal_client_state *state = &log->state.clients[client->index];
    const struct wal_draft draft = {.type = UMBRA_LOG_RESTART,
                                    .client = client->index,
                                    .manager = state->manager,
                                    .redo = data,
                                    .redo_len = len};
    uint64_t cost = wal_cost(&log->geometry, wal_record_bytes(len, 0)) + WAL_PAGE_BYTES;
    umbra_log_lsn lsn;

    int r = wal_check_ready_locked(log);
    if (r == 0)
        r = wal_reserve_locked(log, NULL, cost);
    if (r < 0)
        return r;
    r = wal_append_locked(log, &draft, &lsn);
    wal_unreserve_locked(log, NULL, cost);
    if (r < 0)
        return r;
    memset(state->restart, 0, sizeof(state->restart));
    if (len > 0)
        memcpy(state->restart, data, len);
    state->restart_len = (uint16_t)len;
    return wal_flush_all_locked(log);
}

int umbra_log_set_restart(struct umbra_log_client *client, const void *data, size_t len)
{
    if (len > UMBRA_LOG_RESTART_MAX)
        return error_note(-EMSGSIZE, "a restart record has at most %u bytes",
                          UMBRA_LOG_RESTART_MAX);
    pthread_mutex_lock(&client->log->lock);
    int r = set_restart_locked(client, data, len);
    pthread_mutex_unlock(&client->log->lock);
    return r;
}

/* ---- words ---- */

const char *umbra_log_record_type_name(enum umbra_log_record_type type)
{
    static const char *const names[] = {
        [UMBRA_LOG_UPDATE] = "update",
        [UMBRA_LOG_COMPENSATION] = "compensation",
        [UMBRA_LOG_COMMIT] = "commit",
        [UMBRA_LOG_ABORT] = "abort",
        [UMBRA_LOG_END] = "end",
        [UMBRA_LOG_CHECKPOINT_BEGIN] = "checkpoint-begin",
        [UMBRA_LOG_CHECKPOINT_END] = "checkpoint-end",
        [UMBRA_LOG_NOTE] = "note",
        [UMBRA_LOG_RESTART] = "restart",
    };
    return (unsigned)type < ELEMENTSOF(names) && names[type] ? names[type] : "?";
}

const char *umbra_log_manager_name(enum umbra_log_manager_id id)
{
    static const char *const names[] = {
#define X(name, text) [UMBRA_LOG_MANAGER_##name] = text,
        UMBRA_LOG_MANAGER_LIST(X)
#undef X
    };
    return (unsigned)id < ELEMENTSOF(names) ? names[id] : "?";
}

const char *umbra_log_error_text(int r)
{
    return error_text(r);
}

int umbra_log_error_class(int r)
{
    return error_class(r);
}
