#!/bin/sh
# Builds and runs the tests, on a bare machine too: sh tools/test.sh [--quick] [--long] [--fuzz SECONDS]
#
#     --quick          the release build and its quick tests only
#     --long           also the tests that take minutes and gigabytes: in the release build, and on a GPU
#     --fuzz SECONDS   nothing but the fuzzers, each for so long
#
# The release build is for the CPU alone. Without --quick these follow, where the longest tests are cut short: everything that
# CUDA may change again with CUDA, where there is an nvcc (the kernels compiled for sm_80 and sm_90a, none of them spilling much;
# tests that need a GPU are skipped without one), and everything under AddressSanitizer and UndefinedBehaviorSanitizer, the tests
# that use threads under ThreadSanitizer, a build with clang (warnings are errors with it, too), and every fuzzer for ten
# seconds. A part that fails does not keep the others from running. The last line counts all of it; the exit status is 0 only if
# nothing failed. Installs the Debian packages that are missing, but not CUDA; needs root or sudo only for that.
set -eu

labels=quick
cuda_labels=quick
quick=false
fuzz_s=10
only_fuzz=false
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=true ;;
    --long) labels='quick|long' cuda_labels='quick|gpu' ;;
    --fuzz)
        case ${2:-} in
        '' | *[!0-9]* | 0*)
            echo "$0: --fuzz '${2:-}' is no number of seconds" >&2
            exit 2
            ;;
        esac
        fuzz_s=$2 only_fuzz=true
        shift
        ;;
    *)
        echo "$0: unknown argument '$1'; valid: --quick, --long, --fuzz SECONDS" >&2
        exit 2
        ;;
    esac
    shift
done

cd "$(dirname "$0")/.."
folder=build/test-logs
. tools/steps.sh
unset KSAUTO_DB KSAUTO_DECISIONS KSAUTO_NUM_THREADS KSAUTO_EXPLAIN KSAUTO_ISA KSAUTO_CHECK # the user's own settings are not what is tested
unset KSAUTO_TEST_QUICK KS_TEST_PROBLEMS KS_TEST_SEED KS_TEST_ONLY
started=$(date +%s)
passed=0
failed=0
skipped=0
untested=

# build PRESET [-DNAME=VALUE|TARGET]...: no test, but a failed one if it fails. No argument holds a blank. The target c_files is
# every object that is made of a C file, and nothing else. What was compiled for one build with the same options serves another.
build() {
    preset=$1 options='' targets=''
    shift
    if command -v ccache >/dev/null; then options=-DCMAKE_C_COMPILER_LAUNCHER=ccache; fi
    for argument; do
        case $argument in
        -*) options="$options $argument" ;;
        *) targets="$targets $argument" ;;
        esac
    done
    # shellcheck disable=SC2086
    if step "$preset: configuring" cmake --preset "$preset" $options; then
        if [ "$targets" = ' c_files' ]; then
            targets=$(ninja -C "build/$preset" -t targets all | sed -n 's/^\([^ ]*\.c\.o\): .*/\1/p')
        fi
        if step "$preset: building" cmake --build --preset "$preset" -j "$(nproc)" ${targets:+--target $targets}; then
            return 0
        fi
    fi
    failed=$((failed + 1))
    return 1
}

# How many lines of ctest's report begin with this.
reported() {
    if [ -f "$report" ]; then grep -c "^[[:space:]]*<$1" "$report" || :; else echo 0; fi
}

# run PRESET LABELS [PREFIX...]: the tests that have one of the labels, counted one by one. With CUDA, without those that another
# build has run and that are the same there.
run() {
    preset=$1 label=$2
    shift 2
    report=$(pwd)/build/$preset/junit.xml
    rm -f "$report"
    once=
    if [ "$preset" = cuda ]; then once='-LE ^once$'; fi
    code=0
    began=$(date +%s)
    echo "$preset: running the tests labelled $label"
    # shellcheck disable=SC2086
    "$@" ctest --test-dir "build/$preset" -L "^($label)\$" $once -j "$(nproc)" --no-tests=error --output-on-failure \
        --output-junit "$report" </dev/null || code=$?
    # A test that did not run has failed (its program is missing), unless it was skipped or switched off.
    excused=$(reported 'skipped message="SKIP_')
    bad=$(($(reported 'testcase .*status="fail"') + $(reported 'testcase .*status="notrun"') - excused))
    if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then
        echo "$0: ctest ended with exit code $code in build/$preset, but reported no failed test" >&2
        bad=1
    fi
    passed=$((passed + $(reported 'testcase .*status="run"')))
    failed=$((failed + bad))
    skipped=$((skipped + excused + $(reported 'testcase .*status="disabled"')))
    echo "$preset: $(($(date +%s) - began)) s"
}

