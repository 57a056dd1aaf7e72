#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# init, backup, list, ls, diff, restore, check, stats, rebuild-index as a user types them, with names
# of any bytes, and the exit statuses of what is incomplete.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 600 "$@"
require_umbra
export UMBRA_REPO=$T/repo

src=$T/src
mkdir -p "$src/dir/sub" "$src/empty"
printf 'hello\n' >"$src/hello"
head -c 300000 /dev/urandom >"$src/dir/random"
printf 'deep\n' >"$src/dir/sub/deep"
printf 'odd\n' >"$src/"$'new\nline'
printf 'odd\n' >"$src/"$'caf\xe9'
printf 'odd\n' >"$src/back\\slash"
printf 'utf8\n' >"$src/Grüße"
ln -s ../hello "$src/dir/link"
ln "$src/hello" "$src/hard"
mkfifo "$src/fifo"
chmod 4755 "$src/hello"
chmod 1777 "$src/empty"
touch -d '2021-03-04 05:06:07 UTC' "$src/hello"

json_valid() { "$PYTHON" -m json.tool <"$T/out" >"$T/json" || fail "not JSON: $(head -c 500 "$T/out")"; }

# ---- init ----

expect 0 umbra repo init --label test
expect 1 umbra repo init
expect_text "$T/err" '^umbra: .*(already|exists)'
mkdir "$T/other"
touch "$T/other/file"
expect 1 umbra --repo "$T/other" repo init
expect 0 umbra --json --repo "$T/repo-json" repo init --chunk-size 64K --pack-size 8M
json_valid
expect 0 umbra --json --repo "$T/repo-json" repo stats
[ "$(json "$T/out" chunk_normal_bytes)" = 65536 ] || fail "--chunk-size did not count"
[ "$(json "$T/out" pack_target_bytes)" = 8388608 ] || fail "--pack-size did not count"

expect 0 umbra list
expect_text "$T/out" '^ID +TIME +HOST'
expect 1 umbra ls latest
expect_text "$T/err" '^umbra: .*(no such backup|no backup)'
expect 0 umbra check

# ---- backup ----

cd "$T" # relative paths are taken from here
expect 0 umbra backup --dry-run src
expect 0 umbra --json list
[ "$(json "$T/out" backups)" = "[]" ] || fail "a dry run made a backup"
expect 0 umbra backup src --tag first --tag "x y" --host testhost
expect_text "$T/out" '^backup [0-9a-f]{12} saved: [0-9]+ files, .*; read .*, stored .*, in [0-9.]+ s$'
id=$(sed -nE 's/^backup ([0-9a-f]{12}) .*/\1/p' "$T/out")
expect 0 umbra --repo "$T/repo-json" backup src
expect 0 umbra --repo "$T/repo-json" --json list
other=$(json "$T/out" backups 0 id)
expect 0 umbra --repo "$T/repo-json" backup src --tag "${other:0:6}"
expect 1 umbra --repo "$T/repo-json" ls "${other:0:6}"
expect_text "$T/err" "'${other:0:6}' is a tag of backup [0-9a-f]{12}, and backup ${other:0:12} begins"
expect 0 umbra --repo "$T/repo-json" ls "${other:0:7}"
expect 1 umbra backup "$T/missing"
expect_text "$T/err" "^umbra: cannot find '$T/missing': "
expect 1 umbra backup missing "$T/missing"
expect_text "$T/err" "^umbra: cannot find 'missing': No such file"
expect 0 umbra --repo "$T/repo-json" backup src/dir src/hello src/empty
expect 3 umbra --json --repo "$T/repo-json" backup src/dir src/hello src/gone/file missing
expect_text "$T/err" "^umbra: cannot read.* '$src/gone/file': No such file"
expect_text "$T/err" "^umbra: cannot read.* '$T/missing': No such file"
[ "$(json "$T/out" stats files)" = 3 ] || fail "the other paths were not saved"
[ "$(json "$T/out" problem_count)" = 2 ] || fail "not two problems"
[ "$(json "$T/out" paths)" = "['$T/missing', '$src/dir', '$src/gone/file', '$src/hello']" ] ||
    fail "the missing paths are not recorded"
# A path that is missing for once costs nothing the next time.
expect 3 umbra --json --repo "$T/repo-json" backup src/dir src/hello missing
mkdir missing
expect 0 umbra --json --repo "$T/repo-json" backup src/dir src/hello missing
[ "$(json "$T/out" stats read_bytes)" = 0 ] || fail "files were read again"
rmdir missing
expect 1 umbra backup src --exclude-file "$T/missing"
expect_text "$T/err" "cannot open '$T/missing'"

