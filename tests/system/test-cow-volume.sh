#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Attached cow volumes, with ext4 and xfs on them: shadows, their writable phase, fstrim, a diff area
# that runs full; the worker killed under load, again and again, and everything killed at once; and
# all that umbra-cowd has to refuse.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=../lib/cow.sh
. "$TESTS_LIB/cow.sh"
cow_begin 1700 "$@"
m=$T/m s=$T/s

# What mkfs, mount and fsck of each file system need.
make_ext4() { mkfs.ext4 -q -F "$1"; }
make_xfs() { mkfs.xfs -q -f "$1"; }
mount_shadow_ext4() { mount -o ro,noload "$1" "$s"; }
mount_shadow_xfs() { mount -o ro,norecovery,nouuid "$1" "$s"; }
mount_rw_ext4() { mount "$@"; }
mount_rw_xfs() { mount -o nouuid "$@"; }
check_ext4() { e2fsck -fn "$1"; }
# One that was taken while the file system was written to: its journal is played first, on a copy.
check_busy_ext4() {
    cp --sparse=always "$1" "$T/copy"
    e2fsck -p -E journal_only "$T/copy" || [ $? = 1 ] && e2fsck -fn "$T/copy"
}
# Its log is never empty, not even when it is frozen, and has to be played first: on a copy.
check_xfs() {
    local loop
    cp --sparse=always "$1" "$T/copy"
    mkdir -p "$T/c"
    loop=$(losetup --find --show "$T/copy")
    blockdev --setrw "$loop" # whoever had it before may have left it read-only
    mount -o nouuid "$loop" "$T/c" && umount "$T/c" && losetup -d "$loop" && xfs_repair -n "$T/copy"
}

files_make() {
    local i
    for i in $(seq 20); do head -c $((i * 70001)) /dev/urandom >"$m/$1$i"; done
    cp -a "$TESTS_TOP/docs" "$m/$1"
}
files_sum() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

# refuses PATTERN ARGUMENTS...: umbra volume fails with these words
refuses() {
    local pattern=$1
    shift
    expect 1 umbra volume "$@"
    expect_text "$T/err" "$pattern"
}

# frozen NAME: a shadow of what is on $m, which has been written out, so that it needs no journal;
# what it shows in $T/NAME@N.sums, the sum of all of it in $T/NAME@N.all
frozen() {
    local name=$1
    sync -f "$m"
    fsfreeze -f "$m"
    umbra --json volume shadow "$name" >"$T/out" || { fsfreeze -u "$m"; fail "no shadow"; }
    fsfreeze -u "$m"
    shadow=$(json "$T/out" shadow number)
    files_sum "$m" >"$T/$name@$shadow.sums"
    sum "/dev/umbra/$name@$shadow" >"$T/$name@$shadow.all"
}

# shadow_good NAME N FS
shadow_good() {
    local device=/dev/umbra/$1@$2
    sum "$device" | cmp -s - "$T/$1@$2.all" || fail "$device has changed"
    expect 0 "check_$3" "$device"
    "mount_shadow_$3" "$device" || fail "cannot mount $device"
    files_sum "$s" | cmp -s - "$T/$1@$2.sums" || fail "$device has other files"
    umount "$s"
}

# ---- a life of a volume, on each file system ----

