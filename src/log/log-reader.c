/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages and records back from the file, and where the log ends. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basic/crc32c.h"
#include "log/log-private.h"

#define WINDOW_PAGES 64u
/* A flipped bit in a read is not one on disk. */
#define READ_TRIES 5u

int wal_reader_init(struct wal_reader *reader, struct io_file *file, const char *name,
                    const struct wal_geometry *g)
{
    *reader = (struct wal_reader){
        .file = file,
        .name = name,
        .geometry = *g,
        .window_pages = MIN((uint64_t)WINDOW_PAGES, g->ring_bytes / WAL_PAGE_BYTES),
    };
    reader->window = malloc(reader->window_pages * WAL_PAGE_BYTES);
    reader->verified = calloc(reader->window_pages, 1);
    return reader->window && reader->verified ? 0 : -ENOMEM;
}

void wal_reader_release(struct wal_reader *reader)
{
    free(reader->window);
    free(reader->verified);
    buffer_release(&reader->record);
    *reader = (struct wal_reader){0};
}

int wal_reader_damage(const struct wal_reader *reader, umbra_log_lsn lsn, const char *what)
{
    return error_note(-UMBRA_E_CORRUPT,
                      "log '%s' is damaged at offset %" PRIu64 ", LSN %" PRIu64 ": %s",
                      reader->name, wal_offset_of(&reader->geometry, lsn), lsn, what);
}

/* ---- pages ---- */

static bool page_is_good(const struct wal_reader *reader, const uint8_t *page, umbra_log_lsn lsn)
{
    const struct wal_page_header *h = (const void *)page;
    uint16_t used = le16_get(&h->used), first = le16_get(&h->first_record);
    uint16_t index = le16_get(&h->flush_index), count = le16_get(&h->flush_count);

    if (memcmp(h->magic, WAL_PAGE_MAGIC, sizeof(h->magic)) != 0 || le64_get(&h->lsn) != lsn ||
        memcmp(h->log_id, reader->geometry.id, sizeof(h->log_id)) != 0 ||
        le32_get(&h->checksum) != wal_page_checksum(page))
        return false;
    return used > sizeof(*h) && used <= WAL_PAGE_BYTES && used % WAL_RECORD_ALIGN == 0 &&
           first < used && (first == 0 || first >= sizeof(*h)) && first % WAL_RECORD_ALIGN == 0 &&
           index < count && count <= reader->geometry.flush_bytes / WAL_PAGE_BYTES &&
           (index + 1 == count || used == WAL_PAGE_BYTES) && (index > 0 || first == sizeof(*h)) &&
           le64_get(&h->durable_lsn) <= lsn;
}

/* Bytes at a place in the ring; what is behind the end of the file is zero. */
static int read_bytes(const struct wal_reader *reader, uint8_t *data, uint64_t len,
                      umbra_log_lsn lsn)
{
    size_t got = 0;
    int r = io_pread(reader->file, data, len, wal_offset_of(&reader->geometry, lsn), &got);
    if (r == 0 && got < len)
        memset(data + got, 0, len - got);
    return r;
}

/* Windows begin at multiples of their size, so that reading backwards uses them, too. */
static int load_window(struct wal_reader *reader, umbra_log_lsn page_lsn)
{
    uint64_t ring_at = page_lsn % reader->geometry.ring_bytes;
    uint64_t in_window = ring_at % (reader->window_pages * WAL_PAGE_BYTES);
    uint64_t start = ring_at - in_window;
    uint64_t len = MIN(reader->window_pages * WAL_PAGE_BYTES, reader->geometry.ring_bytes - start);

    in_window = MIN(in_window, page_lsn - WAL_LSN_FIRST);
    len -= ring_at - in_window - start;
    reader->window_lsn = 0;
    int r = read_bytes(reader, reader->window, len, page_lsn - in_window);
    if (r < 0)
        return r;
    reader->window_lsn = page_lsn - in_window;
    reader->window_len = len / WAL_PAGE_BYTES;
    memset(reader->verified, 0, reader->window_len);
    return 0;
}

static bool in_window(const struct wal_reader *reader, umbra_log_lsn page_lsn)
{
    return reader->window_lsn != 0 && page_lsn >= reader->window_lsn &&
           page_lsn < reader->window_lsn + reader->window_len * WAL_PAGE_BYTES;
}

int wal_reader_page(struct wal_reader *reader, umbra_log_lsn page_lsn,
                    const struct wal_page_header **ret_page)
{
    int r = 0;
    if (!in_window(reader, page_lsn))
        r = load_window(reader, page_lsn);
    if (r < 0)
        return r;
    uint64_t index = (page_lsn - reader->window_lsn) / WAL_PAGE_BYTES;
    uint8_t *page = reader->window + index * WAL_PAGE_BYTES;
    for (unsigned try = 1; !reader->verified[index]; try++) {
        reader->verified[index] = page_is_good(reader, page, page_lsn);
        if (reader->verified[index])
            break;
        if (try == READ_TRIES)
            return -UMBRA_E_CORRUPT;
        r = read_bytes(reader, page, WAL_PAGE_BYTES, page_lsn);
        if (r < 0)
            return r;
    }
    *ret_page = (const void *)page;
    return 0;
}

