/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/load-order.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/text.h"
#include "basic/vector.h"
#include "tree/key.h"

#define LINE_LEN_MAX ((size_t)16 << 10) /* a path of PATH_MAX, all of it escaped */
#define NOT_FOUND    UINT64_MAX

DEFINE_VECTOR(position_vector, uint64_t);

/* Of an open hash table; position counts from 1, 0 is an empty slot. */
struct slot {
    uint64_t hash;
    uint32_t position;
};

struct load_order {
    uint8_t hash_key[crypto_shorthash_KEYBYTES];
    struct slot *slots;
    size_t slot_count;                /* a power of 2, more than twice the paths */
    struct position_vector positions; /* the ordinal of each path, or NOT_FOUND */
    size_t next;
    uint64_t bad_count, found_count;
};

void load_order_free(struct load_order *order)
{
    if (!order)
        return;
    free(order->slots);
    position_vector_release(&order->positions);
    free(order);
}

/* ---- the table ---- */

static int make_slots(struct load_order *order, size_t path_count)
{
    order->slot_count = 16;
    while (order->slot_count <= 2 * path_count)
        order->slot_count *= 2;
    order->slots = calloc(order->slot_count, sizeof(*order->slots));
    return order->slots ? 0 : -ENOMEM;
}

/* The slot that has the key, or the empty one where it belongs. */
static struct slot *find_slot(struct load_order *order, const uint8_t *key, size_t key_len,
                              uint64_t *ret_hash)
{
    uint64_t hash;
    static_assert(sizeof(hash) == crypto_shorthash_BYTES, "it fits");

    (void)crypto_shorthash((uint8_t *)&hash, key, key_len, order->hash_key);
    size_t at = (size_t)hash & (order->slot_count - 1);
    while (order->slots[at].position != 0 && order->slots[at].hash != hash)
        at = (at + 1) & (order->slot_count - 1);
    *ret_hash = hash;
    return &order->slots[at];
}

/* One that is there already keeps its place. */
static int add_key(struct load_order *order, const uint8_t *key, size_t key_len)
{
    const uint64_t not_found = NOT_FOUND;
    uint64_t hash;
    struct slot *slot = find_slot(order, key, key_len, &hash);

    if (slot->position != 0)
        return 0;
    int r = position_vector_push(&order->positions, &not_found);
    if (r < 0)
        return r;
    *slot = (struct slot){.hash = hash, .position = (uint32_t)order->positions.count};
    return 0;
}

void load_order_found(struct load_order *order, const uint8_t *key, size_t key_len,
                      uint64_t ordinal)
{
    uint64_t hash;
    const struct slot *slot = find_slot(order, key, key_len, &hash);

    if (slot->position == 0)
        return;
    uint64_t *place = &order->positions.items[slot->position - 1];
    order->found_count += *place == NOT_FOUND;
    *place = ordinal;
}

bool load_order_next(struct load_order *order, uint64_t *ret_ordinal)
{
    while (order->next < order->positions.count) {
        uint64_t ordinal = order->positions.items[order->next++];
        if (ordinal != NOT_FOUND) {
            *ret_ordinal = ordinal;
            return true;
        }
    }
    return false;
}

uint64_t load_order_bad_count(const struct load_order *order)
{
    return order->bad_count;
}

uint64_t load_order_path_count(const struct load_order *order)
{
    return order->positions.count;
}

uint64_t load_order_found_count(const struct load_order *order)
{
    return order->found_count;
}

/* ---- the text ---- */

/* -EINVAL: it is no path of a file. */
static int line_to_key(const char *line, size_t len, struct buffer *key)
{
    CLEANUP_FREE char *path = NULL;
    size_t path_len = 0;

    if (len < 2 || len > LINE_LEN_MAX || line[0] != '/' || line[1] == '/')
        return -EINVAL;
    int r = text_unescape(line + 1, len - 1, &path, &path_len);
    if (r < 0)
        return r;
    if (memchr(path, '\0', path_len))
        return -EINVAL;
    buffer_clear(key);
    key_put_path(key, path, path_len);
    r = buffer_finish(key);
    if (r < 0)
        return r;
    return key->len > 0 && key_valid(key->data, key->len) ? 0 : -EINVAL;
}

