/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of the format that no file shows: how keys are derived from the master key, and what is
 * authenticated with a sealed box.  All of it is frozen with version 1 of the repository.
 *
 * A key:             BLAKE3 derive_key(context, master), 32 bytes.
 * A box's key:       BLAKE3 keyed_hash(key of the kind, salt), 32 bytes.
 * A box's nonce:     12 zero bytes: the key is used once.
 * Associated data:   bytes 0..3 kind, le32; bytes 4.. what the caller gives.
 * The Gear table:    the first 2048 bytes of the derive_key output, as 256 le64.
 * The repository id: the first 16 bytes of the derive_key output.
 */
#pragma once

#include "basic/le.h"
#include "repo/crypt.h"

#define CRYPT_CONTEXT "umbra repository 1: "

/* Contexts of the sealing keys: X(kind, context, words for messages). */
#define SEAL_KIND_LIST(X)                                                         \
    X(SEAL_CONFIG, CRYPT_CONTEXT "seal config", "configuration")                  \
    X(SEAL_DATA_FRAME, CRYPT_CONTEXT "seal data frame", "data frame")             \
    X(SEAL_META_FRAME, CRYPT_CONTEXT "seal metadata frame", "metadata frame")     \
    X(SEAL_PACK_DIRECTORY, CRYPT_CONTEXT "seal pack directory", "pack directory") \
    X(SEAL_INDEX, CRYPT_CONTEXT "seal index segment", "index segment")            \
    X(SEAL_BACKUP, CRYPT_CONTEXT "seal backup object", "backup object")           \
    X(SEAL_SESSION, CRYPT_CONTEXT "seal session object", "session object")        \
    X(SEAL_KEY, CRYPT_CONTEXT "seal master key", "key object")

#define CHUNK_DATA_CONTEXT CRYPT_CONTEXT "data chunk id"
#define CHUNK_META_CONTEXT CRYPT_CONTEXT "metadata chunk id"
#define GEAR_TABLE_CONTEXT CRYPT_CONTEXT "chunker gear table"
#define REPO_ID_CONTEXT    CRYPT_CONTEXT "repository id"
/* Of the key that Argon2id makes: says without opening the box whether the passphrase fits, and
 * binds the box to that one key, which GCM alone does not. */
#define KEY_COMMITMENT_CONTEXT CRYPT_CONTEXT "passphrase key commitment"

struct seal_aad_head {
    le32_t kind; /* 0..3 */
};
_Static_assert(sizeof(struct seal_aad_head) == 4, "on disk");

_Static_assert(SEAL_SALT_LEN == 24 && SEAL_TAG_LEN == 16 && MASTER_KEY_LEN == 32, "on disk");
_Static_assert(SEAL_CONFIG == 1 && SEAL_KEY == 8 && SEAL_KIND_MAX == 9, "on disk");
_Static_assert(CHUNK_DATA == 1 && CHUNK_META == 2, "on disk");
