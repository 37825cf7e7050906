#!/bin/sh
# The README's C programs do what the README says: they are taken from there as they stand, compiled and run.
#
#     sh test_readme.sh SOURCE_DIR BUILD_OR_PREFIX [CUDA_LIBRARIES CUDA_HEADERS...]
#
# BUILD_OR_PREFIX has libksauto.so in it, or in its lib folder; the header is the installed one if there is one,
# else SOURCE_DIR's. The first program, a block that opens with ```c, runs anywhere. The second is for a GPU: it is compiled
# and run only if the folders of CUDA are given, and where there is no GPU it must say so and end with 1.
set -u
LC_ALL=C
export LC_ALL

if [ $# -lt 2 ] || [ $# -eq 3 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "usage: $0 SOURCE_DIR BUILD_OR_PREFIX [CUDA_LIBRARIES CUDA_HEADERS...]" >&2
    exit 2
fi
source=$1
tree=$2
shift 2

fail() {
    echo "readme: $*" >&2
    exit 1
}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

[ -f "$source/README.md" ] || fail "$source/README.md is missing"
libdir=
for place in "$tree" "$tree"/lib "$tree"/lib/* "$tree"/lib64; do
    if [ -z "$libdir" ] && [ -e "$place/libksauto.so" ]; then libdir=$place; fi
done
[ -n "$libdir" ] || fail "no libksauto.so in $tree or its lib folders"
include=$tree/include
[ -f "$include/ksauto.h" ] || include=$source/advisor
loads=$libdir

# program NUMBER OPTION...: takes the README's program of that number, compiles and runs it; its exit code is in $code.
program() {
    number=$1
    shift
    # shellcheck disable=SC2016
    awk -v number="$number" '/^```c[[:space:]]*$/ { inside = ++blocks == number; next } /^```/ { inside = 0 } inside' \
        "$source/README.md" >"$work/readme.c"
    # shellcheck disable=SC2016
    [ -s "$work/readme.c" ] || fail "README.md has no C program number $number, that is no such block that opens with"' ```c'
    grep -q 'main *(' "$work/readme.c" || fail "C block $number of README.md is no whole program: it has no main"
    lines=$(grep -c '[^[:space:]]' "$work/readme.c")
    "${CC:-cc}" -std=c17 -Wall -Wextra -Werror -I "$include" "$work/readme.c" -o "$work/readme" -L "$libdir" -lksauto -lm "$@" ||
        fail "program $number in README.md ($lines lines) does not compile"
    (cd "$work" && KSAUTO_DB=$work/store.db LD_LIBRARY_PATH=$loads ./readme >out 2>err </dev/null)
    code=$?
    cat "$work/out" "$work/err"
}

program 1
[ $code -eq 0 ] || fail "program 1 in README.md ends with exit code $code"
echo "readme: the program of $lines lines compiles and runs"
[ $# -gt 0 ] || exit 0

loads=$libdir:$1
cuda_libraries=$1
shift
for folder; do
    shift
    set -- "$@" -isystem "$folder"
done
program 2 "$@" -L "$cuda_libraries" -lcudart
if [ $code -eq 1 ] && grep -qE 'no NVIDIA driver|no CUDA device|NVIDIA driver is for' "$work/out" "$work/err"; then
    echo "readme: the program of $lines lines for a GPU compiles, and says why it cannot run here"
elif [ $code -eq 0 ]; then
    echo "readme: the program of $lines lines for a GPU compiles and runs"
else
    fail "program 2 in README.md ends with exit code $code"
fi
