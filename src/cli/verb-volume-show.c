/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra volume list, umbra volume show */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/table.h"
#include "cli/volume.h"

#define LABEL "  %-10s "

static const struct option_spec no_options[] = {{0}};

/* What is known of a volume: its configuration, and, if it is attached, what it says of itself. */
struct knowledge {
    struct volume_config config;
    struct volume_status status;
    struct json_object *response; /* NULL: detached */
};

static void knowledge_release(struct knowledge *k)
{
    volume_config_release(&k->config);
    volume_status_release(&k->status);
    json_putp(&k->response);
}

static int look_at(const char *name, struct knowledge *k)
{
    int r = volume_config_load(VOLUME_CONFIG_DIR, name, &k->config);
    if (r == 0)
        r = volume_do(name, "status", &k->response);
    if (r == -ENOTCONN)
        return 0;
    return r < 0 ? r : volume_status_parse(k->response, &k->status);
}

static const char *state_of(const struct knowledge *k)
{
    return k->response ? "attached" : "detached";
}

/* ---- for people ---- */

static void print_path(const char *label, const char *path)
{
    printf(LABEL, label);
    print_escaped(path, strlen(path));
}

static void print_excludes(const struct volume_config *config)
{
    for (size_t i = 0; i < config->excludes.count; i++) {
        print_path("exclude", config->excludes.items[i]);
        putchar('\n');
    }
}

static void print_area(const struct volume_status *s)
{
    char used[16], max[16], block[16];
    printf(LABEL "%s of %s used, in blocks of %s\n", "diff area",
           text_format_bytes(s->used_bytes, used), text_format_bytes(s->max_bytes, max),
           text_format_bytes(s->block_bytes, block));
    if (s->protect_known)
        printf(LABEL "%s\n", "when full",
               s->protect_shadows ? "writes fail" : "the oldest shadow is deleted");
}

static void print_running(const struct volume_status *s)
{
    char when[32], restarts[32];
    printf(LABEL "process %" PRIu64 ", since %s", "running", s->pid,
           format_local_time((int64_t)(s->attached_ns / NSEC_PER_SEC), when));
    if (s->restarts > 0)
        printf("; started anew %s %s", format_count(s->restarts, restarts),
               plural(s->restarts, "time", "times"));
    putchar('\n');
}

static void print_hold(const struct volume_status *s)
{
    char count[32], p50[32], p99[32], max[32];
    if (s->hold_count == 0)
        return;
    printf(LABEL "%s %s taken; writes were held %s (half of them), %s (99 %%), %s (longest)\n",
           "holds", format_count(s->hold_count, count), plural(s->hold_count, "shadow", "shadows"),
           format_latency(s->hold_p50_us, p50), format_latency(s->hold_p99_us, p99),
           format_latency(s->hold_max_us, max));
}

static void print_shadow(const char *name, const struct volume_shadow *shadow)
{
    char when[32], device[VOLUME_DEVICE_MAX];
    printf(LABEL "%" PRIu32 "  %s  %s  %s", "shadow", shadow->number,
           format_local_time((int64_t)(shadow->taken_ns / NSEC_PER_SEC), when),
           shadow->node ? volume_format_device(name, shadow->number, device) : "-",
           shadow->writable ? "writable" : "read-only");
    if (shadow->label && *shadow->label) {
        printf("  ");
        print_escaped(shadow->label, strlen(shadow->label));
    }
    putchar('\n');
}

static void print_fault(const struct volume_fault *fault)
{
    char when[32];
    printf(LABEL "%s  ", "fault",
           format_local_time((int64_t)(fault->time_ns / NSEC_PER_SEC), when));
    if (fault->number > 0)
        printf("shadow %" PRIu32 " is gone: ", fault->number);
    print_escaped(fault->reason, strlen(fault->reason));
    putchar('\n');
}

static void print_knowledge(const struct knowledge *k)
{
    const struct volume_status *s = &k->status;
    char size[16], device[VOLUME_DEVICE_MAX];
    printf("volume '%s': %s\n", k->config.name, state_of(k));
    print_path("origin", k->config.origin);
    if (k->response)
        printf(", %s", text_format_bytes(s->origin_bytes, size));
    putchar('\n');
    print_path("storage", k->config.storage);
    putchar('\n');
    print_excludes(&k->config);
    if (!k->response)
        return;
    if (s->node)
        printf(LABEL "%s, which is %s (%s)\n", "device",
               volume_format_device(k->config.name, 0, device), s->node, s->front ? s->front : "?");
    print_area(s);
    print_running(s);
    print_hold(s);
    for (size_t i = 0; i < s->shadows.count; i++)
        print_shadow(k->config.name, &s->shadows.items[i]);
    for (size_t i = 0; i < s->faults.count; i++)
        print_fault(&s->faults.items[i]);
}

