/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes go through a tree: grep -r, a scanner, a backup.  One that asks for files in many
 * directories in a short time is a crawler, until it has kept to few for a while.
 *
 * Nothing here does I/O, has a clock or a lock: the owner calls under a lock of its own.  Times are
 * of any monotonic clock, in nanoseconds.  Few processes are known at a time, those that were heard
 * of last; who is forgotten is an ordinary one again.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/macro.h"

#define CRAWLER_DIRECTORIES 32u                /* so many different ones, within */
#define CRAWLER_WINDOW_NS   (2 * NSEC_PER_SEC) /* this time */
#define CRAWLER_LEAVES      8u                 /* fewer than these, within */
#define CRAWLER_LEAVE_NS    (10 * NSEC_PER_SEC)
#define CRAWLER_PROCESSES   64u

struct crawler_visit {
    uint64_t directory, ns;
};

struct crawler {
    int32_t process; /* 0: free */
    bool crawls;
    uint64_t heard_ns;
    struct crawler_visit visits[CRAWLER_DIRECTORIES]; /* different ones; those of time 0 are free */
    /* What is likely to be asked for next, by ordinal; the owner's. */
    uint64_t next, end, distance;
};

struct crawler_table {
    struct crawler items[CRAWLER_PROCESSES];
};

/* The process asks for a file in that directory.  process and now_ns are not 0. */
struct crawler *crawler_note(struct crawler_table *table, int32_t process, uint64_t directory,
                             uint64_t now_ns);
/* How many crawl. */
unsigned crawler_count(const struct crawler_table *table, uint64_t now_ns);
