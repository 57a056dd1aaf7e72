/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of a volume, its roots, and the client of the log.
 *
 *     open     header, roots, tables - root with what was found - log: recovery, which ends with a
 *              checkpoint - load - distrust, if anything was damaged or changed by others
 *     close    flush - checkpoint - root that says so, with the mark of the origin
 */
#include <blake3.h>
#include <inttypes.h>
#include <string.h>

#include "basic/crc32c.h"
#include "basic/durable.h"
#include "basic/log.h"
#include "cow/cow-private.h"
#include "log/log-io.h"

#define BLOCK_BYTES_DEFAULT      16384u
#define LOG_BYTES_DEFAULT        (64 * MIB)
#define CHECKPOINT_BYTES_DEFAULT (4 * MIB)
#define ROOT_OFFSET              COW_PAGE_BYTES

static const struct {
    const char *path;
    size_t record_bytes;
} table_files[COW_TABLE_COUNT] = {
    [COW_TABLE_MAP] = {"map", sizeof(struct cow_entry)},
    [COW_TABLE_ZERO] = {"zero", sizeof(struct cow_zero)},
    [COW_TABLE_STATE] = {"state", COW_STATE_BYTES},
};

/* ---- the client of the log ---- */

static const struct {
    size_t head, item; /* bytes; an item begins with the index of a record */
    enum cow_table_id table;
} ops[] = {
    [COW_LOG_ENTRIES] = {0, sizeof(struct cow_log_entry), COW_TABLE_MAP},
    [COW_LOG_ZERO_SET] = {0, sizeof(struct cow_log_zero), COW_TABLE_ZERO},
    [COW_LOG_ZERO_CLEAR] = {0, sizeof(struct cow_log_zero), COW_TABLE_ZERO},
    [COW_LOG_STATE] = {0, sizeof(struct cow_log_state), COW_TABLE_STATE},
    [COW_LOG_COPIES] = {sizeof(struct cow_log_copies), sizeof(struct cow_log_entry), COW_TABLE_MAP},
};

static int redo_entries(struct cow *cow, const uint8_t *data, size_t count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct cow_log_entry e;
        memcpy(&e, data + i * sizeof(e), sizeof(e));
        r = table_put(&cow->tables[COW_TABLE_MAP], le64_get(&e.slot), &e.entry);
    }
    return r;
}

/* Recovery also remembers them, to see whether they have their cells (settle). */
static int redo_copies(struct cow *cow, const uint8_t *data, size_t count, bool recovering)
{
    struct cow_log_copies head;
    memcpy(&head, data, sizeof(head));
    if (recovering)
        cow->settled = MAX(cow->settled, le64_get(&head.settled));
    data += sizeof(head);
    int r = redo_entries(cow, data, count);
    for (size_t i = 0; r == 0 && recovering && i < count; i++) {
        struct cow_log_entry e;
        memcpy(&e, data + i * sizeof(e), sizeof(e));
        const struct cow_copy copy = {.ticket = le64_get(&head.ticket),
                                      .place = le64_get(&e.slot),
                                      .version = version_decode(&e.entry)};
        if (!(copy.version.flags & COW_ENTRY_ZERO))
            r = cow_copy_vector_push(&cow->copies, &copy);
    }
    return r;
}

static int redo_zeros(struct cow *cow, const uint8_t *data, size_t count, bool set)
{
    struct table *table = &cow->tables[COW_TABLE_ZERO];
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct cow_log_zero z;
        memcpy(&z, data + i * sizeof(z), sizeof(z));
        r = table_change_mask(table, le64_get(&z.group), set ? le64_get(&z.mask) : 0,
                              set ? 0 : le64_get(&z.mask));
    }
    return r;
}

static int redo_states(struct cow *cow, const uint8_t *data, size_t count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct cow_log_state s;
        memcpy(&s, data + i * sizeof(s), sizeof(s));
        r = table_put(&cow->tables[COW_TABLE_STATE], le64_get(&s.index), s.record);
    }
    return r;
}

/* May be repeated: from any point on, in order, it ends in the same. */
static int redo(void *userdata, const struct umbra_log_change *change)
{
    struct cow *cow = userdata;
    if (change->op == 0 || change->op >= ELEMENTSOF(ops) || change->len < ops[change->op].head ||
        (change->len - ops[change->op].head) % ops[change->op].item != 0)
        return error_note(-UMBRA_E_CORRUPT, "the log has a record that is not of a cow volume");
    size_t count = (change->len - ops[change->op].head) / ops[change->op].item;
    switch ((enum cow_log_op)change->op) {
    case COW_LOG_ENTRIES: return redo_entries(cow, change->data, count);
    case COW_LOG_ZERO_SET: return redo_zeros(cow, change->data, count, true);
    case COW_LOG_ZERO_CLEAR: return redo_zeros(cow, change->data, count, false);
    case COW_LOG_STATE: return redo_states(cow, change->data, count);
    case COW_LOG_COPIES: return redo_copies(cow, change->data, count, change->recovering);
    default: return -UMBRA_E_CORRUPT;
    }
}

