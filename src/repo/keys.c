/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Passphrases: key objects, made and opened.  See key-format.h for the bytes.
 *
 * 1. A key object is named by its SHA-256, so accidental damage is told from a wrong passphrase.
 * 2. It carries the id of its repository.  Key objects of another one (copied by mistake, or left
 *    by an init that was interrupted before it wrote the config) are never tried and never count.
 * 3. Removing refuses when no other usable key object would be left.
 *
 * Locks: none.  Adding and removing key objects are single operations of the backend.
 */
#include "repo/keys.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sodium.h>

#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "basic/vector.h"
#include "repo/chunker.h"
#include "repo/config.h"
#include "repo/crypt-format.h"
#include "repo/crypt-private.h"
#include "repo/key-format.h"

const struct key_cost key_cost_default = {.memory_bytes = 64 * MIB, .passes = 3};
const struct key_cost key_cost_minimal = {.memory_bytes = KEY_MEMORY_MIN, .passes = 1};

#define KEY_OBJECT_NAME_LEN (sizeof(KEY_OBJECT_PREFIX) - 1 + 64)

struct key_name {
    char hex[65];
};
DEFINE_VECTOR(key_name_vector, struct key_name);

static void wipe_bytes(uint8_t (*key)[MASTER_KEY_LEN])
{
    sodium_memzero(*key, sizeof(*key));
}

/* ---- bytes ---- */

static bool cost_in_bounds(uint64_t memory_bytes, uint32_t passes)
{
    return memory_bytes >= KEY_MEMORY_MIN && memory_bytes <= KEY_MEMORY_MAX &&
           memory_bytes % KIB == 0 && passes >= 1 && passes <= KEY_PASSES_MAX;
}

static bool label_fine(const struct key_header *header)
{
    size_t len = le32_get(&header->label_len);
    return len <= KEY_LABEL_MAX && memchr(header->label, '\0', len) == NULL &&
           zero_prefix_len(header->label + len, KEY_LABEL_MAX - len) == KEY_LABEL_MAX - len;
}

static int key_parse_header(const void *data, size_t len, struct key_header *ret_header)
{
    struct key_header header;

    if (len < sizeof(header) || memcmp(data, KEY_MAGIC, sizeof(header.magic)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "not a key object");
    memcpy(&header, data, sizeof(header));
    if (le32_get(&header.version) > KEY_VERSION)
        return error_note(-UMBRA_E_VERSION,
                          "key object of version %" PRIu32 ", this program knows version %u",
                          le32_get(&header.version), KEY_VERSION);
    if (le32_get(&header.version) == 0 || len != KEY_OBJECT_LEN)
        return error_note(-UMBRA_E_CORRUPT, "key object is damaged");
    if (le32_get(&header.kdf) != KEY_KDF_ARGON2ID13)
        return error_note(-UMBRA_E_VERSION, "key derivation %" PRIu32 " is not known",
                          le32_get(&header.kdf));
    if (!cost_in_bounds(le64_get(&header.memory_bytes), le32_get(&header.passes)))
        return error_note(-UMBRA_E_LIMIT,
                          "key derivation with %" PRIu64 " bytes and %" PRIu32
                          " passes is out of bounds",
                          le64_get(&header.memory_bytes), le32_get(&header.passes));
    if (!label_fine(&header) ||
        zero_prefix_len(header.reserved, sizeof(header.reserved)) != sizeof(header.reserved))
        return error_note(-UMBRA_E_CORRUPT, "key object is damaged");
    *ret_header = header;
    return 0;
}

static void info_from_header(const struct key_header *header, struct key_info *ret_info)
{
    *ret_info = (struct key_info){.created_ns = (int64_t)le64_get(&header->created_ns)};
    memcpy(ret_info->label, header->label, le32_get(&header->label_len));
}

int key_parse(const void *data, size_t len, struct key_info *ret_info)
{
    struct key_header header;
    int r = key_parse_header(data, len, &header);
    if (r < 0)
        return r;
    info_from_header(&header, ret_info);
    return 0;
}

/* ---- the passphrase's key ---- */

/* The keyring that seals the master key, and what commits to it. */
static int passphrase_keyring(const struct key_header *header, const void *passphrase, size_t len,
                              struct keyring **ret_keyring, uint8_t commitment[KEY_COMMITMENT_LEN])
{
    CLEANUP(wipe_bytes) uint8_t key[MASTER_KEY_LEN];

    if (sodium_init() < 0)
        return error_note(-ENOSYS, "cannot initialise libsodium");
    /* The memory is mapped for the call and given back at its end. */
    if (crypto_pwhash(key, sizeof(key), passphrase, len, header->salt, le32_get(&header->passes),
                      (size_t)le64_get(&header->memory_bytes), crypto_pwhash_ALG_ARGON2ID13) < 0)
        return error_note(-ENOMEM, "no memory for the key derivation (%" PRIu64 " bytes)",
                          le64_get(&header->memory_bytes));
    derive_bytes(KEY_COMMITMENT_CONTEXT, key, commitment, KEY_COMMITMENT_LEN);
    return keyring_new(key, ret_keyring);
}

/* -UMBRA_E_PASSPHRASE when the passphrase is another. */
static int key_object_open(const void *object, size_t len, const struct key_header *header,
                           const void *passphrase, size_t passphrase_len,
                           struct keyring **ret_keyring)
{
    CLEANUP(keyring_freep) struct keyring *wrapping = NULL, *keyring = NULL;
    CLEANUP(wipe_bytes) uint8_t master[MASTER_KEY_LEN];
    uint8_t commitment[KEY_COMMITMENT_LEN], repo_id[REPO_ID_LEN];

    int r = passphrase_keyring(header, passphrase, passphrase_len, &wrapping, commitment);
    if (r < 0)
        return r;
    if (sodium_memcmp(commitment, header->commitment, sizeof(commitment)) != 0)
        return error_note(-UMBRA_E_PASSPHRASE, "wrong passphrase");
    r = unseal(wrapping, SEAL_KEY, object, sizeof(*header),
               (const uint8_t *)object + sizeof(*header), len - sizeof(*header), master);
    if (r < 0)
        return r;
    r = keyring_new(master, &keyring);
    if (r < 0)
        return r;
    keyring_repo_id(keyring, repo_id);
    if (memcmp(repo_id, header->repo_id, sizeof(repo_id)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "key object does not fit its repository id");
    *ret_keyring = TAKE_PTR(keyring);
    return 0;
}

/* ---- the set of key objects ---- */

static int collect_key(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    struct key_name_vector *names = userdata;
    struct key_name key;
    uint8_t digest[32];

    const char *hex = name + sizeof(KEY_OBJECT_PREFIX) - 1;
    if (strlen(name) != KEY_OBJECT_NAME_LEN || hex_decode(hex, digest, sizeof(digest)) < 0) {
        log_warning("'%s' is not the name of a key object; ignored", name);
        return 0;
    }
    if (names->count >= KEY_OBJECTS_MAX)
        return error_note(-UMBRA_E_LIMIT, "more than %u key objects", KEY_OBJECTS_MAX);
    hex_encode(digest, sizeof(digest), key.hex);
    return key_name_vector_push(names, &key);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct key_name *)a)->hex, ((const struct key_name *)b)->hex);
}

