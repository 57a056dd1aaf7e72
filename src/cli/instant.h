/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running instant restores, as the verbs that talk to them see them. */
#pragma once

#include "cli/cli.h"
#include "restore/instant.h"

/* The response to "status"; see instant.h. */
struct instant_status {
    char *restore, *target, *backup, *phase, *degraded;
    bool paused;
    uint64_t files_total, files_done, files_queued, files_failed;
    uint64_t bytes_total, bytes_done;
    uint64_t demand_requests, demand_waiting, demand_bytes, demand_p50_us, demand_p99_us;
    uint64_t crawlers;
    uint64_t order_files, order_ignored;
    uint64_t rate_bytes_per_s, limit_bytes_per_s;
    bool eta_known;
    uint64_t eta_s;
    double elapsed_s;
    uint64_t problem_count;
};
void instant_status_release(struct instant_status *status);
_must_check_ int instant_status_parse(struct json_object *response,
                                      struct instant_status *ret_status);

/* -EPERM with words for those who are not root. */
_must_check_ int instant_need_root(void);

struct instant_choice {
    uint64_t restore_id; /* 0: none is running, and none is interrupted */
    char *socket_path;
};
void instant_choice_release(struct instant_choice *choice);

/*
 * The running restore that is meant: the one of the target, or the only one there is.  -ENODATA:
 * the target is not being restored; -ESRCH: none is running; -ENOTCONN: it was interrupted;
 * -UMBRA_E_USAGE: there are several.
 */
_must_check_ int instant_choose(const char *target, struct instant_choice *ret_choice);

/* For an ordinary restore: -EBUSY, with words, when the target is being restored instantly, or that
 * was interrupted.  A target that is not there is fine. */
_must_check_ int instant_check_none(const char *target);

/* One that cannot be told does not run. */
bool instant_is_running(uint64_t restore_id);

/* Makes a request {"do": verb}. */
struct json_object *instant_request(const char *verb);
/* Sends it; a response that is not "ok" is an error with its words. */
_must_check_ int instant_send(const char *socket_path, struct json_object *request,
                              struct json_object **ret_response);
/* Both in one, for requests without more. */
_must_check_ int instant_do(const char *socket_path, const char *verb,
                            struct json_object **ret_response);
/* Whether the error says that there is nobody (any more) to answer. */
bool instant_is_gone(int r);

/* A second, less if the program is interrupted. */
void instant_pause(const struct cli *cli, unsigned tenths);
