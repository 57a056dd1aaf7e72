/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra backup PATH... */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/atomic.h"
#include "cli/cli.h"
#include "cli/describe.h"
#include "cli/own-repository.h"
#include "repo/backup.h"
#include "tree/key.h"

#define EXCLUDE_FILE_MAX (16u << 20)
#define THREADS_MAX      256
#define ZSTD_LEVEL_MAX   19

struct backup_values {
    struct option_list excludes; /* --exclude and --exclude-file, in their order */
    struct option_list tags;
    const char *host;
    bool exclude_caches, one_file_system, read_all, fixed_blocks, dry_run;
    uint64_t level, threads;
};

#define VALUE(member) offsetof(struct backup_values, member)

static const struct option_spec backup_options[] = {
    {'e', "exclude", OPTION_LIST, VALUE(excludes), .arg = "PATTERN",
     .help = "leave out what matches (gitignore syntax, absolute paths are anchored)"},
    {0, "exclude-file", OPTION_LIST, VALUE(excludes), .arg = "FILE",
     .help = "take patterns from FILE, one a line"},
    {0, "exclude-caches", OPTION_FLAG, VALUE(exclude_caches),
     .help = "leave out what directories with a CACHEDIR.TAG hold"},
    {'x', "one-file-system", OPTION_FLAG, VALUE(one_file_system),
     .help = "do not enter other file systems"},
    {'t', "tag", OPTION_LIST, VALUE(tags), .arg = "TAG",
     .help = "give the backup a tag; may be repeated"},
    {0, "host", OPTION_STRING, VALUE(host), .arg = "NAME", .help = "record NAME as the host"},
    {0, "read-all", OPTION_FLAG, VALUE(read_all), .help = "read files that look unchanged, too"},
    {0, "fixed-blocks", OPTION_FLAG, VALUE(fixed_blocks),
     .help = "cut files at fixed offsets (disk images)"},
    {'n', "dry-run", OPTION_FLAG, VALUE(dry_run), .help = "compare only, store nothing"},
    {0, "compression", OPTION_NUMBER, VALUE(level), .arg = "LEVEL", .help = "zstd level, 1 to 19",
     .min = 1, .max = ZSTD_LEVEL_MAX},
    {0, "threads", OPTION_NUMBER, VALUE(threads), .arg = "N",
     .help = "threads (default: one a processor)", .min = 1, .max = THREADS_MAX},
    {0},
};

/* Everything of one run, so that callbacks reach it. */
struct backup_run {
    const struct cli *cli;
    const struct backup_values *values;
    struct problem_list problems;
    struct string_vector roots;
    struct string_vector exclude_texts;
    struct exclude_set *excludes;
};

static void backup_run_release(struct backup_run *run)
{
    problem_list_release(&run->problems);
    string_vector_release_all(&run->roots);
    string_vector_release_all(&run->exclude_texts);
    exclude_set_free(run->excludes);
}

/* Every line of the file becomes a rule, and a text for the record. */
static int add_exclude_file(struct backup_run *run, const char *path)
{
    CLEANUP_FREE char *text = NULL;
    size_t len;
    int r = cli_read_file(path, EXCLUDE_FILE_MAX, &text, &len);
    if (r < 0)
        return r;
    r = exclude_set_parse(run->excludes, text, len, path);
    for (char *line = text, *end = text + len; r == 0 && line < end;) {
        char *newline = memchr(line, '\n', (size_t)(end - line));
        char *next = newline ? newline + 1 : end;
        if (newline)
            *newline = '\0';
        if (*line != '\0' && *line != '#')
            r = string_vector_add(&run->exclude_texts, line);
        line = next;
    }
    return r;
}

static int collect_excludes(struct backup_run *run)
{
    int r = exclude_set_new(&run->excludes);
    for (size_t i = 0; r == 0 && i < run->values->excludes.count; i++) {
        const struct option_item *item = &run->values->excludes.items[i];
        if (strcmp(item->spec->name, "exclude-file") == 0) {
            r = add_exclude_file(run, item->value);
            continue;
        }
        r = exclude_set_add(run->excludes, item->value, strlen(item->value), "--exclude");
        if (r == 0)
            r = string_vector_add(&run->exclude_texts, item->value);
    }
    return r;
}

/* A path that is not there, below the current directory if it is relative. */
static int make_missing_absolute(const char *path, char **ret_path)
{
    CLEANUP_FREE char *here = *path == '/' ? strdup("") : getcwd(NULL, 0);
    if (!here)
        return error_note_describe(-errno, "cannot find the current directory");
    if (asprintf(ret_path, "%s/%s", here, path) < 0)
        return -ENOMEM;
    return 0;
}

/* One path that is not there is told in its turn; nothing but such is an error at once. */
static int collect_roots(struct backup_run *run, char **words, int word_count)
{
    struct error_report first_missing = {0};
    int missing_count = 0;
    for (int i = 0; i < word_count; i++) {
        CLEANUP_FREE char *path = NULL;
        int r = path_make_absolute(words[i], &path);
        if (r < 0 && r != -ENOMEM && r != -UMBRA_E_USAGE) {
            error_save(&first_missing, r);
            missing_count++;
            r = make_missing_absolute(words[i], &path);
        }
        if (r == 0)
            r = string_vector_add(&run->roots, path);
        if (r < 0)
            return r;
    }
    return missing_count == word_count ? error_raise(&first_missing) : 0;
}

