#!/bin/sh
# nvcc, and an error where a kernel does not fit its registers: a stack frame, or spilled stores or loads, of more than 512
# bytes. A few bytes are what a tight budget of registers costs; hundreds are a tile that is too large for it, slow and
# still right, so that no test of results would notice.
#
#     sh nvcc_spills.sh NVCC ARGUMENT...       compiles one .cu file; made for CMAKE_CUDA_COMPILER_LAUNCHER
#
# KS_SPILL_MOST=n sets another bound.
set -u
if [ $# -lt 2 ]; then
    echo "usage: $0 NVCC ARGUMENT..." >&2
    exit 2
fi
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT
trap 'exit 1' HUP INT TERM

status=0
"$@" -Xptxas=-v >"$said" 2>&1 || status=$?
grep -vE '^ptxas info |^ *[0-9]+ bytes stack frame|^ *$' "$said" >&2 # warnings and errors, for the reader
[ $status -eq 0 ] || exit $status

# A ptxas that says it in other words must not look like one that has nothing to say.
awk -v most="${KS_SPILL_MOST:-512}" '
    /^ptxas info/ { heard = 1 }
    /Compiling entry function/ { kernels++; arch = $NF }
    /Function properties for/ { name = $NF }
    /bytes stack frame/ {
        frames++
        if ($1 > most || $5 > most || $9 > most) { print name " for " arch ":"; print $0; bad = 1 }
    }
    END {
        if (bad) print "more than " most " bytes: the tile is too large for its registers"
        if (!heard || frames < kernels) { print "ptxas does not say what its kernels take"; bad = 1 }
        exit bad
    }' "$said" >&2
