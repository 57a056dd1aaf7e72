/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands in the target besides placeholders: directories, and all that has no data.
 *
 * Nothing marks it as ours, so it is noted while placeholders are made, for the case that this
 * fails: the target was empty, and shall be so again for the next attempt.  What somebody else has
 * put there is not noted, and keeps its directories.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "basic/log.h"
#include "basic/text.h"
#include "restore/hydrator-private.h"
#include "tree/beneath.h"

void hydrator_note_made(char action, const char *path, void *userdata)
{
    struct hydrator *h = userdata;

    /* An earlier life of this restore has made what is found. */
    if (action == 'p' || strcmp(path, ".") == 0 || strcmp(path, "lost+found") == 0)
        return;
    if (string_vector_add(&h->made, path) < 0)
        log_warning("no memory to note '%s': it stays if the restore cannot begin", path);
}

void hydrator_forget_made(struct hydrator *h)
{
    string_vector_release_all(&h->made);
}

/* What is below a directory comes before it. */
static int compare_backwards(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*y, *x);
}

/* Directories only when they are empty. */
static int remove_path(struct hydrator *h, char *path)
{
    CLEANUP_CLOSE int dir_fd = -EBADF;
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    struct stat st;

    if (slash)
        *slash = '\0';
    int r = beneath_open_dir(h->tree_fd, slash ? path : "", &dir_fd);
    if (r < 0)
        return r;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return unlinkat(dir_fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
}

void hydrator_remove_made(struct hydrator *h)
{
    struct string_vector *made = &h->made;

    if (made->count > 1)
        qsort(made->items, made->count, sizeof(*made->items), compare_backwards);
    for (size_t i = 0; i < made->count; i++) {
        int r = remove_path(h, made->items[i]);
        if (r < 0 && r != -ENOENT)
            log_warning("cannot take something back from '%s': %s", h->config.target,
                        error_describe(r));
    }
    hydrator_forget_made(h);
}

int hydrator_tell_space(const struct hydrator *h, const struct error_report *why)
{
    const struct instant_config *c = &h->config;
    bool whole = h->backup && !c->subpath && c->includes.count == 0 && c->excludes.count == 0;
    char size[16], room[16];
    struct statvfs fs;

    if (error_class(why->code) != ENOSPC || fstatvfs(h->tree_fd, &fs) < 0)
        return error_raise(why);
    return error_note(why->code, "%s; the files to be restored have %s%s, and %s are free",
                      why->text, whole ? "" : "more than ",
                      text_format_bytes(whole ? h->backup->stats.size_bytes : h->bytes_total, size),
                      text_format_bytes((uint64_t)fs.f_bavail * fs.f_frsize, room));
}
