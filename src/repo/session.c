/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal of a backup under way (session-format.h), and taking over that of a dead one.
 *
 * Taking over reads the sealed objects of each dead session of the same host and roots.  Every
 * object is a run of entries in key order; the runs overlap, so they are merged with a heap while
 * the walk asks for one key after the other.  Where two runs have the same key, the newer session's
 * entry is the one given.
 *
 * After a commit these are removed: the session's own objects; those of the sessions that were
 * taken over; and those that can never be used, because they are damaged, or longer than any reader
 * takes.  Nobody can tell whose these were, but nobody misses them: a session loses the time that
 * it had saved, which it had lost with the damage.  What is of a newer version, or cannot be read
 * at the moment, stays.
 */
#include "repo/session-private.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/prioq.h"
#include "basic/text.h"
#include "repo/session-format.h"
#include "tree/key.h"

#define SESSION_HEX_LEN  (2 * SESSION_ID_LEN)
#define SESSION_NAME_LEN (sizeof("sessions/") - 1 + SESSION_HEX_LEN + 1 + 8)
#define SESSION_AAD_LEN  (sizeof(struct session_header) + SESSION_ID_LEN + 4)

/* One object of a dead session. */
struct adopted_run {
    struct prioq_item heap; /* by the current entry's key */
    int64_t start_ns;
    void *data; /* opened contents; the run points into it */
    struct catalog_run *run;
    struct entry *current;
};
DEFINE_VECTOR(adopted_vector, struct adopted_run *);

struct session {
    struct repository *repo;
    struct session_head head;
    uint8_t id[SESSION_ID_LEN];
    uint32_t next_number;
    struct string_vector spent; /* others' objects, to be removed after the commit */
    struct adopted_vector adopted;
    struct prioq *heap;
    struct adopted_run *given; /* its current entry is with the caller */
};

void session_head_release(struct session_head *head)
{
    free(head->host);
    string_vector_release_all(&head->roots);
}

static void adopted_run_free(struct adopted_run *a)
{
    if (!a)
        return;
    catalog_run_free(a->run);
    free(a->data);
    free(a);
}
DEFINE_CLEANUP_PTR(struct adopted_run *, adopted_run_free);

void session_free(struct session *session)
{
    if (!session)
        return;
    prioq_free(session->heap);
    for (size_t i = 0; i < session->adopted.count; i++)
        adopted_run_free(session->adopted.items[i]);
    adopted_vector_release(&session->adopted);
    string_vector_release_all(&session->spent);
    session_head_release(&session->head);
    free(session);
}

/* ---- this process ---- */

static int read_text_file(const char *path, char *text, size_t size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, size - 1);
    if (n < 0)
        return -errno;
    text[n] = 0;
    return 0;
}

/* The boot id as bytes; all zero when the kernel does not tell. */
static void read_boot_id(uint8_t boot_id[BOOT_ID_LEN])
{
    char text[64] = "";
    char digits[2 * BOOT_ID_LEN + 1];
    size_t n = 0;
    memset(boot_id, 0, BOOT_ID_LEN);
    if (read_text_file("/proc/sys/kernel/random/boot_id", text, sizeof(text)) < 0)
        return;
    for (const char *p = text; *p && n < 2 * BOOT_ID_LEN; p++)
        if (*p != '-' && *p != '\n')
            digits[n++] = *p;
    digits[n] = 0;
    if (hex_decode(digits, boot_id, BOOT_ID_LEN) < 0)
        memset(boot_id, 0, BOOT_ID_LEN);
}

/* Start time of a process in clock ticks since boot; 0 when there is no such process. */
static uint64_t process_start(uint64_t pid)
{
    char path[64];
    char text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%llu/stat", (unsigned long long)pid);
    if (read_text_file(path, text, sizeof(text)) < 0)
        return 0;
    const char *p = strrchr(text, ')'); /* the name may hold anything */
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p ? strtoull(p + 1, NULL, 10) : 0;
}

int session_new(struct repository *repo, const char *host, const char *const *roots,
                size_t root_count, int64_t start_ns, struct session **ret_session)
{
    CLEANUP(session_freep) struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return -ENOMEM;
    session->repo = repo;
    session->head.start_ns = start_ns;
    session->head.pid = (uint64_t)getpid();
    session->head.pid_start = process_start(session->head.pid);
    read_boot_id(session->head.boot_id);
    session->head.host = strdup(host);
    if (!session->head.host)
        return -ENOMEM;
    int r = crypt_random(session->id, sizeof(session->id));
    for (size_t i = 0; r >= 0 && i < root_count; i++)
        r = string_vector_add(&session->head.roots, roots[i]);
    if (r < 0)
        return r;
    *ret_session = TAKE_PTR(session);
    return 0;
}

