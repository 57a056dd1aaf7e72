/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A window of the selection on its way through the workers.
 *
 * First the files that may be there are compared with what is there, each by one worker.  Then all
 * that is missing is sorted by where it lies in the repository, neighbouring frames are read
 * together, and each frame is opened once in the window however many files it has parts of.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "restore/restore-private.h"

#define WHOLE_JOBS_AT_ONCE 64u
#define UNPLACED_AT_ONCE   16u
#define CODEC_LEVEL        1 /* it only ever opens */

struct window_task {
    struct pool_task task;
    struct restore_window *window;
};

/* ---- workers ---- */

static void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    frame_codec_free(worker->codec);
    free(worker->sealed);
    free(worker->plain);
    free(worker);
}
DEFINE_CLEANUP_PTR(struct worker *, worker_free);

static int worker_new(struct restore *restore, struct worker **ret_worker)
{
    CLEANUP(worker_freep) struct worker *worker = calloc(1, sizeof(*worker));
    if (!worker)
        return -ENOMEM;
    worker->sealed = malloc(BATCH_SEALED_MAX + FRAME_SEALED_MAX);
    worker->plain = malloc(FRAME_PLAIN_MAX);
    if (!worker->sealed || !worker->plain)
        return -ENOMEM;
    int r = frame_codec_new(restore->repo->keyring, CODEC_LEVEL, &worker->codec);
    if (r < 0)
        return r;
    *ret_worker = TAKE_PTR(worker);
    return 0;
}

struct worker *worker_take(struct restore *restore)
{
    pthread_mutex_lock(&restore->window_lock);
    struct worker *worker = restore->idle_workers;
    if (worker)
        restore->idle_workers = worker->next;
    pthread_mutex_unlock(&restore->window_lock);
    if (worker)
        return worker;
    int r = worker_new(restore, &worker);
    if (r < 0)
        (void)restore_stop(restore, error_prefix(r, "cannot set up a worker"));
    return worker;
}

void worker_give(struct restore *restore, struct worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&restore->window_lock);
    worker->next = restore->idle_workers;
    restore->idle_workers = worker;
    pthread_mutex_unlock(&restore->window_lock);
}

void worker_free_all(struct restore *restore)
{
    while (restore->idle_workers) {
        struct worker *worker = restore->idle_workers;
        restore->idle_workers = worker->next;
        worker_free(worker);
    }
}

/* ---- filling it ---- */

int restore_window_new(struct restore *restore, unsigned jobs_max,
                       struct restore_window **ret_window)
{
    CLEANUP(restore_window_freep) struct restore_window *window = calloc(1, sizeof(*window));
    if (!window)
        return -ENOMEM;
    window->restore = restore;
    window->jobs_max = jobs_max;
    window->tasks = calloc(restore->threads, sizeof(*window->tasks));
    if (!window->tasks)
        return -ENOMEM;
    *ret_window = TAKE_PTR(window);
    return 0;
}

static void free_jobs(struct job_vector *jobs)
{
    for (size_t i = 0; i < jobs->count; i++)
        job_free(jobs->items[i]);
    job_vector_release(jobs);
}

void restore_window_free(struct restore_window *window)
{
    if (!window)
        return;
    free_jobs(&window->jobs);
    free_jobs(&window->links);
    for (size_t i = 0; i < window->nodes.count; i++) {
        restore_node_put_fd(window->nodes.items[i]);
        restore_node_unref(window->nodes.items[i]);
    }
    restore_node_vector_release(&window->nodes);
    for (size_t i = 0; i < window->finish.count; i++)
        restore_node_unref(window->finish.items[i]);
    restore_node_vector_release(&window->finish);
    piece_vector_release(&window->pieces);
    batch_vector_release(&window->batches);
    job_vector_release(&window->whole);
    free(window->tasks);
    free(window);
}

bool restore_window_is_full(const struct restore *restore, const struct restore_window *window)
{
    return window->jobs.count + window->links.count >= window->jobs_max ||
           window->extent_count >= WINDOW_PIECES_MAX || window->nodes.count >= restore->nodes_max ||
           window->split_count >= restore->split_max || window->finish.count >= WINDOW_JOBS_MAX;
}

/* The node's descriptor stays open as long as the window needs it. */
static int window_use_node(struct restore *restore, struct restore_window *window,
                           struct restore_node *node)
{
    if (window->nodes.count > 0 && window->nodes.items[window->nodes.count - 1] == node)
        return 0;
    int r = restore_node_vector_reserve(&window->nodes, 1);
    if (r < 0)
        return r;
    r = restore_node_get_fd(restore, node);
    if (r < 0)
        return r;
    window->nodes.items[window->nodes.count++] = restore_node_ref(node);
    return 0;
}

