#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Shadows of a file system at work: ext4 and xfs on a cow volume, fio that verifies what it wrote, and a
# PostgreSQL under pgbench; ten shadows are taken meanwhile.  Each of them is
#
#   - whole: its journal is played, then e2fsck or xfs_repair find nothing.  That is done to the shadow
#     itself, in its writable phase, or (every other one) to a copy of a read-only one;
#   - usable: PostgreSQL starts on it, pg_amcheck finds nothing, and all transactions are there that had been
#     acknowledged before it was taken;
#   - and never changes: a read-only one is in the end what it was at first, a sealed one too.
#
# In the end the same goes for the volume, and for its origin by itself, detached.
#
#   SOAK=1   minutes of load, and PostgreSQL on each shadow, not on one in three

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/cow.sh
. "$(dirname "$0")/../lib/cow.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/postgresql.sh
. "$(dirname "$0")/../lib/postgresql.sh"
SOAK=${SOAK:-}
cow_begin "${SOAK:+3}900" "$@"
require fio sha256sum
require_postgresql
trap _cow_end EXIT
SHADOWS=10 PAUSE_S=${SOAK:+20} PG_EACH=${SOAK:+1} SIZE=640M
PAUSE_S=${PAUSE_S:-0.7} PG_EACH=${PG_EACH:-3}
m=$T/m s=$T/s
# In memory: a machine with other work has slow disks.
mkdir "$T/memory"
mount -t tmpfs -o size=80% none "$T/memory"
mkdir "$T/memory/origins" "$T/memory/storage"
mount --bind "$T/memory/origins" "$ORIGINS"
mount --bind "$T/memory/storage" "$T/storage"

make_ext4() { mkfs.ext4 -q -F "$1"; }
make_xfs() { mkfs.xfs -q -f "$1"; }
check_ext4() { e2fsck -fn "$1"; }
check_xfs() { xfs_repair -n "$1"; }
# Beside its like, which is mounted: an xfs is told by its UUID.
mount_ext4() { mount "$@"; }
mount_xfs() { mount -o nouuid "$@"; }

# Quicker than a sum that cannot be forged.
mark() { timeout 300 cksum <"$1"; }

loop_on() {
    loop=$(losetup --find --show "$1")
    blockdev --setrw "$loop" # whoever had it before may have left it read-only
}

# ---- load ----

# Each run writes a file in random order, with a flush now and then, and reads it back.
fio_load() {
    while [ ! -e "$T/enough" ]; do
        fio --name=verify --filename="$m/fio/$1" --size=24M --bs=4k --ioengine=libaio --iodepth=8 --direct=1 \
            --rw=randwrite --fdatasync=64 --verify=crc32c --verify_fatal=1 \
            --verify_state_save=0 >"$T/fio.$1" 2>&1 || return 1
        echo >>"$T/fio.$1.rounds"
    done
}

# Numbers from 1, each acknowledged in $T/acknowledged once it has been committed.
history_load() {
    seq 10000000 | sed 's/.*/insert into history_of_test values (&) returning &;/' |
        PGDATABASE=postgres pg psql -qAt >"$T/acknowledged" 2>"$T/history.err" || true
}

load_begins() {
    rm -f "$T/enough" "$T"/fio.*
    mkdir "$m/fio"
    fio_load 1 &
    fio_pids=("$!")
    fio_load 2 &
    fio_pids+=("$!")
    pg pgbench -n -c 4 -T 100000 >"$T/pgbench" 2>&1 &
    pgbench_pid=$!
    history_load &
    history_pid=$!
    await "the load does not begin" load_is_on
}
load_is_on() { [ "$(wc -l <"$T/acknowledged")" -gt 20 ] && [ -s "$T/fio.1.rounds" ]; }

load_ends() {
    local pid
    touch "$T/enough"
    for pid in "${fio_pids[@]}"; do
        wait "$pid" || fail "fio has read something else than it wrote: $(tail -n 20 "$T"/fio.[12])"
    done
    # pgbench and psql end when they are told that the server does.
    pg_stop
    wait "$pgbench_pid" || true
    wait "$history_pid" || true
    grep -q "number of transactions\|terminating connection" "$T/pgbench" || fail "pgbench: $(tail "$T/pgbench")"
    ! grep -q ERROR "$T/history.err" || fail "$(cat "$T/history.err")"
}

# The last number of which it is certain; the line after it may be half there.
acknowledged() { tail -n 2 "$T/acknowledged" | head -n 1; }

# ---- what has to be right ----

