/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra volume shadow, seal, changed, resize, protect */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/volume.h"
#include "control/json-text.h"
#include "cow/cow-format.h"

#define EXTENTS_A_REQUEST 4096u
#define NUMBER_MAX        (UINT64_C(1) << 62)

struct shadow_values {
    const char *label;
    bool writable;
};

static const struct option_spec shadow_options[] = {
    {0, "label", OPTION_STRING, offsetof(struct shadow_values, label), .arg = "TEXT",
     .help = "a note of at most 64 bytes, which 'show' prints"},
    {0, "writable", OPTION_FLAG, offsetof(struct shadow_values, writable),
     .help = "it may be written to, which the volume does not see, until it is sealed"},
    {0},
};

struct changed_values {
    uint64_t since, until;
};

static const struct option_spec changed_options[] = {
    {0, "since", OPTION_NUMBER, offsetof(struct changed_values, since), .arg = "N",
     .help = "the shadow to compare with", .min = 1, .max = UINT32_MAX},
    {0, "until", OPTION_NUMBER, offsetof(struct changed_values, until), .arg = "N",
     .help = "a later shadow (default: the volume as it is now)", .min = 1, .max = UINT32_MAX},
    {0},
};

struct resize_values {
    const char *max_size;
};

static const struct option_spec resize_options[] = {
    {0, "max-size", OPTION_STRING, offsetof(struct resize_values, max_size), .arg = "SIZE",
     .help = "how much is kept at most from now on: bytes, with a suffix, or N% of the origin"},
    {0},
};

static const struct option_spec no_options[] = {{0}};

/* ---- shadow ---- */

static int print_shadow(const struct cli *cli, const char *name, struct json_object *response)
{
    CLEANUP(volume_shadow_release) struct volume_shadow shadow = {0};
    struct json_object *object = NULL;
    struct json_reader in = {.object = response, .what = "response of the volume"};
    char text[VOLUME_SHADOW_NAME_MAX], device[VOLUME_DEVICE_MAX], held[32];
    uint64_t hold_ns = json_read_u64(&in, "hold_ns", 0, 0, NUMBER_MAX);
    if (in.error < 0)
        return in.error;
    if (!json_object_object_get_ex(response, "shadow", &object) ||
        !json_object_is_type(object, json_type_object))
        return json_reader_fail(&in, "shadow", "is missing");
    int r = volume_shadow_parse(object, &shadow);
    if (r < 0)
        return r;
    (void)volume_format_shadow_name(name, shadow.number, text);
    if (cli->json) {
        json_object_object_del(response, "ok");
        json_add_string(response, "name", text);
        volume_name_devices(response, name);
        json_print(response);
    } else if (!cli->quiet) {
        printf("%s  %s  writes held for %s\n", text,
               shadow.node ? volume_format_device(name, shadow.number, device) : "-",
               format_latency(hold_ns / 1000, held));
    }
    return EXIT_DONE;
}

static int take(const char *name, const struct shadow_values *v, struct json_object **ret_response)
{
    CLEANUP_JSON struct json_object *request = volume_request("take");
    if (v->label)
        json_add(request, "label", json_name_value(v->label, strlen(v->label)));
    json_add_bool(request, "writable", v->writable);
    return volume_send(name, request, ret_response);
}

static int run_shadow(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    const struct shadow_values *v = values;
    CLEANUP_JSON struct json_object *response = NULL;
    int r = volume_check_word(words[0]);
    if (r == 0 && v->label && strlen(v->label) > COW_LABEL_MAX)
        r = error_note(-UMBRA_E_USAGE, "a label has at most %u bytes", COW_LABEL_MAX);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = take(words[0], v, &response);
    return r < 0 ? r : print_shadow(cli, words[0], response);
}

/* ---- seal, resize, protect ---- */

/* Sends it and says that it is done. */
static int tell(const struct cli *cli, const char *name, struct json_object *request,
                const char *words)
{
    CLEANUP_JSON struct json_object *response = NULL;
    int r = volume_send(name, request, &response);
    if (r < 0)
        return r;
    if (cli->json)
        json_print(response);
    else if (!cli->quiet)
        puts(words);
    return EXIT_DONE;
}