/* What is committed together with its record is never done otherwise. */
static int undo(_unused_ void *userdata, _unused_ const struct umbra_log_change *change)
{
    return 0;
}

static uint32_t checksum_of_page(const void *page, size_t field_offset)
{
    static const uint8_t zeros[4];
    const uint8_t *bytes = page;
    uint32_t crc = crc32c(0, bytes, field_offset);
    crc = crc32c(crc, zeros, sizeof(zeros));
    return crc32c(crc, bytes + field_offset + 4, COW_PAGE_BYTES - field_offset - 4);
}

static struct cow_root make_root(const struct cow *cow)
{
    struct cow_root root = {.flags = le32_make(cow->root_flags),
                            .sequence = le64_make(cow->root_sequence)};
    memcpy(root.origin_mark, cow->origin_mark, sizeof(root.origin_mark));
    memcpy(root.magic, COW_ROOT_MAGIC, sizeof(root.magic));
    memcpy(root.volume_id, cow->volume_id, sizeof(root.volume_id));
    for (unsigned i = 0; i < COW_TABLE_COUNT; i++)
        root.sums[i] = le64_make(cow->root_sums[i]);
    root.checksum = le32_make(checksum_of_page(&root, offsetof(struct cow_root, checksum)));
    return root;
}

/* With the sequence, sums and flags that the volume has now, to the other place. */
static int write_root(struct cow *cow)
{
    const struct cow_root root = make_root(cow);
    struct iovec iov = {.iov_base = (void *)(uintptr_t)&root, .iov_len = sizeof(root)};
    cow->root_place ^= 1u;
    int r = io_pwritev(cow->root_file, &iov, 1, ROOT_OFFSET + cow->root_place * COW_PAGE_BYTES);
    return r < 0 ? r : io_sync(cow->root_file);
}

/* ---- copies whose cells were cut ---- */

/* Not that of the entry, or not to be read. */
static bool cell_is_bad(struct cow *cow, const struct version *v, uint8_t *bytes)
{
    return cow->cells->ops->read(cow->cells, bytes, cow->block_bytes, v->value * cow->block_bytes) <
               0 ||
           crc32c(0, bytes, cow->block_bytes) != v->checksum;
}

/* Neither replaced nor followed by an entry of a later shadow: the origin may be what it copied. */
static bool is_last_copy(struct cow *cow, size_t i)
{
    const struct cow_copy *copy = &cow->copies.items[i];
    struct cow_entry now, then = version_encode(&copy->version);
    table_get(&cow->tables[COW_TABLE_MAP], copy->place, &now);
    bool is_last = memcmp(&now, &then, sizeof(now)) == 0;
    for (i++; is_last && i < cow->copies.count; i++)
        is_last = cow->copies.items[i].version.block != copy->version.block;
    return is_last;
}

static int settle_copy(struct cow *cow, size_t i, uint8_t *bytes)
{
    static const struct cow_entry none = {0};
    const struct cow_copy *copy = &cow->copies.items[i];
    const struct version *v = &copy->version;
    if (!cell_is_bad(cow, v, bytes) || !is_last_copy(cow, i) || v->block >= cow->block_count)
        return 0;
    int r = cow_origin_read(cow, bytes, v->block, 1);
    if (r < 0 || crc32c(0, bytes, cow->block_bytes) != v->checksum)
        return r; /* it was overwritten, so the cell has been there: rot */
    return table_put(&cow->tables[COW_TABLE_MAP], copy->place, &none);
}

/*
 * When recovery has redone everything, before that becomes durable: entries get, or lose, their
 * cells (struct cow_log_copies).  May be repeated, as nothing of what it looks at changes before
 * recovery is over.
 */
static int settle(struct cow *cow)
{
    CLEANUP_FREE uint8_t *bytes = cow_buffer_new(cow, 1);
    if (!bytes)
        return -ENOMEM;
    int r = cow->cells->ops->flush(cow->cells);
    for (size_t i = 0; r == 0 && i < cow->copies.count; i++) {
        const struct cow_copy *copy = &cow->copies.items[i];
        if (copy->ticket > cow->settled && copy->version.value < COW_CELL_COUNT_MAX)
            r = settle_copy(cow, i, bytes);
    }
    return r;
}

/* ---- checkpoints ---- */

