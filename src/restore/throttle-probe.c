/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/throttle-probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/cleanup.h"

#define SECTOR_BYTES      512u
#define TEXT_MAX          4096
#define BTRFS_DEVICES_MAX 1024
#define USEC_PER_MS       1000u

/* ---- texts ---- */

/* A number and the white space before it. */
static int read_number(const char **text, uint64_t *ret_number)
{
    char *end;

    const char *digits = *text + strspn(*text, " \t\n");
    if (*digits < '0' || *digits > '9')
        return -EBADMSG;
    errno = 0;
    uint64_t number = strtoull(digits, &end, 10);
    if (errno != 0)
        return -EBADMSG;
    *text = end;
    *ret_number = number;
    return 0;
}

/* The number behind a name. */
static int read_named(const char *text, const char *name, uint64_t *ret_number)
{
    const char *found = strstr(text, name);

    if (!found)
        return -EBADMSG;
    found += strlen(name);
    return read_number(&found, ret_number);
}

int throttle_parse_pressure(const char *text, uint64_t *ret_total_us)
{
    const char *total = strncmp(text, "some ", 5) == 0 ? strstr(text, " total=") : NULL;
    const char *end_of_line = strchr(text, '\n');
    if (!total || (end_of_line && total > end_of_line))
        return -EBADMSG;
    return read_named(total, " total=", ret_total_us);
}

int throttle_parse_disk(const char *text, struct throttle_sample *sample, uint64_t *ret_read_ms)
{
    enum { READ_SECTORS = 2, READ_MS = 3, WRITTEN_SECTORS = 6, COUNT };
    uint64_t numbers[COUNT];

    for (unsigned i = 0; i < COUNT; i++) {
        int r = read_number(&text, &numbers[i]);
        if (r < 0)
            return r;
    }
    sample->disk_read_bytes = numbers[READ_SECTORS] * SECTOR_BYTES;
    sample->disk_written_bytes = numbers[WRITTEN_SECTORS] * SECTOR_BYTES;
    *ret_read_ms = numbers[READ_MS];
    return 0;
}

int throttle_parse_own(const char *text, uint64_t *ret_read_bytes, uint64_t *ret_written_bytes)
{
    uint64_t bytes_read, written, cancelled;

    if (read_named(text, "\nread_bytes: ", &bytes_read) < 0 ||
        read_named(text, "\nwrite_bytes: ", &written) < 0 ||
        read_named(text, "\ncancelled_write_bytes: ", &cancelled) < 0)
        return -EBADMSG;
    *ret_read_bytes = bytes_read;
    *ret_written_bytes = written - MIN(cancelled, written);
    return 0;
}

/* ---- files ---- */

/* The file is made anew by the kernel each time it is read from its start. */
static int read_text(int fd, char text[TEXT_MAX])
{
    ssize_t n = pread(fd, text, TEXT_MAX - 1, 0);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    return 0;
}

/* The first device of a btrfs; its st_dev numbers are of its own making. */
static int btrfs_device(int fd, dev_t *ret_device)
{
    struct btrfs_ioctl_fs_info_args fs = {0};
    if (ioctl(fd, BTRFS_IOC_FS_INFO, &fs) < 0)
        return -errno;
    for (uint64_t id = 1; id <= MIN(fs.max_id, (uint64_t)BTRFS_DEVICES_MAX); id++) {
        struct btrfs_ioctl_dev_info_args info = {.devid = id};
        struct stat st;
        if (ioctl(fd, BTRFS_IOC_DEV_INFO, &info) < 0)
            continue; /* taken out of the file system */
        info.path[sizeof(info.path) - 1] = '\0';
        if (stat((const char *)info.path, &st) == 0 && S_ISBLK(st.st_mode)) {
            *ret_device = st.st_rdev;
            return 0;
        }
    }
    return -ENODEV;
}

/* The block device beneath an open file or directory; 0 when it cannot be told. */
static dev_t device_beneath(int fd)
{
    struct statfs fs;
    struct stat st;
    dev_t device = 0;
    if (fd < 0 || fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
        return 0;
    if (fs.f_type != BTRFS_SUPER_MAGIC)
        return st.st_dev;
    return btrfs_device(fd, &device) < 0 ? 0 : device;
}

static dev_t device_of_path(const char *path)
{
    CLEANUP_CLOSE int fd = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -EBADF;
    return device_beneath(fd);
}

static int open_disk(dev_t device)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", major(device), minor(device));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void close_if(int *fd, bool useless)
{
    if (!useless || *fd < 0)
        return;
    (void)close(*fd);
    *fd = -EBADF;
}

/* A kernel may have the files and nothing in them. */
static void try_once(struct throttle_files *files)
{
    char text[TEXT_MAX];
    struct throttle_sample sample;
    uint64_t a, b;
    close_if(&files->pressure_fd,
             files->pressure_fd >= 0 && (read_text(files->pressure_fd, text) < 0 ||
                                         throttle_parse_pressure(text, &a) < 0));
    close_if(&files->disk_fd, files->disk_fd >= 0 && (read_text(files->disk_fd, text) < 0 ||
                                                      throttle_parse_disk(text, &sample, &a) < 0));
    close_if(&files->own_fd, files->own_fd >= 0 && (read_text(files->own_fd, text) < 0 ||
                                                    throttle_parse_own(text, &a, &b) < 0));
}

void throttle_files_open(struct throttle_files *files, int volume_fd, const char *repository)
{
    dev_t device = device_beneath(volume_fd);
    *files = (struct throttle_files){
        .pressure_fd = open("/proc/pressure/io", O_RDONLY | O_CLOEXEC),
        .disk_fd = open_disk(device),
        .own_fd = open("/proc/self/io", O_RDONLY | O_CLOEXEC),
        .own_reads_count = device != 0 && device_of_path(repository) == device,
    };
    try_once(files);
}

void throttle_files_close(struct throttle_files *files)
{
    close_if(&files->pressure_fd, true);
    close_if(&files->disk_fd, true);
    close_if(&files->own_fd, true);
}

/* Without our own counters, those of the disk cannot tell others from us. */
static bool sample_disk(const struct throttle_files *files, struct throttle_sample *sample,
                        uint64_t *ret_read_ms)
{
    char text[TEXT_MAX];
    uint64_t own_read = 0;
    if (files->disk_fd < 0 || files->own_fd < 0 || read_text(files->own_fd, text) < 0 ||
        throttle_parse_own(text, &own_read, &sample->own_written_bytes) < 0 ||
        read_text(files->disk_fd, text) < 0 || throttle_parse_disk(text, sample, ret_read_ms) < 0)
        return false;
    sample->own_read_bytes = files->own_reads_count ? own_read : 0;
    return true;
}

void throttle_files_sample(const struct throttle_files *files, struct throttle_sample *ret_sample)
{
    struct throttle_sample sample = {0};
    char text[TEXT_MAX];
    uint64_t read_ms = 0, waits_us = 0;
    sample.has_disk = sample_disk(files, &sample, &read_ms);
    if (files->pressure_fd >= 0) {
        sample.has_waits = read_text(files->pressure_fd, text) == 0 &&
                           throttle_parse_pressure(text, &waits_us) == 0;
    } else if (sample.has_disk && !files->own_reads_count) {
        /* Reads of the volume are not ours, then. */
        sample.has_waits = true;
        waits_us = read_ms * USEC_PER_MS;
    }
    sample.waits_us = sample.has_waits ? waits_us : 0;
    *ret_sample = sample;
}
