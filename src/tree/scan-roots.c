/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The roots of a walk as a tree of path components.
 *
 * Roots below other roots stay in the tree, although the other root covers them: they say that a
 * mount point or an excluded directory on the way is to be entered all the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/scan-private.h"

/* ---- resolving ---- */

/* Whether path names a directory by its end ("/", "a/", "a/.", "a/.."), so that a link there is to
 * be followed. */
static bool ends_in_directory(const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    return *name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* The parent resolved, the last component as it is. */
static char *resolve_parent(const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    CLEANUP_FREE char *parent = strndup(path, (size_t)(name - path));
    if (!parent)
        return NULL;
    CLEANUP_FREE char *real = realpath(parent, NULL);
    if (!real)
        return NULL;
    size_t size = strlen(real) + strlen(name) + 2;
    char *joined = malloc(size);
    if (joined)
        (void)snprintf(joined, size, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name);
    return joined;
}

static int resolve(const char *path, char **ret_path)
{
    if (path[0] != '/')
        return error_note(-EINVAL, "'%s' is no absolute path", path);
    CLEANUP_FREE char *real = ends_in_directory(path) ? realpath(path, NULL) : resolve_parent(path);
    struct stat st;
    if (!real || lstat(real, &st) < 0)
        return error_note_describe(-errno, "cannot back up '%s'", path);
    *ret_path = TAKE_PTR(real);
    return 0;
}

/* Takes empty and "." components out of an absolute path, in place. */
static void collapse(char *path)
{
    char *out = path;
    for (const char *name = path; *name != '\0';) {
        name += strspn(name, "/");
        size_t len = strcspn(name, "/");
        if (len > 0 && !(len == 1 && *name == '.')) {
            *out++ = '/';
            memmove(out, name, len);
            out += len;
        }
        name += len;
    }
    *out = '\0';
}

/* What an absolute path would be: its longest part that is there resolved, the rest as it is. */
static int resolve_missing(const char *path, char **ret_path)
{
    CLEANUP_FREE char *real = NULL;
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    size_t front_len = len;
    while (!real && front_len > 0) {
        front_len -= path[front_len - 1] == '/';
        while (front_len > 0 && path[front_len - 1] != '/')
            front_len--;
        CLEANUP_FREE char *front = strndup(path, front_len);
        if (!front)
            return -ENOMEM;
        real = realpath(front, NULL);
    }
    const char *base = real && strcmp(real, "/") != 0 ? real : "";
    if (asprintf(ret_path, "%s/%.*s", base, (int)(len - front_len), path + front_len) < 0)
        return -ENOMEM;
    collapse(*ret_path);
    return 0;
}

/* Component by component, so that what is below a path directly follows it. */
static int compare_paths(const void *a, const void *b)
{
    const unsigned char *x = *(const unsigned char *const *)a;
    const unsigned char *y = *(const unsigned char *const *)b;
    while (*x == *y && *x != '\0') {
        x++;
        y++;
    }
    int rank_x = *x == '/' ? 1 : *x == '\0' ? 0 : *x + 1;
    int rank_y = *y == '/' ? 1 : *y == '\0' ? 0 : *y + 1;
    return (rank_x > rank_y) - (rank_x < rank_y);
}

static bool is_below(const char *path, const char *above)
{
    size_t len = strcmp(above, "/") == 0 ? 0 : strlen(above);
    return strncmp(path, above, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* ---- the tree ---- */

static int tree_add_child(struct scan_root_vector *tree, uint32_t parent, uint32_t last,
                          const char *name, uint32_t len)
{
    struct scan_root root = {.name = name, .name_len = len};
    if (tree->count >= UINT32_MAX)
        return -UMBRA_E_LIMIT;
    int r = scan_root_vector_push(tree, &root);
    if (r < 0)
        return r;
    uint32_t number = (uint32_t)tree->count - 1;
    if (last != 0)
        tree->items[last].next_sibling = number;
    else
        tree->items[parent].first_child = number;
    return 0;
}

/* The paths come sorted, so a component that is there already is the last one of its parent, and
 * last[depth] has its number. */
static int tree_add(struct scan_root_vector *tree, const char *path, uint32_t *last)
{
    uint32_t at = 0;
    size_t depth = 0;
    for (const char *name = path + 1; *name != '\0'; depth++) {
        uint32_t len = (uint32_t)strcspn(name, "/");
        uint32_t known = last[depth];
        const struct scan_root *root = &tree->items[known];
        if (known == 0 || root->name_len != len || memcmp(root->name, name, len) != 0) {
            int r = tree_add_child(tree, at, known, name, len);
            if (r < 0)
                return r;
            last[depth] = (uint32_t)tree->count - 1;
            last[depth + 1] = 0;
        }
        at = last[depth];
        name += len;
        name += *name == '/';
    }
    tree->items[at].is_root = true;
    return 0;
}

static bool is_missing(const struct scan_roots *roots, const char *path)
{
    for (size_t i = 0; i < roots->missing.count; i++)
        if (roots->missing.items[i] == path)
            return true;
    return false;
}

static int build_tree(struct scan_roots *roots)
{
    struct scan_root top = {.name = ""};
    int r = scan_root_vector_push(&roots->tree, &top);
    if (r < 0)
        return r;
    CLEANUP_FREE uint32_t *last = calloc(PATH_MAX, sizeof(*last));
    if (!last)
        return -ENOMEM;
    for (size_t i = 0; r >= 0 && i < roots->paths.count; i++)
        r = is_missing(roots, roots->paths.items[i])
                ? 0
                : tree_add(&roots->tree, roots->paths.items[i], last);
    return r;
}

static int list_paths(struct scan_roots *roots)
{
    for (size_t i = 0; i < roots->paths.count; i++) {
        char *path = roots->paths.items[i];
        size_t count = roots->listed.count;
        if (count > 0 && is_below(path, roots->listed.items[count - 1]))
            continue;
        int r = scan_path_vector_push(&roots->listed, &path);
        if (r < 0)
            return r;
    }
    return 0;
}

static int add_missing(struct scan_roots *roots, const char *path)
{
    char *resolved = NULL;
    int r = scan_path_vector_reserve(&roots->missing, 1);
    if (r >= 0)
        r = resolve_missing(path, &resolved);
    if (r < 0)
        return r;
    roots->missing.items[roots->missing.count++] = resolved;
    roots->paths.items[roots->paths.count++] = resolved;
    return 0;
}

/* *first_error: why the first root that is missing is. */
static int add_path(struct scan_roots *roots, const char *path, const struct scan_options *options,
                    struct error_report *first_error)
{
    int r = scan_path_vector_reserve(&roots->paths, 1);
    if (r < 0)
        return r;
    r = resolve(path, &roots->paths.items[roots->paths.count]);
    if (r >= 0) {
        roots->paths.count++;
        return 0;
    }
    if (!options->missing || r == -ENOMEM || r == -EINVAL)
        return r;
    error_save(first_error, r);
    int e = add_missing(roots, path);
    if (e >= 0)
        options->missing(roots->missing.items[roots->missing.count - 1], r, options->userdata);
    return e;
}

int scan_roots_init(struct scan_roots *roots, const char *const *paths, size_t count,
                    const struct scan_options *options)
{
    struct error_report first_error = {0};
    for (size_t i = 0; i < count; i++) {
        int r = add_path(roots, paths[i], options, &first_error);
        if (r < 0)
            return r;
    }
    if (count > 0 && roots->missing.count == count)
        return error_raise(&first_error);
    if (roots->paths.count > 1)
        qsort(roots->paths.items, roots->paths.count, sizeof(char *), compare_paths);
    int r = build_tree(roots);
    return r < 0 ? r : list_paths(roots);
}

void scan_roots_release(struct scan_roots *roots)
{
    for (size_t i = 0; i < roots->paths.count; i++)
        free(roots->paths.items[i]);
    scan_path_vector_release(&roots->paths);
    scan_path_vector_release(&roots->missing);
    scan_path_vector_release(&roots->listed);
    scan_root_vector_release(&roots->tree);
}

static const struct scan_root *root_number(const struct scan_roots *roots, uint32_t number)
{
    return number == 0 ? NULL : &roots->tree.items[number];
}

const struct scan_root *scan_roots_first(const struct scan_roots *roots,
                                         const struct scan_root *parent)
{
    return parent ? root_number(roots, parent->first_child) : NULL;
}

const struct scan_root *scan_roots_next(const struct scan_roots *roots,
                                        const struct scan_root *root)
{
    return root_number(roots, root->next_sibling);
}

const struct scan_root *scan_roots_find(const struct scan_roots *roots,
                                        const struct scan_root *parent, const char *name,
                                        size_t len)
{
    const struct scan_root *root = scan_roots_first(roots, parent);
    while (root && (root->name_len != len || memcmp(root->name, name, len) != 0))
        root = scan_roots_next(roots, root);
    return root;
}
