/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra restore --instant and --resume. */
#pragma once

#include "cli/cli.h"

struct instant_wish {
    const char *target; /* NULL with --resume: all that this machine knows of */
    const struct option_list *includes, *excludes, *sources;
    const char *load_order, *record_order; /* files; NULL: none; with --resume: as before */
    bool numeric_owner, idle;
    uint64_t limit_bytes_per_s; /* 0: none; with --resume: as before */
    uint64_t deadline_s;        /* 0: the default; with --resume: as before */
};

/* word: "B[:PATH]".  Exit status, or a negative error. */
_must_check_ int instant_restore_run(const struct cli *cli, const struct instant_wish *wish,
                                     const char *word);
_must_check_ int instant_resume_run(const struct cli *cli, const struct instant_wish *wish);
/* As a boot does: mounts the volume of the restore where nobody else sees it, and goes on with it.
 * EXIT_DONE: now others may see it. */
_must_check_ int instant_resume_private_run(const struct cli *cli, const struct instant_wish *wish,
                                            const char *id);
