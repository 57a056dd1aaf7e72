#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Failure modes 14 to 21 of instant restore: what a program writes, cuts off or moves in a file that is
# not here yet is there afterwards, and the rest is what was backed up.  docs/TESTING.md has the list.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"
require rsync setfacl setcap getcap chattr

IN_FLIGHT=3000000

make_tree() {
    local i mode
    {
        first_files
        for mode in 14 15 16 17; do operation_files $mode; done
        for i in {1..8}; do echo "$T/src/m15/$i $IN_FLIGHT"; done
        for i in shell killed; do echo "$T/src/m16/$i $BIG"; done
        for i in rename replaced over over2 exchanged exchanged2 open dir/a dir/b; do
            echo "$T/src/m18/$i $BIG"
        done
        for i in {1..40}; do echo "$T/src/m18/reused/$i $SMALL"; done
        for i in {1..8}; do echo "$T/src/m18/moving/$i $IN_FLIGHT"; done
        for i in inside end cut read hole rest; do echo "$T/few/m19/$i $BIG"; done
        for i in demand rest; do
            echo "$T/src/m20/$i/plain $BIG"
            echo "$T/src/m20/$i/small $SMALL"
            echo "$T/src/m20/$i/sparse $BIG 50000 150000"
            echo "$T/src/m20/$i/capable $SMALL"
            echo "$T/src/m20/$i/locked $SMALL"
            echo "$T/src/m20/$i/linked $BIG"
        done
        for i in appended inside read mapped cut never1 never2; do echo "$T/few/m21/$i $BIG"; done
        first_files | sed 's|/src/|/few/|'
    } | world_files
    for i in demand rest; do add_attributes "$T/src/m20/$i"; done
    ln "$T/few/m21/never1" "$T/few/m21/linked"
    umbra_backup_of_attributes
}

# ---- 14 ----

mode_14() { run_operations; }

# ---- 15: truncations and fills at the same time ----

# A reader has half of the file filled when it is cut, and the background goes on with it.
mode_15() {
    local i size reader
    run_operations
    for i in {1..8}; do
        need_pending "$V/t/m15/$i"
        size=$((i % 2 ? i * 300001 : i * 65536))
        timeout 20 dd if="$V/t/m15/$i" of=/dev/null bs=128k status=none &
        reader=$!
        sleep "0.00$i"
        right "truncate to $size" truncate -s "$size" "$V/t/m15/$i"
        truncate -s "$size" "$V/plain/m15/$i"
        wait "$reader" || wrong "the reader was disturbed"
        same "cut to $size while it was filled" "$V/t/m15/$i" "$V/plain/m15/$i"
    done
}

# ---- 16: opens that truncate ----

mode_16() {
    local opener
    run_operations
    need_pending "$V/t/m16/shell" "$V/t/m16/killed"
    right ": > file" bash -c ": >'$V/t/m16/shell'"
    : >"$V/plain/m16/shell"
    # An opener that is killed while the filter asks has truncated, or it has not.
    signal STOP umbra-hydrated
    bash -c ": >'$V/t/m16/killed'" &
    opener=$!
    disown "$opener"
    sleep 0.1
    kill -KILL "$opener" || true # it is only kept so long
    signal CONT umbra-hydrated
    while [ -e "/proc/$opener" ]; do sleep 0.01; done
    [ -s "$V/t/m16/killed" ] || : >"$V/plain/m16/killed"
    same "an opener that was killed" "$V/t/m16/killed" "$V/plain/m16/killed"
}

# ---- 17 ----

mode_17() { run_operations; }

# ---- 18: names ----

