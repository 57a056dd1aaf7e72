/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shadows: taken, read, written to, sealed, deleted. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "basic/crc32c.h"
#include "basic/log.h"
#include "cow/cow-private.h"

#define SWEEP_STEP ((size_t)4096) /* places looked at without letting others run */

static const char *const reason_texts[] = {
#define X(name, text) text,
    COW_REASON_LIST(X)
#undef X
};

const char *cow_reason_text(enum cow_reason reason)
{
    return (unsigned)reason < COW_REASON_COUNT ? reason_texts[reason] : "unknown";
}

struct cow_slot *cow_slot_locked(struct cow *cow, uint32_t number)
{
    for (size_t i = 0; number != 0 && i < COW_SHADOWS_MAX; i++)
        if (cow->slots[i].shadow.number == number && !cow->slots[i].dying)
            return &cow->slots[i];
    return NULL;
}

static int no_shadow(uint32_t number)
{
    return error_note(-ENOENT, "there is no shadow %u", number);
}

static bool lives(struct cow *cow, uint32_t number)
{
    pthread_mutex_lock(&cow->lock);
    bool found = cow_slot_locked(cow, number) != NULL;
    pthread_mutex_unlock(&cow->lock);
    return found;
}

/* ---- records ---- */

static size_t index_of(const struct cow *cow, const struct cow_slot *slot)
{
    return COW_STATE_SHADOWS + (size_t)(slot - cow->slots);
}

static struct cow_log_state state_of(uint64_t index, const void *record)
{
    struct cow_log_state s = {.index = le64_make(index)};
    memcpy(s.record, record, COW_STATE_BYTES);
    return s;
}

static struct cow_log_state state_of_shadow(const struct cow *cow, const struct cow_slot *slot,
                                            const struct cow_shadow *shadow)
{
    struct cow_shadow_record record = {.number = le32_make(shadow->number),
                                       .flags =
                                           le16_make(shadow->writable ? COW_SHADOW_WRITABLE : 0),
                                       .label_len = (uint8_t)shadow->label_len,
                                       .taken_ns = le64_make(shadow->taken_ns)};
    memcpy(record.id, shadow->id, sizeof(record.id));
    memcpy(record.label, shadow->label, sizeof(record.label));
    return state_of(index_of(cow, slot), &record);
}

static int commit_states(struct cow *cow, const struct cow_log_state *states, size_t count)
{
    const struct cow_part part = {COW_LOG_STATE, states, count * sizeof(states[0])};
    return cow_commit(cow, &part, 1);
}

/* Settings with one more fault, and the fault. */
static size_t put_fault(struct cow *cow, uint32_t number, enum cow_reason reason,
                        struct cow_settings_record *settings, struct cow_log_state states[2])
{
    uint64_t count = le64_get(&settings->fault_count);
    const struct cow_fault_record fault = {.time_ns = le64_make(io_now_ns(cow->storage)),
                                           .number = le32_make(number),
                                           .reason = le16_make((uint16_t)reason)};
    settings->fault_count = le64_make(count + 1);
    states[0] = state_of(COW_STATE_SETTINGS, settings);
    states[1] = state_of(COW_STATE_FAULTS + count % COW_FAULTS_KEPT, &fault);
    return 2;
}

static struct cow_settings_record settings_now(struct cow *cow)
{
    pthread_mutex_lock(&cow->lock);
    struct cow_settings_record settings = cow->settings;
    pthread_mutex_unlock(&cow->lock);
    return settings;
}

static void set_settings(struct cow *cow, const struct cow_settings_record *settings)
{
    pthread_mutex_lock(&cow->lock);
    cow->settings = *settings;
    pthread_mutex_unlock(&cow->lock);
}

/* ---- taking one ---- */

static uint64_t monotonic_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* No write of the origin is under way from here to the release.  Returns when the first one may
 * have begun to wait. */
static uint64_t hold(struct cow *cow)
{
    pthread_mutex_lock(&cow->lock);
    while (cow->held)
        pthread_cond_wait(&cow->moved, &cow->lock);
    cow->held = true;
    uint64_t start_ns = monotonic_ns();
    while (cow->writes > 0)
        pthread_cond_wait(&cow->moved, &cow->lock);
    pthread_mutex_unlock(&cow->lock);
    return start_ns;
}

