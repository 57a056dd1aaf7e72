/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The devices of a volume and of its shadows, under the names /dev/umbra/NAME and
 * /dev/umbra/NAME@N: symbolic links, which are also how the next worker knows what there is.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/vector.h"
#include "cow/cowd-private.h"

#define LINK_NAME_MAX (VOLUME_NAME_MAX + sizeof("@4294967295"))
#define LINK_PATH_MAX (sizeof(VOLUME_DEVICE_DIR "/") + LINK_NAME_MAX + sizeof(".new"))

DEFINE_CLEANUP_PTR(DIR *, closedir);
DEFINE_VECTOR(number_vector, uint32_t);

/* ---- names ---- */

static void link_path(const struct worker *w, uint32_t number, const char *suffix,
                      char path[LINK_PATH_MAX])
{
    const char *name = w->cowd->config.name;
    if (number == 0)
        (void)snprintf(path, LINK_PATH_MAX, VOLUME_DEVICE_DIR "/%s%s", name, suffix);
    else
        (void)snprintf(path, LINK_PATH_MAX, VOLUME_DEVICE_DIR "/%s@%" PRIu32 "%s", name, number,
                       suffix);
}

static int make_link(const struct worker *w, uint32_t number, const char *device)
{
    char path[LINK_PATH_MAX], new_path[LINK_PATH_MAX];
    link_path(w, number, "", path);
    link_path(w, number, "~", new_path); /* which is no name of a volume */
    if (mkdir(VOLUME_DEVICE_DIR, 0755) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make the directory '%s'", VOLUME_DEVICE_DIR);
    (void)unlink(new_path);
    if (symlink(device, new_path) < 0 || rename(new_path, path) < 0)
        return error_note_describe(-errno, "cannot make the link '%s'", path);
    return 0;
}

static void remove_link(const struct worker *w, uint32_t number)
{
    char path[LINK_PATH_MAX];
    link_path(w, number, "", path);
    (void)unlink(path);
}

void devices_path_locked(const struct worker *w, uint32_t number, char path[COW_DEVICE_MAX])
{
    char link[LINK_PATH_MAX], device[COW_DEVICE_MAX];
    link_path(w, number, "", link);
    ssize_t len = readlink(link, device, sizeof(device) - 1);
    device[len > 0 ? len : 0] = '\0';
    memcpy(path, device, sizeof(device));
}

/* The number of a name NAME@N. */
static bool parse_link_name(const struct worker *w, const char *name, uint32_t *ret_number)
{
    const char *volume = w->cowd->config.name;
    size_t len = strlen(volume);
    char *end = NULL;
    if (strncmp(name, volume, len) != 0 || name[len] != '@' || name[len + 1] < '1' ||
        name[len + 1] > '9')
        return false;
    unsigned long number = strtoul(name + len + 1, &end, 10);
    *ret_number = (uint32_t)number;
    return *end == '\0' && number <= UINT32_MAX;
}

/* Of the shadows that have a link. */
static int list_links(const struct worker *w, struct number_vector *numbers)
{
    CLEANUP(closedirp) DIR *dir = opendir(VOLUME_DEVICE_DIR);
    const struct dirent *entry;
    uint32_t number;
    while (dir && (entry = readdir(dir)))
        if (parse_link_name(w, entry->d_name, &number) && number_vector_push(numbers, &number) < 0)
            return -ENOMEM;
    return 0;
}

/* ---- shadows ---- */

static size_t list_shadows(const struct worker *w, struct cow_shadow shadows[COW_SHADOWS_MAX])
{
    return MIN(cow_shadows(w->cow, shadows, COW_SHADOWS_MAX), (size_t)COW_SHADOWS_MAX);
}

static bool lives(const struct cow_shadow *shadows, size_t count, uint32_t number)
{
    for (size_t i = 0; i < count; i++)
        if (shadows[i].number == number)
            return true;
    return false;
}

/* ---- devices ---- */

int devices_add_locked(struct worker *w, uint32_t number, bool read_only)
{
    char device[COW_DEVICE_MAX];
    int r = w->cowd->ops->add(w->front, number, read_only, device);
    if (r == 0)
        r = make_link(w, number, device);
    if (r == 0 && number == 0)
        memcpy(w->device_path, device, sizeof(device));
    return r;
}

int devices_remove_locked(struct worker *w, uint32_t number)
{
    int r = w->cowd->ops->remove(w->front, number);
    if (r < 0 && r != -ENOENT)
        return r;
    remove_link(w, number);
    return 0;
}

void devices_sync_locked(struct worker *w)
{
    CLEANUP_FREE struct cow_shadow *shadows = calloc(COW_SHADOWS_MAX, sizeof(*shadows));
    CLEANUP(number_vector_release) struct number_vector links = {0};
    if (!shadows || list_links(w, &links) < 0)
        return;
    size_t count = list_shadows(w, shadows);
    for (size_t i = 0; i < links.count; i++)
        if (!lives(shadows, count, links.items[i]))
            IGNORE_RESULT(devices_remove_locked(w, links.items[i])); /* later, when it is free */
}

/* What the dead worker had is taken over, also of shadows that have gone: it may be in use. */
static int take_over(struct worker *w)
{
    CLEANUP(number_vector_release) struct number_vector links = {0};
    int r = list_links(w, &links);
    for (size_t i = 0; i < links.count && r == 0; i++)
        r = devices_add_locked(w, links.items[i], true);
    return r;
}

/* Of a volume that was not detached in order, before the machine or everything else died. */
static void remove_old_links(struct worker *w)
{
    CLEANUP(number_vector_release) struct number_vector links = {0};
    if (list_links(w, &links) < 0)
        return;
    for (size_t i = 0; i < links.count; i++)
        remove_link(w, links.items[i]);
}

int devices_start(struct worker *w, bool is_return)
{
    CLEANUP_FREE struct cow_shadow *shadows = calloc(COW_SHADOWS_MAX, sizeof(*shadows));
    if (!shadows)
        return -ENOMEM;
    if (!is_return)
        remove_old_links(w);
    int r = 0;
    size_t count = list_shadows(w, shadows);
    for (size_t i = 0; i < count && r == 0; i++)
        r = devices_add_locked(w, shadows[i].number, !shadows[i].writable);
    if (r == 0)
        r = devices_add_locked(w, 0, false);
    if (r == 0 && is_return)
        r = take_over(w);
    if (r == 0)
        devices_sync_locked(w);
    return r;
}

/* ---- the end ---- */

static int check_all_free(struct worker *w, const struct number_vector *links)
{
    int r = w->cowd->ops->check_free(w->front, 0);
    for (size_t i = 0; i < links->count && (r == 0 || r == -ENOENT); i++)
        r = w->cowd->ops->check_free(w->front, links->items[i]);
    return r == -ENOENT ? 0 : r;
}

static int remove_all(struct worker *w, const struct number_vector *links)
{
    int r = devices_remove_locked(w, 0);
    for (size_t i = 0; i < links->count && r == 0; i++)
        r = devices_remove_locked(w, links->items[i]);
    return r;
}

int devices_remove_all_locked(struct worker *w)
{
    CLEANUP(number_vector_release) struct number_vector links = {0};
    struct error_report why = {0};
    int r = list_links(w, &links);
    if (r == 0)
        r = check_all_free(w, &links);
    if (r < 0)
        return r;
    r = remove_all(w, &links);
    if (r == 0)
        return 0;
    /* Somebody was quicker: those that are gone come back. */
    error_save(&why, r);
    r = devices_start(w, true);
    if (r < 0)
        log_error("%s", error_text(r));
    return error_raise(&why);
}
