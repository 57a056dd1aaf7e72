/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instant restores with settings that no user needs:
 *
 *     instant start PROGRAMS REPO BACKUP TARGET ID [KEY=VALUE]...
 *     instant ask ID JSON
 *
 * PROGRAMS is the directory of the daemons, BACKUP the whole id, ID 16 hex digits.  The passphrase
 * is in UMBRA_PASSWORD.  Keys: deadline (s), limit (bytes/s), whole (bytes: files up to that are
 * filled when they are opened), source (may come several times), phase (filling: go on after all
 * processes have died), cache, load_order and record_order (absolute).  ask prints the response.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "control/control.h"
#include "restore/instant-private.h"

#define ASK_TIME_MS 20000

static int complain(int r)
{
    (void)fprintf(stderr, "instant: %s\n", error_text(r));
    return EXIT_FAILURE;
}

static int set(struct instant_config *config, char *word)
{
    char *value = strchr(word, '=');
    if (!value)
        return error_note(-EINVAL, "'%s' is no KEY=VALUE", word);
    *value++ = '\0';
    uint64_t number = strtoull(value, NULL, 10);
    if (strcmp(word, "deadline") == 0)
        config->deadline_s = (uint32_t)number;
    else if (strcmp(word, "limit") == 0)
        config->limit_bytes_per_s = number;
    else if (strcmp(word, "whole") == 0)
        config->whole_file_max = number;
    else if (strcmp(word, "cache") == 0)
        config->cache_dir = value;
    else if (strcmp(word, "load_order") == 0)
        config->load_order = value;
    else if (strcmp(word, "record_order") == 0)
        config->record_order = value;
    else if (strcmp(word, "source") == 0)
        return string_vector_add(&config->sources, value);
    else if (strcmp(word, "phase") == 0 && strcmp(value, "filling") == 0)
        config->phase = INSTANT_FILLING;
    else
        return error_note(-EINVAL, "unknown key '%s'", word);
    return 0;
}

static int take_passphrase(struct instant_config *config)
{
    const char *given = getenv("UMBRA_PASSWORD");
    size_t len = given ? strlen(given) : 0;

    config->passphrase = sodium_malloc(len + 1);
    if (!config->passphrase)
        return -ENOMEM;
    memcpy(config->passphrase, given ? given : "", len);
    config->passphrase_len = (uint32_t)len;
    return 0;
}

static int start(char **argv)
{
    struct instant_programs programs = {0};
    struct instant_report report = {0};
    struct instant_config config = {
        .repo_url = argv[1],
        .backup_id = argv[2],
        .target = argv[3],
        .whole_file_max = INSTANT_WHOLE_FILE_MAX_DEFAULT,
        .deadline_s = INSTANT_DEADLINE_S_DEFAULT,
    };

    int r = instant_id_parse(argv[4], &config.restore_id);
    for (char **word = argv + 5; *word && r >= 0; word++)
        r = set(&config, *word);
    if (r >= 0)
        r = take_passphrase(&config);
    if (r < 0)
        return complain(r);
    if (asprintf(&programs.filterd, "%s/umbra-filterd", argv[0]) < 0 ||
        asprintf(&programs.hydrator, "%s/umbra-hydrated", argv[0]) < 0)
        return complain(-ENOMEM);
    r = instant_start_programs(&programs, &config, -EBADF, NULL, &report);
    free(programs.filterd);
    free(programs.hydrator);
    sodium_free(config.passphrase);
    string_vector_release_all(&config.sources);
    if (r < 0)
        return complain(r);
    (void)printf("%llu files, %llu problems, %.3f s\n", (unsigned long long)report.file_count,
                 (unsigned long long)report.problem_count, report.seconds);
    return EXIT_SUCCESS;
}

static int ask(const char *id, const char *request)
{
    CLEANUP_FREE char *path = NULL, *response = NULL;

    if (asprintf(&path, INSTANT_SOCKET_DIR "/%s.sock", id) < 0)
        return complain(-ENOMEM);
    int r = control_ask(path, request, ASK_TIME_MS, &response);
    if (r < 0)
        return complain(r);
    (void)puts(response);
    return strstr(response, "\"ok\":true") ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    if (argc >= 7 && strcmp(argv[1], "start") == 0)
        return start(argv + 2);
    if (argc == 4 && strcmp(argv[1], "ask") == 0)
        return ask(argv[2], argv[3]);
    (void)fprintf(stderr, "usage: instant start PROGRAMS REPO BACKUP TARGET ID [KEY=VALUE]...\n"
                          "       instant ask ID JSON\n");
    return 2;
}
