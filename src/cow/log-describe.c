/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/log-describe.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "basic/text.h"
#include "cow/cow-format.h"

struct words {
    char *text;
    size_t size, len; /* len is size - 1 when it is full */
};

static void say(struct words *w, const char *fmt, ...) _printf_(2, 3);

static void say(struct words *w, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(w->text + w->len, w->size - w->len, fmt, ap);
    va_end(ap);
    if (len > 0)
        w->len += MIN((size_t)len, w->size - w->len - 1);
}

static void describe_entry(struct words *w, const uint8_t *data)
{
    struct cow_log_entry e;
    memcpy(&e, data, sizeof(e));
    uint64_t where = le64_get(&e.entry.where), flags = where >> COW_WHERE_BITS;
    uint64_t block = where & ((UINT64_C(1) << COW_WHERE_BITS) - 1);
    uint32_t number = le32_get(&e.entry.number);
    say(w, "entry %" PRIu64 ": ", le64_get(&e.slot));
    if (number == 0)
        say(w, "none");
    else if (flags & COW_ENTRY_ZERO)
        say(w, "zeros from block %" PRIu64 ", mask %016" PRIx64, block, le64_get(&e.entry.value));
    else
        say(w, "block %" PRIu64 " in cell %" PRIu64, block, le64_get(&e.entry.value));
    if (number != 0)
        say(w, ", %s shadow %" PRIu32, flags & COW_ENTRY_OWN ? "written to" : "kept for", number);
}

static void describe_zero(struct words *w, const uint8_t *data)
{
    struct cow_log_zero z;
    memcpy(&z, data, sizeof(z));
    say(w, "from block %" PRIu64 ", mask %016" PRIx64, le64_get(&z.group) * COW_GROUP_BLOCKS,
        le64_get(&z.mask));
}

static void describe_zero_set(struct words *w, const uint8_t *data)
{
    say(w, "zero ");
    describe_zero(w, data);
}

static void describe_zero_clear(struct words *w, const uint8_t *data)
{
    say(w, "not zero ");
    describe_zero(w, data);
}

static void describe_settings(struct words *w, const uint8_t *record)
{
    struct cow_settings_record s;
    memcpy(&s, record, sizeof(s));
    say(w, "settings: at most %" PRIu64 " cells, last shadow %" PRIu32 ", %" PRIu64 " faults%s",
        le64_get(&s.cells_max), le32_get(&s.last_number), le64_get(&s.fault_count),
        le32_get(&s.flags) & COW_SETTINGS_PROTECT_SHADOWS ? ", shadows are protected" : "");
}

static void describe_shadow(struct words *w, uint64_t index, const uint8_t *record)
{
    struct cow_shadow_record s;
    char id[2 * COW_ID_LEN + 1], when[40];
    memcpy(&s, record, sizeof(s));
    say(w, "shadow place %" PRIu64 ": ", index - COW_STATE_SHADOWS);
    if (le32_get(&s.number) == 0) {
        say(w, "none");
        return;
    }
    hex_encode(s.id, sizeof(s.id), id);
    say(w, "shadow %" PRIu32 ", id %s, taken %s, %s", le32_get(&s.number), id,
        text_format_time((int64_t)le64_get(&s.taken_ns), when),
        le16_get(&s.flags) & COW_SHADOW_WRITABLE ? "writable" : "sealed");
}

static void describe_fault(struct words *w, const uint8_t *record)
{
    struct cow_fault_record f;
    char when[40];
    memcpy(&f, record, sizeof(f));
    say(w, "fault at %s: shadow %" PRIu32 ", reason %u",
        text_format_time((int64_t)le64_get(&f.time_ns), when), le32_get(&f.number),
        le16_get(&f.reason));
}

static void describe_state(struct words *w, const uint8_t *data)
{
    struct cow_log_state s;
    memcpy(&s, data, sizeof(s));
    uint64_t index = le64_get(&s.index);
    if (index == COW_STATE_SETTINGS)
        describe_settings(w, s.record);
    else if (index < COW_STATE_FAULTS)
        describe_shadow(w, index, s.record);
    else
        describe_fault(w, s.record);
}

static void describe_head(struct words *w, const uint8_t *data)
{
    struct cow_log_copies c;
    memcpy(&c, data, sizeof(c));
    say(w, "copies %" PRIu64 ", durable to %" PRIu64, le64_get(&c.ticket), le64_get(&c.settled));
}

static const struct {
    size_t size, head_size;
    void (*describe)(struct words *w, const uint8_t *data);
} ops[] = {
    [COW_LOG_ENTRIES] = {sizeof(struct cow_log_entry), 0, describe_entry},
    [COW_LOG_ZERO_SET] = {sizeof(struct cow_log_zero), 0, describe_zero_set},
    [COW_LOG_ZERO_CLEAR] = {sizeof(struct cow_log_zero), 0, describe_zero_clear},
    [COW_LOG_STATE] = {sizeof(struct cow_log_state), 0, describe_state},
    [COW_LOG_COPIES] = {sizeof(struct cow_log_entry), sizeof(struct cow_log_copies),
                        describe_entry},
};

void cow_log_describe(const struct umbra_log_record *record, char *text, size_t size)
{
    struct words w = {.text = text, .size = size};
    *text = '\0';
    size_t item = record->op < ELEMENTSOF(ops) ? ops[record->op].size : 0;
    size_t head = item > 0 ? ops[record->op].head_size : 0;
    if (item == 0 || record->redo_len <= head || (record->redo_len - head) % item != 0) {
        say(&w, "not a record of a cow volume");
        return;
    }
    if (head > 0)
        describe_head(&w, record->redo);
    for (size_t at = head; at < record->redo_len && w.len < size - 1; at += item) {
        if (at > 0)
            say(&w, "; ");
        ops[record->op].describe(&w, record->redo + at);
    }
}
