#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# umbra restore --in-place --atomic, killed with SIGKILL and cut off from power at random moments: the
# tree is what it was or what the backup has, to the last attribute, never anything between.
#
# The tree is the one that torture.py makes; it is wrecked, and the backup brings it back.  After each
# kill `umbra log recover` (or whatever umbra is asked next) ends what was interrupted, and fsdump.py
# says which of the two the tree is.  What came through is taken back by --rollback, which is killed
# now and then, too.  For the power cuts the volume stands on a disk with a volatile cache
# (tests/power/power-disk.c).
#
#   SEED=N    repeats a run (its moments are times, so only nearly)
#   KILLS=N   on each file system; default 6, or 100 with SOAK=1
#   CUTS=N    on each file system; default 2, or 17 with SOAK=1
#   FILES=N   in one directory of the tree, which has some 6,000 others
#   FILE_SYSTEMS="ext4 xfs btrfs"

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# Mounts of our own: others, who have a copy of them, would hold a volume that is unmounted here.
# shellcheck disable=SC2034 # for test_begin
TEST_WRAPPER=(unshare --mount --propagation private)
if [ "${SOAK:-}" ]; then test_begin 14400 "$@"; else test_begin 1200 "$@"; fi
require_root
require losetup fusermount3
require_umbra

SEED=${SEED:-$(date +%s)}
if [ "${SOAK:-}" ]; then
    KILLS=${KILLS:-100} CUTS=${CUTS:-17} FILES=${FILES:-20000}
else
    KILLS=${KILLS:-6} CUTS=${CUTS:-2} FILES=${FILES:-200}
fi
fsdump="$TESTS_LIB/fsdump.py"
power_disk=${POWER_DISK:-$(dirname "$UMBRA_BIN")/tests/power/power-disk}
[ -x "$power_disk" ] || skip "needs '$power_disk' (built where libfuse3-dev is installed)"
export XDG_STATE_HOME="$T/state"

broken() { fail "$* (SEED=$SEED, $fs, round $round)"; }
random_ms() { echo $(((RANDOM * 32768 + RANDOM) % $1)); }
sleep_ms() { sleep "$(($1 / 1000)).$(printf %03d $(($1 % 1000)))"; }
atomic_restore() { umbra -q restore latest --target "$tree" --in-place --atomic "$@"; }

# ---- what the tree is ----

dump() { "$PYTHON" "$fsdump" dump "$tree" .umbra-atomic; }
is() { "$PYTHON" "$fsdump" diff "$T/$1.dump" "$T/now.dump" >"$T/$1.diff"; }

# Sets $found to old or new.
look() {
    dump >"$T/now.dump"
    if is old; then found=old; elif is new; then found=new; else
        head -n 20 "$T/old.diff" "$T/new.diff" >&2
        broken "the tree is neither the old nor the new one"
    fi
}

must_be() {
    look
    [ "$found" = "$1" ] || { head -n 20 "$T/$1.diff" >&2; broken "$2: the tree is the $found one"; }
}

# The new tree is backed up, and becomes the old one.
make_trees() {
    volume_make vol "$fs" "$size" || return 1
    tree=$T/vol/tree
    mkdir "$tree"
    "$PYTHON" "$TESTS_LIB/torture.py" make "$tree" --many "$FILES" --seed "$SEED" 2>/dev/null
    sync -f "$tree"
    dump >"$T/new.dump"
    rm -rf "$T/repo" "$UMBRA_CACHE_DIR"
    export UMBRA_REPO=$T/repo
    expect 0 umbra repo init
    expect 0 umbra backup -q "$tree"
    "$PYTHON" "$TESTS_LIB/torture.py" wreck "$tree" --seed "$SEED" --share 0.2 >/dev/null 2>&1
    sync -f "$tree"
    dump >"$T/old.dump"
    ! "$PYTHON" "$fsdump" diff "$T/old.dump" "$T/new.dump" >"$T/diff" || broken "nothing was wrecked"
}

# ---- SIGKILL ----

# The transaction begins when the log has its name.
wait_for_log() { while [ ! -e "$tree/.umbra-atomic/log" ] && kill -0 "$1" 2>/dev/null; do :; done; }

# start_and_kill WHEN MS COMMAND...: so long after it was started, or after its transaction was (WHEN is
# log).  $ended is 137, or the status when the kill came too late.
start_and_kill() {
    local when=$1 ms=$2 pid
    shift 2
    "$@" >"$T/killed.out" 2>&1 &
    pid=$!
    [ "$when" != log ] || wait_for_log "$pid"
    sleep_ms "$ms"
    kill -KILL "$pid" 2>/dev/null || true
    ended=0
    wait "$pid" 2>/dev/null || ended=$?
    [ "$ended" = 0 ] || [ "$ended" = 137 ] ||
        { cat "$T/killed.out" >&2; broken "'$*' exited $ended by itself"; }
}

# Not through the function, which would be killed in its stead.
restore_killed_after() {
    start_and_kill "$1" "$2" "$UMBRA_BIN" --no-progress -q restore latest --target "$tree" --in-place --atomic
}

