/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The configuration of an instant restore as JSON, both ways.
 *
 * It is read from an extended attribute of the target, on a file system that anybody may have made,
 * so every member has bounds, and text outside of them is refused as a whole.  Members that are not
 * known are ignored; what an older program must not ignore raises the version.
 *
 * The passphrase is the last member, and is put behind the rest and taken off it by hand: json-c
 * never sees it, because it leaves copies in memory that nobody wipes.
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "control/json-text.h"
#include "repo/keys.h"
#include "restore/instant.h"
#include "restore/source.h"

#define CONFIG_WHAT       "restore configuration"
#define CONFIG_VERSION    1u
#define CONFIG_TEXT_MAX   (1u << 20)
#define STRING_LEN_MAX    4096u
#define LIST_COUNT_MAX    1024u
#define PROGRAM_NAME_MAX  15u /* TASK_COMM_LEN of the kernel, without the NUL */
#define WHOLE_FILE_MAX    (UINT64_C(1) << 62)
#define PASSPHRASE_MEMBER ",\"passphrase\":\""
#define PASSPHRASE_END    "\"}"
#define BASE64_VARIANT    sodium_base64_VARIANT_ORIGINAL

static const char *const phase_names[INSTANT_PHASE_MAX] = {
    [INSTANT_PLACING] = "placing",
    [INSTANT_FILLING] = "filling",
    [INSTANT_CANCELLED] = "cancelled",
};

void instant_config_release(struct instant_config *config)
{
    free(config->repo_url);
    free(config->cache_dir);
    free(config->backup_id);
    free(config->subpath);
    free(config->target);
    free(config->digest);
    free(config->load_order);
    free(config->record_order);
    string_vector_release_all(&config->includes);
    string_vector_release_all(&config->excludes);
    string_vector_release_all(&config->sources);
    string_vector_release_all(&config->hole_seekers);
    sodium_free(config->passphrase); /* wipes it */
    *config = (struct instant_config){0};
}

/* ---- to text ---- */

static int append_passphrase(const struct instant_config *config, const char *json, char **ret_text)
{
    size_t json_len = strlen(json) - 1; /* without its last brace */
    size_t encoded_size = sodium_base64_encoded_len(config->passphrase_len, BASE64_VARIANT);
    size_t size = json_len + strlen(PASSPHRASE_MEMBER) + encoded_size + strlen(PASSPHRASE_END);
    char *text = malloc(size);
    if (!text)
        return -ENOMEM;
    char *end = mempcpy(text, json, json_len);
    end = mempcpy(end, PASSPHRASE_MEMBER, strlen(PASSPHRASE_MEMBER));
    sodium_bin2base64(end, encoded_size, config->passphrase, config->passphrase_len,
                      BASE64_VARIANT);
    memcpy(end + encoded_size - 1, PASSPHRASE_END, strlen(PASSPHRASE_END) + 1);
    *ret_text = text;
    return 0;
}

int instant_config_to_json(const struct instant_config *config, bool with_passphrase,
                           char **ret_text)
{
    CLEANUP(json_writer_release) struct json_writer w;
    char id[2 * sizeof(uint64_t) + 1];
    json_writer_init(&w);
    instant_id_format(config->restore_id, id);
    json_write_u64(&w, "version", CONFIG_VERSION);
    json_write_string(&w, "restore", id);
    json_write_string(&w, "phase", phase_names[config->phase]);
    json_write_string(&w, "repo", config->repo_url);
    json_write_string(&w, "cache_dir", config->cache_dir);
    json_write_string(&w, "backup", config->backup_id);
    json_write_string(&w, "subpath", config->subpath);
    json_write_string(&w, "target", config->target);
    json_write_string(&w, "digest", config->digest);
    json_write_strings(&w, "includes", &config->includes);
    json_write_strings(&w, "excludes", &config->excludes);
    json_write_strings(&w, "sources", &config->sources);
    json_write_strings(&w, "hole_seekers", &config->hole_seekers);
    json_write_bool(&w, "numeric_owner", config->numeric_owner);
    json_write_bool(&w, "idle", config->idle);
    json_write_u64(&w, "limit_bytes_per_s", config->limit_bytes_per_s);
    json_write_u64(&w, "whole_file_max", config->whole_file_max);
    json_write_u64(&w, "deadline_s", config->deadline_s);
    json_write_string(&w, "load_order", config->load_order);
    json_write_string(&w, "record_order", config->record_order);

    CLEANUP_FREE char *json = NULL;
    int r = json_writer_finish(&w, &json);
    if (r < 0)
        return r;
    if (with_passphrase && config->passphrase)
        return append_passphrase(config, json, ret_text);
    *ret_text = TAKE_PTR(json);
    return 0;
}

