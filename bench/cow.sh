#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# bench/cow.sh [--write]: what a cow volume costs (`make bench-cow`).
#
#   SIZE=4G      of the volume (a multiple of 1 MiB; five times that much space is needed in TMPDIR)
#   SECONDS_EACH=3, ROUNDS=3   of each run of fio; the median of the rounds counts
#   QUIET=CMD    is put before each fio: something that keeps the machine quiet meanwhile
#   FRONT=fuse   how umbra's volume is attached
#   --write      also put the tables into docs/PERFORMANCE.md
#
# All subjects stand on the same file, and take turns, load by load:
#
#   bare loop device      losetup --direct-io=on FILE
#   umbra                 a cow volume of the file
#   qemu-storage-daemon   its FUSE export, and a loop device with direct I/O on that; with a
#                         copy-before-write node, whose target is a file beside it, for shadows
#   nbdkit, loop          its file plugin, nbdfuse, and a loop device with direct I/O on that; with the
#                         cow filter for shadows
#   nbdkit, socket        the same nbdkit, asked by fio itself: no block device at all
#
# in three states: without a shadow; right after one (for writes: each is the first to its block, but for
# chance); when everything has been copied.  Each run of writes ends with a flush, which counts.  The page cache
# is emptied before each: nbdkit works through it, the others past it.
#
# Then 100 shadows are taken under full random writes, and the memory of umbra-cowd is measured, for a
# volume of 1 TB.  Root, half an hour.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../tests/lib/common.sh
. "$(dirname "$0")/../tests/lib/common.sh"
# Volumes of our own, and nobody else's.
# shellcheck disable=SC2034 # for test_begin
TEST_WRAPPER=(unshare --mount --propagation private)
test_begin 7200 "$@"
require_root
require fio losetup qemu-storage-daemon nbdkit nbdfuse
require_umbra
mkdir -p /var/lib/umbra /run/umbra
mount -t tmpfs -o mode=0700 bench /var/lib/umbra
mount -t tmpfs -o mode=0700 bench /run/umbra

SIZE=${SIZE:-4G}
SECONDS_EACH=${SECONDS_EACH:-3}
ROUNDS=${ROUNDS:-3}
FRONT=${FRONT:-fuse}
read -ra quiet <<<"${QUIET:-}"
table=$TESTS_TOP/bench/cow-table.py
results=$T/results
file=$T/file
loads=("randread 4k 1" "randread 4k 32" "randwrite 4k 1" "randwrite 4k 32"
    "read 1M 1" "read 1M 32" "write 1M 1" "write 1M 32")

# ---- what is started is stopped ----

loops=()
clean_up() {
    local status=$? loop
    trap - EXIT
    umbra volume detach bench >/dev/null 2>&1 || true
    for loop in "${loops[@]}"; do losetup -d "$loop" 2>/dev/null || true; done
    _kill_jobs "$status"
}
trap clean_up EXIT

# loop_on FILE: a loop device with direct I/O, in $device
loop_on() {
    device=$(losetup --find --show --direct-io=on "$1")
    loops+=("$device")
    blockdev --setrw "$device" # whoever had it before may have left it read-only
}

loop_off() {
    local i
    losetup -d "$1"
    for i in "${!loops[@]}"; do [ "${loops[i]}" != "$1" ] || unset "loops[i]"; done
    for ((i = 0; i < 100; i++)); do
        losetup "$1" >/dev/null 2>&1 || return 0
        sleep 0.05
    done
    fail "'$1' stays in use"
}

stop() {
    kill "$1"
    wait "$1" || true
}

# until_true COMMAND...: it starts up
until_true() {
    local i
    for ((i = 0; i < 200; i++)); do
        "$@" 2>/dev/null && return 0
        sleep 0.05
    done
    fail "does not start: $*"
}

# ---- subjects: each has _up and _down, and leaves its device in $device ----

umbra_up() {
    expect 0 umbra --json volume attach --front "$FRONT" bench
    device=/dev/umbra/bench
}
umbra_down() { expect 0 umbra volume detach bench; }
umbra_shadow() {
    expect 0 umbra --json volume shadow bench
    shadow=$(json "$T/out" shadow number)
}
umbra_forget() { expect 0 umbra volume delete "bench@$shadow"; }

