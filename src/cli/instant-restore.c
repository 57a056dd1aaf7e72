/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starting instant restores, and starting them again.
 *
 * A restore that is started anew takes what it is to do from the record on its target.  That may be
 * a disk from anywhere, so what could make root run or overwrite something (commands as sources,
 * the places of the cache and of load orders) is only taken from it when this machine has noted the
 * same restore itself.
 */
#include "cli/instant-restore.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/instant.h"
#include "cli/passphrase.h"
#include "cli/private-mount.h"
#include "filter/gate-holder.h"
#include "repo/keys.h"
#include "restore/instant-note.h"
#include "restore/load-order.h"
#include "tree/exclude.h"

static int copy_string(const char *text, char **ret_copy)
{
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    *ret_copy = copy;
    return 0;
}

/* The memory changes hands; it is of the same kind. */
static void take_passphrase(struct passphrase *passphrase, struct instant_config *config)
{
    sodium_free(config->passphrase);
    config->passphrase = (uint8_t *)TAKE_PTR(passphrase->data);
    config->passphrase_len = (uint32_t)passphrase->len;
    passphrase->len = 0;
}

/* The file that a boot can take the passphrase from; NULL: none. */
static int find_password_file(const struct cli *cli, char **ret_path)
{
    struct stat st;
    const char *file = cli->password_file ? cli->password_file : getenv("UMBRA_PASSWORD_FILE");
    *ret_path = NULL;
    if (!file || stat(file, &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    char *path = realpath(file, NULL);
    if (!path)
        return error_note_describe(-errno, "cannot find '%s'", file);
    *ret_path = path;
    return 0;
}

/* ---- the target ---- */

/* Missing parents, too. */
static int make_directory(const char *path)
{
    CLEANUP_FREE char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST)
            return error_note_describe(-errno, "cannot make '%s'", copy);
        *slash = '/';
    }
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make '%s'", path);
    return 0;
}

static bool counts_as_empty(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0;
}

static int check_empty(const char *path)
{
    const struct dirent *entry;
    DIR *dir = opendir(path);
    if (!dir)
        return error_note_describe(-errno, "cannot open '%s'", path);
    do {
        errno = 0;
        entry = readdir(dir);
    } while (entry && counts_as_empty(entry->d_name));
    int r = entry ? -ENOTEMPTY : -errno;
    (void)closedir(dir);
    if (r == -ENOTEMPTY)
        return error_note(r,
                          "'%s' is not empty: use a restore without --instant, which compares with "
                          "what is there, or an empty directory",
                          path);
    return r < 0 ? error_note_describe(r, "cannot read '%s'", path) : 0;
}

static int check_unused(const char *path)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    int r = instant_record_read(path, &record);
    if (r == -ENODATA)
        return check_empty(path);
    if (r < 0)
        return r;
    return error_note(-EBUSY,
                      "'%s' is being restored already: see 'umbra status' and 'umbra restore "
                      "--resume'",
                      path);
}

/* *ret_made: there was none. */
static int prepare_target(const char *target, char **ret_path, bool *ret_made)
{
    struct stat st;
    bool missing = stat(target, &st) < 0 && errno == ENOENT;
    int r = missing ? make_directory(target) : 0;
    if (r < 0)
        return r;
    CLEANUP_FREE char *path = realpath(target, NULL);
    if (!path)
        return error_note_describe(-errno, "cannot find '%s'", target);
    r = check_unused(path);
    if (r < 0)
        return r;
    *ret_path = TAKE_PTR(path);
    *ret_made = missing;
    return 0;
}

/* ---- what is to be done ---- */

static int add_patterns(const struct option_list *list, struct string_vector *patterns)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < list->count; i++)
        r = string_vector_add(patterns, list->items[i].value);
    return r;
}