static uint64_t release(struct cow *cow, uint64_t start_ns)
{
    pthread_mutex_lock(&cow->lock);
    cow->held = false;
    pthread_cond_broadcast(&cow->moved);
    uint64_t hold_ns = monotonic_ns() - start_ns;
    cow->holds.last_ns[cow->holds.count++ % COW_HOLDS_KEPT] = hold_ns;
    cow->holds.max_ns = MAX(cow->holds.max_ns, hold_ns);
    pthread_mutex_unlock(&cow->lock);
    return hold_ns;
}

static struct cow_slot *free_slot(struct cow *cow)
{
    struct cow_slot *found = NULL;
    pthread_mutex_lock(&cow->lock);
    for (size_t i = 0; !found && i < COW_SHADOWS_MAX; i++)
        if (cow->slots[i].shadow.number == 0)
            found = &cow->slots[i];
    pthread_mutex_unlock(&cow->lock);
    return found;
}

/* Invariant 8; everything is flushed.  *bitmap is swapped for the old one. */
static int take_admin(struct cow *cow, struct cow_shadow *shadow, uint8_t **bitmap)
{
    struct cow_settings_record settings = settings_now(cow);
    struct cow_slot *slot = free_slot(cow);
    if (!slot)
        return error_note(-EMLINK, "a volume has at most %u shadows", COW_SHADOWS_MAX);
    if (le32_get(&settings.last_number) >= UINT32_MAX - 1)
        return error_note(-EMLINK, "the volume has used up the numbers of shadows");
    shadow->number = le32_get(&settings.last_number) + 1;
    settings.last_number = le32_make(shadow->number);
    const struct cow_log_state states[] = {state_of_shadow(cow, slot, shadow),
                                           state_of(COW_STATE_SETTINGS, &settings)};
    int r = commit_states(cow, states, ELEMENTSOF(states));
    if (r < 0)
        return r;
    pthread_mutex_lock(&cow->lock);
    cow->settings = settings;
    slot->shadow = *shadow;
    cow->living.numbers[cow->living.count++] = shadow->number;
    uint8_t *copied = cow->copied;
    cow->copied = *bitmap;
    *bitmap = copied;
    pthread_mutex_unlock(&cow->lock);
    return 0;
}

static int fill_shadow(struct cow *cow, const struct cow_take *take, struct cow_shadow *shadow)
{
    if (take->label_len > COW_LABEL_MAX)
        return error_note(-EINVAL, "the label of a shadow has at most %u bytes", COW_LABEL_MAX);
    *shadow = (struct cow_shadow){.writable = take->writable,
                                  .taken_ns = io_now_ns(cow->storage),
                                  .label_len = take->label_len};
    if (take->label_len > 0)
        memcpy(shadow->label, take->label, take->label_len);
    if (!take->id)
        return io_random(cow->storage, shadow->id, sizeof(shadow->id));
    memcpy(shadow->id, take->id, sizeof(shadow->id));
    return 0;
}

int cow_shadow_take(struct cow *cow, const struct cow_take *take, uint32_t *ret_number,
                    uint64_t *ret_hold_ns)
{
    struct cow_shadow shadow;
    /* Before the hold, which has nothing in it that grows with the volume. */
    CLEANUP_FREE uint8_t *bitmap = calloc(1, (size_t)((cow->block_count + 7) / 8));
    if (!bitmap)
        return -ENOMEM;
    int r = fill_shadow(cow, take, &shadow);
    if (r == 0)
        r = cow_flush(cow); /* so that little is left for the flush while writes are held */
    if (r < 0)
        return r;
    pthread_mutex_lock(&cow->admin);
    uint64_t start_ns = hold(cow);
    r = cow_flush(cow);
    if (r == 0)
        r = take_admin(cow, &shadow, &bitmap);
    uint64_t hold_ns = release(cow, start_ns);
    pthread_mutex_unlock(&cow->admin);
    if (r < 0)
        return r;
    *ret_number = shadow.number;
    *ret_hold_ns = hold_ns;
    return 0;
}

/* ---- deleting ---- */

