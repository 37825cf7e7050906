#!/bin/sh
# Writes the decisions for some patterns and batches as a table, so that every machine and every run takes the same kernels.
#
#     sh decision_table.sh [DEVICE] > decisions.csv
#
# pinned.c multiplies by such a table. Needs jq. KSAUTO names the command, if it is not on the PATH.
set -eu
device=${1:-cpu}
echo a,b,c,d,batch,dtype,layout,kernel
for pattern in 2,48,192,1 1,192,48,2 6,64,64,1; do
    for batch in 1 64 4096; do
        "${KSAUTO:-ksauto}" --quiet advise $pattern --batch $batch --device "$device" --json |
            jq -r '.problem as $p | [$p.a, $p.b, $p.c, $p.d, $p.batch, $p.dtype, $p.layout, .kernel] | join(",")'
    done
done
