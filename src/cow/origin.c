/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Identity: lines of text that stay the same as long as the device or file does.  Not its contents
 * (mkfs and tune2fs may change the UUID of a file system, through the volume), nor its name, nor
 * its numbers, which may be others after a reboot.  Of a disk that is what its hardware says, of a
 * part of a disk also where it begins, of a file its inode and when it was made.
 */
#include "cow/origin.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/text.h"

#define SYSFS_BLOCK  "/sys/dev/block"
#define VALUE_MAX    256u /* of a file in sysfs */
#define DEVICE_MAX   (sizeof("/dev/") + NAME_MAX)
#define STACK_MAX    8u /* devices on devices */
#define MOUNTINFO    "/proc/self/mountinfo"
#define ORIGIN_WORDS "origin '%s'"

DEFINE_CLEANUP_PTR(DIR *, closedir);
DEFINE_CLEANUP_PTR(FILE *, fclose);

void cow_origin_release(struct cow_origin *origin)
{
    cleanup_closep(&origin->fd);
    *origin = COW_ORIGIN_NONE;
}

/* ---- what sysfs says ---- */

/* Of a block device; without white space at its end.  False when there is none, or it is empty. */
static bool read_sysfs(dev_t dev, const char *attribute, char value[VALUE_MAX])
{
    char path[128];
    (void)snprintf(path, sizeof(path), SYSFS_BLOCK "/%u:%u/%s", major(dev), minor(dev), attribute);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, value, VALUE_MAX - 1);
    while (len > 0 && (value[len - 1] == '\n' || value[len - 1] == ' '))
        len--;
    if (len <= 0)
        return false;
    value[len] = '\0';
    return strlen(value) == (size_t)len;
}

/* "MAJOR:MINOR" */
static bool parse_dev(const char *text, dev_t *ret_dev)
{
    char *colon, *end;
    unsigned long upper = strtoul(text, &colon, 10);
    if (colon == text || *colon != ':')
        return false;
    unsigned long lower = strtoul(colon + 1, &end, 10);
    if (end == colon + 1 || *end != '\0' || upper > UINT32_MAX || lower > UINT32_MAX)
        return false;
    *ret_dev = makedev((unsigned)upper, (unsigned)lower);
    return true;
}

/* ---- which file a loop device shows ---- */

struct file_id {
    dev_t dev;
    ino_t inode;
};

static bool loop_file_of_fd(int fd, struct file_id *ret_id)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
        return false;
    *ret_id = (struct file_id){.dev = info.lo_device, .inode = info.lo_inode};
    return true;
}

/* Asks the device; where it has no node here, its name for the file is taken. */
static bool loop_file(dev_t dev, struct file_id *ret_id)
{
    char path[VALUE_MAX], node[64];
    struct stat st;
    if (!read_sysfs(dev, "loop/backing_file", path))
        return false;
    (void)snprintf(node, sizeof(node), "/dev/block/%u:%u", major(dev), minor(dev));
    CLEANUP_CLOSE int fd = open(node, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && loop_file_of_fd(fd, ret_id))
        return true;
    if (stat(path, &st) < 0)
        return false;
    *ret_id = (struct file_id){.dev = st.st_dev, .inode = st.st_ino};
    return true;
}

static bool is_file(const struct file_id *id, const struct stat *st)
{
    return S_ISREG(st->st_mode) && id->dev == st->st_dev && id->inode == st->st_ino;
}

/* A loop device that shows the file, by name; "" when there is none. */
static void find_loop_of(const struct stat *st, char name[DEVICE_MAX])
{
    CLEANUP(closedirp) DIR *dir = opendir("/sys/block");
    const struct dirent *entry;
    *name = '\0';
    while (dir && (entry = readdir(dir))) {
        char path[sizeof("/sys/block//dev") + NAME_MAX], text[32] = "";
        struct file_id id;
        dev_t dev;
        if (strncmp(entry->d_name, "loop", 4) != 0)
            continue;
        (void)snprintf(path, sizeof(path), "/sys/block/%s/dev", entry->d_name);
        CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (len > 0 && text[len - 1] == '\n')
            text[len - 1] = '\0';
        if (len > 0 && parse_dev(text, &dev) && loop_file(dev, &id) && is_file(&id, st)) {
            (void)snprintf(name, DEVICE_MAX, "/dev/%s", entry->d_name);
            return;
        }
    }
}

/* ---- what stands on what ---- */

static bool stands_on(dev_t dev, const struct stat *origin, unsigned depth);

