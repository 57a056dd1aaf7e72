/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an attached volume can be asked, each in one line of JSON {"request": NAME, ...}.  Every
 * answer has "ok", and "error" when that is false.  All numbers of places and sizes are bytes.
 *
 *     status                                     as write_status() has it
 *     take      label?, writable?                "shadow", "hold_ns"
 *     seal      number
 *     delete    number
 *     resize    max_bytes
 *     protect   shadows
 *     changed   from, to?, offset?, max?         "extents": [[offset, length] ...], "next"?
 *     detach                                     answered when the origin is free
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "control/json-text.h"
#include "cow/cowd-private.h"

#define WHAT         "request"
#define NAME_LEN_MAX 32u
#define NUMBER_MAX   ((uint64_t)INT64_MAX - 1)
#define EXTENTS_MAX  65536u /* of an answer */

static struct json_object *new_number(uint64_t value)
{
    return json_object_new_int64((int64_t)MIN(value, (uint64_t)INT64_MAX));
}

static void add_member(struct json_writer *w, struct json_object *array, struct json_writer *member)
{
    struct json_object *object = TAKE_PTR(member->object);
    if (member->failed || !object || json_object_array_add(array, object) != 0) {
        (void)json_object_put(object);
        w->failed = true;
    }
}

/* ---- status ---- */

static void write_shadow(struct json_writer *out, const struct worker *w,
                         const struct cow_shadow *shadow)
{
    char id[2 * COW_ID_LEN + 1], label[COW_LABEL_MAX + 1], device[COW_DEVICE_MAX];
    hex_encode(shadow->id, COW_ID_LEN, id);
    memcpy(label, shadow->label, shadow->label_len);
    label[shadow->label_len] = '\0';
    devices_path_locked(w, shadow->number, device);
    json_write_u64(out, "number", shadow->number);
    json_write_string(out, "id", id);
    if (*label)
        json_write_string(out, "label", label);
    json_write_u64(out, "taken_ns", shadow->taken_ns);
    json_write_bool(out, "writable", shadow->writable);
    if (*device)
        json_write_string(out, "device", device);
}

static void write_shadows(struct json_writer *out, const struct worker *w)
{
    CLEANUP_FREE struct cow_shadow *shadows = calloc(COW_SHADOWS_MAX, sizeof(*shadows));
    struct json_object *array = json_object_new_array();
    size_t count = shadows ? cow_shadows(w->cow, shadows, COW_SHADOWS_MAX) : 0;
    out->failed |= !shadows || !array;
    for (size_t i = 0; i < MIN(count, (size_t)COW_SHADOWS_MAX) && !out->failed; i++) {
        CLEANUP(json_writer_release) struct json_writer member;
        json_writer_init(&member);
        write_shadow(&member, w, &shadows[i]);
        add_member(out, array, &member);
    }
    json_write_value(out, "shadows", array);
}

