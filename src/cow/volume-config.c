/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/volume-config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "basic/durable.h"
#include "basic/error.h"
#include "basic/text.h"
#include "control/json-text.h"

#define CONFIG_WHAT     "configuration of the volume"
#define CONFIG_VERSION  1u
#define CONFIG_SUFFIX   ".json"
#define CONFIG_TEXT_MAX ((size_t)8 << 20)
#define LOCK_TRIES      10u
#define LOCK_PAUSE_MS   20
#define FILE_NAME_MAX   (VOLUME_NAME_MAX + sizeof(CONFIG_SUFFIX))

void volume_config_release(struct volume_config *config)
{
    free(config->name);
    free(config->origin);
    free(config->storage);
    string_vector_release_all(&config->excludes);
    *config = (struct volume_config){0};
}

/* ---- names ---- */

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool volume_name_valid(const char *name)
{
    size_t len = 0;
    for (; name[len] != '\0'; len++) {
        bool inner = len > 0 && strchr("_.-", name[len]);
        if (len == VOLUME_NAME_MAX || (!is_letter_or_digit(name[len]) && !inner))
            return false;
    }
    return len > 0;
}

int volume_name_check(const char *name)
{
    if (volume_name_valid(name))
        return 0;
    CLEANUP_FREE char *escaped = text_escape(name, strlen(name));
    return error_note(-EINVAL,
                      "'%s' is no name of a volume: that is at most %u letters, digits, '_', '.' "
                      "and '-', the first a letter or digit",
                      escaped ? escaped : "?", VOLUME_NAME_MAX);
}

/* ---- as text ---- */

int volume_config_to_json(const struct volume_config *config, char **ret_text)
{
    CLEANUP(json_writer_release) struct json_writer w;
    json_writer_init(&w);
    json_write_u64(&w, "version", CONFIG_VERSION);
    json_write_string(&w, "name", config->name);
    json_write_string(&w, "origin", config->origin);
    json_write_string(&w, "storage", config->storage);
    json_write_strings(&w, "excludes", &config->excludes);
    return json_writer_finish(&w, ret_text);
}

/* Before anything else: what a newer program has written may mean anything. */
static void read_version(struct json_reader *in)
{
    uint64_t version = json_read_u64(in, "version", 0, 0, UINT32_MAX);
    if (in->error == 0 && version > CONFIG_VERSION)
        in->error =
            error_note(-UMBRA_E_VERSION, CONFIG_WHAT " has version %llu, newer than this program",
                       (unsigned long long)version);
    if (in->error == 0 && version == 0)
        json_reader_fail(in, "version", "is missing");
}

static char *read_absolute(struct json_reader *in, const char *key)
{
    char *path = json_read_string(in, key, JSON_MUST, VOLUME_PATH_MAX);
    if (path && *path != '/')
        json_reader_fail(in, key, "is not an absolute path");
    return path;
}

static int read_members(struct json_reader *in, struct volume_config *config)
{
    read_version(in);
    config->name = json_read_string(in, "name", JSON_MUST, VOLUME_NAME_MAX);
    if (config->name && !volume_name_valid(config->name))
        json_reader_fail(in, "name", "is no name of a volume");
    config->origin = read_absolute(in, "origin");
    config->storage = read_absolute(in, "storage");
    json_read_strings(in, "excludes", VOLUME_EXCLUDES_MAX, VOLUME_PATH_MAX, &config->excludes);
    for (size_t i = 0; i < config->excludes.count; i++)
        if (*config->excludes.items[i] == '\0')
            json_reader_fail(in, "excludes", "has an empty item");
    return in->error;
}

int volume_config_from_json(const char *text, size_t len, struct volume_config *ret_config)
{
    CLEANUP(volume_config_release) struct volume_config config = {0};
    CLEANUP(json_object_putp) struct json_object *object = NULL;
    int r = json_parse_object(text, len, CONFIG_WHAT, &object);
    if (r < 0)
        return r;
    struct json_reader in = {.object = object, .what = CONFIG_WHAT};
    r = read_members(&in, &config);
    if (r < 0)
        return r;
    *ret_config = config;
    config = (struct volume_config){0};
    return 0;
}

/* ---- files ---- */

static int file_name(const char *name, char ret_file[FILE_NAME_MAX])
{
    int r = volume_name_check(name);
    if (r == 0)
        (void)snprintf(ret_file, FILE_NAME_MAX, "%s" CONFIG_SUFFIX, name);
    return r;
}

static int no_such_volume(const char *name)
{
    return error_note(-ENOENT, "there is no volume '%s'", name);
}

/* Parents first; nobody else needs to see them. */
static int make_dir(const char *dir)
{
    CLEANUP(io_freep) struct io *io = NULL;
    int r = io_new_real("/", &io);
    return r < 0 ? r : durable_mkdir_parents(io, dir + 1);
}

