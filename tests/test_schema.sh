#!/bin/sh
# Every command's --json is what tools/schema.json says, and holds nothing that the schema does not know.
#
#     sh test_schema.sh PATH_TO_KSAUTO SOURCE_DIR
#
# Skipped (77) without python3 and its jsonschema. KSAUTO_TEST_QUICK=1 leaves out what measures.
set -u
LC_ALL=C
export LC_ALL

[ $# = 2 ] || { echo "usage: $0 PATH_TO_KSAUTO SOURCE_DIR" >&2; exit 2; }
ksauto=$1 source=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_EXPLAIN
export HOME="$work" XDG_DATA_HOME="$work/data" KSAUTO_DB="$work/store.db"
if ! /usr/bin/python3 -c 'import jsonschema' 2>/dev/null; then
    echo "schema: skipped, no python3 with jsonschema here"
    exit 77
fi
cat >"$work/check.py" <<'END'
import json, sys, jsonschema
schema, name, value = json.load(open(sys.argv[1])), sys.argv[2], json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
def closed(node):
    if isinstance(node, list): return [closed(item) for item in node]
    if not isinstance(node, dict): return node
    node = {key: closed(item) for key, item in node.items()}
    if "properties" in node: node.setdefault("additionalProperties", False)
    return node
defs = schema["$defs"]
if name != "evaluate": defs = closed(defs)  # its configurations add to calibrate's
jsonschema.Draft202012Validator({"$ref": "#/$defs/" + name.replace(" ", "%20"), "$defs": defs}).validate(value)
END
failures=0 checks=0
# holds NAME ARGUMENT...: exit codes of 0 and 1 may both print a result
holds() {
    name=$1
    shift
    checks=$((checks + 1))
    "$ksauto" --json --quiet "$@" >"$work/out" 2>"$work/err" </dev/null
    if ! /usr/bin/python3 "$work/check.py" "$source/tools/schema.json" "$name" <"$work/out" >"$work/log" 2>&1; then
        failures=$((failures + 1))
        echo "FAILED: ksauto $* is not as the schema's '$name' says" >&2
        tail -n 20 "$work/log" "$work/err" >&2
    fi
}
holds "db check" db check
holds "db import" db import --seed "$source/db/seeds/intel-xeon-emerald-rapids-2-threads"
for type in f32 f16 bf16 f64; do holds advise advise 6,64,64,2 --batch 128 --dtype $type --layout last; done
holds advise advise 6,64,64,1 --batch 128 --explain
holds advise advise 6,64,64,1 --batch 128 --objective energy --math tf32
holds advise advise 6,64,64,1 --batch 128 --device "NVIDIA H200"
holds "advise --search" advise --search 48x64 --params 50%
holds "advise --search" advise --search 48x64 --params 50% --measure --batch 3
holds "calibrate --dry-run" calibrate --dry-run --target-regret 1%
for action in path info check; do holds "db $action" db $action; done
holds "db export" db export --out "$work/e.csv"
holds "db export" db export --seed "Intel(R) Xeon(R) Processor (2 threads)" --out-prefix "$work/seed"
holds "db import" db import "$work/e.csv"
holds "db merge" --db "$work/other.db" db merge "$KSAUTO_DB"
holds devices devices
holds fit fit --device "Intel(R) Xeon(R) Processor (2 threads)"
holds evaluate evaluate --csv "$work/e.csv"
header() { printf '\223NUMPY\001\000\166\000'; printf '%-117s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': $1, }"; }
{ header '(1, 2)'; printf '12345678'; } >"$work/x.npy"
{ header '(1, 1, 2, 1)'; printf '12345678'; } >"$work/k.npy"
holds matmul matmul --pattern 1,1,2,1 --x "$work/x.npy" --k "$work/k.npy" --out "$work/y.npy"
! command -v gnuplot >/dev/null || holds report report --out "$work/page" --layout first \
    --device "Intel(R) Xeon(R) Processor (2 threads)"
if [ -z "${KSAUTO_TEST_QUICK:-}" ]; then
    printf 'a,b,c,d,batch,dtype,layout\n1,8,8,1,4,f32,first\n' >"$work/panel.csv"
    holds bench bench --panel "$work/panel.csv"
    holds "bench --dispatch" bench --dispatch
    printf '# two factors\nf32 first 4 8,8,8,1 1,8,8,8\n' >"$work/chains.txt"
    holds "bench --chains" bench --chains "$work/chains.txt"
    holds calibrate --db "$work/new.db" calibrate --budget 1s --layout first
fi
echo "schema: $checks results, $failures failures"
[ $failures -eq 0 ]
