/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What identities do not show: contents that have been written since, mounts inside. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "treetx/plan-private.h"

static int check_contents(struct plan *plan, const struct object *o)
{
    CLEANUP(seen_release) struct seen seen = {.path_fd = -EBADF};

    int r = look_live(plan, o->path, &seen);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r == 0 && ident_equal(&seen.ident, &o->ident) &&
        seen.stx.stx_ctime.tv_sec == o->ctime.tv_sec &&
        seen.stx.stx_ctime.tv_nsec == o->ctime.tv_nsec)
        return 0;
    return plan_error(-UMBRA_E_TREE_CHANGED, o->path, "has been changed by somebody else");
}

static int read_root_path(const struct plan *plan, char ret_path[PATH_MAX])
{
    char link[40];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", plan->actor.root_fd);
    ssize_t len = readlink(link, ret_path, PATH_MAX - 1);
    if (len < 0)
        return -errno;
    ret_path[len] = '\0';
    return 0;
}

/* \ooo for blanks and the like, in place. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] && from[2] && from[3]) {
            *to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* The fifth word of a line of mountinfo. */
static char *mount_point_of(char *line)
{
    for (unsigned i = 0; i < 4; i++) {
        line = strchr(line, ' ');
        if (!line)
            return NULL;
        line++;
    }
    line[strcspn(line, " \n")] = '\0';
    unescape(line);
    return line;
}

/* A directory that moves takes along what is mounted in it, and cannot be removed afterwards. */
static int check_mount(const struct plan *plan, const char *root, const char *mount_point)
{
    size_t len = strcmp(root, "/") == 0 ? 0 : strlen(root);

    if (strncmp(mount_point, root, len) != 0 || mount_point[len] != '/' || !mount_point[len + 1])
        return 0;
    const struct node *cover = node_cover(plan, mount_point + len + 1, true);
    return cover ? plan_error(-EBUSY, mount_point, "is mounted in something that shall go") : 0;
}

static int check_mounts(const struct plan *plan)
{
    char root[PATH_MAX];
    CLEANUP_FREE char *line = NULL;
    size_t size = 0;

    int r = read_root_path(plan, root);
    FILE *file = r < 0 ? NULL : fopen("/proc/self/mountinfo", "re");
    if (!file)
        return error_note_describe(r < 0 ? r : -errno, "cannot read what is mounted");
    while (r >= 0 && getline(&line, &size, file) >= 0) {
        const char *mount_point = mount_point_of(line);
        r = mount_point ? check_mount(plan, root, mount_point) : 0;
    }
    (void)fclose(file);
    return r;
}

int plan_check(struct plan *plan)
{
    int r = check_mounts(plan);

    for (size_t i = 0; r >= 0 && i < plan->objects.count; i++)
        if (plan->objects.items[i]->contents)
            r = check_contents(plan, plan->objects.items[i]);
    return r;
}
