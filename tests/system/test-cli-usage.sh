#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Help, versions and wrong usage: exit statuses, and one line of words that names what was wrong.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 120 "$@"
require_umbra

# usage PATTERN ARGUMENT...: exit 2, nothing on stdout, one line on stderr.
usage() {
    local pattern=$1
    shift
    expect 2 "$UMBRA_BIN" "$@"
    [ ! -s "$T/out" ] || fail "'$*' printed results"
    [ "$(wc -l <"$T/err")" = 1 ] || fail "'$*' said more or less than one line: $(cat "$T/err")"
    expect_text "$T/err" "^umbra: .*$pattern"
}

# ---- help ----

expect 0 "$UMBRA_BIN" --version
expect_text "$T/out" '^umbra [0-9]+\.[0-9]+\.[0-9]+$'
expect 0 "$UMBRA_BIN" --help
cp "$T/out" "$T/help"
for verb in "repo init" "repo stats" "repo key list" "repo key add" "repo key remove" \
    "repo key change" "repo rebuild-index" backup list ls diff restore status wait pause \
    resume cancel limit hydrate check; do
    expect_text "$T/help" "^  $verb  "
    # shellcheck disable=SC2086
    expect 0 "$UMBRA_BIN" $verb --help
    expect_text "$T/out" "^Usage: umbra $verb "
    cp "$T/out" "$T/verb-help"
    # shellcheck disable=SC2086
    expect 0 "$UMBRA_BIN" help $verb
    cmp -s "$T/out" "$T/verb-help" || fail "help $verb and $verb --help differ"
    [ ! -s "$T/err" ] || fail "help of $verb is not on stdout alone"
done
expect 0 "$UMBRA_BIN" restore --help
expect_text "$T/out" '^Usage: umbra restore \[OPTIONS\] BACKUP\[:PATH\] --target DIR \[--instant\]$'
expect_text "$T/out" '^       umbra restore \[OPTIONS\] BACKUP\[:PATH\] --target DIR --in-place \[--atomic\]$'
expect_text "$T/out" '^       umbra restore \[OPTIONS\] --rollback \[--force\] --target DIR$'
expect_text "$T/out" '^       umbra restore \[OPTIONS\] --resume \[--target DIR\]$'
expect 0 "$UMBRA_BIN" repo --help
expect_text "$T/out" '^  repo key add  '
expect 0 "$UMBRA_BIN" help
cmp -s "$T/out" "$T/help" || fail "help and --help differ"
expect 0 "$UMBRA_BIN" --no-progress -q backup -h # options before the verb, too

# ---- wrong usage ----

usage "a command is missing"
usage "a command is missing" repo
usage "a command is missing" repo key
usage "unknown command 'frobnicate'" frobnicate
usage "unknown command 'repo frobnicate'" repo frobnicate
usage "unknown command 'repo key frobnicate'" help repo key frobnicate
usage "unknown command 'a.x0ab'" $'a\nb'
usage "option '--bogus'" --bogus
usage "option '--bogus'.*see 'umbra list --help'" list --bogus
usage "option '-Z'" list -Z
usage "option --host needs a value" list --host
usage "option --json takes no value" list --json=yes
usage "too few arguments" backup
usage "too few arguments" diff latest
usage "too many arguments" list something
usage "too many arguments" ls latest:/a latest:/b
usage "for --compression: expected 1 to 19" backup --compression 20 /
usage "for --compression: expected a number" backup --compression best /
usage "for --threads" backup --threads 0 /
usage "for --chunk-size" repo init --chunk-size 1M
usage "for --chunk-size: expected a size" repo init --chunk-size much
usage "for --pack-size" repo init --pack-size 1K
usage "power of two" --repo "$T/none" repo init --chunk-size 96K
usage "no repository given" list
usage "no repository given" backup /
usage "no target given" restore latest
usage "no target given" restore latest --instant
usage "too few arguments" restore --target "$T/x"
usage "too few arguments" restore --target "$T/x" --instant
usage "takes no backup" restore latest --resume
usage "no target given" restore --resume --target ""
for option in --verify --delete --dry-run --threads=2; do
    usage "${option%=*} and --instant do not go together" restore latest -T "$T/x" --instant $option
    usage "${option%=*} and --resume do not go together" restore --resume $option
done
usage "--instant and --resume do not go together" restore --resume --instant
usage "what was chosen when it began" restore --resume --include a
usage "what was chosen when it began" restore --resume --numeric-owner
for option in --limit=1M --idle --deadline=5 --source=dir:/; do
    usage "${option%=*} needs --instant" restore latest -T "$T/x" $option
done
usage "for --limit: expected a size" restore latest -T "$T/x" --instant --limit fast
usage "for --limit" restore latest -T "$T/x" --instant --limit 1
usage "for --deadline" restore latest -T "$T/x" --instant --deadline 0
usage "bad source 'ftp:x'" restore latest -T "$T/x" --instant --source ftp:x
usage "bad source 'exec:'" restore latest -T "$T/x" --instant --source exec:
usage "--atomic needs --in-place" restore latest -T "$T/x" --atomic
usage "--force needs --rollback" restore latest -T "$T/x" --in-place --atomic --force
usage "--rollback takes no backup" restore latest -T "$T/x" --rollback
usage "no target given" restore --rollback
usage "either a directory or --all" log recover "$T" --all
usage "--force is for one directory" log recover --force
usage "too few arguments" log dump
usage "too few arguments" log discard
usage "for --id" log verify --id 12 "$T/x"
usage "too few arguments" hydrate
usage "too many arguments" status /srv
usage "too many arguments" wait /srv
usage "no backup named" --repo "$T/none" ls :/etc
usage "bad tag" --repo "$T/none" backup --tag latest /
usage "bad tag" --repo "$T/none" backup --tag a:b /
usage "--read-data" --repo "$T/none" check --read-data=101%
usage "--read-data" --repo "$T/none" check --read-data=some

# ---- what is not there ----

expect 1 "$UMBRA_BIN" --repo "$T/none" list
expect_text "$T/err" "^umbra: .*'$T/none' is not an umbra repository: .*'umbra repo init' makes one$"
mkdir "$T/empty"
expect 1 "$UMBRA_BIN" --repo "$T/empty" list
expect_text "$T/err" "is not an umbra repository: .*'umbra repo init' makes one$"
for url in s3:bucket/path sftp:user@host:/path s3://bucket; do
    for verb in "repo init" list; do
        # shellcheck disable=SC2086
        expect 1 "$UMBRA_BIN" --repo $url $verb
        expect_text "$T/err" "'$url': this version has repositories only in directories"
    done
done
expect 1 "$UMBRA_BIN" --repo "$T/none"$'\n\e[2J\xc2\x9b' list
if LC_ALL=C grep -q $'[\e\x9b]' "$T/err"; then fail "a message moves the cursor"; fi
[ "$(wc -l <"$T/err")" = 1 ] || fail "an error was said more than once"

say "usage: done"