static int write_tables(struct cow *cow)
{
    uint64_t sums[COW_TABLE_COUNT];
    int r = 0;
    for (unsigned i = 0; r == 0 && i < COW_TABLE_COUNT; i++)
        r = table_write(&cow->tables[i], cow->root_sequence + 1, &sums[i]);
    if (r < 0 || (!cow->root_is_due && memcmp(sums, cow->root_sums, sizeof(sums)) == 0))
        return r;
    cow->root_sequence++;
    memcpy(cow->root_sums, sums, sizeof(sums));
    cow->root_is_due = false;
    return write_root(cow);
}

static int checkpoint(void *userdata, umbra_log_lsn *oldest_lsn)
{
    struct cow *cow = userdata;
    int r = cow_failure(cow);
    if (r < 0)
        return r;
    /* What was entered before a page is copied may have no cell yet: recovery has to see it. */
    *oldest_lsn = cow_pending_floor(cow, *oldest_lsn);
    r = cow->recovering ? settle(cow) : 0;
    if (r == 0)
        r = write_tables(cow);
    /* What of it is durable nobody knows, so it must not be repeated. */
    return r < 0 && !cow->recovering ? cow_fail(cow, r) : r;
}

static const struct umbra_log_manager manager = {
    .id = UMBRA_LOG_MANAGER_COW,
    .flags = UMBRA_LOG_UNDO_ANY,
    .redo = redo,
    .undo = undo,
    .checkpoint = checkpoint,
};

/* So that redo() has the memory it needs: a failure would be one of the log. */
static int prepare_parts(struct cow *cow, const struct cow_part *parts, size_t count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        const uint8_t *data = parts[i].data;
        for (size_t at = ops[parts[i].op].head; r == 0 && at < parts[i].len;
             at += ops[parts[i].op].item) {
            le64_t index;
            memcpy(&index, data + at, sizeof(index));
            r = table_prepare(&cow->tables[ops[parts[i].op].table], le64_get(&index));
        }
    }
    return r;
}

int cow_commit(struct cow *cow, const struct cow_part *parts, size_t count)
{
    struct umbra_log_txn *txn;
    umbra_log_lsn lsn;
    int r = cow_failure(cow);
    if (r == 0)
        r = prepare_parts(cow, parts, count);
    if (r == 0)
        r = umbra_log_begin(cow->log, &txn);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++)
        if (parts[i].len > 0)
            r = umbra_log_update(txn, cow->client, (uint16_t)parts[i].op, parts[i].data,
                                 parts[i].len, NULL, 0);
    if (r == 0)
        r = umbra_log_commit(txn, 0, &lsn);
    if (r == 0) {
        cow_committed(cow, lsn);
        return 0;
    }
    struct error_report first = {0};
    error_save(&first, r);
    IGNORE_RESULT(umbra_log_abort(txn));
    return error_raise(&first);
}

/* ---- common to creating and opening ---- */

static int check_place(const struct cow_place *place)
{
    if (place->identity_len > COW_IDENTITY_MAX)
        return error_note(-EINVAL, "the identity of an origin has at most %u bytes",
                          COW_IDENTITY_MAX);
    if (place->origin->size_bytes == 0 || place->origin->size_bytes % COW_SECTOR_BYTES != 0)
        return error_note(-EINVAL, "the origin has %" PRIu64 " bytes, not a multiple of %u",
                          place->origin->size_bytes, COW_SECTOR_BYTES);
    return 0;
}

static bool block_bytes_are_good(uint64_t bytes)
{
    return bytes >= COW_BLOCK_BYTES_MIN && bytes <= COW_BLOCK_BYTES_MAX &&
           (bytes & (bytes - 1)) == 0;
}

static void set_geometry(struct cow *cow, const struct cow_place *place, uint32_t block_bytes)
{
    cow->storage = place->storage;
    cow->origin = place->origin;
    cow->block_bytes = block_bytes;
    cow->origin_bytes = place->origin->size_bytes;
    cow->block_count = (cow->origin_bytes + block_bytes - 1) / block_bytes;
}

static uint64_t group_count(const struct cow *cow)
{
    return (cow->block_count + COW_GROUP_BLOCKS - 1) / COW_GROUP_BLOCKS;
}

static int open_tables(struct cow *cow, unsigned flags)
{
    const uint64_t limits[COW_TABLE_COUNT] = {
        [COW_TABLE_MAP] = COW_CELL_COUNT_MAX,
        [COW_TABLE_ZERO] = group_count(cow),
        [COW_TABLE_STATE] = COW_STATE_RECORD_COUNT,
    };
    int r = 0;
    for (unsigned i = 0; i < COW_TABLE_COUNT; i++) {
        if (r == 0)
            r = io_open(cow->storage, table_files[i].path, flags, &cow->table_files[i]);
        table_init(&cow->tables[i], (enum cow_table_id)i, table_files[i].record_bytes, limits[i],
                   cow->volume_id, cow->table_files[i]);
    }
    return r;
}

