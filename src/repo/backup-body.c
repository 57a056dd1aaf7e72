/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The body of a backup object: struct backup in bytes and out of them.  See backup-format.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "repo/backup-format.h"
#include "repo/backup-private.h"

/* ---- ownership ---- */

void backup_release(struct backup *backup)
{
    free(backup->host);
    free(backup->user);
    free(backup->program);
    string_vector_release_all(&backup->roots);
    string_vector_release_all(&backup->tags);
    string_vector_release_all(&backup->excludes);
    owner_vector_release_all(&backup->owners);
    for (size_t i = 0; i < backup->file_systems.count; i++) {
        free(backup->file_systems.items[i].type);
        free(backup->file_systems.items[i].source);
        free(backup->file_systems.items[i].mount);
    }
    backup_fs_vector_release(&backup->file_systems);
    catalog_root_release(&backup->catalog);
    *backup = (struct backup){0};
}

void backup_free(struct backup *backup)
{
    if (!backup)
        return;
    backup_release(backup);
    free(backup);
}

/* ---- encoding ---- */

/* A writer that remembers the first thing that no reader would take. */
struct encoder {
    struct buffer *body;
    const char *too_large;
};

static void put_string(struct encoder *e, const char *s, size_t max, const char *what)
{
    if (!s)
        s = "";
    if (strlen(s) > max && !e->too_large)
        e->too_large = what;
    buffer_put_string(e->body, s);
}

static void put_count(struct encoder *e, size_t count, size_t max, const char *what)
{
    if (count > max && !e->too_large)
        e->too_large = what;
    buffer_put_varint(e->body, count);
}

static void put_strings(struct encoder *e, const struct string_vector *v, const char *what)
{
    put_count(e, v->count, BACKUP_STRINGS_MAX, what);
    for (size_t i = 0; i < v->count; i++)
        put_string(e, v->items[i], BACKUP_STRING_LEN_MAX, what);
}

#define STATS_COUNT 12

/* The order on disk. */
static void stats_fields(struct backup_stats *s, uint64_t *fields[STATS_COUNT])
{
    uint64_t *const order[STATS_COUNT] = {
        &s->file_count,      &s->directory_count, &s->other_count,     &s->size_bytes,
        &s->new_count,       &s->changed_count,   &s->unchanged_count, &s->read_bytes,
        &s->new_chunk_count, &s->new_chunk_bytes, &s->stored_bytes,    &s->problem_count,
    };
    memcpy(fields, order, sizeof(order));
}

static void put_stats(struct encoder *e, const struct backup_stats *stats)
{
    struct backup_stats copy = *stats;
    uint64_t *fields[STATS_COUNT];

    stats_fields(&copy, fields);
    for (size_t i = 0; i < ELEMENTSOF(fields); i++)
        buffer_put_varint(e->body, *fields[i]);
}

static void put_owners(struct encoder *e, const struct owner_vector *owners)
{
    put_count(e, owners->count, BACKUP_OWNERS_MAX, "the list of owners");
    for (size_t i = 0; i < owners->count; i++) {
        buffer_put_u8(e->body, owners->items[i].is_group);
        buffer_put_varint(e->body, owners->items[i].id);
        put_string(e, owners->items[i].name, BACKUP_NAME_LEN_MAX, "the name of an owner");
    }
}

static void put_file_systems(struct encoder *e, const struct backup_fs_vector *v)
{
    put_count(e, v->count, BACKUP_FILE_SYSTEMS_MAX, "the list of file systems");
    for (size_t i = 0; i < v->count; i++) {
        put_string(e, v->items[i].type, BACKUP_NAME_LEN_MAX, "the type of a file system");
        put_string(e, v->items[i].source, BACKUP_STRING_LEN_MAX, "the source of a file system");
        put_string(e, v->items[i].mount, BACKUP_STRING_LEN_MAX, "the mount of a file system");
    }
}

int backup_encode(const struct backup *backup, const struct pack_table *names, struct buffer *body)
{
    struct encoder e = {.body = body};

    buffer_put_zigzag(body, backup->start_ns);
    buffer_put_zigzag(body, backup->end_ns);
    put_string(&e, backup->host, BACKUP_NAME_LEN_MAX, "the host name");
    put_string(&e, backup->user, BACKUP_NAME_LEN_MAX, "the user name");
    put_string(&e, backup->program, BACKUP_NAME_LEN_MAX, "the program name");
    put_strings(&e, &backup->roots, "the list of roots");
    put_strings(&e, &backup->tags, "the list of tags");
    put_strings(&e, &backup->excludes, "the list of excludes");
    put_string(&e, backup->parent, BACKUP_ID_LEN, "the parent");
    put_stats(&e, &backup->stats);
    put_owners(&e, &backup->owners);
    put_file_systems(&e, &backup->file_systems);
    if (e.too_large)
        return error_note(-UMBRA_E_LIMIT, "%s is too long for a backup object", e.too_large);
    int r = catalog_root_encode(&backup->catalog, names, body);
    if (r < 0)
        return r;
    r = buffer_finish(body);
    return r < 0 ? error_note(r, "no memory for a backup object") : 0;
}

