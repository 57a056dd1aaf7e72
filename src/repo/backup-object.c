/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backup objects: storing, loading, finding.  The body's bytes are backup-body.c's.
 *
 * 1. Putting the object is the commit.  It is the last thing that a backup writes.
 * 2. What is put was opened again from the bytes that are put, so a backup that was confirmed can
 * be read (a bit that flips in memory meanwhile shows here, not at the restore).
 * 3. One damaged object never hides the others: it is warned of and counted.
 */
#include "repo/backup-object.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "repo/backup-format.h"
#include "repo/backup-private.h"

#define ZSTD_LEVEL        3
#define ID_PREFIX_LEN_MIN 4
#define OBJECT_NAME_LEN   (sizeof(BACKUP_OBJECT_PREFIX) - 1 + BACKUP_ID_LEN)

static void object_name(const char *id, char ret_name[OBJECT_NAME_LEN + 1])
{
    (void)snprintf(ret_name, OBJECT_NAME_LEN + 1, BACKUP_OBJECT_PREFIX "%s", id);
}

static bool is_hex(const char *text)
{
    return strspn(text, "0123456789abcdef") == strlen(text);
}

static int object_id(const void *object, size_t len, char ret_id[BACKUP_ID_LEN + 1])
{
    const struct iovec iov = {.iov_base = (void *)(uintptr_t)object, .iov_len = len};
    uint8_t digest[32];

    int r = sha256(&iov, 1, digest);
    if (r < 0)
        return r;
    hex_encode(digest, sizeof(digest), ret_id);
    return 0;
}

/* ---- object to body ---- */

static int body_decompress(const uint8_t *packed, size_t packed_len, uint8_t **ret_body,
                           size_t *ret_len)
{
    unsigned long long len = ZSTD_getFrameContentSize(packed, packed_len);
    if (len == ZSTD_CONTENTSIZE_ERROR || len == ZSTD_CONTENTSIZE_UNKNOWN ||
        len > BACKUP_BODY_LEN_MAX)
        return error_note(-UMBRA_E_CORRUPT, "backup object does not decompress");
    CLEANUP_FREE uint8_t *body = malloc(len > 0 ? (size_t)len : 1);
    if (!body)
        return error_note(-ENOMEM, "no memory for a backup object");
    size_t got = ZSTD_decompress(body, (size_t)len, packed, packed_len);
    if (ZSTD_isError(got) || got != len)
        return error_note(-UMBRA_E_CORRUPT, "backup object does not decompress");
    *ret_body = TAKE_PTR(body);
    *ret_len = got;
    return 0;
}

