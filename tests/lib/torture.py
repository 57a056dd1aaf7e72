#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the tree that a backup program dislikes, changes it, and wrecks it.

    torture.py make DIR [--seed N] [--many N]   everything that a file can be and have
    torture.py change DIR                       metadata, mostly: what an incremental backup must see
    torture.py wreck DIR [--seed N] [--share F] damages any tree, for a restore to put right

What the file system of DIR cannot have (chattr flags, project ids, long xattrs) is left out and
named on stderr; everything else must succeed.  To be run by root.
"""
import argparse
import errno
import fcntl
import os
import random
import socket
import stat
import struct
import sys

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FLAGS = {
    "s": 0x1, "u": 0x2, "c": 0x4, "S": 0x8, "i": 0x10, "a": 0x20, "d": 0x40, "A": 0x80,
    "m": 0x400, "j": 0x4000, "t": 0x8000, "D": 0x10000, "T": 0x20000, "C": 0x800000,
    "P": 0x20000000,
}
DIRECTORY_ONLY = "DT"
NOT_THERE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM)
WORDS = b"the quick brown fox jumps over a lazy dog while packs of chunks are sealed ".split()


def left_out(what):
    print("not on this file system: %s" % what, file=sys.stderr)


def text_bytes(rng, size):
    out = bytearray()
    while len(out) < size:
        out += b" ".join(rng.choices(WORDS, k=200)) + b"\n"
    return bytes(out[:size])


def write(path, data=b"", mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def change_flags(path, add=0, clear=0):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        raw = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
        flags = struct.unpack("<I", raw[:4])[0]
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("<q", (flags & ~clear) | add))
    finally:
        os.close(fd)


def set_project(path, project):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fields = list(struct.unpack("<IIIII8s", fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(28))))
        fields[3] = project
        fcntl.ioctl(fd, FS_IOC_FSSETXATTR, struct.pack("<IIIII8s", *fields))
    finally:
        os.close(fd)


def acl(*entries):
    """The kernel's form of a POSIX ACL: (tag, permissions, id) each; see acl(5)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF
AN_ACL = acl((ACL_USER_OBJ, 7, NO_ID), (ACL_USER, 5, 1234), (ACL_USER, 0, 4000000000),
             (ACL_GROUP_OBJ, 4, NO_ID), (ACL_GROUP, 6, 77), (ACL_MASK, 5, NO_ID),
             (ACL_OTHER, 1, NO_ID))
ANOTHER_ACL = acl((ACL_USER_OBJ, 6, NO_ID), (ACL_GROUP_OBJ, 6, NO_ID), (ACL_GROUP, 7, 100),
                  (ACL_MASK, 7, NO_ID), (ACL_OTHER, 0, NO_ID))


# ---- make: one function a directory ----

def make_modes(top):
    """All 4096 modes, as root and as somebody else: a change of owner clears setuid."""
    for mode in range(0o10000):
        path = b"%s/%04o" % (top, mode)
        write(path)
        if mode % 3:
            os.chown(path, 1000 + mode % 5, 2000 + mode % 7)
        os.chmod(path, mode)
    for mode in (0o000, 0o100, 0o555, 0o700, 0o1777, 0o2755, 0o2000, 0o4711, 0o7777):
        path = b"%s/directory %04o" % (top, mode)
        os.mkdir(path)
        write(path + b"/inside", b"x")
        os.chown(path, 1000, 2000)
        os.chmod(path, mode)


def make_owners(top):
    ids = (0, 1, 1000, 65534, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2)
    for uid in ids:
        for gid in ids:
            path = b"%s/%d-%d" % (top, uid, gid)
            write(path)
            os.chown(path, uid, gid)
    os.symlink("nowhere", top + b"/symlink")
    os.chown(top + b"/symlink", 1001, 1002, follow_symlinks=False)


