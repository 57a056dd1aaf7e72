/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *     fileop [--any] [--late] [--error ERRNO] OPERATION FILE COPY OTHER
 *     fileop --list                 MODE NAME, a line each
 *     fileop --compare FILE COPY    reads both
 *     fileop --pending FILE...      names the placeholders among them; exit 1: there are none
 *     fileop --race FILE COPY       opens FILE as soon as it appears, and reads it again and again
 *                                   until it is all of COPY; anything but the start of it is wrong
 *
 * FILE belongs to an instant restore and has to be a placeholder (--any: or not), COPY is an
 * ordinary copy of what was backed up, OTHER a complete file on the same file system.  The
 * operation is done to FILE and to COPY; both must end alike, have read the same bytes, and
 * (without --late) leave files with the same bytes.  --error: FILE must end with that errno.
 *
 * Exit 0: the same.  1: not.  77: the file system cannot do it.  A program that takes longer than
 * TIME_MAX_S is ended by SIGALRM.
 */
#include "fileop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TIME_MAX_S   60
#define BLOCK        65536u
#define STATUS_SKIP  77
#define STATUS_USAGE 2

static const struct operation *const tables[] = {
    read_operations, map_operations,  write_operations,
    size_operations, hole_operations, ring_operations,
};

/* ---- what the operations use ---- */

void *side_buffer(size_t len)
{
    void *data = NULL;

    if (posix_memalign(&data, PAGE, len) != 0) {
        (void)fprintf(stderr, "fileop: no memory\n");
        exit(EXIT_FAILURE);
    }
    memset(data, 0, len);
    return data;
}

void side_saw(struct side *side, const void *data, size_t len)
{
    if (side->len + len > side->allocated) {
        side->allocated = (side->len + len) * 2;
        side->data = realloc(side->data, side->allocated);
        if (!side->data)
            exit(EXIT_FAILURE);
    }
    if (len > 0)
        memcpy(side->data + side->len, data, len);
    side->len += len;
}

int side_open(const struct side *side, int flags)
{
    return (int)side_result(open(side->path, flags | O_CLOEXEC, 0644));
}

void side_pattern(uint8_t *data, size_t len, uint64_t seed)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(0xa0 + (seed + i) % 23);
}

long side_result(long n)
{
    return n < 0 ? -errno : n;
}

