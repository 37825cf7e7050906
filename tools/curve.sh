#!/bin/sh
# What each second of calibration buys: regret on held-out problems against seconds. sh tools/curve.sh [OPTION]...
#
#     --device DEVICE   cpu (default), or cuda:N
#     --seconds LIST    totals of calibration to judge at, rising (default "5 10 20 40 80 160")
#     --problems N      held-out problems (default 200)
#     --seed N          chooses the held-out problems (default: by the clock; the first line of the output tells)
#     --dtype TYPES     as for ksauto calibrate
#     --layout LAYOUTS  as for ksauto calibrate
#     --alone           as for ksauto calibrate: do not start from the seed of the nearest device
#     --ksauto PATH     the command (default: build/quickstart/ksauto, else the one on the PATH)
#     --out FILE        write the table there instead of on standard output
#
# The store is a fresh, temporary one: the user's own is neither read nor changed. The held-out table is drawn and measured
# once (ksauto bench --random stores nothing), after the first calibration, because that measures the rates which bound the
# problems' sizes. Then calibration goes on, each time for the difference to the next total, and each time `ksauto evaluate`
# judges the models it left by the table. Needs jq.
# shellcheck disable=SC2016 # $names in jq's filters are jq's
set -eu

fail() {
    echo "$0: $2" >&2
    exit "$1"
}

device=cpu seconds='5 10 20 40 80 160' problems=200 seed=$(date +%s) dtype='' layout='' alone='' ksauto='' out=''
while [ $# -gt 0 ]; do
    case $1 in
    --help) sed -n '2,/Needs jq/s/^# \{0,1\}//p' "$0" && exit ;;
    --alone) alone=--alone && shift && continue ;;
    --device | --seconds | --problems | --seed | --dtype | --layout | --ksauto | --out) ;;
    *) fail 2 "unknown argument '$1'; see $0 --help" ;;
    esac
    [ $# -gt 1 ] || fail 2 "$1 needs a value; see $0 --help"
    case $1 in
    --device) device=$2 ;;
    --seconds) seconds=$2 ;;
    --problems) problems=$2 ;;
    --seed) seed=$2 ;;
    --dtype) dtype=$2 ;;
    --layout) layout=$2 ;;
    --ksauto) ksauto=$2 ;;
    --out) out=$2 ;;
    esac
    shift 2
done
echo "$seconds" | awk '{ for (i = 1; i <= NF; i++) { if ($i !~ /^[0-9.]+$/ || $i <= last + 0) bad = 1; last = $i } }
    NF == 0 { bad = 1 } END { exit bad }' || fail 2 "--seconds '$seconds': must be rising numbers, such as '5 10 20'"
command -v jq >/dev/null || fail 1 "needs jq, which is not here"
if [ -z "$ksauto" ]; then
    ksauto=$(dirname "$0")/../build/quickstart/ksauto
    [ -x "$ksauto" ] || ksauto=$(command -v ksauto) || fail 1 "there is no ksauto in build/quickstart or on the PATH; see --ksauto"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
KSAUTO_DB=$work/store.db
export KSAUTO_DB
if [ -n "$out" ]; then exec >"$out"; fi

less() { awk -v x="$1" -v y="$2" 'BEGIN { print x - y }'; }
add() { awk -v x="$1" -v y="$2" 'BEGIN { print x + y }'; }
# with COMMAND...: ksauto on the device, for the types and layouts asked for.
with() { "$ksauto" "$@" --device "$device" ${dtype:+--dtype "$dtype"} ${layout:+--layout "$layout"}; }

row='%-5s  %-6s  %-14s  %7s  %7s  %8s  %8s  %8s  %8s  %7s\n'
# print FILTER: lines of dtype, layout, policy, seconds, spent, measured, problems, mean, p95, right, from evaluate's JSON.
print() {
    jq -r --arg seconds "$total" --arg spent "$spent" "$1 | @tsv" "$work/regret.json" |
        awk -F '\t' -v row="$row" 'function percent(x) { return x == "" ? "-" : sprintf("%.2f %%", 100 * x) }
            { printf row, $1, $2, $3, $4, $5, $6, $7, percent($8), percent($9), percent($10) }'
}

calibrated=0 spent=0
for total in $seconds; do
    with calibrate --budget "$(less "$total" "$calibrated")" $alone --json >"$work/run.json"
    spent=$(add "$spent" "$(jq .elapsed_s "$work/run.json")")
    if [ "$calibrated" = 0 ]; then
        with bench --random "$problems" --seed "$seed" --csv "$work/heldout.csv" >/dev/null
        echo "$(jq -r .device "$work/run.json"): sh tools/curve.sh --device $device --seconds '$seconds' --problems $problems" \
            "--seed $seed${dtype:+ --dtype $dtype}${layout:+ --layout $layout}${alone:+ $alone}"
        echo
        # shellcheck disable=SC2059
        printf "$row" dtype layout policy seconds spent measured problems mean p95 right
    fi
    calibrated=$total
    "$ksauto" evaluate --csv "$work/heldout.csv" --json >"$work/regret.json"
    print '.configs[] | [.dtype, .layout, "advisor", $seconds, ($spent | tonumber * 10 | round / 10), .measured, .problems,
        .regret.mean, .regret.p95, .agreement]'
done
print '.configs[] | . as $c | {always_fused: "always fused", always_bmm: "always bmm",
    ratio: "ratio>=\(.ratio_threshold * 1e5 | round / 1e5)"} | to_entries[] | $c.static[.key] as $regret |
    [$c.dtype, $c.layout, .value, "-", "-", "-", $c.problems, $regret.mean, $regret.p95, ""]'
