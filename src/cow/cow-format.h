/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The storage of a cow volume: a directory with
 *
 *     volume    a header (4 KiB, never changed), root A (4 KiB), root B (4 KiB)
 *     log       a log of the log service; client "cow"
 *     map       table of struct cow_entry
 *     zero      table of struct cow_zero
 *     state     table of records of 128 bytes: settings, shadows, faults
 *     cells     cells of one block each: what was kept
 *
 * A table is an array of records, COW_PAGE_ROOM bytes of them a page, without a record that reaches
 * into two.  Page p has two places, at 8192 * p and 4096 behind it.  A page that was never written
 * holds zeros.
 *
 * Durability: a page is written and synced by checkpoints, always to the place that is not current;
 * then a root, to the place of the older root; then the log gives up what it held before, but for
 * entries whose cells are not synced yet (struct cow_log_copies).
 *
 * Duties of a reader:
 *  - of the header: magic, checksum, version, sizes, reserved bytes; the origin has to be that of
 *    the header.
 *  - of the roots: the valid one with the higher sequence counts.  One has to be valid.
 *  - of a page: magic, checksum, volume, table and number; of the valid ones that with the higher
 *    sequence is current.  Of each page the newest state that is not newer than the root goes into
 * a sum, which must be that of the root; else a page is lost, and the table is damaged.
 *  - of an entry: known flags, block and cell within their bounds; one that breaks this makes the
 * map damaged.  One that no living shadow needs (cow.c, invariant 2) means nothing.
 *  - of a cell: its checksum is in the entry.
 */
#pragma once

#include <assert.h>
#include <stddef.h>

#include "basic/le.h"
#include "basic/macro.h"

#define COW_PAGE_BYTES      ((uint64_t)4096)
#define COW_HEADER_MAGIC    "UMBRACOW"
#define COW_ROOT_MAGIC      "UMBRACWR"
#define COW_PAGE_MAGIC      "UCWP"
#define COW_VERSION         1u
#define COW_BLOCK_BYTES_MIN 4096u
#define COW_BLOCK_BYTES_MAX 65536u
#define COW_BLOCK_COUNT_MAX ((uint64_t)1 << 40)
#define COW_CELL_COUNT_MAX  ((uint64_t)1 << 31)
#define COW_SECTOR_BYTES    512u
#define COW_ID_LEN          16u
#define COW_IDENTITY_MAX    1024u
#define COW_SHADOWS_MAX     512u
#define COW_FAULTS_KEPT     16u
#define COW_LABEL_MAX       64u
#define COW_GROUP_BLOCKS    64u                 /* that share a struct cow_zero */
#define COW_MARK_BYTES      ((uint64_t)1 << 20) /* of the origin, that origin_mark is of */
#define COW_MARK_LEN        16u

enum cow_table_id { COW_TABLE_MAP, COW_TABLE_ZERO, COW_TABLE_STATE, COW_TABLE_COUNT };

struct cow_header {
    uint8_t magic[8];                   /* 000-007: COW_HEADER_MAGIC */
    le32_t checksum;                    /* 008-011: CRC-32C of the page with this field zero */
    le16_t version;                     /* 012-013: COW_VERSION */
    le16_t identity_len;                /* 014-015 */
    uint8_t volume_id[COW_ID_LEN];      /* 016-031 */
    le64_t origin_bytes;                /* 032-039: a multiple of COW_SECTOR_BYTES */
    le32_t block_bytes;                 /* 040-043: a power of two */
    uint8_t reserved0[20];              /* 044-063: zero */
    uint8_t identity[COW_IDENTITY_MAX]; /* 064-1087: of the origin, as the front end knows it */
    uint8_t reserved1[3008];            /* 1088-4095: zero */
};
static_assert(sizeof(struct cow_header) == COW_PAGE_BYTES, "on disk");
static_assert(offsetof(struct cow_header, identity) == 64, "on disk");

enum cow_root_flags {
    COW_ROOT_CLEAN = 1u << 0,   /* not written to since origin_mark was taken */
    COW_ROOT_DAMAGED = 1u << 1, /* pages were lost: no shadow, no zero can be trusted */
    COW_ROOT_FOREIGN = 1u << 2, /* nor these, as the origin was changed while detached */
};

struct cow_root {
    uint8_t magic[8];                  /* 00-07: COW_ROOT_MAGIC */
    le32_t checksum;                   /* 08-11: CRC-32C of the page with this field zero */
    le32_t flags;                      /* 12-15: enum cow_root_flags */
    uint8_t volume_id[COW_ID_LEN];     /* 16-31 */
    le64_t sequence;                   /* 32-39: the higher one counts */
    uint8_t origin_mark[COW_MARK_LEN]; /* 40-55: BLAKE3 of the first COW_MARK_BYTES of the origin */
    le64_t sums[COW_TABLE_COUNT];      /* 56-79: of the pages of each table */
    uint8_t reserved[4016];            /* 80-4095: zero */
};
static_assert(sizeof(struct cow_root) == COW_PAGE_BYTES, "on disk");

struct cow_page_header {
    uint8_t magic[4];           /* 00-03: COW_PAGE_MAGIC */
    le32_t checksum;            /* 04-07: CRC-32C of the page with this field zero */
    le64_t sequence;            /* 08-15: of the root that was to follow */
    le32_t page;                /* 16-19 */
    uint8_t table;              /* 20: enum cow_table_id */
    uint8_t reserved[3];        /* 21-23: zero */
    uint8_t volume_id_start[8]; /* 24-31 */
};
static_assert(sizeof(struct cow_page_header) == 32, "on disk");

