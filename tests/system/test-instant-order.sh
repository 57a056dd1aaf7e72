#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In which order an instant restore brings what nobody waits for: a load order that is followed, that is
# bad, stale or hostile, and that is recorded (failure mode 37); and what somebody gets who goes through
# the whole tree, and others meanwhile (failure mode 34).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 900 "$@"

umbra() { timeout -k 1 60 "$UMBRA_BIN" --no-progress "$@"; }

FILES=160 LISTED=60
{
    first_files
    for ((i = 0; i < FILES; i++)); do echo "$T/src/d$((i % 8))/f$i $((150000 + i * 100))"; done
} | world_files
# For a crawler: each next file is in another directory.
CRAWLED=900 OTHERS=60
{
    for ((i = 0; i < CRAWLED; i++)); do echo "$T/tree/c$((i % 90))/f$i $((1500 + i))"; done
    for ((i = 0; i < OTHERS; i++)); do echo "$T/tree/others/$((i % 2))/f$i $((3000 + i))"; done
} | world_files
echo odd >"$T/src/d3/"$'odd \xff \\ \nname'
world_backup src tree

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

# Those beside a file that somebody reads come before the list.
files_beside_come_first() {
    local missing
    MODE=37
    restore_start_paused load_order="$T/order"
    settle
    cp "$T/complete" "$T/before"
    beside="$(comm -23 <(cd "$T/src" && find d5 -type f | sort) "$T/before")"
    same "one of many" "$V/plain/$(sed -n 5p <<<"$beside")" "$V/t/$(sed -n 5p <<<"$beside")"
    ask '{"do":"limit","bytes_per_s":300000}' && ask '{"do":"resume"}'
    files_done_reach $(($(wc -l <"$T/before") + 5))
    ask '{"do":"pause"}' || wrong "cannot pause"
    settle
    checks=$((checks + 1))
    comm -13 "$T/before" "$T/complete" >"$T/new"
    missing=$(comm -23 <(echo "$beside") "$T/new" | wc -l)
    # Two threads work at it.
    [ "$missing" -le 2 ] || [ "$(grep -cv ^d5/ "$T/new")" = 0 ] ||
        wrong "$missing files beside the one that was read are missing, but there are: $(
            grep -v ^d5/ "$T/new" | head -n 3 | tr '\n' ' ')"
    restore_finish
    compare_trees .
    empty_target
}

