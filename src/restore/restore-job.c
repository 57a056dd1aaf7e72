/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One file, from what is there to what the backup has: how it is decided, and how it ends.
 *
 *     nothing there                                   NEW
 *     another type, another device or target          REPLACE
 *     other contents, and more than one name          REPLACE   the other names are not ours
 *     other contents, large, some of it the same      IN_PLACE  what differs is written
 *     other contents, no data is missing              IN_PLACE  length and holes alone
 *     other contents, else                            REPLACE
 *     other attributes, and more than one name        REPLACE
 *     other attributes                                ATTRIBUTES
 *     the same, but more names than in the backup     REPLACE
 *     the same                                        KEEP
 *
 * NEW and REPLACE keep what is there until the new file is whole, so their failure costs nothing.
 * IN_PLACE is for files of which a second copy may be more than the disk has room for.  When it
 * fails half-way the file is a mixture of old and new: it is taken out of its place, under the name
 * NAME.umbra-incomplete, so that nobody takes it for the one or the other, and nothing is lost.
 *
 * A new file that is a single chunk gets its name at once: creating, writing and closing it is all
 * that it costs.  If that fails it is removed; SIGKILL in that moment leaves it short, and the next
 * run sees and mends that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/error.h"
#include "filter/pending.h"
#include "restore/restore-private.h"

struct job *job_new(struct restore_node *node, const char *name, size_t name_len)
{
    struct job *job = calloc(1, sizeof(*job) + name_len + 1);
    if (!job)
        return NULL;
    memcpy(job->name, name, name_len);
    job->node = restore_node_ref(node);
    job->fd = -EBADF;
    return job;
}

void job_free(struct job *job)
{
    if (!job)
        return;
    if (job->fd >= 0)
        (void)close(job->fd);
    entry_release(&job->entry);
    free(job->differs);
    restore_node_unref(job->node);
    free(job);
}

static pthread_mutex_t *job_lock(struct restore *restore, const struct job *job)
{
    return &restore->job_locks[((uintptr_t)job >> 6) % JOB_LOCKS];
}

static void count_progress(struct restore *restore, uint64_t bytes, uint64_t files)
{
    struct progress *progress = restore->options->progress;

    if (!progress)
        return;
    if (bytes > 0)
        atomic_fetch_add_explicit(&progress->bytes_done, bytes, memory_order_relaxed);
    if (files > 0)
        atomic_fetch_add_explicit(&progress->files_done, files, memory_order_relaxed);
}

static void report_problem(struct restore *restore, const struct job *job, const char *what, int r)
{
    CLEANUP_FREE char *path = restore_join(job->node->path, job->name);

    restore_problem(restore, path, "%s: %s", what, error_text(r));
}

/* The run ends because of r. */
static void stop_at(struct restore *restore, const struct job *job, int r)
{
    CLEANUP_FREE char *path = restore_join(job->node->path, job->name);

    (void)restore_stop(restore, error_prefix(r, "cannot restore '%s'", path ? path : job->name));
}

/* ---- deciding ---- */

static bool data_differs(const struct job *job)
{
    for (size_t i = 0; job->differs && i < job->entry.extents.count; i++) {
        if (job->differs[i] && job->entry.extents.items[i].kind == EXTENT_DATA)
            return true;
    }
    return false;
}

static enum job_way choose_way(const struct job *job, const struct comparison *c)
{
    bool shared = c->stat.st_nlink > 1;

    switch (c->found) {
    case FOUND_NOTHING: return JOB_NEW;
    case FOUND_OTHER: return JOB_REPLACE;
    case FOUND_CONTENTS:
        if (shared)
            return JOB_REPLACE;
        if (!data_differs(job) || (job->entry.size >= IN_PLACE_MIN && c->same_bytes > 0))
            return JOB_IN_PLACE;
        return JOB_REPLACE;
    case FOUND_ATTRIBUTES: return shared ? JOB_REPLACE : JOB_ATTRIBUTES;
    default: return c->stat.st_nlink > MAX(job->entry.nlink, 1u) ? JOB_REPLACE : JOB_KEEP;
    }
}

static char action_of(const struct job *job)
{
    if (job->placeholder)
        return 'p';
    if (job->found == FOUND_NOTHING || job->found == FOUND_OTHER)
        return 'c';
    switch (job->way) {
    case JOB_ATTRIBUTES: return 'a';
    case JOB_KEEP: return '=';
    default: return 'w';
    }
}

