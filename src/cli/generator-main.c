/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra-generator: run by systemd before it loads its units; see systemd.generator(7) and
 * umbra-resume(8). */
#include <stdio.h>
#include <stdlib.h>

#include "basic/error.h"
#include "basic/log.h"
#include "cli/boot-units.h"

#define FSTAB "/etc/fstab"

static void tell(int r, int *outcome)
{
    if (r >= 0)
        return;
    log_error("%s", error_text(r));
    *outcome = -EIO;
}

/* One that fails does not keep the others from being safe. */
static int write_all(const char *dir)
{
    CLEANUP(boot_mount_vector_release_all) struct boot_mount_vector mounts = {0};
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector notes = {0};
    CLEANUP(instant_id_vector_release) struct instant_id_vector unreadable = {0};
    int outcome = 0;
    int r = instant_note_list_all(&notes, &unreadable);
    if (r < 0 || notes.count + unreadable.count == 0)
        return r;
    for (size_t i = 0; i < unreadable.count; i++)
        tell(boot_units_write_unreadable(dir, unreadable.items[i]), &outcome);
    r = boot_mounts_read(FSTAB, &mounts);
    if (r < 0) /* the mount points are enough to hold mounts back */
        log_error("%s", error_text(r));
    for (size_t i = 0; i < notes.count; i++)
        tell(boot_units_write(dir, &notes.items[i], &mounts), &outcome);
    return outcome;
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 4) {
        (void)fputs("usage: umbra-generator NORMAL-DIR [EARLY-DIR LATE-DIR]\n"
                    "systemd starts it; see umbra-resume(8)\n",
                    stderr);
        return 2;
    }
    return write_all(argv[1]) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
