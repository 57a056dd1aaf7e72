#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# demo.sh: what umbra does, shown on real files (`make demo`).
#
# A volume with a Linux source tree, /usr/share and everything odd that a file can be is backed up,
# wrecked, restored, and compared byte for byte and attribute for attribute with what it was, by tools
# that are no part of umbra.  Then the volume is lost, with a PostgreSQL cluster on it, and is back at
# work while its data is still streaming in.  Volumes are loop devices below a temporary directory; all
# is gone at the end, whatever happens.  Needs root, about 10 GB of temporary space and five minutes.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/postgresql.sh
. "$(dirname "$0")/lib/postgresql.sh"
test_begin 1200 "$@"
require_root
require mkfs.ext4 rsync getfattr getfacl lsattr getcap
require_umbra
require_postgresql

LINUX_TAR=${LINUX_TAR:-/usr/src/linux-source-6.1.tar.xz}
SHARE_MIB=300 # of /usr/share at most
FILES_MIN=80000
started_s=$SECONDS
bold='' plain=''
[ ! -t 1 ] || { bold=$'\e[1m' plain=$'\e[0m'; }

title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

# Shows a command as one would type it, then what it says.
run() {
    local shown
    printf -v shown '%q ' "$@"
    printf '%s$ %s%s\n' "$bold" "${shown//\\=/=}" "$plain"
    "$@"
}

umbra() { "$UMBRA_BIN" "$@"; }

# Written back first: only then is it settled what is a hole.
dump() { sync -f "$1" && "$PYTHON" "$TESTS_LIB/fsdump.py" dump "$1" >"$2"; }

# Top-level directories of /usr/share, in order, as long as they fit.
copy_share() {
    local name size left=$((SHARE_MIB << 10))
    mkdir "$1"
    for name in /usr/share/*; do
        size=$(du -sk "$name" | cut -f1)
        [ "$size" -le "$left" ] || continue
        left=$((left - size))
        cp -a "$name" "$1"
    done
}

populate() {
    mkdir "$tree"
    say "a Linux source tree, from $LINUX_TAR"
    tar -xf "$LINUX_TAR" -C "$tree"
    say "a copy of /usr/share (at most $SHARE_MIB MB of it)"
    copy_share "$tree/share"
    say "fifos, sockets, devices, hard links, sparse files (one of 1 TiB), ACLs, capabilities, xattrs,"
    say "chattr flags, all 4096 modes, times from 1901 to 2446, names of any bytes, a path of 6000 bytes"
    "$PYTHON" "$TESTS_LIB/torture.py" make "$tree/odd" --many 20000 2>"$T/left-out"
    sed 's/^/    /' "$T/left-out"
    files=$(find "$tree" -type f | wc -l)
    say "$files files, $(find "$tree" | wc -l) entries, $(du -sm "$tree" | cut -f1) MiB"
    [ "$files" -ge "$FILES_MIN" ] || fail "only $files files: '$LINUX_TAR' must hold a whole source tree"
}

backup_twice() {
    run umbra repo init
    run umbra backup "$tree" --tag before
    title "Once more: nothing has changed, so nothing is read"
    run umbra backup "$tree"
    run umbra list
    run umbra repo stats
}

look_around() {
    local makefile
    makefile=$(echo "$tree"/linux-source-*/Makefile)
    run umbra ls "latest:${makefile%/*}/kernel/time" | sed -n 1,12p
    run umbra restore "latest:$makefile" --target "$T/one-file"
    run cmp "$makefile" "$T/one-file/Makefile"
}

wreck() {
    say "deletes, truncates and empties files, flips bytes behind the back of the mtime, changes modes,"
    say "owners, times, xattrs and flags, breaks hard links, puts symlinks, fifos and directories in"
    say "the place of files and files in that of directories, adds strays:"
    "$PYTHON" "$TESTS_LIB/torture.py" wreck "$tree" --seed "${SEED:-7}" --share 0.03
    run umbra backup "$tree" --tag wrecked
    run umbra diff before wrecked | tail -n 6
}

# The independent comparer needs two trees: the original is what the dump and the untouched copy say.
compare() {
    dump "$tree" "$T/after.dump"
    say "fsdump.py: every byte, mode, owner, time in ns, xattr, flag, link and hole of" \
        "$(wc -l <"$T/after.dump") entries against what it wrote down before:"
    "$PYTHON" "$TESTS_LIB/fsdump.py" diff "$T/before.dump" "$T/after.dump" ||
        fail "the restored tree is not what it was"
    say "    no difference"
    say "rsync --checksum, getfattr, getfacl, lsattr, getcap: the odd part against a second restore:"
    "$TESTS_LIB/compare.sh" --fast "$tree/odd" "$T/disk/second" || fail "the two restores differ"
    say "rsync -aHAXS --checksum --delete -n, the source tree against a fresh unpacking:"
    mkdir "$T/disk/fresh"
    tar -xf "$LINUX_TAR" -C "$T/disk/fresh"
    # Without directory times: tar does not give them all, so two unpackings differ; fsdump.py has them.
    rsync -aHASniO --checksum --delete "$T/disk/fresh/" "$tree/" --include='/linux-source-*' \
        --exclude='/*' >"$T/rsync"
    [ ! -s "$T/rsync" ] || { head "$T/rsync"; fail "rsync finds a difference"; }
    say "    no difference"
}

