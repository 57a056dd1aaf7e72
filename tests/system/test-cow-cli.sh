#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# umbra volume: each command, and all that it has to refuse, with its words and exit status.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# Volumes of our own, and nobody else's.
# shellcheck disable=SC2034 # for test_begin
TEST_WRAPPER=(unshare --mount --propagation private)
test_begin 600 "$@"
require_root
require mkfs.ext4 losetup
require_umbra
mkdir -p /var/lib/umbra /run/umbra
mount -t tmpfs -o mode=0700 umbra-test /var/lib/umbra
mount -t tmpfs -o mode=0700 umbra-test /run/umbra
configs=/var/lib/umbra/volumes
cd "$T"

loops=()
clean_up() {
    local status=$? loop
    trap - EXIT
    umount "$T/mnt" 2>/dev/null || true
    for loop in "${loops[@]}"; do
        losetup -d "$loop" 2>/dev/null || true
    done
    _kill_jobs "$status"
}
trap clean_up EXIT

# loop_make FILE: a loop device of it, in $loop
loop_make() {
    loop=$(losetup --find --show "$1")
    loops+=("$loop")
    blockdev --setrw "$loop" # whoever had it before may have left it read-only
}

# refuses STATUS PATTERN ARGUMENTS...: umbra volume says so in one line, and prints nothing
refuses() {
    local status=$1 pattern=$2
    shift 2
    expect "$status" umbra volume "$@"
    expect_text "$T/err" "$pattern"
    [ "$(wc -l <"$T/err")" = 1 ] || fail "'volume $*' says more than a line: $(cat "$T/err")"
    [ ! -s "$T/out" ] || fail "'volume $*' prints: $(cat "$T/out")"
}

# nothing_left: a creation that was refused has left nothing
nothing_left() {
    [ ! -e st2 ] || fail "a storage directory is left"
    [ ! -e "$configs/two.json" ] || fail "a configuration is left"
}

truncate -s 64M origin other odd
truncate -s 1000 odd
: >empty

# ---- a volume that is not attached ----

expect 0 umbra volume list
[ "$(wc -l <"$T/out")" = 1 ] || fail "there are volumes: $(cat "$T/out")"
expect 0 umbra volume create one --origin origin --storage st --max-size 25%
expect_text "$T/out" "^volume 'one' of 64.0 MiB, at most 16.0 MiB kept"
[ "$(stat -c %a st "$configs/one.json" | xargs)" = "700 600" ] || fail "others may read it"
expect 0 umbra volume list
expect_text "$T/out" "^one +detached .* $T/origin\$"
expect 0 umbra volume show one
expect_text "$T/out" "^volume 'one': detached\$"
expect_text "$T/out" "^  storage +$T/st\$"
expect 0 umbra --json volume show one
[ "$(json "$T/out" state) $(json "$T/out" origin)" = "detached $T/origin" ] || fail "$(cat "$T/out")"
expect 0 umbra --json volume list
[ "$(json "$T/out" volumes 0 name)" = one ] || fail "$(cat "$T/out")"

# ---- what cannot be made ----

refuses 1 "there is a volume 'one' already" create one -o other -s st2
refuses 1 "origin '.*/origin' is that of volume 'one'" create two -o origin -s st2
ln -s origin link
refuses 1 "is that of volume 'one'" create two -o link -s st2
refuses 1 "cannot find 'missing': No such file" create two -o missing -s st2
refuses 1 "'/dev/null' is neither a block device nor a regular file" create two -o /dev/null -s st2
refuses 1 "'$T' is neither" create two -o . -s st2
refuses 1 "has 1000 bytes, which is no multiple of 512" create two -o odd -s st2
refuses 1 "origin '.*/empty' is empty" create two -o empty -s st2
refuses 1 "cannot use storage '.*/st': Directory not empty" create two -o other -s st
refuses 1 "cannot use storage '.*/odd': Not a directory" create two -o other -s odd
refuses 1 "cannot make storage 'no/where': No such file" create two -o other -s no/where
refuses 1 "a diff area has from 1 to [0-9]+ blocks" create two -o other -s st2 --max-size 1K
nothing_left
refuses 2 "'no/name' is no name of a volume" create no/name -o other -s st2
refuses 2 "'' is no name of a volume" create '' -o other -s st2
refuses 2 "is no name of a volume" create "$(printf '%065d' 0)" -o other -s st2
refuses 2 "bad value '0' for --max-size" create two -o other -s st2 --max-size 0
refuses 2 "bad value '0%' for --max-size" create two -o other -s st2 --max-size 0%
refuses 2 "bad value '10 %' for --max-size" create two -o other -s st2 --max-size '10 %'
refuses 2 "bad value for --block-size" create two -o other -s st2 --block-size 5K
refuses 2 "bad value '128K' for --block-size" create two -o other -s st2 --block-size 128K
refuses 2 "'all' is nothing to protect" create two -o other -s st2 --protect all
refuses 2 "--storage is missing" create two -o other
refuses 2 "--origin is missing" create two -s st2
nothing_left