/* What new files have and the entry does not is taken off where the directory may have given it. */
static bool job_is_fresh(const struct job *job)
{
    return job->way != JOB_IN_PLACE && !job->node->inherits && !job->staged;
}

/* Where the file is made. */
static int job_dir_fd(const struct restore *restore, const struct job *job)
{
    return job->staged ? stage_fd(restore->stage) : job->node->fd;
}

/* The job needs nothing more: the inode is the one of its other names, too. */
static void job_done(struct restore *restore, struct job *job, const struct stat *st)
{
    if (job->group && st) {
        job->group->dev = st->st_dev;
        job->group->ino = st->st_ino;
        job->group->state = LINK_DONE;
    }
    count_progress(restore, 0, job->entry.type == ENTRY_REGULAR);
    restore_action(restore, action_of(job), job->node->path, job->name);
}

static bool apply_to_fd(struct restore *restore, struct job *job, int fd, uint32_t without_flags,
                        bool fresh)
{
    struct meta_report report = {restore, job->node->path, job->name};
    struct entry e = job->entry;

    e.flags &= ~without_flags;
    int r = meta_apply_fd(fd, &e, restore->owners, fresh, restore_meta_problem, &report);
    if (r < 0)
        report_problem(restore, job, "cannot set attributes", r);
    return r >= 0;
}

static bool apply_to_name(struct restore *restore, struct job *job, int dir_fd, const char *name,
                          bool fresh)
{
    struct meta_report report = {restore, job->node->path, job->name};

    int r = meta_apply_at(dir_fd, name, &job->entry, restore->owners, fresh, restore_meta_problem,
                          &report);
    if (r < 0)
        report_problem(restore, job, "cannot set attributes", r);
    return r >= 0;
}

/* What is made in the stage is to take its place. */
static int put_staged(struct restore *restore, struct job *job)
{
    const struct entry *e = &job->entry;
    bool there = job->found != FOUND_NOTHING;

    int r = stage_put(restore->stage, job->node, job->temporary, job->name, there);
    if (r >= 0 && e->type == ENTRY_REGULAR && (e->flags & META_FLAGS_LOCKS))
        r = stage_set_attributes(restore->stage, job->node, job->name, e);
    if (r >= 0 && job->group) {
        free(job->group->place);
        job->group->place = stage_place(job->temporary);
        r = job->group->place ? 0 : -ENOMEM;
    }
    if (r >= 0)
        job->temporary[0] = '\0';
    return r;
}

static int stage_attributes(struct restore *restore, struct job *job)
{
    return stage_set_attributes(restore->stage, job->node, job->name, &job->entry);
}

static void apply_in_place(struct restore *restore, struct job *job, const struct comparison *c)
{
    if (job->staged) {
        int r = stage_attributes(restore, job);
        if (r < 0)
            report_problem(restore, job, "cannot set attributes", r);
    } else if (job->entry.type == ENTRY_REGULAR) {
        (void)apply_to_fd(restore, job, c->fd, 0, false);
    } else {
        (void)apply_to_name(restore, job, job->node->fd, job->name, false);
    }
}

/* Opens the file that is there for writing; what is being executed, say, has to be replaced. */
static void open_in_place(struct job *job, const struct comparison *c)
{
    if (meta_clear_immutable(c->fd) < 0 || reopen_fd(c->fd, O_RDWR, &job->fd) < 0)
        job->way = JOB_REPLACE;
}

/*
 * For the commit.  What has further names in the backup is made anew, so that they can be made of
 * it: each one in the stage would change the ctime of the file that is there, by which the commit
 * knows that nobody else has written to it.
 */
static void check_in_place(struct job *job, const struct comparison *c)
{
    CLEANUP_CLOSE int fd = -EBADF;

    if (job->group || reopen_fd(c->fd, O_RDWR, &fd) == -ETXTBSY)
        job->way = JOB_REPLACE;
}

static void look_to_write(struct restore *restore, struct job *job, struct comparison *c)
{
    job->differs = TAKE_PTR(c->differs);
    job->way = choose_way(job, c);
    if (job->way == JOB_IN_PLACE && job->staged)
        check_in_place(job, c);
    else if (job->way == JOB_IN_PLACE)
        open_in_place(job, c);
    if (job->way == JOB_ATTRIBUTES)
        apply_in_place(restore, job, c);
    if (job->way != JOB_ATTRIBUTES && job->way != JOB_KEEP)
        return;
    count_progress(restore, job->entry.size, 0);
    job_done(restore, job, &c->stat);
}

