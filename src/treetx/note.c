/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/note.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/crc32c.h"
#include "basic/durable.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "tree/key.h"

#define NOTE_MAGIC     "UTXN"
#define NOTE_MAGIC_LEN 4u
#define NOTE_VERSION   1u
#define NOTE_HAS_TIMES 1u
#define NOTE_LEN_MAX   (KEY_LEN_MAX + 1024u)
#define LOCK_NAME      "lock"

void note_release(struct note *note)
{
    free(note->target);
    *note = (struct note){0};
}

void note_vector_release_all(struct note_vector *notes)
{
    for (size_t i = 0; i < notes->count; i++)
        note_release(&notes->items[i]);
    note_vector_release(notes);
}

/* ---- bytes ---- */

int note_encode(const struct note *note, struct buffer *b)
{
    buffer_put(b, NOTE_MAGIC, NOTE_MAGIC_LEN);
    buffer_put_u8(b, NOTE_VERSION);
    buffer_put_u8(b, note->has_times ? NOTE_HAS_TIMES : 0);
    buffer_put_string(b, note->target);
    ident_put(b, &note->root);
    for (size_t i = 0; i < ELEMENTSOF(note->times); i++) {
        buffer_put_zigzag(b, note->has_times ? note->times[i].tv_sec : 0);
        buffer_put_varint(b, note->has_times ? (uint64_t)note->times[i].tv_nsec : 0);
    }
    int r = buffer_finish(b);
    if (r < 0)
        return r;
    buffer_put_u32(b, crc32c(0, b->data, b->len));
    return buffer_finish(b);
}

static bool checksum_holds(const uint8_t *data, size_t len)
{
    struct reader end = reader_make(data + len - sizeof(uint32_t), sizeof(uint32_t));

    return reader_u32(&end) == crc32c(0, data, len - sizeof(uint32_t));
}

static void read_times(struct reader *r, struct timespec *ret_times)
{
    for (size_t i = 0; i < 2; i++) {
        ret_times[i].tv_sec = reader_zigzag(r);
        ret_times[i].tv_nsec = (long)reader_varint_max(r, NSEC_PER_SEC - 1);
    }
}

int note_decode(const void *data, size_t len, struct note *ret_note)
{
    CLEANUP(note_release) struct note note = {0};

    if (len < NOTE_MAGIC_LEN + 2 + sizeof(uint32_t) ||
        memcmp(data, NOTE_MAGIC, NOTE_MAGIC_LEN) != 0)
        return -UMBRA_E_CORRUPT;
    struct reader r = reader_make(data, len - sizeof(uint32_t));
    (void)reader_get(&r, NOTE_MAGIC_LEN);
    if (reader_u8(&r) != NOTE_VERSION)
        return -UMBRA_E_VERSION;
    unsigned flags = reader_u8(&r);
    note.has_times = flags & NOTE_HAS_TIMES;
    note.target = reader_string(&r, KEY_LEN_MAX);
    ident_read(&r, &note.root);
    read_times(&r, note.times);
    if (reader_finish_at_end(&r) < 0 || flags > NOTE_HAS_TIMES || *note.target != '/' ||
        !checksum_holds(data, len))
        return -UMBRA_E_CORRUPT;
    *ret_note = note;
    note = (struct note){0};
    return 0;
}

/* ---- the directory ---- */

static int state_dir(char **ret_path)
{
    const char *dir = getenv("UMBRA_STATE_DIR"), *home = getenv("HOME"), *tail = "";

    if ((!dir || !*dir) && geteuid() == 0) {
        dir = "/var/lib/umbra";
    } else if (!dir || !*dir) {
        dir = getenv("XDG_STATE_HOME");
        tail = "/umbra";
        if (!dir || *dir != '/') {
            dir = home;
            tail = "/.local/state/umbra";
        }
    }
    if (!dir || *dir != '/')
        return error_note(-ENOENT, "no directory for the state of umbra: set UMBRA_STATE_DIR");
    if (asprintf(ret_path, "%s%s/transactions", dir, tail) < 0) {
        *ret_path = NULL;
        return -ENOMEM;
    }
    return 0;
}

/* -ENOENT when it is not there and not to be made. */
static int open_dir(bool make, struct io **ret_io, char **ret_path)
{
    CLEANUP_FREE char *path = NULL;
    CLEANUP(io_freep) struct io *top = NULL;

    int r = state_dir(&path);
    if (r >= 0)
        r = io_new_real(path, ret_io);
    if (r == -ENOENT && make) {
        r = io_new_real("/", &top);
        if (r >= 0)
            r = durable_mkdir_parents(top, path + 1);
        if (r >= 0)
            r = io_new_real(path, ret_io);
    }
    if (r >= 0 && ret_path)
        *ret_path = TAKE_PTR(path);
    return r;
}