/* ---- from text ---- */

static int config_corrupt(const char *why)
{
    return error_note(-UMBRA_E_CORRUPT, CONFIG_WHAT " %s", why);
}

static int decode_passphrase(const char *encoded, size_t len, struct instant_config *config)
{
    if (len > sodium_base64_encoded_len(PASSPHRASE_LEN_MAX, BASE64_VARIANT) - 1)
        return config_corrupt("has a passphrase that is too long");
    config->passphrase = sodium_init() < 0 ? NULL : sodium_malloc(PASSPHRASE_LEN_MAX);
    if (!config->passphrase)
        return error_note(-ENOMEM, "cannot allocate locked memory");
    size_t decoded_len = 0;
    if (sodium_base642bin(config->passphrase, PASSPHRASE_LEN_MAX, encoded, len, NULL, &decoded_len,
                          NULL, BASE64_VARIANT) != 0)
        return config_corrupt("has a passphrase that cannot be decoded");
    config->passphrase_len = (uint32_t)decoded_len;
    return 0;
}

/* The bytes of text that come before the passphrase's member, or len when there is none.  What a
 * string holds cannot look like it: a quote in a string has a backslash before it. */
static size_t find_passphrase(const char *text, size_t len)
{
    size_t end_len = strlen(PASSPHRASE_END), member_len = strlen(PASSPHRASE_MEMBER);
    if (len < end_len + member_len || memcmp(text + len - end_len, PASSPHRASE_END, end_len) != 0)
        return len;
    const char *quote = memrchr(text, '"', len - end_len);
    size_t start = quote ? (size_t)(quote - text) + 1 : 0;
    if (start < member_len || memcmp(text + start - member_len, PASSPHRASE_MEMBER, member_len) != 0)
        return len;
    return start - member_len;
}

static int parse_text(const char *text, size_t len, struct instant_config *config,
                      struct json_object **ret_object)
{
    size_t json_len = find_passphrase(text, len);
    if (json_len == len)
        return json_parse_object(text, len, CONFIG_WHAT, ret_object);
    size_t encoded_at = json_len + strlen(PASSPHRASE_MEMBER);
    int r = decode_passphrase(text + encoded_at, len - strlen(PASSPHRASE_END) - encoded_at, config);
    if (r < 0)
        return r;
    CLEANUP_FREE char *json = malloc(json_len + 1);
    if (!json)
        return -ENOMEM;
    memcpy(json, text, json_len);
    json[json_len] = '}';
    return json_parse_object(json, json_len + 1, CONFIG_WHAT, ret_object);
}

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

static void read_id(struct json_reader *in, struct instant_config *config)
{
    CLEANUP_FREE char *text = json_read_string(in, "restore", JSON_MUST, STRING_LEN_MAX);
    if (text && instant_id_parse(text, &config->restore_id) < 0)
        json_reader_fail(in, "restore", "is not the id of a restore");
}

static void read_phase(struct json_reader *in, struct instant_config *config)
{
    CLEANUP_FREE char *name = json_read_string(in, "phase", JSON_MUST, STRING_LEN_MAX);
    if (!name)
        return;
    for (unsigned i = 0; i < INSTANT_PHASE_MAX; i++)
        if (strcmp(name, phase_names[i]) == 0) {
            config->phase = (enum instant_phase)i;
            return;
        }
    json_reader_fail(in, "phase", "is unknown");
}

static void read_backup(struct json_reader *in, struct instant_config *config)
{
    config->backup_id = json_read_string(in, "backup", JSON_MUST, BACKUP_ID_LEN);
    const char *id = config->backup_id;
    if (id && (strlen(id) != BACKUP_ID_LEN || strspn(id, "0123456789abcdef") != BACKUP_ID_LEN))
        json_reader_fail(in, "backup", "is not the whole id of a backup");
}

static void read_digest(struct json_reader *in, struct instant_config *config)
{
    config->digest = json_read_string(in, "digest", JSON_MAY, INSTANT_DIGEST_LEN);
    const char *digest = config->digest;
    if (digest && (strlen(digest) != INSTANT_DIGEST_LEN ||
                   strspn(digest, "0123456789abcdef") != INSTANT_DIGEST_LEN))
        json_reader_fail(in, "digest", "is no digest");
}

