/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra volume create, umbra volume delete */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/text.h"
#include "cli/volume.h"
#include "cow/cow.h"
#include "cow/origin.h"

#define MAX_SIZE_DEFAULT     "10%"
#define MAX_SIZE_DEFAULT_MIN MIB /* of small origins */

struct create_values {
    const char *origin, *storage, *max_size, *protect;
    uint64_t block_bytes;
};

static const struct option_spec create_options[] = {
    {'o', "origin", OPTION_STRING, offsetof(struct create_values, origin), .arg = "DEVICE",
     .help = "the block device, or image file, that the volume is of"},
    {'s', "storage", OPTION_STRING, offsetof(struct create_values, storage), .arg = "DIR",
     .help = "an empty directory, or one to be made, for what shadows need; not on the origin"},
    {0, "max-size", OPTION_STRING, offsetof(struct create_values, max_size), .arg = "SIZE",
     .help = "how much is kept at most: bytes, with a suffix, or N% of the origin (default: 10%)"},
    {0, "block-size", OPTION_BYTES, offsetof(struct create_values, block_bytes), .arg = "SIZE",
     .help = "what is kept at a time: 4K to 64K (default: 16K)", .min = COW_BLOCK_BYTES_MIN,
     .max = COW_BLOCK_BYTES_MAX},
    {0, "protect", OPTION_STRING, offsetof(struct create_values, protect), .arg = "WHAT",
     .help = "'shadows': when all of that is used, writes fail; 'writes' (default): the oldest "
             "shadow is deleted"},
    {0},
};

static const struct option_spec no_options[] = {{0}};

/* ---- create ---- */

struct creation {
    const struct create_values *values;
    struct volume_config config;
    struct cow_options options;
    struct cow_origin origin;
    bool made_storage; /* the directory */
    bool made_files;
};

static void creation_release(struct creation *c)
{
    volume_config_release(&c->config);
    cow_origin_release(&c->origin);
}

/* Takes back what a creation that failed has made.  The first failure is the one that is told. */
static int undo(const struct creation *c, int r)
{
    struct error_report first = {0};
    error_save(&first, r);
    if (c->made_files)
        IGNORE_RESULT(volume_remove_files(c->config.storage));
    if (c->made_storage)
        (void)rmdir(c->config.storage);
    return error_raise(&first);
}

static int check_values(const struct create_values *v, struct creation *c)
{
    if (!v->origin || !v->storage)
        return error_note(-UMBRA_E_USAGE, "%s is missing", v->origin ? "--storage" : "--origin");
    if (*v->origin == '\0' || *v->storage == '\0')
        return error_note(-UMBRA_E_USAGE, "%s is empty", *v->origin ? "--storage" : "--origin");
    if (v->block_bytes & (v->block_bytes - 1))
        return error_note(-UMBRA_E_USAGE,
                          "bad value for --block-size: expected 4K, 8K, 16K, 32K or 64K");
    uint64_t any;
    int r = v->max_size ? volume_parse_max_size(v->max_size, 0, &any) : 0;
    if (r == 0 && v->protect)
        r = volume_parse_protect(v->protect, &c->options.protect_shadows);
    c->options.block_bytes = (uint32_t)v->block_bytes;
    return r;
}

/* Neither the name nor the origin may be another volume's. */
static int check_others(const char *name, const char *origin)
{
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    int r = volume_config_list(VOLUME_CONFIG_DIR, &names);
    for (size_t i = 0; r == 0 && i < names.count; i++) {
        CLEANUP(volume_config_release) struct volume_config other = {0};
        if (strcmp(names.items[i], name) == 0)
            return error_note(-EEXIST, "there is a volume '%s' already", name);
        if (volume_config_load(VOLUME_CONFIG_DIR, names.items[i], &other) < 0)
            continue; /* 'list' tells of it */
        if (cow_origin_same(origin, other.origin))
            return error_note(-EBUSY, "origin '%s' is that of volume '%s'", origin, other.name);
    }
    return r;
}

/* A file system of its own for the storage is fine. */
static bool counts_as_empty(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0;
}

static int check_empty(const char *path)
{
    const struct dirent *entry;
    DIR *dir = opendir(path);
    if (!dir)
        return error_note_describe(-errno, "cannot use storage '%s'", path);
    do {
        errno = 0;
        entry = readdir(dir);
    } while (entry && counts_as_empty(entry->d_name));
    int r = entry ? -ENOTEMPTY : -errno;
    (void)closedir(dir);
    return r < 0 ? error_note_describe(r, "cannot use storage '%s'", path) : 0;
}

static int make_storage(struct creation *c)
{
    const char *path = c->values->storage;
    if (mkdir(path, 0700) == 0)
        c->made_storage = true;
    else if (errno != EEXIST)
        return error_note_describe(-errno, "cannot make storage '%s'", path);
    c->config.storage = realpath(path, NULL);
    if (c->config.storage)
        return check_empty(c->config.storage);
    int r = error_note_describe(-errno, "cannot find storage '%s'", path);
    if (c->made_storage)
        (void)rmdir(path);
    c->made_storage = false;
    return r;
}

static int fill_config(struct creation *c, const char *name)
{
    c->config.name = strdup(name);
    return c->config.name ? path_make_absolute(c->values->origin, &c->config.origin) : -ENOMEM;
}