static bool has_writers_locked(const struct cow *cow, uint32_t number)
{
    for (size_t i = 0; i < COW_SHADOWS_MAX; i++)
        if (cow->slots[i].shadow.number == number)
            return cow->slots[i].writers > 0;
    return false;
}

static void mark_copied_locked(struct cow *cow, const struct version *v)
{
    if (v->number < living_newest(&cow->living) || (v->flags & COW_ENTRY_OWN))
        return;
    if (!(v->flags & COW_ENTRY_ZERO)) {
        cow_set_copied_locked(cow, v->block);
        return;
    }
    for (uint64_t mask = v->value; mask != 0; mask &= mask - 1)
        cow_set_copied_locked(cow, v->block + (unsigned)__builtin_ctzll(mask));
}

static void sweep_place_locked(struct cow *cow, uint32_t place)
{
    if (!map_is_indexed(&cow->map, place))
        return;
    const struct version v = map_at(&cow->map, place);
    bool has_writer = (v.flags & COW_ENTRY_OWN) && has_writers_locked(cow, v.number);
    if (!has_writer && !map_is_needed(&cow->map, &v, &cow->living))
        map_drop(&cow->map, place);
    else
        mark_copied_locked(cow, &v);
}

/* Frees what nobody needs any more, and finds what is copied for a newest shadow that is another
 * one now. */
static void sweep(struct cow *cow)
{
    size_t place = 0, end;
    do {
        pthread_mutex_lock(&cow->lock);
        end = cow->map.place_count;
        for (size_t n = 0; n < SWEEP_STEP && place < end; n++, place++)
            sweep_place_locked(cow, (uint32_t)place);
        cow_ahead_look_locked(cow);
        pthread_mutex_unlock(&cow->lock);
    } while (place < end);
}

static void forget_living_locked(struct cow *cow, uint32_t number)
{
    size_t i = 0;
    while (cow->living.numbers[i] != number)
        i++;
    cow->living.count--;
    cow->deletions++;
    memmove(&cow->living.numbers[i], &cow->living.numbers[i + 1],
            (cow->living.count - i) * sizeof(cow->living.numbers[0]));
}

static void forget_shadow_locked(struct cow *cow, struct cow_slot *slot)
{
    forget_living_locked(cow, slot->shadow.number);
    if (slot->writers > 0)
        slot->dying = true;
    else
        *slot = (struct cow_slot){0};
    cow->refusing = false;
}

/* Under admin. */
int cow_delete_admin(struct cow *cow, uint32_t number, enum cow_reason reason)
{
    static const struct cow_shadow none = {0};
    struct cow_settings_record settings = settings_now(cow);
    struct cow_log_state states[3];
    size_t count = 0;

    pthread_mutex_lock(&cow->lock);
    struct cow_slot *slot = cow_slot_locked(cow, number);
    pthread_mutex_unlock(&cow->lock);
    if (!slot)
        return no_shadow(number);
    if (reason != COW_REASON_NONE)
        count = put_fault(cow, number, reason, &settings, states);
    states[count++] = state_of_shadow(cow, slot, &none);
    int r = commit_states(cow, states, count);
    if (r < 0)
        return r;
    set_settings(cow, &settings);
    pthread_mutex_lock(&cow->lock);
    forget_shadow_locked(cow, slot);
    pthread_mutex_unlock(&cow->lock);
    sweep(cow);
    return 0;
}

int cow_shadow_delete(struct cow *cow, uint32_t number)
{
    pthread_mutex_lock(&cow->admin);
    int r = cow_delete_admin(cow, number, COW_REASON_NONE);
    pthread_mutex_unlock(&cow->admin);
    return r;
}

/* ---- room ---- */

static int refuse_admin(struct cow *cow)
{
    struct cow_settings_record settings = settings_now(cow);
    struct cow_log_state states[2];
    int r = 0;
    if (!cow->refusing) {
        r = commit_states(cow, states, put_fault(cow, 0, COW_REASON_REFUSED, &settings, states));
        if (r == 0)
            set_settings(cow, &settings);
        cow->refusing = r == 0;
    }
    return r < 0 ? r : error_note(-ENOSPC, "the diff area is full, and shadows are protected");
}

