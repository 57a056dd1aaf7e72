/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that are open on both sides. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "basic/test.h"
#include "model.h"

static struct handle *free_handle(struct actor *a)
{
    for (unsigned i = 0; i < HANDLES_MAX; i++)
        if (!a->handles[i].used)
            return &a->handles[i];
    struct handle *h;
    do
        h = &a->handles[pick(a, HANDLES_MAX)];
    while (h == a->pinned);
    handle_close(h);
    return h;
}

struct handle *handle_open(struct actor *a, const char *path, int flags)
{
    long results[SIDES];
    int errors[SIDES];

    trace(a, "open %s %#x", path, (unsigned)flags);
    for (unsigned side = 0; side < SIDES; side++) {
        results[side] = openat(a->run->tree_fds[side], path, flags | O_CLOEXEC, 0644);
        errors[side] = errno;
    }
    if (results[SUBJECT] < 0 || results[MODEL] < 0) {
        (void)same(a, "open", results, errors);
        return NULL;
    }
    struct handle *h = free_handle(a);
    int mode = flags & O_ACCMODE;
    *h = (struct handle){
        .used = true,
        .readable = mode != O_WRONLY,
        .writable = mode != O_RDONLY,
        .append = flags & O_APPEND,
        .direct = flags & O_DIRECT,
        .fds = {(int)results[SUBJECT], (int)results[MODEL]},
    };
    (void)snprintf(h->path, sizeof(h->path), "%s", path);
    return h;
}

static bool serves(const struct handle *h, int flags)
{
    int mode = flags & O_ACCMODE;

    return h->used && (mode == O_WRONLY || h->readable) && (mode == O_RDONLY || h->writable) &&
           h->append == !!(flags & O_APPEND) && h->direct == !!(flags & O_DIRECT);
}

static void pick_path(struct actor *a, bool for_writing, char path[PATH_LEN])
{
    if (!for_writing && chance(a, 25)) {
        (void)snprintf(path, PATH_LEN, "s/f%u", (unsigned)pick(a, SHARED_FILES));
        return;
    }
    const struct name *name = pick_name(a);
    while (for_writing && name->is_program)
        name = pick_name(a);
    name_path(a, name, path);
}

struct handle *handle_pick(struct actor *a, int flags)
{
    struct handle *h = &a->handles[pick(a, HANDLES_MAX)];
    char path[PATH_LEN];

    if (serves(h, flags) && chance(a, 70))
        return h;
    pick_path(a, (flags & O_ACCMODE) != O_RDONLY, path);
    return handle_open(a, path, flags);
}

void handle_close(struct handle *h)
{
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(close(h->fds[side]), 0);
    h->used = false;
}

void handles_close(struct actor *a)
{
    for (unsigned i = 0; i < HANDLES_MAX; i++)
        if (a->handles[i].used)
            handle_close(&a->handles[i]);
}

uint64_t handle_size(const struct handle *h)
{
    struct stat st;

    ASSERT_EQ(fstat(h->fds[MODEL], &st), 0);
    return (uint64_t)st.st_size;
}
