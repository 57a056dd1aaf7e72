/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra check */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "repo/check.h"

#define THREADS_MAX 256

struct check_values {
    const char *read_data; /* NULL: no; "": all; "5%" */
    const char *seed;      /* 0 is a seed, so not being given must be told from it */
    uint64_t threads;
};

static const struct option_spec check_verb_options[] = {
    {0, "read-data", OPTION_STRING, offsetof(struct check_values, read_data), .arg = "PERCENT%",
     .help = "read and verify all packs, too, or some of them, chosen at random",
     .arg_optional = true},
    {0, "seed", OPTION_STRING, offsetof(struct check_values, seed), .arg = "N",
     .help = "the seed of that choice: the same seed, the same packs"},
    {0, "threads", OPTION_NUMBER, offsetof(struct check_values, threads), .arg = "N",
     .help = "threads (default: one a processor)", .min = 1, .max = THREADS_MAX},
    {0},
};

/* How many lines of one kind are printed; a damaged pack may hit every file of every backup. */
#define LINES_MAX 100

struct line_count {
    const char *one, *many; /* what they are about */
    uint64_t count;
};

struct check_run {
    const struct cli *cli;
    struct problem_list problems;
    struct line_count objects, files, notes;
    double seconds;
};

/* A whole decimal number up to max, which only suffix may follow. */
static bool parse_whole(const char *text, uint64_t max, const char *suffix, uint64_t *ret_value)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || value > max)
        return false;
    if (*end != '\0' && strcmp(end, suffix) != 0)
        return false;
    *ret_value = value;
    return true;
}

static int parse_values(const struct check_values *values, struct check_options *options)
{
    uint64_t percent = 0;
    if (values->read_data && *values->read_data == '\0')
        percent = 100;
    else if (values->read_data && !parse_whole(values->read_data, 100, "%", &percent))
        return error_note(-UMBRA_E_USAGE, "bad value '%s' for --read-data: expected 0%% to 100%%",
                          values->read_data);
    /* Without a seed another choice is made each time, so that regular checks reach everything. */
    uint64_t seed = (uint64_t)time(NULL);
    if (values->seed && !parse_whole(values->seed, UINT64_MAX, "", &seed))
        return error_note(-UMBRA_E_USAGE, "bad value '%s' for --seed: expected a number",
                          values->seed);
    options->read_data_percent = (unsigned)percent;
    options->seed = seed;
    options->threads = (unsigned)values->threads;
    return 0;
}

/* Counts a line; whether it is to be printed. */
static bool wants_line(const struct check_run *run, struct line_count *lines)
{
    return ++lines->count <= LINES_MAX || run->cli->verbose;
}

static void tell_rest(const struct check_run *run, const struct line_count *lines)
{
    char rest[32];
    if (run->cli->verbose || lines->count <= LINES_MAX)
        return;
    uint64_t count = lines->count - LINES_MAX;
    talk("and %s more %s: --verbose names all", format_count(count, rest),
         plural(count, lines->one, lines->many));
}

static void talk_problem(struct check_run *run, const struct check_problem *problem)
{
    char what[64];
    if (!wants_line(run, problem->path ? &run->files : &run->objects))
        return;
    if (problem->object) {
        talk_path("damage in", problem->object, problem->why);
    } else if (problem->path) {
        (void)snprintf(what, sizeof(what), "damage in backup %.12s:", problem->backup);
        talk_path(what, problem->path, problem->why);
    } else {
        talk("damage in backup %.12s: %s", problem->backup, problem->why);
    }
}

static void on_problem(const struct check_problem *problem, void *userdata)
{
    struct check_run *run = userdata;
    talk_problem(run, problem);
    struct json_object *item = problem_list_count(&run->problems);
    if (!item)
        return;
    if (problem->object)
        json_add_name(item, "object", problem->object, strlen(problem->object));
    if (problem->backup)
        json_add_string(item, "backup", problem->backup);
    if (problem->path)
        json_add_name(item, "path", problem->path, strlen(problem->path));
    json_add_string(item, "problem", problem->why);
}