static int make_room_admin(struct cow *cow, uint64_t cells, uint32_t spare, const uint64_t *if_full)
{
    pthread_mutex_lock(&cow->lock);
    uint64_t max = cow_cells_max_locked(cow), used = cow->map.cells_used;
    bool is_protected = le32_get(&cow->settings.flags) & COW_SETTINGS_PROTECT_SHADOWS;
    uint32_t oldest = cow->living.count > 0 ? cow->living.numbers[0] : 0;
    bool is_full = if_full && cow->deletions == *if_full;
    pthread_mutex_unlock(&cow->lock);
    if (used <= max && cells <= max - used && !is_full)
        return 0;
    if (is_protected)
        return refuse_admin(cow);
    if (oldest == 0 || oldest == spare)
        return error_note(-ENOSPC, "the diff area is full");
    return cow_delete_admin(cow, oldest, COW_REASON_FULL);
}

int cow_make_room(struct cow *cow, uint64_t cells, uint32_t spare, const uint64_t *if_full)
{
    pthread_mutex_lock(&cow->admin);
    int r = make_room_admin(cow, cells, spare, if_full);
    pthread_mutex_unlock(&cow->admin);
    return r;
}

static int shrink_admin(struct cow *cow)
{
    for (;;) {
        pthread_mutex_lock(&cow->lock);
        bool fits = cow->map.cells_used <= cow_cells_max_locked(cow) || cow->living.count == 0;
        uint32_t oldest = cow->living.numbers[0];
        pthread_mutex_unlock(&cow->lock);
        int r = fits ? 0 : cow_delete_admin(cow, oldest, COW_REASON_SHRUNK);
        if (r < 0 || fits)
            return r;
    }
}

static int resize_admin(struct cow *cow, uint64_t cells)
{
    struct cow_settings_record settings = settings_now(cow);
    pthread_mutex_lock(&cow->lock);
    uint64_t used = cow->living.count > 0 ? cow->map.cells_used : 0;
    pthread_mutex_unlock(&cow->lock);
    if (cells < used && (le32_get(&settings.flags) & COW_SETTINGS_PROTECT_SHADOWS))
        return error_note(
            -ENOSPC, "%" PRIu64 " bytes are kept, and shadows are protected: delete some first",
            used * cow->block_bytes);
    settings.cells_max = le64_make(cells);
    const struct cow_log_state state = state_of(COW_STATE_SETTINGS, &settings);
    int r = commit_states(cow, &state, 1);
    if (r < 0)
        return r;
    set_settings(cow, &settings);
    return shrink_admin(cow);
}

int cow_resize(struct cow *cow, uint64_t max_bytes)
{
    uint64_t cells = max_bytes / cow->block_bytes;
    if (cells == 0 || cells > COW_CELL_COUNT_MAX)
        return error_note(-EINVAL, "a diff area has from 1 to %" PRIu64 " blocks",
                          COW_CELL_COUNT_MAX);
    pthread_mutex_lock(&cow->admin);
    int r = resize_admin(cow, cells);
    pthread_mutex_unlock(&cow->admin);
    return r;
}

static int protect_admin(struct cow *cow, bool protect_shadows)
{
    struct cow_settings_record settings = settings_now(cow);
    settings.flags = le32_make(protect_shadows ? COW_SETTINGS_PROTECT_SHADOWS : 0);
    const struct cow_log_state state = state_of(COW_STATE_SETTINGS, &settings);
    int r = commit_states(cow, &state, 1);
    if (r == 0)
        set_settings(cow, &settings);
    return r;
}

int cow_protect(struct cow *cow, bool protect_shadows)
{
    pthread_mutex_lock(&cow->admin);
    int r = protect_admin(cow, protect_shadows);
    pthread_mutex_unlock(&cow->admin);
    return r;
}

/* ---- reading ---- */

enum found_where { FOUND_ORIGIN, FOUND_ZERO, FOUND_CELL };

/* Where a shadow finds a block. */
struct found {
    enum found_where where;
    uint32_t checksum; /* of a cell: */
    uint64_t cell;
};

