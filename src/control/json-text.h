/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON that goes to another program or comes back from the disk: small objects, written and read
 * with one question about errors at the end.
 *
 * Strings are bytes without NUL (paths, patterns, commands) written as text_escape() writes them,
 * so that any name survives: what is not UTF-8, control characters and the backslash are \xNN.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/macro.h"
#include "basic/string-vector.h"

DEFINE_CLEANUP_PTR(struct json_object *, json_object_put);

/* ---- writing ---- */

/* Sticky: after the first failed allocation the rest does nothing. */
struct json_writer {
    struct json_object *object;
    bool failed;
};

void json_writer_init(struct json_writer *w);
void json_writer_release(struct json_writer *w);
/* NULL is left out. */
void json_write_string(struct json_writer *w, const char *key, const char *bytes);
/* An empty list is left out. */
void json_write_strings(struct json_writer *w, const char *key, const struct string_vector *list);
/* At most INT64_MAX. */
void json_write_u64(struct json_writer *w, const char *key, uint64_t value);
void json_write_bool(struct json_writer *w, const char *key, bool value);
/* Takes over the value; NULL counts as a failed allocation. */
void json_write_value(struct json_writer *w, const char *key, struct json_object *value);
/* One line without a newline, malloc'ed. */
_must_check_ int json_writer_finish(const struct json_writer *w, char **ret_text);

/* ---- reading ---- */

enum json_need { JSON_MAY, JSON_MUST };

/*
 * Sticky: the first member that is missing, of the wrong type or out of bounds is noted with its
 * name, and everything that is read after it is empty.  Members that nobody asks for are ignored.
 */
struct json_reader {
    struct json_object *object; /* borrowed */
    const char *what;           /* whose member it is, for messages: "restore configuration" */
    int error;                  /* 0, -UMBRA_E_CORRUPT or -ENOMEM */
};

/* One object and nothing behind it, strictly as RFC 8259 has it, at most 8 levels deep.
 * -UMBRA_E_CORRUPT, in words about what. */
_must_check_ int json_parse_object(const char *text, size_t len, const char *what,
                                   struct json_object **ret_object);

/* malloc'ed; NULL when absent or after a failure. */
char *json_read_string(struct json_reader *r, const char *key, enum json_need need, size_t len_max);
/* An array of strings; an absent one is empty. */
void json_read_strings(struct json_reader *r, const char *key, size_t count_max, size_t len_max,
                       struct string_vector *list);
/* missing: the value of a member that is not there.  max is below INT64_MAX. */
uint64_t json_read_u64(struct json_reader *r, const char *key, uint64_t missing, uint64_t min,
                       uint64_t max);
bool json_read_bool(struct json_reader *r, const char *key, bool missing);
/* Finite and not negative. */
double json_read_double(struct json_reader *r, const char *key);
/* Notes a failure of the member; returns the reader's error. */
int json_reader_fail(struct json_reader *r, const char *key, const char *why);