static struct cow *cow_new(void)
{
    struct cow *cow = calloc(1, sizeof(*cow));
    if (!cow)
        return NULL;
    pthread_mutex_init(&cow->admin, NULL);
    pthread_rwlock_init(&cow->phase, NULL);
    pthread_mutex_init(&cow->lock, NULL);
    pthread_cond_init(&cow->moved, NULL);
    pthread_cond_init(&cow->range_gone, NULL);
    pthread_mutex_init(&cow->sync_lock, NULL);
    pthread_cond_init(&cow->synced, NULL);
    pthread_cond_init(&cow->writer.wake, NULL);
    pthread_cond_init(&cow->ahead.wake, NULL);
    pthread_cond_init(&cow->ahead.done, NULL);
    return cow;
}

void cow_free(struct cow *cow)
{
    if (!cow)
        return;
    cow_ahead_stop(cow);
    cow_cells_stop(cow);
    umbra_log_free(cow->log);
    for (unsigned i = 0; i < COW_TABLE_COUNT; i++) {
        if (cow->tables[i].record_bytes > 0)
            table_release(&cow->tables[i]);
        io_close(cow->table_files[i]);
    }
    map_release(&cow->map);
    cow_copy_vector_release(&cow->copies);
    cow_device_free(cow->cells);
    io_close(cow->root_file);
    free(cow->copied);
    free(cow->stage);
    pthread_cond_destroy(&cow->ahead.done);
    pthread_cond_destroy(&cow->ahead.wake);
    pthread_cond_destroy(&cow->writer.wake);
    pthread_cond_destroy(&cow->synced);
    pthread_mutex_destroy(&cow->sync_lock);
    pthread_cond_destroy(&cow->range_gone);
    pthread_cond_destroy(&cow->moved);
    pthread_mutex_destroy(&cow->lock);
    pthread_rwlock_destroy(&cow->phase);
    pthread_mutex_destroy(&cow->admin);
    free(cow);
}

/* File systems change the beginning when they are mounted.  A checksum of theirs cannot hide that
 * from BLAKE3, as it can from a CRC. */
static int read_mark(struct cow *cow, uint8_t ret_mark[COW_MARK_LEN])
{
    size_t len = (size_t)MIN(cow->origin_bytes, COW_MARK_BYTES);
    CLEANUP_FREE uint8_t *bytes = aligned_alloc(COW_BLOCK_BYTES_MIN, COW_MARK_BYTES);
    if (!bytes)
        return -ENOMEM;
    int r = cow->origin->ops->read(cow->origin, bytes, len, 0);
    if (r < 0)
        return r;
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, bytes, len);
    blake3_hasher_finalize(&hasher, ret_mark, COW_MARK_LEN);
    return 0;
}

/* ---- creating ---- */

static int unlink_if_there(struct io *io, const char *path)
{
    int r = io_unlink(io, path);
    return r == -ENOENT ? 0 : r;
}

/* What a creation that was cut has left. */
static int clear_storage(struct io *io)
{
    struct io_stat st;
    int r = io_stat(io, "volume", &st);
    if (r == 0)
        return error_note(-EEXIST, "there is a volume already");
    r = r == -ENOENT ? unlink_if_there(io, "log") : r;
    for (unsigned i = 0; r == 0 && i < COW_TABLE_COUNT; i++)
        r = unlink_if_there(io, table_files[i].path);
    return r < 0 ? r : unlink_if_there(io, "cells");
}

static int make_cells_file(struct io *io)
{
    struct io_file *file;
    int r = io_open(io, "cells", IO_READ | IO_WRITE | IO_CREATE, &file);
    if (r < 0)
        return r;
    r = io_sync(file);
    io_close(file);
    return r;
}

/* The whole blocks in a range of bytes are known to be zero. */
static int set_zeros(struct cow *cow, uint64_t start, uint64_t end)
{
    uint64_t block = (start + cow->block_bytes - 1) / cow->block_bytes;
    uint64_t stop = end == cow->origin_bytes ? cow->block_count : end / cow->block_bytes;
    int r = 0;
    while (r == 0 && block < stop) {
        uint64_t group = block / COW_GROUP_BLOCKS, at = block % COW_GROUP_BLOCKS;
        uint64_t count = MIN(stop - block, COW_GROUP_BLOCKS - at);
        uint64_t ones = count < 64 ? (UINT64_C(1) << count) - 1 : UINT64_MAX;
        r = table_change_mask(&cow->tables[COW_TABLE_ZERO], group, ones << at, 0);
        block += count;
    }
    return r;
}

