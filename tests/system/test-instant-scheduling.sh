#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# build: release
#
# Failure modes 32 to 36 and 46 to 48 of instant restore: who comes first, and what is at the
# beginning and at the end.  docs/TESTING.md has the list.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"

BULK=36 BULK_BYTES=3000000
ASKED=10

make_tree() {
    local i
    {
        first_files
        for ((i = 0; i < BULK; i++)); do echo "$T/src/bulk/$i $BULK_BYTES"; done
        for ((i = 0; i < ASKED; i++)); do echo "$T/src/later/$i $SMALL"; done
        for i in {1..8}; do echo "$T/few/m33/$i 500000"; done
        echo "$T/few/m33/never $BIG"
        for i in removed again zeros behind renamed; do echo "$T/few/m48/$i $BIG"; done
    } | world_files
}

# ---- 32: those who wait come before the background ----

# Each part of a file takes a moment, and both threads of the background are always at it.  What is
# read lies behind all that.
mode_32() {
    local i total
    mood slow 0.05
    restore_start whole=32768 source="$MOODY"
    total=$(status_of bytes_total)
    within 60 "the background works" bytes_are_done 1000000
    need_pending "$V/t/later/0" "$V/t/later/$((ASKED - 1))" "$V/t/bulk/$((BULK - 1))"
    for ((i = 0; i < ASKED; i++)); do
        same "a small file behind others" "$V/t/later/$i" "$T/src/later/$i"
    done
    right "the end of a large file" cmp -i $((BULK_BYTES - 4096)) "$V/t/bulk/$((BULK - 1))" \
        "$T/src/bulk/$((BULK - 1))"
    # Whoever waited for the background would be here at its end.
    checks=$((checks + 1))
    ! bytes_are_done $((total / 2)) || wrong "readers had to wait for the background"
    mood good
    restore_finish
}

bytes_are_done() { [ "$(status_of bytes_done)" -ge "$1" ]; }

# ---- 33: it ends, whatever others do ----

# Somebody waits all the time, and somebody else keeps the disk busy.
mode_33() {
    local writer reader
    mood without never
    restore_start_paused whole=32768 source="$MOODY"
    need_pending "$V/t/m33/never" "$V/t/m33/8"
    cmp "$V/t/m33/never" "$T/few/m33/never" &
    reader=$!
    "$PYTHON" -c "$KEEP_BUSY" "$V/busy" >"$T/busy" &
    writer=$!
    within 60 "a reader waits" somebody_waits
    ask '{"do":"limit","bytes_per_s":0}'
    ask '{"do":"resume"}'
    within 120 "all but one file are there" one_is_left
    somebody_waits || wrong "the reader does not wait any more"
    kill "$writer"
    wait "$writer" || true
    mood good
    wait "$reader" || wrong "the reader has got something else"
    restore_finish
    rm "$V/busy"
}

somebody_waits() { [ "$(status_of demand_waiting)" -ge 1 ]; }
one_is_left() { [ "$(status_of files_queued)" = 1 ]; }

