# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034,SC2119
#
# Worlds for the tests of instant restores.  Sourced after common.sh:
#
#     world_begin 300 "$@"                       # instead of test_begin
#     operation_files 11 | world_files; world_backup src  # what is backed up: "$T/src"
#     mode_11() { ...; }                         # a failure mode; docs/TESTING.md has the list
#     world_run do_it                            # calls it with $FS and $V, a volume of that kind
#     world_end
#
# The script runs as the first process of pid and mount namespaces of its own, with a /run/umbra and a
# /etc/umbra of its own: whatever happens, and when its time is over, the kernel kills everything
# in them, filter and hydrator included, so that nobody waits for ever and nothing stays mounted.  A
# gate only ever stands before $V.
#
# $V/t is the target of a restore, $V/plain an ordinary copy of the tree on the same file system, which
# the same things are done to.

INSTANT_FS=${INSTANT_FS:-ext4 xfs btrfs}
failures=0 checks=0

world_begin() {
    if [ -z "${UMBRA_TEST_DIR:-}" ]; then
        [ "$(id -u)" = 0 ] || skip "must be root (it mounts volumes)"
        unshare --pid --mount true 2>/dev/null || skip "cannot make namespaces"
        TEST_WRAPPER=(unshare --pid --fork --kill-child --mount --mount-proc --propagation private)
    fi
    test_begin "$@"
    require_umbra
    PROGRAMS=$(dirname "$UMBRA_BIN")
    FILEOP=$PROGRAMS/tests/instant/fileop
    INSTANT=$PROGRAMS/tests/instant/instant
    [ -x "$FILEOP" ] || fail "no program '$FILEOP'"
    mkdir -p /run/umbra /etc/umbra
    mount -t tmpfs none /run/umbra
    mount -t tmpfs none /etc/umbra
    make_images_dir
    export UMBRA_REPO="$T/repo"
}

# Where the volumes are: in memory, because thousands of files are synced one by one; and on an xfs,
# where an image can be cloned at once.
make_images_dir() {
    mkdir "$T/memory" "$T/images"
    mount -t tmpfs -o size=60% none "$T/memory"
    truncate -s 8G "$T/memory/images"
    mkfs.xfs -q -m reflink=1 "$T/memory/images"
    mount -o loop "$T/memory/images" "$T/images"
    IMAGES=$T/images
}

# ---- verdicts ----

# Continues, so that one run tells all; the script fails at its end.
wrong() {
    failures=$((failures + 1))
    warn "FAIL: mode $MODE on $FS: $*"
}

# right WORDS COMMAND...: the command has to succeed, within a minute: a busy machine may stand still
# for half of that.
right() {
    local words=$1 status=0
    shift
    checks=$((checks + 1))
    timeout -k 1 60 "$@" >"$T/right" 2>&1 || status=$?
    [ "$status" = 0 ] && return 0
    [ "$status" = 124 ] && words="$words: took too long"
    wrong "$words: $(tail -n 3 "$T/right" | tr '\n' ' ')"
    return 0
}

# same WORDS FILE COPY
same() { right "$1" "$FILEOP" --compare "$2" "$3"; }

is_pending() { "$FILEOP" --pending "$1" >/dev/null; }

need_pending() {
    local path
    for path in "$@"; do
        is_pending "$path" || wrong "'$path' is no placeholder, this would prove nothing"
    done
}

world_end() {
    [ "$failures" = 0 ] || fail "$failures of $checks checks"
    say "$checks checks on $INSTANT_FS"
}

# ---- the tree ----

BIG=200123 SMALL=20007

# The files of standard input: PATH BYTES [HOLE_FROM HOLE_TO].  What they contain neither repeats nor
# compresses, and is told by the name.
world_files() {
    "$PYTHON" -c '
import os, random, sys
for line in sys.stdin:
    path, size, *hole = line.split()
    size = int(size)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data = random.Random(os.path.basename(path)).randbytes(size)
    with open(path, "wb") as f:
        if hole:
            f.write(data[:int(hole[0])])
            f.seek(int(hole[1]))
            data = data[int(hole[1]):]
        f.write(data)
    os.utime(path, ns=(10**18, 10**18 + size))'
}

# What comes first in the catalog: the background fills a first piece before it is limited.
first_files() {
    local i
    for i in 1 2 3 4; do echo "$T/src/0/first$i 3000000"; done
}

# Files for all operations of fileop with such a mode.
operation_files() {
    local op
    for op in $(operations_of "$1"); do
        echo "$T/src/ops/$op.small $SMALL"
        echo "$T/src/ops/$op.big $BIG"
        echo "$T/src/ops/$op.sparse $BIG 50000 120000"
        echo "$T/src/ops/$op.late $BIG"
    done
}

operations_of() { "$FILEOP" --list | awk -v mode="$1" '$1 == mode { print $2 }'; }

