/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The background fills what nobody has asked for yet.  It should use a disk that is free, and be
 * hard to notice on one that is not, and it must end.
 *
 * A piece of work is let through when
 *
 *   1. nothing was let through for as long as its predecessor takes at the floor's rate.  This
 * holds whatever else is the case: the restore always ends.
 *   2. else, when nobody waits for demand, no probe runs, and (with --idle) others leave the disk
 *      alone: at the rate below.
 *
 * The user's limit is above everything; one below the floor lowers the floor.
 *
 * The rate follows the waits of others, by additive increase and multiplicative decrease (Chiu and
 * Jain, 1989).  The signal is the share of time in which some task waits for I/O: the total of
 * /proc/pressure/io, or the time that reads of the disk took.
 *
 * Our own waits are in it, and an application may wait all the time without our doing (a database
 * that commits).  So there are probes: every few seconds the background goes down to the floor,
 * lets its own work end, and what is measured then is the base, the waits without us.  (As BBR
 * finds the delay of an empty queue; LEDBAT, RFC 6817, yields to others by the excess over it.)
 *
 *   No base, or nobody else at this disk: whatever waits there are between the probes are our own,
 * or not for us.  (What waits for another disk is in /proc/pressure/io, too.)  The rate doubles
 * with each sample. A base: waits beyond it are ours to avoid. A base so high that an excess would
 * not show, or others and no measure of waits: the rate is a modest constant.
 *
 * Who uses the disk is told by what it did, less what we did; clearly in a probe, and less so
 * between. Our writes reach the disk later than /proc/self/io counts them; what is on its way is
 * remembered (own_unwritten_bytes) and set off when it arrives.  The journal makes more of them
 * than can be known, so the faster we write, the less is seen.  It is enough to begin a probe
 * early, and for
 * --idle, where being seen means going down to the floor, where the sight is clear.
 *
 * Beside others that wait, the background thus comes to rest where all waits, its own among them,
 * are a tenth of the time more than without it.
 */
#include "restore/throttle.h"

#include "basic/macro.h"
#include "restore/instant.h"

#define MSEC_NS (NSEC_PER_SEC / 1000)

#define RATE_MAX       (64 * GIB) /* as good as none */
#define RATE_START     (64 * MIB) /* until it is known what the disk does */
#define RATE_STEP      (10 * MIB) /* increase a second, beside others */
#define RATE_CROWDED   (16 * MIB) /* beside others, when their waits tell nothing */
#define BURST_NS       (50 * MSEC_NS)
#define BURST_MIN      (1 * MIB)
#define HOLD_NS        (5 * MSEC_NS)   /* when to ask again while held back */
#define WAIT_MAX_NS    (50 * MSEC_NS)  /* when to ask again at most */
#define LOWER_PAUSE_NS (300 * MSEC_NS) /* until a lower rate shows in the samples */
#define SAMPLE_MIN_NS  (20 * MSEC_NS)
#define SETTLE_MAX_NS  (2 * NSEC_PER_SEC) /* a probe that does not come to rest is given up */

#define OTHERS_QUIET_BYTES_PER_S (512 * KIB) /* in a probe, when nothing of ours is in between */
#define OTHERS_BUSY_BYTES_PER_S  (1 * MIB)   /* more than what a quiet system logs */
#define READ_WEIGHT              4u          /* of reads more is known: seldom are they ours */
#define BUSY_NS                  NSEC_PER_SEC
#define PROBE_INTERVAL_NS        (5 * NSEC_PER_SEC)
#define PROBE_ALONE_NS           (8 * NSEC_PER_SEC) /* when there were no others */
#define MEASURE_SAMPLES          2u
#define PROBE_AGAIN_NS           NSEC_PER_SEC /* when others have just begun */
#define EXCESS_PERMILLE          100u
#define CONTENDED_PERMILLE       10u  /* a base below: nobody else waits */
#define CROWDED_PERMILLE         800u /* a base above leaves no room for an excess */

#define UNWRITTEN_MAX     (512 * MIB)
#define UNWRITTEN_LOST_NS (35 * NSEC_PER_SEC) /* the kernel writes back after 30 s */

