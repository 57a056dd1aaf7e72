/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys, sealed boxes, chunk ids.
 *
 * One random 256-bit master key; every other key is derived from it with BLAKE3 derive_key and a
 * context string of its own.  A sealed box is
 *
 *     salt[24] ciphertext[len] tag[16]
 *
 * made with AES-256-GCM under a key used for this box alone: BLAKE3 keyed hash, under the key of
 * the box's kind, of the random salt.  The nonce is then a constant (zeros), there is nothing to
 * count or to reuse, and a box can be read by whoever has the master key and the box.  The idea is
 * that of XAES-256-GCM (C2SP), with BLAKE3 as the derivation.  Kind and caller's bytes are
 * associated data, so a box of one kind never opens as another.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/macro.h"
#include "tree/chunk-ref.h"

#define MASTER_KEY_LEN 32
#define REPO_ID_LEN    16
#define SEAL_SALT_LEN  24
#define SEAL_TAG_LEN   16
#define SEAL_OVERHEAD  (SEAL_SALT_LEN + SEAL_TAG_LEN)

/* The numbers are on disk (in associated data and derivation contexts). */
enum seal_kind {
    SEAL_CONFIG = 1,
    SEAL_DATA_FRAME = 2,
    SEAL_META_FRAME = 3,
    SEAL_PACK_DIRECTORY = 4,
    SEAL_INDEX = 5,
    SEAL_BACKUP = 6,
    SEAL_SESSION = 7,
    SEAL_KEY = 8, /* the master key under a passphrase's key */
    SEAL_KIND_MAX,
};

/* In locked memory (sodium_malloc), kept out of core dumps, wiped when freed.  Immutable: any
 * thread may use it. */
struct keyring;

_must_check_ int keyring_new_random(struct keyring **ret_keyring);
_must_check_ int keyring_new(const uint8_t master[MASTER_KEY_LEN], struct keyring **ret_keyring);
void keyring_free(struct keyring *keyring);
DEFINE_CLEANUP_PTR(struct keyring *, keyring_free);

/* Seals the pieces into out, which has room for their sum + SEAL_OVERHEAD. */
_must_check_ int seal(const struct keyring *keyring, enum seal_kind kind, const void *aad,
                      size_t aad_len, const struct iovec *plain, size_t plain_count, void *out);
/* Opens a box of len bytes into plain (len - SEAL_OVERHEAD bytes; may not overlap).  -UMBRA_E_SEAL,
 * and plain is wiped then. */
_must_check_ int unseal(const struct keyring *keyring, enum seal_kind kind, const void *aad,
                        size_t aad_len, const void *box, size_t len, void *plain);

enum chunk_kind {
    CHUNK_DATA = 1,
    CHUNK_META = 2,
};
/* Keyed BLAKE3-256 of the contents; each kind has a key of its own. */
void chunk_id_compute(const struct keyring *keyring, enum chunk_kind kind, const void *data,
                      size_t len, struct chunk_id *ret_id);
/* The secret table of the chunker. */
void keyring_gear_table(const struct keyring *keyring, uint64_t table[256]);
/* The id of the repository with this master key; public. */
void keyring_repo_id(const struct keyring *keyring, uint8_t id[REPO_ID_LEN]);

/* Unpredictable bytes from the kernel; len at most 256. */
_must_check_ int crypt_random(void *data, size_t len);

/* SHA-256 of the pieces one after the other. */
_must_check_ int sha256(const struct iovec *iov, size_t iov_count, uint8_t digest[32]);
