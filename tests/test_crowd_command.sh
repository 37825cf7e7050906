#!/bin/sh
# Processes of the command that calibrate one store at once, and others that ask it for advice meanwhile:
#
#     sh test_crowd_command.sh KSAUTO [SECONDS [CALIBRATIONS [READERS]]]
#
# No error reaches anyone, and no note but that the machine is busy, as it is; every measured problem is in the store once; and the
# models that are fitted to the store are, to the last digit, those that one process fits to the same rows in a store of its own.
# Needs jq.
set -eu

command -v jq >/dev/null || { echo "$0: skipped, there is no jq" >&2; exit 77; }
ksauto=$1 seconds=${2:-60} calibrations=${3:-16} readers=${4:-4}
folder=$(mktemp -d "${TMPDIR:-/tmp}/ksauto-crowd-XXXXXX")
pids=
# shellcheck disable=SC2086
trap 'if [ "$pids" ]; then kill $pids 2>/dev/null || :; fi; rm -rf "$folder"' EXIT
store=$folder/s.db
unset KSAUTO_DB KSAUTO_DECISIONS KSAUTO_EXPLAIN
KSAUTO_NUM_THREADS=1
export KSAUTO_NUM_THREADS

fail() {
    echo "$0: $*" >&2
    exit 1
}

# The rates are measured once, and not by all at the same time.
"$ksauto" --db "$store" calibrate --budget 1s >/dev/null
own=$("$ksauto" --db "$store" db export | grep -c ',fused\.cpu,')

for i in $(seq "$calibrations"); do
    "$ksauto" --db "$store" --json calibrate --budget "${seconds}s" --seed "$i" >"$folder/$i.json" 2>"$folder/$i.err" &
    pids="$pids $!"
done
end=$(($(date +%s) + seconds))
for i in $(seq "$readers"); do
    (
        turns=0
        while [ "$(date +%s)" -lt "$end" ]; do
            "$ksauto" --db "$store" --json advise "$i,48,$((turns % 50 + 1)),3" --batch $((turns + 1)) --layout last |
                jq -e '.source == "model" or .source == "measurement"' >/dev/null || exit 1
            turns=$((turns + 1))
        done
        echo "$turns" >"$folder/reader$i"
    ) 2>"$folder/reader$i.err" &
    pids="$pids $!"
done
for pid in $pids; do wait "$pid" || fail "a process failed: $(cat "$folder"/*.err)"; done
for err in "$folder"/*.err; do
    said=$(grep -vE 'note: (the machine is busy|[0-9]+ of [0-9]+ measurements scattered)' "$err") || continue
    fail "$said"
done

"$ksauto" --db "$store" db check >/dev/null || fail "the store is not sound"
"$ksauto" --db "$store" db export --out "$folder/rows.csv" >/dev/null
[ "$(sort "$folder/rows.csv" | uniq -d | wc -l)" -eq 0 ] || fail "rows are doubled"
measured=$(cat "$folder"/*.json | jq -s 'map(.measured) | add')
device=$(jq -r .device "$folder/1.json")
found=$(grep -c ',fused\.cpu,' "$folder/rows.csv")
[ "$found" -eq $((measured + own)) ] || fail "$measured problems measured and $own before, $found in the store"

# models STORE PREFIX: fitted to all that it holds; without the moments they were fitted at.
models() {
    "$ksauto" --db "$1" fit >/dev/null
    "$ksauto" --db "$1" db export --seed "$device" --out-prefix "$2" >/dev/null
    jq -c 'del(.fitted_at_s)' "$2.jsonl"
}
"$ksauto" --db "$folder/one.db" db merge "$store" >/dev/null
models "$store" "$folder/all" >"$folder/all.models"
models "$folder/one.db" "$folder/one" >"$folder/one.models"
[ -s "$folder/all.models" ] || fail "no models"
cmp -s "$folder/all.models" "$folder/one.models" || fail "the models differ: $(diff "$folder/all.models" "$folder/one.models" | cut -c 1-300)"
echo "$calibrations calibrations, $readers readers, $seconds s: $measured problems, $(cat "$folder"/reader? | jq -s add) answers, models alike"
