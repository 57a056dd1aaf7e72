/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A volume that nobody else can see yet. */
#pragma once

#include "basic/macro.h"

/*
 * Gives this thread, and the programs that it starts, a mount namespace of their own, and mounts
 * there what /etc/fstab has for the mount point; what is mounted already stays.  What others mount
 * later is seen here, too.
 */
_must_check_ int private_mount(const char *mount_point);
