/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading a log from outside, without changing it. */
#include <stdio.h>
#include <string.h>

#include "log/log-private.h"

struct scan {
    const struct umbra_log_scan_options *options;
    struct umbra_log_info *info;
    struct wal_areas areas;
    struct wal_reader reader;
    struct wal_end end;
    struct wal_analysis analysis;
    umbra_log_lsn redo_lsn;
};

static void scan_release(struct scan *scan)
{
    wal_reader_release(&scan->reader);
    wal_analysis_release(&scan->analysis);
}

static void fill_info(struct scan *scan)
{
    const struct wal_state *s = &scan->areas.state;
    struct umbra_log_info *info = scan->info;
    *info = (struct umbra_log_info){
        .version = scan->areas.version,
        .incarnation = s->incarnation,
        .file_bytes = scan->areas.geometry.file_bytes,
        .ring_bytes = scan->areas.geometry.ring_bytes,
        .area_good = {scan->areas.good[0], scan->areas.good[1]},
        .checkpoint_lsn = s->checkpoint_lsn,
        .redo_lsn = s->redo_lsn,
        .oldest_lsn = s->oldest_lsn,
    };
    memcpy(info->id, scan->areas.geometry.id, sizeof(info->id));
    for (size_t i = 0; i < UMBRA_LOG_CLIENTS_MAX; i++)
        memcpy(info->client_names[i], s->clients[i].name, sizeof(info->client_names[i]));
}

/* The first page of the flush with the oldest page that is still there, going back from lsn; the
 * pages are held together by their checksums. */
static int find_history(struct scan *scan, umbra_log_lsn *lsn)
{
    umbra_log_lsn page = wal_page_of(*lsn), found = *lsn;
    const struct wal_page_header *h;
    int r = wal_reader_page(&scan->reader, page, &h);
    while (r == 0) {
        uint32_t wanted = le32_get(&h->prev_checksum);
        if (le16_get(&h->flush_index) == 0)
            found = page + sizeof(*h);
        if (page == WAL_LSN_FIRST || scan->end.lsn - page >= scan->areas.geometry.ring_bytes)
            break;
        page -= WAL_PAGE_BYTES;
        r = wal_reader_page(&scan->reader, page, &h);
        if (r == 0 && le32_get(&h->checksum) != wanted)
            break;
    }
    if (r < 0 && r != -UMBRA_E_CORRUPT)
        return r;
    *lsn = found;
    return 0;
}

static int take_record(struct scan *scan, const struct umbra_log_record *record)
{
    int r = 0;
    if (record->lsn >= scan->redo_lsn)
        r = wal_analysis_add(&scan->analysis, &scan->reader, record);
    if (r < 0)
        return r;
    scan->info->record_count++;
    return scan->options->record ? scan->options->record(record, scan->options->userdata) : 0;
}

static int read_records(struct scan *scan, umbra_log_lsn at)
{
    for (;;) {
        struct umbra_log_record record;
        int r = wal_reader_next(&scan->reader, scan->end.lsn, &at);
        if (r == -ENODATA)
            return 0;
        if (r == 0)
            r = wal_reader_record(&scan->reader, at, scan->end.lsn, &record, &at);
        if (r == 0)
            r = take_record(scan, &record);
        if (r != 0)
            return r;
    }
}

static void count_open(struct scan *scan)
{
    for (size_t i = 0; i < scan->analysis.txns.count; i++)
        scan->info->open_txns += !scan->analysis.txns.items[i].over;
}

static int scan_records(struct scan *scan)
{
    struct error_report damage = {0};
    const struct wal_state *s = &scan->areas.state;
    umbra_log_lsn first = s->oldest_lsn ? s->oldest_lsn : WAL_LSN_FIRST;
    scan->redo_lsn = s->redo_lsn ? s->redo_lsn : WAL_LSN_FIRST;

    int r = wal_find_end(&scan->reader, scan->redo_lsn, s->durable_lsn, &scan->end);
    if (r < 0 && r != -UMBRA_E_CORRUPT)
        return r;
    error_save(&damage, r); /* what is good before it is told, too */
    r = 0;
    if (scan->options->history && scan->end.lsn > first)
        r = find_history(scan, &first);
    if (r < 0)
        return r;
    scan->info->first_lsn = first;
    scan->info->end_lsn = scan->end.lsn;
    r = read_records(scan, first);
    if (r == 0)
        r = error_raise(&damage);
    if (r == 0 && scan->analysis.end_record_lsn < s->checkpoint_lsn)
        r = wal_reader_damage(&scan->reader, s->checkpoint_lsn, "no checkpoint is there");
    if (r == 0)
        count_open(scan);
    return r;
}

int wal_scan(const struct wal_place *place, const struct umbra_log_scan_options *options,
             struct umbra_log_info *ret_info)
{
    CLEANUP(io_closep) struct io_file *file = NULL;
    CLEANUP(scan_release) struct scan scan = {.options = options, .info = ret_info};
    struct io_stat st;
    *ret_info = (struct umbra_log_info){0};
    int r = io_open(place->io, place->path, IO_READ, &file);
    if (r == 0)
        r = io_stat(place->io, place->path, &st);
    if (r == 0)
        r = wal_areas_read(file, place->name, st.size_bytes, options->id, &scan.areas);
    if (r < 0)
        return r;
    fill_info(&scan);
    r = wal_reader_init(&scan.reader, file, place->name, &scan.areas.geometry);
    return r < 0 ? r : scan_records(&scan);
}