qemu_pid='' qemu_device=''
# qemu_up [cow]
qemu_up() {
    local disk="driver=file,cache.direct=on,aio=io_uring,locking=off" node=file extra=()
    : >"$T/qemu"
    if [ "${1:-}" = cow ]; then
        rm -f "$T/qemu-target"
        truncate -s "$SIZE" "$T/qemu-target"
        # shellcheck disable=SC2054 # commas of qemu's
        extra=(--blockdev "$disk,node-name=target,filename=$T/qemu-target"
            --blockdev "driver=copy-before-write,node-name=cow,file=file,target=target")
        node=cow
    fi
    qemu-storage-daemon --blockdev "$disk,node-name=file,filename=$file" "${extra[@]}" \
        --export "type=fuse,id=fuse,node-name=$node,mountpoint=$T/qemu,writable=on" &
    qemu_pid=$!
    until_true test -s "$T/qemu"
    loop_on "$T/qemu"
    qemu_device=$device
}
qemu_down() {
    loop_off "$qemu_device"
    stop "$qemu_pid"
}

nbdkit_pid='' nbdfuse_pid='' nbdkit_device=''
# nbdkit_up [cow]: it also has a socket, $T/nbd
nbdkit_up() {
    local filter=()
    [ "${1:-}" != cow ] || filter=(--filter=cow)
    rm -f "$T/nbd"
    TMPDIR=$T nbdkit -f -U "$T/nbd" "${filter[@]}" file "$file" cache=none &
    nbdkit_pid=$!
    until_true test -S "$T/nbd"
    mkdir -p "$T/nbdfuse"
    nbdfuse "$T/nbdfuse" --unix "$T/nbd" &
    nbdfuse_pid=$!
    until_true test -s "$T/nbdfuse/nbd"
    loop_on "$T/nbdfuse/nbd"
    nbdkit_device=$device
}
nbdkit_down() {
    loop_off "$nbdkit_device"
    umount "$T/nbdfuse"
    wait "$nbdfuse_pid" || true
    stop "$nbdkit_pid"
}

# ---- measuring ----

# The beginning is left alone: umbra would take another one for the work of somebody else.
place=(--offset=1M --size="$(($(numfmt --from=iec "$SIZE") - 1048576))")

# run STATE SUBJECT LOAD [socket]
run() {
    local state=$1 subject=$2 rw bs depth target=(--ioengine=libaio --direct=1 "--filename=$device") end=()
    read -r rw bs depth <<<"$3"
    [ "${4:-}" != socket ] || target=(--ioengine=nbd "--uri=nbd+unix:///?socket=$T/nbd")
    [[ $rw != *write ]] || end=(--end_fsync=1)
    echo 1 >/proc/sys/vm/drop_caches
    "${quiet[@]}" fio --name=bench "${target[@]}" "${place[@]}" "${end[@]}" --rw="$rw" --bs="$bs" --iodepth="$depth" \
        --time_based --runtime="$SECONDS_EACH" --norandommap --randrepeat=0 --output-format=json >"$T/fio.json" ||
        fail "fio, $subject, $3"
    "$PYTHON" "$table" note "$results" "$T/fio.json" "$state" "$subject" "$3"
}

# Writes everything once.
fill() {
    fio --name=fill --ioengine=libaio --direct=1 --filename="$1" "${place[@]}" --rw=write --bs=1M --iodepth=8 \
        --end_fsync=1 >/dev/null
}

without_shadow() {
    local load state="without shadow"
    umbra_up
    loop_on "$file"
    bare=$device
    qemu_up
    nbdkit_up
    for load in "${loads[@]}"; do
        device=$bare && run "$state" "bare loop device" "$load"
        device=/dev/umbra/bench && run "$state" umbra "$load"
        device=$qemu_device && run "$state" "qemu-storage-daemon" "$load"
        device=$nbdkit_device && run "$state" "nbdkit, loop" "$load"
        run "$state" "nbdkit, socket" "$load" socket
    done
    qemu_down
    nbdkit_down
}

# Reads of the volume are what they were.
after_shadow() {
    local load state="right after a shadow"
    for load in "${loads[@]}"; do
        [[ $load == *write* ]] || continue
        device=$bare && run "$state" "bare loop device" "$load"
        umbra_shadow
        device=/dev/umbra/bench && run "$state" umbra "$load"
        umbra_forget
        qemu_up cow
        run "$state" "qemu-storage-daemon" "$load"
        qemu_down
        nbdkit_up cow
        run "$state" "nbdkit, loop" "$load"
        nbdkit_down
        nbdkit_up cow
        run "$state" "nbdkit, socket" "$load" socket
        nbdkit_down
    done
}

