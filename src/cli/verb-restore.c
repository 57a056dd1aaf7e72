/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra restore B[:PATH] --target DIR */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "cli/instant-restore.h"
#include "cli/instant.h"
#include "restore/instant.h"
#include "restore/restore.h"
#include "treetx/treetx.h"

#define THREADS_MAX 256

struct restore_values {
    const char *target;
    struct option_list includes, excludes, sources;
    bool verify, dry_run, delete_extra, numeric_owner, in_place, atomic;
    bool rollback, force;
    bool instant, resume, private_mount, idle;
    const char *load_order, *record_order;
    uint64_t threads, limit_bytes_per_s, deadline_s;
};

#define VALUE(member) offsetof(struct restore_values, member)

static const struct option_spec restore_options[] = {
    {'T', "target", OPTION_STRING, VALUE(target), .arg = "DIR",
     .help = "where to put the files; made when missing; with --resume: go on with the restore of "
             "this directory only"},
    {'i', "include", OPTION_LIST, VALUE(includes), .arg = "PATTERN",
     .help = "restore only what matches (gitignore syntax); may be repeated"},
    {'e', "exclude", OPTION_LIST, VALUE(excludes), .arg = "PATTERN",
     .help = "leave out what matches; may be repeated"},
    {0, "verify", OPTION_FLAG, VALUE(verify),
     .help = "read everything back afterwards and compare"},
    {'n', "dry-run", OPTION_FLAG, VALUE(dry_run), .help = "say what would be done, do nothing"},
    {0, "delete", OPTION_FLAG, VALUE(delete_extra),
     .help = "remove what the backup does not have from restored directories"},
    {0, "in-place", OPTION_FLAG, VALUE(in_place),
     .help = "make the target, which exists, what the backup has: change what differs, remove what "
             "the backup does not have (as --delete does)"},
    {0, "atomic", OPTION_FLAG, VALUE(atomic),
     .help = "with --in-place: all or nothing, whatever happens meanwhile"},
    {0, "rollback", OPTION_FLAG, VALUE(rollback),
     .help = "take the last atomic restore of the target back (no backup is named)"},
    {0, "force", OPTION_FLAG, VALUE(force),
     .help = "with --rollback: leave alone what somebody else has changed since then"},
    {0, "numeric-owner", OPTION_FLAG, VALUE(numeric_owner),
     .help = "use the recorded ids, not the names of owners"},
    {0, "threads", OPTION_NUMBER, VALUE(threads), .arg = "N",
     .help = "threads (default: one a processor)", .min = 1, .max = THREADS_MAX},
    {0, "instant", OPTION_FLAG, VALUE(instant),
     .help = "return when all can be used, and bring contents when they are asked for, the rest in "
             "the background"},
    {0, "limit", OPTION_BYTES, VALUE(limit_bytes_per_s), .arg = "RATE",
     .help = "with --instant: bytes a second that the background may take", .min = KIB,
     .max = CLI_LIMIT_MAX},
    {0, "idle", OPTION_FLAG, VALUE(idle),
     .help = "with --instant: the background works while nobody else uses the disk"},
    {0, "deadline", OPTION_NUMBER, VALUE(deadline_s), .arg = "SECONDS",
     .help = "with --instant: how long a reader waits at most before it gets an error (default: "
             "120)",
     .min = 1, .max = INSTANT_DEADLINE_S_MAX},
    {0, "source", OPTION_LIST, VALUE(sources), .arg = "SOURCE",
     .help = "with --instant: where else contents can be had: dir:PATH or exec:COMMAND; may be "
             "repeated"},
    {0, "load-order", OPTION_STRING, VALUE(load_order), .arg = "FILE",
     .help = "with --instant: the background begins with the files of this list"},
    {0, "record-order", OPTION_STRING, VALUE(record_order), .arg = "FILE",
     .help = "with --instant: write such a list of the files that are asked for"},
    {0, "resume", OPTION_FLAG, VALUE(resume),
     .help = "go on with instant restores that were interrupted"},
    {0, "private-mount", OPTION_FLAG, VALUE(private_mount),
     .help = "with --resume and the id of a restore: mount its volume where nobody else sees it, "
             "and go on there"},
    {0},
};

struct restore_run_state {
    const struct cli *cli;
    const struct restore_values *values;
    struct problem_list problems;
    struct exclude_set *includes, *excludes;
    double seconds;
};

