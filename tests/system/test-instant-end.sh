#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Failure mode 47 of instant restore, what is left at the end: whatever else is on the file system, the
# restore finds its way to it.  docs/TESTING.md has the list.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"
require setfattr debugfs e2fsck

MARK=trusted.umbra.pending

# "${DEEP[@]}" move TOP FILE: to the bottom of directories in TOP that are made below each other.
# "${DEEP[@]}" compare TOP FILE: what is there with that one, and it has no mark.
cat >"$T/deep" <<'END'
import os, sys
depth, mark, word, top, path = int(sys.argv[1]), *sys.argv[2:]
name = os.path.basename(path)
at = os.open(top, os.O_RDONLY)
for i in range(depth):
    if word == "move":
        os.mkdir("d", dir_fd=at)
    down = os.open("d", os.O_RDONLY, dir_fd=at)
    os.close(at)
    at = down
if word == "move":
    os.rename(path, name, dst_dir_fd=at)
else:
    fd = os.open(name, os.O_RDONLY, dir_fd=at)
    assert mark not in os.listxattr(fd), "a placeholder is left"
    with open(fd, "rb") as f, open(path, "rb") as g:
        assert f.read() == g.read(), "wrong bytes"
END
DEEP=("$PYTHON" "$T/deep" 5000 "$MARK") # more than a path can say

make_tree() {
    local i
    {
        first_files
        for i in damaged inside outside 1 2 3; do echo "$T/src/m47/$i $BIG"; done
    } | world_files
}

# A new hydrator only knows what is in the tree.
start_anew() {
    signal KILL umbra-hydrated
    within 60 "the next hydrator is told" ask '{"do":"limit","bytes_per_s":0}'
}

# ---- directories that no path leads to, in the target and elsewhere ----

deep_directories() {
    local elsewhere=$V/elsewhere
    [ "$FS" != btrfs ] || elsewhere=$V/t/elsewhere # a name in another subvolume is another file
    restore_start_paused whole=32768
    need_pending "$V"/t/m47/{inside,outside}
    mkdir "$V/t/deep" "$elsewhere"
    "${DEEP[@]}" move "$V/t/deep" "$V/t/m47/inside"
    "${DEEP[@]}" move "$elsewhere" "$V/t/m47/outside"
    start_anew
    restore_finish
    right "at the bottom of the target" "${DEEP[@]}" compare "$V/t/deep" "$T/src/m47/inside"
    right "at the bottom of something else" "${DEEP[@]}" compare "$elsewhere" "$T/src/m47/outside"
    rm -r "$V/t/deep" "$elsewhere"
    empty_target
}

# ---- what cannot be read ----

# The inodes that these paths had, on the unmounted volume: what is wrong is the checksum.
break_inodes() {
    local inode place block_size
    block_size=$(stat -fc %S "$V")
    umount "$V"
    world_volume_let_go
    for inode in "$@"; do
        place=$(debugfs -R "imap <$inode>" "$IMAGES/$FS.img" 2>/dev/null |
            sed -n 's/.*located at block \([0-9]*\), offset \(0x[0-9a-f]*\).*/\1 \2/p')
        printf '\377\377\377\377' | dd of="$IMAGES/$FS.img" conv=notrunc bs=1 status=none \
            seek=$((${place% *} * block_size + ${place#* } + 100)) # i_generation
    done
    _mount "$IMAGES/$FS.img" "$V"
}

only_failed_are_left() {
    [ "$(status_of files_failed)" = "$failed" ] && [ "$(status_of files_queued)" = "$failed" ]
}

told() {
    status_of problems >"$T/problems"
    right "'$1' is named" grep -q "'path': '$1'" "$T/problems"
}

damage() {
    local failed=2
    mkdir -p "$V/odd/dir"
    echo x | tee "$V/odd/other" >"$V/odd/file"
    if [ "$FS" = ext4 ]; then
        break_inodes "$(stat -c %i "$V/odd/file")" "$(stat -c %i "$V/odd/dir")"
        failed=4
        right "a file that cannot be looked at" sh -c "! stat '$V/odd/file'"
        right "nor can a directory" sh -c "! stat '$V/odd/dir'"
    fi
    restore_start_paused whole=32768
    need_pending "$V"/t/m47/{damaged,1,2,3}
    setfattr -n $MARK -v 0x010203 "$V/t/m47/damaged"
    setfattr -n $MARK -v 0x010203 "$V/odd/other"
    start_anew
    within 120 "all that can be filled is" only_failed_are_left
    expect 3 umbra wait
    expect_text "$T/err" ": $failed files cannot be filled in, and will be tried again"
    told "$V/t/m47/damaged"
    told "$V/odd/other"
    if [ "$FS" = ext4 ]; then
        told "$V/odd/file"
        told "$V/odd/dir"
    fi
    compare_others
    # One that is damaged may be a placeholder.
    right "no zeros" sh -c "! cat '$V/t/m47/damaged' >/dev/null"
    mend
    restore_finish
    compare_others
}

compare_others() {
    find "$V/t" -type f ! -name damaged -print0 | xargs -0 "$FILEOP" --pending >"$T/marks" || true
    right "all others are complete" test ! -s "$T/marks"
    right "all others are right" diff -r --exclude=damaged "$T/src" "$V/t"
}

# With a look at the file system now and then, it ends by itself.
mend() {
    rm "$V/t/m47/damaged"
    setfattr -x $MARK "$V/odd/other"
    [ "$FS" = ext4 ] || return 0
    kill_all
    world_volume_off
    e2fsck -fy "$IMAGES/$FS.img" >"$T/fsck" 2>&1 || [ $? = 1 ] || fail "e2fsck: $(cat "$T/fsck")"
    _mount "$IMAGES/$FS.img" "$V"
    restore_again phase=filling
}

# ----

make_tree
world_backup src

all_restores() {
    MODE=47
    deep_directories
    damage
}

world_run all_restores
world_end
