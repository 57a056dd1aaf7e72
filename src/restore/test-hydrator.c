/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hydrator without a filter: the requests are the test's own, and syncs take as long as it
 * wants. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "restore/hydrator-private.h"
#include "restore/test-made.h"

#define FILES      200u
#define FEW_FDS    24u /* more than the test has open */
#define FEW_FILLED 8u
#define LONG_S     100

/* ---- a file system that can hang ---- */

static pthread_mutex_t sync_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sync_goes_on = PTHREAD_COND_INITIALIZER;
static bool sync_hangs;

int syncfs(int fd _unused_)
{
    pthread_mutex_lock(&sync_lock);
    while (sync_hangs)
        pthread_cond_wait(&sync_goes_on, &sync_lock);
    pthread_mutex_unlock(&sync_lock);
    return 0;
}

static void let_sync_hang(bool hangs)
{
    pthread_mutex_lock(&sync_lock);
    sync_hangs = hangs;
    pthread_cond_broadcast(&sync_goes_on);
    pthread_mutex_unlock(&sync_lock);
}

/* ---- a restore ---- */

struct world {
    struct made made;
    struct hydrator h;
    struct hydrate_worker workers[DEMAND_THREADS + BACKGROUND_THREADS]; /* demand first */
    pthread_t sync;
    int filter_fd; /* the other end of the channel */
};

static void make_files(struct made *m)
{
    char path[32];

    made_init(m);
    made_directory(m, "top");
    for (unsigned i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof(path), "top/%u", i);
        made_text(m, path, path);
    }
    made_finish(m, "top", NULL);
    ASSERT_EQ(mkdir(m->target, 0755), 0);
    if (setxattr(m->target, "trusted.umbra.test", "", 0, 0) < 0)
        test_skip("needs root and a file system with trusted attributes");
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attr;

    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    ASSERT_EQ(pthread_cond_init(condition, &attr), 0);
    (void)pthread_condattr_destroy(&attr);
}

static void init_hydrator(struct world *w)
{
    struct hydrator *h = &w->h;
    const struct timeval long_time = {.tv_sec = LONG_S};
    int ends[2];

    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ASSERT_EQ(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &long_time, sizeof(long_time)), 0);
    w->filter_fd = ends[0];
    *h = (struct hydrator){
        .config = {.restore_id = 77,
                   .repo_url = strdup("memory:"),
                   .backup_id = strdup("none"),
                   .target = strdup(w->made.target),
                   .numeric_owner = true,
                   .whole_file_max = 1u << 20,
                   .deadline_s = 1},
        .repo = w->made.repo,
        .backup = w->made.backup,
        .channel_fd = ends[1],
        .report_fd = -EBADF,
        .record_fd = -EBADF,
        .start_ns = now_ns(),
    };
    h->demand.last = &h->demand.first;
    h->crawl.last = &h->crawl.first;
    ASSERT_EQ(pthread_mutex_init(&h->lock, NULL), 0);
    pthread_cond_t *const conditions[] = {&h->demand_ready, &h->background_ready,
                                          &h->released,     &h->filled_ready,
                                          &h->ended,        &h->record_ready};
    for (size_t i = 0; i < ELEMENTSOF(conditions); i++)
        init_condition(conditions[i]);
    throttle_init(&h->throttle, 0, false, now_ns());
    h->tree_fd = open(w->made.target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    h->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(h->tree_fd >= 0 && h->proc_fd >= 0);
}

static void open_sources(struct world *w)
{
    struct hydrator *h = &w->h;

    ASSERT_OK(frame_cache_new(h->repo, FRAME_CACHE_BYTES, &h->frames));
    const struct source_options options = {
        .repo = h->repo,
        .frames = h->frames,
        .specs = &h->config.sources,
        .base = "top",
        .volume_fd = -1,
    };
    ASSERT_OK(source_set_new(&options, &h->sources));
    for (size_t i = 0; i < ELEMENTSOF(w->workers); i++) {
        w->workers[i].hydrator = h;
        w->workers[i].source.buffer = malloc(FILL_UNIT_MAX);
        ASSERT_TRUE(w->workers[i].source.buffer);
        ASSERT_OK(source_reader_new(h->sources, &w->workers[i].source.reader));
    }
}

/* The placeholders stand. */
static struct world *world_begin(void)
{
    struct world *w = calloc(1, sizeof(*w));
    struct restore_stats stats = {0};

    ASSERT_TRUE(w);
    make_files(&w->made);
    init_hydrator(w);
    ASSERT_OK(manifest_new(w->made.repo->names, &w->h.manifest));
    open_sources(w);
    ASSERT_OK(hydrator_place(&w->h, &stats));
    ASSERT_EQ(w->h.remaining, FILES);
    hydrator_set_files_max(&w->h);
    return w;
}

static void start(struct world *w)
{
    for (size_t i = 0; i < ELEMENTSOF(w->workers); i++)
        ASSERT_EQ(pthread_create(&w->workers[i].thread, NULL,
                                 i < DEMAND_THREADS ? demand_thread : background_thread,
                                 &w->workers[i]),
                  0);
    ASSERT_EQ(pthread_create(&w->sync, NULL, sync_thread, &w->h), 0);
}

static void switch_background(struct world *w, bool on)
{
    pthread_mutex_lock(&w->h.lock);
    w->h.background_on = on;
    pthread_cond_broadcast(&w->h.background_ready);
    pthread_mutex_unlock(&w->h.lock);
}

