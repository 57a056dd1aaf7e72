/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra pause, resume, cancel, limit, hydrate: telling an instant restore what to do */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/instant.h"

struct control_values {
    const char *target;
};

static const struct option_spec control_options[] = {
    {'T', "target", OPTION_STRING, offsetof(struct control_values, target), .arg = "DIR",
     .help = "the restore of this directory, when there are several"},
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

static int run_cancel(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    return tell(cli, values, "cancel",
                "cancelled: what nobody has used is removed, the rest is completed");
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

static void print_hydrate(const struct cli *cli, struct json_object *response)
{
    struct json_object *files = NULL;
    char count[32];
    uint64_t file_count =
        json_object_object_get_ex(response, "files", &files) ? json_object_get_uint64(files) : 0;
    if (cli->json)
        json_print(response);
    else if (!cli->quiet)
        printf("%s %s next\n", format_count(file_count, count),
               plural(file_count, "file is", "files are"));
}

static int run_hydrate(struct cli *cli, void *values, char **words, int word_count)
{
    const struct control_values *v = values;
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP_FREE char *target = NULL;
    CLEANUP_JSON struct json_object *request = instant_request("hydrate");
    CLEANUP_JSON struct json_object *response = NULL;
    struct json_object *paths = json_new_array();
    json_add(request, "paths", paths);
    int r = instant_choose(v->target, &choice);
    if (r == 0)
        r = get_target(choice.socket_path, &target);
    for (int i = 0; r == 0 && i < word_count; i++)
        r = add_path(words[i], target, paths);
    if (r == 0)
        r = instant_send(choice.socket_path, request, &response);
    if (r < 0)
        return r;
    print_hydrate(cli, response);
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
    .summary = "fill these in next",
    .options = control_options,
    .values_size = sizeof(struct control_values),
    .words_min = 1,
    .words_max = -1,
    .run = run_hydrate,
};
