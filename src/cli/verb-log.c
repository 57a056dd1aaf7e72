/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra log dump, umbra log verify */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "cow/log-describe.h"
#include "treetx/treetx.h"
#include "umbra/log.h"

#define TEXT_MAX      512u
#define SAMPLE_BYTES  16u /* of a part that nobody has words for */
#define ID_DIGITS_MAX (2 * UMBRA_LOG_ID_LEN)

struct log_values {
    const char *id;
    bool needed;
};

static const struct option_spec dump_options[] = {
    {0, "id", OPTION_STRING, offsetof(struct log_values, id), .arg = "HEX",
     .help = "refuse a log that has another id"},
    {0, "needed", OPTION_FLAG, offsetof(struct log_values, needed),
     .help = "only records that a recovery would need, none of the older ones"},
    {0},
};

static const struct option_spec verify_options[] = {
    {0, "id", OPTION_STRING, offsetof(struct log_values, id), .arg = "HEX",
     .help = "refuse a log that has another id"},
    {0},
};

struct log_run {
    const struct cli *cli;
    const char *path;
    uint8_t id[UMBRA_LOG_ID_LEN];
    struct umbra_log_scan_options options;
    struct umbra_log_info info;
    uint64_t printed;
};

static int prepare(struct log_run *run, const struct log_values *values)
{
    if (!values->id)
        return 0;
    if (strlen(values->id) != ID_DIGITS_MAX || hex_decode(values->id, run->id, sizeof(run->id)) < 0)
        return error_note(-UMBRA_E_USAGE, "bad value '%s' for --id: expected %u hex digits",
                          values->id, ID_DIGITS_MAX);
    run->options.id = run->id;
    return 0;
}

/* What it is that has no log here, in words for who has named it. */
static int explain(const struct log_run *run, int r)
{
    if (r == -EISDIR)
        return error_note(r,
                          "'%s' is a directory: if it was changed atomically, its log is "
                          "'%s/" TREETX_STAGE_NAME "/log'",
                          run->path, run->path);
    if (r == -UMBRA_E_FOREIGN)
        return error_note(r, "log '%s' has another id than --id says", run->path);
    return r;
}

/* ---- one record ---- */

static const char *client_name(const struct log_run *run, const struct umbra_log_record *record)
{
    bool has_client = record->type == UMBRA_LOG_UPDATE || record->type == UMBRA_LOG_COMPENSATION ||
                      record->type == UMBRA_LOG_NOTE || record->type == UMBRA_LOG_RESTART;
    if (!has_client || record->client >= UMBRA_LOG_CLIENTS_MAX)
        return NULL;
    return run->info.client_names[record->client];
}

static void sample(const char *what, const uint8_t *data, uint32_t len, char *text, size_t size)
{
    char hex[2 * SAMPLE_BYTES + 1];
    uint32_t n = MIN(len, SAMPLE_BYTES);
    size_t used = strlen(text);
    if (len == 0)
        return;
    hex_encode(data, n, hex);
    (void)snprintf(text + used, size - used, "%s%s %s%s", used > 0 ? ", " : "", what, hex,
                   n < len ? "..." : "");
}

/* The words of whose record it is. */
static void (*describer(const struct umbra_log_record *record))(const struct umbra_log_record *,
                                                                char *, size_t)
{
    bool is_change = record->type == UMBRA_LOG_UPDATE || record->type == UMBRA_LOG_COMPENSATION;
    if (!is_change || record->is_void)
        return NULL;
    switch (record->manager) {
    case UMBRA_LOG_MANAGER_TREE: return treetx_log_manager()->describe;
    case UMBRA_LOG_MANAGER_COW: return cow_log_describe;
    default: return NULL;
    }
}

static void describe(const struct umbra_log_record *record, char text[TEXT_MAX])
{
    text[0] = '\0';
    if (describer(record)) {
        describer(record)(record, text, TEXT_MAX);
        return;
    }
    if (record->is_void)
        (void)snprintf(text, TEXT_MAX, "of what was never done");
    sample("redo", record->redo, record->redo_len, text, TEXT_MAX);
    sample("undo", record->undo, record->undo_len, text, TEXT_MAX);
}

