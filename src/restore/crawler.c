/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/crawler.h"

#include <stddef.h>

static bool is_quiet(const struct crawler *c, uint64_t now_ns)
{
    return c->heard_ns + CRAWLER_LEAVE_NS < now_ns;
}

/* The entry of that process; a free one, or the one that was heard of longest ago, becomes it. */
static struct crawler *find_process(struct crawler_table *table, int32_t process, uint64_t now_ns)
{
    struct crawler *oldest = &table->items[0];

    for (size_t i = 0; i < CRAWLER_PROCESSES; i++) {
        struct crawler *c = &table->items[i];
        if (c->process == process && !is_quiet(c, now_ns))
            return c;
        if (c->process == process)
            c->heard_ns = 0;
        if (c->heard_ns < oldest->heard_ns)
            oldest = c;
    }
    *oldest = (struct crawler){.process = process};
    return oldest;
}

static void note_visit(struct crawler *c, uint64_t directory, uint64_t now_ns)
{
    struct crawler_visit *oldest = &c->visits[0];

    for (size_t i = 0; i < CRAWLER_DIRECTORIES; i++) {
        struct crawler_visit *visit = &c->visits[i];
        if (visit->ns != 0 && visit->directory == directory) {
            visit->ns = now_ns;
            return;
        }
        if (visit->ns < oldest->ns)
            oldest = visit;
    }
    *oldest = (struct crawler_visit){.directory = directory, .ns = now_ns};
}

static unsigned visits_within(const struct crawler *c, uint64_t window_ns, uint64_t now_ns)
{
    unsigned count = 0;

    for (size_t i = 0; i < CRAWLER_DIRECTORIES; i++)
        count += c->visits[i].ns != 0 && c->visits[i].ns + window_ns >= now_ns;
    return count;
}

struct crawler *crawler_note(struct crawler_table *table, int32_t process, uint64_t directory,
                             uint64_t now_ns)
{
    struct crawler *c = find_process(table, process, now_ns);

    c->heard_ns = now_ns;
    note_visit(c, directory, now_ns);
    if (c->crawls)
        c->crawls = visits_within(c, CRAWLER_LEAVE_NS, now_ns) >= CRAWLER_LEAVES;
    else
        c->crawls = visits_within(c, CRAWLER_WINDOW_NS, now_ns) == CRAWLER_DIRECTORIES;
    return c;
}

unsigned crawler_count(const struct crawler_table *table, uint64_t now_ns)
{
    unsigned count = 0;

    for (size_t i = 0; i < CRAWLER_PROCESSES; i++)
        count += table->items[i].crawls && !is_quiet(&table->items[i], now_ns);
    return count;
}