/* A tag must be told from an id, from "latest", and from the path in B:PATH. */
static int check_tags(const struct option_list *tags)
{
    for (size_t i = 0; i < tags->count; i++) {
        const char *tag = tags->items[i].value;
        CLEANUP_FREE char *escaped = text_escape(tag, strlen(tag));
        if (!escaped)
            return -ENOMEM;
        if (*tag == '\0' || strchr(tag, ':') || strcmp(tag, "latest") == 0 ||
            strcmp(tag, escaped) != 0)
            return error_note(-UMBRA_E_USAGE,
                              "bad tag '%s': a tag is not empty, not 'latest', and has no ':'",
                              escaped);
    }
    return 0;
}

static void on_problem(const char *path, const char *what, bool incomplete, void *userdata)
{
    struct backup_run *run = userdata;
    problem_list_add(&run->problems, incomplete ? "cannot read all of" : "cannot read", path, what);
}

static void on_entry(char state, const struct entry *e, void *userdata)
{
    (void)userdata;
    CLEANUP_FREE char *path = key_to_path(e->key, e->key_len);
    if (!path)
        return;
    output_lock();
    printf("%c /", state);
    print_escaped(path, strlen(path));
    putchar('\n');
    output_unlock();
}

static void print_summary(const struct backup *backup, bool dry_run)
{
    const struct backup_stats *s = &backup->stats;
    char files[32], size[16], read[16], stored[16];
    double seconds = (double)(backup->end_ns - backup->start_ns) / 1e9;
    if (dry_run)
        printf("dry run: ");
    else
        printf("backup %.12s saved: ", backup->id);
    printf("%s %s, %s; %" PRIu64 " new, %" PRIu64 " changed, %" PRIu64 " unchanged",
           format_count(s->file_count, files), plural(s->file_count, "file", "files"),
           text_format_bytes(s->size_bytes, size), s->new_count, s->changed_count,
           s->unchanged_count);
    if (!dry_run)
        printf("; read %s, stored %s, in %.1f s", text_format_bytes(s->read_bytes, read),
               text_format_bytes(s->stored_bytes, stored), seconds);
    putchar('\n');
}

static void print_json(const struct backup *backup, struct backup_run *run)
{
    CLEANUP_JSON struct json_object *object = backup_to_json(backup);
    json_add_bool(object, "dry_run", run->values->dry_run);
    problem_list_put(&run->problems, object);
    json_print(object);
}

static int create(struct backup_run *run, struct repository *repo, struct backup **ret_backup)
{
    const struct backup_values *v = run->values;
    CLEANUP_FREE const char **tags = calloc(v->tags.count + 1, sizeof(*tags));
    if (!tags)
        return -ENOMEM;
    for (size_t i = 0; i < v->tags.count; i++)
        tags[i] = v->tags.items[i].value;
    struct backup_options options = {
        .roots = (const char *const *)run->roots.items,
        .root_count = run->roots.count,
        .host = v->host,
        .tags = tags,
        .tag_count = v->tags.count,
        .excludes = run->excludes,
        .exclude_texts = (const char *const *)run->exclude_texts.items,
        .exclude_text_count = run->exclude_texts.count,
        .exclude_caches = v->exclude_caches,
        .one_file_system = v->one_file_system,
        .read_all = v->read_all,
        .fixed_blocks = v->fixed_blocks,
        .dry_run = v->dry_run,
        .zstd_level = (int)v->level,
        .threads = (unsigned)v->threads,
        .problem = on_problem,
        .entry = run->cli->verbose && !run->cli->json ? on_entry : NULL,
        .userdata = run,
        .progress = run->cli->progress,
    };
    CLEANUP(progress_view_freep) struct progress_view *view = NULL;
    int r = progress_view_start(run->cli->progress, "backup", cli_progress_style(run->cli), &view);
    return r < 0 ? r : backup_create(repo, &options, ret_backup);
}

static int run_backup(struct cli *cli, void *values, char **words, int word_count)
{
    CLEANUP(backup_run_release) struct backup_run run = {.cli = cli, .values = values};
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(backup_freep) struct backup *backup = NULL;
    problem_list_init(&run.problems, cli->json);
    /* Not of a tree that is neither the one nor the other. */
    atomic_recover_noted(cli);
    int r = check_tags(&run.values->tags);
    if (r == 0)
        r = collect_roots(&run, words, word_count);
    if (r == 0)
        r = collect_excludes(&run);
    if (r == 0)
        r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = own_repository_leave_out(cli, repo, &run.roots, run.values->one_file_system,
                                     run.excludes, &run.exclude_texts);
    if (r == 0)
        r = create(&run, repo, &backup);
    if (r < 0)
        return r;

    if (cli->json)
        print_json(backup, &run);
    else if (!cli->quiet)
        print_summary(backup, run.values->dry_run);
    if (backup->stats.problem_count == 0)
        return EXIT_DONE;
    talk("backup is incomplete: %" PRIu64 " %s could not be read completely",
         backup->stats.problem_count, plural(backup->stats.problem_count, "file", "files"));
    return EXIT_INCOMPLETE;
}

const struct verb verb_backup = {
    .name = "backup",
    .synopsis = "PATH...",
    .summary = "save files and directories as a new backup",
    .options = backup_options,
    .values_size = sizeof(struct backup_values),
    .words_min = 1,
    .words_max = -1,
    .run = run_backup,
};