/* What the origin itself knows to be zero: durably, so what is written to it is flushed first. */
static int set_holes(struct cow *cow)
{
    uint64_t offset = 0, start, end;
    int r = cow->origin->ops->flush(cow->origin);
    while (r == 0 && offset < cow->origin_bytes) {
        r = cow->origin->ops->find_data(cow->origin, offset, &start, &end);
        if (r == 0)
            r = set_zeros(cow, offset, start);
        offset = end;
    }
    return r;
}

static int fill_tables(struct cow *cow, const struct cow_options *options)
{
    const struct cow_settings_record settings = {
        .cells_max = le64_make(options->max_bytes / cow->block_bytes),
        .flags = le32_make(options->protect_shadows ? COW_SETTINGS_PROTECT_SHADOWS : 0)};
    int r = table_put(&cow->tables[COW_TABLE_STATE], COW_STATE_SETTINGS, &settings);
    if (r == 0 && options->origin_is_zero)
        r = set_zeros(cow, 0, cow->origin_bytes);
    else if (r == 0 && cow->origin->ops->find_data)
        r = set_holes(cow);
    if (r == 0)
        r = read_mark(cow, cow->origin_mark);
    cow->root_flags = COW_ROOT_CLEAN;
    cow->root_sequence = 1;
    for (unsigned i = 0; r == 0 && i < COW_TABLE_COUNT; i++)
        r = table_write(&cow->tables[i], cow->root_sequence, &cow->root_sums[i]);
    return r;
}

static int make_log(struct cow *cow, const struct cow_options *options)
{
    const struct wal_place place = {.io = cow->storage, .path = "log", .name = "log"};
    const struct umbra_log_options log_options = {
        .id = cow->volume_id,
        .file_bytes = options->log_bytes ? options->log_bytes : LOG_BYTES_DEFAULT};
    int r = wal_create(&place, &log_options, options->log_flush_bytes, &cow->log);
    if (r == 0)
        r = umbra_log_attach(cow->log, "cow", &manager, cow, &cow->client);
    return r;
}

/* Last of all: from then on there is a volume. */
static int write_volume_file(const struct cow *cow, const struct cow_place *place)
{
    static const uint8_t other_root[COW_PAGE_BYTES];
    struct cow_header h = {.version = le16_make(COW_VERSION),
                           .identity_len = le16_make((uint16_t)place->identity_len),
                           .origin_bytes = le64_make(cow->origin_bytes),
                           .block_bytes = le32_make(cow->block_bytes)};
    struct cow_root root = make_root(cow);
    memcpy(h.magic, COW_HEADER_MAGIC, sizeof(h.magic));
    memcpy(h.volume_id, cow->volume_id, sizeof(h.volume_id));
    if (place->identity_len > 0)
        memcpy(h.identity, place->identity, place->identity_len);
    h.checksum = le32_make(checksum_of_page(&h, offsetof(struct cow_header, checksum)));
    const struct iovec iov[] = {
        {.iov_base = &h, .iov_len = sizeof(h)},
        {.iov_base = &root, .iov_len = sizeof(root)},
        {.iov_base = (void *)(uintptr_t)other_root, .iov_len = sizeof(other_root)}};
    return durable_write(cow->storage, "", "volume", DURABLE_CREATE, iov, ELEMENTSOF(iov));
}

int cow_create(const struct cow_place *place, const struct cow_options *options)
{
    uint32_t block_bytes = options->block_bytes ? options->block_bytes : BLOCK_BYTES_DEFAULT;
    CLEANUP(cow_freep) struct cow *cow = cow_new();
    if (!cow)
        return -ENOMEM;
    int r = check_place(place);
    if (r < 0)
        return r;
    if (!block_bytes_are_good(block_bytes))
        return error_note(-EINVAL, "blocks have 4, 8, 16, 32 or 64 KiB, not %u bytes", block_bytes);
    if (options->max_bytes / block_bytes == 0 ||
        options->max_bytes / block_bytes > COW_CELL_COUNT_MAX)
        return error_note(-EINVAL, "a diff area has from 1 to %" PRIu64 " blocks",
                          COW_CELL_COUNT_MAX);
    set_geometry(cow, place, block_bytes);
    r = io_random(cow->storage, cow->volume_id, sizeof(cow->volume_id));
    if (r == 0)
        r = clear_storage(cow->storage);
    if (r == 0)
        r = make_cells_file(cow->storage);
    if (r == 0)
        r = open_tables(cow, IO_READ | IO_WRITE | IO_CREATE);
    if (r == 0)
        r = fill_tables(cow, options);
    if (r == 0)
        r = make_log(cow, options);
    if (r == 0)
        r = umbra_log_close(TAKE_PTR(cow->log));
    if (r == 0)
        r = io_sync_dir(cow->storage, "");
    return r < 0 ? r : write_volume_file(cow, place);
}

