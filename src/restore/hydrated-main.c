/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* umbra-hydrated: started by umbra-filterd, never by hand. */
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "restore/hydrator.h"

int main(int argc, char **argv)
{
    if (argc > 1) {
        bool version = strcmp(argv[1], "--version") == 0;
        (void)fprintf(version ? stdout : stderr, "umbra-hydrated %s: %s\n", UMBRA_VERSION,
                      "started by umbra-filterd, see umbra-hydrated(8)");
        return version ? 0 : 2;
    }
    /* Whoever waited for the report may be gone. */
    (void)signal(SIGPIPE, SIG_IGN);
    /* It holds a passphrase. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || sodium_init() < 0)
        return 1;
    return hydrator_main();
}
