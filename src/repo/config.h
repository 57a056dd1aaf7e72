/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The object "config", in bytes and out of them.  See config-format.h. */
#pragma once

#include "repo/backend.h"
#include "repo/chunker.h"
#include "repo/crypt.h"

struct repo_config {
    uint8_t id[REPO_ID_LEN];
    uint32_t version;
    int64_t created_ns;
    struct chunker_params chunker;
    uint32_t pack_target_bytes;
};

/* What can be told without a key. */
struct config_clear {
    uint8_t repo_id[REPO_ID_LEN];
    uint32_t version;
    uint32_t compat;
    uint32_t sealed_len;
};

/* -EINVAL with a note when the parameters are not such as a repository can have. */
_must_check_ int config_check(const struct repo_config *config);
/* Writes the object; -EEXIST when there is one. config->id must be that of the keyring. */
_must_check_ int config_store(struct backend *backend, const struct keyring *keyring,
                              const struct repo_config *config);
/* The whole object; malloc'ed.  -UMBRA_E_NOT_REPO when there is none. */
_must_check_ int config_read(struct backend *backend, void **ret_object, size_t *ret_len,
                             struct config_clear *ret_clear);
/* -UMBRA_E_NOT_REPO (another magic), -UMBRA_E_VERSION, -UMBRA_E_CORRUPT. */
_must_check_ int config_parse_header(const void *object, size_t len,
                                     struct config_clear *ret_clear);
/* The opened body. -UMBRA_E_CORRUPT. */
_must_check_ int config_parse_body(const void *body, size_t len, const struct config_clear *clear,
                                   struct repo_config *ret_config);
/* Opens the body of an object whose header is fine. */
_must_check_ int config_open(const struct keyring *keyring, const void *object, size_t len,
                             const struct config_clear *clear, struct repo_config *ret_config);