static int name_note(struct io *io, struct note *note)
{
    uint8_t random[NOTE_NAME_LEN / 2];

    if (note->name[0])
        return 0;
    int r = io_random(io, random, sizeof(random));
    if (r >= 0)
        hex_encode(random, sizeof(random), note->name);
    return r;
}

int note_write(struct note *note)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP(buffer_release) struct buffer b = {0};

    int r = open_dir(true, &io, NULL);
    if (r >= 0)
        r = name_note(io, note);
    if (r >= 0)
        r = note_encode(note, &b);
    if (r < 0)
        return error_prefix(r, "cannot keep a note of the change");
    const struct iovec iov = {.iov_base = b.data, .iov_len = b.len};
    r = durable_write(io, "", note->name, DURABLE_REPLACE, &iov, 1);
    return r < 0 ? error_prefix(r, "cannot keep a note of the change") : 0;
}

int note_drop(const struct note *note)
{
    CLEANUP(io_freep) struct io *io = NULL;

    if (!note->name[0])
        return 0;
    int r = open_dir(false, &io, NULL);
    if (r >= 0)
        r = io_unlink(io, note->name);
    if (r >= 0)
        r = io_sync_dir(io, "");
    return r == -ENOENT ? 0 : r;
}

int note_hold(int *ret_fd)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP_FREE char *dir = NULL, *path = NULL;

    int r = open_dir(true, &io, &dir);
    if (r < 0)
        return error_prefix(r, "cannot keep notes of changes");
    if (asprintf(&path, "%s/" LOCK_NAME, dir) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", path);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return error_note_describe(-errno, "cannot lock '%s'", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- finding ---- */

struct listing {
    struct io *io;
    struct note_vector notes;
};

static bool is_note_name(const char *name)
{
    return strlen(name) == NOTE_NAME_LEN && strspn(name, "0123456789abcdef") == NOTE_NAME_LEN;
}

static int read_note(struct listing *l, const char *name)
{
    CLEANUP(note_release) struct note note = {0};
    CLEANUP_FREE void *data = NULL;
    size_t len;

    int r = durable_read(l->io, name, NOTE_LEN_MAX, &data, &len);
    if (r >= 0)
        r = note_decode(data, len, &note);
    if (r < 0)
        return r;
    memcpy(note.name, name, sizeof(note.name));
    r = note_vector_push(&l->notes, &note);
    if (r >= 0)
        note = (struct note){0};
    return r;
}

static int list_note(const char *name, void *userdata)
{
    if (!is_note_name(name))
        return 0;
    int r = read_note(userdata, name);
    if (r < 0 && r != -ENOENT && r != -ENOMEM)
        log_warning("the note '%s' of a change cannot be read: %s", name, error_text(r));
    return r == -ENOMEM ? r : 0;
}

int note_list(struct note_vector *ret_notes)
{
    CLEANUP(io_freep) struct io *io = NULL;
    struct listing l = {0};

    int r = open_dir(false, &io, NULL);
    if (r == -ENOENT) {
        *ret_notes = l.notes;
        return 0;
    }
    l.io = io;
    if (r >= 0)
        r = io_list(io, "", list_note, &l);
    if (r < 0)
        note_vector_release_all(&l.notes);
    else
        *ret_notes = l.notes;
    return r;
}

/* Handles are those of one file system: two trees may have the same. */
static bool is_elsewhere(const char *path, int root_fd)
{
    struct stat there, here;

    return stat(path, &there) == 0 && fstat(root_fd, &here) == 0 &&
           (there.st_dev != here.st_dev || there.st_ino != here.st_ino);
}

int note_find(const struct ident *root, int root_fd, struct note *ret_note)
{
    CLEANUP(note_vector_release_all) struct note_vector notes = {0};

    int r = note_list(&notes);
    for (size_t i = 0; r >= 0 && i < notes.count; i++) {
        struct note *note = &notes.items[i];
        if (!ident_equal(&note->root, root) || is_elsewhere(note->target, root_fd))
            continue;
        *ret_note = *note;
        *note = (struct note){0};
        return 0;
    }
    return r < 0 ? r : -ENOENT;
}
