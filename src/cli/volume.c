/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/volume.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/io.h"
#include "basic/text.h"
#include "control/control.h"
#include "control/json-text.h"
#include "cow/cow-format.h"

#define WHAT             "response of the volume"
#define ANSWER_MS        600000 /* a flush of all that is dirty may come before it */
#define CONNECT_TRIES    200u
#define CONNECT_PAUSE_MS 50
#define STRING_LEN_MAX   65536u
#define NUMBER_MAX       (UINT64_C(1) << 62)

/* ---- responses ---- */

static uint64_t number(struct json_reader *in, const char *key)
{
    return json_read_u64(in, key, 0, 0, NUMBER_MAX);
}

void volume_shadow_release(struct volume_shadow *shadow)
{
    free(shadow->label);
    free(shadow->node);
    *shadow = (struct volume_shadow){0};
}

int volume_shadow_parse(struct json_object *object, struct volume_shadow *ret_shadow)
{
    CLEANUP(volume_shadow_release) struct volume_shadow shadow = {0};
    struct json_reader in = {.object = object, .what = WHAT};
    shadow.number = (uint32_t)json_read_u64(&in, "number", 0, 1, UINT32_MAX);
    shadow.writable = json_read_bool(&in, "writable", false);
    shadow.taken_ns = number(&in, "taken_ns");
    shadow.label = json_read_string(&in, "label", JSON_MAY, COW_LABEL_MAX);
    shadow.node = json_read_string(&in, "device", JSON_MAY, STRING_LEN_MAX);
    if (in.error < 0)
        return in.error;
    if (shadow.number == 0)
        return json_reader_fail(&in, "number", "is missing");
    *ret_shadow = shadow;
    shadow = (struct volume_shadow){0};
    return 0;
}

void volume_status_release(struct volume_status *status)
{
    for (size_t i = 0; i < status->shadows.count; i++)
        volume_shadow_release(&status->shadows.items[i]);
    for (size_t i = 0; i < status->faults.count; i++)
        free(status->faults.items[i].reason);
    volume_shadow_vector_release(&status->shadows);
    volume_fault_vector_release(&status->faults);
    free(status->origin);
    free(status->storage);
    free(status->front);
    free(status->node);
    *status = (struct volume_status){0};
}

static void read_numbers(struct json_reader *in, struct volume_status *s)
{
    s->origin_bytes = number(in, "origin_bytes");
    s->block_bytes = number(in, "block_bytes");
    s->max_bytes = number(in, "max_bytes");
    s->used_bytes = number(in, "used_bytes");
    s->protect_known = json_object_object_get_ex(in->object, "protect_shadows", NULL);
    s->protect_shadows = json_read_bool(in, "protect_shadows", false);
    s->pid = number(in, "pid");
    s->attached_ns = number(in, "attached_ns");
    s->restarts = number(in, "restarts");
}

static void read_strings(struct json_reader *in, struct volume_status *s)
{
    s->origin = json_read_string(in, "origin", JSON_MUST, VOLUME_PATH_MAX);
    s->storage = json_read_string(in, "storage", JSON_MUST, VOLUME_PATH_MAX);
    s->front = json_read_string(in, "front", JSON_MAY, STRING_LEN_MAX);
    s->node = json_read_string(in, "device", JSON_MAY, STRING_LEN_MAX);
}

static int read_hold(struct json_object *response, struct volume_status *s)
{
    struct json_object *object = NULL;
    if (!json_object_object_get_ex(response, "hold", &object))
        return 0;
    struct json_reader in = {.object = object, .what = WHAT};
    if (!json_object_is_type(object, json_type_object))
        return json_reader_fail(&in, "hold", "is of the wrong type");
    s->hold_count = number(&in, "count");
    s->hold_p50_us = number(&in, "p50_us");
    s->hold_p99_us = number(&in, "p99_us");
    s->hold_max_us = number(&in, "max_us");
    return in.error;
}

static int read_shadow(struct json_object *item, struct volume_status *s)
{
    struct volume_shadow shadow;
    int r = volume_shadow_parse(item, &shadow);
    if (r < 0)
        return r;
    r = volume_shadow_vector_push(&s->shadows, &shadow);
    if (r < 0)
        volume_shadow_release(&shadow);
    return r;
}

static int read_fault(struct json_object *item, struct volume_status *s)
{
    struct json_reader in = {.object = item, .what = WHAT};
    struct volume_fault fault = {
        .time_ns = number(&in, "time_ns"),
        .number = (uint32_t)json_read_u64(&in, "number", 0, 0, UINT32_MAX),
        .reason = json_read_string(&in, "reason", JSON_MUST, STRING_LEN_MAX),
    };
    int r = in.error < 0 ? in.error : volume_fault_vector_push(&s->faults, &fault);
    if (r < 0)
        free(fault.reason);
    return r;
}

