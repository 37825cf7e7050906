#!/bin/sh
# What the command says of itself: help in 80 columns with examples that parse, manual pages, completion; colours and progress
# on a terminal alone, and not where they are not wanted.
#
#     sh test_help.sh PATH_TO_KSAUTO SOURCE_DIR MANUAL_DIR
set -u
LC_ALL=C
export LC_ALL

[ $# = 3 ] || { echo "usage: $0 PATH_TO_KSAUTO SOURCE_DIR MANUAL_DIR" >&2; exit 2; }
ksauto=$1 source=$2 manual=$3
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_EXPLAIN NO_COLOR
export HOME="$work" XDG_DATA_HOME="$work/data" KSAUTO_DB="$work/none.db"
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAILED: $*" >&2
}

# ---- every page ----

words() { "$ksauto" "$@" --help=options | awk -F '\t' '$1 !~ /^-/ { print $1 }'; }
examples=$work/examples
: >"$examples"
# page WORD...: the help of ksauto WORD...
page() {
    "$ksauto" "$@" --help >"$work/help" 2>"$work/err" || fail "ksauto $* --help fails"
    for word in Usage: Options: Examples: --db --json --quiet; do
        grep -q -e "$word" "$work/help" || fail "ksauto $* --help lacks $word"
    done
    wide=$(awk 'length > 80' "$work/help")
    [ -z "$wide" ] || fail "ksauto $* --help is wider than 80 columns: $wide"
    awk '/^Examples:/ { on = 1; next } on && /^  ksauto / { print substr($0, 3) }' "$work/help" >>"$examples"
    name=$(echo "ksauto $*" | sed 's/ *$//; s/ /-/g')
    file=$manual/$name.1
    [ -s "$file" ] || { fail "$name.1 was not made"; return; }
    for section in NAME SYNOPSIS DESCRIPTION OPTIONS EXAMPLES 'EXIT STATUS' 'SEE ALSO'; do
        grep -qx ".SH $section" "$file" || fail "$name.1 lacks $section"
    done
    awk 'substr($0, 1, 1) == "\047" || (/^\./ && !/^\.(TH|SH|TP|PP|B|BR|br|nh)( |$)/)' "$file" >"$work/odd"
    [ ! -s "$work/odd" ] || fail "$name.1 holds what troff may take for a request: $(cat "$work/odd")"
}
page
for command in $(words); do
    page "$command"
    grep -q "\"$command" "$source/tools/schema.json" || [ "$command" = db ] || fail "schema.json lacks $command"
done
for action in $(words db); do page db "$action"; done
"$ksauto" advise --search --help | awk '/^Examples:/ { on = 1; next } on && /^  ksauto / { print substr($0, 3) }' >>"$examples"
[ "$(wc -l <"$examples")" -ge 25 ] || fail "only $(wc -l <"$examples") examples were found"
# An example parses if nothing before its --help is unknown.
while IFS= read -r line; do
    eval "\"\$ksauto\" ${line#ksauto} --help" >"$work/out" 2>&1 || fail "the example '$line' is misused: $(cat "$work/out")"
done <"$examples"
if "$ksauto" advise --help=odd >"$work/out" 2>&1; then fail "--help=odd is taken"; fi

# ---- completion ----

bash=$(command -v bash || true)
if [ -n "$bash" ]; then
    cat >"$work/complete.bash" <<'END'
source "$1"
ksauto=$2
shift 2
COMP_WORDS=("$ksauto" "$@") COMP_CWORD=$#
_ksauto
printf '%s\n' "${COMPREPLY[@]}" | sort | xargs
END
    # completes EXPECTED WORD...: the last word is the one begun
    completes() {
        expected=$1
        shift
        got=$(cd "$work" && "$bash" "$work/complete.bash" "$source/tools/ksauto.bash" "$ksauto" "$@")
        [ "$got" = "$expected" ] || fail "bash completes '$*' to '$got', not '$expected'"
    }
    completes "advise" adv
    completes "bf16" advise --dtype b
    completes "first last" advise 1,2,3,4 --layout ""
    completes "check export import info merge path" --db some.db db ""
    completes "--salvage" db merge --s
    completes "--db --device --dry-run --dtype" calibrate --d
    completes "examples" evaluate --csv exa
    completes "examples" db import exa
else
    echo "help: no bash here, so its completion is not tried"
fi
if command -v zsh >/dev/null; then
    zsh -n "$source/tools/_ksauto.zsh" || fail "zsh cannot read _ksauto.zsh"
fi

# ---- colours and progress ----

escape=$(printf '\033')
# on_terminal VARIABLE=VALUE... -- ARGUMENT...: what is seen there
on_terminal() {
    settings=
    while [ "$1" != -- ]; do settings="$settings $1"; shift; done
    shift
    env TERM=xterm $settings script -qec "'$ksauto' $*" /dev/null </dev/null
}
"$ksauto" --help >"$work/out"
if grep -q "$escape" "$work/out"; then fail "colours in a file"; fi
if command -v script >/dev/null; then
    on_terminal -- --help | grep -q "$escape" || fail "no colours on a terminal"
    if on_terminal NO_COLOR=1 -- --help | grep -q "$escape"; then fail "colours in spite of NO_COLOR"; fi
    if on_terminal TERM=dumb -- --help | grep -q "$escape"; then fail "colours on a dumb terminal"; fi
    on_terminal -- calibrate --budget 1ms | grep -q 's left' || fail "no progress on a terminal"
    if on_terminal -- calibrate --budget 1ms --quiet | grep -q 's left'; then fail "progress in spite of --quiet"; fi
    if on_terminal -- calibrate --budget 1ms --json | grep -q 's left'; then fail "progress in spite of --json"; fi
else
    echo "help: no script(1) here, so no terminal is tried"
fi
"$ksauto" --db "$work/no/where.db" advise 1,2,3,4 --batch 5 >/dev/null 2>"$work/err"
grep -q note "$work/err" || fail "no note of a store that is missing"
"$ksauto" --db "$work/no/where.db" --quiet advise 1,2,3,4 --batch 5 >/dev/null 2>"$work/err"
[ ! -s "$work/err" ] || fail "--quiet lets a note through"

# ---- width of results ----

for result in "advise 1,192,48,2 --batch 25088" devices "calibrate --dry-run" "db info" "advise --search 1024x4096 --params 10%"; do
    # shellcheck disable=SC2086
    wide=$("$ksauto" $result 2>/dev/null | grep -vF "$work" | awk 'length > 80')
    [ -z "$wide" ] || fail "ksauto $result is wider than 80 columns: $wide"
done

[ $failures -eq 0 ] && echo "help: all pages, examples and completions hold"
exit $((failures > 0))
