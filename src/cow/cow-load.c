/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is held in memory, made from the tables when recovery has brought them up to date. */
#include <string.h>

#include "basic/crc32c.h"
#include "cow/cow-private.h"

static bool is_zero(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* ---- settings and shadows ---- */

static bool settings_are_good(const struct cow_settings_record *s)
{
    uint64_t cells = le64_get(&s->cells_max);
    return cells > 0 && cells <= COW_CELL_COUNT_MAX &&
           (le32_get(&s->flags) & ~(uint32_t)COW_SETTINGS_PROTECT_SHADOWS) == 0 &&
           is_zero(s->reserved, sizeof(s->reserved));
}

/* false: the record makes no sense. */
static bool load_shadow(struct cow *cow, size_t i)
{
    struct cow_shadow_record record;
    table_get(&cow->tables[COW_TABLE_STATE], COW_STATE_SHADOWS + i, &record);
    uint32_t number = le32_get(&record.number);
    if (number == 0)
        return true;
    uint16_t flags = le16_get(&record.flags);
    if (number > le32_get(&cow->settings.last_number) || (flags & ~COW_SHADOW_WRITABLE) != 0 ||
        record.label_len > COW_LABEL_MAX || record.reserved0 != 0 ||
        !is_zero(record.reserved1, sizeof(record.reserved1)))
        return false;
    struct cow_shadow *s = &cow->slots[i].shadow;
    *s = (struct cow_shadow){.number = number,
                             .writable = flags & COW_SHADOW_WRITABLE,
                             .taken_ns = le64_get(&record.taken_ns),
                             .label_len = record.label_len};
    memcpy(s->id, record.id, sizeof(s->id));
    memcpy(s->label, record.label, sizeof(s->label));
    size_t at = cow->living.count++;
    for (; at > 0 && cow->living.numbers[at - 1] > number; at--)
        cow->living.numbers[at] = cow->living.numbers[at - 1];
    cow->living.numbers[at] = number;
    return at == 0 || cow->living.numbers[at - 1] != number;
}

static bool load_state(struct cow *cow)
{
    table_get(&cow->tables[COW_TABLE_STATE], COW_STATE_SETTINGS, &cow->settings);
    bool good = settings_are_good(&cow->settings);
    for (size_t i = 0; i < COW_SHADOWS_MAX; i++)
        good = load_shadow(cow, i) && good;
    return good;
}

/* ---- the map ---- */

static bool entry_is_good(const struct cow *cow, const struct version *v)
{
    if ((v->flags & ~COW_ENTRY_FLAGS) != 0 || v->flags == COW_ENTRY_FLAGS ||
        v->block >= cow->block_count || v->number > le32_get(&cow->settings.last_number))
        return false;
    if (v->flags & COW_ENTRY_ZERO)
        return v->block % COW_GROUP_BLOCKS == 0 && v->value != 0 &&
               v->block + 63 - (unsigned)__builtin_clzll(v->value) < cow->block_count;
    return v->value < COW_CELL_COUNT_MAX;
}

static int load_entries(struct cow *cow, bool *good)
{
    uint64_t end = table_end(&cow->tables[COW_TABLE_MAP]);
    for (uint64_t place = 0; place < end; place++) {
        const struct version v = map_at(&cow->map, (uint32_t)place);
        if (v.number == 0)
            continue;
        if (!entry_is_good(cow, &v)) {
            *good = false;
            continue;
        }
        int r = map_claim_place(&cow->map, (uint32_t)place);
        if (r < 0)
            return r;
        map_insert(&cow->map, (uint32_t)place);
    }
    return 0;
}

static void mark_copied(struct cow *cow, const struct version *v)
{
    if ((v->flags & COW_ENTRY_OWN) || v->number < living_newest(&cow->living))
        return;
    if (!(v->flags & COW_ENTRY_ZERO))
        cow_set_copied_locked(cow, v->block);
    for (uint64_t mask = v->flags & COW_ENTRY_ZERO ? v->value : 0; mask != 0; mask &= mask - 1)
        cow_set_copied_locked(cow, v->block + (unsigned)__builtin_ctzll(mask));
}

/* Invariant 2.  Which entries are not needed does not depend on the order in which they go. */
static int keep_needed(struct cow *cow, bool *good)
{
    for (uint32_t place = 0; place < cow->map.place_count; place++) {
        if (!map_is_indexed(&cow->map, place))
            continue;
        const struct version v = map_at(&cow->map, place);
        if (!map_is_needed(&cow->map, &v, &cow->living)) {
            map_remove(&cow->map, place);
            continue;
        }
        bool taken = false;
        int r = v.flags & COW_ENTRY_ZERO ? 0 : map_claim_cell(&cow->map, v.value, &taken);
        if (r < 0)
            return r;
        *good = *good && !taken;
        mark_copied(cow, &v);
    }
    return 0;
}

int cow_load(struct cow *cow, bool *ret_damaged)
{
    bool good = load_state(cow);
    cow->copied = calloc(1, (size_t)((cow->block_count + 7) / 8));
    if (!cow->copied)
        return -ENOMEM;
    int r = load_entries(cow, &good);
    if (r == 0)
        r = keep_needed(cow, &good);
    if (r < 0)
        return r;
    *ret_damaged = !good;
    return 0;
}
