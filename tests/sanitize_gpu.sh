#!/bin/sh
# compute-sanitizer over the CUDA kernels: memcheck (out of bounds, misaligned), racecheck (shared memory without a
# barrier), initcheck (device memory read before it was written), synccheck (barriers that not all threads reach). Each
# launch becomes a hundred times slower, so tests run with few problems; their guard zones stay as they are.
#
#     sh sanitize_gpu.sh TEST [TOOL...]        KS_TEST_PROBLEMS=12 and KS_TEST_SEED=1 unless set
#
# TEST is test_gpu, or another with KS_SANITIZE_ARGUMENTS for it, such as test_pair with cuda:0. KS_SANITIZE_OPTIONS adds options of
# the sanitizer, such as a filter that leaves cuBLAS's own kernels out.
# Prints each tool's verdict and exits 1 if one found something, 77 if there is no compute-sanitizer.
set -u

if [ $# -lt 1 ] || [ ! -x "$1" ]; then
    echo "usage: $0 TEST [memcheck|racecheck|initcheck|synccheck]..." >&2
    exit 2
fi
program=$1
shift
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -z "$sanitizer" ]; then
    echo "skipped: no compute-sanitizer"
    exit 77
fi
[ $# -gt 0 ] || set -- memcheck racecheck initcheck synccheck
KS_TEST_PROBLEMS=${KS_TEST_PROBLEMS:-12}
KS_TEST_SEED=${KS_TEST_SEED:-1}
export KS_TEST_PROBLEMS KS_TEST_SEED

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
trap 'exit 1' HUP INT TERM
failed=0
for tool in "$@"; do
    # Errors of API calls are the library's to handle, and it is tested that it does.
    options="--tool $tool --error-exitcode 99 ${KS_SANITIZE_OPTIONS:-}"
    [ "$tool" != memcheck ] || options="$options --report-api-errors no"
    # shellcheck disable=SC2086
    "$sanitizer" $options "$program" ${KS_SANITIZE_ARGUMENTS:-} >"$log" 2>&1
    status=$?
    if [ $status -eq 77 ]; then
        tail -n 3 "$log"
        exit 77
    elif [ $status -ne 0 ]; then
        echo "$tool: exit $status"
        grep -E '=========|failures|error' "$log" | head -n 60
        failed=1
    else
        echo "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -n 1)"
    fi
done
exit $failed
