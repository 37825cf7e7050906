#!/bin/sh
# The README's first C program does what the README says: it is taken from there as it stands, compiled and run.
#
#     sh test_readme.sh SOURCE_DIR BUILD_OR_PREFIX
#
# BUILD_OR_PREFIX has libksauto.so in it, or in its lib folder; the header is the installed one if there is one,
# else SOURCE_DIR's. Fails if README.md has no block that opens with ```c.
set -u
LC_ALL=C
export LC_ALL

if [ $# -ne 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "usage: $0 SOURCE_DIR BUILD_OR_PREFIX" >&2
    exit 2
fi
source=$1
tree=$2

fail() {
    echo "readme: $*" >&2
    exit 1
}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

[ -f "$source/README.md" ] || fail "$source/README.md is missing"
# shellcheck disable=SC2016
awk '/^```c[[:space:]]*$/ { inside = 1; next } /^```/ && inside { closed = 1; exit } inside' "$source/README.md" \
    >"$work/readme.c"
# shellcheck disable=SC2016
[ -s "$work/readme.c" ] || fail 'README.md has no block that opens with ```c: the short program that shows the library is missing'
grep -q 'main *(' "$work/readme.c" || fail "the first C block of README.md is no whole program: it has no main"

libdir=
for place in "$tree" "$tree"/lib "$tree"/lib/* "$tree"/lib64; do
    if [ -z "$libdir" ] && [ -e "$place/libksauto.so" ]; then libdir=$place; fi
done
[ -n "$libdir" ] || fail "no libksauto.so in $tree or its lib folders"
include=$tree/include
[ -f "$include/ksauto.h" ] || include=$source/advisor

lines=$(grep -c '[^[:space:]]' "$work/readme.c")
"${CC:-cc}" -std=c17 -Wall -Wextra -Werror -I "$include" "$work/readme.c" -o "$work/readme" -L "$libdir" -lksauto -lm ||
    fail "the program in README.md ($lines lines) does not compile"
(cd "$work" && KSAUTO_DB=$work/store.db LD_LIBRARY_PATH=$libdir ./readme >out 2>err </dev/null)
code=$?
cat "$work/out" "$work/err"
[ $code -eq 0 ] || fail "the program in README.md ends with exit code $code"
echo "readme: the program of $lines lines compiles and runs"
