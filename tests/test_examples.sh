#!/bin/sh
# Every example in tools/examples is built the way its CMakeLists.txt says, against an installed library, and does what it says.
#
#     sh test_examples.sh SOURCE_DIR BUILD_DIR
set -u
LC_ALL=C
export LC_ALL

if [ $# -ne 2 ] || [ ! -d "$1/tools/examples" ] || [ ! -f "$2/CMakeCache.txt" ]; then
    echo "usage: $0 SOURCE_DIR BUILD_DIR" >&2
    exit 2
fi
source=$(cd "$1" && pwd)
build=$(cd "$2" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_EXPLAIN LD_LIBRARY_PATH DESTDIR
export KSAUTO_DB="$work/store.db" KSAUTO="$work/prefix/bin/ksauto"
generator='Unix Makefiles'
! command -v ninja >/dev/null || generator=Ninja

# must WHAT COMMAND...: or the test ends here; what it printed is in $work/out
must() {
    what=$1
    shift
    if ! "$@" >"$work/out" 2>"$work/err" </dev/null; then
        echo "FAILED: $what" >&2
        tail -n 20 "$work/out" "$work/err" >&2
        exit 1
    fi
}
# shows WORDS: the last one printed them
shows() {
    grep -qF -- "$1" "$work/out" || { echo "FAILED: $what does not say '$1'" >&2; cat "$work/out" >&2; exit 1; }
}
must "installing" cmake --install "$build" --prefix "$work/prefix"
must "configuring" cmake -S "$source/tools/examples" -B "$work/build" -G "$generator" -DCMAKE_PREFIX_PATH="$work/prefix" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS="-Wall -Wextra -Werror" \
    -DCMAKE_C_COMPILER="$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")"
must "building" cmake --build "$work/build"
for file in "$source"/tools/examples/*.c; do
    program=$(basename "$file" .c)
    [ -x "$work/build/$program" ] || { echo "FAILED: CMakeLists.txt does not build $program" >&2; exit 1; }
done

must hadamard "$work/build/hadamard"
shows "difference from the definition: 0"
must "monarch_image" "$work/build/monarch_image"
shows "none that is seen"
{ printf 'P6\n20 10\n255\n'; head -c 600 /dev/zero | tr '\0' '\310'; } >"$work/flat.ppm" # one grey: blurring leaves it alone
must "monarch_image on a file" "$work/build/monarch_image" "$work/flat.ppm" "$work/out.ppm"
cmp -s "$work/flat.ppm" "$work/out.ppm" || { echo "FAILED: a flat picture is not flat any more" >&2; exit 1; }
must "design_loop" "$work/build/design_loop" "NVIDIA H100" cpu
[ "$(grep -c '^->' "$work/out")" = 2 ] || { echo "FAILED: design_loop does not choose" >&2; exit 1; }
if command -v jq >/dev/null; then
    must "decision_table.sh" sh "$source/tools/examples/decision_table.sh"
    cp "$work/out" "$work/decisions.csv"
    must pinned "$work/build/pinned" "$work/decisions.csv"
    shows "9 decisions pinned; the products are right"
else
    echo "examples: no jq here, so decision_table.sh is not run"
fi
echo "examples: all are built and do what they say"
