# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# What the system tests, the demo and the benchmarks share.  Sourced, after `set -euo pipefail`:
#
#     . "$(dirname "$0")/../lib/common.sh"
#     test_begin 300 "$@"          # the whole script gets 300 s
#     require_root; require rsync getfattr
#     volume_make src ext4 1G      # a loop volume, mounted on "$T/src"
#
# Everything lives below $T, a directory of its own in TMPDIR.  The script runs as a child of itself,
# under timeout(1); whatever becomes of the child, the parent unmounts all below $T and removes it.
# Only processes that the script started itself are ever killed.
#
# UMBRA_BIN names the program; without it the one in ./build of this source tree is taken.

TESTS_LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TESTS_TOP=$(cd "$TESTS_LIB/../.." && pwd)
# The distribution's own python: its os module is all that is used.
PYTHON=${PYTHON:-/usr/bin/python3}
T=
TEST_WRAPPER=() # what the child runs under, besides timeout(1)

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

fail() {
    warn "FAIL: $*"
    exit 1
}

skip() {
    warn "skipped: $*"
    exit 77
}

# What timeout(1) kills and what ends by itself come back here alike.
_supervise() {
    local limit_s=$1 pid status=0 mounted
    shift
    T=$(mktemp -d "${TMPDIR:-/tmp}/umbra-test.XXXXXX")
    UMBRA_TEST_DIR=$T timeout -k 20 "$limit_s" "${TEST_WRAPPER[@]}" bash "$0" "$@" &
    pid=$!
    # shellcheck disable=SC2064 # the pid of now
    trap "kill -TERM $pid 2>/dev/null || true" INT TERM HUP
    while kill -0 "$pid" 2>/dev/null; do
        status=0
        wait "$pid" || status=$?
    done
    trap '' INT TERM HUP
    case $status in 124 | 137) warn "FAIL: took longer than $limit_s s" ;; esac
    while read -r mounted; do
        _umount "$mounted"
    done < <(awk -v top="$T/" 'index($2, top) == 1 { print $2 }' /proc/self/mounts | tac)
    # Never into a volume that could not be unmounted.
    rm -rf --one-file-system "$T" || warn "cannot remove '$T'"
    exit "$status"
}

_umount() {
    local dir=$1 try
    for try in 1 2 3 4 5; do
        umount "$dir" 2>/dev/null && return 0
        sleep "0.$try"
    done
    warn "'$dir' is busy, detaching it lazily"
    umount -l "$dir" || true
}

_kill_jobs() {
    local status=${1:-$?} pids
    pids=$(jobs -p)
    # shellcheck disable=SC2086 # one word each
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
    exit "$status"
}

# test_begin SECONDS "$@": the first thing a script does.  Returns in the child only.
test_begin() {
    [ "${UMBRA_TEST_DIR:-}" ] || _supervise "$@"
    T=$UMBRA_TEST_DIR
    unset UMBRA_TEST_DIR
    trap _kill_jobs EXIT
    trap 'exit 143' INT TERM HUP
    umask 022
    export LC_ALL=C TZ=UTC TMPDIR="$T/tmp"
    mkdir "$TMPDIR"
}

require_root() { [ "$(id -u)" = 0 ] || skip "must be root (it mounts volumes)"; }

require() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || skip "needs '$tool'"
    done
}

# Finds the program and gives it a passphrase, a cache and no configuration of its caller.
require_umbra() {
    UMBRA_BIN=${UMBRA_BIN:-$TESTS_TOP/build/umbra}
    [ -x "$UMBRA_BIN" ] || fail "no program '$UMBRA_BIN': build first, or set UMBRA_BIN"
    UMBRA_BIN=$(cd "$(dirname "$UMBRA_BIN")" && pwd)/${UMBRA_BIN##*/}
    unset UMBRA_REPO UMBRA_PASSWORD_FILE
    export UMBRA_BIN UMBRA_PASSWORD="correct horse" UMBRA_CACHE_DIR="$T/cache"
    mkdir -p "$UMBRA_CACHE_DIR"
}

umbra() { "$UMBRA_BIN" --no-progress "$@"; }

# ---- volumes ----

# ea_inode: xattrs of up to 64 KiB.
_mkfs_ext4() { mkfs.ext4 -q -F -I 512 -O "ea_inode,$2" "$1"; }
_mount() { mount -o loop "$1" "$2"; }

# volume_make NAME FS SIZE: a file system in an image in $IMAGES or $T, on "$T/NAME".  1 when this
# kernel cannot.
volume_make() {
    local fs=$2 size=$3 image="${IMAGES:-$T}/$1.img" dir="$T/$1"
    rm -f "$image"
    truncate -s "$size" "$image"
    mkdir -p "$dir"
    case $fs in
    ext4)
        # Project ids need a kernel with quotas.
        if ! { _mkfs_ext4 "$image" quota,project && _mount "$image" "$dir" 2>/dev/null; }; then
            _mkfs_ext4 "$image" ^quota && _mount "$image" "$dir" || return 1
        fi
        ;;
    xfs) mkfs.xfs -q -f "$image" && _mount "$image" "$dir" || return 1 ;;
    btrfs) mkfs.btrfs -q -f "$image" >/dev/null && _mount "$image" "$dir" || return 1 ;;
    *) fail "unknown file system '$fs'" ;;
    esac
    [ "$fs" != ext4 ] || rmdir "$dir/lost+found"
}

# Does nothing when it is unmounted already.
volume_gone() { ! mountpoint -q "$1" || _umount "$1"; }

# ---- assertions ----

# expect STATUS COMMAND...: output goes to $T/out and $T/err.
expect() {
    local want=$1 got=0
    shift
    "$@" >"$T/out" 2>"$T/err" || got=$?
    [ "$got" = "$want" ] && return 0
    warn "'$*' exited $got, expected $want; its output:"
    tail -n 30 "$T/out" "$T/err" >&2
    exit 1
}

# expect_text FILE PATTERN (extended regular expression)
expect_text() {
    grep -Eq -- "$2" "$1" && return 0
    warn "nothing in this output matches '$2':"
    tail -n 30 "$1" >&2
    exit 1
}

# json FILE KEY...: a value out of a JSON document, e.g. json out stats read_bytes
json() {
    "$PYTHON" -c '
import json, sys
v = json.load(open(sys.argv[1]))
for k in sys.argv[2:]:
    v = v[int(k)] if isinstance(v, list) else v[k]
print(v)' "$@"
}
