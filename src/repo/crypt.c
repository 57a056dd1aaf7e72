/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys, sealed boxes, chunk ids.
 *
 * The primitives are those of others: AES-256-GCM and SHA-256 of OpenSSL, BLAKE3 of its authors,
 * locked memory of libsodium.  What is done with them:
 *
 * 1. The master key never encrypts anything.  Each purpose has a key of its own, derived under a
 *    context string (crypt-format.h).
 * 2. No key encrypts two boxes.  A box's key comes from its random 192-bit salt; that two of 2^64
 *    boxes share a salt has a chance of 2^-65.  Hence no nonce has to be remembered, across
 * crashes, machines that share a repository, or restored clones of a machine.
 * 3. What does not open is not seen: the plain buffer is wiped before the error is returned.
 * 4. Keys lie in locked, guarded, read-only pages; every copy on a stack is wiped.
 *
 * A cipher context is made for each box.  That costs well under a microsecond, against a hundred
 * for a frame, and leaves no keys behind in threads that come and go.
 *
 * Locks: none.  A keyring does not change after it was made.
 */
#include "repo/crypt.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include <blake3.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <sodium.h>

#include "basic/error.h"
#include "repo/crypt-format.h"
#include "repo/crypt-private.h"

struct keyring {
    uint8_t master[MASTER_KEY_LEN];
    uint8_t seal_keys[SEAL_KIND_MAX][BLAKE3_KEY_LEN]; /* [0] is not used */
    uint8_t chunk_keys[CHUNK_META + 1][BLAKE3_KEY_LEN];
};

static const char *const seal_contexts[SEAL_KIND_MAX] = {
#define X(kind, context, words) [kind] = (context),
    SEAL_KIND_LIST(X)
#undef X
};

static const char *const seal_words[SEAL_KIND_MAX] = {
#define X(kind, context, words) [kind] = (words),
    SEAL_KIND_LIST(X)
#undef X
};

/* Fetched once: a fetch by name for each box would cost more than sealing a small one. */
static struct {
    pthread_once_t once;
    EVP_CIPHER *cipher;
    EVP_MD *digest;
    bool usable;
} library = {.once = PTHREAD_ONCE_INIT};

static void library_init(void)
{
    library.cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    library.digest = EVP_MD_fetch(NULL, "SHA256", NULL);
    library.usable = library.cipher && library.digest && sodium_init() >= 0;
}

static int library_ready(void)
{
    int r = pthread_once(&library.once, library_init);
    if (r != 0)
        return error_note_describe(-r, "cannot initialise the cryptographic libraries");
    if (!library.usable)
        return error_note(-ENOSYS, "the cryptographic libraries lack AES-256-GCM or SHA-256");
    return 0;
}

static int library_failed(const char *what)
{
    ERR_clear_error();
    return error_note(-EIO, "the cryptographic library cannot %s", what);
}

static void cipher_ctx_freep(EVP_CIPHER_CTX **ctx)
{
    EVP_CIPHER_CTX_free(*ctx);
}

static void md_ctx_freep(EVP_MD_CTX **ctx)
{
    EVP_MD_CTX_free(*ctx);
}

int crypt_random(void *data, size_t len)
{
    if (len > 256) /* up to here the kernel neither shortens nor interrupts */
        return error_note(-EINVAL, "too many random bytes asked for: %zu", len);
    if (getrandom(data, len, 0) != (ssize_t)len)
        return error_note_describe(-errno, "cannot get random bytes");
    return 0;
}

void derive_bytes(const char *context, const uint8_t key[MASTER_KEY_LEN], void *out, size_t len)
{
    blake3_hasher hasher;
    blake3_hasher_init_derive_key(&hasher, context);
    blake3_hasher_update(&hasher, key, MASTER_KEY_LEN);
    blake3_hasher_finalize(&hasher, out, len);
    sodium_memzero(&hasher, sizeof(hasher));
}

static int keyring_allocate(struct keyring **ret_keyring)
{
    int r = library_ready();
    if (r < 0)
        return r;
    struct keyring *keyring = sodium_malloc(sizeof(*keyring));
    if (!keyring)
        return error_note(-ENOMEM, "no memory for keys");
    *ret_keyring = keyring;
    return 0;
}