/* ---- as JSON ---- */

/* What the volume says of itself, or what its configuration does; and the state. */
static struct json_object *as_json(struct knowledge *k)
{
    struct json_object *object = k->response ? TAKE_PTR(k->response) : json_new_object();
    struct json_object *excludes = json_new_array();
    bool is_attached = json_object_object_get(object, "ok") != NULL;
    const struct volume_config *c = &k->config;
    json_object_object_del(object, "ok");
    volume_name_devices(object, c->name);
    json_add_string(object, "name", c->name);
    json_add_string(object, "state", is_attached ? "attached" : "detached");
    json_add_name(object, "origin", c->origin, strlen(c->origin));
    json_add_name(object, "storage", c->storage, strlen(c->storage));
    for (size_t i = 0; i < c->excludes.count; i++)
        json_append(excludes, json_name_value(c->excludes.items[i], strlen(c->excludes.items[i])));
    json_add(object, "excludes", excludes);
    return object;
}

static struct json_object *unreadable_as_json(const char *name, const char *problem)
{
    struct json_object *object = json_new_object();
    json_add_string(object, "name", name);
    json_add_string(object, "state", "unreadable");
    json_add_string(object, "problem", problem);
    return object;
}

/* ---- show ---- */

static int run_show(struct cli *cli, void *values _unused_, char **words, int word_count _unused_)
{
    CLEANUP(knowledge_release) struct knowledge k = {0};
    int r = volume_check_word(words[0]);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = look_at(words[0], &k);
    if (r < 0)
        return r;
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = as_json(&k);
        json_print(object);
    } else {
        print_knowledge(&k);
    }
    return EXIT_DONE;
}

/* ---- list ---- */

static void add_row(struct text_table *table, const struct knowledge *k)
{
    const struct volume_status *s = &k->status;
    char size[16] = "-", used[16] = "-", max[16] = "-", shadows[32] = "-";
    char device[VOLUME_DEVICE_MAX];
    CLEANUP_FREE char *origin = text_escape(k->config.origin, strlen(k->config.origin));
    if (k->response) {
        (void)text_format_bytes(s->origin_bytes, size);
        (void)text_format_bytes(s->used_bytes, used);
        (void)text_format_bytes(s->max_bytes, max);
        (void)format_count(s->shadows.count, shadows);
    }
    text_table_row(table, k->config.name, state_of(k), size, used, max, shadows,
                   s->node ? volume_format_device(k->config.name, 0, device) : "-",
                   origin ? origin : "?");
}

/* Goes on when one cannot be read; *failed_count. */
static int look_at_all(const struct string_vector *names, struct text_table *table,
                       struct json_object *array, size_t *failed_count)
{
    for (size_t i = 0; i < names->count; i++) {
        CLEANUP(knowledge_release) struct knowledge k = {0};
        const char *name = names->items[i];
        int r = look_at(name, &k);
        if (r == -ENOMEM)
            return r;
        if (r == -ENOENT)
            continue; /* deleted meanwhile */
        if (r < 0) {
            talk("cannot tell of volume '%s': %s", name, error_text(r));
            json_append(array, unreadable_as_json(name, error_text(r)));
            *failed_count += 1;
            continue;
        }
        add_row(table, &k);
        json_append(array, as_json(&k));
    }
    return 0;
}

static int run_list(struct cli *cli, void *values _unused_, char **words _unused_,
                    int word_count _unused_)
{
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    CLEANUP(text_table_release) struct text_table table = {0};
    CLEANUP_JSON struct json_object *object = json_new_object();
    struct json_object *array = json_new_array();
    size_t failed_count = 0;
    json_add(object, "volumes", array);
    text_table_begin(&table, 8, "LLRRRRLL");
    text_table_row(&table, "NAME", "STATE", "SIZE", "USED", "MAX", "SHADOWS", "DEVICE", "ORIGIN");
    int r = volume_need_root();
    if (r == 0)
        r = volume_config_list(VOLUME_CONFIG_DIR, &names);
    if (r == 0)
        r = look_at_all(&names, &table, array, &failed_count);
    if (r < 0)
        return r;
    if (cli->json)
        json_print(object);
    else
        text_table_print(&table);
    return failed_count == 0 ? EXIT_DONE : EXIT_INCOMPLETE;
}

const struct verb verb_volume_list = {
    .name = "volume list",
    .synopsis = "",
    .summary = "list the cow volumes of this machine",
    .options = no_options,
    .run = run_list,
};

const struct verb verb_volume_show = {
    .name = "volume show",
    .synopsis = "NAME",
    .summary = "show a volume, its shadows, and what went wrong with any",
    .options = no_options,
    .words_min = 1,
    .words_max = 1,
    .run = run_show,
};