static void restore_run_state_release(struct restore_run_state *run)
{
    problem_list_release(&run->problems);
    exclude_set_free(run->includes);
    exclude_set_free(run->excludes);
}

/* *ret_set stays NULL when there are no patterns. */
static int collect_patterns(const struct option_list *list, const char *source,
                            struct exclude_set **ret_set)
{
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
    int r = list->count > 0 ? exclude_set_new(&set) : 0;
    for (size_t i = 0; r == 0 && i < list->count; i++)
        r = exclude_set_add(set, list->items[i].value, strlen(list->items[i].value), source);
    if (r == 0)
        *ret_set = TAKE_PTR(set);
    return r;
}

static void on_problem(const char *path, const char *what, void *userdata)
{
    struct restore_run_state *run = userdata;
    problem_list_add(&run->problems, "cannot restore", path, what);
}

static void on_action(char action, const char *path, void *userdata)
{
    (void)userdata;
    output_lock();
    printf("%c ", action);
    print_escaped(path, strlen(path));
    putchar('\n');
    output_unlock();
}

static void print_summary(const struct restore_run_state *run, const struct restore_stats *s)
{
    char files[32], size[16], written[16], verified[16];
    uint64_t count = s->file_count - s->failed_count;
    printf("%s %s %s, %s: %" PRIu64 " created, %" PRIu64 " rewritten, %" PRIu64
           " attributes, %" PRIu64 " unchanged",
           run->values->dry_run ? "dry run:" : "restored", format_count(count, files),
           plural(count, "file", "files"), text_format_bytes(s->size_bytes - s->failed_bytes, size),
           s->created_count, s->rewritten_count, s->attributes_count, s->unchanged_count);
    if (run->values->delete_extra || run->values->in_place)
        printf(", %" PRIu64 " deleted", s->deleted_count);
    if (!run->values->dry_run)
        printf("; wrote %s", text_format_bytes(s->written_bytes, written));
    if (run->values->verify && !run->values->dry_run)
        printf(", verified %s", text_format_bytes(s->verified_bytes, verified));
    printf(", in %.1f s\n", run->seconds);
}

static void print_json(struct restore_run_state *run, const struct backup *backup,
                       const struct restore_stats *s)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    json_add_string(object, "backup", backup->id);
    json_add_name(object, "target", run->values->target, strlen(run->values->target));
    json_add_bool(object, "dry_run", run->values->dry_run);
    json_add_bool(object, "complete", s->problem_count == 0);
    json_add_bool(object, "backup_complete", backup->stats.problem_count == 0);
    json_add_uint(object, "files", s->file_count - s->failed_count);
    json_add_uint(object, "failed_files", s->failed_count);
    json_add_uint(object, "directories", s->directory_count);
    json_add_uint(object, "others", s->other_count);
    json_add_uint(object, "size_bytes", s->size_bytes - s->failed_bytes);
    json_add_uint(object, "created", s->created_count);
    json_add_uint(object, "rewritten", s->rewritten_count);
    json_add_uint(object, "attributes", s->attributes_count);
    json_add_uint(object, "unchanged", s->unchanged_count);
    json_add_uint(object, "deleted", s->deleted_count);
    json_add_uint(object, "written_bytes", s->written_bytes);
    json_add_uint(object, "verified_bytes", s->verified_bytes);
    json_add_double(object, "seconds", run->seconds);
    problem_list_put(&run->problems, object);
    json_print(object);
}

static int restore(struct restore_run_state *run, struct repository *repo,
                   const struct backup *backup, const char *subpath,
                   struct restore_stats *ret_stats)
{
    const struct restore_values *v = run->values;
    bool want_actions = (run->cli->verbose || v->dry_run) && !run->cli->json && !run->cli->quiet;
    struct restore_options options = {
        .subpath = subpath,
        .target = v->target,
        .includes = run->includes,
        .excludes = run->excludes,
        .numeric_owner = v->numeric_owner,
        .delete_extra = v->delete_extra || v->in_place,
        .atomic = v->atomic,
        .verify = v->verify,
        .dry_run = v->dry_run,
        .threads = (unsigned)v->threads,
        .problem = on_problem,
        .action = want_actions ? on_action : NULL,
        .userdata = run,
        .progress = run->cli->progress,
    };
    CLEANUP(progress_view_freep) struct progress_view *view = NULL;
    int r = progress_view_start(run->cli->progress, "restore", cli_progress_style(run->cli), &view);
    if (r < 0)
        return r;
    uint64_t start_ns = monotonic_ns();
    r = restore_run(repo, backup, &options, ret_stats);
    run->seconds = (double)(monotonic_ns() - start_ns) / 1e9;
    return r;
}

