/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SIGKILL for the daemons, at random moments. */
#include <signal.h>
#include <unistd.h>

#include "basic/test.h"
#include "model.h"

#define PAUSE_MAX_US 60000

/* The keeper less often: it is the one that does least. */
static const char *const victims[] = {
    "umbra-hydrated", "umbra-hydrated", "umbra-filterd", "umbra-filterd", "umbra-keeper",
};

/* Somebody has to be left who holds the group: when all are dead at once, readers get zeros. */
static bool is_last(pid_t victim)
{
    static const char *const all[] = {"umbra-hydrated", "umbra-filterd", "umbra-keeper"};

    for (size_t i = 0; i < ELEMENTSOF(all); i++) {
        pid_t pid = world_find(all[i]);
        if (pid != 0 && pid != victim)
            return false;
    }
    return true;
}

static void kill_one(struct chaos *c)
{
    struct run *run = c->run;
    const char *comm = victims[test_random(&c->random) % ELEMENTSOF(victims)];
    pid_t pid = world_find(comm);

    if (pid == 0 || is_last(pid))
        return;
    (void)snprintf(run->kills[run->kill_count], sizeof(run->kills[0]), "%8.3f kill %s (%d)",
                   run_seconds(run), comm, (int)pid);
    if (run->settings.verbose)
        fprintf(stderr, "%s\n", run->kills[run->kill_count]);
    run->kill_count++;
    (void)kill(pid, SIGKILL);   /* it may have ended meanwhile */
    while (world_is_alive(pid)) /* dying can take time; is_last() does not count on it any more */
        (void)usleep(200);
}

static void *chaos_main(void *data)
{
    struct chaos *c = data;

    for (unsigned i = 0; i < c->run->settings.kills && !atomic_load(&c->run->stopping); i++) {
        (void)usleep((useconds_t)(test_random(&c->random) % PAUSE_MAX_US));
        kill_one(c);
    }
    return NULL;
}

void chaos_start(struct chaos *chaos, struct run *run)
{
    *chaos = (struct chaos){.run = run, .random = ~run->settings.seed};
    ASSERT_EQ(pthread_create(&chaos->thread, NULL, chaos_main, chaos), 0);
}

void chaos_join(struct chaos *chaos)
{
    ASSERT_EQ(pthread_join(chaos->thread, NULL), 0);
}
