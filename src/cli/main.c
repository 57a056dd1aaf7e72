/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umbra: finds the verb, parses its options, runs it, and turns the outcome into an exit status and
 * at most one line of words.
 *
 * Verbs are a flat table of full names ("repo key add"); a word is descended into as long as some
 * verb's name begins with what was read so far.  Global options may stand anywhere: before each
 * word of the verb they are parsed alone, after it together with the verb's own.
 *
 * Signals: the first SIGINT, SIGTERM or SIGHUP sets progress.cancelled, and the work ends by itself
 * with -UMBRA_E_CANCELLED; a second one has its default effect at once.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "cli/cli.h"
#include "cli/passphrase.h"

#define VERB_NAME_MAX 64

static const struct verb *const verbs[] = {
    &verb_repo_init,
    &verb_repo_stats,
    &verb_repo_key_list,
    &verb_repo_key_add,
    &verb_repo_key_remove,
    &verb_repo_key_change,
    &verb_repo_rebuild_index,
    &verb_backup,
    &verb_list,
    &verb_ls,
    &verb_diff,
    &verb_restore,
    &verb_status,
    &verb_wait,
    &verb_pause,
    &verb_resume,
    &verb_cancel,
    &verb_limit,
    &verb_hydrate,
    &verb_check,
    &verb_log_dump,
    &verb_log_verify,
    &verb_log_recover,
    &verb_log_discard,
    &verb_volume_create,
    &verb_volume_attach,
    &verb_volume_detach,
    &verb_volume_list,
    &verb_volume_show,
    &verb_volume_delete,
    &verb_volume_shadow,
    &verb_volume_seal,
    &verb_volume_changed,
    &verb_volume_resize,
    &verb_volume_protect,
};

static const struct option_spec global_options[] = {
    {'r', "repo", OPTION_STRING, offsetof(struct cli, repo_url), .arg = "URL",
     .help = "the repository: a directory (else UMBRA_REPO)"},
    {0, "password-file", OPTION_STRING, offsetof(struct cli, password_file), .arg = "FILE",
     .help = "take the passphrase from the first line of FILE (else UMBRA_PASSWORD_FILE, "
             "UMBRA_PASSWORD, "
             "the terminal)"},
    {0, "cache-dir", OPTION_STRING, offsetof(struct cli, cache_dir), .arg = "DIR",
     .help = "keep the index cache below DIR; 'none': keep none"},
    {0, "json", OPTION_FLAG, offsetof(struct cli, json), .help = "print results as JSON"},
    {'q', "quiet", OPTION_FLAG, offsetof(struct cli, quiet), .help = "print errors only"},
    {'v', "verbose", OPTION_FLAG, offsetof(struct cli, verbose), .help = "name every file"},
    {0, "no-progress", OPTION_FLAG, offsetof(struct cli, no_progress), .help = "show no progress"},
    {'h', "help", OPTION_FLAG, offsetof(struct cli, help), .help = "print this help"},
    {0, "version", OPTION_FLAG, offsetof(struct cli, version), .help = "print the version"},
    {0},
};

static struct progress program_progress;

static void on_signal(int signal_number)
{
    if (atomic_exchange(&program_progress.cancelled, 1) == 0)
        return;
    (void)signal(signal_number, SIG_DFL);
    (void)raise(signal_number);
}

static void catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
        struct sigaction old;
        /* nohup(1) and background jobs have them ignored: that stays. */
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(signals[i], &action, NULL);
    }
}

/* Whether the verb's name is prefix, or begins with prefix and a blank. */
static bool name_begins(const char *name, const char *prefix)
{
    size_t len = strlen(prefix);
    return len == 0 || (strncmp(name, prefix, len) == 0 && (name[len] == ' ' || name[len] == '\0'));
}