/* The daemons have no current directory: a directory is made absolute. */
static int add_source(const char *source, struct string_vector *sources)
{
    if (strncmp(source, "dir:", 4) != 0) {
        if (!instant_source_valid(source))
            return error_note(-UMBRA_E_USAGE,
                              "bad source '%s': expected dir:PATH, exec:COMMAND or repo", source);
        return string_vector_add(sources, source);
    }
    CLEANUP_FREE char *path = realpath(source + 4, NULL);
    CLEANUP_FREE char *whole = NULL;
    if (!path)
        return error_note_describe(-errno, "cannot find the source '%s'", source);
    if (asprintf(&whole, "dir:%s", path) < 0) {
        whole = NULL;
        return -ENOMEM;
    }
    return string_vector_add(sources, whole);
}

static int add_sources(const struct option_list *list, struct string_vector *sources)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < list->count; i++)
        r = add_source(list->items[i].value, sources);
    return r;
}

static int set_cache_dir(const struct cli *cli, struct instant_config *config)
{
    const char *dir = cli->cache_dir;
    if (!dir)
        return 0;
    if (*dir == '\0' || strcmp(dir, "none") == 0)
        return copy_string("", &config->cache_dir);
    if (*dir == '/')
        return copy_string(dir, &config->cache_dir);
    CLEANUP_FREE char *here = getcwd(NULL, 0);
    if (!here)
        return error_note_describe(-errno, "cannot find the current directory");
    if (asprintf(&config->cache_dir, "%s/%s", here, dir) < 0) {
        config->cache_dir = NULL;
        return -ENOMEM;
    }
    return 0;
}

static int set_repository(const struct cli *cli, const struct repository *repo,
                          struct instant_config *config)
{
    const char *path = repo->backend->local_path;
    return copy_string(path ? path : cli->repo_url, &config->repo_url);
}

static int set_options(const struct instant_wish *wish, struct instant_config *config)
{
    config->numeric_owner = wish->numeric_owner;
    config->idle = wish->idle;
    config->limit_bytes_per_s = wish->limit_bytes_per_s;
    config->whole_file_max = INSTANT_WHOLE_FILE_MAX_DEFAULT;
    config->deadline_s =
        wish->deadline_s > 0 ? (uint32_t)wish->deadline_s : INSTANT_DEADLINE_S_DEFAULT;
    while (config->restore_id == 0)
        randombytes_buf(&config->restore_id, sizeof(config->restore_id));
    int r = add_patterns(wish->includes, &config->includes);
    if (r == 0)
        r = add_patterns(wish->excludes, &config->excludes);
    if (r == 0)
        r = add_sources(wish->sources, &config->sources);
    return r;
}

/* ---- load orders ---- */

/* A path without links. */
static int check_outside(const char *path, const char *word, const char *target)
{
    size_t len = strlen(target);
    if (strncmp(path, target, len) != 0 || (len != 1 && path[len] != '/' && path[len] != '\0'))
        return 0;
    return error_note(-UMBRA_E_USAGE, "'%s' is in '%s', which is to be restored", word, target);
}

/* What is wrong with a list is said where somebody reads it; the rest of it is used. */
static int set_load_order(const struct cli *cli, const char *file, struct instant_config *config)
{
    CLEANUP(load_order_freep) struct load_order *order = NULL;
    CLEANUP_FREE char *path = realpath(file, NULL);
    char count[32];
    if (!path)
        return error_note_describe(-errno, "cannot read the load order '%s'", file);
    int r = check_outside(path, file, config->target); /* it may be one of the placeholders */
    if (r == 0)
        r = load_order_read(path, &order);
    if (r < 0)
        return r;
    uint64_t bad_count = load_order_bad_count(order);
    if (bad_count > 0 && !cli->quiet)
        talk("load order '%s': %s %s no path, and %s ignored", file, format_count(bad_count, count),
             plural(bad_count, "line is", "lines are"), plural(bad_count, "is", "are"));
    free(config->load_order);
    config->load_order = TAKE_PTR(path);
    return 0;
}

