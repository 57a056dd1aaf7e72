/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For a restore below /srv:
 *
 *     srv.mount.d/50-umbra-ID.conf               Requires=, After= the service that has the gate
 *     umbra-resume@ID.service.d/50-umbra.conf    After= what that needs itself
 *
 * The mount can only follow a service that has succeeded.  What the service needs besides the
 * volume (the repository, the passphrase, the cache) is wanted, not required: without it readers
 * wait, which is better than no volume.  A mount that lies on the volume, or is it, cannot come
 * first: that would be a cycle.
 *
 * The root file system is mounted before there are units: there the service comes before
 * local-fs.target.
 */
#include "cli/boot-units.h"

#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/error.h"

#define DROP_IN_SERVICE   "50-umbra.conf"
#define CACHE_DIR_DEFAULT "/var/cache/umbra"
#define LINE_LEN_MAX      8192
#define HEADER            "# Made by umbra-generator; see umbra-resume(8).\n[Unit]\n"

static void fclosep(FILE **file)
{
    if (*file)
        (void)fclose(*file);
}

/* ---- fstab ---- */

void boot_mount_vector_release_all(struct boot_mount_vector *v)
{
    for (size_t i = 0; i < v->count; i++) {
        free(v->items[i].device);
        free(v->items[i].dir);
    }
    boot_mount_vector_release(v);
}

/* Those at the end. */
static void strip_slashes(char *path)
{
    for (size_t len = strlen(path); len > 1 && path[len - 1] == '/';)
        path[--len] = '\0';
}

static int add_mount(struct boot_mount_vector *mounts, const struct mntent *entry)
{
    struct boot_mount mount = {
        .device = strdup(entry->mnt_fsname),
        .dir = strdup(entry->mnt_dir),
        .is_network = hasmntopt(entry, "_netdev") != NULL,
        .is_checked = entry->mnt_passno > 0,
    };
    if (mount.dir)
        strip_slashes(mount.dir);
    if (mount.device && mount.dir && boot_mount_vector_push(mounts, &mount) == 0)
        return 0;
    free(mount.device);
    free(mount.dir);
    return -ENOMEM;
}

int boot_mounts_read(const char *path, struct boot_mount_vector *ret_mounts)
{
    CLEANUP(boot_mount_vector_release_all) struct boot_mount_vector mounts = {0};
    CLEANUP(fclosep) FILE *file = setmntent(path, "re");
    struct mntent entry;
    char line[LINE_LEN_MAX];
    int r = 0;
    if (!file && errno != ENOENT)
        return error_note_describe(-errno, "cannot open '%s'", path);
    while (r == 0 && file && getmntent_r(file, &entry, line, sizeof(line)))
        r = add_mount(&mounts, &entry);
    if (r < 0)
        return r;
    *ret_mounts = mounts;
    mounts = (struct boot_mount_vector){0};
    return 0;
}

/* ---- names ---- */

static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static char *append_hex(char *to, char c)
{
    return to + snprintf(to, 5, "\\x%02x", (unsigned char)c);
}

char *boot_unit_name(const char *path, const char *suffix)
{
    char *name = malloc(4 * strlen(path) + 2 + strlen(suffix));
    char *to = name;
    if (!name)
        return NULL;
    for (const char *c = path + strspn(path, "/"); *c != '\0'; c++) {
        if (*c == '/') {
            if (c[1] != '/' && c[1] != '\0')
                *to++ = '-';
        } else if (is_alphanumeric(*c) || strchr(":_", *c) || (*c == '.' && to > name))
            *to++ = *c;
        else
            to = append_hex(to, *c);
    }
    if (to == name)
        *to++ = '-';
    memcpy(to, suffix, strlen(suffix) + 1);
    return name;
}

/* As udev names its links. */
static char *tagged_path(const char *kind, const char *value)
{
    size_t size = strlen("/dev/disk/by-") + strlen(kind) + 1 + 4 * strlen(value) + 1;
    char *path = malloc(size);
    if (!path)
        return NULL;
    char *to = path + snprintf(path, size, "/dev/disk/by-%s/", kind);
    for (const char *c = value; *c != '\0'; c++)
        if (*c == '"')
            continue;
        else if (is_alphanumeric(*c) || strchr("#+-.:=@_", *c) || (unsigned char)*c >= 0x80)
            *to++ = *c;
        else
            to = append_hex(to, *c);
    *to = '\0';
    return path;
}

