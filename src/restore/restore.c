/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ordinary restore: from a backup to files in a directory.
 *
 * The catalog is walked once, in its order (restore-plan.c).  What is wanted of it
 * (restore-select.c) is cut into windows of some thousand files (restore-window.c).  Of a window,
 * what is there is compared first (restore-compare.c), what is missing is sorted by where it lies
 * in the repository, and workers read run after run of neighbouring frames and write what is in
 * them to as many files as it takes (restore-job.c).  So each frame is read and opened once a
 * window, packs are read from front to back, and a small file costs little more than its creation.
 * While the workers have one window, the planning thread fills the next and makes its directories
 * (restore-node.c); when the workers are done, it makes the further names of files (restore-link.c)
 * and gives the directories that are complete their attributes.  Memory is that of two windows and
 * of the directories on the way, however large the backup is; only hard links are remembered for
 * longer.
 *
 * Invariants:
 *
 *  1. Nothing is written that was not verified against the id of its chunk.
 *  2. A name leads to the whole new file, to the whole old one, or to nothing; the exceptions are
 * in the table of restore-job.c, and what is left after a failure is told.  Nothing that was there
 *     is removed before what replaces it is complete, except what stands where a directory belongs.
 *  3. Each name is used in a descriptor of its directory, and that was opened beneath the target
 *     without following a link (tree/beneath.h).  A name is never opened through a link, and an
 *     inode that has other names is never changed, because those may lie elsewhere.
 *  4. What is restored is not open to others until it is complete: files 0600 or without a name,
 *     directories 0700, owned by us.
 *  5. A file that cannot be restored is named, and costs no other file.  Only what would stop all
 * of them ends the run: no space, no memory, no descriptors, a read-only target, cancellation.
 *  6. What runs twice changes nothing the second time; an interrupted restore is finished by
 *     another one.
 *
 * On return everything is on the disk (syncfs), unless no_sync says otherwise.
 *
 * Threads and locks: the planning thread owns nodes, windows, link groups and counts of the
 * selection.  Workers get a window's jobs between restore_window_start and restore_window_wait and
 * use only the descriptor, path and constant flags of its nodes; a job's link group is theirs as
 * long.
 *
 *     window_lock    tasks of a window, idle workers
 *     job_locks[]    by address of the job: opening its file, its first failure
 *     report_lock    callbacks, counts of actions, the failure that ends the run, late flags
 *
 * A job lock is never held while another lock is taken.
 */
#include "restore/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/restore-private.h"

#define THREADS_MAX 256u

/* ---- the target ---- */

static bool target_gets_attributes(const struct selection *s)
{
    return s->base_found && !s->single;
}

/* Each parent that is missing, too. */
static int make_target(const char *path, mode_t mode)
{
    CLEANUP_FREE char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    return mkdir(copy, mode) < 0 && errno != EEXIST ? -errno : 0;
}

static int open_target(struct restore *restore)
{
    const char *target = restore->options->target;
    const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

    if (!target || !*target)
        return error_note(-EINVAL, "no target is given");
    if (restore->options->list_only) {
        restore->root_made = true;
        return 0;
    }
    restore->root_fd = open(target, flags);
    if (restore->root_fd < 0 && errno == ENOENT && !restore->options->atomic) {
        restore->root_made = true;
        if (restore->mode == RESTORE_DRY_RUN)
            return 0;
        int r = make_target(target, target_gets_attributes(&restore->selection) ? 0700 : 0777);
        if (r < 0)
            return error_note_describe(r, "cannot make '%s'", target);
        restore->root_fd = open(target, flags);
    }
    struct stat st;
    if (restore->root_fd < 0 || fstat(restore->root_fd, &st) < 0)
        return error_note_describe(-errno, "cannot open '%s'", target);
    restore->root_dev = st.st_dev;
    return dir_cache_new(restore->root_fd, &restore->dirs);
}

int restore_note_fs(struct restore *restore, int fd, dev_t dev)
{
    if (dev == restore->root_dev)
        return 0;
    for (size_t i = 0; i < restore->other_fs.count; i++) {
        if (restore->other_fs.items[i].dev == dev)
            return 0;
    }
    struct other_fs other = {.dev = dev, .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)};
    if (other.fd < 0)
        return -errno;
    int r = other_fs_vector_push(&restore->other_fs, &other);
    if (r < 0)
        (void)close(other.fd);
    return r;
}

