#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# After a reboot: the volume of an interrupted restore is mounted for others only when its gate stands.
# systemd is not needed as init: the units are made and checked as at a boot, and what they do is done
# here, in their order.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/instant.sh
. "$(dirname "$0")/../lib/instant.sh"
world_begin 600 "$@"
[ -e /etc/fstab ] || skip "no /etc/fstab"
require losetup setfattr systemd-escape systemd-analyze

umbra() { timeout -k 1 60 "$UMBRA_BIN" --no-progress "$@"; }
NOTES=/etc/umbra/restores
FSTAB_GENERATOR=/usr/lib/systemd/system-generators/systemd-fstab-generator
SERVICE=$PROGRAMS/umbra-resume@.service

# As systemd has it: what is mounted later is seen in all namespaces.
mount --make-rshared /
: >"$T/fstab"
mount --bind "$T/fstab" /etc/fstab
printf 'correct horse\n' >"$T/pass"
chmod 600 "$T/pass"
unset UMBRA_PASSWORD

{
    first_files
    for i in {1..20}; do echo "$T/src/d/f$i $((i * 20000))"; done
} | world_files
UMBRA_PASSWORD="correct horse" world_backup src

# ---- a boot ----

# Everything dies, and the volume with it.  The next boot has a disk, which goes when this script does.
reboot_begins() {
    kill_all
    ! mountpoint -q "$V" || umount "$V"
    disk_gone
    LOOP=$(losetup -f --show "$IMAGES/$FS.img")
    exec {DISK}<"$LOOP"
    losetup -d "$LOOP"
    echo "$LOOP $V $FS rw,noatime 0 2" >"$T/fstab"
}

disk_gone() {
    [ -z "$DISK" ] || exec {DISK}<&-
    DISK=
    world_volume_let_go
}

# What systemd loads: its own units of fstab, ours, and the drop-ins.
generate() {
    rm -rf "$T/units"
    mkdir -p "$T/units"
    [ ! -x "$FSTAB_GENERATOR" ] ||
        SYSTEMD_FSTAB=$T/fstab "$FSTAB_GENERATOR" "$T/units" "$T/units" "$T/units" 2>"$T/err" ||
        fail "systemd's generator: $(cat "$T/err")"
    expect 0 "$PROGRAMS/umbra-generator" "$T/units" "$T/units" "$T/units"
    [ ! -s "$T/err" ] || fail "the generator says: $(cat "$T/err")"
    sed "s|^ExecStart=[^ ]*|ExecStart=$UMBRA_BIN|" "$SERVICE" >"$T/units/umbra-resume@.service"
}

# The order of the visible mount, and that there is no cycle.
check_units() {
    local id=$1 unit
    unit=$(systemd-escape --path --suffix=mount "$V")
    expect_text "$T/units/$unit.d/50-umbra-$id.conf" "^Requires=umbra-resume@$id.service$"
    expect_text "$T/units/$unit.d/50-umbra-$id.conf" "^After=umbra-resume@$id.service$"
    expect_text "$T/units/umbra-resume@$id.service.d/50-umbra.conf" \
        "^After=dev-${LOOP##*/}.device$"
    [ -x "$FSTAB_GENERATOR" ] || return 0
    SYSTEMD_UNIT_PATH=$T/units: systemd-analyze verify --man=no "$T/units/$unit" \
        "$T/units/umbra-resume@$id.service" >"$T/out" 2>&1 || fail "units: $(cat "$T/out")"
    ! grep -E "umbra|cycle" "$T/out" || fail "systemd has something to say about the units"
}