def make_times(top):
    seconds = (-(2**31), -(2**31) + 1, -86400, -1, 0, 1, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
               2**33, 15032385535, 16299260424)
    for sec in seconds:
        for nsec in (0, 1, 123456789, 999999999):
            name = b"%s/%d.%09d" % (top, sec, nsec)
            at = sec * 10**9 + nsec
            write(name)
            os.utime(name, ns=(at, at))
            os.symlink("x", name + b".symlink")
            os.utime(name + b".symlink", ns=(at, at), follow_symlinks=False)
            os.mkdir(name + b".d")
            write(name + b".d/inside")
            os.utime(name + b".d", ns=(at, at))
            os.mkfifo(name + b".fifo")
            os.utime(name + b".fifo", ns=(at, at))


def make_types(top):
    os.mkfifo(top + b"/fifo")
    with socket.socket(socket.AF_UNIX) as s:
        here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        s.bind("/proc/self/fd/%d/socket" % here)
        os.close(here)
    for name, kind, major, minor in (
            (b"null", stat.S_IFCHR, 1, 3), (b"whiteout", stat.S_IFCHR, 0, 0),
            (b"char-big", stat.S_IFCHR, 4095, 1048575), (b"char-wide", stat.S_IFCHR, 300, 70000),
            (b"block", stat.S_IFBLK, 7, 200), (b"block-big", stat.S_IFBLK, 4095, 1048575)):
        try:
            os.mknod(top + b"/" + name, kind | 0o640, os.makedev(major, minor))
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            left_out("device %d:%d" % (major, minor))
    os.chmod(top + b"/fifo", 0o4321)
    os.chown(top + b"/block", 5, 6)
    os.mkdir(top + b"/empty directory")
    os.mkdir(top + b"/empty directory/another")
    write(top + b"/empty")


def longest_xattr(path, name, limit=65536):
    """The longest value that path takes, found by halving; 0: none."""
    low, high = 0, limit
    while low < high:
        size = (low + high + 1) // 2
        try:
            os.setxattr(path, name, bytes(i % 251 for i in range(size)), follow_symlinks=False)
            low = size
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EDQUOT):
                raise
            high = size - 1
    # what is there now is the longest that went in, as a failed call changes nothing
    return low


def make_xattrs(top):
    names = (b"file", b"directory", b"symlink", b"fifo", b"device", b"socket")
    write(top + b"/file", b"with attributes")
    os.mkdir(top + b"/directory")
    os.symlink("nowhere", top + b"/symlink")
    os.mkfifo(top + b"/fifo")
    os.mknod(top + b"/device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mknod(top + b"/socket", stat.S_IFSOCK | 0o600)
    for name in names:
        path = top + b"/" + name
        os.setxattr(path, b"trusted.umbra", b"for root\0only", follow_symlinks=False)
        os.setxattr(path, b"security.umbra", b"\0\xff", follow_symlinks=False)
        if name in (b"file", b"directory"):
            os.setxattr(path, b"user.empty", b"")
            os.setxattr(path, b"user.binary", bytes(range(256)))
            os.setxattr(path, b"user.newline\n\xff name", b"text")
            os.setxattr(path, b"user." + b"n" * 250, b"longest name")
    write(top + b"/long")
    longest = longest_xattr(top + b"/long", b"user.long")
    print("longest xattr: %d bytes" % longest, file=sys.stderr)
    write(top + b"/many")
    for i in range(1000):
        try:
            os.setxattr(top + b"/many", b"user.number-%04d" % i, b"value of %d" % i)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            left_out("more than %d xattrs of a file" % i)
            break
    make_capabilities(top)
    make_acls(top)


def make_capabilities(top):
    # struct vfs_cap_data: revision 2, and revision 3 with the root uid of a user namespace
    for name, value in (
            (b"cap-2", struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)),
            (b"cap-2-all", struct.pack("<IIIII", 0x02000000, 0xFFFFFFFF, 0, 0x1FF, 0)),
            (b"cap-3", struct.pack("<IIIIII", 0x03000001, 0x2000, 0, 0, 0, 100000))):
        write(top + b"/" + name, b"#!/bin/true\n", 0o755)
        os.chown(top + b"/" + name, 1000, 1000)  # before: it would clear the capability
        os.setxattr(top + b"/" + name, b"security.capability", value)