static int sync_target(struct restore *restore)
{
    if (syncfs(restore->root_fd) < 0)
        return error_note_describe(-errno, "cannot sync '%s'", restore->options->target);
    for (size_t i = 0; i < restore->other_fs.count; i++) {
        if (syncfs(restore->other_fs.items[i].fd) < 0)
            return error_note_describe(-errno, "cannot sync a file system below '%s'",
                                       restore->options->target);
    }
    return 0;
}

/* ---- flags that keep links from being made ---- */

int restore_put_off_flags(struct restore *restore, const char *dir, const char *name,
                          const struct entry *e)
{
    struct late_flags late = {.dir = strdup(dir), .name = strdup(name)};
    int r = late.dir && late.name ? entry_copy(e, &late.entry) : -ENOMEM;

    if (r >= 0) {
        pthread_mutex_lock(&restore->report_lock);
        r = late_flags_vector_push(&restore->late_flags, &late);
        pthread_mutex_unlock(&restore->report_lock);
        if (r < 0)
            entry_release(&late.entry);
    }
    if (r < 0) {
        free(late.dir);
        free(late.name);
    }
    return r;
}

static int set_late_flags(struct restore *restore, const struct late_flags *late)
{
    struct meta_report report = {restore, late->dir, late->name};
    CLEANUP_CLOSE int path_fd = -EBADF, fd = -EBADF;
    struct stat st;
    int dir_fd;

    int r = dir_cache_get(restore->dirs, late->dir, &dir_fd);
    if (r >= 0)
        r = open_path(dir_fd, late->name, &path_fd, &st);
    if (r >= 0 && !S_ISREG(st.st_mode))
        r = -UMBRA_E_CHANGED;
    if (r >= 0)
        r = reopen_fd(path_fd, O_RDONLY | O_NOATIME, &fd);
    if (r >= 0)
        r = meta_apply_fd(fd, &late->entry, restore->owners, false, restore_meta_problem, &report);
    return r;
}

static int set_all_late_flags(struct restore *restore)
{
    for (size_t i = 0; i < restore->late_flags.count; i++) {
        const struct late_flags *late = &restore->late_flags.items[i];
        int r = set_late_flags(restore, late);
        if (r == -ENOMEM)
            return r;
        if (r < 0)
            restore_meta_problem("flags", r, &(struct meta_report){restore, late->dir, late->name});
    }
    return 0;
}

/* ---- the run ---- */

