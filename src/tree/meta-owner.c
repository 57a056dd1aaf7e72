/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of owners.
 *
 * Ids mean something only on the system that gave them out, so a backup holds the names as well.
 * Looking a name up may be slow (each time a walk through /etc/passwd, or a question to a server),
 * and a backup asks for every file: what is known is found in the sorted vector, and that an id
 * has no name is remembered in a small table until the next vector is begun.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "tree/meta-private.h"

#define LOOKUP_BYTES_MIN 1024u
#define LOOKUP_BYTES_MAX (1u << 20)

/* ---- ids without a name ---- */

#define NAMELESS_SLOTS 1024u
#define NAMELESS_VALID (UINT64_C(1) << 63)

static _Atomic uint64_t nameless[NAMELESS_SLOTS];

static uint64_t nameless_key(bool is_group, uint32_t id)
{
    return NAMELESS_VALID | (uint64_t)is_group << 32 | id;
}

static _Atomic uint64_t *nameless_slot(uint64_t key)
{
    return &nameless[(key * UINT64_C(0x9e3779b97f4a7c15)) >> 54];
}

static bool nameless_has(bool is_group, uint32_t id)
{
    uint64_t key = nameless_key(is_group, id);
    return atomic_load_explicit(nameless_slot(key), memory_order_relaxed) == key;
}

static void nameless_add(bool is_group, uint32_t id)
{
    uint64_t key = nameless_key(is_group, id);
    atomic_store_explicit(nameless_slot(key), key, memory_order_relaxed);
}

static void nameless_forget(void)
{
    for (size_t i = 0; i < NAMELESS_SLOTS; i++)
        atomic_store_explicit(&nameless[i], 0, memory_order_relaxed);
}

/* ---- lookups ---- */

/* Calls the *_r function with a growing buffer.  1 found, 0 not found; an error of a name service
 * counts as not found, for numbers go on without it. */
static int lookup(int (*fn)(const void *what, char *data, size_t len, void *ret), const void *what,
                  void *ret)
{
    char *data = NULL;
    int r = ERANGE;
    for (size_t len = LOOKUP_BYTES_MIN; r == ERANGE && len <= LOOKUP_BYTES_MAX; len *= 2) {
        free(data);
        data = malloc(len);
        if (!data)
            return -ENOMEM;
        r = fn(what, data, len, ret);
    }
    free(data);
    return r == 0 ? 1 : 0;
}

/* Each of these returns 0 when found, ERANGE for a larger buffer, else another errno.  ret is not
 * inside data. */
static int user_by_id(const void *what, char *data, size_t len, void *ret)
{
    struct passwd pw, *found = NULL;
    int e = getpwuid_r(*(const uint32_t *)what, &pw, data, len, &found);
    if (!found)
        return e != 0 ? e : ENOENT;
    char **name = ret;
    *name = strdup(found->pw_name);
    return 0;
}

static int group_by_id(const void *what, char *data, size_t len, void *ret)
{
    struct group gr, *found = NULL;
    int e = getgrgid_r(*(const uint32_t *)what, &gr, data, len, &found);
    if (!found)
        return e != 0 ? e : ENOENT;
    char **name = ret;
    *name = strdup(found->gr_name);
    return 0;
}

static int user_by_name(const void *what, char *data, size_t len, void *ret)
{
    struct passwd pw, *found = NULL;
    int e = getpwnam_r(what, &pw, data, len, &found);
    if (!found)
        return e != 0 ? e : ENOENT;
    uint32_t *id = ret;
    *id = found->pw_uid;
    return 0;
}

static int group_by_name(const void *what, char *data, size_t len, void *ret)
{
    struct group gr, *found = NULL;
    int e = getgrnam_r(what, &gr, data, len, &found);
    if (!found)
        return e != 0 ? e : ENOENT;
    uint32_t *id = ret;
    *id = found->gr_gid;
    return 0;
}

/* ---- the vector ---- */

void owner_vector_release_all(struct owner_vector *owners)
{
    for (size_t i = 0; i < owners->count; i++)
        free(owners->items[i].name);
    owner_vector_release(owners);
}