int restore_window_add_job(struct restore *restore, struct restore_window *window, struct job *job)
{
    int r = window_use_node(restore, window, job->node);
    if (r < 0)
        return r;
    r = job_vector_push(&window->jobs, &job);
    if (r < 0)
        return r;
    window->extent_count += job->entry.extents.count;
    window->split_count += job->entry.extents.count > 1;
    return 0;
}

int restore_window_add_link(struct restore *restore, struct restore_window *window,
                            struct job *link)
{
    int r = window_use_node(restore, window, link->node);
    return r < 0 ? r : job_vector_push(&window->links, &link);
}

int restore_window_add_finish(struct restore_window *window, struct restore_node *node)
{
    int r = restore_node_vector_push(&window->finish, &node);
    if (r >= 0)
        (void)restore_node_ref(node);
    return r;
}

/* ---- where the pieces lie ---- */

static bool location_is_usable(const struct restore *restore, const struct chunk_location *l)
{
    return l->pack_no < pack_table_count(restore->repo->names) && l->frame_len > SEAL_OVERHEAD &&
           l->frame_len <= FRAME_SEALED_MAX && l->frame_offset <= PACK_LEN_MAX;
}

/* Without a hint the index is asked; what that does not know either is left to the slow way, which
 * has the words for it. */
static void locate(struct restore *restore, const struct chunk_ref *ref,
                   struct chunk_location *ret_location)
{
    struct index *index;
    struct index_hit hit;

    if (location_is_usable(restore, &ref->location))
        *ret_location = ref->location;
    else if (repository_index(restore->repo, &index) >= 0 && index_lookup(index, &ref->id, &hit) &&
             hit.kind == PACK_DATA && hit.len == ref->len &&
             location_is_usable(restore, &hit.location))
        *ret_location = hit.location;
    else
        *ret_location = (struct chunk_location){.pack_no = PACK_NO_NONE};
}

static int add_pieces(struct restore *restore, struct restore_window *window, struct job *job)
{
    uint64_t offset = 0;

    job_count_pieces(job);
    if (job->piece_total == 0)
        return job_vector_push(&window->whole, &job);
    for (size_t i = 0; i < job->entry.extents.count; i++) {
        const struct extent *x = &job->entry.extents.items[i];
        if (job_wants_extent(job, i)) {
            struct piece piece = {
                .job = job,
                .offset = offset,
                .extent = (uint32_t)i,
                .len = x->chunk.len,
            };
            locate(restore, &x->chunk, &piece.location);
            int r = piece_vector_push(&window->pieces, &piece);
            if (r < 0)
                return r;
        }
        offset += x->len;
    }
    return 0;
}

#define COMPARE(a, b)                  \
    do {                               \
        if ((a) != (b))                \
            return (a) < (b) ? -1 : 1; \
    } while (0)

static int compare_pieces(const void *x, const void *y)
{
    const struct piece *a = x, *b = y;

    COMPARE(a->location.pack_no, b->location.pack_no);
    COMPARE(a->location.frame_offset, b->location.frame_offset);
    COMPARE(a->location.frame_len, b->location.frame_len);
    COMPARE(a->location.chunk_offset, b->location.chunk_offset);
    COMPARE(a->len, b->len);
    return 0;
}

static const struct chunk_ref *piece_chunk(const struct piece *piece)
{
    return &piece->job->entry.extents.items[piece->extent].chunk;
}

/* How many pieces from first on are read together, and from where to where. */
static struct batch make_batch(const struct piece_vector *pieces, size_t first)
{
    const struct piece *p = &pieces->items[first];
    uint32_t pack_no = p->location.pack_no, start = p->location.frame_offset;
    uint64_t end = start, plain = 0;
    size_t i = first;

    for (; i < pieces->count; i++) {
        p = &pieces->items[i];
        uint64_t p_end = (uint64_t)p->location.frame_offset + p->location.frame_len;
        if (p->location.pack_no != pack_no)
            break;
        if (pack_no == PACK_NO_NONE) {
            if (i - first >= UNPLACED_AT_ONCE)
                break;
            continue;
        }
        if (i > first && (p->location.frame_offset > end + BATCH_GAP_MAX ||
                          MAX(p_end, end) - start > BATCH_SEALED_MAX || plain > BATCH_PLAIN_MAX))
            break;
        end = MAX(p_end, end);
        plain += p->len;
    }
    return (struct batch){
        .first = (uint32_t)first,
        .count = (uint32_t)(i - first),
        .sealed_offset = start,
        .sealed_len = (uint32_t)(end - start),
    };
}

