#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The commands around an instant restore: what is refused, and one from its start through pauses,
# deaths and a change of mounts to its end.  What the daemons do is other tests' matter.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"

umbra() { timeout -k 1 60 "$UMBRA_BIN" --no-progress "$@"; }
NOTES=/etc/umbra/restores
no_notes() { [ -z "$(ls -A $NOTES 2>/dev/null)" ] || fail "notes are left: $(ls $NOTES)"; }
# within SECONDS COMMAND...: becomes true.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "not within its time: $* (line ${BASH_LINENO[0]})"
        sleep 0.1
    done
}
nobody_left() { [ -z "$(ours)" ]; }
gate_stands() { [ -n "$(find /run/umbra -name 'gate-*')" ]; }
in_status() { umbra status >"$T/out" && grep -Eq -- "$1" "$T/out"; }
start_limited() {
    expect 0 umbra restore latest --instant --limit 1K --target "$V/t" "$@"
}

{
    first_files
    for i in {1..40}; do echo "$T/src/many/f$i $((i * 5000))"; done
} | world_files
touch "$T/src/many/"$'odd \xff\nname'
mkdir -p "$T/src/00/deep/er"
ln -s er "$T/src/00/deep/link"
world_backup src
world_volume ext4 || skip "no ext4 here"

# ---- none there ----

expect 0 umbra status
expect_text "$T/out" '^no instant restore is running$'
expect 0 umbra status --watch
expect_text "$T/out" '^no instant restore is running$'
for watch in "" --watch; do
    # shellcheck disable=SC2086 # none or one
    expect 0 umbra status --json $watch
    [ "$(json "$T/out" restores)" = "[]" ] || fail "restores in: $(cat "$T/out")"
done
expect 0 umbra wait
expect_text "$T/err" 'no instant restore is running'
expect 0 umbra restore --resume
expect_text "$T/err" 'there is no interrupted restore'
for verb in pause resume cancel "limit 1M" "hydrate /etc"; do
    # shellcheck disable=SC2086
    expect 1 umbra $verb
    expect_text "$T/err" 'no instant restore is running'
done
expect 1 umbra pause --target "$V/t"
expect_text "$T/err" "'$V/t' is not being restored"
expect 1 umbra restore --resume --target "$V/t"
expect_text "$T/err" "'$V/t' is not being restored"

# ---- refused ----

expect 1 umbra restore latest --instant --target "$V/plain"
expect_text "$T/err" "'$V/plain' is not empty: use a restore without --instant"
: >"$V/file"
expect 1 umbra restore latest --instant --target "$V/file"
mkdir "$T/tmpfs"
mount -t tmpfs none "$T/tmpfs"
expect 1 umbra restore latest --instant --target "$T/tmpfs/new/er"
expect_text "$T/err" 'ext4, xfs and btrfs; use an ordinary restore'
[ ! -e "$T/tmpfs/new/er" ] || fail "a target that could not be used was left behind"
within 10 nobody_left
! gate_stands || fail "a lock is left: $(ls /run/umbra)"
umount "$T/tmpfs"
volume_make small ext4 8M
mkdir -p "$T/small/t" # once more: nothing is left that would be in the way
for _ in 1 2; do
    expect 1 umbra restore latest --instant --target "$T/small/t"
    expect_text "$T/err" 'No space left on device; the files to be restored have 15.* MiB, and .* are free'
    within 10 nobody_left
done
[ -z "$(ls -A "$T/small/t")" ] || fail "left behind: $(find "$T/small/t")"
no_notes
volume_gone "$T/small"
expect 1 umbra restore nothing --instant --target "$V/t"
expect_text "$T/err" "nothing"
UMBRA_PASSWORD=wrong expect 1 umbra restore latest --instant --target "$V/t"
expect_text "$T/err" "passphrase"
expect 1 umbra restore latest --instant --include no-such-file --target "$V/none"
expect_text "$T/err" "nothing in backup $(head -c 12 "$T/src.id") matches --include"
[ ! -e "$V/none" ] || fail "a restore of nothing has left its target"
if command -v setpriv >/dev/null; then
    chmod 755 "$T"
    for words in "restore latest --instant --target $T/x" "restore --resume" status wait pause; do
        # shellcheck disable=SC2086
        expect 1 setpriv --reuid 65534 --clear-groups "$UMBRA_BIN" $words
        expect_text "$T/err" "need root"
    done
    chmod 700 "$T"
fi
within 10 nobody_left
no_notes

# ---- a restore ----

