/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The power cut: which of the recorded changes a disk with a volatile cache has kept.
 *
 * What was synced is always there.  Of the rest, how much survives differs from cut to cut
 * (nothing, everything, some share of it), because each extreme finds bugs of its own.  A write
 * that survives may be torn at a multiple of 512 bytes, either end kept; one that does not may
 * still have moved the end of the file, so that zeros stand where it would be.  Changes of names
 * survive or not each for itself; a rename is one change.  A file can therefore have its name and
 * no bytes, or its bytes and no name.
 */
#include "basic/io-crash.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "basic/io-memory-private.h"
#include "basic/splitmix.h"

#define SECTOR_BYTES ((uint64_t)512)

static struct memory_io *crash_of(const struct io *io)
{
    struct memory_io *fs = memory_of((struct io *)(uintptr_t)io);
    assert(fs && fs->has_cache);
    return fs;
}

/* A simulator that has run out of memory half way through a crash has nothing true to say any more.
 */
static void must(int r)
{
    if (r < 0) {
        (void)fputs("crash simulator: no memory\n", stderr);
        abort();
    }
}

static uint64_t below(struct memory_io *fs, uint64_t limit)
{
    return splitmix64_next(&fs->random_state) % limit;
}

static bool chance(struct memory_io *fs, unsigned percent)
{
    return below(fs, 100) < percent;
}

static unsigned draw_keep_percent(struct memory_io *fs)
{
    switch (below(fs, 4)) {
    case 0: return 0;
    case 1: return 100;
    case 2: return 50;
    default: return 1 + (unsigned)below(fs, 99);
    }
}

/* One side of a random sector boundary inside the write, or all of it when there is none inside. */
static int apply_torn(struct memory_io *fs, const struct file_change *change, struct blob **disk)
{
    uint64_t start = change->offset, end = start + change->data->len;
    uint64_t first = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;

    if (first >= end)
        return blob_write(disk, change->data->data, change->data->len, start);
    uint64_t cut =
        first + below(fs, (end - first + SECTOR_BYTES - 1) / SECTOR_BYTES) * SECTOR_BYTES;
    if (chance(fs, 50))
        return blob_write(disk, change->data->data, (size_t)(cut - start), start);
    return blob_write(disk, change->data->data + (cut - start), (size_t)(end - cut), cut);
}

static int apply_size_only(const struct file_change *change, struct blob **disk)
{
    uint64_t end = change->offset + change->data->len;

    return *disk && (*disk)->len >= end ? 0 : blob_truncate(disk, end);
}

static int settle_change(struct memory_io *fs, const struct file_change *change,
                         unsigned keep_percent, struct blob **disk)
{
    bool kept = chance(fs, keep_percent);
    bool damaged = keep_percent > 0 && keep_percent < 100 && chance(fs, 25);

    if (!change->data)
        return kept ? blob_truncate(disk, change->offset) : 0;
    if (kept && damaged)
        return apply_torn(fs, change, disk);
    if (kept)
        return blob_write(disk, change->data->data, change->data->len, change->offset);
    return damaged ? apply_size_only(change, disk) : 0;
}

void crash_power_cut_locked(struct memory_io *fs)
{
    unsigned keep_percent = draw_keep_percent(fs);

    for (struct node *node = fs->first; node; node = node->next) {
        for (size_t i = 0; i < node->changes.count; i++)
            must(settle_change(fs, &node->changes.items[i], keep_percent,
                               &node->contents[MEMORY_DURABLE]));
        file_changes_clear(node);
    }
    for (size_t i = 0; i < fs->name_changes.count; i++) {
        struct name_change *change = &fs->name_changes.items[i];
        if (chance(fs, keep_percent))
            must(name_change_apply(change, MEMORY_DURABLE));
        name_change_release(change);
    }
    fs->name_changes.count = 0;
    fs->crashed = true;
}

/* Now is what is durable. */
static void forget_cache_locked(struct memory_io *fs)
{
    /* A reference to each node holds the list together while names come and go. */
    for (struct node *node = fs->first; node; node = node->next)
        node_ref(node);
    for (struct node *node = fs->first; node; node = node->next) {
        names_clear(&node->names[MEMORY_NOW]);
        must(names_copy(&node->names[MEMORY_DURABLE], &node->names[MEMORY_NOW]));
        blob_unref(node->contents[MEMORY_NOW]);
        node->contents[MEMORY_NOW] = blob_ref(node->contents[MEMORY_DURABLE]);
    }
    for (struct node *node = fs->first, *next; node; node = next) {
        next = node->next;
        node_unref(node);
    }
}