static int header_check(const uint8_t *object, size_t len)
{
    struct backup_header header;

    if (len < sizeof(header) + SEAL_OVERHEAD ||
        memcmp(object, BACKUP_MAGIC, sizeof(header.magic)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "not a backup object");
    memcpy(&header, object, sizeof(header));
    if (le32_get(&header.version) > BACKUP_VERSION)
        return error_note(-UMBRA_E_VERSION,
                          "backup object of version %" PRIu32 ", this program knows version %u",
                          le32_get(&header.version), BACKUP_VERSION);
    if (le32_get(&header.version) == 0 || le32_get(&header.reserved) != 0)
        return error_note(-UMBRA_E_CORRUPT, "header of a backup object is damaged");
    return 0;
}

static int object_open(const struct keyring *keyring, const uint8_t *object, size_t len,
                       struct pack_table *names, struct backup *ret_backup)
{
    CLEANUP_FREE uint8_t *packed = NULL, *body = NULL;
    size_t body_len = 0;

    int r = header_check(object, len);
    if (r < 0)
        return r;
    size_t box_len = len - sizeof(struct backup_header);
    packed = malloc(box_len);
    if (!packed)
        return error_note(-ENOMEM, "no memory for a backup object");
    r = unseal(keyring, SEAL_BACKUP, object, sizeof(struct backup_header),
               object + sizeof(struct backup_header), box_len, packed);
    if (r < 0)
        return r;
    r = body_decompress(packed, box_len - SEAL_OVERHEAD, &body, &body_len);
    if (r < 0)
        return r;
    return backup_parse(body, body_len, names, ret_backup);
}

/* ---- storing ---- */

static int body_compress(const struct buffer *body, struct buffer *packed)
{
    size_t room = ZSTD_compressBound(body->len);
    uint8_t *out = buffer_extend(packed, room);
    if (!out)
        return error_note(-ENOMEM, "no memory for a backup object");
    size_t len = ZSTD_compress(out, room, body->data, body->len, ZSTD_LEVEL);
    if (ZSTD_isError(len))
        return error_note(-EIO, "cannot compress a backup object: %s", ZSTD_getErrorName(len));
    packed->len = len;
    return 0;
}

static int object_make(const struct keyring *keyring, const struct pack_table *names,
                       const struct backup *backup, struct buffer *object)
{
    CLEANUP(buffer_release) struct buffer body = {0}, packed = {0};
    struct backup_header header = {.version = le32_make(BACKUP_VERSION)};

    int r = backup_encode(backup, names, &body);
    if (r < 0)
        return r;
    if (body.len > BACKUP_BODY_LEN_MAX)
        return error_note(-UMBRA_E_LIMIT, "backup object would have %zu bytes", body.len);
    r = body_compress(&body, &packed);
    if (r < 0)
        return r;
    size_t len = sizeof(header) + packed.len + SEAL_OVERHEAD;
    if (len > BACKUP_OBJECT_LEN_MAX)
        return error_note(-UMBRA_E_LIMIT, "backup object would have %zu bytes", len);

    memcpy(header.magic, BACKUP_MAGIC, sizeof(header.magic));
    buffer_put(object, &header, sizeof(header));
    uint8_t *box = buffer_extend(object, packed.len + SEAL_OVERHEAD);
    if (!box)
        return error_note(-ENOMEM, "no memory for a backup object");
    const struct iovec plain = {.iov_base = packed.data, .iov_len = packed.len};
    return seal(keyring, SEAL_BACKUP, &header, sizeof(header), &plain, 1, box);
}

static int object_verify(const struct keyring *keyring, const struct buffer *object)
{
    CLEANUP(pack_table_freep) struct pack_table *scratch = NULL;
    struct backup again = {0};

    int r = pack_table_new(&scratch);
    if (r < 0)
        return r;
    r = object_open(keyring, object->data, object->len, scratch, &again);
    if (r < 0)
        return error_prefix(r, "backup object just made cannot be read");
    backup_release(&again);
    return 0;
}

int backup_store(struct backend *backend, const struct keyring *keyring,
                 const struct pack_table *names, struct backup *backup)
{
    CLEANUP(buffer_release) struct buffer object = {0};
    char id[BACKUP_ID_LEN + 1], name[OBJECT_NAME_LEN + 1];

    int r = object_make(keyring, names, backup, &object);
    if (r < 0)
        return r;
    r = object_verify(keyring, &object);
    if (r < 0)
        return r;
    r = object_id(object.data, object.len, id);
    if (r < 0)
        return r;
    object_name(id, name);
    const struct iovec iov = {.iov_base = object.data, .iov_len = object.len};
    r = backend_put(backend, name, &iov, 1);
    if (r < 0)
        return r;
    memcpy(backup->id, id, sizeof(id));
    return 0;
}

/* ---- loading ---- */

static int load_verified(struct backend *backend, const struct keyring *keyring,
                         struct pack_table *names, const char *id, struct backup *backup)
{
    char name[OBJECT_NAME_LEN + 1], actual[BACKUP_ID_LEN + 1];
    CLEANUP_FREE void *object = NULL;
    size_t len = 0;

    object_name(id, name);
    int r = backend_get_all(backend, name, BACKUP_OBJECT_LEN_MAX, &object, &len);
    if (r < 0)
        return r;
    r = object_id(object, len, actual);
    if (r < 0)
        return r;
    if (strcmp(actual, id) != 0)
        return error_note(-UMBRA_E_CORRUPT,
                          "backup object %.16s... is damaged: its contents do "
                          "not fit its name",
                          id);
    r = object_open(keyring, object, len, names, backup);
    if (r < 0)
        return error_prefix(r, "backup object %.16s...", id);
    memcpy(backup->id, actual, sizeof(actual));
    return 0;
}

int backup_load(struct backend *backend, const struct keyring *keyring, struct pack_table *names,
                const char *id, struct backup **ret_backup)
{
    if (strlen(id) != BACKUP_ID_LEN || !is_hex(id))
        return error_note(-EINVAL, "'%.80s' is not the id of a backup", id);
    struct backup *backup = calloc(1, sizeof(*backup));
    if (!backup)
        return error_note(-ENOMEM, "no memory for a backup object");
    int r = load_verified(backend, keyring, names, id, backup);
    if (r < 0) {
        free(backup); /* nothing was filled in */
        if (r == -ENOENT)
            return error_note(-UMBRA_E_NO_BACKUP, "there is no backup %s", id);
        return r;
    }
    *ret_backup = backup;
    return 0;
}

static int collect_id(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    const char *id = name + sizeof(BACKUP_OBJECT_PREFIX) - 1;
    if (strlen(name) != OBJECT_NAME_LEN || !is_hex(id)) {
        log_warning("'%s' is not the name of a backup object; ignored", name);
        return 0;
    }
    return string_vector_add(userdata, id);
}

int backup_each(struct backend *backend, const struct keyring *keyring, struct pack_table *names,
                backup_each_fn fn, void *userdata, size_t *ret_damaged_count)
{
    CLEANUP(string_vector_release_all) struct string_vector ids = {0};
    size_t damaged_count = 0;

    int r = backend_list(backend, BACKUP_OBJECT_PREFIX, collect_id, &ids);
    for (size_t i = 0; r == 0 && i < ids.count; i++) {
        CLEANUP(backup_freep) struct backup *backup = NULL;
        r = backup_load(backend, keyring, names, ids.items[i], &backup);
        if (r == 0) {
            r = fn(&backup, userdata);
        } else if (r == -UMBRA_E_NO_BACKUP) { /* removed meanwhile */
            r = 0;
        } else if (r != -ENOMEM && r != -UMBRA_E_CANCELLED) {
            log_warning("%s", error_text(r));
            damaged_count++;
            r = 0;
        }
    }
    if (r == 0)
        *ret_damaged_count = damaged_count;
    return r;
}

/* ---- all of them ---- */

void backup_vector_release_all(struct backup_vector *v)
{
    for (size_t i = 0; i < v->count; i++)
        backup_free(v->items[i]);
    backup_vector_release(v);
}

static int compare_age(const struct backup *a, const struct backup *b)
{
    if (a->start_ns != b->start_ns)
        return a->start_ns < b->start_ns ? -1 : 1;
    return strcmp(a->id, b->id);
}

static int compare_backups(const void *a, const void *b)
{
    return compare_age(*(struct backup *const *)a, *(struct backup *const *)b);
}

static int keep_backup(struct backup **backup, void *userdata)
{
    int r = backup_vector_push(userdata, backup);
    if (r < 0)
        return error_note(r, "no memory for a list of backups");
    *backup = NULL;
    return 0;
}

int backup_load_all(struct backend *backend, const struct keyring *keyring,
                    struct pack_table *names, struct backup_vector *ret_backups,
                    size_t *ret_damaged_count)
{
    CLEANUP(backup_vector_release_all) struct backup_vector backups = {0};

    int r = backup_each(backend, keyring, names, keep_backup, &backups, ret_damaged_count);
    if (r < 0)
        return r;
    if (backups.count > 0)
        qsort(backups.items, backups.count, sizeof(backups.items[0]), compare_backups);
    *ret_backups = backups;
    backups = (struct backup_vector){0};
    return 0;
}

/* ---- finding one ---- */

struct newest {
    const char *tag;  /* NULL: any */
    const char *host; /* NULL: any */
    struct backup *found;
};

static bool has_tag(const struct backup *backup, const char *tag)
{
    for (size_t i = 0; i < backup->tags.count; i++) {
        if (strcmp(backup->tags.items[i], tag) == 0)
            return true;
    }
    return false;
}

static int keep_newest(struct backup **backup, void *userdata)
{
    struct newest *n = userdata;

    if ((n->host && strcmp((*backup)->host, n->host) != 0) ||
        (n->tag && !has_tag(*backup, n->tag)) || (n->found && compare_age(*backup, n->found) < 0))
        return 0;
    if (n->found)
        backup_free(n->found);
    n->found = TAKE_PTR(*backup);
    return 0;
}

static int find_newest(struct backend *backend, const struct keyring *keyring,
                       struct pack_table *names, const char *tag, const char *host,
                       struct backup **ret_backup)
{
    struct newest n = {.tag = tag, .host = host};
    size_t damaged_count = 0;

    int r = backup_each(backend, keyring, names, keep_newest, &n, &damaged_count);
    if (r < 0) {
        backup_free(n.found);
        return r;
    }
    if (!n.found && tag)
        return error_note(-UMBRA_E_NO_BACKUP, "no backup is called '%s'%s%s", tag,
                          host ? ", of host " : "", host ? host : "");
    if (!n.found)
        return error_note(-UMBRA_E_NO_BACKUP, "there is no backup%s%s in '%s'",
                          host ? " of host " : "", host ? host : "", backend->url);
    *ret_backup = n.found;
    return 0;
}

/* The name may be a tag as well as the beginning of ids.  Nobody is given another backup than the
 * one he means: where the two differ it is ambiguous. */
static int find_by_tag_or_prefix(struct backend *backend, const struct keyring *keyring,
                                 struct pack_table *names, const char *name, const char *host,
                                 struct backup **ret_backup)
{
    CLEANUP(string_vector_release_all) struct string_vector ids = {0};
    CLEANUP(backup_freep) struct backup *tagged = NULL;
    char prefix[OBJECT_NAME_LEN + 1];

    object_name(name, prefix);
    int r = backend_list(backend, prefix, collect_id, &ids);
    if (r < 0)
        return r;
    if (ids.count == 1 && strlen(name) == BACKUP_ID_LEN)
        return backup_load(backend, keyring, names, name, ret_backup);
    r = find_newest(backend, keyring, names, name, host, &tagged);
    if (r < 0 && (r != -UMBRA_E_NO_BACKUP || ids.count == 0))
        return r;
    for (size_t i = 0; tagged && i < ids.count; i++) {
        if (strcmp(ids.items[i], tagged->id) != 0)
            return error_note(-UMBRA_E_AMBIGUOUS,
                              "'%s' is a tag of backup %.12s, and backup %.12s begins with it",
                              name, tagged->id, ids.items[i]);
    }
    if (!tagged && ids.count > 1)
        return error_note(-UMBRA_E_AMBIGUOUS, "%zu backups begin with '%s'", ids.count, name);
    if (!tagged)
        return backup_load(backend, keyring, names, ids.items[0], ret_backup);
    *ret_backup = TAKE_PTR(tagged);
    return 0;
}

int backup_find(struct backend *backend, const struct keyring *keyring, struct pack_table *names,
                const char *name, const char *host, struct backup **ret_backup)
{
    size_t len = strlen(name);

    if (strcmp(name, "latest") == 0)
        return find_newest(backend, keyring, names, NULL, host, ret_backup);
    if (len >= ID_PREFIX_LEN_MIN && len <= BACKUP_ID_LEN && is_hex(name))
        return find_by_tag_or_prefix(backend, keyring, names, name, host, ret_backup);
    return find_newest(backend, keyring, names, name, host, ret_backup);
}