static void keyring_derive(struct keyring *keyring)
{
    for (unsigned kind = SEAL_CONFIG; kind < SEAL_KIND_MAX; kind++)
        derive_bytes(seal_contexts[kind], keyring->master, keyring->seal_keys[kind],
                     BLAKE3_KEY_LEN);
    derive_bytes(CHUNK_DATA_CONTEXT, keyring->master, keyring->chunk_keys[CHUNK_DATA],
                 BLAKE3_KEY_LEN);
    derive_bytes(CHUNK_META_CONTEXT, keyring->master, keyring->chunk_keys[CHUNK_META],
                 BLAKE3_KEY_LEN);
    /* Best effort, against our own stray writes; the pages are guarded on both sides anyway. */
    (void)sodium_mprotect_readonly(keyring);
}

int keyring_new(const uint8_t master[MASTER_KEY_LEN], struct keyring **ret_keyring)
{
    CLEANUP(keyring_freep) struct keyring *keyring = NULL;
    int r = keyring_allocate(&keyring);
    if (r < 0)
        return r;
    memcpy(keyring->master, master, MASTER_KEY_LEN);
    keyring_derive(keyring);
    *ret_keyring = TAKE_PTR(keyring);
    return 0;
}

int keyring_new_random(struct keyring **ret_keyring)
{
    CLEANUP(keyring_freep) struct keyring *keyring = NULL;
    int r = keyring_allocate(&keyring);
    if (r < 0)
        return r;
    r = crypt_random(keyring->master, MASTER_KEY_LEN);
    if (r < 0)
        return r;
    keyring_derive(keyring);
    *ret_keyring = TAKE_PTR(keyring);
    return 0;
}

void keyring_free(struct keyring *keyring)
{
    sodium_free(keyring); /* wipes */
}

const uint8_t *keyring_master(const struct keyring *keyring)
{
    return keyring->master;
}

static void box_key(const struct keyring *keyring, enum seal_kind kind,
                    const uint8_t salt[SEAL_SALT_LEN], uint8_t key[BLAKE3_OUT_LEN])
{
    blake3_hasher hasher;
    blake3_hasher_init_keyed(&hasher, keyring->seal_keys[kind]);
    blake3_hasher_update(&hasher, salt, SEAL_SALT_LEN);
    blake3_hasher_finalize(&hasher, key, BLAKE3_OUT_LEN);
    sodium_memzero(&hasher, sizeof(hasher));
}

/* A context for one box, keyed, with the associated data already in it. */
static int box_begin(const struct keyring *keyring, enum seal_kind kind,
                     const uint8_t salt[SEAL_SALT_LEN], bool sealing, const void *aad,
                     size_t aad_len, EVP_CIPHER_CTX **ret_ctx)
{
    static const uint8_t nonce[12];
    const struct seal_aad_head head = {.kind = le32_make(kind)};
    uint8_t key[BLAKE3_OUT_LEN];
    int unused_len = 0;

    if (aad_len > INT_MAX)
        return error_note(-UMBRA_E_LIMIT, "too much associated data");
    CLEANUP(cipher_ctx_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (!ctx)
        return error_note(-ENOMEM, "no memory for a cipher context");

    box_key(keyring, kind, salt, key);
    int ok = EVP_CipherInit_ex2(ctx, library.cipher, key, nonce, sealing, NULL);
    sodium_memzero(key, sizeof(key));
    if (ok != 1 ||
        EVP_CipherUpdate(ctx, NULL, &unused_len, (const uint8_t *)&head, sizeof(head)) != 1)
        return library_failed("set up AES-256-GCM");
    if (aad_len > 0 && EVP_CipherUpdate(ctx, NULL, &unused_len, aad, (int)aad_len) != 1)
        return library_failed("take associated data");
    *ret_ctx = TAKE_PTR(ctx);
    return 0;
}

int seal_with_salt(const struct keyring *keyring, enum seal_kind kind,
                   const uint8_t salt[SEAL_SALT_LEN], const void *aad, size_t aad_len,
                   const struct iovec *plain, size_t plain_count, void *out)
{
    CLEANUP(cipher_ctx_freep) EVP_CIPHER_CTX *ctx = NULL;
    int r = box_begin(keyring, kind, salt, true, aad, aad_len, &ctx);
    if (r < 0)
        return r;

    uint8_t *pos = out;
    memcpy(pos, salt, SEAL_SALT_LEN);
    pos += SEAL_SALT_LEN;
    for (size_t i = 0; i < plain_count; i++) {
        int written = 0;
        if (plain[i].iov_len == 0)
            continue;
        if (plain[i].iov_len > INT_MAX)
            return error_note(-UMBRA_E_LIMIT, "too much to seal at once");
        if (EVP_EncryptUpdate(ctx, pos, &written, plain[i].iov_base, (int)plain[i].iov_len) != 1)
            return library_failed("encrypt");
        pos += written;
    }
    int unused_len = 0;
    if (EVP_EncryptFinal_ex(ctx, pos, &unused_len) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_LEN, pos) != 1)
        return library_failed("finish encrypting");
    return 0;
}

