/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The input is a log in short: the first AREA_BYTES of a restart area, then pages, each as a length
 * (le16) and so many bytes of its beginning.  Magics, checksums, LSNs and ids are put right, as no
 * mutation would ever find them; everything else is the input's.  What is read, opened and
 * recovered must bear that; and what has been recovered is a log that reads, with nothing left to
 * redo.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/buffer.h"
#include "basic/crc32c.h"
#include "basic/error.h"
#include "log/log-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define AREA_BYTES 512u
#define FILE_BYTES (34 * WAL_PAGE_BYTES)
#define PAGES_MAX  32u

static void require(bool fact)
{
    if (!fact)
        abort();
}

/* ---- the log that the input stands for ---- */

static void make_area(struct reader *r, struct wal_area *area)
{
    memset(area, 0, sizeof(*area));
    reader_copy(r, area, AREA_BYTES);
    memcpy(area->magic, WAL_AREA_MAGIC, sizeof(area->magic));
    area->file_bytes = le64_make(FILE_BYTES);
    area->checksum = le32_make(0);
    area->checksum = le32_make(crc32c(0, area, sizeof(*area)));
}

/* Of records that lie within the page. */
static void mend_records(uint8_t *page, umbra_log_lsn lsn)
{
    size_t at = sizeof(struct wal_page_header);
    struct wal_record_header h;
    while (at + sizeof(h) <= WAL_PAGE_BYTES) {
        memcpy(&h, page + at, sizeof(h));
        size_t record_len = le32_get(&h.len);
        if (record_len < sizeof(h) || record_len > WAL_PAGE_BYTES - at)
            return;
        h.lsn = le64_make(lsn + at);
        h.checksum = le32_make(0);
        memcpy(page + at, &h, sizeof(h));
        h.checksum = le32_make(crc32c(0, page + at, record_len));
        memcpy(page + at, &h, sizeof(h));
        at += (record_len + WAL_RECORD_ALIGN - 1) / WAL_RECORD_ALIGN * WAL_RECORD_ALIGN;
    }
}

static void make_page(struct reader *r, const struct wal_area *area, uint8_t *page,
                      umbra_log_lsn lsn, uint32_t *checksum)
{
    struct wal_page_header *h = (struct wal_page_header *)(void *)page;
    size_t n = MIN((size_t)reader_u16(r), reader_left(r));
    memset(page, 0, WAL_PAGE_BYTES);
    reader_copy(r, page, MIN(n, (size_t)WAL_PAGE_BYTES));
    memcpy(h->magic, WAL_PAGE_MAGIC, sizeof(h->magic));
    memcpy(h->log_id, area->log_id, sizeof(h->log_id));
    h->lsn = le64_make(lsn);
    h->prev_checksum = le32_make(*checksum);
    mend_records(page, lsn);
    *checksum = wal_page_checksum(page);
    h->checksum = le32_make(*checksum);
}

static void put(struct io_file *file, const void *data, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = WAL_PAGE_BYTES};
    require(io_pwritev(file, &iov, 1, offset) == 0);
}

static void make_log(struct io *io, const uint8_t *data, size_t len)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    struct reader r = reader_make(data, len);
    struct wal_area area;
    uint8_t page[WAL_PAGE_BYTES];
    uint32_t checksum = 0;

    require(io_open(io, "log", IO_WRITE | IO_CREATE, &file) == 0);
    make_area(&r, &area);
    put(file, &area, 0);
    put(file, &area, FILE_BYTES - WAL_PAGE_BYTES);
    umbra_log_lsn lsn = MAX(wal_page_of(le64_get(&area.redo_lsn)), WAL_LSN_FIRST);
    if (lsn > WAL_LSN_MAX)
        return;
    for (unsigned i = 0; i < PAGES_MAX && reader_left(&r) > 2; i++, lsn += WAL_PAGE_BYTES) {
        make_page(&r, &area, page, lsn, &checksum);
        put(file, page, WAL_PAGE_BYTES + lsn % (FILE_BYTES - 2 * WAL_PAGE_BYTES));
    }
}

/* ---- what is done with it ---- */

static int change(void *userdata, const struct umbra_log_change *c)
{
    unsigned *sum = userdata;
    for (size_t i = 0; i < c->len; i++)
        *sum += ((const uint8_t *)c->data)[i];
    return 0;
}

static int look(const struct umbra_log_record *record, void *userdata)
{
    const struct umbra_log_change c = {.data = record->redo,
                                       .len = record->redo_len + (size_t)record->undo_len};
    return change(userdata, &c);
}

static int scan(const struct wal_place *place, bool history, unsigned *sum)
{
    const struct umbra_log_scan_options options = {
        .record = look, .userdata = sum, .history = history};
    struct umbra_log_info info;
    return wal_scan(place, &options, &info);
}

static int recover(const struct wal_place *place, unsigned *sum,
                   struct umbra_log_recovery *ret_recovery)
{
    static const struct umbra_log_options options = {.flags = UMBRA_LOG_NO_WAIT};
    static const struct umbra_log_manager managers[] = {
        {.id = UMBRA_LOG_MANAGER_TEST, .redo = change, .undo = change, .note = change},
        {.id = UMBRA_LOG_MANAGER_TREE, .flags = UMBRA_LOG_UNDO_ANY, .redo = change, .undo = change},
    };
    struct umbra_log *log;
    struct umbra_log_client *client;
    int r = wal_open(place, &options, &log);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++) {
        const struct wal_client_state *state = &log->state.clients[i];
        if (*state->name && state->manager < ELEMENTSOF(managers))
            IGNORE_RESULT(
                umbra_log_attach(log, state->name, &managers[state->manager], sum, &client));
    }
    r = umbra_log_recover(log, ret_recovery);
    umbra_log_free(log);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(io_freep) struct io *io = NULL;
    struct umbra_log_recovery recovery = {0};
    unsigned sum = 0;

    require(io_new_memory(1, &io) == 0);
    make_log(io, data, len);
    const struct wal_place place = {.io = io, .path = "log", .name = "log"};
    IGNORE_RESULT(scan(&place, true, &sum));
    if (recover(&place, &sum, &recovery) < 0)
        return 0;
    require(scan(&place, false, &sum) == 0);
    require(recover(&place, &sum, &recovery) == 0 && recovery.undo_count == 0);
    return 0;
}
