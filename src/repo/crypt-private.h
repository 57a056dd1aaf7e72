/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For keys.c and the tests of crypt.c. */
#pragma once

#include "repo/crypt.h"

/* The master key itself, in the keyring's locked memory. */
const uint8_t *keyring_master(const struct keyring *keyring);

/* seal() with a given salt.  A salt must never be used for two boxes: this is for known answers. */
_must_check_ int seal_with_salt(const struct keyring *keyring, enum seal_kind kind,
                                const uint8_t salt[SEAL_SALT_LEN], const void *aad, size_t aad_len,
                                const struct iovec *plain, size_t plain_count, void *out);

/* BLAKE3 derive_key of a 256-bit key; len bytes of output. */
void derive_bytes(const char *context, const uint8_t key[MASTER_KEY_LEN], void *out, size_t len);
