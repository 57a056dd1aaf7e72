/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The view is a thread that reads the atomic counters of struct progress and draws; the workers
 * never wait for it.  It sleeps on a condition variable, so that stopping it does not take a whole
 * period.
 */
#include "cli/progress-view.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/output.h"

#define SAMPLE_PERIOD_NS (150 * 1000 * 1000ull)
#define LINE_PERIOD_NS   (10 * NSEC_PER_SEC)
#define JSON_PERIOD_NS   (1 * NSEC_PER_SEC)
#define RATE_MEMORY_SEC  4.0 /* after that long an old rate counts for 1/e */
#define SECONDS_LEFT_MAX (99 * 86400ull)

struct progress_view {
    struct progress *progress;
    const char *verb;
    enum progress_style style;
    uint64_t start_ns, shown_ns;
    struct progress_rate rate;

    pthread_t thread;
    pthread_mutex_t mutex; /* guards stop */
    pthread_cond_t wake;
    bool stop;
};

void progress_rate_add(struct progress_rate *rate, uint64_t now, uint64_t bytes)
{
    if (!rate->started || now <= rate->last_ns || bytes < rate->last_bytes) {
        bool first = !rate->started;
        rate->started = true;
        rate->last_ns = first ? now : MAX(now, rate->last_ns);
        rate->last_bytes = bytes;
        return;
    }
    double seconds = (double)(now - rate->last_ns) / 1e9;
    double current = (double)(bytes - rate->last_bytes) / seconds;
    /* The weight of the new value grows with the time it stands for: e^-x ~ 1/(1+x) for small x. */
    double weight = rate->bytes_per_second > 0 ? seconds / (seconds + RATE_MEMORY_SEC) : 1.0;
    rate->bytes_per_second += (current - rate->bytes_per_second) * weight;
    rate->last_ns = now;
    rate->last_bytes = bytes;
}

bool progress_seconds_left(const struct progress_sample *sample, uint64_t *ret_seconds)
{
    if (sample->bytes_total <= sample->bytes_done || sample->bytes_per_second < 1)
        return false;
    double left = (double)(sample->bytes_total - sample->bytes_done) / sample->bytes_per_second;
    if (left > (double)SECONDS_LEFT_MAX)
        return false;
    *ret_seconds = (uint64_t)(left + 0.5);
    return true;
}

char *progress_format_duration(uint64_t seconds, char text[32])
{
    uint64_t days = seconds / 86400, hours = seconds / 3600, minutes = seconds / 60 % 60;
    if (days > 0)
        (void)snprintf(text, 32, "%" PRIu64 "d %02" PRIu64 ":%02" PRIu64, days, hours % 24,
                       minutes);
    else if (hours > 0)
        (void)snprintf(text, 32, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, hours, minutes,
                       seconds % 60);
    else
        (void)snprintf(text, 32, "%" PRIu64 ":%02" PRIu64, minutes, seconds % 60);
    return text;
}

static void format_bytes_part(const struct progress_sample *s, char *text, size_t size)
{
    char done[16], total[16];
    if (s->bytes_total > 0 && s->bytes_done <= s->bytes_total)
        (void)snprintf(
            text, size, "%3.0f%%  %s of %s", 100.0 * (double)s->bytes_done / (double)s->bytes_total,
            text_format_bytes(s->bytes_done, done), text_format_bytes(s->bytes_total, total));
    else
        (void)snprintf(text, size, "%s", text_format_bytes(s->bytes_done, done));
}

char *progress_format_line(const struct progress_sample *sample, const char *verb, unsigned width,
                           char *text, size_t size)
{
    char bytes[64], rate[16], files[32], left[48] = "", problems[48] = "", duration[32];
    uint64_t seconds;
    format_bytes_part(sample, bytes, sizeof(bytes));
    text_format_bytes((uint64_t)sample->bytes_per_second, rate);
    if (progress_seconds_left(sample, &seconds))
        (void)snprintf(left, sizeof(left), "  %s left",
                       progress_format_duration(seconds, duration));
    if (sample->problems > 0)
        (void)snprintf(problems, sizeof(problems), "  %" PRIu64 " %s", sample->problems,
                       plural(sample->problems, "problem", "problems"));
    (void)snprintf(text, size, "%s: %s  %s/s  %s files%s%s", verb, bytes, rate,
                   format_count(sample->files_done, files), left, problems);
    if (width > 0 && strlen(text) >= width)
        text[width - 1] =
            '\0'; /* all ASCII; the last column stays free, some terminals wrap there */
    return text;
}