#define COW_PAGE_ROOM (COW_PAGE_BYTES - sizeof(struct cow_page_header))

/* What is kept of a block, or of the zero blocks of a group. */
enum cow_entry_flags {
    COW_ENTRY_ZERO = 1u << 0, /* block is the first of a group, value a mask: these read as zeros */
    COW_ENTRY_OWN = 1u << 1,  /* written to the shadow itself */
    COW_ENTRY_FLAGS = 3u,
};

struct cow_entry {
    le32_t number;   /* 00-03: the newest shadow when this was kept; own: whose; 0: no entry */
    le32_t checksum; /* 04-07: CRC-32C of the cell; of zeros: 0 */
    le64_t where;    /* 08-15: block, in 48 bits; above them enum cow_entry_flags */
    le64_t value;    /* 16-23: number of the cell, or mask */
};
static_assert(sizeof(struct cow_entry) == 24, "on disk");
#define COW_WHERE_BITS 48u

/* Which blocks of a group the origin durably has as zeros: bit i is block 64 * index + i. */
struct cow_zero {
    le64_t mask;
};
static_assert(sizeof(struct cow_zero) == 8, "on disk");

#define COW_STATE_BYTES 128u

/* The records of the table state: 0, then COW_SHADOWS_MAX shadows, then COW_FAULTS_KEPT faults. */
#define COW_STATE_SETTINGS     0u
#define COW_STATE_SHADOWS      1u
#define COW_STATE_FAULTS       (COW_STATE_SHADOWS + COW_SHADOWS_MAX)
#define COW_STATE_RECORD_COUNT (COW_STATE_FAULTS + COW_FAULTS_KEPT)

enum cow_settings_flags { COW_SETTINGS_PROTECT_SHADOWS = 1u << 0 };

struct cow_settings_record {
    le64_t cells_max;      /* 00-07: that may be used */
    le32_t last_number;    /* 08-11: of the shadow that was taken last; 0: none yet */
    le32_t flags;          /* 12-15: enum cow_settings_flags */
    le64_t fault_count;    /* 16-23: ever */
    uint8_t reserved[104]; /* 24-127: zero */
};
static_assert(sizeof(struct cow_settings_record) == COW_STATE_BYTES, "on disk");

enum cow_shadow_flags {
    COW_SHADOW_WRITABLE = 1u << 0, /* in its writable phase */
};

struct cow_shadow_record {
    le32_t number;                /* 00-03: 0: no shadow */
    le16_t flags;                 /* 04-05: enum cow_shadow_flags */
    uint8_t label_len;            /* 06 */
    uint8_t reserved0;            /* 07: zero */
    le64_t taken_ns;              /* 08-15: since the epoch */
    uint8_t id[COW_ID_LEN];       /* 16-31 */
    uint8_t label[COW_LABEL_MAX]; /* 32-95: the coordinator's; zero behind label_len */
    uint8_t reserved1[32];        /* 96-127: zero */
};
static_assert(sizeof(struct cow_shadow_record) == COW_STATE_BYTES, "on disk");

/* Append only: on disk. */
#define COW_REASON_LIST(X)                                                        \
    X(NONE, "none")                                                               \
    X(FULL, "the storage was full")                                               \
    X(SHRUNK, "the storage was made smaller")                                     \
    X(DAMAGED, "a page of the map is damaged")                                    \
    X(FOREIGN, "the origin was changed while the volume was detached")            \
    X(REFUSED, "the storage was full, and shadows are protected: a write failed") \
    X(ROTTEN, "what was kept for it is damaged")

enum cow_reason {
#define X(name, text) COW_REASON_##name,
    COW_REASON_LIST(X)
#undef X
        COW_REASON_COUNT,
};

struct cow_fault_record {
    le64_t time_ns;        /* 00-07: since the epoch */
    le32_t number;         /* 08-11: the shadow that is gone; 0: none */
    le16_t reason;         /* 12-13: enum cow_reason */
    uint8_t reserved[114]; /* 14-127: zero */
};
static_assert(sizeof(struct cow_fault_record) == COW_STATE_BYTES, "on disk");

/* ---- records in the log: their redo parts; there are no undo parts ---- */

enum cow_log_op {
    COW_LOG_ENTRIES = 1,    /* array of struct cow_log_entry */
    COW_LOG_ZERO_SET = 2,   /* array of struct cow_log_zero: these blocks are zero now */
    COW_LOG_ZERO_CLEAR = 3, /* array of struct cow_log_zero: these are not known to be any more */
    COW_LOG_STATE = 4,      /* array of struct cow_log_state */
    COW_LOG_COPIES = 5,     /* struct cow_log_copies, array of struct cow_log_entry */
};

/*
 * Of entries that are committed before their cells are known to be durable.  Cells of tickets up to
 * settled are, in all records.  Where the log ends before that is said of a ticket, a cell that is
 * not what its entry says may never have been written.  The origin was not overwritten then: if it
 * has what the entry says, the entry is taken for one that was never made.
 */
struct cow_log_copies {
    le64_t ticket;
    le64_t settled;
};
static_assert(sizeof(struct cow_log_copies) == 16, "on disk");

struct cow_log_entry {
    le64_t slot;
    struct cow_entry entry;
};
static_assert(sizeof(struct cow_log_entry) == 32, "on disk");

struct cow_log_zero {
    le64_t group;
    le64_t mask;
};
static_assert(sizeof(struct cow_log_zero) == 16, "on disk");

struct cow_log_state {
    le64_t index;
    uint8_t record[COW_STATE_BYTES];
};
static_assert(sizeof(struct cow_log_state) == 136, "on disk");
