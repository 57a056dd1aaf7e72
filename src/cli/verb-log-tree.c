/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra log recover, umbra log discard: of the logs of directory trees */
#include <string.h>

#include "basic/error.h"
#include "cli/atomic.h"

struct recover_values {
    bool all, force;
};

static const struct option_spec recover_options[] = {
    {0, "all", OPTION_FLAG, offsetof(struct recover_values, all),
     .help = "every directory that this machine has a note of"},
    {0, "force", OPTION_FLAG, offsetof(struct recover_values, force),
     .help = "leave alone what somebody else has changed meanwhile"},
    {0},
};

static const struct option_spec no_options[] = {{0}};

struct recovery {
    const struct cli *cli;
    struct json_object *items; /* NULL: not wanted */
    uint64_t count;
    bool failed;
};

static const char *outcome_name(enum treetx_outcome outcome)
{
    switch (outcome) {
    case TREETX_NOTHING: return "nothing";
    case TREETX_STAGE_REMOVED: return "removed";
    case TREETX_ROLLED_BACK: return "rolled-back";
    case TREETX_COMPLETED: return "completed";
    }
    return "?";
}

static void print_one(const char *target, const char *words)
{
    putchar('\'');
    print_escaped(target, strlen(target));
    printf("': %s\n", words ? words : "no atomic change is interrupted");
}

static void add_json(struct recovery *recovery, const char *target, int r,
                     enum treetx_outcome outcome)
{
    struct json_object *item = json_new_object();

    json_add_name(item, "target", target, strlen(target));
    if (r < 0)
        json_add_string(item, "problem", error_text(r));
    else
        json_add_string(item, "outcome", outcome_name(outcome));
    json_append(recovery->items, item);
}

static int report(const char *target, int r, enum treetx_outcome outcome, void *userdata)
{
    struct recovery *recovery = userdata;

    recovery->count++;
    if (recovery->items)
        add_json(recovery, target, r, outcome);
    else if (r >= 0 && !recovery->cli->quiet)
        print_one(target, atomic_describe(outcome));
    if (r < 0) {
        talk_path("cannot recover", target, error_text(r));
        recovery->failed = true;
    }
    return 0;
}

static int recover_one(struct recovery *recovery, const char *target, bool force)
{
    enum treetx_outcome outcome = TREETX_NOTHING;

    int r = treetx_recover(target, force ? TREETX_FORCE : 0, &outcome);
    return report(target, r, outcome, recovery);
}

static int run_recover(struct cli *cli, void *values, char **words, int word_count)
{
    const struct recover_values *v = values;
    CLEANUP_JSON struct json_object *object = NULL;
    struct recovery recovery = {.cli = cli};

    if (v->all && word_count > 0)
        return error_note(-UMBRA_E_USAGE, "either a directory or --all");
    if (v->force && word_count == 0)
        return error_note(-UMBRA_E_USAGE, "--force is for one directory: name it");
    if (cli->json) {
        object = json_new_object();
        recovery.items = json_new_array();
        json_add(object, "recovered", recovery.items);
    }
    int r = word_count > 0 ? recover_one(&recovery, words[0], v->force)
                           : treetx_recover_all(report, &recovery);
    if (r < 0)
        return r;
    if (object)
        json_print(object);
    else if (recovery.count == 0 && !cli->quiet)
        puts("no atomic change is interrupted");
    return recovery.failed ? EXIT_FAILED : EXIT_DONE;
}

static void print_discarded_json(const char *target)
{
    CLEANUP_JSON struct json_object *object = json_new_object();

    json_add_name(object, "target", target, strlen(target));
    json_add_bool(object, "discarded", true);
    json_print(object);
}

static int run_discard(struct cli *cli, void *values _unused_, char **words,
                       int word_count _unused_)
{
    int r = treetx_discard(words[0]);

    if (r < 0)
        return r;
    if (cli->json)
        print_discarded_json(words[0]);
    return EXIT_DONE;
}

const struct verb verb_log_recover = {
    .name = "log recover",
    .synopsis = "[DIR]",
    .summary = "end atomic changes of directories that were interrupted",
    .options = recover_options,
    .values_size = sizeof(struct recover_values),
    .words_max = 1,
    .run = run_recover,
};

const struct verb verb_log_discard = {
    .name = "log discard",
    .synopsis = "DIR",
    .summary = "free what is kept for a rollback of an atomic change",
    .options = no_options,
    .words_min = 1,
    .words_max = 1,
    .run = run_discard,
};