/* The file is made by the service, and must not become one of those that are restored. */
static int set_record_order(const char *file, const char *target, struct instant_config *config)
{
    CLEANUP_FREE char *copy = strdup(file);
    if (!copy)
        return -ENOMEM;
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : file;
    if (slash)
        slash[slash == copy] = '\0'; /* "/name" is in "/" */
    CLEANUP_FREE char *dir = realpath(slash ? copy : ".", NULL);
    if (!dir)
        return error_note_describe(-errno, "cannot find the directory of '%s'", file);
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return error_note(-UMBRA_E_USAGE, "'%s' is no name for a file", file);
    int r = check_outside(dir, file, target);
    if (r < 0)
        return r;
    free(config->record_order);
    if (asprintf(&config->record_order, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) < 0) {
        config->record_order = NULL;
        return -ENOMEM;
    }
    return 0;
}

static int set_orders(const struct cli *cli, const struct instant_wish *wish,
                      struct instant_config *config)
{
    int r = wish->load_order ? set_load_order(cli, wish->load_order, config) : 0;
    if (r == 0 && wish->record_order)
        r = set_record_order(wish->record_order, config->target, config);
    return r;
}

/* Patterns are refused here, where somebody reads the words. */
static int check_patterns(const struct string_vector *patterns, const char *option)
{
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
    int r = exclude_set_new(&set);
    for (size_t i = 0; r == 0 && i < patterns->count; i++)
        r = exclude_set_add(set, patterns->items[i], strlen(patterns->items[i]), option);
    return r;
}

static int set_subpath(const char *path, struct instant_config *config)
{
    if (!path || *path == '\0')
        return 0;
    if (asprintf(&config->subpath, "/%s", path) < 0) {
        config->subpath = NULL;
        return -ENOMEM;
    }
    return 0;
}

/* ---- how it went ---- */

static void print_json(const struct instant_config *config, const struct instant_report *report,
                       double seconds)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    char id[INSTANT_ID_LEN + 1];
    instant_id_format(config->restore_id, id);
    json_add_string(object, "restore", id);
    json_add_string(object, "backup", config->backup_id);
    json_add_name(object, "target", config->target, strlen(config->target));
    json_add_bool(object, "usable", true);
    json_add_uint(object, "files", report->file_count);
    json_add_uint(object, "directories", report->directory_count);
    json_add_uint(object, "size_bytes", report->size_bytes);
    json_add_uint(object, "problem_count", report->problem_count);
    json_add_double(object, "seconds", seconds);
    json_print(object);
}

static int tell_ready(const struct cli *cli, const struct instant_config *config,
                      const struct instant_report *report, double seconds)
{
    char files[32], size[16];
    if (cli->json)
        print_json(config, report, seconds);
    else if (!cli->quiet) {
        putchar('\'');
        print_escaped(config->target, strlen(config->target));
        printf("' is usable after %.1f s: %s %s, %s, stream in behind; see 'umbra status'\n",
               seconds, format_count(report->file_count, files),
               plural(report->file_count, "file", "files"),
               text_format_bytes(report->size_bytes, size));
    }
    if (report->problem_count == 0)
        return EXIT_DONE;
    talk("restore is incomplete: %" PRIu64 " %s, see 'umbra status'", report->problem_count,
         plural(report->problem_count, "problem", "problems"));
    return EXIT_INCOMPLETE;
}

/* ---- a new one ---- */

/* Leaves nothing behind when nothing has begun.  r is what went wrong. */
static int undo(const struct instant_config *config, bool made, int r)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    struct error_report why = {0};
    error_save(&why, r);
    if (instant_record_read(config->target, &record) == -ENODATA) {
        IGNORE_RESULT(instant_note_remove(config->restore_id));
        if (made)
            (void)rmdir(config->target);
    }
    return error_raise(&why);
}