char *boot_device_path(const char *device)
{
    static const struct {
        const char *tag, *kind;
    } tags[] = {
        {"UUID=", "uuid"},
        {"LABEL=", "label"},
        {"PARTUUID=", "partuuid"},
        {"PARTLABEL=", "partlabel"},
    };
    if (strncmp(device, "/dev/", 5) == 0)
        return strdup(device);
    for (size_t i = 0; i < ELEMENTSOF(tags); i++)
        if (strncmp(device, tags[i].tag, strlen(tags[i].tag)) == 0)
            return tagged_path(tags[i].kind, device + strlen(tags[i].tag));
    return NULL;
}

/* ---- what comes when ---- */

struct boot {
    const char *dir;
    const struct instant_note *note;
    const struct boot_mount_vector *mounts;
    const struct boot_mount *own; /* NULL: not in fstab */
    struct string_vector needed;  /* paths whose mounts have been written */
    char service[sizeof("umbra-resume@.service") + INSTANT_ID_LEN];
    char drop_in[sizeof("50-umbra-.conf") + INSTANT_ID_LEN];
};

static bool is_root(const char *path)
{
    return strcmp(path, "/") == 0;
}

static bool is_at_or_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

/* Whether it is a mount of the volume. */
static bool is_of_volume(const struct boot *boot, const struct boot_mount *mount)
{
    return boot->own && strcmp(mount->device, boot->own->device) == 0 && *mount->dir == '/';
}

static bool is_behind_gate(const struct boot *boot, const char *path)
{
    if (is_at_or_below(path, boot->note->mount_point))
        return true;
    for (size_t i = 0; i < boot->mounts->count; i++)
        if (is_of_volume(boot, &boot->mounts->items[i]) &&
            is_at_or_below(path, boot->mounts->items[i].dir))
            return true;
    return false;
}

/* key: Wants or Requires. */
static int write_needed(FILE *file, const char *key, const char *path, const char *suffix)
{
    CLEANUP_FREE char *unit = boot_unit_name(path, suffix);
    if (!unit)
        return -ENOMEM;
    (void)fprintf(file, "%s=%s\nAfter=%s\n", key, unit, unit);
    return 0;
}

static bool is_needed_already(const struct boot *boot, const char *path)
{
    for (size_t i = 0; i < boot->needed.count; i++)
        if (strcmp(boot->needed.items[i], path) == 0)
            return true;
    return false;
}

/* The mounts that a path may lie on. */
static int write_mounts_of(struct boot *boot, FILE *file, const char *path)
{
    CLEANUP_FREE char *prefix = strdup(path);
    if (!prefix)
        return -ENOMEM;
    for (;;) {
        if (prefix[0] != '/' || is_root(prefix))
            return 0;
        int r = 0;
        if (is_needed_already(boot, prefix))
            return 0;
        if (!is_behind_gate(boot, prefix))
            r = write_needed(file, "Wants", prefix, ".mount");
        if (r == 0)
            r = string_vector_add(&boot->needed, prefix);
        if (r < 0)
            return r;
        char *slash = strrchr(prefix, '/');
        slash[slash == prefix] = '\0';
    }
}

static int write_needed_mounts(struct boot *boot, FILE *file)
{
    const struct instant_note *note = boot->note;
    const char *const paths[] = {
        note->mount_point,   note->repo_url,
        note->password_file, note->load_order,
        note->record_order,  note->cache_dir ? note->cache_dir : CACHE_DIR_DEFAULT,
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ELEMENTSOF(paths); i++)
        r = paths[i] ? write_mounts_of(boot, file, paths[i]) : 0;
    for (size_t i = 0; r == 0 && i < note->sources.count; i++)
        if (strncmp(note->sources.items[i], "dir:", 4) == 0)
            r = write_mounts_of(boot, file, note->sources.items[i] + 4);
    return r;
}

