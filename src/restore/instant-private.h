/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What instant.h declares, with the places given by the caller; for tests. */
#pragma once

#include "restore/instant-note.h"
#include "restore/instant.h"

struct instant_programs {
    char *filterd, *hydrator; /* absolute */
};

_must_check_ int instant_start_programs(const struct instant_programs *programs,
                                        const struct instant_config *config, int held_fd,
                                        struct progress *progress,
                                        struct instant_report *ret_report);

_must_check_ int instant_list_in(const char *dir, struct instant_running_vector *ret_running);

_must_check_ int instant_note_write_in(const char *dir, const struct instant_config *config,
                                       const char *password_file);
_must_check_ int instant_note_hold_in(const char *dir, int *ret_fd);
_must_check_ int instant_note_drop_in(const char *dir, const char *socket_dir,
                                      const struct instant_note *note, enum instant_note_state seen,
                                      bool *ret_dropped);
_must_check_ int instant_note_remove_in(const char *dir, uint64_t restore_id);
_must_check_ int instant_note_read_in(const char *dir, uint64_t restore_id,
                                      struct instant_note *ret_note);
_must_check_ int instant_note_list_in(const char *dir, struct instant_note_vector *ret_notes,
                                      struct instant_id_vector *ret_unreadable);
