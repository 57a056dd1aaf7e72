/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The records that a cow volume has in its log, in words; for `umbra log dump`. */
#pragma once

#include "umbra/log.h"

/* As struct umbra_log_manager has it; of any bytes. */
void cow_log_describe(const struct umbra_log_record *record, char *text, size_t size);