life() {
    local name=life-$1 fs=$1
    cow_make "$name" 400M --max-size 50%
    expect 0 umbra volume attach "$name"
    [ "$(blockdev --getsize64 "/dev/umbra/$name")" = $((400 << 20)) ] || fail "wrong size"
    expect 0 "make_$fs" "/dev/umbra/$name"
    mount "/dev/umbra/$name" "$m"
    files_make a
    frozen "$name"
    # Overwritten in place, deleted, written anew, and given back.
    dd if=/dev/urandom of="$m/a20" bs=64k count=20 conv=notrunc status=none
    rm -r "$m/a" "$m"/a1?
    files_make b
    fstrim "$m"
    frozen "$name"
    rm "$m"/a* "$m"/b1?
    fstrim "$m"
    files_make c
    sync -f "$m"
    [ "$(cow_value "$name" used_bytes)" -gt 0 ] || fail "nothing was kept"
    shadow_good "$name" 1 "$fs"
    shadow_good "$name" 2 "$fs"
    ! dd if=/dev/zero of="/dev/umbra/$name@1" bs=4k count=1 oflag=direct 2>/dev/null ||
        fail "a shadow can be written"

    # A writable phase: the journal is played, something is written, and it is sealed.
    expect 0 umbra volume shadow --writable "$name"
    "mount_rw_$fs" "/dev/umbra/$name@3" "$s"
    files_sum "$m" | cmp - <(files_sum "$s") || fail "the writable shadow has other files"
    head -c 3M /dev/urandom >"$s/own"
    rm "$s/c5"
    refuses "in use" seal "$name@3"
    files_sum "$s" >"$T/$name@3.sums"
    umount "$s"
    expect 0 umbra volume seal "$name@3"
    sum "/dev/umbra/$name@3" >"$T/$name@3.all"
    ! dd if=/dev/zero of="/dev/umbra/$name@3" bs=4k count=1 oflag=direct 2>/dev/null ||
        fail "a sealed shadow can be written"
    files_make d
    shadow_good "$name" 3 "$fs"
    [ ! -e "$m/own" ] || fail "what was written to a shadow is in the volume"

    # The one in the middle goes; the others need what it needed.
    "mount_shadow_$fs" "/dev/umbra/$name@2"
    refuses "in use" delete "$name@2"
    umount "$s"
    expect 0 umbra volume delete "$name@2"
    [ ! -e "/dev/umbra/$name@2" ] || fail "a deleted shadow has a device"
    refuses "has no shadow 2" delete "$name@2"
    shadow_good "$name" 1 "$fs"
    shadow_good "$name" 3 "$fs"

    # Detached only when it is free, and then the origin has everything.
    refuses "in use" detach "$name"
    refuses "attached" attach "$name"
    files_sum "$m" >"$T/$name.sums"
    umount "$m"
    "mount_shadow_$fs" "/dev/umbra/$name@1"
    refuses "in use" detach "$name"
    [ -b "/dev/umbra/$name" ] || fail "a detach that was refused has taken the device away"
    umount "$s"
    exec 5<"/dev/umbra/$name"
    refuses "somebody has it open" detach "$name"
    exec 5<&-
    expect 0 umbra volume detach "$name"
    [ -z "$(ls /dev/umbra)" ] || fail "left in /dev/umbra: $(ls /dev/umbra)"
    expect 0 "check_$fs" "$ORIGINS/$name"
    mount -o loop,ro "$ORIGINS/$name" "$m"
    files_sum "$m" | cmp -s - "$T/$name.sums" || fail "the origin has other files"
    umount "$m"

    expect 0 umbra volume attach "$name"
    shadow_good "$name" 1 "$fs"
    shadow_good "$name" 3 "$fs"
    mount "/dev/umbra/$name" "$m"
    files_sum "$m" | cmp -s - "$T/$name.sums" || fail "attached again, it has other files"
    umount "$m"
    expect 0 umbra volume detach "$name"
    expect 0 umbra volume delete "$name"
}

life_ext4() { life ext4; }
life_xfs() { life xfs; }

# ---- killed ----

pid_of() { cow_value "$1" "${2:-pid}"; }
came_back() { [ "$(cow_value "$1" restarts)" -ge "$2" ]; }

# Nobody notices but by waiting.
worker_kills() {
    local name=kills fs=ext4 kills=20 i load pid
    cow_make "$name" 400M --max-size 100%
    cow_attach "$name"
    expect 0 "make_$fs" "/dev/umbra/$name"
    mount "/dev/umbra/$name" "$m"
    files_make a
    fallocate -l 64M "$m/load"
    frozen "$name"
    "$BLOCK_LOAD" write "$m/load" $((64 << 20)) "$T/notes" 600 >"$T/load" 2>&1 &
    load=$!
    for i in $(seq $kills); do
        pid=$(pid_of "$name")
        sleep "0.$((RANDOM % 5))"
        kill -KILL "$pid" || fail "worker $pid was gone before kill $i: $(cat "$T/shown")"
        await "no worker after kill $i" came_back "$name" "$i"
        case $i in 5 | 12) expect 0 umbra volume shadow "$name" ;; esac
    done
    kill -TERM $load
    wait $load || fail "the load saw an error: $(cat "$T/load")"
    expect 0 "$BLOCK_LOAD" check "$m/load" "$T/notes"
    say "$kills kills of the worker: $(tail -n 1 "$T/out")"
    shadow_good "$name" 1 "$fs"
    # Taken under load, between kills.
    for i in 2 3; do expect 0 "check_busy_$fs" "/dev/umbra/$name@$i"; done
    umount "$m"
    expect 0 "check_$fs" "/dev/umbra/$name"
    expect 0 umbra volume detach "$name"
    mount -o loop,ro "$ORIGINS/$name" "$m"
    expect 0 "$BLOCK_LOAD" check "$m/load" "$T/notes"
    umount "$m"
    expect 0 umbra volume delete "$name"
}

