/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What systemd is told about restores that have not ended: drop-ins that put the gate of each
 * before the mounts of its volume.  docs/decisions/006-after-a-reboot.md says why.
 */
#pragma once

#include "restore/instant-note.h"

struct boot_mount {
    char *device; /* as in fstab: "/dev/...", "UUID=..." */
    char *dir;
    bool is_network, is_checked; /* option _netdev; a file system check comes first */
};
DEFINE_VECTOR(boot_mount_vector, struct boot_mount);
void boot_mount_vector_release_all(struct boot_mount_vector *v);

/* A file like fstab(5); one that is not there has no lines. */
_must_check_ int boot_mounts_read(const char *path, struct boot_mount_vector *ret_mounts);

/* The unit of a path, as systemd-escape(1) --path has it, with its ".mount", ".device", ...;
 * malloc'ed, NULL without memory. */
char *boot_unit_name(const char *path, const char *suffix);
/* The path that udev gives what fstab names: malloc'ed; NULL: it is no device, or no memory. */
char *boot_device_path(const char *device);

/* Writes the drop-ins for a note into a directory of units. */
_must_check_ int boot_units_write(const char *dir, const struct instant_note *note,
                                  const struct boot_mount_vector *mounts);
/* For one that cannot be read.  Nobody knows of which volume it is, so its service, which says what
 * the matter is, has to come before all of local-fs.target. */
_must_check_ int boot_units_write_unreadable(const char *dir, uint64_t restore_id);
