/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "repo/id-set.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS_MIN 64u

void id_set_release(struct id_set *set)
{
    free(set->slots);
    *set = (struct id_set){0};
}

/* Ids are keyed hashes: no mixing is needed, and zeros, which mean a free slot, come by nothing but
 * damage; they get a bit that no tag sets. */
static struct id_key key_of(const struct chunk_id *id, uint32_t tag)
{
    struct id_key key;
    memcpy(&key, id->bytes, sizeof(key));
    key.words[1] ^= tag;
    if (key.words[0] == 0 && key.words[1] == 0)
        key.words[1] = UINT64_C(1) << 63;
    return key;
}

static bool is_free(const struct id_key *slot)
{
    return slot->words[0] == 0 && slot->words[1] == 0;
}

/* The slot of the key, or the free one where it belongs.  There is a free one. */
static size_t find_slot(const struct id_set *set, const struct id_key *key)
{
    size_t i = (size_t)key->words[0] & (set->slot_count - 1);
    while (!is_free(&set->slots[i]) && memcmp(&set->slots[i], key, sizeof(*key)) != 0)
        i = (i + 1) & (set->slot_count - 1);
    return i;
}

bool id_set_has(const struct id_set *set, const struct chunk_id *id, uint32_t tag)
{
    if (set->count == 0)
        return false;
    const struct id_key key = key_of(id, tag);
    return !is_free(&set->slots[find_slot(set, &key)]);
}

static int grow(struct id_set *set)
{
    struct id_set larger = {
        .slot_count = set->slot_count > 0 ? set->slot_count * 2 : SLOTS_MIN,
        .count = set->count,
    };
    larger.slots = calloc(larger.slot_count, sizeof(*larger.slots));
    if (!larger.slots)
        return -ENOMEM;
    for (size_t i = 0; i < set->slot_count; i++) {
        if (!is_free(&set->slots[i]))
            larger.slots[find_slot(&larger, &set->slots[i])] = set->slots[i];
    }
    free(set->slots);
    *set = larger;
    return 0;
}

int id_set_add(struct id_set *set, const struct chunk_id *id, uint32_t tag, bool *ret_added)
{
    if (set->count >= set->slot_count / 8 * 7) {
        int r = grow(set);
        if (r < 0)
            return r;
    }
    const struct id_key key = key_of(id, tag);
    struct id_key *slot = &set->slots[find_slot(set, &key)];
    *ret_added = is_free(slot);
    if (*ret_added) {
        *slot = key;
        set->count++;
    }
    return 0;
}
