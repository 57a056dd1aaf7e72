/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Passphrases.
 *
 * A key object (keys/<sha256>) holds the master key sealed under a key that Argon2id makes of one
 * passphrase.  There may be several; any one opens the repository.  Each is of its own: adding or
 * removing one never touches the others, and the last one cannot be removed.
 */
#pragma once

#include "repo/backend.h"
#include "repo/crypt.h"

#define PASSPHRASE_LEN_MAX 4096u
#define KEY_LABEL_MAX      64u

/* Cost of a new key object.  Readers accept up to 1 GiB and 16 passes. */
struct key_cost {
    uint64_t memory_bytes;
    uint32_t passes;
};
/* 64 MiB, 3 passes: RFC 9106, second recommended option (with one lane). */
extern const struct key_cost key_cost_default;
/* The least that Argon2id takes; for tests. */
extern const struct key_cost key_cost_minimal;

struct key_info {
    char name[65]; /* hex of the object's SHA-256 */
    char label[KEY_LABEL_MAX + 1];
    int64_t created_ns;
    bool current; /* the one that opened the repository */
};

/* Seals keyring's master key under the passphrase and stores the object. */
_must_check_ int key_add(struct backend *backend, const struct keyring *keyring,
                         const void *passphrase, size_t len, const char *label,
                         const struct key_cost *cost, char ret_name[65]);
/* Tries each key object; -UMBRA_E_PASSPHRASE when none opens; damaged key objects are named in
 * warnings and skipped. */
_must_check_ int key_open(struct backend *backend, const void *passphrase, size_t len,
                          struct keyring **ret_keyring, char ret_name[65]);
_must_check_ int key_list(struct backend *backend, const char *current,
                          int (*fn)(const struct key_info *, void *), void *userdata);
/* By unique prefix of the name.  Refuses to remove the last one. */
_must_check_ int key_remove(struct backend *backend, const char *prefix);

/* Parses one key object without opening it (for check and for the fuzzer). */
_must_check_ int key_parse(const void *data, size_t len, struct key_info *ret_info);
