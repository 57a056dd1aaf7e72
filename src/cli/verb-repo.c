/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra repo init|stats|rebuild-index */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "cli/passphrase.h"
#include "cli/table.h"
#include "repo/config-format.h"

#define CHUNK_SIZE_MIN ((uint64_t)16 << 10)
#define CHUNK_SIZE_MAX ((uint64_t)256 << 10)
#define PACK_SIZE_MIN  CONFIG_PACK_TARGET_MIN
#define PACK_SIZE_MAX  CONFIG_PACK_TARGET_MAX

static const struct option_spec no_options[] = {{0}};

/* ---- init ---- */

struct init_values {
    const char *label;
    uint64_t chunk_bytes, pack_bytes;
};

static const struct option_spec init_options[] = {
    {0, "label", OPTION_STRING, offsetof(struct init_values, label), .arg = "TEXT",
     .help = "a label for the first passphrase"},
    {0, "chunk-size", OPTION_BYTES, offsetof(struct init_values, chunk_bytes), .arg = "SIZE",
     .help = "usual size of chunks, a power of two", .min = CHUNK_SIZE_MIN, .max = CHUNK_SIZE_MAX},
    {0, "pack-size", OPTION_BYTES, offsetof(struct init_values, pack_bytes), .arg = "SIZE",
     .help = "size of packs", .min = PACK_SIZE_MIN, .max = PACK_SIZE_MAX},
    {0},
};

/* The limits around the usual size have the proportions of the default. */
static int scale_chunker(uint64_t normal_bytes, struct chunker_params *ret_params)
{
    const struct chunker_params *d = &chunker_params_default;
    if ((normal_bytes & (normal_bytes - 1)) != 0)
        return error_note(-UMBRA_E_USAGE, "bad value for --chunk-size: expected a power of two");
    uint64_t max = normal_bytes * (d->max_bytes / d->normal_bytes);
    *ret_params = (struct chunker_params){
        .min_bytes = (uint32_t)(normal_bytes / (d->normal_bytes / d->min_bytes)),
        .normal_bytes = (uint32_t)normal_bytes,
        .max_bytes = (uint32_t)MIN(max, (uint64_t)FRAME_PLAIN_MAX),
    };
    return 0;
}

static void print_init(const struct cli *cli, const struct repository *repo)
{
    char id[2 * REPO_ID_LEN + 1];
    hex_encode(repo->config.id, REPO_ID_LEN, id);
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_string(object, "id", id);
        json_add_name(object, "url", cli->repo_url, strlen(cli->repo_url));
        json_add_string(object, "key", repo->key_name);
        json_print(object);
    } else if (!cli->quiet) {
        printf("repository %.12s made in ", id);
        print_escaped(cli->repo_url, strlen(cli->repo_url));
        puts("\nkeep the passphrase: without it nothing can be read, by anybody");
    }
}

static int run_init(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    const struct init_values *v = values;
    struct repo_init_options options = {.pack_target_bytes = (uint32_t)v->pack_bytes,
                                        .label = v->label};
    CLEANUP(backend_freep) struct backend *backend = NULL;
    CLEANUP(passphrase_release) struct passphrase passphrase = {0};
    CLEANUP(repository_freep) struct repository *repo = NULL;
    int r = v->chunk_bytes > 0 ? scale_chunker(v->chunk_bytes, &options.chunker) : 0;
    if (r == 0)
        r = cli_open_backend(cli, true, &backend);
    if (r == 0)
        r = passphrase_get(cli->password_file, true, &passphrase);
    if (r == 0)
        r = repository_init(TAKE_PTR(backend), passphrase.data, passphrase.len, &options, &repo);
    if (r == 0)
        print_init(cli, repo);
    return r;
}

const struct verb verb_repo_init = {
    .name = "repo init",
    .synopsis = "",
    .summary = "make an empty repository",
    .options = init_options,
    .values_size = sizeof(struct init_values),
    .run = run_init,
};

/* ---- stats ---- */

struct repo_sums {
    struct index_stats index;
    uint64_t backup_count, logical_bytes, file_count;
    size_t damaged_count;
};

static int sum_up(struct repository *repo, struct repo_sums *ret_sums)
{
    CLEANUP(backup_vector_release_all) struct backup_vector backups = {0};
    struct repo_sums sums = {0};
    struct index *index;
    int r = repository_index(repo, &index);
    if (r == 0)
        r = backup_load_all(repo->backend, repo->keyring, repo->names, &backups,
                            &sums.damaged_count);
    if (r < 0)
        return r;
    index_stats(index, &sums.index);
    sums.backup_count = backups.count;
    for (size_t i = 0; i < backups.count; i++) {
        sums.logical_bytes += backups.items[i]->stats.size_bytes;
        sums.file_count += backups.items[i]->stats.file_count;
    }
    *ret_sums = sums;
    return 0;
}