static char *read_absolute(struct json_reader *in, const char *key, enum json_need need)
{
    char *path = json_read_string(in, key, need, STRING_LEN_MAX);
    if (path && *path != '/')
        json_reader_fail(in, key, "is not an absolute path");
    return path;
}

static void check_sources(struct json_reader *in, const struct string_vector *sources)
{
    for (size_t i = 0; i < sources->count; i++)
        if (!instant_source_valid(sources->items[i]))
            json_reader_fail(in, "sources", "has an item of no known kind");
}

static void check_programs(struct json_reader *in, const struct string_vector *names)
{
    for (size_t i = 0; i < names->count; i++)
        if (*names->items[i] == '\0')
            json_reader_fail(in, "hole_seekers", "has an empty item");
}

static int read_members(struct json_reader *in, struct instant_config *config)
{
    read_version(in);
    read_id(in, config);
    read_phase(in, config);
    config->repo_url = json_read_string(in, "repo", JSON_MUST, STRING_LEN_MAX);
    config->cache_dir = json_read_string(in, "cache_dir", JSON_MAY, STRING_LEN_MAX);
    read_backup(in, config);
    config->subpath = read_absolute(in, "subpath", JSON_MAY);
    config->target = read_absolute(in, "target", JSON_MUST);
    read_digest(in, config);
    json_read_strings(in, "includes", LIST_COUNT_MAX, STRING_LEN_MAX, &config->includes);
    json_read_strings(in, "excludes", LIST_COUNT_MAX, STRING_LEN_MAX, &config->excludes);
    json_read_strings(in, "sources", LIST_COUNT_MAX, STRING_LEN_MAX, &config->sources);
    check_sources(in, &config->sources);
    json_read_strings(in, "hole_seekers", LIST_COUNT_MAX, PROGRAM_NAME_MAX, &config->hole_seekers);
    check_programs(in, &config->hole_seekers);
    config->numeric_owner = json_read_bool(in, "numeric_owner", false);
    config->idle = json_read_bool(in, "idle", false);
    config->limit_bytes_per_s = json_read_u64(in, "limit_bytes_per_s", 0, 0, INSTANT_LIMIT_MAX);
    config->whole_file_max =
        json_read_u64(in, "whole_file_max", INSTANT_WHOLE_FILE_MAX_DEFAULT, 0, WHOLE_FILE_MAX);
    config->deadline_s = (uint32_t)json_read_u64(in, "deadline_s", INSTANT_DEADLINE_S_DEFAULT, 1,
                                                 INSTANT_DEADLINE_S_MAX);
    config->load_order = read_absolute(in, "load_order", JSON_MAY);
    config->record_order = read_absolute(in, "record_order", JSON_MAY);
    return in->error;
}

int instant_config_from_json(const char *text, size_t len, struct instant_config *ret_config)
{
    CLEANUP(instant_config_release) struct instant_config config = {0};
    CLEANUP(json_object_putp) struct json_object *object = NULL;
    if (len > CONFIG_TEXT_MAX)
        return config_corrupt("is too long");
    int r = parse_text(text, len, &config, &object);
    if (r < 0)
        return r;
    struct json_reader in = {.object = object, .what = CONFIG_WHAT};
    r = read_members(&in, &config);
    if (r < 0)
        return r;
    *ret_config = config;
    config = (struct instant_config){0};
    return 0;
}

/* ---- small parts ---- */

void instant_id_format(uint64_t restore_id, char text[INSTANT_ID_LEN + 1])
{
    (void)snprintf(text, INSTANT_ID_LEN + 1, "%016llx", (unsigned long long)restore_id);
}

int instant_id_parse(const char *text, uint64_t *ret_restore_id)
{
    uint8_t bytes[sizeof(uint64_t)];
    uint64_t id = 0;
    if (hex_decode(text, bytes, sizeof(bytes)) < 0)
        return -EINVAL;
    for (size_t i = 0; i < sizeof(bytes); i++)
        id = id << 8 | bytes[i];
    if (id == 0)
        return -EINVAL;
    *ret_restore_id = id;
    return 0;
}

bool instant_source_valid(const char *source)
{
    if (strncmp(source, SOURCE_DIR, strlen(SOURCE_DIR)) == 0)
        return source[strlen(SOURCE_DIR)] == '/';
    if (strncmp(source, SOURCE_EXEC, strlen(SOURCE_EXEC)) == 0)
        return source[strlen(SOURCE_EXEC)] != '\0';
    return strcmp(source, SOURCE_REPO) == 0;
}
