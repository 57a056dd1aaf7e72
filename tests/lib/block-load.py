#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes numbered blocks to a file or device, past the page cache, and checks them later.

    block-load.py write PATH BYTES NOTES SECONDS   random blocks of 4 KiB below BYTES, from four
                                                   processes, with an fsync now and then; until the
                                                   time is over, or SIGTERM (status 0), or an error
                                                   (status 3)
    block-load.py check PATH NOTES                 each block has to be what was last acknowledged by
                                                   an fsync, or something written after that

A block repeats its place and the number of the write, so a block that is torn, stale or another's is
found.
"""
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import struct
import sys
import time

BLOCK, PROCESSES, BATCH = 4096, 4, 24


def content(place, number):
    return struct.pack("<QQ", place, number) * (BLOCK // 16)


class Region:
    """What one process has written: its share of the blocks, by place."""

    def __init__(self, fd, index, count):
        self.fd, self.places = fd, range(index, count, PROCESSES)
        self.acked, self.pending = {}, {}
        self.number = 0
        self.buffer = mmap.mmap(-1, BLOCK)

    def batch(self):
        for place in random.sample(self.places, min(BATCH, len(self.places))):
            self.number += 1
            self.buffer[:] = content(place, self.number)
            self.pending.setdefault(place, []).append(self.number)
            if os.pwritev(self.fd, [self.buffer], place * BLOCK) != BLOCK:
                raise OSError("short write")
        os.fsync(self.fd)
        self.acked.update((place, numbers[-1]) for place, numbers in self.pending.items())
        self.pending = {}


def run(path, count, index, deadline, notes):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    region = Region(os.open(path, os.O_RDWR | os.O_DIRECT), index, count)
    status = 0
    try:
        while not stop and time.monotonic() < deadline:
            region.batch()
    except OSError as error:
        print(f"{region.number} writes, then: {error}")
        status = 3
    with open(f"{notes}.{index}", "wb") as f:
        pickle.dump((region.acked, region.pending), f)
    sys.exit(status)


def write(path, length, notes, seconds):
    deadline = time.monotonic() + float(seconds)
    children = [multiprocessing.Process(target=run,
                                        args=(path, int(length) // BLOCK, i, deadline, notes))
                for i in range(PROCESSES)]
    for child in children:
        child.start()
    signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in children])
    for child in children:
        child.join()
    codes = {child.exitcode for child in children}
    return 0 if codes == {0} else 3 if codes <= {0, 3} else 1


def problems_of(fd, acked, pending):
    buffer = mmap.mmap(-1, BLOCK)
    for place in acked.keys() | pending.keys():
        os.preadv(fd, [buffer], place * BLOCK)
        number = struct.unpack_from("<Q", buffer, 8)[0]
        allowed = pending.get(place, []) + ([acked[place]] if place in acked else [])
        if place not in acked and number not in allowed:
            continue  # as it was before all
        if number not in allowed:
            yield f"block {place}: write {number} in place of {allowed}"
        elif buffer[:] != content(place, number):
            yield f"block {place}: write {number} is torn"


def check(path, notes):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    found, blocks = [], 0
    for index in range(PROCESSES):
        with open(f"{notes}.{index}", "rb") as f:
            acked, pending = pickle.load(f)
        blocks += len(acked)
        found += problems_of(fd, acked, pending)
    print("\n".join(found[:20] + [f"{blocks} acknowledged blocks, {len(found)} problems"]))
    return 1 if found or not blocks else 0


sys.exit({"write": write, "check": check}[sys.argv[1]](*sys.argv[2:]))
