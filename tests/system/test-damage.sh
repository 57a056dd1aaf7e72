#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Damage and trouble are found, named, and cost no more than what they hit.
#
# For each kind of object of a repository and each kind of damage to it: check says which object, with
# exit status 1 and no crash; what does not need the object still restores.  Then: a full disk, a
# repository that goes away, files that cannot be read or change while they are read.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 1200 "$@"
require rsync
require_umbra
chmod 711 "$T"

good=$T/good # the repository, intact: damage is done to copies
same() { rsync -aHni --delete --checksum --modify-window=-1 "$1/" "$2/" >"$T/diff" && ! [ -s "$T/diff" ]; }

# ---- the repository under test: two backups, of trees without a byte in common ----

random_tree() {
    "$PYTHON" - "$1" "$2" <<'PY'
import os, random, sys
top, rng = sys.argv[1], random.Random(int(sys.argv[2]))
for i in range(60):
    os.makedirs("%s/%d" % (top, i % 6), exist_ok=True)
    with open("%s/%d/%s %d" % (top, i % 6, os.path.basename(top), i), "wb") as f:
        f.write(rng.randbytes(rng.choice((10, 3000, 70000, 300000))))
PY
}

make_repository() {
    random_tree "$T/one" 1
    random_tree "$T/two" 2
    export UMBRA_REPO=$good
    expect 0 umbra repo init
    expect 0 umbra backup "$T/one" --tag one
    find "$good" -type f | sort >"$T/objects.one"
    expect 0 umbra backup "$T/two" --tag two
    find "$good" -type f | sort >"$T/objects.two"
    expect 0 umbra check --read-data
}

# objects_of_two DIRECTORY: objects that came with the second backup, largest first.
objects_of_two() {
    comm -13 "$T/objects.one" "$T/objects.two" | grep "^$good/$1/" | xargs -r ls -S |
        sed "s|^$good/||"
}

# ---- damage ----

# hurt FILE HOW, with a sparing copy: hard links of the good repository, a copy of the one file.
hurt() {
    local file=$T/hurt/$1 how=$2
    rm -rf "$T/hurt"
    cp -al "$good" "$T/hurt"
    cp --remove-destination "$good/$1" "$file"
    chmod u+w "$file"
    "$PYTHON" - "$file" "$how" <<'PY'
import os, sys
path, how = sys.argv[1], sys.argv[2]
size = os.path.getsize(path)
if how == "remove":
    os.unlink(path)
elif how == "empty":
    os.truncate(path, 0)
elif how == "truncate":
    os.truncate(path, size - 1)
elif how == "half":
    os.truncate(path, size // 2)
elif how == "grow":
    with open(path, "ab") as f:
        f.write(b"x")
else:  # flip AT: one bit; negative: from the end
    at = int(how.split()[1])
    with open(path, "r+b") as f:
        f.seek(at if at >= 0 else size + at)
        byte = f.read(1)[0]
        f.seek(at if at >= 0 else size + at)
        f.write(bytes([byte ^ 0x10]))
PY
}

hurt_umbra() { umbra --cache-dir none --repo "$T/hurt" "$@"; }

# hurt_fails STATUS WHAT COMMAND...: that status, and the object is named.
hurt_fails() {
    local want=$1 what=$2 got=0
    shift 2
    hurt_umbra "$@" >"$T/out" 2>"$T/err" || got=$?
    cat "$T/out" "$T/err" >"$T/both"
    [ "$got" = "$want" ] || { tail -n 20 "$T/both" >&2; fail "$case: '$*' exited $got, not $want"; }
    [ -z "$what" ] || grep -q -- "$what" "$T/both" ||
        { tail -n 20 "$T/both" >&2; fail "$case: '$*' does not name '$what'"; }
}

# hurt_restores TAG: that backup is as it should be, all of it.
hurt_restores() {
    rm -rf "$T/to"
    hurt_umbra restore "$1" --target "$T/to" >"$T/both" 2>&1 ||
        { cat "$T/both" >&2; fail "$case: backup '$1' does not restore"; }
    same "$T/$1" "$T/to" || { head "$T/diff" >&2; fail "$case: backup '$1' restores wrong"; }
}

# What restores of a backup that lost something is right, what does not is named, status 3 or 1.
hurt_restores_some() {
    local got=0 bad
    rm -rf "$T/to"
    hurt_umbra restore "$1" --target "$T/to" >"$T/both" 2>&1 || got=$?
    case $got in
    0) same "$T/$1" "$T/to" || fail "$case: a wrong restore of '$1' was called good" ;;
    1) [ -s "$T/both" ] || fail "$case: restore of '$1' failed without a word" ;;
    3)
        while read -r bad; do
            grep -qF "${bad##*/}" "$T/both" || fail "$case: '$bad' is wrong, and was not named"
        done < <(diff -rq "$T/$1" "$T/to" | sed -nE 's/^Files .*\/(.*) and .* differ$/\1/p')
        ;;
    *) fail "$case: restore exited $got" ;;
    esac
}

