#!/bin/sh
# tools/transfer.sh on two made-up devices, one of them twice as fast: `sh test_transfer.sh SOURCE_DIR PATH_TO_KSAUTO`.
#
# That it runs, prints a row for every number of patterns, keeps away from the user's store, finds the known device a help, and
# refuses what it cannot do.
set -u
[ $# = 2 ] || { echo "usage: $0 SOURCE_DIR PATH_TO_KSAUTO" >&2; exit 2; }
transfer=$1/tools/transfer.sh
ksauto=$2
command -v jq >/dev/null || { echo "skipped: no jq"; exit 77; }

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_DB KSAUTO_EXPLAIN
HOME=$work/home XDG_DATA_HOME=$work/home TMPDIR=$work/tmp
export HOME XDG_DATA_HOME TMPDIR
mkdir "$TMPDIR"
cd "$work" || exit 1

failed=0
fail() {
    failed=1
    echo "FAILED: $*" >&2
    sed 's/^/    /' table err >&2
}

# seed NAME FACTOR ODD: 60 problems of which one family takes 1 us a unit of b, the other one of c, and both FACTOR times that;
# every third b is the devices' own, ODD.
seed() {
    awk -v name="$1" -v factor="$2" -v odd="$3" 'BEGIN {
        print "a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,energy_j,samples,status"
        for (i = 0; i < 60; i++) {
            b = 16 + (i * 7919) % 509 + (i % 3 ? 0 : odd); c = 16 + (i * 104729) % 503
            problem = "4," b "," c ",2,1024,f32,first," name
            print problem ",made.fused,fused," factor * (20 + b) * 1e-6 ",,9,KS_OK"
            print problem ",made.bmm,bmm," factor * (20 + c) * 1e-6 ",,9,KS_OK"
        } }' >rows.csv
    rm -f seed.db
    { "$ksauto" --db seed.db db import rows.csv && "$ksauto" --db seed.db fit --device "$1" &&
        "$ksauto" --db seed.db db export --seed "$1" --out-prefix "$1"; } >err 2>&1 || fail "no seed of $1"
}
: >table
seed Known 1 0
seed New 2 1

sh "$transfer" --ksauto "$ksauto" --patterns "6 12" --draws 2 Known New >table 2>err || fail "exit $?"
grep -q "^New from Known, means of 2 draws" table || fail "the first line does not say what it is"
percent='[0-9.]+ %'
for count in 6 12; do
    [ "$(grep -cE "^ +$count +f32 +first +[0-9]+ +$percent +$percent +$percent +$percent\$" table)" = 1 ] || fail "no row of $count"
done
awk '$1 == 6 && !($9 <= $5) { exit 1 }' table || fail "the known device does harm"
[ -z "$(ls -A "$TMPDIR")" ] || fail "left something in TMPDIR"
[ ! -e "$HOME" ] || fail "touched the user's store"

# refused WORD ARGUMENT...: exit 2, the word on standard error.
refused() {
    word=$1
    shift
    sh "$transfer" --ksauto "$ksauto" "$@" >table 2>err
    [ $? = 2 ] || fail "$*: exit is not 2"
    grep -qF -- "$word" err || fail "$*: stderr lacks '$word'"
}
refused seed Known
refused --wrong --wrong
refused "needs a value" --patterns
sh "$transfer" --help | grep -q -- --patterns || fail "--help lacks --patterns"
[ $failed = 0 ] && echo "transfer: every row is there"
exit $failed
