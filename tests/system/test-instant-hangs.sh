#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Failure modes 22 to 31 of instant restore: nobody waits for ever.  docs/TESTING.md has the list.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"

# ---- 31, before anything else: the kernel tells of events that nobody answers ----

WATCHDOG=/proc/sys/fs/fanotify/watchdog_timeout WATCHDOG_S=5
# Linux 6.18 keeps a core busy when this is set to 0 while somebody has a group that may refuse, for
# as long as he has it.  So it stays on when somebody else does, another test maybe.
watchdog_back() {
    local i
    for ((i = 0; i < 100; i++)); do
        if ! find /proc/[0-9]*/fd -lname 'anon_inode:\[fanotify\]' 2>/dev/null | grep -q .; then
            echo "$watchdog_before" >$WATCHDOG
            return
        fi
        sleep 0.1
    done
    warn "somebody else uses fanotify, $WATCHDOG stays at $WATCHDOG_S"
}
# The process that stays outside of the namespaces: it is there at the end, whatever happens inside.
if [ -z "${UMBRA_TEST_DIR:-}" ] && [ -w $WATCHDOG ]; then
    watchdog_before=$(cat $WATCHDOG)
    trap watchdog_back EXIT
    echo $WATCHDOG_S >$WATCHDOG
    exec {OUTER_PROC}</proc
    export OUTER_PROC # has the pids that the kernel's log has
fi
world_begin 600 "$@"
require fsfreeze fallocate fstrim

CROWD=100
LARGE=1500000

make_tree() {
    local i
    {
        first_files
        for i in read truncated later; do echo "$T/src/m22/$i $BIG"; done
        for i in 1 2 3 rest; do echo "$T/src/m23/$i $BIG"; done
        for i in killed failing repaired; do echo "$T/src/m25/$i $LARGE"; done
        for i in queued.TERM queued.KILL flying.TERM flying.KILL; do echo "$T/src/m26/$i $BIG"; done
        for i in down dead wrong none slow; do echo "$T/src/m27/$i $LARGE"; done
        for i in full quota shared; do echo "$T/src/m28/$i $LARGE"; done
        for ((i = 0; i < CROWD; i++)); do echo "$T/src/m29/$i $((i % 3 == 0 ? BIG : SMALL))"; done
        for i in busy lazy off readonly; do echo "$T/src/m30/$i $BIG"; done
    } | world_files
    cp "$(command -v fsfreeze)" "$T/src/m22/thawer"
}

# read_held FILE...: readers of them, which the kernel has asked about when this returns.  What they
# compare with is elsewhere, where it asks nothing.
read_held() {
    local file
    for file in "$@"; do read_behind "$V/t/$file" "$T/src/$file"; done
    within 60 "the readers of $* wait" all_held "${reader_pids[@]}"
}

# The one that was started last, and there is no other.  It ends before anybody answers.
kill_reader() {
    disown "${reader_pids[0]}"
    kill "-$1" "${reader_pids[0]}"
    within 60 "a reader ends by SIG$1" all_gone "${reader_pids[0]}"
    reader_pids=()
}

all_gone() {
    local pid
    for pid in "$@"; do
        case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in '' | Z* | X*) ;; *) return 1 ;; esac
    done
}

# As same, beside a short deadline: on a busy machine it may pass for no fault of ours.
same_in_time() {
    checks=$((checks + 1))
    until "$FILEOP" --compare "$2" "$3" >"$T/right" 2>&1; do
        if ! grep -q "Input/output error" "$T/right"; then
            wrong "$1: $(tail -n 1 "$T/right")"
            return 0
        fi
    done
}

# ---- 22: freezing ----

freeze() { right "$1" fsfreeze -f "$V"; }
thaw() { right "thaw" fsfreeze -u "$V"; }

mode_22() {
    local opener freezer
    need_pending "$V"/t/m22/{read,truncated,later}
    signal STOP umbra-hydrated
    read_held m22/read
    freeze "freeze while a reader waits"
    signal CONT umbra-hydrated
    thaw
    all_read "a reader that waited while the volume was frozen"
    # Who opens to truncate holds what a freeze waits for, and the hydrator would wait for the thaw.
    signal STOP umbra-filterd
    signal STOP umbra-hydrated
    bash -c ": >'$V/t/m22/truncated'" &
    opener=$!
    within 60 "the opener waits" all_held $opener
    timeout 60 fsfreeze -f "$V" &
    freezer=$!
    signal CONT umbra-filterd
    wait "$freezer" || wrong "freeze while a truncating open waits: $?"
    signal CONT umbra-hydrated
    thaw
    wait "$opener" || wrong "a truncating open fails when the volume is frozen"
    : >"$V/plain/m22/truncated"
    same "truncated while the volume was frozen" "$V/t/m22/truncated" "$V/plain/m22/truncated"
}