static uint64_t floor_rate(const struct throttle *t)
{
    return t->limit_bytes_per_s > 0 ? MIN(t->limit_bytes_per_s, (uint64_t)INSTANT_RATE_FLOOR)
                                    : INSTANT_RATE_FLOOR;
}

static uint64_t ceiling(const struct throttle *t)
{
    return t->limit_bytes_per_s > 0 ? t->limit_bytes_per_s : RATE_MAX;
}

static uint64_t per_second(uint64_t amount, uint64_t window_ns)
{
    unsigned __int128 rate = (unsigned __int128)amount * NSEC_PER_SEC / window_ns;
    return rate > RATE_MAX ? RATE_MAX : (uint64_t)rate;
}

static void set_rate(struct throttle *t, uint64_t rate)
{
    t->rate_bytes_per_s = MAX(MIN(rate, ceiling(t)), floor_rate(t));
    uint64_t burst = (uint64_t)((unsigned __int128)t->rate_bytes_per_s * BURST_NS / NSEC_PER_SEC);
    token_bucket_set_rate(&t->bucket, t->rate_bytes_per_s, MAX(burst, BURST_MIN));
}

void throttle_init(struct throttle *t, uint64_t limit_bytes_per_s, bool idle, uint64_t now_ns)
{
    *t = (struct throttle){
        .limit_bytes_per_s = limit_bytes_per_s, .idle = idle, .floor_free_ns = now_ns};
    token_bucket_init(&t->bucket, 0, 0);
    set_rate(t, RATE_START);
}

void throttle_set_limit(struct throttle *t, uint64_t limit_bytes_per_s, uint64_t now_ns)
{
    t->limit_bytes_per_s = limit_bytes_per_s;
    set_rate(t, RATE_START);
    /* What was waited for at the old rate is not waited for at the new one. */
    t->bucket.full_at_ns = now_ns;
    t->floor_free_ns = MIN(t->floor_free_ns, now_ns + NSEC_PER_SEC);
}

/* ---- who uses the disk ---- */

/* The journal writes what nobody has counted: half as much as the data, while there is some. */
static uint64_t journal_bytes(const struct throttle *t, uint64_t own_written, uint64_t window_ns)
{
    if (t->probe == THROTTLE_PROBE_MEASURE)
        return 0;
    unsigned __int128 taken = (unsigned __int128)t->taken_bytes_per_s * window_ns / NSEC_PER_SEC;
    return MAX((uint64_t)taken, own_written) / 2;
}

static uint64_t others_written(struct throttle *t, const struct throttle_sample *s,
                               uint64_t window_ns, uint64_t now_ns)
{
    uint64_t own_written = s->own_written_bytes - t->last.own_written_bytes;
    uint64_t written = s->disk_written_bytes - t->last.disk_written_bytes;

    if (own_written > 0)
        t->own_wrote_ns = now_ns;
    else if (now_ns - t->own_wrote_ns > UNWRITTEN_LOST_NS)
        t->own_unwritten_bytes = 0;
    uint64_t unwritten = t->own_unwritten_bytes + MIN(own_written, UNWRITTEN_MAX);
    uint64_t ours = MIN(written, unwritten);
    t->own_unwritten_bytes = MIN(unwritten - ours, UNWRITTEN_MAX);
    return written - ours - MIN(written - ours, journal_bytes(t, own_written, window_ns));
}

static uint64_t others_read(const struct throttle *t, const struct throttle_sample *s)
{
    uint64_t own_read = s->own_read_bytes - t->last.own_read_bytes;
    uint64_t read = s->disk_read_bytes - t->last.disk_read_bytes;
    return read - MIN(read, own_read);
}

/* Counters of a device that was taken away and came back begin anew. */
static bool grew(const struct throttle_sample *from, const struct throttle_sample *to)
{
    return to->has_waits == from->has_waits && to->has_disk == from->has_disk &&
           to->waits_us >= from->waits_us && to->disk_read_bytes >= from->disk_read_bytes &&
           to->disk_written_bytes >= from->disk_written_bytes &&
           to->own_read_bytes >= from->own_read_bytes &&
           to->own_written_bytes >= from->own_written_bytes;
}

