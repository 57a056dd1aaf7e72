/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What this machine knows of its instant restores when none of them runs.
 *
 * The target itself carries all that is needed to go on (INSTANT_XATTR).  A note in
 * INSTANT_NOTE_DIR says where targets are, so that `umbra restore --resume` and a boot find them;
 * and which sources and files root has named here, because a record on a file system that came from
 * elsewhere must not make us run commands, nor read or write files of this machine.  It is written
 * before the restore starts, and the restore removes it when it has taken the record off the
 * target.  Should it not get to that, whoever sees that the target has no record any more does.
 *
 * It lies in /etc because a generator of systemd reads it before anything but the root file system
 * is mounted (docs/decisions/006-after-a-reboot.md).
 */
#pragma once

#include "restore/instant.h"

#define INSTANT_NOTE_DIR   "/etc/umbra/restores"
#define FS_UUID_LEN_MAX    32u  /* hex digits */
#define DIR_HANDLE_LEN_MAX 264u /* the same: a type and at most MAX_HANDLE_SZ bytes */

struct instant_note {
    uint64_t restore_id;
    char *target;
    char *mount_point;   /* of the target's file system; NULL: not known */
    char *repo_url;      /* as in struct instant_config; NULL: not known */
    char *password_file; /* absolute: where the passphrase came from; NULL: from no file */
    char fs_uuid[FS_UUID_LEN_MAX + 1];           /* of the target's file system; "": it has none */
    char directory[DIR_HANDLE_LEN_MAX + 1];      /* the target, whatever its name; "": not known */
    char *cache_dir, *load_order, *record_order; /* as in struct instant_config */
    struct string_vector sources;
};
void instant_note_release(struct instant_note *note);

DEFINE_VECTOR(instant_note_vector, struct instant_note);
void instant_note_vector_release_all(struct instant_note_vector *v);

enum instant_note_state {
    INSTANT_NOTE_UNFINISHED, /* the target says the same */
    INSTANT_NOTE_STALE,      /* the target is there, and is not being restored by this one */
    INSTANT_NOTE_AWAY,       /* the target is not there */
    INSTANT_NOTE_REPLACED,   /* another directory has its name: the target may be anywhere */
    INSTANT_NOTE_ELSEWHERE,  /* in its place is a directory of another file system */
};

/* Durable on return; replaces an earlier note of the same restore.  password_file may be NULL. */
_must_check_ int instant_note_write(const struct instant_config *config, const char *password_file);
/* For who starts a restore, before the note is written and until it runs: as long as *ret_fd is
 * open, here or where it was handed to (instant_start), instant_note_drop() removes nothing.  Until
 * then the target has no record, and the note looks like that of a restore that has ended. */
_must_check_ int instant_note_hold(int *ret_fd);
/* For who has looked at the target, and seen that: removes the note when that is still so, and that
 * restore neither runs nor may just be starting.  *ret_dropped: it is gone. */
_must_check_ int instant_note_drop(const struct instant_note *note, enum instant_note_state seen,
                                   bool *ret_dropped);
/* For the restore itself.  One that is not there is fine. */
_must_check_ int instant_note_remove(uint64_t restore_id);
/* -ENOENT: there is none. */
_must_check_ int instant_note_read(uint64_t restore_id, struct instant_note *ret_note);
/* All, by id; those that cannot be read are warned of. */
_must_check_ int instant_note_list(struct instant_note_vector *ret_notes);
DEFINE_VECTOR(instant_id_vector, uint64_t);
/* The same, and the ids of those that cannot be read, in any order. */
_must_check_ int instant_note_list_all(struct instant_note_vector *ret_notes,
                                       struct instant_id_vector *ret_unreadable);
/* Looks at the target.  Negative when it cannot be told. */
_must_check_ int instant_note_look(const struct instant_note *note,
                                   enum instant_note_state *ret_state);

/* The record on a directory.  -ENODATA: it is not being restored (or we are not root). */
_must_check_ int instant_record_read(const char *target, struct instant_config *ret_config);