static int note_and_start(const struct cli *cli, const struct instant_config *config,
                          const char *password_file, struct instant_report *ret_report)
{
    CLEANUP_CLOSE int held_fd = -EBADF;
    int r = instant_note_hold(&held_fd);
    if (r == 0)
        r = instant_note_write(config, password_file);
    return r < 0 ? r : instant_start(config, held_fd, cli->progress, ret_report);
}

static int start(const struct cli *cli, const struct instant_config *config, bool made,
                 uint64_t begun_ns)
{
    CLEANUP_FREE char *password_file = NULL;
    struct instant_report report;
    int r = find_password_file(cli, &password_file);
    if (r == 0)
        r = note_and_start(cli, config, password_file, &report);
    if (r < 0)
        return r == -UMBRA_E_CANCELLED ? r : undo(config, made, r);
    return tell_ready(cli, config, &report, (double)(monotonic_ns() - begun_ns) / 1e9);
}

static int find_backup(const struct cli *cli, const char *name, struct instant_config *config)
{
    CLEANUP(passphrase_release) struct passphrase passphrase = {0};
    CLEANUP(repository_freep) struct repository *repo = NULL;
    CLEANUP(backup_freep) struct backup *backup = NULL;
    int r = cli_open_repository_with(cli, &passphrase, &repo);
    if (r == 0)
        r = cli_find_backup(repo, name, &backup);
    if (r == 0)
        r = copy_string(backup->id, &config->backup_id);
    if (r == 0)
        r = set_repository(cli, repo, config);
    if (r == 0)
        take_passphrase(&passphrase, config);
    return r;
}

int instant_restore_run(const struct cli *cli, const struct instant_wish *wish, const char *word)
{
    CLEANUP(instant_config_release) struct instant_config config = {0};
    CLEANUP_FREE char *name = NULL;
    CLEANUP_FREE char *path = NULL;
    bool made = false;
    uint64_t begun_ns = monotonic_ns();
    int r = cli_parse_backup_path(word, &name, &path);
    if (r == 0)
        r = set_subpath(path, &config);
    if (r == 0)
        r = set_options(wish, &config);
    if (r == 0)
        r = check_patterns(&config.includes, "--include");
    if (r == 0)
        r = check_patterns(&config.excludes, "--exclude");
    if (r == 0)
        r = set_cache_dir(cli, &config);
    if (r == 0)
        r = instant_need_root();
    if (r == 0)
        r = find_backup(cli, name, &config);
    if (r == 0)
        r = prepare_target(wish->target, &config.target, &made);
    if (r < 0)
        return r;
    r = set_orders(cli, wish, &config);
    return r < 0 ? undo(&config, made, r) : start(cli, &config, made, begun_ns);
}

/* ---- going on ---- */

static bool has_source(const struct string_vector *sources, const char *source)
{
    for (size_t i = 0; i < sources->count; i++)
        if (strcmp(sources->items[i], source) == 0)
            return true;
    return false;
}

/* Takes out of the record what only this machine's own note may say. */
static int distrust(struct instant_config *config, bool sources_given)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    int r = instant_note_read(config->restore_id, &note);
    if (r < 0 && r != -ENOENT)
        return r;
    free(config->cache_dir);
    free(config->load_order);
    free(config->record_order);
    config->cache_dir = TAKE_PTR(note.cache_dir);
    config->load_order = TAKE_PTR(note.load_order);
    config->record_order = TAKE_PTR(note.record_order);
    for (size_t i = 0; i < config->sources.count && !sources_given; i++) {
        const char *source = config->sources.items[i];
        if (strncmp(source, "exec:", 5) == 0 && !has_source(&note.sources, source))
            return error_note(-EPERM,
                              "the record on '%s' names a command to run, '%s', that was not given "
                              "on this machine: give the sources with --source",
                              config->target, source);
    }
    return 0;
}

