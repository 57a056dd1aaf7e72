/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A log file, as in umbra-log(5):
 *
 *     0               restart area A     4 KiB
 *     4096            ring of log pages  4 KiB each
 *     file end - 4 K  restart area B     4 KiB; as far from A as can be
 *
 * A log page is one 4 KiB stretch of an endless log; its LSN is the position of its first byte
 * there, and it lies in the ring at (LSN modulo ring size).  After its header, pages carry one
 * stream of bytes: records, each beginning at a multiple of 8.  The LSN of a record is that of its
 * first byte.
 *
 * A flush is a run of pages that were written together: flush_index counts up from 0 to flush_count
 * -
 * 1.  All pages of a flush are full but the last, and no record reaches into another flush.
 *
 * Duties of a reader:
 *  - of an area: refuse a wrong checksum (take the other area), an unknown version, sizes that do
 * not fit the file, reserved bytes that are not zero.  Of two good areas the one with the higher
 *    sequence counts.
 *  - of a page: magic, checksum, log id and LSN must be right; prev_checksum must be the checksum
 * of the page before (but for the first page that is read), and incarnation not be lower than
 * there.
 *  - The log ends before the first flush of which a page is missing.  If anything says that the
 *    missing page had been durable (durable_lsn of an area, or of a page further on, lies behind
 * it), the log is damaged.
 *  - of a record: lengths that add up, within the flush; its checksum and own LSN; LSNs it names
 *    must be lower than its own.
 */
#pragma once

#include <assert.h>
#include <stddef.h>

#include "basic/le.h"
#include "basic/macro.h"
#include "umbra/log.h"

#define WAL_PAGE_BYTES   ((uint64_t)4096)
#define WAL_AREA_MAGIC   "UMBRALOG"
#define WAL_PAGE_MAGIC   "UWLP"
#define WAL_VERSION      1u
#define WAL_LSN_FIRST    WAL_PAGE_BYTES /* of the first page: 0 is no LSN */
#define WAL_LSN_MAX      ((uint64_t)1 << 62)
#define WAL_RECORD_ALIGN 8u
#define WAL_AREA_COUNT   2u
/* Of one flush. */
#define WAL_FLUSH_BYTES_DEFAULT (1 * MIB)
#define WAL_FLUSH_BYTES_MIN     (4 * WAL_PAGE_BYTES)
#define WAL_FLUSH_BYTES_MAX     (64 * MIB)

struct wal_area_client {
    char name[32];                          /* 000-031: NUL padded; all zero: no client */
    uint8_t manager;                        /* 032: enum umbra_log_manager_id */
    uint8_t reserved0[5];                   /* 033-037: zero */
    le16_t restart_len;                     /* 038-039 */
    uint8_t reserved1[24];                  /* 040-063: zero */
    uint8_t restart[UMBRA_LOG_RESTART_MAX]; /* 064-575: zero behind restart_len */
};
static_assert(sizeof(struct wal_area_client) == 576, "on disk");

struct wal_area {
    uint8_t magic[8];       /* 000-007: WAL_AREA_MAGIC */
    le32_t checksum;        /* 008-011: CRC-32C of the page with this field zero */
    le16_t version;         /* 012-013: WAL_VERSION */
    uint8_t reserved0[2];   /* 014-015: zero */
    uint8_t log_id[16];     /* 016-031 */
    le64_t sequence;        /* 032-039: the higher one counts */
    le64_t file_bytes;      /* 040-047 */
    le32_t flush_bytes;     /* 048-051: the largest flush */
    le32_t incarnation;     /* 052-055: counts openings for writing */
    le64_t checkpoint_lsn;  /* 056-063: of its end record; 0: none yet */
    le64_t redo_lsn;        /* 064-071: where recovery begins to read; 0: at the first page */
    le64_t oldest_lsn;      /* 072-079: the oldest record that undo may need; 0: as redo_lsn */
    le64_t durable_lsn;     /* 080-087: all pages before were durable when this was written */
    le64_t next_txn;        /* 088-095: no transaction had this id yet */
    uint8_t reserved1[160]; /* 096-255: zero */
    struct wal_area_client clients[UMBRA_LOG_CLIENTS_MAX]; /* 256-3711 */
    uint8_t reserved2[384];                                /* 3712-4095: zero */
};
static_assert(sizeof(struct wal_area) == WAL_PAGE_BYTES, "on disk");
static_assert(offsetof(struct wal_area, log_id) == 16, "on disk");
static_assert(offsetof(struct wal_area, checkpoint_lsn) == 56, "on disk");
static_assert(offsetof(struct wal_area, clients) == 256, "on disk");

