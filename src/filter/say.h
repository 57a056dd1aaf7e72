/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the words of a daemon go that opens no path: to the system log, by a socket. */
#pragma once

/* From now on log_message() sends to /dev/log, through FD_LOG; nowhere when nobody listens. */
void say_to_system_log(void);