/* The variable is for new work; what has begun knows its repository, unless it is told another. */
static bool repository_given(const struct cli *cli)
{
    return cli->repo_url && *cli->repo_url != '\0' && cli->repo_url != getenv("UMBRA_REPO");
}

static int override_repository(const struct cli *cli, struct instant_config *config)
{
    CLEANUP(backend_freep) struct backend *backend = NULL;
    int r = backend_open(cli->repo_url, false, &backend);
    if (r < 0)
        return r;
    free(config->repo_url);
    config->repo_url = NULL;
    return copy_string(backend->local_path ? backend->local_path : cli->repo_url,
                       &config->repo_url);
}

/* Options given now are instead of those given then. */
static int override(const struct cli *cli, const struct instant_wish *wish, const char *target,
                    struct instant_config *config)
{
    free(config->target);
    config->target = NULL;
    int r = copy_string(target, &config->target);
    if (r == 0)
        r = distrust(config, wish->sources->count > 0);
    if (r == 0 && wish->sources->count > 0) {
        string_vector_release_all(&config->sources);
        r = add_sources(wish->sources, &config->sources);
    }
    if (r == 0)
        r = set_orders(cli, wish, config);
    if (r == 0 && cli->cache_dir) {
        free(config->cache_dir);
        config->cache_dir = NULL;
        r = set_cache_dir(cli, config);
    }
    if (r == 0 && repository_given(cli))
        r = override_repository(cli, config);
    config->idle = config->idle || wish->idle;
    if (wish->deadline_s > 0)
        config->deadline_s = (uint32_t)wish->deadline_s;
    return r;
}

/* A repository that cannot be reached must not keep the gate from standing: readers then wait. */
static int check_passphrase(const struct instant_config *config)
{
    CLEANUP(backend_freep) struct backend *backend = NULL;
    CLEANUP(keyring_freep) struct keyring *keyring = NULL;
    char name[65];
    int r = backend_open(config->repo_url, false, &backend);
    if (r == 0)
        r = key_open(backend, config->passphrase, config->passphrase_len, &keyring, name);
    if (r == -UMBRA_E_PASSPHRASE || r == -ENOMEM)
        return r;
    if (r < 0)
        talk("the repository cannot be reached now, who reads will wait: %s", error_text(r));
    return 0;
}

static int use_passphrase(const struct passphrase *passphrase, struct instant_config *config)
{
    config->passphrase = sodium_malloc(MAX(passphrase->len, (size_t)1));
    if (!config->passphrase)
        return error_note(-ENOMEM, "cannot allocate locked memory");
    memcpy(config->passphrase, passphrase->data, passphrase->len);
    config->passphrase_len = (uint32_t)passphrase->len;
    return check_passphrase(config);
}

struct resume {
    const struct cli *cli;
    const struct instant_wish *wish;
    struct passphrase passphrase; /* asked for once */
};

static void resume_release(struct resume *resume)
{
    passphrase_release(&resume->passphrase);
}

static bool passphrase_given(const struct resume *resume)
{
    return resume->passphrase.data || resume->cli->password_file || getenv("UMBRA_PASSWORD_FILE") ||
           getenv("UMBRA_PASSWORD");
}

/* The file that it came from when the restore began, unless there is word of another. */
static int resume_passphrase(struct resume *resume, struct instant_config *config,
                             char **ret_password_file)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    CLEANUP(passphrase_release) struct passphrase noted = {0};
    int r = instant_note_read(config->restore_id, &note);
    if (r < 0 && r != -ENOENT)
        return r;
    if (note.password_file && !passphrase_given(resume)) {
        r = passphrase_read_file(note.password_file, &noted);
        *ret_password_file = TAKE_PTR(note.password_file);
        return r < 0 ? r : use_passphrase(&noted, config);
    }
    r = find_password_file(resume->cli, ret_password_file);
    if (r == 0 && !*ret_password_file)
        *ret_password_file = TAKE_PTR(note.password_file);
    if (r == 0 && !resume->passphrase.data)
        r = passphrase_get(resume->cli->password_file, false, &resume->passphrase);
    return r < 0 ? r : use_passphrase(&resume->passphrase, config);
}