# All of it twice, in the target and in the ordinary copy.
change_names() {
    local dir=$1 i
    mv "$dir/rename" "$dir/renamed"
    cp "$T/new" "$dir/new"
    mv "$dir/new" "$dir/replaced"
    mv "$dir/over" "$dir/over2"
    "$PYTHON" -c '
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
a, b = (os.fsencode(p) for p in sys.argv[1:])
if libc.renameat2(-100, a, -100, b, 2):  # RENAME_EXCHANGE
    sys.exit(os.strerror(ctypes.get_errno()))' "$dir/exchanged" "$dir/exchanged2"
    mv "$dir/dir" "$dir/moved"
    rm "$dir/moved/b"
    # New files with the numbers of the old ones: nothing is to be filled into them.
    rm "$dir"/reused/*
    for i in {1..40}; do truncate -s "$SMALL" "$dir/reused/new$i"; done
}

mode_18() {
    local i
    need_pending "$V"/t/m18/{rename,replaced,over,exchanged,open,dir/a,reused/1,moving/1}
    head -c 5000 /dev/urandom >"$T/new"
    change_names "$V/t/m18"
    change_names "$V/plain/m18"
    exec 8<"$V/t/m18/open"
    rm "$V/t/m18/open"
    right "unlinked, and open" cmp /proc/self/fd/8 "$V/plain/m18/open"
    exec 8<&-
    rm "$V/plain/m18/open"
    right "all the names" diff -r "$V/t/m18/reused" "$V/plain/m18/reused"
    # The same while the background fills.
    ask '{"do":"resume"}'
    ask '{"do":"limit","bytes_per_s":20000000}'
    for i in {1..8}; do
        mv "$V/t/m18/moving/$i" "$V/t/m18/moving/now$i"
        [ $((i % 4)) != 0 ] || rm "$V/t/m18/moving/now$i"
        [ $((i % 4)) != 1 ] || truncate -s 100000 "$V/t/m18/moving/again$i"
    done
    for i in {1..8}; do
        mv "$V/plain/m18/moving/$i" "$V/plain/m18/moving/now$i"
        [ $((i % 4)) != 0 ] || rm "$V/plain/m18/moving/now$i"
        [ $((i % 4)) != 1 ] || truncate -s 100000 "$V/plain/m18/moving/again$i"
    done
}

# ---- 20: attributes ----

add_attributes() {
    local dir=$1
    setfattr -n user.origin -v "$(head -c 300 /dev/zero | tr '\0' x)" "$dir/plain"
    setfacl -m u:1234:r-x,g:77:rw- "$dir/small"
    setfacl -d -m u:1234:rwx "$dir"
    cp --remove-destination /bin/true "$dir/capable"
    setcap cap_net_raw,cap_chown+ep "$dir/capable"
    chown 1234:5678 "$dir/sparse"
    chmod 4751 "$dir/sparse"
    chmod 0 "$dir/linked"
    ln "$dir/linked" "$dir/link"
    ln "$dir/linked" "$T/src/m20/link-${dir##*/}"
    touch -d '1969-12-31 23:59:58.123456789 UTC' "$dir/plain"
    touch -d '2038-01-19 03:14:08.000000001 UTC' "$dir/small"
    touch -a -d '2001-02-03 04:05:06.070809 UTC' "$dir/sparse"
}

# The flag only lives as long as the backup needs it: nobody could remove the tree.
umbra_backup_of_attributes() {
    chattr +i "$T/src/m20/demand/locked" "$T/src/m20/rest/locked"
    world_backup src few
    chattr -i "$T/src/m20/demand/locked" "$T/src/m20/rest/locked"
}

mode_20() {
    local dir=$V/t/m20/demand
    need_pending "$dir"/{plain,small,sparse,capable,locked,linked}
    right "the first page of a large file" cmp -n 4096 "$dir/plain" "$T/src/m20/demand/plain"
    right "small" cmp "$dir/small" "$T/src/m20/demand/small"
    right "sparse" cmp "$dir/sparse" "$T/src/m20/demand/sparse"
    right "a program with capabilities" "$dir/capable"
    right "locked" cmp "$dir/locked" "$T/src/m20/demand/locked"
    right "a link" cmp "$V/t/m20/link-demand" "$T/src/m20/demand/linked"
}

# After the end.
compare_attributes() {
    MODE=20
    right "immutable" bash -c "lsattr '$V/t/m20/demand/locked' | grep -q '^[^ ]*i'"
    right "immutable, filled in the background" \
        bash -c "lsattr '$V/t/m20/rest/locked' | grep -q '^[^ ]*i'"
    chattr -i "$V/t/m20/demand/locked" "$V/t/m20/rest/locked"
    right "all attributes" "$TESTS_LIB/compare.sh" "$V/plain/m20" "$V/t/m20"
}

# ---- 19: the power goes ----

# What was synced by an application is there, and nothing else is wrong.  The device is cloned, as it
# is at that moment, with all that is only in memory missing; the restore goes on from the clone.
mode_19() {
    local dir file
    for dir in "$V/t/m19" "$V/plain/m19"; do
        for file in inside end cut read hole; do
            [ "$dir" = "$V/plain/m19" ] || need_pending "$dir/$file"
        done
        dd if="$T/new" of="$dir/inside" bs=1000 seek=100 conv=notrunc,fsync status=none
        dd if="$T/new" of="$dir/end" bs=1000 oflag=append conv=notrunc,fsync status=none
        dd if="$T/new" of="$dir/cut" bs=1000 conv=fsync status=none
        fallocate -p -o 50000 -l 100000 "$dir/hole"
        sync "$dir/hole"
        cat "$dir/read" >/dev/null
    done
    power_cut
    restore_again limit=1 whole=32768 phase=filling
    for file in inside end cut hole read; do
        same "$file, after the power was cut" "$V/t/m19/$file" "$V/plain/m19/$file"
    done
}

# Between the data and the marks, wherever the background happens to be.
cut_while_filling() {
    local moment
    MODE=19
    for moment in 0.2 1 2.3; do
        empty_target
        sync -f "$V"
        restore_start limit=6000000 whole=32768
        sleep "$moment"
        power_cut
        restore_again phase=filling
        restore_finish
        right "the power was cut after $moment s" diff -r "$T/few" "$V/t"
    done
}