# With warnings as errors, and spills too. The launcher is run in build/cuda.
cuda() {
    if ! nvcc=$(find_nvcc); then
        untested='no nvcc here, on the PATH or in /usr/local/cuda/bin'
    elif ! "$nvcc" --version | grep -qE 'release (1[2-9]|[2-9][0-9])\.'; then
        untested="$nvcc is older than CUDA 12"
    fi
    if [ -n "$untested" ]; then
        skipped=$((skipped + 1))
        echo "cuda: skipped, $untested"
    elif build cuda '-DCMAKE_CUDA_ARCHITECTURES=80;90a-real' -DKSAUTO_WERROR=ON \
        '-DCMAKE_CUDA_COMPILER_LAUNCHER=sh;../../tests/nvcc_spills.sh'; then
        run cuda "$cuda_labels"
    fi
}

fuzz() {
    fuzzers=$(cd tests && echo fuzz_*.c | sed 's/\.c\>//g')
    # shellcheck disable=SC2086
    build fuzz $fuzzers ksauto_command || return 0
    for fuzzer in $fuzzers; do
        corpus=build/fuzz/corpus/$fuzzer
        mkdir -p "$corpus"
        # What was found before, and what is well-formed; the fuzzer adds what it finds.
        if [ -d "tests/corpus/$fuzzer" ]; then cp "tests/corpus/$fuzzer"/* "$corpus"; fi
        case $fuzzer in
        *_csv) find db tools tests -name '*.csv' -size -64k -exec cp {} "$corpus" \; ;;
        *_model) for seed in db/seeds/*.jsonl; do # with one of its models, cut to eight points; and that model
            begun=$corpus/${seed##*/}
            { head -n 2 "$seed"; sed -n 3p "$seed" | jq -c '.points = 8 | .input[] |= .[:8] |
                .kernels[] |= (.alpha |= .[:8] | .own[] |= .[:8])'; } >"$begun"
            tail -n 1 "$begun" >"$begun.model"
        done ;;
        *_npy) for type in f2 f4 f8; do # version 1.0, a header of 118 bytes, six elements
            printf "\223NUMPY\001\000v\000%-117s\n%0$((6 * ${type#f}))d" \
                "{'descr': '<$type', 'fortran_order': False, 'shape': (2, 3), }" 7 >"$corpus/$type.npy"
        done ;;
        *_store) head -n 4 db/seeds/intel-xeon-emerald-rapids-2-threads.csv >"$corpus.csv"
            rm -f "$corpus/small"
            build/fuzz/ksauto --db "$corpus/small" db import "$corpus.csv" >"$corpus.log" ;;
        esac
        if step "$fuzzer: $fuzz_s s of random input" "build/fuzz/tests/$fuzzer" -max_total_time="$fuzz_s" -timeout=10 \
            -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="build/fuzz/$fuzzer-" "$corpus"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
}

# The browser, which lays the page of `ksauto report` out, is large: without --quick only.
browser=chromium
if $quick || $only_fuzz; then browser=; fi
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
# shellcheck disable=SC2086
if need $build_packages g++ make libcmocka-dev clang clang-format libclang-rt-dev python3 python3-numpy \
    python3-jsonschema jq dpkg-dev file gnuplot-nox doxygen ccache $browser; then
    export CCACHE_DIR="$PWD/build/ccache"
    if $only_fuzz; then
        fuzz
    elif build release -DKSAUTO_CUDA=OFF; then
        run release "$labels"
    fi
    if ! $quick && ! $only_fuzz; then
        export KSAUTO_TEST_QUICK=1 # the release build has run everything at its full length
        cuda
        if build asan; then run asan quick env KS_TEST_PROBLEMS=200; fi
        # ThreadSanitizer cannot live with much randomness in addresses; not everywhere may it be turned off.
        still="setarch $(uname -m) -R"
        $still true 2>/dev/null || still=
        # shellcheck disable=SC2086
        if build tsan tests_with_threads; then run tsan threads $still; fi
        # Of CUDA it is the C files that this is about; nvcc goes on with its own compiler. Clang's fuzzers are linked, too.
        if build clang -DCMAKE_CUDA_ARCHITECTURES=80-real c_files; then passed=$((passed + 1)); fi
        fuzz
    fi
else
    failed=$((failed + 1))
fi

printf '\n%d min %d s in all\n' $((($(date +%s) - started) / 60)) $((($(date +%s) - started) % 60))
if [ -n "$untested" ]; then echo "The CUDA build was not tested: $untested"; fi
if [ "$skipped" -gt 0 ]; then also=", $skipped skipped"; else also=; fi
echo "$passed passed, $failed failed$also"
[ "$failed" -eq 0 ]
