#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# bench/rto.sh [--write]: how soon a lost volume is back at work (`make bench-rto`).
#
#   SCALE=0.1    a tenth of the input, to try this script (default 1: about 4.5 GB, 100,000 files)
#   --write      also put the table into docs/PERFORMANCE.md
#
# A volume (loop, ext4) with a Linux source tree, documents, incompressible bytes and a PostgreSQL
# cluster is backed up by umbra, restic and borg, and restored onto an empty one by each of:
#
#   umbra --instant    umbra    restic    borg    restic mount    borg mount
#
# Measured from the start of the command, caches of the target empty: until it may be used; until the
# first byte of each of some random files; until PostgreSQL answers a query (a read-only mount never lets it);
# until everything is there and synced.  Then, on an instant restore with a saturated background, what a
# read of 4 KiB in a large file costs that is not there yet; and what a read costs after the end.  Of
# the large files alone: until they may be used.
# Every restored tree is compared with the input before the numbers are believed.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../tests/lib/common.sh
. "$(dirname "$0")/../tests/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../tests/lib/postgresql.sh
. "$(dirname "$0")/../tests/lib/postgresql.sh"
test_begin 7200 "$@"

SCALE=${SCALE:-1}
write=''
[ "${1:-}" != --write ] || write=1
bench=$TESTS_TOP/bench
linux_tar=${LINUX_TAR:-/usr/src/linux-source-6.1.tar.xz}
results=$T/results
require_root
require restic borg
require_umbra
require_postgresql
[ -f "$linux_tar" ] || skip "needs '$linux_tar' (Debian package linux-source-6.1)"

export RESTIC_PASSWORD="correct horse" RESTIC_CACHE_DIR="$T/cache-restic"
export BORG_PASSPHRASE="correct horse" BORG_BASE_DIR="$T/cache-borg"
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=no BORG_RELOCATED_REPO_ACCESS_IS_OK=no

mib() { "$PYTHON" -c 'import sys; print(max(1, int(float(sys.argv[1]) * float(sys.argv[2]))))' "$1" "$SCALE"; }
now_ms() { date +%s%3N; }

# note TOOL WHAT VALUE
note() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" | tee -a "$results"; }

# ---- input ----

make_input() {
    if [ "$(mib 100)" -ge 100 ]; then
        tar -xf "$linux_tar" -C "$in"
    else
        tar -xf "$linux_tar" -C "$in" --wildcards '*/fs/*' '*/kernel/*'
    fi
    mkdir "$in/share"
    find /usr/share -xdev -type f -size -256k 2>/dev/null | sort | sed -n "1,$(mib 22000)s|^/||p" |
        tar -cf - -C / -T - | tar -xf - -C "$in/share"
    mkdir "$in/large"
    "$PYTHON" "$bench/make-data.py" random "$in/large/random.bin" "$(mib 512)"
    "$PYTHON" "$bench/make-data.py" sqlite "$in/large/shop.db" "$(mib 512)"
    pg_make "$in/postgresql" "$(mib 110)"
    find "$in/linux-source-6.1" "$in/share" -type f -size +4k | sort -R --random-source=/usr/bin/env |
        sed -n "1,20s|^$in/||p" >"$T/samples"
}

back_up() {
    umbra repo init -q
    umbra backup -q "$in" --tag rto
    restic -q -r "$T/repos/restic" init >/dev/null
    restic -q -r "$T/repos/restic" backup "$in" >/dev/null
    borg init -e repokey-blake2 "$T/repos/borg"
    (cd "$in" && borg create --compression zstd,3 "$T/repos/borg::rto" .)
}

# ---- measuring ----

# The page cache of the repositories stays warm, for all alike.
fresh_volume() {
    volume_gone "$T/out"
    volume_make out ext4 "$1"
    out=$T/out/tree
    mkdir "$out"
    chmod 755 "$out"
}

# first_bytes TOOL DIR: mean of the samples, in ms
first_bytes() {
    "$PYTHON" - "$2" "$T/samples" <<'PY' | { read -r ms; note "$1" first_byte_ms "$ms"; }
import os, sys, time
top, names = sys.argv[1], open(sys.argv[2]).read().split("\n")[:-1]
times = []
for name in names:
    start = time.perf_counter()
    fd = os.open(os.path.join(top, name), os.O_RDONLY)
    os.pread(fd, 4096, 0)
    times.append(time.perf_counter() - start)
    os.close(fd)
print("%.2f" % (1000 * sum(times) / len(times)))
PY
}

answer_of_postgresql() {
    PG_DATA=$out/postgresql
    pg_start
    [ "$(pg psql -Atc 'select count(*) from pgbench_branches')" = "$(mib 110)" ] || fail "$1: wrong answer"
    note "$1" postgresql_ms $(($(now_ms) - start_ms))
    pg_stop
}

