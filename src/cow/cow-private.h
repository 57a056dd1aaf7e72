/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <pthread.h>

#include "basic/error.h"
#include "cow/cow.h"
#include "cow/map.h"
#include "umbra/log.h"

#define COW_PIECE_BLOCKS 64u /* of one step of a request */
#define COW_PIECE_GROUPS 2u  /* that these can lie in */
#define COW_HOLDS_KEPT   1024u
#define COW_STAGE_BYTES  MIB

/* An entry that recovery has found in a struct cow_log_copies. */
struct cow_copy {
    uint64_t ticket, place;
    struct version version;
};
DEFINE_VECTOR(cow_copy_vector, struct cow_copy);

/* Blocks that a request works on, or waits for; on its stack. */
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
 * Lock order: ranges - admin - the gate of writes - lock - locks of the tables, sync_lock.  The log
 * is called without lock (its checkpoint() takes the last two only).
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
    uint32_t root_flags;
    uint8_t origin_mark[COW_MARK_LEN];
    bool root_is_due;
    /* Of recovery: what is redone, and the highest ticket that is said to be settled. */
    bool recovering;
    struct cow_copy_vector copies;
    uint64_t settled;

    pthread_mutex_t admin;  /* one change of shadows or settings at a time; held over commits */
    pthread_rwlock_t phase; /* writers of shadows read-lock it, the end of a writable phase locks */

    pthread_mutex_t lock;
    pthread_cond_t moved; /* the gate was opened, or the last one who had passed it has left */
    pthread_cond_t range_gone;
    struct cow_range *first_range, *last_range; /* in the order in which they came */
    unsigned ranges_waiting;
    unsigned writes; /* of the origin, under way: who has passed the gate */
    bool held;       /* the gate is closed, for now */
    struct map map;
    struct living living;
    struct cow_slot slots[COW_SHADOWS_MAX]; /* as in the table; number 0: none */
    struct cow_settings_record settings;
    uint64_t deletions;
    bool is_alone;   /* it has no threads of its own */
    uint8_t *copied; /* bitmap: nothing of this block is left to be kept for the newest shadow */
    uint64_t copied_blocks;
    struct {
        pthread_t thread;
        pthread_cond_t wake, done;
        bool is_running, stop, wanted, cannot_punch;
        uint64_t rounds;
        struct error_report failure; /* of the last round */
    } ahead;                         /* cow-ahead.c */
    bool refusing;                   /* a fault was recorded for writes that fail */
    struct {
        uint64_t count, max_ns;
        uint64_t last_ns[COW_HOLDS_KEPT];
    } holds;

    pthread_mutex_t sync_lock; /* a leaf */
    pthread_cond_t synced;
    struct cow_cells *unwritten;
    struct cow_pending *pending;
    umbra_log_lsn last_lsn;                     /* of what was committed; 0: nothing yet */
    uint8_t *stage;                             /* of who writes */
    uint64_t sync_wanted, sync_over, sync_done; /* tickets; sync_done: without a failure */
    struct {
        pthread_t thread;
        pthread_cond_t wake;
        bool is_running, stop;
    } writer;                         /* cow-cells.c */
    struct error_report sync_failure; /* nothing that changes the diff area succeeds any more */
};

/* ---- cow.c ---- */
/* For blocks, as the cells want it.  NULL: no memory. */
uint8_t *cow_buffer_new(const struct cow *cow, size_t blocks);
/* Waits for conflicting ranges that came before.  A thread has one range at a time. */
void cow_range_lock(struct cow *cow, struct cow_range *range);
void cow_range_unlock(struct cow *cow, struct cow_range *range);
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
/* Makes the blocks, which the caller has locked, ready to be overwritten, as long as no shadow is
 * taken after *ret_number: keeps what shadows need. */
_must_check_ int cow_keep(struct cow *cow, uint64_t first, uint64_t last, uint32_t *ret_number);

/* ---- cow-cells.c ---- */
struct cow_cells {
    struct cow_cells *next; /* of cow-cells.c */
    const uint8_t *data;    /* aligned */
    uint64_t cell;
    size_t count; /* of cells */
    struct error_report *failure;
};
_must_check_ int cow_cells_start(struct cow *cow);
void cow_cells_stop(struct cow *cow);
/* Hands over what is to be written, until cow_cells_wait() for the ticket has returned: then it is
 * durable, or a failure is in *failure, or returned. */
uint64_t cow_cells_write(struct cow *cow, struct cow_cells *writes, size_t count);
_must_check_ int cow_cells_wait(struct cow *cow, uint64_t ticket);
/* Cells of tickets up to this one are durable. */
uint64_t cow_cells_settled(struct cow *cow);

/* Who is about to commit a struct cow_log_copies whose cells are not durable. */
struct cow_pending {
    umbra_log_lsn floor_lsn; /* of a record that is older; 0: any */
    struct cow_pending *prev, *next;
};
void cow_pending_add(struct cow *cow, struct cow_pending *pending);
void cow_pending_remove(struct cow *cow, struct cow_pending *pending);
void cow_committed(struct cow *cow, umbra_log_lsn lsn);
/* The oldest of lsn and of their floors. */
umbra_log_lsn cow_pending_floor(struct cow *cow, umbra_log_lsn lsn);
/* Once the storage has failed so that nobody knows what is durable, only recovery can tell. */
_must_check_ int cow_failure(struct cow *cow);
int cow_fail(struct cow *cow, int r);

/* ---- cow-shadow.c ---- */
/* Deletes the oldest shadow, unless there is room for so many cells meanwhile.  It is not deleted
 * when it is `spare`.  if_full: the file system of the storage was full when there had been so many
 * deletions.  -ENOSPC. */
_must_check_ int cow_make_room(struct cow *cow, uint64_t cells, uint32_t spare,
                               const uint64_t *if_full);
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

/* ---- cow-ahead.c ---- */
/* Without signals. */
_must_check_ int cow_thread_start(pthread_t *thread, void *(*run)(void *), struct cow *cow);
/* So many bytes of the file of the cells are there already. */
_must_check_ int cow_ahead_start(struct cow *cow, uint64_t file_bytes);
void cow_ahead_stop(struct cow *cow);
/* Cells were taken or given back. */
void cow_ahead_look_locked(struct cow *cow);
/* After -EAGAIN of map_take_cell(): 0: try again; -ENOSPC, or what else keeps it from cells. */
_must_check_ int cow_ahead_wait_locked(struct cow *cow);

/* ---- cow-load.c ---- */
/* Everything in memory, from the tables. */
_must_check_ int cow_load(struct cow *cow, bool *ret_damaged);
