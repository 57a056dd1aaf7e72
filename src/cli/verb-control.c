/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra pause, resume, cancel, limit, hydrate: telling an instant restore what to do */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/instant.h"
#include "restore/instant-note.h"

#define POLL_TENTHS       5u
#define SILENT_TENTHS_MAX 600u /* while the service is started anew */
#define FAILED_POLLS      6u   /* that only failed files are left before that is the outcome */

struct control_values {
    const char *target;
    bool no_wait;
};

static const struct option_spec control_options[] = {
    {'T', "target", OPTION_STRING, offsetof(struct control_values, target), .arg = "DIR",
     .help = "the restore of this directory, when there are several"},
    {0},
};

static const struct option_spec hydrate_options[] = {
    {'T', "target", OPTION_STRING, offsetof(struct control_values, target), .arg = "DIR",
     .help = "the restore of this directory; usually the paths tell which"},
    {0, "no-wait", OPTION_FLAG, offsetof(struct control_values, no_wait),
     .help = "do not wait until they are complete"},
    {0},
};

static int tell(const struct cli *cli, const struct control_values *v, const char *request,
                const char *words)
{
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP_JSON struct json_object *response = NULL;
    int r = instant_choose(v->target, &choice);
    if (r == 0)
        r = instant_do(choice.socket_path, request, &response);
    if (r < 0)
        return r;
    if (cli->json)
        json_print(response);
    else if (!cli->quiet)
        puts(words);
    return EXIT_DONE;
}

static int run_pause(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    return tell(cli, values, "pause", "paused: only what is asked for is filled in");
}

static int run_resume(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    return tell(cli, values, "resume", "resumed");
}

/* ---- cancel ---- */

/* As a note has it; of a directory that is not there, the word is all that is known. */
static char *noted_target(const char *word)
{
    char *path = realpath(word, NULL);
    if (path || errno == ENOMEM)
        return path;
    size_t len = strlen(word);
    while (len > 1 && word[len - 1] == '/')
        len--;
    return strndup(word, len);
}

/* A restore that only this machine's note tells of. */
static int drop_note(const struct cli *cli, const struct instant_note *note,
                     enum instant_note_state state, struct json_object *dropped)
{
    char id[INSTANT_ID_LEN + 1];
    bool done;
    instant_id_format(note->restore_id, id);
    int r = instant_note_drop(note, state, &done);
    if (r < 0 || !done)
        return r;
    json_append(dropped, json_object_new_string(id));
    if (cli->json || cli->quiet)
        return 0;
    printf("the note of restore %s is dropped: '", id);
    print_escaped(note->target, strlen(note->target));
    puts("' is not mounted, or not restored any more");
    return 0;
}

static int drop_notes(const struct cli *cli, const char *word, struct json_object *dropped)
{
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector notes = {0};
    CLEANUP_FREE char *target = noted_target(word);
    int r = target ? instant_note_list(&notes) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < notes.count; i++) {
        const struct instant_note *note = &notes.items[i];
        enum instant_note_state state;
        if (strcmp(note->target, target) != 0)
            continue;
        r = instant_note_look(note, &state);
        if (r == 0 && state != INSTANT_NOTE_UNFINISHED)
            r = drop_note(cli, note, state, dropped);
    }
    return r;
}

/* Nothing of the restore is on the target, or the target is away.  why: what was the matter. */
static int cancel_notes(const struct cli *cli, const char *target, int why)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    struct json_object *dropped = json_new_array();
    struct error_report report = {0};
    error_save(&report, why);
    json_add_bool(object, "ok", true);
    json_add(object, "notes_dropped", dropped);
    int r = drop_notes(cli, target, dropped);
    if (r < 0)
        return r;
    if (json_object_array_length(dropped) == 0)
        return error_raise(&report);
    if (cli->json)
        json_print(object);
    else if (!cli->quiet)
        talk("files of it that are not complete read as zeros when its file system is mounted; to "
             "go on with it nevertheless: 'umbra restore --resume --target DIR'");
    return EXIT_DONE;
}

static int run_cancel(struct cli *cli, void *values, char **words, int word_count)
{
    const struct control_values *v = values;
    (void)words;
    (void)word_count;
    int r = tell(cli, values, "cancel",
                 "cancelled: what nobody has used is removed, the rest is completed");
    if (v->target && (r == -ENODATA || r == -ENOENT || r == -ENOTDIR))
        return cancel_notes(cli, v->target, r);
    return r;
}

/* ---- limit ---- */