/* ---- writing ---- */

static void object_name(const uint8_t id[SESSION_ID_LEN], uint32_t number,
                        char name[SESSION_NAME_LEN + 1])
{
    char hex[SESSION_HEX_LEN + 1];
    hex_encode(id, SESSION_ID_LEN, hex);
    (void)snprintf(name, SESSION_NAME_LEN + 1, "sessions/%s/%08x", hex, number);
}

static void make_aad(const struct session_header *header, const uint8_t id[SESSION_ID_LEN],
                     uint32_t number, uint8_t aad[SESSION_AAD_LEN])
{
    le32_t n = le32_make(number);
    memcpy(aad, header, sizeof(*header));
    memcpy(aad + sizeof(*header), id, SESSION_ID_LEN);
    memcpy(aad + sizeof(*header) + SESSION_ID_LEN, &n, sizeof(n));
}

void session_head_encode(const struct session_head *head, struct buffer *b)
{
    buffer_put_varint(b, (uint64_t)head->start_ns);
    buffer_put_varint(b, head->pid);
    buffer_put_varint(b, head->pid_start);
    buffer_put(b, head->boot_id, BOOT_ID_LEN);
    buffer_put_string(b, head->host);
    buffer_put_varint(b, head->roots.count);
    for (size_t i = 0; i < head->roots.count; i++)
        buffer_put_string(b, head->roots.items[i]);
}

/* Seals and stores one object. */
static int store(struct session *session, const struct buffer *plain)
{
    CLEANUP(buffer_release) struct buffer sealed = {0};
    struct session_header header = {.version = le32_make(SESSION_VERSION)};
    uint8_t aad[SESSION_AAD_LEN];
    char name[SESSION_NAME_LEN + 1];
    memcpy(header.magic, SESSION_MAGIC, sizeof(header.magic));
    make_aad(&header, session->id, session->next_number, aad);
    object_name(session->id, session->next_number, name);

    uint8_t *out = buffer_extend(&sealed, plain->len + SEAL_OVERHEAD);
    if (!out)
        return -ENOMEM;
    int r = seal(session->repo->keyring, SEAL_SESSION, aad, sizeof(aad),
                 &(struct iovec){plain->data, plain->len}, 1, out);
    if (r < 0)
        return r;
    const struct iovec iov[] = {{&header, sizeof(header)}, {sealed.data, sealed.len}};
    r = backend_put(session->repo->backend, name, iov, ELEMENTSOF(iov));
    if (r < 0)
        return r;
    session->next_number++;
    return 0;
}

/* -UMBRA_E_LIMIT: more than one object takes. */
static int journal_one(struct session *session, const struct entry *const *entries, size_t count,
                       size_t object_len_max)
{
    CLEANUP(buffer_release) struct buffer plain = {0};
    session_head_encode(&session->head, &plain);
    int r = catalog_run_encode(entries, count, session->repo->names, &plain);
    if (r >= 0)
        r = buffer_finish(&plain);
    if (r < 0)
        return r;
    if (plain.len + sizeof(struct session_header) + SEAL_OVERHEAD > object_len_max)
        return -UMBRA_E_LIMIT;
    return store(session, &plain);
}

int session_journal_limited(struct session *session, const struct entry *const *entries,
                            size_t count, size_t object_len_max)
{
    int r = journal_one(session, entries, count, object_len_max);
    if (r != -UMBRA_E_LIMIT)
        return r;
    if (count == 1) /* after an interruption it will be read again, and found to be stored */
        return 0;
    r = session_journal_limited(session, entries, count / 2, object_len_max);
    if (r < 0)
        return r;
    return session_journal_limited(session, entries + count / 2, count - count / 2, object_len_max);
}

int session_journal(struct session *session, const struct entry *const *entries, size_t count)
{
    return session_journal_limited(session, entries, count, SESSION_OBJECT_LEN_MAX);
}

