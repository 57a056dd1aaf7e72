#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# bench/backup.sh [--write] [--cold] [--tools LIST]: umbra beside Debian's restic and borg.
#
#   RUNS=3          runs of everything; the median counts (default 1)
#   SCALE=0.1       a tenth of the input, to try this script (default 1: about 4 GB)
#   --cold          empty the page cache before each measurement (otherwise all is warm, for all)
#   --tools a,b     only these; default umbra,restic,borg
#   --write         also put the table into docs/PERFORMANCE.md
#
# Input: a Linux source tree, programs and libraries, incompressible bytes and an SQLite database, on
# one loop volume (ext4); repositories on another, restored files on a third.  The tools take turns in
# each step on exactly the same input, in another order each run; every restored tree is compared with
# the input before the numbers are believed.  Encryption is on everywhere; restic compresses by its
# "auto", borg by zstd,3, umbra by its default.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../tests/lib/common.sh
. "$(dirname "$0")/../tests/lib/common.sh"
test_begin 14400 "$@"

RUNS=${RUNS:-1} SCALE=${SCALE:-1}
write='' cold='' cache="warm" tools=umbra,restic,borg
while [ $# -gt 0 ]; do
    case $1 in
    --write) write=1 ;;
    --cold) cold=1 cache="cold" ;;
    --tools) tools=$2 && shift ;;
    *) fail "unknown option '$1' (see the head of this script)" ;;
    esac
    shift
done
IFS=, read -r -a tools <<<"$tools"
bench=$TESTS_TOP/bench
results=$T/results
linux_tar=${LINUX_TAR:-/usr/src/linux-source-6.1.tar.xz}

require_root
for tool in "${tools[@]}"; do
    case $tool in
    umbra) require_umbra ;;
    restic | borg) require "$tool" ;;
    *) fail "unknown tool '$tool'" ;;
    esac
done
[ -f "$linux_tar" ] || skip "needs '$linux_tar' (Debian package linux-source-6.1)"

export RESTIC_PASSWORD="correct horse" RESTIC_CACHE_DIR="$T/cache-restic"
export BORG_PASSPHRASE="correct horse" BORG_BASE_DIR="$T/cache-borg"
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=no BORG_RELOCATED_REPO_ACCESS_IS_OK=no

mib() { "$PYTHON" -c 'import sys; print(int(float(sys.argv[1]) * float(sys.argv[2])))' "$1" "$SCALE"; }

# ---- input ----

copy_programs() {
    local limit_mib=$1 dir=$2
    mkdir "$dir"
    find /usr/bin /usr/lib/x86_64-linux-gnu -maxdepth 2 -type f -size +4k -printf '%p\t%s\n' | sort |
        awk -F '\t' -v limit=$((limit_mib << 20)) '(sum += $2) <= limit { print substr($1, 2) }' |
        tar -cf - -C / -T - | tar -xf - -C "$dir"
}

make_input() {
    local in=$T/src/input
    mkdir "$in"
    if [ "$(mib 100)" -ge 100 ]; then
        tar -xf "$linux_tar" -C "$in"
    else
        tar -xf "$linux_tar" -C "$in" --wildcards '*/fs/*' '*/kernel/*'
    fi
    copy_programs "$(mib 900)" "$in/programs"
    "$PYTHON" "$bench/make-data.py" random "$in/random.bin" "$(mib 512)"
    "$PYTHON" "$bench/make-data.py" sqlite "$in/shop.db" "$(mib 1024)"
    one_file=$(cd "$in" && find . -name 'inode.c' -path '*/ext4/*' | cut -c3-)
}

change_input() {
    "$PYTHON" "$bench/make-data.py" touch "$(echo "$T"/src/input/linux-source-*)" 1
    "$PYTHON" "$bench/make-data.py" insert "$T/src/input/shop.db" $((1000 + $1))
}

# ---- the tools: run_TOOL STEP; NAME is of this run's repository and archives ----

umbra_command() {
    command=("$UMBRA_BIN" -q --no-progress --repo "$T/repos/umbra")
    case $1 in
    init) command+=(repo init) ;;
    backup) command+=(backup "$T/src/input") ;;
    restore) command+=(restore latest --target "$T/out/umbra") ;;
    one) command+=(restore "latest:$T/src/input/$one_file" --target "$T/out/umbra") ;;
    esac
}

restic_command() {
    command=(restic -q -r "$T/repos/restic")
    case $1 in
    init) command+=(init --repository-version 2) ;;
    backup) command+=(--compression auto backup "$T/src/input") ;;
    restore) command+=(restore latest --target "$T/out/restic") ;;
    one) command+=(restore latest --target "$T/out/restic" --include "$T/src/input/$one_file") ;;
    esac
}