static int make_files(struct creation *c)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP(cow_device_freep) struct cow_device *device = NULL;
    const char *max_size = c->values->max_size ? c->values->max_size : MAX_SIZE_DEFAULT;
    int r = volume_parse_max_size(max_size, c->origin.size_bytes, &c->options.max_bytes);
    if (!c->values->max_size)
        c->options.max_bytes = MAX(c->options.max_bytes, MAX_SIZE_DEFAULT_MIN);
    if (r == 0)
        r = io_new_real(c->config.storage, &io);
    if (r == 0)
        r = cow_device_new_fd(c->origin.fd, &device);
    if (r < 0)
        return r;
    c->origin.fd = -EBADF; /* the device's now */
    const struct cow_place place = {.storage = io,
                                    .origin = device,
                                    .identity = c->origin.identity,
                                    .identity_len = c->origin.identity_len};
    r = cow_create(&place, &c->options);
    c->made_files = r != -EEXIST; /* somebody else's, made just now */
    return r;
}

static int create(struct creation *c)
{
    int r = make_storage(c);
    if (r == 0)
        r = cow_origin_open(c->config.origin, c->config.storage, &c->origin);
    if (r == 0)
        r = make_files(c);
    if (r == 0)
        r = volume_config_save(VOLUME_CONFIG_DIR, &c->config);
    return r < 0 && c->config.storage ? undo(c, r) : r;
}

static void print_created(const struct cli *cli, const struct creation *c)
{
    char origin[16], max[16];
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_string(object, "name", c->config.name);
        json_add_name(object, "origin", c->config.origin, strlen(c->config.origin));
        json_add_name(object, "storage", c->config.storage, strlen(c->config.storage));
        json_add_uint(object, "origin_bytes", c->origin.size_bytes);
        json_add_uint(object, "max_bytes", c->options.max_bytes);
        json_print(object);
    } else if (!cli->quiet) {
        printf("volume '%s' of %s, at most %s kept; 'umbra volume attach %s' gives it a device\n",
               c->config.name, text_format_bytes(c->origin.size_bytes, origin),
               text_format_bytes(c->options.max_bytes, max), c->config.name);
    }
}

static int run_create(struct cli *cli, void *values, char **words, int word_count _unused_)
{
    CLEANUP(creation_release)
    struct creation c = {.values = values, .origin = COW_ORIGIN_NONE};
    int r = volume_check_word(words[0]);
    if (r == 0)
        r = check_values(values, &c);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = fill_config(&c, words[0]);
    if (r == 0)
        r = check_others(words[0], c.config.origin);
    if (r == 0)
        r = create(&c);
    if (r < 0)
        return r;
    print_created(cli, &c);
    return EXIT_DONE;
}

/* ---- delete ---- */

static void print_deleted(const struct cli *cli, const char *word)
{
    if (cli->json) {
        CLEANUP_JSON struct json_object *object = json_new_object();
        json_add_string(object, "deleted", word);
        json_print(object);
    } else if (!cli->quiet) {
        printf("deleted '%s'\n", word);
    }
}

static int delete_volume(const char *name)
{
    CLEANUP(volume_config_release) struct volume_config config = {0};
    CLEANUP_CLOSE int lock_fd = -EBADF;
    int r = volume_config_lock(VOLUME_CONFIG_DIR, name, &lock_fd);
    if (r == -EBUSY)
        return error_note(r, "volume '%s' is attached: 'umbra volume detach %s' comes first", name,
                          name);
    if (r == 0)
        r = volume_config_load(VOLUME_CONFIG_DIR, name, &config);
    if (r == 0)
        r = volume_config_remove(VOLUME_CONFIG_DIR, name);
    return r < 0 ? r : volume_remove_files(config.storage);
}

static int delete_shadow(const char *word)
{
    CLEANUP_JSON struct json_object *request = volume_request("delete");
    CLEANUP_JSON struct json_object *response = NULL;
    char name[VOLUME_NAME_MAX + 1];
    uint32_t number;
    int r = volume_parse_shadow_name(word, name, &number);
    if (r < 0)
        return r;
    json_add_uint(request, "number", number);
    return volume_send(name, request, &response);
}

static int run_delete(struct cli *cli, void *values _unused_, char **words, int word_count _unused_)
{
    bool is_shadow = strchr(words[0], '@') != NULL;
    int r = is_shadow ? 0 : volume_check_word(words[0]);
    if (r == 0)
        r = volume_need_root();
    if (r == 0)
        r = is_shadow ? delete_shadow(words[0]) : delete_volume(words[0]);
    if (r < 0)
        return r;
    print_deleted(cli, words[0]);
    return EXIT_DONE;
}

const struct verb verb_volume_create = {
    .name = "volume create",
    .synopsis = "NAME --origin DEVICE --storage DIR",
    .summary = "make a cow volume of a block device or image file",
    .options = create_options,
    .values_size = sizeof(struct create_values),
    .words_min = 1,
    .words_max = 1,
    .run = run_create,
};

const struct verb verb_volume_delete = {
    .name = "volume delete",
    .synopsis = "NAME|NAME@N",
    .summary = "delete a volume that is detached (not its origin), or one of its shadows",
    .options = no_options,
    .words_min = 1,
    .words_max = 1,
    .run = run_delete,
};
