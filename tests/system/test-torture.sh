#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# test-torture.sh [FS...]: everything that a file can be and have comes back, on each file system.
#
# Backup, restore, compare; restore over a wrecked copy; backup after changes of metadata; restore of
# that into a fresh place and over the older tree; and the first backup once more at the end.  A file
# system that this kernel or machine cannot make is named and left out; FS asks for those only.
#
# MANY=N: files in the widest directory (default 20000).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 900 "$@"
require_root
require rsync getfattr getfacl lsattr getcap mkfs.ext4
require_umbra

torture() { "$PYTHON" "$TESTS_LIB/torture.py" "$@"; }

# compare A B WHAT
compare() {
    "$TESTS_LIB/compare.sh" --fast "$1" "$2" >"$T/compare" 2>&1 ||
        { cat "$T/compare" >&2; fail "$fs: $3"; }
    say "  $3: $(tail -n 1 "$T/compare")"
}

# Written back first: only then is it settled what is a hole.
dump() { sync -f "$1" && "$PYTHON" "$TESTS_LIB/fsdump.py" dump "$1" >"$2"; }

backup() {
    expect 0 umbra --json backup "$src"
    mv "$T/out" "$T/backup.json"
}

restore() { expect 0 umbra restore "$@" --verify --numeric-owner; }

first_backup() {
    torture make "$src" --many "${MANY:-20000}"
    # what it was, for the last step: reading it also changes access times, which must not matter
    dump "$src" "$T/first.dump"
    backup
    first=$(json "$T/backup.json" id)
    say "  backed up: $(json "$T/backup.json" stats files) files"
    restore latest --target "$dst/tree"
    compare "$src" "$dst/tree" "restored"
    expect 0 umbra check --read-data
}

unchanged_backup() {
    backup
    [ "$(json "$T/backup.json" stats read_bytes)" = 0 ] || fail "$fs: unchanged files were read"
    [ "$(json "$T/backup.json" stats new_chunks)" -le 2 ] || fail "$fs: unchanged files were stored"
}

wrecked_copy() {
    torture wreck "$dst/tree" --seed 3 --share 0.05 >/dev/null
    restore latest --target "$dst/tree" --delete
    compare "$src" "$dst/tree" "restored over a wreck"
    restore latest --target "$dst/tree" --delete
    compare "$src" "$dst/tree" "restored over the same"
}

changed_tree() {
    torture change "$src"
    backup
    # two of 24 MiB, one flipped and one renamed, and some small ones
    [ "$(json "$T/backup.json" stats read_bytes)" -lt 80000000 ] ||
        fail "$fs: more was read again than had changed"
    restore latest --target "$dst/fresh"
    compare "$src" "$dst/fresh" "changes restored"
    restore latest --target "$dst/tree" --delete
    compare "$src" "$dst/tree" "changes restored over the older tree"
    restore "$first" --target "$dst/tree" --delete
    dump "$dst/tree" "$T/again.dump"
    "$PYTHON" "$TESTS_LIB/fsdump.py" diff "$T/first.dump" "$T/again.dump" >"$T/compare" ||
        { cat "$T/compare" >&2; fail "$fs: the first backup, restored over the newer tree"; }
    expect 0 umbra check --read-data
}

done_count=0
[ $# -gt 0 ] || set -- ext4 xfs btrfs
for fs in "$@"; do
    if ! command -v "mkfs.$fs" >/dev/null || ! volume_make src "$fs" 3G 2>"$T/err"; then
        warn "$fs left out: $(tail -n 1 "$T/err" 2>/dev/null || echo "no mkfs.$fs")"
        continue
    fi
    volume_make dst "$fs" 3G
    say "$fs:"
    src=$T/src/tree dst=$T/dst
    export UMBRA_REPO="$T/repo-$fs"
    expect 0 umbra repo init
    first_backup
    unchanged_backup
    wrecked_copy
    changed_tree
    volume_gone "$T/dst"
    volume_gone "$T/src"
    rm -rf "$UMBRA_REPO" "$T"/*.img
    done_count=$((done_count + 1))
done
[ "$done_count" -gt 0 ] || skip "no file system to try it on"
say "$done_count file systems: all the same"