# Whatever umbra is asked to do next has to see to it.
recover() {
    if [ $((round % 2)) = 0 ]; then
        expect 0 umbra log recover "$tree"
    else
        expect 0 umbra status
    fi
}

back_to_old() {
    local ms
    if [ $((round % 3)) = 0 ]; then
        ms=$(random_ms 300)
        start_and_kill start "$ms" "$UMBRA_BIN" --no-progress -q restore --rollback --target "$tree"
        recover
        look
        rollback_kills=$((rollback_kills + 1))
        [ "$found" = new ] || return 0
    fi
    expect 0 umbra restore --rollback --target "$tree"
    must_be old "after --rollback"
}

kill_many() {
    local early=0 hit=0 late=0 span_ms commit_ms=100 start_ms
    rollback_kills=0
    round=0
    start_ms=$(date +%s%3N)
    expect 0 atomic_restore --verify
    span_ms=$((($(date +%s%3N) - start_ms) * 3 / 4 + 50))
    must_be new "after an atomic restore"
    expect 0 umbra restore --rollback --target "$tree"
    must_be old "after --rollback"
    [ ! -e "$tree/.umbra-atomic" ] || broken "--rollback left the stage"
    for ((round = 1; round <= KILLS; round++)); do
        if [ $((round % 4)) = 0 ]; then
            restore_killed_after start "$(random_ms "$span_ms")"
        else
            restore_killed_after log "$(random_ms "$commit_ms")"
            commit_ms=$((ended == 0 ? commit_ms * 3 / 4 + 5 : commit_ms * 17 / 16 + 1))
        fi
        [ "$ended" != 0 ] || late=$((late + 1))
        recover
        look
        case $ended,$found in
        137,old) early=$((early + 1)) ;;
        137,new) hit=$((hit + 1)) ;;
        0,old) broken "it said that it was done" ;;
        esac
        [ "$found" = old ] || back_to_old
    done
    say "$fs: $KILLS kills: $early before the commit, $hit after it, $late too late;" \
        "$rollback_kills of a rollback: always the one tree or the other"
}

# ---- power ----

# Mounts a copy of the volume that stands on a disk whose power can be cut.
power_on() {
    cp --sparse=always "$T/vol.img" "$T/cut.img"
    mkdir -p "$T/disk" "$T/cut"
    POWER_SEED=$((SEED + round)) "$power_disk" "$T/cut.img" "$T/disk" 2>"$T/power.err" &
    disk_pid=$!
    until [ -e "$T/disk/disk" ]; do
        sleep 0.02
        kill -0 "$disk_pid" || { cat "$T/power.err" >&2; broken "power-disk"; }
    done
    loop=$(losetup --find --show "$T/disk/disk")
    mount "$loop" "$T/cut"
    tree=$T/cut/tree
}

# The mount is of no use any more; only what got onto the disk counts.
power_off() {
    kill -USR1 "$disk_pid"
    stat "$T/disk/disk" >"$T/out" 2>&1 || true # whoever asks the disk something finds it cut
    until grep -q 'power-disk: cut' "$T/power.err"; do sleep 0.02; done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    until umount "$T/cut" 2>"$T/err"; do sleep 0.1; done
    until losetup -d "$loop" 2>"$T/err" && ! losetup -j "$T/disk/disk" | grep -q .; do sleep 0.05; done
    until fusermount3 -u "$T/disk" 2>"$T/err"; do sleep 0.05; done
    wait "$disk_pid" 2>/dev/null || true
}

cut_many() {
    local pid span_ms start_ms got_old=0 got_new=0
    umount "$T/vol"
    round=0
    power_on
    start_ms=$(date +%s%3N)
    expect 0 atomic_restore
    span_ms=$((($(date +%s%3N) - start_ms) * 11 / 10))
    sync -f "$tree"
    sleep 0 &
    power_off $!
    for ((round = 1; round <= CUTS; round++)); do
        rm -rf "$XDG_STATE_HOME"
        power_on
        "$UMBRA_BIN" --no-progress -q restore latest --target "$tree" --in-place --atomic \
            >"$T/killed.out" 2>&1 &
        pid=$!
        sleep_ms "$(random_ms "$span_ms")"
        power_off "$pid"
        mount -o loop "$T/cut.img" "$T/cut"
        expect 0 umbra log recover "$tree"
        look
        case $found in old) got_old=$((got_old + 1)) ;; new) got_new=$((got_new + 1)) ;; esac
        umount "$T/cut"
    done
    say "$fs: $CUTS power cuts: $got_old times the old tree, $got_new times the new one"
}

say "SEED=$SEED"
RANDOM=$((SEED % 32768)) # seeds bash
if [ "$FILES" -gt 5000 ]; then size=3G; else size=1G; fi
for fs in ${FILE_SYSTEMS:-ext4 xfs btrfs}; do
    round=0
    make_trees || { warn "no $fs here"; continue; }
    kill_many
    cut_many
    volume_gone "$T/vol"
done
