#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""read-cost.py FILE...: what a million reads of 4 KiB cost, in turns, the median of five.

Files are read in the page cache, so that it is the system call that counts, and come into it by the
same way: pages that were written are smaller than those that were read ahead.
"""
import os
import statistics
import sys
import time

READS, ROUNDS, BLOCK = 200_000, 5, 4096
BLOCKS_MAX = 16384


def seconds_of(fd, blocks):
    start = time.perf_counter()
    for i in range(READS):
        os.pread(fd, BLOCK, i % blocks * BLOCK)
    return (time.perf_counter() - start) * 1_000_000 / READS


def main():
    files = [(path, os.open(path, os.O_RDONLY)) for path in sys.argv[1:]]
    blocks = min(BLOCKS_MAX, *(os.fstat(fd).st_size // BLOCK for _, fd in files))
    for _, fd in files:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        seconds_of(fd, blocks)
    times = {path: [] for path, _ in files}
    for _ in range(ROUNDS):
        for path, fd in files:
            times[path].append(seconds_of(fd, blocks))
    first = statistics.median(times[files[0][0]])
    for path, _ in files:
        median = statistics.median(times[path])
        print(f"{median:.3f} s  {median / first:5.2f}  {os.path.basename(path)}")


main()
