/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra list */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/text.h"
#include "cli/cli.h"
#include "cli/describe.h"
#include "cli/table.h"

struct list_values {
    const char *host;
    struct option_list tags;
};

static const struct option_spec list_options[] = {
    {0, "host", OPTION_STRING, offsetof(struct list_values, host), .arg = "NAME",
     .help = "only backups of this host"},
    {'t', "tag", OPTION_LIST, offsetof(struct list_values, tags), .arg = "TAG",
     .help = "only backups with this tag; repeated: with all of them"},
    {0},
};

static bool has_tag(const struct backup *backup, const char *tag)
{
    for (size_t i = 0; i < backup->tags.count; i++)
        if (strcmp(backup->tags.items[i], tag) == 0)
            return true;
    return false;
}

static bool is_wanted(const struct backup *backup, const struct list_values *values)
{
    if (values->host && strcmp(values->host, backup->host) != 0)
        return false;
    for (size_t i = 0; i < values->tags.count; i++)
        if (!has_tag(backup, values->tags.items[i].value))
            return false;
    return true;
}

/* The strings, escaped, with a separator between them; malloc'ed, never NULL. */
static char *join(const struct string_vector *strings, const char *separator)
{
    CLEANUP(buffer_release) struct buffer b = {0};
    for (size_t i = 0; i < strings->count; i++) {
        CLEANUP_FREE char *escaped = text_escape(strings->items[i], strlen(strings->items[i]));
        if (i > 0)
            buffer_put(&b, separator, strlen(separator));
        if (escaped)
            buffer_put(&b, escaped, strlen(escaped));
    }
    buffer_put_u8(&b, 0);
    return buffer_finish(&b) < 0 ? NULL : (char *)TAKE_PTR(b.data);
}

/* The saved paths, and whether all of them could be read. */
static char *describe_paths(const struct backup *backup)
{
    CLEANUP_FREE char *paths = join(&backup->roots, " ");
    uint64_t count = backup->stats.problem_count;
    char *text = NULL;
    if (count == 0 || !paths)
        return TAKE_PTR(paths);
    if (asprintf(&text, "%s (incomplete: %" PRIu64 " %s)", paths, count,
                 plural(count, "problem", "problems")) < 0)
        return NULL;
    return text;
}

static void print_table(const struct backup_vector *backups, const struct list_values *values)
{
    CLEANUP(text_table_release) struct text_table table = {0};
    text_table_begin(&table, 7, "LLLLRRL");
    text_table_row(&table, "ID", "TIME", "HOST", "TAGS", "FILES", "SIZE", "PATHS");
    for (size_t i = 0; i < backups->count; i++) {
        const struct backup *b = backups->items[i];
        if (!is_wanted(b, values))
            continue;
        char id[13], when[32], files[32], size[16];
        CLEANUP_FREE char *tags = join(&b->tags, ",");
        CLEANUP_FREE char *paths = describe_paths(b);
        CLEANUP_FREE char *host = text_escape(b->host, strlen(b->host));
        (void)snprintf(id, sizeof(id), "%.12s", b->id);
        text_table_row(&table, id, format_local_time(b->start_ns / (int64_t)NSEC_PER_SEC, when),
                       host ? host : "?", tags && *tags ? tags : "-",
                       format_count(b->stats.file_count, files),
                       text_format_bytes(b->stats.size_bytes, size), paths ? paths : "?");
    }
    text_table_print(&table);
}

static void print_json(const struct backup_vector *backups, const struct list_values *values,
                       size_t damaged_count)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    struct json_object *array = json_new_array();
    for (size_t i = 0; i < backups->count; i++)
        if (is_wanted(backups->items[i], values))
            json_append(array, backup_to_json(backups->items[i]));
    json_add(object, "backups", array);
    json_add_uint(object, "damaged", damaged_count);
    json_print(object);
}

static int run_list(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(backup_vector_release_all) struct backup_vector backups = {0};
    size_t damaged_count = 0;
    int r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = backup_load_all(repo->backend, repo->keyring, repo->names, &backups, &damaged_count);
    if (r < 0)
        return r;
    if (cli->json)
        print_json(&backups, values, damaged_count);
    else
        print_table(&backups, values);
    if (damaged_count == 0)
        return EXIT_DONE;
    talk("list is incomplete: %zu %s cannot be read (see 'umbra check')", damaged_count,
         plural(damaged_count, "backup", "backups"));
    return EXIT_INCOMPLETE;
}

const struct verb verb_list = {
    .name = "list",
    .synopsis = "",
    .summary = "list the backups",
    .options = list_options,
    .values_size = sizeof(struct list_values),
    .run = run_list,
};