void session_remove_all(struct session *session)
{
    for (uint32_t number = 0; number < session->next_number; number++) {
        char name[SESSION_NAME_LEN + 1];
        object_name(session->id, number, name);
        int r = backend_remove(session->repo->backend, name);
        if (r < 0 && r != -ENOENT)
            log_warning("cannot remove %s, ignoring: %s", name, error_text(r));
    }
    for (size_t i = 0; i < session->spent.count; i++) {
        int r = backend_remove(session->repo->backend, session->spent.items[i]);
        if (r < 0 && r != -ENOENT)
            log_warning("cannot remove %s, ignoring: %s", session->spent.items[i], error_text(r));
    }
}

/* ---- taking over ---- */

int session_head_decode(struct reader *reader, struct session_head *head)
{
    head->start_ns = (int64_t)reader_varint_max(reader, INT64_MAX);
    head->pid = reader_varint(reader);
    head->pid_start = reader_varint(reader);
    reader_copy(reader, head->boot_id, BOOT_ID_LEN);
    head->host = reader_string(reader, SESSION_HOST_MAX);
    uint64_t count = reader_varint_max(reader, SESSION_ROOTS_MAX);
    for (uint64_t i = 0; i < count && !reader->failed; i++) {
        CLEANUP_FREE char *root = reader_string(reader, SESSION_ROOT_MAX);
        int r = root ? string_vector_add(&head->roots, root) : 0;
        if (r < 0)
            return r;
    }
    return reader_finish(reader);
}

static bool head_is_alive(const struct session_head *head, const struct session *self)
{
    return memcmp(head->boot_id, self->head.boot_id, BOOT_ID_LEN) == 0 &&
           head->pid != self->head.pid && head->pid_start != 0 &&
           process_start(head->pid) == head->pid_start;
}

static bool head_is_ours(const struct session_head *head, const struct session *self)
{
    if (strcmp(head->host, self->head.host) != 0 || head->roots.count != self->head.roots.count)
        return false;
    for (size_t i = 0; i < head->roots.count; i++)
        if (strcmp(head->roots.items[i], self->head.roots.items[i]) != 0)
            return false;
    return true;
}

/* "sessions/<hex>/<hex>" */
static int parse_name(const char *name, uint8_t id[SESSION_ID_LEN], uint32_t *ret_number)
{
    char hex[SESSION_HEX_LEN + 1] = "";
    uint8_t number[4];
    if (strlen(name) != SESSION_NAME_LEN || strncmp(name, "sessions/", 9) != 0 ||
        name[9 + SESSION_HEX_LEN] != '/')
        return -EINVAL;
    memcpy(hex, name + 9, SESSION_HEX_LEN);
    if (hex_decode(hex, id, SESSION_ID_LEN) < 0 ||
        hex_decode(name + 9 + SESSION_HEX_LEN + 1, number, 4) < 0)
        return -EINVAL;
    *ret_number = (uint32_t)number[0] << 24 | (uint32_t)number[1] << 16 | (uint32_t)number[2] << 8 |
                  number[3];
    return 0;
}

static int open_object(struct session *session, const char *name, void **ret_plain, size_t *ret_len)
{
    uint8_t id[SESSION_ID_LEN];
    uint32_t number;
    uint8_t aad[SESSION_AAD_LEN];
    CLEANUP_FREE void *object = NULL;
    size_t len;
    int r = parse_name(name, id, &number);
    if (r >= 0)
        r = backend_get_all(session->repo->backend, name, SESSION_OBJECT_LEN_MAX, &object, &len);
    if (r < 0)
        return r;
    const struct session_header *header = object;
    if (len < sizeof(*header) + SEAL_OVERHEAD || memcmp(header->magic, SESSION_MAGIC, 8) != 0)
        return error_note(-UMBRA_E_CORRUPT, "is no session object");
    if (le32_get(&header->version) != SESSION_VERSION)
        return error_note(-UMBRA_E_VERSION, "has version %u", le32_get(&header->version));
    size_t box_len = len - sizeof(*header);
    CLEANUP_FREE void *plain = malloc(box_len - SEAL_OVERHEAD + 1);
    if (!plain)
        return -ENOMEM;
    make_aad(header, id, number, aad);
    r = unseal(session->repo->keyring, SEAL_SESSION, aad, sizeof(aad),
               (const uint8_t *)object + sizeof(*header), box_len, plain);
    if (r < 0)
        return r;
    *ret_plain = TAKE_PTR(plain);
    *ret_len = box_len - SEAL_OVERHEAD;
    return 0;
}