/* Where (is_group, id) stands, or would stand. */
static size_t owner_position(const struct owner_vector *owners, bool is_group, uint32_t id)
{
    size_t low = 0, high = owners->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct owner *o = &owners->items[middle];
        if (o->is_group < is_group || (o->is_group == is_group && o->id < id))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool owner_is(const struct owner_vector *owners, size_t at, bool is_group, uint32_t id)
{
    return at < owners->count && owners->items[at].is_group == is_group &&
           owners->items[at].id == id;
}

static int owner_add(struct owner_vector *owners, bool is_group, uint32_t id)
{
    size_t at = owner_position(owners, is_group, id);
    if (owner_is(owners, at, is_group, id) || nameless_has(is_group, id))
        return 0;
    struct owner owner = {.id = id, .is_group = is_group};
    int r = lookup(is_group ? group_by_id : user_by_id, &id, &owner.name);
    if (r < 0)
        return r;
    if (r == 0) {
        nameless_add(is_group, id);
        return 0;
    }
    if (!owner.name || owner_vector_reserve(owners, 1) < 0) {
        free(owner.name);
        return -ENOMEM;
    }
    memmove(owners->items + at + 1, owners->items + at,
            (owners->count - at) * sizeof(owners->items[0]));
    owners->items[at] = owner;
    owners->count++;
    return 0;
}

int owner_vector_add(struct owner_vector *owners, uint32_t uid, uint32_t gid)
{
    if (owners->count == 0)
        nameless_forget();
    int r = owner_add(owners, false, uid);
    return r < 0 ? r : owner_add(owners, true, gid);
}

static int owner_add_acl(struct owner_vector *owners, const struct xattr *x)
{
    size_t count = meta_acl_count(x->value, x->value_len);
    for (size_t i = 0; i < count; i++) {
        bool is_group;
        uint32_t id;
        if (!meta_acl_get_id(x->value, i, &is_group, &id))
            continue;
        int r = owner_add(owners, is_group, id);
        if (r < 0)
            return r;
    }
    return 0;
}

int owner_vector_add_entry(struct owner_vector *owners, const struct entry *e)
{
    int r = owner_vector_add(owners, e->uid, e->gid);
    for (size_t i = 0; r >= 0 && i < e->xattrs.count; i++)
        if (meta_xattr_is_acl(e->xattrs.items[i].name))
            r = owner_add_acl(owners, &e->xattrs.items[i]);
    return r;
}

/* ---- the map ---- */

struct owner_pair {
    bool is_group;
    uint32_t recorded;
    uint32_t local;
};
DEFINE_VECTOR(owner_pair_vector, struct owner_pair);

struct owner_map {
    struct owner_pair_vector pairs; /* sorted by (is_group, recorded); only ids that differ */
};

static int pair_compare(const void *a, const void *b)
{
    const struct owner_pair *x = a, *y = b;
    if (x->is_group != y->is_group)
        return x->is_group ? 1 : -1;
    return (x->recorded > y->recorded) - (x->recorded < y->recorded);
}

static int map_add(struct owner_map *map, const struct owner *owner)
{
    struct owner_pair pair = {.is_group = owner->is_group, .recorded = owner->id};
    int r = lookup(owner->is_group ? group_by_name : user_by_name, owner->name, &pair.local);
    if (r <= 0 || pair.local == pair.recorded)
        return r < 0 ? r : 0;
    return owner_pair_vector_push(&map->pairs, &pair);
}

int owner_map_new(const struct owner_vector *owners, bool numeric, struct owner_map **ret_map)
{
    CLEANUP(owner_map_freep) struct owner_map *map = calloc(1, sizeof(*map));
    if (!map)
        return -ENOMEM;
    for (size_t i = 0; !numeric && i < owners->count; i++) {
        int r = map_add(map, &owners->items[i]);
        if (r < 0)
            return r;
    }
    if (map->pairs.count > 1)
        qsort(map->pairs.items, map->pairs.count, sizeof(struct owner_pair), pair_compare);
    *ret_map = TAKE_PTR(map);
    return 0;
}

void owner_map_free(struct owner_map *map)
{
    if (!map)
        return;
    owner_pair_vector_release(&map->pairs);
    free(map);
}

static uint32_t map_id(const struct owner_map *map, bool is_group, uint32_t id)
{
    if (!map || map->pairs.count == 0)
        return id;
    const struct owner_pair key = {.is_group = is_group, .recorded = id};
    const struct owner_pair *pair =
        bsearch(&key, map->pairs.items, map->pairs.count, sizeof(struct owner_pair), pair_compare);
    return pair ? pair->local : id;
}

uint32_t owner_map_uid(const struct owner_map *map, uint32_t uid)
{
    return map_id(map, false, uid);
}

uint32_t owner_map_gid(const struct owner_map *map, uint32_t gid)
{
    return map_id(map, true, gid);
}

void meta_map_owners(struct entry *e, const struct owner_map *map)
{
    e->uid = owner_map_uid(map, e->uid);
    e->gid = owner_map_gid(map, e->gid);
    for (size_t i = 0; i < e->xattrs.count; i++)
        if (meta_xattr_is_acl(e->xattrs.items[i].name))
            meta_acl_map(e->xattrs.items[i].value, e->xattrs.items[i].value_len, map);
}
