#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Output that nobody takes, progress on terminals and elsewhere, signals.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 300 "$@"
require_umbra
export UMBRA_REPO=$T/repo

mkdir "$T/src"
for i in $(seq 300); do printf 'file %s\n' "$i" >"$T/src/$i"; done
head -c 40000000 /dev/urandom >"$T/src/big"
expect 0 umbra repo init
expect 0 umbra -q backup "$T/src"
[ ! -s "$T/out" ] || fail "--quiet prints a summary"
[ ! -s "$T/err" ] || fail "--quiet is not quiet"

# ---- output that nobody takes ----

closed() { "$UMBRA_BIN" "$@" >&-; }
expect 1 closed list
expect_text "$T/err" '^umbra: cannot write to standard output: '
full() { "$UMBRA_BIN" "$@" >/dev/full; }
expect 1 full ls -R latest
expect_text "$T/err" '^umbra: cannot write to standard output: No space left'
expect 1 full --json ls -R latest
expect 1 full diff latest latest

# A reader of a pipe that has gone ends a listing without a word, and never by a signal.
set +o pipefail
"$UMBRA_BIN" ls -R latest 2>"$T/err" | head -n 1 >"$T/out"
set -o pipefail
[ -s "$T/out" ] || fail "nothing came through the pipe"
[ ! -s "$T/err" ] || fail "a closed pipe was complained of: $(cat "$T/err")"

# With all three closed a backup still is made, and its objects are not written over by messages.
deaf() { "$UMBRA_BIN" "$@" <&- >&- 2>&-; }
printf 'more\n' >"$T/src/more"
deaf --quiet backup "$T/src" || fail "a backup with closed descriptors failed"
deaf backup -v "$T/src" && fail "lost output was not noticed"
expect 0 umbra check --read-data
expect 0 umbra --json list
"$PYTHON" -c 'import json, sys; sys.exit(len(json.load(open(sys.argv[1]))["backups"]) != 3)' \
    "$T/out" || fail "the backups are not there"

# Its standard error goes away while it works.
set +o pipefail
"$UMBRA_BIN" --json backup --read-all "$T/src" 2>&1 >"$T/out" | true
set -o pipefail
"$PYTHON" -m json.tool <"$T/out" >/dev/null || fail "the summary was lost with standard error"

# ---- a limit of the size of files is an error, not a signal ----

limited() { (ulimit -f 1000 && exec "$UMBRA_BIN" "$@"); }
expect 0 umbra --repo "$T/limited" repo init
expect 1 limited --repo "$T/limited" backup "$T/src"
expect_text "$T/err" "^umbra: cannot store 'packs/.*: File too large\$"
expect 3 limited restore latest --target "$T/limited-to"
expect_text "$T/err" "^umbra: cannot restore 'big': .*File too large"
expect 0 umbra --repo "$T/limited" check
rm -rf "$T/limited" "$T/limited-to"

# ---- progress ----

cat >"$T/terminal.py" <<'PY'
"""terminal.py SIGNAL PROGRAM ARGUMENT...: on a terminal; the signal once progress is seen; prints all shown."""
import os, pty, signal, sys
number, program, args = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
pid, fd = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(program, [program, *args])
shown, sent = b"", False
while True:
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    shown += data
    if number and not sent and b"\r" in shown and b"files" in shown:
        os.kill(pid, number)
        sent = True
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.buffer.write(shown)
sys.exit(status if status >= 0 else 128 - status)
PY
# Work that takes some seconds, so that there is progress to be seen.
head -c 400000000 /dev/urandom >"$T/src/bigger"
slow=(backup --read-all --compression 15 --threads 1 "$T/src")

expect 0 "$PYTHON" "$T/terminal.py" 0 "$UMBRA_BIN" "${slow[@]}"
grep -q $'\rbackup: .*/s  .* files' "$T/out" || fail "no progress line on a terminal"
grep -q $'\e\[K' "$T/out" || fail "the line is not cleared"
tail -n 1 "$T/out" | tr -d '\r' | sed 's/\x1b\[K//g' | grep -Eq 'backup [0-9a-f]{12} saved' ||
    fail "the summary is not the last line"
rm -rf "$T/repo2"
expect 0 "$UMBRA_BIN" --repo "$T/repo2" repo init
expect 0 "$PYTHON" "$T/terminal.py" 0 "$UMBRA_BIN" --no-progress --repo "$T/repo2" "${slow[@]}"
if grep -q $'\rbackup: ' "$T/out"; then fail "--no-progress shows progress"; fi

rm -rf "$T/repo2"
expect 0 "$UMBRA_BIN" --repo "$T/repo2" repo init
expect 0 "$UMBRA_BIN" --json --repo "$T/repo2" "${slow[@]}"
"$PYTHON" - "$T/err" <<'PY'
import json, sys
lines = [json.loads(line)["progress"] for line in open(sys.argv[1])]
assert all(a["bytes_done"] <= b["bytes_done"] for a, b in zip(lines, lines[1:])), lines
PY

# ---- signals ----

for number in 2 15; do
    rm -rf "$T/repo2"
    expect 0 "$UMBRA_BIN" --repo "$T/repo2" repo init
    expect 1 "$PYTHON" "$T/terminal.py" "$number" "$UMBRA_BIN" --repo "$T/repo2" "${slow[@]}"
    expect_text "$T/out" 'umbra: .*interrupted'
    expect 0 "$UMBRA_BIN" --repo "$T/repo2" --json list
    [ "$(json "$T/out" backups)" = "[]" ] || fail "an interrupted backup was committed"
    expect 0 "$UMBRA_BIN" --repo "$T/repo2" check
done

say "output: done"
