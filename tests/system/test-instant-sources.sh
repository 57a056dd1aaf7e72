#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2119
#
# Instant restores from a repository that has lost something: what other sources have comes back, what
# nobody has is an error, of that range only, and named.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 400 "$@"

# The pack that is damaged has this file, and nothing else.
LARGE=dir/large
echo "$T/src/$LARGE 12000000" | world_files
expect 0 umbra repo init
expect 0 umbra backup "$T/src"
PACK=$(cd "$UMBRA_REPO" && find packs -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)

first_files | world_files
world_files <<EOL
$T/src/dir/middle 3000000
$T/src/dir/small 50000
EOL
# A name that cannot be said without escapes.
(cd "$T/src/dir" && seq 100000 >$'blank \\ and \xff ')
expect 0 umbra --json backup "$T/src"
BACKUP=$(json "$T/out" id)
GOOD_REPO=$UMBRA_REPO

# ---- what is broken ----

# A copy of the repository, in which one byte of a pack is another.
damaged_repo() {
    local pack size byte
    UMBRA_REPO=$T/damaged
    cp -a "$GOOD_REPO" "$UMBRA_REPO"
    pack=$UMBRA_REPO/$PACK
    size=$(stat -c %s "$pack")
    byte=$(od -An -tu1 -j $((size / 2)) -N 1 "$pack")
    chmod u+w "$pack"
    # shellcheck disable=SC2059 # that is the point
    printf "$(printf '\\x%02x' $((byte ^ 1)))" |
        dd of="$pack" bs=1 seek=$((size / 2)) conv=notrunc status=none
}

# One in which the pack is missing.
lost_repo() {
    UMBRA_REPO=$T/lost
    cp -a "$GOOD_REPO" "$UMBRA_REPO"
    rm -f "$UMBRA_REPO/$PACK"
}

# A mirror of which every file has changed somewhere.
make_stale_mirror() {
    local file
    cp -a "$T/src" "$T/stale"
    find "$T/stale" -type f -print0 | while IFS= read -r -d '' file; do
        printf changed | dd of="$file" bs=1 seek=30000 conv=notrunc status=none
    done
}

# A command that gives what is in $T/src, and fails in all ways now and then.
make_command() {
    cat >"$T/command" <<'EOL'
#!/bin/bash
MIRROR=$1 count=0
while IFS= read -r question; do
    read -r _ _ offset length _ <<<"$question"
    printf -v path %b "${question#* * * * }"
    count=$((count + 1))
    case $count in
    5) echo "later it is busy" && continue ;;
    9) exit 1 ;;
    12) echo "what?" && continue ;;
    esac
    echo "ok $length"
    tail -c "+$((offset + 1))" "$MIRROR/$path" | head -c "$length"
done
EOL
    chmod +x "$T/command"
}

# ---- what is looked at ----

read_blocks() {
    checks=$((checks + 1))
    timeout -k 1 120 "$PYTHON" "$TESTS_LIB/read-blocks.py" "$V/plain" "$V/t" "$@" \
        >"$T/blocks" 2>"$T/blocks.err" ||
        wrong "cannot read all: $(tail -n 1 "$T/blocks.err")"
}

# All but directory 0, so that there is still a restore that can be asked.
all_readable() {
    read_blocks 0
    [ ! -s "$T/blocks" ] || wrong "cannot be read: $(head -n 3 "$T/blocks")"
}

status_says() {
    checks=$((checks + 1))
    status_of "$1" >"$T/said" || wrong "no status"
    grep -Eq -- "$2" "$T/said" || wrong "status says of $1: $(cat "$T/said")"
}

commands_running() { pgrep -f "^/bin/bash $T/command" | wc -l; }

# ---- the tests ----

# 512 KiB at most have gone with the frame: 32 blocks, and two that it has a part of.
only_the_damaged_range_is_lost() {
    MODE=36
    restore_start_paused whole=32768
    read_blocks
    [ "$(wc -l <"$T/blocks")" = 1 ] || fail "runs of blocks that cannot be read: $(cat "$T/blocks")"
    read -r file _ count <"$T/blocks"
    [ "$file $((count <= 34))" = "$LARGE 1" ] || wrong "$count blocks of '$file' cannot be read"
    status_says problems "'path': '[^']*$LARGE'.*damaged"
    status_says problem_count "^1$"
    ask '{"do":"limit","bytes_per_s":0}' && ask '{"do":"resume"}'
    wait_for_failed_file
    ! is_pending "$V/t/dir/small" || wrong "the others are not restored"
}

# The background gets everything but that file.
wait_for_failed_file() {
    local i
    for ((i = 0; i < 400; i++)); do
        [ "$(status_of files_queued) $(status_of files_failed)" != "1 1" ] || return 0
        sleep 0.05
    done
    wrong "the background does not come to an end: $(cat "$T/answer")"
}

a_mirror_stands_in() {
    MODE=37
    restore_start_paused whole=32768 source="dir:$T/src"
    all_readable
    status_says degraded "source 'dir:$T/src' stands in: .*pack"
    status_says problem_count "^0$"
    restore_finish
    compare_trees
}

a_mirror_alone_is_enough() {
    MODE=37
    restore_start source="dir:$T/src"
    restore_finish
    compare_trees
}

stale_mirror_and_command() {
    MODE=37
    make_command
    restore_start_paused whole=32768 deadline=60 source="dir:$T/stale" source="exec:exec $T/command $T/src"
    all_readable
    status_says sources "exec:.*'bytes': [1-9]"
    [ "$(commands_running)" -gt 0 ] || wrong "no command was started"
    kill_hydrated
    restore_finish
    compare_trees
    [ "$(commands_running)" = 0 ] || wrong "commands are left"
}

kill_hydrated() {
    local pid
    pid=$(ours umbra-hydrated)
    kill -KILL "$pid"
    all_readable
}

refused_sources() {
    MODE=refused
    # A subvolume has a device number of its own.
    [ "$FS" != btrfs ] || btrfs -q subvolume create "$V/subvolume"
    mkdir -p "$V/subvolume"
    for spec in "dir:$V/subvolume" "dir:$V/t" "dir:$T/nothing"; do
        checks=$((checks + 1))
        if "$INSTANT" start "$PROGRAMS" "$UMBRA_REPO" "$BACKUP" "$V/t" 7e57000000000abc \
            source="$spec" >"$T/start" 2>&1; then
            wrong "'$spec' is taken for a source"
        fi
        grep -q "source '$spec'" "$T/start" || wrong "'$spec' is refused with: $(cat "$T/start")"
        [ -z "$(ls -A "$V/t")" ] || wrong "'$spec' leaves something behind"
        while [ -n "$(ours)" ]; do sleep 0.05; done
    done
}

make_stale_mirror
for fs in $INSTANT_FS; do
    for run in "damaged_repo only_the_damaged_range_is_lost" "damaged_repo a_mirror_stands_in" \
        "lost_repo a_mirror_stands_in" "lost_repo a_mirror_alone_is_enough" \
        "lost_repo stale_mirror_and_command" "damaged_repo refused_sources"; do
        world_volume "$fs" || { warn "no $fs here"; continue 2; }
        rm "$V/plain/other"
        ${run% *}
        ${run#* }
        world_volume_gone
        rm -rf "$UMBRA_REPO"
    done
done
UMBRA_REPO=$GOOD_REPO
world_end
