/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a running daemon is talked to: a socket NAME.sock for each, in a directory that only its
 * user can enter.  A connection is one request and one response, each a line (of JSON, as a rule).
 */
#pragma once

#include "basic/cleanup.h"
#include "basic/string-vector.h"

#define CONTROL_NAME_MAX 64u /* bytes, without the suffix */
#define CONTROL_SUFFIX   ".sock"

/* The names (without suffix, sorted) of those who listen in dir; a directory that is not there has
 * none.  Sockets of the dead are removed. */
_must_check_ int control_list(const char *dir, struct string_vector *ret_names);
/* Connects, sends, waits at most timeout_ms.  -ECONNREFUSED/-ENOENT: nobody there; -ECONNRESET: it
 * ended before it answered; -ETIMEDOUT.  The response (malloc'ed) is without its newline. */
_must_check_ int control_ask(const char *socket_path, const char *request, int timeout_ms,
                             char **ret_response);

/* The other side: a thread that listens, and calls back for each request (one at a time; without
 * its newline, with a NUL behind it).  The answer is malloc'ed by the callback; when it fails, the
 * answer is made of error_text(): {"ok": false, "error": text}.  A client that says nothing for
 * some seconds is dropped, and so is one that is neither root nor our own user. */
struct control_server;
typedef int (*control_fn)(const char *request, size_t len, char **ret_response, void *userdata);
/* Makes dir, and the directory above it, when they are not there.  -EADDRINUSE: somebody listens
 * under that name. */
_must_check_ int control_server_start(const char *dir, const char *name, control_fn fn,
                                      void *userdata, struct control_server **ret_server);
/* Removes the socket; NULL is fine.  No callback runs after it has returned. */
void control_server_stop(struct control_server *server);
DEFINE_CLEANUP_PTR(struct control_server *, control_server_stop);
