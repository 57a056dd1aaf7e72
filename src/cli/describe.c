/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/describe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/text.h"
#include "tree/key.h"

/* ---- backups ---- */

static struct json_object *strings_to_json(const struct string_vector *strings)
{
    struct json_object *array = json_new_array();
    for (size_t i = 0; i < strings->count; i++)
        json_append(array, json_name_value(strings->items[i], strlen(strings->items[i])));
    return array;
}

static struct json_object *stats_to_json(const struct backup_stats *s)
{
    struct json_object *object = json_new_object();
    json_add_uint(object, "files", s->file_count);
    json_add_uint(object, "directories", s->directory_count);
    json_add_uint(object, "others", s->other_count);
    json_add_uint(object, "size_bytes", s->size_bytes);
    json_add_uint(object, "new_files", s->new_count);
    json_add_uint(object, "changed_files", s->changed_count);
    json_add_uint(object, "unchanged_files", s->unchanged_count);
    json_add_uint(object, "read_bytes", s->read_bytes);
    json_add_uint(object, "new_chunks", s->new_chunk_count);
    json_add_uint(object, "new_chunk_bytes", s->new_chunk_bytes);
    json_add_uint(object, "stored_bytes", s->stored_bytes);
    json_add_uint(object, "problems", s->problem_count);
    return object;
}

static struct json_object *file_systems_to_json(const struct backup_fs_vector *file_systems)
{
    struct json_object *array = json_new_array();
    for (size_t i = 0; i < file_systems->count; i++) {
        const struct backup_fs *fs = &file_systems->items[i];
        struct json_object *item = json_new_object();
        json_add_string(item, "type", fs->type);
        json_add_name(item, "source", fs->source, strlen(fs->source));
        json_add_name(item, "mount", fs->mount, strlen(fs->mount));
        json_append(array, item);
    }
    return array;
}

struct json_object *backup_to_json(const struct backup *backup)
{
    struct json_object *object = json_new_object();
    json_add_string(object, "id", *backup->id ? backup->id : NULL);
    json_add_time(object, "start", backup->start_ns);
    json_add_time(object, "end", backup->end_ns);
    json_add_name(object, "host", backup->host, strlen(backup->host));
    json_add_name(object, "user", backup->user, strlen(backup->user));
    json_add_string(object, "program", backup->program);
    json_add(object, "paths", strings_to_json(&backup->roots));
    json_add(object, "tags", strings_to_json(&backup->tags));
    json_add(object, "excludes", strings_to_json(&backup->excludes));
    json_add_string(object, "parent", *backup->parent ? backup->parent : NULL);
    json_add_bool(object, "complete", backup->stats.problem_count == 0);
    json_add(object, "stats", stats_to_json(&backup->stats));
    json_add(object, "file_systems", file_systems_to_json(&backup->file_systems));
    return object;
}

/* ---- entries ---- */

char *entry_path(const struct entry *e)
{
    CLEANUP_FREE char *relative = key_to_path(e->key, e->key_len);
    char *path;
    if (!relative || asprintf(&path, "/%s", relative) < 0)
        return NULL;
    return path;
}

static bool has_acl(const struct entry *e)
{
    for (size_t i = 0; i < e->xattrs.count; i++)
        if (strcmp(e->xattrs.items[i].name, "system.posix_acl_access") == 0 ||
            strcmp(e->xattrs.items[i].name, "system.posix_acl_default") == 0)
            return true;
    return false;
}

/* The letter for "execute" of one class, which also shows its special bit. */
static char execute_letter(uint32_t mode, uint32_t execute, uint32_t special, char with,
                           char without)
{
    if (mode & special)
        return mode & execute ? with : without;
    return mode & execute ? 'x' : '-';
}

char *entry_mode_text(const struct entry *e, char text[12])
{
    uint32_t m = e->mode;
    text[0] = entry_type_letter(e->type);
    for (unsigned i = 0; i < 9; i++)
        text[1 + i] = m & (0400u >> i) ? "rwx"[i % 3] : '-';
    text[3] = execute_letter(m, S_IXUSR, S_ISUID, 's', 'S');
    text[6] = execute_letter(m, S_IXGRP, S_ISGID, 's', 'S');
    text[9] = execute_letter(m, S_IXOTH, S_ISVTX, 't', 'T');
    text[10] = has_acl(e) ? '+' : '\0';
    text[11] = '\0';
    return text;
}

const char *owner_name(const struct owner_vector *owners, uint32_t id, bool is_group,
                       char buffer[16])
{
    for (size_t i = 0; i < owners->count; i++)
        if (owners->items[i].id == id && owners->items[i].is_group == is_group)
            return owners->items[i].name;
    (void)snprintf(buffer, 16, "%" PRIu32, id);
    return buffer;
}

