/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fileop: does one thing to a file of an instant restore and the same to an ordinary copy of it,
 * and compares what came of it.  fileop.c is the frame, the others have the operations.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096u

/* One of the two sides. */
struct side {
    const char *path;
    const char *other;   /* a complete file on the same file system, larger than two pages */
    uint64_t size_bytes; /* of the file, before the operation */
    uint64_t middle;     /* the start of a page near its middle */
    uint8_t *data;       /* what the operation has read */
    size_t len, allocated;
};

/* 0 or negative errno. */
typedef int (*operation_fn)(struct side *side);

struct operation {
    unsigned mode; /* number of the failure mode, see docs/TESTING.md */
    const char *name;
    operation_fn run;
};

/* Ended by one without a name. */
extern const struct operation read_operations[], map_operations[], write_operations[],
    size_operations[], hole_operations[], ring_operations[];

/* What the operation has got to see: compared with the other side. */
void side_saw(struct side *side, const void *data, size_t len);
/* Opens, with O_CLOEXEC; negative errno. */
int side_open(const struct side *side, int flags);
/* Bytes that neither file has at this place. */
void side_pattern(uint8_t *data, size_t len, uint64_t seed);
/* The number, or negative errno when it is negative. */
long side_result(long n);
/* Reads from fd at offset until len or the end of file, and saw() it. */
int side_read_range(struct side *side, int fd, uint64_t offset, uint64_t len);
/* Writes all. */
int side_write_range(int fd, uint64_t offset, uint64_t len);
/* A page-aligned buffer, never freed; ends the program without memory. */
void *side_buffer(size_t len);
