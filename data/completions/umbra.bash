# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Completion of umbra for bash.  Commands and options are asked of the program itself, from the help
# that it prints, so this file need not be changed with them.

# The words of the command line that make up the command: "repo key add".
_umbra_command()
{
    local word skip="" command=""
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [ -n "$skip" ]; then
            skip=
            continue
        fi
        case $word in
        -r | --repo | --password-file | --cache-dir) skip=1 ;;
        -*) ;;
        repo | key | log | volume) command+="${command:+ }$word" ;;
        *)
            command+="${command:+ }$word"
            break
            ;;
        esac
    done
    printf '%s\n' "$command"
}

# Options in the help text of a command.
_umbra_options()
{
    # shellcheck disable=SC2086
    umbra $1 --help 2>/dev/null | sed -nE 's/^  (-.,|   ) (--[a-z-]+).*/\2/p'
}

# The next words of commands that begin with "$1".
_umbra_next_words()
{
    umbra --help 2>/dev/null |
        sed -nE "s/^  (${1:+$1 })([a-z-]+)( [a-z -]*)?  +.*/\\2/p" | sort -u
}

# Ids of backups, and their tags, if that needs no question.
_umbra_backups()
{
    if [ -n "${UMBRA_PASSWORD_FILE-}${UMBRA_PASSWORD-}" ]; then
        umbra list </dev/null 2>/dev/null | awk 'NR > 1 { print $1 }'
    fi
    echo latest
}

# Names of cow volumes; with "shadows" those of their shadows, of which root alone is told.
_umbra_volumes()
{
    umbra volume list 2>/dev/null | awk 'NR > 1 { print $1 }' | while read -r name; do
        [ "${1-}" = shadows ] || echo "$name"
        [ -z "${1-}" ] || umbra volume show "$name" 2>/dev/null |
            awk -v name="$name" '$1 == "shadow" { print name "@" $2 }'
    done
}

_umbra()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command words
    COMPREPLY=()
    case $previous in
    -T | --target | --cache-dir | -r | --repo | --storage)
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
        ;;
    --password-file | --new-password-file | --exclude-file | --origin)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --front)
        mapfile -t COMPREPLY < <(compgen -W 'ublk fuse' -- "$current")
        return
        ;;
    --protect)
        mapfile -t COMPREPLY < <(compgen -W 'shadows writes' -- "$current")
        return
        ;;
    esac

    command=$(_umbra_command)
    if [[ $current == -* ]]; then
        words=$(_umbra_options "$command")
    else
        case $command in
        backup* | hydrate | 'log dump' | 'log verify')
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        ls | diff | restore) words=$(_umbra_backups) ;;
        'volume create' | 'volume list') ;;
        'volume seal') words=$(_umbra_volumes shadows) ;;
        'volume delete') words=$(_umbra_volumes all) ;;
        'volume protect')
            words="$(_umbra_volumes) "
            [ "$previous" = protect ] || words='shadows writes'
            ;;
        volume\ *) words=$(_umbra_volumes) ;;
        *) words=$(_umbra_next_words "$command") ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -o filenames -F _umbra umbra