static int write_device(const struct boot *boot, FILE *file)
{
    CLEANUP_FREE char *path = boot_device_path(boot->own->device);
    (void)fputs(boot->own->is_network ? "Wants=network-online.target\n"
                                        "After=network-online.target remote-fs-pre.target\n"
                                      : "After=local-fs-pre.target\n",
                file);
    if (!path)
        return 0;
    int r = write_needed(file, "Requires", path, ".device");
    if (r < 0 || !boot->own->is_checked)
        return r;
    CLEANUP_FREE char *check = boot_unit_name(path, ".service");
    if (!check)
        return -ENOMEM;
    (void)fprintf(file, "Requires=systemd-fsck@%s\nAfter=systemd-fsck@%s\n", check, check);
    return 0;
}

/* ---- files ---- */

static int open_drop_in(const struct boot *boot, const char *unit, const char *name,
                        FILE **ret_file)
{
    CLEANUP_FREE char *dir = NULL;
    CLEANUP_FREE char *path = NULL;
    if (asprintf(&dir, "%s/%s.d", boot->dir, unit) < 0) {
        dir = NULL;
        return -ENOMEM;
    }
    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make '%s'", dir);
    FILE *file = fopen(path, "we");
    if (!file)
        return error_note_describe(-errno, "cannot make '%s'", path);
    (void)fputs(HEADER, file);
    *ret_file = file;
    return 0;
}

static int close_drop_in(FILE **file, int r)
{
    bool failed = ferror(*file) != 0;
    failed = fclose(TAKE_PTR(*file)) != 0 || failed;
    return r == 0 && failed ? error_note(-EIO, "cannot write units") : r;
}

static int write_service(struct boot *boot)
{
    CLEANUP(fclosep) FILE *file = NULL;
    int r = open_drop_in(boot, boot->service, DROP_IN_SERVICE, &file);
    if (r < 0)
        return r;
    r = boot->own ? write_device(boot, file) : 0;
    if (r == 0)
        r = write_needed_mounts(boot, file);
    return close_drop_in(&file, r);
}

static int write_follower(const struct boot *boot, const char *unit)
{
    CLEANUP(fclosep) FILE *file = NULL;
    int r = open_drop_in(boot, unit, boot->drop_in, &file);
    if (r < 0)
        return r;
    (void)fprintf(file, "Requires=%s\nAfter=%s\n", boot->service, boot->service);
    return close_drop_in(&file, 0);
}

static int write_mount(const struct boot *boot, const char *dir)
{
    CLEANUP_FREE char *unit = boot_unit_name(dir, ".mount");
    return unit ? write_follower(boot, unit) : -ENOMEM;
}

static int write_followers(const struct boot *boot)
{
    if (is_root(boot->note->mount_point))
        return write_follower(boot, "local-fs.target");
    int r = write_mount(boot, boot->note->mount_point);
    for (size_t i = 0; r == 0 && i < boot->mounts->count; i++)
        if (is_of_volume(boot, &boot->mounts->items[i]))
            r = write_mount(boot, boot->mounts->items[i].dir);
    return r;
}

static void set_names(struct boot *boot, uint64_t restore_id)
{
    char id[INSTANT_ID_LEN + 1];
    instant_id_format(restore_id, id);
    (void)snprintf(boot->service, sizeof(boot->service), "umbra-resume@%s.service", id);
    (void)snprintf(boot->drop_in, sizeof(boot->drop_in), "50-umbra-%s.conf", id);
}

int boot_units_write_unreadable(const char *dir, uint64_t restore_id)
{
    struct boot boot = {.dir = dir};
    set_names(&boot, restore_id);
    return write_follower(&boot, "local-fs.target");
}

int boot_units_write(const char *dir, const struct instant_note *note,
                     const struct boot_mount_vector *mounts)
{
    struct boot boot = {.dir = dir, .note = note, .mounts = mounts};
    if (!note->mount_point)
        return boot_units_write_unreadable(dir, note->restore_id);
    set_names(&boot, note->restore_id);
    for (size_t i = 0; i < mounts->count && !is_root(note->mount_point); i++)
        if (strcmp(mounts->items[i].dir, note->mount_point) == 0)
            boot.own = &mounts->items[i];
    /* The mounts first: what matters is that they wait. */
    int r = write_followers(&boot);
    if (r == 0)
        r = write_service(&boot);
    string_vector_release_all(&boot.needed);
    return r;
}
