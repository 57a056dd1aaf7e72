#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In which order an instant restore brings what nobody waits for: a load order that is followed, that is
# bad, stale or hostile, and that is recorded (failure mode 37).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"

umbra() { timeout -k 1 60 "$UMBRA_BIN" --no-progress "$@"; }

FILES=160 LISTED=60
{
    first_files
    for ((i = 0; i < FILES; i++)); do echo "$T/src/d$((i % 8))/f$i $((150000 + i * 100))"; done
} | world_files
echo odd >"$T/src/d3/"$'odd \xff \\ \nname'
world_backup src

# Names below the target, in an order that has nothing to do with that of the catalog.
(cd "$T/src" && find d? -name 'f*' | sort | "$PYTHON" -c '
import random, sys
names = sys.stdin.read().split()
random.Random(37).shuffle(names)
print("\n".join(names))') >"$T/names"
head -n "$LISTED" "$T/names" >"$T/listed"
sed "s|^|$T/src/|" "$T/listed" >"$T/order"

# With a list of everything that a list must not be, around the good lines: ignored says how many lines.
"$PYTHON" - "$T" <<'EOL' >"$T/ignored"
import os, random, sys
top = sys.argv[1]
good = open(top + "/order", "rb").read().splitlines()
src = top.encode() + b"/src"
noise = random.Random(1).randbytes(1 << 20).replace(b"\n", b" ").replace(b"#", b" ")
bad = [noise, b"/" * (2 << 20), b"/nul\0name", b"/" + b"x/" * 3000 + b"..", b"../../etc/passwd",
       src + b"/../src/d1/f1", src + b"/d1/./f1", src + b"//d1/f1", b"/\\", b"/\\xzz", b"d1/f1"]
stale = [src, src + b"/d1", src + b"/d1/none", b"/etc/passwd"]
stale += [b"/%d/%d" % (i % 977, i) for i in range(1200000)]
lines = bad + good[:20] + stale + good[20:] + [b"#" + noise, b"", good[3], good[0]]
open(top + "/hostile", "wb").write(b"\n".join(lines))
print(len(bad) + len(stale))
EOL

# ---- what is looked at ----

# The files below the target that are complete, and how many bytes they have.
look_at_complete() {
    (cd "$V/t" && find . -name '*[0-9]' -type f -printf '%P\n' | sort) >"$T/all"
    { (cd "$V/t" && tr '\n' '\0' <"$T/all" | xargs -0 "$FILEOP" --pending) || true; } |
        sort >"$T/pending"
    comm -23 "$T/all" "$T/pending" >"$T/complete"
    complete_bytes=$(cd "$V/t" && tr '\n' '\0' <"$T/complete" | xargs -0r stat -c %s |
        awk '{ n += $1 } END { print n + 0 }')
}

# Waits until what has been filled is also complete, which is a batch at a time: then nothing is between.
settle() {
    local i
    for ((i = 0; i < 600; i++)); do
        look_at_complete
        [ "$complete_bytes" != "$(status_of bytes_done)" ] || return 0
        sleep 0.05
    done
    wrong "what was filled does not become complete: $(cat "$T/answer")"
}

files_done_reach() {
    local i
    for ((i = 0; i < 1200; i++)); do
        [ "$(status_of files_done)" -lt "$1" ] || return 0
        sleep 0.05
    done
    wrong "the background does not fill: $(cat "$T/answer")"
}

# What comes at once, before any limit, is less than half of the list.  Two threads work at it: the one
# may be behind the other.
complete_are_the_first_of_the_list() {
    local count
    checks=$((checks + 1))
    count=$(wc -l <"$T/complete")
    head -n $((count + 2)) "$T/listed" | sort >"$T/first"
    comm -13 "$T/first" "$T/complete" >"$T/early"
    [ ! -s "$T/early" ] ||
        wrong "$count files are complete, among them: $(head -n 3 "$T/early" | tr '\n' ' ')"
    [ "$count" -ge 10 ] || wrong "only $count files are complete"
}

status_is() {
    checks=$((checks + 1))
    [ "$(status_of "$1")" = "$2" ] || wrong "$1 is not $2: $(cat "$T/answer")"
}

# ---- the tests ----

a_list_is_followed() {
    MODE=37
    restore_start limit=300000 load_order="$1"
    files_done_reach 12
    ask '{"do":"pause"}' || wrong "cannot pause"
    settle
    complete_are_the_first_of_the_list
    status_is order_files "$LISTED"
    status_is order_ignored "$2"
    restore_finish
    compare_trees .
    empty_target
}

# Lists that are none at all.
a_list_that_cannot_be_read() {
    mkfifo "$T/fifo.$FS"
    for list in "$T/nothing" "$T/fifo.$FS" /dev/zero "$T"; do
        restore_start load_order="$list"
        restore_finish
        compare_trees .
        empty_target
    done
}

read_files() {
    local name
    for name in "$@"; do
        same "$name" "$V/plain/$name" "$V/t/$name"
    done
}

# Also beyond the death of the service; and what comes of it is a list.
a_list_is_recorded() {
    local -a first second
    mapfile -t first < <(sed -n '1,12p' "$T/names")
    mapfile -t second < <(sed -n '100,110p' "$T/names")
    echo "something older" >"$T/record"
    restore_start_paused record_order="$T/record"
    read_files "${first[@]}" "${first[0]}"
    head -c 10 "$V/t/d3/"$'odd \xff \\ \nname' >/dev/null
    : >"$V/t/${second[0]}"
    : >"$V/plain/${second[0]}"
    await_lines 14
    printf '/half a li' >>"$T/record"
    signal KILL umbra-hydrated
    read_files "${second[@]:1}"
    restore_finish
    compare_trees .
    empty_target
    checks=$((checks + 1))
    {
        printf "$T/src/%s\n" "${first[@]}"
        printf '%s\n' "$T/src/d3/"'odd \xff \x5c \x0aname'
        echo "/half a li"
        printf "$T/src/%s\n" "${second[@]:1}"
    } >"$T/expected"
    grep -v -e '^#' "$T/record" | diff "$T/expected" - >"$T/diff" ||
        wrong "recorded is: $(head -n 5 "$T/diff" | tr '\n' ' ')"
    restore_start_paused load_order="$T/record"
    status_is order_files 23
    status_is order_ignored 1
    restore_finish
    empty_target
}

await_lines() {
    local i
    for ((i = 0; i < 600; i++)); do
        [ "$(wc -l <"$T/record")" -lt "$1" ] || return 0
        sleep 0.05
    done
    wrong "not recorded: $(cat "$T/record")"
}

# ---- the command ----

in_status() { expect 0 umbra status; expect_text "$T/out" "$1"; }

# A process whose first thread is dead still listens until the last one is.
die() {
    local i
    kill_all
    for ((i = 0; i < 600; i++)); do
        umbra status >"$T/out"
        ! grep -q interrupted "$T/out" || return 0
        sleep 0.05
    done
    fail "it does not die: $(cat "$T/out")"
}

the_command() {
    local start=(umbra restore latest --instant --limit 1K --target "$V/t")
    mkfifo "$T/fifo"
    for list in "$T/nothing" "$T/fifo"; do
        expect 1 "${start[@]}" --load-order "$list"
        expect_text "$T/err" "cannot read the load order '$list'"
    done
    expect 2 "${start[@]}" --record-order "$V/t/record"
    expect_text "$T/err" "is in '$V/t', which is to be restored"
    expect 1 "${start[@]}" --record-order "$T/no/record"
    expect 2 umbra restore latest --target "$T/x" --load-order "$T/order"
    expect_text "$T/err" 'needs --instant'
    [ -z "$(ours)" ] || fail "something was started"

    cd "$T"
    expect 0 "${start[@]}" --load-order hostile --record-order again
    expect_text "$T/err" '^umbra: load order .*: 11 lines are no path, and are ignored$'
    expect 0 umbra pause
    in_status "^  order     $LISTED files come first; 1,200,015 lines of the list name no file"
    read_files d0/f0
    die
    expect 0 umbra restore --resume
    in_status "^  order     $LISTED files come first"
    expect 0 umbra pause
    read_files d1/f1
    die
    # The record on the disk alone must not make root read or write files here.
    mv /var/lib/umbra/restores "$T/notes"
    expect 0 umbra restore --resume --target "$V/t" --source "dir:$T/src"
    expect 0 umbra status
    ! grep -q order "$T/out" || fail "a load order was taken from a record from elsewhere"
    read_files d2/f2
    expect 0 umbra cancel
    expect 0 umbra wait
    grep -v '^#' "$T/again" | diff - <(printf "$T/src/%s\n" d0/f0 d1/f1) || fail "recorded otherwise"
    cd /
}

all_of_them() {
    a_list_is_followed "$T/order" 0
    a_list_is_followed "$T/hostile" "$(cat "$T/ignored")"
    a_list_that_cannot_be_read
    a_list_is_recorded
}

world_run all_of_them
world_volume ext4 || skip "no ext4 here"
MODE=37
the_command
world_volume_gone
world_end