note_id() { basename "$(ls $NOTES)" .json; }
the_service() { # as its ExecStart= says, with nothing in its environment
    local words
    words=$(sed -n "s|^ExecStart=[^ ]*|$UMBRA_BIN|p" "$T/units/umbra-resume@.service")
    # shellcheck disable=SC2086 # one word each
    timeout -k 1 60 env -i PATH="$PATH" LC_ALL=C TMPDIR="$TMPDIR" ASAN_OPTIONS="${ASAN_OPTIONS:-}" \
        UBSAN_OPTIONS="${UBSAN_OPTIONS:-}" UMBRA_CACHE_DIR="$UMBRA_CACHE_DIR" ${words//%i/$1}
}
gate_stands() { [ -n "$(ls /run/umbra/gate-* 2>/dev/null)" ] && [ -n "$(ours umbra-filterd)" ]; }
not_visible() { ! mountpoint -q "$V" || fail "$FS: the volume is visible $*"; }

start() {
    expect 0 umbra restore latest --instant --limit 1K --target "$V/t" --numeric-owner \
        --password-file "$T/pass"
    expect 0 umbra pause
}

boot_and_read() {
    local id
    start
    id=$(note_id)
    grep -q "\"password_file\":\"$T/pass\"" "$NOTES/$id.json" || fail "no password file in the note"
    reboot_begins
    generate
    check_units "$id"
    not_visible "before the service"
    expect 0 the_service "$id"
    not_visible "after the service"
    gate_stands || fail "$FS: the service has ended well, and no gate stands"
    mount "$V"
    need_pending "$V/t/d/f10"
    same "the first read" "$V/t/d/f10" "$T/src/d/f10"
    same "another read" "$V/t/d/f20" "$T/src/d/f20"
    grep "^$LOOP $V .*noatime" /proc/self/mounts >/dev/null || fail "$FS: not the options of fstab"
    expect 0 the_service "$id" # once more, as after a daemon-reload
}

# Without a passphrase, a line in fstab, or the target: no gate, and the service fails.
boot_that_fails() {
    local id
    reboot_begins
    id=$(note_id)
    generate
    mv "$T/pass" "$T/pass.away"
    expect 1 the_service "$id"
    expect_text "$T/err" "cannot open password file '$T/pass'"
    mv "$T/pass.away" "$T/pass"
    : >"$T/fstab"
    expect 1 the_service "$id"
    expect_text "$T/err" "cannot mount '$V' as /etc/fstab says"
    echo "$LOOP $V $FS defaults 0 2" >"$T/fstab"
    mount "$V"
    mv "$V/t" "$V/renamed"
    umount "$V"
    expect 1 the_service "$id"
    expect_text "$T/err" "'$V/t' is not there, and files of its restore may be elsewhere on '$V'"
    mount "$V"
    mkdir "$V/t"
    umount "$V"
    expect 1 the_service "$id"
    expect_text "$T/err" "'$V/t' is not what it was, and files of its restore may be elsewhere on '$V'"
    [ -e "$NOTES/$id.json" ] || fail "$FS: the note of a target that was replaced has gone"
    mount "$V"
    rmdir "$V/t"
    mv "$V/renamed" "$V/t"
    umount "$V"
    not_visible "after a service that failed"
    ! gate_stands || fail "$FS: a gate stands after a service that failed"
}

boot_without_repository() {
    local id reader
    reboot_begins
    id=$(note_id)
    generate
    mv "$T/repo" "$T/repo.away"
    expect 0 the_service "$id"
    expect_text "$T/err" 'cannot be reached now, who reads will wait'
    gate_stands || fail "$FS: no gate stands"
    mount "$V"
    need_pending "$V/t/d/f15"
    timeout 60 cat "$V/t/d/f15" >"$T/read" &
    reader=$!
    mv "$T/repo.away" "$T/repo"
    wait $reader || wrong "a reader got an error"
    same "a read before the repository was there" "$T/read" "$T/src/d/f15"
}

set_phase() { # as if the power had failed then
    local record
    record=$(getfattr --only-values --absolute-names -n trusted.umbra.restore "$V/t")
    setfattr -n trusted.umbra.restore -v "${record/filling/$1}" "$V/t"
}

# While the placeholders were being made: nobody relies on them, they are made again, or taken back.
boot_while_placing() {
    local id
    reboot_begins
    id=$(note_id)
    generate
    mount "$V"
    set_phase placing
    umount "$V"
    expect 0 the_service "$id"
    gate_stands || fail "$FS: no gate stands"
    mount "$V"
    need_pending "$V/t/d/f10"
    same "a read after placing again" "$V/t/d/f10" "$T/src/d/f10"
    kill_all
    set_phase placing
    reboot_begins
    generate
    mv "$T/repo" "$T/repo.away"
    expect 0 the_service "$id"
    mv "$T/repo.away" "$T/repo"
    mount "$V"
    find "$V/t" -type f -print0 | xargs -0r "$FILEOP" --pending >"$T/marks" || true
    [ ! -s "$T/marks" ] || fail "$FS: placeholders without a gate: $(head -n 3 "$T/marks")"
    [ ! -e "$NOTES/$id.json" ] || fail "$FS: the note of a restore that was taken back is left"
    kill_all # if they have not ended yet
    empty_target
}

# The note is still there, and the restore has ended, or the disk is another one.
boot_after_the_end() {
    local id
    id=$(note_id)
    cp "$NOTES/$id.json" "$T/note"
    ID=$id restore_finish
    diff -r "$T/src" "$V/t" >"$T/diff" || fail "$FS: the trees differ: $(head -n 3 "$T/diff")"
    reboot_begins
    generate
    expect 0 the_service "$id"
    [ ! -e "$NOTES/$id.json" ] || fail "$FS: the note of a restore that has ended is left"
    expect 0 the_service "$id"
    generate
    [ -z "$(ls -d "$T"/units/*umbra-resume@*.d 2>/dev/null)" ] || fail "$FS: drop-ins are left"

    sed 's/"fs_uuid":"[0-9a-f]*"/"fs_uuid":"00"/' "$T/note" >"$NOTES/$id.json"
    expect 0 the_service "$id"
    expect_text "$T/err" "is of another file system"
    rm "$NOTES/$id.json"
    [ -z "$(ours)" ] || fail "$FS: processes are left"
}

# Nobody knows which volume to hold back, so all have to wait.
note_that_cannot_be_read() {
    local id=00000000000000ab text
    mkdir -p $NOTES
    for text in '{' '{"version":9,"restore":"00000000000000ab","target":"/"}' \
        '{"version":1,"restore":"00000000000000ab","target":"/x"}' \
        '{"version":1,"restore":"00000000000000ac","target":"/x","mount_point":"/"}'; do
        echo "$text" >$NOTES/$id.json
        rm -rf "$T/units"
        mkdir "$T/units"
        expect 0 "$PROGRAMS/umbra-generator" "$T/units" "$T/units" "$T/units"
        expect_text "$T/units/local-fs.target.d/50-umbra-$id.conf" "^Requires=umbra-resume@$id.service$"
        expect_text "$T/units/local-fs.target.d/50-umbra-$id.conf" "^After=umbra-resume@$id.service$"
        sed "s|^ExecStart=[^ ]*|ExecStart=$UMBRA_BIN|" "$SERVICE" >"$T/units/umbra-resume@.service"
        expect 1 the_service $id
        expect_text "$T/err" "note '$NOTES/$id.json'|names no mount point"
    done
    rm $NOTES/$id.json
}

boots() {
    DISK=
    boot_and_read
    boot_that_fails
    boot_while_placing
    start
    boot_without_repository
    boot_after_the_end
    disk_gone
}

expect 2 umbra restore --resume --private-mount
expect 2 umbra restore --private-mount --target /x latest
expect 2 umbra restore --resume --private-mount nothing
note_that_cannot_be_read
world_run boots
world_end
