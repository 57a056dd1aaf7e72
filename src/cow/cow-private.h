/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <pthread.h>

#include "basic/error.h"
#include "cow/cow.h"
#include "cow/map.h"
#include "umbra/log.h"

#define COW_PIECE_BLOCKS 64u /* of one step of a request */
#define COW_PIECE_GROUPS 2u  /* that these can lie in */

/* Blocks that a request works on; on its stack. */
struct cow_range {
    uint64_t first, last;
    bool exclusive;
    struct cow_range *prev, *next;
};

struct cow_slot { /* of a shadow */
    struct cow_shadow shadow;
    unsigned writers; /* of cow_shadow_write() */
    bool dying;       /* deleted, but has writers */
};

/*
 * Lock order: ranges and the gate of writes (both by cow_range_lock()) - admin - lock - locks of
 * the tables.  The log is called without lock (its checkpoint() takes those of the tables only).
 */
struct cow {
    struct io *storage;
    struct cow_device *origin, *cells;
    uint8_t volume_id[COW_ID_LEN];
    uint32_t block_bytes;
    uint64_t origin_bytes, block_count;

    struct io_file *root_file, *table_files[COW_TABLE_COUNT];
    struct table tables[COW_TABLE_COUNT];
    struct umbra_log *log;
    struct umbra_log_client *client;
    /* Of checkpoints, of which there is one at a time. */
    uint64_t root_sequence, root_sums[COW_TABLE_COUNT];
    unsigned root_place;
    uint32_t root_flags, origin_mark;
    bool root_is_due;

    pthread_mutex_t admin;  /* one change of shadows or settings at a time; held over commits */
    pthread_rwlock_t phase; /* writers of shadows read-lock it, the end of a writable phase locks */

    pthread_mutex_t lock;
    pthread_cond_t moved; /* a range was let go, or the gate */
    struct cow_range *ranges;
    unsigned writes; /* exclusive ranges of the volume itself */
    bool held;       /* no more of these, for now */
    struct map map;
    struct living living;
    struct cow_slot slots[COW_SHADOWS_MAX]; /* as in the table; number 0: none */
    struct cow_settings_record settings;
    uint8_t *copied; /* bitmap: nothing of this block is left to be kept for the newest shadow */
    uint64_t copied_blocks;
    bool refusing; /* a fault was recorded for writes that fail */

    pthread_mutex_t sync_lock; /* a leaf */
    pthread_cond_t synced;
    uint64_t sync_wanted, sync_done; /* tickets */
    bool syncing;
    struct error_report sync_failure;
};

/* ---- cow.c ---- */
/* Waits for conflicting ranges; gated: and for the gate (and keeps it open until unlocked). */
void cow_range_lock(struct cow *cow, struct cow_range *range, bool gated);
void cow_range_unlock(struct cow *cow, struct cow_range *range, bool gated);
_must_check_ int cow_check_request(const struct cow *cow, size_t len, uint64_t offset);
/* A whole block; zeros behind the end of the origin. */
_must_check_ int cow_origin_read(struct cow *cow, uint8_t *data, uint64_t block, size_t count);
static inline bool cow_is_copied_locked(const struct cow *cow, uint64_t block)
{
    return cow->copied[block / 8] >> block % 8 & 1;
}
static inline void cow_set_copied_locked(struct cow *cow, uint64_t block)
{
    cow->copied[block / 8] |= (uint8_t)(1u << block % 8);
}
static inline uint64_t cow_cells_max_locked(const struct cow *cow)
{
    return le64_get(&cow->settings.cells_max);
}
/* The mask of known zeros of a group. */
static inline uint64_t cow_zero_mask(struct cow *cow, uint64_t group)
{
    struct cow_zero zero;
    table_get(&cow->tables[COW_TABLE_ZERO], group, &zero);
    return le64_get(&zero.mask);
}

/* ---- cow-keep.c ---- */
/* Makes the blocks, which the caller has locked, ready to be overwritten: keeps what shadows need.
 */
_must_check_ int cow_keep(struct cow *cow, uint64_t first, uint64_t last);
/* Everything written to cells is durable on return. */
_must_check_ int cow_cells_sync(struct cow *cow);

/* ---- cow-shadow.c ---- */
/* Deletes the oldest shadow, unless there is room for so many cells meanwhile.  It is not deleted
 * when it is `spare`.  -ENOSPC. */
_must_check_ int cow_make_room(struct cow *cow, uint64_t cells, uint32_t spare);
_must_check_ int cow_delete_admin(struct cow *cow, uint32_t number, enum cow_reason reason);
struct cow_slot *cow_slot_locked(struct cow *cow, uint32_t number);

/* ---- cow-store.c ---- */
struct cow_part {
    enum cow_log_op op;
    const void *data;
    size_t len; /* 0: left out */
};
/* Durable and in the tables on return. */
_must_check_ int cow_commit(struct cow *cow, const struct cow_part *parts, size_t count);

/* ---- cow-load.c ---- */
/* Everything in memory, from the tables. */
_must_check_ int cow_load(struct cow *cow, bool *ret_damaged);
