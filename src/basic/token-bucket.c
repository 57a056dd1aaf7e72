/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The level of the bucket is kept as the time at which it will be full (the "virtual scheduling"
 * form of the leaky bucket, ITU-T I.371 annex A): taking bytes moves that time on by what they
 * cost, and as long as it is not further away than the burst takes to refill, nobody waits. Nothing
 * has to be refilled.
 */
#include "basic/token-bucket.h"

#include "basic/macro.h"

/* Rounded up, so that many small takes do not exceed the rate; at most UINT64_MAX. */
static uint64_t time_for(uint64_t bytes, uint64_t bytes_per_s)
{
    unsigned __int128 ns =
        ((unsigned __int128)bytes * NSEC_PER_SEC + bytes_per_s - 1) / bytes_per_s;

    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

static uint64_t add_saturating(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void token_bucket_init(struct token_bucket *bucket, uint64_t bytes_per_s, uint64_t burst_bytes)
{
    *bucket = (struct token_bucket){.bytes_per_s = bytes_per_s, .burst_bytes = burst_bytes};
}

void token_bucket_set_rate(struct token_bucket *bucket, uint64_t bytes_per_s, uint64_t burst_bytes)
{
    bucket->bytes_per_s = bytes_per_s;
    bucket->burst_bytes = burst_bytes;
}

uint64_t token_bucket_take(struct token_bucket *bucket, uint64_t bytes, uint64_t now_ns)
{
    if (bucket->bytes_per_s == 0)
        return 0;
    uint64_t start_ns = MAX(bucket->full_at_ns, now_ns);
    bucket->full_at_ns = add_saturating(start_ns, time_for(bytes, bucket->bytes_per_s));

    uint64_t until_full_ns = bucket->full_at_ns - now_ns;
    uint64_t burst_ns = time_for(bucket->burst_bytes, bucket->bytes_per_s);
    return until_full_ns > burst_ns ? until_full_ns - burst_ns : 0;
}

uint64_t token_bucket_available(const struct token_bucket *bucket, uint64_t now_ns)
{
    if (bucket->bytes_per_s == 0)
        return UINT64_MAX;
    uint64_t until_full_ns = bucket->full_at_ns > now_ns ? bucket->full_at_ns - now_ns : 0;
    unsigned __int128 taken =
        ((unsigned __int128)until_full_ns * bucket->bytes_per_s + NSEC_PER_SEC - 1) / NSEC_PER_SEC;
    return taken >= bucket->burst_bytes ? 0 : bucket->burst_bytes - (uint64_t)taken;
}