# Does all operations of $MODE, on files of all kinds.  "late": looked at when all is restored only.
run_operations() {
    local op kind late status
    for op in $(operations_of "$MODE"); do
        for kind in small big sparse late; do
            late=() status=0
            [ $kind != late ] || late=(--late)
            checks=$((checks + 1))
            "$FILEOP" "${late[@]}" "$op" "$V/t/ops/$op.$kind" "$V/plain/ops/$op.$kind" \
                "$V/plain/other" >"$T/right" 2>&1 || status=$?
            case $status in
            0) ;;
            77) echo "$op" >>"$T/unsupported.$FS" ;;
            142) wrong "$op.$kind: took too long" ;;
            *) wrong "$op.$kind: $(tail -n 3 "$T/right" | tr '\n' ' ')" ;;
            esac
        done
    done
}

# ---- those who wait ----

# within SECONDS WORDS COMMAND...: until it succeeds.
within() {
    local end=$((SECONDS + $1)) words=$2
    shift 2
    checks=$((checks + 1))
    until "$@"; do
        if [ "$SECONDS" -gt "$end" ]; then
            wrong "not within its time: $words"
            return 0
        fi
        sleep 0.02
    done
}

# The kernel has asked about what these processes do, and has no answer yet.
all_held() {
    local pid
    for pid in "$@"; do
        grep -qs fanotify "/proc/$pid/stack" || return 1
    done
}

reader_pids=()
# read_behind FILE COPY: in the background, as the last of ${reader_pids[@]}.
read_behind() {
    "$FILEOP" --compare "$1" "$2" >"$T/read.${#reader_pids[@]}" 2>&1 &
    reader_pids+=("$!")
}

# all_read WORDS: waits for all those.
all_read() {
    local i
    for i in "${!reader_pids[@]}"; do
        checks=$((checks + 1))
        wait "${reader_pids[i]}" || wrong "$1: $(tail -n 1 "$T/read.$i")"
    done
    reader_pids=()
}

nobody_waits() { [ "$(status_of demand_waiting)" = 0 ]; }

# ---- a source that can be told how to be ----

# A copy of the repository without contents: all that can be had comes from a command, which does as
# "$T/mood" says: good, slow SECONDS, without FILE, down, dead, none, wrong.
MOODY=
# moody_source TREE
moody_source() {
    local pack
    FULL_REPO=$UMBRA_REPO UMBRA_REPO=$T/hollow
    cp -a "$FULL_REPO" "$UMBRA_REPO"
    # The kind of a pack is in its eleventh byte: 1 is data.
    find "$UMBRA_REPO/packs" -type f | while IFS= read -r pack; do
        [ "$(od -An -tu1 -j 10 -N 1 "$pack")" -ne 1 ] || rm -f "$pack"
    done
    cat >"$T/moody" <<'END'
#!/bin/bash
while IFS= read -r question; do
    read -r _ _ offset length _ <<<"$question"
    printf -v path %b "${question#* * * * }"
    read -r mood how <"$1/mood"
    case $mood in
    slow) sleep "$how" ;;
    without) [[ $path != */"$how" ]] || mood=down ;;
    esac
    case $mood in
    down) echo "later it is down" && continue ;;
    dead) exit 1 ;;
    none) echo "error it has none" && continue ;;
    esac
    echo "ok $length"
    case $mood in
    wrong) head -c "$length" /dev/zero ;;
    *) tail -c "+$((offset + 1))" "$2/$path" | head -c "$length" ;;
    esac
done
END
    chmod +x "$T/moody"
    MOODY="exec:exec $T/moody $T $T/$1"
    mood good
}

# Replaced at once: it is read at any time.
mood() {
    echo "$*" >"$T/mood.new"
    mv "$T/mood.new" "$T/mood"
}

# ---- a restore ----

# world_backup TREE...: of these directories of $T; restore_use chooses one, at first the first.
world_backup() {
    local tree
    expect 0 umbra repo init
    for tree in "$@"; do
        expect 0 umbra --json backup "$T/$tree"
        json "$T/out" id >"$T/$tree.id"
    done
    restore_use "$1"
}

restore_use() { BACKUP=$(cat "$T/$1.id"); }

# A volume, with the ordinary copy of "$T/src".
world_volume() {
    FS=$1 V=$T/$1
    volume_make "$FS" "$FS" "${2:-1G}" || return 1
    # The target as a subvolume: file systems have more than one st_dev there.
    if [ "$FS" = btrfs ]; then btrfs -q subvolume create "$V/t"; else mkdir "$V/t"; fi
    cp -a --reflink=never "$T/src" "$V/plain"
    head -c 50000 /dev/urandom >"$V/plain/other"
    sync -f "$V"
}

# Unmounts and mounts it.
world_volume_again() {
    world_volume_off
    _mount "$IMAGES/$FS.img" "$V"
}

# Returns when nothing holds it any more.  The dead do for a while, with their clones of the mount, and
# an xfs with the identity of one that is still mounted cannot be mounted.
world_volume_off() {
    umount "$V" || fail "cannot unmount '$V'"
    world_volume_let_go
}

world_volume_let_go() {
    local i
    for ((i = 0; i < 600; i++)); do
        losetup -j "$IMAGES/$FS.img" | grep -q . || return 0
        sleep 0.05
    done
    fail "somebody holds '$V' after it was unmounted: $(losetup -j "$IMAGES/$FS.img")"
}

