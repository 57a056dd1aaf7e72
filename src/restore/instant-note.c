/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/instant-note.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/durable.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "control/json-text.h"
#include "filter/gate-holder.h"
#include "restore/instant-private.h"

#define NOTE_VERSION     1u
#define NOTE_LEN_MAX     ((size_t)1 << 20)
#define NOTE_SUFFIX      ".json"
#define NOTE_NAME_LEN    (INSTANT_ID_LEN + sizeof(NOTE_SUFFIX) - 1)
#define STRING_LEN_MAX   4096u
#define SOURCE_COUNT_MAX 1024u
#define RECORD_LEN_MAX   65536u /* XATTR_SIZE_MAX */

/* Linux 6.9, include/uapi/linux/fs.h */
struct fs_uuid {
    uint8_t len;
    uint8_t uuid[16];
};
#define GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

void instant_note_release(struct instant_note *note)
{
    free(note->target);
    free(note->mount_point);
    free(note->repo_url);
    free(note->password_file);
    free(note->cache_dir);
    free(note->load_order);
    free(note->record_order);
    string_vector_release_all(&note->sources);
    *note = (struct instant_note){0};
}

void instant_note_vector_release_all(struct instant_note_vector *v)
{
    for (size_t i = 0; i < v->count; i++)
        instant_note_release(&v->items[i]);
    instant_note_vector_release(v);
}

/* What a directory is, whatever its name is just now. */
struct identity {
    char fs_uuid[FS_UUID_LEN_MAX + 1];
    char directory[DIR_HANDLE_LEN_MAX + 1];
};

/* "" when the file system has none, or the kernel does not tell; btrfs is asked in its own way. */
static void read_fs_uuid(int fd, char ret_uuid[FS_UUID_LEN_MAX + 1])
{
    struct fs_uuid uuid = {0};
    struct btrfs_ioctl_fs_info_args info = {0};
    *ret_uuid = '\0';
    if (ioctl(fd, GET_FS_UUID, &uuid) == 0 && uuid.len <= sizeof(uuid.uuid))
        hex_encode(uuid.uuid, uuid.len, ret_uuid);
    else if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) == 0)
        hex_encode(info.fsid, sizeof(info.fsid), ret_uuid);
}

/* The handle, which has the inode and its generation; "" where there are no handles. */
static void read_directory(int fd, char ret_directory[DIR_HANDLE_LEN_MAX + 1])
{
    union {
        struct file_handle head;
        uint8_t bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } h = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount_id;
    static_assert(DIR_HANDLE_LEN_MAX == 2 * (sizeof(uint32_t) + MAX_HANDLE_SZ), "it fits");
    *ret_directory = '\0';
    if (name_to_handle_at(fd, "", &h.head, &mount_id, AT_EMPTY_PATH) < 0)
        return;
    int len = snprintf(ret_directory, 9, "%08x", (unsigned)h.head.handle_type);
    hex_encode(h.bytes + sizeof(struct file_handle), h.head.handle_bytes, ret_directory + len);
}

static int read_identity(const char *target, struct identity *ret_identity)
{
    CLEANUP_CLOSE int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", target);
    read_fs_uuid(fd, ret_identity->fs_uuid);
    read_directory(fd, ret_identity->directory);
    return 0;
}

/* The directory that the target's file system is mounted on, by its name. */
static int find_mount_point(const char *target, char **ret_path)
{
    struct statx st;
    CLEANUP_FREE char *path = strdup(target);
    if (!path)
        return -ENOMEM;
    for (;;) {
        if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &st) < 0)
            return error_note_describe(-errno, "cannot look at '%s'", path);
        char *slash = strrchr(path, '/');
        if ((st.stx_attributes & STATX_ATTR_MOUNT_ROOT) || !slash || path[1] == '\0')
            break;
        slash[slash == path] = '\0';
    }
    *ret_path = TAKE_PTR(path);
    return 0;
}

/* ---- the files ---- */

static void note_name(uint64_t restore_id, char ret_name[NOTE_NAME_LEN + 1])
{
    instant_id_format(restore_id, ret_name);
    memcpy(ret_name + INSTANT_ID_LEN, NOTE_SUFFIX, sizeof(NOTE_SUFFIX));
}

static char *read_absolute(struct json_reader *in, const char *key, enum json_need need)
{
    char *path = json_read_string(in, key, need, STRING_LEN_MAX);
    if (path && *path != '/')
        json_reader_fail(in, key, "is not an absolute path");
    return path;
}

