/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra status: what instant restores are doing */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/text.h"
#include "cli/atomic.h"
#include "cli/instant.h"
#include "restore/instant-note.h"

#define WATCH_TENTHS       10u
#define WATCH_LINES_TENTHS 100u /* where it is no terminal */
#define SHORT_ID_LEN       12
#define LABEL              "  %-9s "

struct status_values {
    const char *target;
    bool watch;
};

static const struct option_spec status_options[] = {
    {'T', "target", OPTION_STRING, offsetof(struct status_values, target), .arg = "DIR",
     .help = "only the restore of this directory"},
    {'w', "watch", OPTION_FLAG, offsetof(struct status_values, watch),
     .help = "go on showing it until it has ended"},
    {0},
};

/* ---- for people ---- */

static unsigned percent(const struct instant_status *s)
{
    if (s->bytes_total == 0)
        return s->files_total == s->files_done ? 100 : 0;
    return (unsigned)((double)MIN(s->bytes_done, s->bytes_total) * 100 / (double)s->bytes_total);
}

static void print_files(const struct instant_status *s)
{
    char done[32], total[32], failed[32];
    printf(LABEL "%s of %s complete", "files", format_count(s->files_done, done),
           format_count(s->files_total, total));
    if (s->files_failed > 0)
        printf(", %s failed", format_count(s->files_failed, failed));
    putchar('\n');
}

static void print_rate(const struct instant_status *s)
{
    char rate[16], limit[16], left[32];
    printf(LABEL "%s/s", "rate", text_format_bytes(s->rate_bytes_per_s, rate));
    if (s->limit_bytes_per_s > 0)
        printf(", limit %s/s", text_format_bytes(s->limit_bytes_per_s, limit));
    if (s->eta_known && !s->paused)
        printf(", %s left", progress_format_duration(s->eta_s, left));
    putchar('\n');
}

static void print_demand(const struct instant_status *s)
{
    char requests[32], bytes[16], p50[32], p99[32], waiting[32], crawlers[32];
    printf(LABEL "%s %s", "demand", format_count(s->demand_requests, requests),
           plural(s->demand_requests, "request", "requests"));
    if (s->demand_requests > 0)
        printf(", %s; half of them within %s, 99 %% within %s",
               text_format_bytes(s->demand_bytes, bytes), format_latency(s->demand_p50_us, p50),
               format_latency(s->demand_p99_us, p99));
    if (s->demand_waiting > 0)
        printf("; %s %s", format_count(s->demand_waiting, waiting),
               plural(s->demand_waiting, "waits", "wait"));
    if (s->crawlers > 0)
        printf("; %s %s through the tree, behind others", format_count(s->crawlers, crawlers),
               plural(s->crawlers, "process goes", "processes go"));
    putchar('\n');
}

static void print_order(const struct instant_status *s)
{
    char files[32], ignored[32];
    if (s->order_files == 0 && s->order_ignored == 0)
        return;
    printf(LABEL "%s %s", "order", format_count(s->order_files, files),
           plural(s->order_files, "file comes first", "files come first"));
    if (s->order_ignored > 0)
        printf("; %s %s", format_count(s->order_ignored, ignored),
               plural(s->order_ignored, "line of the list names no file of this restore",
                      "lines of the list name no file of this restore"));
    putchar('\n');
}

/* Their paths and words come escaped. */
static void print_problems(const struct instant_status *s, struct json_object *response)
{
    struct json_object *list = NULL, *path, *what;
    char count[32];
    size_t listed =
        json_object_object_get_ex(response, "problems", &list) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < listed; i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        if (json_object_object_get_ex(item, "path", &path) &&
            json_object_object_get_ex(item, "what", &what))
            printf(LABEL "'%s': %s\n", "problem", json_object_get_string(path),
                   json_object_get_string(what));
    }
    if (s->problem_count > listed)
        printf(LABEL "%s in all\n", "problems", format_count(s->problem_count, count));
}

/* Where there are several, what each has given.  Their words come escaped. */
static void print_sources(struct json_object *response)
{
    struct json_object *list = NULL, *source, *bytes, *failures;
    char given[16], failed[32];
    if (!json_object_object_get_ex(response, "sources", &list) ||
        json_object_array_length(list) < 2)
        return;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        if (!json_object_object_get_ex(item, "source", &source) ||
            !json_object_object_get_ex(item, "bytes", &bytes) ||
            !json_object_object_get_ex(item, "failures", &failures))
            continue;
        uint64_t failure_count = json_object_get_uint64(failures);
        printf(LABEL "%s: %s", "source", json_object_get_string(source),
               text_format_bytes(json_object_get_uint64(bytes), given));
        if (failure_count > 0)
            printf(", %s %s", format_count(failure_count, failed),
                   plural(failure_count, "failure", "failures"));
        putchar('\n');
    }
}