static int run_seal(struct cli *cli, void *values _unused_, char **words, int word_count _unused_)
{
    CLEANUP_JSON struct json_object *request = volume_request("seal");
    char name[VOLUME_NAME_MAX + 1];
    uint32_t number;
    int r = volume_parse_shadow_name(words[0], name, &number);
    if (r == 0)
        r = volume_need_root();
    if (r < 0)
        return r;
    json_add_uint(request, "number", number);
    return tell(cli, name, request, "sealed: it is read-only from now on");
}

static int run_resize(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    const struct resize_values *v = values;
    CLEANUP(volume_status_release) struct volume_status status = {0};
    CLEANUP_JSON struct json_object *response = NULL;
    CLEANUP_JSON struct json_object *request = volume_request("resize");
    char words_of_size[64], size[16];
    uint64_t bytes;
    int r = volume_check_word(words[0]);
    if (r == 0 && !v->max_size)
        r = error_note(-UMBRA_E_USAGE, "--max-size is missing");
    if (r == 0)
        r = volume_parse_max_size(v->max_size, 0, &bytes);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = volume_do(words[0], "status", &response);
    if (r == 0)
        r = volume_status_parse(response, &status);
    if (r == 0)
        r = volume_parse_max_size(v->max_size, status.origin_bytes, &bytes);
    if (r < 0)
        return r;
    json_add_uint(request, "max_bytes", bytes);
    (void)snprintf(words_of_size, sizeof(words_of_size), "at most %s are kept from now on",
                   text_format_bytes(bytes, size));
    return tell(cli, words[0], request, words_of_size);
}

static int run_protect(struct cli *cli, void *values _unused_, char **words,
                       int word_count _unused_)
{
    CLEANUP_JSON struct json_object *request = volume_request("protect");
    bool protect_shadows = false;
    int r = volume_check_word(words[0]);
    if (r == 0)
        r = volume_parse_protect(words[1], &protect_shadows);
    if (r == 0)
        r = volume_need_root();
    if (r < 0)
        return r;
    json_add_bool(request, "shadows", protect_shadows);
    return tell(cli, words[0], request,
                protect_shadows ? "when the diff area is full, writes fail"
                                : "when the diff area is full, the oldest shadow is deleted");
}

/* ---- changed ---- */

struct changes {
    const struct cli *cli;
    const char *name;
    const struct changed_values *values;
    uint64_t extent_count;
};

static int read_number(struct json_object *value, uint64_t *ret_number)
{
    int64_t number = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : -1;
    if (number < 0)
        return error_note(-UMBRA_E_CORRUPT, "response of the volume: an extent is no number");
    *ret_number = (uint64_t)number;
    return 0;
}

static int print_extent(struct changes *c, struct json_object *extent)
{
    uint64_t offset = 0, len = 0;
    if (!json_object_is_type(extent, json_type_array) || json_object_array_length(extent) != 2)
        return error_note(-UMBRA_E_CORRUPT, "response of the volume: an extent is no pair");
    int r = read_number(json_object_array_get_idx(extent, 0), &offset);
    if (r == 0)
        r = read_number(json_object_array_get_idx(extent, 1), &len);
    if (r < 0)
        return r;
    if (c->cli->json)
        json_print_element(extent, c->extent_count == 0);
    else
        printf("%" PRIu64 " %" PRIu64 "\n", offset, len);
    c->extent_count++;
    return output_broken() ? -EPIPE : 0;
}

