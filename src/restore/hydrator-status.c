/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the hydrator tells, and what it can be told: see the end of instant.h. */
#include <inttypes.h>
#include <json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/log.h"
#include "basic/text.h"
#include "control/json-text.h"
#include "restore/hydrator-private.h"

#define PATHS_MAX 10000u
#define OUTAGE_NS (10 * NSEC_PER_SEC)

/* ---- keeping count ---- */

static bool is_noted_locked(const struct hydrator *h, const char *path, const char *what)
{
    for (size_t i = 0; i < h->problems.count; i++) {
        const struct problem *problem = &h->problems.items[i];
        if (strcmp(problem->path, path) == 0 && strcmp(problem->what, what) == 0)
            return true;
    }
    return false;
}

/* A file that cannot be filled is tried again and again, and whoever reads it asks for each part:
 * that is one problem. */
static bool is_noted(struct hydrator *h, const char *path, const char *what)
{
    pthread_mutex_lock(&h->lock);
    bool noted = is_noted_locked(h, path, what);
    pthread_mutex_unlock(&h->lock);
    return noted;
}

void note_problem(struct hydrator *h, const char *path, const char *what)
{
    if (is_noted(h, path, what))
        return;
    struct problem problem = {.path = strdup(path), .what = strdup(what)};
    CLEANUP_FREE char *shown = text_escape(path, strlen(path));

    log_warning("'%s': %s", shown ? shown : "?", what);
    pthread_mutex_lock(&h->lock);
    bool kept = problem.path && problem.what && h->problems.count < PROBLEMS_MAX &&
                problem_vector_push(&h->problems, &problem) == 0;
    h->problem_count++;
    pthread_mutex_unlock(&h->lock);
    if (!kept) {
        free(problem.path);
        free(problem.what);
    }
}

void set_degraded(struct hydrator *h, const char *text)
{
    pthread_mutex_lock(&h->lock);
    if (strncmp(h->degraded, text, sizeof(h->degraded) - 1) != 0) {
        (void)snprintf(h->degraded, sizeof(h->degraded), "%s", text);
        if (*text)
            log_warning("%s", text);
    }
    pthread_mutex_unlock(&h->lock);
}

/* Whoever waits has it tried again much more often. */
static bool has_outage_locked(const struct hydrator *h)
{
    return h->outage_ns > 0 && now_ns() - h->outage_ns < OUTAGE_NS;
}

void note_outage(struct hydrator *h, const char *text)
{
    pthread_mutex_lock(&h->lock);
    bool is_new = !has_outage_locked(h) || strncmp(h->outage, text, sizeof(h->outage) - 1) != 0;
    (void)snprintf(h->outage, sizeof(h->outage), "%s", text);
    h->outage_ns = now_ns();
    pthread_mutex_unlock(&h->lock);
    if (is_new)
        log_warning("%s", text);
}

/* Buckets of a histogram, four to each power of two of microseconds. */
static unsigned bucket_of_us(uint64_t us)
{
    if (us < 4)
        return (unsigned)us;
    unsigned log = 63u - (unsigned)__builtin_clzll(us);
    unsigned bucket = log * 4 - 4 + (unsigned)((us >> (log - 2)) & 3);
    return MIN(bucket, LATENCY_BUCKETS - 1);
}

static uint64_t us_of_bucket(unsigned bucket)
{
    if (bucket < 4)
        return bucket;
    unsigned log = bucket / 4 + 1;
    return (UINT64_C(4) + bucket % 4) << (log - 2);
}

void note_latency_locked(struct hydrator *h, uint64_t ns)
{
    h->latency[bucket_of_us(ns / 1000)]++;
}

/* The lower border of the bucket in which that share of all lies. */
static uint64_t percentile_us(const struct hydrator *h, unsigned percent)
{
    uint64_t rest = h->demand_count * percent / 100;

    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        if (h->latency[i] > rest)
            return us_of_bucket(i);
        rest -= h->latency[i];
    }
    return 0;
}

/* ---- status ---- */

static const char *const phase_names[INSTANT_PHASE_MAX] = {
    [INSTANT_PLACING] = "placing",
    [INSTANT_FILLING] = "filling",
    [INSTANT_CANCELLED] = "cancelling",
};

static void add_number(struct json_object *o, const char *name, uint64_t value)
{
    json_object_object_add(o, name, json_object_new_uint64(value));
}

static void add_text(struct json_object *o, const char *name, const char *value)
{
    CLEANUP_FREE char *shown = text_escape(value, strlen(value));

    json_object_object_add(o, name, json_object_new_string(shown ? shown : ""));
}