static struct progress_sample take_sample(struct progress_view *view, uint64_t now)
{
    struct progress *p = view->progress;
    struct progress_sample sample = {
        .bytes_done = atomic_load(&p->bytes_done),
        .bytes_total = atomic_load(&p->bytes_total),
        .files_done = atomic_load(&p->files_done),
        .files_total = atomic_load(&p->files_total),
        .problems = atomic_load(&p->problems),
        .elapsed_ns = now - view->start_ns,
    };
    progress_rate_add(&view->rate, now, sample.bytes_done);
    sample.bytes_per_second = view->rate.bytes_per_second;
    return sample;
}

static void show_json(const struct progress_view *view, const struct progress_sample *s)
{
    CLEANUP_JSON struct json_object *line = json_new_object();
    struct json_object *object = json_new_object();
    uint64_t seconds;
    json_add(line, "progress", object);
    json_add_string(object, "verb", view->verb);
    json_add_uint(object, "bytes_done", s->bytes_done);
    json_add_uint(object, "bytes_total", s->bytes_total);
    json_add_uint(object, "files_done", s->files_done);
    json_add_uint(object, "files_total", s->files_total);
    json_add_uint(object, "problems", s->problems);
    json_add_uint(object, "bytes_per_second", (uint64_t)s->bytes_per_second);
    if (progress_seconds_left(s, &seconds))
        json_add_uint(object, "seconds_left", seconds);
    json_add_double(object, "elapsed_seconds", (double)s->elapsed_ns / 1e9);
    output_raw_line(json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN));
}

static void show(struct progress_view *view, const struct progress_sample *sample, uint64_t now)
{
    char text[256];
    uint64_t period = view->style == PROGRESS_TERMINAL ? 0
                      : view->style == PROGRESS_JSON   ? JSON_PERIOD_NS
                                                       : LINE_PERIOD_NS;
    if (now - view->shown_ns < period)
        return;
    view->shown_ns = now;
    if (view->style == PROGRESS_TERMINAL)
        output_draw_progress(progress_format_line(sample, view->verb, output_terminal_columns(),
                                                  text, sizeof(text)));
    else if (view->style == PROGRESS_JSON)
        show_json(view, sample);
    else
        output_raw_line(progress_format_line(sample, view->verb, 0, text, sizeof(text)));
}

/* Sleeps a period; false when the thread shall end. */
static bool sleep_period(struct progress_view *view)
{
    uint64_t until = monotonic_ns() + SAMPLE_PERIOD_NS;
    struct timespec ts = {.tv_sec = (time_t)(until / NSEC_PER_SEC),
                          .tv_nsec = (long)(until % NSEC_PER_SEC)};
    (void)pthread_mutex_lock(&view->mutex);
    while (!view->stop && pthread_cond_timedwait(&view->wake, &view->mutex, &ts) == 0)
        ;
    bool go_on = !view->stop;
    (void)pthread_mutex_unlock(&view->mutex);
    return go_on;
}

static void *view_thread(void *arg)
{
    struct progress_view *view = arg;
    while (sleep_period(view)) {
        uint64_t now = monotonic_ns();
        struct progress_sample sample = take_sample(view, now);
        show(view, &sample, now);
    }
    return NULL;
}

static int start_thread(struct progress_view *view)
{
    pthread_condattr_t attr;
    (void)pthread_mutex_init(&view->mutex, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&view->wake, &attr);
    (void)pthread_condattr_destroy(&attr);

    /* Signals belong to the other threads. */
    sigset_t all, saved;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &saved);
    int r = -pthread_create(&view->thread, NULL, view_thread, view);
    (void)pthread_sigmask(SIG_SETMASK, &saved, NULL);
    return r;
}

int progress_view_start(struct progress *progress, const char *verb, enum progress_style style,
                        struct progress_view **ret_view)
{
    struct progress_view *view = calloc(1, sizeof(*view));
    if (!view)
        return -ENOMEM;
    view->progress = progress;
    view->verb = verb;
    view->style = style;
    view->start_ns = view->shown_ns = monotonic_ns();
    int r = style == PROGRESS_NONE ? 0 : start_thread(view);
    if (r < 0) {
        free(view);
        return error_note_describe(r, "cannot start a thread");
    }
    *ret_view = view;
    return 0;
}

void progress_view_free(struct progress_view *view)
{
    if (!view)
        return;
    if (view->style != PROGRESS_NONE) {
        (void)pthread_mutex_lock(&view->mutex);
        view->stop = true;
        (void)pthread_cond_signal(&view->wake);
        (void)pthread_mutex_unlock(&view->mutex);
        (void)pthread_join(view->thread, NULL);
        (void)pthread_cond_destroy(&view->wake);
        (void)pthread_mutex_destroy(&view->mutex);
        output_clear_progress();
    }
    free(view);
}
