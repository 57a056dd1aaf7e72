/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "treetx/stage.h"
#include "treetx/treetx.h"

/* treetx_recover() for a stage that is open; it is there still when *ret_kept. */
_must_check_ int stage_recover(struct stage *stage, unsigned flags,
                               enum treetx_outcome *ret_outcome, bool *ret_kept);