# A note without a record is that of a restore that has ended, or that is just beginning: it cannot go
# on without its hydrator, and holds the lock of the notes meanwhile.
noted() { [ "$(find $NOTES -name '*.json' | wc -l)" = 1 ]; }
mkdir "$T/bin"
cp "$UMBRA_BIN" "$PROGRAMS/umbra-filterd" "$T/bin"
cat >"$T/bin/umbra-hydrated" <<EOL
#!/bin/sh
while [ -e "$T/hold" ]; do sleep 0.1; done
exec "$PROGRAMS/umbra-hydrated"
EOL
chmod 755 "$T/bin/umbra-hydrated"
: >"$T/hold"
UMBRA_BIN=$T/bin/umbra start_limited --deadline 30 &
starting=$!
within 20 noted
within 20 gate_stands
! flock -n $NOTES true || fail "somebody could take away the note of a restore that starts"
rm "$T/hold"
wait $starting || fail "it did not start"
flock -w 20 $NOTES true || fail "the notes are locked for ever"
# The same, and it is killed: its daemons go on.
expect 0 umbra cancel
expect 0 umbra wait
within 10 nobody_left
rm -r "$V/t"
: >"$T/hold"
"$T/bin/umbra" --no-progress restore latest --instant --limit 1K --deadline 30 --target "$V/t" \
    >"$T/start.out" 2>&1 &
starting=$!
within 20 gate_stands
kill -KILL $starting
wait $starting 2>/dev/null || true
within 20 flock -n $NOTES true
expect 0 umbra status
noted || fail "somebody took away the note of a restore that starts without who has started it"
rm "$T/hold"
within 20 in_status "^restore of '$V/t': filling$"
expect 0 umbra cancel
expect 0 umbra wait
within 10 nobody_left
no_notes
! gate_stands || fail "a lock is left: $(ls /run/umbra)"
rm -r "$V/t"

start_limited --deadline 30
expect_text "$T/out" "^'$V/t' is usable after [0-9.]+ s: 45 files, .* stream in behind; see 'umbra status'"
[ "$(find $NOTES -name '*.json' | wc -l)" = 1 ] || fail "no note of the restore"
expect 1 umbra restore latest --instant --target "$V/t"
expect_text "$T/err" 'is being restored already'
expect 1 umbra restore latest --instant --target "$V/second"
expect_text "$T/err" "is running on the file system of '$V/second', see 'umbra status': wait for it"
[ ! -e "$V/second" ] || fail "a restore that was refused has left its target"
expect 1 umbra restore latest --target "$V/t"
expect_text "$T/err" "'$V/t' is being restored instantly: .*'umbra wait', .*'umbra cancel'"
expect 0 umbra pause
expect 0 umbra status
expect_text "$T/out" "^restore of '$V/t': filling, paused$"
expect_text "$T/out" "^  id        $(basename $NOTES/*.json .json)$"
! grep -q '^  source' "$T/out" || fail "one source is told like several: $(cat "$T/out")"
expect_text "$T/out" '^  files     .* of 44 complete'
expect_text "$T/out" 'limit 1.00 KiB/s'
expect 0 umbra status --json --target "$V/t"
expect_text "$T/out" '"paused": true'
need_pending "$V/t/many/f20" "$V/t/many/f30"
cmp "$V/t/many/f20" "$T/src/many/f20" || fail "a wrong file"

# Paths of any bytes, relative ones too; and those that are not below the target.
cd "$V/t/many"
expect 0 umbra hydrate f30
expect_text "$T/out" '^1 file is complete now$'
! is_pending f30 || fail "what was waited for is not complete"
expect 0 umbra hydrate --no-wait f31
expect_text "$T/out" '^1 file is next$'
need_pending f40
expect 0 umbra hydrate "$V/t/many/"$'odd \xff\nname' f31 .
expect_text "$T/out" 'files are complete now$'
for file in f*; do
    ! is_pending "$file" || fail "'$file' was waited for and is not complete"
done
expect 2 umbra hydrate "$V/plain"
expect_text "$T/err" "is not below '$V/t'"
cd /
expect 1 umbra hydrate "$V/t/none"

expect 0 umbra limit 2M
expect_text "$T/out" '^the background brings 2.00 MiB/s at most$'
expect 0 umbra status
expect_text "$T/out" 'limit 2.00 MiB/s'
expect 0 umbra limit none --target "$V/t"
expect_text "$T/out" '^the background has no limit$'
expect 0 umbra limit 1K --json
expect_text "$T/out" '"ok": true'
for rate in 0 1 x 2000G ""; do
    expect 2 umbra limit "$rate"
    expect_text "$T/err" "bad rate '$rate'"