def make_acls(top):
    write(top + b"/acl", b"", 0o640)
    os.setxattr(top + b"/acl", b"system.posix_acl_access", AN_ACL)
    write(top + b"/acl setuid", b"", 0o640)
    os.setxattr(top + b"/acl setuid", b"system.posix_acl_access", AN_ACL)
    os.chmod(top + b"/acl setuid", 0o6751)
    os.mkdir(top + b"/acl directory")
    os.setxattr(top + b"/acl directory", b"system.posix_acl_access", ANOTHER_ACL)
    os.setxattr(top + b"/acl directory", b"system.posix_acl_default", AN_ACL)
    # what is made below inherits the default ACL, unless it says otherwise
    write(top + b"/acl directory/inherits")
    os.mkdir(top + b"/acl directory/inherits too")
    write(top + b"/acl directory/has none")
    os.removexattr(top + b"/acl directory/has none", b"system.posix_acl_access")
    os.chmod(top + b"/acl directory/has none", 0o4600)


def make_flags(top):
    """Last of all, as some of these flags end all other work on a file."""
    os.mkdir(top + b"/all together")
    for letter, bit in FLAGS.items():
        name = letter.encode()
        os.mkdir(top + b"/d-" + name)
        write(top + b"/d-" + name + b"/made before", b"x" * 5000)
        try:
            change_flags(top + b"/d-" + name, add=bit)
            if letter not in "i":
                write(top + b"/d-" + name + b"/made after", b"x" * 5000)
        except OSError as e:
            if e.errno not in NOT_THERE:
                raise
            left_out("chattr +%s of a directory" % letter)
        if letter in DIRECTORY_ONLY:
            continue
        for path in (top + b"/f-" + name, top + b"/all together/empty " + name):
            empty = b"empty" in path
            write(path, b"" if empty else b"some contents\n" * 1000)
            try:
                change_flags(path, add=bit)
            except OSError as e:
                if e.errno not in NOT_THERE:
                    raise
                left_out("chattr +%s of %s file" % (letter, "an empty" if empty else "a"))
    write(top + b"/immutable setuid", b"all that a restore must do before +i", 0o4755)
    os.setxattr(top + b"/immutable setuid", b"user.x", b"y")
    os.link(top + b"/immutable setuid", top + b"/immutable setuid link")
    os.utime(top + b"/immutable setuid", ns=(1, 1))
    change_flags(top + b"/immutable setuid", add=FLAGS["i"] | FLAGS["A"] | FLAGS["d"])


def make_projects(top):
    write(top + b"/file", b"project 42")
    os.mkdir(top + b"/directory")
    write(top + b"/directory/outside", b"made before")
    try:
        set_project(top + b"/file", 42)
        set_project(top + b"/directory", 4000000000)
        change_flags(top + b"/directory", add=FLAGS["P"])
        write(top + b"/directory/inherits", b"made after")
        write(top + b"/directory/another", b"moved to another project")
        set_project(top + b"/directory/another", 7)
    except OSError as e:
        if e.errno not in NOT_THERE:
            raise
        left_out("project ids")


def make_links(top):
    for name in (b"one", b"two", b"two/three"):
        os.mkdir(top + b"/" + name)
    write(top + b"/one/file", b"three names\n" * 999)
    os.link(top + b"/one/file", top + b"/two/name of it")
    os.link(top + b"/one/file", top + b"/two/three/zz last")
    os.symlink("../one/file", top + b"/two/symlink")
    os.link(top + b"/two/symlink", top + b"/one/symlink", follow_symlinks=False)
    os.mkfifo(top + b"/one/fifo")
    os.link(top + b"/one/fifo", top + b"/two/fifo")
    os.mknod(top + b"/one/device", stat.S_IFCHR | 0o600, os.makedev(5, 1))
    os.link(top + b"/one/device", top + b"/two/three/device")
    os.mknod(top + b"/two/socket", stat.S_IFSOCK | 0o600)
    os.link(top + b"/two/socket", top + b"/one/a socket")
    write(top + b"/one/empty")
    os.link(top + b"/one/empty", top + b"/two/empty")
    write(top + b"/zz before its directory", b"sorted")
    for i in range(500):
        os.link(top + b"/zz before its directory", b"%s/one/link %03d" % (top, i))


