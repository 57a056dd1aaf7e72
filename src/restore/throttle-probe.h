/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the samples of a throttle come from: /proc/pressure/io, the counters of a block device, and
 * /proc/self/io.  All files are opened once, before anything is gated; afterwards they are only
 * read again.
 */
#pragma once

#include "basic/macro.h"
#include "restore/throttle.h"

struct throttle_files {
    int pressure_fd, disk_fd, own_fd; /* negative: not there */
    bool own_reads_count;             /* the repository is on the device, too */
};

/*
 * What cannot be opened is left out.  volume_fd: any open file or directory of the target; of a
 * btrfs with several devices, the first is looked at.  repository: a directory, NULL when the
 * contents come from elsewhere.
 */
void throttle_files_open(struct throttle_files *files, int volume_fd, const char *repository);
void throttle_files_close(struct throttle_files *files);
/* own_busy is left to the caller. */
void throttle_files_sample(const struct throttle_files *files, struct throttle_sample *ret_sample);

/* ---- what the files say; for tests ---- */

/* The total of the line "some". */
_must_check_ int throttle_parse_pressure(const char *text, uint64_t *ret_total_us);
/* Of /sys/dev/block/MAJOR:MINOR/stat (Documentation/block/stat.rst). */
_must_check_ int throttle_parse_disk(const char *text, struct throttle_sample *sample,
                                     uint64_t *ret_read_ms);
/* read_bytes and write_bytes, without cancelled_write_bytes. */
_must_check_ int throttle_parse_own(const char *text, uint64_t *ret_read_bytes,
                                    uint64_t *ret_written_bytes);
