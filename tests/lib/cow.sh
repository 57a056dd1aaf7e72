# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Cow volumes for tests.  Sourced after common.sh:
#
#     cow_begin 300 "$@"                  # instead of test_begin
#     cow_make NAME SIZE                  # $ORIGINS/NAME with random contents, a volume, not attached
#     umbra volume attach NAME            # /dev/umbra/NAME
#
# The script runs as the first process of pid and mount namespaces of its own, with a /run/umbra,
# /var/lib/umbra and /dev/umbra of its own: when it ends, the kernel kills all that is in them,
# umbra-cowd included.  Loop devices are everybody's, so ours are detached before that, also when
# the time is over: then the connections of the volumes are aborted first, because what waits for one
# cannot be killed.

_cow_mounts() { awk '$5 ~ "^/run/umbra/volumes/" { print $3 }' /proc/self/mountinfo; }

_cow_clean() {
    local number device
    mount -t fusectl none "$T/connections" 2>/dev/null || true
    for number in $(_cow_mounts); do
        { echo 1 >"$T/connections/${number#*:}/abort"; } 2>/dev/null || true
        umount "$T/m" "$T/s" 2>/dev/null || true
        while read -r device; do
            losetup -d "$device" 2>/dev/null || true
        done < <(losetup -nlO NAME,BACK-MAJ:MIN | awk -v number="$number" '$2 == number { print $1 }')
    done
}

_cow_end() {
    local status=$?
    trap - EXIT
    [ "$status" = 0 ] || [ ! -e "$T/log" ] || tail -n 200 "$T/log" >&2
    _cow_clean
    _kill_jobs "$status"
}

_cow_watch() {
    local limit_s=$1
    sleep "$limit_s"
    warn "FAIL: took longer than $limit_s s"
    _cow_clean
    kill -TERM "$$"
}

cow_begin() {
    local limit_s=$1 dir
    shift
    if [ -z "${UMBRA_TEST_DIR:-}" ]; then
        [ "$(id -u)" = 0 ] || skip "must be root (it mounts volumes)"
        unshare --pid --mount true 2>/dev/null || skip "cannot make namespaces"
        [ -c /dev/fuse ] || skip "needs /dev/fuse"
        # shellcheck disable=SC2034 # for test_begin
        TEST_WRAPPER=(unshare --pid --fork --kill-child --mount --mount-proc --propagation private)
    fi
    test_begin $((limit_s + 60)) "$@"
    require losetup mkfs.ext4 mkfs.xfs e2fsck xfs_repair fstrim
    require_umbra
    mkdir "$T/connections" "$T/origins" "$T/storage" "$T/m" "$T/s"
    for dir in /run/umbra /var/lib/umbra /dev/umbra; do
        mkdir -p "$dir"
        mount -t tmpfs -o mode=0700 umbra-test "$dir"
    done
    trap _cow_end EXIT
    _cow_watch "$limit_s" &
    ORIGINS=$T/origins
    # shellcheck disable=SC2034 # for tests
    BLOCK_LOAD=$TESTS_LIB/block-load.py
}

# cow_make NAME SIZE [OPTION]...
cow_make() {
    local name=$1 size=$2
    shift 2
    truncate -s "$size" "$ORIGINS/$name"
    expect 0 umbra volume create "$name" -o "$ORIGINS/$name" -s "$T/storage/$name" "$@"
}

# cow_attach NAME: as umbra volume attach does it, but what the daemon says goes to $T/log
cow_attach() {
    "$(dirname "$UMBRA_BIN")/umbra-cowd" --foreground "$1" 2>>"$T/log" &
    await "$1 is not attached" cow_value "$1" pid
}

# cow_value NAME KEY...
cow_value() {
    local name=$1
    shift
    umbra --json volume show "$name" >"$T/shown" 2>"$T/shown.err" && json "$T/shown" "$@"
}

# await WORDS COMMAND...: until it succeeds
await() {
    local words=$1 try
    shift
    for try in $(seq 600); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    fail "$words: not within $((try / 10)) s"
}

sum() { timeout 300 sha256sum <"$1"; }