static void find_locked(struct cow *cow, uint32_t number, uint64_t first, size_t count,
                        struct found *found)
{
    struct version v;
    uint32_t place;
    for (size_t i = 0; i < count; i++) {
        found[i].where = FOUND_ORIGIN;
        if (!map_find(&cow->map, first + i, number, true, &v, &place))
            continue;
        found[i] = (struct found){
            .where = v.flags & COW_ENTRY_ZERO ? FOUND_ZERO : FOUND_CELL,
            .checksum = v.checksum,
            .cell = v.value,
        };
    }
}

/* How many blocks lie side by side where the first one is. */
static size_t count_run(const struct found *found, size_t count)
{
    size_t n = 1;
    while (n < count && found[n].where == found[0].where &&
           (found[0].where != FOUND_CELL || found[n].cell == found[0].cell + n))
        n++;
    return n;
}

static bool is_good(const struct cow *cow, const struct found *found, const uint8_t *data)
{
    return crc32c(0, data, cow->block_bytes) == found->checksum;
}

/* What was not that of the entry is read once more, before it is said to be damaged. */
static int read_again(struct cow *cow, uint32_t number, uint64_t block, const struct found *found,
                      uint8_t *data)
{
    int r =
        cow->cells->ops->read(cow->cells, data, cow->block_bytes, found->cell * cow->block_bytes);
    if (r < 0 || is_good(cow, found, data))
        return r;
    return error_note(-UMBRA_E_CORRUPT,
                      "shadow %u: what was kept of block %" PRIu64 " is damaged (cell %" PRIu64 ")",
                      number, block, found->cell);
}

static int read_cells(struct cow *cow, uint32_t number, uint64_t block, const struct found *found,
                      size_t count, uint8_t *data)
{
    int r = cow->cells->ops->read(cow->cells, data, count * cow->block_bytes,
                                  found->cell * cow->block_bytes);
    for (size_t i = 0; r == 0 && i < count; i++, data += cow->block_bytes)
        if (!is_good(cow, &found[i], data))
            r = read_again(cow, number, block + i, &found[i], data);
    return r;
}

/* The shadow has lost something for good.  Returns r, and its words. */
static int drop_rotten(struct cow *cow, uint32_t number, int r)
{
    struct error_report report = {0};
    error_save(&report, r);
    pthread_mutex_lock(&cow->admin);
    if (cow_delete_admin(cow, number, COW_REASON_ROTTEN) == 0)
        log_warning("shadow %u is lost: %s", number, cow_reason_text(COW_REASON_ROTTEN));
    pthread_mutex_unlock(&cow->admin);
    return error_raise(&report);
}

/* Whole blocks, COW_PIECE_BLOCKS at most, which the caller has locked; data are aligned. */
static int read_blocks(struct cow *cow, uint32_t number, uint64_t first, size_t count,
                       uint8_t *data)
{
    struct found found[COW_PIECE_BLOCKS];
    pthread_mutex_lock(&cow->lock);
    find_locked(cow, number, first, count, found);
    pthread_mutex_unlock(&cow->lock);
    int r = 0;
    for (size_t i = 0, n; r == 0 && i < count; i += n, data += n * cow->block_bytes) {
        n = count_run(found + i, count - i);
        if (found[i].where == FOUND_ORIGIN)
            r = cow_origin_read(cow, data, first + i, n);
        else if (found[i].where == FOUND_CELL)
            r = read_cells(cow, number, first + i, found + i, n, data);
        else
            memset(data, 0, n * cow->block_bytes);
    }
    return r;
}

/* Sectors of COW_PIECE_BLOCKS at most.  bytes: room for the blocks. */
static int read_piece(struct cow *cow, uint32_t number, uint8_t *bytes, uint8_t *data, size_t len,
                      uint64_t offset)
{
    struct cow_range range = {.first = offset / cow->block_bytes,
                              .last = (offset + len - 1) / cow->block_bytes};
    size_t count = (size_t)(range.last - range.first + 1);
    uint64_t at = offset % cow->block_bytes;
    bool in_place = len == count * cow->block_bytes && (uintptr_t)data % COW_BLOCK_BYTES_MIN == 0;
    cow_range_lock(cow, &range);
    int r = read_blocks(cow, number, range.first, count, in_place ? data : bytes);
    cow_range_unlock(cow, &range);
    if (r == 0 && !in_place)
        memcpy(data, bytes + at, len);
    return r;
}