int volume_config_save(const char *dir, const struct volume_config *config)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP_FREE char *text = NULL;
    char file[FILE_NAME_MAX];
    int r = file_name(config->name, file);
    if (r == 0)
        r = volume_config_to_json(config, &text);
    if (r == 0)
        r = make_dir(dir);
    if (r == 0)
        r = io_new_real(dir, &io);
    if (r < 0)
        return r;
    const struct iovec iov[] = {{.iov_base = text, .iov_len = strlen(text)},
                                {.iov_base = (char[]){'\n'}, .iov_len = 1}};
    r = durable_write(io, "", file, DURABLE_CREATE, iov, ELEMENTSOF(iov));
    return r == -EEXIST ? error_note(r, "there is a volume '%s' already", config->name) : r;
}

int volume_config_load(const char *dir, const char *name, struct volume_config *ret_config)
{
    CLEANUP(volume_config_release) struct volume_config config = {0};
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP_FREE void *text = NULL;
    char file[FILE_NAME_MAX];
    size_t len;
    int r = file_name(name, file);
    if (r < 0)
        return r;
    r = io_new_real(dir, &io);
    if (r == 0)
        r = durable_read(io, file, CONFIG_TEXT_MAX, &text, &len);
    if (r < 0)
        return r == -ENOENT ? no_such_volume(name) : r;
    if (len > 0 && ((char *)text)[len - 1] == '\n')
        len--;
    r = volume_config_from_json(text, len, &config);
    if (r == 0 && strcmp(config.name, name) != 0)
        r = error_note(-UMBRA_E_CORRUPT, CONFIG_WHAT " is that of '%s'", config.name);
    if (r < 0)
        return error_prefix(r, "%s/%s", dir, file);
    *ret_config = config;
    config = (struct volume_config){0};
    return 0;
}

int volume_config_remove(const char *dir, const char *name)
{
    CLEANUP(io_freep) struct io *io = NULL;
    char file[FILE_NAME_MAX];
    int r = file_name(name, file);
    if (r < 0)
        return r;
    r = io_new_real(dir, &io);
    if (r == 0)
        r = io_unlink(io, file);
    if (r < 0)
        return r == -ENOENT ? no_such_volume(name) : r;
    return io_sync_dir(io, "");
}

static int on_name(const char *file, void *userdata)
{
    struct string_vector *names = userdata;
    size_t len = strlen(file), suffix_len = sizeof(CONFIG_SUFFIX) - 1;
    if (len <= suffix_len || strcmp(file + len - suffix_len, CONFIG_SUFFIX) != 0)
        return 0;
    CLEANUP_FREE char *name = strndup(file, len - suffix_len);
    if (!name)
        return -ENOMEM;
    if (!volume_name_valid(name))
        return 0;
    if (names->count == VOLUME_COUNT_MAX)
        return error_note(-UMBRA_E_LIMIT, "there are more than %u volumes", VOLUME_COUNT_MAX);
    return string_vector_take(names, TAKE_PTR(name));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int volume_config_list(const char *dir, struct string_vector *ret_names)
{
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    CLEANUP(io_freep) struct io *io = NULL;
    int r = io_new_real(dir, &io);
    if (r == 0)
        r = io_list(io, "", on_name, &names);
    if (r < 0 && r != -ENOENT)
        return r;
    if (names.count > 1)
        qsort(names.items, names.count, sizeof(*names.items), compare_names);
    *ret_names = names;
    names = (struct string_vector){0};
    return 0;
}

static int open_config(const char *dir, const char *name, int *ret_fd)
{
    CLEANUP_FREE char *path = NULL;
    char file[FILE_NAME_MAX];
    int r = file_name(name, file);
    if (r < 0)
        return r;
    if (asprintf(&path, "%s/%s", dir, file) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? no_such_volume(name)
                               : error_note_describe(-errno, "cannot open '%s'", path);
    *ret_fd = fd;
    return 0;
}

/* Who only looks (volume_config_is_locked) has it for a moment, too. */
static bool lock_patiently(int fd)
{
    const struct timespec moment = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};
    for (unsigned i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
        if (errno != EWOULDBLOCK || i == LOCK_TRIES)
            return false;
        (void)nanosleep(&moment, NULL);
    }
    return true;
}

int volume_config_lock(const char *dir, const char *name, int *ret_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;
    struct stat st;
    int r = open_config(dir, name, &fd);
    if (r < 0)
        return r;
    if (!lock_patiently(fd))
        return errno == EWOULDBLOCK
                   ? error_note(-EBUSY, "volume '%s' is attached, or somebody is at work on it",
                                name)
                   : error_note_describe(-errno, "cannot lock the configuration of '%s'", name);
    if (fstat(fd, &st) < 0)
        return error_note_describe(-errno, "cannot examine the configuration of '%s'", name);
    if (st.st_nlink == 0)
        return no_such_volume(name); /* whoever had the lock has deleted it */
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int volume_config_is_locked(const char *dir, const char *name)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = open_config(dir, name, &fd);
    if (r < 0)
        return r;
    if (flock(fd, LOCK_SH | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK
               ? 1
               : error_note_describe(-errno, "cannot lock the configuration of '%s'", name);
}
