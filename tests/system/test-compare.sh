#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The comparer that the other tests trust: it finds each single difference, and none where none is.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 300 "$@"
require_root
require rsync getfattr getfacl lsattr getcap mkfs.ext4 setfattr setfacl setcap chattr

volume_make v ext4 300M
base=$T/v/base a=$T/v/a b=$T/v/b
long="long $(printf 'x%.0s' {1..230})"

make_base() {
    mkdir -p "$base/dir" "$base/deep"
    cd "$base"
    head -c 20000 /dev/urandom >file
    ln file dir/link
    ln -s file symlink
    mknod device c 1 3
    mkfifo fifo
    truncate -s 1M sparse
    head -c 64K /dev/zero >zeros
    cp -p /bin/true capable
    setcap cap_net_raw+ep capable
    setfacl -m u:1234:r file
    setfacl -d -m g:77:rwx dir
    setfattr -n trusted.t -v 1 -h symlink
    setfattr -n user.u -v 1 dir
    cd /
}

# A path too long for PATH_MAX, which all but one of the tools never see, and cp(1) cannot copy.
make_far() {
    cd "$1/deep"
    for _ in {1..20}; do
        mkdir "$long"
        cd -P "$long" 2>/dev/null
        touch -d @1 ..
    done
    echo far >file
    touch -d @1 file .
    cd /
}

copy() {
    [ ! -d "$1" ] || chattr -R -f -i "$1" || true
    rm -rf "$1"
    cp -a "$base" "$1"
    make_far "$1"
}

count=0
# differs COMMAND: after it in the copy, the comparer must object, and name what it saw.
differs() {
    copy "$b"
    (cd "$b" && eval "$1")
    if "$TESTS_LIB/compare.sh" "$a" "$b" >"$T/compare" 2>&1; then
        fail "not noticed: $1"
    fi
    grep -q "differ" "$T/compare" || { cat "$T/compare"; fail "no reason given: $1"; }
    count=$((count + 1))
}

keeping_mtime() { printf 'touch -r %q %q && { %s; } && touch -r %q %q' "$1" "$T/stamp" "$2" "$T/stamp" "$1"; }

make_base
copy "$a"
copy "$b"
"$TESTS_LIB/compare.sh" "$a" "$b" >"$T/compare" 2>&1 || { cat "$T/compare"; fail "a copy is called different"; }

differs "$(keeping_mtime file 'printf x | dd of=file bs=1 seek=9999 conv=notrunc status=none')"
differs "$(keeping_mtime file 'truncate -s 19999 file')"
differs "chmod u+s file"
differs "chown 1:0 file"
differs "chown 0:1 fifo"
differs "chown -h 5 symlink"
differs "touch -d '@1700000000.000000001' file"
differs "touch -h -d '@1700000000' symlink"
differs "touch -d '@1700000000' dir"
differs "touch -d '@1700000000' ."
differs "chmod 701 ."
differs "setfattr -n user.u -v 2 dir"
differs "setfattr -x user.u dir"
differs "setfattr -h -n trusted.t -v 2 symlink"
differs "setfacl -m u:1234:rw file"
differs "setfacl -d -m g:77:rx dir"
differs "setcap -r capable"
differs "chattr +d file"
differs "chattr +i capable"
differs "chattr +D dir"
differs "$(keeping_mtime . 'cp -a --remove-destination file new && mv -f new dir/link && touch -r ../a/dir dir')"
differs "$(keeping_mtime . 'rm symlink && ln -s other symlink')"
differs "$(keeping_mtime . 'rm device && mknod -m 644 device c 1 5 && touch -r ../a/device device')"
differs "$(keeping_mtime . 'rm fifo && touch -r ../a/fifo fifo')"
differs "$(keeping_mtime . 'rm fifo')"
differs "$(keeping_mtime . 'touch -r ../a/file stray')"
differs "$(keeping_mtime sparse 'dd if=/dev/zero of=sparse bs=64K seek=4 count=1 conv=notrunc status=none')"
differs "$(keeping_mtime zeros 'fallocate -p -o 0 -l 64K zeros')"
differs "cd deep; while cd -P '$long' 2>/dev/null; do :; done; touch -d @5 file"
chattr -R -f -i "$b" || true
say "$count differences, each noticed"
