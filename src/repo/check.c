/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check, from the outside in: small objects, then packs, in parallel, then the catalogs, by
 * when it is known what is gone or damaged.
 *
 * 1. Backups may be made meanwhile.  A backup is stored after its index segments, and these after
 *    their packs; so the backups are listed first, then the index is read, then the packs are
 *    listed: whatever a listed backup needs is in what is listed or read after it.  Objects that go
 *    meanwhile (merged index segments, removed keys) are no problem.
 * 2. A problem is told and counted where it is seen, and nothing ends the check but want of memory,
 *    cancelling, and a backend that cannot list.
 * 3. What is the matter with a chunk is remembered by chunk and pack, so that a second, whole copy
 *    of it counts.
 * 4. Memory is bounded by the number of packs, of pages, and of damaged chunks; referenced chunks
 *    are not collected: the index answers for each.
 *
 * 5. A pack that is whole but in no segment counts as indexed: with the index lost, no file is
 *    called lost, and the one problem is the index.  Packs that no backup needs are what an
 *    interrupted backup left.
 *
 * Locks: run->lock, taken by the workers of check-packs.c for results and callbacks alone.
 */
#include "repo/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/text.h"
#include "repo/check-run.h"

#define OBJECT_LEN_MAX (256u << 20) /* of objects that are read whole */

void check_tell(struct check_run *run, const struct check_problem *problem)
{
    pthread_mutex_lock(&run->lock);
    run->result.problem_count++;
    if (run->options->problem)
        run->options->problem(problem, run->options->userdata);
    pthread_mutex_unlock(&run->lock);
    if (run->options->progress)
        atomic_fetch_add(&run->options->progress->problems, 1);
}

void check_problem(struct check_run *run, const char *object, const char *why)
{
    check_tell(run, &(struct check_problem){.object = object, .why = why});
}

void check_remark(struct check_run *run, const char *object, const char *why)
{
    pthread_mutex_lock(&run->lock);
    if (run->options->remark)
        run->options->remark(object, why, run->options->userdata);
    pthread_mutex_unlock(&run->lock);
}

bool check_cancelled(const struct check_run *run)
{
    return run->options->progress && atomic_load(&run->options->progress->cancelled);
}

bool check_is_fatal(int r)
{
    return r == -ENOMEM || r == -UMBRA_E_CANCELLED;
}

/* ---- objects by name ---- */