static void look_dry(struct restore *restore, struct job *job, struct comparison *c)
{
    job->differs = TAKE_PTR(c->differs);
    job->way = choose_way(job, c);
    count_progress(restore, job->entry.size, 0);
    job_done(restore, job, c->found == FOUND_NOTHING ? NULL : &c->stat);
}

void job_look_at_nothing(struct restore *restore, struct job *job)
{
    struct comparison c = {.found = FOUND_NOTHING, .fd = -EBADF};

    look_dry(restore, job, &c);
}

/* The offset of the first extent that differs. */
static uint64_t first_difference(const struct entry *e, const uint8_t *differs)
{
    uint64_t offset = 0;

    for (size_t i = 0; i < e->extents.count && !differs[i]; i++)
        offset += e->extents.items[i].len;
    return offset;
}

static void look_to_verify(struct restore *restore, struct job *job, struct comparison *c)
{
    CLEANUP_FREE char *path = restore_join(job->node->path, job->name);

    count_progress(restore, job->entry.size, 1);
    if (job->group && c->found != FOUND_NOTHING) {
        job->group->dev = c->stat.st_dev;
        job->group->ino = c->stat.st_ino;
        job->group->state = LINK_DONE;
    }
    if (restore_has_failed(restore, path ? path : ""))
        return;
    if (c->found == FOUND_NOTHING)
        restore_problem(restore, path, "verification: it is not there");
    else if (c->found == FOUND_OTHER)
        restore_problem(restore, path, "verification: something else is in its place");
    else if (c->found == FOUND_CONTENTS && (uint64_t)c->stat.st_size != job->entry.size)
        restore_problem(restore, path, "verification: its size differs");
    else if (c->found == FOUND_CONTENTS)
        restore_problem(restore, path, "verification: its contents differ at byte %llu",
                        (unsigned long long)first_difference(&job->entry, c->differs));
    if (c->attributes && *c->attributes)
        restore_problem(restore, path, "verification: attributes differ: %s", c->attributes);
}

void job_look(struct restore *restore, struct worker *worker, struct job *job)
{
    CLEANUP(comparison_release) struct comparison c = {.fd = -EBADF};

    job->way = JOB_KEEP;
    int r = compare_entry(restore, worker, job->node->fd, job->name, &job->entry, &c);
    if (r < 0 && restore_error_is_fatal(r)) {
        if (r != -UMBRA_E_CANCELLED)
            stop_at(restore, job, r);
        return;
    }
    if (r < 0 && restore->mode != RESTORE_WRITE) {
        report_problem(restore, job, "cannot be read", r);
        return;
    }
    job->found = r < 0 ? FOUND_CONTENTS : c.found;
    if (r < 0) /* what cannot even be read is replaced */
        job->way = JOB_REPLACE;
    else if (restore->mode == RESTORE_WRITE)
        look_to_write(restore, job, &c);
    else if (restore->mode == RESTORE_DRY_RUN)
        look_dry(restore, job, &c);
    else
        look_to_verify(restore, job, &c);
}

/* ---- the space of a file ---- */

static int pwrite_full(int fd, const void *data, size_t len, uint64_t offset)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_zeros(int fd, uint64_t offset, uint64_t len)
{
    static const uint8_t zeros[64 << 10];

    for (uint64_t done = 0; done < len;) {
        size_t n = (size_t)MIN(len - done, (uint64_t)sizeof(zeros));
        int r = pwrite_full(fd, zeros, n, offset + done);
        if (r < 0)
            return r;
        done += n;
    }
    return 0;
}

/* Allocates from..to, and extends the file so far; 0 also where that does not exist: then
 * *ret_done is false. */
static int allocate(int fd, uint64_t from, uint64_t to, bool *ret_done)
{
    *ret_done = from < to && fallocate(fd, 0, (off_t)from, (off_t)(to - from)) == 0;
    if (*ret_done || from == to || errno == EOPNOTSUPP || errno == ENOSYS)
        return 0;
    return -errno;
}

/* The mark comes before the size: a crash never leaves a file of zeros that says it is complete. */
static int mark_placeholder(const struct restore *restore, const struct job *job, int fd)
{
    struct pending pending = {
        .restore_id = restore->options->placeholders->restore_id,
        .ordinal = job->ordinal,
        .valid_bytes = job->entry.size,
    };

    int r = pending_set(fd, &pending);
    return r < 0 ? error_note_describe(r, "cannot mark it as a placeholder") : 0;
}