static void print_status(const struct instant_status *s, struct json_object *response)
{
    char done[16], total[16], running[32];
    printf("restore of '");
    print_escaped(s->target, strlen(s->target));
    printf("': %s%s\n", s->phase, s->paused ? ", paused" : "");
    printf(LABEL "%s\n", "id", s->restore);
    printf(LABEL "%.*s\n", "backup", SHORT_ID_LEN, s->backup);
    print_files(s);
    printf(LABEL "%s of %s (%u %%)\n", "bytes", text_format_bytes(s->bytes_done, done),
           text_format_bytes(s->bytes_total, total), percent(s));
    print_rate(s);
    print_demand(s);
    print_order(s);
    print_sources(response);
    printf(LABEL "%s\n", "running", progress_format_duration((uint64_t)s->elapsed_s, running));
    if (s->degraded && *s->degraded) {
        printf(LABEL, "degraded");
        print_escaped(s->degraded, strlen(s->degraded));
        putchar('\n');
    }
    print_problems(s, response);
}

/* ---- all of them ---- */

static int show_one(const struct cli *cli, const char *socket_path, struct json_object *array)
{
    CLEANUP_JSON struct json_object *response = NULL;
    CLEANUP(instant_status_release) struct instant_status status = {0};
    int r = instant_do(socket_path, "status", &response);
    if (r == 0)
        r = instant_status_parse(response, &status);
    if (r < 0)
        return r;
    if (!cli->json) {
        print_status(&status, response);
        return 0;
    }
    json_object_object_del(response, "ok");
    json_append(array, TAKE_PTR(response));
    return 0;
}

static const char *interruption(enum instant_note_state state)
{
    switch (state) {
    case INSTANT_NOTE_UNFINISHED: return "interrupted";
    case INSTANT_NOTE_REPLACED: return "replaced";
    default: return "not mounted";
    }
}

static void add_interrupted(const struct instant_note *note, enum instant_note_state state,
                            struct json_object *array)
{
    struct json_object *item = json_new_object();
    char id[INSTANT_ID_LEN + 1];
    instant_id_format(note->restore_id, id);
    json_add_string(item, "restore", id);
    json_add_name(item, "target", note->target, strlen(note->target));
    json_add_string(item, "state", interruption(state));
    json_append(array, item);
}

static void print_interrupted(const struct instant_note *note, enum instant_note_state state)
{
    char id[INSTANT_ID_LEN + 1];
    instant_id_format(note->restore_id, id);
    printf("restore of '");
    print_escaped(note->target, strlen(note->target));
    printf("': %s; go on with 'umbra restore --resume'\n", interruption(state));
    printf(LABEL "%s\n", "id", id);
    printf(LABEL "%s\n", "beware",
           "until then nothing may read it: files that are not here yet read as zeros");
}

/* Of those that run, nothing is said here; notes that are of no use any more go. */
static int show_interrupted(const struct cli *cli, const struct instant_running_vector *running,
                            struct json_object *array, size_t *shown_count)
{
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector notes = {0};
    int r = instant_note_list(&notes);
    for (size_t i = 0; r == 0 && i < notes.count; i++) {
        const struct instant_note *note = &notes.items[i];
        enum instant_note_state state;
        bool runs = false, dropped;
        for (size_t k = 0; k < running->count; k++)
            runs = runs || running->items[k].restore_id == note->restore_id;
        if (runs || instant_note_look(note, &state) < 0)
            continue;
        if (state == INSTANT_NOTE_STALE) {
            r = instant_note_drop(note, state, &dropped);
            continue;
        }
        if (cli->json)
            add_interrupted(note, state, array);
        else
            print_interrupted(note, state);
        *shown_count += 1;
    }
    return r;
}

