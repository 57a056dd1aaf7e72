/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/waiter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "basic/cleanup.h"

#define STACK_MIN  (UINT64_C(1) << 32)
#define FIELDS_MAX 9 /* number, six arguments, stack pointer, program counter */

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "0x7f..", at *at; moves it behind the number. */
static int parse_hex(const char *text, size_t len, size_t *at, uint64_t *ret_value)
{
    uint64_t value = 0;
    size_t i = *at;

    if (len - i < 3 || text[i] != '0' || text[i + 1] != 'x')
        return -EBADMSG;
    size_t first = i + 2;
    for (i = first; i < len && digit_of(text[i]) >= 0; i++) {
        if (i - first == 16)
            return -EBADMSG;
        value = value << 4 | (uint64_t)digit_of(text[i]);
    }
    if (i == first)
        return -EBADMSG;
    *at = i;
    *ret_value = value;
    return 0;
}

static int parse_number(const char *text, size_t len, size_t *at, int32_t *ret_number)
{
    int32_t value = 0;
    size_t i = 0;

    for (; i < len && text[i] >= '0' && text[i] <= '9'; i++) {
        if (i == 6)
            return -EBADMSG;
        value = value * 10 + (text[i] - '0');
    }
    if (i == 0)
        return -EBADMSG;
    *at = i;
    *ret_number = value;
    return 0;
}

int waiter_parse(const char *text, size_t len, int32_t *ret_syscall, uint64_t ret_arguments[6])
{
    uint64_t fields[FIELDS_MAX - 1];
    int32_t number;
    size_t at;

    if (len >= 7 && memcmp(text, "running", 7) == 0)
        return -EAGAIN;
    if (len >= 2 && memcmp(text, "-1", 2) == 0)
        return -ENODATA;
    int r = parse_number(text, len, &at, &number);
    for (size_t i = 0; r >= 0 && i < ELEMENTSOF(fields); i++) {
        if (at == len || text[at] != ' ')
            return -EBADMSG;
        at++;
        r = parse_hex(text, len, &at, &fields[i]);
    }
    if (r < 0)
        return r;
    if (at != len && text[at] != '\n')
        return -EBADMSG;
    if (fields[6] < STACK_MIN)
        return -ENODATA;
    *ret_syscall = number;
    memcpy(ret_arguments, fields, 6 * sizeof(fields[0]));
    return 0;
}

static ssize_t read_proc(int proc_fd, int32_t tid, const char *name, char *text, size_t size)
{
    char path[32];

    (void)snprintf(path, sizeof(path), "%d/%s", tid, name);
    CLEANUP_CLOSE int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, size);
    return n < 0 ? -errno : n;
}

int waiter_read(int proc_fd, int32_t tid, struct waiter *ret_waiter)
{
    char text[256];

    *ret_waiter = (struct waiter){.syscall = -1};
    if (tid <= 0)
        return 0;
    ssize_t n = read_proc(proc_fd, tid, "comm", text, sizeof(text));
    for (ssize_t i = 0; i < n && i < (ssize_t)FILTER_COMM_LEN - 1 && text[i] != '\n'; i++)
        ret_waiter->comm[i] = text[i];
    n = read_proc(proc_fd, tid, "syscall", text, sizeof(text));
    if (n < 0)
        return 0;
    int r = waiter_parse(text, (size_t)n, &ret_waiter->syscall, ret_waiter->arguments);
    return r == -EAGAIN ? r : 0;
}

/* struct open_how begins with the flags. */
static int read_how(int32_t tid, uint64_t address, uint64_t *ret_flags)
{
    uint64_t flags;
    struct iovec own = {.iov_base = &flags, .iov_len = sizeof(flags)};
    struct iovec other = {.iov_base = (void *)(uintptr_t)address, .iov_len = sizeof(flags)};

    if (process_vm_readv(tid, &own, 1, &other, 1, 0) != (ssize_t)sizeof(flags))
        return -ENODATA;
    *ret_flags = flags;
    return 0;
}

int waiter_open_flags(const struct waiter *waiter, int32_t tid, uint64_t *ret_flags)
{
    switch (waiter->syscall) {
#ifdef SYS_open
    case SYS_open: *ret_flags = waiter->arguments[1]; return 0;
#endif
#ifdef SYS_creat
    case SYS_creat: *ret_flags = O_CREAT | O_WRONLY | O_TRUNC; return 0;
#endif
    case SYS_openat:
    case SYS_open_by_handle_at: *ret_flags = waiter->arguments[2]; return 0;
    case SYS_openat2: return read_how(tid, waiter->arguments[2], ret_flags);
    default: return -ENODATA;
    }
}
