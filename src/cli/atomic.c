/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/atomic.h"

#include <string.h>

#include "basic/error.h"
#include "basic/text.h"

const char *atomic_describe(enum treetx_outcome outcome)
{
    switch (outcome) {
    case TREETX_NOTHING: return NULL;
    case TREETX_STAGE_REMOVED:
        return "an atomic change was being prepared, which is removed: nothing had been changed";
    case TREETX_ROLLED_BACK:
        return "an interrupted atomic change is taken back: all is as before it";
    case TREETX_COMPLETED: return "an interrupted atomic change is complete";
    }
    return NULL;
}

static int say(const char *target, int r, enum treetx_outcome outcome, void *userdata)
{
    const bool *quiet = userdata;
    CLEANUP_FREE char *shown = text_escape(target, strlen(target));

    if (r < 0)
        talk("'%s': an interrupted atomic change cannot be ended: %s", shown ? shown : "?",
             error_text(r));
    else if (!*quiet)
        talk("'%s': %s", shown ? shown : "?", atomic_describe(outcome));
    return 0;
}

void atomic_recover_noted(const struct cli *cli)
{
    bool quiet = cli->quiet;

    int r = treetx_recover_all(say, &quiet);
    if (r < 0)
        talk("cannot look for interrupted atomic changes: %s", error_text(r));
}