static void print_number(const char *name, uint64_t value)
{
    if (value != 0)
        printf("  %s %" PRIu64, name, value);
}

static int print_record(const struct umbra_log_record *record, void *userdata)
{
    const struct log_run *run = userdata;
    const char *client = client_name(run, record);
    char text[TEXT_MAX];

    describe(record, text);
    printf("%12" PRIu64 "  %-16s", record->lsn, umbra_log_record_type_name(record->type));
    print_number("txn", record->txn);
    if (client) {
        printf("  ");
        print_escaped(client, strlen(client));
        printf("  op %u", record->op);
    }
    print_number("prev", record->prev_lsn);
    print_number("undoes", record->undoes_lsn);
    print_number("undo-next", record->undo_next_lsn);
    if (record->redo_len + record->undo_len > 0)
        printf("  %" PRIu32 "+%" PRIu32 " bytes", record->redo_len, record->undo_len);
    puts("");
    if (*text && run->cli->verbose)
        printf("%14s%s\n", "", text);
    return output_broken() ? -EPIPE : 0;
}

static struct json_object *record_as_json(const struct log_run *run,
                                          const struct umbra_log_record *record)
{
    struct json_object *object = json_new_object();
    const char *client = client_name(run, record);
    json_add_uint(object, "lsn", record->lsn);
    json_add_string(object, "type", umbra_log_record_type_name(record->type));
    json_add_uint(object, "txn", record->txn);
    if (client) {
        json_add_name(object, "client", client, strlen(client));
        json_add_string(object, "manager", umbra_log_manager_name(record->manager));
        json_add_uint(object, "op", record->op);
    }
    json_add_uint(object, "prev_lsn", record->prev_lsn);
    json_add_uint(object, "undoes_lsn", record->undoes_lsn);
    json_add_uint(object, "undo_next_lsn", record->undo_next_lsn);
    json_add_bool(object, "void", record->is_void);
    json_add_uint(object, "redo_bytes", record->redo_len);
    json_add_uint(object, "undo_bytes", record->undo_len);
    return object;
}

static void add_hex(struct json_object *object, const char *key, const uint8_t *data, uint32_t len)
{
    CLEANUP_FREE char *hex = malloc(2 * (size_t)len + 1);
    if (!hex)
        return;
    hex_encode(data, len, hex);
    json_add_string(object, key, hex);
}

static int print_record_json(const struct umbra_log_record *record, void *userdata)
{
    struct log_run *run = userdata;
    CLEANUP_JSON struct json_object *object = record_as_json(run, record);
    if (run->cli->verbose) {
        add_hex(object, "redo", record->redo, record->redo_len);
        add_hex(object, "undo", record->undo, record->undo_len);
    }
    json_print_element(object, run->printed++ == 0);
    return output_broken() ? -EPIPE : 0;
}

/* ---- the log as a whole ---- */

static const char *describe_areas(const struct umbra_log_info *info)
{
    if (info->area_good[0] && info->area_good[1])
        return "both good";
    return info->area_good[0] ? "the second is damaged" : "the first is damaged";
}