expect 0 umbra list
expect_text "$T/out" "^$id +20.*testhost +first,x y +.* $src\$"
expect 0 umbra --json list --tag first --host testhost
json_valid
[ "$(json "$T/out" backups 0 paths 0)" = "$src" ] || fail "the path is not absolute"
full=$(json "$T/out" backups 0 id)
[ "${full:0:12}" = "$id" ] || fail "ids differ"
expect 0 umbra --json list --tag nothing
[ "$(json "$T/out" backups)" = "[]" ] || fail "--tag does not choose"
expect 0 umbra --json list --host nobody
[ "$(json "$T/out" backups)" = "[]" ] || fail "--host does not choose"

# ---- ls ----

for name in latest first "$id" "$full" "${id:0:6}"; do
    expect 0 umbra ls "$name:$src"
    printf '%s\n' 'Grüße' 'back\x5cslash' 'caf\xe9' dir empty fifo hard hello 'new\x0aline' |
        LC_ALL=C sort >"$T/want"
    LC_ALL=C sort "$T/out" | diff "$T/want" - || fail "ls $name:$src differs"
done
expect 0 umbra ls latest
expect_text "$T/out" "^$(cut -d/ -f2 <<<"$src")\$"
expect 0 umbra ls -R "latest:$src/dir"
printf '%s\n' "$src/dir/link" "$src/dir/random" "$src/dir/sub" "$src/dir/sub/deep" |
    diff - "$T/out" || fail "ls -R differs"
expect 0 umbra ls -R latest
grep -Fqx "$src/dir/sub/deep" "$T/out" || fail "ls -R of the root is not complete"
expect 0 umbra ls -l "latest:$src"
expect_text "$T/out" '^-rwsr-xr-x +2 [^ ]+ +[^ ]+ +6 2021-03-04 05:06:07 hello$'
expect_text "$T/out" '^drwxrwxrwt .* empty$'
expect_text "$T/out" '^prw'
expect 0 umbra ls -l "latest:$src/dir/../dir/link"
expect_text "$T/out" '^lrwxrwxrwx .* link -> \.\./hello$'
expect 1 umbra ls "latest:$src/nothing"
expect_text "$T/err" "^umbra: cannot list '$src/nothing'"
expect 1 umbra ls ffffffffffff
expect_text "$T/err" '^umbra: '
expect 0 umbra --json ls -R "latest:$src"
json_valid
"$PYTHON" - "$T/out" "$src" <<'PY'
import json, os, sys
listing, src = json.load(open(sys.argv[1])), sys.argv[2]
entries = {bytes.fromhex(e["path_hex"]) if "path_hex" in e else e["path"].encode(): e
           for e in listing["entries"]}
want = {os.path.join(root, name) for root, dirs, files in os.walk(src.encode())
        for name in dirs + files}
assert set(entries) == want, set(entries) ^ want
for path, e in entries.items():
    st = os.lstat(path)
    assert int(e["mode"], 8) == st.st_mode & 0o7777, e
    assert (e["uid"], e["gid"], e["inode"], e["nlink"]) == (
        st.st_uid, st.st_gid, st.st_ino, st.st_nlink), e
    assert e["type"] == "directory" or e["size"] == st.st_size, e
link = entries[src.encode() + b"/dir/link"]
assert link["type"] == "symlink" and link["target"] == "../hello", link
PY

# ---- a second backup, and diff ----

printf 'changed\n' >"$src/dir/sub/deep"
printf 'new\n' >"$src/dir/sub/new"
chmod 600 "$src/dir/random"
rm "$src/fifo"
mkdir "$src/fifo"
rm "$src/"$'new\nline'
expect 0 umbra -v backup "$src" --host testhost
expect_text "$T/out" "^C $src/dir/sub/deep\$"
expect_text "$T/out" "^N $src/dir/sub/new\$"
expect_text "$T/out" "^U $src/Grüße\$"
expect 0 umbra diff first latest
for line in "M $src/dir/sub/deep" "+ $src/dir/sub/new" "U $src/dir/random" "T $src/fifo" \
    "- $src/new\\x0aline"; do
    grep -Fqx -e "$line" "$T/out" || fail "diff does not say '$line': $(cat "$T/out")"
done
expect_text "$T/out" '^1 added, 1 removed, 1 modified, [0-9]+ with other attributes, 1 of another type$'
expect 0 umbra --json diff first latest
json_valid
[ "$(json "$T/out" summary modified)" = 1 ] || fail "wrong summary of diff"
expect 0 umbra diff latest latest
expect_text "$T/out" '^0 added, 0 removed, 0 modified, 0 '

# ---- exclude ----