/* Of a new file: blocks for zeros that were allocated, and for all data of a large file or a
 * placeholder, so that it is in one piece and want of space shows early.  Holes stay holes.
 * *ret_sized: the file has its size by that. */
static int allocate_new(const struct job *job, int fd, bool *ret_sized)
{
    const struct extent_vector *extents = &job->entry.extents;
    bool all = job->placeholder || job->entry.size >= PREALLOCATE_MIN, done;
    uint64_t offset = 0, from = 0;

    for (size_t i = 0; i < extents->count; i++) {
        const struct extent *x = &extents->items[i];
        bool wanted = x->kind == EXTENT_ZERO || (all && x->kind == EXTENT_DATA);
        if (!wanted) {
            int r = allocate(fd, from, offset, &done);
            if (r < 0)
                return r;
            from = offset + x->len;
        }
        offset += x->len;
    }
    return allocate(fd, from, offset, ret_sized);
}

static int lay_out_new(const struct restore *restore, const struct job *job, int fd)
{
    bool sized = false;
    int r = job->placeholder ? mark_placeholder(restore, job, fd) : 0;

    if (r >= 0)
        r = allocate_new(job, fd, &sized);
    if (r < 0)
        return r;
    return !sized && ftruncate(fd, (off_t)job->entry.size) < 0 ? -errno : 0;
}

