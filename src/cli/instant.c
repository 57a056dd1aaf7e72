/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/instant.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "control/control.h"
#include "control/json-text.h"
#include "restore/instant-note.h"

#define ANSWER_MS      10000
#define STRING_LEN_MAX 65536u
#define NUMBER_MAX     (UINT64_C(1) << 62)
#define WHAT           "response of the restore"

void instant_status_release(struct instant_status *status)
{
    free(status->restore);
    free(status->target);
    free(status->backup);
    free(status->phase);
    free(status->degraded);
    *status = (struct instant_status){0};
}

static uint64_t number(struct json_reader *in, const char *key)
{
    return json_read_u64(in, key, 0, 0, NUMBER_MAX);
}

static void read_strings(struct json_reader *in, struct instant_status *s)
{
    s->restore = json_read_string(in, "restore", JSON_MUST, STRING_LEN_MAX);
    s->target = json_read_string(in, "target", JSON_MUST, STRING_LEN_MAX);
    s->backup = json_read_string(in, "backup", JSON_MUST, STRING_LEN_MAX);
    s->phase = json_read_string(in, "phase", JSON_MUST, STRING_LEN_MAX);
    s->degraded = json_read_string(in, "degraded", JSON_MAY, STRING_LEN_MAX);
}

static void read_numbers(struct json_reader *in, struct instant_status *s)
{
    s->files_total = number(in, "files_total");
    s->files_done = number(in, "files_done");
    s->files_queued = number(in, "files_queued");
    s->files_failed = number(in, "files_failed");
    s->bytes_total = number(in, "bytes_total");
    s->bytes_done = number(in, "bytes_done");
    s->demand_requests = number(in, "demand_requests");
    s->demand_waiting = number(in, "demand_waiting");
    s->demand_bytes = number(in, "demand_bytes");
    s->demand_p50_us = number(in, "demand_p50_us");
    s->demand_p99_us = number(in, "demand_p99_us");
    s->crawlers = number(in, "crawlers");
    s->order_files = number(in, "order_files");
    s->order_ignored = number(in, "order_ignored");
    s->rate_bytes_per_s = number(in, "rate_bytes_per_s");
    s->limit_bytes_per_s = number(in, "limit_bytes_per_s");
    s->elapsed_s = json_read_double(in, "elapsed_s");
}

/* -1 is "not known". */
static void read_eta(struct json_object *response, struct instant_status *s)
{
    struct json_object *value = NULL;
    int64_t eta_s =
        json_object_object_get_ex(response, "eta_s", &value) ? json_object_get_int64(value) : -1;
    s->eta_known = eta_s >= 0;
    s->eta_s = s->eta_known ? (uint64_t)eta_s : 0;
}

int instant_status_parse(struct json_object *response, struct instant_status *ret_status)
{
    CLEANUP(instant_status_release) struct instant_status status = {0};
    struct json_reader in = {.object = response, .what = WHAT};
    struct json_object *problems = NULL;
    read_strings(&in, &status);
    read_numbers(&in, &status);
    read_eta(response, &status);
    status.paused = json_read_bool(&in, "paused", false);
    uint64_t listed = json_object_object_get_ex(response, "problems", &problems) &&
                              json_object_is_type(problems, json_type_array)
                          ? json_object_array_length(problems)
                          : 0;
    status.problem_count = json_read_u64(&in, "problem_count", listed, 0, NUMBER_MAX);
    if (in.error < 0)
        return in.error;
    *ret_status = status;
    status = (struct instant_status){0};
    return 0;
}

int instant_need_root(void)
{
    if (geteuid() == 0)
        return 0;
    return error_note(-EPERM, "instant restores need root (CAP_SYS_ADMIN)");
}

/* ---- which one ---- */

void instant_choice_release(struct instant_choice *choice)
{
    free(choice->socket_path);
    *choice = (struct instant_choice){0};
}

static int take_choice(struct instant_running *running, struct instant_choice *ret_choice)
{
    *ret_choice = (struct instant_choice){.restore_id = running->restore_id,
                                          .socket_path = TAKE_PTR(running->socket_path)};
    return 0;
}