/* The path as restore_run() wants it: absolute; NULL for everything. */
static int make_subpath(const char *path, char **ret_subpath)
{
    char *subpath = NULL;
    if (path && *path != '\0' && asprintf(&subpath, "/%s", path) < 0)
        return -ENOMEM;
    *ret_subpath = subpath;
    return 0;
}

static void warn_incomplete(const struct backup *backup)
{
    uint64_t count = backup->stats.problem_count;
    if (count > 0)
        talk("backup %.12s is incomplete: %" PRIu64 " %s could not be read when it was made",
             backup->id, count, plural(count, "file", "files"));
}

/* In words that can be copied: it takes space until then.  What changed nothing keeps nothing. */
static void print_way_back(const char *target)
{
    enum treetx_state state;
    if (treetx_look(target, &state) < 0 || state != TREETX_KEPT)
        return;
    fputs("take it back with 'umbra restore --rollback --target ", stdout);
    print_escaped(target, strlen(target));
    fputs("', or keep it for good and free the space with 'umbra log discard ", stdout);
    print_escaped(target, strlen(target));
    puts("'");
}

static void print_rolled_back_json(const char *target)
{
    CLEANUP_JSON struct json_object *object = json_new_object();

    json_add_name(object, "target", target, strlen(target));
    json_add_bool(object, "rolled_back", true);
    json_print(object);
}

static int run_rollback(const struct cli *cli, const struct restore_values *values)
{
    const char *target = values->target;

    int r = treetx_rollback(target, values->force ? TREETX_FORCE : 0);
    if (r < 0)
        return error_prefix(r, "cannot take the last atomic restore of '%s' back", target);
    if (cli->json) {
        print_rolled_back_json(target);
    } else if (!cli->quiet) {
        fputs("the last atomic restore of '", stdout);
        print_escaped(target, strlen(target));
        puts("' is taken back");
    }
    return EXIT_DONE;
}

static int run_ordinary(struct cli *cli, const struct restore_values *values, const char *word)
{
    CLEANUP(restore_run_state_release)
    struct restore_run_state run = {.cli = cli, .values = values};
    CLEANUP_FREE char *name = NULL;
    CLEANUP_FREE char *path = NULL;
    CLEANUP_FREE char *subpath = NULL;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(backup_freep) struct backup *backup = NULL;
    struct restore_stats stats = {0};
    problem_list_init(&run.problems, cli->json);
    int r = cli_parse_backup_path(word, &name, &path);
    if (r == 0)
        r = instant_check_none(values->target);
    if (r == 0)
        r = make_subpath(path, &subpath);
    if (r == 0)
        r = collect_patterns(&run.values->includes, "--include", &run.includes);
    if (r == 0)
        r = collect_patterns(&run.values->excludes, "--exclude", &run.excludes);
    if (r == 0)
        r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = cli_find_backup(repo, name, &backup);
    if (r == 0 && !cli->quiet)
        warn_incomplete(backup);
    if (r == 0)
        r = restore(&run, repo, backup, subpath, &stats);
    if (r < 0)
        return r;

    if (cli->json)
        print_json(&run, backup, &stats);
    else if (!cli->quiet)
        print_summary(&run, &stats);
    if (values->atomic && !values->dry_run && !cli->quiet && !cli->json)
        print_way_back(values->target);
    if (stats.problem_count > 0) {
        talk("restore is incomplete: %" PRIu64 " %s", stats.problem_count,
             plural(stats.problem_count, "problem", "problems"));
        return EXIT_INCOMPLETE;
    }
    if (run.includes && stats.file_count + stats.directory_count + stats.other_count == 0)
        return error_note(-ENOENT, "nothing in backup %.12s matches --include", backup->id);
    return EXIT_DONE;
}

/* ---- which kind ---- */

static int usage_together(const char *option, const char *other)
{
    return error_note(-UMBRA_E_USAGE, "%s and %s do not go together", option, other);
}

static int check_ordinary_options(const struct restore_values *v, const char *kind)
{
    if (v->verify)
        return usage_together("--verify", kind);
    if (v->delete_extra || v->in_place)
        return usage_together(v->in_place ? "--in-place" : "--delete", kind);
    if (v->dry_run)
        return usage_together("--dry-run", kind);
    return v->threads > 0 ? usage_together("--threads", kind) : 0;
}