all_copied() {
    local load state="everything copied"
    umbra_shadow
    fill /dev/umbra/bench
    qemu_up cow
    fill "$qemu_device"
    nbdkit_up cow
    fill "$nbdkit_device"
    for load in "${loads[@]}"; do
        device=$bare && run "$state" "bare loop device" "$load"
        device=/dev/umbra/bench && run "$state" umbra "$load"
        device=$qemu_device && run "$state" "qemu-storage-daemon" "$load"
        device=$nbdkit_device && run "$state" "nbdkit, loop" "$load"
        run "$state" "nbdkit, socket" "$load" socket
    done
    qemu_down
    nbdkit_down
    umbra_forget
    loop_off "$bare"
    umbra_down
}

# hold_times: 100 shadows under random writes of 4 KiB at depth 32
hold_times() {
    local pid i
    umbra_up
    fio --name=load --ioengine=libaio --direct=1 --filename="$device" "${place[@]}" --rw=randwrite \
        --bs=4k --iodepth=32 --time_based --runtime=600 --norandommap >"$T/load" 2>&1 &
    pid=$!
    sleep 2
    for ((i = 0; i < 100; i++)); do
        expect 0 umbra --json volume shadow bench
        json "$T/out" hold_ns >>"$T/holds"
        sleep 0.1
    done
    kill -INT "$pid"
    wait "$pid" || true
    umbra_down
}

# Of both processes: PSS, as what they share counts once.
memory_of() {
    local pid
    for pid in $(pgrep -f "umbra-cowd.* $1( |\$)"); do cat "/proc/$pid/smaps_rollup"; done |
        awk '/^Rss:/ { rss += $2 } /^Pss:/ { pss += $2 }
            END { printf "%.1f\t%.1f\n", rss / 1024, pss / 1024 }'
}

note_memory() { printf '%s\t%s\n' "$1" "$(memory_of "$2")" >>"$T/memory"; }

# memory_for SIZE: attached; with 1 GiB kept, in random places
memory_for() {
    local scattered=(--ioengine=libaio --direct=1 --filename=/dev/umbra/large --rw=randwrite --bs=16k --iodepth=32
        --io_size=1G --randrepeat=1 --end_fsync=1)
    truncate -s "$1" "$T/large"
    expect 0 umbra volume create large --origin "$T/large" --storage "$T/large-storage" --max-size 16G
    expect 0 umbra volume attach --front "$FRONT" large
    note_memory "attached" large
    fio --name=first "${scattered[@]}" >/dev/null
    note_memory "1 GiB written" large
    expect 0 umbra volume shadow large
    fio --name=again "${scattered[@]}" >/dev/null
    note_memory "1 GiB kept" large
    expect 0 umbra --json volume show large
    printf 'used\t%s\n' "$(json "$T/out" used_bytes)" >>"$T/memory"
    expect 0 umbra volume detach large
    expect 0 umbra volume delete large
}

fallocate -l "$SIZE" "$file"
fill "$file"
expect 0 umbra volume create bench --origin "$file" --storage "$T/storage" --max-size 100%
for ((round = 1; round <= ROUNDS; round++)); do
    warn "round $round of $ROUNDS"
    without_shadow
    after_shadow
    all_copied
done
hold_times
expect 0 umbra volume delete bench
rm -f "$file" "$T/qemu-target"
memory_for 1T

{
    say "Machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs," \
        "$(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo) memory," \
        "Linux $(uname -r); $(date -u +%Y-%m-%d). A file of $SIZE on $(findmnt -no FSTYPE -T "$T")," \
        "umbra's storage on the same disk; front end $FRONT."
    say "Versions: $(umbra --version | head -n 1);" \
        "$(qemu-storage-daemon --version | head -n 1 | cut -d' ' -f1-3); $(nbdkit --version); $(fio --version)." \
        "fio: direct I/O, $SECONDS_EACH s each, median of $ROUNDS round(s)."
    say
    "$PYTHON" "$table" loads "$results"
    "$PYTHON" "$table" holds "$T/holds"
    "$PYTHON" "$table" memory "$T/memory"
} >"$T/report"
cat "$T/report"
[ "${1:-}" != --write ] ||
    "$PYTHON" "$TESTS_TOP/bench/write-section.py" cow "$TESTS_TOP/docs/PERFORMANCE.md" "$T/report"