static int lay_out(struct restore *restore, struct restore_window *window)
{
    for (size_t i = 0; i < window->jobs.count; i++) {
        struct job *job = window->jobs.items[i];
        if (job->way == JOB_KEEP || job->way == JOB_ATTRIBUTES)
            continue;
        int r = add_pieces(restore, window, job);
        if (r < 0)
            return r;
    }
    struct piece_vector *pieces = &window->pieces;
    if (pieces->count > 1)
        qsort(pieces->items, pieces->count, sizeof(*pieces->items), compare_pieces);
    for (size_t i = 0; i < pieces->count;) {
        struct batch batch = make_batch(pieces, i);
        int r = batch_vector_push(&window->batches, &batch);
        if (r < 0)
            return r;
        i += batch.count;
    }
    return 0;
}

/* ---- reading and writing a batch ---- */

/* One chunk at a time, by way of the index if need be; neighbours may want the same one. */
static void write_slowly(struct restore *restore, struct worker *worker, const struct piece *pieces,
                         size_t count)
{
    for (size_t i = 0; i < count && !restore_stopping(restore);) {
        const struct chunk_ref *ref = piece_chunk(&pieces[i]);
        CLEANUP_FREE void *data = NULL;
        int r = repository_read_chunk(restore->repo, worker->codec, CHUNK_DATA, ref, &data);
        const size_t first = i;
        for (;
             i < count && (i == first || (chunk_id_equal(&piece_chunk(&pieces[i])->id, &ref->id) &&
                                          pieces[i].len == pieces[first].len));
             i++) {
            if (r < 0)
                job_fail_piece(restore, pieces[i].job, r);
            else
                job_write(restore, pieces[i].job, data, pieces[i].len, pieces[i].offset);
        }
    }
}

/* Whether the frame has the chunk where it is said to be. */
static bool chunk_is_there(const struct restore *restore, const struct piece *piece,
                           const uint8_t *plain, size_t plain_len)
{
    struct chunk_id id;
    uint32_t offset = piece->location.chunk_offset;

    if (offset > plain_len || piece->len > plain_len - offset)
        return false;
    chunk_id_compute(restore->repo->keyring, CHUNK_DATA, plain + offset, piece->len, &id);
    return chunk_id_equal(&id, &piece_chunk(piece)->id);
}

/* Pieces of one frame. */
static void write_frame(struct restore *restore, struct worker *worker, const uint8_t *sealed,
                        const struct piece *pieces, size_t count)
{
    const uint8_t *plain = NULL;
    size_t plain_len = 0, i = 0;

    int r = frame_unseal(worker->codec, PACK_DATA, sealed, pieces[0].location.frame_len, &plain,
                         &plain_len);
    if (r < 0) {
        write_slowly(restore, worker, pieces, count);
        return;
    }
    for (; i < count; i++) {
        const struct piece *p = &pieces[i];
        bool verified = i > 0 && p->location.chunk_offset == p[-1].location.chunk_offset &&
                        p->len == p[-1].len &&
                        chunk_id_equal(&piece_chunk(p)->id, &piece_chunk(p - 1)->id);
        if (!verified && !chunk_is_there(restore, p, plain, plain_len))
            break;
        job_write(restore, p->job, plain + p->location.chunk_offset, p->len, p->offset);
    }
    /* A wrong hint.  The slow way uses the codec, and with it this frame: so all the rest goes it.
     */
    write_slowly(restore, worker, pieces + i, count - i);
}

static size_t same_frame_count(const struct piece *pieces, size_t count)
{
    size_t n = 1;

    while (n < count && pieces[n].location.frame_offset == pieces[0].location.frame_offset &&
           pieces[n].location.frame_len == pieces[0].location.frame_len)
        n++;
    return n;
}

static void run_batch(struct restore *restore, struct worker *worker, struct restore_window *window,
                      const struct batch *batch)
{
    const struct piece *pieces = &window->pieces.items[batch->first];
    char object_name[PACK_OBJECT_NAME_LEN + 1];
    struct pack_name name;
    int r = -ENOENT;

    if (batch->sealed_len > 0) {
        pack_table_name(restore->repo->names, pieces[0].location.pack_no, &name);
        pack_object_name(&name, object_name);
        r = backend_get(restore->repo->backend, object_name, batch->sealed_offset, worker->sealed,
                        batch->sealed_len);
    }
    if (r < 0) {
        write_slowly(restore, worker, pieces, batch->count);
        return;
    }
    for (size_t i = 0; i < batch->count && !restore_stopping(restore);) {
        size_t n = same_frame_count(pieces + i, batch->count - i);
        write_frame(restore, worker,
                    worker->sealed + (pieces[i].location.frame_offset - batch->sealed_offset),
                    pieces + i, n);
        i += n;
    }
}