int cow_shadow_read(struct cow *cow, uint32_t number, void *data, size_t len, uint64_t offset)
{
    uint64_t piece = (uint64_t)COW_PIECE_BLOCKS * cow->block_bytes;
    uint8_t *to = data;
    int r = cow_check_request(cow, len, offset);
    if (r < 0)
        return r;
    CLEANUP_FREE uint8_t *bytes =
        cow_buffer_new(cow, MIN(len / cow->block_bytes + 2, (uint64_t)COW_PIECE_BLOCKS));
    if (!bytes)
        return -ENOMEM;
    while (r == 0 && len > 0) {
        size_t n = (size_t)MIN((uint64_t)len, piece - offset % piece);
        r = read_piece(cow, number, bytes, to, n, offset);
        to += n;
        offset += n;
        len -= n;
    }
    /* Invariant 7. */
    if (!lives(cow, number))
        return no_shadow(number);
    return r == -UMBRA_E_CORRUPT ? drop_rotten(cow, number, r) : r;
}

/* ---- the writable phase ---- */

struct own {
    uint32_t number;
    uint64_t block;
    bool replaces; /* there is an own entry already, here: */
    struct version old;
    uint32_t place;
    uint64_t cell;
};

static int take_own_locked(struct cow *cow, struct own *own)
{
    int r = map_take_cell(&cow->map, cow_cells_max_locked(cow), &own->cell);
    if (r < 0)
        return r;
    own->replaces = map_find(&cow->map, own->block, own->number, true, &own->old, &own->place) &&
                    (own->old.flags & COW_ENTRY_OWN);
    r = own->replaces ? 0 : map_take_place(&cow->map, &own->place);
    if (r < 0)
        map_give_cell(&cow->map, own->cell);
    return r;
}

static int prepare_own(struct cow *cow, struct own *own)
{
    for (;;) {
        pthread_mutex_lock(&cow->lock);
        uint64_t deletions = cow->deletions;
        const uint64_t *if_full = NULL;
        int r = take_own_locked(cow, own);
        if (r == -EAGAIN) {
            r = cow_ahead_wait_locked(cow);
            if_full = r == -ENOSPC ? &deletions : NULL;
            r = r == 0 ? -EAGAIN : r;
        }
        cow_ahead_look_locked(cow);
        pthread_mutex_unlock(&cow->lock);
        if (r != -ENOSPC && r != -EAGAIN)
            return r;
        r = r == -ENOSPC ? cow_make_room(cow, 1, own->number, if_full) : 0;
        if (r < 0)
            return r;
    }
}

static void finish_own(struct cow *cow, const struct own *own, bool good)
{
    pthread_mutex_lock(&cow->lock);
    if (!good) {
        map_give_cell(&cow->map, own->cell);
        if (!own->replaces)
            map_give_place(&cow->map, own->place);
    } else if (own->replaces) {
        map_give_cell(&cow->map, own->old.value);
    } else {
        map_insert(&cow->map, own->place);
    }
    pthread_mutex_unlock(&cow->lock);
}

static int store_own(struct cow *cow, const struct own *own, const uint8_t *bytes)
{
    const struct version v = {.number = own->number,
                              .checksum = crc32c(0, bytes, cow->block_bytes),
                              .block = own->block,
                              .flags = COW_ENTRY_OWN,
                              .value = own->cell};
    const struct cow_log_entry entry = {.slot = le64_make(own->place), .entry = version_encode(&v)};
    const struct cow_part part = {COW_LOG_ENTRIES, &entry, sizeof(entry)};
    struct error_report failure = {0};
    struct cow_cells write = {.data = bytes, .cell = own->cell, .count = 1, .failure = &failure};
    int r = cow_cells_wait(cow, cow_cells_write(cow, &write, 1));
    if (r == 0)
        r = error_raise(&failure);
    return r < 0 ? r : cow_commit(cow, &part, 1);
}

