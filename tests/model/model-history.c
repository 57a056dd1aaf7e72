/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What has become of each file: for the comparison of times, and for what may be found after a
 * power cut.
 *
 * After a power cut a file need not be as the model was at any moment: blocks reach the disk in any
 * order.  What must hold is that each byte is one that the file had at this place in one of its
 * states since it was last synced (a state reads as zeros behind its end), and that its size lies
 * between theirs.  So each operation that writes to a file leaves a change here: when it began and
 * ended, and what was there before.
 *
 * Collapsing and inserting are several transactions each; between them a place may be a hole, too.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

/* ---- records ---- */

static void keep_difference(const struct record *before, const uint8_t *data, uint64_t size,
                            struct change *change)
{
    uint64_t common = MIN(size, before->size), from = 0, to = before->size;

    while (from < common && before->data[from] == data[from])
        from++;
    while (size == before->size && to > from && before->data[to - 1] == data[to - 1])
        to--;
    change->size_before = before->size;
    change->from = from;
    change->to = to;
    change->before = malloc(to - from + 1);
    ASSERT_TRUE(change->before != NULL);
    memcpy(change->before, before->data + from, to - from);
}

/* The state of now; the one before is kept in the change. */
static void read_state(struct record *record, struct change *change)
{
    struct stat st;

    ASSERT_EQ(fstat(record->fd, &st), 0);
    uint64_t size = (uint64_t)st.st_size, at = 0;
    uint8_t *data = malloc(size + 1);
    ASSERT_TRUE(data != NULL);
    while (at < size) {
        ssize_t n = pread(record->fd, data + at, size - at, (off_t)at);
        ASSERT_TRUE(n > 0);
        at += (uint64_t)n;
    }
    if (change)
        keep_difference(record, data, size, change);
    free(record->data);
    record->data = data;
    record->size = size;
}

static uint64_t read_id(int fd)
{
    char text[24] = "";

    ASSERT_TRUE(fgetxattr(fd, ID_XATTR, text, sizeof(text) - 1) > 0);
    return strtoull(text, NULL, 10);
}

static struct record *find(struct history *history, ino_t ino)
{
    for (size_t i = 0; i < history->count; i++)
        if (history->records[i].ino == ino)
            return &history->records[i];
    return NULL;
}

/* Through the descriptor: it may be one for writing, or of a file without a name. */
struct record *history_add(struct history *history, int model_fd, bool keep_states)
{
    struct stat st;
    char path[32];

    ASSERT_EQ(fstat(model_fd, &st), 0);
    struct record *record = find(history, st.st_ino);
    if (record)
        return record;
    ASSERT_LT(history->count, RECORDS_MAX);
    record = &history->records[history->count++];
    *record = (struct record){.ino = st.st_ino, .fd = -EBADF};
    if (!keep_states)
        return record;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", model_fd);
    record->fd = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(record->fd >= 0);
    record->id = read_id(record->fd);
    read_state(record, NULL);
    return record;
}

void model_history_release(struct history *history)
{
    for (size_t i = 0; i < history->count; i++) {
        struct record *record = &history->records[i];
        for (size_t j = 0; j < record->changes.count; j++)
            free(record->changes.items[j].before);
        change_vector_release(&record->changes);
        free(record->data);
        if (record->fd >= 0)
            (void)close(record->fd);
    }
    history->count = 0;
}

/* ---- what actors note ---- */

static struct record *record_of(struct actor *a, int model_fd)
{
    return history_add(&a->history, model_fd, a->run->settings.power_cut);
}

void note_write_to(struct actor *a, int model_fd, unsigned flags)
{
    struct record *record = record_of(a, model_fd);

    record->written = record->dirty = true;
    record->dirty_flags |= flags;
}

void note_touch(struct actor *a, int model_fd)
{
    record_of(a, model_fd)->touched = true;
}

void note_sync(struct actor *a, int model_fd)
{
    struct record *record = record_of(a, model_fd);
    const struct change change = {.is_sync = true, .start_ns = a->operation_ns, .end_ns = now_ns()};

    if (a->run->settings.power_cut)
        ASSERT_OK(change_vector_push(&record->changes, &change));
}

/* The file gets an id of its own on both sides. */
void note_create(struct actor *a, const struct handle *h)
{
    char id[24];
    struct stat st;

    int len = snprintf(id, sizeof(id), "%llu",
                       (unsigned long long)((a->index + 1) * 1000000 + ++a->id_counter));
    for (unsigned side = 0; side < SIDES; side++)
        ASSERT_EQ(fsetxattr(h->fds[side], ID_XATTR, id, (size_t)len, 0), 0);
    ASSERT_EQ(fstat(h->fds[MODEL], &st), 0);
    struct record *old = find(&a->history, st.st_ino);
    if (old)
        old->ino = 0; /* that one is gone, and its number in use again */
    struct record *record = record_of(a, h->fds[MODEL]);
    record->is_new = record->touched = record->written = true;
}

void note_remove(struct actor *a, const char *path)
{
    CLEANUP_CLOSE int fd = openat(a->run->tree_fds[MODEL], path, O_RDONLY | O_CLOEXEC);

    ASSERT_TRUE(fd >= 0);
    struct record *record = record_of(a, fd);
    if (record->removed_ns == 0)
        record->removed_ns = a->operation_ns;
}

void history_end_operation(struct actor *a)
{
    for (size_t i = 0; i < a->history.count; i++) {
        struct record *record = &a->history.records[i];
        if (!record->dirty)
            continue;
        struct change change = {.start_ns = a->operation_ns, .flags = record->dirty_flags};
        record->dirty = false;
        record->dirty_flags = 0;
        if (!a->run->settings.power_cut)
            continue;
        read_state(record, &change);
        change.end_ns = now_ns();
        ASSERT_OK(change_vector_push(&record->changes, &change));
    }
}

bool history_has_written(const struct history *history, ino_t model_ino)
{
    for (size_t i = 0; i < history->count; i++)
        if (history->records[i].ino == model_ino)
            return history->records[i].written;
    return false;
}
