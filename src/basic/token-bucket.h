/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A limit on a rate: so many bytes a second on average, so many at once.
 *
 * Taking is always granted and may put the bucket into debt; the answer is how long to wait before
 * doing what was paid for.  A request larger than the burst is therefore possible, and the average
 * holds.  The caller passes the time (CLOCK_MONOTONIC, or a test's own), so nothing here waits.
 * Not for several threads at once.
 */
#pragma once

#include <stdint.h>

struct token_bucket {
    uint64_t bytes_per_s; /* 0: no limit */
    uint64_t burst_bytes;
    uint64_t full_at_ns; /* when it will be full again; in the past: it is */
};

/* A new bucket is full. */
void token_bucket_init(struct token_bucket *bucket, uint64_t bytes_per_s, uint64_t burst_bytes);
/* Another limit; what was taken before keeps its price in time. */
void token_bucket_set_rate(struct token_bucket *bucket, uint64_t bytes_per_s, uint64_t burst_bytes);
/* Takes the bytes; nanoseconds to wait from now_ns on. */
uint64_t token_bucket_take(struct token_bucket *bucket, uint64_t bytes, uint64_t now_ns);
/* What could be taken now without waiting. */
uint64_t token_bucket_available(const struct token_bucket *bucket, uint64_t now_ns);
