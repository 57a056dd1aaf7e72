/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/attributes.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/catalog.h"

/* What cannot be read is not changed either: meta_apply_fd() leaves such xattrs alone. */
static void cannot_read(const char *what, int r, void *userdata)
{
    (void)what;
    (void)r;
    (void)userdata;
}

int reopen(int path_fd, int flags, int *ret_fd)
{
    char link[40];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
    int fd = open(link, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static bool is_opened(enum entry_type type)
{
    return type == ENTRY_REGULAR || type == ENTRY_DIRECTORY;
}

int attributes_capture(int path_fd, const struct statx *stx, struct entry *ret_entry)
{
    CLEANUP(entry_release) struct entry e = {0};
    CLEANUP_CLOSE int fd = -EBADF;
    int r = 0;

    meta_from_statx(stx, &e);
    if (is_opened(e.type))
        r = reopen(path_fd, O_RDONLY, &fd);
    if (r < 0)
        return r;
    if (fd >= 0)
        r = meta_capture_fd(fd, &e, cannot_read, NULL);
    else
        r = meta_capture_path_fd(path_fd, &e, cannot_read, NULL);
    if (r < 0)
        return r;
    *ret_entry = e;
    e = (struct entry){0};
    return 0;
}

int attributes_put(struct buffer *b, const struct entry *e, const struct owner_map *owners)
{
    CLEANUP(entry_release) struct entry copy = {0};
    struct entry bare = *e;

    /* Neither name nor contents. */
    bare.key_len = 0;
    bare.size = bare.inode = 0;
    bare.content_level = 0;
    bare.extents = bare.content_refs = (struct extent_vector){0};
    int r = entry_copy(&bare, &copy);
    if (r < 0)
        return r;
    meta_map_owners(&copy, owners);
    const struct entry *entries[] = {&copy};
    return catalog_run_encode(entries, 1, NULL, b);
}

int attributes_decode(const void *data, size_t len, struct entry *ret_entry)
{
    CLEANUP(catalog_run_freep) struct catalog_run *run = NULL;
    CLEANUP(pack_table_freep) struct pack_table *names = NULL;
    struct entry *e;

    int r = pack_table_new(&names);
    if (r >= 0)
        r = catalog_run_open(data, len, names, &run);
    if (r >= 0)
        r = catalog_run_next(run, &e);
    if (r < 0)
        return r;
    if (!e || e->key_len > 0)
        return error_note(-UMBRA_E_CORRUPT, "attributes are not those of one entry");
    return entry_copy(e, ret_entry);
}