/* The limit that was told last is in the record, and the service goes by it. */
static int tell_limit(const struct instant_wish *wish, const char *target)
{
    CLEANUP(instant_choice_release) struct instant_choice choice = {0};
    CLEANUP_JSON struct json_object *request = instant_request("limit");
    CLEANUP_JSON struct json_object *response = NULL;
    if (wish->limit_bytes_per_s == 0)
        return 0;
    json_add_uint(request, "bytes_per_s", wish->limit_bytes_per_s);
    int r = instant_choose(target, &choice);
    if (r == 0)
        r = instant_send(choice.socket_path, request, &response);
    return r == -ENODATA || instant_is_gone(r) ? 0 : r; /* it has ended */
}

/* Also when it has only come to wait for its repository. */
static int start_again(const struct resume *resume, const struct instant_config *config,
                       const char *password_file, struct instant_report *ret_report)
{
    struct error_report why = {0};
    int r = note_and_start(resume->cli, config, password_file, ret_report);
    if (r == 0)
        return tell_limit(resume->wish, config->target);
    error_save(&why, r);
    if (instant_is_running(config->restore_id))
        IGNORE_RESULT(tell_limit(resume->wish, config->target));
    return error_raise(&why);
}

/* Exit status, or a negative error. */
static int resume_target(struct resume *resume, const char *target)
{
    CLEANUP(instant_config_release) struct instant_config config = {0};
    struct instant_report report;
    CLEANUP_FREE char *password_file = NULL;
    CLEANUP_FREE char *path = realpath(target, NULL);
    if (!path)
        return error_note_describe(-errno, "cannot find '%s'", target);
    int r = instant_record_read(path, &config);
    if (r < 0)
        return r;
    if (instant_is_running(config.restore_id)) {
        if (!resume->cli->quiet)
            talk("the restore of '%s' is running already", path);
        return EXIT_DONE;
    }
    r = override(resume->cli, resume->wish, path, &config);
    if (r == 0)
        r = resume_passphrase(resume, &config, &password_file);
    uint64_t begun_ns = monotonic_ns();
    if (r == 0)
        r = start_again(resume, &config, password_file, &report);
    if (r < 0)
        return r;
    return tell_ready(resume->cli, &config, &report, (double)(monotonic_ns() - begun_ns) / 1e9);
}

/* One that fails does not keep the others from going on. */
static int resume_noted(struct resume *resume, const struct instant_note *note, bool *resumed)
{
    enum instant_note_state state;
    bool dropped;
    int r = instant_note_look(note, &state);
    if (r == 0 && state == INSTANT_NOTE_STALE)
        return instant_note_drop(note, state, &dropped);
    if (r == 0 && state != INSTANT_NOTE_UNFINISHED) {
        talk("cannot go on with the restore of '%s': %s", note->target,
             state == INSTANT_NOTE_REPLACED ? "this is not the directory that it began in"
                                            : "it is not mounted");
        return EXIT_INCOMPLETE;
    }
    *resumed = true;
    if (r == 0)
        r = resume_target(resume, note->target);
    return r;
}

static int resume_all(struct resume *resume)
{
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector notes = {0};
    int outcome = EXIT_DONE;
    bool resumed = false;
    int r = instant_note_list(&notes);
    if (r < 0)
        return r;
    for (size_t i = 0; i < notes.count; i++) {
        r = resume_noted(resume, &notes.items[i], &resumed);
        if (r == -UMBRA_E_CANCELLED)
            return r;
        if (r < 0) {
            talk("%s", error_text(r));
            outcome = EXIT_FAILED;
        } else if (outcome == EXIT_DONE)
            outcome = r;
    }
    if (!resumed && outcome == EXIT_DONE && !resume->cli->quiet)
        talk("there is no interrupted restore");
    return outcome;
}