static void on_remark(const char *object, const char *why, void *userdata)
{
    struct check_run *run = userdata;
    if (!run->cli->quiet && wants_line(run, &run->notes))
        talk_path("note on", object, why);
}

static void print_summary(const struct check_run *run, const struct check_options *options,
                          const struct check_result *s)
{
    char backups[32], packs[32], size[16], pages[32], entries[32], read[16];
    printf("checked %s %s, %s %s (%s), %s pages, %s entries",
           format_count(s->backup_count, backups), plural(s->backup_count, "backup", "backups"),
           format_count(s->pack_count, packs), plural(s->pack_count, "pack", "packs"),
           text_format_bytes(s->pack_bytes, size), format_count(s->page_count, pages),
           format_count(s->entry_count, entries));
    if (options->read_data_percent > 0)
        printf("; read %s of data (seed %" PRIu64 ")", text_format_bytes(s->read_bytes, read),
               options->seed);
    printf(", in %.1f s: ", run->seconds);
    if (s->problem_count == 0)
        puts("no damage");
    else
        printf("%" PRIu64 " %s\n", s->problem_count,
               plural(s->problem_count, "problem", "problems"));
}

static void print_json(struct check_run *run, const struct check_options *options,
                       const struct check_result *s)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    json_add_bool(object, "damaged", s->problem_count > 0);
    json_add_uint(object, "keys", s->key_count);
    json_add_uint(object, "index_segments", s->index_count);
    json_add_uint(object, "backups", s->backup_count);
    json_add_uint(object, "sessions", s->session_count);
    json_add_uint(object, "packs", s->pack_count);
    json_add_uint(object, "pack_bytes", s->pack_bytes);
    json_add_uint(object, "unindexed_packs", s->unindexed_pack_count);
    json_add_uint(object, "pages", s->page_count);
    json_add_uint(object, "entries", s->entry_count);
    json_add_uint(object, "read_data_percent", options->read_data_percent);
    json_add_uint(object, "seed", options->seed);
    json_add_uint(object, "read_packs", s->read_pack_count);
    json_add_uint(object, "read_bytes", s->read_bytes);
    json_add_uint(object, "read_chunks", s->read_chunk_count);
    json_add_double(object, "seconds", run->seconds);
    problem_list_put(&run->problems, object);
    json_print(object);
}

static int check(struct check_run *run, struct repository *repo, struct check_options *options,
                 struct check_result *ret_result)
{
    options->problem = on_problem;
    options->remark = on_remark;
    options->userdata = run;
    options->progress = run->cli->progress;
    CLEANUP(progress_view_freep) struct progress_view *view = NULL;
    int r = progress_view_start(run->cli->progress, "check", cli_progress_style(run->cli), &view);
    if (r < 0)
        return r;
    uint64_t start_ns = monotonic_ns();
    r = check_repository(repo, options, ret_result);
    run->seconds = (double)(monotonic_ns() - start_ns) / 1e9;
    tell_rest(run, &run->objects);
    tell_rest(run, &run->files);
    tell_rest(run, &run->notes);
    return r;
}

static void check_run_release(struct check_run *run)
{
    problem_list_release(&run->problems);
}

static int run_check(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    CLEANUP(check_run_release)
    struct check_run run = {
        .cli = cli,
        .objects = {.one = "damaged object", .many = "damaged objects"},
        .files = {.one = "damaged file", .many = "damaged files"},
        .notes = {.one = "note", .many = "notes"},
    };
    CLEANUP(repository_freep) struct repository *repo = NULL;
    struct check_options options = {0};
    struct check_result result = {0};
    int r = parse_values(values, &options);
    if (r < 0)
        return r;
    problem_list_init(&run.problems, cli->json);
    r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = check(&run, repo, &options, &result);
    if (r < 0)
        return r;
    if (cli->json)
        print_json(&run, &options, &result);
    else if (!cli->quiet)
        print_summary(&run, &options, &result);
    return result.problem_count == 0 ? EXIT_DONE : EXIT_FAILED;
}

const struct verb verb_check = {
    .name = "check",
    .synopsis = "",
    .summary = "check that everything is there and right",
    .options = check_verb_options,
    .values_size = sizeof(struct check_values),
    .run = run_check,
};
