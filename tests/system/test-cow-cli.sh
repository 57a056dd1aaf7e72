#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# umbra volume: each command, and all that it has to refuse, with its words and exit status.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# Volumes and daemons of our own, and nobody else's.
# shellcheck disable=SC2034 # for test_begin
TEST_WRAPPER=(unshare --pid --fork --kill-child --mount --mount-proc --propagation private)
test_begin 900 "$@"
require_root
require mkfs.ext4 mount.fuse3 losetup
require_umbra
mkdir -p /var/lib/umbra /run/umbra
mount -t tmpfs -o mode=0700 umbra-test /var/lib/umbra
mount -t tmpfs -o mode=0700 umbra-test /run/umbra
configs=/var/lib/umbra/volumes
cd "$T"

loops=()
clean_up() {
    local status=$? loop config
    trap - EXIT
    umount "$T/mnt" "$T/mnt2" 2>/dev/null || true
    for config in "$configs"/*.json; do
        config=${config##*/}
        umbra --quiet volume detach "${config%.json}" 2>/dev/null || true
    done
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

# The last one that was made; once only: then it may be somebody else's.
loop_free() {
    losetup -d "$loop"
    unset 'loops[-1]'
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
loop_free

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

# ---- a volume that is attached ----

vol=cli-${T##*.} # its name in /dev/umbra is there for all to see
dev=/dev/umbra/$vol
mkdir -p mnt mnt2
rm -rf st
truncate -s 0 origin
truncate -s 256M origin
expect 0 umbra volume create "$vol" --origin origin --storage st
expect 0 umbra volume attach --front fuse "$vol"
[ "$(cat "$T/out")" = "$dev" ] || fail "attach prints: $(cat "$T/out")"
[ "$(blockdev --getsize64 "$dev")" = 268435456 ] || fail "the device has another size"
refuses 1 "volume '$vol' is attached already" attach "$vol"
refuses 1 "volume '$vol' is attached: .* comes first" delete "$vol"
refuses 1 "origin '.*/origin' is that of volume '$vol'" create two -o origin -s st2

# fs_say TEXT: into a file of the file system on the volume
fs_say() {
    echo "$1" >mnt/file
    sync -f mnt
}

mkfs.ext4 -q "$dev"
mount "$dev" mnt
fs_say before
expect 0 umbra volume shadow "$vol" --label "the first"
expect_text "$T/out" "^$vol@1  $dev@1  writes held for [0-9.]+ (us|ms|s)\$"
fs_say after
expect 0 umbra --json volume shadow "$vol" --writable
[ "$(json "$T/out" name) $(json "$T/out" shadow device)" = "$vol@2 $dev@2" ] || fail "$(cat "$T/out")"
[ "$(json "$T/out" shadow writable)" = True ] || fail "shadow 2 is not writable"
fs_say later

mount -o ro,noload "$dev@1" mnt2
[ "$(cat mnt2/file)" = before ] || fail "shadow 1 has: $(cat mnt2/file)"
refuses 1 "in use" delete "$vol@1"
refuses 1 "in use" detach "$vol"
umount mnt2
mount "$dev@2" mnt2
[ "$(cat mnt2/file)" = after ] || fail "shadow 2 has: $(cat mnt2/file)"
echo "its own" >mnt2/file
refuses 1 "in use" seal "$vol@2"
umount mnt2
expect 0 umbra volume seal "$vol@2"
refuses 1 "sealed already" seal "$vol@2"
mount -o ro,noload "$dev@2" mnt2
[ "$(cat mnt2/file)" = "its own" ] || fail "shadow 2 has: $(cat mnt2/file)"
umount mnt2
[ "$(cat mnt/file)" = later ] || fail "the volume has: $(cat mnt/file)"
! dd if=/dev/zero of="$dev@2" bs=4096 count=1 oflag=direct 2>/dev/null || fail "a sealed shadow was written to"

expect 0 umbra volume show "$vol"
expect_text "$T/out" "^volume '$vol': attached\$"
expect_text "$T/out" "^  origin +$T/origin, 256 MiB\$"
expect_text "$T/out" "^  device +$dev, which is /dev/loop[0-9]+ \(fuse\)\$"
expect_text "$T/out" "^  holds +2 shadows taken; writes were held"
expect_text "$T/out" "^  shadow +1  20.*  $dev@1  read-only  the first\$"
expect_text "$T/out" "^  shadow +2  20.*  $dev@2  read-only\$"
expect 0 umbra volume list
expect_text "$T/out" "^$vol +attached +256 MiB +[0-9].* 25.6 MiB +2  $dev +$T/origin\$"
expect 0 umbra --json volume show "$vol"
[ "$(json "$T/out" shadows 0 device)" = "$dev@1" ] || fail "$(cat "$T/out")"
[ "$(json "$T/out" shadows 0 label)" = "the first" ] || fail "$(cat "$T/out")"
worker=$(json "$T/out" pid)

refuses 1 "no shadow 7" seal "$vol@7"
refuses 1 "no shadow 7" delete "$vol@7"
refuses 1 "no shadow 7" changed "$vol" --since 7
refuses 1 "no shadow 7" --json changed "$vol" --since 7

# Killed, it comes back, and nobody who uses the volume takes notice.
kill -KILL "$worker"
fs_say "after the kill"
until expect 0 umbra --json volume show "$vol" && [ "$(json "$T/out" restarts)" = 1 ]; do sleep 0.1; done
[ "$(json "$T/out" pid)" != "$worker" ] || fail "the process is the same"
[ "$(json "$T/out" shadows 1 number)" = 2 ] || fail "$(cat "$T/out")"

# Stopped, it keeps nobody waiting who has enough of it.
worker=$(json "$T/out" pid)
kill -STOP "$worker"
expect 124 timeout 2 "$UMBRA_BIN" volume show "$vol"
kill -CONT "$worker"
expect 0 umbra volume show "$vol"

umount mnt
expect 0 umbra volume delete "$vol@1"
[ ! -e "$dev@1" ] || fail "the device of a deleted shadow is there"
expect 0 umbra volume detach "$vol"
if [ -e "$dev" ] || [ -e "$dev@2" ]; then fail "devices are left"; fi
refuses 1 "is not attached" detach "$vol"
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^volume '$vol': detached\$"

# Detached, the origin is what it always was; one that is in use is not attached.
loop_make origin
mount -o ro,noload "$loop" mnt
[ "$(cat mnt/file)" = "after the kill" ] || fail "the origin has: $(cat mnt/file)"
refuses 1 "origin '.*/origin' is in use: $loop shows it" attach "$vol"
umount mnt
loop_free

# ---- what changed, and the room for it ----

expect 0 umbra volume attach "$vol"
expect 0 umbra volume delete "$vol@2"
expect 0 umbra volume resize "$vol" --max-size 100%
expect 0 umbra volume shadow "$vol"
# More extents than one answer has: every other block.
"$PYTHON" -c '
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
for i in range(5000):
    os.pwrite(fd, b"x" * 4096, i * 32768)
os.fsync(fd)' "$dev"
expect 0 umbra volume changed "$vol" --since 3
"$PYTHON" -c 'for i in range(5000): print(i * 32768, 16384)' | cmp - "$T/out" ||
    fail "changed prints other extents: $(head "$T/out")"
expect 0 umbra volume shadow "$vol"
dd if=/dev/zero of="$dev" bs=16384 seek=16383 count=1 oflag=direct 2>/dev/null
expect 0 umbra --json volume changed "$vol" --since 3 --until 4
"$PYTHON" -c '
import json, sys
got = json.load(open(sys.argv[1]))
assert got["since"] == 3 and got["until"] == 4
assert got["extents"] == [[i * 32768, 16384] for i in range(5000)]' "$T/out"
expect 0 umbra volume changed "$vol" --since 4
[ "$(cat "$T/out")" = "268419072 16384" ] || fail "since the last shadow: $(cat "$T/out")"

refuses 1 "a diff area has from 1 to" resize "$vol" --max-size 1
expect 0 umbra volume resize "$vol" --max-size 1M
expect_text "$T/out" "^at most 1.00 MiB are kept from now on\$"
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^  fault +20.*  shadow 3 is gone: the storage was made smaller\$"
expect_text "$T/out" "^  shadow +4 "
dd if=/dev/urandom of="$dev" bs=64K count=32 oflag=direct 2>/dev/null
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^  fault +20.*  shadow 4 is gone: the storage was full\$"
expect_text "$T/out" "^  when full  the oldest shadow is deleted\$"

# ---- shadows that are protected ----

expect 0 umbra volume shadow "$vol"
expect 0 umbra volume protect "$vol" shadows
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^  when full  writes fail\$"
! dd if=/dev/urandom of="$dev" bs=64K count=32 oflag=direct 2>"$T/err" || fail "writes go on"
expect_text "$T/err" "No space left on device"
refuses 1 "shadows are protected" resize "$vol" --max-size 512K
expect 0 umbra volume protect "$vol" writes
dd if=/dev/urandom of="$dev" bs=64K count=32 oflag=direct 2>/dev/null
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^  fault +20.*  shadow 5 is gone: the storage was full\$"

# ---- what cannot be attached ----

expect 0 umbra volume shadow "$vol"
dd if=/dev/urandom of="$dev" bs=64K count=1 seek=2 oflag=direct 2>/dev/null
expect 0 umbra volume detach "$vol"

# cannot PATTERN: it is not attached, with these words
cannot() {
    refuses 1 "cannot attach volume '$vol': .*$1" attach "$vol"
    [ ! -e "$dev" ] || fail "there is a device"
}
mv origin away
cannot "cannot find origin '.*/origin': No such file"
cp --sparse=always away origin
cannot "another origin"
mv away origin
truncate -s 300M origin
cannot "had 268435456 bytes, and has 314572800 now"
truncate -s 256M origin
mv st away
cannot "storage.*'.*/st'.*: No such file"
mkdir st
cannot "No such file"
rmdir st
mv away st

cp -r st whole
# poke FILE OFFSET HEX
poke() {
    "$PYTHON" -c '
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    f.write(bytes.fromhex(sys.argv[3]))' "$@"
}
cp st/volume header
poke st/volume 12 0200
cannot "version 2, and this program knows 1"
cp header st/volume
poke st/volume 40 ff
cannot "header of the volume is damaged"
cp header st/volume
poke st/volume 4100 00000000
poke st/volume 8200 00000000
cannot "both roots of the volume are damaged"
cp header st/volume
cp st/log log
dd if=/dev/zero of=st/log bs=4096 count=1 conv=notrunc status=none
dd if=/dev/zero of=st/log bs=4096 seek=$(($(stat -c %s log) / 4096 - 1)) count=1 conv=notrunc status=none
cannot "log"
cp log st/log
if [ ! -e /dev/ublk-control ]; then
    refuses 1 "cannot attach volume '$vol': .*ublk" attach "$vol" --front ublk
fi

# Damage of the map is the end of the shadows, and is told; so are writes to the origin meanwhile,
# if the volume was detached in good order, which what was tried above has come to nothing of.
"$PYTHON" -c '
import sys
f = open(sys.argv[1], "r+b")
data = bytearray(f.read())
for i in range(0, len(data), 4096):
    data[i + 100] ^= 1
f.seek(0)
f.write(data)' st/map
expect 0 umbra volume attach "$vol"
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^  fault +20.*  shadow 6 is gone: a page of the map is damaged\$"
expect 0 umbra volume detach "$vol"
rm -r st
mv whole st
poke origin 1000 ff
expect 0 umbra volume attach "$vol"
expect 0 umbra volume show "$vol"
expect_text "$T/out" "^  fault +20.*  shadow 6 is gone: the origin was changed while .* detached\$"
expect 0 umbra volume detach "$vol"

expect 0 umbra volume delete "$vol"
[ ! -e st ] || fail "the storage is left"
[ "$(stat -c %s origin)" = 268435456 ] || fail "the origin has changed"

say "cow volumes: done"