/* The limit is for the background only: what is asked for may come faster, and is soon over. */
static double expected_rate(const struct hydrator *h)
{
    double limit = (double)h->config.limit_bytes_per_s;

    return limit > 0 ? MIN(h->rate_bytes_per_s, limit) : h->rate_bytes_per_s;
}

static void add_rates(struct json_object *o, const struct hydrator *h)
{
    double rate = expected_rate(h);
    uint64_t left = h->bytes_total > h->bytes_done ? h->bytes_total - h->bytes_done : 0;

    add_number(o, "rate_bytes_per_s", (uint64_t)h->rate_bytes_per_s);
    add_number(o, "limit_bytes_per_s", h->config.limit_bytes_per_s);
    json_object_object_add(o, "eta_s",
                           json_object_new_int64(rate > 1 ? (int64_t)((double)left / rate) : -1));
    json_object_object_add(o, "elapsed_s",
                           json_object_new_double((double)(now_ns() - h->start_ns) / 1e9));
}

static void add_problems(struct json_object *o, const struct hydrator *h)
{
    struct json_object *list = json_object_new_array();

    for (size_t i = 0; i < h->problems.count; i++) {
        struct json_object *item = json_object_new_object();
        add_text(item, "path", h->problems.items[i].path);
        add_text(item, "what", h->problems.items[i].what);
        (void)json_object_array_add(list, item);
    }
    json_object_object_add(o, "problems", list);
    add_number(o, "problem_count", h->problem_count);
}

static void add_sources(struct json_object *o, const struct hydrator *h)
{
    struct json_object *list = json_object_new_array();

    for (size_t i = 0; h->sources && i < source_set_count(h->sources); i++) {
        struct json_object *item = json_object_new_object();
        struct source_stats stats;
        source_set_stats(h->sources, i, &stats);
        add_text(item, "source", stats.spec);
        add_number(item, "bytes", stats.read_bytes);
        add_number(item, "failures", stats.failure_count);
        (void)json_object_array_add(list, item);
    }
    json_object_object_add(o, "sources", list);
}

static void add_status_locked(struct json_object *o, const struct hydrator *h)
{
    char id[17];

    (void)snprintf(id, sizeof(id), "%016" PRIx64, h->config.restore_id);
    add_text(o, "restore", id);
    add_text(o, "target", h->config.target);
    add_text(o, "backup", h->config.backup_id);
    add_text(o, "phase", h->waiting ? "waiting for the repository" : phase_names[h->phase]);
    json_object_object_add(o, "paused", json_object_new_boolean(h->paused));
    add_text(o, "degraded", has_outage_locked(h) ? h->outage : h->degraded);
    add_number(o, "files_total", h->states.count);
    add_number(o, "files_done", h->files_done);
    add_number(o, "files_queued", h->remaining + h->unread);
    add_number(o, "files_failed", h->files_failed + h->unread);
    add_number(o, "bytes_total", h->bytes_total);
    add_number(o, "bytes_done", h->bytes_done);
    add_number(o, "demand_requests", h->demand_count);
    add_number(o, "demand_waiting", h->demand_active);
    add_number(o, "demand_bytes", h->demand_bytes);
    add_number(o, "crawlers", crawler_count(&h->crawlers, now_ns()));
    add_number(o, "demand_p50_us", percentile_us(h, 50));
    add_number(o, "demand_p99_us", percentile_us(h, 99));
    if (h->order) {
        add_number(o, "order_files", load_order_found_count(h->order));
        add_number(o, "order_ignored", order_ignored_locked(h));
    }
    add_rates(o, h);
    add_sources(o, h);
    add_problems(o, h);
}

/* ---- commands ---- */

