#!/bin/sh
# Fits the models of seeds anew, from the measurements beside them. Needs jq.
#
#     sh db/seeds/refit.sh KSAUTO PREFIX...        # e.g. build/release/ksauto db/seeds/nvidia-h200
#
# KSAUTO is a built command. One that has the device's kernels writes PREFIX.jsonl; one that lacks them PREFIX.generic.jsonl.
# Models of types that PREFIX.csv has no rows of stay as they are. The CSV is not touched.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 KSAUTO PREFIX..." >&2; exit 2; }
ksauto=$1
shift
draft=$(mktemp -d)
trap 'rm -r "$draft"' EXIT
export KSAUTO_DB="$draft/store.db"
for prefix; do
    rm -f "$KSAUTO_DB"*
    device=$(head -n 1 "$prefix.jsonl" | jq -r .name)
    "$ksauto" db import --seed "$prefix"
    "$ksauto" fit --alone --device "$device"
    "$ksauto" db export --seed "$device" --out-prefix "$draft/seed"
    if jq -en 'any(inputs.kernels[]?; .terms == "generic")' "$draft/seed.jsonl" >/dev/null; then
        cp "$draft/seed.jsonl" "$prefix.generic.jsonl"
    else
        cp "$draft/seed.jsonl" "$prefix.jsonl"
    fi
done
