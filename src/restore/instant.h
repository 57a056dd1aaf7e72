/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instant restore, as its users see it: what a restore is told (instant-config.c), how one is
 * started (instant-start.c), and how a running one is asked and told things.
 *
 * A restore is two daemons: umbra-filterd, which holds readers back, and umbra-hydrated, which
 * fills in what they wait for.  The essay is in hydrator.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/progress.h"
#include "basic/vector.h"
#include "filter/protocol.h"
#include "repo/backup-object.h"

#define INSTANT_DEADLINE_S_DEFAULT 120u
#define INSTANT_DEADLINE_S_MAX     86400u
#define INSTANT_WHOLE_FILE_MAX_DEFAULT \
    (16u << 20) /* bytes; smaller files are filled when they are opened */
#define INSTANT_LIMIT_MAX  (UINT64_C(1) << 50) /* bytes a second */
#define INSTANT_RATE_FLOOR (1u << 20)          /* bytes a second that the background always gets */

/* What the target directory carries, as JSON without the passphrase, from before the first
 * placeholder is made until the last one is complete: enough to go on after a reboot. */
#define INSTANT_XATTR FILTER_RECORD_XATTR

enum instant_phase {
    INSTANT_PLACING,   /* placeholders are being made */
    INSTANT_FILLING,   /* they all stand */
    INSTANT_CANCELLED, /* what nobody used is being removed */
    INSTANT_PHASE_MAX,
};

struct instant_config {
    uint64_t restore_id; /* random, not 0 */
    enum instant_phase phase;
    char *repo_url;
    char *cache_dir; /* NULL: the default; "": none */
    char *backup_id; /* whole */
    char *subpath;   /* as in struct restore_options; NULL: everything */
    char *target;    /* absolute */
    /* What was found to restore, in its order, as a digest in hex, from INSTANT_FILLING on; NULL:
     * not known.  A placeholder only has its place in that order. */
    char *digest;
    struct string_vector includes, excludes; /* patterns */
    /* Tried in this order: "repo" (first, unless it is named), "dir:PATH", "exec:COMMAND". */
    struct string_vector sources;
    struct string_vector
        hole_seekers; /* names of programs (comm) that get whole files; empty: the default list */
    bool numeric_owner;
    bool idle;                  /* background only when the disk is otherwise idle */
    uint64_t limit_bytes_per_s; /* of the background; 0: none */
    uint64_t whole_file_max;    /* bytes */
    uint32_t deadline_s;
    /* Files on this machine, absolute; NULL: none.  See load-order.h. */
    char *load_order;   /* which files the background fills first; may have gone meanwhile */
    char *record_order; /* where it is noted which files were asked for */
    /* Only in the memfd that the daemons get, never on disk; NULL else.  Any bytes. */
    uint8_t *passphrase; /* sodium_malloc'ed */
    uint32_t passphrase_len;
};

#define INSTANT_ID_LEN 16u /* hex digits of a restore id */
void instant_id_format(uint64_t restore_id, char text[INSTANT_ID_LEN + 1]);
#define INSTANT_DIGEST_LEN 32u /* hex digits of a digest */
/* -EINVAL; 0 is no id. */
_must_check_ int instant_id_parse(const char *text, uint64_t *ret_restore_id);
/* Whether it is of a kind that is known: "repo", "dir:" and an absolute path, "exec:" and a
 * command.
 */
bool instant_source_valid(const char *source);

/* Wipes the passphrase. */
void instant_config_release(struct instant_config *config);
/* malloc'ed text on one line; the passphrase (base64) only when with_passphrase, and then the
 * caller wipes the text. */
_must_check_ int instant_config_to_json(const struct instant_config *config, bool with_passphrase,
                                        char **ret_text);
/* -UMBRA_E_CORRUPT with a note that names the member; -UMBRA_E_VERSION. */
_must_check_ int instant_config_from_json(const char *text, size_t len,
                                          struct instant_config *ret_config);

/* What the hydrator reports once, as one line of JSON: {"ready": true, "files": N, "directories":
 * N, "bytes": N, "problems": N, "seconds": S} when all placeholders stand, or {"error": "text",
 * "exit": 1}. */
struct instant_report {
    uint64_t file_count, directory_count, size_bytes, problem_count;
    double seconds;
};

/*
 * Starts the daemons (found beside /proc/self/exe, or in the libexec directory) and waits for their
 * report, as long as one of them lives.  The target must be there.  An error has the daemons' own
 * words.  -UMBRA_E_CANCELLED when progress (may be NULL) was cancelled: the restore goes on.  The
 * daemons, too, keep held_fd (negative: none) open, until the gate stands.
 */
_must_check_ int instant_start(const struct instant_config *config, int held_fd,
                               struct progress *progress, struct instant_report *ret_report);

/* ---- a running restore ---- */

/* One request, one response, both a line of JSON, over the socket INSTANT_SOCKET_DIR/HEX16.sock
 * (control.h). Requests: {"do": "status"}, "pause", "resume", "cancel", {"do": "hydrate", "paths":
 * ["below/the/target", ...]}, {"do": "pending", "paths": [...]} (how many "files" there are not
 * complete, and of those "files_failed"), {"do": "limit", "bytes_per_s": N}.  Every response has
 * "ok", and "error" when that is false. */
#define INSTANT_SOCKET_DIR "/run/umbra/restores"

/* Running restores, by their sockets. */
struct instant_running {
    uint64_t restore_id;
    char *socket_path;
};
DEFINE_VECTOR(instant_running_vector, struct instant_running);
void instant_running_vector_release_all(struct instant_running_vector *v);
_must_check_ int instant_list(struct instant_running_vector *ret_running);

/*
 * The response to "status" (numbers unless said otherwise):
 *   "restore" (hex string), "target", "backup", "phase" ("placing", "filling", "cancelling",
 * "waiting for the repository"), "paused" (bool), "degraded" (string, "" when all is well: why
 * something is not as it should be, e.g. "repository cannot be reached: ..."), "files_total",
 * "files_done", "files_queued", "files_failed" (of those, what could not be looked at included),
 * "bytes_total", "bytes_done", "demand_requests", "demand_waiting", "demand_bytes", "crawlers"
 * (processes that go through the tree), "demand_p50_us", "demand_p99_us", "rate_bytes_per_s",
 * "limit_bytes_per_s", "eta_s" (-1 unknown), "elapsed_s", "order_files" (of the load order, that
 * come first), "order_ignored" (lines of it), "sources": [{"source": spec, "bytes": given,
 * "failures": chunks}], "problems": [{"path": ...,
 * "what": ...}, at most 100]
 */
