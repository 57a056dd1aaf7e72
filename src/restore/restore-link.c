/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hard links.
 *
 * Of the names that an inode has in the selection the first one in catalog order is restored like
 * any file; the others are linked to it when the window in which they stand is finished, which is
 * not before the first one is.  What link(2) cannot do (another file system is mounted there, too
 * many links, a file system without them) becomes a file of its own with the same contents, and the
 * names after it are linked to that.
 *
 * Names belong together when file system, inode number and all else that the backup has on them are
 * the same: inode numbers are reused, and a live tree changes while it is backed up.
 *
 * The first file's device and inode number are kept: a link that leads elsewhere, because somebody
 * put another file under that name, is taken back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/restore-private.h"

struct link_table {
    struct link_group **slots;
    size_t slot_count; /* a power of two */
    size_t count;
};

static void group_free(struct link_group *group)
{
    free(group->path);
    free(group->place);
    free(group);
}

int link_table_new(struct link_table **ret_table)
{
    struct link_table *table = calloc(1, sizeof(*table));
    if (!table)
        return -ENOMEM;
    *ret_table = table;
    return 0;
}

void link_table_free(struct link_table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->slot_count; i++) {
        if (table->slots[i])
            group_free(table->slots[i]);
    }
    free(table->slots);
    free(table);
}

/* The slot of that inode, or the empty one where it belongs. */
static struct link_group **find_slot(struct link_group **slots, size_t slot_count,
                                     uint32_t fs_index, uint64_t inode, uint64_t likeness)
{
    uint64_t hash = (inode ^ ((uint64_t)fs_index << 48) ^ likeness) * UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(hash >> 20) & (slot_count - 1);

    while (slots[i] && (slots[i]->inode != inode || slots[i]->fs_index != fs_index ||
                        slots[i]->likeness != likeness))
        i = (i + 1) & (slot_count - 1);
    return &slots[i];
}

static int table_grow(struct link_table *table)
{
    size_t slot_count = table->slot_count ? table->slot_count * 2 : 256;
    struct link_group **slots = calloc(slot_count, sizeof(struct link_group *));
    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < table->slot_count; i++) {
        struct link_group *group = table->slots[i];
        if (group)
            *find_slot(slots, slot_count, group->fs_index, group->inode, group->likeness) = group;
    }
    free(table->slots);
    table->slots = slots;
    table->slot_count = slot_count;
    return 0;
}

static void mix(uint64_t *hash, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++)
        *hash = (*hash ^ bytes[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
}

static void mix_extents(uint64_t *hash, const struct extent_vector *extents)
{
    for (size_t i = 0; i < extents->count; i++) {
        const struct extent *x = &extents->items[i];
        mix(hash, &x->len, sizeof(x->len));
        mix(hash, &x->kind, sizeof(x->kind));
        if (x->kind == EXTENT_DATA)
            mix(hash, x->chunk.id.bytes, sizeof(x->chunk.id.bytes));
    }
}

/* The same for two names of one file, different for different files. */
static uint64_t likeness_of(const struct entry *e)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    const uint64_t numbers[] = {(uint64_t)e->type,
                                e->mode,
                                e->uid,
                                e->gid,
                                e->size,
                                (uint64_t)e->mtime.sec,
                                e->mtime.nsec,
                                (uint64_t)e->ctime.sec,
                                e->ctime.nsec,
                                e->rdev_major,
                                e->rdev_minor};
    mix(&hash, numbers, sizeof(numbers));
    mix_extents(&hash, &e->extents);
    mix_extents(&hash, &e->content_refs);
    return hash;
}

int link_table_get(struct link_table *table, const struct entry *e, const struct restore_node *node,
                   const char *name, struct link_group **ret_group, bool *ret_first)
{
    if ((table->count + 1) * 2 > table->slot_count) {
        int r = table_grow(table);
        if (r < 0)
            return r;
    }
    uint64_t likeness = likeness_of(e);
    struct link_group **slot =
        find_slot(table->slots, table->slot_count, e->fs_index, e->inode, likeness);
    *ret_first = !*slot;
    if (!*slot) {
        struct link_group *group = calloc(1, sizeof(*group));
        if (!group)
            return -ENOMEM;
        group->path = restore_join(node->path, name);
        group->place = restore_join(node->place, name);
        if (!group->path || !group->place) {
            group_free(group);
            return -ENOMEM;
        }
        group->inode = e->inode;
        group->fs_index = e->fs_index;
        group->likeness = likeness;
        *slot = group;
        table->count++;
    }
    *ret_group = *slot;
    return 0;
}

/* ---- making a link ---- */

static bool is_group(const struct link_group *group, const struct stat *st)
{
    return group->state == LINK_DONE && st->st_dev == group->dev && st->st_ino == group->ino;
}

/* chattr +i or +a of a first file that was there already keeps it from being linked to. */
static int link_locked(struct restore *restore, const struct job *link, const char *first_dir,
                       int first_fd, const char *first, const char *name)
{
    int r = restore_put_off_flags(restore, first_dir, first, &link->entry);
    if (r >= 0)
        r = publish_unlock(first_fd, first);
    if (r < 0)
        return r;
    return linkat(first_fd, first, link->node->fd, name, 0) < 0 ? -errno : 0;
}