/* Part of one block. */
static int write_own(struct cow *cow, uint32_t number, uint64_t block, uint64_t at,
                     const uint8_t *data, size_t len)
{
    struct own own = {.number = number, .block = block};
    CLEANUP_FREE uint8_t *bytes = cow_buffer_new(cow, 1);
    if (!bytes)
        return -ENOMEM;
    int r = read_blocks(cow, number, block, 1, bytes);
    if (r < 0)
        return r;
    memcpy(bytes + at, data, len);
    r = prepare_own(cow, &own);
    if (r < 0)
        return r;
    r = store_own(cow, &own, bytes);
    finish_own(cow, &own, r == 0);
    return r;
}

static int begin_writing(struct cow *cow, uint32_t number)
{
    int r = 0;
    pthread_mutex_lock(&cow->lock);
    struct cow_slot *slot = cow_slot_locked(cow, number);
    if (!slot)
        r = no_shadow(number);
    else if (!slot->shadow.writable)
        r = error_note(-EROFS, "shadow %u is sealed", number);
    else
        slot->writers++;
    pthread_mutex_unlock(&cow->lock);
    return r;
}

/* *ret_lived: it was not deleted meanwhile. */
static void end_writing(struct cow *cow, uint32_t number, bool *ret_lived)
{
    bool gone = false;
    pthread_mutex_lock(&cow->lock);
    struct cow_slot *slot = cow->slots;
    while (slot->shadow.number != number)
        slot++;
    *ret_lived = !slot->dying;
    if (--slot->writers == 0 && slot->dying) {
        *slot = (struct cow_slot){0};
        gone = true;
    }
    pthread_mutex_unlock(&cow->lock);
    if (gone)
        sweep(cow);
}

static int write_blocks(struct cow *cow, uint32_t number, const uint8_t *data, size_t len,
                        uint64_t offset)
{
    int r = 0;
    while (r == 0 && len > 0) {
        struct cow_range range = {.first = offset / cow->block_bytes, .exclusive = true};
        uint64_t at = offset % cow->block_bytes;
        size_t n = (size_t)MIN((uint64_t)len, cow->block_bytes - at);
        range.last = range.first;
        cow_range_lock(cow, &range);
        r = write_own(cow, number, range.first, at, data, n);
        cow_range_unlock(cow, &range);
        data += n;
        offset += n;
        len -= n;
    }
    return r;
}

int cow_shadow_write(struct cow *cow, uint32_t number, const void *data, size_t len,
                     uint64_t offset)
{
    bool lived;
    int r = cow_check_request(cow, len, offset);
    if (r < 0)
        return r;
    pthread_rwlock_rdlock(&cow->phase);
    r = begin_writing(cow, number);
    if (r == 0) {
        r = write_blocks(cow, number, data, len, offset);
        end_writing(cow, number, &lived);
        if (!lived)
            r = no_shadow(number);
    }
    pthread_rwlock_unlock(&cow->phase);
    return r == -UMBRA_E_CORRUPT ? drop_rotten(cow, number, r) : r;
}

static int seal_admin(struct cow *cow, uint32_t number)
{
    struct cow_shadow sealed = {0};
    pthread_mutex_lock(&cow->lock);
    struct cow_slot *slot = cow_slot_locked(cow, number);
    if (slot)
        sealed = slot->shadow;
    pthread_mutex_unlock(&cow->lock);
    if (!slot)
        return no_shadow(number);
    if (!sealed.writable)
        return error_note(-EALREADY, "shadow %u is sealed already", number);
    sealed.writable = false;
    const struct cow_log_state state = state_of_shadow(cow, slot, &sealed);
    int r = commit_states(cow, &state, 1);
    if (r < 0)
        return r;
    pthread_mutex_lock(&cow->lock);
    slot->shadow.writable = false;
    pthread_mutex_unlock(&cow->lock);
    return 0;
}

int cow_shadow_seal(struct cow *cow, uint32_t number)
{
    pthread_rwlock_wrlock(&cow->phase);
    pthread_mutex_lock(&cow->admin);
    int r = seal_admin(cow, number);
    pthread_mutex_unlock(&cow->admin);
    pthread_rwlock_unlock(&cow->phase);
    return r;
}

/* ---- lists ---- */

