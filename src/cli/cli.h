/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the verbs of the umbra command share: global options, the table of verbs, small helpers. */
#pragma once

#include <stdbool.h>

#include "basic/progress.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress-view.h"
#include "repo/repository.h"

/* The exit statuses of umbra: part of its interface. */
enum exit_status {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_INCOMPLETE = 3, /* done, but some files could not be read or restored; each was named */
};

struct cli {
    /* global options */
    const char *repo_url;      /* NULL: not given */
    const char *password_file; /* NULL: not given */
    const char *cache_dir;     /* NULL: the default; "" or "none": none */
    bool json, quiet, verbose, no_progress;
    bool help, version;

    struct progress *progress; /* of the whole program; a signal sets its cancelled */
};

struct verb {
    const char *name;              /* "ls", "repo key add" */
    const char *synopsis;          /* of words and main options: "B[:PATH]" */
    const char *other_synopses[3]; /* other forms, for --help; NULL where there is none */
    const char *summary;           /* one line, lower case */
    const struct option_spec *options;
    size_t values_size; /* of the struct that options fill */
    int words_min, words_max;
    /* words: what is left after the options.  Exit status, or a negative error to be printed. */
    int (*run)(struct cli *cli, void *values, char **words, int word_count);
};

extern const struct verb verb_repo_init, verb_repo_stats, verb_repo_key_list, verb_repo_key_add,
    verb_repo_key_remove, verb_repo_key_change, verb_repo_rebuild_index, verb_backup, verb_list,
    verb_ls, verb_diff, verb_restore, verb_check, verb_status, verb_wait, verb_pause, verb_resume,
    verb_cancel, verb_limit, verb_hydrate, verb_log_dump, verb_log_verify, verb_log_recover,
    verb_log_discard, verb_volume_create, verb_volume_attach, verb_volume_detach, verb_volume_list,
    verb_volume_show, verb_volume_delete, verb_volume_shadow, verb_volume_seal, verb_volume_changed,
    verb_volume_resize, verb_volume_protect;

#define CLI_LIMIT_MAX (1024 * GIB) /* bytes a second of --limit and of limit */

/* Opens the repository of --repo with the passphrase that is configured or asked for. */
_must_check_ int cli_open_repository(const struct cli *cli, struct repository **ret_repo);
/* The same, and gives the passphrase away. */
struct passphrase;
_must_check_ int cli_open_repository_with(const struct cli *cli, struct passphrase *ret_passphrase,
                                          struct repository **ret_repo);
/* Opens the backend of --repo alone.  -UMBRA_E_USAGE when none is given. */
_must_check_ int cli_open_backend(const struct cli *cli, bool create, struct backend **ret_backend);
_must_check_ int cli_find_backup(const struct repository *repo, const char *name,
                                 struct backup **ret_backup);

/* How progress is to be shown under these options, on this standard error. */
enum progress_style cli_progress_style(const struct cli *cli);

/* What could not be done, for the JSON summary, which lists the first PROBLEMS_LISTED_MAX.  One
 * thread at a time. */
#define PROBLEMS_LISTED_MAX 100000
struct problem_list {
    struct json_object *items; /* NULL: not wanted */
    uint64_t count;
};
void problem_list_init(struct problem_list *list, bool json);
void problem_list_release(struct problem_list *list);
/* Counts one; a new object of the list to describe it in, or NULL when that is not wanted. */
struct json_object *problem_list_count(struct problem_list *list);
/* Counts a file, and says "umbra: <verb> '<path>': <what>". */
void problem_list_add(struct problem_list *list, const char *verb, const char *path,
                      const char *what);
/* Adds the members "problems" and "problem_count". */
void problem_list_put(struct problem_list *list, struct json_object *object);

/* A small text file of the user's, malloc'ed (with a NUL byte behind it). */
_must_check_ int cli_read_file(const char *path, size_t max_bytes, char **ret_text,
                               size_t *ret_len);

/* "B[:PATH]" taken apart.  *ret_path: as catalogs have it (no leading '/', "" for the root), or
 * NULL when there was no ':'.  Both malloc'ed. */
_must_check_ int cli_parse_backup_path(const char *text, char **ret_name, char **ret_path);
/* A path without empty and "." components, ".." taken away with the name before it, no '/' at its
 * ends.  malloc'ed; NULL without memory. */
char *path_normalise(const char *path);
/* An absolute path for an existing file: its directory resolved, its last component not (unless
 * that is "." or "..", or a '/' follows). */
_must_check_ int path_make_absolute(const char *path, char **ret_path);
