#!/bin/sh
# What a known device's model is worth to a new one: regret on the new device's problems against the number of patterns measured
# there, learned from them alone and started from the known device. sh tools/transfer.sh [OPTION]... KNOWN NEW
#
#     KNOWN, NEW        seeds, as `ksauto db import --seed` takes them: db/seeds/nvidia-h100-80gb-hbm3 db/seeds/nvidia-h200
#     --patterns LIST   how many patterns of the new device to learn from (default "10 20 40 80 160 320")
#     --draws M         how many times they are drawn at random (default 10)
#     --ksauto PATH     the command (default: build/quickstart/ksauto, else the one on the PATH)
#
# Nothing is measured. All other patterns of the new device are judged by, and none of these is taken from the known one. The
# store is a temporary one. A command that lacks the devices' kernels fits with generic cost terms, and worse. Needs jq.
set -eu

fail() {
    echo "$0: $2" >&2
    exit "$1"
}

patterns='10 20 40 80 160 320' draws=10 ksauto=''
while [ $# -gt 0 ]; do
    case $1 in
    --help) sed -n '2,/Needs jq/s/^# \{0,1\}//p' "$0" && exit ;;
    --patterns | --draws | --ksauto) [ $# -gt 1 ] || fail 2 "$1 needs a value; see $0 --help" ;;
    -*) fail 2 "unknown argument '$1'; see $0 --help" ;;
    *) break ;;
    esac
    case $1 in
    --patterns) patterns=$2 ;;
    --draws) draws=$2 ;;
    --ksauto) ksauto=$2 ;;
    esac
    shift 2
done
[ $# = 2 ] || fail 2 "needs the known device's seed and the new one's; see $0 --help"
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
# import SEED: prints the device's name.
import() { "$ksauto" db import --seed "$1" --json | jq -r .device; }
known=$(import "$1")
new=$(import "$2")

row='%8s  %-5s  %-6s  %8s  %12s  %11s  %14s  %13s\n'
echo "$new from $known, means of $draws draws"
echo
# shellcheck disable=SC2059
printf "$row" patterns dtype layout problems 'alone, mean' 'alone, p95' 'started, mean' 'started, p95'
for count in $patterns; do
    "$ksauto" evaluate --device "$new" --train "$count" --draws "$draws" --json >"$work/alone.json"
    "$ksauto" evaluate --device "$new" --train "$count" --draws "$draws" --from "$known" --json >"$work/started.json"
    jq -rs --arg count "$count" '[.[0].configs, .[1].configs] | transpose[] | [$count, .[0].dtype, .[0].layout,
        .[0].problems, .[0].regret.mean, .[0].regret.p95, .[1].regret.mean, .[1].regret.p95] | @tsv' \
        "$work/alone.json" "$work/started.json" |
        awk -F '\t' -v row="$row" 'function percent(x) { return sprintf("%.2f %%", 100 * x) }
            { printf row, $1, $2, $3, $4, percent($5), percent($6), percent($7), percent($8) }'
done
