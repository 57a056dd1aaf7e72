/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pack table: an open-addressed hash table from names to numbers, and the names by number.
 *
 * Names stand in segments of doubling size that never move, and a number is given out only after
 * its name is in place.  So pack_table_name() needs no lock: whoever has a number got it from
 * pack_table_intern(), which ran under the lock, or from a thread that did.
 */
#include "tree/chunk-ref.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "basic/le.h"

#define SEGMENT_FIRST_BITS 6u /* 64 names, then 64, 128, 256, ... more */
#define SEGMENT_COUNT      (32u - SEGMENT_FIRST_BITS + 1u)
#define SLOTS_FIRST        128u

struct pack_table {
    pthread_mutex_t lock; /* all but names already given out, and reading count */
    struct pack_name *segments[SEGMENT_COUNT];
    uint32_t *slots;   /* number + 1; 0 is empty */
    size_t slot_count; /* a power of two, at least twice the count */
    _Atomic uint32_t count;
};

/* Segment 0 holds numbers 0..63, segment n > 0 the numbers from 2^(n+5) to 2^(n+6) - 1. */
static unsigned segment_of(uint32_t no, uint32_t *ret_offset)
{
    if (no >> SEGMENT_FIRST_BITS == 0) {
        *ret_offset = no;
        return 0;
    }
    unsigned top_bit = 31u - (unsigned)__builtin_clz(no);
    *ret_offset = no - (UINT32_C(1) << top_bit);
    return top_bit - SEGMENT_FIRST_BITS + 1;
}

static size_t segment_len(unsigned segment)
{
    return (size_t)1 << (SEGMENT_FIRST_BITS + (segment == 0 ? 0 : segment - 1));
}

static struct pack_name *name_at(const struct pack_table *table, uint32_t no)
{
    uint32_t offset;
    unsigned segment = segment_of(no, &offset);

    return &table->segments[segment][offset];
}

int pack_table_new(struct pack_table **ret_table)
{
    struct pack_table *table = calloc(1, sizeof(*table));

    if (!table)
        return -ENOMEM;
    table->slot_count = SLOTS_FIRST;
    table->slots = calloc(table->slot_count, sizeof(*table->slots));
    if (!table->slots) {
        free(table);
        return -ENOMEM;
    }
    pthread_mutex_init(&table->lock, NULL);
    *ret_table = table;
    return 0;
}

void pack_table_free(struct pack_table *table)
{
    if (!table)
        return;
    for (unsigned i = 0; i < SEGMENT_COUNT; i++)
        free(table->segments[i]);
    free(table->slots);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

/* Names are SHA-256 sums: any bytes of one are a good hash. */
static size_t slot_of(const struct pack_table *table, const struct pack_name *name)
{
    le64_t head;

    memcpy(&head, name->bytes, sizeof(head));
    return (size_t)le64_get(&head) & (table->slot_count - 1);
}

/* Where name stands, or the empty slot where it belongs. */
static uint32_t *find_slot_locked(const struct pack_table *table, const struct pack_name *name)
{
    size_t slot = slot_of(table, name);

    while (table->slots[slot] != 0 &&
           memcmp(name_at(table, table->slots[slot] - 1)->bytes, name->bytes, PACK_NAME_LEN) != 0)
        slot = (slot + 1) & (table->slot_count - 1);
    return &table->slots[slot];
}

static int grow_slots_locked(struct pack_table *table, uint32_t count)
{
    uint32_t *old_slots = table->slots;
    uint32_t *slots = calloc(table->slot_count * 2, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    table->slots = slots;
    table->slot_count *= 2;
    for (uint32_t no = 0; no < count; no++)
        *find_slot_locked(table, name_at(table, no)) = no + 1;
    free(old_slots);
    return 0;
}

static int add_locked(struct pack_table *table, const struct pack_name *name, uint32_t *ret_no)
{
    uint32_t no = atomic_load_explicit(&table->count, memory_order_relaxed), offset;
    unsigned segment = segment_of(no, &offset);

    if (no == PACK_NO_NONE - 1)
        return -ENOMEM;
    if (!table->segments[segment]) {
        table->segments[segment] = calloc(segment_len(segment), sizeof(struct pack_name));
        if (!table->segments[segment])
            return -ENOMEM;
    }
    if (((size_t)no + 1) * 2 > table->slot_count) {
        int r = grow_slots_locked(table, no);
        if (r < 0)
            return r;
    }
    *name_at(table, no) = *name;
    *find_slot_locked(table, name) = no + 1;
    atomic_store_explicit(&table->count, no + 1, memory_order_release);
    *ret_no = no;
    return 0;
}

int pack_table_intern(struct pack_table *table, const struct pack_name *name, uint32_t *ret_no)
{
    int r = 0;

    pthread_mutex_lock(&table->lock);
    uint32_t found = *find_slot_locked(table, name);
    if (found != 0)
        *ret_no = found - 1;
    else
        r = add_locked(table, name, ret_no);
    pthread_mutex_unlock(&table->lock);
    return r;
}

void pack_table_name(const struct pack_table *table, uint32_t pack_no, struct pack_name *ret_name)
{
    assert(pack_no < pack_table_count(table));
    *ret_name = *name_at(table, pack_no);
}

uint32_t pack_table_count(const struct pack_table *table)
{
    return atomic_load_explicit(&table->count, memory_order_acquire);
}