static int link_checked(struct restore *restore, const struct job *link, int to_fd,
                        const char *name)
{
    const struct link_group *group = link->group;
    const char *place = group->place;
    const char *slash = strrchr(place, '/');
    const char *first = slash ? slash + 1 : place;
    CLEANUP_FREE char *dir = strndup(place, slash ? (size_t)(slash - place) : 0);
    int first_fd;
    struct stat st;

    if (!dir)
        return -ENOMEM;
    int r = dir_cache_get(restore->dirs, dir, &first_fd);
    if (r < 0)
        return r;
    if (linkat(first_fd, first, to_fd, name, 0) < 0)
        r = -errno;
    if (r == -EPERM && !link->staged && link->entry.flags & META_FLAGS_LOCKS)
        r = link_locked(restore, link, dir, first_fd, first, name);
    if (r < 0)
        return r;
    r = fstatat(to_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
    if (r >= 0 && is_group(group, &st))
        return 0;
    (void)unlinkat(to_fd, name, 0);
    return r < 0 ? r : -UMBRA_E_CHANGED;
}

/* In the stage; a file that is locked gets its name from the commit. */
static int stage_further_name(struct restore *restore, const struct job *link,
                              bool something_is_there)
{
    char name[TEMPORARY_NAME_MAX];

    stage_name(restore->stage, name);
    int r = link_checked(restore, link, stage_fd(restore->stage), name);
    if (r == -EPERM && !something_is_there && strcmp(link->group->place, link->group->path) == 0)
        return stage_link(restore->stage, link->node, link->group->path, link->name);
    if (r < 0)
        return r;
    return stage_put(restore->stage, link->node, name, link->name, something_is_there);
}

static int make_link(struct restore *restore, const struct job *link)
{
    char name[TEMPORARY_NAME_MAX];
    int r = -EEXIST;

    if (link->node->made)
        r = link_checked(restore, link, link->node->fd, link->name);
    if (r != -EEXIST)
        return r;
    temporary_name(restore, name);
    r = link_checked(restore, link, link->node->fd, name);
    if (r < 0)
        return r;
    r = publish_rename(restore, link->node->fd, name, link->name);
    if (r < 0)
        (void)unlinkat(link->node->fd, name, 0);
    return r;
}

/* Becomes a file of its own, and the one that later names are linked to. */
static int restore_copy(struct restore *restore, struct worker *worker, struct job *link)
{
    char *path = restore_join(link->node->path, link->name);
    char *place = restore_join(link->node->place, link->name);
    if (!path || !place) {
        free(path);
        free(place);
        return -ENOMEM;
    }
    free(link->group->path);
    free(link->group->place);
    link->group->path = path;
    link->group->place = place;
    link->group->state = LINK_PENDING;

    int r = restore_load_contents(restore, &link->entry);
    if (r < 0) {
        link->group->state = LINK_FAILED;
        restore_count_failed(restore, &link->entry, 0);
        restore_problem(restore, path, "%s", error_text(r));
        return restore_error_is_fatal(r) ? r : 0;
    }
    if (link->must_look)
        job_look(restore, worker, link);
    else
        link->way = JOB_NEW;
    if (link->way != JOB_KEEP && link->way != JOB_ATTRIBUTES)
        job_run_alone(restore, worker, link);
    return 0;
}

static void count_file(struct restore *restore)
{
    if (restore->options->progress)
        atomic_fetch_add(&restore->options->progress->files_done, 1);
}

static int verify_link(struct restore *restore, const struct job *link, bool same)
{
    CLEANUP_FREE char *path = restore_join(link->node->path, link->name);
    if (!path)
        return -ENOMEM;
    if (!same && !restore_has_failed(restore, path) &&
        !restore_has_failed(restore, link->group->path))
        restore_problem(restore, path, "verification: it is not the same file as '%s'",
                        link->group->path);
    return 0;
}

int link_do(struct restore *restore, struct worker *worker, struct job *link)
{
    struct stat st;
    bool there =
        link->must_look && fstatat(link->node->fd, link->name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    bool same = there && is_group(link->group, &st);

    if (restore->mode == RESTORE_VERIFY) {
        count_file(restore);
        return verify_link(restore, link, same);
    }
    if (!same && restore->mode == RESTORE_WRITE) {
        int r = -ENOLINK;
        if (link->group->state == LINK_DONE)
            r = link->staged ? stage_further_name(restore, link, there) : make_link(restore, link);
        if (r < 0 && restore_error_is_fatal(r))
            return r;
        if (r == -EPERM && link->staged)
            restore_problem(restore, link->group->path,
                            "chattr +i or +a keeps it from getting "
                            "another name");
        else if (r < 0)
            return restore_copy(restore, worker, link);
    }
    if (link->entry.type == ENTRY_REGULAR)
        count_file(restore);
    restore_action(restore, same ? '=' : 'c', link->node->path, link->name);
    return 0;
}
