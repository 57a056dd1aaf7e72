/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "repo/fresh-table.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "basic/error.h"

#define SLOT_COUNT_MIN 4096u

static_assert(FRESH_NOT_PLACED > 0, "a serial that no pack has");

void fresh_table_release(struct fresh_table *table)
{
    fresh_chunk_vector_release(&table->chunks);
    free(table->slots);
    *table = (struct fresh_table){0};
}

/* The slot that holds the id, or the free one where it would go. */
static uint32_t *slot_of(const struct fresh_table *table, const struct chunk_id *id)
{
    uint64_t hash;
    memcpy(&hash, id->bytes, sizeof(hash));
    for (size_t i = (size_t)hash & (table->slot_count - 1);;
         i = (i + 1) & (table->slot_count - 1)) {
        uint32_t *slot = &table->slots[i];
        if (*slot == 0 || chunk_id_equal(&table->chunks.items[*slot - 1].id, id))
            return slot;
    }
}

struct fresh_chunk *fresh_table_find(const struct fresh_table *table, const struct chunk_id *id)
{
    if (table->slot_count == 0)
        return NULL;
    uint32_t slot = *slot_of(table, id);
    return slot == 0 ? NULL : &table->chunks.items[slot - 1];
}

static int rehash(struct fresh_table *table, size_t slot_count)
{
    uint32_t *slots = calloc(slot_count, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    free(table->slots);
    table->slots = slots;
    table->slot_count = slot_count;
    for (size_t i = 0; i < table->chunks.count; i++)
        *slot_of(table, &table->chunks.items[i].id) = (uint32_t)(i + 1);
    return 0;
}

int fresh_table_insert(struct fresh_table *table, const struct chunk_id *id, uint32_t len,
                       bool *ret_inserted)
{
    if (table->chunks.count >= UINT32_MAX / 2)
        return -UMBRA_E_LIMIT;
    if ((table->chunks.count + 1) * 2 > table->slot_count) {
        int r = rehash(table, MAX(table->slot_count * 2, (size_t)SLOT_COUNT_MIN));
        if (r < 0)
            return r;
    }
    uint32_t *slot = slot_of(table, id);
    if (*slot != 0) {
        *ret_inserted = false;
        return 0;
    }
    struct fresh_chunk chunk = {.id = *id, .len = len, .pack_serial = FRESH_NOT_PLACED};
    int r = fresh_chunk_vector_push(&table->chunks, &chunk);
    if (r < 0)
        return r;
    *slot = (uint32_t)table->chunks.count;
    *ret_inserted = true;
    return 0;
}

int fresh_table_drop(struct fresh_table *table, bool (*drop)(const struct fresh_chunk *, void *),
                     void *userdata)
{
    size_t kept = 0;
    for (size_t i = 0; i < table->chunks.count; i++)
        if (!drop(&table->chunks.items[i], userdata))
            table->chunks.items[kept++] = table->chunks.items[i];
    table->chunks.count = kept;

    size_t slot_count = SLOT_COUNT_MIN;
    while (slot_count < kept * 2)
        slot_count *= 2;
    return rehash(table, slot_count);
}