/* ---- the end ---- */

/* How far the pages of the log are followed, and what the last good one said. */
struct chain {
    umbra_log_lsn next; /* the page that has to follow */
    bool begun;
    uint32_t checksum, incarnation;
    uint16_t index, count;   /* of the page before in its flush */
    struct wal_end complete; /* behind the last whole flush */
};

static bool chain_takes(const struct chain *c, const struct wal_page_header *h)
{
    uint16_t index = le16_get(&h->flush_index), count = le16_get(&h->flush_count);
    uint32_t incarnation = le32_get(&h->incarnation);
    if (!c->begun)
        return true;
    if (le32_get(&h->prev_checksum) != c->checksum || incarnation < c->incarnation)
        return false;
    bool within = c->index + 1 < c->count;
    return within ? index == c->index + 1 && count == c->count && incarnation == c->incarnation
                  : index == 0;
}

static void chain_add(struct chain *c, const struct wal_page_header *h)
{
    c->begun = true;
    c->next += WAL_PAGE_BYTES;
    c->checksum = le32_get(&h->checksum);
    c->incarnation = le32_get(&h->incarnation);
    c->index = le16_get(&h->flush_index);
    c->count = le16_get(&h->flush_count);
    if (c->index + 1 == c->count)
        c->complete = (struct wal_end){
            .lsn = c->next, .last_checksum = c->checksum, .incarnation = c->incarnation};
}

/* Whether a page behind this one says that it had been durable.  Only one flush is written at a
 * time, so if a later one was begun, its first pages are not further away than this. */
static int known_durable(struct wal_reader *reader, umbra_log_lsn lsn, bool *ret_known)
{
    uint64_t distance = MIN(2 * reader->geometry.flush_bytes, reader->geometry.ring_bytes);
    for (umbra_log_lsn p = lsn + WAL_PAGE_BYTES; p < lsn + distance; p += WAL_PAGE_BYTES) {
        const struct wal_page_header *h;
        int r = wal_reader_page(reader, p, &h);
        if (r < 0 && r != -UMBRA_E_CORRUPT)
            return r;
        if (r == 0 && le64_get(&h->durable_lsn) > lsn) {
            *ret_known = true;
            return 0;
        }
    }
    *ret_known = false;
    return 0;
}

int wal_find_end(struct wal_reader *reader, umbra_log_lsn from_lsn, umbra_log_lsn durable_lsn,
                 struct wal_end *ret_end)
{
    umbra_log_lsn from = wal_page_of(from_lsn);
    struct chain c = {.next = from, .complete = {.lsn = from}};
    bool durable = false;

    while (c.next - from < reader->geometry.ring_bytes) {
        const struct wal_page_header *h;
        int r = wal_reader_page(reader, c.next, &h);
        if (r < 0 && r != -UMBRA_E_CORRUPT)
            return r;
        if (r < 0 || !chain_takes(&c, h)) {
            durable = c.next < durable_lsn;
            r = durable ? 0 : known_durable(reader, c.next, &durable);
            if (r < 0)
                return r;
            break;
        }
        chain_add(&c, h);
    }
    *ret_end = c.complete;
    if (durable)
        return wal_reader_damage(reader, c.next,
                                 "the page is not what was written there, and is not the end");
    return 0;
}

/* ---- records ---- */

/* The bytes of one record, from page to page. */
struct gather {
    struct wal_reader *reader;
    umbra_log_lsn start, end; /* of the record; of the log */
    umbra_log_lsn at;
};

static int damaged_record(const struct gather *g, const char *what)
{
    return wal_reader_damage(g->reader, g->start, what);
}

/* Appends len bytes of the stream to reader->record. */
static int gather_bytes(struct gather *g, uint64_t len)
{
    struct buffer *record = &g->reader->record;
    while (len > 0) {
        const struct wal_page_header *h;
        umbra_log_lsn page_lsn = wal_page_of(g->at);
        if (page_lsn >= g->end)
            return damaged_record(g, "the record reaches beyond the end");
        int r = wal_reader_page(g->reader, page_lsn, &h);
        if (r == -UMBRA_E_CORRUPT)
            return wal_reader_damage(g->reader, page_lsn, "the page is not what was written there");
        if (r < 0)
            return r;
        uint64_t in_page = g->at - page_lsn;
        if (in_page == 0) {
            if (le16_get(&h->flush_index) == 0)
                return damaged_record(g, "the record reaches into another flush");
            in_page = sizeof(*h);
        }
        if (in_page >= le16_get(&h->used))
            return damaged_record(g, "the record reaches beyond its flush");
        size_t n = (size_t)MIN(len, le16_get(&h->used) - in_page);
        buffer_put(record, (const uint8_t *)h + in_page, n);
        g->at = page_lsn + in_page + n;
        len -= n;
    }
    return buffer_finish(record);
}