printf '# comment\n*.o\n' >"$T/rules"
touch "$src/a.o" "$src/b.o" "$src/c.x"
expect 0 umbra backup "$src" --exclude-file "$T/rules" --exclude '!b.o' -e "$src/dir" -t excluded
expect 0 umbra ls -R excluded
if grep -Eq '/(a\.o|dir)' "$T/out"; then fail "excluded files were saved"; fi
expect_text "$T/out" '/b\.o$'
expect_text "$T/out" '/c\.x$'
rm "$src/a.o" "$src/b.o" "$src/c.x"

# ---- a backup does not contain its own repository ----

own="$T/own/dir/re[po]* \\x"
mkdir -p "$T/own/dir/repo x" "$T/own/other"
touch "$T/own/dir/repo x/file" "$T/own/other/file"
expect 0 umbra --repo "$own" repo init
expect 0 umbra --repo "$own" backup "$T/own"
expect_text "$T/err" "^umbra: leaving out '$T/own/dir/re.po..*': it is the repository"
expect 0 umbra --repo "$own" ls -R latest
expect_text "$T/out" "^$T/own/dir/repo x/file\$"
expect_text "$T/out" "^$T/own/other/file\$"
if grep -q '/config' "$T/out"; then fail "the repository is in its backup"; fi
expect 1 umbra --repo "$own" restore latest --delete --target "$T/own" # that would delete it
for quiet in -q "-e $T/own/dir"; do
    # shellcheck disable=SC2086 # two words
    expect 0 umbra --repo "$own" backup $quiet "$T/own"
    [ ! -s "$T/err" ] || fail "with '$quiet' something is said: $(cat "$T/err")"
done
expect 0 umbra --repo "$own" backup "$own/keys"
cd "$own"
expect 2 umbra --repo . backup "$T/own" .
expect_text "$T/err" "is the repository that the backup would go to"
cd "$T"
rm -rf "$T/own"

# ---- restore ----

same() { diff <(cd "$1" && find . -printf '%P %y %m %s %l\n' | LC_ALL=C sort) \
    <(cd "$2" && find . -printf '%P %y %m %s %l\n' | LC_ALL=C sort) && diff -r --no-dereference "$1" "$2"; }

expect 0 umbra backup "$src"
expect 0 umbra restore latest --target "$T/back" --dry-run
[ ! -e "$T/back" ] || fail "a dry run made the target"
expect 0 umbra restore latest --target "$T/back" --verify
expect_text "$T/out" '^restored [0-9]+ files, .*; wrote .*, verified .*, in [0-9.]+ s$'
same "$src" "$T/back" || fail "the restored tree differs"
expect 0 umbra --json restore latest --target "$T/back"
json_valid
[ "$(json "$T/out" rewritten)" = 0 ] || fail "a second restore rewrote files"
[ "$(json "$T/out" complete)" = True ] || fail "complete is not true"

touch "$T/back/extra"
printf 'damaged' >"$T/back/dir/sub/deep"
expect 0 umbra restore latest --target "$T/back" --delete -v
expect_text "$T/out" '^d .*extra$'
expect_text "$T/out" '^w .*deep$'
same "$src" "$T/back" || fail "the repaired tree differs"

expect 0 umbra restore "latest:$src/dir/sub" --target "$T/part"
same "$src/dir/sub" "$T/part" || fail "a restored part differs"
expect 0 umbra restore "latest:$src/hello" --target "$T/file"
cmp "$src/hello" "$T/file/hello"
expect 0 umbra restore latest --target "$T/some" --include 'sub/' --exclude 'new'
[ "$(cd "$T/some" && find . -type f)" = ./dir/sub/deep ] || fail "include and exclude do not choose"
expect 1 umbra restore latest --target "$T/no-match" --include 'no such name'
expect_text "$T/err" '^umbra: nothing in backup [0-9a-f]{12} matches --include$'
expect 0 umbra restore latest --target "$T/no-match" --include 'no such name' --include empty
expect 1 umbra restore "latest:$src/nothing" --target "$T/none"
expect_text "$T/err" '^umbra: '
printf 'a file' >"$T/not-a-directory"
expect 1 umbra restore latest --target "$T/not-a-directory"

# ---- atomically, and back ----