/* ---- parsing ---- */

static int parse_failed(const char *what)
{
    return error_note(-UMBRA_E_CORRUPT, "backup object is damaged in %s", what);
}

static int parse_strings(struct reader *r, struct string_vector *v, const char *what)
{
    uint64_t count = reader_varint_max(r, BACKUP_STRINGS_MAX);

    for (uint64_t i = 0; i < count; i++) {
        char *s = reader_string(r, BACKUP_STRING_LEN_MAX);
        if (!s)
            return parse_failed(what);
        int ret = string_vector_take(v, s);
        if (ret < 0)
            return ret;
    }
    return reader_finish(r) < 0 ? parse_failed(what) : 0;
}

static int parse_parent(struct reader *r, char parent[BACKUP_ID_LEN + 1])
{
    size_t len = 0;
    const uint8_t *text = reader_blob(r, BACKUP_ID_LEN, &len);

    if (!text || (len != 0 && len != BACKUP_ID_LEN))
        return parse_failed("its parent");
    memcpy(parent, text, len);
    parent[len] = '\0';
    if (strspn(parent, "0123456789abcdef") != len)
        return parse_failed("its parent");
    return 0;
}

static int parse_stats(struct reader *r, struct backup_stats *stats)
{
    uint64_t *fields[STATS_COUNT];

    stats_fields(stats, fields);
    for (size_t i = 0; i < ELEMENTSOF(fields); i++)
        *fields[i] = reader_varint(r);
    return reader_finish(r) < 0 ? parse_failed("its numbers") : 0;
}

static int parse_owners(struct reader *r, struct owner_vector *owners)
{
    uint64_t count = reader_varint_max(r, BACKUP_OWNERS_MAX);

    for (uint64_t i = 0; i < count; i++) {
        uint8_t is_group = reader_u8(r);
        uint32_t id = (uint32_t)reader_varint_max(r, UINT32_MAX);
        struct owner owner = {.is_group = is_group == 1, .id = id};
        owner.name = reader_string(r, BACKUP_NAME_LEN_MAX);
        if (!owner.name || is_group > 1) {
            free(owner.name);
            return parse_failed("its owners");
        }
        if (owner_vector_push(owners, &owner) < 0) {
            free(owner.name);
            return error_note(-ENOMEM, "no memory for owners");
        }
    }
    return reader_finish(r) < 0 ? parse_failed("its owners") : 0;
}

static int parse_file_systems(struct reader *r, struct backup_fs_vector *v)
{
    uint64_t count = reader_varint_max(r, BACKUP_FILE_SYSTEMS_MAX);

    for (uint64_t i = 0; i < count; i++) {
        CLEANUP_FREE char *type = reader_string(r, BACKUP_NAME_LEN_MAX);
        CLEANUP_FREE char *source = reader_string(r, BACKUP_STRING_LEN_MAX);
        CLEANUP_FREE char *mount = reader_string(r, BACKUP_STRING_LEN_MAX);
        if (!type || !source || !mount)
            return parse_failed("its file systems");
        const struct backup_fs fs = {.type = type, .source = source, .mount = mount};
        if (backup_fs_vector_push(v, &fs) < 0)
            return error_note(-ENOMEM, "no memory for file systems");
        type = source = mount = NULL;
    }
    return reader_finish(r) < 0 ? parse_failed("its file systems") : 0;
}

static int parse_names(struct reader *r, struct backup *backup)
{
    backup->start_ns = reader_zigzag(r);
    backup->end_ns = reader_zigzag(r);
    backup->host = reader_string(r, BACKUP_NAME_LEN_MAX);
    backup->user = reader_string(r, BACKUP_NAME_LEN_MAX);
    backup->program = reader_string(r, BACKUP_NAME_LEN_MAX);
    if (!backup->host || !backup->user || !backup->program)
        return parse_failed("its names");
    int ret = parse_strings(r, &backup->roots, "its roots");
    if (ret == 0)
        ret = parse_strings(r, &backup->tags, "its tags");
    if (ret == 0)
        ret = parse_strings(r, &backup->excludes, "its excludes");
    if (ret == 0)
        ret = parse_parent(r, backup->parent);
    return ret;
}

static int parse_body(struct reader *r, struct pack_table *names, struct backup *backup)
{
    int ret = parse_names(r, backup);
    if (ret == 0)
        ret = parse_stats(r, &backup->stats);
    if (ret == 0)
        ret = parse_owners(r, &backup->owners);
    if (ret == 0)
        ret = parse_file_systems(r, &backup->file_systems);
    if (ret == 0)
        ret = catalog_root_decode(r, names, &backup->catalog);
    if (ret == 0 && reader_finish_at_end(r) < 0)
        ret = parse_failed("its end");
    return ret;
}

int backup_parse(const void *data, size_t len, struct pack_table *names, struct backup *ret_backup)
{
    struct reader reader = reader_make(data, len);
    struct backup backup = {0};

    int r = parse_body(&reader, names, &backup);
    if (r < 0) {
        backup_release(&backup);
        return r;
    }
    *ret_backup = backup;
    return 0;
}