/* Each item of an array of objects. */
static int read_items(struct json_object *response, const char *key, struct volume_status *s,
                      int (*read)(struct json_object *item, struct volume_status *s))
{
    struct json_object *array = NULL;
    struct json_reader in = {.object = response, .what = WHAT};
    if (!json_object_object_get_ex(response, key, &array))
        return 0;
    if (!json_object_is_type(array, json_type_array))
        return json_reader_fail(&in, key, "is of the wrong type");
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        struct json_object *item = json_object_array_get_idx(array, i);
        if (!json_object_is_type(item, json_type_object))
            return json_reader_fail(&in, key, "has an item of the wrong type");
        int r = read(item, s);
        if (r < 0)
            return r;
    }
    return 0;
}

int volume_status_parse(struct json_object *response, struct volume_status *ret_status)
{
    CLEANUP(volume_status_release) struct volume_status status = {0};
    struct json_reader in = {.object = response, .what = WHAT};
    read_strings(&in, &status);
    read_numbers(&in, &status);
    int r = in.error;
    if (r == 0)
        r = read_hold(response, &status);
    if (r == 0)
        r = read_items(response, "shadows", &status, read_shadow);
    if (r == 0)
        r = read_items(response, "faults", &status, read_fault);
    if (r < 0)
        return r;
    *ret_status = status;
    status = (struct volume_status){0};
    return 0;
}

/* ---- words of the command line ---- */

int volume_need_root(void)
{
    return geteuid() == 0 ? 0 : error_note(-EPERM, "cow volumes need root (CAP_SYS_ADMIN)");
}

int volume_check_word(const char *name)
{
    int r = volume_name_check(name);
    return r < 0 ? error_note(-UMBRA_E_USAGE, "%s", error_text(r)) : 0;
}

int volume_parse_shadow_name(const char *word, char ret_name[VOLUME_NAME_MAX + 1],
                             uint32_t *ret_number)
{
    const char *at = strchr(word, '@');
    size_t len = at ? (size_t)(at - word) : 0;
    char *end = NULL;
    if (len == 0 || len > VOLUME_NAME_MAX || at[1] < '1' || at[1] > '9')
        return error_note(-UMBRA_E_USAGE, "'%s' is no shadow: expected NAME@N, as in 'data@3'",
                          word);
    errno = 0;
    unsigned long long value = strtoull(at + 1, &end, 10);
    if (errno != 0 || *end != '\0' || value > UINT32_MAX)
        return error_note(-UMBRA_E_USAGE, "'%s' is no shadow: its number is bad", word);
    memcpy(ret_name, word, len);
    ret_name[len] = '\0';
    *ret_number = (uint32_t)value;
    return volume_check_word(ret_name);
}

char *volume_format_shadow_name(const char *name, uint32_t number,
                                char text[VOLUME_SHADOW_NAME_MAX])
{
    (void)snprintf(text, VOLUME_SHADOW_NAME_MAX, "%s@%" PRIu32, name, number);
    return text;
}

char *volume_format_device(const char *name, uint32_t number, char text[VOLUME_DEVICE_MAX])
{
    char shadow[VOLUME_SHADOW_NAME_MAX];
    const char *last = number > 0 ? volume_format_shadow_name(name, number, shadow) : name;
    (void)snprintf(text, VOLUME_DEVICE_MAX, VOLUME_DEVICE_DIR "/%s", last);
    return text;
}

static void name_device(struct json_object *object, const char *name, uint32_t number)
{
    char device[VOLUME_DEVICE_MAX];
    struct json_object *node = NULL;
    if (!json_object_object_get_ex(object, "device", &node))
        return;
    json_add(object, "node", json_object_get(node));
    json_add_string(object, "device", volume_format_device(name, number, device));
}

void volume_name_devices(struct json_object *response, const char *name)
{
    struct json_object *shadows = NULL, *shadow = NULL, *value = NULL;
    size_t count = json_object_object_get_ex(response, "shadows", &shadows) &&
                           json_object_is_type(shadows, json_type_array)
                       ? json_object_array_length(shadows)
                       : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *item = json_object_array_get_idx(shadows, i);
        if (json_object_object_get_ex(item, "number", &value))
            name_device(item, name, (uint32_t)json_object_get_uint64(value));
    }
    if (json_object_object_get_ex(response, "shadow", &shadow) &&
        json_object_object_get_ex(shadow, "number", &value))
        name_device(shadow, name, (uint32_t)json_object_get_uint64(value));
    name_device(response, name, 0);
}