loop_make other
refuses 1 "origin '.*/other' is in use: $loop shows it" create two -o other -s st2
mkfs.ext4 -q "$loop"
mkdir mnt
mount "$loop" mnt
refuses 1 "origin '$loop' is in use" create two -o "$loop" -s st2
refuses 1 "storage '.*' lies on origin '$loop'" create two -o "$loop" -s mnt/st2
refuses 1 "storage '.*' lies on origin '.*/other'" create two -o other -s mnt/st2
[ ! -e mnt/st2 ] || fail "a storage directory is left"
umount mnt
blockdev --setro "$loop"
refuses 1 "origin '$loop' cannot be written" create two -o "$loop" -s st2
blockdev --setrw "$loop"
expect 0 umbra volume create two --origin "$loop" --storage st2 --quiet
[ ! -s "$T/out" ] || fail "--quiet prints: $(cat "$T/out")"
expect 0 umbra volume delete two
nothing_left
losetup -d "$loop"

# Root is asked for before anything is done.
if command -v setpriv >/dev/null; then
    expect 1 setpriv --reuid 65534 --regid 65534 --clear-groups "$UMBRA_BIN" volume list
    expect_text "$T/err" "cow volumes need root"
fi

# ---- names and numbers ----

refuses 1 "there is no volume 'none'" show none
refuses 1 "there is no volume 'none'" attach none
refuses 1 "there is no volume 'none'" shadow none
refuses 1 "there is no volume 'none'" delete none
refuses 1 "volume 'one' is not attached: 'umbra volume attach one'" shadow one
refuses 1 "volume 'one' is not attached" detach one
refuses 1 "volume 'one' is not attached" seal one@1
refuses 1 "volume 'one' is not attached" delete one@1
refuses 1 "volume 'one' is not attached" resize one --max-size 1G
refuses 1 "volume 'one' is not attached" protect one shadows
refuses 1 "volume 'one' is not attached" changed one --since 1
refuses 2 "'one' is no shadow: expected NAME@N" seal one
refuses 2 "'one@0' is no shadow" seal one@0
refuses 2 "'one@4294967296' is no shadow" seal one@4294967296
refuses 2 "'one@1x' is no shadow" delete one@1x
refuses 2 "'@1' is no shadow" delete @1
refuses 2 "--since is missing" changed one
refuses 2 "--until has to be later" changed one --since 2 --until 2
refuses 2 "--max-size is missing" resize one
refuses 2 "'off' is nothing to protect" protect one off
refuses 2 "a label has at most 64 bytes" shadow one --label "$(printf '%065d' 0)"
refuses 2 "bad value 'nbd' for --front" attach one --front nbd

# ---- bad configurations ----

cp "$configs/one.json" "$configs/three.json"
refuses 1 "three.json: .* is that of 'one'" show three
echo '{"version":2}' >"$configs/three.json"
refuses 1 "three.json: .* has version 2, newer than this program" show three
echo 'no JSON' >"$configs/three.json"
refuses 1 "three.json: .* is not a JSON object" attach three
expect 3 umbra --json volume list
expect_text "$T/err" "cannot tell of volume 'three'"
[ "$(json "$T/out" volumes 0 state) $(json "$T/out" volumes 1 state)" = "detached unreadable" ] ||
    fail "$(cat "$T/out")"
rm "$configs/three.json"

# ---- delete ----

flock --no-fork "$configs/one.json" sleep 600 &
holder=$!
until ! flock --nonblock "$configs/one.json" true; do sleep 0.1; done
refuses 1 "volume 'one' is attached: 'umbra volume detach one' comes first" delete one
refuses 1 "volume 'one' is attached already" attach one
kill "$holder"
wait "$holder" || true
: >st/mine
expect 0 umbra --json volume delete one
[ "$(json "$T/out" deleted)" = one ] || fail "$(cat "$T/out")"
[ "$(ls st)" = mine ] || fail "left in the storage: $(ls st)"
[ "$(stat -c %s origin)" = 67108864 ] || fail "the origin has changed"
refuses 1 "there is no volume 'one'" delete one

say "cow volumes: done"
