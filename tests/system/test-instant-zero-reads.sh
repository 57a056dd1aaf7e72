#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Failure modes 1 to 13 of instant restore: whatever a program reads, and however, is what was backed
# up, or an error.  docs/TESTING.md has the list.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"
require rsync tar dd install prlimit

# ---- the tree ----

make_tree() {
    local i mode
    {
        first_files
        for ((i = 0; i < 72; i++)); do echo "$T/src/m01/$i $((i % 3 == 0 ? BIG : SMALL))"; done
        for ((i = 0; i < 60; i++)); do echo "$T/src/m02/$i $SMALL"; done
        for i in crowded bind; do echo "$T/src/m04/$i $BIG"; done
        for i in {1..200}; do echo "$T/src/m04/many/$i 5000"; done
        for i in read moved linked rest; do echo "$T/src/m12/$i $BIG"; done
        for i in early mapped; do echo "$T/src/m05/$i $BIG"; done
        for i in bind namespace link mount exchanged; do echo "$T/src/m06/$i $BIG"; done
        for i in 1 2 3; do echo "$T/src/m07/$i $BIG"; done
        for i in "${TOOLS[@]}"; do
            echo "$T/src/m08/${i%% *} $BIG 150000 300000"
            echo "$T/src/m08/${i%% *}.small $SMALL 5000 10000"
        done
        for i in loop snapshot written defragmented sent; do echo "$T/src/m10/$i 2097152"; done
        for i in read mapped; do echo "$T/src/m10/overlay/$i $BIG"; done
        for mode in 8 9 11 13; do operation_files $mode; done
    } | world_files
    echo "$T/src/m10/swap 2097152" | world_files
    mkswap -q "$T/src/m10/swap" 2>/dev/null
    mkdir "$T/src/m09"
    cp /usr/bin/sha256sum /usr/bin/env "$T/src/m09/"
    cp -L /lib64/ld-linux-x86-64.so.2 "$T/src/m09/ld.so"
    cp -L /lib/x86_64-linux-gnu/libm.so.6 "$T/src/m09/libm.so"
    for fs in $INSTANT_FS; do
        printf '#!%s/t/m09/env bash\necho it runs\n' "$T/$fs" >"$T/src/m09/script.$fs"
    done
    chmod +x "$T/src/m09/"*
}

# ---- 1: SIGKILL at any time ----

readers=()
# start_readers DIR FROM TO: one for each of these files; "$T/reader.N" says how it went.
start_readers() {
    local i
    for ((i = $2; i < $3; i++)); do
        {
            timeout -k 1 60 "$FILEOP" --compare "$V/t/$1/$i" "$V/plain/$1/$i" 2>&1 || echo failed
        } >"$T/reader.$i" &
        readers+=("$!")
    done
}

end_readers() {
    local i
    wait "${readers[@]}" || true
    readers=()
    for ((i = $2; i < $3; i++)); do
        checks=$((checks + 1))
        [ ! -s "$T/reader.$i" ] || wrong "$4: $1/$i: $(tr '\n' ' ' <"$T/reader.$i")"
    done
}

killed=" "
# kill_ours NAME...: without "umbra-".
kill_ours() {
    local name
    for name in "$@"; do
        killed+="$(ours "umbra-$name" | tr '\n' ' ')"
        signal KILL "umbra-$name"
    done
}

# One of each is there, and none that was killed.
all_renewed() {
    local name pid
    for name in filterd keeper hydrated; do
        pid=$(ours "umbra-$name")
        [[ $pid =~ ^[0-9]+$ && $killed != *" $pid "* ]] || return 1
    done
}

# Before another one is killed: when filter and keeper are dead at once, neither makes the other anew, and
# the hydrator brings all files, whatever its limit, so that the rest would prove nothing.
await_successors() { within 60 "those who were killed have successors" all_renewed; }