done
expect 0 umbra resume
expect 0 umbra resume --json
expect_text "$T/out" '"ok": true'
status=0
timeout 3 "$UMBRA_BIN" status --watch --json >"$T/out" || status=$?
[ "$status" = 124 ] || fail "watching ended with $status"
[ "$(wc -l <"$T/out")" -ge 2 ] || fail "watching showed: $(cat "$T/out")"
status=0
timeout --signal INT 10 "$UMBRA_BIN" wait >"$T/out" 2>"$T/err" || status=$?
[ "$status" = 124 ] || fail "waiting ended with $status"
expect_text "$T/err" 'the restore goes on'

# ---- everything dies, as with a reboot ----

# They start each other again, so once is not enough; and who is left over alone makes haste, so all
# are stopped before any is killed.
kill_all() {
    local pids
    pids=$(ours)
    # shellcheck disable=SC2086 # one word each
    [ -z "$pids" ] || kill -STOP $pids 2>/dev/null || true
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
    nobody_left
}
die() { within 10 kill_all; }
die
expect 0 umbra status
expect_text "$T/out" "^restore of '$V/t': interrupted; go on with 'umbra restore --resume'"
expect_text "$T/out" '^  beware .* read as zeros$'
expect 1 umbra wait
expect_text "$T/err" "is interrupted: go on with 'umbra restore --resume'"
expect 1 umbra pause --target "$V/t"
expect 1 umbra restore latest --target "$V/t"
expect_text "$T/err" "restore of '$V/t' was interrupted: go on with 'umbra restore --resume'"
UMBRA_PASSWORD=wrong expect 1 umbra restore --resume
expect_text "$T/err" "passphrase"
nobody_left || fail "something was started with a wrong passphrase"
umount "$V"
expect 3 umbra restore --resume
expect_text "$T/err" "'$V/t': it is not mounted"
expect 0 umbra status
expect_text "$T/out" "'$V/t': not mounted"
id=$(basename $NOTES/*.json .json)
expect_text "$T/out" "^  id        $id$"
expect 0 umbra status --json
expect_text "$T/out" "\"restore\": \"$id\""
cp $NOTES/* "$T/note"
expect 0 umbra cancel --target "$V/t"
expect_text "$T/out" "^the note of restore $id is dropped"
no_notes
expect 1 umbra cancel --target "$V/t"
cp "$T/note" "$NOTES/$id.json"

# Another place, another repository path, known by nobody here: the target itself says what to do.
mkdir "$T/elsewhere"
mount -o loop "$IMAGES/$FS.img" "$T/elsewhere"
mv "$T/repo" "$T/moved"
rm $NOTES/*
expect 0 umbra --repo "$T/moved" restore --resume \
    --target "$T/elsewhere/t" --limit 2M
expect_text "$T/out" "^'$T/elsewhere/t' is usable after"
mv "$T/moved" "$T/repo"
expect 0 umbra wait --json
expect_text "$T/out" '"ended": true'
diff -r "$T/src" "$T/elsewhere/t" >"$T/diff" || fail "the trees differ: $(head -n 3 "$T/diff")"
within 10 nobody_left
no_notes
! getfattr -n trusted.umbra.restore "$T/elsewhere/t" 2>/dev/null || fail "the record is left"
umount "$T/elsewhere"
mount -o loop "$IMAGES/$FS.img" "$V"

# ---- commands in a record from elsewhere ----

rm -r "$V/t"
mkdir "$V/t"
start_limited
expect 0 umbra pause
die
record=$(getfattr --only-values --absolute-names -n trusted.umbra.restore "$V/t")
setfattr -n trusted.umbra.restore -v "${record%\}},\"sources\":[\"exec:touch $T/pwned\"]}" "$V/t"
expect 1 umbra restore --resume
expect_text "$T/err" "names a command to run"
nobody_left || fail "a command of a stranger was started"
setfattr -n trusted.umbra.restore -v '{"version":1}' "$V/t"
expect 1 umbra restore --resume
expect_text "$T/err" '"restore" is missing'
setfattr -n trusted.umbra.restore -v "$record" "$V/t"
expect 0 umbra restore --resume

# ---- a repository that cannot be reached: who reads waits ----

die
mv "$T/repo" "$T/moved"
expect 1 umbra restore --resume
expect_text "$T/err" 'cannot be reached now, who reads will wait'
timeout 60 cat "$V/t/many/f31" >"$T/read" &
reader=$!
sleep 0.5
kill -0 $reader || fail "a reader did not wait"
says_waiting() {
    umbra status >"$T/out" && grep -q "^restore of '$V/t': waiting for the repository$" "$T/out"
}
within 20 says_waiting
expect_text "$T/out" "^  degraded  .*'$T/repo'"
expect 1 umbra hydrate "$V/t/many/f31"
expect_text "$T/err" 'it waits for the repository'
expect 0 umbra limit 1K
mv "$T/moved" "$T/repo"
wait $reader || fail "a reader got an error"
cmp "$T/read" "$T/src/many/f31" || fail "a reader got something else"
expect 0 umbra restore --resume
expect_text "$T/err" 'is running already'
expect 0 umbra status
expect_text "$T/out" "^restore of '$V/t': filling"
expect_text "$T/out" 'limit 1.00 KiB/s'
! grep -q degraded "$T/out" || fail "it still waits: $(cat "$T/out")"

# ---- cancelled ----

cmp "$V/t/many/f20" "$T/src/many/f20" || fail "a wrong file after going on"
printf '\nmine\n' >>"$V/t/many/f25"
expect 0 umbra cancel
expect 0 umbra wait
within 10 nobody_left
cmp "$V/t/many/f20" "$T/src/many/f20" || fail "a file that was used is gone or wrong"
tail -n 1 "$V/t/many/f25" | grep -qx mine || fail "what an application wrote is gone"
[ ! -e "$V/t/many/f40" ] || fail "a file that nobody used is left"
no_notes

# ---- a load order that can only be read when the restore goes on ----

# One of its own: who reads a placeholder is given the files beside it, too.
rm -r "$V/t"
start_limited
expect 0 umbra pause
die
need_pending "$V/t/many/f40"
expect 1 umbra restore --resume --load-order "$V/t/many/f40"
expect_text "$T/err" "'$V/t/many/f40' is in '$V/t', which is to be restored"
nobody_left || fail "something was started with a load order from the target"
sed -i "s|\"version\":1|&,\"load_order\":\"$V/t/many/f40\"|" $NOTES/*
expect 0 umbra restore --resume
timeout 60 cmp "$V/t/many/f40" "$T/src/many/f40" || fail "a wrong file that was named as a load order"

# ---- the limit that was told last ----

record_says() { getfattr --only-values --absolute-names -n trusted.umbra.restore "$V/t" | grep -q "$1"; }
expect 0 umbra limit 3K
within 20 record_says '"limit_bytes_per_s":3072,'
service=$(ours umbra-hydrated)
kill -KILL "$service"
within 20 in_status '^  rate      .*, limit 3.00 KiB/s'
[ "$(ours umbra-hydrated)" != "$service" ] || fail "it was not started anew"
die
expect 0 umbra restore --resume
expect 0 umbra status
expect_text "$T/out" 'limit 3.00 KiB/s'
die
expect 0 umbra restore --resume --limit 2K --source "dir:$T/src" --source repo
expect 0 umbra status
expect_text "$T/out" 'limit 2.00 KiB/s'
expect_text "$T/out" "^  source    dir:$T/src: [0-9]"
expect_text "$T/out" "^  source    repo: [0-9]"
within 20 record_says '"limit_bytes_per_s":2048,'
expect 0 umbra cancel
expect 0 umbra wait
within 10 nobody_left
no_notes

# ---- ended, with nobody who waits ----

rm -r "$V/t"
expect 0 umbra restore latest --instant --target "$V/t"
within 60 nobody_left
no_notes
umount "$V"
expect 0 umbra status
expect_text "$T/out" '^no instant restore is running$'
mount -o loop "$IMAGES/$FS.img" "$V"

# ---- two at a time ----

rm -r "$V/t"
volume_make second ext4 128M
start_limited
expect 0 umbra restore latest --instant --limit 1K --target "$T/second/t"
expect 2 umbra pause
expect_text "$T/err" '2 instant restores are running: say which with --target DIR'
for target in "$V/t" "$T/second/t"; do
    expect 0 umbra hydrate "$target/many/f9"
    ! is_pending "$target/many/f9" || fail "'$target/many/f9' is not complete"
done
expect 2 umbra hydrate "$T/src"
expect_text "$T/err" 'is not below a directory that is being restored'
expect 2 umbra hydrate "$V/t/many/f10" "$T/second/t/many/f10"
expect_text "$T/err" "is not below '$V/t', which is being restored"
for target in "$V/t" "$T/second/t"; do
    expect 0 umbra cancel --target "$target"
done
within 60 nobody_left
no_notes
volume_gone "$T/second"

world_volume_gone
say "commands of instant restores: done"