static int bad_max_size(const char *text)
{
    return error_note(-UMBRA_E_USAGE,
                      "bad value '%s' for --max-size: expected a size such as 20G, or 1%% to "
                      "1000%% of the origin",
                      text);
}

int volume_parse_max_size(const char *text, uint64_t origin_bytes, uint64_t *ret_bytes)
{
    size_t len = strlen(text);
    uint64_t bytes;
    if (len == 0 || text[len - 1] != '%') {
        if (text_parse_bytes(text, &bytes) < 0 || bytes == 0)
            return bad_max_size(text);
        *ret_bytes = bytes;
        return 0;
    }
    char *end;
    errno = 0;
    unsigned long percent = strtoul(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || end != text + len - 1 || percent < 1 ||
        percent > 1000)
        return bad_max_size(text);
    *ret_bytes = origin_bytes / 100 * percent + origin_bytes % 100 * percent / 100;
    return 0;
}

int volume_parse_protect(const char *text, bool *ret_protect_shadows)
{
    bool is_shadows = strcmp(text, "shadows") == 0;
    if (!is_shadows && strcmp(text, "writes") != 0)
        return error_note(-UMBRA_E_USAGE,
                          "'%s' is nothing to protect: expected 'shadows' or 'writes'", text);
    *ret_protect_shadows = is_shadows;
    return 0;
}

/* ---- asking ---- */

struct json_object *volume_request(const char *what)
{
    struct json_object *request = json_new_object();
    json_add_string(request, "request", what);
    return request;
}

static int check_response(const char *name, struct json_object *response)
{
    struct json_reader in = {.object = response, .what = WHAT};
    bool ok = json_read_bool(&in, "ok", false);
    CLEANUP_FREE char *error = json_read_string(&in, "error", JSON_MAY, STRING_LEN_MAX);
    if (in.error < 0)
        return in.error;
    return ok ? 0 : error_note(-EREMOTEIO, "volume '%s': %s", name, error ? error : "refused");
}

/* Nobody listens: why?  0: somebody is going to, as when umbra-cowd is just started anew. */
static int why_silent(const char *name)
{
    int r = volume_config_is_locked(VOLUME_CONFIG_DIR, name);
    if (r == 0)
        return error_note(-ENOTCONN,
                          "volume '%s' is not attached: 'umbra volume attach %s' does that", name,
                          name);
    return r < 0 ? r : 0;
}

/* Who waits for an answer has nothing to put in order first. */
static void be_interruptible(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
        struct sigaction old;
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)signal(signals[i], SIG_DFL);
    }
}

/* Once it is sent, it is not sent again. */
static int ask(const char *name, const char *line, char **ret_answer)
{
    const struct timespec moment = {.tv_nsec = CONNECT_PAUSE_MS * 1000000L};
    char path[sizeof(VOLUME_RUN_DIR "/" CONTROL_SUFFIX) + VOLUME_NAME_MAX];
    (void)snprintf(path, sizeof(path), VOLUME_RUN_DIR "/%s" CONTROL_SUFFIX, name);
    be_interruptible();
    for (unsigned i = 0; i < CONNECT_TRIES; i++) {
        int r = control_ask(path, line, ANSWER_MS, ret_answer);
        if (r != -ENOENT && r != -ECONNREFUSED)
            return r;
        r = why_silent(name);
        if (r < 0)
            return r;
        (void)nanosleep(&moment, NULL);
    }
    return error_note(-ETIMEDOUT, "the daemon of volume '%s' does not answer", name);
}

int volume_send(const char *name, struct json_object *request, struct json_object **ret_response)
{
    CLEANUP_JSON struct json_object *response = NULL;
    CLEANUP_FREE char *answer = NULL;
    int r = volume_name_check(name);
    if (r < 0)
        return r;
    const char *line = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE);
    r = line ? ask(name, line, &answer) : -ENOMEM;
    if (r == 0)
        r = json_parse_object(answer, strlen(answer), WHAT, &response);
    if (r == 0)
        r = check_response(name, response);
    if (r == 0)
        *ret_response = TAKE_PTR(response);
    return r;
}

int volume_do(const char *name, const char *what, struct json_object **ret_response)
{
    CLEANUP_JSON struct json_object *request = volume_request(what);
    return volume_send(name, request, ret_response);
}

/* ---- files ---- */

int volume_remove_files(const char *storage)
{
    static const char *const files[] = {"volume", "log", "map", "zero", "state", "cells"};
    CLEANUP(io_freep) struct io *io = NULL;
    int r = io_new_real(storage, &io);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        r = io_unlink(io, files[i]);
        if (r < 0 && r != -ENOENT)
            return r;
    }
    r = io_sync_dir(io, "");
    if (r == 0)
        (void)rmdir(storage); /* a mount point stays, and so does what has other things in it */
    return r;
}