# With a short deadline.  Who would thaw it has to be filled first: he gets an error, and others thaw.
thawer_on_the_volume() {
    MODE=22
    need_pending "$V/t/m22/thawer"
    freeze "freeze"
    right "a thawer that is a placeholder" sh -c "! '$V/t/m22/thawer' -u '$V'"
    thaw
    same_in_time "the same, after others have thawed it" "$V/t/m22/thawer" "$T/src/m22/thawer"
    right "it runs" "$V/t/m22/thawer" --version
    same_in_time "a file that was not asked for meanwhile" "$V/t/m22/later" "$V/plain/m22/later"
}

# ---- 23: what is needed is on the volume itself ----

# Programs, repository and cache.  (What the programs need to start is no placeholder: the target of
# a restore is empty when it begins.)
mode_23() {
    local programs=$PROGRAMS repo=$UMBRA_REPO i
    empty_target
    mkdir "$V/own"
    cp "$PROGRAMS/umbra-filterd" "$PROGRAMS/umbra-hydrated" "$V/own/"
    cp -a "$UMBRA_REPO" "$V/own/repo"
    PROGRAMS=$V/own UMBRA_REPO=$V/own/repo
    restore_start_paused whole=32768 cache="$V/own/cache"
    same "with everything on the volume" "$V/t/m23/1" "$V/plain/m23/1"
    echo 3 >/proc/sys/vm/drop_caches
    same "the same, with nothing cached" "$V/t/m23/2" "$V/plain/m23/2"
    # What starts now reads its program through the gate.
    signal KILL umbra-hydrated
    same "with a hydrator started from the volume" "$V/t/m23/3" "$V/plain/m23/3"
    restore_finish
    compare_trees .
    PROGRAMS=$programs UMBRA_REPO=$repo
    rm -r "$V/own"
}

# ---- 25: some wait for what another one has asked for ----

mode_25() {
    local i
    need_pending "$V"/t/m25/{killed,failing,repaired}
    # The first of them is killed.
    signal STOP umbra-hydrated
    read_held m25/killed
    kill_reader KILL
    read_held m25/killed m25/killed m25/killed
    signal CONT umbra-hydrated
    all_read "after the first reader of it was killed"
    # What the first one asks for cannot be had.
    mood none
    signal STOP umbra-hydrated
    for i in 1 2 3 4 5 6; do
        "$FILEOP" --error 5 read "$V/t/m25/failing" "$T/src/m25/failing" - >"$T/read.e$i" 2>&1 &
        reader_pids+=("$!")
    done
    within 60 "all of them wait" all_held "${reader_pids[@]}"
    signal CONT umbra-hydrated
    for i in "${!reader_pids[@]}"; do
        wait "${reader_pids[i]}" || wrong "one of many: $(tail -n 1 "$T/read.e$((i + 1))")"
    done
    reader_pids=()
    mood good
    same "later" "$V/t/m25/failing" "$V/plain/m25/failing"
    # It can be had only when many wait for it.
    mood down
    read_held m25/repaired m25/repaired m25/repaired m25/repaired
    mood good
    all_read "after the source came back"
}

# ---- 26: who waits is killed ----

mode_26() {
    local name stopped
    for name in KILL TERM; do
        for stopped in queued flying; do
            need_pending "$V/t/m26/$stopped.$name"
            signal STOP umbra-hydrated
            # Otherwise the event stays in the queue of the kernel.
            [ $stopped = flying ] || signal STOP umbra-filterd
            read_held "m26/$stopped.$name"
            kill_reader "$name"
            signal CONT umbra-filterd
            signal CONT umbra-hydrated
            same "after its reader was killed" "$V/t/m26/$stopped.$name" \
                "$V/plain/m26/$stopped.$name"
        done
    done
    within 60 "nobody is waited for" nobody_waits
}

# ---- 27: the source is slow, down, or wrong ----

# With a short deadline.
mode_27() {
    local name
    for name in down dead wrong none; do
        need_pending "$V/t/m27/$name"
        mood "$name"
        right "an error when it is $name" \
            "$FILEOP" --error 5 read "$V/t/m27/$name" "$V/plain/m27/$name" -
        [ "$name" != down ] || within 60 "status tells that it is down" tells_of_outage
    done
    mood good
    for name in down dead wrong none; do
        same_in_time "later, after it was $name" "$V/t/m27/$name" "$V/plain/m27/$name"
    done
    need_pending "$V/t/m27/slow"
    mood slow 0.3
    same_in_time "when it is slow" "$V/t/m27/slow" "$V/plain/m27/slow"
    mood good
    within 60 "status tells of it no more" tells_of_none
}