# Lists that are none at all.
a_list_that_cannot_be_read() {
    mkfifo "$T/fifo.$FS"
    for list in "$T/nothing" "$T/fifo.$FS"; do
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

# ---- crawlers ----

# A source that takes its time for each part, so that there is a queue.
cat >"$T/slow" <<'EOL'
import os, re, sys, time
for question in sys.stdin.buffer:
    _, _, offset, length, path = question.rstrip(b"\n").split(b" ", 4)
    path = re.sub(rb"\\x(..)", lambda m: bytes([int(m[1], 16)]), path)
    time.sleep(0.02)
    with open(os.path.join(os.fsencode(sys.argv[1]), path), "rb") as f:
        data = os.pread(f.fileno(), int(length), int(offset))
    sys.stdout.buffer.write(b"ok %d\n" % len(data) + data)
    sys.stdout.buffer.flush()
EOL

# readers.py THREADS DIR COPY <NAMES: reads and compares these files, and prints how long each took (s).
cat >"$T/readers.py" <<'EOL'
import os, sys, threading, time
threads, top, copy = int(sys.argv[1]), sys.argv[2], sys.argv[3]
names = [line.rstrip("\n") for line in sys.stdin]
lock, times, wrong = threading.Lock(), [], []
def read(name):
    begun = time.monotonic()
    with open(os.path.join(top, name), "rb") as f:
        data = f.read()
    took = time.monotonic() - begun
    with open(os.path.join(copy, name), "rb") as f:
        same = data == f.read()
    with lock:
        times.append(took)
        wrong.extend([] if same else [name])
def work():
    while True:
        with lock:
            if not names:
                return
            name = names.pop(0)
        read(name)
workers = [threading.Thread(target=work) for _ in range(threads)]
for w in workers:
    w.start()
for w in workers:
    w.join()
print("\n".join("%.6f" % t for t in sorted(times)))
sys.exit(str(wrong[:3]) if wrong else 0)
EOL

readers() { timeout -k 1 120 "$PYTHON" "$T/readers.py" "$1" "$V/t" "$T/tree"; }

# The middle one of sorted lines.
median() { sed -n "$((($(wc -l <"$1") + 1) / 2))p" "$1"; }

crawlers_are_there() {
    local i
    for ((i = 0; i < 600; i++)); do
        [ "$(status_of crawlers)" = 0 ] || return 0
        sleep 0.05
    done
    wrong "nobody is taken for a crawler: $(cat "$T/answer")"
}

# One process with 16 threads has 16 files in the queue at any time; one with one thread must not wait
# behind them all, and the first must not stand still.  The background would only help.
a_crawler_comes_after_others() {
    local crawler
    restore_use tree
    restore_start_paused deadline=100 source="exec:exec $PYTHON $T/slow $T/tree" source=repo
    for ((i = 0; i < CRAWLED; i++)); do echo "c$((i % 90))/f$i"; done |
        readers 16 >"$T/crawl.times" 2>"$T/crawl.err" &
    crawler=$!
    crawlers_are_there
    checks=$((checks + 1))
    for ((i = 0; i < OTHERS; i++)); do echo "others/$((i % 2))/f$i"; done |
        readers 1 >"$T/others.times" 2>"$T/others.err" || wrong "others: $(cat "$T/others.err")"
    wait $crawler || wrong "the crawler: $(cat "$T/crawl.err")"
    others=$(median "$T/others.times") crawled=$(median "$T/crawl.times")
    [ -z "${VERBOSE:-}" ] ||
        say "$FS: others wait $others s, a crawler $crawled s; at most $(tail -n 1 "$T/others.times")"
    awk "BEGIN { exit !($others * 2 < $crawled) }" ||
        wrong "others wait $others s, a crawler $crawled s"
    awk "BEGIN { exit !($(tail -n 1 "$T/others.times") < 20) }" ||
        wrong "one of the others waited $(tail -n 1 "$T/others.times") s"
    restore_finish
    compare_with_tree
}

# The real thing, with the background.
grep_goes_through() {
    local grep
    restore_start_paused
    timeout -k 1 120 grep -rl no-such-text "$V/t" >"$T/grep" &
    grep=$!
    for ((i = 0; i < OTHERS; i++)); do echo "others/$((i % 2))/f$i"; done | shuf --random-source="$T/names" |
        readers 1 >"$T/others.times" 2>"$T/others.err" || wrong "others: $(cat "$T/others.err")"
    awk "BEGIN { exit !($(tail -n 1 "$T/others.times") < 20) }" ||
        wrong "one of the others waited $(tail -n 1 "$T/others.times") s"
    ask '{"do":"limit","bytes_per_s":0}' && ask '{"do":"resume"}'
    local status=0
    wait $grep || status=$?
    [ "$status" = 1 ] || wrong "grep ended with $status"
    restore_finish
    compare_with_tree
    restore_use src
}

compare_with_tree() {
    checks=$((checks + 1))
    diff -r "$T/tree" "$V/t" >"$T/diff" || wrong "the trees differ: $(head -n 3 "$T/diff")"
    empty_target
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
    local start=(umbra restore "$BACKUP" --instant --limit 1K --target "$V/t")
    mkfifo "$T/fifo"
    for list in "$T/nothing" "$T/fifo"; do
        expect 1 "${start[@]}" --load-order "$list"
        expect_text "$T/err" "cannot read the load order '$list'"
    done
    expect 2 "${start[@]}" --record-order "$V/t/record"
    expect_text "$T/err" "is in '$V/t', which is to be restored"
    expect 1 "${start[@]}" --record-order "$T/no/record"
    expect 2 umbra restore "$BACKUP" --target "$T/x" --load-order "$T/order"
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
    mv /etc/umbra/restores "$T/notes"
    expect 0 umbra restore --resume --target "$V/t" --source "dir:$T/src"
    expect 0 umbra status
    ! grep -q order "$T/out" || fail "a load order was taken from a record from elsewhere: $(cat "$T/out")"
    read_files d2/f2
    expect 0 umbra cancel
    expect 0 umbra wait
    grep -v '^#' "$T/again" | diff - <(printf "$T/src/%s\n" d0/f0 d1/f1) || fail "recorded otherwise"
    cd /
}

all_of_them() {
    MODE=34
    a_crawler_comes_after_others
    grep_goes_through
    a_list_is_followed "$T/order" 0
    a_list_is_followed "$T/hostile" "$(cat "$T/ignored")"
    files_beside_come_first
    a_list_that_cannot_be_read
    a_list_is_recorded
}

world_run all_of_them
world_volume ext4 || skip "no ext4 here"
MODE=37
the_command
world_volume_gone
world_end