def make_sparse(top, rng):
    def sparse(name, size, pieces):
        write(top + b"/" + name)
        fd = os.open(top + b"/" + name, os.O_WRONLY | os.O_CLOEXEC)
        os.ftruncate(fd, size)
        for at, data in pieces:
            os.pwrite(fd, data, at)
        os.close(fd)

    mib = 1 << 20
    sparse(b"leading", 3 * mib, [(2 * mib, rng.randbytes(mib))])
    sparse(b"trailing", 3 * mib, [(0, rng.randbytes(mib))])
    sparse(b"trailing odd", 3 * mib + 17, [(0, rng.randbytes(mib))])
    sparse(b"all hole", 10 * mib, [])
    sparse(b"all hole odd", 10 * mib + 1, [])
    sparse(b"one byte at the end", 10 * mib, [(10 * mib - 1, b"x")])
    for step in (4096, 65536):
        sparse(b"alternating %d" % step, 512 * step,
               [(i * step, rng.randbytes(step)) for i in range(0, 512, 2)])
    sparse(b"island in the middle", 40 * mib + 333, [(20 * mib + 5, rng.randbytes(700000))])
    # 1 TiB, of which 3 MiB are there
    sparse(b"huge", 1 << 40, [(0, rng.randbytes(mib)), ((1 << 39) + 12345, rng.randbytes(mib)),
                              ((1 << 40) - mib, rng.randbytes(mib))])
    sparse(b"huge hole", 1 << 40, [])
    sparse(b"unwritten", 0, [])
    fd = os.open(top + b"/unwritten", os.O_WRONLY | os.O_CLOEXEC)
    os.posix_fallocate(fd, 0, 4 * mib)
    os.pwrite(fd, b"in the middle", 2 * mib)
    os.close(fd)
    write(top + b"/zeros", bytes(5 * mib))
    write(top + b"/zeros odd", bytes(5 * mib + 1))
    write(top + b"/zeros before", bytes(2 * mib) + rng.randbytes(mib))
    write(top + b"/zeros after", rng.randbytes(mib) + bytes(2 * mib))
    write(top + b"/zeros within", rng.randbytes(mib) + bytes(3 * mib) + rng.randbytes(mib))


def make_sizes(top, rng):
    for edge in (1, 512, 4096, 65536, 262144, 524288, 1 << 20, 4 << 20):
        for size in (edge - 1, edge, edge + 1):
            write(b"%s/random %d" % (top, size), rng.randbytes(size))
            write(b"%s/text %d" % (top, size), text_bytes(rng, size))
    write(top + b"/incompressible", rng.randbytes(24 << 20))
    write(top + b"/compressible", text_bytes(rng, 24 << 20))
    with open(top + b"/incompressible", "rb") as f:
        same = f.read()
    write(top + b"/the same", same)
    write(top + b"/the same, moved by a byte", b"x" + same)
    write(top + b"/the same four times", same[: 3 << 20] * 4)


def odd_names():
    names = [bytes([b]) for b in range(1, 256) if b not in b"/."]
    names += [b"n%dn" % 0 + bytes([b]) + b"n" for b in range(1, 256) if b != 0x2F]
    names += [b"-rf", b"--target", b"...", b". .", b".. ", b" leading", b"trailing ", b"two\nlines\n",
              b"back\\slash", b"\\n", b"\\x41", b"tab\tin it", b"\xff\xfe not utf-8", b"\xc3", b"*",
              b"?[a-z]", b"$(touch x)", b"`id`", b"'", b'"', b"\xe2\x80\xae rtl", b"\x1b[31mred",
              b"~", b"#", b"%s%n", b"con", b"x" * 255, b"\xf0\x9f\x8c\x92" * 63, b"\xff" * 255,
              b"e\xcc\x81", b"\xc3\xa9"]
    return sorted(set(names))


