/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What umbra prints: results to standard output, talk to standard error.
 *
 * Standard error may carry a progress line that is redrawn in place.  Everything else that goes to
 * a terminal takes the line away first; so all talk goes through talk() and log_message(), and
 * results that appear while a progress line may be shown are bracketed by
 * output_lock()/output_unlock().
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/macro.h"

/* Once, before anything is opened: closed standard descriptors are filled with /dev/null in such a
 * way that using them fails; log messages are led to talk(). */
void output_init(void);
/* Flushes standard output; a failure there is an error with a note. */
_must_check_ int output_finish(void);
/* Whether writing results makes no sense any more (the reader of a pipe is gone, the disk full). */
bool output_broken(void);

/* "umbra: " and one line on standard error.  Any thread. */
void talk(const char *fmt, ...) _printf_(1, 2);
/* The same with a name of any bytes: "umbra: <what> '<name, escaped>': <why>". */
void talk_path(const char *what, const char *path, const char *why);

void output_lock(void); /* takes the progress line away */
void output_unlock(void);
/* Draws the progress line anew in place (text without newline), on a terminal. */
void output_draw_progress(const char *text);
/* A line for standard error that is written as it is. */
void output_raw_line(const char *text);
void output_clear_progress(void);
/* False when it was closed when the program began. */
bool output_stderr_usable(void);
/* Columns of the terminal on standard error; 0 when it is none, or a dumb one. */
unsigned output_terminal_columns(void);

/* A name of any bytes to standard output, escaped. */
void print_escaped(const char *name, size_t len);
/* "2026-11-21 04:37:58" local time. */
char *format_local_time(int64_t sec, char text[32]);
/* 1234567 as "1,234,567". */
char *format_count(uint64_t count, char text[32]);
/* "850 us", "12.3 ms", "1.20 s" */
char *format_latency(uint64_t us, char text[32]);
/* "1 file", "2 files" */
const char *plural(uint64_t count, const char *one, const char *many);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t monotonic_ns(void);

/* ---- JSON ---- */
static inline void json_putp(struct json_object **object)
{
    if (*object)
        json_object_put(*object);
}
#define CLEANUP_JSON CLEANUP(json_putp)

/* A new object or array; the program ends with a message when there is no memory. */
struct json_object *json_new_object(void);
struct json_object *json_new_array(void);
void json_add(struct json_object *object, const char *key, struct json_object *value);
void json_append(struct json_object *array, struct json_object *value);
void json_add_string(struct json_object *object, const char *key, const char *value);
void json_add_uint(struct json_object *object, const char *key, uint64_t value);
void json_add_bool(struct json_object *object, const char *key, bool value);
void json_add_double(struct json_object *object, const char *key, double value);
/* RFC 3339, UTC. */
void json_add_time(struct json_object *object, const char *key, int64_t ns_since_epoch);
/* A name of any bytes: escaped under key, and in hex under key_hex when that was needed. */
void json_add_name(struct json_object *object, const char *key, const void *name, size_t len);
struct json_object *json_name_value(const void *name, size_t len);
/* One document, on standard output. */
void json_print(struct json_object *object);
/* The members of an object with the array key open behind them, for elements that are written one
 * by one with json_print_element(); json_print_close() ends both, with one more member unless key
 * is NULL. */
void json_print_open(struct json_object *object, const char *key);
void json_print_element(struct json_object *element, bool first);
void json_print_close(const char *key, struct json_object *value);
