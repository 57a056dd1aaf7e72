/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/table.h"

#include <inttypes.h>
#include <string.h>

#include "basic/crc32c.h"
#include "basic/error.h"
#include "basic/splitmix.h"

#define PAIR_BYTES (2 * COW_PAGE_BYTES)

struct page_image {
    struct cow_page_header h;
    uint8_t records[COW_PAGE_ROOM];
};
static_assert(sizeof(struct page_image) == COW_PAGE_BYTES, "on disk");

static uint64_t per_page(const struct table *table)
{
    return COW_PAGE_ROOM / table->record_bytes;
}

void table_init(struct table *table, enum cow_table_id id, size_t record_bytes, uint64_t record_max,
                const uint8_t *volume_id, struct io_file *file)
{
    *table = (struct table){
        .id = id, .record_bytes = record_bytes, .record_max = record_max, .file = file};
    memcpy(table->volume_id, volume_id, COW_ID_LEN);
    pthread_mutex_init(&table->lock, NULL);
}

void table_release(struct table *table)
{
    for (size_t i = 0; i < table->pages.count; i++)
        free(table->pages.items[i].records);
    table_page_vector_release(&table->pages);
    pthread_mutex_destroy(&table->lock);
}

/* What one page adds to the sum: so that pages cannot stand in for each other. */
static uint64_t share(size_t page, uint64_t sequence)
{
    uint64_t state = sequence;
    state = splitmix64_next(&state) + page;
    return splitmix64_next(&state);
}

static int make_pages(struct table *table, size_t count)
{
    static const struct table_page none = {0};
    int r = 0;
    while (r == 0 && table->pages.count < count)
        r = table_page_vector_push(&table->pages, &none);
    return r;
}

static uint32_t checksum_of(const struct page_image *image)
{
    struct cow_page_header h = image->h;
    h.checksum = le32_make(0);
    return crc32c(crc32c(0, &h, sizeof(h)), image->records, sizeof(image->records));
}

/* ---- loading ---- */

static bool is_valid(const struct table *table, size_t page, const struct page_image *image)
{
    static const uint8_t zeros[3];
    const struct cow_page_header *h = &image->h;
    return memcmp(h->magic, COW_PAGE_MAGIC, sizeof(h->magic)) == 0 && le32_get(&h->page) == page &&
           h->table == table->id && memcmp(h->reserved, zeros, sizeof(zeros)) == 0 &&
           le64_get(&h->sequence) != 0 &&
           memcmp(h->volume_id_start, table->volume_id, sizeof(h->volume_id_start)) == 0 &&
           le32_get(&h->checksum) == checksum_of(image);
}

static int take_current(struct table *table, size_t number, const struct page_image pair[2],
                        uint64_t root_sequence)
{
    struct table_page *page = &table->pages.items[number];
    uint64_t base = 0;
    for (uint8_t place = 0; place < 2; place++) {
        if (!is_valid(table, number, &pair[place]))
            continue;
        uint64_t sequence = le64_get(&pair[place].h.sequence);
        if (sequence <= root_sequence)
            base = MAX(base, sequence);
        if (sequence > page->sequence) {
            page->sequence = sequence;
            page->place = place;
        }
    }
    if (base != 0)
        table->sum += share(number, base);
    if (page->sequence == 0)
        return 0;
    page->records = malloc(COW_PAGE_ROOM);
    if (!page->records)
        return -ENOMEM;
    memcpy(page->records, pair[page->place].records, COW_PAGE_ROOM);
    return 0;
}

/* What is current may be newer than the root; the sum is of what is current. */
static void sum_current(struct table *table)
{
    table->sum = 0;
    for (size_t i = 0; i < table->pages.count; i++)
        if (table->pages.items[i].sequence != 0)
            table->sum += share(i, table->pages.items[i].sequence);
}

int table_load(struct table *table, uint64_t file_bytes, uint64_t root_sequence, uint64_t root_sum,
               uint64_t *sequence, bool *ret_damaged)
{
    uint64_t pages_max = (table->record_max + per_page(table) - 1) / per_page(table);
    uint64_t count = MIN((file_bytes + PAIR_BYTES - 1) / PAIR_BYTES, pages_max);
    struct page_image pair[2];
    int r = make_pages(table, (size_t)count);
    for (size_t i = 0; r == 0 && i < count; i++) {
        size_t got;
        r = io_pread(table->file, pair, sizeof(pair), i * PAIR_BYTES, &got);
        if (r == 0) {
            memset((uint8_t *)pair + got, 0, sizeof(pair) - got);
            r = take_current(table, i, pair, root_sequence);
            *sequence = MAX(*sequence, table->pages.items[i].sequence);
        }
    }
    if (r < 0)
        return r;
    *ret_damaged = table->sum != root_sum;
    sum_current(table);
    return 0;
}

uint64_t table_sum(struct table *table)
{
    pthread_mutex_lock(&table->lock);
    uint64_t sum = table->sum;
    pthread_mutex_unlock(&table->lock);
    return sum;
}