def make_names(top):
    for name in odd_names():
        write(top + b"/" + name, name)
    os.mkdir(top + b"/directories")
    for name in odd_names():
        os.mkdir(top + b"/directories/" + name)
        write(top + b"/directories/" + name + b"/x", name)
    # these sort differently with and without their '/'
    os.mkdir(top + b"/order")
    for name in (b"a", b"a-b", b"a.b", b"a0", b"ab"):
        os.mkdir(top + b"/order/" + name)
        write(top + b"/order/" + name + b"/b")
        write(top + b"/order/" + name + b"/-")
    write(top + b"/order/a\x01")
    write(top + b"/order/a!")


def make_deep(top):
    """A path far beyond PATH_MAX, made from within; and a nest of many short names."""
    for component, depth in ((b"long " + b"x" * 240, 25), (b"d", 300)):
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        for level in range(depth):
            os.mkdir(component, dir_fd=fd)
            below = os.open(component, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
            if level % 10 == 0 or level == depth - 1:
                with os.fdopen(os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=fd),
                               "wb") as f:
                    f.write(b"at level %d\n" % level * 400)
        os.link(b"file", b"link", src_dir_fd=fd, dst_dir_fd=fd)
        os.symlink("file", b"symlink", dir_fd=fd)
        os.mkfifo(b"fifo", dir_fd=fd)
        os.setxattr(b"/proc/self/fd/%d/file" % fd, b"user.deep", b"yes")
        os.close(fd)


def make_symlinks(top):
    for name, target in ((b"dangling", b"nowhere/at/all"), (b"absolute", b"/etc/passwd"),
                         (b"loop", b"loop"), (b"up", b"../../../../../.."), (b"dot", b"."),
                         (b"lines", b"two\nlines"), (b"bytes", b"\xff\xfe\x01"), (b"space", b" "),
                         (b"directory", b"/")):
        os.symlink(target, top + b"/" + name)
    for size in (59, 60, 255, 1023, 1024, 4000, 4095):
        try:
            os.symlink((b"t/" * 4096)[:size], b"%s/%d" % (top, size))
        except OSError as e:
            if e.errno != errno.ENAMETOOLONG:
                raise
            left_out("a symlink to %d bytes" % size)


def make_many(top, count):
    for i in range(count):
        write(b"%s/file number %06d" % (top, i * 7919 % 1000003), b"%d\n" % (i % 5000))


def make(top, options):
    rng = random.Random(options.seed)
    makers = (
        (b"modes", make_modes), (b"owners", make_owners), (b"types", make_types),
        (b"xattrs", make_xattrs), (b"links", make_links), (b"projects", make_projects),
        (b"sparse", lambda d: make_sparse(d, rng)), (b"sizes", lambda d: make_sizes(d, rng)),
        (b"names", make_names), (b"deep", make_deep), (b"symlinks", make_symlinks),
        (b"many", lambda d: make_many(d, options.many)), (b"times", make_times),
        (b"flags", make_flags))
    os.makedirs(top, exist_ok=True)
    for name, maker in makers:
        os.mkdir(top + b"/" + name)
        maker(top + b"/" + name)
    os.chmod(top, 0o2750)
    os.chown(top, 12, 34)
    os.setxattr(top, b"user.top", b"of the tree")
    os.utime(top, ns=(10**18 + 1, 10**18 + 1))


# ---- change: what the next backup must see ----

def change_keeping_mtime(path, change):
    st = os.lstat(path)
    change(path)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)