borg_command() {
    local repo=$T/repos/borg archive
    case $1 in
    init) command=(borg init -e repokey-blake2 "$repo") ;;
    backup) command=(borg create --compression "zstd,3" "$repo::$(date +%s.%N)" "$T/src/input") ;;
    *)
        archive=$(borg list --last 1 --short "$repo")
        mkdir -p "$T/out/borg"
        # borg extracts into the working directory
        command=(env -C "$T/out/borg" borg extract --sparse "$repo::$archive")
        [ "$1" = restore ] || command+=("${T#/}/src/input/$one_file")
        ;;
    esac
}

settle() {
    sync
    if [ "$cold" ]; then echo 3 >/proc/sys/vm/drop_caches; else
        find "$T/src/input" -type f -exec cat {} + >/dev/null
    fi
}

# step TOOL NAME VERB
step() {
    local tool=$1 name=$2 verb=$3 command
    "${tool}_command" "$verb"
    settle
    "$PYTHON" "$bench/measure.py" run "$results" "$tool" "$name" -- "${command[@]}" >"$T/out.txt" 2>&1 ||
        { cat "$T/out.txt" >&2; fail "$tool: $name"; }
    tail -n 1 "$results"
    case $verb in
    backup) "$PYTHON" "$bench/measure.py" size "$results" "$tool" "$name" "$T/repos/$tool" ;;
    esac
}

# Whatever was restored must be what was backed up.
verify() {
    local tool=$1 what=$2 from
    case $tool in
    umbra) from=$T/out/umbra ;;
    *) from=$T/out/$tool$T/src/input ;;
    esac
    if [ "$what" = restore ]; then
        diff -r --no-dereference "$T/src/input" "$from" >"$T/diff" 2>&1 ||
            { head "$T/diff"; fail "$tool restored something else"; }
    else
        cmp "$T/src/input/$one_file" "$(find "$T/out/$tool" -type f -name inode.c)" ||
            fail "$tool restored another file"
    fi
    rm -rf "${T:?}/out/$tool"
}

one_run() {
    local run=$1 tool command order=("${tools[@]:$1 % ${#tools[@]}}" "${tools[@]:0:$1 % ${#tools[@]}}")
    for tool in "${order[@]}"; do
        rm -rf "$T/repos/$tool" "$T/cache-$tool"
        mkdir -p "$T/cache-$tool"
        "${tool}_command" init
        "${command[@]}" >"$T/out.txt" 2>&1 || { cat "$T/out.txt" >&2; fail "$tool: init"; }
    done
    for tool in "${order[@]}"; do step "$tool" "first backup" backup; done
    for tool in "${order[@]}"; do step "$tool" "unchanged" backup; done
    change_input "$run"
    for tool in "${order[@]}"; do step "$tool" "after changes" backup; done
    for tool in "${order[@]}"; do
        step "$tool" "full restore" restore
        verify "$tool" restore
    done
    for tool in "${order[@]}"; do
        step "$tool" "one file" one
        verify "$tool" one
    done
}

report() {
    local gib=$1 files=$2
    say "Machine: $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs," \
        "$(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo) memory," \
        "Linux $(uname -r); $(date -u +%Y-%m-%d); $cache page cache;" \
        "median of $RUNS run(s)."
    say "Versions:$(printf ' %s;' "${versions[@]}")"
    say "Input: $files files, $gib GiB: Linux source, programs, $(mib 512) MiB incompressible," \
        "an SQLite database of $(mib 1024) MiB. After changes: 1 % of the source files appended to," \
        "about 1 KB inserted in the middle of the database."
    say
    "$PYTHON" "$bench/measure.py" table "$results" "$gib"
}

size=$(($(mib 4096) * 2 + 2048))
volume_make src ext4 ${size}M
volume_make repos ext4 $((size * 2))M
volume_make out ext4 ${size}M
say "making the input ..."
make_input
gib=$(du -s --apparent-size -BM "$T/src/input" | awk '{printf "%.2f", $1 / 1024}')
files=$(find "$T/src/input" -type f | wc -l)
say "$files files, $gib GiB"
versions=()
for tool in "${tools[@]}"; do
    case $tool in
    umbra) versions+=("$("$UMBRA_BIN" --version | head -n 1)") ;;
    restic) versions+=("$(restic version | cut -d' ' -f1,2)") ;;
    borg) versions+=("$(borg --version)") ;;
    esac
done
for ((run = 0; run < RUNS; run++)); do one_run "$run"; done
report "$gib" "$files" >"$T/report"
cat "$T/report"
[ -z "$write" ] || "$PYTHON" "$bench/write-section.py" backup "$TESTS_TOP/docs/PERFORMANCE.md" "$T/report"