/* ---- opening: header and roots ---- */

static int bad_header(const char *what)
{
    return error_note(-UMBRA_E_CORRUPT, "the header of the volume is damaged: %s", what);
}

static int check_header(const struct cow_header *h)
{
    if (memcmp(h->magic, COW_HEADER_MAGIC, sizeof(h->magic)) != 0)
        return bad_header("it does not begin as one");
    if (le16_get(&h->version) > COW_VERSION)
        return error_note(-UMBRA_E_VERSION, "the volume has version %u, and this program knows %u",
                          le16_get(&h->version), COW_VERSION);
    if (le32_get(&h->checksum) != checksum_of_page(h, offsetof(struct cow_header, checksum)))
        return bad_header("wrong checksum");
    if (le16_get(&h->version) == 0 || le16_get(&h->identity_len) > COW_IDENTITY_MAX ||
        !block_bytes_are_good(le32_get(&h->block_bytes)))
        return bad_header("its sizes make no sense");
    for (size_t i = 0; i < sizeof(h->reserved0); i++)
        if (h->reserved0[i] != 0)
            return bad_header("what is reserved is not zero");
    for (size_t i = 0; i < sizeof(h->reserved1); i++)
        if (h->reserved1[i] != 0)
            return bad_header("what is reserved is not zero");
    return 0;
}

static int compare_origin(const struct cow_header *h, const struct cow_place *place)
{
    uint64_t bytes = le64_get(&h->origin_bytes);
    if (place->identity_len != le16_get(&h->identity_len) ||
        (place->identity_len > 0 && memcmp(place->identity, h->identity, place->identity_len) != 0))
        return error_note(-UMBRA_E_FOREIGN, "the volume is of another origin");
    if (bytes != place->origin->size_bytes)
        return error_note(-UMBRA_E_FOREIGN,
                          "the origin had %" PRIu64 " bytes, and has %" PRIu64 " now", bytes,
                          place->origin->size_bytes);
    return 0;
}

static bool root_is_good(const struct cow *cow, const struct cow_root *root)
{
    return memcmp(root->magic, COW_ROOT_MAGIC, sizeof(root->magic)) == 0 &&
           memcmp(root->volume_id, cow->volume_id, sizeof(root->volume_id)) == 0 &&
           le64_get(&root->sequence) != 0 &&
           le32_get(&root->checksum) == checksum_of_page(root, offsetof(struct cow_root, checksum));
}

static int take_root(struct cow *cow, const struct cow_root roots[2])
{
    for (unsigned i = 0; i < 2; i++) {
        if (!root_is_good(cow, &roots[i]) || le64_get(&roots[i].sequence) <= cow->root_sequence)
            continue;
        cow->root_sequence = le64_get(&roots[i].sequence);
        cow->root_place = i;
        cow->root_flags = le32_get(&roots[i].flags);
        memcpy(cow->origin_mark, roots[i].origin_mark, sizeof(cow->origin_mark));
        for (unsigned t = 0; t < COW_TABLE_COUNT; t++)
            cow->root_sums[t] = le64_get(&roots[i].sums[t]);
    }
    return cow->root_sequence != 0
               ? 0
               : error_note(-UMBRA_E_CORRUPT, "both roots of the volume are damaged");
}

static int read_volume_file(struct cow *cow, const struct cow_place *place)
{
    struct {
        struct cow_header header;
        struct cow_root roots[2];
    } all;
    size_t got;
    int r = io_open(place->storage, "volume", IO_READ | IO_WRITE, &cow->root_file);
    if (r == 0)
        r = io_pread(cow->root_file, &all, sizeof(all), 0, &got);
    if (r == 0 && got != sizeof(all))
        r = bad_header("it is too short");
    if (r == 0)
        r = check_header(&all.header);
    if (r == 0)
        r = compare_origin(&all.header, place);
    if (r < 0)
        return r;
    memcpy(cow->volume_id, all.header.volume_id, sizeof(cow->volume_id));
    set_geometry(cow, place, le32_get(&all.header.block_bytes));
    return take_root(cow, all.roots);
}

/* ---- opening: tables and log ---- */

static int check_mark(struct cow *cow)
{
    uint8_t mark[COW_MARK_LEN];
    if (!(cow->root_flags & COW_ROOT_CLEAN))
        return 0;
    int r = read_mark(cow, mark);
    if (r == 0 && memcmp(mark, cow->origin_mark, sizeof(mark)) != 0)
        cow->root_flags |= COW_ROOT_FOREIGN;
    return r;
}