static const struct verb *verb_by_name(const char *name)
{
    for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

static bool group_exists(const char *name)
{
    for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
        if (name_begins(verbs[i]->name, name))
            return true;
    return false;
}

static void print_group_help(const char *group)
{
    bool top = *group == '\0';
    if (top)
        puts("umbra: deduplicated, encrypted backups\n");
    printf("Usage: umbra [OPTIONS] %s%sCOMMAND ...\n\nCommands:\n", group, top ? "" : " ");
    for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
        if (name_begins(verbs[i]->name, group))
            printf("  %-26s  %s\n", verbs[i]->name, verbs[i]->summary);
    puts("\nOptions of all commands:");
    options_print_help(stdout, global_options);
    puts("\nExit status: 0 done, 1 failed, 2 usage, 3 done but incomplete.");
    puts("More: umbra COMMAND --help, umbra(1), umbra-volume(1), umbra-repository(5).");
}

static void print_verb_help(const struct verb *verb)
{
    printf("Usage: umbra %s [OPTIONS]%s%s\n", verb->name, *verb->synopsis ? " " : "",
           verb->synopsis);
    for (size_t i = 0; i < ELEMENTSOF(verb->other_synopses) && verb->other_synopses[i]; i++)
        printf("       umbra %s [OPTIONS] %s\n", verb->name, verb->other_synopses[i]);
    printf("\n%c%s.\n", verb->summary[0] - 'a' + 'A', verb->summary + 1);
    if (verb->options[0].name) {
        puts("\nOptions:");
        options_print_help(stdout, verb->options);
    }
    puts("\nOptions of all commands:");
    options_print_help(stdout, global_options);
}

static int print_help(const char *name)
{
    const struct verb *verb = verb_by_name(name);
    if (verb)
        print_verb_help(verb);
    else
        print_group_help(name);
    return EXIT_DONE;
}

/* Appends a word to the name of the verb read so far; fails when no verb begins like that. */
static int descend(char name[VERB_NAME_MAX], const char *word)
{
    char longer[VERB_NAME_MAX];
    int len = snprintf(longer, sizeof(longer), "%s%s%s", name, *name ? " " : "", word);
    if (len < 0 || (size_t)len >= sizeof(longer) || strchr(word, ' ') || *word == '\0' ||
        !group_exists(longer)) {
        CLEANUP_FREE char *escaped = text_escape(word, strlen(word));
        return error_note(-UMBRA_E_USAGE, "unknown command '%s%s%s': see 'umbra %s%s--help'", name,
                          *name ? " " : "", escaped ? escaped : "?", name, *name ? " " : "");
    }
    memcpy(name, longer, (size_t)len + 1);
    return 0;
}

static int run_help(char **words, int count)
{
    char name[VERB_NAME_MAX] = "";
    for (int i = 0; i < count; i++) {
        int r = descend(name, words[i]);
        if (r < 0)
            return r;
    }
    return print_help(name);
}

static int check_word_count(const struct verb *verb, int count)
{
    if (count < verb->words_min)
        return error_note(-UMBRA_E_USAGE, "too few arguments: expected 'umbra %s %s'", verb->name,
                          verb->synopsis);
    if (verb->words_max >= 0 && count > verb->words_max)
        return error_note(-UMBRA_E_USAGE, "too many arguments: expected 'umbra %s%s%s'", verb->name,
                          *verb->synopsis ? " " : "", verb->synopsis);
    return 0;
}

/* argv[0] is the last word of the verb's name. */
static int run_verb(struct cli *cli, const struct verb *verb, int argc, char **argv)
{
    CLEANUP_FREE void *values = calloc(1, verb->values_size > 0 ? verb->values_size : 1);
    if (!values)
        return -ENOMEM;
    const struct option_set sets[] = {
        {.specs = verb->options, .values = values},
        {.specs = global_options, .values = cli},
    };
    int index;
    int r = options_parse(sets, ELEMENTSOF(sets), OPTIONS_ANYWHERE, argc, argv, &index);
    if (r == 0 && cli->help)
        r = print_help(verb->name);
    else if (r == 0 && (r = check_word_count(verb, argc - index)) == 0) {
        log_set_level(cli->quiet ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO);
        r = verb->run(cli, values, argv + index, argc - index);
    } else if (r == -UMBRA_E_USAGE)
        r = error_note(r, "%s: see 'umbra %s --help'", error_text(r), verb->name);
    options_release(&sets[0]);
    return r;
}

static int run(struct cli *cli, int argc, char **argv)
{
    const struct option_set set = {.specs = global_options, .values = cli};
    char name[VERB_NAME_MAX] = "";
    for (;;) {
        int index;
        int r = options_parse(&set, 1, OPTIONS_BEFORE_WORDS, argc, argv, &index);
        if (r < 0)
            return r;
        if (cli->version) {
            puts("umbra " UMBRA_VERSION);
            return EXIT_DONE;
        }
        if (cli->help)
            return print_help(name);
        argc -= index;
        argv += index;
        if (argc == 0)
            return error_note(-UMBRA_E_USAGE, "a command is missing: see 'umbra %s%s--help'", name,
                              *name ? " " : "");
        if (*name == '\0' && strcmp(argv[0], "help") == 0)
            return run_help(argv + 1, argc - 1);
        r = descend(name, argv[0]);
        if (r < 0)
            return r;
        const struct verb *verb = verb_by_name(name);
        if (verb)
            return run_verb(cli, verb, argc, argv);
    }
}

static int finish(int r)
{
    if (r < 0) {
        talk("%s", error_text(r));
        r = r == -UMBRA_E_USAGE ? EXIT_USAGE : EXIT_FAILED;
    }
    int broken = output_finish();
    if (broken == 0)
        return r;
    if (error_class(broken) != EPIPE)
        talk("%s", error_text(broken));
    return r == EXIT_DONE || r == EXIT_INCOMPLETE ? EXIT_FAILED : r;
}

int main(int argc, char **argv)
{
    struct cli cli = {
        .repo_url = getenv("UMBRA_REPO"),
        .progress = &program_progress,
    };
    output_init();
    catch_signals();
    int r = passphrase_protect_process();
    if (r == 0)
        r = run(&cli, argc, argv);
    return finish(r);
}
