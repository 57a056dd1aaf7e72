/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power cuts in the middle of backups, in a simulation.
 *
 *     sim-backup-crash --seeds 1..2000 [--rounds N] [--jobs N]
 *
 * The repository lies on a simulated disk with a volatile cache (basic/io-crash.h), the source is a
 * small real tree, of which a model in memory knows every byte of every version.  A seed makes one
 * repository and some rounds of
 *
 *     change the tree; back it up, with a power cut at a random sync; reboot; open
 *
 * after each of which must hold:
 *
 *   1. check_repository() finds nothing wrong;
 *   2. every backup that was reported as made is there, and reads as the model says, all of it;
 *   3. a backup that was not reported as made is there whole, or not at all;
 *   4. the next backup succeeds and reads as the model says.
 *
 * The seed decides the tree, its changes and the cut.  Threads of the backup may order their syncs
 * in more than one way, so repeating a seed nearly repeats the run.  Seeds run in batches, each in
 * a process of its own; the parent names the seed that a batch died of.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/io-crash.h"
#include "basic/test.h"
#include "repo/backup.h"
#include "repo/check.h"
#include "repo/repository.h"
#include "tree/catalog.h"
#include "tree/key.h"

#include "sim.h"

#define SLOT_COUNT        24u
#define DIRECTORY_COUNT   4u
#define FILE_LEN_MAX      (96u << 10)
#define COMMITTED_MAX     64u
#define PACK_TARGET_BYTES (64u << 10)

static const char passphrase[] = "simulated";

/* ---- the model: what is in the source tree, version by version ---- */

enum contents {
    CONTENTS_RANDOM,
    CONTENTS_TEXT,
    CONTENTS_ZEROS_WITHIN,
    CONTENTS_MAX,
};

struct model_file {
    bool present;
    enum contents contents;
    uint32_t len;
    uint64_t seed;
    int64_t mtime_s;
};

struct model {
    struct model_file files[SLOT_COUNT];
};

struct committed {
    char id[BACKUP_ID_LEN + 1];
    struct model model;
};

struct sim {
    uint64_t seed, random;
    struct io *io; /* the repository's, or the next one's */
    struct repository *repo;
    char source[512];
    char cache[512]; /* "": none */
    int64_t clock_s; /* mtimes, so that each change shows */
    struct model now;
    uint64_t backup_syncs; /* of the last complete backup */
    struct committed committed[COMMITTED_MAX];
    size_t committed_count;
};

static void model_fill(const struct model_file *f, uint8_t *data)
{
    static const char words[] = "to have and to hold, from this day forward; ";
    uint64_t random = f->seed;

    switch (f->contents) {
    case CONTENTS_TEXT:
        for (uint32_t i = 0; i < f->len; i++)
            data[i] = (uint8_t)words[(i + f->seed) % (sizeof(words) - 1)];
        break;
    case CONTENTS_ZEROS_WITHIN:
        test_random_fill(&random, data, f->len);
        memset(data + f->len / 4, 0, f->len / 2);
        break;
    case CONTENTS_RANDOM:
    case CONTENTS_MAX: test_random_fill(&random, data, f->len); break;
    }
}

static uint32_t model_length(uint64_t *random)
{
    switch (test_random(random) % 4) {
    case 0: return (uint32_t)(test_random(random) % 100);
    case 1: return (uint32_t)(test_random(random) % 5000);
    default: return (uint32_t)(test_random(random) % FILE_LEN_MAX);
    }
}

static void model_change(struct sim *sim, size_t slot)
{
    struct model_file *f = &sim->now.files[slot];

    f->present = test_random(&sim->random) % 8 != 0;
    f->mtime_s = ++sim->clock_s;
    if (test_random(&sim->random) % 8 == 0)
        return; /* touched, or there again with what it had */
    f->contents = (enum contents)(test_random(&sim->random) % CONTENTS_MAX);
    f->len = model_length(&sim->random);
    f->seed = test_random(&sim->random);
}

static void source_path(const struct sim *sim, size_t slot, char *ret_path, size_t len)
{
    int n = snprintf(ret_path, len, "%s/d%zu/f%02zu", sim->source, slot % DIRECTORY_COUNT, slot);

    ASSERT_TRUE(n > 0 && (size_t)n < len);
}

static void source_write(const struct sim *sim, size_t slot)
{
    const struct model_file *f = &sim->now.files[slot];
    uint8_t data[FILE_LEN_MAX];
    char path[640];

    source_path(sim, slot, path, sizeof(path));
    if (!f->present) {
        ASSERT_TRUE(unlink(path) == 0 || errno == ENOENT);
        return;
    }
    model_fill(f, data);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, data, f->len), f->len);
    const struct timespec times[2] = {{.tv_sec = f->mtime_s}, {.tv_sec = f->mtime_s}};
    ASSERT_EQ(futimens(fd, times), 0);
}

static void source_mutate(struct sim *sim, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t slot = test_random(&sim->random) % SLOT_COUNT;
        model_change(sim, slot);
        source_write(sim, slot);
    }
}

