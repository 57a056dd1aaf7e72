#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# compare.sh [--fast] A B: are two trees the same, to the last attribute?
#
# Several tools that know nothing of each other are asked, none of them part of umbra: rsync in both
# directions (contents by checksum), getfattr, getfacl, lsattr, getcap, and fsdump.py (contents,
# nanoseconds, link groups, holes, paths beyond PATH_MAX, which the others cannot reach).  Exit 0 when
# all agree, 1 when not, with the differences on stdout.
#
# --fast: rsync looks at contents in one direction only.

set -euo pipefail
export LC_ALL=C

lib=$(cd "$(dirname "$0")" && pwd)
fast=
[ "${1:-}" != --fast ] || { fast=1; shift; }
[ $# = 2 ] || { echo "usage: compare.sh [--fast] A B" >&2; exit 2; }
a=$(cd "$1" && pwd) b=$(cd "$2" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/umbra-compare.XXXXXX")
trap 'rm -rf "$work"' EXIT
different=0

sync -f "$a" "$b"

# The parts that only fsdump.py can stand: beyond PATH_MAX, and 1 TiB of nothing.
rsync_excludes=(--exclude=/deep/long* --exclude=/sparse/huge*)
find_some() { find . -path './deep/long*' -prune -o "$@" -print0 | sort -z; }

report() {
    local what=$1 file=$2
    [ -s "$file" ] || return 0
    different=1
    echo "compare: $what: the trees differ:"
    head -n 40 "$file"
}

compare_rsync() {
    local from=$1 to=$2 name=$3
    shift 3
    rsync -aHAXSni --delete --modify-window=-1 "${rsync_excludes[@]}" "$@" \
        "$from/" "$to/" >"$work/rsync" 2>&1 || echo "rsync failed with status $?" >>"$work/rsync"
    report "rsync $name" "$work/rsync"
}

# dump NAME DIR: one text of each tool's view.
dump() {
    local name=$1 dir=$2
    cd "$dir"
    find_some -mindepth 0 | xargs -0 -r getfattr -h -d -m - -e hex -- >"$work/$name.getfattr"
    find_some ! -type l | xargs -0 -r getfacl -n -p -- >"$work/$name.getfacl"
    # Letters e, I, N, V, E and h are the file system's own affair.
    find_some \( -type f -o -type d \) |
        xargs -0 -r lsattr -d -p -- 2>&1 | sed -E '/^ *[0-9]+ +[-a-zA-Z]+ /{
            h; s/^( *[0-9]+ +[-a-zA-Z]+) .*/\1/; s/[eINVEh]/-/g; G; s/^([^\n]*)\n *[0-9]+ +[-a-zA-Z]+/\1/
        }' >"$work/$name.lsattr"
    find_some -type f | xargs -0 -r getcap -n -- >"$work/$name.getcap"
    "${PYTHON:-/usr/bin/python3}" "$lib/fsdump.py" dump . >"$work/$name.fsdump"
    cd /
}

compare_rsync "$a" "$b" "$1 -> $2" --checksum
if [ "$fast" ]; then
    compare_rsync "$b" "$a" "$2 -> $1"
else
    compare_rsync "$b" "$a" "$2 -> $1" --checksum
fi
dump a "$a"
dump b "$b"
for tool in getfattr getfacl lsattr getcap; do
    diff -a "$work/a.$tool" "$work/b.$tool" >"$work/diff" || true
    report "$tool" "$work/diff"
done
"${PYTHON:-/usr/bin/python3}" "$lib/fsdump.py" diff "$work/a.fsdump" "$work/b.fsdump" \
    >"$work/diff" || true
report "fsdump" "$work/diff"
[ "$different" = 0 ] && echo "compare: $(wc -l <"$work/a.fsdump") entries are the same"
exit "$different"