static void ask_for(struct world *w, unsigned ordinal)
{
    struct request *request = calloc(1, sizeof(*request));

    ASSERT_TRUE(request);
    request->received_ns = now_ns();
    request->filter.event = FILTER_OPEN;
    request->filter.syscall = -1;
    request->filter.sequence = ordinal;
    ASSERT_OK(manifest_get_handle(w->h.manifest, ordinal, &request->filter.handle));
    pthread_mutex_lock(&w->h.lock);
    struct file *file = file_get_locked(&w->h, &request->filter.handle);
    ASSERT_TRUE(file);
    *file->requests.last = request;
    file->requests.last = &request->next;
    w->h.demand_active++;
    if (!file->busy && !file->queued)
        file_queue_locked(&w->h, file);
    pthread_mutex_unlock(&w->h.lock);
}

static void assert_answers(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct filter_answer answer;
        ASSERT_EQ(recv(w->filter_fd, &answer, sizeof(answer), 0), sizeof(answer));
        ASSERT_EQ(answer.error, 0);
    }
}

static void wait_until_filled(struct world *w)
{
    struct timespec deadline;

    ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &deadline), 0);
    deadline.tv_sec += LONG_S;
    pthread_mutex_lock(&w->h.lock);
    while (w->h.remaining > 0)
        ASSERT_EQ(pthread_cond_timedwait(&w->h.ended, &w->h.lock, &deadline), 0);
    pthread_mutex_unlock(&w->h.lock);
}

/* Everything is there. */
static void world_end(struct world *w)
{
    char path[32];

    wait_until_filled(w);
    pthread_mutex_lock(&w->h.lock);
    w->h.stopping = true;
    pthread_mutex_unlock(&w->h.lock);
    for (size_t i = 0; i < ELEMENTSOF(w->workers); i++)
        ASSERT_EQ(pthread_join(w->workers[i].thread, NULL), 0);
    ASSERT_EQ(pthread_join(w->sync, NULL), 0);
    ASSERT_EQ(w->h.problem_count, 0);
    for (unsigned i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof(path), "top/%u", i);
        const char *name = path + strlen("top/");
        made_assert_text(&w->made, name, path);
        ASSERT_TRUE(getxattr(made_path(&w->made, name), PENDING_XATTR, NULL, 0) < 0);
    }
    for (size_t i = 0; i < ELEMENTSOF(w->workers); i++) {
        source_reader_free(w->workers[i].source.reader);
        free(w->workers[i].source.buffer);
    }
    files_free(&w->h);
    source_set_free(w->h.sources);
    frame_cache_free(w->h.frames);
    manifest_free(w->h.manifest);
    state_vector_release(&w->h.states);
    directory_vector_release(&w->h.directories);
    for (size_t i = 0; i < CLASS_COUNT; i++)
        ordinal_vector_release(&w->h.next[i]);
    buffer_release(&w->h.last_key);
    instant_config_release(&w->h.config);
    (void)close(w->h.tree_fd);
    (void)close(w->h.proc_fd);
    (void)close(w->h.channel_fd);
    (void)close(w->filter_fd);
    made_release(&w->made);
    free(w);
}

static void limit_fds(struct world *w, struct rlimit *ret_before)
{
    int next = dup(w->filter_fd);

    ASSERT_TRUE(next >= 0);
    ASSERT_EQ(close(next), 0);
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, ret_before), 0);
    struct rlimit limit = {.rlim_cur = (rlim_t)next + FEW_FDS, .rlim_max = ret_before->rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* ---- the tests ---- */

/* Who reads gets his file, and it is not kept open until the next sync. */
TEST(few_full_files_wait_for_a_sync_that_hangs)
{
    struct world *w = world_begin();
    struct rlimit before;

    w->h.filled_max = FEW_FILLED;
    w->h.idle_max = FEW_FDS / 4;
    limit_fds(w, &before);
    let_sync_hang(true);
    start(w);
    for (unsigned i = 0; i < FILES / 2; i++)
        ask_for(w, i);
    assert_answers(w, FILES / 2);
    switch_background(w, true);
    for (unsigned i = FILES / 2; i < FILES; i++)
        ask_for(w, i);
    assert_answers(w, FILES / 2);
    pthread_mutex_lock(&w->h.lock);
    ASSERT_EQ(w->h.filled_count + w->h.syncing_count, FEW_FILLED);
    ASSERT_EQ(w->h.files_done, 0);
    ASSERT_EQ(w->h.files_failed, 0);
    pthread_mutex_unlock(&w->h.lock);
    let_sync_hang(false);
    world_end(w);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static bool had_a_shortage(struct world *w)
{
    pthread_mutex_lock(&w->h.lock);
    bool had = w->h.shortage_ns > 0;
    pthread_mutex_unlock(&w->h.lock);
    return had;
}

/* Whoever needs more than there are waits until some are free again. */
TEST(without_descriptors_readers_wait)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    struct world *w = world_begin();
    struct rlimit before;

    limit_fds(w, &before);
    let_sync_hang(true);
    start(w);
    for (unsigned i = 0; i < FILES; i++)
        ask_for(w, i);
    while (!had_a_shortage(w))
        (void)nanosleep(&pause, NULL);
    let_sync_hang(false);
    assert_answers(w, FILES);
    switch_background(w, true);
    world_end(w);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

/* The caller's limit may be low; who may raise it does. */
TEST(a_low_limit)
{
    struct hydrator *h = calloc(1, sizeof(*h));
    const struct rlimit low = {.rlim_cur = 50, .rlim_max = 100};
    struct rlimit before, now;

    ASSERT_TRUE(h);
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    hydrator_set_files_max(h);
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
    bool may_raise = setrlimit(RLIMIT_NOFILE, &before) == 0;
    ASSERT_EQ(h->filled_max, may_raise ? FILLED_FILES_MAX : 50);
    ASSERT_TRUE(now.rlim_cur >= (may_raise ? 2 * FILLED_FILES_MAX : 100));
    free(h);
}

TEST_MAIN()