static int parse_note(const char *text, size_t len, const char *name, struct instant_note *ret_note)
{
    CLEANUP(json_object_putp) struct json_object *object = NULL;
    CLEANUP(instant_note_release) struct instant_note note = {0};
    int r = json_parse_object(text, len, name, &object);
    if (r < 0)
        return r;
    struct json_reader in = {.object = object, .what = name};
    CLEANUP_FREE char *id = json_read_string(&in, "restore", JSON_MUST, INSTANT_ID_LEN);
    CLEANUP_FREE char *uuid = json_read_string(&in, "fs_uuid", JSON_MAY, FS_UUID_LEN_MAX);
    CLEANUP_FREE char *directory = json_read_string(&in, "directory", JSON_MAY, DIR_HANDLE_LEN_MAX);
    note.target = read_absolute(&in, "target", JSON_MUST);
    note.mount_point = read_absolute(&in, "mount_point", JSON_MAY);
    note.repo_url = json_read_string(&in, "repo", JSON_MAY, STRING_LEN_MAX);
    note.password_file = read_absolute(&in, "password_file", JSON_MAY);
    note.cache_dir = json_read_string(&in, "cache_dir", JSON_MAY, STRING_LEN_MAX);
    note.load_order = json_read_string(&in, "load_order", JSON_MAY, STRING_LEN_MAX);
    note.record_order = json_read_string(&in, "record_order", JSON_MAY, STRING_LEN_MAX);
    json_read_strings(&in, "sources", SOURCE_COUNT_MAX, STRING_LEN_MAX, &note.sources);
    if (json_read_u64(&in, "version", 0, 0, UINT32_MAX) != NOTE_VERSION && in.error == 0)
        return error_note(-UMBRA_E_VERSION, "%s has another version than %u", name, NOTE_VERSION);
    if (id && instant_id_parse(id, &note.restore_id) < 0)
        json_reader_fail(&in, "restore", "is not the id of a restore");
    if (in.error < 0)
        return in.error;
    if (uuid)
        memcpy(note.fs_uuid, uuid, strlen(uuid) + 1);
    if (directory)
        memcpy(note.directory, directory, strlen(directory) + 1);
    *ret_note = note;
    note = (struct instant_note){0};
    return 0;
}

static int format_note(const struct instant_config *config, const char *password_file,
                       char **ret_text)
{
    CLEANUP_FREE char *mount_point = NULL;
    CLEANUP(json_writer_release) struct json_writer w;
    struct identity identity;
    char id[INSTANT_ID_LEN + 1];
    json_writer_init(&w);
    int r = read_identity(config->target, &identity);
    if (r == 0)
        r = find_mount_point(config->target, &mount_point);
    if (r < 0)
        return r;
    instant_id_format(config->restore_id, id);
    json_write_u64(&w, "version", NOTE_VERSION);
    json_write_string(&w, "restore", id);
    json_write_string(&w, "target", config->target);
    json_write_string(&w, "mount_point", mount_point);
    json_write_string(&w, "fs_uuid", *identity.fs_uuid ? identity.fs_uuid : NULL);
    json_write_string(&w, "directory", *identity.directory ? identity.directory : NULL);
    json_write_string(&w, "repo", config->repo_url);
    json_write_string(&w, "password_file", password_file);
    json_write_string(&w, "cache_dir", config->cache_dir);
    json_write_string(&w, "load_order", config->load_order);
    json_write_string(&w, "record_order", config->record_order);
    json_write_strings(&w, "sources", &config->sources);
    return json_writer_finish(&w, ret_text);
}

/* Private, with its parents, whatever the umask is. */
static int make_note_dir(const char *dir)
{
    CLEANUP_FREE char *copy = strdup(dir);
    if (!copy)
        return -ENOMEM;
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return error_note_describe(-errno, "cannot make the directory '%s'", copy);
        *slash = '/';
    }
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make the directory '%s'", dir);
    return 0;
}

int instant_note_write_in(const char *dir, const struct instant_config *config,
                          const char *password_file)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP_FREE char *text = NULL;
    char name[NOTE_NAME_LEN + 1];
    int r = format_note(config, password_file, &text);
    if (r == 0)
        r = make_note_dir(dir);
    if (r == 0)
        r = io_new_real(dir, &io);
    if (r < 0)
        return r;
    note_name(config->restore_id, name);
    const struct iovec iov = {.iov_base = text, .iov_len = strlen(text)};
    return durable_write(io, "", name, DURABLE_REPLACE, &iov, 1);
}