/* ---- before a volume is mounted ----
 *
 * The exit status says whether others may see the volume: what is not filled in must have a gate
 * before it, or not be there. */

static bool gate_stands(const char *target)
{
    uint64_t holder;
    int r = gate_holder(target, &holder);
    if (r < 0 && r != -ENOENT)
        talk("%s", error_text(r));
    return r == 0;
}

/* A restore that was not begun yet is taken back when it cannot go on. */
static bool is_taken_back(const struct instant_note *note)
{
    enum instant_note_state state;
    return instant_note_look(note, &state) == 0 && state == INSTANT_NOTE_STALE;
}

/* Readers wait at a gate that has no repository, and get an error at one of another restore. */
static int resume_behind_gate(struct resume *resume, const struct instant_note *note)
{
    struct error_report why = {0};
    int r = resume_target(resume, note->target);
    if (r == EXIT_DONE)
        return r;
    if (r < 0)
        error_save(&why, r);
    bool taken_back = is_taken_back(note);
    if (!taken_back && !gate_stands(note->target))
        return r < 0 ? error_raise(&why) : r;
    if (r < 0)
        talk("%s", why.text);
    return taken_back ? instant_note_remove(note->restore_id) : EXIT_DONE;
}

static int resume_unmounted(struct resume *resume, const struct instant_note *note)
{
    enum instant_note_state state;
    bool dropped;
    if (!note->mount_point)
        return error_note(-ENODATA, "the note about the restore of '%s' names no mount point",
                          note->target);
    int r = private_mount(note->mount_point);
    if (r == 0)
        r = instant_note_look(note, &state);
    if (r < 0)
        return r;
    switch (state) {
    case INSTANT_NOTE_UNFINISHED: return resume_behind_gate(resume, note);
    case INSTANT_NOTE_STALE: return instant_note_drop(note, state, &dropped);
    case INSTANT_NOTE_ELSEWHERE:
        talk("'%s' is of another file system than the restore that began there", note->target);
        return EXIT_DONE;
    default: break;
    }
    char id[INSTANT_ID_LEN + 1];
    instant_id_format(note->restore_id, id);
    return error_note(-ENOENT,
                      "'%s' is not %s, and files of its restore may be elsewhere on '%s'; to "
                      "use that nevertheless, remove '" INSTANT_NOTE_DIR "/%s.json'",
                      note->target, state == INSTANT_NOTE_REPLACED ? "what it was" : "there",
                      note->mount_point, id);
}

int instant_resume_private_run(const struct cli *cli, const struct instant_wish *wish,
                               const char *id)
{
    CLEANUP(resume_release) struct resume resume = {.cli = cli, .wish = wish};
    CLEANUP(instant_note_release) struct instant_note note = {0};
    uint64_t restore_id;
    int r = instant_need_root();
    if (r < 0)
        return r;
    if (instant_id_parse(id, &restore_id) < 0)
        return error_note(-UMBRA_E_USAGE, "'%s' is not the id of a restore", id);
    if (instant_is_running(restore_id))
        return EXIT_DONE;
    r = instant_note_read(restore_id, &note);
    if (r == -ENOENT)
        return EXIT_DONE; /* it has ended */
    if (r < 0)
        return error_prefix(r, "cannot read the note '" INSTANT_NOTE_DIR "/%s.json'", id);
    return resume_unmounted(&resume, &note);
}

int instant_resume_run(const struct cli *cli, const struct instant_wish *wish)
{
    CLEANUP(resume_release) struct resume resume = {.cli = cli, .wish = wish};
    int r = instant_need_root();
    if (r < 0)
        return r;
    return wish->target ? resume_target(&resume, wish->target) : resume_all(&resume);
}