static void print_info(const struct umbra_log_info *info)
{
    char id[ID_DIGITS_MAX + 1], size[16];
    hex_encode(info->id, sizeof(info->id), id);
    printf("log %s: format %u, %s, incarnation %" PRIu32 "\n", id, info->version,
           text_format_bytes(info->file_bytes, size), info->incarnation);
    printf("restart areas: %s\n", describe_areas(info));
    for (unsigned i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        if (*info->client_names[i]) {
            printf("client %u: ", i);
            print_escaped(info->client_names[i], strlen(info->client_names[i]));
            puts("");
        }
    if (info->checkpoint_lsn != 0)
        printf("checkpoint at LSN %" PRIu64 ": redo from LSN %" PRIu64 ", undo from LSN %" PRIu64
               "\n",
               info->checkpoint_lsn, info->redo_lsn, info->oldest_lsn);
    else
        puts("no checkpoint yet");
    printf("end at LSN %" PRIu64 "\n", info->end_lsn);
}

static struct json_object *info_as_json(const struct umbra_log_info *info)
{
    struct json_object *object = json_new_object(), *clients = json_new_array();
    char id[ID_DIGITS_MAX + 1];
    hex_encode(info->id, sizeof(info->id), id);
    json_add_string(object, "id", id);
    json_add_uint(object, "version", info->version);
    json_add_uint(object, "file_bytes", info->file_bytes);
    json_add_uint(object, "ring_bytes", info->ring_bytes);
    json_add_uint(object, "incarnation", info->incarnation);
    json_add_bool(object, "first_area_good", info->area_good[0]);
    json_add_bool(object, "second_area_good", info->area_good[1]);
    json_add_uint(object, "checkpoint_lsn", info->checkpoint_lsn);
    json_add_uint(object, "redo_lsn", info->redo_lsn);
    json_add_uint(object, "oldest_lsn", info->oldest_lsn);
    json_add_uint(object, "end_lsn", info->end_lsn);
    json_add_uint(object, "open_transactions", info->open_txns);
    for (unsigned i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        if (*info->client_names[i])
            json_append(clients,
                        json_name_value(info->client_names[i], strlen(info->client_names[i])));
    json_add(object, "clients", clients);
    return object;
}

/* ---- the verbs ---- */

/* Whether the scan got as far as to know the log. */
static bool is_known(const struct log_run *run)
{
    return run->info.version != 0;
}

static int dump_json(struct log_run *run)
{
    CLEANUP_JSON struct json_object *object = info_as_json(&run->info);
    struct umbra_log_info info;
    run->options.record = print_record_json;
    json_print_open(object, "records");
    int r = umbra_log_scan(run->path, &run->options, &info);
    struct error_report report = {0};
    error_save(&report, r);
    json_print_close(r < 0 ? "problem" : NULL,
                     r < 0 ? json_object_new_string(error_text(r)) : NULL);
    return error_raise(&report);
}

static int run_dump(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    const struct log_values *v = values;
    struct log_run run = {.cli = cli, .path = words[0]};
    struct umbra_log_info info;
    int r = prepare(&run, v);
    if (r < 0)
        return r;
    /* First without records: what it says of the whole comes before them. */
    r = umbra_log_scan(run.path, &run.options, &run.info);
    if (r < 0 && !is_known(&run))
        return explain(&run, r);
    run.options.history = !v->needed;
    run.options.userdata = &run;
    if (cli->json)
        return dump_json(&run);
    print_info(&run.info);
    run.options.record = print_record;
    return umbra_log_scan(run.path, &run.options, &info);
}

static int run_verify(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    struct log_run run = {.cli = cli, .path = words[0]};
    int r = prepare(&run, values);
    if (r < 0)
        return r;
    r = umbra_log_scan(run.path, &run.options, &run.info);
    if (r < 0 && !is_known(&run))
        return explain(&run, r);
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = info_as_json(&run.info);
        json_add_uint(object, "records", run.info.record_count);
        json_add_bool(object, "damaged", r < 0);
        if (r < 0)
            json_add_string(object, "problem", error_text(r));
        json_print(object);
        return r;
    }
    if (r < 0 || cli->quiet)
        return r;
    char records[32];
    print_info(&run.info);
    printf("%s %s are needed and good; %" PRIu32 " %s to undo\n",
           format_count(run.info.record_count, records),
           plural(run.info.record_count, "record", "records"), run.info.open_txns,
           plural(run.info.open_txns, "transaction", "transactions"));
    return EXIT_DONE;
}

const struct verb verb_log_dump = {
    .name = "log dump",
    .synopsis = "FILE",
    .summary = "print the records of a log",
    .options = dump_options,
    .values_size = sizeof(struct log_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_dump,
};

const struct verb verb_log_verify = {
    .name = "log verify",
    .synopsis = "FILE",
    .summary = "check all of a log that a recovery would read",
    .options = verify_options,
    .values_size = sizeof(struct log_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_verify,
};
