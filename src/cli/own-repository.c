/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/own-repository.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/buffer.h"
#include "basic/error.h"

static bool is_below(const char *path, const char *above)
{
    size_t len = strcmp(above, "/") == 0 ? 0 : strlen(above);
    return strncmp(path, above, len) == 0 && path[len] == '/';
}

static bool same_file_system(const char *a, const char *b)
{
    struct stat x, y;
    return lstat(a, &x) == 0 && lstat(b, &y) == 0 && x.st_dev == y.st_dev;
}

/* Whether the rules leave it out already, or a directory on the way to it from the root. */
static bool is_excluded(const struct exclude_set *excludes, const char *path, const char *root)
{
    size_t len = strlen(path);
    for (size_t i = strcmp(root, "/") == 0 ? 1 : strlen(root) + 1; i <= len; i++)
        if ((path[i] == '/' || path[i] == '\0') &&
            exclude_set_match(excludes, path + 1, i - 1, true))
            return true;
    return false;
}

/* A pattern that matches this one directory. */
static char *make_pattern(const char *path)
{
    CLEANUP(buffer_release) struct buffer b = {0};
    for (const char *c = path; *c != '\0'; c++) {
        if (strchr("\\*?[", *c))
            buffer_put_u8(&b, '\\');
        buffer_put_u8(&b, (uint8_t)*c);
    }
    buffer_put(&b, "/", sizeof("/"));
    return buffer_finish(&b) < 0 ? NULL : (char *)TAKE_PTR(b.data);
}

static int leave_out(const struct cli *cli, const char *path, struct exclude_set *excludes,
                     struct string_vector *exclude_texts)
{
    CLEANUP_FREE char *pattern = make_pattern(path);
    if (!pattern)
        return -ENOMEM;
    int r = exclude_set_add(excludes, pattern, strlen(pattern), "the repository");
    if (r == 0)
        r = string_vector_add(exclude_texts, pattern);
    if (r == 0 && !cli->quiet)
        talk_path("leaving out", path, "it is the repository that this backup goes to");
    return r;
}

int own_repository_leave_out(const struct cli *cli, const struct repository *repo,
                             const struct string_vector *roots, bool one_file_system,
                             struct exclude_set *excludes, struct string_vector *exclude_texts)
{
    const char *path = repo->backend->local_path;
    for (size_t i = 0; path && i < roots->count; i++)
        if (strcmp(roots->items[i], path) == 0)
            return error_note(-UMBRA_E_USAGE, "'%s' is the repository that the backup would go to",
                              path);
    for (size_t i = 0; path && i < roots->count; i++) {
        const char *root = roots->items[i];
        if (is_below(path, root) && !is_excluded(excludes, path, root) &&
            (!one_file_system || same_file_system(path, root)))
            return leave_out(cli, path, excludes, exclude_texts);
    }
    return 0;
}
