#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# umbra restore --in-place --atomic where something is in the way: a large program that is running, a
# further name of a large file, a target that is immutable itself; and what --rollback says.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 300 "$@"
require_umbra
export UMBRA_REPO=$T/repo UMBRA_STATE_DIR=$T/state

tree=$T/tree
fsdump="$TESTS_LIB/fsdump.py"
look() { "$PYTHON" "$fsdump" dump "$tree" .umbra-atomic; }
must_be() { look | cmp -s - "$T/$1" || fail "not the $1 tree: $(look | diff - "$T/$1" | head -n 4)"; }
atomic_restore() { umbra restore "latest:${tree#/}" --target "$tree" --in-place --atomic "$@"; }
change_byte() { printf X | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
change_bytes() { change_byte "$1" $(($(stat -c %s "$1") - 3)); }

expect 0 umbra repo init

# ---- a program that runs, and a file with a further name ----

mkdir "$tree"
cp "$(command -v sleep)" "$tree/program"
truncate -s 2M "$tree/program"
head -c 3M /dev/urandom >"$tree/file"
ln "$tree/file" "$tree/further"
printf 'new\n' >"$tree/small"
expect 0 umbra backup "$tree"
look >"$T/new"
rm "$tree/further"
change_byte "$tree/file" 2000000
change_bytes "$tree/program"
printf 'old one\n' >"$tree/small"
look >"$T/old"
"$tree/program" 1000 &
pid=$!
until [ "$(readlink "/proc/$pid/exe")" = "$tree/program" ]; do :; done
expect 0 atomic_restore --verify
must_be new
kill "$pid"
wait "$pid" || true

# ---- rollback ----

expect 0 umbra --json restore --rollback --target "$tree"
[ "$(json "$T/out" rolled_back)" = True ] || fail "not JSON: $(cat "$T/out")"
must_be old
expect 1 umbra restore --rollback --target "$tree"
expect 2 umbra restore --rollback --target "$tree" latest
expect 2 umbra restore latest --force --target "$tree" --in-place
expect 0 atomic_restore
rm "$tree/small"
printf "somebody else's\n" >"$tree/small"
expect 1 umbra restore --rollback --target "$tree"
expect_text "$T/err" 'small.*--rollback --force --target'
grep -q else "$tree/small" || fail "what somebody else made is gone"
expect 0 umbra restore --rollback --force --target "$tree"
grep -q else "$tree/small" || fail "what somebody else made is gone"
[ ! -e "$tree/further" ] || fail "--force took nothing back"

# ---- the target itself is locked ----

if [ "$(id -u)" = 0 ] && chattr +i "$tree" 2>/dev/null; then
    expect 1 atomic_restore
    expect_text "$T/err" 'immutable or append-only'
    expect 0 umbra backup "$tree"
    chattr -i "$tree"
    rm -r "$tree"/.umbra-left-*
    printf 'other\n' >"$tree/small"
    look >"$T/old"
    expect 1 atomic_restore
    expect_text "$T/err" 'immutable or append-only'
    must_be old
    [ ! -e "$tree/.umbra-atomic" ] || fail "what was refused left its stage"
fi