# Readers of eight files meet the death of one or two processes of the three.  A stopped filter leaves
# events in the queue of the kernel, a stopped hydrator leaves them read and not answered.
mode_01() {
    local round=0 stopped names
    while read -r stopped names; do
        need_pending "$V/t/m01/$((round * 8))"
        [ "$stopped" = none ] || signal STOP "umbra-$stopped"
        start_readers m01 $((round * 8)) $((round * 8 + 8))
        sleep 0.1
        # shellcheck disable=SC2086 # one word each
        kill_ours $names
        [ "$stopped" = none ] || signal CONT "umbra-$stopped"
        end_readers m01 $((round * 8)) $((round * 8 + 8)) "$stopped stopped, $names killed"
        await_successors
        round=$((round + 1))
    done <<'END'
none hydrated
none filterd
none keeper
hydrated hydrated
hydrated filterd
hydrated keeper
filterd filterd
hydrated filterd hydrated
filterd keeper hydrated
END
    pause_again
}

# A new hydrator knows the limit, and nothing of a pause.
pause_again() {
    local i
    for ((i = 0; i < 600; i++)); do
        if ask '{"do":"pause"}'; then return 0; fi
        sleep 0.1
    done
    fail "mode $MODE on $FS: there is no hydrator: $(cat "$T/answer.err")"
}

# ---- 2: the numbers of descriptors ----

# Those of the dead filter are unanswered when the new one is given more.
mode_02() {
    signal STOP umbra-hydrated
    start_readers m02 0 20
    sleep 0.1
    kill_ours filterd
    start_readers m02 20 40
    sleep 0.1
    await_successors
    kill_ours keeper
    await_successors
    kill_ours filterd
    start_readers m02 40 60
    sleep 0.1
    signal CONT umbra-hydrated
    end_readers m02 0 60 "many descriptors"
    await_successors
}

# ---- 3: the queue of the kernel ----

