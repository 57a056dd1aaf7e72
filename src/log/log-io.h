/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A log on any struct io, and with sizes that only tests want. */
#pragma once

#include "basic/io.h"
#include "umbra/log.h"

/* The smallest ring that has room for the reserves of a log with flushes of WAL_FLUSH_BYTES_MIN. */
#define WAL_FILE_MIN ((uint64_t)34 * 4096)

struct wal_place {
    struct io *io;    /* must live as long as the log */
    const char *path; /* in io */
    const char *name; /* for messages */
};

/* As umbra_log_create().  flush_bytes: the largest flush; 0: the default.  options->file_bytes may
 * be as low as WAL_FILE_MIN. */
_must_check_ int wal_create(const struct wal_place *place, const struct umbra_log_options *options,
                            uint64_t flush_bytes, struct umbra_log **ret_log);
_must_check_ int wal_open(const struct wal_place *place, const struct umbra_log_options *options,
                          struct umbra_log **ret_log);
_must_check_ int wal_scan(const struct wal_place *place,
                          const struct umbra_log_scan_options *options,
                          struct umbra_log_info *ret_info);
