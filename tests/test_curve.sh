#!/bin/sh
# tools/curve.sh on the smallest of curves: `sh test_curve.sh SOURCE_DIR PATH_TO_KSAUTO`.
#
# Not what it finds (a second of calibration finds little), but that it runs, keeps away from the user's store, prints a row
# for every total and group and the policies' once, and refuses what it cannot do.
set -u
[ $# = 2 ] || { echo "usage: $0 SOURCE_DIR PATH_TO_KSAUTO" >&2; exit 2; }
curve=$1/tools/curve.sh
ksauto=$2
command -v jq >/dev/null || { echo "skipped: no jq"; exit 77; }

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_DB KSAUTO_EXPLAIN
HOME=$work/home XDG_DATA_HOME=$work/home TMPDIR=$work/tmp
export HOME XDG_DATA_HOME TMPDIR
mkdir "$TMPDIR"

failed=0
fail() {
    failed=1
    echo "FAILED: $*" >&2
    sed 's/^/    /' "$work/table" "$work/err" >&2
}
# rows NUMBER PATTERN: so many lines of the table match.
rows() { [ "$(grep -cE "$2" "$work/table")" = "$1" ] || fail "not $1 rows of '$2'"; }

options="--device cpu --seconds '0.5 1' --problems 3 --seed 7 --layout first --alone"
eval "sh '$curve' --ksauto '$ksauto' --out '$work/table' $options" >"$work/out" 2>"$work/err" || fail "exit $?"
[ ! -s "$work/out" ] || fail "prints on standard output beside --out"
head -n 1 "$work/table" | grep -qF ": sh tools/curve.sh $options" || fail "the first line is not the device and the command"
percent='[0-9.]+ %'
rows 1 '^dtype +layout +policy +seconds +spent +measured +problems +mean +p95 +right$'
for total in 0.5 1; do rows 1 "^f32 +first +advisor +$total +[0-9.]+ +[0-9]+ +3 +$percent +$percent +$percent\$"; done
for policy in 'always fused' 'always bmm' 'ratio>=[0-9.]+'; do
    rows 1 "^f32 +first +$policy +- +- +- +3 +$percent +$percent +-\$"
done
rows 6 '^(dtype|f32) '
rows 8 '' # the device and the command, an empty line
[ -z "$(ls -A "$TMPDIR")" ] || fail "left something in TMPDIR"
[ ! -e "$HOME" ] || fail "touched the user's store"

# refused WORD ARGUMENT...: exit 2, the word on standard error.
refused() {
    word=$1
    shift
    sh "$curve" --ksauto "$ksauto" "$@" >"$work/table" 2>"$work/err"
    [ $? = 2 ] || fail "$*: exit is not 2"
    grep -qF -- "$word" "$work/err" || fail "$*: stderr lacks '$word'"
}
for bad in '' 'x' '5 5' '10 5' '0' '5s'; do refused "'$bad'" --seconds "$bad"; done
refused --wrong --wrong
refused "needs a value" --problems
sh "$curve" --help | grep -q -- --seconds || fail "--help lacks --seconds"
[ $failed = 0 ] && echo "curve: every row is there"
exit $failed
