/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/json-text.h"

#include <math.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"

#define DEPTH_MAX 8

void json_writer_init(struct json_writer *w)
{
    *w = (struct json_writer){.object = json_object_new_object()};
    w->failed = !w->object;
}

void json_writer_release(struct json_writer *w)
{
    (void)json_object_put(w->object);
    *w = (struct json_writer){.failed = true};
}

void json_write_value(struct json_writer *w, const char *key, struct json_object *value)
{
    if (!w->failed && value && json_object_object_add(w->object, key, value) == 0)
        return;
    (void)json_object_put(value);
    w->failed = true;
}

static struct json_object *new_string(const char *bytes)
{
    CLEANUP_FREE char *text = text_escape(bytes, strlen(bytes));
    return text ? json_object_new_string(text) : NULL;
}

void json_write_string(struct json_writer *w, const char *key, const char *bytes)
{
    if (bytes)
        json_write_value(w, key, new_string(bytes));
}

void json_write_strings(struct json_writer *w, const char *key, const struct string_vector *list)
{
    if (list->count == 0)
        return;
    CLEANUP(json_object_putp) struct json_object *array = json_object_new_array();
    for (size_t i = 0; array && i < list->count; i++) {
        struct json_object *item = new_string(list->items[i]);
        if (item && json_object_array_add(array, item) == 0)
            continue;
        (void)json_object_put(item);
        w->failed = true;
        return;
    }
    json_write_value(w, key, TAKE_PTR(array));
}

void json_write_u64(struct json_writer *w, const char *key, uint64_t value)
{
    json_write_value(w, key, json_object_new_int64((int64_t)MIN(value, (uint64_t)INT64_MAX)));
}

void json_write_bool(struct json_writer *w, const char *key, bool value)
{
    json_write_value(w, key, json_object_new_boolean(value));
}

int json_writer_finish(const struct json_writer *w, char **ret_text)
{
    const char *text =
        w->failed ? NULL
                  : json_object_to_json_string_ext(w->object, JSON_C_TO_STRING_PLAIN |
                                                                  JSON_C_TO_STRING_NOSLASHESCAPE);
    char *copy = text ? strdup(text) : NULL;
    if (!copy)
        return -ENOMEM;
    *ret_text = copy;
    return 0;
}

int json_parse_object(const char *text, size_t len, const char *what,
                      struct json_object **ret_object)
{
    /* The tokener would take a NUL for the end. */
    if (len == 0 || len > INT32_MAX || memchr(text, '\0', len))
        return error_note(-UMBRA_E_CORRUPT, "%s is not JSON", what);
    struct json_tokener *tokener = json_tokener_new_ex(DEPTH_MAX);
    if (!tokener)
        return -ENOMEM;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    CLEANUP(json_object_putp)
    struct json_object *object = json_tokener_parse_ex(tokener, text, (int)len);
    bool whole = json_tokener_get_error(tokener) == json_tokener_success &&
                 json_tokener_get_parse_end(tokener) == len;
    json_tokener_free(tokener);
    if (!whole || !json_object_is_type(object, json_type_object))
        return error_note(-UMBRA_E_CORRUPT, "%s is not a JSON object", what);
    *ret_object = TAKE_PTR(object);
    return 0;
}

int json_reader_fail(struct json_reader *r, const char *key, const char *why)
{
    if (r->error == 0)
        r->error = error_note(-UMBRA_E_CORRUPT, "%s: \"%s\" %s", r->what, key, why);
    return r->error;
}

/* NULL: not there, or not of the type (which is a failure). */
static struct json_object *member(struct json_reader *r, const char *key, enum json_type type,
                                  enum json_need need)
{
    struct json_object *value = NULL;
    if (r->error < 0)
        return NULL;
    if (!json_object_object_get_ex(r->object, key, &value)) {
        if (need == JSON_MUST)
            json_reader_fail(r, key, "is missing");
        return NULL;
    }
    if (json_object_is_type(value, type))
        return value;
    json_reader_fail(r, key, "is of the wrong type");
    return NULL;
}

static char *string_bytes(struct json_reader *r, const char *key, struct json_object *value,
                          size_t len_max)
{
    CLEANUP_FREE char *bytes = NULL;
    size_t len = 0;
    int result = text_unescape(json_object_get_string(value),
                               (size_t)json_object_get_string_len(value), &bytes, &len);
    if (result == -ENOMEM) {
        r->error = result;
        return NULL;
    }
    if (result < 0 || memchr(bytes, '\0', len)) {
        json_reader_fail(r, key, "is not an escaped name");
        return NULL;
    }
    if (len > len_max) {
        json_reader_fail(r, key, "is too long");
        return NULL;
    }
    return TAKE_PTR(bytes);
}

char *json_read_string(struct json_reader *r, const char *key, enum json_need need, size_t len_max)
{
    struct json_object *value = member(r, key, json_type_string, need);
    return value ? string_bytes(r, key, value, len_max) : NULL;
}

void json_read_strings(struct json_reader *r, const char *key, size_t count_max, size_t len_max,
                       struct string_vector *list)
{
    struct json_object *array = member(r, key, json_type_array, JSON_MAY);
    size_t count = array ? json_object_array_length(array) : 0;
    if (count > count_max)
        json_reader_fail(r, key, "has too many items");
    for (size_t i = 0; r->error == 0 && i < count; i++) {
        struct json_object *value = json_object_array_get_idx(array, i);
        if (!json_object_is_type(value, json_type_string)) {
            json_reader_fail(r, key, "has an item of the wrong type");
            return;
        }
        CLEANUP_FREE char *bytes = string_bytes(r, key, value, len_max);
        if (bytes && string_vector_add(list, bytes) < 0)
            r->error = -ENOMEM;
    }
}

uint64_t json_read_u64(struct json_reader *r, const char *key, uint64_t missing, uint64_t min,
                       uint64_t max)
{
    struct json_object *value = member(r, key, json_type_int, JSON_MAY);
    if (r->error < 0)
        return 0;
    if (!value)
        return missing;
    int64_t number = json_object_get_int64(value); /* saturates */
    if (number >= 0 && (uint64_t)number >= min && (uint64_t)number <= max)
        return (uint64_t)number;
    json_reader_fail(r, key, "is out of bounds");
    return 0;
}

bool json_read_bool(struct json_reader *r, const char *key, bool missing)
{
    struct json_object *value = member(r, key, json_type_boolean, JSON_MAY);
    if (!value)
        return r->error == 0 && missing;
    return json_object_get_boolean(value);
}

double json_read_double(struct json_reader *r, const char *key)
{
    struct json_object *value = NULL;
    if (r->error < 0)
        return 0;
    if (!json_object_object_get_ex(r->object, key, &value)) {
        json_reader_fail(r, key, "is missing");
        return 0;
    }
    double number = json_object_get_double(value);
    bool is_number =
        json_object_is_type(value, json_type_double) || json_object_is_type(value, json_type_int);
    if (is_number && isfinite(number) && number >= 0)
        return number;
    json_reader_fail(r, key, "is no length of time");
    return 0;
}
