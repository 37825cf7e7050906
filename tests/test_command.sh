#!/bin/sh
# The command as people and scripts meet it: `sh test_command.sh PATH_TO_KSAUTO`.
#
# Exit codes, which stream says what, whether errors name the thing, the value and what would be valid, and whether
# --json is JSON with the promised fields. NumPy is on the other side of matmul where /usr/bin/python3 has it
# (matmul_numpy.py). Everything happens in a temporary directory; the user's own store is never touched.
# KSAUTO_TEST_QUICK=1, for builds after the first, leaves calibrate's run out, and three in four of NumPy's products.

set -u
[ $# = 1 ] || { echo "usage: test_command.sh PATH_TO_KSAUTO" >&2; exit 2; }
ksauto=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work" || exit 1
unset KSAUTO_DB KSAUTO_EXPLAIN
HOME=$work XDG_DATA_HOME=$work/data
export HOME XDG_DATA_HOME

failures=0 checks=0
fail() {
    failures=$((failures + 1))
    echo "FAILED: $*" >&2
    sed -n '1,10s/^/    stdout: /p' out >&2
    sed -n '1,10s/^/    stderr: /p' err >&2
}

# expect CODE ARGUMENT...: runs ksauto; its output is then in the files out and err.
expect() {
    code=$1
    shift
    last="ksauto $*"
    checks=$((checks + 1))
    "$ksauto" "$@" >out 2>err </dev/null
    got=$?
    [ $got = "$code" ] || fail "$last: exit $got, not $code"
}

# says WORD...: standard error has each of them; said: standard output.
says() { for word; do grep -qF -- "$word" err || fail "$last: stderr lacks '$word'"; done; }
said() { for word; do grep -qF -- "$word" out || fail "$last: stdout lacks '$word'"; done; }
silent() { [ ! -s out ] || fail "$last: prints on stdout"; }
quiet() { [ ! -s err ] || fail "$last: prints on stderr"; }

if command -v jq >/dev/null 2>&1; then
    json() { jq -e . out >/dev/null 2>&1 || fail "$last: stdout is not JSON"; }
    # holds EXPRESSION: true of the JSON
    holds() { jq -e "$1" out >/dev/null 2>&1 || fail "$last: not so: $1"; }
else
    json() { python3 -m json.tool out >/dev/null 2>&1 || fail "$last: stdout is not JSON"; }
    holds() { :; }
fi

# misuse WORD... -- ARGUMENT...: exit 2, nothing on stdout, the words on stderr.
misuse() {
    words=
    while [ "$1" != -- ]; do words="$words$1
"; shift; done
    shift
    expect 2 "$@"
    silent
    while IFS= read -r word; do [ -z "$word" ] || says "$word"; done <<END
$words
END
}

# ---- before any command ----
expect 0 --version; said ksauto; quiet
expect 0 --help; said advise calibrate fit evaluate bench matmul db devices --db --json; quiet
misuse advise calibrate matmul -- ; says missing
misuse nonsense advise db -- nonsense
misuse "did you mean 'advise'" -- advize 1,2,3,4 --batch 4
misuse "did you mean 'calibrate'" -- calibarte
misuse "did you mean 'info'" -- db infos
misuse "did you mean '--batch'" -- advise 1,2,3,4 --bacth=4
misuse "unknown command 'xy'; valid" -- xy
misuse --nonsense --db -- --nonsense
expect 0 help; said advise calibrate; quiet
expect 0 help db import; said "ksauto db import"; quiet
misuse "did you mean 'bench'" -- help bensh
misuse --db -- --db
misuse "--db ''" -- --db '' devices
for name in advise matmul pin db devices calibrate; do expect 0 $name --help; said Usage --db --json; quiet; done
for name in info path check import export merge; do expect 0 db $name --help; said Usage; done
checks=$((checks + 1)); last="ksauto --help >/dev/full"
if [ -w /dev/full ]; then "$ksauto" --help >/dev/full 2>err; [ $? = 1 ] || fail "$last: exit is not 1"; fi

# ---- options, on advise ----
misuse --batch required -- advise 1,2,3,4
misuse missing A,B,C,D -- advise --batch 4
misuse extra -- advise 1,2,3,4 extra --batch 4
misuse 1,2,3 A,B,C,D -- advise 1,2,3 --batch 4
misuse 1,2,0,4 -- advise 1,2,0,4 --batch 4
misuse 1,2,3,4,5 -- advise 1,2,3,4,5 --batch 4
misuse 1,x,3,4 -- advise 1,x,3,4 --batch 4
for bad in 0 -1 1.5 x 9223372036854775808 1e3 ' 4' ''; do misuse --batch "'$bad'" "from 1" -- advise 1,2,3,4 --batch="$bad"; done
misuse --dtype f31 f32 f16 bf16 f64 -- advise 1,2,3,4 --batch 4 --dtype f31
misuse --layout middle first last -- advise 1,2,3,4 --batch 4 --layout middle
misuse --math exact f32 tf32 -- advise 1,2,3,4 --batch 4 --math exact
misuse --objective money time energy -- advise 1,2,3,4 --batch 4 --objective money
misuse --device nosuch "ksauto devices" -- advise 1,2,3,4 --batch 4 --device nosuch
misuse ambiguous --d --dtype --device --db -- advise 1,2,3,4 --batch 4 --d f32
misuse unknown --wrong --batch --explain -- advise 1,2,3,4 --batch 4 --wrong
misuse unknown -z -- advise 1,2,3,4 --batch 4 -z
misuse --explain "no value" -- advise 1,2,3,4 --batch 4 --explain=yes
misuse --batch "needs a value" -- advise 1,2,3,4 --batch
misuse -- advise 1000000,1000000,1000000,1000000 --batch 4
misuse -- advise 1000000,1000,1000,1000 --batch 9000000000
for bad in 0 -5 nan inf 0x10 5x '' 5ss; do misuse --budget "'$bad'" 60s -- calibrate --budget="$bad"; done
for bad in 1 5 -1% 101% x 1%% nan; do misuse --target-regret "'$bad'" 1% -- calibrate --target-regret="$bad"; done
misuse --dtype f32,f33 all -- calibrate --dtype f32,f33
misuse --dtype f32, -- calibrate --dtype f32,
misuse --layout all both -- calibrate --layout all
misuse --seed 0 -- calibrate --seed 0
misuse unexpected more -- calibrate more

# ---- advise ----
expect 0 advise 6,64,64,1 --batch 128; quiet
said "x best" "80 %" "P(fused faster)" "expected regret" source roofline dense fused bmm
head -n 1 out | grep -Eq '^(fused|bmm): (fused|bmm)[.]' || fail "$last: the answer does not stand first"
expect 0 advise 6,64,64,1 --batch 128 --explain; said "Why:" "time goes into" "for doing"
[ "$(sed -n '/^Why:/,$p' out | awk '{ if (length > n) n = length } END { print n }')" -le 80 ] || fail "$last: over 80 columns"
expect 0 --json advise 6,64,64,3 --batch 128 --dtype f16 --layout last; quiet; json
holds '.schema_version == 1 and .problem == {a:6,b:64,c:64,d:3,batch:128,dtype:"f16",layout:"last",math:"f32"}'
holds '(.device|type=="string") and (.path=="fused" or .path=="bmm") and (.source|type=="string")'
holds '.kernel as $k | any(.candidates[]; .kernel == $k)'
holds '[.candidates[] | .time_s > 0 and .time_lo_s <= .time_s and .time_s <= .time_hi_s and (.family|type=="string")] | all and length > 1'
holds '[.candidates[].time_s] | . == sort'
holds '.p_fused_faster >= 0 and .p_fused_faster <= 1 and .expected_regret >= 0 and .roofline_s > 0'
expect 0 advise --json 2,3,5,7 --bat 11 --explain; json; holds '.explain.reasons | length > 0' # abbreviated, --json after
holds '(.explain.why|length > 0) and (.explain.neighbours|type=="array") and ([.explain.costs[].kernel] == [.candidates[].kernel])'
holds '[.explain.costs[] | .launches_s + .bytes_s + .flops_s + .elements_s + .tiles_s] as $sums |
    [range($sums|length) as $i | ($sums[$i] / .candidates[$i].time_s - 1) | fabs < 1e-6] | all'
for type in f32 f16 bf16 f64; do
    for layout in first last; do expect 0 advise 3,5,7,2 --batch 13 --dtype $type --layout $layout --json; json; done
done
expect 0 --db /nowhere/x.db advise 1,2,3,4 --batch 5; says note /nowhere/x.db
echo "this is no database, and long enough to be told from an empty one" >bad.db
cp bad.db bad.copy
expect 0 --db bad.db advise 1,2,3,4 --batch 5; says note
cmp -s bad.db bad.copy || fail "$last: changed the file it could not use"

# ---- advise --search ----
expect 0 advise --search 64x96 --params 50% --top 5; quiet; said dense parameters "x dense"
expect 0 advise --search=64x96 --params 50% --factors 2 --json; json; cp out chains2.json
holds '[.chains[].factors | length] | all(. == 2)'
holds '[.chains[].time_s] == ([.chains[].time_s] | sort | reverse) and [.chains[].parameters] == ([.chains[].parameters] | sort | reverse)'
expect 0 advise --search 12x20 --params 90% --factors 3 --top 1000 --json; json; cp out chains3.json
expect 0 advise --search --help; said --params --factors
misuse 1024 4096 -- advise --search 1024 --params 10%
misuse --factors 2 4 -- advise --search 16x16 --factors 5
expect 1 advise --search 7x11 --params 10%; says parameters --params
expect 1 advise --search 64x64 --params 50% --measure --device "NVIDIA H200"; says --measure CPU
if [ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    checks=$((checks + 1)); last="search_numpy.py"
    /usr/bin/python3 "$here/search_numpy.py" chains2.json chains3.json >out 2>err || fail "$last"
fi

# ---- devices ----
expect 0 devices; quiet; said here where
expect 0 devices --json; json; holds '.schema_version == 1 and (.here|length) >= 1 and (.store|type=="array") and (.seeds|type=="array")'
holds '.here[0] | .backend == "cpu" and .units >= 1 and (.name|length) > 0'
# With a GPU it is listed; without one there is a reason, and everything that was to run there gives it, too.
holds '([.here[] | select(.backend == "cuda")] | length > 0) == (.no_cuda == null) and .here[0].device == "cpu"'
misuse unexpected x -- devices x
misuse cuda:9999 -- advise 1,2,3,4 --batch 4 --device cuda:9999
misuse cuda:9999 -- bench --device cuda:9999
misuse cuda:9999 -- calibrate --device cuda:9999
misuse cuda:z cuda:N -- advise 1,2,3,4 --batch 4 --device cuda:z
expect 0 devices
if grep -q "No CUDA device" out; then
    reason=$(sed -n 's/^No CUDA device: \(.*\)[.]$/\1/p' out)
    misuse cuda:0 "$reason" -- advise 1,2,3,4 --batch 4 --device cuda:0
    misuse cuda:0 "$reason" -- bench --device cuda:0
    misuse cuda:0 "$reason" -- calibrate --device cuda
fi

# ---- pin ----
printf 'a,b,c,d,batch,dtype,layout\n2,3,5,7,11,f32,first\n6,64,64,1,128,f16,last\n' >few.csv
misuse --panel -- pin --out table.csv
misuse --out -- pin --panel few.csv
misuse none.csv -- pin --panel none.csv --out table.csv
expect 0 pin --panel few.csv --out table.csv; said "2 decisions" table.csv
cp table.csv original.csv
sed -i 's/,[a-z]*\.cpu[^,]*,/,bmm.cpu.permute,/' table.csv
checks=$((checks + 1)); last="ksauto advise with KSAUTO_DECISIONS"
KSAUTO_DECISIONS=table.csv "$ksauto" advise 2,3,5,7 --batch 11 --explain --json >out 2>err || fail "$last"
quiet; holds '.kernel == "bmm.cpu.permute" and .source == "decisions"'
KSAUTO_DECISIONS=table.csv "$ksauto" advise 2,3,5,7 --batch 12 --json >out 2>err || fail "$last"
quiet; holds '.source != "decisions"'
KSAUTO_DECISIONS=few.csv "$ksauto" advise 2,3,5,7 --batch 11 --json >out 2>err || fail "$last"
says "table of decisions is not used" few.csv; holds '.source != "decisions"'
KSAUTO_DECISIONS=table.csv "$ksauto" pin --panel few.csv --out again.csv --json >out 2>err || fail "$last"
json; holds '.decisions == 2'
cmp -s original.csv again.csv || fail "$last: another table than before"

# ---- calibrate: what it refuses ----
misuse "--memory '0'" 512M -- calibrate --memory 0
misuse "--memory '5X'" 512M -- calibrate --memory 5X
expect 1 --db memory.db calibrate --memory 1K --budget 1s; says "at least" cache

# ---- bench: its options; what it measures is below ----
expect 0 bench --help; said --panel --random --seed --dtype --layout "Nothing is stored"; quiet
for bad in 0 -3 2.5 x; do misuse --random "'$bad'" "from 1" -- bench --random="$bad"; done
misuse --random "'100001'" 100000 -- bench --random 100001
misuse --panel --random exclude -- bench --panel rows.csv --random 4
misuse --dispatch --random -- bench --dispatch --random 4
misuse --chains --dispatch -- bench --chains rows.csv --dispatch
misuse --chains nowhere -- bench --chains nowhere.txt
for option in "--seed 3" "--dtype f16" "--layout last"; do
    # shellcheck disable=SC2086
    misuse --random need -- bench $option
done
misuse --dtype f31 f32 all -- bench --random 4 --dtype f31
misuse --layout middle both -- bench --random 4 --layout middle
misuse --seed "from 1" -- bench --random 4 --seed 0

# ---- db ----
misuse info path check import export merge -- db
misuse nonsense info -- db nonsense
expect 0 db path; said "$XDG_DATA_HOME/ksauto/ksauto.db"; quiet
expect 0 --db there.db db path; said there.db
expect 0 db path --db there.db --json; json; holds '.path == "there.db"'
checks=$((checks + 1)); last="KSAUTO_DB=env.db ksauto db path"; KSAUTO_DB=env.db "$ksauto" db path >out 2>err; said env.db
expect 1 --db none.db db info; says none.db; silent
[ ! -e none.db ] || fail "$last: made a store by looking for it"
expect 1 --db bad.db db info; says bad.db "What helps" --db
expect 1 --db bad.db db check; says bad.db; said "not a ksauto store" "name another one"
expect 1 --db none.db db check; says none.db; said "No such file" "ksauto calibrate"
expect 1 --db none.db db check --json; json; holds '.ok == false and (.findings | length) == 1 and (.remedy | length) > 9'
cat >rows.csv <<'END'
a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,energy_j,samples,status
1,2,3,4,5,f32,first,Some CPU,fused.cpu,fused,1.5e-05,,9,KS_OK
1,2,3,4,5,f32,first,Some CPU,bmm.cpu.permute,bmm,2.5e-05,,9,KS_OK
6,64,64,1,128,f16,last,Some CPU,bmm.cpu.permute,bmm,,,0,KS_ERR_WRONG_RESULT
END
expect 0 --db s.db db import rows.csv; said 3; quiet
expect 0 --db s.db db import rows.csv --json; json; holds '.schema_version == 1 and .read == 3 and .added == 0'
expect 0 --db s.db db info; said s.db 3 2
expect 0 --db s.db --json db info; json; holds '.measurements == 3 and .usable == 2 and .devices == 1 and .schema >= 1'
expect 0 --db s.db db check; quiet
expect 0 --db s.db db check --json; json; holds '.ok == true and .findings == []'
expect 0 --db s.db db export; quiet; said "a,b,c,d,batch,dtype,layout" "Some CPU" fused.cpu
expect 0 --db s.db db export --out e.csv; silent
expect 0 --db s.db db export --out e.csv --json; json; holds '.rows == 3'
expect 0 --db t.db db import e.csv; expect 0 --db t.db db export
cmp -s out e.csv || fail "$last: export, import, export is not the same"
expect 0 --db u.db db merge s.db --json; json; holds '.added == 3'
expect 0 --db u.db db merge s.db; said 0
# What `db check` offers for a store that was cut short is what saves the rest of it.
size=$(wc -c <u.db)
head -c $((size - 100)) u.db >cut.db; cp cut.db cut.before
expect 1 --db cut.db db check; said "damaged" "db merge --salvage"
expect 1 --db cut.db db import rows.csv; says damaged
mv cut.db cut.db.damaged
expect 1 --db cut.db db merge cut.db.damaged; says damaged
expect 0 --db cut.db db merge --salvage cut.db.damaged --json; json; holds '.added == 3'
expect 0 --db cut.db db check
cmp -s cut.before cut.db.damaged || fail "$last: changed the damaged store"
expect 0 --db s.db devices --json; json; holds '.store[0].name == "Some CPU" and .store[0].measurements == 3'
expect 0 --db s.db db export --seed "Some CPU" --out-prefix seed; silent
expect 0 --db x.db db import --seed seed; said "Some CPU" 3
expect 0 --db x.db db import --seed seed --json; json; holds '.device == "Some CPU" and .added == 0'
expect 1 --db x.db db import --seed nothing; says nothing.jsonl
misuse --format odd ksmm -- --db s.db db import --format odd rows.csv
misuse missing FILE -- --db s.db db import
misuse none.csv -- --db s.db db import none.csv
misuse --json --out -- --db s.db db export --json
misuse --seed --out-prefix -- --db s.db db export --seed "Some CPU"
misuse none.db -- --db s.db db merge none.db
expect 1 --db s.db db merge bad.db; says bad.db
expect 1 --db s.db db export --out /nowhere/e.csv; says /nowhere/e.csv
expect 1 --db s.db db export --seed Nothing --out-prefix seed; says Nothing
sed 's/1.5e-05/fast/' rows.csv >wrong.csv
misuse wrong.csv:2 fast -- --db v.db db import wrong.csv
cat >paper.csv <<'END'
pattern,batch-size,algo,bs_position,precision,device_name,median,nruns,ecs
"[[1, 48, 48, 8]]",25088,kernel,bs_first,fp32,Tesla_V100-PCIE-16GB,5804.0,64.0,
"[[1, 48, 48, 8]]",25088,bmm,bs_last,fp32,Tesla_V100-PCIE-16GB,10344.0,256.0,
END
expect 0 --db w.db db import --format ksmm --objective energy paper.csv; said 2
expect 0 --db w.db db export; said ksmm.kernel Tesla_V100
expect 0 --db w.db db import --format ksmm paper.csv --json; says millijoules; json; holds '.added == 0'
sed 's/5804.0/0.05804/; s/10344.0/0.10344/' paper.csv >seconds.csv
expect 0 --db seconds.db db import --format ksmm seconds.csv; quiet; expect 0 --db seconds.db db export; said ,0.10344,,
checks=$((checks + 1)); last="ksauto db import - <rows.csv"
"$ksauto" --db y.db db import - <rows.csv >out 2>err || fail "$last: fails"

# ---- evaluate, on a table split by pattern: fused takes 1 mJ + a nanojoule a flop, bmm 2 mJ and half of that ----
{
    head -n 1 paper.csv
    for b in 8 16 32 64 128 256 512; do
        for c in 8 64 512; do
            echo "\"[[1, $b, $c, 4]]\",1024,kernel,bs_first,fp32,T,$((1000 + b * c * 8)),1000,"
            echo "\"[[1, $b, $c, 4]]\",1024,bmm,bs_first,fp32,T,$((2000 + b * c * 4)),1000,"
        done
    done
    echo '"[[1, 512, 512, 2]]",1024,bmm,bs_first,fp32,T,0.001,1000,'
} >energy.csv
split="evaluate --csv energy.csv --format ksmm --objective energy"
expect 0 --db none.db $split --cv 3 --json; json; quiet
holds '.configs | length == 1 and .[0].problems == 21 and .[0].quarantined == 1 and .[0].regret.mean < 0.05'
holds '.configs[0].quarantine[0] | .problem.d == 2 and .kernel == "ksmm.bmm" and (.reason | contains("times below"))'
holds '.configs[0].reliability | .problems == 21 and ([.bins[].problems] | add) == 21 and .brier >= 0'
holds '([.configs[0].groups[] | .problems] | add) == 21 and .configs[0].learners == {}'
expect 0 $split --train 10 --draws 2 --learners --json; json
holds '.configs[0] | .problems >= 22 and .problems <= 24 and (.learners | keys) == ["cost", "nearest", "ridge"]'
expect 0 $split --cv 3 --learners; quiet; said "left out: (1,512,512,2)" advisor ridge nearest "sure by" "Brier" "d>1"
expect 0 --db split.db db import --format ksmm energy.csv
expect 0 --db split.db evaluate --cv 3 --objective energy --json; json; holds '.configs[0].problems == 21'
expect 0 --db split.db fit --device T --objective energy; expect 0 --db split.db fit --device T --objective energy --alone
expect 0 --db split.db $split; said "sure by"
expect 0 --db split.db $split --train 6 --draws 2 --from T --json; json; holds '.configs[0].regret.mean < 0.2'
expect 1 --db split.db $split --cv 3 --from Nobody; says Nobody
misuse --from --cv -- $split --from T
# A device of which nothing but the name is known, by kernels that are: nothing is divided by its units.
{
    echo "a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,kernel_version"
    for b in 8 16 32 64 128; do
        for version in 1 2 3; do
            echo "1,$b,8,4,1024,f32,first,Bare,fused.cpu,fused,0.001,$version"
            echo "1,$b,8,4,1024,f32,first,Bare,bmm.cpu.permute,bmm,0.002,$version"
        done
    done
} >bare.csv
expect 0 evaluate --cv 3 --csv bare.csv; said Bare
expect 0 --db bare.db db import bare.csv; expect 0 --db bare.db fit --device Bare
expect 1 --db split.db evaluate --cv 3; says "too few"
misuse --cv --train -- $split --cv 3 --train 3
misuse --cv 2 -- $split --cv 1
misuse --learners --cv -- $split --learners
# Replays of calibrations, on a table of times
{
    echo "a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,samples"
    for b in 8 16 32 64 128 256; do
        for batch in 1 10 100 1000 10000 100000; do
            echo "1,$b,8,4,$batch,f32,first,Bare,x.kernel,fused,$((1000 + b))e-6,5"
            echo "1,$b,8,4,$batch,f32,first,Bare,y.bmm,bmm,$((1100 + batch / 1000))e-6,5"
        done
    done
} >times.csv
expect 0 evaluate --csv times.csv --replay 0.1,0.2,1e6 --draws 2; quiet; said seconds regret fill random
expect 0 evaluate --csv times.csv --replay 0.1,0.2,1e6 --draws 2 --json; json
holds '.configs[0] | .draws == 2 and ([.budgets[0, 1] | .regret, .fill, .random | .measured > 0 and .regret.mean >= 0] | all)'
holds '.configs[0].budgets[2] == {seconds: 1e6}'
misuse --replay rising -- evaluate --csv times.csv --replay 2,1
misuse --replay rising -- evaluate --csv times.csv --replay 1,
misuse --replay --cv -- evaluate --csv times.csv --replay 1 --cv 3
misuse --replay energy -- $split --replay 1
misuse --csv --cv -- evaluate
[ ! -e none.db ] || fail "evaluate --cv: made a store"

# ---- matmul ----
# header DESCR ORDER SHAPE: a .npy header of 128 bytes; then printf makes the data.
header() { printf '\223NUMPY\001\000\166\000'; printf '%-117s\n' "{'descr': '$1', 'fortran_order': $2, 'shape': $3, }"; }
zeros() { dd if=/dev/zero bs="$1" count=1 2>/dev/null; }
one='\000\000\200\077' two='\000\000\000\100' three='\000\000\100\100'
{ header '<f4' False '(1, 2)'; printf "$one$two"; } >x.npy
{ header '<f4' False '(1, 1, 2, 1)'; printf "$one$one"; } >k.npy
m="matmul --pattern 1,1,2,1 --x x.npy --k k.npy --out y.npy"
expect 0 $m; silent; quiet
{ header '<f4' False '(1, 1)'; printf "$three"; } >want.npy
tail -c 4 y.npy >got4; tail -c 4 want.npy >want4; cmp -s got4 want4 || fail "$last: 1 + 2 is not 3"
rm -f y.npy
for path in auto fused bmm; do expect 0 $m --path $path --json; json; holds '.shape == [1, 1] and .problem.batch == 1'; rm -f y.npy; done

# bad NAME WORD...: the file bad.npy for X is refused by name and reason, exit 2, and nothing is written.
bad() {
    expect 2 matmul --pattern 1,1,2,1 --x bad.npy --k k.npy --out y.npy
    silent
    says bad.npy "$@"
    for file in y.npy*; do [ ! -e "$file" ] || fail "$last: left $file"; done
}
{ header '<f4' True '(1, 2)'; zeros 8; } >bad.npy; bad Fortran
{ header '>f4' False '(1, 2)'; zeros 8; } >bad.npy; bad big-endian
{ header '<i4' False '(1, 2)'; zeros 8; } >bad.npy; bad "'<i4'" "<f4"
{ header '|O' False '(1, 2)'; zeros 8; } >bad.npy; bad "'|O'"
{ header '<f4' False '(1, 2)'; zeros 7; } >bad.npy; bad truncated
{ header '<f4' False '(1, 2)'; zeros 9; } >bad.npy; bad "too long"
{ header '<f4' False '(1, 3)'; zeros 12; } >bad.npy; bad "(1, 3)" "(batch, 2)"
{ header '<f4' False '(3,)'; zeros 12; } >bad.npy; bad "(3,)" flat
{ header '<f4' False '(0, 2)'; } >bad.npy; bad "(0, 2)"
{ header '<f4' False '()'; zeros 4; } >bad.npy; bad "()"
{ header '<f4' False '(1, 1, 2)'; zeros 8; } >bad.npy; bad "(1, 1, 2)"
{ header '<f4' False '(4000000000, 4000000000)'; } >bad.npy; bad "2^63"
{ header '<f4' False '(1000000000000, 2)'; } >bad.npy; bad truncated
{ header '<f2' False '(1, 2)'; zeros 4; } >bad.npy
expect 2 matmul --pattern 1,1,2,1 --x bad.npy --k k.npy --out y.npy; says k.npy f32 f16 # K must have X's dtype
: >bad.npy; bad "not a .npy file"
echo "a,b,c,d" >bad.npy; bad "not a .npy file"
rm -f bad.npy; bad "No such file"
mkdir bad.npy; bad directory; rmdir bad.npy
{ header '<f4' False '(1, 2, 1, 1)'; zeros 8; } >bad.npy
misuse bad.npy "(1, 1, 2, 1)" "(1, 2, 1, 1)" -- matmul --pattern 1,1,2,1 --x x.npy --k bad.npy --out y.npy
misuse --out required -- matmul --pattern 1,1,2,1 --x x.npy --k k.npy
misuse --pattern required -- matmul --x x.npy --k k.npy --out y.npy
misuse --weights odd abcd block -- $m --weights odd
misuse --path odd auto fused bmm -- $m --path odd
misuse --layout odd first last -- $m --layout odd
misuse --device odd -- $m --device odd
misuse unexpected -- $m more
misuse 1,1,2 -- matmul --pattern 1,1,2 --x x.npy --k k.npy --out y.npy
misuse -- matmul --pattern 3000000000,3000000000,3000000000,3000000000 --x x.npy --k k.npy --out y.npy
expect 1 matmul --pattern 1,1,2,1 --x x.npy --k k.npy --out /nowhere/y.npy; says /nowhere/y.npy
expect 1 matmul --pattern 1,1,2,1 --x x.npy --k k.npy --out .; says directory
[ ! -w /dev/full ] || { expect 1 matmul --pattern 1,1,2,1 --x x.npy --k k.npy --out /dev/full; says /dev/full; }
cp x.npy both.npy
expect 0 matmul --pattern 1,1,2,1 --x both.npy --k k.npy --out both.npy # over its own input
if [ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    checks=$((checks + 1)); last="matmul_numpy.py"
    /usr/bin/python3 "$here/matmul_numpy.py" "$ksauto" >out 2>err || fail "$last"
    cat out
else
    echo "skipped: no numpy for /usr/bin/python3"
fi

# ---- calibrate ----
expect 0 --db dry.db calibrate --dry-run --budget 5m --target-regret 2%; said "300 s" "2.00 %" batch-first batch-last "Ctrl-C" dry.db
expect 0 --db dry.db calibrate --dry-run --dtype f16,f64 --layout last --json; json
holds '.budget_s == 60 and [.configs[] | .dtype + .layout] == ["f16last", "f64last"] and .configs[0].stored == 0'
[ ! -e dry.db ] || fail "$last: made a store"
if [ -z "${KSAUTO_TEST_QUICK:-}" ]; then
    expect 0 --db cal.db calibrate --budget 6s --seed 1 --json --quiet; quiet; json
    holds '.schema_version == 1 and .measured > 0 and .copy_bytes_per_s > 0 and (.configs|length) == 2'
    holds '[.configs[] | .regret.mean >= 0 and .static.always_fused.max >= .static.always_fused.median and .problems > 0] | all'
    expect 0 --db cal.db calibrate --budget 3s --layout first --progress
    says "measured" "s left" "regret"; said advisor "always fused" "always bmm" "ratio>="
    checks=$((checks + 1)); last="ksauto calibrate, interrupted"
    : >err
    "$ksauto" --db cal.db calibrate --budget 300s --layout last --progress >out 2>err &
    pid=$!
    while ! grep -q measured err && kill -0 $pid; do sleep 1; done # it is at work: not on every machine so soon
    # A background job of sh ignores SIGINT, as it must; SIGTERM asks for the same.
    kill -TERM $pid
    wait $pid
    got=$?
    [ $got = 1 ] || fail "$last: exit $got, not 1"
    says interrupted cal.db "goes on"
    expect 0 --db cal.db db check
    # Another BLAS, as far as OpenBLAS can play one: what has changed is told, and a few problems are measured again.
    expect 0 --db cal.db db info --json; json; quiet; holds '.stale == []'
    expect 0 devices --json; before=$(grep '"blas"' out | head -n 1)
    own=${OPENBLAS_CORETYPE-}
    OPENBLAS_CORETYPE=Haswell
    export OPENBLAS_CORETYPE
    expect 0 devices --json
    if [ "$(grep '"blas"' out | head -n 1)" != "$before" ]; then
        expect 0 --db cal.db db info --json; json; quiet; holds '.stale | length == 2'
        expect 0 --db cal.db db check; says "was measured under"
        expect 0 --db cal.db advise 1,2,3,4 --batch 5; says "was measured under"
        expect 0 --db cal.db calibrate --budget 2s --layout first --json; json
        holds '.canaries >= 12 and .kept + .rescaled + .set_aside >= 2'
        expect 0 --db cal.db db info --json; json; holds '.stale | length == 1'
    fi
    if [ -n "$own" ]; then OPENBLAS_CORETYPE=$own; else unset OPENBLAS_CORETYPE; fi
    expect 0 --db cal.db calibrate --budget 2s --layout first
    expect 0 --db cal.db db info --json; json; holds '.stale == []'
    expect 1 --db /proc/none/x.db calibrate --budget 1s; says /proc/none "What helps" --db
    misuse --device nosuch "ksauto devices" -- --db cal.db calibrate --device nosuch --budget 1s

    # Fresh problems: the seed's own, as many as asked for, and none of it is stored.
    problems='[.rows[].problem]'
    expect 0 --db cal.db db export --out before.csv
    expect 0 --db cal.db bench --random 5 --seed 3 --csv fresh.csv; quiet; said "auto takes" "f32, batch-first" "f32 last"
    expect 0 --db cal.db bench --random 5 --seed 3 --json; json; cp out again.json
    holds "($problems | length) == 5 and ($problems | unique | length) > 3"
    holds '([.rows[] | select(.problem.layout == "first")] | length) == 2 and ([.rows[].problem.dtype] | unique) == ["f32"]'
    cut -d, -f1-5 fresh.csv | sed 1d | uniq >fresh.txt
    if command -v jq >/dev/null 2>&1; then
        jq -r '.rows[].problem | "\(.a),\(.b),\(.c),\(.d),\(.batch)"' again.json | cmp -s - fresh.txt ||
            fail "$last: other problems than the same seed gave before"
    fi
    expect 0 --db cal.db bench --random 3 --seed 4 --dtype f16,f64 --layout last --json; json
    holds '[.rows[].problem | .dtype + .layout] == ["f16last", "f64last", "f64last"]'
    expect 0 --db cal.db db export --out after.csv
    cmp -s before.csv after.csv || fail "$last: changed the store"
    expect 0 --db cal.db evaluate --csv fresh.csv --json; json
    holds '[.configs[] | .problems] == [2, 3] and ([.configs[] | .measured > 12 and .regret.mean >= 0] | all)'
    expect 0 --db fresh.db bench --random 1 --dtype f64; [ ! -e fresh.db ] || fail "$last: made a store"
fi

echo "$checks checks, $failures failures"
[ $failures = 0 ]
