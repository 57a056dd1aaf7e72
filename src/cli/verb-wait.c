/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra wait: until an instant restore has ended */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "basic/error.h"
#include "cli/instant.h"
#include "restore/instant-note.h"

#define POLL_TENTHS       5u
#define SILENT_TENTHS_MAX 600u /* while its service is started anew */
#define FAILED_POLLS      6u   /* that only failed files are left before that is the outcome */

struct wait_values {
    const char *target;
};

static const struct option_spec wait_options[] = {
    {'T', "target", OPTION_STRING, offsetof(struct wait_values, target), .arg = "DIR",
     .help = "for the restore of this directory, when there are several"},
    {0},
};

struct waiting {
    const struct cli *cli;
    struct instant_choice choice;
    struct instant_status last; /* as far as it is known */
    unsigned silent_tenths;     /* how long nobody has answered */
    unsigned failed_polls;
};

static void waiting_release(struct waiting *w)
{
    instant_choice_release(&w->choice);
    instant_status_release(&w->last);
}

static void show(const struct waiting *w)
{
    struct progress *progress = w->cli->progress;
    atomic_store(&progress->bytes_total, w->last.bytes_total);
    atomic_store(&progress->bytes_done, w->last.bytes_done);
    atomic_store(&progress->files_total, w->last.files_total);
    atomic_store(&progress->files_done, w->last.files_done);
    atomic_store(&progress->problems, w->last.files_failed);
}

/* It never answered: its note is there as long as it has not ended. */
static int learn_target(struct waiting *w)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    char id[INSTANT_ID_LEN + 1];
    int r = instant_note_read(w->choice.restore_id, &note);
    if (r == -ENOENT)
        return error_note(-ESRCH, "the restore has ended");
    if (r < 0)
        return r;
    instant_id_format(note.restore_id, id);
    w->last.restore = strdup(id);
    w->last.target = TAKE_PTR(note.target);
    return w->last.restore ? 0 : -ENOMEM;
}

/* 1: no restore of that number is on the target any more. */
static int has_ended(struct waiting *w)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    int r = w->last.target ? 0 : learn_target(w);
    if (r < 0)
        return r;
    r = instant_record_read(w->last.target, &record);
    if (r == -ENODATA)
        return 1;
    return r < 0 ? r : record.restore_id != w->choice.restore_id;
}

/* 1: ended.  Nobody answers while the service is started anew, and after the end. */
static int on_silence(struct waiting *w)
{
    int r = has_ended(w);
    if (r != 0)
        return r;
    w->silent_tenths += POLL_TENTHS;
    if (w->silent_tenths < SILENT_TENTHS_MAX)
        return 0;
    return error_note(
        -ENOTCONN,
        "the restore of '%s' does not answer any more: see the system log, and 'umbra "
        "restore --resume'",
        w->last.target);
}

/* 1: ended. */
static int poll_once(struct waiting *w)
{
    CLEANUP_JSON struct json_object *response = NULL;
    CLEANUP(instant_status_release) struct instant_status status = {0};
    int r = instant_do(w->choice.socket_path, "status", &response);
    if (instant_is_gone(r) || r == -ETIMEDOUT)
        return on_silence(w);
    if (r == 0)
        r = instant_status_parse(response, &status);
    if (r < 0)
        return r;
    instant_status_release(&w->last);
    w->last = status;
    status = (struct instant_status){0};
    w->silent_tenths = 0;
    bool only_failed = w->last.files_failed > 0 && w->last.files_queued <= w->last.files_failed &&
                       w->last.demand_waiting == 0;
    w->failed_polls = only_failed ? w->failed_polls + 1 : 0;
    show(w);
    return 0;
}

static int wait_until_ended(struct waiting *w)
{
    CLEANUP(progress_view_freep) struct progress_view *view = NULL;
    int r = progress_view_start(w->cli->progress, "restore", cli_progress_style(w->cli), &view);
    while (r == 0 && w->failed_polls < FAILED_POLLS) {
        r = poll_once(w);
        if (r == 0)
            instant_pause(w->cli, POLL_TENTHS);
        /* the question itself may have been interrupted */
        if (r <= 0 && atomic_load(&w->cli->progress->cancelled) != 0)
            return error_note(-UMBRA_E_CANCELLED, "interrupted: the restore goes on");
    }
    return r < 0 ? r : 0;
}

static int finish(const struct waiting *w)
{
    bool ended = w->failed_polls < FAILED_POLLS;
    uint64_t problems = MAX(w->last.problem_count, w->last.files_failed);
    char files[32];
    if (w->cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_string(object, "restore", w->last.restore);
        json_add_name(object, "target", w->last.target, strlen(w->last.target));
        json_add_bool(object, "ended", ended);
        json_add_uint(object, "files_failed", ended ? 0 : w->last.files_failed);
        json_add_uint(object, "problem_count", problems);
        json_print(object);
    } else if (!w->cli->quiet && ended) {
        printf("the restore of '");
        print_escaped(w->last.target, strlen(w->last.target));
        puts("' has ended");
    }
    if (ended && problems == 0)
        return EXIT_DONE;
    if (ended)
        talk("there were %" PRIu64 " %s: see the system log", problems,
             plural(problems, "problem", "problems"));
    else
        talk("%s %s cannot be filled in, and will be tried again: see 'umbra status'",
             format_count(w->last.files_failed, files),
             plural(w->last.files_failed, "file", "files"));
    return EXIT_INCOMPLETE;
}

static int run_wait(struct cli *cli, void *values, char **words, int word_count)
{
    const struct wait_values *v = values;
    CLEANUP(waiting_release) struct waiting w = {.cli = cli};
    (void)words;
    (void)word_count;
    int r = instant_choose(v->target, &w.choice);
    if (r == 0)
        r = wait_until_ended(&w);
    if (r == -ENODATA || r == -ESRCH) {
        if (!cli->quiet)
            talk("%s", error_text(r));
        return EXIT_DONE;
    }
    if (r < 0)
        return r;
    /* Of a restore that has ended, this machine need not know any more. */
    if (w.failed_polls < FAILED_POLLS)
        IGNORE_RESULT(instant_note_remove(w.choice.restore_id));
    return finish(&w);
}

const struct verb verb_wait = {
    .name = "wait",
    .synopsis = "",
    .summary = "wait until an instant restore has ended",
    .options = wait_options,
    .values_size = sizeof(struct wait_values),
    .run = run_wait,
};
