/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast the background of an instant restore may go.  The essay is in throttle.c.
 *
 * A throttle does no I/O, has no clock and no lock: its owner feeds it samples (throttle-probe.h)
 * and calls it under a lock of its own.  Times are of any monotonic clock, in nanoseconds.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/token-bucket.h"

#define THROTTLE_SAMPLE_INTERVAL_NS UINT64_C(100000000)

/* Totals that only grow; those that are not known stay 0. */
struct throttle_sample {
    bool has_waits;
    uint64_t waits_us; /* time in which somebody waited for I/O */
    bool has_disk;
    uint64_t disk_read_bytes, disk_written_bytes; /* of the volume's device, by anybody */
    uint64_t own_read_bytes, own_written_bytes;   /* by this process, what may be on that device */
    bool own_busy; /* at this moment something of the background's own is being filled or synced */
    uint64_t left_bytes; /* to be filled; 0: not known */
};

enum throttle_probe {
    THROTTLE_PROBE_NONE,
    THROTTLE_PROBE_SETTLE,  /* only the floor: what was begun ends */
    THROTTLE_PROBE_MEASURE, /* only the floor: this is what others wait for without us */
};

struct throttle {
    uint64_t limit_bytes_per_s; /* 0: none */
    bool idle;

    struct token_bucket bucket;
    uint64_t rate_bytes_per_s;   /* the AIMD's, without the limit */
    uint64_t floor_free_ns;      /* from when on the floor lets somebody through */
    uint64_t window_taken_bytes; /* since the last sample */
    uint64_t taken_bytes_per_s;  /* smoothed */

    bool fed;
    uint64_t fed_ns;
    struct throttle_sample last;

    uint64_t own_unwritten_bytes; /* what we wrote and the disk has not been seen to write */
    uint64_t own_wrote_ns;
    uint64_t others_bytes_per_s; /* weighted, smoothed */
    uint64_t busy_until_ns;

    enum throttle_probe probe;
    uint64_t probe_ns; /* when the last one began */
    unsigned measured_count, measured_permille;
    uint64_t measured_others;
    unsigned base_permille;  /* of the time somebody waits without us */
    bool shared;             /* others used the disk then */
    unsigned waits_permille; /* smoothed */
    uint64_t lowered_ns;     /* when the rate was lowered last */
};

/* limit_bytes_per_s 0: none.  idle: only the floor while others use the disk. */
void throttle_init(struct throttle *t, uint64_t limit_bytes_per_s, bool idle, uint64_t now_ns);
void throttle_set_limit(struct throttle *t, uint64_t limit_bytes_per_s, uint64_t now_ns);

/* About every THROTTLE_SAMPLE_INTERVAL_NS. */
void throttle_feed(struct throttle *t, const struct throttle_sample *sample, uint64_t now_ns);

/*
 * Asks to fill so many bytes in the background.  0: go, they are counted.  Else nothing was
 * counted: ask again after that many nanoseconds, or as soon as demand has ended.
 */
uint64_t throttle_take(struct throttle *t, uint64_t bytes, bool demand_in_flight, uint64_t now_ns);

/* Whether others use the disk, as far as the samples tell. */
bool throttle_busy(const struct throttle *t, uint64_t now_ns);
