#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""demand-reads.py FILE...: reads 4 KiB at random places of large files that are still being restored.

Prints the median and the 99th percentile in microseconds.  Each place is read once, so most reads
have to wait for their data.
"""
import os
import random
import time
import sys

READS = 400
BLOCK = 4096


def main():
    rng = random.Random(1)
    fds = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
    times = []
    for i in range(READS):
        fd = fds[i % len(fds)]
        blocks = os.fstat(fd).st_size // BLOCK
        place = rng.randrange(blocks) * BLOCK
        start = time.perf_counter()
        os.pread(fd, BLOCK, place)
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    print("demand_p50_us %.0f" % times[len(times) // 2])
    print("demand_p99_us %.0f" % times[len(times) * 99 // 100])


main()