static int parse_rate(const char *word, uint64_t *ret_rate)
{
    if (strcmp(word, "none") == 0) {
        *ret_rate = 0;
        return 0;
    }
    if (text_parse_bytes(word, ret_rate) < 0 || *ret_rate < KIB || *ret_rate > CLI_LIMIT_MAX)
        return error_note(-UMBRA_E_USAGE,
                          "bad rate '%s': expected bytes a second, as in 50M, or none", word);
    return 0;
}

static void print_limit(const struct cli *cli, struct json_object *response, uint64_t rate)
{
    char text[16];
    if (cli->json)
        json_print(response);
    else if (!cli->quiet && rate == 0)
        puts("the background has no limit");
    else if (!cli->quiet)
        printf("the background brings %s/s at most\n", text_format_bytes(rate, text));
}

static int run_limit(struct cli *cli, void *values, char **words, int word_count)
{
    const struct control_values *v = values;
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP_JSON struct json_object *request = instant_request("limit");
    CLEANUP_JSON struct json_object *response = NULL;
    uint64_t rate = 0;
    (void)word_count;
    int r = parse_rate(words[0], &rate);
    json_add_uint(request, "bytes_per_s", rate);
    if (r == 0)
        r = instant_choose(v->target, &choice);
    if (r == 0)
        r = instant_send(choice.socket_path, request, &response);
    if (r < 0)
        return r;
    print_limit(cli, response, rate);
    return EXIT_DONE;
}

/* ---- hydrate ---- */

/* What follows the target in the path; NULL when it is not below it. */
static const char *below(const char *path, const char *target)
{
    size_t len = strcmp(target, "/") == 0 ? 0 : strlen(target);
    if (strncmp(path, target, len) != 0 || (path[len] != '/' && path[len] != '\0'))
        return NULL;
    return path[len] == '/' ? path + len + 1 : path + len;
}

static int add_path(const char *word, const char *target, struct json_object *array)
{
    CLEANUP_FREE char *path = NULL;
    int r = path_make_absolute(word, &path);
    if (r < 0)
        return r;
    const char *rest = below(path, target);
    if (!rest)
        return error_note(-UMBRA_E_USAGE, "'%s' is not below '%s', which is being restored", word,
                          target);
    json_append(array, json_name_value(rest, strlen(rest)));
    return 0;
}

static int get_target(const char *socket_path, char **ret_target)
{
    CLEANUP_JSON struct json_object *response = NULL;
    CLEANUP(instant_status_release) struct instant_status status = {0};
    int r = instant_do(socket_path, "status", &response);
    if (r == 0)
        r = instant_status_parse(response, &status);
    if (r == 0)
        *ret_target = TAKE_PTR(status.target);
    return r;
}

/* Of several, the one whose target has the path; the innermost, should they be one in another. */
static int choose_by_path(const char *word, struct instant_running_vector *list,
                          struct instant_choice *ret_choice)
{
    struct instant_running *best = NULL;
    CLEANUP_FREE char *path = NULL;
    size_t best_len = 0;
    int r = path_make_absolute(word, &path);
    for (size_t i = 0; r == 0 && i < list->count; i++) {
        CLEANUP_FREE char *target = NULL;
        r = get_target(list->items[i].socket_path, &target);
        if (r == 0 && below(path, target) && strlen(target) > best_len) {
            best = &list->items[i];
            best_len = strlen(target);
        }
        if (instant_is_gone(r))
            r = 0; /* it has ended meanwhile */
    }
    if (r < 0)
        return r;
    if (!best)
        return error_note(-UMBRA_E_USAGE, "'%s' is not below a directory that is being restored",
                          word);
    *ret_choice = (struct instant_choice){.restore_id = best->restore_id,
                                          .socket_path = TAKE_PTR(best->socket_path)};
    return 0;
}

static int choose(const char *target, const char *word, struct instant_choice *ret_choice)
{
    CLEANUP(instant_running_vector_release_all) struct instant_running_vector list = {0};
    int r = instant_need_root();
    if (r == 0 && !target)
        r = instant_list(&list);
    if (r < 0)
        return r;
    return list.count > 1 ? choose_by_path(word, &list, ret_choice)
                          : instant_choose(target, ret_choice);
}

static uint64_t number(struct json_object *response, const char *key)
{
    struct json_object *value = NULL;
    return json_object_object_get_ex(response, key, &value) ? json_object_get_uint64(value) : 0;
}

static void print_hydrate(const struct cli *cli, struct json_object *response, bool complete)
{
    char text[32];
    uint64_t count = number(response, "files");
    if (cli->json)
        json_print(response);
    else if (!cli->quiet)
        printf("%s %s %s\n", format_count(count, text), plural(count, "file is", "files are"),
               complete ? "complete now" : "next");
}

