#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""read-blocks.py PLAIN TREE [DIR]: reads all files of TREE block by block and compares them with those of PLAIN.

Files in DIR are left alone, so that there is something left to restore.
Prints "FILE FIRST COUNT" for each run of blocks that cannot be read (EIO), and exits with 1 when anything
else differs or fails.
"""
import errno
import os
import sys

BLOCK = 16384


def read_block(fd, number):
    """None: it cannot be read."""
    try:
        return os.pread(fd, BLOCK, number * BLOCK)
    except OSError as e:
        if e.errno != errno.EIO:
            raise
        return None


def bad_blocks(plain, path):
    with open(plain, "rb") as f:
        data = f.read()
    fd = os.open(path, os.O_RDONLY)
    try:
        for i in range((len(data) + BLOCK - 1) // BLOCK):
            block = read_block(fd, i)
            if block is None:
                yield i
            elif block != data[i * BLOCK:(i + 1) * BLOCK]:
                sys.exit(f"'{path}' differs in block {i}")
    finally:
        os.close(fd)


def runs(numbers):
    run = []
    for number in numbers:
        if run and number != run[0] + run[1]:
            yield run
            run = []
        run = [run[0], run[1] + 1] if run else [number, 1]
    if run:
        yield run


def main(plain, tree, left_alone=None):
    for top, _, names in sorted(os.walk(plain)):
        if left_alone and top == os.path.join(plain, left_alone):
            continue
        for name in sorted(names):
            path = os.path.relpath(os.path.join(top, name), plain)
            for first, count in runs(bad_blocks(os.path.join(plain, path), os.path.join(tree, path))):
                print(path, first, count, flush=True)


main(*sys.argv[1:])
