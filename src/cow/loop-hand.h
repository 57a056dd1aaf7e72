/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loop devices on the files of the FUSE front end, made and removed by a child process.
 *
 * The child waits for what its parent serves.  When the parent is killed, so is the child as soon
 * as the next worker has served that; nobody else waits for it.
 *
 * A device is made in steps, of which the last is a record RUN_DIR/device-N: "/dev/loop7 DISKSEQ
 * punch".  The sequence number tells this use of the loop device from all others.  What has no
 * record is not finished, and is made again.
 *
 * The loop driver sends both discards and zeroing (of which a device may free the blocks) as
 * FALLOC_FL_PUNCH_HOLE.  It does so no more when FALLOC_FL_ZERO_RANGE has failed with EOPNOTSUPP
 * once: then zeros come as writes.  So one is made to fail, in the first page of the device, while
 * the front end drops what the kernel then writes in its place.  The record says "punch" when that
 * has worked.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"
#include "basic/vector.h"
#include "cow/front.h"

struct loop_record {
    uint32_t number;
    char device[COW_DEVICE_MAX]; /* "/dev/loop7" */
    uint64_t disk_sequence;
    bool has_punch;
};
DEFINE_VECTOR(loop_record_vector, struct loop_record);

/* Those whose device is as it was recorded; other records are removed. */
_must_check_ int loop_records_read(const char *run_dir, struct loop_record_vector *ret_records);

/* Each in a child, with a time limit. */
_must_check_ int loop_add(const char *run_dir, uint32_t number, bool read_only,
                          uint32_t sector_bytes, struct loop_record *ret_record);
/* -EBUSY: mounted, or open; then it stays. */
_must_check_ int loop_remove(const char *run_dir, const struct loop_record *record);
_must_check_ int loop_check_free(const char *run_dir, const struct loop_record *record);
_must_check_ int loop_seal(const char *run_dir, const struct loop_record *record);
/* Removes devices on our files that have no record. */
_must_check_ int loop_tidy(const char *run_dir);
_must_check_ int loop_unmount(const char *run_dir);
/* Of an earlier life whose connection is gone: devices and mount.  -EBUSY with words. */
_must_check_ int loop_clear_stale(const char *run_dir);

/* The child's main(): argv[0] is the first word behind "--hand". */
int loop_hand_main(int argc, char **argv);

/* RUN_DIR/fuse, as path has room for. */
#define LOOP_MOUNT_NAME "fuse"
/* What the kernel may write with zeros while a device is being made, from its start on. */
#define LOOP_PROBE_BYTES 4096