static int clear_range(int fd, enum extent_kind kind, uint64_t offset, uint64_t len)
{
    int mode =
        kind == EXTENT_HOLE ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;

    if (fallocate(fd, mode, (off_t)offset, (off_t)len) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(fd, offset, len) : -errno;
}

static int lay_out_in_place(const struct job *job)
{
    uint64_t offset = 0;

    if (ftruncate(job->fd, (off_t)job->entry.size) < 0)
        return -errno;
    for (size_t i = 0; i < job->entry.extents.count; i++) {
        const struct extent *x = &job->entry.extents.items[i];
        if (job->differs[i] && x->kind != EXTENT_DATA) {
            int r = clear_range(job->fd, x->kind, offset, x->len);
            if (r < 0)
                return r;
        }
        offset += x->len;
    }
    return 0;
}

/* Allocated zeros are data of what will be copied. */
static int lay_out_staged(const struct job *job)
{
    uint64_t offset = 0;

    if (ftruncate(job->fd, (off_t)job->entry.size) < 0)
        return -errno;
    for (size_t i = 0; i < job->entry.extents.count; i++) {
        const struct extent *x = &job->entry.extents.items[i];
        if (job->differs[i] && x->kind == EXTENT_ZERO) {
            int r = write_zeros(job->fd, offset, x->len);
            if (r < 0)
                return r;
        }
        offset += x->len;
    }
    return 0;
}

/* A file in the stage: the whole new one, or one that has what differs, at the same offsets. */
static int open_staged(struct restore *restore, struct job *job)
{
    stage_name(restore->stage, job->temporary);
    job->fd = openat(stage_fd(restore->stage), job->temporary,
                     O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (job->fd < 0)
        return -errno;
    if (job->way == JOB_IN_PLACE)
        return lay_out_staged(job);
    meta_apply_early_fd(job->fd, &job->entry, true);
    return lay_out_new(restore, job, job->fd);
}

static int open_hidden(struct restore *restore, struct job *job)
{
    int r = hidden_create(restore, job->node->fd, job->temporary, &job->fd);
    if (r < 0)
        return r;
    meta_apply_early_fd(job->fd, &job->entry, job->node->inherits);
    return lay_out_new(restore, job, job->fd);
}

/* Makes the job ready to be written to, once. */
static int job_open(struct restore *restore, struct job *job)
{
    pthread_mutex_t *lock = job_lock(restore, job);
    int r = 0;

    pthread_mutex_lock(lock);
    if (!job->opened && !atomic_load(&job->failed)) {
        if (job->staged) {
            r = open_staged(restore, job);
        } else if (job->way == JOB_IN_PLACE) {
            job->touched = true;
            r = lay_out_in_place(job);
        } else {
            r = open_hidden(restore, job);
        }
        job->opened = r >= 0;
        if (r < 0) { /* nobody else tries, and overwrites what there is */
            error_save(&job->error, r);
            atomic_store(&job->failed, true);
        }
    }
    pthread_mutex_unlock(lock);
    return r;
}

/* ---- the end of a job ---- */

static void set_aside(struct restore *restore, struct job *job, char ret_name[NAME_MAX + 1])
{
    const char *name = job->name;
    int n = snprintf(ret_name, NAME_MAX + 1, "%s.umbra-incomplete", name);

    if (n <= NAME_MAX &&
        renameat2(job->node->fd, name, job->node->fd, ret_name, RENAME_NOREPLACE) == 0)
        return;
    temporary_name(restore, ret_name);
    if (renameat(job->node->fd, name, job->node->fd, ret_name) < 0)
        (void)snprintf(ret_name, NAME_MAX + 1, "%.200s", name);
}

/* Takes back what was begun; says what is left. */
static void job_discard(struct restore *restore, struct job *job, const struct error_report *error)
{
    CLEANUP_FREE char *path = restore_join(job->node->path, job->name);
    char aside[NAME_MAX + 1] = "";
    bool stopped = restore_error_is_fatal(error->code);

    if (job->touched)
        set_aside(restore, job, aside);
    if (job->fd >= 0)
        (void)close(TAKE_FD(job->fd));
    if (job->temporary[0])
        (void)unlinkat(job_dir_fd(restore, job), job->temporary, 0);
    job->temporary[0] = '\0';
    if (job->group)
        job->group->state = LINK_FAILED;
    restore_count_failed(restore, &job->entry, job->is_link ? 0 : job->entry.size);
    if (job->touched)
        restore_problem(restore, path, "%s; what was there is partly rewritten and now called '%s'",
                        error->text, aside);
    else if (!stopped)
        restore_problem(restore, path, "%s%s", error->text,
                        job->way == JOB_NEW ? "" : "; what was there is unchanged");
}

static void job_note_failure(struct restore *restore, struct job *job, int r)
{
    pthread_mutex_t *lock = job_lock(restore, job);

    if (restore_error_is_fatal(r))
        stop_at(restore, job, r);
    pthread_mutex_lock(lock);
    if (!atomic_load(&job->failed)) {
        error_save(&job->error, r);
        atomic_store(&job->failed, true);
    }
    pthread_mutex_unlock(lock);
}

/* chattr +i and +a of a placeholder come with the last of its data. */
static uint32_t locks_of(const struct job *job)
{
    return job->placeholder ? 0 : job->entry.flags & META_FLAGS_LOCKS;
}

static void tell_placed(struct restore *restore, const struct job *job, int fd)
{
    const struct restore_placeholders *p = restore->options->placeholders;

    if (job->placeholder)
        p->placed(job->ordinal, fd, p->userdata);
}

/* All data that differs is in the stage. */
static int finish_staged(struct restore *restore, struct job *job)
{
    bool in_place = job->way == JOB_IN_PLACE;
    struct stat st;

    if (!in_place)
        (void)apply_to_fd(restore, job, job->fd, META_FLAGS_LOCKS, false);
    if (job->group && fstat(job->fd, &st) < 0)
        return -errno;
    if (close(TAKE_FD(job->fd)) < 0 && errno != EINTR)
        return -errno;
    int r = in_place ? stage_write(restore->stage, job, job->temporary) : put_staged(restore, job);
    if (r >= 0 && in_place)
        r = stage_attributes(restore, job);
    if (r < 0)
        return r;
    job->temporary[0] = '\0';
    job_done(restore, job, job->group ? &st : NULL);
    return 0;
}

/* All data is there: attributes, name, flags. */
static int job_finish(struct restore *restore, struct job *job)
{
    uint32_t locks = locks_of(job);
    bool fresh = job_is_fresh(job);
    struct stat st;

    (void)apply_to_fd(restore, job, job->fd, META_FLAGS_LOCKS, fresh);
    /* The old file must not be gone before the new one is on disk. */
    if (job->way == JOB_REPLACE && fdatasync(job->fd) < 0)
        return error_note_describe(-errno, "cannot sync it");
    if (job->way != JOB_IN_PLACE) {
        int r = hidden_publish(restore, job->node->fd, job->fd, job->temporary, job->name);
        if (r < 0)
            return error_prefix(r, "cannot put it in its place");
    }
    if (locks && !job->group)
        (void)apply_to_fd(restore, job, job->fd, 0, fresh);
    if (job->group && fstat(job->fd, &st) < 0)
        return -errno;
    tell_placed(restore, job, job->fd);
    if (close(TAKE_FD(job->fd)) < 0 && errno != EINTR)
        return -errno;
    if (locks && job->group) { /* of a file that is known to be good */
        int r = restore_put_off_flags(restore, job->node->place, job->name, &job->entry);
        if (r < 0)
            return r;
    }
    job_done(restore, job, job->group ? &st : NULL);
    return 0;
}

static void job_end(struct restore *restore, struct job *job)
{
    if (!atomic_load(&job->failed)) {
        int r = job->staged ? finish_staged(restore, job) : job_finish(restore, job);
        if (r >= 0)
            return;
        job_note_failure(restore, job, r);
    }
    job_discard(restore, job, &job->error);
}

static void job_piece_done(struct restore *restore, struct job *job)
{
    if (atomic_fetch_sub(&job->pieces_left, 1) == 1)
        job_end(restore, job);
}

void job_abandon(struct restore *restore, struct job *job)
{
    if (atomic_load(&job->pieces_left) == 0)
        return;
    const struct error_report stopped = {.code = -UMBRA_E_CANCELLED, .text = "the restore stopped"};
    job_discard(restore, job, &stopped);
}

/* ---- a new file of a single chunk ---- */

static bool job_is_direct(const struct job *job)
{
    return job->way == JOB_NEW && job->entry.extents.count == 1 &&
           job->entry.extents.items[0].kind == EXTENT_DATA;
}

static int finish_direct(struct restore *restore, struct job *job, int *fd)
{
    uint32_t locks = locks_of(job);
    bool put_off = locks && (job->group || job->staged);
    struct stat st;

    (void)apply_to_fd(restore, job, *fd, put_off || !locks ? META_FLAGS_LOCKS : 0,
                      job_is_fresh(job));
    if (job->group && fstat(*fd, &st) < 0)
        return -errno;
    tell_placed(restore, job, *fd);
    if (close(TAKE_FD(*fd)) < 0 && errno != EINTR)
        return -errno;
    int r = 0;
    if (job->staged)
        r = put_staged(restore, job);
    else if (put_off)
        r = restore_put_off_flags(restore, job->node->place, job->name, &job->entry);
    if (r < 0)
        return r;
    job_done(restore, job, job->group ? &st : NULL);
    return 0;
}

/* Nobody gets into a directory that we made before it is done, so what is made there can have its
 * permissions at once, which mostly saves a chmod. */
static mode_t first_mode(const struct job *job)
{
    return job->node->made ? job->entry.mode & 0777 : 0600;
}

/* -EEXIST: somebody was faster, and nothing is done. */
static int write_direct(struct restore *restore, struct job *job, const void *data, uint32_t len)
{
    const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    const char *name = job->staged ? job->temporary : job->name;

    if (job->staged)
        stage_name(restore->stage, job->temporary);
    CLEANUP_CLOSE int fd = openat(job_dir_fd(restore, job), name, flags, first_mode(job));
    if (fd < 0)
        return -errno;
    meta_apply_early_fd(fd, &job->entry, job->node->inherits || job->staged);
    int r = job->placeholder ? lay_out_new(restore, job, fd) : pwrite_full(fd, data, len, 0);
    if (r >= 0)
        r = finish_direct(restore, job, &fd);
    if (r < 0)
        (void)unlinkat(job_dir_fd(restore, job), name, 0);
    return r;
}

void job_write(struct restore *restore, struct job *job, const void *data, uint32_t len,
               uint64_t offset)
{
    int r = 0;

    if (atomic_load(&job->failed)) {
        job_piece_done(restore, job);
        return;
    }
    bool direct = job_is_direct(job);
    if (direct) {
        r = write_direct(restore, job, data, len);
        if (r == -EEXIST) {
            job->way = JOB_REPLACE;
            direct = false;
            r = 0;
        }
    }
    if (!direct) {
        r = job_open(restore, job);
        if (r >= 0 && !atomic_load(&job->failed))
            r = pwrite_full(job->fd, data, len, offset);
    }
    if (r < 0)
        job_note_failure(restore, job, r);
    else
        atomic_fetch_add_explicit(&restore->written_bytes, len, memory_order_relaxed);
    count_progress(restore, len, 0);
    if (direct && r >= 0)
        atomic_store(&job->pieces_left, 0);
    else
        job_piece_done(restore, job);
}

void job_fail_piece(struct restore *restore, struct job *job, int r)
{
    job_note_failure(restore, job, r);
    job_piece_done(restore, job);
}

/* ---- everything without data ---- */

static int make_special(const struct job *job, int dir_fd, const char *name)
{
    const struct entry *e = &job->entry;
    dev_t dev = 0;

    if (e->type == ENTRY_SYMLINK)
        return symlinkat(e->symlink, dir_fd, name) < 0 ? -errno : 0;
    if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK)
        dev = makedev(e->rdev_major, e->rdev_minor);
    return mknodat(dir_fd, name, entry_file_type(e) | 0600, dev) < 0 ? -errno : 0;
}

static int replace_special(struct restore *restore, struct job *job)
{
    char name[TEMPORARY_NAME_MAX];

    temporary_name(restore, name);
    int r = make_special(job, job->node->fd, name);
    if (r < 0)
        return r;
    (void)apply_to_name(restore, job, job->node->fd, name, job_is_fresh(job));
    r = publish_rename(restore, job->node->fd, name, job->name);
    if (r < 0)
        (void)unlinkat(job->node->fd, name, 0);
    return r;
}

static int stage_special(struct restore *restore, struct job *job, struct stat *ret_stat)
{
    int dir_fd = job_dir_fd(restore, job);

    stage_name(restore->stage, job->temporary);
    int r = make_special(job, dir_fd, job->temporary);
    if (r < 0)
        return r;
    (void)apply_to_name(restore, job, dir_fd, job->temporary, false);
    if (fstatat(dir_fd, job->temporary, ret_stat, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return put_staged(restore, job);
}

static int make_special_in_place(struct restore *restore, struct job *job, struct stat *ret_stat)
{
    int dir_fd = job->node->fd, r = -EEXIST;

    if (job->way == JOB_NEW) {
        r = make_special(job, dir_fd, job->name);
        if (r >= 0)
            (void)apply_to_name(restore, job, dir_fd, job->name, job_is_fresh(job));
    }
    if (r == -EEXIST)
        r = replace_special(restore, job);
    if (r >= 0 && job->group && fstatat(dir_fd, job->name, ret_stat, AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    return r;
}

static void job_make_special(struct restore *restore, struct job *job)
{
    struct stat st;

    int r =
        job->staged ? stage_special(restore, job, &st) : make_special_in_place(restore, job, &st);
    if (r >= 0) {
        job_done(restore, job, &st);
        return;
    }
    if (job->group)
        job->group->state = LINK_FAILED;
    if (restore_error_is_fatal(r))
        stop_at(restore, job, r);
    else
        report_problem(restore, job, "cannot be made", r);
}

void job_make(struct restore *restore, struct job *job)
{
    if (job->entry.type != ENTRY_REGULAR) {
        job_make_special(restore, job);
        return;
    }
    int r = -EEXIST;
    if (job->way == JOB_NEW && (job->entry.size == 0 || job->placeholder))
        r = write_direct(restore, job, NULL, 0);
    if (r >= 0)
        return;
    if (r == -EEXIST)
        r = job_open(restore, job);
    if (r < 0)
        job_note_failure(restore, job, r);
    job_end(restore, job);
}

bool job_wants_extent(const struct job *job, size_t index)
{
    return job->entry.extents.items[index].kind == EXTENT_DATA && !job->placeholder &&
           (job->way != JOB_IN_PLACE || job->differs[index]);
}

void job_count_pieces(struct job *job)
{
    uint32_t total = 0;

    for (size_t i = 0; i < job->entry.extents.count; i++)
        total += job_wants_extent(job, i);
    job->piece_total = total;
    atomic_store(&job->pieces_left, total);
}

void job_run_alone(struct restore *restore, struct worker *worker, struct job *job)
{
    uint64_t offset = 0;

    job_count_pieces(job);
    if (job->piece_total == 0) {
        job_make(restore, job);
        return;
    }
    for (size_t i = 0; i < job->entry.extents.count; i++) {
        const struct extent *x = &job->entry.extents.items[i];
        if (job_wants_extent(job, i)) {
            CLEANUP_FREE void *data = NULL;
            int r =
                repository_read_chunk(restore->repo, worker->codec, CHUNK_DATA, &x->chunk, &data);
            if (r < 0)
                job_fail_piece(restore, job, r);
            else
                job_write(restore, job, data, x->chunk.len, offset);
        }
        offset += x->len;
    }
}