/* ---- running ---- */

static bool compare_next(struct restore *restore, struct worker *worker,
                         struct restore_window *window)
{
    size_t i = atomic_fetch_add(&window->next, 1);
    if (i >= window->jobs.count)
        return false;
    if (window->jobs.items[i]->must_look)
        job_look(restore, worker, window->jobs.items[i]);
    return true;
}

static bool write_next(struct restore *restore, struct worker *worker,
                       struct restore_window *window)
{
    size_t i = atomic_fetch_add(&window->next, 1);
    if (i < window->batches.count) {
        run_batch(restore, worker, window, &window->batches.items[i]);
        return true;
    }
    size_t from = (i - window->batches.count) * WHOLE_JOBS_AT_ONCE;
    if (from >= window->whole.count)
        return false;
    size_t to = MIN(from + WHOLE_JOBS_AT_ONCE, window->whole.count);
    for (size_t j = from; j < to && !restore_stopping(restore); j++)
        job_make(restore, window->whole.items[j]);
    return true;
}

static void window_task_run(struct pool_task *task)
{
    struct restore_window *window = CONTAINER_OF(task, struct window_task, task)->window;
    struct restore *restore = window->restore;
    struct worker *worker = worker_take(restore);

    while (worker && !restore_stopping(restore)) {
        bool more = window->comparing ? compare_next(restore, worker, window)
                                      : write_next(restore, worker, window);
        if (!more)
            break;
    }
    worker_give(restore, worker);
    pthread_mutex_lock(&restore->window_lock);
    if (--window->running == 0)
        pthread_cond_broadcast(&restore->window_done);
    pthread_mutex_unlock(&restore->window_lock);
}

static void start_phase(struct restore *restore, struct restore_window *window, bool comparing)
{
    window->comparing = comparing;
    atomic_store(&window->next, 0);
    pthread_mutex_lock(&restore->window_lock);
    window->running = restore->threads;
    pthread_mutex_unlock(&restore->window_lock);
    for (unsigned i = 0; i < restore->threads; i++) {
        window->tasks[i].window = window;
        window->tasks[i].task.run = window_task_run;
        pool_submit(restore->pool, &window->tasks[i].task, POOL_NORMAL);
    }
}

void restore_window_wait(struct restore *restore, struct restore_window *window)
{
    pthread_mutex_lock(&restore->window_lock);
    while (window->running > 0)
        pthread_cond_wait(&restore->window_done, &restore->window_lock);
    pthread_mutex_unlock(&restore->window_lock);
}

static bool has_something_to_look_at(const struct restore_window *window)
{
    for (size_t i = 0; i < window->jobs.count; i++) {
        if (window->jobs.items[i]->must_look)
            return true;
    }
    return false;
}

int restore_window_start(struct restore *restore, struct restore_window *window)
{
    if (has_something_to_look_at(window)) {
        start_phase(restore, window, true);
        if (restore->mode != RESTORE_WRITE)
            return 0;
        restore_window_wait(restore, window);
    }
    if (restore->mode != RESTORE_WRITE || restore_stopping(restore))
        return 0;
    int r = lay_out(restore, window);
    if (r < 0)
        return r;
    if (window->batches.count > 0 || window->whole.count > 0)
        start_phase(restore, window, false);
    return 0;
}

static int finish_links(struct restore *restore, struct restore_window *window)
{
    struct worker *worker = window->links.count > 0 ? worker_take(restore) : NULL;
    int r = 0;

    for (size_t i = 0; worker && i < window->links.count && r >= 0; i++) {
        if (restore_stopping(restore))
            break;
        r = link_do(restore, worker, window->links.items[i]);
    }
    worker_give(restore, worker);
    return r;
}

int restore_window_finish(struct restore *restore, struct restore_window *window)
{
    for (size_t i = 0; i < window->jobs.count; i++)
        job_abandon(restore, window->jobs.items[i]);
    int r = finish_links(restore, window);
    for (size_t i = 0; i < window->finish.count; i++) {
        int f = restore_node_finish(restore, window->finish.items[i]);
        if (r >= 0 && f < 0)
            r = f;
    }
    return r;
}