static void source_make(struct sim *sim)
{
    char path[640];

    ASSERT_EQ(mkdir(sim->source, 0755), 0);
    for (size_t i = 0; i < DIRECTORY_COUNT; i++) {
        int n = snprintf(path, sizeof(path), "%s/d%zu", sim->source, i);
        ASSERT_TRUE(n > 0 && (size_t)n < sizeof(path));
        ASSERT_EQ(mkdir(path, 0755), 0);
    }
    for (size_t slot = 0; slot < SLOT_COUNT; slot++) {
        model_change(sim, slot);
        source_write(sim, slot);
    }
}

/* ---- reading a backup back ---- */

static void verify_extent(struct repository *repo, struct frame_codec *codec,
                          const struct extent *extent, const uint8_t *expected)
{
    if (extent->kind == EXTENT_DATA) {
        CLEANUP_FREE void *data = NULL;
        ASSERT_EQ(extent->len, extent->chunk.len);
        ASSERT_OK(repository_read_chunk(repo, codec, CHUNK_DATA, &extent->chunk, &data));
        ASSERT_MEMEQ(data, expected, extent->len);
        return;
    }
    for (uint64_t i = 0; i < extent->len; i++)
        ASSERT_EQ(expected[i], 0);
}

static void verify_file(struct repository *repo, struct frame_codec *codec,
                        const struct catalog_store *store, struct entry *e,
                        const struct model_file *f)
{
    uint8_t expected[FILE_LEN_MAX];
    uint64_t offset = 0;

    ASSERT_TRUE(f->present);
    ASSERT_EQ(e->size, f->len);
    ASSERT_EQ(e->mtime.sec, f->mtime_s);
    model_fill(f, expected);
    ASSERT_OK(catalog_load_extents(store, e));
    for (size_t i = 0; i < e->extents.count; i++) {
        const struct extent *extent = &e->extents.items[i];
        ASSERT_LE(extent->len, f->len - offset);
        verify_extent(repo, codec, extent, expected + offset);
        offset += extent->len;
    }
    ASSERT_EQ(offset, f->len);
}

/* The slot that a catalog path names. */
static size_t slot_of(const struct entry *e)
{
    CLEANUP_FREE char *path = key_to_path(e->key, e->key_len);

    ASSERT_TRUE(path != NULL);
    const char *name = strrchr(path, '/');
    ASSERT_TRUE(name != NULL && name[1] == 'f');
    unsigned long slot = strtoul(name + 2, NULL, 10);
    ASSERT_LT(slot, SLOT_COUNT);
    return slot;
}

static void verify_backup(struct repository *repo, const struct backup *backup,
                          const struct model *model)
{
    CLEANUP(page_reader_freep) struct page_reader *reader = NULL;
    CLEANUP(frame_codec_freep) struct frame_codec *codec = NULL;
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = NULL;
    bool seen[SLOT_COUNT] = {0};
    struct entry *e = NULL;

    ASSERT_OK(page_reader_new(repo, &reader));
    ASSERT_OK(frame_codec_new(repo->keyring, 0, &codec));
    const struct catalog_store *store = page_reader_store(reader);
    ASSERT_OK(catalog_cursor_new(store, &backup->catalog, &cursor));
    for (;;) {
        ASSERT_OK(catalog_cursor_next(cursor, &e));
        if (!e)
            break;
        if (e->type != ENTRY_REGULAR)
            continue;
        size_t slot = slot_of(e);
        ASSERT_FALSE(seen[slot]);
        seen[slot] = true;
        verify_file(repo, codec, store, e, &model->files[slot]);
    }
    for (size_t slot = 0; slot < SLOT_COUNT; slot++)
        ASSERT_EQ(seen[slot], model->files[slot].present);
}

static const struct committed *committed_find(const struct sim *sim, const char *id)
{
    for (size_t i = 0; i < sim->committed_count; i++)
        if (strcmp(sim->committed[i].id, id) == 0)
            return &sim->committed[i];
    return NULL;
}

static void committed_add(struct sim *sim, const char *id)
{
    ASSERT_LT(sim->committed_count, COMMITTED_MAX);
    struct committed *c = &sim->committed[sim->committed_count++];
    *c = (struct committed){.model = sim->now};
    memcpy(c->id, id, sizeof(c->id));
}

/* A backup that nobody reported as made can only be that of the tree as it is now. */
static void verify_all(struct sim *sim)
{
    CLEANUP(backup_vector_release_all) struct backup_vector backups = {0};
    size_t damaged_count = 0, found = 0;

    ASSERT_OK(backup_load_all(sim->repo->backend, sim->repo->keyring, sim->repo->names, &backups,
                              &damaged_count));
    ASSERT_EQ(damaged_count, 0);
    size_t expected = sim->committed_count;
    for (size_t i = 0; i < backups.count; i++) {
        const struct committed *c = committed_find(sim, backups.items[i]->id);
        if (c)
            found++;
        verify_backup(sim->repo, backups.items[i], c ? &c->model : &sim->now);
        if (!c)
            committed_add(sim, backups.items[i]->id);
    }
    ASSERT_EQ(found, expected);
    ASSERT_LE(sim->committed_count, expected + 1);
}

