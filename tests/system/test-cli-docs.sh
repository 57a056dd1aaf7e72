#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# --help, the manual page and the completion say the same: every command and option of one is in
# the others.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
test_begin 60 "$@"
require_umbra
# page_of COMMAND
page_of() {
    case $1 in
    volume*) echo "$TESTS_TOP/man/umbra-volume.1" ;;
    *) echo "$TESTS_TOP/man/umbra.1" ;;
    esac
}
export UMBRA_PASSWORD=x

"$UMBRA_BIN" --help | sed -nE '/^Commands:/,/^$/s/^  ([a-z][a-z -]*[a-z])  +.*/\1/p' >"$T/verbs"
[ "$(wc -l <"$T/verbs")" -ge 19 ] || fail "the list of commands is not understood"
: >"$T/options"
while read -r verb; do
    page=$(page_of "$verb")
    grep -Fqx ".Ss $verb" "$page" || fail "${page##*/} has no section '$verb'"
    # shellcheck disable=SC2086
    "$UMBRA_BIN" $verb --help | sed -nE 's/^  (-.,|   ) --([a-z-]+).*/\2/p' >"$T/one"
    # In the section of the command, or among the options of all (key change says: those of add).
    awk -v want=".Ss $verb" '/^\.S[sh] /{on = $0 == want || $0 == ".Ss Options of all commands" ||
        (want == ".Ss repo key change" && $0 == ".Ss repo key add")} on' \
        "$TESTS_TOP/man/umbra.1" "$page" >"$T/section"
    while read -r option; do
        grep -Eq -- "^\.It Fl (. , )?-$option( |$)" "$T/section" ||
            fail "${page##*/} does not explain --$option of '$verb'"
    done <"$T/one"
    sed 's/^/--/' "$T/one" >>"$T/options"
done <"$T/verbs"

# Nothing is explained that is not there.
for page in "$(page_of list)" "$(page_of volume)"; do
    sed -nE 's/^\.It Fl (. , )?-([a-z-]+).*/--\2/p' "$page" | while read -r option; do
        grep -Fqx -- "$option" "$T/options" ||
            fail "${page##*/} explains $option, which is not there"
    done
done

if command -v mandoc >/dev/null; then
    for page in "$TESTS_TOP"/man/*.[1-8]; do
        # The data base of installed pages may be old or missing: that is no fault of the page.
        mandoc -Tlint -Wwarning "$page" | grep -v 'mandoc.db' >"$T/lint" || true
        [ ! -s "$T/lint" ] || fail "$(cat "$T/lint")"
    done
fi

# ---- completion ----

PATH=$(dirname "$UMBRA_BIN"):$PATH
# shellcheck source=../../data/completions/umbra.bash
. "$TESTS_TOP/data/completions/umbra.bash"
completes() { # WORDS... -- EXPECTED...: the last word is the one under the cursor
    COMP_WORDS=(umbra)
    while [ "$1" != = ]; do
        COMP_WORDS+=("$1")
        shift
    done
    shift
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _umbra
    local word
    for word in "$@"; do
        printf '%s\n' "${COMPREPLY[@]}" | grep -Fqx -- "$word" ||
            fail "completion of '${COMP_WORDS[*]}' has no '$word' but: ${COMPREPLY[*]}"
    done
}
completes "" = backup restore check repo ls list diff
completes re = repo restore resume
completes repo "" = init stats key rebuild-index
completes repo key "" = add change list remove
completes -q --repo /x repo k = key
completes backup --ex = --exclude --exclude-file --exclude-caches
completes repo key add --new = --new-password-file
completes restore "" = latest
completes restore --i = --include --instant --idle
completes hydrate /et = /etc
completes volume "" = create attach detach list show shadow seal changed resize protect delete
completes volume create x --origin /et = /etc
completes volume protect x "" = shadows writes

say "documents: done"