static int list_keys(struct backend *backend, struct key_name_vector *ret_names)
{
    CLEANUP(key_name_vector_release) struct key_name_vector names = {0};
    int r = backend_list(backend, KEY_OBJECT_PREFIX, collect_key, &names);
    if (r < 0)
        return r;
    if (names.count > 0)
        qsort(names.items, names.count, sizeof(names.items[0]), compare_names);
    *ret_names = names;
    names = (struct key_name_vector){0};
    return 0;
}

static void object_name(const struct key_name *name, char ret_name[KEY_OBJECT_NAME_LEN + 1])
{
    memcpy(ret_name, KEY_OBJECT_PREFIX, sizeof(KEY_OBJECT_PREFIX) - 1);
    memcpy(ret_name + sizeof(KEY_OBJECT_PREFIX) - 1, name->hex, sizeof(name->hex));
}

/* Which repository's key objects count.  There is no config yet while the first one is written. */
struct wanted_repo {
    bool known;
    uint8_t id[REPO_ID_LEN];
};

static int wanted_repo_find(struct backend *backend, struct wanted_repo *ret_wanted)
{
    CLEANUP_FREE void *object = NULL;
    struct config_clear clear;
    struct wanted_repo wanted = {0};
    size_t len = 0;

    int r = config_read(backend, &object, &len, &clear);
    if (r < 0 && r != -UMBRA_E_NOT_REPO)
        return r;
    if (r == 0) {
        wanted.known = true;
        memcpy(wanted.id, clear.repo_id, sizeof(wanted.id));
    }
    *ret_wanted = wanted;
    return 0;
}

/* Reads one key object, whole and intact and of the wanted repository. */
static int load_key(struct backend *backend, const struct key_name *name,
                    const struct wanted_repo *wanted, uint8_t object[KEY_OBJECT_LEN],
                    struct key_header *ret_header)
{
    CLEANUP_FREE void *data = NULL;
    struct key_header header;
    struct key_name actual;
    uint8_t digest[32];
    size_t len = 0;