def flip_byte(path):
    with open(path, "r+b") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(size // 2)
        old = f.read(1)
        f.seek(size // 2)
        f.write(bytes([old[0] ^ 0x20]))


def change(top, _options):
    def at(name):
        return top + b"/" + name

    os.chmod(at(b"modes/0644"), 0o4755)
    os.chmod(at(b"modes/7777"), 0)
    os.chown(at(b"owners/1-1"), 77, 78)
    os.chown(at(b"owners/symlink"), 3, 4, follow_symlinks=False)
    os.utime(at(b"times/0.000000000"), ns=(5, 5))
    os.utime(at(b"times/0.000000000.symlink"), ns=(5, 5), follow_symlinks=False)
    os.setxattr(at(b"xattrs/file"), b"user.binary", b"changed")
    os.removexattr(at(b"xattrs/file"), b"user.empty")
    os.setxattr(at(b"xattrs/directory"), b"user.new", b"one more")
    os.setxattr(at(b"xattrs/symlink"), b"trusted.umbra", b"changed", follow_symlinks=False)
    os.setxattr(at(b"xattrs/acl"), b"system.posix_acl_access", ANOTHER_ACL)
    os.removexattr(at(b"xattrs/acl directory"), b"system.posix_acl_default")
    os.removexattr(at(b"xattrs/cap-2"), b"security.capability")
    change_flags(at(b"flags/immutable setuid"), clear=FLAGS["i"])
    os.chmod(at(b"flags/immutable setuid"), 0o755)
    change_flags(at(b"flags/immutable setuid"), add=FLAGS["a"], clear=FLAGS["d"])
    change_flags(at(b"sizes/text 4096"), add=FLAGS["d"])
    os.link(at(b"sizes/text 4095"), at(b"links/one more"))
    os.unlink(at(b"links/two/empty"))
    os.unlink(at(b"links/one/file"))  # the first name goes, the others stay
    os.rename(at(b"sizes/compressible"), at(b"sizes/renamed"))
    os.rename(at(b"links/two"), at(b"types/moved directory"))
    os.unlink(at(b"symlinks/dangling"))
    os.symlink("somewhere else", at(b"symlinks/dangling"))
    change_keeping_mtime(at(b"sizes/random 65536"), flip_byte)
    change_keeping_mtime(at(b"sizes/incompressible"), flip_byte)
    change_keeping_mtime(at(b"sizes/text 65536"), lambda p: os.truncate(p, 65000))
    os.unlink(at(b"types/empty"))
    os.mkdir(at(b"types/empty"))
    os.rmdir(at(b"types/empty directory/another"))
    write(at(b"types/empty directory/another"), b"was a directory")
    os.unlink(at(b"types/null"))
    os.mknod(at(b"types/null"), stat.S_IFCHR | 0o640, os.makedev(1, 7))
    fd = os.open(at(b"sparse/all hole"), os.O_WRONLY)
    os.pwrite(fd, b"no longer", 5 << 20)
    os.close(fd)
    os.truncate(at(b"sparse/trailing"), 8 << 20)
    write(at(b"many/a new one"), b"new")
    os.unlink(at(b"many/file number 000000"))
    os.utime(top, ns=(7, 7))


# ---- wreck: what a restore must put right ----

class Wrecker:
    """Walks a tree and damages a share of it, each victim in another way."""

    def __init__(self, seed, share):
        self.seed = seed
        self.rng = random.Random(seed)
        self.share = share
        self.counts = {}

    def free(self, path):
        """Takes chattr +i and +a off, as the damage is to be done, not refused."""
        if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            try:
                change_flags(path, clear=FLAGS["i"] | FLAGS["a"])
            except OSError as e:
                if e.errno not in NOT_THERE:
                    raise

    def delete(self, path):
        os.unlink(path)

    def truncate(self, path):
        os.truncate(path, os.lstat(path).st_size // 2)

    def grow(self, path):
        with open(path, "ab") as f:
            f.write(b"appended by the wreck\n")

    def flip(self, path):
        change_keeping_mtime(path, flip_byte)

    def empty(self, path):
        change_keeping_mtime(path, lambda p: os.truncate(p, 0))

    def mode(self, path):
        os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) ^ 0o4157)

    def owner(self, path):
        st = os.lstat(path)
        os.chown(path, st.st_uid + 1, st.st_gid + 1, follow_symlinks=False)

    def mtime(self, path):
        os.utime(path, ns=(12345, 67890), follow_symlinks=False)

    def xattrs(self, path):
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)
        os.setxattr(path, b"trusted.stray", b"put there by the wreck", follow_symlinks=False)

    def flags(self, path):
        change_flags(path, add=FLAGS["d"] | FLAGS["i"])

    def to_symlink(self, path):
        os.unlink(path)
        os.symlink("/dev/null", path)

    def to_directory(self, path):
        os.unlink(path)
        os.mkdir(path)
        write(path + b"/stray", b"inside what was a file")

    def to_fifo(self, path):
        os.unlink(path)
        os.mkfifo(path)

    def break_link(self, path):
        """The same contents, but no longer the same file."""
        with open(path, "rb") as f:
            data = f.read(1 << 20)
        os.unlink(path)
        write(path, data)

    def victim(self, path):
        st = os.lstat(path)
        ways = [self.delete, self.owner, self.mtime, self.to_symlink, self.to_directory, self.to_fifo]
        if stat.S_ISREG(st.st_mode):
            ways += [self.mode, self.xattrs, self.grow, self.flags]
            if st.st_size:
                ways += [self.truncate, self.flip, self.flip, self.empty]
            if st.st_nlink > 1 and st.st_size < 1 << 20:
                ways += [self.break_link]
        self.free(path)
        way = self.rng.choice(ways)
        way(path)
        self.counts[way.__name__] = self.counts.get(way.__name__, 0) + 1

    def directory(self, path):
        self.free(path)
        way = self.rng.choice(("stray", "mode", "remove", "to_file", "owner"))
        if way == "stray":
            write(path + b"/a stray\nfile %d" % self.seed, b"not in the backup")
            os.makedirs(path + b"/stray directory %d/deeper" % self.seed)
            write(path + b"/stray directory %d/deeper/file" % self.seed)
        elif way == "mode":
            os.chmod(path, 0o700)
        elif way == "owner":
            self.owner(path)
        elif not self.shallow(path):
            return  # too much would go at once
        else:
            for name in os.listdir(path):
                self.free(path + b"/" + name)
                os.unlink(path + b"/" + name)
            os.rmdir(path)
            if way == "to_file":
                write(path, b"was a directory")
        self.counts["directory " + way] = self.counts.get("directory " + way, 0) + 1

    @staticmethod
    def shallow(path):
        names = os.listdir(path)
        return len(names) < 50 and not any(
            stat.S_ISDIR(os.lstat(path + b"/" + n).st_mode) for n in names)

    def walk(self, path):
        if len(path) > 3500:
            return  # beyond PATH_MAX: out of this simple walk's reach
        names = sorted(os.listdir(path))
        hit = [n for n in names if self.rng.random() < self.share]
        if hit:
            self.free(path)
        for name in names:
            below = path + b"/" + name
            if stat.S_ISDIR(os.lstat(below).st_mode):
                self.walk(below)
                if name in hit:
                    self.directory(below)
            elif name in hit:
                self.victim(below)


def wreck(top, options):
    wrecker = Wrecker(options.seed, options.share)
    wrecker.walk(top)
    write(top + b"/zz stray at the top %d" % options.seed, b"not in the backup")
    for what, count in sorted(wrecker.counts.items()):
        print("%6d %s" % (count, what))


def main():
    os.umask(0o022)
    sys.setrecursionlimit(5000)
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("verb", choices=("make", "change", "wreck"))
    parser.add_argument("directory", type=os.fsencode)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--many", type=int, default=20000, help="files in the widest directory")
    parser.add_argument("--share", type=float, default=0.02, help="of the tree to wreck")
    options = parser.parse_args()
    {"make": make, "change": change, "wreck": wreck}[options.verb](options.directory, options)


if __name__ == "__main__":
    main()