static int choose_by_target(const char *target, struct instant_running_vector *list,
                            struct instant_choice *ret_choice)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    int r = instant_record_read(target, &record);
    if (r < 0)
        return r;
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].restore_id == record.restore_id)
            return take_choice(&list->items[i], ret_choice);
    return error_note(-ENOTCONN,
                      "the restore of '%s' is interrupted: go on with 'umbra restore --resume'",
                      target);
}

/* Words for that there is none: one may have to be resumed. */
static int none_is_running(void)
{
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector notes = {0};
    int r = instant_note_list(&notes);
    for (size_t i = 0; r == 0 && i < notes.count; i++) {
        enum instant_note_state state;
        if (instant_note_look(&notes.items[i], &state) == 0 && state == INSTANT_NOTE_UNFINISHED)
            return error_note(-ENOTCONN,
                              "the restore of '%s' is interrupted: go on with 'umbra restore "
                              "--resume'",
                              notes.items[i].target);
    }
    return error_note(-ESRCH, "no instant restore is running");
}

int instant_choose(const char *target, struct instant_choice *ret_choice)
{
    CLEANUP(instant_running_vector_release_all) struct instant_running_vector list = {0};
    int r = instant_need_root();
    if (r == 0)
        r = instant_list(&list);
    if (r < 0)
        return r;
    if (target)
        return choose_by_target(target, &list, ret_choice);
    if (list.count > 1)
        return error_note(-UMBRA_E_USAGE,
                          "%zu instant restores are running: say which with --target DIR",
                          list.count);
    return list.count == 1 ? take_choice(&list.items[0], ret_choice) : none_is_running();
}

bool instant_is_running(uint64_t restore_id)
{
    CLEANUP(instant_running_vector_release_all) struct instant_running_vector list = {0};
    if (instant_list(&list) < 0)
        return false;
    for (size_t i = 0; i < list.count; i++)
        if (list.items[i].restore_id == restore_id)
            return true;
    return false;
}

int instant_check_none(const char *target)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    if (geteuid() != 0)
        return 0; /* cannot see the record, nor replace what root restores */
    int r = instant_record_read(target, &record);
    if (r < 0)
        return r == -ENODATA || r == -ENOENT || r == -ENOTDIR ? 0 : r;
    if (instant_is_running(record.restore_id))
        return error_note(-EBUSY,
                          "'%s' is being restored instantly: wait for that with 'umbra wait', or "
                          "end it with 'umbra cancel', before",
                          target);
    return error_note(-EBUSY,
                      "an instant restore of '%s' was interrupted: go on with 'umbra restore "
                      "--resume', and then wait for it with 'umbra wait', or end it with 'umbra "
                      "cancel', before",
                      target);
}

/* ---- requests ---- */

struct json_object *instant_request(const char *verb)
{
    struct json_object *request = json_new_object();
    json_add_string(request, "do", verb);
    return request;
}

static int check_response(struct json_object *response)
{
    struct json_reader in = {.object = response, .what = WHAT};
    bool ok = json_read_bool(&in, "ok", false);
    CLEANUP_FREE char *error = json_read_string(&in, "error", JSON_MAY, STRING_LEN_MAX);
    if (in.error < 0)
        return in.error;
    if (ok)
        return 0;
    return error_note(-EREMOTEIO, "the restore says: %s", error ? error : "no");
}

int instant_send(const char *socket_path, struct json_object *request,
                 struct json_object **ret_response)
{
    CLEANUP_FREE char *text = NULL;
    CLEANUP_JSON struct json_object *response = NULL;
    const char *line = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE);
    int r = line ? control_ask(socket_path, line, ANSWER_MS, &text) : -ENOMEM;
    if (r == 0)
        r = json_parse_object(text, strlen(text), WHAT, &response);
    if (r == 0)
        r = check_response(response);
    if (r == 0)
        *ret_response = TAKE_PTR(response);
    return r;
}

int instant_do(const char *socket_path, const char *verb, struct json_object **ret_response)
{
    CLEANUP_JSON struct json_object *request = instant_request(verb);
    return instant_send(socket_path, request, ret_response);
}

bool instant_is_gone(int r)
{
    return r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE;
}

void instant_pause(const struct cli *cli, unsigned tenths)
{
    const struct timespec tenth = {.tv_nsec = 100000000};
    for (unsigned i = 0; i < tenths && atomic_load(&cli->progress->cancelled) == 0; i++)
        (void)nanosleep(&tenth, NULL);
}
