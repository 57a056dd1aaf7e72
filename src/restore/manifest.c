/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/manifest.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "basic/error.h"

#define UNWRITTEN_MAX (64u << 10)

struct record {
    uint64_t offset; /* among the entries */
    uint32_t len;
};
DEFINE_VECTOR(record_vector, struct record);

struct manifest {
    struct pack_table *names;
    int entries_fd, handles_fd; /* memfds; a handle stands at its ordinal times its size */
    pthread_mutex_t lock;       /* all below */
    struct record_vector records;
    uint64_t written_len;    /* of the entries, in the memfd */
    struct buffer unwritten; /* the entries after these: a write for each would be felt */
};

int manifest_new(struct pack_table *names, struct manifest **ret_manifest)
{
    CLEANUP(manifest_freep) struct manifest *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->names = names;
    m->entries_fd = memfd_create("umbra-entries", MFD_CLOEXEC);
    m->handles_fd = memfd_create("umbra-handles", MFD_CLOEXEC);
    (void)pthread_mutex_init(&m->lock, NULL);
    if (m->entries_fd < 0 || m->handles_fd < 0)
        return error_note_describe(-errno, "cannot make a file in memory");
    *ret_manifest = TAKE_PTR(m);
    return 0;
}

void manifest_free(struct manifest *m)
{
    if (!m)
        return;
    if (m->entries_fd >= 0)
        (void)close(m->entries_fd);
    if (m->handles_fd >= 0)
        (void)close(m->handles_fd);
    record_vector_release(&m->records);
    buffer_release(&m->unwritten);
    (void)pthread_mutex_destroy(&m->lock);
    free(m);
}

static int write_at(int fd, const void *data, size_t len, uint64_t offset)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno != EINTR)
            return error_note_describe(-errno, "cannot extend a file in memory");
        if (n > 0) {
            p += n;
            offset += (uint64_t)n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* -ENOENT when there is less. */
static int read_at(int fd, void *data, size_t len, uint64_t offset)
{
    uint8_t *p = data;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t)offset);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return -ENOENT;
        if (n > 0) {
            p += n;
            offset += (uint64_t)n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int write_out_locked(struct manifest *m)
{
    int r = write_at(m->entries_fd, m->unwritten.data, m->unwritten.len, m->written_len);
    if (r < 0)
        return r;
    m->written_len += m->unwritten.len;
    buffer_clear(&m->unwritten);
    return 0;
}

static int add_locked(struct manifest *m, const struct buffer *b, uint64_t *ret_ordinal)
{
    struct record record = {.offset = m->written_len + m->unwritten.len, .len = (uint32_t)b->len};

    buffer_put(&m->unwritten, b->data, b->len);
    int r = buffer_finish(&m->unwritten);
    if (r >= 0 && m->unwritten.len >= UNWRITTEN_MAX)
        r = write_out_locked(m);
    if (r < 0)
        return r;
    *ret_ordinal = m->records.count;
    return record_vector_push(&m->records, &record);
}

int manifest_add(struct manifest *m, const struct entry *e, uint64_t *ret_ordinal)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    int r = catalog_run_encode(&e, 1, m->names, &b);
    if (r < 0)
        return r;
    pthread_mutex_lock(&m->lock);
    r = add_locked(m, &b, ret_ordinal);
    pthread_mutex_unlock(&m->lock);
    return r;
}

uint64_t manifest_count(struct manifest *m)
{
    pthread_mutex_lock(&m->lock);
    uint64_t count = m->records.count;
    pthread_mutex_unlock(&m->lock);
    return count;
}

static int read_locked(struct manifest *m, uint64_t ordinal, uint8_t **ret_data, uint32_t *ret_len)
{
    if (ordinal >= m->records.count)
        return -ENOENT;
    struct record record = m->records.items[ordinal];
    CLEANUP_FREE uint8_t *data = malloc(record.len);
    if (!data)
        return -ENOMEM;
    if (record.offset >= m->written_len) {
        memcpy(data, m->unwritten.data + (record.offset - m->written_len), record.len);
    } else {
        int r = read_at(m->entries_fd, data, record.len, record.offset);
        if (r < 0)
            return r;
    }
    *ret_len = record.len;
    *ret_data = TAKE_PTR(data);
    return 0;
}

static int decode(struct manifest *m, const void *data, size_t len, struct entry *ret_entry)
{
    CLEANUP(catalog_run_freep) struct catalog_run *run = NULL;
    struct entry *e = NULL;

    int r = catalog_run_open(data, len, m->names, &run);
    if (r >= 0)
        r = catalog_run_next(run, &e);
    if (r >= 0 && !e)
        r = -ENOENT;
    return r < 0 ? r : entry_copy(e, ret_entry);
}

int manifest_get(struct manifest *m, uint64_t ordinal, struct entry *ret_entry)
{
    CLEANUP_FREE uint8_t *data = NULL;
    uint32_t len;

    pthread_mutex_lock(&m->lock);
    int r = read_locked(m, ordinal, &data, &len);
    pthread_mutex_unlock(&m->lock);
    return r < 0 ? r : decode(m, data, len, ret_entry);
}

int manifest_set_handle(struct manifest *m, uint64_t ordinal, const struct filter_handle *handle)
{
    return write_at(m->handles_fd, handle, sizeof(*handle), ordinal * sizeof(*handle));
}

int manifest_get_handle(struct manifest *m, uint64_t ordinal, struct filter_handle *ret_handle)
{
    struct filter_handle handle;

    int r = read_at(m->handles_fd, &handle, sizeof(handle), ordinal * sizeof(handle));
    if (r < 0)
        return r;
    if (handle.len == 0)
        return -ENOENT;
    *ret_handle = handle;
    return 0;
}
