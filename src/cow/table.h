/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A table: an array of records in pages that have two places each (cow-format.h).  It is held in
 * memory and changed there; table_write() makes the changed pages durable, without touching what
 * was durable before.
 *
 * Every call may come from any thread; table_load() and table_write() from one at a time.
 */
#pragma once

#include <pthread.h>

#include "basic/io.h"
#include "basic/vector.h"
#include "cow/cow-format.h"

struct table_page {
    uint8_t *records;  /* COW_PAGE_ROOM bytes; NULL: all zero */
    uint64_t sequence; /* of the state that is durable; 0: none */
    uint8_t place;     /* where it is: 0 or 1 */
    bool dirty;
};

DEFINE_VECTOR(table_page_vector, struct table_page);

struct table {
    enum cow_table_id id;
    size_t record_bytes;
    uint64_t record_max; /* limit of the indexes */
    uint8_t volume_id[COW_ID_LEN];
    struct io_file *file;
    pthread_mutex_t lock; /* guards what follows; a leaf: nothing is locked beneath it */
    struct table_page_vector pages;
    uint64_t sum; /* of the durable pages */
};

/* Takes nothing over; file must outlive the table. */
void table_init(struct table *table, enum cow_table_id id, size_t record_bytes, uint64_t record_max,
                const uint8_t *volume_id, struct io_file *file);
void table_release(struct table *table);

/*
 * *ret_damaged: the sum of the pages is not that of the root of this sequence.  *sequence rises to
 * the highest one of a page.  What is newer than the root counts, too: the log redoes what it is
 * missing. The caller syncs the file and writes a root with a higher sequence and table_sum()
 * before the first table_write(), which would otherwise replace what the old root sums up.
 */
_must_check_ int table_load(struct table *table, uint64_t file_bytes, uint64_t root_sequence,
                            uint64_t root_sum, uint64_t *sequence, bool *ret_damaged);
uint64_t table_sum(struct table *table);
/* Writes and syncs the pages that have changed since they were written; sequence is higher than any
 * before.  *ret_sum is for the root. */
_must_check_ int table_write(struct table *table, uint64_t sequence, uint64_t *ret_sum);

/* Zeros where nothing was ever put. */
void table_get(struct table *table, uint64_t index, void *ret_record);
/* Gets the memory that a change of the record needs.  -EINVAL: beyond record_max. */
_must_check_ int table_prepare(struct table *table, uint64_t index);
/* -EINVAL: beyond record_max. */
_must_check_ int table_put(struct table *table, uint64_t index, const void *record);
/* Of records that are a single le64_t: sets and clears bits. */
_must_check_ int table_change_mask(struct table *table, uint64_t index, uint64_t set,
                                   uint64_t clear);
/* One more than the highest index that may hold anything. */
uint64_t table_end(struct table *table);