int io_new_crash(uint64_t seed, struct io **ret_io)
{
    struct memory_io *fs;

    int r = memory_new(seed, true, &fs);
    if (r >= 0)
        *ret_io = &fs->io;
    return r;
}

void io_crash_at_sync(struct io *io, uint64_t nth)
{
    struct memory_io *fs = crash_of(io);

    pthread_mutex_lock(&fs->lock);
    fs->crash_at_sync = nth;
    pthread_mutex_unlock(&fs->lock);
}

void io_crash_now(struct io *io)
{
    struct memory_io *fs = crash_of(io);

    pthread_mutex_lock(&fs->lock);
    if (!fs->crashed)
        crash_power_cut_locked(fs);
    pthread_mutex_unlock(&fs->lock);
}

bool io_crash_crashed(const struct io *io)
{
    struct memory_io *fs = crash_of(io);

    pthread_mutex_lock(&fs->lock);
    bool crashed = fs->crashed;
    pthread_mutex_unlock(&fs->lock);
    return crashed;
}

uint64_t io_crash_sync_count(const struct io *io)
{
    struct memory_io *fs = crash_of(io);

    pthread_mutex_lock(&fs->lock);
    uint64_t count = fs->sync_count;
    pthread_mutex_unlock(&fs->lock);
    return count;
}

void io_crash_reboot(struct io *io)
{
    struct memory_io *fs = crash_of(io);

    pthread_mutex_lock(&fs->lock);
    if (!fs->crashed)
        crash_power_cut_locked(fs);
    forget_cache_locked(fs);
    fs->crashed = false;
    fs->epoch++;
    pthread_mutex_unlock(&fs->lock);
}

/* ---- clones ---- */

static void copy_file(const struct node *from, struct node *to)
{
    for (unsigned i = 0; i < MEMORY_STATE_MAX; i++)
        to->contents[i] = blob_ref(from->contents[i]);
    for (size_t i = 0; i < from->changes.count; i++) {
        struct file_change change = from->changes.items[i];
        change.data = blob_ref(change.data);
        must(file_change_vector_push(&to->changes, &change));
    }
}

static void copy_names(const struct node *from, struct node *to)
{
    for (unsigned i = 0; i < MEMORY_STATE_MAX; i++) {
        must(names_copy(&from->names[i], &to->names[i]));
        for (size_t j = 0; j < to->names[i].count; j++) {
            struct node *original = to->names[i].items[j].node;
            to->names[i].items[j].node = node_ref(original->copy);
            node_unref(original);
        }
    }
}

static char *copy_string(const char *s)
{
    char *copy = s ? strdup(s) : NULL;
    must(s && !copy ? -ENOMEM : 0);
    return copy;
}

static struct node *copy_of(const struct node *node)
{
    return node ? node_ref(node->copy) : NULL;
}

static void copy_name_changes(const struct memory_io *from, struct memory_io *to)
{
    for (size_t i = 0; i < from->name_changes.count; i++) {
        const struct name_change *change = &from->name_changes.items[i];
        struct name_change copy = {.from_dir = copy_of(change->from_dir),
                                   .to_dir = copy_of(change->to_dir),
                                   .from = copy_string(change->from),
                                   .to = copy_string(change->to),
                                   .node = copy_of(change->node)};
        must(name_change_vector_push(&to->name_changes, &copy));
    }
}

static void copy_nodes(struct memory_io *from, struct memory_io *to)
{
    for (struct node *node = from->first; node; node = node->next) {
        if (node == from->root) {
            node->copy = to->root;
            continue;
        }
        must(node_new(to, node->is_directory, &node->copy));
        node->copy->mtime_ns = node->mtime_ns;
        copy_file(node, node->copy);
    }
    for (const struct node *node = from->first; node; node = node->next)
        copy_names(node, node->copy);
    copy_name_changes(from, to);
    /* What only an open file has kept alive dies here: its reference was not copied. */
    for (struct node *node = from->first; node; node = node->next) {
        if (node != from->root)
            node_unref(node->copy);
        node->copy = NULL;
    }
}

int io_crash_clone(struct io *io, uint64_t seed, struct io **ret_io)
{
    struct memory_io *from = crash_of(io), *to;

    int r = memory_new(seed, true, &to);
    if (r < 0)
        return r;
    pthread_mutex_lock(&from->lock);
    to->clock_ns = from->clock_ns;
    to->crashed = from->crashed;
    to->sync_count = from->sync_count;
    to->crash_at_sync = from->crash_at_sync;
    to->root->mtime_ns = from->root->mtime_ns;
    copy_nodes(from, to);
    pthread_mutex_unlock(&from->lock);
    *ret_io = &to->io;
    return 0;
}
