#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""make-log.py FILE [DEFECT]: writes a log as umbra-log(5) describes it, sharing no code with umbra.

One client "table" of the manager "test"; transaction 1 committed, 2 undone, 3 open; five flushes, of
which the third has two pages.  DEFECT: newer, middle, last, torn, area-a, areas, record, cut.
"""
import struct
import sys

PAGE = 4096
PAGES = 256
FILE = (PAGES + 2) * PAGE
ID = bytes(range(16))
UPDATE, COMPENSATION, COMMIT, ABORT, END = 1, 2, 3, 4, 5


def make_table():
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        yield n


TABLE = list(make_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def with_checksum(data, at):
    return data[:at] + struct.pack("<I", crc32c(data)) + data[at + 4:]


def area(sequence, version=1):
    head = struct.pack("<8sIH2x16sQQIIQQQQQ", b"UMBRALOG", 0, version, ID, sequence, FILE, 16 * PAGE, 1,
                       0, 0, 0, PAGE, 1).ljust(256, b"\0")
    client = struct.pack("<32sB5xH24x", b"table", 0, 4).ljust(64, b"\0") + b"here".ljust(512, b"\0")
    return with_checksum((head + client).ljust(PAGE, b"\0"), 8)


def record(lsn, kind, txn, prev=0, undo_next=0, undoes=0, op=0, redo=b"", undo=b"", manager=0):
    head = struct.pack("<IIQQQQQBBHIIBB2x", 64 + len(redo) + len(undo), 0, lsn, txn, prev, undo_next, undoes,
                       kind, 0, op, len(redo), len(undo), manager, 0)
    data = with_checksum(head + redo + undo, 4)
    return data + bytes(-len(data) % 8)


class Log:
    def __init__(self):
        self.lsn = PAGE
        self.pages = {}
        self.checksum = 0
        self.durable = PAGE

    def flush(self, records):
        """records: functions from an LSN to bytes.  All that fits into one page a piece."""
        stream = b""
        first = []
        for make in records:
            at = len(stream)
            first.append(at)
            stream += make(self.lsn + at // 4032 * PAGE + 64 + at % 4032)
        count = -(-len(stream) // 4032)
        for i in range(count):
            body = stream[i * 4032:(i + 1) * 4032]
            begins = [at - i * 4032 + 64 for at in first if i * 4032 <= at < (i + 1) * 4032]
            head = struct.pack("<4sIQ16sQIIHHHH8x", b"UWLP", 0, self.lsn + i * PAGE, ID, self.durable,
                               self.checksum, 1, 64 + len(body), begins[0] if begins else 0, i, count)
            page = with_checksum((head + body).ljust(PAGE, b"\0"), 4)
            self.checksum = struct.unpack_from("<I", page, 4)[0]
            self.pages[self.lsn + i * PAGE] = page
        self.lsn += count * PAGE
        self.durable = self.lsn


def offset(lsn):
    return PAGE + lsn % (PAGES * PAGE)


def main():
    path, defect = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    log = Log()
    a, b, c = 4096 + 64, 8192 + 64, 12288 + 64
    log.flush([lambda lsn: record(lsn, UPDATE, 1, op=7, redo=b"new", undo=b"old contents"),
               lambda lsn: record(lsn, COMMIT, 1, a)])
    log.flush([lambda lsn: record(lsn, UPDATE, 2, op=8, redo=b"x", undo=b"y",
                                  manager=77 if defect == "record" else 0)])
    log.flush([lambda lsn: record(lsn, ABORT, 2, b), lambda lsn: record(lsn, COMPENSATION, 2, c, 0, b, 8, b"y"),
               lambda lsn: record(lsn, END, 2, c), lambda lsn: record(lsn, 8, 0, op=1, redo=bytes(5000))])
    log.flush([lambda lsn: record(lsn, UPDATE, 3, op=9, redo=b"open", undo=b"shut")])
    log.flush([lambda lsn: record(lsn, 8, 0, op=2, redo=b"a note" * 200)])
    image = bytearray(FILE)
    image[0:PAGE] = area(1, 2 if defect == "newer" else 1)
    image[FILE - PAGE:] = area(2, 2 if defect == "newer" else 1)
    for lsn, page in log.pages.items():
        image[offset(lsn):offset(lsn) + PAGE] = page
    if defect == "middle":
        image[offset(b) + 100] ^= 1
    elif defect == "last":
        image[offset(log.lsn - PAGE) + 100] ^= 1
    elif defect == "torn":
        image[offset(log.lsn - PAGE) + 512:offset(log.lsn)] = bytes(PAGE - 512)
    if defect in ("area-a", "areas"):
        image[50] ^= 1
    if defect == "areas":
        image[FILE - 50] ^= 1
    with open(path, "wb") as f:
        f.write(image[:FILE - 8192] if defect == "cut" else image)


main()
