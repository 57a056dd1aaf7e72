/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which entries of the backup are restored, and where they land.
 *
 * The base is the directory of the backup that becomes the target.  Patterns are matched against
 * the paths of the backup, not of the target.  A directory that matches an include brings all that
 * is below it; excludes win over includes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "restore/restore-private.h"

/* "//srv/./www/" becomes "srv/www". */
static int normalise(const char *path, char **ret_path)
{
    char *out = malloc(strlen(path) + 1);
    if (!out)
        return -ENOMEM;
    size_t len = 0;
    while (*path) {
        size_t n = strcspn(path, "/");
        bool skip = n == 0 || (n == 1 && path[0] == '.');
        if (n == 2 && path[0] == '.' && path[1] == '.') {
            free(out);
            return error_note(-EINVAL, "a path of a backup has no '..'");
        }
        if (!skip) {
            if (len > 0)
                out[len++] = '/';
            memcpy(out + len, path, n);
            len += n;
        }
        path += n;
        path += *path == '/';
    }
    out[len] = '\0';
    *ret_path = out;
    return 0;
}

int restore_find_base(const char *subpath, const struct string_vector *roots, char **ret_base)
{
    return normalise(subpath ? subpath : roots->count == 1 ? roots->items[0] : "", ret_base);
}

static int find_path(struct restore *restore, const char *path, struct entry *ret_entry)
{
    CLEANUP(buffer_release) struct buffer key = {0};

    key_put_path(&key, path, strlen(path));
    int r = buffer_finish(&key);
    if (r < 0)
        return r;
    return catalog_find(restore->store, &restore->backup->catalog, key.data, key.len, ret_entry);
}

int selection_find(struct restore *restore, const char *path, struct entry *ret_entry)
{
    int r = find_path(restore, path, ret_entry);
    if (r == -ENOENT)
        return error_note(
            -ENOENT, "backup %.12s has no '/%s'; paths are whole, as 'umbra ls %.12s' shows them",
            restore->backup->id, path, restore->backup->id);
    return r;
}

/* Cuts the last component off the base: it is the one thing that is restored. */
static int split_single(struct selection *s)
{
    char *slash = strrchr(s->base, '/');

    s->single = strdup(slash ? slash + 1 : s->base);
    if (!s->single)
        return -ENOMEM;
    *(slash ? slash : s->base) = '\0';
    return 0;
}

int selection_init(struct restore *restore)
{
    struct selection *s = &restore->selection;
    const struct restore_options *o = restore->options;
    const struct string_vector *roots = &restore->backup->roots;

    s->includes = o->includes;
    s->excludes = o->excludes;
    s->roots = roots;
    int r = restore_find_base(o->subpath, roots, &s->base);
    if (r < 0)
        return r;
    r = selection_find(restore, s->base, &s->base_entry);
    if (r == -ENOENT && s->base[0] == '\0')
        return 0; /* a backup may do without its root's own attributes */
    if (restore_error_is_damage(r) && !o->delete_extra) {
        restore_problem(restore, "",
                        "its own attributes are lost with a damaged page of the catalog: %s",
                        error_text(r));
        return 0;
    }
    if (r < 0)
        return r;
    s->base_found = true;
    return s->base_entry.type == ENTRY_DIRECTORY ? 0 : split_single(s);
}

void selection_release(struct selection *s)
{
    free(s->base);
    free(s->single);
    if (s->base_found)
        entry_release(&s->base_entry);
    *s = (struct selection){0};
}

static bool matches(const struct exclude_set *set, const char *path, size_t len, bool is_directory)
{
    return set && len > 0 && exclude_set_match(set, path, len, is_directory);
}

bool selection_includes_dir(const struct selection *s, const char *dir)
{
    if (!s->includes)
        return true;
    size_t len = strlen(dir);
    for (size_t i = 1; i <= len; i++) {
        if ((i == len || dir[i] == '/') && matches(s->includes, dir, i, true))
            return true;
    }
    return false;
}

enum wanted selection_wants(const struct selection *s, bool dir_included, const char *path,
                            size_t len, bool is_directory)
{
    if (matches(s->excludes, path, len, is_directory))
        return WANTED_NO;
    if (dir_included || matches(s->includes, path, len, is_directory))
        return WANTED_YES;
    return is_directory ? WANTED_WAY : WANTED_NO;
}

bool selection_is_way(const struct selection *s, const char *path)
{
    size_t len = strlen(path);

    for (size_t i = 0; i < s->roots->count; i++) {
        const char *root = s->roots->items[i];
        root += *root == '/';
        size_t root_len = strlen(root);
        if (root_len <= len && memcmp(path, root, root_len) == 0 &&
            (root_len == 0 || path[root_len] == '\0' || path[root_len] == '/'))
            return false;
    }
    return true;
}

const char *selection_target_path(const struct selection *s, const char *path)
{
    size_t len = strlen(s->base);

    path += len;
    return len > 0 && *path == '/' ? path + 1 : path;
}