damages=(remove empty truncate half grow)

damage_config() {
    local how
    for how in "${damages[@]}" "flip 0" "flip 20" "flip -3"; do
        case="config $how"
        hurt config "$how"
        hurt_fails 1 "" check
        hurt_fails 1 "" restore one --target "$T/to"
        grep -Eq "config|not an umbra repository" "$T/both" || fail "$case: config is not named"
    done
}

damage_key() {
    local how key
    key=$(cd "$good" && ls keys/*)
    for how in "${damages[@]}" "flip 0" "flip 60" "flip -3"; do
        case="key $how"
        hurt "$key" "$how"
        hurt_fails 1 "" check
        [ "$how" = remove ] || [ -s "$T/err" ] || fail "$case: no word"
    done
    # with a second key the repository opens, and the damaged key is still named
    UMBRA_REPO=$good expect 0 umbra repo key add --new-password-file <(echo "another one")
    case="key of two"
    hurt "$key" "flip 60"
    export UMBRA_PASSWORD="another one"
    hurt_fails 1 "${key##*/}" check
    hurt_restores one
    export UMBRA_PASSWORD="correct horse"
}

damage_pack() {
    local how pack
    for pack in $(objects_of_two packs); do
        for how in "${damages[@]}" "flip 3" "flip 100" "flip -3" "flip -30"; do
            case="pack ${pack##*/} $how"
            hurt "$pack" "$how"
            hurt_fails 1 "${pack##*/}" check --read-data
            hurt_restores one
            hurt_restores_some two
        done
    done
}

damage_index() {
    local how index
    for index in $(objects_of_two index); do
        for how in "${damages[@]}" "flip 3" "flip 60" "flip -3"; do
            case="index $how"
            hurt "$index" "$how"
            # a removed segment has no name any more: the packs that nobody knows are said
            if [ "$how" = remove ]; then hurt_fails 1 "" check; else hurt_fails 1 "${index##*/}" check; fi
            hurt_restores two # by the hints
            hurt_fails 0 "" repo rebuild-index
            hurt_fails 0 "" check --read-data
            hurt_restores two
        done
    done
    case="index lost"
    hurt "$index" remove
    rm -rf "$T/hurt/index"
    hurt_fails 1 "rebuild-index" check
    [ "$(grep -c "damage in" "$T/err")" = 1 ] || fail "$case: more is called damaged than the index"
    hurt_restores one
    hurt_restores two
    hurt_fails 0 "" repo rebuild-index
    hurt_fails 0 "" check --read-data
    hurt_fails 0 "" backup "$T/one"
}

damage_backup() {
    local how object
    object=$(objects_of_two backups)
    for how in empty truncate half grow "flip 3" "flip 60" "flip -3"; do
        case="backup $how"
        hurt "$object" "$how"
        hurt_fails 1 "${object##*/}" check
        hurt_restores one
        hurt_umbra list >"$T/out" 2>"$T/err" || true
        grep -q one "$T/out" || fail "$case: list does not show the other backup"
        hurt_fails 0 "" backup "$T/two" --tag three
    done
    case="backup remove"
    hurt "$object" remove
    hurt_fails 0 "" check --read-data
    hurt_restores one
}

