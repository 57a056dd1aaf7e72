/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One seed, from two fresh volumes to the comparison. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

/* For run_explain(). */
static struct run *current;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    ASSERT_EQ(clock_gettime(clock, &now), 0);
    return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

double run_seconds(const struct run *run)
{
    return (double)(now_ns() - run->start_mono_ns) / 1e9;
}

void run_say(const struct run *run, const char *what)
{
    if (run->settings.verbose)
        fprintf(stderr, "%8.3f %s\n", run_seconds(run), what);
}

static void open_trees(struct run *run)
{
    for (unsigned side = 0; side < SIDES; side++) {
        run->tree_fds[side] = open(run->trees[side], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(run->tree_fds[side] >= 0);
    }
}

static void make_trees(struct run *run)
{
    run->start_ns = clock_ns(CLOCK_REALTIME);
    run->start_mono_ns = now_ns();
    for (unsigned side = 0; side < SIDES; side++) {
        volume_make(&run->volumes[side], run->settings.fs, side);
        (void)snprintf(run->trees[side], sizeof(run->trees[side]), "%.300s/tree",
                       run->volumes[side].dir);
        ASSERT_EQ(mkdir(run->trees[side], 0755), 0);
    }
    run_say(run, "volumes are made");
    origin_restore(run->origin, run->trees[MODEL]);
    run_say(run, "the model is restored");
    origin_start_instant(run->origin, &run->settings, run->trees[SUBJECT]);
    open_trees(run);
    run_say(run, "the subject stands");
}

/* For the power cut; nobody changes them. */
static void add_shared_records(struct run *run)
{
    char path[PATH_LEN];

    for (unsigned i = 0; i < SHARED_FILES; i++) {
        (void)snprintf(path, sizeof(path), "s/f%u", i);
        CLEANUP_CLOSE int fd = openat(run->tree_fds[MODEL], path, O_RDONLY | O_CLOEXEC);
        ASSERT_TRUE(fd >= 0);
        (void)history_add(&run->shared, fd, true);
    }
}

static void act(struct run *run)
{
    struct chaos chaos;

    add_shared_records(run);
    for (unsigned i = 0; i < run->settings.actors; i++)
        run->actors[i] = actor_new(run, i);
    chaos_start(&chaos, run);
    for (unsigned i = 0; i < run->settings.actors; i++)
        actor_start(run->actors[i]);
    if (run->settings.power_cut)
        power_cut(run);
    for (unsigned i = 0; i < run->settings.actors; i++)
        actor_join(run->actors[i]);
    atomic_store(&run->stopping, true);
    chaos_join(&chaos);
    run_say(run, "all threads have ended");
}

static void check(struct run *run)
{
    if (run->settings.power_cut) {
        power_return(run);
        power_check(run, false);
    }
    instant_tell(&run->settings, "{\"do\": \"limit\", \"bytes_per_s\": 0}");
    instant_wait_for_end();
    run_say(run, "the restore has ended");
    if (run->settings.power_cut)
        power_check(run, true);
    else
        compare_trees(run);
    run_say(run, "all is as it has to be");
}

static void clean_up(struct run *run)
{
    model_history_release(&run->shared);
    for (unsigned i = 0; i < run->settings.actors; i++)
        actor_free(run->actors[i]);
    for (unsigned side = 0; side < SIDES; side++) {
        (void)close(run->tree_fds[side]);
        volume_remove(&run->volumes[side]);
    }
    run_say(run, "the volumes are gone");
}

static void print_settings(const struct settings *s)
{
    fprintf(stderr,
            "seed %" PRIu64 ": %s, whole files up to %" PRIu64 ", limit %" PRIu64
            ", %u threads of %u operations, %u kills%s\n",
            s->seed, world_fs_name(s->fs), s->whole_file_max, s->limit_bytes_per_s, s->actors,
            s->operations, s->kills, s->power_cut ? ", power cut" : "");
}

void run_seed(struct origin *origin, const struct settings *settings)
{
    struct run *run = calloc(1, sizeof(*run));

    ASSERT_TRUE(run != NULL);
    run->settings = *settings;
    run->origin = origin;
    current = run;
    if (settings->verbose)
        print_settings(settings);
    make_trees(run);
    act(run);
    check(run);
    clean_up(run);
    current = NULL;
    free(run);
}

void run_explain(void)
{
    const struct run *run = current;

    if (!run)
        return;
    print_settings(&run->settings);
    for (unsigned i = 0; i < run->settings.actors; i++)
        if (run->actors[i])
            actor_print_trace(run->actors[i]);
    for (unsigned i = 0; i < run->kill_count; i++)
        fprintf(stderr, "%s\n", run->kills[i]);
    instant_print_words();
}
