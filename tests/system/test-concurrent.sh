#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Several writers at once in one repository, without locks: all backups commit, share what they
# have in common, and are whole.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

test_begin 300 "$@"
require_umbra

repo=$T/repo
export UMBRA_PASSWORD=several
umbra --repo "$repo" repo init >/dev/null
for i in 1 2 3 4; do
    mkdir -p "$T/src$i/sub"
    cp -r /usr/include/linux "$T/src$i/shared"
    head -c 3000000 /dev/urandom >"$T/src$i/own"
done

pids=()
for i in 1 2 3 4; do
    timeout 120 "$UMBRA_BIN" --repo "$repo" --cache-dir "$T/cache$i" -q backup --host "h$i" "$T/src$i" &
    pids+=($!)
done
for pid in "${pids[@]}"; do
    wait "$pid"
done

ids() { # of a host's backups, or of all
    umbra --repo "$repo" --json list "$@" | "$PYTHON" -c '
import json, sys
for backup in json.load(sys.stdin)["backups"]:
    print(backup["id"])'
}

count=$(ids | wc -l)
[ "$count" = 4 ] || fail "expected 4 backups, there are $count"
umbra --repo "$repo" check --read-data >/dev/null
for i in 1 2 3 4; do
    id=$(ids --host "h$i")
    umbra --repo "$repo" -q restore "$id" --target "$T/out$i"
    diff -r "$T/src$i" "$T/out$i" || fail "backup of h$i differs"
done
echo ok
