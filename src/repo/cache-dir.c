/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "repo/cache-dir.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"

/* Empty when there is no place: no home directory. */
static char *default_root(void)
{
    const char *value = getenv("UMBRA_CACHE_DIR");
    char *root = NULL;

    if (value)
        return strdup(value);
    value = getenv("XDG_CACHE_HOME");
    if (value && value[0] == '/')
        return asprintf(&root, "%s/umbra", value) < 0 ? NULL : root;
    if (geteuid() == 0)
        return strdup("/var/cache/umbra");
    value = getenv("HOME");
    if (value && value[0] == '/')
        return asprintf(&root, "%s/.cache/umbra", value) < 0 ? NULL : root;
    return strdup("");
}

static int make_dirs(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int r = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        *slash = '/';
        if (r < 0)
            return r;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* What is read from the cache is checked against the repository's keys by its readers, but it is
 * mapped: nobody else may be able to cut a file short meanwhile. */
static int check_private(const char *path)
{
    struct stat st;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    return st.st_uid == geteuid() && (st.st_mode & 022) == 0 ? 0 : -EPERM;
}

int cache_dir_make(const char *cache_root, const uint8_t repo_id[REPO_ID_LEN], char **ret_path)
{
    CLEANUP_FREE char *root = cache_root ? strdup(cache_root) : default_root();
    CLEANUP_FREE char *path = NULL;
    char id[2 * REPO_ID_LEN + 1];

    if (!root)
        return error_note(-ENOMEM, "no memory for the cache directory");
    if (root[0] == '\0' || strcmp(root, "none") == 0) {
        *ret_path = NULL;
        return 0;
    }
    hex_encode(repo_id, REPO_ID_LEN, id);
    if (asprintf(&path, "%s/%s", root, id) < 0) {
        path = NULL;
        return error_note(-ENOMEM, "no memory for the cache directory");
    }
    int r = make_dirs(path);
    if (r == 0)
        r = check_private(path);
    if (r < 0)
        log_warning("no cache, which costs time: directory '%s': %s", path, error_describe(r));
    *ret_path = r < 0 ? NULL : TAKE_PTR(path);
    return 0;
}
