/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Capturing entries: attributes and contents of one file after another, in the workers. */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "repo/backup-run.h"

/* ---- telling about problems ---- */

void backup_problem(struct backup_run *run, const char *path, const char *what, bool incomplete)
{
    pthread_mutex_lock(&run->lock);
    if (incomplete)
        run->problem_count++;
    if (run->options->problem)
        run->options->problem(path, what, incomplete, run->options->userdata);
    pthread_mutex_unlock(&run->lock);
    if (run->options->progress && incomplete)
        atomic_fetch_add(&run->options->progress->problems, 1);
}

void backup_problem_at(struct backup_run *run, const struct scan_dir *dir, const char *name,
                       const char *what, bool incomplete)
{
    CLEANUP(buffer_release) struct buffer path = {0};
    buffer_put_u8(&path, '/');
    if (dir) {
        buffer_put(&path, dir->path, strlen(dir->path));
        if (dir->path[0] && name[0])
            buffer_put_u8(&path, '/');
        buffer_put(&path, name, strlen(name));
    }
    buffer_put_u8(&path, 0);
    backup_problem(run, buffer_finish(&path) < 0 ? name : (const char *)path.data, what,
                   incomplete);
}

struct capture {
    struct backup_run *run;
    struct writer_stream *stream;
    struct read_buffer *buffer;
    struct item *item;
    uint64_t read_bytes; /* of this file */
};

static void meta_problem(const char *what, int r, void *userdata)
{
    struct capture *c = userdata;
    CLEANUP(buffer_release) struct buffer text = {0};
    const char *why = error_describe(r);
    buffer_put(&text, what, strlen(what));
    buffer_put(&text, ": ", 2);
    buffer_put(&text, why, strlen(why) + 1);
    c->item->entry.remarks |= ENTRY_XATTRS_INCOMPLETE;
    backup_problem_at(c->run, c->item->dir, c->item->name,
                      buffer_finish(&text) < 0 ? what : (const char *)text.data, true);
}

/* ---- contents ---- */

static int add_extent(struct entry *e, const struct extent *extent)
{
    struct extent *last = e->extents.count ? &e->extents.items[e->extents.count - 1] : NULL;
    if (last && extent->kind != EXTENT_DATA && last->kind == extent->kind) {
        last->len += extent->len;
        return 0;
    }
    return extent_vector_push(&e->extents, extent);
}

static int add_data(struct capture *c, const uint8_t *data, size_t len)
{
    struct extent extent = {.kind = EXTENT_DATA, .len = len};
    bool is_new;
    int r = writer_put(c->stream, data, len, &extent.chunk, &is_new);
    if (r < 0)
        return r;
    return add_extent(&c->item->entry, &extent);
}

/* How long an extent of zeros begins here; 0 when it is not worth one. */
static size_t zero_extent_len(const uint8_t *data, size_t len)
{
    if (len < ZERO_EXTENT_LEN_MIN || data[0] != 0)
        return 0;
    size_t zeros = zero_prefix_len(data, len);
    return zeros < ZERO_EXTENT_LEN_MIN ? 0 : zeros;
}

/* Cuts what is in the buffer; *ret_used bytes of it are done with. */
static int cut_chunks(struct capture *c, const uint8_t *data, size_t len, bool at_end,
                      size_t *ret_used)
{
    size_t used = 0;
    while (used < len) {
        size_t zeros = zero_extent_len(data + used, len - used);
        int r;
        if (zeros > 0) {
            struct extent extent = {.kind = EXTENT_ZERO, .len = zeros};
            r = add_extent(&c->item->entry, &extent);
            used += zeros;
        } else {
            size_t n = chunker_next(&c->run->chunker, data + used, len - used, at_end);
            if (n == 0)
                break;
            r = add_data(c, data + used, n);
            used += n;
        }
        if (r < 0)
            return r;
    }
    *ret_used = used;
    return 0;
}

static bool cancelled(const struct backup_run *run)
{
    return run->options->progress && atomic_load(&run->options->progress->cancelled);
}

static void count_read(struct capture *c, size_t len)
{
    c->read_bytes += len;
    if (c->run->options->progress)
        atomic_fetch_add(&c->run->options->progress->bytes_done, len);
}

static int read_some(struct capture *c, int fd, size_t have, uint64_t offset, uint64_t left,
                     size_t *ret_len)
{
    size_t want = (size_t)MIN(left, (uint64_t)(READ_BUFFER_LEN - have));
    ssize_t n;
    do
        n = pread(fd, c->buffer->data + have, want, (off_t)offset);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return error_note_describe(-errno, "cannot read");
    count_read(c, (size_t)n);
    *ret_len = (size_t)n;
    return 0;
}

