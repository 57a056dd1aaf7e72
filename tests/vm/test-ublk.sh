#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# build: release
#
# A cow volume behind ublk, in an emulated machine with Linux 6.12: ext4 on it is written to while a
# shadow stands, umbra-cowd is killed, worker and keeper, and nobody who writes or reads notices.  The
# shadow stays what it was, to the byte; the origin mounts by itself in the end.

set -euo pipefail

# ---- on the host ----

if [ ! "${VM_TOKEN:-}" ]; then
    umbra=${UMBRA_BIN:-$(dirname "$0")/../../build/umbra}
    exec "$(dirname "$0")/run" --limit 900 --cpus 2 --memory 768M --disk 48M --disk 512M "$0" \
        "$umbra" "$(dirname "$umbra")/umbra-cowd" mkfs.ext4 fsck.ext4 fsfreeze "$@"
fi

# ---- in the machine ----

origin=/dev/vda
volume=/dev/umbra/one
started=$(date +%s)

say() { printf '%4d s: %s\n' "$(($(date +%s) - started))" "$*"; }

fail() {
    say "FAIL: $*"
    dmesg | tail -n 30
    ps -o pid,stat,wchan,args
    exit 1
}

trap 'fail "line $LINENO"' ERR

# show KEY: a value of the status, of one line
show() {
    umbra --json volume show one | tr ',' '\n' |
        sed -n "s/^[{ ]*\"$1\": *\"\{0,1\}\([^\",}]*\)\"\{0,1\}}*\$/\1/p" | head -n 1
}

sum_of() { dd if="$1" bs=1M iflag=direct 2>/dev/null | md5sum; }

# until_true COMMAND...: waits for it, a minute at most
until_true() {
    for _ in $(seq 600); do
        ! "$@" || return 0
        sleep 0.1
    done
    fail "never: $*"
}

# writer NAME: files of its own, each synced, and then read past the cache; notes in /tmp what is in them
writer() {
    local name=$1 i=0 slot
    while [ ! -e /tmp/enough ]; do
        slot=$((i % 12))
        i=$((i + 1))
        dd if=/dev/urandom of="/tmp/$name" bs=4k count=$((1 + RANDOM % 48)) 2>/dev/null
        dd if="/tmp/$name" of="/mnt/$name-$slot" bs=64k conv=fsync 2>/dev/null || return 1
        dd if="/mnt/$name-$slot" bs=64k iflag=direct 2>/dev/null | cmp - "/tmp/$name" || return 1
        (cd /mnt && md5sum "$name-$slot") >"/tmp/$name-$slot.sum" || return 1
        echo "$i" >"/tmp/$name.new"
        mv "/tmp/$name.new" "/tmp/$name.count"
    done
}

writers_start() {
    rm -f /tmp/enough
    writer a &
    writer_a=$!
    writer b &
    writer_b=$!
}

writers_stop() {
    touch /tmp/enough
    wait "$writer_a" || fail "a writer got an error, or what it had not written"
    wait "$writer_b" || fail "a writer got an error, or what it had not written"
    cat /tmp/[ab]-*.sum >/tmp/sums
}

# Both have written something since.
# shellcheck disable=SC2317
went_on() { [ "$(cat /tmp/a.count)" -gt "$1" ] && [ "$(cat /tmp/b.count)" -gt "$2" ]; }

await_writers() { until_true went_on "$(($(cat /tmp/a.count) + 1))" "$(($(cat /tmp/b.count) + 1))"; }

compare() {
    echo 3 >/proc/sys/vm/drop_caches
    (cd /mnt && md5sum -c -s /tmp/sums) || fail "the volume is not what was written"
    [ "$(sum_of $volume@1)" = "$shadow_sum" ] || fail "shadow 1 has changed"
}

# came_back RESTARTS DEVICE: a worker serves, after so many that died, the same device
# shellcheck disable=SC2317
came_back() { [ "$(show restarts)" = "$1" ] && [ "$(readlink -f "$volume")" = "$2" ]; }

keeper_of() { sed 's/.*) [A-Z] \([0-9]*\) .*/\1/' "/proc/$1/stat"; }