/* Reads the next entry of a run and puts it into the heap; at its end the run stays out. */
static int adopted_advance(struct session *session, struct adopted_run *a)
{
    int r = catalog_run_next(a->run, &a->current);
    if (r < 0 || !a->current)
        return r;
    return prioq_push(session->heap, &a->heap);
}

static int adopt_run(struct session *session, void **data, struct reader *rest, int64_t start_ns)
{
    CLEANUP(adopted_run_freep) struct adopted_run *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->start_ns = start_ns;
    a->data = TAKE_PTR(*data);
    int r = catalog_run_open(rest->pos, reader_left(rest), session->repo->names, &a->run);
    if (r >= 0)
        r = adopted_vector_push(&session->adopted, &a);
    if (r < 0)
        return r;
    return adopted_advance(session, TAKE_PTR(a));
}

static int adopt_object(struct session *session, const char *name)
{
    CLEANUP_FREE void *plain = NULL;
    size_t len = 0;
    int r = open_object(session, name, &plain, &len);
    if (r < 0)
        return r;
    struct reader reader = reader_make(plain, len);
    CLEANUP(session_head_release) struct session_head head = {0};
    r = session_head_decode(&reader, &head);
    if (r < 0 || !head_is_ours(&head, session) || head_is_alive(&head, session))
        return r;
    r = string_vector_add(&session->spent, name);
    if (r < 0)
        return r;
    return adopt_run(session, &plain, &reader, head.start_ns);
}

static int adopted_compare(const struct prioq_item *x, const struct prioq_item *y)
{
    const struct adopted_run *a = CONTAINER_OF(x, struct adopted_run, heap);
    const struct adopted_run *b = CONTAINER_OF(y, struct adopted_run, heap);
    int order =
        key_compare(a->current->key, a->current->key_len, b->current->key, b->current->key_len);
    if (order != 0)
        return order;
    return a->start_ns > b->start_ns ? -1 : a->start_ns < b->start_ns;
}

static int collect_name(const char *name, uint64_t size_bytes _unused_, void *userdata)
{
    return string_vector_add(userdata, name);
}

/* Whether the object is such that nobody will ever be able to use it. */
static bool is_useless(int r)
{
    return r == -UMBRA_E_CORRUPT || r == -UMBRA_E_SEAL || r == -UMBRA_E_LIMIT;
}

/* An object that failed with r costs time, not the backup. */
static int adopt_without(struct session *session, const char *name, int r)
{
    if (r == -ENOMEM)
        return r;
    if (r == -ENOENT) /* its session has just committed */
        return 0;
    log_warning("cannot use the journal %s of an interrupted backup, ignoring: %s", name,
                error_text(r));
    return is_useless(r) ? string_vector_add(&session->spent, name) : 0;
}

int session_adopt(struct session *session)
{
    struct string_vector names = {0};
    int r = prioq_new(adopted_compare, &session->heap);
    if (r >= 0)
        r = backend_list(session->repo->backend, "sessions/", collect_name, &names);
    for (size_t i = 0; r >= 0 && i < names.count; i++) {
        r = adopt_object(session, names.items[i]);
        if (r < 0)
            r = adopt_without(session, names.items[i], r);
    }
    string_vector_release_all(&names);
    return r;
}

/* Leaves out the rest of a run that turns out to be damaged. */
static void adopted_next(struct session *session, struct adopted_run *a)
{
    int r = adopted_advance(session, a);
    if (r < 0)
        log_warning("the journal of an interrupted backup is damaged, ignoring the rest: %s",
                    error_text(r));
}

int session_find(struct session *session, const uint8_t *key, size_t len, struct entry **ret_entry,
                 int64_t *ret_start_ns)
{
    if (session->given)
        adopted_next(session, TAKE_PTR(session->given));
    *ret_entry = NULL;
    struct prioq_item *top;
    while ((top = prioq_peek(session->heap))) {
        struct adopted_run *a = CONTAINER_OF(top, struct adopted_run, heap);
        int order = key_compare(a->current->key, a->current->key_len, key, len);
        if (order > 0)
            return 0;
        (void)prioq_pop(session->heap);
        if (order == 0) {
            session->given = a;
            *ret_entry = a->current;
            *ret_start_ns = a->start_ns;
            return 0;
        }
        adopted_next(session, a);
    }
    return 0;
}
