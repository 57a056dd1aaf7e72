/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine of a cow volume: an origin that is written through it, and shadows of that origin.
 *
 * It knows nothing of front ends: whoever serves the device calls cow_read() and so on, from any
 * number of threads; what they hand over at the same time shares its flushes.  Offsets and lengths
 * are in bytes and multiples of COW_SECTOR_BYTES, within the origin (else -EINVAL).  Requests that
 * overlap in time and place give any mixture of sectors, as on any disk.
 *
 * A shadow is named by its number, which is never used twice in the life of a volume.
 */
#pragma once

#include "basic/extent-map.h"
#include "cow/cow-format.h"
#include "cow/device.h"

struct cow;

struct cow_place {
    struct io *storage;        /* the directory of the diff area; must outlive the volume */
    struct cow_device *origin; /* must outlive the volume */
    const void *identity;      /* of the origin: any bytes that tell it from others */
    size_t identity_len;       /* COW_IDENTITY_MAX at most */
};

struct cow_options {
    uint32_t block_bytes;      /* create: 0: 16 KiB */
    uint64_t max_bytes;        /* create: of what is kept; rounded down to blocks, at least one */
    bool protect_shadows;      /* create: when full, writes fail instead of shadows being deleted */
    bool origin_is_zero;       /* create: it reads as zeros everywhere, and is not worth keeping;
                                  what an image file has as holes is known without being said */
    uint64_t log_bytes;        /* create: 0: 64 MiB */
    uint64_t log_flush_bytes;  /* create: 0: the log's default */
    uint64_t checkpoint_bytes; /* both: of log; 0: 4 MiB */
    bool no_threads;           /* open: none of its own; so room for what is kept is not made ready
                                  ahead, nor given back */
};

/* Makes the files of a volume and nothing else.  -EEXIST: there is one; -ENOSPC, -EINVAL. */
_must_check_ int cow_create(const struct cow_place *place, const struct cow_options *options);
/*
 * Recovers it, if need be.  -ENOENT: no volume; -UMBRA_E_FOREIGN: of another origin;
 * -UMBRA_E_VERSION; -UMBRA_E_CORRUPT: header, both roots or log are damaged; -EBUSY: attached
 * elsewhere.  Damage that concerns shadows alone deletes them, which is a fault (cow_faults).
 */
_must_check_ int cow_open(const struct cow_place *place, const struct cow_options *options,
                          struct cow **ret_cow);
/* In good order; no call may be running.  The volume is gone in any case.  NULL is fine. */
int cow_close(struct cow *cow);
/* Frees it as if the process had been killed. */
void cow_free(struct cow *cow);
DEFINE_CLEANUP_PTR(struct cow *, cow_free);

/* ---- the device ---- */

_must_check_ int cow_read(struct cow *cow, void *data, size_t len, uint64_t offset);
/* -ENOSPC: only with protect_shadows, or when the storage has no room for a single block. */
_must_check_ int cow_write(struct cow *cow, const void *data, size_t len, uint64_t offset);
/* An advice: each whole block in the range reads as zeros then, and durably, or is left as it is.
 */
_must_check_ int cow_discard(struct cow *cow, uint64_t len, uint64_t offset);
_must_check_ int cow_flush(struct cow *cow);

/* ---- shadows ---- */

struct cow_shadow {
    uint32_t number;
    bool writable;
    uint64_t taken_ns; /* since the epoch */
    uint8_t id[COW_ID_LEN];
    uint8_t label[COW_LABEL_MAX];
    size_t label_len;
};

struct cow_take {
    const uint8_t *id; /* COW_ID_LEN bytes; NULL: random */
    const void *label;
    size_t label_len; /* COW_LABEL_MAX at most */
    bool writable;    /* begins with a writable phase */
};

/* Of everything that has been written when it is called, perhaps of more; durable on return.
 * *ret_hold_ns: how long writes were held.  -EMLINK: COW_SHADOWS_MAX. */
_must_check_ int cow_shadow_take(struct cow *cow, const struct cow_take *take, uint32_t *ret_number,
                                 uint64_t *ret_hold_ns);
/* -ENOENT: there is no such shadow (any more); -UMBRA_E_CORRUPT: what was kept of it is damaged,
 * and it is deleted for that. */
_must_check_ int cow_shadow_read(struct cow *cow, uint32_t number, void *data, size_t len,
                                 uint64_t offset);
/* In the writable phase only, else -EROFS.  Durable on return. */
_must_check_ int cow_shadow_write(struct cow *cow, uint32_t number, const void *data, size_t len,
                                  uint64_t offset);
/* Ends the writable phase; -EALREADY: it has ended. */
_must_check_ int cow_shadow_seal(struct cow *cow, uint32_t number);
_must_check_ int cow_shadow_delete(struct cow *cow, uint32_t number);
/* By rising number; at most max.  Returns how many there are. */
size_t cow_shadows(struct cow *cow, struct cow_shadow *shadows, size_t max);
/* Writers go on meanwhile.  The blocks, as extents of bytes, whose contents may differ between
 * shadow from, which must live, and shadow to, or the volume as it is (to 0). */
_must_check_ int cow_changed(struct cow *cow, uint32_t from, uint32_t to,
                             struct extent_map *ret_bytes);

/* ---- the diff area ---- */

/* Deletes the oldest shadows until what is kept fits; with protect_shadows: -ENOSPC, and nothing is
 * changed. */
_must_check_ int cow_resize(struct cow *cow, uint64_t max_bytes);

/* What happens when it is full, from now on: writes fail, or the oldest shadows are deleted. */
_must_check_ int cow_protect(struct cow *cow, bool protect_shadows);

struct cow_stat {
    uint64_t origin_bytes, block_bytes;
    uint64_t max_bytes, used_bytes; /* of cells */
    bool protect_shadows;
    uint64_t entry_count;
    uint64_t zero_blocks; /* known to be zero */
    uint64_t fault_count;
    uint64_t copied_blocks; /* since it was opened */
    /* How long writes were held for shadows since it was opened; the percentiles are of the last
     * thousand. */
    uint64_t hold_count, hold_p50_ns, hold_p99_ns, hold_max_ns;
};
void cow_stat(struct cow *cow, struct cow_stat *ret_stat);

struct cow_fault {
    uint64_t time_ns;
    uint32_t number; /* the shadow that is gone; 0: none */
    enum cow_reason reason;
};
/* The last ones, the oldest first; at most COW_FAULTS_KEPT.  Returns how many. */
size_t cow_faults(struct cow *cow, struct cow_fault faults[COW_FAULTS_KEPT]);
const char *cow_reason_text(enum cow_reason reason);
