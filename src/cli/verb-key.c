/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra repo key list|add|remove|change */
#include <errno.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "cli/passphrase.h"
#include "cli/table.h"

static const struct option_spec no_options[] = {{0}};

struct key_values {
    const char *new_password_file;
    const char *label;
};

static const struct option_spec key_options[] = {
    {0, "new-password-file", OPTION_STRING, offsetof(struct key_values, new_password_file),
     .arg = "FILE",
     .help = "take the new passphrase from the first line of FILE (else the terminal)"},
    {0, "label", OPTION_STRING, offsetof(struct key_values, label), .arg = "TEXT",
     .help = "a label for the new passphrase"},
    {0},
};

/* ---- list ---- */

struct key_listing {
    struct text_table table;
    struct json_object *array;
};

static int on_key(const struct key_info *key, void *userdata)
{
    struct key_listing *listing = userdata;
    if (listing->array) {
        struct json_object *object = json_new_object();
        json_add_string(object, "name", key->name);
        json_add_name(object, "label", key->label, strlen(key->label));
        json_add_time(object, "created", key->created_ns);
        json_add_bool(object, "current", key->current);
        json_append(listing->array, object);
        return 0;
    }
    char name[13], when[32];
    CLEANUP_FREE char *label = text_escape(key->label, strlen(key->label));
    (void)snprintf(name, sizeof(name), "%.12s", key->name);
    text_table_row(&listing->table, key->current ? "*" : "", name,
                   format_local_time(key->created_ns / (int64_t)NSEC_PER_SEC, when),
                   label && *label ? label : "-");
    return 0;
}

static int run_list(struct cli *cli, void *values, char **words, int word_count)
{
    (void)values;
    (void)words;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    int r = cli_open_repository(cli, &repo);
    if (r < 0)
        return r;
    struct key_listing listing = {.array = cli->json ? json_new_array() : NULL};
    text_table_begin(&listing.table, 4, "LLLL");
    text_table_row(&listing.table, "", "KEY", "MADE", "LABEL");
    r = key_list(repo->backend, repo->key_name, on_key, &listing);
    if (r == 0 && cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add(object, "keys", TAKE_PTR(listing.array));
        json_print(object);
    } else if (r == 0)
        text_table_print(&listing.table);
    json_putp(&listing.array);
    text_table_release(&listing.table);
    return r;
}

const struct verb verb_repo_key_list = {
    .name = "repo key list",
    .synopsis = "",
    .summary = "list the passphrases",
    .options = no_options,
    .run = run_list,
};

/* ---- add, change, remove ---- */

static int get_new_passphrase(const struct key_values *values, struct passphrase *ret_passphrase)
{
    if (values->new_password_file)
        return passphrase_read_file(values->new_password_file, ret_passphrase);
    return passphrase_ask("New passphrase: ", true, ret_passphrase);
}

/* name: "" when there is no new key. */
static void report(const struct cli *cli, const char *added, const char *removed)
{
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        if (*added)
            json_add_string(object, "added", added);
        if (*removed)
            json_add_string(object, "removed", removed);
        json_print(object);
        return;
    }
    if (*added && !cli->quiet)
        printf("key %.12s added\n", added);
    if (*removed && !cli->quiet)
        printf("key %.12s removed\n", removed);
}

static int add_key(const struct cli *cli, const struct key_values *values,
                   struct repository **ret_repo, char ret_name[65])
{
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(passphrase_release) struct passphrase passphrase = {0};
    int r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = get_new_passphrase(values, &passphrase);
    if (r == 0)
        r = key_add(repo->backend, repo->keyring, passphrase.data, passphrase.len,
                    values->label ? values->label : "", &key_cost_default, ret_name);
    if (r == 0)
        *ret_repo = TAKE_PTR(repo);
    return r;
}

static int run_add(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    char name[65];
    int r = add_key(cli, values, &repo, name);
    if (r == 0)
        report(cli, name, "");
    return r;
}

const struct verb verb_repo_key_add = {
    .name = "repo key add",
    .synopsis = "",
    .summary = "add a passphrase",
    .options = key_options,
    .values_size = sizeof(struct key_values),
    .run = run_add,
};

/* The new key is durable before the old one goes: at no moment is there none. */
static int run_change(struct cli *cli, void *values, char **words, int word_count)
{
    (void)words;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    char name[65];
    int r = add_key(cli, values, &repo, name);
    if (r == 0)
        r = key_remove(repo->backend, repo->key_name);
    if (r == 0)
        report(cli, name, repo->key_name);
    return r;
}

const struct verb verb_repo_key_change = {
    .name = "repo key change",
    .synopsis = "",
    .summary = "replace the passphrase that is used now",
    .options = key_options,
    .values_size = sizeof(struct key_values),
    .run = run_change,
};

struct key_search {
    const char *prefix;
    char name[65];
    size_t count;
};

static int on_candidate(const struct key_info *key, void *userdata)
{
    struct key_search *search = userdata;
    if (strncmp(key->name, search->prefix, strlen(search->prefix)) != 0)
        return 0;
    memcpy(search->name, key->name, sizeof(search->name));
    search->count++;
    return 0;
}

static int run_remove(struct cli *cli, void *values, char **words, int word_count)
{
    (void)values;
    (void)word_count;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    struct key_search search = {.prefix = words[0]};
    /* Whoever removes a key shows that he knows a passphrase that stays or goes. */
    int r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = key_list(repo->backend, repo->key_name, on_candidate, &search);
    if (r == 0)
        r = key_remove(repo->backend, words[0]);
    if (r == 0)
        report(cli, "", search.name);
    return r;
}

const struct verb verb_repo_key_remove = {
    .name = "repo key remove",
    .synopsis = "NAME",
    .summary = "remove a passphrase",
    .options = no_options,
    .words_min = 1,
    .words_max = 1,
    .run = run_remove,
};