/* Of this window, weighted. */
static uint64_t look_at_disk(struct throttle *t, const struct throttle_sample *s,
                             uint64_t window_ns, uint64_t now_ns)
{
    if (!s->has_disk)
        return 0;
    uint64_t written = per_second(others_written(t, s, window_ns, now_ns), window_ns);
    uint64_t others = written + READ_WEIGHT * per_second(others_read(t, s), window_ns);
    t->others_bytes_per_s = (3 * t->others_bytes_per_s + others) / 4;
    uint64_t unclear = t->probe == THROTTLE_PROBE_MEASURE ? 0 : t->taken_bytes_per_s / 4;
    if (t->others_bytes_per_s > OTHERS_BUSY_BYTES_PER_S + unclear)
        t->busy_until_ns = now_ns + BUSY_NS;
    return others;
}

static bool others_seen(const struct throttle *t, uint64_t now_ns)
{
    return now_ns < t->busy_until_ns;
}

/* Others wait for this disk, as far as the last probe could tell. */
static bool contended(const struct throttle *t)
{
    bool waits = !t->last.has_waits || t->base_permille >= CONTENDED_PERMILLE;
    bool shared = !t->last.has_disk || t->shared;
    return (t->last.has_waits || t->last.has_disk) && waits && shared;
}

bool throttle_busy(const struct throttle *t, uint64_t now_ns)
{
    return t->last.has_disk ? others_seen(t, now_ns) : contended(t);
}

/* ---- what they wait for ---- */

static unsigned waits_permille(const struct throttle *t, const struct throttle_sample *s,
                               uint64_t window_ns)
{
    uint64_t waits_us = s->waits_us - t->last.waits_us;
    uint64_t permille =
        waits_us < UINT64_MAX / NSEC_PER_SEC ? waits_us * (NSEC_PER_SEC / 1000) / window_ns : 1000;
    return (unsigned)MIN(permille, UINT64_C(1000));
}

/* What is over within a second needs no probe, which would take as long. */
static bool ends_soon(const struct throttle *t)
{
    return t->last.left_bytes > 0 && t->last.left_bytes < t->taken_bytes_per_s;
}

static bool probe_due(const struct throttle *t, bool began, uint64_t now_ns)
{
    if ((!t->last.has_waits && !t->last.has_disk) || ends_soon(t))
        return false;
    uint64_t age_ns = now_ns - t->probe_ns;
    uint64_t interval_ns = contended(t) ? PROBE_INTERVAL_NS : PROBE_ALONE_NS;
    return t->probe_ns == 0 || age_ns >= interval_ns || (began && age_ns >= PROBE_AGAIN_NS);
}

static void begin_measuring(struct throttle *t)
{
    t->probe = THROTTLE_PROBE_MEASURE;
    t->measured_count = 0;
    t->measured_permille = 0;
    t->measured_others = 0;
}

static void measure(struct throttle *t, unsigned permille, uint64_t others)
{
    t->measured_count++;
    t->measured_permille += permille;
    t->measured_others += others;
    if (t->measured_count < MEASURE_SAMPLES)
        return;
    t->probe = THROTTLE_PROBE_NONE;
    t->base_permille = t->waits_permille = t->measured_permille / MEASURE_SAMPLES;
    t->shared = t->measured_others / MEASURE_SAMPLES > OTHERS_QUIET_BYTES_PER_S;
}

/* True while a probe runs: the samples of this time say nothing about the rate. */
static bool probe_step(struct throttle *t, bool began, unsigned permille, uint64_t others,
                       uint64_t now_ns)
{
    switch (t->probe) {
    case THROTTLE_PROBE_NONE:
        if (!probe_due(t, began, now_ns))
            return false;
        t->probe = THROTTLE_PROBE_SETTLE;
        t->probe_ns = now_ns;
        break;
    case THROTTLE_PROBE_SETTLE:
        if (!t->last.own_busy)
            begin_measuring(t);
        else if (now_ns - t->probe_ns > SETTLE_MAX_NS)
            t->probe = THROTTLE_PROBE_NONE;
        break;
    case THROTTLE_PROBE_MEASURE:
        /* The floor may have let something through meanwhile. */
        if (t->last.own_busy)
            t->probe = THROTTLE_PROBE_SETTLE;
        else
            measure(t, permille, others);
        break;
    }
    return true;
}

