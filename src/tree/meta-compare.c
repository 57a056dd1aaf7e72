/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of a file's attributes is not as it was recorded: for verification after a restore. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/text.h"
#include "tree/meta-private.h"

struct comparison {
    const struct entry *e;
    const struct owner_map *owners;
    struct entry now;
    struct buffer words;
};

static void add_word(struct comparison *c, const char *prefix, const char *word)
{
    if (c->words.len > 0)
        buffer_put_u8(&c->words, ' ');
    buffer_put(&c->words, prefix, strlen(prefix));
    buffer_put(&c->words, word, strlen(word));
}

static void check(struct comparison *c, bool same, const char *word)
{
    if (!same)
        add_word(c, "", word);
}

static void add_xattr(struct comparison *c, const char *name)
{
    CLEANUP_FREE char *shown = text_escape(name, strlen(name));
    if (shown)
        add_word(c, "xattr ", shown);
    else
        c->words.failed = true;
}

static bool same_acl(const struct comparison *c, const struct xattr *recorded,
                     const struct xattr *now)
{
    CLEANUP_FREE uint8_t *mapped = malloc((size_t)recorded->value_len + 1);
    if (!mapped)
        return false;
    if (recorded->value_len > 0)
        memcpy(mapped, recorded->value, recorded->value_len);
    meta_acl_map(mapped, recorded->value_len, c->owners);
    return memcmp(mapped, now->value, now->value_len) == 0;
}

static bool same_value(const struct comparison *c, const struct xattr *recorded,
                       const struct xattr *now)
{
    if (recorded->value_len != now->value_len)
        return false;
    if (now->value_len == 0)
        return true;
    if (meta_xattr_is_acl(now->name))
        return same_acl(c, recorded, now);
    return memcmp(recorded->value, now->value, now->value_len) == 0;
}

/* Both lists are sorted. */
static void compare_xattrs(struct comparison *c)
{
    const struct xattr_vector *recorded = &c->e->xattrs, *now = &c->now.xattrs;
    bool complete = !(c->e->remarks & ENTRY_XATTRS_INCOMPLETE);
    size_t i = 0, j = 0;
    while (i < recorded->count || j < now->count) {
        int order = i == recorded->count ? 1
                    : j == now->count    ? -1
                                         : strcmp(recorded->items[i].name, now->items[j].name);
        if (order < 0) {
            add_xattr(c, recorded->items[i++].name);
        } else if (order > 0) {
            if (complete && !meta_xattr_is_label(now->items[j].name))
                add_xattr(c, now->items[j].name);
            j++;
        } else {
            if (!same_value(c, &recorded->items[i], &now->items[j]))
                add_xattr(c, now->items[j].name);
            i++;
            j++;
        }
    }
}

static bool same_target(const struct entry *a, const struct entry *b)
{
    return a->symlink && b->symlink && strcmp(a->symlink, b->symlink) == 0;
}

static void compare_all(struct comparison *c)
{
    const struct entry *e = c->e, *now = &c->now;
    check(c, owner_map_uid(c->owners, e->uid) == now->uid, "owner");
    check(c, owner_map_gid(c->owners, e->gid) == now->gid, "group");
    if (e->type == ENTRY_SYMLINK)
        check(c, same_target(e, now), "target");
    else
        check(c, e->mode == now->mode, "mode");
    if (e->type == ENTRY_REGULAR)
        check(c, e->size == now->size, "size");
    check(c, e->rdev_major == now->rdev_major && e->rdev_minor == now->rdev_minor, "device");
    check(c, e->mtime.sec == now->mtime.sec && e->mtime.nsec == now->mtime.nsec, "mtime");
    check(c, (e->flags & META_FLAGS_RECORDED) == now->flags, "flags");
    check(c, e->project_id == now->project_id, "project");
    compare_xattrs(c);
}

static void count_problem(const char *what, int r, void *userdata)
{
    (void)what;
    (void)r;
    (*(unsigned *)userdata)++;
}

static int compare(const struct meta_file *file, struct comparison *c)
{
    struct statx stx;
    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stx) < 0)
        return -errno;
    meta_from_statx(&stx, &c->now);
    if (c->now.type != c->e->type) {
        add_word(c, "", "type");
        return 0;
    }
    unsigned problems = 0;
    int r = meta_capture(file, &c->now, count_problem, &problems);
    if (r < 0)
        return r;
    compare_all(c);
    check(c, problems == 0, "unreadable");
    return 0;
}

static int compare_file(const struct meta_file *file, const struct entry *e,
                        const struct owner_map *owners, char **ret_differences)
{
    struct comparison c = {.e = e, .owners = owners};
    int r = compare(file, &c);
    entry_release(&c.now);
    buffer_put_u8(&c.words, '\0');
    if (r >= 0)
        r = buffer_finish(&c.words);
    if (r >= 0)
        *ret_differences = strdup((const char *)c.words.data);
    buffer_release(&c.words);
    if (r >= 0 && !*ret_differences)
        return -ENOMEM;
    return r;
}

int meta_compare_fd(int fd, const struct entry *e, const struct owner_map *owners,
                    char **ret_differences)
{
    const struct meta_file file = {.fd = fd};
    return compare_file(&file, e, owners, ret_differences);
}

int meta_compare_path_fd(int path_fd, const struct entry *e, const struct owner_map *owners,
                         char **ret_differences)
{
    struct meta_file file;
    meta_file_of(path_fd, &file);
    return compare_file(&file, e, owners, ret_differences);
}

int meta_compare_at(int dir_fd, const char *name, const struct entry *e,
                    const struct owner_map *owners, char **ret_differences)
{
    struct meta_file file;
    int r = meta_file_open(dir_fd, name, &file);
    if (r < 0)
        return r;
    r = compare_file(&file, e, owners, ret_differences);
    (void)close(file.fd);
    return r;
}
