/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a waiting thread is about to do with a file.
 *
 * The event does not tell: FAN_PRE_ACCESS has a range and no more, and for some calls the wrong one
 * (a write with O_APPEND reports offset 0; collapsing a range moves all behind it; a truncation to
 * a size inside a page looks like the read of that page).  The system call that the thread is in
 * does tell.  Those in the table are known to touch nothing but the reported range, and the last
 * page; what is mapped is filled as a whole.  Everything else is taken for the worst: the file is
 * completed first, synced, and its mark taken off, because whatever makes a hole or moves data
 * would be taken for "not here yet" after a crash.
 *
 * The numbers are those of this machine's own system calls.  A 32-bit program's numbers are
 * others; none of those that it would have to be afraid of has a number of this table.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "restore/hydrator-private.h"

enum call_kind {
    CALL_READ,
    CALL_WRITE,
    CALL_MAP,
    CALL_COPY,  /* from one file to another: which of the two this is, their descriptors tell */
    CALL_REMAP, /* the same, and the destination may get holes */
};

static const struct {
    int number;
    enum call_kind kind;
    unsigned destination; /* of a copy: which argument is its descriptor */
} range_calls[] = {
    {SYS_read, CALL_READ, 0},      {SYS_pread64, CALL_READ, 0},
    {SYS_readv, CALL_READ, 0},     {SYS_preadv, CALL_READ, 0},
    {SYS_preadv2, CALL_READ, 0},   {SYS_execve, CALL_READ, 0},
    {SYS_execveat, CALL_READ, 0},  {SYS_write, CALL_WRITE, 0},
    {SYS_pwrite64, CALL_WRITE, 0}, {SYS_writev, CALL_WRITE, 0},
    {SYS_pwritev, CALL_WRITE, 0},  {SYS_pwritev2, CALL_WRITE, 0},
    {SYS_mmap, CALL_MAP, 0},       {SYS_sendfile, CALL_COPY, 0},
    {SYS_splice, CALL_COPY, 2},    {SYS_copy_file_range, CALL_REMAP, 2},
};

/* Programs that ask where the holes are: for them a file is filled before they can look. */
static const char *const default_hole_seekers[] = {
    "cp",   "mv",    "install",  "tar",           "bsdtar", "rsync",
    "cpio", "star",  "qemu-img", "qemu-nbd",      "dd",     "restic",
    "borg", "umbra", "bmaptool", "virt-sparsify", "xfs_io", "filefrag",
};

static bool seeks_holes(const char *comm, const struct instant_config *config)
{
    if (config->hole_seekers.count == 0) {
        for (size_t i = 0; i < ELEMENTSOF(default_hole_seekers); i++) {
            if (strcmp(comm, default_hole_seekers[i]) == 0)
                return true;
        }
    }
    for (size_t i = 0; i < config->hole_seekers.count; i++) {
        if (strcmp(comm, config->hole_seekers.items[i]) == 0)
            return true;
    }
    return false;
}

static int find_call(int number)
{
    for (size_t i = 0; i < ELEMENTSOF(range_calls); i++) {
        if (range_calls[i].number == number)
            return (int)i;
    }
    return -1;
}

/* Whether the thread's descriptor is this file; true when that cannot be told. */
static bool is_same_file(int proc_fd, int32_t tid, uint64_t descriptor, const struct stat *file)
{
    char path[64];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%d/fd/%d", tid, (int)descriptor);
    return fstatat(proc_fd, path, &st, 0) < 0 ||
           (st.st_dev == file->st_dev && st.st_ino == file->st_ino);
}

/* Whether the thread's descriptor is open for writing; true when that cannot be told. */
static bool is_writable(int proc_fd, int32_t tid, uint64_t descriptor)
{
    char path[64], text[256];

    (void)snprintf(path, sizeof(path), "%d/fdinfo/%d", tid, (int)descriptor);
    CLEANUP_CLOSE int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    text[MAX(n, (ssize_t)0)] = '\0';
    const char *flags = strstr(text, "flags:\t");
    return !flags || (strtoul(flags + strlen("flags:\t"), NULL, 8) & O_ACCMODE) != O_RDONLY;
}

static bool call_writes(size_t call, const struct filter_request *request, int proc_fd,
                        const struct stat *st)
{
    const uint64_t *a = request->arguments;

    switch (range_calls[call].kind) {
    case CALL_READ: return false;
    case CALL_WRITE: return true;
    case CALL_MAP: /* mprotect() may come later */
        return (a[3] & MAP_TYPE) != MAP_PRIVATE && is_writable(proc_fd, request->tid, a[4]);
    default: return is_same_file(proc_fd, request->tid, a[range_calls[call].destination], st);
    }
}

static void access_range(const struct filter_request *request, int proc_fd, const struct stat *st,
                         struct access *access)
{
    uint64_t size_bytes = (uint64_t)st->st_size;
    int call = find_call(request->syscall);

    access->start = request->offset;
    access->end = request->offset + request->count;
    if (request->count == 0 || access->end < access->start)
        access->end = UINT64_MAX;
    if (call >= 0)
        access->writes = call_writes((size_t)call, request, proc_fd, st);
    if (call < 0 || (range_calls[call].kind == CALL_REMAP && access->writes)) {
        access->whole = access->durable = access->writes = true;
        return;
    }
    /* mremap() may make a mapping longer, and raises no event */
    access->whole = range_calls[call].kind == CALL_MAP;
    if (access->writes && size_bytes > 0) {
        /* where an append goes; one more page or two do not matter */
        uint64_t tail = (size_bytes - 1) & ~UINT64_C(4095);
        if (tail < access->start || tail >= access->end)
            access->tail = tail;
    }
    if (access->start == 0 && access->end == UINT64_MAX)
        access->whole = true;
}

void access_of_request(const struct filter_request *request, const struct instant_config *config,
                       int proc_fd, const struct stat *st, struct access *ret_access)
{
    struct access access = {.tail = UINT64_MAX};

    switch (request->event) {
    case FILTER_OPEN:
    case FILTER_EXEC:
        access.whole =
            (uint64_t)st->st_size <= config->whole_file_max || seeks_holes(request->comm, config);
        break;
    case FILTER_TRUNCATE: access.truncating_open = true; break;
    case FILTER_ACCESS: access_range(request, proc_fd, st, &access); break;
    default: access.whole = access.durable = access.writes = true;
    }
    *ret_access = access;
}