/* ---- the rate ---- */

/* What is not used is not asked for: so a lower rate starts from what was really done. */
static uint64_t used_rate(const struct throttle *t)
{
    return MIN(t->rate_bytes_per_s, MAX(2 * t->taken_bytes_per_s, RATE_START));
}

static void raise_rate(struct throttle *t, uint64_t window_ns)
{
    uint64_t step_per_s = RATE_STEP + t->rate_bytes_per_s / 4;
    uint64_t step = (uint64_t)((unsigned __int128)step_per_s * window_ns / NSEC_PER_SEC);
    set_rate(t, used_rate(t) + step);
}

static void lower_rate(struct throttle *t, uint64_t now_ns)
{
    if (now_ns - t->lowered_ns < LOWER_PAUSE_NS)
        return;
    t->lowered_ns = now_ns;
    set_rate(t, MIN(t->rate_bytes_per_s, t->taken_bytes_per_s) / 2);
}

static void adjust(struct throttle *t, unsigned permille, uint64_t window_ns, uint64_t now_ns)
{
    t->waits_permille = (2 * t->waits_permille + permille) / 3;
    if (!contended(t))
        set_rate(t, 2 * used_rate(t));
    else if (!t->last.has_waits || t->base_permille >= CROWDED_PERMILLE)
        set_rate(t, RATE_CROWDED);
    else if (t->waits_permille > t->base_permille + EXCESS_PERMILLE)
        lower_rate(t, now_ns);
    else
        raise_rate(t, window_ns);
}

void throttle_feed(struct throttle *t, const struct throttle_sample *sample, uint64_t now_ns)
{
    uint64_t window_ns = now_ns - t->fed_ns;
    if (!t->fed || now_ns <= t->fed_ns || !grew(&t->last, sample)) {
        t->fed = true;
        t->fed_ns = now_ns;
        t->last = *sample;
        t->window_taken_bytes = 0;
        return;
    }
    if (window_ns < SAMPLE_MIN_NS)
        return;

    bool was_seen = others_seen(t, now_ns);
    unsigned permille = waits_permille(t, sample, window_ns);
    uint64_t others = look_at_disk(t, sample, window_ns, now_ns);
    t->taken_bytes_per_s =
        (t->taken_bytes_per_s + per_second(t->window_taken_bytes, window_ns)) / 2;
    t->window_taken_bytes = 0;
    t->last = *sample;
    t->fed_ns = now_ns;
    bool began = !was_seen && others_seen(t, now_ns);
    if (!probe_step(t, began, permille, others, now_ns))
        adjust(t, permille, window_ns, now_ns);
}

static bool held_back(const struct throttle *t, bool demand_in_flight, uint64_t now_ns)
{
    return demand_in_flight || t->probe != THROTTLE_PROBE_NONE ||
           (t->idle && throttle_busy(t, now_ns));
}

uint64_t throttle_take(struct throttle *t, uint64_t bytes, bool demand_in_flight, uint64_t now_ns)
{
    uint64_t wait_ns = token_bucket_take(&t->bucket, 0, now_ns);
    if (now_ns < t->floor_free_ns) {
        if (held_back(t, demand_in_flight, now_ns))
            return MIN(t->floor_free_ns - now_ns, HOLD_NS);
        if (wait_ns > 0)
            return MIN(MIN(wait_ns, t->floor_free_ns - now_ns), WAIT_MAX_NS);
    } else if (wait_ns > 0 && t->limit_bytes_per_s > 0) {
        return MIN(wait_ns, WAIT_MAX_NS);
    }
    unsigned __int128 floor_ns = (unsigned __int128)bytes * NSEC_PER_SEC / floor_rate(t);
    t->floor_free_ns = now_ns + (uint64_t)MIN(floor_ns, (unsigned __int128)(UINT64_MAX - now_ns));
    IGNORE_RESULT(token_bucket_take(&t->bucket, bytes, now_ns));
    t->window_taken_bytes += bytes;
    return 0;
}
