/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/text.h"
#include "cli/passphrase.h"

#define READ_STEP ((size_t)64 << 10)

int cli_open_backend(const struct cli *cli, bool create, struct backend **ret_backend)
{
    if (!cli->repo_url || *cli->repo_url == '\0')
        return error_note(-UMBRA_E_USAGE, "no repository given: use --repo or UMBRA_REPO");
    return backend_open(cli->repo_url, create, ret_backend);
}

/* Not where it is opened: a restore that goes on waits for a repository, and must not make one. */
static int hint_init(int r)
{
    struct error_report why = {0};
    error_save(&why, r);
    return error_note(r, "%s; 'umbra repo init' makes one", why.text);
}

int cli_open_repository_with(const struct cli *cli, struct passphrase *ret_passphrase,
                             struct repository **ret_repo)
{
    CLEANUP(backend_freep) struct backend *backend = NULL;
    CLEANUP(passphrase_release) struct passphrase passphrase = {0};
    int r = cli_open_backend(cli, false, &backend);
    if (r < 0)
        return r == -UMBRA_E_NOT_REPO ? hint_init(r) : r;
    /* "Not a repository" and "too new" are said before anybody is asked for a passphrase. */
    CLEANUP_FREE void *config = NULL;
    size_t config_len;
    struct config_clear clear;
    r = config_read(backend, &config, &config_len, &clear);
    if (r < 0)
        return r == -UMBRA_E_NOT_REPO ? hint_init(r) : r;
    r = passphrase_get(cli->password_file, false, &passphrase);
    if (r < 0)
        return r;
    r = repository_open(TAKE_PTR(backend), passphrase.data, passphrase.len, cli->cache_dir,
                        ret_repo);
    if (r < 0)
        return r;
    *ret_passphrase = passphrase;
    passphrase = (struct passphrase){0};
    return 0;
}

int cli_open_repository(const struct cli *cli, struct repository **ret_repo)
{
    CLEANUP(passphrase_release) struct passphrase passphrase = {0};
    return cli_open_repository_with(cli, &passphrase, ret_repo);
}

int cli_find_backup(const struct repository *repo, const char *name, struct backup **ret_backup)
{
    return backup_find(repo->backend, repo->keyring, repo->names, name, NULL, ret_backup);
}

enum progress_style cli_progress_style(const struct cli *cli)
{
    if (cli->quiet || cli->no_progress || !output_stderr_usable())
        return PROGRESS_NONE;
    if (cli->json)
        return PROGRESS_JSON;
    return output_terminal_columns() > 0 ? PROGRESS_TERMINAL : PROGRESS_LINES;
}

void problem_list_init(struct problem_list *list, bool json)
{
    *list = (struct problem_list){.items = json ? json_new_array() : NULL};
}

void problem_list_release(struct problem_list *list)
{
    json_putp(&list->items);
    *list = (struct problem_list){0};
}

struct json_object *problem_list_count(struct problem_list *list)
{
    list->count++;
    if (!list->items || list->count > PROBLEMS_LISTED_MAX)
        return NULL;
    struct json_object *item = json_new_object();
    json_append(list->items, item);
    return item;
}

void problem_list_add(struct problem_list *list, const char *verb, const char *path,
                      const char *what)
{
    talk_path(verb, path, what);
    struct json_object *item = problem_list_count(list);
    if (!item)
        return;
    json_add_name(item, "path", path, strlen(path));
    json_add_string(item, "problem", what);
}

void problem_list_put(struct problem_list *list, struct json_object *object)
{
    json_add_uint(object, "problem_count", list->count);
    json_add(object, "problems", TAKE_PTR(list->items));
}

char *path_normalise(const char *path)
{
    char *out = malloc(strlen(path) + 1);
    if (!out)
        return NULL;
    size_t len = 0;
    while (*path != '\0') {
        size_t n = strcspn(path, "/");
        if (n == 2 && memcmp(path, "..", 2) == 0) {
            while (len > 0 && out[len - 1] != '/')
                len--;
            len -= len > 0;
        } else if (n > 0 && !(n == 1 && *path == '.')) {
            if (len > 0)
                out[len++] = '/';
            memcpy(out + len, path, n);
            len += n;
        }
        path += n;
        path += *path == '/';
    }
    out[len] = '\0';
    return out;
}

int cli_parse_backup_path(const char *text, char **ret_name, char **ret_path)
{
    size_t len = strcspn(text, ":");
    CLEANUP_FREE char *name = strndup(text, len);
    CLEANUP_FREE char *path = text[len] == ':' ? path_normalise(text + len + 1) : NULL;
    if (!name || (text[len] == ':' && !path))
        return -ENOMEM;
    if (*name == '\0')
        return error_note(-UMBRA_E_USAGE, "no backup named before ':' in '%s'", text);
    *ret_name = TAKE_PTR(name);
    *ret_path = TAKE_PTR(path);
    return 0;
}

static int note_path(int r, const char *path)
{
    CLEANUP_FREE char *escaped = text_escape(path, strlen(path));
    return error_note_describe(r, "cannot find '%s'", escaped ? escaped : "?");
}

int cli_read_file(const char *path, size_t max_bytes, char **ret_text, size_t *ret_len)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", path);
    CLEANUP(buffer_release) struct buffer text = {0};
    for (;;) {
        buffer_reserve(&text, READ_STEP + 1);
        if (buffer_finish(&text) < 0)
            return -ENOMEM;
        ssize_t n = read(fd, text.data + text.len, READ_STEP);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_note_describe(-errno, "cannot read '%s'", path);
        if (n == 0)
            break;
        text.len += (size_t)n;
        if (text.len > max_bytes)
            return error_note(-UMBRA_E_LIMIT, "cannot read '%s': more than %zu bytes", path,
                              max_bytes);
    }
    text.data[text.len] = '\0';
    *ret_len = text.len;
    *ret_text = (char *)TAKE_PTR(text.data);
    return 0;
}

/* Whether the last component must be resolved, too, to become a name. */
static bool ends_in_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *last = slash ? slash + 1 : path;
    return *last == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0;
}

int path_make_absolute(const char *path, char **ret_path)
{
    struct stat st;
    if (*path == '\0')
        return error_note(-UMBRA_E_USAGE, "a path is empty");
    if (lstat(path, &st) < 0)
        return note_path(-errno, path);
    if (ends_in_directory(path)) {
        char *whole = realpath(path, NULL);
        if (!whole)
            return note_path(-errno, path);
        *ret_path = whole;
        return 0;
    }
    const char *slash = strrchr(path, '/');
    CLEANUP_FREE char *parent =
        !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!parent)
        return -ENOMEM;
    CLEANUP_FREE char *resolved = realpath(parent, NULL);
    if (!resolved)
        return note_path(-errno, path);
    const char *base = strcmp(resolved, "/") == 0 ? "" : resolved;
    if (asprintf(ret_path, "%s/%s", base, slash ? slash + 1 : path) < 0)
        return -ENOMEM;
    return 0;
}