static void write_faults(struct json_writer *out, const struct worker *w)
{
    struct cow_fault faults[COW_FAULTS_KEPT];
    struct json_object *array = json_object_new_array();
    size_t count = cow_faults(w->cow, faults);
    out->failed |= !array;
    for (size_t i = 0; i < count && !out->failed; i++) {
        CLEANUP(json_writer_release) struct json_writer member;
        json_writer_init(&member);
        json_write_u64(&member, "time_ns", faults[i].time_ns);
        json_write_u64(&member, "number", faults[i].number);
        json_write_string(&member, "reason", cow_reason_text(faults[i].reason));
        add_member(out, array, &member);
    }
    json_write_value(out, "faults", array);
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void write_holds(struct json_writer *out, const struct worker *w)
{
    CLEANUP(json_writer_release) struct json_writer hold;
    size_t count = (size_t)MIN(w->hold_count, (uint64_t)HOLDS_KEPT);
    CLEANUP_FREE uint32_t *sorted = malloc(sizeof(w->hold_us));
    if (!sorted) {
        out->failed = true;
        return;
    }
    memcpy(sorted, w->hold_us, sizeof(w->hold_us));
    qsort(sorted, count, sizeof(*sorted), compare_u32);
    json_writer_init(&hold);
    json_write_u64(&hold, "count", w->hold_count);
    json_write_u64(&hold, "p50_us", count > 0 ? sorted[count / 2] : 0);
    json_write_u64(&hold, "p99_us", count > 0 ? sorted[count * 99 / 100] : 0);
    json_write_u64(&hold, "max_us", count > 0 ? sorted[count - 1] : 0);
    out->failed |= hold.failed;
    json_write_value(out, "hold", TAKE_PTR(hold.object));
}

static void write_status(struct json_writer *out, const struct worker *w)
{
    const struct cowd *d = w->cowd;
    struct cow_stat stat;
    cow_stat(w->cow, &stat);
    json_write_string(out, "name", d->config.name);
    json_write_string(out, "origin", d->config.origin);
    json_write_u64(out, "origin_bytes", stat.origin_bytes);
    json_write_u64(out, "block_bytes", stat.block_bytes);
    json_write_string(out, "storage", d->config.storage);
    json_write_u64(out, "max_bytes", stat.max_bytes);
    json_write_bool(out, "protect_shadows", stat.protect_shadows);
    json_write_u64(out, "used_bytes", stat.used_bytes);
    json_write_string(out, "front", d->ops->name);
    json_write_string(out, "device", w->device_path);
    json_write_u64(out, "pid", (uint64_t)getpid());
    json_write_u64(out, "keeper_pid", (uint64_t)getppid());
    json_write_u64(out, "attached_ns", d->attached_ns);
    json_write_u64(out, "restarts", d->life);
    json_write_u64(out, "copied_blocks", stat.copied_blocks);
    write_shadows(out, w);
    write_faults(out, w);
    write_holds(out, w);
}

static int do_status(struct worker *w, struct json_reader *in _unused_, struct json_writer *out)
{
    write_status(out, w);
    return 0;
}

/* ---- shadows ---- */

static void note_hold(struct worker *w, uint64_t hold_ns)
{
    w->hold_us[w->hold_count++ % HOLDS_KEPT] = (uint32_t)MIN(hold_ns / 1000, (uint64_t)UINT32_MAX);
}

static int find_shadow(const struct worker *w, uint32_t number, struct cow_shadow *ret_shadow)
{
    CLEANUP_FREE struct cow_shadow *shadows = calloc(COW_SHADOWS_MAX, sizeof(*shadows));
    size_t count = shadows ? cow_shadows(w->cow, shadows, COW_SHADOWS_MAX) : 0;
    if (!shadows)
        return -ENOMEM;
    for (size_t i = 0; i < MIN(count, (size_t)COW_SHADOWS_MAX); i++) {
        if (shadows[i].number != number)
            continue;
        *ret_shadow = shadows[i];
        return 0;
    }
    return error_note(-ENOENT, "volume '%s' has no shadow %" PRIu32, w->cowd->config.name, number);
}

/* It is there, also when it cannot be shown. */
static void show_shadow(struct worker *w, const struct cow_shadow *shadow)
{
    int r = devices_add_locked(w, shadow->number, !shadow->writable);
    if (r < 0)
        log_warning("shadow %" PRIu32 " has no device: %s", shadow->number, error_text(r));
}

static int do_take(struct worker *w, struct json_reader *in, struct json_writer *out)
{
    CLEANUP_FREE char *label = json_read_string(in, "label", JSON_MAY, COW_LABEL_MAX);
    const struct cow_take take = {
        .label = label,
        .label_len = label ? strlen(label) : 0,
        .writable = json_read_bool(in, "writable", false),
    };
    struct cow_shadow shadow;
    uint32_t number;
    uint64_t hold_ns;
    int r = in->error < 0 ? in->error : cow_shadow_take(w->cow, &take, &number, &hold_ns);
    if (r == 0)
        r = find_shadow(w, number, &shadow);
    if (r < 0)
        return r;
    note_hold(w, hold_ns);
    show_shadow(w, &shadow);
    CLEANUP(json_writer_release) struct json_writer member;
    json_writer_init(&member);
    write_shadow(&member, w, &shadow);
    out->failed |= member.failed;
    json_write_value(out, "shadow", TAKE_PTR(member.object));
    json_write_u64(out, "hold_ns", hold_ns);
    return 0;
}

static int read_number(struct worker *w, struct json_reader *in, struct cow_shadow *ret_shadow)
{
    uint32_t number = (uint32_t)json_read_u64(in, "number", 0, 0, UINT32_MAX);
    return in->error < 0 ? in->error : find_shadow(w, number, ret_shadow);
}

/* Who writes to it would get errors in the midst of it. */
static int do_seal(struct worker *w, struct json_reader *in, struct json_writer *out _unused_)
{
    struct cow_shadow shadow;
    int r = read_number(w, in, &shadow);
    if (r < 0)
        return r;
    if (shadow.writable)
        r = w->cowd->ops->check_free(w->front, shadow.number);
    if (r == 0 || r == -ENOENT)
        r = cow_shadow_seal(w->cow, shadow.number);
    if (r < 0)
        return r;
    r = w->cowd->ops->seal(w->front, shadow.number);
    if (r < 0)
        log_warning("%s", error_text(r)); /* the engine refuses writes all the same */
    return 0;
}

static int do_delete(struct worker *w, struct json_reader *in, struct json_writer *out _unused_)
{
    struct cow_shadow shadow;
    int r = read_number(w, in, &shadow);
    if (r == 0)
        r = devices_remove_locked(w, shadow.number);
    if (r < 0)
        return r;
    r = cow_shadow_delete(w->cow, shadow.number);
    if (r < 0)
        show_shadow(w, &shadow);
    return r;
}

/* ---- the rest ---- */

static int do_resize(struct worker *w, struct json_reader *in, struct json_writer *out _unused_)
{
    uint64_t max_bytes = json_read_u64(in, "max_bytes", 0, 1, NUMBER_MAX);
    if (in->error == 0 && max_bytes == 0)
        return json_reader_fail(in, "max_bytes", "is missing");
    return in->error < 0 ? in->error : cow_resize(w->cow, max_bytes);
}

static int write_extents(struct json_writer *out, const struct extent_map *map, uint64_t offset,
                         uint64_t max)
{
    struct json_object *array = json_object_new_array();
    struct extent_range range;
    uint64_t from = offset;
    for (; array && max > 0 && extent_map_next(map, from, UINT64_MAX, &range); max--) {
        struct json_object *pair = json_object_new_array_ext(2);
        if (!pair || json_object_array_add(pair, new_number(range.start)) != 0 ||
            json_object_array_add(pair, new_number(range.end - range.start)) != 0 ||
            json_object_array_add(array, pair) != 0)
            out->failed = true;
        from = range.end;
    }
    json_write_value(out, "extents", array);
    if (extent_map_next(map, from, UINT64_MAX, &range))
        json_write_u64(out, "next", range.start);
    return 0;
}

static int do_protect(struct worker *w, struct json_reader *in, struct json_writer *out _unused_)
{
    bool shadows = json_read_bool(in, "shadows", false);
    if (in->error == 0 && !json_object_object_get_ex(in->object, "shadows", NULL))
        return json_reader_fail(in, "shadows", "is missing");
    return in->error < 0 ? in->error : cow_protect(w->cow, shadows);
}

static int do_changed(struct worker *w, struct json_reader *in, struct json_writer *out)
{
    CLEANUP(extent_map_release) struct extent_map map = {0};
    uint32_t from = (uint32_t)json_read_u64(in, "from", 0, 0, UINT32_MAX);
    uint32_t to = (uint32_t)json_read_u64(in, "to", 0, 0, UINT32_MAX);
    uint64_t offset = json_read_u64(in, "offset", 0, 0, NUMBER_MAX);
    uint64_t max = json_read_u64(in, "max", EXTENTS_MAX, 1, EXTENTS_MAX);
    int r = in->error < 0 ? in->error : cow_changed(w->cow, from, to, &map);
    return r < 0 ? r : write_extents(out, &map, offset, max);
}

static int do_detach(struct worker *w, struct json_reader *in _unused_,
                     struct json_writer *out _unused_)
{
    return worker_detach_locked(w);
}

static const struct {
    const char *name;
    int (*fn)(struct worker *w, struct json_reader *in, struct json_writer *out);
} requests[] = {
    {"status", do_status}, {"take", do_take},       {"seal", do_seal},       {"delete", do_delete},
    {"resize", do_resize}, {"protect", do_protect}, {"changed", do_changed}, {"detach", do_detach},
};

static int dispatch(struct worker *w, struct json_reader *in, struct json_writer *out)
{
    CLEANUP_FREE char *name = json_read_string(in, "request", JSON_MUST, NAME_LEN_MAX);
    if (in->error < 0)
        return in->error;
    if (w->detached)
        return error_note(-ENOTCONN, "volume '%s' has just been detached", w->cowd->config.name);
    for (size_t i = 0; i < ELEMENTSOF(requests); i++)
        if (strcmp(name, requests[i].name) == 0)
            return requests[i].fn(w, in, out);
    return error_note(-EINVAL, "unknown request '%s'", name);
}

int worker_control(const char *request, size_t len, char **ret_response, void *userdata)
{
    struct worker *w = userdata;
    CLEANUP(json_object_putp) struct json_object *object = NULL;
    CLEANUP(json_writer_release) struct json_writer out;
    json_writer_init(&out);
    json_write_bool(&out, "ok", true);
    int r = json_parse_object(request, len, WHAT, &object);
    if (r == 0) {
        struct json_reader in = {.object = object, .what = WHAT};
        pthread_mutex_lock(&w->lock);
        r = dispatch(w, &in, &out);
        pthread_mutex_unlock(&w->lock);
    }
    return r < 0 ? r : json_writer_finish(&out, ret_response);
}
