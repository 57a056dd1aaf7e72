/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "repo/config.h"

#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "repo/config-format.h"
#include "repo/pack.h"

static bool all_zero(const uint8_t *bytes, size_t len)
{
    return zero_prefix_len(bytes, len) == len;
}

int config_check(const struct repo_config *config)
{
    static const uint64_t any_table[256];
    struct chunker chunker;

    int r = chunker_init(&chunker, CHUNKER_GEAR, &config->chunker, any_table);
    if (r < 0)
        return r;
    if (config->chunker.max_bytes > FRAME_PLAIN_MAX)
        return error_note(-EINVAL, "largest chunk size %u is beyond the %u bytes of a frame",
                          config->chunker.max_bytes, FRAME_PLAIN_MAX);
    if (config->pack_target_bytes < CONFIG_PACK_TARGET_MIN ||
        config->pack_target_bytes > CONFIG_PACK_TARGET_MAX)
        return error_note(-EINVAL, "pack size %u is not between %u and %u",
                          config->pack_target_bytes, CONFIG_PACK_TARGET_MIN,
                          CONFIG_PACK_TARGET_MAX);
    return 0;
}

int config_store(struct backend *backend, const struct keyring *keyring,
                 const struct repo_config *config)
{
    const struct config_body body = {
        .created_ns = le64_make((uint64_t)config->created_ns),
        .id_function = le32_make(CONFIG_ID_BLAKE3_KEYED),
        .chunk_min = le32_make(config->chunker.min_bytes),
        .chunk_normal = le32_make(config->chunker.normal_bytes),
        .chunk_max = le32_make(config->chunker.max_bytes),
        .pack_target_bytes = le32_make(config->pack_target_bytes),
    };
    uint8_t box[sizeof(body) + SEAL_OVERHEAD];
    struct config_header header = {
        .version = le32_make(CONFIG_VERSION),
        .sealed_len = le32_make(sizeof(box)),
    };
    const struct iovec plain = {.iov_base = (void *)(uintptr_t)&body, .iov_len = sizeof(body)};

    int r = config_check(config);
    if (r < 0)
        return r;
    memcpy(header.magic, CONFIG_MAGIC, sizeof(header.magic));
    memcpy(header.repo_id, config->id, sizeof(header.repo_id));
    r = seal(keyring, SEAL_CONFIG, &header, sizeof(header), &plain, 1, box);
    if (r < 0)
        return r;
    const struct iovec object[] = {
        {.iov_base = &header, .iov_len = sizeof(header)},
        {.iov_base = box, .iov_len = sizeof(box)},
    };
    return backend_put(backend, CONFIG_OBJECT_NAME, object, ELEMENTSOF(object));
}

int config_parse_header(const void *object, size_t len, struct config_clear *ret_clear)
{
    struct config_header header;

    if (len < sizeof(header.magic) || memcmp(object, CONFIG_MAGIC, sizeof(header.magic)) != 0)
        return error_note(-UMBRA_E_NOT_REPO, "the config is not that of an umbra repository");
    if (len < sizeof(header))
        return error_note(-UMBRA_E_CORRUPT, "the config is cut short: %zu bytes", len);
    memcpy(&header, object, sizeof(header));

    uint32_t version = le32_get(&header.version), incompat = le32_get(&header.incompat);
    if (version == 0)
        return error_note(-UMBRA_E_CORRUPT, "the config has version 0");
    if (version > CONFIG_VERSION)
        return error_note(-UMBRA_E_VERSION,
                          "the repository has version %u, this program knows version %u: use a "
                          "newer umbra",
                          version, CONFIG_VERSION);
    if ((incompat & ~CONFIG_INCOMPAT_KNOWN) != 0)
        return error_note(-UMBRA_E_VERSION,
                          "the repository uses features 0x%x that this program does not know: use "
                          "a newer umbra",
                          incompat & ~CONFIG_INCOMPAT_KNOWN);
    uint32_t sealed_len = le32_get(&header.sealed_len);
    if (sealed_len < sizeof(struct config_body) + SEAL_OVERHEAD ||
        sealed_len > CONFIG_SEALED_LEN_MAX || len != sizeof(header) + sealed_len ||
        !all_zero(header.reserved, sizeof(header.reserved)))
        return error_note(-UMBRA_E_CORRUPT, "the header of the config is damaged");

    *ret_clear = (struct config_clear){
        .version = version, .compat = le32_get(&header.compat), .sealed_len = sealed_len};
    memcpy(ret_clear->repo_id, header.repo_id, sizeof(ret_clear->repo_id));
    return 0;
}

int config_parse_body(const void *bytes, size_t len, const struct config_clear *clear,
                      struct repo_config *ret_config)
{
    struct config_body body;

    bool may_be_longer = (clear->compat & ~CONFIG_COMPAT_KNOWN) != 0;
    if (len < sizeof(body) || (len > sizeof(body) && !may_be_longer))
        return error_note(-UMBRA_E_CORRUPT, "the body of the config has %zu bytes", len);
    memcpy(&body, bytes, sizeof(body));
    if (!all_zero(body.reserved, sizeof(body.reserved)) && !may_be_longer)
        return error_note(-UMBRA_E_CORRUPT, "reserved bytes of the config are not zero");
    if (le32_get(&body.id_function) != CONFIG_ID_BLAKE3_KEYED)
        return error_note(-UMBRA_E_VERSION, "chunk id function %u is not known: use a newer umbra",
                          le32_get(&body.id_function));

    struct repo_config config = {
        .version = clear->version,
        .created_ns = (int64_t)le64_get(&body.created_ns),
        .chunker =
            {
                .min_bytes = le32_get(&body.chunk_min),
                .normal_bytes = le32_get(&body.chunk_normal),
                .max_bytes = le32_get(&body.chunk_max),
            },
        .pack_target_bytes = le32_get(&body.pack_target_bytes),
    };
    memcpy(config.id, clear->repo_id, sizeof(config.id));
    int r = config_check(&config);
    if (r < 0)
        return error_note(-UMBRA_E_CORRUPT, "the config has sizes that no repository can have");
    *ret_config = config;
    return 0;
}

int config_open(const struct keyring *keyring, const void *object, size_t len,
                const struct config_clear *clear, struct repo_config *ret_config)
{
    uint8_t body[CONFIG_SEALED_LEN_MAX - SEAL_OVERHEAD];
    const struct config_header *header = object;

    int r = unseal(keyring, SEAL_CONFIG, header, sizeof(*header), header + 1, len - sizeof(*header),
                   body);
    if (r < 0)
        return r;
    return config_parse_body(body, clear->sealed_len - SEAL_OVERHEAD, clear, ret_config);
}

int config_read(struct backend *backend, void **ret_object, size_t *ret_len,
                struct config_clear *ret_clear)
{
    CLEANUP_FREE void *object = NULL;
    size_t len = 0;

    int r = backend_get_all(backend, CONFIG_OBJECT_NAME, CONFIG_OBJECT_LEN_MAX, &object, &len);
    if (r == -ENOENT)
        return error_note(-UMBRA_E_NOT_REPO, "'%s' is not an umbra repository: it has no config",
                          backend->url);
    if (r == -UMBRA_E_LIMIT)
        return error_note(-UMBRA_E_NOT_REPO,
                          "'%s' is not an umbra repository: its config is "
                          "something else",
                          backend->url);
    if (r < 0)
        return r;
    r = config_parse_header(object, len, ret_clear);
    if (r < 0)
        return error_prefix(r, "'%s'", backend->url);
    *ret_object = TAKE_PTR(object);
    *ret_len = len;
    return 0;
}