static int collect_name(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    CLEANUP_FREE char *copy = strdup(name);
    if (!copy || check_name_vector_push(userdata, &copy) < 0)
        return error_note(-ENOMEM, "no memory for a list of names");
    copy = NULL;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_release(struct check_name_vector *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
    check_name_vector_release(names);
}

/* Sorted, so that two checks say the same in the same order. */
static int list_names(struct check_run *run, const char *prefix, struct check_name_vector *names)
{
    int r = backend_list(run->repo->backend, prefix, collect_name, names);
    if (r < 0)
        return r;
    if (names->count > 0)
        qsort(names->items, names->count, sizeof(*names->items), compare_names);
    return 0;
}

static int read_object(struct check_run *run, const char *object_name,
                       int (*parse)(const void *data, size_t len))
{
    CLEANUP_FREE void *data = NULL;
    uint8_t expected[32], digest[32];
    size_t len = 0;

    const char *hex = strchr(object_name, '/');
    if (!hex || hex_decode(hex + 1, expected, sizeof(expected)) < 0)
        return error_note(-EINVAL, "is no object of a repository");
    int r = backend_get_all(run->repo->backend, object_name, OBJECT_LEN_MAX, &data, &len);
    if (r < 0)
        return r;
    r = sha256(&(struct iovec){data, len}, 1, digest);
    if (r < 0)
        return r;
    if (memcmp(digest, expected, sizeof(digest)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "is damaged: it does not have the SHA-256 in its name");
    return parse ? parse(data, len) : 0;
}

int check_object(struct check_run *run, const char *object_name,
                 int (*parse)(const void *data, size_t len))
{
    if (check_cancelled(run))
        return -UMBRA_E_CANCELLED;
    int r = read_object(run, object_name, parse);
    if (check_is_fatal(r))
        return r;
    if (r < 0 && r != -ENOENT)
        check_problem(run, object_name, error_text(r));
    return r >= 0;
}

static int check_objects(struct check_run *run, const char *prefix,
                         int (*parse)(const void *data, size_t len), uint64_t *ret_count)
{
    CLEANUP(names_release) struct check_name_vector names = {0};
    int r = list_names(run, prefix, &names);
    for (size_t i = 0; r >= 0 && i < names.count; i++)
        r = check_object(run, names.items[i], parse);
    if (r < 0)
        return r;
    *ret_count = names.count;
    return 0;
}

static int parse_key(const void *data, size_t len)
{
    struct key_info info;
    return key_parse(data, len, &info);
}

/* With a wrong SHA-256 it has been told already. */
static int tell_damaged_segment(const char *object_name, const char *why, void *userdata)
{
    struct check_run *run = userdata;
    int r = read_object(run, object_name, NULL);
    if (check_is_fatal(r))
        return r;
    if (r >= 0)
        check_problem(run, object_name, why);
    return 0;
}

static int check_sessions(struct check_run *run)
{
    CLEANUP(names_release) struct check_name_vector names = {0};
    int r = list_names(run, "sessions/", &names);
    if (r < 0)
        return r;
    if (names.count > 0)
        check_remark(run, "sessions",
                     "a backup is being made, or was interrupted: the next one takes over");
    run->result.session_count = names.count;
    return 0;
}

static int check_small_objects(struct check_run *run)
{
    int r = check_objects(run, "keys/", parse_key, &run->result.key_count);
    if (r >= 0)
        r = check_objects(run, "index/", NULL, &run->result.index_count);
    if (r >= 0)
        r = index_each_damaged(run->index, tell_damaged_segment, run);
    return r < 0 ? r : check_sessions(run);
}

/* ---- all of it ---- */

static void run_release(struct check_run *run)
{
    id_set_release(&run->damaged);
    free(run->packs_there);
    names_release(&run->backups);
    checked_pack_vector_release(&run->packs);
    pthread_mutex_destroy(&run->lock);
}

static void tell_unindexed(struct check_run *run)
{
    uint64_t count = run->result.unindexed_pack_count;
    const char *packs = count == 1 ? "pack is" : "packs are";
    char why[160];
    if (!run->needs_unindexed) {
        (void)snprintf(why, sizeof(why), "%" PRIu64 " %s not in it: the next backup takes them in",
                       count, packs);
        check_remark(run, "index", why);
        return;
    }
    (void)snprintf(why, sizeof(why),
                   "is %s: %" PRIu64 " %s not in it, which backups need; run 'umbra repo "
                   "rebuild-index'",
                   run->result.index_count == 0 ? "missing" : "incomplete", count, packs);
    check_problem(run, "index", why);
}

int check_repository(struct repository *repo, const struct check_options *options,
                     struct check_result *ret_result)
{
    CLEANUP(run_release) struct check_run run = {.repo = repo, .options = options};
    (void)pthread_mutex_init(&run.lock, NULL);
    if (options->read_data_percent > 100)
        return error_note(-EINVAL, "more than 100 percent of the data cannot be read");
    int r = list_names(&run, "backups/", &run.backups);
    if (r >= 0)
        r = repository_index(repo, &run.index);
    if (r >= 0)
        r = index_refresh(run.index);
    if (r >= 0)
        r = check_small_objects(&run);
    if (r >= 0)
        r = check_packs(&run);
    if (r >= 0)
        r = check_backups(&run);
    if (r >= 0 && run.result.unindexed_pack_count > 0)
        tell_unindexed(&run);
    if (r < 0)
        return r == -UMBRA_E_CANCELLED ? error_note(r, "the check was cancelled") : r;
    *ret_result = run.result;
    return 0;
}
