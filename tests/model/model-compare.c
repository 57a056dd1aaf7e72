/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether two trees are the same.
 *
 * Times: whoever has not written to a file finds the time of the backup, or the one that he has
 * set. Where somebody has written, the subject's may be that of our last fill, too: any time since
 * the seed began.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "filter/pending.h"
#include "model.h"
#include "restore/instant.h"

#define PART_LEN   (1u << 20)
#define XATTRS_LEN 4096u

struct names {
    char *items[256];
    size_t count;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_names(const char *path, struct names *names)
{
    DIR *dir = opendir(path);

    ASSERT_TRUE(dir != NULL);
    names->count = 0;
    for (const struct dirent *d; (d = readdir(dir));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        ASSERT_LT(names->count, ELEMENTSOF(names->items));
        names->items[names->count++] = strdup(d->d_name);
    }
    (void)closedir(dir);
    qsort(names->items, names->count, sizeof(names->items[0]), by_name);
}

static void free_names(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
}

static uint64_t nanoseconds(struct timespec t)
{
    return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static bool somebody_wrote(const struct run *run, ino_t model_ino)
{
    for (unsigned i = 0; i < run->settings.actors; i++)
        if (history_has_written(&run->actors[i]->history, model_ino))
            return true;
    return false;
}

static void compare_times(const struct run *run, const char *path, const struct stat st[SIDES])
{
    uint64_t subject = nanoseconds(st[SUBJECT].st_mtim), model = nanoseconds(st[MODEL].st_mtim);

    if (subject == model || S_ISDIR(st[MODEL].st_mode))
        return;
    if (!somebody_wrote(run, st[MODEL].st_ino) || subject < run->start_ns)
        test_fail(__FILE__, __LINE__,
                  "%s: mtime %llu (%.3f s after the beginning), in the model %llu", path,
                  (unsigned long long)subject, (double)(subject - run->start_ns) / 1e9,
                  (unsigned long long)model);
}

static void compare_stat(const struct run *run, const char *path, const struct stat st[SIDES])
{
    const struct stat *s = &st[SUBJECT], *m = &st[MODEL];

    if (s->st_mode != m->st_mode || s->st_uid != m->st_uid || s->st_gid != m->st_gid ||
        s->st_nlink != m->st_nlink || (!S_ISDIR(m->st_mode) && s->st_size != m->st_size))
        test_fail(__FILE__, __LINE__,
                  "%s: mode %o owner %u:%u links %lu size %lld, in the model %o %u:%u %lu %lld",
                  path, s->st_mode, s->st_uid, s->st_gid, (unsigned long)s->st_nlink,
                  (long long)s->st_size, m->st_mode, m->st_uid, m->st_gid,
                  (unsigned long)m->st_nlink, (long long)m->st_size);
    compare_times(run, path, st);
}

static void compare_contents(const char *path, const int fds[SIDES])
{
    static uint8_t parts[SIDES][PART_LEN];
    uint64_t offset = 0;
    ssize_t n;

    do {
        n = pread(fds[MODEL], parts[MODEL], PART_LEN, (off_t)offset);
        ssize_t got = pread(fds[SUBJECT], parts[SUBJECT], PART_LEN, (off_t)offset);
        ASSERT_TRUE(n >= 0);
        if (got != n)
            test_fail(__FILE__, __LINE__, "%s: read %zd (%m), in the model %zd at %llu", path, got,
                      n, (unsigned long long)offset);
        for (ssize_t i = 0; i < n; i++)
            if (parts[SUBJECT][i] != parts[MODEL][i])
                test_fail(__FILE__, __LINE__, "%s: %#x instead of %#x at %llu", path,
                          parts[SUBJECT][i], parts[MODEL][i],
                          (unsigned long long)offset + (unsigned long long)i);
        offset += (uint64_t)n;
    } while (n > 0);
}

static size_t count_xattrs(const char *path, int fd)
{
    char list[XATTRS_LEN];
    size_t count = 0;

    ssize_t n = flistxattr(fd, list, sizeof(list));
    ASSERT_TRUE(n >= 0);
    for (const char *name = list; name < list + n; name += strlen(name) + 1) {
        if (strncmp(name, "trusted.umbra.", 14) == 0)
            test_fail(__FILE__, __LINE__, "%s still has %s", path, name);
        count++;
    }
    return count;
}

static void compare_xattrs(const char *path, const int fds[SIDES])
{
    char list[XATTRS_LEN];
    uint8_t values[SIDES][XATTRS_LEN];

    ssize_t n = flistxattr(fds[MODEL], list, sizeof(list));
    ASSERT_TRUE(n >= 0);
    ASSERT_EQ(count_xattrs(path, fds[SUBJECT]), count_xattrs(path, fds[MODEL]));
    for (const char *name = list; name < list + n; name += strlen(name) + 1) {
        ssize_t len = fgetxattr(fds[MODEL], name, values[MODEL], XATTRS_LEN);
        ssize_t got = fgetxattr(fds[SUBJECT], name, values[SUBJECT], XATTRS_LEN);
        if (got != len || memcmp(values[SUBJECT], values[MODEL], (size_t)len) != 0)
            test_fail(__FILE__, __LINE__, "%s: %s differs", path, name);
    }
}

static void compare_directory(const struct run *run, const char *path);

static void compare_one(const struct run *run, const char *path)
{
    int fds[SIDES];
    struct stat st[SIDES];

    for (unsigned side = 0; side < SIDES; side++) {
        fds[side] = openat(run->tree_fds[side], path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fds[side] < 0)
            test_fail(__FILE__, __LINE__, "%s cannot be opened: %m", path);
        ASSERT_EQ(fstat(fds[side], &st[side]), 0);
    }
    compare_stat(run, path, st);
    compare_xattrs(path, fds);
    if (S_ISREG(st[MODEL].st_mode))
        compare_contents(path, fds);
    for (unsigned side = 0; side < SIDES; side++)
        (void)close(fds[side]);
    if (S_ISDIR(st[MODEL].st_mode))
        compare_directory(run, path);
}

static void compare_directory(const struct run *run, const char *path)
{
    struct names names[SIDES];
    char full[PATH_LEN * 3];

    for (unsigned side = 0; side < SIDES; side++) {
        (void)snprintf(full, sizeof(full), "%s/%s", run->trees[side], path);
        read_names(full, &names[side]);
    }
    if (names[SUBJECT].count != names[MODEL].count)
        test_fail(__FILE__, __LINE__, "'%s' has %zu names, in the model %zu", path,
                  names[SUBJECT].count, names[MODEL].count);
    for (size_t i = 0; i < names[MODEL].count; i++) {
        ASSERT_STREQ(names[SUBJECT].items[i], names[MODEL].items[i]);
        (void)snprintf(full, sizeof(full), "%s/%s", path, names[MODEL].items[i]);
        compare_one(run, full);
    }
    free_names(&names[SUBJECT]);
    free_names(&names[MODEL]);
}

void compare_trees(const struct run *run)
{
    compare_one(run, ".");
}