static uint64_t now_ns(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static unsigned processor_count(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 1;
    return (unsigned)MAX(CPU_COUNT(&set), 1);
}

/* Two windows share half of what the limit allows, so that the program has the other half. */
static void limit_descriptors(struct restore *restore)
{
    struct rlimit limit = {.rlim_cur = 1024};

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t share = MIN(limit.rlim_cur, (rlim_t)1 << 20) / 8;
    restore->nodes_max = (unsigned)MAX(MIN(share, (rlim_t)WINDOW_NODES_MAX), (rlim_t)8);
    restore->split_max = (unsigned)MAX(MIN(share, (rlim_t)WINDOW_SPLIT_MAX), (rlim_t)8);
}

static int restore_init(struct restore *restore)
{
    const struct restore_options *o = restore->options;

    restore->root_fd = -EBADF;
    restore->mode = o->dry_run || o->list_only ? RESTORE_DRY_RUN : RESTORE_WRITE;
    restore->threads = o->threads ? MIN(o->threads, THREADS_MAX) : processor_count();
    (void)pthread_mutex_init(&restore->window_lock, NULL);
    (void)pthread_mutex_init(&restore->report_lock, NULL);
    (void)pthread_cond_init(&restore->window_done, NULL);
    for (unsigned i = 0; i < JOB_LOCKS; i++)
        (void)pthread_mutex_init(&restore->job_locks[i], NULL);
    limit_descriptors(restore);
    if (getrandom(&restore->temporary_seed, sizeof(restore->temporary_seed), 0) < 0)
        return error_note_describe(-errno, "no random numbers");

    int r = page_reader_new(restore->repo, &restore->pages);
    if (r < 0)
        return r;
    restore->store = page_reader_store(restore->pages);
    r = selection_init(restore);
    if (r < 0)
        return r;
    r = owner_map_new(&restore->backup->owners, o->numeric_owner, &restore->owners);
    if (r < 0)
        return r;
    r = open_target(restore);
    if (r < 0)
        return r;
    return pool_new(restore->threads, &restore->pool);
}

static void restore_release(struct restore *restore)
{
    pool_free(restore->pool);
    worker_free_all(restore);
    link_table_free(restore->links);
    for (size_t i = 0; i < restore->late_flags.count; i++) {
        free(restore->late_flags.items[i].dir);
        free(restore->late_flags.items[i].name);
        entry_release(&restore->late_flags.items[i].entry);
    }
    late_flags_vector_release(&restore->late_flags);
    stage_free(restore->stage);
    for (size_t i = 0; i < restore->other_fs.count; i++)
        (void)close(restore->other_fs.items[i].fd);
    other_fs_vector_release(&restore->other_fs);
    dir_cache_free(restore->dirs);
    if (restore->root_fd >= 0)
        (void)close(restore->root_fd);
    owner_map_free(restore->owners);
    selection_release(&restore->selection);
    page_reader_free(restore->pages);
    string_vector_release_all(&restore->failed_paths);
    for (unsigned i = 0; i < JOB_LOCKS; i++)
        (void)pthread_mutex_destroy(&restore->job_locks[i]);
    (void)pthread_cond_destroy(&restore->window_done);
    (void)pthread_mutex_destroy(&restore->report_lock);
    (void)pthread_mutex_destroy(&restore->window_lock);
}

/* What the progress will come to, when that is known beforehand. */
static void set_totals(struct restore *restore)
{
    const struct restore_options *o = restore->options;
    struct progress *progress = o->progress;

    restore->totals_known = !o->subpath && !o->includes && !o->excludes;
    if (!progress || !restore->totals_known)
        return;
    atomic_fetch_add(&progress->bytes_total, restore->backup->stats.size_bytes);
    atomic_fetch_add(&progress->files_total, restore->backup->stats.file_count);
}

static int one_pass(struct restore *restore, enum restore_mode mode)
{
    restore->mode = mode;
    set_totals(restore);
    link_table_free(TAKE_PTR(restore->links));
    int r = link_table_new(&restore->links);
    return r < 0 ? r : plan_run(restore);
}

/* What is in the stage takes its place, if that is all. */
static int commit(struct restore *restore)
{
    if (restore->stats.problem_count > 0)
        return error_note(-UMBRA_E_UNCHANGED, "nothing was changed: %llu %s",
                          (unsigned long long)restore->stats.problem_count,
                          restore->stats.problem_count == 1 ? "problem" : "problems");
    int r = stage_commit(restore->stage);
    stage_free(TAKE_PTR(restore->stage));
    return r;
}

static int write_and_sync(struct restore *restore)
{
    uint64_t start_ns = now_ns();
    int r = 0;

    if (restore->options->atomic && restore->mode == RESTORE_WRITE)
        r = stage_new(restore, &restore->stage);
    if (r >= 0)
        r = one_pass(restore, restore->mode);
    if (r >= 0)
        r = set_all_late_flags(restore);
    if (r >= 0 && restore->stage)
        r = commit(restore);
    restore->stats.restore_ns = now_ns() - start_ns;
    if (r < 0 || restore->mode == RESTORE_DRY_RUN)
        return r;
    if (restore->options->no_sync && !restore->options->verify)
        return 0;
    start_ns = now_ns();
    r = sync_target(restore);
    restore->stats.sync_ns = now_ns() - start_ns;
    return r;
}

static int verify(struct restore *restore)
{
    uint64_t start_ns = now_ns();

    restore_sort_failed(restore);
    int r = one_pass(restore, RESTORE_VERIFY);
    restore->stats.verify_ns = now_ns() - start_ns;
    return r;
}

/* Deleting what the backup does not have is right only for a backup that was meant to have all, and
 * has it. */
static int check_delete(const struct backup *backup, const struct restore_options *options)
{
    if (!options->delete_extra)
        return 0;
    if (backup->stats.problem_count > 0)
        return error_note(-EINVAL,
                          "files could not be read for backup %.12s: --delete would remove them",
                          backup->id);
    if (backup->excludes.count > 0)
        return error_note(-EINVAL,
                          "backup %.12s was made with %s: --delete would remove what that left out",
                          backup->id, backup->excludes.items[0]);
    return 0;
}

int restore_run(struct repository *repo, const struct backup *backup,
                const struct restore_options *options, struct restore_stats *ret_stats)
{
    CLEANUP(restore_release)
    struct restore restore = {.repo = repo, .backup = backup, .options = options};

    int r = check_delete(backup, options);
    if (r >= 0)
        r = restore_init(&restore);
    if (r >= 0)
        r = write_and_sync(&restore);
    if (r >= 0 && options->verify && !options->dry_run)
        r = verify(&restore);
    if (r < 0)
        return r;
    restore.stats.written_bytes = atomic_load(&restore.written_bytes);
    restore.stats.verified_bytes = atomic_load(&restore.verified_bytes);
    *ret_stats = restore.stats;
    return 0;
}