export UMBRA_STATE_DIR=$T/state
shop=$T/shop
cp -a "$T/back" "$shop"
rm -r "$shop/dir/sub"
printf 'more\n' >>"$shop/dir/random"
printf 'junk\n' >"$shop/junk"
cp -a "$shop" "$T/as-it-was"
expect 1 umbra restore latest --target "$shop/nothing" --in-place --atomic
expect 0 umbra --json restore latest --target "$shop" --in-place --atomic
json_valid
[ -d "$shop/.umbra-atomic" ] || fail "nothing is kept for a rollback"
expect 0 umbra --json restore --rollback --target "$shop"
[ "$(json "$T/out" rolled_back)" = True ] || fail "a rollback says: $(cat "$T/out")"
same "$T/as-it-was" "$shop" || fail "a rollback does not bring back what was there"
expect 1 umbra restore --rollback --target "$shop"
expect_text "$T/err" 'nothing is kept of an atomic change of'
expect 0 umbra restore latest --target "$shop" --in-place --atomic
rm -r "$shop/dir/sub" # which the rollback would take away
expect 0 umbra restore --rollback --force --target "$shop"
expect_text "$T/err" "'dir/sub' is not what was left there; left alone"
[ "$(cat "$shop/junk")" = junk ] || fail "a rollback with --force has not gone on"
expect 0 umbra restore latest --target "$shop" --in-place --atomic
expect 0 umbra --json log discard "$shop"
[ "$(json "$T/out" discarded)" = True ] || fail "discard says: $(cat "$T/out")"
same "$src" "$shop" || fail "the tree restored atomically differs"

# ---- the rest ----

expect 0 umbra repo stats
expect_text "$T/out" '^backups +4$'
expect 0 umbra --json repo stats
json_valid
expect 0 umbra check --read-data
expect 0 umbra --json check --read-data=50% --seed 7
json_valid
expect 0 umbra repo rebuild-index
expect_text "$T/out" '^index rebuilt: '
expect 0 umbra check
expect 0 umbra --cache-dir none check
UMBRA_CACHE_DIR=none expect 0 umbra check
[ ! -e none ] || fail "a cache called none was made"
expect 0 umbra --cache-dir "$T/cache2" list

# ---- repositories of another kind ----

cp -a "$T/repo" "$T/newer"
printf '\x02' | dd of="$T/newer/config" bs=1 seek=8 conv=notrunc status=none
UMBRA_PASSWORD='' expect 1 umbra --repo "$T/newer" list # said before the passphrase is looked at
expect_text "$T/err" '^umbra: .*newer'
cp -a "$T/repo" "$T/broken"
printf '\xff' | dd of="$T/broken/config" bs=1 seek=100 conv=notrunc status=none
expect 1 umbra --repo "$T/broken" list
expect_text "$T/err" '^umbra: .*(damaged|authentication failed)'
expect 1 umbra --repo s3://bucket/path list
expect_text "$T/err" '^umbra: .*s3'

# ---- incomplete work is status 3 and names the file ----

if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    chmod -R a+rX "$T"
    chmod 755 "$T"
    mkdir "$T/user" && chmod 777 "$T/user"
    chmod 000 "$src/Grüße"
    nobody() {
        setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all --inh-caps -all \
            env HOME="$T/user" UMBRA_CACHE_DIR="$T/user/cache" TMPDIR="$T/user" \
            "$UMBRA_BIN" --no-progress --repo "$T/user/repo" "$@"
    }
    if nobody --version >/dev/null 2>&1; then
        expect 0 nobody repo init
        expect 3 nobody backup "$src/Grüße" "$src/dir"
        expect_text "$T/err" "^umbra: cannot read.* '$src/Grüße': .*[Pp]ermission denied"
        expect_text "$T/out" '^backup [0-9a-f]{12} saved'
        expect 3 nobody --json backup "$src/Grüße" "$src/dir"
        json_valid
        [ "$(json "$T/out" complete)" = False ] || fail "complete is not false"
        [ "$(json "$T/out" problem_count)" = 1 ] || fail "wrong count of problems"
        [ "$(json "$T/out" problems 0 path)" = "$src/Grüße" ] || fail "the problem has no path"
        expect 0 nobody list
        expect_text "$T/out" " $src/dir \(incomplete: 1 problem\)\$"
        expect 0 nobody --json list
        [ "$(json "$T/out" backups 0 complete)" = False ] || fail "list: complete is not false"
        # What is not his to give: each file is named once.
        expect 3 nobody restore latest --target "$T/user/to"
        expect_text "$T/err" "^umbra: cannot restore '.*/random': cannot set owner and group: "
        [ -z "$(grep '^umbra: cannot restore' "$T/err" | cut -d: -f2 | sort | uniq -d)" ] ||
            fail "a file is named more than once: $(cat "$T/err")"
        expect 0 umbra --repo "$T/user/repo" restore latest --target "$T/to"
        expect_text "$T/err" '^umbra: backup [0-9a-f]{12} is incomplete: 1 file could not be read'
        expect 0 umbra --repo "$T/user/repo" -q restore latest --target "$T/to"
        [ ! -s "$T/err" ] || fail "--quiet is not quiet"
    fi
fi

say "round trip: done"
