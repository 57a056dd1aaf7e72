#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Backups killed with SIGKILL at random moments leave nothing behind that hurts.
#
# After each kill: `umbra check` is clean, an earlier backup restores, the next backup succeeds; now
# and then everything is read and the newest backup is restored and compared.  Last, a killed backup
# is taken up where it stood: finished files are neither read nor stored again.
#
#   SEED=N    repeats a run (its moments are times, so only nearly)
#   KILLS=N   default 25, or 200 with SOAK=1

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
if [ "${SOAK:-}" ]; then test_begin 7200 "$@"; else test_begin 1200 "$@"; fi
require rsync
require_umbra

SEED=${SEED:-$(date +%s)}
if [ "${SOAK:-}" ]; then KILLS=${KILLS:-200}; else KILLS=${KILLS:-25}; fi
src=$T/src
broken() { fail "$* (SEED=$SEED, kill $kill)"; }

# rewrite ROUND FILES: gives that many files of the tree other contents.
rewrite() {
    "$PYTHON" - "$src" "$1" "$2" "$SEED" <<'PY'
import os, random, sys
src, rnd, count, seed = sys.argv[1], *map(int, sys.argv[2:])
rng = random.Random(seed * 1000003 + rnd)
for i in rng.sample(range(1500), count):
    directory = "%s/%02d" % (src, i % 40)
    os.makedirs(directory, exist_ok=True)
    size = rng.choice((100, 5000, 60000, 60000, 400000))
    half = rng.randbytes(size // 2)
    with open("%s/%04d" % (directory, i), "wb") as f:
        f.write(half + half.hex().encode()[: size // 2])
PY
}

same() { rsync -aHAXSni --delete --checksum --modify-window=-1 "$1/" "$2/" >"$T/diff" && ! [ -s "$T/diff" ]; }

new_repository() {
    rm -rf "$T/repo" "$UMBRA_CACHE_DIR"
    export UMBRA_REPO=$T/repo
    expect 0 umbra repo init
    expect 0 umbra backup "$T/small" --tag small
    expect 0 umbra backup "$src"
}

# Starts a backup and kills it at a random moment of what is about its time, which $window_ms follows
# up.  $ended: 137, or 0 when the kill came too late.
kill_backup() {
    local ms=$(((RANDOM * 32768 + RANDOM) % window_ms)) pid
    "$UMBRA_BIN" --no-progress -q backup "$src" >"$T/killed.out" 2>&1 &
    pid=$!
    sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
    kill -KILL "$pid" 2>/dev/null || true
    ended=0
    wait "$pid" 2>/dev/null || ended=$?
    [ "$ended" = 0 ] || [ "$ended" = 137 ] ||
        { cat "$T/killed.out" >&2; broken "backup exited $ended by itself"; }
    if [ "$ended" = 137 ]; then
        window_ms=$((window_ms * 9 / 8))
    else
        late=$((late + 1))
        window_ms=$((window_ms * 3 / 4 + 10))
    fi
}

check_all_is_well() {
    local every=$1
    umbra check >"$T/out" 2>&1 || { cat "$T/out" >&2; broken "check"; }
    rm -rf "$T/to"
    umbra -q restore small --target "$T/to" >"$T/out" 2>&1 ||
        { cat "$T/out" >&2; broken "restore of an earlier backup"; }
    same "$T/small" "$T/to" || { head "$T/diff" >&2; broken "an earlier backup changed"; }
    [ $((kill % 3)) != 0 ] || umbra -q backup "$src" >"$T/out" 2>&1 ||
        { cat "$T/out" >&2; broken "the next backup"; }
    [ $((kill % every)) = 0 ] || return 0
    umbra check --read-data >"$T/out" 2>&1 || { cat "$T/out" >&2; broken "check --read-data"; }
    umbra -q backup "$src" >"$T/out" 2>&1 || { cat "$T/out" >&2; broken "the next backup"; }
    rm -rf "$T/to"
    umbra -q restore latest --target "$T/to" >"$T/out" 2>&1 ||
        { cat "$T/out" >&2; broken "restore of the newest backup"; }
    same "$src" "$T/to" || { head "$T/diff" >&2; broken "the newest backup is not the tree"; }
}

kill_many() {
    kill=0 late=0 window_ms=400
    mkdir "$T/small"
    cp -a "$TESTS_LIB" "$T/small/lib"
    rewrite 0 1500
    new_repository
    for ((kill = 1; kill <= KILLS; kill++)); do
        [ $((kill % 25)) != 0 ] || new_repository
        rewrite "$kill" 400
        kill_backup
        check_all_is_well 8
    done
    [ $((late * 2)) -lt "$KILLS" ] || broken "$late of $KILLS backups ended before their kill"
    say "$KILLS kills ($late came too late): all clean"
}

packs_mib() { du -sm "$UMBRA_REPO" | cut -f1; }

# 320 MiB that neither compress nor repeat, so that what is stored tells what was done.
resume() {
    local i pid size_mib read_mib
    rm -rf "$T/repo" "$src"
    mkdir "$src"
    for ((i = 0; i < 320; i++)); do head -c 1M /dev/urandom >"$src/$i"; done
    expect 0 umbra repo init
    "$UMBRA_BIN" --no-progress -q backup "$src" --threads 1 >"$T/killed.out" 2>&1 &
    pid=$!
    for ((i = 0; i < 2000; i++)); do
        [ "$(packs_mib)" -lt 130 ] || break
        sleep 0.01
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    kill=resume
    expect 0 umbra --json list
    [ "$(json "$T/out" backups)" = "[]" ] ||
        broken "the backup was done before its kill"
    size_mib=$(packs_mib)
    expect 0 umbra --json backup "$src"
    read_mib=$(($(json "$T/out" stats read_bytes) >> 20))
    say "killed after $size_mib of 320 MiB; the next read $read_mib MiB, repository $(packs_mib) MiB"
    [ "$read_mib" -le $((320 - size_mib + 100)) ] || broken "finished files were read again"
    # What is lost: a pack of 32 MiB that is being filled, and one that is being written.
    [ "$(packs_mib)" -le $((320 + 2 * 32 + 10)) ] || broken "finished files were stored again"
    rm -rf "$T/to"
    expect 0 umbra restore latest --target "$T/to"
    same "$src" "$T/to" || broken "the resumed backup is not the tree"
}

say "SEED=$SEED"
RANDOM=$((SEED % 32768)) # seeds bash
mkdir "$src"
kill_many
resume
