/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What keeper and filter both know; each has its own copy, but for the table. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "basic/macro.h"
#include "filter/table.h"

struct filterd {
    struct table *table;
    uint64_t deadline_ns;         /* for one request */
    char **hydrator_argv;         /* NULL-terminated */
    char hydrator_path[PATH_MAX]; /* absolute */
    char oom_score_before[8];     /* for the hydrator: text, "" when unknown */
    struct rlimit fds_limit;      /* as it was before it was raised, for the hydrator */
};

/* What a process is.  Each role's function returns the one to go on with: in a process that has
 * just been cloned, that is the other role. */
enum role {
    ROLE_KEEPER,
    ROLE_FILTER,
    ROLE_NONE, /* over: exit with 0 */
};

enum role keeper_run(struct filterd *d);
enum role filter_run(struct filterd *d);