/* *offset: of the next page; 0 when this was the last. */
static int print_page(struct changes *c, struct json_object *response, uint64_t *offset)
{
    struct json_object *extents = NULL;
    struct json_reader in = {.object = response, .what = "response of the volume"};
    uint64_t next = json_read_u64(&in, "next", 0, 0, NUMBER_MAX);
    if (!json_object_object_get_ex(response, "extents", &extents) ||
        !json_object_is_type(extents, json_type_array))
        return json_reader_fail(&in, "extents", "is missing");
    if (in.error == 0 && next != 0 && next <= *offset)
        return json_reader_fail(&in, "next", "does not go on");
    for (size_t i = 0; in.error == 0 && i < json_object_array_length(extents); i++) {
        int r = print_extent(c, json_object_array_get_idx(extents, i));
        if (r < 0)
            return r;
    }
    *offset = next;
    return in.error;
}

static int ask_page(const struct changes *c, uint64_t offset, struct json_object **ret_response)
{
    CLEANUP_JSON struct json_object *request = volume_request("changed");
    json_add_uint(request, "from", c->values->since);
    if (c->values->until > 0)
        json_add_uint(request, "to", c->values->until);
    json_add_uint(request, "offset", offset);
    json_add_uint(request, "max", EXTENTS_A_REQUEST);
    return volume_send(c->name, request, ret_response);
}

/* From the first page on, which has been asked for. */
static int print_pages(struct changes *c, struct json_object *first)
{
    uint64_t offset = 0;
    int r = print_page(c, first, &offset);
    while (r == 0 && offset > 0) {
        CLEANUP_JSON struct json_object *response = NULL;
        r = ask_page(c, offset, &response);
        if (r == 0)
            r = print_page(c, response, &offset);
    }
    return r;
}

/* Whoever reads half of it must see that it is a half. */
static int print_json(struct changes *c, struct json_object *first)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    struct error_report report = {0};
    json_add_string(object, "name", c->name);
    json_add_uint(object, "since", c->values->since);
    if (c->values->until > 0)
        json_add_uint(object, "until", c->values->until);
    json_print_open(object, "extents");
    int r = print_pages(c, first);
    error_save(&report, r);
    json_print_close(r < 0 ? "problem" : NULL,
                     r < 0 ? json_object_new_string(error_text(r)) : NULL);
    return error_raise(&report);
}

static int run_changed(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    const struct changed_values *v = values;
    struct changes changes = {.cli = cli, .name = words[0], .values = v};
    CLEANUP_JSON struct json_object *first = NULL;
    int r = volume_check_word(words[0]);
    if (r == 0 && v->since == 0)
        r = error_note(-UMBRA_E_USAGE, "--since is missing");
    if (r == 0 && v->until > 0 && v->until <= v->since)
        r = error_note(-UMBRA_E_USAGE, "--until has to be later than --since");
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = ask_page(&changes, 0, &first);
    if (r < 0)
        return r;
    r = cli->json ? print_json(&changes, first) : print_pages(&changes, first);
    return r < 0 ? r : EXIT_DONE;
}

const struct verb verb_volume_shadow = {
    .name = "volume shadow",
    .synopsis = "NAME",
    .summary = "take a shadow: the volume as it is at this moment",
    .options = shadow_options,
    .values_size = sizeof(struct shadow_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_shadow,
};

const struct verb verb_volume_seal = {
    .name = "volume seal",
    .synopsis = "NAME@N",
    .summary = "end the writable phase of a shadow",
    .options = no_options,
    .words_min = 1,
    .words_max = 1,
    .run = run_seal,
};

const struct verb verb_volume_changed = {
    .name = "volume changed",
    .synopsis = "NAME --since N",
    .summary = "print what was written since a shadow, or between two",
    .options = changed_options,
    .values_size = sizeof(struct changed_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_changed,
};

const struct verb verb_volume_resize = {
    .name = "volume resize",
    .synopsis = "NAME --max-size SIZE",
    .summary = "change how much is kept at most",
    .options = resize_options,
    .values_size = sizeof(struct resize_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_resize,
};

const struct verb verb_volume_protect = {
    .name = "volume protect",
    .synopsis = "NAME shadows|writes",
    .summary = "choose what survives when the diff area is full",
    .options = no_options,
    .words_min = 2,
    .words_max = 2,
    .run = run_protect,
};