/* The device of the mount that has an anonymous one (btrfs), as the mount table names it. */
static bool mounted_device(uint64_t mount_id, dev_t *ret_dev)
{
    CLEANUP(fclosep) FILE *file = fopen(MOUNTINFO, "re");
    CLEANUP_FREE char *line = NULL;
    size_t size = 0;
    struct stat st;
    while (file && getline(&line, &size, file) > 0) {
        if (strtoull(line, NULL, 10) != mount_id)
            continue;
        char *source = strstr(line, " - "); /* then the type, then the source */
        source = source ? strchr(source + 3, ' ') : NULL;
        if (!source)
            return false;
        source++;
        source[strcspn(source, " \n")] = '\0';
        if (*source != '/' || stat(source, &st) < 0 || !S_ISBLK(st.st_mode))
            return false;
        *ret_dev = st.st_rdev;
        return true;
    }
    return false;
}

/* Whether the file system that the path is of stands on the origin. */
static bool path_stands_on(const char *path, const struct stat *origin, unsigned depth)
{
    struct statx stx;
    dev_t dev;
    if (statx(AT_FDCWD, path, 0, STATX_MNT_ID, &stx) < 0)
        return false;
    dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
    if (stx.stx_dev_major == 0 &&
        ((stx.stx_mask & STATX_MNT_ID) == 0 || !mounted_device(stx.stx_mnt_id, &dev)))
        return false;
    return stands_on(dev, origin, depth);
}

static bool slaves_stand_on(dev_t dev, const struct stat *origin, unsigned depth)
{
    char path[64], text[VALUE_MAX];
    (void)snprintf(path, sizeof(path), SYSFS_BLOCK "/%u:%u/slaves", major(dev), minor(dev));
    CLEANUP(closedirp) DIR *dir = opendir(path);
    const struct dirent *entry;
    dev_t below;
    while (dir && (entry = readdir(dir))) {
        char attribute[sizeof("slaves//dev") + NAME_MAX];
        (void)snprintf(attribute, sizeof(attribute), "slaves/%s/dev", entry->d_name);
        if (entry->d_name[0] != '.' && read_sysfs(dev, attribute, text) &&
            parse_dev(text, &below) && stands_on(below, origin, depth))
            return true;
    }
    return false;
}

static bool stands_on(dev_t dev, const struct stat *origin, unsigned depth)
{
    char text[VALUE_MAX];
    struct file_id id;
    dev_t disk;
    if (S_ISBLK(origin->st_mode) && dev == origin->st_rdev)
        return true;
    if (depth == STACK_MAX)
        return false;
    if (loop_file(dev, &id) && is_file(&id, origin))
        return true;
    if (read_sysfs(dev, "loop/backing_file", text) && path_stands_on(text, origin, depth + 1))
        return true;
    if (read_sysfs(dev, "partition", text) && read_sysfs(dev, "../dev", text) &&
        parse_dev(text, &disk) && stands_on(disk, origin, depth + 1))
        return true;
    return slaves_stand_on(dev, origin, depth + 1);
}

/* ---- identity ---- */

static void add_line(struct cow_origin *origin, const char *fmt, ...) _printf_(2, 3);

/* All lines together are far shorter than the room for them. */
static void add_line(struct cow_origin *origin, const char *fmt, ...)
{
    char line[VALUE_MAX + 64];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (len < 0 || (size_t)len >= sizeof(line) ||
        (size_t)len > sizeof(origin->identity) - origin->identity_len)
        return;
    memcpy(origin->identity + origin->identity_len, line, (size_t)len);
    origin->identity_len += (size_t)len;
}

static void identify_file(struct cow_origin *origin)
{
    struct statx stx;
    add_line(origin, "file\n");
    if (statx(origin->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &stx) < 0)
        return;
    add_line(origin, "inode %llu\n", (unsigned long long)stx.stx_ino);
    if (stx.stx_mask & STATX_BTIME)
        add_line(origin, "born %lld.%09u\n", (long long)stx.stx_btime.tv_sec,
                 stx.stx_btime.tv_nsec);
}

static void identify_loop(struct cow_origin *origin)
{
    struct loop_info64 info;
    if (ioctl(origin->fd, LOOP_GET_STATUS64, &info) == 0)
        add_line(origin, "loop inode %llu offset %llu\n", (unsigned long long)info.lo_inode,
                 (unsigned long long)info.lo_offset);
}

static void identify_block(struct cow_origin *origin, dev_t dev)
{
    /* The first that is there tells enough. */
    static const char *const attributes[] = {
        "dm/uuid",     "dm/name",       "md/uuid", "wwid",
        "device/wwid", "device/serial", "serial",  "device/cid",
    };
    char value[VALUE_MAX];
    bool is_part = read_sysfs(dev, "partition", value);
    add_line(origin, "block\n");
    if (is_part && read_sysfs(dev, "start", value))
        add_line(origin, "start %s\n", value);
    for (size_t i = 0; i < ELEMENTSOF(attributes); i++) {
        char of_disk[64];
        (void)snprintf(of_disk, sizeof(of_disk), "../%s", attributes[i]);
        if (!read_sysfs(dev, is_part ? of_disk : attributes[i], value))
            continue;
        add_line(origin, "%s %s\n", attributes[i], value);
        return;
    }
    identify_loop(origin);
}