# The volume is what its device was at this moment.
power_cut() {
    cp --reflink=always "$IMAGES/$FS.img" "$IMAGES/cut.img"
    kill_all
    world_volume_off
    mv "$IMAGES/cut.img" "$IMAGES/$FS.img"
    _mount "$IMAGES/$FS.img" "$V"
}

# ---- 21: the restore is given up ----

# What was used stays; what was not is removed.
mode_21() {
    local dir file i
    for dir in "$V/t/m21" "$V/plain/m21"; do
        for file in appended inside read mapped cut; do
            [ "$dir" = "$V/plain/m21" ] || need_pending "$dir/$file"
        done
        cat "$T/new" >>"$dir/appended"
        dd if="$T/new" of="$dir/inside" bs=1000 seek=100 conv=notrunc status=none
        truncate -s 123456 "$dir/cut"
    done
    right "read" "$FILEOP" pread "$V/t/m21/read" "$V/plain/m21/read" -
    right "mapped" "$FILEOP" mmap-write-shared "$V/t/m21/mapped" "$V/plain/m21/mapped" -
    ask '{"do":null}' || true
    right "a request that is none is answered" grep -q 'no string' "$T/answer" "$T/answer.err"
    ask '{"do":"limit","bytes_per_s":9223372036854775807}' || true
    right "a limit that the record cannot have" grep -q 'is more than' "$T/answer" "$T/answer.err"
    ask '{"do":"cancel"}' || wrong "cancel: $(cat "$T/answer")"
    for ((i = 0; i < 400; i++)); do
        [ -n "$(ours)" ] || break
        sleep 0.05
    done
    right "all processes end" test -z "$(ours)"
    for file in appended inside read mapped cut; do
        same "$file, after it was cancelled" "$V/t/m21/$file" "$V/plain/m21/$file"
    done
    right "what nobody used is gone" test ! -e "$V/t/m21/never1" -a ! -e "$V/t/m21/linked"
}

# Both processes and the machine end while it is given up: it still is, afterwards.
cut_while_cancelling() {
    local i record
    MODE=21
    need_pending "$V/t/m21/never1"
    kill_all
    world_volume_again
    record=$(getfattr --only-values --absolute-names -n trusted.umbra.restore "$V/t")
    setfattr -n trusted.umbra.restore -v "${record/\"phase\":\"filling\"/\"phase\":\"cancelled\"}" \
        "$V/t"
    restore_again limit=1
    for ((i = 0; i < 60 * 20; i++)); do
        [ -n "$(ours)" ] || break
        sleep 0.05
    done
    right "all processes end" test -z "$(ours)"
    right "what nobody used is gone" test ! -e "$V/t/m21/never1"
}

# ---- 18 and 21: open, and not known to the hydrator that ends the restore ----

# Tells a new hydrator, as soon as it listens.
tell_next() {
    signal KILL umbra-hydrated
    within 60 "the next hydrator is told: $1" ask "$1"
}

end_with_open_files() {
    local i
    for ((i = 0; i < 60 * 20; i++)); do
        [ -n "$(ours)" ] || break
        sleep 0.05
    done
    right "all processes end" test -z "$(ours)"
    right "unlinked, and open when the restore ended" cmp /proc/self/fd/8 "$T/few/m21/never1"
    right "open when the restore ended" cmp /proc/self/fd/9 "$T/few/m21/never2"
    exec 8<&- 9<&-
}

open_files() {
    need_pending "$V"/t/m21/{never1,never2}
    exec 8<"$V/t/m21/never1" 9<"$V/t/m21/never2"
    rm "$V/t/m21/never1"
}

open_while_it_ends() {
    MODE=18
    open_files
    tell_next '{"do":"limit","bytes_per_s":0}'
    end_with_open_files
    empty_target
    MODE=21
    restore_start_paused whole=32768
    open_files
    tell_next '{"do":"cancel"}'
    end_with_open_files
    right "what nobody used is gone" test ! -e "$V/t/m21/cut"
    same "what is open is kept" "$V/t/m21/never2" "$T/few/m21/never2"
}

# ----

make_tree

first_restore() {
    restore_use src
    restore_start_paused whole=32768
    world_modes 14 15 16 17 18 20
    restore_finish
    compare_trees .
    compare_attributes
}

more_restores() {
    restore_use few
    rm -rf "$V/plain"
    cp -a --reflink=never "$T/few" "$V/plain"
    empty_target
    sync -f "$V"
    restore_start_paused whole=32768
    world_modes 19
    restore_finish
    compare_trees m19
    cut_while_filling
    empty_target
    restore_start_paused whole=32768
    world_modes 21
    empty_target
    restore_start_paused whole=32768
    cut_while_cancelling
    empty_target
    restore_start_paused whole=32768
    open_while_it_ends
}

all_restores() {
    first_restore
    more_restores
}

world_run all_restores
world_end