/* ---- the machine ---- */

static void print_problem(const struct check_problem *p, void *userdata)
{
    (void)userdata;
    fprintf(stderr, "check: %s %s: %s\n", p->object ? p->object : p->backup, p->path ? p->path : "",
            p->why);
}

static void verify_clean(struct sim *sim)
{
    const struct check_options options = {
        .read_data_percent = 100, .problem = print_problem, .threads = 1};
    struct check_result result = {0};

    ASSERT_OK(check_repository(sim->repo, &options, &result));
    ASSERT_EQ(result.problem_count, 0);
}

static void machine_open(struct sim *sim)
{
    struct backend *backend = NULL;

    ASSERT_OK(backend_new_local(sim->io, "simulated", &backend));
    ASSERT_OK(repository_open(backend, passphrase, sizeof(passphrase) - 1, sim->cache, &sim->repo));
}

static void machine_first_start(struct sim *sim)
{
    const struct repo_init_options options = {
        .chunker = {.min_bytes = 2 << 10, .normal_bytes = 8 << 10, .max_bytes = 32 << 10},
        .pack_target_bytes = PACK_TARGET_BYTES,
        .key_cost = key_cost_minimal,
    };
    struct backend *backend = NULL;
    struct repository *repo = NULL;

    ASSERT_OK(io_new_crash(sim->seed, &sim->io));
    ASSERT_OK(backend_new_local(sim->io, "simulated", &backend));
    ASSERT_OK(repository_init(backend, passphrase, sizeof(passphrase) - 1, &options, &repo));
    sim->repo = repo;
}

/* The disk lives on in a copy, as the repository takes its own with it. */
static void machine_power_cut(struct sim *sim)
{
    struct io *disk = NULL;

    if (!io_crash_crashed(sim->io))
        io_crash_now(sim->io);
    ASSERT_OK(io_crash_clone(sim->io, test_random(&sim->random), &disk));
    repository_free(TAKE_PTR(sim->repo));
    sim->io = disk;
    io_crash_at_sync(disk, 0);
    io_crash_reboot(disk);
    machine_open(sim);
}

static int back_up(struct sim *sim)
{
    CLEANUP(backup_freep) struct backup *backup = NULL;
    const char *roots[] = {sim->source};
    const struct backup_options options = {
        .roots = roots, .root_count = 1, .host = "simulated", .threads = 1};

    int r = backup_create(sim->repo, &options, &backup);
    if (r < 0)
        return r;
    ASSERT_EQ(backup->stats.problem_count, 0);
    committed_add(sim, backup->id);
    return 0;
}

static void back_up_undisturbed(struct sim *sim)
{
    uint64_t before = io_crash_sync_count(sim->io);

    ASSERT_OK(back_up(sim));
    sim->backup_syncs = io_crash_sync_count(sim->io) - before;
    verify_all(sim);
}

static void back_up_with_power_cut(struct sim *sim)
{
    uint64_t range = sim->backup_syncs + sim->backup_syncs / 4 + 2;

    io_crash_at_sync(sim->io, io_crash_sync_count(sim->io) + 1 + test_random(&sim->random) % range);
    int r = back_up(sim);
    if (r < 0) {
        if (error_class(r) != EIO)
            ASSERT_OK(r); /* fails, and shows it */
        ASSERT_TRUE(io_crash_crashed(sim->io));
    }
    machine_power_cut(sim);
}

static void run_seed(uint64_t seed, unsigned rounds)
{
    struct sim sim = {.seed = seed, .random = seed, .clock_s = 1000000000};
    int n = snprintf(sim.source, sizeof(sim.source), "%s/%" PRIu64, test_tmpdir(), seed);

    ASSERT_TRUE(n > 0 && (size_t)n < sizeof(sim.source));
    if (seed % 2) {
        /* a cache that survives, and knows of index objects that do not */
        n = snprintf(sim.cache, sizeof(sim.cache), "%s/%" PRIu64 ".cache", test_tmpdir(), seed);
        ASSERT_TRUE(n > 0 && (size_t)n < sizeof(sim.cache));
        ASSERT_EQ(mkdir(sim.cache, 0700), 0);
    }
    source_make(&sim);
    machine_first_start(&sim);
    back_up_undisturbed(&sim);
    for (unsigned round = 0; round < rounds; round++) {
        source_mutate(&sim, 1 + test_random(&sim.random) % SLOT_COUNT);
        back_up_with_power_cut(&sim);
        verify_all(&sim);
        verify_clean(&sim);
        if (test_random(&sim.random) % 2) {
            back_up_undisturbed(&sim);
            verify_clean(&sim);
        }
    }
    back_up_undisturbed(&sim);
    verify_clean(&sim);
    repository_free(sim.repo);
}

int main(int argc, char **argv)
{
    static const struct sim_program program = {
        .name = "sim-backup-crash",
        .run_seed = run_seed,
        .seeds_default = 200,
        .rounds_default = 3,
        .batch_seeds = 25,
        .outcome = "nothing lost",
    };
    return sim_main(argc, argv, &program);
}