/* ---- opening it ---- */

static int in_use(const char *path, const char *how)
{
    return error_note(-EBUSY, ORIGIN_WORDS " is in use: %s", path, how);
}

static int open_failed(int r, const char *path)
{
    if (r == -EBUSY)
        return in_use(path, "it is mounted, or part of something else");
    if (r == -EROFS || r == -ETXTBSY)
        return error_note_describe(-EROFS, ORIGIN_WORDS " cannot be written", path);
    return error_note_describe(r, "cannot open " ORIGIN_WORDS, path);
}

static int open_block(const char *path, struct cow_origin *origin)
{
    int read_only = 0, sector_bytes = 0;
    origin->fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY);
    if (origin->fd < 0)
        return open_failed(-errno, path);
    if (ioctl(origin->fd, BLKROGET, &read_only) < 0 ||
        ioctl(origin->fd, BLKSSZGET, &sector_bytes) < 0 ||
        ioctl(origin->fd, BLKGETSIZE64, &origin->size_bytes) < 0)
        return error_note_describe(-errno, "cannot examine " ORIGIN_WORDS, path);
    if (read_only)
        return open_failed(-EROFS, path);
    origin->sector_bytes = (uint32_t)sector_bytes;
    return 0;
}

static int open_file(const char *path, const struct stat *expected, struct cow_origin *origin)
{
    char loop[DEVICE_MAX], how[DEVICE_MAX + 64];
    struct stat st;
    origin->fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (origin->fd < 0)
        return open_failed(-errno, path);
    if (fstat(origin->fd, &st) < 0)
        return error_note_describe(-errno, "cannot examine " ORIGIN_WORDS, path);
    if (st.st_dev != expected->st_dev || st.st_ino != expected->st_ino)
        return error_note(-UMBRA_E_CHANGED, ORIGIN_WORDS " was replaced just now", path);
    if (flock(origin->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? in_use(path, "somebody has locked it")
                   : error_note_describe(-errno, "cannot lock " ORIGIN_WORDS, path);
    find_loop_of(&st, loop);
    (void)snprintf(how, sizeof(how), "%s shows it", loop);
    if (*loop)
        return in_use(path, how);
    origin->size_bytes = (uint64_t)st.st_size;
    origin->sector_bytes = COW_SECTOR_BYTES;
    return 0;
}

static int check_size(const char *path, const struct cow_origin *origin)
{
    if (origin->size_bytes == 0)
        return error_note(-EINVAL, ORIGIN_WORDS " is empty", path);
    if (origin->size_bytes % COW_SECTOR_BYTES == 0)
        return 0;
    return error_note(-EINVAL, ORIGIN_WORDS " has %" PRIu64 " bytes, which is no multiple of %u",
                      path, origin->size_bytes, COW_SECTOR_BYTES);
}

int cow_origin_open(const char *path, const char *storage, struct cow_origin *ret_origin)
{
    CLEANUP(cow_origin_release) struct cow_origin origin = COW_ORIGIN_NONE;
    struct stat st;
    if (stat(path, &st) < 0)
        return error_note_describe(-errno, "cannot find " ORIGIN_WORDS, path);
    if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
        return error_note(-ENOTBLK, ORIGIN_WORDS " is neither a block device nor a regular file",
                          path);
    /* Before "in use", which it is then, too. */
    if (storage && path_stands_on(storage, &st, 0))
        return error_note(-ELOOP,
                          "storage '%s' lies on " ORIGIN_WORDS ", which it is to protect: use "
                          "another volume",
                          storage, path);
    origin.is_block = S_ISBLK(st.st_mode);
    int r = origin.is_block ? open_block(path, &origin) : open_file(path, &st, &origin);
    if (r == 0)
        r = check_size(path, &origin);
    if (r < 0)
        return r;
    if (origin.is_block)
        identify_block(&origin, st.st_rdev);
    else
        identify_file(&origin);
    *ret_origin = origin;
    origin = COW_ORIGIN_NONE;
    return 0;
}

bool cow_origin_same(const char *a, const char *b)
{
    struct stat x, y;
    if (stat(a, &x) < 0 || stat(b, &y) < 0)
        return false;
    if (S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode))
        return x.st_rdev == y.st_rdev;
    return S_ISREG(x.st_mode) && S_ISREG(y.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
