#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that Linux has on a tree of files, as text, and the difference of two such texts.

    fsdump.py dump DIR [NAME] > FILE   one JSON object a line, by path; without NAME in DIR
    fsdump.py diff FILE1 FILE2         exit 1 and say so when they differ

Independent of umbra on purpose: it shares no code and no idea with it but the kernel's own
interface.  Directories are opened one beneath the other, so paths may be longer than PATH_MAX; xattrs
go through /proc/self/fd for the same reason.

Not compared: ctime, birth time, atime, inode numbers (but which names are links of one file is),
directory sizes, and flags in which a file system keeps its own affairs.

Holes: what had no space must have none again, and what was written, zeros too, must have space.
FIEMAP says which; SEEK_HOLE does not, as it calls allocated but unwritten space a hole or data
depending on whether somebody has read it lately.
"""
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 1
FIEMAP_EXTENT_LAST = 1
FIEMAP_EXTENT_UNWRITTEN = 0x800
FIEMAP_COUNT = 512
# compressed-block bookkeeping, encrypted, htree index, huge file, extents, verity, ea-inode, inline
FLAGS_INTERNAL = 0x300 | 0x800 | 0x1000 | 0x40000 | 0x80000 | 0x100000 | 0x200000 | 0x10000000
FLAG_COMPRESSED = 0x4
HASH_WHOLE_MAX = 1 << 30  # larger files: only what is not zero is hashed, with its place
BLOCK = 4096
STEP = 1 << 20


def text(raw):
    """Bytes as printable ASCII, reversibly."""
    return raw.decode("latin-1").encode("unicode_escape").decode("ascii")


def data_ranges(fd, size):
    ranges = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                break
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        ranges.append([start, end])
        at = end
    return ranges


def add_range(ranges, start, end):
    if ranges and ranges[-1][1] == start:
        ranges[-1][1] = end
    elif end > start:
        ranges.append([start, end])


def mapped_ranges(fd, size):
    """What has space, and how many bytes of that were ever written; None: cannot be told."""
    ranges, written, at = [], 0, 0
    while at < size:
        request = struct.pack("<QQIIII", at, size - at, FIEMAP_FLAG_SYNC, 0, FIEMAP_COUNT, 0)
        buffer = bytearray(request + bytes(FIEMAP_COUNT * 56))
        try:
            fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        except OSError as e:
            if e.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
                raise
            return None, 0
        count = struct.unpack_from("<I", buffer, 20)[0]
        flags = FIEMAP_EXTENT_LAST
        for i in range(count):
            start, _, length, _, _, flags = struct.unpack_from("<QQQQQI", buffer, 32 + i * 56)
            at = start + length
            add_range(ranges, start, min(at, size))
            if not flags & FIEMAP_EXTENT_UNWRITTEN:
                written += min(at, size) - start
        if flags & FIEMAP_EXTENT_LAST:
            break
    return ranges, written


def contents_hash(fd, size, ranges):
    h = hashlib.sha256()
    if size <= HASH_WHOLE_MAX:
        at = 0
        while at < size:
            piece = os.pread(fd, STEP, at)
            if not piece:
                break
            h.update(piece)
            at += len(piece)
        return h.hexdigest()
    zeros = bytes(BLOCK)
    for start, end in ranges:
        for at in range(start - start % BLOCK, end, BLOCK):
            piece = os.pread(fd, min(BLOCK, size - at), at)
            if piece != zeros[: len(piece)]:
                h.update(struct.pack("<Q", at) + piece)
    return h.hexdigest()


def read_flags(fd, record):
    try:
        raw = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
        record["flags"] = struct.unpack("<I", raw[:4])[0] & ~FLAGS_INTERNAL
    except OSError as e:
        if e.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
    try:
        raw = fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(28))
        record["project"] = struct.unpack("<IIIII8x", raw)[3]
    except OSError as e:
        if e.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise


def read_xattrs(path, record):
    xattrs = {}
    for name in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, name, follow_symlinks=False)
        shown = value.hex() if len(value) <= 64 else hashlib.sha256(value).hexdigest()
        xattrs[text(os.fsencode(name))] = "%d:%s" % (len(value), shown)
    if xattrs:
        record["xattrs"] = dict(sorted(xattrs.items()))


def describe(dir_fd, name, path, links):
    st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    kind = stat.S_IFMT(st.st_mode)
    record = {
        "path": text(path),
        "type": stat.filemode(st.st_mode)[0],
        "mode": oct(stat.S_IMODE(st.st_mode)),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "mtime_ns": st.st_mtime_ns,
    }
    read_xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name), record)
    if kind != stat.S_IFDIR and st.st_nlink > 1:
        # Named by the first path in walking order.
        record["link_of"] = links.setdefault((st.st_dev, st.st_ino), text(path))
    if kind == stat.S_IFLNK:
        record["target"] = text(os.readlink(name, dir_fd=dir_fd))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        record["device"] = "%d:%d" % (os.major(st.st_rdev), os.minor(st.st_rdev))
    elif kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            read_flags(fd, record)
            if kind == stat.S_IFREG:
                record["size"] = st.st_size
                record["sha256"] = contents_hash(fd, st.st_size, data_ranges(fd, st.st_size))
                record["allocated"] = st.st_blocks * 512
                record["mapped"], record["written"] = mapped_ranges(fd, st.st_size)
        finally:
            os.close(fd)
    return record, kind == stat.S_IFDIR


def walk(dir_fd, path, links, out, without=None):
    for name in sorted(os.fsencode(n) for n in os.listdir(dir_fd) if n != without):
        below = path + b"/" + name if path else name
        record, is_directory = describe(dir_fd, name, below, links)
        out.write(json.dumps(record) + "\n")
        if is_directory:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                         dir_fd=dir_fd)
            try:
                walk(fd, below, links, out)
            finally:
                os.close(fd)


def dump(top, out, without=None):
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    links = {}
    record, _ = describe(fd, b".", b".", links)
    out.write(json.dumps(record) + "\n")
    walk(fd, b"", links, out, without)
    os.close(fd)


def holes(record):
    """The holes, in whole blocks."""
    at, found = 0, []
    for start, end in record["mapped"] + [[record["size"], record["size"]]]:
        first = -(-at // BLOCK) * BLOCK
        if start - first >= BLOCK:
            found.append((first, start // BLOCK * BLOCK))
        at = end
    return found


def covered(piece, pieces):
    return any(a <= piece[0] and piece[1] <= b for a, b in pieces)


def holes_differ(a, b):
    if a.get("flags", 0) & FLAG_COMPRESSED or b.get("flags", 0) & FLAG_COMPRESSED:
        return None  # such a file's blocks say nothing
    if a["mapped"] is None or b["mapped"] is None:
        return None
    lost = [h for h in holes(a) if not covered(h, holes(b))]
    if lost:
        return "hole %s is gone" % (lost[0],)
    if b["allocated"] + 32768 < a["written"]:
        return "of %d bytes written, %d have space" % (a["written"], b["allocated"])
    return None


def short(path):
    return path if len(path) <= 200 else path[:60] + "[...]" + path[-120:]


def differences(a, b):
    for key in sorted((set(a) | set(b)) - {"mapped", "written", "allocated"}):
        if a.get(key) != b.get(key):
            yield "%s: %s became %s" % (key, a.get(key), b.get(key))
    if "mapped" in a and "mapped" in b and a["size"] == b["size"]:
        why = holes_differ(a, b)
        if why:
            yield why


def diff(first, second, limit=60):
    trees = []
    for name in (first, second):
        with open(name, encoding="ascii") as f:
            trees.append({r["path"]: r for r in map(json.loads, f)})
    a, b = trees
    count = 0

    def report(line):
        nonlocal count
        count += 1
        if count <= limit:
            print(line)

    for path in sorted(set(a) | set(b)):
        if path not in b:
            report("- %s" % short(path))
        elif path not in a:
            report("+ %s" % short(path))
        else:
            for line in differences(a[path], b[path]):
                report("! %s: %s" % (short(path), line))
    if count > limit:
        print("... and %d more" % (count - limit))
    return count


def main(argv):
    sys.setrecursionlimit(5000)
    if len(argv) in (3, 4) and argv[1] == "dump":
        dump(argv[2], sys.stdout, argv[3] if len(argv) == 4 else None)
        return 0
    if len(argv) == 4 and argv[1] == "diff":
        return 1 if diff(argv[2], argv[3]) else 0
    print("usage: fsdump.py dump DIR [NAME] | diff FILE1 FILE2", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