# postgresql_good DIR NUMBER: of a cluster that was cut off: it recovers, and has all up to that number
postgresql_good() (
    PG_DATA=$1
    export PGPORT=5433
    rm -f "$PG_DATA/postmaster.pid" # of a server that lives, on another volume
    pg_start
    pg pg_amcheck --all --install-missing >"$T/amcheck" 2>&1 || { cat "$T/amcheck" >&2; fail "pg_amcheck, $1"; }
    pg psql -Atc "select count(*) = max(n) and min(n) = 1 and max(n) >= $2, count(*) from history_of_test" >"$T/history"
    grep -q '^t|' "$T/history" || fail "$1: the history has $(cat "$T/history"), acknowledged: $2"
    # What pgbench has done is right in itself.
    pg psql -Atc "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)
        and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
        and (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)" >"$T/history"
    [ "$(cat "$T/history")" = t ] || fail "$1: pgbench's sums do not agree"
    pg_stop
)

# file_system_good FS DEVICE NUMBER WITH_POSTGRESQL: mounts it, so that the journal is played
file_system_good() {
    local fs=$1 device=$2 number=$3
    "mount_$fs" "$device" "$s" || fail "cannot mount $device"
    [ "$4" = "" ] || postgresql_good "$s/pg" "$number"
    umount "$s"
    expect 0 "check_$fs" "$device"
}

# shadow_take NAME: every other one is writable
shadow_take() {
    local options=() number
    [ $((taken % 2)) = 0 ] || options=(--writable)
    number=$(acknowledged)
    expect 0 umbra --json volume shadow "${options[@]}" "$1"
    [ "$(json "$T/out" shadow number)" = "$((taken + 1))" ] || fail "$(cat "$T/out")"
    taken=$((taken + 1))
    numbers[taken]=$number
}

# shadow_good FS NAME N
shadow_good() {
    local fs=$1 device=/dev/umbra/$2@$3 with=''
    [ $(($3 % PG_EACH)) != 1 ] && [ "$PG_EACH" != 1 ] || with=yes
    if [ $(($3 % 2)) = 0 ]; then
        file_system_good "$fs" "$device" "${numbers[$3]}" "$with"
        expect 0 umbra volume seal "$2@$3"
        "mount_$fs" -o ro "$device" "$s" || fail "cannot mount $device, sealed"
        umount "$s"
    else
        cp --sparse=always "$device" "$T/memory/copy"
        loop_on "$T/memory/copy"
        file_system_good "$fs" "$loop" "${numbers[$3]}" "$with"
        losetup -d "$loop"
        rm "$T/memory/copy"
    fi
    mark "$device" >"$T/sum.$3"
}

# ---- a volume ----

life() {
    local fs=$1 name=load-$1 i
    taken=0 numbers=()
    cow_make "$name" "$SIZE" --max-size 100%
    expect 0 umbra volume attach --front fuse "$name"
    expect 0 "make_$fs" "/dev/umbra/$name"
    mount "/dev/umbra/$name" "$m"
    chmod 755 "$m" "$s"
    pg_make "$m/pg" 2
    sync -f "$m" # which initdb was told not to do
    pg_start
    pg psql -qc "create table history_of_test (n bigint primary key)"
    load_begins
    for ((i = 0; i < SHADOWS; i++)); do
        sleep "$PAUSE_S" # for the load to do something
        shadow_take "$name"
    done
    # While the load goes on, the first two; it would take long to do so with all.
    shadow_good "$fs" "$name" 1
    shadow_good "$fs" "$name" 2
    load_ends
    for ((i = 3; i <= SHADOWS; i++)); do shadow_good "$fs" "$name" "$i"; done

    # The volume itself; then what the shadows show once it was away.
    umount "$m"
    expect 0 "check_$fs" "/dev/umbra/$name"
    expect 0 umbra --json volume show "$name"
    [ "$(json "$T/out" faults)" = "[]" ] || fail "$(cat "$T/out")"
    expect 0 umbra volume detach "$name"
    expect 0 umbra volume attach --front fuse "$name"
    for ((i = 1; i <= SHADOWS; i++)); do
        mark "/dev/umbra/$name@$i" | cmp -s - "$T/sum.$i" || fail "$name@$i has changed"
    done
    expect 0 umbra volume detach "$name"

    # The origin needs no umbra.
    loop_on "$ORIGINS/$name"
    file_system_good "$fs" "$loop" "$(acknowledged)" yes
    losetup -d "$loop"
    expect 0 umbra volume delete "$name"
    rm "$ORIGINS/$name"
    say "$fs: $SHADOWS shadows; $(wc -l <"$T/acknowledged") transactions acknowledged," \
        "$(cat "$T"/fio.*.rounds | wc -l) rounds of fio"
}

life ext4
life xfs