# Small synced writes until SIGTERM; then prints how many there were, and how long, in ms, the slowest
# and the slowest but one in twenty took.
KEEP_BUSY='
import os, signal, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
times = []
def end(*_):
    times.sort()
    ms = [int(t * 1000) for t in times] or [0]
    print(len(times), ms[-1], ms[len(ms) * 19 // 20], flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    os.pwrite(fd, os.urandom(4096), len(times) % 64 * 4096)
    start = time.monotonic()
    os.fsync(fd)
    times.append(time.monotonic() - start)'

# ---- 35: what the system does not tell ----

# hide DIR...: as on a kernel without it.
hide() {
    local dir
    for dir in "$@"; do [ ! -d "$dir" ] || mount -t tmpfs none "$dir"; done
}

shown_again() {
    local dir
    for dir in "$@"; do [ ! -d "$dir" ] || umount "$dir"; done
}

# watches FILE: the hydrator has it open, to learn how busy the disk is.
watches() {
    local link
    for link in "/proc/$(ours umbra-hydrated)/fd"/*; do
        case $(readlink "$link") in "$1"*) return 0 ;; esac
    done
    return 1
}

restore_without() {
    hide "$@"
    empty_target
    restore_start_paused whole=32768
    checks=$((checks + 1))
    unwatched || wrong "the hydrator has found a way around: $*"
    same "without $*" "$V/t/m33/1" "$T/few/m33/1"
    restore_finish
    shown_again "$@"
    compare_trees .
}

mode_35() {
    local scheduler
    scheduler=/sys/block/$(basename "$(findmnt -no SOURCE "$V")")/queue/scheduler
    unwatched() { ! watches /proc/pressure; }
    restore_without /proc/pressure
    unwatched() { ! watches /proc/pressure && ! watches /sys/dev; }
    [ ! -w "$scheduler" ] || echo none >"$scheduler"
    restore_without /proc/pressure /sys/dev/block /sys/fs/cgroup
    unwatched() { ! watches /sys/dev; }
    restore_without /sys/dev/block
}

# ---- 36: what others sync ----

# The background writes as fast as it can, and syncs much at once.
mode_36() {
    local writer count slowest slow
    restore_start_paused whole=32768
    "$PYTHON" -c "$KEEP_BUSY" "$V/busy" >"$T/busy" &
    writer=$!
    ask '{"do":"limit","bytes_per_s":0}'
    ask '{"do":"resume"}'
    restore_finish
    kill "$writer"
    wait "$writer" || true
    read -r count slowest slow <"$T/busy"
    checks=$((checks + 1))
    [ -z "${VERBOSE:-}" ] || say "$FS: $count syncs, the slowest $slowest ms, one in twenty $slow ms"
    if [ "$count" = 0 ] || [ "$slow" -gt 1000 ] || [ "$slowest" -gt 10000 ]; then
        wrong "of $count syncs the slowest took $slowest ms, one in twenty $slow ms"
    fi
    rm "$V/busy"
}

# ---- 46: what is needed is not there when it starts ----

# start_fails WORDS TEXT: and leaves nothing behind.
start_fails() {
    local status=0
    checks=$((checks + 1))
    timeout -k 1 60 "$INSTANT" start "$PROGRAMS" "$UMBRA_REPO" "$BACKUP" "$V/t" 7e57000000000abc \
        >"$T/start" 2>&1 || status=$?
    [ "$status" = 1 ] || wrong "$1: the start ended with $status"
    grep -q -- "$2" "$T/start" || wrong "$1: $(cat "$T/start")"
    within 60 "all processes end: $1" nobody_is_left
    [ -z "$(ls -A "$V/t")" ] || wrong "$1: something is left behind"
    right "nobody waits: $1" cmp "$V/plain/m33/1" "$T/few/m33/1"
}

nobody_is_left() { [ -z "$(ours)" ]; }

mode_46() {
    local programs=$PROGRAMS
    empty_target
    PROGRAMS=$T/programs
    mkdir "$PROGRAMS"
    start_fails "without a filter" "umbra-filterd"
    cp "$programs/umbra-filterd" "$PROGRAMS/"
    start_fails "without a hydrator" "umbra-hydrated"
    printf '#!/bin/sh\nexit 127\n' >"$PROGRAMS/umbra-hydrated"
    chmod +x "$PROGRAMS/umbra-hydrated"
    start_fails "with a hydrator that cannot run" "cannot be run"
    # By itself, it has nobody to serve.
    right "a hydrator that nobody has started" \
        sh -c "! '$programs/umbra-hydrated' </dev/null 3>&- 4>&- 5>&- 6>&- 7>&-"
    hydrator_comes_late "$programs"
    rm -r "$PROGRAMS"
    PROGRAMS=$programs
}

# Where there are placeholders already, readers wait for it.
hydrator_comes_late() {
    local broken=$PROGRAMS status=0
    PROGRAMS=$1
    restore_start_paused
    need_pending "$V/t/m33/1"
    kill_all
    PROGRAMS=$broken
    printf '#!/bin/sh\n[ -e %s ] && exec %s\nexit 127\n' "$T/works" "$1/umbra-hydrated" \
        >"$PROGRAMS/umbra-hydrated"
    timeout -k 1 60 "$INSTANT" start "$PROGRAMS" "$UMBRA_REPO" "$BACKUP" "$V/t" "$ID" \
        phase=filling >"$T/start" 2>&1 || status=$?
    checks=$((checks + 1))
    if [ "$status" != 1 ] || ! grep -q "cannot be run" "$T/start"; then
        wrong "a restore that cannot go on: $status, $(cat "$T/start")"
    fi
    read_behind "$V/t/m33/1" "$T/few/m33/1"
    within 60 "a reader waits" all_held "${reader_pids[@]}"
    touch "$T/works"
    all_read "when the hydrator can be run"
    restore_finish
    compare_trees .
    rm "$T/works"
}

# ---- 47: at the end ----

# Reading costs what it costs; through the gate it would be twenty times as much.
mode_47() {
    local cost
    "$PYTHON" "$TESTS_LIB/read-cost.py" "$V/plain/m33/1" "$V/t/m33/1" >"$T/cost"
    checks=$((checks + 1))
    cost=$(awk 'NR == 2 { print $3 }' "$T/cost")
    awk -v cost="$cost" 'BEGIN { exit !(cost < 4) }' || wrong "reading costs $cost times as much"
    [ -z "$(ours)" ] || wrong "processes are left: $(ours)"
    ! getfattr -n trusted.umbra.restore "$V/t" >/dev/null 2>&1 || wrong "the record is left"
}

# ---- 48: what the backup does not have ----

# All of it twice, in the target and in the ordinary copy.
be_an_application() {
    local dir=$1
    echo new >"$dir/new"
    touch -d @1000000000 "$dir/new"
    mkdir "$dir/directory"
    cp "$dir/new" "$dir/directory/file"
    ln -s nothing "$dir/link"
    rm "$dir/removed"
    rm "$dir/again" && echo other >"$dir/again"
    # Of the same name and size, but without anything.
    rm "$dir/zeros" && truncate -s $BIG "$dir/zeros"
    mv "$dir/renamed" "$dir/named"
    ln "$dir/new" "$dir/renamed"
}

mode_48() {
    local dir
    restore_start_paused whole=32768
    need_pending "$V"/t/m48/{removed,again,zeros,behind,renamed}
    right "a file that is not in the backup" \
        sh -c "! cat '$V/t/m48/absent' 2>&1 | grep -v 'No such file or directory'"
    right "nor is its directory" sh -c "! cat '$V/t/absent/file' 2>/dev/null"
    for dir in "$V/t/m48" "$V/plain/m48"; do be_an_application "$dir"; done
    right "it is there at once" diff -r --no-dereference "$V/t/m48" "$V/plain/m48"
    # The next one only knows what is in the tree.
    signal KILL umbra-hydrated
    same "a file after that" "$V/t/m48/behind" "$V/plain/m48/behind"
    restore_finish
    compare_trees .
    right "it keeps its time" test "$(stat -c %Y "$V/t/m48/new")" = 1000000000
}

# ----

make_tree
world_backup src few

with_many_files() {
    restore_use src
    moody_source src
    world_modes 32
    UMBRA_REPO=$FULL_REPO
    empty_target
    world_modes 36
    right "all is there" diff -r "$T/src" "$V/t"
}

with_few_files() {
    rm -rf "$V/plain" "$T/hollow"
    cp -a --reflink=never "$T/few" "$V/plain"
    restore_use few
    moody_source few
    empty_target
    world_modes 33
    compare_trees .
    rm -r "$UMBRA_REPO"
    UMBRA_REPO=$FULL_REPO
    world_modes 35 46 47
    empty_target
    world_modes 48
}

all_restores() {
    with_many_files
    with_few_files
}

world_run all_restores
world_end