# That it stands in for the repository is told all the time.
tells_of_outage() { status_of degraded | grep -v "stands in" | grep -q .; }
tells_of_none() { status_of degraded | grep -q "stands in"; }

# ---- 28: no space ----

fill_volume() {
    local size
    mkdir "$V/ballast"
    for size in 256M 64M 16M 4M 1M 256K 64K 4K; do
        while fallocate -l $size "$V/ballast/$size.$RANDOM$RANDOM" 2>/dev/null; do :; done
    done
    sync -f "$V"
}

# What a placeholder needs was allocated when it was made.
mode_28() {
    need_pending "$V"/t/m28/{full,shared,quota}
    fill_volume
    same "on a full volume" "$V/t/m28/full" "$V/plain/m28/full"
    [ "$FS" != btrfs ] || shared_space
    rm -r "$V/ballast"
    same "when there is space again" "$V/t/m28/shared" "$V/plain/m28/shared"
    [ "$FS" != btrfs ] || quota
}

# A snapshot has the same blocks, so they are not there to be written to.
shared_space() {
    btrfs -q subvolume snapshot -r "$V/t" "$V/snapshot"
    right "without space" "$FILEOP" --error 28 read "$V/t/m28/shared" "$V/plain/m28/shared" -
    btrfs -q subvolume delete --commit-after "$V/snapshot"
}

quota() {
    local group
    group=0/$(btrfs inspect-internal rootid "$V/t")
    btrfs quota enable "$V"
    btrfs -q subvolume snapshot -r "$V/t" "$V/snapshot"
    btrfs quota rescan -w "$V" >/dev/null
    btrfs qgroup limit 1M "$group" "$V"
    right "beyond a quota" "$FILEOP" --error 122 read "$V/t/m28/quota" "$V/plain/m28/quota" -
    btrfs qgroup limit none "$group" "$V"
    same "when the quota is gone" "$V/t/m28/quota" "$V/plain/m28/quota"
    btrfs -q subvolume delete --commit-after "$V/snapshot"
    btrfs quota disable "$V"
}

# ---- 29: many at once ----

mode_29() {
    local i files=()
    for ((i = 0; i < CROWD; i++)); do files+=("m29/$i"); done
    need_pending "$V/t/m29/0" "$V/t/m29/$((CROWD - 1))"
    signal STOP umbra-hydrated
    read_held "${files[@]}"
    signal CONT umbra-hydrated
    all_read "one of $CROWD"
}

# ---- 30: unmounting ----

mode_30() {
    local device
    device=$(findmnt -no SOURCE "$V")
    need_pending "$V"/t/m30/{busy,lazy,off,readonly}
    signal STOP umbra-hydrated
    read_held m30/busy
    right "unmounting while a reader waits is refused" bash -c "! umount '$V'"
    signal CONT umbra-hydrated
    all_read "after somebody tried to unmount"
    # Whether it can be made read-only depends on what the hydrator has open.
    signal STOP umbra-hydrated
    read_held m30/readonly
    right "making it read-only ends" bash -c "mount -o remount,ro '$V' || true"
    signal CONT umbra-hydrated
    if findmnt -no OPTIONS "$V" | grep -qw ro; then
        within 60 "a reader on a volume made read-only ends" all_gone "${reader_pids[@]}"
        wait "${reader_pids[0]}" || grep -q "Input/output error" "$T/read.0" ||
            wrong "a reader on a read-only volume: $(cat "$T/read.0")"
        reader_pids=()
    fi
    mount -o remount,rw "$V"
    all_read "after somebody tried to make it read-only"
    same "when it is writable again" "$V/t/m30/readonly" "$V/plain/m30/readonly"
    # The daemons have a mount of their own.
    umount "$V"
    mount "$device" "$V"
    same "after it was unmounted and mounted again" "$V/t/m30/off" "$V/plain/m30/off"
    signal STOP umbra-hydrated
    read_held m30/lazy
    umount -l "$V"
    signal CONT umbra-hydrated
    all_read "after a lazy unmount"
    mount "$device" "$V"
    same "after it was unmounted lazily" "$V/t/m30/lazy" "$V/plain/m30/lazy"
}

# ---- 31: no event is left alone for long ----

# outer_pid PID
outer_pid() {
    local dir own
    own=$(readlink /proc/self/ns/pid)
    for dir in "/proc/self/fd/$OUTER_PROC"/[0-9]*; do
        grep -qsE "^NSpid:.*[[:space:]]$1\$" "$dir/status" || continue
        [ "$(readlink "$dir/ns/pid")" != "$own" ] || echo "${dir##*/}"
    done
}

