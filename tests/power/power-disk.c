/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk with a volatile cache, whose power can be cut.
 *
 *     power-disk IMAGE MOUNTPOINT
 *
 * serves MOUNTPOINT/disk (by FUSE), for a loop device to stand on: its contents are those of IMAGE,
 * which changes only when the disk is flushed, as a drive's platters do.  With SIGUSR1 the power is
 * cut: of what was written since the last flush a random part gets into IMAGE, some of it torn at a
 * multiple of 512 bytes, and every later call fails with EIO.  The seed is in POWER_SEED.
 *
 * One thread; memory is what is written between two flushes and a map of the image.
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/macro.h"
#include "basic/splitmix.h"
#include "basic/vector.h"

#define SECTOR 512u
#define NAME   "/disk"

struct piece {
    uint64_t offset;
    size_t len;
    uint8_t *data; /* NULL: zeros */
};
DEFINE_VECTOR(piece_vector, struct piece);

static struct {
    uint8_t *current; /* what readers see */
    int image_fd;
    uint64_t size_bytes;
    struct piece_vector unflushed;
    uint64_t random;
    bool is_dead;
} disk;

static volatile sig_atomic_t cut_wanted;

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static void write_image(const struct piece *p, size_t len)
{
    static const uint8_t zeros[64 << 10];

    for (size_t done = 0; done < len;) {
        size_t n = p->data ? len - done : MIN(len - done, sizeof(zeros));
        const void *from = p->data ? p->data + done : zeros;
        ssize_t written = pwrite(disk.image_fd, from, n, (off_t)(p->offset + done));
        if (written <= 0)
            die("image");
        done += (size_t)written;
    }
}

static void forget_unflushed(void)
{
    for (size_t i = 0; i < disk.unflushed.count; i++)
        free(disk.unflushed.items[i].data);
    disk.unflushed.count = 0;
}

static void flush(void)
{
    for (size_t i = 0; i < disk.unflushed.count; i++)
        write_image(&disk.unflushed.items[i], disk.unflushed.items[i].len);
    forget_unflushed();
}

/* A write may be lost while later ones are not.  Of two to the same place that both stay, the later
 * one wins, as with drives. */
static void cut(void)
{
    size_t kept = 0, torn = 0;

    for (size_t i = 0; i < disk.unflushed.count; i++) {
        const struct piece *p = &disk.unflushed.items[i];
        uint64_t dice = splitmix64_next(&disk.random) % 8;
        size_t sectors = p->len / SECTOR;
        if (dice < 4)
            continue;
        size_t len = p->len;
        if (dice == 4 && sectors > 1) {
            len = (size_t)(1 + splitmix64_next(&disk.random) % (sectors - 1)) * SECTOR;
            torn++;
        }
        write_image(p, len);
        kept++;
    }
    fprintf(stderr, "power-disk: cut: %zu of %zu unflushed writes kept, %zu torn\n", kept,
            disk.unflushed.count, torn);
    forget_unflushed();
    disk.is_dead = true;
}

static bool power_is_off(void)
{
    if (cut_wanted && !disk.is_dead)
        cut();
    return disk.is_dead;
}

static int note(uint64_t offset, const void *data, size_t len)
{
    struct piece p = {.offset = offset, .len = len};

    if (data) {
        p.data = malloc(len);
        if (!p.data)
            return -ENOMEM;
        memcpy(p.data, data, len);
        memcpy(disk.current + offset, data, len);
    } else {
        memset(disk.current + offset, 0, len);
    }
    return piece_vector_push(&disk.unflushed, &p);
}

/* ---- fuse ---- */

static int disk_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    (void)info;
    (void)power_is_off();
    memset(st, 0, sizeof(*st));
    if (strcmp(path, "/") == 0) {
        st->st_mode = S_IFDIR | 0700;
        st->st_nlink = 2;
        return 0;
    }
    if (strcmp(path, NAME) != 0)
        return -ENOENT;
    st->st_mode = S_IFREG | 0600;
    st->st_nlink = 1;
    st->st_size = (off_t)disk.size_bytes;
    return 0;
}

static int disk_open(const char *path, struct fuse_file_info *info)
{
    info->direct_io = 1; /* no cache but ours */
    return strcmp(path, NAME) == 0 ? 0 : -ENOENT;
}

static int disk_read(const char *path, char *data, size_t len, off_t offset,
                     struct fuse_file_info *info)
{
    (void)path;
    (void)info;
    if (power_is_off())
        return -EIO;
    if ((uint64_t)offset >= disk.size_bytes)
        return 0;
    len = MIN(len, (size_t)(disk.size_bytes - (uint64_t)offset));
    memcpy(data, disk.current + offset, len);
    return (int)len;
}

static int disk_write(const char *path, const char *data, size_t len, off_t offset,
                      struct fuse_file_info *info)
{
    (void)path;
    (void)info;
    if (power_is_off())
        return -EIO;
    if ((uint64_t)offset > disk.size_bytes || len > disk.size_bytes - (uint64_t)offset)
        return -ENOSPC;
    int r = note((uint64_t)offset, data, len);
    return r < 0 ? r : (int)len;
}

static int disk_fallocate(const char *path, int mode, off_t offset, off_t len,
                          struct fuse_file_info *info)
{
    (void)path;
    (void)info;
    if (power_is_off())
        return -EIO;
    if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
        return -EOPNOTSUPP;
    if ((uint64_t)offset > disk.size_bytes || (uint64_t)len > disk.size_bytes - (uint64_t)offset)
        return -EINVAL;
    return note((uint64_t)offset, NULL, (size_t)len);
}

static int disk_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    (void)path;
    (void)data_only;
    (void)info;
    if (power_is_off())
        return -EIO;
    flush();
    return 0;
}

/* The kernel calls it for a file that is closed, and for some other reasons: nothing is promised.
 */
static int disk_flush(const char *path, struct fuse_file_info *info)
{
    (void)path;
    (void)info;
    return power_is_off() ? -EIO : 0;
}

static const struct fuse_operations operations = {
    .getattr = disk_getattr,
    .open = disk_open,
    .read = disk_read,
    .write = disk_write,
    .fallocate = disk_fallocate,
    .fsync = disk_fsync,
    .flush = disk_flush,
};

/* ---- start ---- */

static void on_cut(int signal)
{
    (void)signal;
    cut_wanted = 1;
}

static void load(const char *image)
{
    struct stat st;

    disk.image_fd = open(image, O_RDWR | O_CLOEXEC);
    if (disk.image_fd < 0 || fstat(disk.image_fd, &st) < 0)
        die(image);
    disk.size_bytes = (uint64_t)st.st_size;
    /* A private map: written pages are ours, the others come from the image, where they are the
     * same. */
    disk.current = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_NORESERVE, disk.image_fd, 0);
    if (disk.current == MAP_FAILED)
        die("mmap");
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = on_cut};
    const char *seed = getenv("POWER_SEED");

    if (argc != 3) {
        fprintf(stderr, "usage: power-disk IMAGE MOUNTPOINT\n");
        return 2;
    }
    load(argv[1]);
    disk.random = seed ? strtoull(seed, NULL, 0) : 1;
    (void)sigaction(SIGUSR1, &action, NULL);
    char *arguments[] = {argv[0], (char[]){"-f"}, (char[]){"-s"}, argv[2], NULL};
    int r = fuse_main(4, arguments, &operations, NULL);
    if (!power_is_off())
        flush();
    return r;
}
