/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cleanup attributes for local variables.
 *
 * A local that owns something says so where it is declared:
 *
 *     CLEANUP_FREE char *path = NULL;
 *     CLEANUP_CLOSE int fd = -EBADF;
 *     CLEANUP(buffer_release) struct buffer buf = {0};
 *     CLEANUP(index_freep) struct index *index = NULL;
 *
 * and gives the ownership away with TAKE_PTR or TAKE_FD.  A destructor used with CLEANUP() takes
 * the address of the variable; DEFINE_CLEANUP_PTR(type, fn) makes such a wrapper, named fn##p, for
 * an fn that takes the pointer itself.
 */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn) __attribute__((cleanup(fn)))

static inline void cleanup_freep(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        (void)close(*fd);
        errno = saved;
    }
}

#define CLEANUP_FREE  CLEANUP(cleanup_freep)
#define CLEANUP_CLOSE CLEANUP(cleanup_closep)

#define TAKE_PTR(ptr)                      \
    __extension__({                        \
        __typeof__(ptr) taken_ptr = (ptr); \
        (ptr) = NULL;                      \
        taken_ptr;                         \
    })

#define TAKE_FD(fd)          \
    __extension__({          \
        int taken_fd = (fd); \
        (fd) = -EBADF;       \
        taken_fd;            \
    })

#define DEFINE_CLEANUP_PTR(type, fn)  \
    static inline void fn##p(type *p) \
    {                                 \
        if (*p)                       \
            fn(*p);                   \
    }                                 \
    struct cleanup_needs_semicolon