/* One region without holes.  *ret_end < end when the file has become shorter. */
static int read_region(struct capture *c, int fd, uint64_t start, uint64_t end, uint64_t *ret_end)
{
    uint64_t pos = start;
    size_t have = 0;
    bool at_end = start == end;
    while (!at_end) {
        size_t n = 0;
        size_t used = 0;
        if (cancelled(c->run))
            return -UMBRA_E_CANCELLED;
        int r = read_some(c, fd, have, pos, end - pos, &n);
        if (r < 0)
            return r;
        pos += n;
        have += n;
        at_end = n == 0 || pos == end;
        r = cut_chunks(c, c->buffer->data, have, at_end, &used);
        if (r < 0)
            return r;
        have -= used;
        memmove(c->buffer->data, c->buffer->data + used, have);
    }
    assert(have == 0);
    *ret_end = pos;
    return 0;
}

/* The region of data at or after pos: *ret_start is the end of the file's size when only a hole is
 * left. */
static int next_region(int fd, uint64_t pos, uint64_t size, uint64_t *ret_start, uint64_t *ret_end)
{
    off_t start = lseek(fd, (off_t)pos, SEEK_DATA);
    if (start < 0 && errno == ENXIO) {
        *ret_start = *ret_end = size;
        return 0;
    }
    off_t end = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
    if (start < 0 || end < 0)
        return error_note_describe(-errno, "cannot look for holes");
    *ret_start = MIN((uint64_t)start, size);
    *ret_end = MIN((uint64_t)end, size);
    return 0;
}

static int read_sparse(struct capture *c, int fd, uint64_t size, uint64_t *ret_end)
{
    uint64_t pos = 0;
    while (pos < size) {
        uint64_t start = size;
        uint64_t end = size;
        int r = next_region(fd, pos, size, &start, &end);
        if (r < 0)
            return r;
        struct extent hole = {.kind = EXTENT_HOLE, .len = start - pos};
        if (hole.len > 0)
            r = add_extent(&c->item->entry, &hole);
        pos = start;
        if (r >= 0 && end > start)
            r = read_region(c, fd, start, end, &pos);
        if (r < 0)
            return r;
        if (pos < end)
            break; /* shorter than it was */
    }
    *ret_end = pos;
    return 0;
}

static int read_contents(struct capture *c, int fd, const struct statx *stx)
{
    struct entry *e = &c->item->entry;
    bool sparse = stx->stx_blocks < stx->stx_size / 512;
    uint64_t end;
    extent_vector_clear(&e->extents);
    int r = sparse ? read_sparse(c, fd, stx->stx_size, &end)
                   : read_region(c, fd, 0, stx->stx_size, &end);
    if (r < 0)
        return r;
    e->size = end;
    return 0;
}

/* ---- entries ---- */

static bool same_state(const struct statx *a, const struct statx *b)
{
    return a->stx_size == b->stx_size && a->stx_ino == b->stx_ino &&
           a->stx_mtime.tv_sec == b->stx_mtime.tv_sec &&
           a->stx_mtime.tv_nsec == b->stx_mtime.tv_nsec &&
           a->stx_ctime.tv_sec == b->stx_ctime.tv_sec &&
           a->stx_ctime.tv_nsec == b->stx_ctime.tv_nsec;
}

static int stat_fd(int fd, struct statx *ret_stx)
{
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, ret_stx) < 0)
        return error_note_describe(-errno, "cannot stat");
    return 0;
}

/* Forgets what an earlier attempt has found out. */
static void reset_entry(struct entry *e)
{
    struct entry fresh = {.key = TAKE_PTR(e->key), .key_len = e->key_len, .fs_index = e->fs_index};
    entry_release(e);
    *e = fresh;
}

/* Reads the file once; *ret_steady: nobody changed it meanwhile. stx: how it was before, and
 * becomes how it is now. */
static int capture_regular_once(struct capture *c, int fd, struct statx *stx, bool *ret_steady)
{
    struct statx after;
    reset_entry(&c->item->entry);
    meta_from_statx(stx, &c->item->entry);
    int r = meta_capture_fd(fd, &c->item->entry, meta_problem, c);
    if (r >= 0)
        r = read_contents(c, fd, stx);
    if (r >= 0)
        r = stat_fd(fd, &after);
    if (r < 0)
        return r;
    *ret_steady = same_state(stx, &after) && c->item->entry.size == after.stx_size;
    *stx = after;
    return 0;
}

static int capture_regular(struct capture *c)
{
    struct item *item = c->item;
    CLEANUP_CLOSE int fd = -EBADF;
    int r = scan_child_open(item->dir, item->name, &fd);
    if (r < 0)
        return r;
    struct statx stx;
    r = stat_fd(fd, &stx);
    if (r < 0)
        return r;
    if (!S_ISREG(stx.stx_mode))
        return error_note(-UMBRA_E_CHANGED, "is no regular file any more");

    for (unsigned attempt = 1;; attempt++) {
        bool steady;
        r = capture_regular_once(c, fd, &stx, &steady);
        if (r < 0 || steady)
            return r;
        if (attempt >= READ_ATTEMPTS || stx.stx_size > READ_AGAIN_BYTES_MAX)
            break;
    }
    item->entry.remarks |= ENTRY_CHANGED_WHILE_READ;
    backup_problem_at(c->run, item->dir, item->name, "changed while it was being read", false);
    return 0;
}

