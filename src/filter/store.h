/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The descriptor store of systemd (sd_notify(3), FDSTORE): it keeps the group and the table of
 * requests while all processes of this service are dead, so that readers wait for the next start.
 * Without NOTIFY_SOCKET in the environment all of this does nothing.
 */
#pragma once

#include "basic/macro.h"

/* What the store has given back (LISTEN_FDS); -EBADF: it is not there.  Clears the environment. */
void store_take(int *ret_group, int *ret_table);

/* Opens the socket, as FD_NOTIFY, and takes NOTIFY_SOCKET out of the environment. */
_must_check_ int store_open(void);
/* Gives FD_GROUP and FD_TABLE to the store. */
void store_put(void);
/* The service is ready. */
void store_say_ready(void);
/* Takes both out of the store: it is over. */
void store_remove(void);