group_flags() {
    local flags
    flags=$(sed -n 's/^fanotify flags:\([0-9a-f]*\).*/\1/p' "/proc/$(ours umbra-filterd)/fdinfo/8")
    [ -n "$flags" ] || fail "descriptor 8 of the filter is no fanotify group"
    echo $((16#$flags))
}

# Without a limit: FAN_UNLIMITED_QUEUE, FAN_UNLIMITED_MARKS; errors are told: FAN_REPORT_FD_ERROR.
mode_03() {
    right "flags of the group" test $(($(group_flags) & 0x2030)) = $((0x2030))
}

# ---- 4: no descriptor to be had ----

mode_04() {
    local filter hydrator before
    need_pending "$V/t/m04/crowded"
    filter=$(ours umbra-filterd)
    before=$(prlimit --pid "$filter" --nofile --noheadings -o SOFT)
    prlimit --pid "$filter" --nofile=32:
    right "an error without descriptors" \
        "$FILEOP" --error 1 read "$V/t/m04/crowded" "$T/src/m04/crowded" -
    prlimit --pid "$filter" --nofile="$before:"
    same "with descriptors again" "$V/t/m04/crowded" "$V/plain/m04/crowded"
    mkdir -p "$T/bind"
    mount --bind "$V/t/m04" "$T/bind"
    mount -o remount,bind,ro "$T/bind"
    right "a read-only mount" "$FILEOP" read "$T/bind/bind" "$V/plain/m04/bind" -
    volume_gone "$T/bind"
    right "a program that ran before" test "$(cat "/proc/$sleeper/comm")" = busy
    right "its file" cmp "$V/busy" /bin/sleep
    # What the hydrator has filled is open until it has been synced.
    need_pending "$V/t/m04/many/99"
    hydrator=$(ours umbra-hydrated)
    before=$(prlimit --pid "$hydrator" --nofile --noheadings -o SOFT)
    prlimit --pid "$hydrator" --nofile=128:
    right "more files than descriptors" diff -r "$V/t/m04/many" "$V/plain/m04/many"
    prlimit --pid "$hydrator" --nofile="$before:"
}

# ---- 5: opened before the gate stood ----

# Nothing that was opened before is a placeholder: those get new inodes.  What is opened while they are
# being made is never anything but right.
before_the_gate() {
    cp /bin/sleep "$V/busy"
    "$V/busy" 1000 &
    sleeper=$!
    mkdir -p "$V/t/m05"
    echo old >"$V/t/m05/early"
    exec 7<"$V/t/m05/early"
    racers=()
    local i
    for i in 0 30 59; do
        timeout 60 "$FILEOP" --race "$V/t/m02/$i" "$V/plain/m02/$i" >"$T/race.$i" 2>&1 &
        racers+=("$!")
    done
}

mode_05() {
    local pid
    for pid in "${racers[@]}"; do
        wait "$pid" || wrong "opened while it was being made: $(cat "$T"/race.*)"
        checks=$((checks + 1))
    done
    right "the old file" test "$(cat <&7)" = old
    exec 7<&-
    same "the new file" "$V/t/m05/early" "$V/plain/m05/early"
}

# ---- 6: other ways to a file ----

mode_06() {
    need_pending "$V"/t/m06/{bind,namespace,link,mount,exchanged}
    local outside=$V/elsewhere
    [ "$FS" != btrfs ] || outside=$V/t/elsewhere # the target is a subvolume
    mkdir -p "$T/bind" "$outside"
    mount --bind "$V/t/m06" "$T/bind"
    same "a bind mount" "$T/bind/bind" "$V/plain/m06/bind"
    volume_gone "$T/bind"
    right "another mount namespace" unshare --mount --propagation private \
        "$FILEOP" read "$V/t/m06/namespace" "$V/plain/m06/namespace" -
    ln "$V/t/m06/link" "$outside/link"
    same "a link in another directory" "$outside/link" "$V/plain/m06/link"
    mount "$(findmnt -no SOURCE "$V")" "$T/bind"
    same "another mount of the device" "$T/bind/t/m06/mount" "$V/plain/m06/mount"
    volume_gone "$T/bind"
    mv "$V/t/m06/exchanged" "$outside/exchanged"
    same "out of the target" "$outside/exchanged" "$V/plain/m06/exchanged"
    rm -r "$outside"
    cp "$V/plain/m06/exchanged" "$V/t/m06/exchanged"
}

# ---- 7: memory is short ----

mode_07() {
    local i
    for i in 1 2 3; do
        need_pending "$V/t/m07/$i"
        echo "$i" >/proc/sys/vm/drop_caches
        same "after drop_caches $i" "$V/t/m07/$i" "$V/plain/m07/$i"
    done
}

# ---- 8: programs that look for holes ----

# A file each: a word for its name, and how the file $F becomes $C.
# shellcheck disable=SC2016 # they are expanded by the shell that runs them
TOOLS=(
    'cp cp $F $C'
    'cp-sparse cp --sparse=always $F $C'
    'cp-plain cp --reflink=never --sparse=never $F $C'
    'cp-reflink cp --reflink=always $F $C'
    'cp-archive cp -a $F $C'
    'tar tar -S -C $(dirname $F) -cf - $(basename $F) | tar -xO >$C'
    'tar-archive tar --xattrs -C $(dirname $F) -cf $T/tar $(basename $F) && tar -xOf $T/tar >$C'
    'rsync rsync -aS $F $C'
    'dd dd if=$F of=$C bs=64k conv=sparse status=none'
    'install install $F $C'
    'cat cat $F >$C'
    'mv cp --preserve=all $F $F.keep && mv $F $T/moved && mv $T/moved $C && mv $F.keep $F'
    'python $PYTHON -c "import shutil,sys;shutil.copyfile(*sys.argv[1:])" $F $C'
)

mode_08() {
    local tool name kind F C
    for tool in "${TOOLS[@]}"; do
        name=${tool%% *}
        [ "$name$FS" != cp-reflinkext4 ] || continue
        for kind in '' .small; do
            F=$V/t/m08/$name$kind C=$V/copied
            need_pending "$F"
            F=$F C=$C T=$T PYTHON=$PYTHON right "$name$kind" bash -c "${tool#* }"
            same "what $name$kind made" "$C" "$V/plain/m08/$name$kind"
            rm -f "$C"
        done
    done
    run_operations
}

# ---- 9: mappings, programs ----

mode_09() {
    local dir=$V/t/m09
    need_pending "$dir/sha256sum" "$dir/env" "$dir/ld.so" "$dir/libm.so" "$dir/script.$FS"
    right "a script, and its interpreter" test "$("$dir/script.$FS")" = "it runs"
    right "a program and its loader" "$dir/ld.so" "$dir/sha256sum" --version
    right "a library" "$PYTHON" -c '
import ctypes, sys
cos = ctypes.CDLL(sys.argv[1]).cos
cos.restype = ctypes.c_double
assert cos(ctypes.c_double(0)) == 1' "$dir/libm.so"
    run_operations
}

# ---- 10: what raises no event ----

# What `umbra hydrate` has done is complete, for everybody.
mode_10() {
    local dir=$V/t/m10 loop
    need_pending "$dir"/{loop,swap,snapshot,written,defragmented,sent,overlay/read,overlay/mapped}
    hydrate_now m10/loop m10/swap m10/sent m10/overlay/mapped
    loop=$(losetup -f --show -r "$dir/loop")
    same "a loop device" "$loop" "$V/plain/m10/loop"
    losetup -d "$loop"
    overlay
    if [ "$FS" = btrfs ]; then
        subvolumes
    else
        chmod 600 "$dir/swap"
        right "swap space" swapon "$dir/swap"
        swapoff "$dir/swap" || true
    fi
    chmod 644 "$dir/swap"
}

overlay() {
    mkdir -p "$T/merged" "$T/tmpfs"
    mount -t tmpfs none "$T/tmpfs"
    mkdir "$T/tmpfs/upper" "$T/tmpfs/work"
    mount -t overlay none \
        -o "lowerdir=$V/t/m10/overlay,upperdir=$T/tmpfs/upper,workdir=$T/tmpfs/work" "$T/merged"
    same "read through overlayfs" "$T/merged/read" "$V/plain/m10/overlay/read"
    right "mapped through overlayfs" \
        "$FILEOP" --any mmap-shared "$T/merged/mapped" "$V/plain/m10/overlay/mapped" -
    volume_gone "$T/merged"
    volume_gone "$T/tmpfs"
}

# A snapshot has the same marks on inodes of the same numbers.  A read-only one cannot be filled.
subvolumes() {
    local dir=m10
    btrfs filesystem defragment "$V/t/$dir/defragmented" >/dev/null 2>&1 || true
    same "a defragmented file" "$V/t/$dir/defragmented" "$V/plain/$dir/defragmented"
    btrfs -q subvolume snapshot -r "$V/t" "$V/fixed"
    btrfs -q subvolume snapshot "$V/t" "$V/writable"
    same "a complete file in a snapshot" "$V/fixed/$dir/sent" "$V/plain/$dir/sent"
    right "an error in a read-only snapshot" \
        "$FILEOP" --error 5 read "$V/fixed/$dir/snapshot" "$V/plain/$dir/snapshot" -
    same "in a writable snapshot" "$V/writable/$dir/written" "$V/plain/$dir/written"
    btrfs -q subvolume delete "$V/fixed" "$V/writable"
}

mode_11() { run_operations; }

# ---- 12: a new beginning ----

# All processes are gone, and the volume with them; the restore goes on from what the volume says.
# What was moved away, or has a name elsewhere, belongs to it.
mode_12() {
    local outside=$V/elsewhere
    [ "$FS" != btrfs ] || outside=$V/t/elsewhere # the target is a subvolume
    need_pending "$V"/t/m12/{read,moved,linked}
    mkdir -p "$outside"
    cp "$V/plain/m12/moved" "$V/t/m12/copied"
    mv "$V/t/m12/moved" "$outside/moved"
    ln "$V/t/m12/linked" "$outside/linked"
    rm "$V/t/m12/linked"
    kill_all
    world_volume_again
    restore_again limit=1 whole=32768 phase=filling
    same "read after a new beginning" "$V/t/m12/read" "$V/plain/m12/read"
    restore_finish
    same "moved out of the target" "$outside/moved" "$V/plain/m12/moved"
    same "linked out of the target" "$outside/linked" "$V/plain/m12/linked"
    mv "$outside/moved" "$outside/linked" "$V/t/m12/"
    rm "$V/t/m12/copied"
}

mode_13() { run_operations; }

# ----

make_tree
world_backup src

first_restore() {
    before_the_gate
    restore_start_paused whole=32768
    world_modes 3 4 5 6 7 8 9 10 11 13
    restore_finish
    compare_trees .
    kill "$sleeper"
}

# With processes that are killed: each new hydrator begins to fill before it can be paused.
second_restore() {
    rm -rf "$V"/t/* "$V"/elsewhere
    restore_start_paused whole=32768
    world_modes 2 1 12
    compare_trees m01 m02 m12
}

both_restores() {
    first_restore
    second_restore
}

world_run both_restores
world_end