    char path[KEY_OBJECT_NAME_LEN + 1];
    object_name(name, path);
    int r = backend_get_all(backend, path, KEY_OBJECT_LEN, &data, &len);
    if (r < 0)
        return r;
    const struct iovec iov = {.iov_base = data, .iov_len = len};
    r = sha256(&iov, 1, digest);
    if (r < 0)
        return r;
    hex_encode(digest, sizeof(digest), actual.hex);
    if (strcmp(actual.hex, name->hex) != 0)
        return error_note(-UMBRA_E_CORRUPT, "its contents do not fit its name");
    r = key_parse_header(data, len, &header);
    if (r < 0)
        return r;
    if (wanted->known && memcmp(header.repo_id, wanted->id, sizeof(wanted->id)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "it belongs to another repository");
    memcpy(object, data, KEY_OBJECT_LEN);
    *ret_header = header;
    return 0;
}

static bool ends_the_work(int r)
{
    return r == -ENOMEM || r == -UMBRA_E_CANCELLED;
}

/* Calls fn with each usable key object until it returns other than 0; the others are warned of. */
typedef int (*key_each_fn)(const struct key_name *name, const uint8_t *object,
                           const struct key_header *header, void *userdata);

static int each_key(struct backend *backend, key_each_fn fn, void *userdata)
{
    CLEANUP(key_name_vector_release) struct key_name_vector names = {0};
    struct wanted_repo wanted;

    int r = wanted_repo_find(backend, &wanted);
    if (r < 0)
        return r;
    r = list_keys(backend, &names);
    for (size_t i = 0; r == 0 && i < names.count; i++) {
        uint8_t object[KEY_OBJECT_LEN];
        struct key_header header;
        r = load_key(backend, &names.items[i], &wanted, object, &header);
        if (r == 0) {
            r = fn(&names.items[i], object, &header, userdata);
        } else if (r == -ENOENT) { /* removed meanwhile */
            r = 0;
        } else if (!ends_the_work(r)) {
            log_warning("key object %.16s... in '%s' cannot be used: %s", names.items[i].hex,
                        backend->url, error_text(r));
            r = 0;
        }
    }
    return r;
}

/* ---- adding ---- */

static int header_fill(const struct keyring *keyring, const char *label,
                       const struct key_cost *cost, struct key_header *header)
{
    struct timespec now = {0};
    size_t label_len = strlen(label);

    if (label_len > KEY_LABEL_MAX)
        return error_note(-EINVAL, "label of a key has %zu bytes, %u are allowed", label_len,
                          KEY_LABEL_MAX);
    if (!cost_in_bounds(cost->memory_bytes, cost->passes))
        return error_note(-EINVAL,
                          "key cost of %" PRIu64 " bytes and %" PRIu32 " passes is out of bounds",
                          cost->memory_bytes, cost->passes);
    (void)clock_gettime(CLOCK_REALTIME, &now);
    *header = (struct key_header){
        .version = le32_make(KEY_VERSION),
        .kdf = le32_make(KEY_KDF_ARGON2ID13),
        .passes = le32_make(cost->passes),
        .label_len = le32_make((uint32_t)label_len),
        .memory_bytes = le64_make(cost->memory_bytes),
        .created_ns = le64_make((uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec),
    };
    memcpy(header->magic, KEY_MAGIC, sizeof(header->magic));
    memcpy(header->label, label, label_len);
    keyring_repo_id(keyring, header->repo_id);
    return crypt_random(header->salt, sizeof(header->salt));
}

static int check_passphrase(size_t len)
{
    if (len == 0)
        return error_note(-EINVAL, "the passphrase is empty");
    if (len > PASSPHRASE_LEN_MAX)
        return error_note(-EINVAL, "the passphrase is longer than %u bytes", PASSPHRASE_LEN_MAX);
    return 0;
}

int key_add(struct backend *backend, const struct keyring *keyring, const void *passphrase,
            size_t len, const char *label, const struct key_cost *cost, char ret_name[65])
{
    CLEANUP(keyring_freep) struct keyring *wrapping = NULL;
    uint8_t box[MASTER_KEY_LEN + SEAL_OVERHEAD], digest[32];
    char path[KEY_OBJECT_NAME_LEN + 1];
    struct key_header header;
    struct key_name name;

    int r = check_passphrase(len);
    if (r < 0)
        return r;
    r = header_fill(keyring, label, cost, &header);
    if (r < 0)
        return r;
    r = passphrase_keyring(&header, passphrase, len, &wrapping, header.commitment);
    if (r < 0)
        return r;
    const struct iovec plain = {.iov_base = (void *)(uintptr_t)keyring_master(keyring),
                                .iov_len = MASTER_KEY_LEN};
    r = seal(wrapping, SEAL_KEY, &header, sizeof(header), &plain, 1, box);
    if (r < 0)
        return r;
    const struct iovec object[] = {
        {.iov_base = &header, .iov_len = sizeof(header)},
        {.iov_base = box, .iov_len = sizeof(box)},
    };
    r = sha256(object, ELEMENTSOF(object), digest);
    if (r < 0)
        return r;
    hex_encode(digest, sizeof(digest), name.hex);
    object_name(&name, path);
    r = backend_put(backend, path, object, ELEMENTSOF(object));
    if (r < 0)
        return r;
    memcpy(ret_name, name.hex, sizeof(name.hex));
    return 0;
}

/* ---- opening ---- */

struct opening {
    const void *passphrase;
    size_t len;
    size_t tried_count;
    struct keyring *keyring;
    struct key_name name;
};

static int try_key(const struct key_name *name, const uint8_t *object,
                   const struct key_header *header, void *userdata)
{
    struct opening *o = userdata;

    o->tried_count++;
    int r = key_object_open(object, KEY_OBJECT_LEN, header, o->passphrase, o->len, &o->keyring);
    if (r == -UMBRA_E_PASSPHRASE)
        return 0;
    if (r < 0 && ends_the_work(r))
        return r;
    if (r < 0) {
        log_warning("key object %.16s... cannot be opened: %s", name->hex, error_text(r));
        return 0;
    }
    o->name = *name;
    return 1;
}

int key_open(struct backend *backend, const void *passphrase, size_t len,
             struct keyring **ret_keyring, char ret_name[65])
{
    struct opening o = {.passphrase = passphrase, .len = len};

    int r = check_passphrase(len);
    if (r < 0)
        return error_note(-UMBRA_E_PASSPHRASE, "wrong passphrase: it is empty or too long");
    r = each_key(backend, try_key, &o);
    if (r < 0)
        return r;
    if (r == 0 && o.tried_count == 0)
        return error_note(-UMBRA_E_CORRUPT, "'%s' has no usable key object: it cannot be opened",
                          backend->url);
    if (r == 0)
        return error_note(-UMBRA_E_PASSPHRASE, "wrong passphrase for '%s'", backend->url);
    *ret_keyring = o.keyring;
    memcpy(ret_name, o.name.hex, sizeof(o.name.hex));
    return 0;
}

/* ---- listing and removing ---- */

struct key_listing {
    const char *current;
    int (*fn)(const struct key_info *, void *);
    void *userdata;
};

static int list_key(const struct key_name *name, const uint8_t *object _unused_,
                    const struct key_header *header, void *userdata)
{
    const struct key_listing *l = userdata;
    struct key_info info;

    info_from_header(header, &info);
    memcpy(info.name, name->hex, sizeof(info.name));
    info.current = l->current && strcmp(l->current, name->hex) == 0;
    return l->fn(&info, l->userdata);
}

int key_list(struct backend *backend, const char *current,
             int (*fn)(const struct key_info *, void *), void *userdata)
{
    struct key_listing l = {.current = current, .fn = fn, .userdata = userdata};
    return each_key(backend, list_key, &l);
}

struct usable_keys {
    const struct key_name *except;
    size_t count;
};

static int count_key(const struct key_name *name, const uint8_t *object _unused_,
                     const struct key_header *header _unused_, void *userdata)
{
    struct usable_keys *usable = userdata;
    if (strcmp(name->hex, usable->except->hex) != 0)
        usable->count++;
    return 0;
}

/* Damaged ones can be named too: they must be removable. */
static int find_by_prefix(struct backend *backend, const char *prefix, struct key_name *ret_name)
{
    CLEANUP(key_name_vector_release) struct key_name_vector names = {0};
    const struct key_name *found = NULL;
    size_t prefix_len = strlen(prefix);

    int r = list_keys(backend, &names);
    if (r < 0)
        return r;
    for (size_t i = 0; i < names.count; i++) {
        if (strncmp(names.items[i].hex, prefix, prefix_len) != 0)
            continue;
        if (found)
            return error_note(-UMBRA_E_AMBIGUOUS, "more than one key begins with '%s'", prefix);
        found = &names.items[i];
    }
    if (!found || prefix_len == 0)
        return error_note(-ENOENT, "no key begins with '%s'", prefix);
    *ret_name = *found;
    return 0;
}

int key_remove(struct backend *backend, const char *prefix)
{
    struct key_name name;
    int r = find_by_prefix(backend, prefix, &name);
    if (r < 0)
        return r;

    struct usable_keys others = {.except = &name};
    r = each_key(backend, count_key, &others);
    if (r < 0)
        return r;
    if (others.count == 0)
        return error_note(-EBUSY,
                          "key %.16s... is the only usable one: add another before it is "
                          "removed",
                          name.hex);
    char path[KEY_OBJECT_NAME_LEN + 1];
    object_name(&name, path);
    return backend_remove(backend, path);
}