int seal(const struct keyring *keyring, enum seal_kind kind, const void *aad, size_t aad_len,
         const struct iovec *plain, size_t plain_count, void *out)
{
    uint8_t salt[SEAL_SALT_LEN];
    int r = crypt_random(salt, sizeof(salt));
    if (r < 0)
        return r;
    return seal_with_salt(keyring, kind, salt, aad, aad_len, plain, plain_count, out);
}

static int box_open(EVP_CIPHER_CTX *ctx, enum seal_kind kind, const uint8_t *cipher, size_t len,
                    const uint8_t *tag, uint8_t *plain)
{
    int written = 0, unused_len = 0;
    uint8_t tag_copy[SEAL_TAG_LEN]; /* OpenSSL wants it writable */

    memcpy(tag_copy, tag, SEAL_TAG_LEN);
    if (len > 0 && EVP_DecryptUpdate(ctx, plain, &written, cipher, (int)len) != 1)
        return library_failed("decrypt");
    if (EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_LEN, tag_copy) != 1)
        return library_failed("take a tag");
    if (EVP_DecryptFinal_ex(ctx, plain + written, &unused_len) != 1) {
        ERR_clear_error();
        return error_note(-UMBRA_E_SEAL, "%s cannot be authenticated: wrong key or damaged data",
                          seal_words[kind]);
    }
    return 0;
}

int unseal(const struct keyring *keyring, enum seal_kind kind, const void *aad, size_t aad_len,
           const void *box, size_t len, void *plain)
{
    const uint8_t *salt = box;

    if (len < SEAL_OVERHEAD)
        return error_note(-UMBRA_E_SEAL, "%s is too short for a sealed box: %zu bytes",
                          seal_words[kind], len);
    size_t plain_len = len - SEAL_OVERHEAD;
    if (plain_len > INT_MAX)
        return error_note(-UMBRA_E_LIMIT, "%s is too long: %zu bytes", seal_words[kind], len);

    CLEANUP(cipher_ctx_freep) EVP_CIPHER_CTX *ctx = NULL;
    int r = box_begin(keyring, kind, salt, false, aad, aad_len, &ctx);
    if (r < 0)
        return r;
    const uint8_t *cipher = salt + SEAL_SALT_LEN;
    r = box_open(ctx, kind, cipher, plain_len, cipher + plain_len, plain);
    if (r < 0 && plain_len > 0)
        sodium_memzero(plain, plain_len);
    return r;
}

void chunk_id_compute(const struct keyring *keyring, enum chunk_kind kind, const void *data,
                      size_t len, struct chunk_id *ret_id)
{
    blake3_hasher hasher;
    blake3_hasher_init_keyed(&hasher, keyring->chunk_keys[kind]);
    blake3_hasher_update(&hasher, data, len);
    blake3_hasher_finalize(&hasher, ret_id->bytes, sizeof(ret_id->bytes));
    sodium_memzero(&hasher, sizeof(hasher));
}

void keyring_gear_table(const struct keyring *keyring, uint64_t table[256])
{
    le64_t bytes[256];
    derive_bytes(GEAR_TABLE_CONTEXT, keyring->master, bytes, sizeof(bytes));
    for (size_t i = 0; i < ELEMENTSOF(bytes); i++)
        table[i] = le64_get(&bytes[i]);
    sodium_memzero(bytes, sizeof(bytes));
}

void keyring_repo_id(const struct keyring *keyring, uint8_t id[REPO_ID_LEN])
{
    derive_bytes(REPO_ID_CONTEXT, keyring->master, id, REPO_ID_LEN);
}

int sha256(const struct iovec *iov, size_t iov_count, uint8_t digest[32])
{
    int r = library_ready();
    if (r < 0)
        return r;
    CLEANUP(md_ctx_freep) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx)
        return error_note(-ENOMEM, "no memory for a digest context");
    if (EVP_DigestInit_ex2(ctx, library.digest, NULL) != 1)
        return library_failed("set up SHA-256");
    for (size_t i = 0; i < iov_count; i++) {
        if (iov[i].iov_len > 0 && EVP_DigestUpdate(ctx, iov[i].iov_base, iov[i].iov_len) != 1)
            return library_failed("hash");
    }
    if (EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
        return library_failed("finish a hash");
    return 0;
}