# They start each other again: until none is left.
kill_all() {
    local pids
    while pids=$(ours) && [ -n "$pids" ]; do
        # shellcheck disable=SC2086 # one word each
        kill -KILL $pids 2>/dev/null || true
    done
}

world_volume_gone() {
    kill_all
    volume_gone "$V"
    rm -f "$IMAGES/$FS.img"
}

# Every restore has an id of its own.
restore_serial=0
# restore_start [KEY=VALUE]...: onto $V/t, as instant.c says.
restore_start() {
    restore_serial=$((restore_serial + 1))
    ID=$(printf '%016x' $((0x7e57000000000000 + restore_serial)))
    restore_again "$@"
}

restore_again() {
    timeout -k 1 60 "$INSTANT" start "$PROGRAMS" "$UMBRA_REPO" "$BACKUP" "$V/t" "$ID" "$@" \
        >"$T/start" 2>&1 || fail "cannot start on $FS: $(cat "$T/start")"
}

# The background stands still, but for a first piece.
restore_start_paused() {
    restore_start limit=1 "$@"
    ask '{"do":"pause"}' || fail "cannot pause: $(cat "$T/answer.err")"
}

# signal NAME COMM: to all processes of ours with that name.  Who is told to stop has, afterwards.
signal() {
    local pids pid
    pids=$(ours "$2")
    # shellcheck disable=SC2086 # one word each
    [ -z "$pids" ] || kill "-$1" $pids 2>/dev/null || true
    [ "$1" = STOP ] || return 0
    for pid in $pids; do
        while cat "/proc/$pid/task"/*/stat 2>/dev/null | grep -q ') [^TZX] '; do sleep 0.01; done
    done
}

ask() { timeout -k 1 30 "$INSTANT" ask "$ID" "$1" >"$T/answer" 2>"$T/answer.err"; }
status_of() { ask '{"do":"status"}' && json "$T/answer" "$1"; }

# As `umbra hydrate` does: these (below the target) are complete when it returns.
hydrate_now() {
    local path i list
    list=$(printf ',"%s"' "$@")
    ask "{\"do\":\"hydrate\",\"paths\":[${list:1}]}" || wrong "hydrate: $(cat "$T/answer")"
    for path in "$@"; do
        for ((i = 0; i < 200; i++)); do
            is_pending "$V/t/$path" || continue 2
            sleep 0.05
        done
        wrong "'$path' was to be filled, and is not"
    done
}

# For another restore.
empty_target() {
    chattr -R -i "$V/t" 2>/dev/null || true
    find "$V/t" -mindepth 1 -delete
}

# As fast as it can, until nothing is pending and all processes are gone.
restore_finish() {
    local i
    ask '{"do":"limit","bytes_per_s":0}' || true
    ask '{"do":"resume"}' || true
    for ((i = 0; i < 60 * 20; i++)); do
        [ -n "$(ours)" ] || return 0
        sleep 0.05
    done
    ask '{"do":"status"}' || true
    fail "mode $MODE on $FS: the restore does not end: $(cat "$T/answer")"
}

# compare_trees DIR...: at the end, from the disk: nothing is pending, and the same things came of both
# trees.
compare_trees() {
    local dir
    sync -f "$V"
    echo 1 >/proc/sys/vm/drop_caches
    for dir in "$@"; do
        checks=$((checks + 1))
        diff -rq --no-dereference --exclude=other "$V/plain/$dir" "$V/t/$dir" >"$T/diff" ||
            wrong "the trees differ at the end: $(head -n 5 "$T/diff" | tr '\n' ' ')"
    done
    find "$V/t" -type f -print0 | xargs -0 "$FILEOP" --pending >"$T/marks" || true
    [ ! -s "$T/marks" ] || wrong "placeholders are left: $(head -n 3 "$T/marks" | tr '\n' ' ')"
}

# The pids of filter, keeper and hydrator, or of those with that name.  Only what the script has
# started is in its namespace.
# shellcheck disable=SC2120 # the argument may be missing
ours() {
    local stat line comm
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        comm=${line#*(} comm=${comm%)*}
        case $comm in umbra-filterd | umbra-keeper | umbra-hydrated) ;; *) continue ;; esac
        case ${line##*)} in " Z"* | " X"*) continue ;; esac
        [ -n "${1:-}" ] && [ "$comm" != "$1" ] || echo "${line%% *}"
    done
    return 0
}

# world_modes NUMBER...: calls mode_NN for each of them.
world_modes() {
    local mode started
    for mode in "$@"; do
        MODE=$mode started=$EPOCHREALTIME
        "mode_$(printf %02d "$mode")"
        [ -z "${VERBOSE:-}" ] ||
            say "$FS mode $mode: $(((${EPOCHREALTIME/./} - ${started/./}) / 1000)) ms"
    done
    MODE=end
}

# world_run FUNCTION: calls it for each kind of file system, with a fresh volume.
world_run() {
    local fs
    for fs in $INSTANT_FS; do
        if ! world_volume "$fs"; then
            warn "no $fs here"
            continue
        fi
        MODE=start
        "$1"
        world_volume_gone
    done
}