# An interrupted backup's own objects: whatever they hold, the next backup works.
damage_session() {
    local pid object how i
    rm -rf "$T/big"
    mkdir "$T/big"
    for ((i = 0; i < 150; i++)); do head -c 1M /dev/urandom >"$T/big/$i"; done
    "$UMBRA_BIN" --no-progress -q --repo "$good" backup "$T/big" --threads 1 >/dev/null 2>&1 &
    pid=$!
    for ((i = 0; i < 3000; i++)); do
        [ -z "$(find "$good/sessions" -type f 2>/dev/null)" ] || break
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.01
    done
    sleep 0.2
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    mapfile -t session < <(cd "$good" && find sessions -type f 2>/dev/null)
    [ ${#session[@]} -gt 0 ] || fail "an interrupted backup left nothing in sessions/"
    object=${session[0]}
    for how in remove empty truncate half grow "flip 3" "flip 60" "flip -3"; do
        case="session $how"
        hurt "$object" "$how"
        hurt_fails 0 "" backup "$T/big" --tag big
        [ -z "$(find "$T/hurt/sessions" -type f)" ] || fail "$case: something is left in sessions/"
        hurt_restores big
        hurt_restores one
    done
}

# ---- what check says ----

many_damaged_files() {
    local odd=$'caf\xe9 \\ \n' i
    case="many damaged files"
    export UMBRA_REPO=$T/many
    mkdir "$T/files"
    for i in {1..148} "$odd"; do head -c 3000 /dev/urandom >"$T/files/$i"; done
    expect 0 umbra repo init
    expect 0 umbra backup "$T/files"
    find "$T/many/packs" -type f -print0 | xargs -0 ls -S | head -n 1 | xargs rm # that of the data
    expect 1 umbra check
    [ "$(grep -c "damage in backup .*: is lost" "$T/err")" = 100 ] || fail "$case: not 100 lines"
    expect_text "$T/err" '^umbra: and 49 more damaged files: '
    expect 1 umbra -v check
    [ "$(grep -c "damage in backup .*: is lost" "$T/err")" = 149 ] || fail "$case: -v is not all"
    grep -Fq ": '$T/files/caf\\xe9 \\x5c \\x0a': is lost" "$T/err" || fail "$case: wrong escapes"
    expect 1 umbra --json check
    "$PYTHON" - "$T/out" "$T/files/" <<'PY'
import json, sys
result, top = json.load(open(sys.argv[1])), sys.argv[2].encode()
files = [p for p in result["problems"] if "path" in p]
assert len(files) == 149 and result["problem_count"] == len(result["problems"]), result
assert all(len(p["backup"]) == 64 and "object" not in p for p in files), files
paths = {bytes.fromhex(p["path_hex"]) if "path_hex" in p else p["path"].encode() for p in files}
assert top + b"caf\xe9 \\ \n" in paths and top + b"7" in paths, paths
assert any(p.get("object", "").startswith("packs/") for p in result["problems"]), result
PY
    rm -rf "$T/files" "$T/many"
    say "$case: counted, named with --verbose and --json"
}

# ---- trouble ----

full_disk() {
    case="full disk"
    volume_make tiny ext4 60M
    export UMBRA_REPO=$T/tiny/repo
    expect 0 umbra repo init
    expect 0 umbra backup "$T/one" --tag one
    fallocate -l 20M "$T/tiny/filler"
    expect 1 umbra backup "$T/big"
    expect_text "$T/err" "No space left on device"
    expect_text "$T/err" "$UMBRA_REPO|packs/"
    expect 0 umbra check --read-data
    rm -rf "$T/to"
    expect 0 umbra restore one --target "$T/to"
    same "$T/one" "$T/to" || fail "$case: an earlier backup changed"
    rm "$T/tiny/filler"
    find "$T/big" -type f | tail -n +16 | xargs rm
    expect 0 umbra backup "$T/big" --tag big
    rm -rf "$T/to"
    expect 0 umbra restore big --target "$T/to"
    same "$T/big" "$T/to" || fail "$case: the backup after it is wrong"
    volume_gone "$T/tiny"
    say "$case: said, survived"
}

repository_gone() {
    local pid i got=0
    case="repository gone"
    export UMBRA_REPO=$T/gone
    for ((i = 200; i < 350; i++)); do head -c 1M /dev/urandom >"$T/big/$i"; done
    expect 0 umbra repo init
    "$UMBRA_BIN" --no-progress -q backup "$T/big" >"$T/out" 2>"$T/err" &
    pid=$!
    for ((i = 0; i < 3000; i++)); do
        [ "$(du -sm "$T/gone" 2>/dev/null | cut -f1)" -lt 40 ] || break
        sleep 0.01
    done
    while ! rm -rf "$T/gone" 2>/dev/null; do :; done
    wait "$pid" || got=$?
    [ "$got" = 1 ] || { cat "$T/err" >&2; fail "$case: exited $got, expected 1"; }
    [ -s "$T/err" ] || fail "$case: no word about it"
    rm -rf "$T/gone" "$T/big"
    say "$case: said ($(tail -n 1 "$T/err"))"
}

unreadable_file() {
    case="unreadable"
    [ "$(id -u)" = 0 ] || { warn "$case: left out, needs root"; return 0; }
    local dir=$T/nobody
    mkdir -p "$dir/src/closed directory"
    echo readable >"$dir/src/open"
    echo secret >"$dir/src/not for you"
    chmod 600 "$dir/src/not for you"
    chmod 700 "$dir/src/closed directory"
    cp "$UMBRA_BIN" "$dir/umbra"
    mkdir "$dir/home"
    chown 65534:65534 "$dir/home" "$dir/src/open"
    expect 0 as_nobody "$dir/umbra" repo init
    expect 3 as_nobody "$dir/umbra" backup "$dir/src"
    expect_text "$T/err" "not for you"
    expect_text "$T/err" "closed directory"
    expect 0 as_nobody "$dir/umbra" check --read-data
    expect 0 as_nobody "$dir/umbra" restore "latest:$dir/src/open" --target "$dir/home/to"
    [ "$(cat "$dir/home/to/open")" = readable ] || fail "$case: the other file is not right"
    say "$case: named, status 3"
}

as_nobody() {
    setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$T/nobody/home" \
        UMBRA_REPO="$T/nobody/home/repo" UMBRA_CACHE_DIR="$T/nobody/home/cache" TMPDIR="$T/nobody/home" \
        "$@"
}

changing_file() {
    local pid got=0
    case="changing file"
    export UMBRA_REPO=$T/changing
    mkdir "$T/busy"
    head -c 300M /dev/urandom >"$T/busy/log"
    echo quiet >"$T/busy/quiet"
    "$PYTHON" - "$T/busy/log" <<'PY' &
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
while True:
    os.write(fd, b"one more line\n")
    time.sleep(0.001)
PY
    pid=$!
    expect 0 umbra repo init
    umbra backup "$T/busy" >"$T/out" 2>"$T/err" || got=$?
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    case $got in 0 | 3) ;; *) cat "$T/err" >&2; fail "$case: exited $got" ;; esac
    cat "$T/out" "$T/err" >"$T/both"
    expect_text "$T/both" "busy/log.*chang"
    rm -rf "$T/to"
    expect 0 umbra restore latest --target "$T/to"
    [ "$(cat "$T/to/quiet")" = quiet ] || fail "$case: the other file is not right"
    rm -rf "$T/busy" "$T/to"
    say "$case: said, status $got"
}

make_repository
for kind in config key pack index backup session; do
    "damage_$kind"
    say "$kind: damage found and named"
done
many_damaged_files
if [ "$(id -u)" = 0 ]; then full_disk; else warn "full disk: left out, needs root"; fi
repository_gone
unreadable_file
changing_file