struct hydration {
    const struct cli *cli;
    const char *socket_path, *target;
    struct json_object *paths; /* borrowed */
    unsigned silent_tenths, failed_polls;
};

static int ask_about_paths(const struct hydration *hydration, const char *verb,
                           struct json_object **ret_response)
{
    CLEANUP_JSON struct json_object *request = instant_request(verb);
    json_add(request, "paths", json_object_get(hydration->paths));
    return instant_send(hydration->socket_path, request, ret_response);
}

/* 1: the restore has ended, and everything is there. */
static int on_silence(struct hydration *hydration)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    CLEANUP_JSON struct json_object *response = NULL;
    int r = instant_record_read(hydration->target, &record);
    if (r == -ENODATA)
        return 1;
    if (r < 0)
        return r;
    hydration->silent_tenths += POLL_TENTHS;
    if (hydration->silent_tenths >= SILENT_TENTHS_MAX)
        return error_note(-ENOTCONN, "the restore of '%s' does not answer any more",
                          hydration->target);
    /* A new service does not know what the last one was asked for. */
    r = ask_about_paths(hydration, "hydrate", &response);
    return instant_is_gone(r) ? 0 : r;
}

/* 1: all are complete; 0: not yet. */
static int poll_paths(struct hydration *hydration)
{
    CLEANUP_JSON struct json_object *response = NULL;
    int r = ask_about_paths(hydration, "pending", &response);
    if (instant_is_gone(r))
        return on_silence(hydration);
    if (r < 0)
        return r;
    uint64_t count = number(response, "files"), failed = number(response, "files_failed");
    char text[32];
    hydration->silent_tenths = 0;
    hydration->failed_polls = failed == count ? hydration->failed_polls + 1 : 0;
    if (count > 0 && hydration->failed_polls >= FAILED_POLLS)
        return error_note(-EIO,
                          "%s %s cannot be filled in, and will be tried again: see 'umbra "
                          "status'",
                          format_count(failed, text), plural(failed, "file", "files"));
    return count == 0;
}

static int wait_for_paths(struct hydration *hydration)
{
    int r;
    while ((r = poll_paths(hydration)) == 0) {
        instant_pause(hydration->cli, POLL_TENTHS);
        if (atomic_load(&hydration->cli->progress->cancelled) != 0)
            return error_note(-UMBRA_E_CANCELLED, "interrupted: they come next nevertheless");
    }
    return r < 0 ? r : 0;
}

static int run_hydrate(struct cli *cli, void *values, char **words, int word_count)
{
    const struct control_values *v = values;
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP_FREE char *target = NULL;
    CLEANUP_JSON struct json_object *paths = json_new_array();
    CLEANUP_JSON struct json_object *response = NULL;
    int r = choose(v->target, words[0], &choice);
    if (r == 0)
        r = get_target(choice.socket_path, &target);
    for (int i = 0; r == 0 && i < word_count; i++)
        r = add_path(words[i], target, paths);
    struct hydration hydration = {
        .cli = cli, .socket_path = choice.socket_path, .target = target, .paths = paths};
    if (r == 0)
        r = ask_about_paths(&hydration, "hydrate", &response);
    if (r == 0 && !v->no_wait)
        r = wait_for_paths(&hydration);
    if (r < 0)
        return r;
    print_hydrate(cli, response, !v->no_wait);
    return EXIT_DONE;
}

const struct verb verb_pause = {
    .name = "pause",
    .synopsis = "",
    .summary = "fill in only what is asked for",
    .options = control_options,
    .values_size = sizeof(struct control_values),
    .run = run_pause,
};

const struct verb verb_resume = {
    .name = "resume",
    .synopsis = "",
    .summary = "end a pause of an instant restore",
    .options = control_options,
    .values_size = sizeof(struct control_values),
    .run = run_resume,
};

const struct verb verb_cancel = {
    .name = "cancel",
    .synopsis = "",
    .summary = "end an instant restore early",
    .options = control_options,
    .values_size = sizeof(struct control_values),
    .run = run_cancel,
};

const struct verb verb_limit = {
    .name = "limit",
    .synopsis = "RATE",
    .summary = "change how much an instant restore may bring in the background",
    .options = control_options,
    .values_size = sizeof(struct control_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_limit,
};

const struct verb verb_hydrate = {
    .name = "hydrate",
    .synopsis = "PATH...",
    .summary = "fill these in now",
    .options = hydrate_options,
    .values_size = sizeof(struct control_values),
    .words_min = 1,
    .words_max = -1,
    .run = run_hydrate,
};