modprobe ublk_drv
mkdir -p /storage /mnt1 /var/lib
mkfs.ext4 -q -F /dev/vdb
mount -t ext4 /dev/vdb /storage

umbra volume create one -o $origin -s /storage/one --max-size 40M
umbra volume attach one
[ "$(show front)" = ublk ] || fail "the front end is '$(show front)'"
device=$(readlink -f $volume)
mkfs.ext4 -q $volume
mount -t ext4 $volume /mnt
say "attached as $device, $(nproc) processors"

writers_start
until_true test -s /tmp/a.count
until_true test -s /tmp/b.count
await_writers
fsfreeze -f /mnt
shadow_sum=$(sum_of $volume)
umbra volume shadow one
fsfreeze -u /mnt
[ "$(sum_of $volume@1)" = "$shadow_sum" ] || fail "shadow 1 is not what the volume was"
! dd if=/dev/zero of=$volume@1 bs=4k count=1 2>/dev/null || fail "a shadow can be written to"
await_writers
say "a shadow is taken"

# Its worker is killed, again and again: writers wait for the next one.
for kill in 1 2 3; do
    pid=$(show pid)
    kill -9 "$pid"
    until_true came_back "$kill" "$device"
    await_writers
    say "worker $pid was killed, $(show pid) took over"
done
writers_stop
compare
say "volume and shadow are right"

# Somebody reads the shadow while the keeper and the worker are killed: all wait until it is attached again.
writers_start
await_writers
sum_of $volume@1 >/tmp/read.sum &
reader=$!
worker=$(show pid)
keeper=$(keeper_of "$worker")
kill -9 "$keeper" "$worker"
say "keeper $keeper and worker $worker were killed"
until_true umbra volume attach one
[ "$(readlink -f $volume)" = "$device" ] || fail "the device is '$(readlink -f $volume)' now"
await_writers
wait $reader
[ "$(cat /tmp/read.sum)" = "$shadow_sum" ] || fail "who was reading the shadow got something else"
writers_stop
compare
say "attached again; volume and shadow are right"

# A writable phase, its seal, and what is in use.
umbra volume shadow --writable one
echo written | dd of=$volume@2 bs=4k conv=sync,fsync 2>/dev/null
umbra volume seal one@2
! dd if=/dev/zero of=$volume@2 bs=4k count=1 conv=fsync 2>/dev/null || fail "a sealed shadow can be written to"
[ "$(dd if=$volume@2 bs=1 count=7 2>/dev/null)" = written ] || fail "what was written to shadow 2 is gone"
mount -t ext4 -o ro,noload $volume@1 /mnt1
! umbra volume delete one@1 2>/dev/null || fail "a mounted shadow was deleted"
umount /mnt1
umbra volume delete one@2
[ ! -e $volume@2 ] || fail "a deleted shadow has a device"
! umbra volume detach one 2>/dev/null || fail "a mounted volume was detached"
fstrim /mnt
compare

umount /mnt
umbra volume detach one
[ -z "$(ls /dev/ublk[bc]* /dev/umbra/* 2>/dev/null)" ] || fail "devices are left"
fsck.ext4 -fn $origin >/tmp/fsck 2>&1 || fail "fsck: $(cat /tmp/fsck)"
mount -t ext4 -o ro $origin /mnt
(cd /mnt && md5sum -c -s /tmp/sums) || fail "the origin is not what was written"
umount /mnt
umbra volume attach one
[ "$(sum_of $volume@1)" = "$shadow_sum" ] || fail "shadow 1 has changed"
say "the origin is right by itself, and the shadow outlived that"

# As if somebody had died in the midst of taking the volume's device over: it is lost, and another made.
device=$(readlink -f $volume)
worker=$(show pid)
kill -9 "$(keeper_of "$worker")" "$worker"
touch "/run/umbra/volumes/one/taking-over-${device#/dev/ublkb}"
until_true umbra volume attach one
[ ! -e "$device" ] || [ "$(readlink -f $volume)" = "$device" ] || fail "a lost device is left"
[ "$(sum_of $volume@1)" = "$shadow_sum" ] || fail "shadow 1 has changed"
umbra volume detach one
say "a lost device was replaced"
dmesg | grep -E 'WARNING|BUG|I/O error' && fail "the kernel has complained"
exit 0
