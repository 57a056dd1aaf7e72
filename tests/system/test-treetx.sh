#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Atomic changes of a tree on real volumes: killed at system calls throughout, and with the power
# gone.  Afterwards the tree is as before or as after the change, in every byte and attribute, and so
# it is after the rollback.
#
# TREETX_STRIDE: at how few system calls it is killed; TREETX_CUTS: how often the power fails, for each
# file system.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# Mounts of our own: others, who have a copy of them, would hold a volume that is unmounted here.
# shellcheck disable=SC2034 # for test_begin
TEST_WRAPPER=(unshare --mount --propagation private)
test_begin 3000 "$@"
require_root
require mkfs.ext4 mkfs.xfs mkfs.btrfs
require_umbra
programs=$(dirname "$UMBRA_BIN")
tree=$programs/tests/treetx/treetx-tree
stride=${TREETX_STRIDE:-47}
cuts=${TREETX_CUTS:-6}
export UMBRA_STATE_DIR="$T/state"

# Images that can be cloned in a moment: what has reached the device, and nothing else.
volume_make host xfs 3G || skip "needs xfs"

# is DIR OLD NEW: which of the two the tree in DIR is, by its dump.
is() {
    "$tree" dump "$1" >"$T/now"
    cmp -s "$T/now" "$2" && echo old && return
    "$tree" dump-loose "$1" >"$T/now.loose"
    cmp -s "$T/now.loose" "$3" && echo new && return
    diff "$2" "$T/now" >&2 || true
    diff "$3" "$T/now.loose" >&2 || true
    fail "'$1' is neither as before nor as after the change"
}

# Rolls back if need be; the tree must be the old one then.
back_to_old() {
    [ "$1" = old ] || "$tree" rollback "$dir"
    [ "$(is "$dir" "$T/old" "$T/new")" = old ] || fail "the rollback did not bring back the old tree"
}

# fresh DIR: makes it, and says how it is before and after the change.
fresh() {
    dir=$1
    mkdir "$dir"
    "$tree" make "$dir"
    "$tree" dump "$dir" >"$T/old"
    "$tree" change "$dir"
    "$tree" dump-loose "$dir" >"$T/new"
    [ "$(is "$dir" "$T/old" "$T/new")" = new ] || fail "nothing was changed"
    back_to_old new
}

for fs in ext4 xfs btrfs; do
    if ! IMAGES="$T/host" volume_make "$fs" "$fs" 300M; then
        warn "no $fs here"
        continue
    fi
    image=$T/host/$fs.img

    TMPDIR="$T/$fs" UMBRA_TEST_STRIDE=$stride "$programs/src/treetx/test-treetx" >"$T/out" 2>&1 || {
        tail -n 40 "$T/out" >&2
        fail "test-treetx on $fs"
    }
    say "$fs: $(grep 'calls' "$T/out")"
    calls=$(sed -nE 's/^([0-9]+) calls.*/\1/p' "$T/out")

    fresh "$T/$fs/tree"
    "$tree" change "$dir"
    expect 0 "$UMBRA_BIN" log verify "$dir/.umbra-atomic/log"
    expect 0 "$UMBRA_BIN" log dump -v "$dir/.umbra-atomic/log"
    expect_text "$T/out" "exchange 'new:.*' -> 'dir/replaced'"
    back_to_old new

    # ---- the next run of umbra ends it ----

    "$tree" stop 700 change "$dir" true
    expect 0 "$UMBRA_BIN" status
    expect_text "$T/err" "tree': an interrupted atomic change"
    [ ! -e "$dir/.umbra-atomic" ] || back_to_old new
    expect 0 "$UMBRA_BIN" log recover
    expect_text "$T/out" "no atomic change is interrupted"
    expect 0 "$UMBRA_BIN" log recover "$dir"
    "$tree" change "$dir"
    expect 1 "$UMBRA_BIN" log discard "$T"
    expect 0 "$UMBRA_BIN" log discard "$dir"
    [ ! -e "$dir/.umbra-atomic" ] || fail "the stage is still there"
    # Names that are kept are links, too.
    "$tree" dump-loose "$dir" | sed 's/ n=[0-9]*//' >"$T/now"
    sed 's/ n=[0-9]*//' "$T/new" | diff - "$T/now" || fail "discarding has changed the tree"
    expect 1 "$UMBRA_BIN" log discard "$dir"

    # ---- the power fails ----

    fresh "$T/$fs/other"
    sync -f "$dir"
    olds=0 news=0
    for ((cut = 0; cut < cuts; cut++)); do
        # Most of them in the second half, where the tree changes.
        at=$((calls / 3 + (cut * 7919 + 1) % (2 * calls / 3)))
        status=0
        "$tree" stop "$at" change "$dir" "cp --reflink=always '$image' '$image.cut'" || status=$?
        if [ "$status" = 9 ]; then
            [ "$(is "$dir" "$T/old" "$T/new")" = new ] || fail "a change that ended was not made"
            back_to_old new
            sync -f "$dir"
            continue
        fi
        [ "$status" = 0 ] || fail "the change failed"
        umount "$T/$fs"
        mv "$image.cut" "$image"
        mount -o loop "$image" "$T/$fs"
        # ... and again, while it is recovered from.
        status=0
        "$tree" stop $((cut * 61 % 500)) recover "$dir" "cp --reflink=always '$image' '$image.cut'" || status=$?
        if [ "$status" = 0 ]; then
            umount "$T/$fs"
            mv "$image.cut" "$image"
            mount -o loop "$image" "$T/$fs"
        fi
        expect 0 "$UMBRA_BIN" log recover "$dir"
        state=$(is "$dir" "$T/old" "$T/new")
        [ "$state" = old ] && olds=$((olds + 1)) || news=$((news + 1))
        back_to_old "$state"
        sync -f "$dir"
    done
    say "$fs: power cut, $olds times as before, $news times as after"
    umount "$T/$fs"
    # The loop device lets go of its image when it likes.
    for ((try = 0; try < 100; try++)); do
        [ "$(losetup -j "$image")" ] || break
        sleep 0.1
    done
done
