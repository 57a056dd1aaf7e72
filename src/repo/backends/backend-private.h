/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What backends share among themselves. */
#pragma once

#include "repo/backend.h"

/* An object's name: the characters of backend.h, no empty part, none that begins with a dot. */
bool backend_name_valid(const char *name);

/* path: the directory; url: for messages. */
_must_check_ int backend_local_open(const char *path, const char *url, bool create,
                                    struct backend **ret_backend);