# The cluster has been started meanwhile: it is checked by its own tool.
verify() {
    diff -r --no-dereference -x postgresql "$in" "$out" >"$T/diff" 2>&1 ||
        { head "$T/diff"; fail "$1 restored something else"; }
    PG_DATA=$out/postgresql
    pg_start
    pg pg_amcheck --all --install-missing >"$T/pg/amcheck" 2>&1 ||
        { cat "$T/pg/amcheck"; fail "$1: PostgreSQL's data"; }
    pg_stop
}

umbra_instant() {
    fresh_volume "$size"
    start_ms=$(now_ms)
    umbra restore rto --target "$out" --instant -q --json >"$T/instant.json"
    note "$1" usable_ms $(($(now_ms) - start_ms))
    first_bytes "$1" "$out"
    answer_of_postgresql "$1"
    umbra wait -q
    sync -f "$out"
    note "$1" complete_ms $(($(now_ms) - start_ms))
    "$PYTHON" "$TESTS_LIB/read-cost.py" "$out/large/random.bin" "$in/large/random.bin" | tee "$T/read-cost"
    note "$1" read_cost_ratio "$(awk 'NR == 2 { printf "%.3f", 1 / $3 }' "$T/read-cost")"
    verify "$1"
}

# restore_fully TOOL COMMAND...: leaves the tree in $out
restore_fully() {
    local tool=$1
    shift
    start_ms=$(now_ms)
    "$@" >"$T/out.txt" 2>&1 || { cat "$T/out.txt" >&2; fail "$tool"; }
    sync -f "$T/out"
    for what in usable_ms complete_ms; do note "$tool" "$what" $(($(now_ms) - start_ms)); done
    [ "$tool" != restic ] || { mv "$out$in" "$T/out/x" && rm -rf "$out" && mv "$T/out/x" "$out"; }
    first_bytes "$tool" "$out"
    answer_of_postgresql "$tool"
    verify "$tool"
}

# mounted TOOL WHERE COMMAND...: a read-only view; WHERE in it the tree is
mounted() {
    local tool=$1 where=$2 pid
    shift 2
    mkdir -p "$T/view"
    start_ms=$(now_ms)
    "$@" >"$T/out.txt" 2>&1 &
    pid=$!
    until [ -d "$where/share" ]; do
        sleep 0.02
        kill -0 "$pid" 2>/dev/null || { warn "$tool does not run here: $(tail -n 1 "$T/out.txt")"; return 0; }
    done
    note "$tool" usable_ms $(($(now_ms) - start_ms))
    first_bytes "$tool" "$where"
    umount "$T/view" || true
    wait "$pid" || true
}

# What a read of 4 KiB costs that has to wait, while the background takes all it can get.
demand_latency() {
    fresh_volume "$size"
    umbra restore rto --target "$out" --instant -q >/dev/null
    "$PYTHON" "$bench/demand-reads.py" "$out/large/random.bin" \
        "$(find "$out/postgresql/base" -type f -size +32M -print -quit)" |
        while read -r what value; do note "umbra --instant" "$what" "$value"; done
    umbra wait -q
}

# A tree of few, large files.
large_files() {
    fresh_volume "$size"
    start_ms=$(now_ms)
    umbra restore "rto:$in/large" --target "$out" --instant -q >/dev/null
    note "umbra --instant" large_usable_ms $(($(now_ms) - start_ms))
    umbra wait -q
    cmp "$in/large/random.bin" "$out/random.bin"
}

size=$(($(mib 4096) * 2 + 2048))M
volume_make src ext4 "$size"
volume_make repos ext4 "$size"
mkdir "$T/cache-restic" "$T/cache-borg"
in=$T/src/in
mkdir "$in"
export UMBRA_REPO="$T/repos/umbra"
say "making the input ..."
make_input
files=$(find "$in" -type f | wc -l)
gib=$(du -s --apparent-size -BM "$in" | awk '{printf "%.2f", $1 / 1024}')
say "$files files, $gib GiB; backing up ..."
back_up
umbra_instant "umbra --instant"
demand_latency
large_files
fresh_volume "$size"
restore_fully umbra umbra restore rto --target "$out" -q
fresh_volume "$size"
restore_fully restic restic -q -r "$T/repos/restic" restore latest --target "$out"
fresh_volume "$size"
restore_fully borg env -C "$out" borg extract --sparse "$T/repos/borg::rto"
mounted "restic mount" "$T/view/snapshots/latest$in" restic -q -r "$T/repos/restic" mount "$T/view"
mounted "borg mount" "$T/view" borg mount -f "$T/repos/borg::rto" "$T/view"

{
    say "Machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs," \
        "$(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo) memory," \
        "Linux $(uname -r); $(date -u +%Y-%m-%d)."
    say "Input: $files files, $gib GiB: Linux source, documents, $(mib 512) MiB incompressible," \
        "PostgreSQL with pgbench scale $(mib 110); loop volumes, ext4."
    say
    "$PYTHON" "$bench/rto-table.py" "$results" "$files"
} >"$T/report"
cat "$T/report"
[ -z "$write" ] || "$PYTHON" "$bench/write-section.py" rto "$TESTS_TOP/docs/PERFORMANCE.md" "$T/report"