static int add_line(struct load_order *order, const char *line, size_t len, struct buffer *key)
{
    if (len == 0 || *line == '#')
        return 0;
    int r = order->positions.count < LOAD_ORDER_FILES_MAX ? line_to_key(line, len, key) : -EINVAL;
    if (r == -EINVAL) {
        order->bad_count++;
        return 0;
    }
    return r < 0 ? r : add_key(order, key->data, key->len);
}

/* The line at that place, without its newline; returns where the next one begins. */
static const char *next_line(const char *at, const char *end, size_t *ret_len)
{
    const char *newline = memchr(at, '\n', (size_t)(end - at));

    *ret_len = (size_t)((newline ? newline : end) - at);
    return newline ? newline + 1 : end;
}

static size_t count_paths(const char *text, const char *end)
{
    size_t count = 0, len;

    for (const char *at = text, *next; at < end && count < LOAD_ORDER_FILES_MAX; at = next) {
        next = next_line(at, end, &len);
        count += *at == '/';
    }
    return count;
}

int load_order_parse(const char *text, size_t len, struct load_order **ret_order)
{
    CLEANUP(load_order_freep) struct load_order *order = calloc(1, sizeof(*order));
    CLEANUP(buffer_release) struct buffer key = {0};
    size_t line_len;

    if (!order)
        return -ENOMEM;
    bool too_long = len > LOAD_ORDER_BYTES_MAX;
    len = MIN(len, (size_t)LOAD_ORDER_BYTES_MAX);
    while (too_long && len > 0 && text[len - 1] != '\n')
        len--;
    order->bad_count = too_long;
    const char *end = text + len;
    crypto_shorthash_keygen(order->hash_key);
    int r = make_slots(order, count_paths(text, end));
    for (const char *at = text, *next; r == 0 && at < end; at = next) {
        next = next_line(at, end, &line_len);
        r = add_line(order, at, line_len, &key);
    }
    if (r < 0)
        return r;
    *ret_order = TAKE_PTR(order);
    return 0;
}

static int read_text(int fd, char *text, size_t size, size_t *ret_len)
{
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, text + len, size - len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        len += n > 0 ? (size_t)n : 0;
    }
    *ret_len = len;
    return 0;
}

/* Only what may be a file of that kind: a pipe would keep us waiting. */
static int open_regular(const char *path, size_t *ret_size)
{
    struct stat st;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return error_note(-EINVAL, "it is no regular file");
    *ret_size = (size_t)MIN(st.st_size, (off_t)LOAD_ORDER_BYTES_MAX + 1);
    return TAKE_FD(fd);
}

int load_order_fetch(const char *path, char **ret_text, size_t *ret_len)
{
    size_t size = 0, len = 0;
    CLEANUP_CLOSE int fd = open_regular(path, &size);

    if (fd < 0)
        return error_prefix(fd, "cannot read the load order '%s'", path);
    CLEANUP_FREE char *text = malloc(size + 1);
    if (!text)
        return -ENOMEM;
    int r = read_text(fd, text, size, &len);
    if (r < 0)
        return error_note_describe(r, "cannot read the load order '%s'", path);
    *ret_text = TAKE_PTR(text);
    *ret_len = len;
    return 0;
}

int load_order_read(const char *path, struct load_order **ret_order)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;

    int r = load_order_fetch(path, &text, &len);
    return r < 0 ? r : load_order_parse(text, len, ret_order);
}

void load_order_put(struct buffer *b, const uint8_t *key, size_t key_len)
{
    CLEANUP_FREE char *path = key_to_path(key, key_len);
    CLEANUP_FREE char *text = path ? text_escape(path, strlen(path)) : NULL;

    if (!text)
        return;
    buffer_put(b, "/", 1);
    buffer_put(b, text, strlen(text));
    buffer_put(b, "\n", 1);
}
