/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra diff B1 B2 */
#include <inttypes.h>
#include <string.h>

#include "basic/error.h"
#include "cli/cli.h"
#include "cli/describe.h"

static const struct option_spec diff_options[] = {{0}};

static const struct {
    char letter;
    const char *name;
} changes[] = {
    [CATALOG_ADDED] = {'+', "added"},       [CATALOG_REMOVED] = {'-', "removed"},
    [CATALOG_MODIFIED] = {'M', "modified"}, [CATALOG_METADATA] = {'U', "attributes"},
    [CATALOG_TYPE_CHANGED] = {'T', "type"},
};

struct comparison {
    const struct cli *cli;
    const struct backup *old_backup, *new_backup;
    uint64_t counts[ELEMENTSOF(changes)];
    bool begun;
};

static void print_json_change(struct comparison *c, enum catalog_change change,
                              const struct entry *old_entry, const struct entry *new_entry)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    json_add_string(object, "change", changes[change].name);
    if (old_entry)
        json_add(object, "old", entry_to_json(c->old_backup, old_entry));
    if (new_entry)
        json_add(object, "new", entry_to_json(c->new_backup, new_entry));
    CLEANUP_FREE char *path = entry_path(new_entry ? new_entry : old_entry);
    json_add_name(object, "path", path ? path : "", path ? strlen(path) : 0);
    json_print_element(object, !c->begun);
}

static int on_change(enum catalog_change change, const struct entry *old_entry,
                     const struct entry *new_entry, void *userdata)
{
    struct comparison *c = userdata;
    c->counts[change]++;
    if (c->cli->json)
        print_json_change(c, change, old_entry, new_entry);
    else {
        CLEANUP_FREE char *path = entry_path(new_entry ? new_entry : old_entry);
        printf("%c ", changes[change].letter);
        print_escaped(path ? path : "?", path ? strlen(path) : 1);
        putchar('\n');
    }
    c->begun = true;
    if (output_broken() || atomic_load(&c->cli->progress->cancelled))
        return error_note(-UMBRA_E_CANCELLED, "interrupted");
    return 0;
}

static void print_counts(const struct comparison *c)
{
    printf("%" PRIu64 " added, %" PRIu64 " removed, %" PRIu64 " modified, %" PRIu64
           " with other attributes, %" PRIu64 " of another type\n",
           c->counts[CATALOG_ADDED], c->counts[CATALOG_REMOVED], c->counts[CATALOG_MODIFIED],
           c->counts[CATALOG_METADATA], c->counts[CATALOG_TYPE_CHANGED]);
}

/* Counts come last, when they are known; the open array keeps memory small. */
static int compare_json(struct comparison *c, const struct catalog_store *store)
{
    CLEANUP_JSON struct json_object *head = json_new_object();
    CLEANUP_JSON struct json_object *counts = json_new_object();
    json_add_string(head, "old", c->old_backup->id);
    json_add_string(head, "new", c->new_backup->id);
    json_print_open(head, "changes");
    int r = catalog_diff(store, &c->old_backup->catalog, &c->new_backup->catalog, on_change, c);
    for (size_t i = 0; i < ELEMENTSOF(changes); i++)
        json_add_uint(counts, changes[i].name, c->counts[i]);
    json_print_close("summary", counts);
    return r;
}

static int run_diff(struct cli *cli, void *values, char **words, int word_count)
{
    (void)values;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(backup_freep) struct backup *old_backup = NULL;
    CLEANUP(backup_freep) struct backup *new_backup = NULL;
    CLEANUP(page_reader_freep) struct page_reader *reader = NULL;
    int r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = cli_find_backup(repo, words[0], &old_backup);
    if (r == 0)
        r = cli_find_backup(repo, words[1], &new_backup);
    if (r == 0)
        r = page_reader_new(repo, &reader);
    if (r < 0)
        return r;
    struct comparison c = {.cli = cli, .old_backup = old_backup, .new_backup = new_backup};
    const struct catalog_store *store = page_reader_store(reader);
    if (cli->json)
        return compare_json(&c, store);
    r = catalog_diff(store, &old_backup->catalog, &new_backup->catalog, on_change, &c);
    if (r == 0 && !cli->quiet)
        print_counts(&c);
    return r;
}

const struct verb verb_diff = {
    .name = "diff",
    .synopsis = "BACKUP1 BACKUP2",
    .summary = "show what changed from one backup to another",
    .options = diff_options,
    .words_min = 2,
    .words_max = 2,
    .run = run_diff,
};