int instant_note_remove_in(const char *dir, uint64_t restore_id)
{
    CLEANUP(io_freep) struct io *io = NULL;
    char name[NOTE_NAME_LEN + 1];
    note_name(restore_id, name);
    int r = io_new_real(dir, &io);
    if (r == 0)
        r = io_unlink(io, name);
    if (r == 0)
        r = io_sync_dir(io, "");
    return r == -ENOENT ? 0 : r;
}

static int read_note(struct io *io, uint64_t restore_id, struct instant_note *ret_note)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    char name[NOTE_NAME_LEN + 1];
    CLEANUP_FREE void *text = NULL;
    size_t len = 0;
    note_name(restore_id, name);
    int r = durable_read(io, name, NOTE_LEN_MAX, &text, &len);
    if (r == 0)
        r = parse_note(text, len, name, &note);
    if (r < 0)
        return r;
    if (note.restore_id != restore_id)
        return error_note(-UMBRA_E_CORRUPT, "%s is about another restore", name);
    *ret_note = note;
    note = (struct instant_note){0};
    return 0;
}

/* The id that a name tells.  False: it is no note. */
static bool parse_name(const char *name, uint64_t *ret_id)
{
    char id[INSTANT_ID_LEN + 1] = "";
    if (strlen(name) != NOTE_NAME_LEN || strcmp(name + INSTANT_ID_LEN, NOTE_SUFFIX) != 0)
        return false;
    memcpy(id, name, INSTANT_ID_LEN);
    return instant_id_parse(id, ret_id) == 0;
}

int instant_note_read_in(const char *dir, uint64_t restore_id, struct instant_note *ret_note)
{
    CLEANUP(io_freep) struct io *io = NULL;
    int r = io_new_real(dir, &io);
    return r < 0 ? r : read_note(io, restore_id, ret_note);
}

struct note_listing {
    struct io *io;
    struct instant_note_vector *notes;
    struct instant_id_vector *unreadable;
};

static int list_one(const char *name, void *userdata)
{
    struct note_listing *listing = userdata;
    CLEANUP(instant_note_release) struct instant_note note = {0};
    uint64_t id;
    if (!parse_name(name, &id))
        return 0;
    int r = read_note(listing->io, id, &note);
    if (r == -ENOMEM || r == -ENOENT)
        return r == -ENOENT ? 0 : r;
    if (r < 0) {
        log_warning("cannot read a note about a restore: %s", error_text(r));
        return instant_id_vector_push(listing->unreadable, &id);
    }
    r = instant_note_vector_push(listing->notes, &note);
    if (r == 0)
        note = (struct instant_note){0};
    return r;
}

static int compare_notes(const void *a, const void *b)
{
    uint64_t x = ((const struct instant_note *)a)->restore_id;
    uint64_t y = ((const struct instant_note *)b)->restore_id;
    return (x > y) - (x < y);
}

int instant_note_list_in(const char *dir, struct instant_note_vector *ret_notes,
                         struct instant_id_vector *ret_unreadable)
{
    CLEANUP(instant_id_vector_release) struct instant_id_vector unreadable = {0};
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector notes = {0};
    CLEANUP(io_freep) struct io *io = NULL;
    int r = io_new_real(dir, &io);
    if (r == 0) {
        struct note_listing listing = {.io = io, .notes = &notes, .unreadable = &unreadable};
        r = io_list(io, "", list_one, &listing);
    }
    if (r < 0 && r != -ENOENT)
        return r;
    if (notes.count > 1)
        qsort(notes.items, notes.count, sizeof(*notes.items), compare_notes);
    *ret_notes = notes;
    notes = (struct instant_note_vector){0};
    *ret_unreadable = unreadable;
    unreadable = (struct instant_id_vector){0};
    return 0;
}

int instant_note_write(const struct instant_config *config, const char *password_file)
{
    return instant_note_write_in(INSTANT_NOTE_DIR, config, password_file);
}

int instant_note_remove(uint64_t restore_id)
{
    return instant_note_remove_in(INSTANT_NOTE_DIR, restore_id);
}

int instant_note_read(uint64_t restore_id, struct instant_note *ret_note)
{
    return instant_note_read_in(INSTANT_NOTE_DIR, restore_id, ret_note);
}

