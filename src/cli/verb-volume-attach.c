/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra volume attach, umbra volume detach */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/own-program.h"
#include "cli/volume.h"

#define DAEMON_NAME "umbra-cowd"
#define WORDS_MAX   ((size_t)1000) /* of what it says when it cannot */

struct attach_values {
    const char *front;
};

static const struct option_spec attach_options[] = {
    {0, "front", OPTION_STRING, offsetof(struct attach_values, front), .arg = "FRONT",
     .help = "'ublk' or 'fuse' (default: the first of them that works here)"},
    {0},
};

static const struct option_spec no_options[] = {{0}};

/* ---- the daemon ---- */

static int add_descriptors(posix_spawn_file_actions_t *actions, int words_fd)
{
    int r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, words_fd, STDERR_FILENO);
    return -r;
}

static int spawn_with(const char *program, const char *name, const char *front,
                      const posix_spawn_file_actions_t *actions, pid_t *ret_pid)
{
    const char *const argv[] = {program, name, front ? "--front" : NULL, front, NULL};
    /* The strings are only read: argv is not const for reasons of history. */
    int r = -posix_spawn(ret_pid, program, actions, NULL, (char *const *)(uintptr_t)argv, environ);
    return r < 0 ? error_note_describe(r, "cannot start '%s'", program) : 0;
}

static int start(const char *program, const char *name, const char *front, int words_fd,
                 pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return -ENOMEM;
    int r = add_descriptors(&actions, words_fd);
    if (r == 0)
        r = spawn_with(program, name, front, &actions, ret_pid);
    (void)posix_spawn_file_actions_destroy(&actions);
    return r;
}

/* Its last line, without its name in front. */
static int quote_words(const char *name, int words_fd)
{
    char words[WORDS_MAX + 1], *line = words;
    ssize_t len = pread(words_fd, words, WORDS_MAX, 0);
    words[len > 0 ? len : 0] = '\0';
    while (len > 0 && words[len - 1] == '\n')
        words[--len] = '\0';
    if (strrchr(line, '\n'))
        line = strrchr(line, '\n') + 1;
    if (strncmp(line, DAEMON_NAME ": ", strlen(DAEMON_NAME ": ")) == 0)
        line += strlen(DAEMON_NAME ": ");
    return error_note(-EREMOTEIO, "cannot attach volume '%s': %s", name,
                      *line ? line : DAEMON_NAME " ended without a word");
}

/* It ends when the daemon that it has made is ready, or cannot be. */
static int run_daemon(const char *name, const char *front)
{
    CLEANUP_FREE char *program = NULL;
    pid_t pid, ended;
    int status;
    int r = own_program_find(DAEMON_NAME, &program);
    if (r < 0)
        return r;
    CLEANUP_CLOSE int words_fd = memfd_create("umbra-cowd-words", MFD_CLOEXEC);
    if (words_fd < 0)
        return error_note_describe(-errno, "cannot make a file in memory");
    r = start(program, name, front, words_fd, &pid);
    if (r < 0)
        return r;
    do
        ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    if (ended == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return quote_words(name, words_fd);
}

/* ---- attach ---- */

static int print_attached(const struct cli *cli, const char *name)
{
    CLEANUP(volume_status_release) struct volume_status status = {0};
    CLEANUP_JSON struct json_object *response = NULL;
    char device[VOLUME_DEVICE_MAX];
    int r = volume_do(name, "status", &response);
    if (r == 0)
        r = volume_status_parse(response, &status);
    if (r < 0)
        return r;
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_string(object, "name", name);
        json_add_string(object, "device", volume_format_device(name, 0, device));
        json_add_string(object, "node", status.node ? status.node : "");
        json_add_string(object, "front", status.front ? status.front : "");
        json_print(object);
    } else if (!cli->quiet) {
        puts(volume_format_device(name, 0, device));
    }
    return EXIT_DONE;
}

/* For what can be said at once, and better. */
static int check_free(const char *name)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = volume_config_lock(VOLUME_CONFIG_DIR, name, &fd);
    return r == -EBUSY ? error_note(r, "volume '%s' is attached already", name) : r;
}

static int run_attach(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    const struct attach_values *v = values;
    CLEANUP(volume_config_release) struct volume_config config = {0};
    int r = volume_check_word(words[0]);
    if (r == 0 && v->front && strcmp(v->front, "ublk") != 0 && strcmp(v->front, "fuse") != 0)
        r = error_note(-UMBRA_E_USAGE, "bad value '%s' for --front: expected 'ublk' or 'fuse'",
                       v->front);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = volume_config_load(VOLUME_CONFIG_DIR, words[0], &config);
    if (r == 0)
        r = check_free(words[0]);
    if (r == 0)
        r = run_daemon(words[0], v->front);
    return r < 0 ? r : print_attached(cli, words[0]);
}

/* ---- detach ---- */

static int run_detach(struct cli *cli, void *values _unused_, char **words, int word_count _unused_)
{
    CLEANUP_JSON struct json_object *response = NULL;
    int r = volume_check_word(words[0]);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = volume_do(words[0], "detach", &response);
    if (r < 0)
        return r;
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_string(object, "detached", words[0]);
        json_print(object);
    } else if (!cli->quiet) {
        printf("detached '%s'\n", words[0]);
    }
    return EXIT_DONE;
}

const struct verb verb_volume_attach = {
    .name = "volume attach",
    .synopsis = "NAME",
    .summary = "give a volume its device, /dev/umbra/NAME",
    .options = attach_options,
    .values_size = sizeof(struct attach_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_attach,
};

const struct verb verb_volume_detach = {
    .name = "volume detach",
    .synopsis = "NAME",
    .summary = "take the device of a volume away; its origin is as any other again",
    .options = no_options,
    .words_min = 1,
    .words_max = 1,
    .run = run_detach,
};