static int capture_directory(struct capture *c)
{
    struct item *item = c->item;
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    CLEANUP_CLOSE int fd = item->dir ? openat(item->dir->fd, item->name, flags) : open("/", flags);
    meta_from_statx(&item->stx, &item->entry);
    if (fd < 0) {
        if (errno == ENOENT)
            return -errno;
        item->entry.remarks |= ENTRY_CONTENT_UNREADABLE; /* the walk tells about it */
        return 0;
    }
    return meta_capture_fd(fd, &item->entry, meta_problem, c);
}

static int capture_special(struct capture *c)
{
    struct item *item = c->item;
    meta_from_statx(&item->stx, &item->entry);
    return meta_capture_at(item->dir->fd, item->name, &item->entry, meta_problem, c);
}

static int capture_item(struct capture *c)
{
    switch (c->item->stx.stx_mode & S_IFMT) {
    case S_IFREG: return capture_regular(c);
    case S_IFDIR: return capture_directory(c);
    default: return capture_special(c);
    }
}

/* Errors of the repository end the backup; those of the file only leave it out. */
static bool ends_backup(struct backup_run *run, int r)
{
    return r == -ENOMEM || r == -UMBRA_E_CANCELLED || writer_error(run->writer) < 0;
}

static void capture_failed(struct capture *c, int r)
{
    struct item *item = c->item;
    item->failed = true;
    if (ends_backup(c->run, r)) {
        pthread_mutex_lock(&c->run->lock);
        error_save(&c->run->error, r);
        pthread_mutex_unlock(&c->run->lock);
    } else if (error_class(r) != ENOENT) { /* gone since the walk: as if it had gone before */
        backup_problem_at(c->run, item->dir, item->name, error_text(r), true);
    }
}

static bool run_failed(struct backup_run *run)
{
    pthread_mutex_lock(&run->lock);
    bool failed = run->error.code != 0;
    pthread_mutex_unlock(&run->lock);
    return failed;
}

static void capture_one(struct capture *c)
{
    struct item *item = c->item;
    int r = run_failed(c->run) ? -UMBRA_E_CANCELLED : capture_item(c);
    if (r < 0)
        capture_failed(c, r);
    scan_dir_unref(TAKE_PTR(item->dir));
    item->name = NULL;

    pthread_mutex_lock(&c->run->lock);
    c->run->read_bytes += c->read_bytes;
    atomic_store_explicit(&item->done, true, memory_order_release);
    pthread_cond_signal(&c->run->captured);
    pthread_mutex_unlock(&c->run->lock);
    c->read_bytes = 0;
}

/* ---- batches ---- */

static struct read_buffer *read_buffer_acquire(struct backup_run *run)
{
    pthread_mutex_lock(&run->lock);
    struct read_buffer *buffer = run->free_buffers;
    if (buffer)
        run->free_buffers = buffer->next;
    pthread_mutex_unlock(&run->lock);
    return buffer ? buffer : malloc(sizeof(*buffer));
}

static void read_buffer_release(struct backup_run *run, struct read_buffer *buffer)
{
    if (!buffer)
        return;
    pthread_mutex_lock(&run->lock);
    buffer->next = run->free_buffers;
    run->free_buffers = buffer;
    pthread_mutex_unlock(&run->lock);
}

void batch_run(struct pool_task *task)
{
    struct batch *batch = CONTAINER_OF(task, struct batch, task);
    struct backup_run *run = batch->run;
    struct capture capture = {.run = run, .buffer = read_buffer_acquire(run)};
    int r = writer_stream_acquire(run->writer, &capture.stream);
    if (r >= 0 && !capture.buffer)
        r = -ENOMEM;
    if (r < 0) {
        pthread_mutex_lock(&run->lock);
        error_save(&run->error, r);
        pthread_mutex_unlock(&run->lock);
    }
    for (size_t i = 0; i < batch->count; i++) {
        capture.item = batch->items[i];
        capture_one(&capture);
    }
    /* The stream goes back before anybody may think that the work is over: a push-out reaches idle
     * streams only. */
    writer_stream_release(run->writer, capture.stream);
    read_buffer_release(run, capture.buffer);
    pthread_mutex_lock(&run->lock);
    run->captures_under_way -= (unsigned)batch->count;
    pthread_cond_signal(&run->captured);
    pthread_mutex_unlock(&run->lock);
    free(batch);
}
