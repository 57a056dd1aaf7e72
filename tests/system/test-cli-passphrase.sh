#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Where passphrases come from, what a wrong one does, and the key commands.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 300 "$@"
require_umbra
unset UMBRA_PASSWORD
export UMBRA_REPO=$T/repo

for word in one two three; do
    printf '%s\n' "$word" >"$T/$word"
    chmod 600 "$T/$word"
done
printf '\n' >"$T/blank"
printf 'one\r\n' >"$T/crlf"
chmod 600 "$T/blank" "$T/crlf"

expect 0 umbra repo init --password-file "$T/one" --label "the first"
[ ! -s "$T/err" ] || fail "repo init complained"

# ---- sources ----

expect 0 umbra list --password-file "$T/one"
UMBRA_PASSWORD_FILE=$T/one expect 0 umbra list
UMBRA_PASSWORD=one expect 0 umbra list
UMBRA_PASSWORD=wrong expect 0 umbra --password-file "$T/one" list # the option comes first
UMBRA_PASSWORD=wrong UMBRA_PASSWORD_FILE=$T/one expect 0 umbra list
expect 0 umbra list --password-file <(printf 'one\nmore')

for wrong in "$T/two" "$T/crlf"; do
    expect 1 umbra list --password-file "$wrong"
    expect_text "$T/err" "^umbra: wrong passphrase"
    [ "$(wc -l <"$T/err")" = 1 ] || fail "a wrong passphrase was reported more than once"
done
expect 1 umbra list --password-file "$T/blank"
expect_text "$T/err" "it is empty"
expect 1 umbra list --password-file "$T/missing"
expect_text "$T/err" "cannot open password file"
head -c 5000 /dev/zero | tr '\0' x >"$T/long"
chmod 600 "$T/long"
expect 1 umbra list --password-file "$T/long"
expect_text "$T/err" "longer than 4096 bytes"
UMBRA_PASSWORD='' expect 1 umbra list
expect_text "$T/err" "it is empty"

chmod 644 "$T/one"
expect 0 umbra list --password-file "$T/one"
expect_text "$T/err" "^umbra: warning: .*can be read by others"
chmod 600 "$T/one"

expect 1 setsid --wait "$UMBRA_BIN" list
expect_text "$T/err" "no terminal"

# Not a word of it may be seen from outside while the program runs.
"$PYTHON" - "$UMBRA_BIN" <<'PY'
import os, subprocess, sys
env = dict(os.environ, UMBRA_PASSWORD="sesame-in-the-environment")
p = subprocess.Popen([sys.argv[1], "list"], env=env, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
seen, late = b"", b""
while p.poll() is None:  # Argon2id takes its time
    try:
        late = open(f"/proc/{p.pid}/environ", "rb").read()
        seen += open(f"/proc/{p.pid}/cmdline", "rb").read()
    except OSError:
        pass
assert p.returncode == 1, p.returncode
assert b"sesame" not in seen, "the passphrase is in argv"
assert not late or b"sesame" not in late, "the passphrase stays in the environment"
PY

# ---- the terminal ----

cat >"$T/terminal.py" <<'PY'
"""terminal.py PROGRAM ANSWERS ARGUMENT...: runs it on a terminal of its own; prints all it showed."""
import os, pty, select, sys, termios
program, answers, args = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(program, [program, *args])
shown, asked = b"", 0
while True:
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    shown += data
    if asked < len(answers) and shown.count(b": ") > asked:
        echo = termios.tcgetattr(fd)[3] & termios.ECHO
        shown += b"[echo on]" if echo else b"[echo off]"
        if answers[asked] == "^C":
            os.write(fd, b"\x03")
        else:
            os.write(fd, answers[asked].encode() + b"\n")
        asked += 1
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.write(shown.decode(errors="replace").replace("\r", ""))
sys.exit(status)
PY
terminal() { "$PYTHON" "$T/terminal.py" "$UMBRA_BIN" "$@"; }

expect 0 terminal one repo key list
expect_text "$T/out" 'Passphrase of the repository: \[echo off\]'
expect_text "$T/out" 'the first'
if grep -q '^one' "$T/out"; then fail "the passphrase was echoed"; fi
expect 1 terminal two list
expect_text "$T/out" 'wrong passphrase'
expect 1 terminal ^C list
expect_text "$T/out" 'umbra: interrupted'
expect 0 terminal four,four --repo "$T/repo4" repo init
expect_text "$T/out" 'The same again: \[echo off\]'
UMBRA_PASSWORD=four expect 0 umbra --repo "$T/repo4" list
expect 1 terminal four,five --repo "$T/repo5" repo init
expect_text "$T/out" 'the two entries differ'
[ ! -e "$T/repo5/config" ] || fail "a repository was made in spite of that"

# ---- keys ----

export UMBRA_PASSWORD_FILE=$T/one
expect 0 umbra repo key add --new-password-file "$T/two" --label second
expect_text "$T/out" '^key [0-9a-f]{12} added$'
expect 0 umbra list --password-file "$T/two"
expect 0 umbra --json repo key list
[ "$("$PYTHON" -c 'import json, sys; print(*sorted(
    (k["label"], k["current"]) for k in json.load(open(sys.argv[1]))["keys"]))' "$T/out")" = \
    "('second', False) ('the first', True)" ] || fail "wrong list of keys: $(cat "$T/out")"

expect 0 umbra --json repo key change --password-file "$T/two" --new-password-file "$T/three"
key=$(json "$T/out" added)
expect 1 umbra list --password-file "$T/two"
expect 0 umbra list --password-file "$T/three"
expect 0 umbra list --password-file "$T/one"

expect 1 umbra repo key remove ffffffffffffffff
expect 2 umbra repo key remove
expect 0 umbra repo key remove "${key:0:12}"
expect_text "$T/out" "^key ${key:0:12} removed$"
expect 1 umbra list --password-file "$T/three"
expect 0 umbra --json repo key list
last=$(json "$T/out" keys 0 name)
expect 1 umbra repo key remove "$last"
expect 0 umbra list

say "passphrases: done"
