/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names and attributes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

static const int *trees(const struct actor *a)
{
    return a->run->tree_fds;
}

static bool rename_both(struct actor *a, const char *from, const char *to, unsigned flags)
{
    long results[SIDES];
    int errors[SIDES];

    trace(a, "%s to %s, flags %#x", from, to, flags);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = renameat2(trees(a)[side], from, trees(a)[side], to, flags);
        errors[side] = errno;
    }
    return same(a, from, results, errors) == 0;
}

static void op_rename(struct actor *a)
{
    struct name *name = pick_name(a), *to = new_name(a);
    char from_path[PATH_LEN], to_path[PATH_LEN];

    if (!to)
        return;
    name_path(a, name, from_path);
    name_path(a, to, to_path);
    to->is_program = name->is_program;
    if (rename_both(a, from_path, to_path, 0))
        name->used = false;
    else
        to->used = false;
}

/* How programs save a file: the new one takes the place of the old. */
static void op_replace(struct actor *a)
{
    struct name *name = pick_name(a), *over = pick_name(a);
    bool exchange = chance(a, 30);
    char from_path[PATH_LEN], to_path[PATH_LEN];

    if (name == over || name->is_program || over->is_program)
        return;
    name_path(a, name, from_path);
    name_path(a, over, to_path);
    struct stat one, other;
    ASSERT_EQ(fstatat(trees(a)[MODEL], from_path, &one, 0), 0);
    ASSERT_EQ(fstatat(trees(a)[MODEL], to_path, &other, 0), 0);
    if (!exchange)
        note_remove(a, to_path);
    /* the same file under two names: rename() does nothing then */
    if (rename_both(a, from_path, to_path, exchange ? RENAME_EXCHANGE : 0) && !exchange &&
        one.st_ino != other.st_ino)
        name->used = false;
}

static void op_rename_directory(struct actor *a)
{
    char to[64];
    unsigned dir = 1 + (unsigned)pick(a, 2);

    (void)snprintf(to, sizeof(to), "t%u/dir%llu", a->index, (unsigned long long)a->file_counter++);
    if (rename_both(a, a->dirs[dir], to, 0))
        memcpy(a->dirs[dir], to, sizeof(to));
}

static void op_link(struct actor *a)
{
    struct name *name = pick_name(a), *to = new_name(a);
    char from_path[PATH_LEN], to_path[PATH_LEN];
    long results[SIDES];
    int errors[SIDES];

    if (!to)
        return;
    name_path(a, name, from_path);
    name_path(a, to, to_path);
    to->is_program = name->is_program;
    trace(a, "%s to %s", from_path, to_path);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = linkat(trees(a)[side], from_path, trees(a)[side], to_path, 0);
        errors[side] = errno;
    }
    if (same(a, from_path, results, errors) < 0)
        to->used = false;
}

static void op_unlink(struct actor *a)
{
    struct name *name = pick_name(a);
    char path[PATH_LEN];
    long results[SIDES];
    int errors[SIDES];

    if (name->is_program)
        return;
    name_path(a, name, path);
    trace(a, "%s", path);
    note_remove(a, path);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = unlinkat(trees(a)[side], path, 0);
        errors[side] = errno;
    }
    if (same(a, path, results, errors) == 0)
        name->used = false;
}

static void op_create(struct actor *a)
{
    const struct name *name = new_name(a);
    char path[PATH_LEN];
    long results[SIDES];
    int errors[SIDES];

    if (!name)
        return;
    name_path(a, name, path);
    const struct handle *h = handle_open(a, path, O_RDWR | O_CREAT | O_EXCL);
    ASSERT_TRUE(h != NULL);
    note_create(a, h);
    note_write_to(a, h->fds[MODEL], 0);
    uint64_t len = pick_len(a);
    trace(a, "%s: %llu bytes", path, (unsigned long long)len);
    test_random_fill(&a->random, a->data, len);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = write(h->fds[side], a->data, len);
        errors[side] = errno;
    }
    (void)same(a, path, results, errors);
}

/* ---- attributes ---- */

static void touch_path(struct actor *a, const char *path)
{
    CLEANUP_CLOSE int fd = openat(trees(a)[MODEL], path, O_RDONLY | O_CLOEXEC);

    ASSERT_TRUE(fd >= 0);
    note_touch(a, fd);
}

static void op_stat(struct actor *a)
{
    struct stat st[SIDES];
    char path[PATH_LEN];
    long results[SIDES];
    int errors[SIDES];

    name_path(a, pick_name(a), path);
    trace(a, "%s", path);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = fstatat(trees(a)[side], path, &st[side], AT_SYMLINK_NOFOLLOW);
        errors[side] = errno;
    }
    ASSERT_EQ(same(a, path, results, errors), 0);
    const struct stat *s = &st[SUBJECT], *m = &st[MODEL];
    if (s->st_size != m->st_size || s->st_mode != m->st_mode || s->st_nlink != m->st_nlink ||
        s->st_uid != m->st_uid || s->st_gid != m->st_gid)
        differ(a, "%s: size %lld mode %o links %lu owner %u:%u, model %lld %o %lu %u:%u", path,
               (long long)s->st_size, s->st_mode, (unsigned long)s->st_nlink, s->st_uid, s->st_gid,
               (long long)m->st_size, m->st_mode, (unsigned long)m->st_nlink, m->st_uid, m->st_gid);
}

static void op_chmod(struct actor *a)
{
    static const mode_t modes[] = {0600, 0640, 0755, 04711, 0444};
    char path[PATH_LEN];

    const struct name *target = pick_name(a);
    if (target->is_program)
        return;
    name_path(a, target, path);
    mode_t mode = modes[pick(a, ELEMENTSOF(modes))];
    touch_path(a, path);
    trace(a, "%s to %o", path, mode);
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(fchmodat(trees(a)[side], path, mode, 0), 0);
}

static void op_set_xattr(struct actor *a)
{
    char path[PATH_LEN], name[32];
    uint64_t len = pick(a, 60);

    name_path(a, pick_name(a), path);
    (void)snprintf(name, sizeof(name), "user.x%u", (unsigned)pick(a, 3));
    touch_path(a, path);
    trace(a, "%s %s, %llu", path, name, (unsigned long long)len);
    test_random_fill(&a->random, a->data, 64);
    for (unsigned side = 0; side < SIDES; side++) {
        char full[PATH_LEN * 2 + 1];
        (void)snprintf(full, sizeof(full), "%s/%s", a->run->trees[side], path);
        ASSERT_EQ(setxattr(full, name, a->data, len, 0), 0);
    }
}

static void op_set_times(struct actor *a)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                      {.tv_sec = 1500000000 + (time_t)pick(a, 1000)}};
    char path[PATH_LEN];

    name_path(a, pick_name(a), path);
    touch_path(a, path);
    trace(a, "%s to %lld", path, (long long)times[1].tv_sec);
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(utimensat(trees(a)[side], path, times, 0), 0);
}

static const struct operation items[] = {
    {"rename", 4, op_rename},
    {"replace", 3, op_replace},
    {"rename_directory", 1, op_rename_directory},
    {"link", 3, op_link},
    {"unlink", 3, op_unlink},
    {"create", 4, op_create},
    {"stat", 3, op_stat},
    {"chmod", 1, op_chmod},
    {"set_xattr", 1, op_set_xattr},
    {"set_times", 1, op_set_times},
};
const struct operations name_operations = {items, ELEMENTSOF(items)};
