#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# umbra log dump and verify, on logs that another program has written from the manual page: whole,
# torn, and damaged in each way.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 120 "$@"
require_umbra
make_log=$TESTS_TOP/tests/lib/make-log.py

# refuses DEFECT WORDS: verify says so with status 1, and dump ends with it, too
refuses() {
    "$PYTHON" "$make_log" "$T/log" "$1"
    for verb in verify dump; do
        status=0
        "$UMBRA_BIN" log "$verb" "$T/log" >"$T/out" 2>"$T/err" || status=$?
        [ "$status" = 1 ] || fail "$1: $verb ended with $status"
        grep -Fq -- "$2" "$T/err" || fail "$1: $verb says: $(cat "$T/err")"
        [ "$(wc -l <"$T/err")" = 1 ] || fail "$1: $verb says more than one line: $(cat "$T/err")"
    done
}

"$PYTHON" "$make_log" "$T/log"
"$UMBRA_BIN" log verify "$T/log" >"$T/out"
grep -Fqx "log 000102030405060708090a0b0c0d0e0f: format 1, 1.01 MiB, incarnation 1" "$T/out" ||
    fail "verify prints: $(cat "$T/out")"
grep -Fqx "restart areas: both good" "$T/out" || fail "$(cat "$T/out")"
grep -Fqx "9 records are needed and good; 1 transaction to undo" "$T/out" || fail "$(cat "$T/out")"

"$UMBRA_BIN" log dump --verbose "$T/log" >"$T/out"
cat >"$T/expected" <<'END'
        4160  update            txn 1  table  op 7  3+12 bytes
              redo 6e6577, undo 6f6c6420636f6e74656e7473
        4240  commit            txn 1  prev 4160
        8256  update            txn 2  table  op 8  1+1 bytes
              redo 78, undo 79
       12352  abort             txn 2  prev 8256
       12416  compensation      txn 2  table  op 8  prev 12352  undoes 8256  1+0 bytes
              redo 79
       12488  end               txn 2  prev 12352
       12552  note              table  op 1  5000+0 bytes
              redo 00000000000000000000000000000000...
       20544  update            txn 3  table  op 9  4+4 bytes
              redo 6f70656e, undo 73687574
       24640  note              table  op 2  1200+0 bytes
              redo 61206e6f746561206e6f746561206e6f...
END
grep '^       ' "$T/out" | diff "$T/expected" - || fail "dump does not print what was written"

"$UMBRA_BIN" log dump --json "$T/log" | "$PYTHON" -c '
import json, sys
log = json.load(sys.stdin)
assert log["clients"] == ["table"] and log["open_transactions"] == 1 and log["end_lsn"] == 28672
assert [r["type"] for r in log["records"]] == ["update", "commit", "update", "abort", "compensation", "end", "note",
                                               "update", "note"]
assert log["records"][4]["undoes_lsn"] == 8256 and log["records"][0]["manager"] == "test"
'
"$UMBRA_BIN" log verify --json "$T/log" | "$PYTHON" -c '
import json, sys
log = json.load(sys.stdin)
assert log["records"] == 9 and not log["damaged"]
'

# What ends in a torn write is good, and shorter.
for defect in torn last; do
    "$PYTHON" "$make_log" "$T/log" "$defect"
    "$UMBRA_BIN" log verify "$T/log" | grep -Fqx "8 records are needed and good; 1 transaction to undo" ||
        fail "$defect: not the records that are there"
done
"$PYTHON" "$make_log" "$T/log" area-a
"$UMBRA_BIN" log verify "$T/log" | grep -Fqx "restart areas: the first is damaged" || fail "area A"

refuses middle "log '$T/log' is damaged at offset 12288, LSN 8192"
grep -q '^        4160  update ' "$T/out" || fail "dump does not print what is good before the damage"
refuses record "log '$T/log' is damaged at offset 12352, LSN 8256: the record makes no sense"
refuses newer "format version 2: format is newer than this program"
refuses areas "both of its restart areas (at 0 and 1052672) are damaged"
refuses cut "log '$T/log' is cut short: it has 1048576 bytes of 1056768"

"$PYTHON" "$make_log" "$T/log"
"$UMBRA_BIN" log verify --id 000102030405060708090a0b0c0d0e0f -q "$T/log" || fail "its own id"
for words in "--id 000102030405060708090a0b0c0d0eff:has another id than --id says:1" \
    "--id 00:expected 32 hex digits:2"; do
    IFS=: read -r option what expected <<<"$words"
    status=0
    # shellcheck disable=SC2086
    "$UMBRA_BIN" log verify $option "$T/log" 2>"$T/err" || status=$?
    [ "$status" = "$expected" ] || fail "$option: ended with $status"
    grep -Fq "$what" "$T/err" || fail "$option: says: $(cat "$T/err")"
done
for name in /dev/null "$T" "$T/nothing"; do
    status=0
    "$UMBRA_BIN" log dump "$name" >"$T/out" 2>"$T/err" || status=$?
    [ "$status" = 1 ] || fail "dump of '$name' ended with $status"
    [ ! -s "$T/out" ] || fail "dump of '$name' printed something"
done
status=0
"$UMBRA_BIN" log verify "$T" 2>"$T/err" || status=$?
[ "$status" = 1 ] || fail "verify of a directory ended with $status"
grep -Fq "'$T' is a directory: if it was changed atomically, its log is '$T/.umbra-atomic/log'" "$T/err" ||
    fail "of a directory it says: $(cat "$T/err")"
head -c 2000000 /dev/urandom >"$T/noise"
! "$UMBRA_BIN" log verify "$T/noise" 2>/dev/null || fail "noise is a log"
say "log: done"
