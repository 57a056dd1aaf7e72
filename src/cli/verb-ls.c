/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra ls B[:PATH] */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "cli/describe.h"
#include "tree/key.h"

struct ls_values {
    bool long_format, recursive;
};

static const struct option_spec ls_options[] = {
    {'l', "long", OPTION_FLAG, offsetof(struct ls_values, long_format),
     .help = "show mode, links, owner, size and time, too"},
    {'R', "recursive", OPTION_FLAG, offsetof(struct ls_values, recursive),
     .help = "list everything below, with full paths"},
    {0},
};

/* One listing under way. */
struct listing {
    const struct cli *cli;
    const struct ls_values *values;
    const struct backup *backup;
    const struct catalog_store *store;
    const char *path; /* without leading '/' */
    size_t count;     /* entries printed */
};

static void print_size(const struct entry *e)
{
    if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK)
        printf(" %6" PRIu32 ", %4" PRIu32, e->rdev_major, e->rdev_minor);
    else
        printf(" %12" PRIu64, e->size);
}

static void print_long_head(const struct listing *l, const struct entry *e)
{
    char mode[12], user[16], group[16], when[32];
    CLEANUP_FREE char *user_text = NULL;
    CLEANUP_FREE char *group_text = NULL;
    const char *user_name = owner_name(&l->backup->owners, e->uid, false, user);
    const char *group_name = owner_name(&l->backup->owners, e->gid, true, group);
    user_text = text_escape(user_name, strlen(user_name));
    group_text = text_escape(group_name, strlen(group_name));
    printf("%-10s %3" PRIu32 " %-8s %-8s", entry_mode_text(e, mode), e->nlink,
           user_text ? user_text : "?", group_text ? group_text : "?");
    print_size(e);
    printf(" %s ", format_local_time(e->mtime.sec, when));
}

static void print_name(const struct listing *l, const struct entry *e)
{
    CLEANUP_FREE char *path = entry_path(e);
    size_t name_len;
    const uint8_t *name = key_name(e->key, e->key_len, &name_len);
    if (l->values->recursive || e->key_len == 0)
        print_escaped(path ? path : "?", path ? strlen(path) : 1);
    else
        print_escaped((const char *)name, name_len);
}

static void print_entry(struct listing *l, const struct entry *e)
{
    if (l->cli->json) {
        CLEANUP_JSON struct json_object *object = entry_to_json(l->backup, e);
        json_print_element(object, l->count == 0);
    } else {
        if (l->values->long_format)
            print_long_head(l, e);
        print_name(l, e);
        if (l->values->long_format && e->symlink) {
            fputs(" -> ", stdout);
            print_escaped(e->symlink, strlen(e->symlink));
        }
        putchar('\n');
    }
    l->count++;
}

/*
 * What the keys of all entries to be listed begin with.  The children of one directory stand
 * together under "dir NUL NUL"; everything below it, because keys have NUL where paths have '/',
 * under "dir NUL"; and below the root is everything.
 */
static int listing_prefix(const struct listing *l, struct buffer *prefix)
{
    key_put_children_prefix(prefix, l->path, strlen(l->path));
    int r = buffer_finish(prefix);
    if (r == 0 && l->values->recursive)
        prefix->len = *l->path != '\0' ? prefix->len - 1 : 0;
    return r;
}

static bool begins_with(const struct entry *e, const struct buffer *prefix)
{
    return e->key_len >= prefix->len &&
           (prefix->len == 0 || memcmp(e->key, prefix->data, prefix->len) == 0);
}

static int list_directory(struct listing *l)
{
    CLEANUP(catalog_cursor_freep) struct catalog_cursor *cursor = NULL;
    CLEANUP(buffer_release) struct buffer prefix = {0};
    struct entry *e = NULL;
    int r = listing_prefix(l, &prefix);
    if (r == 0)
        r = catalog_cursor_new(l->store, &l->backup->catalog, &cursor);
    if (r == 0)
        r = catalog_cursor_seek(cursor, prefix.data, prefix.len);
    while (r == 0 && (r = catalog_cursor_next(cursor, &e)) == 0 && e && begins_with(e, &prefix)) {
        if (e->key_len > 0) /* the root is below no directory */
            print_entry(l, e);
        if (output_broken())
            break; /* output_finish() says why */
        if (atomic_load(&l->cli->progress->cancelled))
            return error_note(-UMBRA_E_CANCELLED, "interrupted");
    }
    return r;
}

static int find_entry(const struct listing *l, struct entry *ret_entry)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    key_put_path(&key, l->path, strlen(l->path));
    int r = buffer_finish(&key);
    if (r < 0)
        return r;
    r = catalog_find(l->store, &l->backup->catalog, key.data, key.len, ret_entry);
    if (r != -ENOENT)
        return r;
    CLEANUP_FREE char *escaped = text_escape(l->path, strlen(l->path));
    return error_note(
        -ENOENT,
        "cannot list '/%s': backup %.12s does not have it; paths are whole, as 'umbra "
        "ls %.12s' shows them",
        escaped ? escaped : "?", l->backup->id, l->backup->id);
}

static void json_begin(const struct listing *l)
{
    CLEANUP_JSON struct json_object *head = json_new_object();
    CLEANUP_FREE char *path = NULL;
    if (asprintf(&path, "/%s", l->path) < 0)
        path = NULL;
    json_add_string(head, "backup", l->backup->id);
    json_add_name(head, "path", path ? path : "", path ? strlen(path) : 0);
    /* The entries may be millions: they are written one by one behind an open head. */
    json_print_open(head, "entries");
}

static int list(struct listing *l)
{
    CLEANUP(entry_release) struct entry entry = {0};
    int r = find_entry(l, &entry);
    if (r < 0)
        return r;
    if (l->cli->json)
        json_begin(l);
    if (entry.type == ENTRY_DIRECTORY)
        r = list_directory(l);
    else
        print_entry(l, &entry);
    if (l->cli->json)
        json_print_close(NULL, NULL);
    return r;
}

static int run_ls(struct cli *cli, void *values, char **words, int word_count)
{
    (void)word_count;
    CLEANUP_FREE char *name = NULL;
    CLEANUP_FREE char *path = NULL;
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(backup_freep) struct backup *backup = NULL;
    CLEANUP(page_reader_freep) struct page_reader *reader = NULL;
    int r = cli_parse_backup_path(words[0], &name, &path);
    if (r == 0)
        r = cli_open_repository(cli, &repo);
    if (r == 0)
        r = cli_find_backup(repo, name, &backup);
    if (r == 0)
        r = page_reader_new(repo, &reader);
    if (r < 0)
        return r;
    struct listing listing = {
        .cli = cli,
        .values = values,
        .backup = backup,
        .store = page_reader_store(reader),
        .path = path ? path : "",
    };
    return list(&listing);
}

const struct verb verb_ls = {
    .name = "ls",
    .synopsis = "BACKUP[:PATH]",
    .summary = "list a directory of a backup",
    .options = ls_options,
    .values_size = sizeof(struct ls_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_ls,
};