# The volume is mounted above its own storage: the next worker finds it all the same.
hidden_storage() {
    local name=hidden
    cow_make "$name" 64M
    cow_attach "$name"
    expect 0 make_ext4 "/dev/umbra/$name"
    mount "/dev/umbra/$name" "$T/storage"
    expect 0 umbra volume shadow "$name"
    kill -KILL "$(pid_of "$name")"
    await "no worker with a hidden storage" came_back "$name" 1
    head -c 9M /dev/urandom >"$T/storage/file"
    sync -f "$T/storage"
    umount "$T/storage"
    expect 0 check_ext4 "/dev/umbra/$name"
    expect 0 umbra volume detach "$name"
    expect 0 umbra volume delete "$name"
}

# Errors, and after the next attach all that was acknowledged.
all_killed() {
    local name=all fs=xfs round load began took slowest=0 worker keeper
    cow_make "$name" 400M --max-size 100%
    expect 0 umbra volume attach "$name"
    expect 0 "make_$fs" "/dev/umbra/$name"
    mount "/dev/umbra/$name" "$m"
    files_make a
    fallocate -l 64M "$m/load"
    for round in 1 2 3; do
        frozen "$name"
        "$BLOCK_LOAD" write "$m/load" $((64 << 20)) "$T/notes" 600 >"$T/load" 2>&1 &
        load=$!
        sleep 1
        worker=$(pid_of "$name") keeper=$(pid_of "$name" keeper_pid)
        kill -KILL "$keeper" "$worker"
        wait $load && fail "the load saw no error"
        [ $? = 3 ] || fail "the load failed: $(cat "$T/load")"
        ! dd if="/dev/umbra/$name@1" of=/dev/null bs=64k count=1 iflag=direct 2>"$T/err" ||
            fail "a shadow is read without a daemon"
        expect_text "$T/err" "Input/output error"
        refuses "umbra-cowd that was killed is left: '/dev/loop[0-9]+' is in use" attach "$name"
        umount "$m"
        began=$(date +%s%N)
        expect 0 umbra volume attach "$name"
        took=$((($(date +%s%N) - began) / 1000000))
        slowest=$((took > slowest ? took : slowest))
        [ $took -lt 20000 ] || fail "recovery took $took ms"
        mount "/dev/umbra/$name" "$m"
        expect 0 "$BLOCK_LOAD" check "$m/load" "$T/notes"
        for i in $(seq $round); do shadow_good "$name" "$i" "$fs"; done
    done
    say "3 kills of both processes: attached again in $slowest ms at most"
    umount "$m"
    expect 0 "check_$fs" "/dev/umbra/$name"

    # The keeper alone: the worker goes on, and can be detached.
    kill -KILL "$(pid_of "$name" keeper_pid)"
    mount "/dev/umbra/$name" "$m"
    files_sum "$m/docs" >/dev/null 2>&1 || files_sum "$m" >/dev/null
    umount "$m"
    expect 0 umbra volume detach "$name"
    expect 0 umbra volume attach "$name"

    # Told to end: when it is free.
    keeper=$(pid_of "$name" keeper_pid)
    mount "/dev/umbra/$name" "$m"
    kill -TERM "$keeper"
    sleep 2
    files_sum "$m" >/dev/null
    umount "$m"
    await "umbra-cowd does not end" test ! -e "/dev/umbra/$name"
    await "the volume is still locked" flock --nonblock "/var/lib/umbra/volumes/$name.json" true
    expect 0 umbra volume delete "$name"
}

# ---- no room ----