barks() { dmesg | grep -c "PID $1 (umbra-filterd) failed to respond to fanotify" || true; }

mode_31() {
    local filter before i
    [ -n "${OUTER_PROC:-}" ] || return 0
    filter=$(outer_pid "$(ours umbra-filterd)")
    [ -n "$filter" ] || fail "cannot tell the pid of the filter"
    before=$(barks "$filter")
    ask '{"do":"limit","bytes_per_s":0}'
    ask '{"do":"resume"}'
    for ((i = 0; i < CROWD; i++)); do
        read_behind "$V/t/m29/$i" "$T/src/m29/$i"
        [ $((i % 10)) != 9 ] || all_read "an ordinary restore"
    done
    truncate -s 12345 "$V/t/m22/later"
    echo more >>"$V/t/m22/read"
    : >"$V/t/m22/truncated"
    restore_finish
    right "each event has an answer within $WATCHDOG_S s" test "$(barks "$filter")" = "$before"
}

# ---- 28: the device fails ----

# A reader has the right bytes or an error.
read_or_fail() {
    local status=0
    checks=$((checks + 1))
    "$FILEOP" --compare "$1" "$2" >"$T/right" 2>&1 || status=$?
    [ $status = 0 ] || grep -qE ": (Input/output error|No space left|Structure needs cleaning|Read-only)" "$T/right" ||
        wrong "with a device that fails, $1: $(tail -n 1 "$T/right")"
}

# A loop device calls a write done of which its file has taken only a part (seen in Linux 6.18), so it gets
# one page at a time, which is taken or not.
fill_images() {
    local size
    echo 4 >"/sys/block/$(basename "$(findmnt -no SOURCE "$V")")/queue/max_sectors_kb"
    for size in 1G 64M 1M 4K; do
        while fallocate -l $size "$IMAGES/ballast.$size.$RANDOM$RANDOM" 2>/dev/null; do :; done
    done
}

# The image of the volume has no more space where it is.
device_fails() {
    local i
    MODE=28
    fstrim "$V" # what has been written once is there, and would be written again
    restore_start_paused deadline=3 whole=32768
    need_pending "$V/t/m29/0"
    fill_images
    read_or_fail "$V/t/m29/0" "$T/src/m29/0"
    ask '{"do":"limit","bytes_per_s":0}'
    ask '{"do":"resume"}'
    within 60 "the device fails" has_failed
    for ((i = 0; i < CROWD; i += 7)); do read_or_fail "$V/t/m29/$i" "$T/src/m29/$i"; done
    kill_all
    rm -f "$IMAGES"/ballast.*
    world_volume_again
    restore_again phase=filling
    restore_finish
    right "after the device was mended" diff -r "$T/src" "$V/t"
}

# The same, and nobody is killed: what was filled before a sync failed is not on the disk, whatever the
# next sync says.  Only an xfs goes on by itself afterwards.
device_fails_for_a_while() {
    MODE=28
    [ "$FS" = xfs ] || return 0
    fstrim "$V"
    restore_start_paused whole=32768
    need_pending "$V/t/m29/0"
    fill_images
    ask '{"do":"limit","bytes_per_s":0}'
    ask '{"do":"resume"}'
    within 60 "a sync fails" has_failed
    rm -f "$IMAGES"/ballast.*
    restore_finish
    world_volume_again
    right "from the disk, after the device was mended" diff -r "$T/src" "$V/t"
}

has_failed() {
    local degraded problems
    degraded=$(status_of degraded) && problems=$(status_of problem_count) || return 1
    [ -n "$degraded" ] || [ "$problems" != 0 ]
}

# ----

make_tree
world_backup src

with_a_moody_source() {
    moody_source src
    restore_start_paused whole=32768 source="$MOODY"
    world_modes 22 25 26 28 29 30
    restore_finish
    compare_trees .
    empty_target
    cp -p "$T/src/m22/truncated" "$V/plain/m22/truncated"
    restore_start_paused whole=32768 deadline=3 source="$MOODY"
    thawer_on_the_volume
    world_modes 27
    restore_finish
    compare_trees .
    rm -rf "$UMBRA_REPO"
    UMBRA_REPO=$FULL_REPO
}

with_the_repository() {
    world_modes 23
    empty_target
    restore_start_paused whole=32768
    world_modes 31
    empty_target
    sync -f "$V"
    device_fails
    empty_target
    sync -f "$V"
    device_fails_for_a_while
}

all_restores() {
    with_a_moody_source
    with_the_repository
}

world_run all_restores
world_end
