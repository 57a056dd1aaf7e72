/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Key objects, keys/<sha256 of the object>: the master key under one passphrase.
 *
 *     header[176] sealed master key[32 + SEAL_OVERHEAD]
 *
 * The key K is Argon2id (version 1.3, one lane) of the passphrase and the salt, 32 bytes.  The box
 * is of kind SEAL_KEY under the keys that derive from K as from a master key; its associated data
 * is the header.  The commitment is derived from K: a reader compares it before it opens the box.
 * Durable when written (put-if-absent), never replaced.
 *
 * A reader skips a key object that it cannot use (damaged, too new, of another repository) with a
 * warning, and goes on with the others.
 */
#pragma once

#include <stddef.h>

#include "basic/le.h"
#include "repo/crypt.h"
#include "repo/keys.h"

#define KEY_OBJECT_PREFIX  "keys/"
#define KEY_MAGIC          "UMBRAKEY"
#define KEY_VERSION        1u
#define KEY_KDF_ARGON2ID13 1u
#define KEY_SALT_LEN       16
#define KEY_COMMITMENT_LEN 32
#define KEY_MEMORY_MIN     UINT64_C(8192) /* bytes, whole KiB */
#define KEY_MEMORY_MAX     (UINT64_C(1) << 30)
#define KEY_PASSES_MAX     16u
#define KEY_OBJECTS_MAX    1024u /* a reader tries no more */
#define KEY_OBJECT_LEN     (sizeof(struct key_header) + MASTER_KEY_LEN + SEAL_OVERHEAD)

struct key_header {
    uint8_t magic[8];                       /*   0..7   */
    le32_t version;                         /*   8..11  */
    le32_t kdf;                             /*  12..15  KEY_KDF_ARGON2ID13 */
    le32_t passes;                          /*  16..19  */
    le32_t label_len;                       /*  20..23  */
    le64_t memory_bytes;                    /*  24..31  */
    le64_t created_ns;                      /*  32..39  since the epoch, two's complement */
    uint8_t salt[KEY_SALT_LEN];             /*  40..55  */
    uint8_t repo_id[REPO_ID_LEN];           /*  56..71  */
    uint8_t commitment[KEY_COMMITMENT_LEN]; /*  72..103 */
    uint8_t label[KEY_LABEL_MAX];           /* 104..167 any bytes but NUL, zeros behind */
    uint8_t reserved[8];                    /* 168..175 zero */
};
_Static_assert(sizeof(struct key_header) == 176, "on disk");
_Static_assert(offsetof(struct key_header, memory_bytes) == 24, "on disk");
_Static_assert(offsetof(struct key_header, salt) == 40, "on disk");
_Static_assert(offsetof(struct key_header, commitment) == 72, "on disk");
_Static_assert(offsetof(struct key_header, label) == 104, "on disk");
_Static_assert(offsetof(struct key_header, reserved) == 168, "on disk");
