/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/own-program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"

static int own_dir(char **ret_dir)
{
    char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (len < 0)
        return error_note_describe(-errno, "cannot read /proc/self/exe");
    path[len] = '\0';
    char *slash = strrchr(path, '/');
    *(slash ? slash : path) = '\0';
    char *dir = strdup(path);
    if (!dir)
        return -ENOMEM;
    *ret_dir = dir;
    return 0;
}

int own_program_find(const char *name, char **ret_path)
{
    CLEANUP_FREE char *dir = NULL;
    int r = own_dir(&dir);
    if (r < 0)
        return r;
    const char *const places[][2] = {{dir, ""}, {dir, "/src/filter"}, {UMBRA_LIBEXECDIR, ""}};
    for (size_t i = 0; i < ELEMENTSOF(places); i++) {
        CLEANUP_FREE char *path = NULL;
        if (asprintf(&path, "%s%s/%s", places[i][0], places[i][1], name) < 0) {
            path = NULL;
            return -ENOMEM;
        }
        if (access(path, X_OK) == 0) {
            *ret_path = TAKE_PTR(path);
            return 0;
        }
    }
    return error_note(-ENOENT, "cannot find the program '%s' in '%s' or '%s'", name, dir,
                      UMBRA_LIBEXECDIR);
}