int instant_note_list(struct instant_note_vector *ret_notes)
{
    CLEANUP(instant_id_vector_release) struct instant_id_vector unreadable = {0};
    return instant_note_list_all(ret_notes, &unreadable);
}

int instant_note_list_all(struct instant_note_vector *ret_notes,
                          struct instant_id_vector *ret_unreadable)
{
    return instant_note_list_in(INSTANT_NOTE_DIR, ret_notes, ret_unreadable);
}

/* ---- the target ---- */

int instant_record_read(const char *target, struct instant_config *ret_config)
{
    CLEANUP_FREE char *text = malloc(RECORD_LEN_MAX);
    if (!text)
        return -ENOMEM;
    CLEANUP_CLOSE int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", target);
    ssize_t len = fgetxattr(fd, INSTANT_XATTR, text, RECORD_LEN_MAX);
    if (len < 0 && (errno == ENODATA || errno == EOPNOTSUPP))
        return error_note(-ENODATA, "'%s' is not being restored", target);
    if (len < 0)
        return error_note_describe(-errno, "cannot read the record of a restore on '%s'", target);
    return instant_config_from_json(text, (size_t)len, ret_config);
}

/* Of a directory without the record. */
static enum instant_note_state judge(const struct instant_note *note, const struct identity *found)
{
    if (strcmp(found->fs_uuid, note->fs_uuid) != 0)
        return INSTANT_NOTE_ELSEWHERE;
    if (*note->directory && strcmp(found->directory, note->directory) != 0)
        return INSTANT_NOTE_REPLACED;
    return INSTANT_NOTE_STALE;
}

int instant_note_look(const struct instant_note *note, enum instant_note_state *ret_state)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    struct identity identity;
    int r = read_identity(note->target, &identity);
    if (r == -ENOENT || r == -ENOTDIR) {
        *ret_state = INSTANT_NOTE_AWAY;
        return 0;
    }
    if (r == 0)
        r = instant_record_read(note->target, &record);
    if (r < 0 && r != -ENODATA)
        return r;
    if (r == 0 && record.restore_id == note->restore_id)
        *ret_state = INSTANT_NOTE_UNFINISHED;
    else
        *ret_state = judge(note, &identity);
    return 0;
}

/* ---- removing what others may need ---- */

/* Many can start at once; whoever removes is alone. */
int instant_note_hold_in(const char *dir, int *ret_fd)
{
    int r = make_note_dir(dir);
    if (r < 0)
        return r;
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", dir);
    while (flock(fd, LOCK_SH) < 0)
        if (errno != EINTR)
            return error_note_describe(-errno, "cannot lock '%s'", dir);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* One whose gate stands may be about to: its hydrator has no socket yet, or is being started again.
 * The id is written a moment after the lock is taken. */
static bool may_run(const char *socket_dir, const struct instant_note *note)
{
    CLEANUP(instant_running_vector_release_all) struct instant_running_vector list = {0};
    uint64_t holder;
    if (gate_holder(note->target, &holder) == 0 && (holder == note->restore_id || holder == 0))
        return true;
    if (instant_list_in(socket_dir, &list) < 0)
        return true;
    for (size_t i = 0; i < list.count; i++)
        if (list.items[i].restore_id == note->restore_id)
            return true;
    return false;
}

/* Under the lock, which who starts a restore hands to its filter until the gate stands: so none has
 * begun since but those that run.  What was seen before may be older than the record. */
int instant_note_drop_in(const char *dir, const char *socket_dir, const struct instant_note *note,
                         enum instant_note_state seen, bool *ret_dropped)
{
    enum instant_note_state state;
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *ret_dropped = false;
    if (fd < 0)
        return error_note_describe(-errno, "cannot open '%s'", dir);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? 0 : error_note_describe(-errno, "cannot lock '%s'", dir);
    if (may_run(socket_dir, note))
        return 0;
    int r = instant_note_look(note, &state);
    if (r < 0 || state != seen)
        return r;
    r = instant_note_remove_in(dir, note->restore_id);
    *ret_dropped = r == 0;
    return r;
}

int instant_note_hold(int *ret_fd)
{
    return instant_note_hold_in(INSTANT_NOTE_DIR, ret_fd);
}

int instant_note_drop(const struct instant_note *note, enum instant_note_state seen,
                      bool *ret_dropped)
{
    return instant_note_drop_in(INSTANT_NOTE_DIR, INSTANT_SOCKET_DIR, note, seen, ret_dropped);
}