size_t cow_shadows(struct cow *cow, struct cow_shadow *shadows, size_t max)
{
    pthread_mutex_lock(&cow->lock);
    size_t count = cow->living.count;
    for (size_t i = 0; i < count && i < max; i++)
        shadows[i] = cow_slot_locked(cow, cow->living.numbers[i])->shadow;
    pthread_mutex_unlock(&cow->lock);
    return count;
}

size_t cow_faults(struct cow *cow, struct cow_fault faults[COW_FAULTS_KEPT])
{
    const struct cow_settings_record settings = settings_now(cow);
    uint64_t count = le64_get(&settings.fault_count), kept = MIN(count, (uint64_t)COW_FAULTS_KEPT);
    for (uint64_t i = 0; i < kept; i++) {
        struct cow_fault_record record;
        table_get(&cow->tables[COW_TABLE_STATE],
                  COW_STATE_FAULTS + (count - kept + i) % COW_FAULTS_KEPT, &record);
        faults[i] = (struct cow_fault){.time_ns = le64_get(&record.time_ns),
                                       .number = le32_get(&record.number),
                                       .reason = (enum cow_reason)le16_get(&record.reason)};
    }
    return (size_t)kept;
}

/* ---- what changed ---- */

static bool says_changed(const struct version *v, uint32_t from, uint32_t to)
{
    if (v->flags & COW_ENTRY_OWN)
        return v->number == from || v->number == to;
    return v->number >= from && (to == 0 || v->number < to);
}

static void mark_blocks(uint8_t *bitmap, const struct version *v)
{
    uint64_t mask = v->flags & COW_ENTRY_ZERO ? v->value : 1;
    for (; mask != 0; mask &= mask - 1) {
        uint64_t block = v->block + (unsigned)__builtin_ctzll(mask);
        bitmap[block / 8] |= (uint8_t)(1u << block % 8);
    }
}

static int both_live_locked(struct cow *cow, uint32_t from, uint32_t to)
{
    if (!cow_slot_locked(cow, from))
        return no_shadow(from);
    return to == 0 || cow_slot_locked(cow, to) ? 0 : no_shadow(to);
}

/* Writers go on in between: what they change while this looks may be there or not.  What tells of
 * older changes stays, as long as both shadows live. */
static int mark_changed(struct cow *cow, uint32_t from, uint32_t to, uint8_t *bitmap)
{
    size_t place = 0, end;
    int r;
    do {
        pthread_mutex_lock(&cow->lock);
        r = both_live_locked(cow, from, to);
        end = cow->map.place_count;
        for (size_t n = 0; r == 0 && n < SWEEP_STEP && place < end; n++, place++) {
            if (!map_is_indexed(&cow->map, place))
                continue;
            const struct version v = map_at(&cow->map, (uint32_t)place);
            if (says_changed(&v, from, to))
                mark_blocks(bitmap, &v);
        }
        pthread_mutex_unlock(&cow->lock);
    } while (r == 0 && place < end);
    return r;
}

static int add_marked(const struct cow *cow, const uint8_t *bitmap, struct extent_map *map)
{
    int r = 0;
    for (uint64_t b = 0, n; r == 0 && b < cow->block_count; b += n) {
        n = b % 8 == 0 && bitmap[b / 8] == 0 ? 8 : 1;
        if (!(bitmap[b / 8] >> b % 8 & 1))
            continue;
        while (b + n < cow->block_count && bitmap[(b + n) / 8] >> (b + n) % 8 & 1)
            n++;
        uint64_t end = MIN((b + n) * cow->block_bytes, cow->origin_bytes);
        r = extent_map_add(map, b * cow->block_bytes, end);
    }
    return r;
}

int cow_changed(struct cow *cow, uint32_t from, uint32_t to, struct extent_map *ret_bytes)
{
    struct extent_map map = {0};
    if (to != 0 && to < from)
        return error_note(-EINVAL, "shadow %u is older than shadow %u", to, from);
    CLEANUP_FREE uint8_t *bitmap = calloc(1, (size_t)((cow->block_count + 7) / 8));
    if (!bitmap)
        return -ENOMEM;
    int r = mark_changed(cow, from, to, bitmap);
    if (r == 0)
        r = add_marked(cow, bitmap, &map);
    if (r < 0)
        extent_map_release(&map);
    else
        *ret_bytes = map;
    return r;
}