static int do_status(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    (void)request;
    pthread_mutex_lock(&h->lock);
    add_status_locked(response, h);
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static int set_paused(struct hydrator *h, bool paused)
{
    pthread_mutex_lock(&h->lock);
    h->paused = paused;
    pthread_cond_broadcast(&h->background_ready);
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static int do_pause(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    (void)request;
    (void)response;
    return set_paused(h, true);
}

static int do_resume(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    (void)request;
    (void)response;
    return set_paused(h, false);
}

static int do_cancel(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    (void)request;
    (void)response;
    pthread_mutex_lock(&h->lock);
    bool possible = h->phase == INSTANT_FILLING;
    h->cancelled |= possible;
    pthread_cond_broadcast(&h->ended);
    pthread_mutex_unlock(&h->lock);
    return possible ? 0 : error_note(-EBUSY, "it cannot be cancelled now");
}

static int do_limit(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    struct json_object *value;

    (void)response;
    if (!json_object_object_get_ex(request, "bytes_per_s", &value) ||
        !json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
        return error_note(-EINVAL, "\"bytes_per_s\" is missing or no number");
    if (json_object_get_uint64(value) > INSTANT_LIMIT_MAX) /* the record could not be read again */
        return error_note(-EINVAL, "\"bytes_per_s\" is more than %" PRIu64, INSTANT_LIMIT_MAX);
    pthread_mutex_lock(&h->lock);
    h->config.limit_bytes_per_s = (uint64_t)json_object_get_int64(value);
    throttle_set_limit(&h->throttle, h->config.limit_bytes_per_s, now_ns());
    h->limit_due = true;
    pthread_cond_broadcast(&h->filled_ready);
    pthread_cond_broadcast(&h->background_ready);
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static int read_paths(struct hydrator *h, struct json_object *request, struct string_vector *paths)
{
    struct json_reader in = {.object = request, .what = "the request"};

    pthread_mutex_lock(&h->lock);
    bool waiting = h->waiting;
    pthread_mutex_unlock(&h->lock);
    if (waiting)
        return error_note(-EBUSY, "it waits for the repository");
    json_read_strings(&in, "paths", PATHS_MAX, PATH_MAX, paths);
    if (in.error == 0 && paths->count == 0)
        return error_note(-EINVAL, "\"paths\" is missing or empty");
    return in.error;
}

static int do_hydrate(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    CLEANUP(string_vector_release_all) struct string_vector paths = {0};
    uint64_t total = 0;

    int r = read_paths(h, request, &paths);
    for (size_t i = paths.count; i > 0 && r >= 0; i--) {
        uint64_t count = 0;
        r = hydrator_want_path(h, paths.items[i - 1], &count);
        total += count;
    }
    add_number(response, "files", total);
    return r;
}

static int do_pending(struct hydrator *h, struct json_object *request, struct json_object *response)
{
    CLEANUP(string_vector_release_all) struct string_vector paths = {0};
    uint64_t total = 0, total_failed = 0;

    int r = read_paths(h, request, &paths);
    for (size_t i = 0; i < paths.count && r >= 0; i++) {
        uint64_t count = 0, failed = 0;
        r = hydrator_count_path(h, paths.items[i], &count, &failed);
        total += count;
        total_failed += failed;
    }
    add_number(response, "files", total);
    add_number(response, "files_failed", total_failed);
    return r;
}

static const struct {
    const char *name;
    int (*run)(struct hydrator *h, struct json_object *request, struct json_object *response);
} commands[] = {
    {"status", do_status}, {"pause", do_pause},     {"resume", do_resume},   {"cancel", do_cancel},
    {"limit", do_limit},   {"hydrate", do_hydrate}, {"pending", do_pending},
};

static int run_command(struct hydrator *h, struct json_object *request,
                       struct json_object *response)
{
    struct json_object *name;

    if (!json_object_object_get_ex(request, "do", &name) ||
        !json_object_is_type(name, json_type_string))
        return error_note(-EINVAL, "\"do\" is missing or no string");
    for (size_t i = 0; i < ELEMENTSOF(commands); i++) {
        if (strcmp(json_object_get_string(name), commands[i].name) == 0)
            return commands[i].run(h, request, response);
    }
    return error_note(-EINVAL, "unknown request");
}

int hydrator_control(const char *text, size_t len, char **ret_response, void *userdata)
{
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *response = json_object_new_object();
    struct json_object *request =
        tokener && len <= INT32_MAX ? json_tokener_parse_ex(tokener, text, (int)len) : NULL;

    int r = request && json_object_is_type(request, json_type_object)
                ? run_command(userdata, request, response)
                : error_note(-EINVAL, "the request is no JSON object");
    json_object_object_add(response, "ok", json_object_new_boolean(r >= 0));
    if (r < 0)
        add_text(response, "error", error_text(r));
    *ret_response = strdup(json_object_to_json_string_ext(response, JSON_C_TO_STRING_PLAIN));
    json_object_put(response);
    json_object_put(request);
    if (tokener)
        json_tokener_free(tokener);
    return *ret_response ? 0 : -ENOMEM;
}

char *hydrator_error_report(const char *error)
{
    struct json_object *o = json_object_new_object();

    add_text(o, "error", error);
    json_object_object_add(o, "exit", json_object_new_int(1));
    const char *line = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
    char *text = malloc(strlen(line) + 2);
    if (text) {
        memcpy(text, line, strlen(line));
        memcpy(text + strlen(line), "\n", 2);
    }
    json_object_put(o);
    return text;
}