# The oldest shadows go; who reads one has what it showed, or an error, and keeps the device busy.
full() {
    local name=full
    head -c 64M /dev/urandom >"$ORIGINS/$name"
    cow_make "$name" 64M --max-size 8M
    expect 0 umbra volume attach "$name"
    expect 0 umbra volume shadow "$name"
    cp "$ORIGINS/$name" "$T/before"
    exec 5<"/dev/umbra/$name@1"
    dd if=/dev/urandom of="/dev/umbra/$name" bs=1M count=6 oflag=direct status=none
    expect 0 umbra volume shadow "$name"
    cmp -n $((64 << 20)) "/dev/umbra/$name@1" "$T/before" || fail "shadow 1 is wrong"
    dd if=/dev/urandom of="/dev/umbra/$name" bs=1M count=7 seek=20 oflag=direct status=none
    expect 0 umbra volume show "$name"
    expect_text "$T/out" "storage was full"
    [ "$(cow_value "$name" shadows 0 number)" = 2 ] || fail "the wrong shadow went"
    ! dd if="/dev/umbra/$name@1" of=/dev/null bs=1M iflag=direct 2>/dev/null ||
        fail "a shadow that is gone can be read"
    sleep 2
    [ -e "/dev/umbra/$name@1" ] || fail "a device that is open went"
    exec 5<&-
    await "a device without a shadow stays" test ! -e "/dev/umbra/$name@1"
    expect 0 umbra volume detach "$name"
    expect 0 umbra volume attach "$name"
    expect 0 umbra volume show "$name"
    expect_text "$T/out" "storage was full"
    expect 0 umbra volume detach "$name"
    expect 0 umbra volume delete "$name"
}

# ---- refused ----

bad_input() {
    local name=bad origin=$ORIGINS/bad loop device at
    head -c 64M /dev/urandom >"$origin"
    cow_make "$name" 64M
    mv "$origin" "$origin.away"
    refuses "'.*/bad'.*No such file" attach "$name"
    cp "$origin.away" "$origin"
    refuses "another origin|belongs to something else" attach "$name"
    mv "$origin.away" "$origin"
    truncate -s 65M "$origin"
    refuses "size|bytes" attach "$name"
    truncate -s 64M "$origin"
    loop=$(losetup --find --show "$origin")
    refuses "in use: $loop shows it" attach "$name"
    losetup -d "$loop"
    await "the loop device stays" test ! -e "/sys/block/${loop#/dev/}/loop"
    mv "$T/storage/$name" "$T/storage/away"
    refuses "storage.*No such file" attach "$name"
    mkdir "$T/storage/$name"
    refuses "no volume|No such file" attach "$name"
    rmdir "$T/storage/$name"
    mv "$T/storage/away" "$T/storage/$name"
    mkdir "$T/nodev"
    mount -t tmpfs -o nodev none "$T/nodev"
    for device in fuse loop-control; do
        mknod "$T/nodev/$device" c 10 1
        mount --bind "$T/nodev/$device" "/dev/$device"
        refuses "front end.*'/dev/$device': Permission denied" attach "$name" --front fuse
        umount "/dev/$device"
    done
    [ -e /dev/ublk-control ] || refuses "ublk" attach "$name" --front ublk
    [ -z "$(find /dev/umbra /run/umbra/volumes -mindepth 1)" ] ||
        fail "left by what was refused: $(find /dev/umbra /run/umbra/volumes)"

    # A page of the map with rot in both places: shadows go, and are named; the volume does not.
    expect 0 umbra volume attach "$name"
    expect 0 umbra volume shadow "$name"
    dd if=/dev/urandom of="/dev/umbra/$name" bs=1M count=4 oflag=direct status=none
    sum "/dev/umbra/$name" >"$T/volume"
    expect 0 umbra volume detach "$name"
    for at in 100 4196; do
        printf 'rot' | dd of="$T/storage/$name/map" bs=1 seek=$at conv=notrunc status=none
    done
    expect 0 umbra volume attach "$name"
    expect 0 umbra volume show "$name"
    expect_text "$T/out" "page of the map is damaged"
    [ "$(cow_value "$name" shadows)" = "[]" ] || fail "a shadow without its map"
    sum "/dev/umbra/$name" | cmp - "$T/volume" || fail "the volume has changed"
    expect 0 umbra volume detach "$name"
    printf 'rot' | dd of="$T/storage/$name/volume" bs=1 seek=100 conv=notrunc status=none
    refuses "damaged|header" attach "$name"
    expect 0 umbra volume delete "$name"
}

for part in ${COW_PARTS:-life_ext4 life_xfs worker_kills hidden_storage all_killed full bad_input}; do "$part"; done
say "cow volumes: done"
