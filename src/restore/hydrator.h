/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra-hydrated: the service half of an instant restore.  The essay is in hydrator.c. */
#pragma once

#include "restore/instant.h"

/* With the descriptors of filter/protocol.h.  Returns the exit status of the process: 0 when the
 * restore has ended and the filter was told so. */
int hydrator_main(void);
