/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between backup-object.c and backup-body.c. */
#pragma once

#include "repo/backup-object.h"

/* Appends the plain body.  -UMBRA_E_LIMIT when a reader would refuse it. */
_must_check_ int backup_encode(const struct backup *backup, const struct pack_table *names,
                               struct buffer *body);