struct wal_page_header {
    uint8_t magic[4];     /* 00-03: WAL_PAGE_MAGIC */
    le32_t checksum;      /* 04-07: CRC-32C of the page with this field zero */
    le64_t lsn;           /* 08-15: of the page's first byte */
    uint8_t log_id[16];   /* 16-31 */
    le64_t durable_lsn;   /* 32-39: all pages before were durable when this one was made */
    le32_t prev_checksum; /* 40-43: checksum of the page before; of the very first page 0 */
    le32_t incarnation;   /* 44-47 */
    le16_t used;          /* 48-49: bytes of the page in use, with the header */
    le16_t first_record;  /* 50-51: offset of the first record that begins here; 0: none does */
    le16_t flush_index;   /* 52-53: the how-manieth page of its flush, from 0 */
    le16_t flush_count;   /* 54-55: pages of its flush */
    uint8_t reserved[8];  /* 56-63: zero */
};
static_assert(sizeof(struct wal_page_header) == 64, "on disk");
static_assert(offsetof(struct wal_page_header, used) == 48, "on disk");

#define WAL_PAGE_ROOM (WAL_PAGE_BYTES - sizeof(struct wal_page_header))

enum wal_record_flags {
    WAL_RECORD_VOID =
        1u << 0, /* of a compensation: nothing is to be done, as the update never was */
};

struct wal_record_header {
    le32_t len;           /* 00-03: header, redo part and undo part; zeros follow up to a multiple
                             of 8 */
    le32_t checksum;      /* 04-07: CRC-32C of the len bytes with this field zero */
    le64_t lsn;           /* 08-15: its own */
    le64_t txn;           /* 16-23: 0: none */
    le64_t prev_lsn;      /* 24-31: the record before of this transaction; 0: none */
    le64_t undo_next_lsn; /* 32-39: compensation: the next update to undo; 0: none */
    le64_t undoes_lsn;    /* 40-47: compensation: the update that is undone; abort: updates of the
                             transaction from here on were never done, 0: all were */
    uint8_t type;         /* 48: enum umbra_log_record_type */
    uint8_t client;       /* 49: index in the restart area */
    le16_t op;            /* 50-51: the client's */
    le32_t redo_len;      /* 52-55 */
    le32_t undo_len;      /* 56-59 */
    uint8_t manager;      /* 60: enum umbra_log_manager_id */
    uint8_t flags;        /* 61: enum wal_record_flags */
    uint8_t reserved[2];  /* 62-63: zero */
};
static_assert(sizeof(struct wal_record_header) == 64, "on disk");
static_assert(offsetof(struct wal_record_header, type) == 48, "on disk");

/* The redo part of a checkpoint's end record: this head, then txn_count entries.  The table is that
 * of the moment of the record itself. */
struct wal_checkpoint_head {
    le64_t begin_lsn;    /* 00-07: where the log ended when it was begun */
    le64_t redo_lsn;     /* 08-15: as in the restart area */
    le64_t oldest_lsn;   /* 16-23: as in the restart area */
    le64_t next_txn;     /* 24-31 */
    le32_t txn_count;    /* 32-35 */
    uint8_t reserved[4]; /* 36-39: zero */
    le64_t client_redo_lsn[UMBRA_LOG_CLIENTS_MAX]; /* 40-87: the dirty table; 0: no client */
};
static_assert(sizeof(struct wal_checkpoint_head) == 88, "on disk");

enum wal_txn_flags {
    WAL_TXN_ROLLING_BACK = 1u << 0,
};

struct wal_checkpoint_txn {
    le64_t id;            /* 00-07 */
    le64_t first_lsn;     /* 08-15 */
    le64_t last_lsn;      /* 16-23 */
    le64_t undo_next_lsn; /* 24-31: the next update to undo; 0: none is left */
    le32_t flags;         /* 32-35: enum wal_txn_flags */
    uint8_t reserved[4];  /* 36-39: zero */
    le64_t void_lsn;      /* 40-47: updates from here on were never done; 0: all were */
};
static_assert(sizeof(struct wal_checkpoint_txn) == 48, "on disk");