static uint32_t record_checksum(const uint8_t *data, size_t len)
{
    struct wal_record_header h;
    memcpy(&h, data, sizeof(h));
    h.checksum = le32_make(0);
    return crc32c(crc32c(0, &h, sizeof(h)), data + sizeof(h), len - sizeof(h));
}

static bool header_is_sane(const struct wal_geometry *g, const struct wal_record_header *h,
                           umbra_log_lsn lsn)
{
    uint64_t parts = (uint64_t)le32_get(&h->redo_len) + le32_get(&h->undo_len);
    return le64_get(&h->lsn) == lsn && parts <= wal_data_max(g) &&
           le32_get(&h->len) == sizeof(*h) + parts && le64_get(&h->prev_lsn) < lsn &&
           le64_get(&h->undo_next_lsn) < lsn && le64_get(&h->undoes_lsn) < lsn &&
           h->type >= UMBRA_LOG_UPDATE && h->type <= UMBRA_LOG_RESTART &&
           h->client < UMBRA_LOG_CLIENTS_MAX && h->manager < UMBRA_LOG_MANAGER_MAX &&
           h->reserved[0] == 0 && h->reserved[1] == 0 &&
           (h->flags == 0 || (h->flags == WAL_RECORD_VOID && h->type == UMBRA_LOG_COMPENSATION));
}

static void decode_record(const struct wal_record_header *h, const uint8_t *data,
                          struct umbra_log_record *ret_record)
{
    *ret_record = (struct umbra_log_record){
        .lsn = le64_get(&h->lsn),
        .prev_lsn = le64_get(&h->prev_lsn),
        .undo_next_lsn = le64_get(&h->undo_next_lsn),
        .undoes_lsn = le64_get(&h->undoes_lsn),
        .is_void = h->flags & WAL_RECORD_VOID,
        .txn = le64_get(&h->txn),
        .type = (enum umbra_log_record_type)h->type,
        .manager = (enum umbra_log_manager_id)h->manager,
        .client = h->client,
        .op = le16_get(&h->op),
        .redo = data + sizeof(*h),
        .undo = data + sizeof(*h) + le32_get(&h->redo_len),
        .redo_len = le32_get(&h->redo_len),
        .undo_len = le32_get(&h->undo_len),
    };
}

int wal_reader_record(struct wal_reader *reader, umbra_log_lsn lsn, umbra_log_lsn end_lsn,
                      struct umbra_log_record *ret_record, umbra_log_lsn *ret_next)
{
    struct gather g = {.reader = reader, .start = lsn, .end = end_lsn, .at = lsn};
    struct wal_record_header h;

    if (lsn < WAL_LSN_FIRST || lsn % WAL_RECORD_ALIGN != 0 ||
        lsn % WAL_PAGE_BYTES < sizeof(struct wal_page_header) || lsn >= end_lsn)
        return wal_reader_damage(reader, lsn, "no record can begin here");
    buffer_clear(&reader->record);
    int r = gather_bytes(&g, sizeof(h));
    if (r < 0)
        return r;
    memcpy(&h, reader->record.data, sizeof(h));
    if (!header_is_sane(&reader->geometry, &h, lsn))
        return damaged_record(&g, "the record makes no sense");
    uint64_t stored = wal_record_bytes(le32_get(&h.redo_len), le32_get(&h.undo_len));
    r = gather_bytes(&g, stored - sizeof(h));
    if (r < 0)
        return r;
    if (record_checksum(reader->record.data, le32_get(&h.len)) != le32_get(&h.checksum))
        return damaged_record(&g, "the record has a wrong checksum");
    decode_record(&h, reader->record.data, ret_record);
    *ret_next = g.at;
    return 0;
}

int wal_reader_next(struct wal_reader *reader, umbra_log_lsn end_lsn, umbra_log_lsn *lsn)
{
    umbra_log_lsn at = *lsn;
    const struct wal_page_header *h;

    if (at % WAL_PAGE_BYTES != 0 && at < end_lsn) {
        int r = wal_reader_page(reader, wal_page_of(at), &h);
        if (r == -UMBRA_E_CORRUPT)
            return wal_reader_damage(reader, at, "the page is not what was written there");
        if (r < 0)
            return r;
        if (at % WAL_PAGE_BYTES >= le16_get(&h->used))
            at = wal_page_up(at);
    }
    if (at >= end_lsn)
        return -ENODATA;
    *lsn = at % WAL_PAGE_BYTES == 0 ? at + sizeof(struct wal_page_header) : at;
    return 0;
}