/* ---- writing ---- */

/* Copies the page if it has changed, so that it can be written without the lock. */
static bool take_dirty(struct table *table, size_t number, uint64_t sequence,
                       struct page_image *ret_image, uint64_t *ret_offset)
{
    pthread_mutex_lock(&table->lock);
    struct table_page *page = &table->pages.items[number];
    bool dirty = page->dirty;
    if (dirty) {
        *ret_image = (struct page_image){.h = {.sequence = le64_make(sequence),
                                               .page = le32_make((uint32_t)number),
                                               .table = (uint8_t)table->id}};
        memcpy(ret_image->h.magic, COW_PAGE_MAGIC, sizeof(ret_image->h.magic));
        memcpy(ret_image->h.volume_id_start, table->volume_id,
               sizeof(ret_image->h.volume_id_start));
        memcpy(ret_image->records, page->records, COW_PAGE_ROOM);
        if (page->sequence != 0)
            table->sum -= share(number, page->sequence);
        table->sum += share(number, sequence);
        page->dirty = false;
        page->place ^= 1u;
        page->sequence = sequence;
        *ret_offset = number * PAIR_BYTES + page->place * COW_PAGE_BYTES;
    }
    pthread_mutex_unlock(&table->lock);
    return dirty;
}

static size_t page_count(struct table *table)
{
    pthread_mutex_lock(&table->lock);
    size_t count = table->pages.count;
    pthread_mutex_unlock(&table->lock);
    return count;
}

int table_write(struct table *table, uint64_t sequence, uint64_t *ret_sum)
{
    size_t count = page_count(table), written = 0;
    struct page_image image;
    uint64_t offset;
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!take_dirty(table, i, sequence, &image, &offset))
            continue;
        image.h.checksum = le32_make(checksum_of(&image));
        struct iovec iov = {.iov_base = &image, .iov_len = sizeof(image)};
        r = io_pwritev(table->file, &iov, 1, offset);
        written++;
    }
    if (r == 0 && written > 0)
        r = io_sync(table->file);
    if (r == 0)
        *ret_sum = table_sum(table);
    return r;
}

/* ---- records ---- */

void table_get(struct table *table, uint64_t index, void *ret_record)
{
    uint64_t page = index / per_page(table), in_page = index % per_page(table);
    memset(ret_record, 0, table->record_bytes);
    pthread_mutex_lock(&table->lock);
    if (page < table->pages.count && table->pages.items[page].records)
        memcpy(ret_record, table->pages.items[page].records + in_page * table->record_bytes,
               table->record_bytes);
    pthread_mutex_unlock(&table->lock);
}

/* Where the record stands; NULL: no memory. */
static uint8_t *make_record_locked(struct table *table, uint64_t index)
{
    uint64_t number = index / per_page(table), in_page = index % per_page(table);
    if (make_pages(table, (size_t)number + 1) < 0)
        return NULL;
    struct table_page *page = &table->pages.items[number];
    if (!page->records)
        page->records = calloc(1, COW_PAGE_ROOM);
    return page->records ? page->records + in_page * table->record_bytes : NULL;
}

/* The same of a record that is going to change. */
static uint8_t *touch_locked(struct table *table, uint64_t index)
{
    uint8_t *at = make_record_locked(table, index);
    if (at)
        table->pages.items[index / per_page(table)].dirty = true;
    return at;
}

static int check_index(const struct table *table, uint64_t index)
{
    if (index < table->record_max)
        return 0;
    return error_note(-EINVAL, "record %" PRIu64 " of a table of %" PRIu64, index,
                      table->record_max);
}

int table_prepare(struct table *table, uint64_t index)
{
    int r = check_index(table, index);
    if (r < 0)
        return r;
    pthread_mutex_lock(&table->lock);
    uint8_t *at = make_record_locked(table, index);
    pthread_mutex_unlock(&table->lock);
    return at ? 0 : -ENOMEM;
}

int table_put(struct table *table, uint64_t index, const void *record)
{
    int r = check_index(table, index);
    if (r < 0)
        return r;
    pthread_mutex_lock(&table->lock);
    uint8_t *at = touch_locked(table, index);
    if (at)
        memcpy(at, record, table->record_bytes);
    pthread_mutex_unlock(&table->lock);
    return at ? 0 : -ENOMEM;
}

int table_change_mask(struct table *table, uint64_t index, uint64_t set, uint64_t clear)
{
    int r = check_index(table, index);
    if (r < 0)
        return r;
    pthread_mutex_lock(&table->lock);
    uint8_t *at = touch_locked(table, index);
    if (at) {
        le64_t field;
        memcpy(&field, at, sizeof(field));
        field = le64_make((le64_get(&field) | set) & ~clear);
        memcpy(at, &field, sizeof(field));
    }
    pthread_mutex_unlock(&table->lock);
    return at ? 0 : -ENOMEM;
}

uint64_t table_end(struct table *table)
{
    return page_count(table) * per_page(table);
}