now_ms() { date +%s%3N; }

run_pg() {
    printf '%s$ %s%s\n' "$bold" "$*" "$plain"
    pg "$@"
}

nothing_left() {
    local marks
    marks=$(getfattr -R -h -m '^trusted\.umbra\.' --absolute-names "$disk" 2>/dev/null | grep -c '^trusted' || true)
    [ "$marks" = 0 ] || fail "$marks marks are left"
    say "marks on files: none"
    ! pgrep -f "umbra-filterd.* $disk " >/dev/null || fail "a process is left"
    say "processes: none"
}

# What the kernel asks somebody for costs microseconds for each read; a native file does not.
reading_costs() {
    local file other=$T/vault/plain
    file=$(find "$disk/postgresql/base" -type f -size +64M | head -n 1)
    cp "$file" "$other"
    say "reading 4 KiB a million times, restored file and one that umbra never saw (seconds):"
    "$PYTHON" "$TESTS_LIB/read-cost.py" "$file" "$other" | sed 's/^/    /'
    rm "$other"
}

[ -f "$LINUX_TAR" ] || fail "needs '$LINUX_TAR' (Debian package linux-source-6.1; tools/install-deps demo)"
title "Two volumes (ext4): one to work on, one to keep backups on"
volume_make disk ext4 9G
volume_make vault ext4 7G
disk=$T/disk
tree=$disk/tree
export UMBRA_REPO="$T/vault/repo"
say "$T/disk and $T/vault"

title "The files"
populate
dump "$tree" "$T/before.dump"

title "Backup: deduplicated, compressed, encrypted"
backup_twice

title "Looking into it"
look_around

title "Disaster"
wreck

title "Restore"
run umbra restore before --target "$tree" --delete --numeric-owner
run umbra restore "before:$tree/odd" --target "$T/disk/second" --numeric-owner

title "Is it what it was?"
compare

title "Is the repository sound?"
run umbra check --read-data

title "A database on the same volume"
chattr -R -f -i -a "$disk/second" >/dev/null 2>&1 || true
rm -rf "$disk/second" "$disk/fresh"
pg_make "$disk/postgresql" 50
say "PostgreSQL, pgbench scale 50: $(du -sm "$disk/postgresql" | cut -f1) MiB"
dump "$tree" "$T/before.dump"
run umbra backup "$disk" --tag evening

title "The disaster: the volume is lost"
run umount "$disk"
rm "$T/disk.img"
truncate -s 9G "$T/new-disk.img"
run mkfs.ext4 -q -F -I 512 -O ea_inode "$T/new-disk.img"
run mount -o loop "$T/new-disk.img" "$disk"
rmdir "$disk/lost+found"

title "Instant restore"
run umbra restore "evening:$disk" --target "$disk" --instant --numeric-owner
since_ms=$(now_ms)
say "PostgreSQL starts, and answers:"
pg_start
run_pg psql -Atc "select count(*), sum(bbalance) from pgbench_branches"
say "    $(($(now_ms) - since_ms)) ms after the restore command has returned"
say "... and works, while the rest streams in:"
pg pgbench -n -c 4 -j 2 -T 20 -P 5 >"$T/pg/pgbench.log" 2>&1 &
pgbench=$!
sleep 1
run umbra status || true
status=0
wait "$pgbench" || status=$?
grep -E '^progress|tps|failed' "$T/pg/pgbench.log" | sed 's/^/    /'
[ "$status" = 0 ] || { cat "$T/pg/pgbench.log" >&2; fail "pgbench"; }
say "a file out of the middle of nowhere:"
run cmp "$disk/tree/share/common-licenses/GPL-3" /usr/share/common-licenses/GPL-3 2>/dev/null || true
run umbra wait

title "Is it what it was, and is nothing of umbra left?"
run_pg pg_amcheck --all --install-missing --heapallindexed
pg_stop
dump "$tree" "$T/after.dump"
"$PYTHON" "$TESTS_LIB/fsdump.py" diff "$T/before.dump" "$T/after.dump" || fail "the tree is not what it was"
say "fsdump.py: $(wc -l <"$T/after.dump") entries, every byte and attribute: no difference"
nothing_left
reading_costs

title "Done: $files files wrecked and restored twice, not a bit is different ($((SECONDS - started_s)) s)"