static int load_tables(struct cow *cow, uint64_t *sequence)
{
    int r = open_tables(cow, IO_READ | IO_WRITE | IO_CREATE);
    for (unsigned i = 0; r == 0 && i < COW_TABLE_COUNT; i++) {
        struct io_stat st;
        bool damaged;
        r = io_stat(cow->storage, table_files[i].path, &st);
        if (r == 0)
            r = table_load(&cow->tables[i], st.size_bytes, cow->root_sequence, cow->root_sums[i],
                           sequence, &damaged);
        if (r == 0 && damaged)
            cow->root_flags |= COW_ROOT_DAMAGED;
        if (r == 0)
            r = io_sync(cow->table_files[i]);
    }
    return r;
}

/* The tables as they were found, durably, and what is wrong with them: to be known also when the
 * next steps are cut. */
static int begin(struct cow *cow)
{
    uint64_t sequence = cow->root_sequence;
    int r = check_mark(cow);
    if (r == 0)
        r = load_tables(cow, &sequence);
    if (r < 0)
        return r;
    cow->root_sequence = sequence + 1;
    for (unsigned i = 0; i < COW_TABLE_COUNT; i++)
        cow->root_sums[i] = table_sum(&cow->tables[i]);
    return write_root(cow);
}

static int recover(struct cow *cow, const struct cow_options *options)
{
    const struct wal_place place = {.io = cow->storage, .path = "log", .name = "log"};
    const struct umbra_log_options log_options = {
        .id = cow->volume_id,
        .checkpoint_bytes =
            options->checkpoint_bytes ? options->checkpoint_bytes : CHECKPOINT_BYTES_DEFAULT};
    int r = wal_open(&place, &log_options, &cow->log);
    if (r == 0)
        r = umbra_log_attach(cow->log, "cow", &manager, cow, &cow->client);
    /* More than there ever were: a sequence stands for one checkpoint at least. */
    cow->is_alone = options->no_threads;
    cow->sync_wanted = cow->sync_over = cow->sync_done = cow->root_sequence << 24;
    cow->recovering = true;
    if (r == 0)
        r = umbra_log_recover(cow->log, NULL);
    cow->recovering = false;
    cow_copy_vector_release(&cow->copies);
    return r;
}

/* ---- opening: what cannot be trusted ---- */

static int clear_zeros(struct cow *cow)
{
    int r = 0;
    for (uint64_t g = 0; r == 0 && g < group_count(cow); g++) {
        uint64_t mask = cow_zero_mask(cow, g);
        if (mask == 0)
            continue;
        const struct cow_log_zero clear = {.group = le64_make(g), .mask = le64_make(mask)};
        const struct cow_part part = {COW_LOG_ZERO_CLEAR, &clear, sizeof(clear)};
        r = cow_commit(cow, &part, 1);
    }
    return r;
}

/* Of lost settings, what must not be lost: numbers are used once. */
static int repair_settings(struct cow *cow)
{
    struct cow_settings_record s = cow->settings;
    uint32_t last = le32_get(&s.last_number);
    for (uint64_t i = 0; i < table_end(&cow->tables[COW_TABLE_MAP]); i++)
        last = MAX(last, map_at(&cow->map, (uint32_t)i).number);
    uint64_t cells = le64_get(&s.cells_max);
    if (cells == 0 || cells > COW_CELL_COUNT_MAX)
        s.cells_max = le64_make(MAX(cow->block_count / 10, (uint64_t)1));
    s.last_number = le32_make(MIN(last, UINT32_MAX - 2));
    s.flags = le32_make(le32_get(&s.flags) & COW_SETTINGS_PROTECT_SHADOWS);
    memset(s.reserved, 0, sizeof(s.reserved));
    struct cow_log_state state = {.index = le64_make(COW_STATE_SETTINGS)};
    memcpy(state.record, &s, sizeof(s));
    const struct cow_part part = {COW_LOG_STATE, &state, sizeof(state)};
    int r = cow_commit(cow, &part, 1);
    if (r == 0)
        cow->settings = s;
    return r;
}

/* All entries gone: also those that may come to stand for something again. */
static int clear_entries(struct cow *cow)
{
    struct cow_log_entry gone = {0};
    const struct cow_part part = {COW_LOG_ENTRIES, &gone, sizeof(gone)};
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < table_end(&cow->tables[COW_TABLE_MAP]); i++) {
        if (map_at(&cow->map, (uint32_t)i).number == 0)
            continue;
        gone.slot = le64_make(i);
        r = cow_commit(cow, &part, 1);
    }
    return r;
}

