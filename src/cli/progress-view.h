/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Showing the progress of long work.
 *
 * On a terminal one line is redrawn several times a second; elsewhere a plain line appears every
 * ten seconds, or a JSON object a second with --json.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/macro.h"
#include "basic/progress.h"

enum progress_style {
    PROGRESS_NONE,
    PROGRESS_TERMINAL, /* one line, redrawn */
    PROGRESS_LINES,    /* a plain line now and then */
    PROGRESS_JSON,     /* {"progress": {...}} lines */
};

struct progress_view;

/* Starts the thread that shows progress (borrowed, must outlive the view) until the view is freed.
 * verb: what is going on ("backup").  With PROGRESS_NONE no thread is made. */
_must_check_ int progress_view_start(struct progress *progress, const char *verb,
                                     enum progress_style style, struct progress_view **ret_view);
/* Stops the thread and takes the line away. */
void progress_view_free(struct progress_view *view);
DEFINE_CLEANUP_PTR(struct progress_view *, progress_view_free);

/* ---- the arithmetic, apart from clocks and terminals ---- */

struct progress_sample {
    uint64_t bytes_done, bytes_total; /* total 0: not known */
    uint64_t files_done, files_total;
    uint64_t problems;
    uint64_t elapsed_ns;
    double bytes_per_second; /* smoothed */
};

/* The rate over the last few seconds: an average in which older samples fade. */
struct progress_rate {
    double bytes_per_second;
    uint64_t last_ns, last_bytes;
    bool started;
};
void progress_rate_add(struct progress_rate *rate, uint64_t now_ns, uint64_t bytes);

/* Seconds that are left at this rate; false when it cannot be told. */
bool progress_seconds_left(const struct progress_sample *sample, uint64_t *ret_seconds);
/* "0:07", "12:34", "5:01:02", "3d 04:00" */
char *progress_format_duration(uint64_t seconds, char text[32]);
/* The whole line, cut to width columns (0: not cut). */
char *progress_format_line(const struct progress_sample *sample, const char *verb, unsigned width,
                           char *text, size_t size);