static int check_new_options(const struct restore_values *v)
{
    if (v->instant)
        return usage_together("--instant", "--resume");
    if (v->includes.count > 0 || v->excludes.count > 0 || v->numeric_owner)
        return error_note(-UMBRA_E_USAGE, "--resume restores what was chosen when it began");
    return 0;
}

static int check_instant_options(const struct restore_values *v)
{
    const char *option = v->limit_bytes_per_s > 0 ? "--limit"
                         : v->idle                ? "--idle"
                         : v->deadline_s > 0      ? "--deadline"
                         : v->sources.count > 0   ? "--source"
                         : v->load_order          ? "--load-order"
                         : v->record_order        ? "--record-order"
                                                  : NULL;
    return option ? error_note(-UMBRA_E_USAGE, "%s needs --instant", option) : 0;
}

static int check_words(const struct restore_values *v, int word_count)
{
    if (v->private_mount && !v->resume)
        return error_note(-UMBRA_E_USAGE, "--private-mount needs --resume");
    if (v->private_mount && word_count == 0)
        return error_note(-UMBRA_E_USAGE, "--private-mount needs the id of a restore");
    if (v->private_mount && v->target)
        return usage_together("--private-mount", "--target");
    if (v->resume && word_count > 0 && !v->private_mount)
        return error_note(-UMBRA_E_USAGE, "--resume takes no backup: the target knows which");
    if (v->rollback && word_count > 0)
        return error_note(-UMBRA_E_USAGE, "--rollback takes no backup: it goes back to what the "
                                          "target was");
    if (!v->resume && !v->rollback && word_count == 0)
        return error_note(-UMBRA_E_USAGE, "too few arguments: expected 'umbra restore %s'",
                          verb_restore.synopsis);
    if ((!v->target && !v->resume) || (v->target && *v->target == '\0'))
        return error_note(-UMBRA_E_USAGE, "no target given: use --target DIR");
    return 0;
}

static int check_in_place_options(const struct restore_values *v)
{
    if (v->atomic && !v->in_place)
        return error_note(-UMBRA_E_USAGE, "--atomic needs --in-place");
    if (v->force && !v->rollback)
        return error_note(-UMBRA_E_USAGE, "--force needs --rollback");
    if (!v->rollback)
        return 0;
    if (v->instant || v->resume)
        return usage_together("--rollback", v->instant ? "--instant" : "--resume");
    if (v->includes.count > 0 || v->excludes.count > 0 || v->numeric_owner)
        return error_note(-UMBRA_E_USAGE, "--rollback takes everything back");
    return check_ordinary_options(v, "--rollback");
}

static int check_usage(const struct restore_values *v, int word_count)
{
    int r = check_words(v, word_count);
    if (r == 0)
        r = check_in_place_options(v);
    if (r == 0 && v->resume)
        r = check_new_options(v);
    if (r == 0 && (v->resume || v->instant))
        return check_ordinary_options(v, v->resume ? "--resume" : "--instant");
    return r < 0 ? r : check_instant_options(v);
}

static int run_restore(struct cli *cli, void *values, char **words, int word_count)
{
    const struct restore_values *v = values;
    const struct instant_wish wish = {
        .target = v->target,
        .includes = &v->includes,
        .excludes = &v->excludes,
        .sources = &v->sources,
        .load_order = v->load_order,
        .record_order = v->record_order,
        .numeric_owner = v->numeric_owner,
        .idle = v->idle,
        .limit_bytes_per_s = v->limit_bytes_per_s,
        .deadline_s = v->deadline_s,
    };
    int r = check_usage(v, word_count);
    if (r < 0)
        return r;
    if (v->rollback)
        return run_rollback(cli, v);
    if (v->private_mount)
        return instant_resume_private_run(cli, &wish, words[0]);
    if (v->resume)
        return instant_resume_run(cli, &wish);
    return v->instant ? instant_restore_run(cli, &wish, words[0]) : run_ordinary(cli, v, words[0]);
}

const struct verb verb_restore = {
    .name = "restore",
    .synopsis = "BACKUP[:PATH] --target DIR [--instant]",
    .other_synopses = {"BACKUP[:PATH] --target DIR --in-place [--atomic]",
                       "--rollback [--force] --target DIR", "--resume [--target DIR]"},
    .summary = "bring files of a backup back",
    .options = restore_options,
    .values_size = sizeof(struct restore_values),
    .words_max = 1,
    .run = run_restore,
};