static int show_all(const struct cli *cli)
{
    CLEANUP(instant_running_vector_release_all) struct instant_running_vector running = {0};
    CLEANUP_JSON struct json_object *object = json_new_object();
    struct json_object *restores = json_new_array(), *interrupted = json_new_array();
    size_t shown_count = 0;
    json_add(object, "restores", restores);
    json_add(object, "interrupted", interrupted);
    int r = instant_need_root();
    if (r == 0)
        r = instant_list(&running);
    for (size_t i = 0; r == 0 && i < running.count; i++) {
        if (!cli->json && shown_count > 0)
            putchar('\n');
        r = show_one(cli, running.items[i].socket_path, restores);
        shown_count += r == 0;
        if (instant_is_gone(r))
            r = 0; /* it has ended meanwhile */
    }
    if (r == 0)
        r = show_interrupted(cli, &running, interrupted, &shown_count);
    if (r < 0)
        return r;
    if (cli->json)
        json_print(object);
    else if (shown_count == 0)
        puts("no instant restore is running");
    return EXIT_DONE;
}

/* ---- watching ---- */

static void watch_line(const struct instant_status *s, struct buffer *line)
{
    char text[512], done[16], total[16], files[32], rate[16], left[32] = "?", p99[32];
    if (s->eta_known)
        (void)progress_format_duration(s->eta_s, left);
    int len = snprintf(
        text, sizeof(text),
        "%s%s %u %%  %s of %s  %s files to do  %s/s  %s left  %" PRIu64
        " waiting  99 %% within %s%s",
        s->phase, s->paused ? ", paused" : "", percent(s), text_format_bytes(s->bytes_done, done),
        text_format_bytes(s->bytes_total, total), format_count(s->files_queued, files),
        text_format_bytes(s->rate_bytes_per_s, rate), left, s->demand_waiting,
        format_latency(s->demand_p99_us, p99), s->degraded && *s->degraded ? "  degraded" : "");
    unsigned columns = output_terminal_columns();
    buffer_clear(line);
    if (len < 0)
        return;
    size_t shown = MIN((size_t)len, sizeof(text) - 1);
    buffer_put(line, text, columns > 0 ? MIN(shown, (size_t)columns - 1) : shown);
    buffer_put_u8(line, 0);
}

static void show_watched(const struct cli *cli, const struct instant_status *s,
                         struct json_object *response, struct buffer *line)
{
    if (cli->json) {
        json_object_object_del(response, "ok");
        puts(json_object_to_json_string_ext(response, JSON_C_TO_STRING_PLAIN |
                                                          JSON_C_TO_STRING_NOSLASHESCAPE));
        (void)fflush(stdout);
        return;
    }
    watch_line(s, line);
    if (buffer_finish(line) < 0 || line->len == 0)
        return;
    if (output_terminal_columns() > 0)
        output_draw_progress((const char *)line->data);
    else
        output_raw_line((const char *)line->data);
}

static int watch(const struct cli *cli, const char *target)
{
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP(buffer_release) struct buffer line = {0};
    bool lines = !cli->json && output_terminal_columns() == 0;
    int r = instant_choose(target, &choice);
    if (!target && (r == -ESRCH || r == -ENOTCONN))
        return show_all(cli); /* there is nothing to wait for */
    while (r == 0 && atomic_load(&cli->progress->cancelled) == 0 && !output_broken()) {
        CLEANUP_JSON struct json_object *response = NULL;
        CLEANUP(instant_status_release) struct instant_status status = {0};
        r = instant_do(choice.socket_path, "status", &response);
        if (r == 0)
            r = instant_status_parse(response, &status);
        if (r == 0) {
            show_watched(cli, &status, response, &line);
            instant_pause(cli, lines ? WATCH_LINES_TENTHS : WATCH_TENTHS);
        }
    }
    output_clear_progress();
    return r < 0 && !instant_is_gone(r) ? r : EXIT_DONE;
}

static int show_target(const struct cli *cli, const char *target)
{
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP_JSON struct json_object *object = json_new_object();
    struct json_object *restores = json_new_array();
    json_add(object, "restores", restores);
    int r = instant_choose(target, &choice);
    if (r == 0)
        r = show_one(cli, choice.socket_path, restores);
    if (r < 0)
        return r;
    if (cli->json)
        json_print(object);
    return EXIT_DONE;
}

static int run_status(struct cli *cli, void *values, char **words, int word_count)
{
    const struct status_values *v = values;
    (void)words;
    (void)word_count;
    atomic_recover_noted(cli);
    if (v->watch)
        return watch(cli, v->target);
    return v->target ? show_target(cli, v->target) : show_all(cli);
}

const struct verb verb_status = {
    .name = "status",
    .synopsis = "",
    .summary = "show what instant restores are doing",
    .options = status_options,
    .values_size = sizeof(struct status_values),
    .run = run_status,
};