static const char *type_name(enum entry_type type)
{
    static const char *const names[ENTRY_TYPE_MAX] = {
        [ENTRY_REGULAR] = "file", [ENTRY_DIRECTORY] = "directory", [ENTRY_SYMLINK] = "symlink",
        [ENTRY_FIFO] = "fifo",    [ENTRY_SOCKET] = "socket",       [ENTRY_CHAR] = "char",
        [ENTRY_BLOCK] = "block",
    };
    return type < ENTRY_TYPE_MAX && names[type] ? names[type] : "unknown";
}

static void add_owner(struct json_object *object, const struct owner_vector *owners,
                      const char *key, uint32_t id, bool is_group)
{
    char buffer[16];
    const char *name = owner_name(owners, id, is_group, buffer);
    if (name == buffer)
        json_add_string(object, key, NULL);
    else
        json_add_name(object, key, name, strlen(name));
}

/* Times before 1678 or after 2262 do not fit 64 bits of nanoseconds: those come as numbers. */
static void add_entry_time(struct json_object *object, const char *key, const struct entry_time *t)
{
    int64_t ns;
    if (!__builtin_mul_overflow(t->sec, (int64_t)NSEC_PER_SEC, &ns) &&
        !__builtin_add_overflow(ns, (int64_t)t->nsec, &ns))
        json_add_time(object, key, ns);
    else
        json_add(object, key, json_object_new_int64(t->sec));
}

static void add_remarks(struct json_object *object, uint32_t remarks)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {
        {ENTRY_CHANGED_WHILE_READ, "changed-while-read"},
        {ENTRY_XATTRS_INCOMPLETE, "xattrs-incomplete"},
        {ENTRY_CONTENT_UNREADABLE, "content-unreadable"},
    };
    struct json_object *array = json_new_array();
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        if (remarks & names[i].bit)
            json_append(array, json_name_value(names[i].name, strlen(names[i].name)));
    json_add(object, "remarks", array);
}

static void add_xattrs(struct json_object *object, const struct xattr_vector *xattrs)
{
    struct json_object *array = json_new_array();
    for (size_t i = 0; i < xattrs->count; i++) {
        const struct xattr *x = &xattrs->items[i];
        struct json_object *item = json_new_object();
        json_add_name(item, "name", x->name, strlen(x->name));
        json_add_name(item, "value", x->value, x->value_len);
        json_append(array, item);
    }
    json_add(object, "xattrs", array);
}

static void add_identity(struct json_object *object, const struct backup *backup,
                         const struct entry *e)
{
    json_add_uint(object, "inode", e->inode);
    json_add_uint(object, "nlink", e->nlink);
    if (e->fs_index < backup->file_systems.count) {
        const char *mount = backup->file_systems.items[e->fs_index].mount;
        json_add_name(object, "mount", mount, strlen(mount));
    }
}

struct json_object *entry_to_json(const struct backup *backup, const struct entry *e)
{
    struct json_object *object = json_new_object();
    CLEANUP_FREE char *path = entry_path(e);
    char mode[12], octal[16];
    json_add_name(object, "path", path ? path : "", path ? strlen(path) : 0);
    json_add_string(object, "type", type_name(e->type));
    (void)snprintf(octal, sizeof(octal), "%04o", e->mode & 07777u);
    json_add_string(object, "mode", octal);
    json_add_string(object, "mode_text", entry_mode_text(e, mode));
    json_add_uint(object, "uid", e->uid);
    json_add_uint(object, "gid", e->gid);
    add_owner(object, &backup->owners, "user", e->uid, false);
    add_owner(object, &backup->owners, "group", e->gid, true);
    json_add_uint(object, "size", e->size);
    add_identity(object, backup, e);
    add_entry_time(object, "mtime", &e->mtime);
    add_entry_time(object, "ctime", &e->ctime);
    add_entry_time(object, "atime", &e->atime);
    if (e->btime.sec != 0 || e->btime.nsec != 0)
        add_entry_time(object, "btime", &e->btime);
    if (e->symlink)
        json_add_name(object, "target", e->symlink, strlen(e->symlink));
    if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK) {
        json_add_uint(object, "device_major", e->rdev_major);
        json_add_uint(object, "device_minor", e->rdev_minor);
    }
    json_add_uint(object, "flags", e->flags);
    json_add_uint(object, "project_id", e->project_id);
    add_xattrs(object, &e->xattrs);
    add_remarks(object, e->remarks);
    return object;
}
