/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restart areas: where recovery begins.  There are two, each written and synced before the other is
 * touched, so one is always good.  Either is enough: the log is kept from where the older of them
 * needs it, and both are written before anything is given up.
 */
#include <inttypes.h>
#include <string.h>

#include "basic/crc32c.h"
#include "log/log-private.h"

/* A flipped bit in a read is not one on disk. */
#define READ_TRIES 5

static uint32_t area_checksum(const struct wal_area *area)
{
    struct wal_area copy = *area;
    copy.checksum = le32_make(0);
    return crc32c(0, &copy, sizeof(copy));
}

/* ---- one area ---- */

static void encode_client(const struct wal_client_state *from, struct wal_area_client *to)
{
    memcpy(to->name, from->name, strlen(from->name));
    to->manager = from->manager;
    to->restart_len = le16_make(from->restart_len);
    memcpy(to->restart, from->restart, from->restart_len);
}

void wal_area_encode(const struct wal_geometry *g, const struct wal_state *state,
                     struct wal_area *ret_area)
{
    struct wal_area a = {
        .version = le16_make(WAL_VERSION),
        .sequence = le64_make(state->sequence),
        .file_bytes = le64_make(g->file_bytes),
        .flush_bytes = le32_make((uint32_t)g->flush_bytes),
        .incarnation = le32_make(state->incarnation),
        .checkpoint_lsn = le64_make(state->checkpoint_lsn),
        .redo_lsn = le64_make(state->redo_lsn),
        .oldest_lsn = le64_make(state->oldest_lsn),
        .durable_lsn = le64_make(state->durable_lsn),
        .next_txn = le64_make(state->next_txn),
    };
    memcpy(a.magic, WAL_AREA_MAGIC, sizeof(a.magic));
    memcpy(a.log_id, g->id, sizeof(a.log_id));
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        if (state->clients[i].name[0])
            encode_client(&state->clients[i], &a.clients[i]);
    a.checksum = le32_make(area_checksum(&a));
    *ret_area = a;
}