/* Records of shadows, also such as make no sense: nobody else would ever clear them. */
static int clear_shadow_records(struct cow *cow)
{
    static const uint8_t zeros[COW_STATE_BYTES];
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < COW_SHADOWS_MAX; i++) {
        struct cow_log_state state = {.index = le64_make(COW_STATE_SHADOWS + i)};
        table_get(&cow->tables[COW_TABLE_STATE], COW_STATE_SHADOWS + i, state.record);
        if (memcmp(state.record, zeros, sizeof(zeros)) == 0)
            continue;
        memset(state.record, 0, sizeof(state.record));
        const struct cow_part part = {COW_LOG_STATE, &state, sizeof(state)};
        r = cow_commit(cow, &part, 1);
    }
    return r;
}

static int delete_shadows(struct cow *cow, enum cow_reason reason)
{
    int r = 0;
    while (r == 0 && cow->living.count > 0) {
        uint32_t number = cow->living.numbers[0];
        r = cow_delete_admin(cow, number, reason);
        if (r == 0)
            log_warning("shadow %u is lost: %s", number, cow_reason_text(reason));
    }
    return r;
}

static int distrust(struct cow *cow)
{
    bool is_damaged = cow->root_flags & COW_ROOT_DAMAGED;
    if (!(cow->root_flags & (COW_ROOT_DAMAGED | COW_ROOT_FOREIGN)))
        return 0;
    int r = is_damaged ? repair_settings(cow) : 0;
    if (r == 0)
        r = clear_zeros(cow);
    if (r == 0)
        r = delete_shadows(cow, is_damaged ? COW_REASON_DAMAGED : COW_REASON_FOREIGN);
    if (r == 0 && is_damaged)
        r = clear_shadow_records(cow);
    if (r == 0 && is_damaged)
        r = clear_entries(cow);
    if (r < 0)
        return r;
    cow->root_flags &= ~(uint32_t)(COW_ROOT_DAMAGED | COW_ROOT_FOREIGN);
    cow->root_is_due = true;
    return umbra_log_checkpoint(cow->log);
}

static int load(struct cow *cow)
{
    bool damaged;
    int r = map_init(&cow->map, &cow->tables[COW_TABLE_MAP]);
    if (r == 0)
        r = cow_load(cow, &damaged);
    if (r < 0)
        return r;
    if (damaged)
        cow->root_flags |= COW_ROOT_DAMAGED;
    return distrust(cow);
}

static int start_threads(struct cow *cow)
{
    struct io_stat st;
    int r = io_stat(cow->storage, "cells", &st);
    if (r == 0)
        r = cow_ahead_start(cow, st.size_bytes);
    return r < 0 ? r : cow_cells_start(cow);
}

/* From now on the origin may be written to.  Until here the mark was right, and has to be looked at
 * again if this was not reached. */
static int leave_mark(struct cow *cow)
{
    if (!(cow->root_flags & COW_ROOT_CLEAN))
        return 0;
    cow->root_flags &= ~(uint32_t)COW_ROOT_CLEAN;
    cow->root_is_due = true;
    return umbra_log_checkpoint(cow->log);
}

int cow_open(const struct cow_place *place, const struct cow_options *options, struct cow **ret_cow)
{
    CLEANUP(cow_freep) struct cow *cow = cow_new();
    if (!cow)
        return -ENOMEM;
    int r = check_place(place);
    cow->stage = aligned_alloc(COW_BLOCK_BYTES_MIN, COW_STAGE_BYTES);
    if (r == 0)
        r = read_volume_file(cow, place);
    if (r == 0)
        r = begin(cow);
    if (r == 0)
        r = cow->stage ? 0 : -ENOMEM;
    if (r == 0)
        r = cow_device_new_direct(place->storage, "cells", cow->block_bytes * COW_CELL_COUNT_MAX,
                                  &cow->cells);
    if (r == 0)
        r = recover(cow, options);
    if (r == 0)
        r = load(cow);
    if (r == 0)
        r = leave_mark(cow);
    if (r == 0 && !options->no_threads)
        r = start_threads(cow);
    if (r < 0)
        return r;
    *ret_cow = TAKE_PTR(cow);
    return 0;
}

/* ---- closing ---- */

static int end_in_order(struct cow *cow)
{
    int r = cow_flush(cow);
    if (r == 0)
        r = umbra_log_checkpoint(cow->log);
    if (r == 0)
        r = read_mark(cow, cow->origin_mark);
    if (r < 0)
        return r;
    cow->root_flags |= COW_ROOT_CLEAN;
    cow->root_sequence++;
    return write_root(cow);
}

int cow_close(struct cow *cow)
{
    if (!cow)
        return 0;
    cow_ahead_stop(cow);
    int r = end_in_order(cow);
    cow_free(cow);
    return r;
}