int side_read_range(struct side *side, int fd, uint64_t offset, uint64_t len)
{
    uint8_t block[BLOCK];

    while (len > 0) {
        size_t want = len < BLOCK ? (size_t)len : BLOCK;
        ssize_t n = pread(fd, block, want, (off_t)offset);
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        side_saw(side, block, (size_t)n);
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

int side_write_range(int fd, uint64_t offset, uint64_t len)
{
    uint8_t block[BLOCK];

    while (len > 0) {
        size_t want = len < BLOCK ? (size_t)len : BLOCK;
        side_pattern(block, want, offset);
        ssize_t n = pwrite(fd, block, want, (off_t)offset);
        if (n < 0)
            return -errno;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* ---- the frame ---- */

__attribute__((format(printf, 1, 2))) static int complain(const char *format, ...)
{
    va_list args;

    (void)fputs("fileop: ", stderr);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    return EXIT_FAILURE;
}

static int list(void)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        for (const struct operation *op = tables[i]; op->name; op++)
            (void)printf("%u %s\n", op->mode, op->name);
    return EXIT_SUCCESS;
}

static operation_fn find(const char *name)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        for (const struct operation *op = tables[i]; op->name; op++)
            if (strcmp(op->name, name) == 0)
                return op->run;
    return NULL;
}

/* A mark that was copied along with the contents is about another inode. */
static int is_pending(const char *path)
{
    uint8_t mark[44];
    uint64_t inode = 0;
    struct stat st;

    if (getxattr(path, "trusted.umbra.pending", mark, sizeof(mark)) != sizeof(mark))
        return 0;
    for (int i = 7; i >= 0; i--)
        inode = inode << 8 | mark[8 + i];
    return stat(path, &st) == 0 && st.st_ino == inode;
}

static int list_pending(char **paths)
{
    int r = EXIT_FAILURE;

    for (; *paths; paths++) {
        if (is_pending(*paths)) {
            (void)puts(*paths);
            r = EXIT_SUCCESS;
        }
    }
    return r;
}

static int prepare(struct side *side, const char *path, const char *other)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return complain("'%s': %s", path, strerror(errno));
    *side = (struct side){
        .path = path,
        .other = other,
        .size_bytes = (uint64_t)st.st_size,
        .middle = (uint64_t)st.st_size / 2 / PAGE * PAGE,
    };
    return EXIT_SUCCESS;
}

static int differ(const char *what, const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    size_t len = a_len < b_len ? a_len : b_len, i = 0;

    while (i < len && a[i] == b[i])
        i++;
    if (i == a_len && i == b_len)
        return EXIT_SUCCESS;
    return complain("%s: %zu and %zu bytes, different from byte %zu on (%#x and %#x)", what, a_len,
                    b_len, i, i < a_len ? a[i] : 0u, i < b_len ? b[i] : 0u);
}

static int read_all(struct side *side)
{
    int fd = side_open(side, O_RDONLY);
    if (fd < 0)
        return fd;
    int r = side_read_range(side, fd, 0, UINT64_MAX);
    (void)close(fd);
    return r;
}

static int compare(const char *file, const char *copy)
{
    struct side a = {.path = file}, b = {.path = copy};

    int r = read_all(&b);
    if (r < 0)
        return complain("cannot read '%s': %s", copy, strerror(-r));
    r = read_all(&a);
    if (r < 0)
        return complain("cannot read '%s': %s", file, strerror(-r));
    r = differ("contents", a.data, a.len, b.data, b.len);
    free(a.data);
    free(b.data);
    return r;
}

/* What is being made may be shorter yet, but never wrong. */
static int race(const char *file, const char *copy)
{
    struct side a = {.path = file}, b = {.path = copy};
    int fd;

    if (read_all(&b) < 0)
        return complain("cannot read '%s'", copy);
    do
        fd = side_open(&a, O_RDONLY);
    while (fd == -ENOENT); /* the caller has a time limit */
    if (fd < 0)
        return complain("cannot open '%s': %s", file, strerror(-fd));
    do {
        a.len = 0;
        int r = side_read_range(&a, fd, 0, UINT64_MAX);
        if (r < 0)
            return complain("cannot read '%s': %s", file, strerror(-r));
    } while (a.len < b.len && memcmp(a.data, b.data, a.len) == 0);
    (void)close(fd);
    return differ("contents", a.data, a.len, b.data, b.len);
}

struct options {
    int any, late, error;
};

static int run(const struct options *o, operation_fn operation, char **paths)
{
    struct side a, b;

    if (!o->any && !is_pending(paths[0]))
        return complain("'%s' is no placeholder, this would prove nothing", paths[0]);
    if (prepare(&a, paths[0], paths[2]) || prepare(&b, paths[1], paths[2]))
        return EXIT_FAILURE;
    int wanted = operation(&b);
    if (wanted == -EOPNOTSUPP || wanted == -ENOSYS)
        return STATUS_SKIP;
    if (wanted < 0)
        return complain("'%s' on an ordinary file: %s", paths[1], strerror(-wanted));
    int got = operation(&a);
    if (o->error)
        return got == -o->error
                   ? EXIT_SUCCESS
                   : complain("ended with '%s', expected '%s'", strerror(-got), strerror(o->error));
    if (got != wanted)
        return complain("ended with %d (%s), on an ordinary file with %d", got,
                        got < 0 ? strerror(-got) : "success", wanted);
    int r = differ("what was read", a.data, a.len, b.data, b.len);
    free(a.data);
    free(b.data);
    return r || o->late ? r : compare(paths[0], paths[1]);
}

static int fileop(int argc, char **argv)
{
    struct options o = {0};
    operation_fn operation;

    if (argc == 4 && strcmp(argv[1], "--race") == 0)
        return race(argv[2], argv[3]);
    (void)alarm(TIME_MAX_S);
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    if (argc >= 2 && strcmp(argv[1], "--pending") == 0)
        return list_pending(argv + 2);
    if (argc == 4 && strcmp(argv[1], "--compare") == 0)
        return compare(argv[2], argv[3]);
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        o.any |= strcmp(argv[i], "--any") == 0;
        o.late |= strcmp(argv[i], "--late") == 0;
        if (strcmp(argv[i], "--error") == 0 && i + 1 < argc)
            o.error = (int)strtol(argv[++i], NULL, 10);
    }
    if (argc - i != 4 || !(operation = find(argv[i]))) {
        (void)fprintf(stderr,
                      "usage: fileop [--any] [--late] [--error N] OPERATION FILE COPY OTHER\n");
        return STATUS_USAGE;
    }
    return run(&o, operation, argv + i + 1);
}

/* One operation a process: what it has is the kernel's to take back, whichever way it ends. */
int main(int argc, char **argv)
{
    int status = fileop(argc, argv);

    (void)fflush(NULL);
    _exit(status);
}