static bool all_zero(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static bool decode_client(const struct wal_area_client *from, struct wal_client_state *to)
{
    size_t len = le16_get(&from->restart_len), name_len = strnlen(from->name, sizeof(from->name));
    if (name_len == 0)
        return all_zero(from, sizeof(*from));
    if (name_len > UMBRA_LOG_NAME_MAX || len > sizeof(from->restart) ||
        from->manager >= UMBRA_LOG_MANAGER_MAX ||
        !all_zero(from->name + name_len, sizeof(from->name) - name_len) ||
        !all_zero(from->reserved0, sizeof(from->reserved0)) ||
        !all_zero(from->reserved1, sizeof(from->reserved1)) ||
        !all_zero(from->restart + len, sizeof(from->restart) - len))
        return false;
    memcpy(to->name, from->name, name_len + 1);
    to->manager = from->manager;
    to->restart_len = (uint16_t)len;
    memcpy(to->restart, from->restart, len);
    return true;
}

static bool is_record_lsn(umbra_log_lsn lsn)
{
    return lsn % WAL_RECORD_ALIGN == 0 && lsn >= WAL_LSN_FIRST + sizeof(struct wal_page_header) &&
           lsn % WAL_PAGE_BYTES >= sizeof(struct wal_page_header);
}

/* No checkpoint and no LSNs, or LSNs in their order, all of a log that is durable. */
static bool lsns_are_sane(const struct wal_geometry *g, const struct wal_state *s)
{
    if (s->durable_lsn < WAL_LSN_FIRST || s->durable_lsn > WAL_LSN_MAX ||
        s->durable_lsn % WAL_PAGE_BYTES != 0 || s->next_txn == 0)
        return false;
    if (s->checkpoint_lsn == 0)
        return s->redo_lsn == 0 && s->oldest_lsn == 0;
    return is_record_lsn(s->checkpoint_lsn) && is_record_lsn(s->redo_lsn) &&
           is_record_lsn(s->oldest_lsn) && s->oldest_lsn <= s->redo_lsn &&
           s->redo_lsn < s->checkpoint_lsn && s->checkpoint_lsn < s->durable_lsn &&
           s->durable_lsn - wal_page_of(s->oldest_lsn) <= g->ring_bytes;
}

static bool geometry_is_sane(const struct wal_geometry *g)
{
    return g->file_bytes % WAL_PAGE_BYTES == 0 && g->file_bytes >= WAL_FILE_MIN &&
           g->file_bytes <= UMBRA_LOG_FILE_MAX && g->flush_bytes % WAL_PAGE_BYTES == 0 &&
           g->flush_bytes >= WAL_FLUSH_BYTES_MIN && g->flush_bytes <= WAL_FLUSH_BYTES_MAX &&
           g->flush_bytes <= g->ring_bytes / 2;
}

static bool reserved_is_zero(const struct wal_area *a)
{
    return all_zero(a->reserved0, sizeof(a->reserved0)) &&
           all_zero(a->reserved1, sizeof(a->reserved1)) &&
           all_zero(a->reserved2, sizeof(a->reserved2));
}

int wal_area_decode(const struct wal_area *area, struct wal_geometry *ret_geometry,
                    struct wal_state *ret_state, uint16_t *ret_version)
{
    struct wal_geometry g = {
        .file_bytes = le64_get(&area->file_bytes),
        .flush_bytes = le32_get(&area->flush_bytes),
    };
    struct wal_state s = {
        .sequence = le64_get(&area->sequence),
        .incarnation = le32_get(&area->incarnation),
        .checkpoint_lsn = le64_get(&area->checkpoint_lsn),
        .redo_lsn = le64_get(&area->redo_lsn),
        .oldest_lsn = le64_get(&area->oldest_lsn),
        .durable_lsn = le64_get(&area->durable_lsn),
        .next_txn = le64_get(&area->next_txn),
    };
    if (memcmp(area->magic, WAL_AREA_MAGIC, sizeof(area->magic)) != 0 ||
        le32_get(&area->checksum) != area_checksum(area))
        return -UMBRA_E_CORRUPT;
    *ret_version = le16_get(&area->version);
    if (*ret_version != WAL_VERSION)
        return -UMBRA_E_VERSION;
    g.ring_bytes = g.file_bytes - 2 * WAL_PAGE_BYTES;
    memcpy(g.id, area->log_id, sizeof(g.id));
    if (!geometry_is_sane(&g) || !lsns_are_sane(&g, &s) || !reserved_is_zero(area))
        return -UMBRA_E_CORRUPT;
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        if (!decode_client(&area->clients[i], &s.clients[i]))
            return -UMBRA_E_CORRUPT;
    *ret_geometry = g;
    *ret_state = s;
    return 0;
}

/* ---- both ---- */

static uint64_t area_offset(uint64_t file_bytes, unsigned index)
{
    return index == 0 ? 0 : file_bytes - WAL_PAGE_BYTES;
}

struct found {
    int r;
    struct wal_geometry geometry;
    struct wal_state state;
    uint16_t version;
};

/* 0, whatever is found; an error is one of reading. */
static int read_area(struct io_file *file, uint64_t offset, struct found *ret_found)
{
    struct wal_area area;
    *ret_found = (struct found){.r = -UMBRA_E_CORRUPT};
    for (unsigned try = 0; try < READ_TRIES && ret_found->r == -UMBRA_E_CORRUPT; try++) {
        size_t len = 0;
        int r = io_pread(file, &area, sizeof(area), offset, &len);
        if (r < 0)
            return r;
        if (len == sizeof(area))
            ret_found->r = wal_area_decode(&area, &ret_found->geometry, &ret_found->state,
                                           &ret_found->version);
    }
    return 0;
}

static int check_choice(const char *name, uint64_t file_bytes, const uint8_t *expected_id,
                        const struct wal_geometry *g)
{
    if (g->file_bytes > file_bytes)
        return error_note(-UMBRA_E_CORRUPT,
                          "log '%s' is cut short: it has %" PRIu64 " bytes of %" PRIu64, name,
                          file_bytes, g->file_bytes);
    if (expected_id && memcmp(expected_id, g->id, sizeof(g->id)) != 0)
        return error_note_describe(-UMBRA_E_FOREIGN, "log '%s'", name);
    return 0;
}

/* Where area B is follows from area A, or else from the file. */
static int find_areas(struct io_file *file, const char *name, uint64_t file_bytes,
                      struct found found[WAL_AREA_COUNT])
{
    if (file_bytes < WAL_FILE_MIN)
        return error_note(-UMBRA_E_CORRUPT, "'%s' is no log: it has only %" PRIu64 " bytes", name,
                          file_bytes);
    int r = read_area(file, 0, &found[0]);
    if (r < 0)
        return r;
    uint64_t end = found[0].r == 0 ? found[0].geometry.file_bytes : file_bytes;
    found[1].r = -UMBRA_E_CORRUPT;
    return end <= file_bytes ? read_area(file, area_offset(end, 1), &found[1]) : 0;
}

int wal_areas_read(struct io_file *file, const char *name, uint64_t file_bytes,
                   const uint8_t *expected_id, struct wal_areas *ret_areas)
{
    struct found found[WAL_AREA_COUNT];
    int r = find_areas(file, name, file_bytes, found);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < WAL_AREA_COUNT; i++)
        if (found[i].r == -UMBRA_E_VERSION)
            return error_note_describe(-UMBRA_E_VERSION, "log '%s' has format version %u", name,
                                       found[i].version);
    if (found[0].r < 0 && found[1].r < 0)
        return error_note(-UMBRA_E_CORRUPT,
                          "'%s' is no log, or both of its restart areas (at 0 and %" PRIu64
                          ") are damaged",
                          name, area_offset(file_bytes, 1));
    unsigned best =
        found[1].r == 0 && (found[0].r < 0 || found[1].state.sequence > found[0].state.sequence);
    if (found[0].r == 0 && found[1].r == 0 &&
        memcmp(&found[0].geometry, &found[1].geometry, sizeof(found[0].geometry)) != 0)
        return error_note(-UMBRA_E_CORRUPT, "log '%s': its restart areas are of different logs",
                          name);
    r = check_choice(name, file_bytes, expected_id, &found[best].geometry);
    if (r < 0)
        return r;
    *ret_areas = (struct wal_areas){
        .geometry = found[best].geometry,
        .state = found[best].state,
        .good = {found[0].r == 0, found[1].r == 0},
        .version = found[best].version,
    };
    return 0;
}

int wal_areas_write(struct io_file *file, const struct wal_geometry *g, struct wal_state *state)
{
    void *page = NULL;
    if (posix_memalign(&page, WAL_PAGE_BYTES, sizeof(struct wal_area)) != 0)
        return -ENOMEM;
    CLEANUP_FREE struct wal_area *area = page;
    /* The one that does not count first. */
    for (unsigned i = 0; i < WAL_AREA_COUNT; i++) {
        state->sequence++;
        unsigned index = (unsigned)(state->sequence % WAL_AREA_COUNT);
        wal_area_encode(g, state, area);
        struct iovec iov = {.iov_base = area, .iov_len = sizeof(*area)};
        int r = io_pwritev(file, &iov, 1, area_offset(g->file_bytes, index));
        if (r == 0)
            r = io_sync(file);
        if (r < 0)
            return r;
    }
    return 0;
}