static double ratio(const struct repo_sums *s)
{
    return s->index.pack_bytes > 0 ? (double)s->logical_bytes / (double)s->index.pack_bytes : 0.0;
}

static void print_stats(const struct repository *repo, const struct repo_sums *s)
{
    char id[2 * REPO_ID_LEN + 1], when[32], a[32], b[16];
    const struct repo_config *c = &repo->config;
    hex_encode(c->id, REPO_ID_LEN, id);
    printf("repository     %s\n", id);
    printf("made           %s\n", format_local_time(c->created_ns / (int64_t)NSEC_PER_SEC, when));
    printf("chunk size     %s\n", text_format_bytes(c->chunker.normal_bytes, b));
    printf("backups        %s\n", format_count(s->backup_count, a));
    printf("packs          %s\n", format_count(s->index.pack_count, a));
    printf("chunks         %s\n", format_count(s->index.chunk_count, a));
    printf("index segments %s\n", format_count(s->index.segment_count, a));
    printf("logical size   %s in %s files (all backups)\n", text_format_bytes(s->logical_bytes, b),
           format_count(s->file_count, a));
    printf("stored size    %s\n", text_format_bytes(s->index.pack_bytes, b));
    printf("ratio          %.2f\n", ratio(s));
}

static void print_stats_json(const struct repository *repo, const struct repo_sums *s)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    const struct repo_config *c = &repo->config;
    char id[2 * REPO_ID_LEN + 1];
    hex_encode(c->id, REPO_ID_LEN, id);
    json_add_string(object, "id", id);
    json_add_uint(object, "version", c->version);
    json_add_time(object, "created", c->created_ns);
    json_add_uint(object, "chunk_min_bytes", c->chunker.min_bytes);
    json_add_uint(object, "chunk_normal_bytes", c->chunker.normal_bytes);
    json_add_uint(object, "chunk_max_bytes", c->chunker.max_bytes);
    json_add_uint(object, "pack_target_bytes", c->pack_target_bytes);
    json_add_uint(object, "backups", s->backup_count);
    json_add_uint(object, "damaged_backups", s->damaged_count);
    json_add_uint(object, "packs", s->index.pack_count);
    json_add_uint(object, "chunks", s->index.chunk_count);
    json_add_uint(object, "index_segments", s->index.segment_count);
    json_add_uint(object, "files", s->file_count);
    json_add_uint(object, "logical_bytes", s->logical_bytes);
    json_add_uint(object, "stored_bytes", s->index.pack_bytes);
    json_add_double(object, "ratio", ratio(s));
    json_print(object);
}

static int run_stats(struct cli *cli, void *values, char **words, int word_count)
{
    (void)values;
    (void)words;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    struct repo_sums sums = {0};
    int r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = sum_up(repo, &sums);
    if (r < 0)
        return r;
    if (cli->json)
        print_stats_json(repo, &sums);
    else
        print_stats(repo, &sums);
    if (sums.damaged_count == 0)
        return EXIT_DONE;
    talk("sums are incomplete: %zu %s cannot be read (see 'umbra check')", sums.damaged_count,
         plural(sums.damaged_count, "backup", "backups"));
    return EXIT_INCOMPLETE;
}

const struct verb verb_repo_stats = {
    .name = "repo stats",
    .synopsis = "",
    .summary = "show how much is stored",
    .options = no_options,
    .run = run_stats,
};

/* ---- rebuild-index ---- */

static int run_rebuild(struct cli *cli, void *values, char **words, int word_count)
{
    (void)values;
    (void)words;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    struct index *index;
    struct index_stats stats;
    int r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = repository_index(repo, &index);
    if (r == 0)
        r = index_rebuild(index);
    if (r < 0)
        return r;
    index_stats(index, &stats);
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_uint(object, "packs", stats.pack_count);
        json_add_uint(object, "chunks", stats.chunk_count);
        json_add_uint(object, "index_segments", stats.segment_count);
        json_print(object);
    } else if (!cli->quiet) {
        char packs[32], chunks[32];
        printf("index rebuilt: %s chunks in %s packs\n", format_count(stats.chunk_count, chunks),
               format_count(stats.pack_count, packs));
    }
    return EXIT_DONE;
}

const struct verb verb_repo_rebuild_index = {
    .name = "repo rebuild-index",
    .synopsis = "",
    .summary = "write the index anew from the packs",
    .options = no_options,
    .run = run_rebuild,
};
