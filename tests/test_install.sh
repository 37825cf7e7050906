#!/bin/sh
# The library as its users get it: installed, found by CMake and by pkg-config, compiled against, run.
#
#     sh test_install.sh SOURCE_DIR BUILD_DIR
#
# Installs a finished build into a temporary prefix, which is then moved, because a package that knows where it was
# built works only on the machine that built it. Nothing of the build's own folders is used after that.
set -u
LC_ALL=C
export LC_ALL

if [ $# -ne 2 ] || [ ! -f "$1/advisor/ksauto.h" ] || [ ! -f "$2/CMakeCache.txt" ]; then
    echo "usage: $0 SOURCE_DIR BUILD_DIR" >&2
    exit 2
fi
source=$(cd "$1" && pwd)
build=$(cd "$2" && pwd)
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
prefix=$work/moved
unset KSAUTO_EXPLAIN LD_LIBRARY_PATH CFLAGS LDFLAGS MAKEFLAGS DESTDIR
export KSAUTO_DB="$work/store.db" CC="$cc"

failures=0 checks=0
fail() {
    failures=$((failures + 1))
    echo "FAILED: $1" >&2
    [ ! -s "$work/log" ] || sed 's/^/    /' "$work/log" | tail -n 30 >&2
}

# check WHAT COMMAND...: the command must succeed; its output is shown if it does not.
check() {
    what=$1
    shift
    checks=$((checks + 1))
    if "$@" >"$work/log" 2>&1 </dev/null; then :; else
        fail "$what"
        return 1
    fi
}

# same WHAT EXPECTED GOT
same() {
    checks=$((checks + 1))
    : >"$work/log"
    [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"
}

# ---- what is installed ----

check "cmake --install" cmake --install "$build" --prefix "$work/installed" || exit 1
mv "$work/installed" "$prefix"

same "headers" ksauto.h "$(cd "$prefix/include" && find . -type f | sed 's|^\./||')"
same "commands" ksauto "$(ls "$prefix/bin")"
libdir=$(dirname "$(find "$prefix" -name ksauto.pc)")
libdir=${libdir%/pkgconfig}
same "pkg-config files" "ksauto.pc ksauto_calib.pc" "$(cd "$libdir/pkgconfig" && echo *)"
for file in ksauto-config.cmake ksauto-config-version.cmake ksauto-targets.cmake; do
    check "$file is installed" test -f "$libdir/cmake/ksauto/$file"
done
: >"$work/log"
if grep -rlF -e "$build" -e "$source" -e "$work/installed" "$prefix/include" "$libdir/pkgconfig" "$libdir/cmake" >"$work/log"
then fail "installed files name the folders of the build"; fi

check "ksauto --version runs" "$prefix/bin/ksauto" --version
same "ksauto --version" "ksauto $(sed -n 's/^project(ksauto VERSION \([0-9.]*\).*/\1/p' "$source/CMakeLists.txt")" \
    "$(cat "$work/log")"

# ---- what the libraries hold and need ----

for library in libksauto libksauto_calib; do
    same "$library.so defines only ks_ symbols" "" \
        "$(nm -D --defined-only --format=posix "$libdir/$library.so" | awk '$1 !~ /^ks_/ && $2 != "A" { print $1 }' | xargs)"
    : >"$work/log"
    nm -D --defined-only "$libdir/$library.so" | grep -q ' T ks_' || fail "$library.so defines no ks_ symbol at all"
done
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
same "what libksauto.so needs of the GPL" "" "$(needed "$libdir/libksauto.so" | grep -i gsl)"
same "what libksauto.so loads of the GPL" "" "$(ldd "$libdir/libksauto.so" | grep -i gsl)"
same "GSL is where it belongs" 1 "$(needed "$libdir/libksauto_calib.so" | grep -c '^libgsl\.')"

# ---- the header, by itself ----

echo '#include <ksauto.h>
int main(void) { return ks_version() == 0; }' >"$work/alone.c"
cp "$work/alone.c" "$work/alone.cpp"
for standard in c11 c17; do
    check "ksauto.h as $standard" "$cc" -std=$standard -pedantic -Wall -Wextra -Werror -fsyntax-only -I "$prefix/include" \
        "$work/alone.c"
done
if command -v c++ >/dev/null; then
    check "ksauto.h as C++17" c++ -std=c++17 -pedantic -Wall -Wextra -Werror -fsyntax-only -I "$prefix/include" \
        "$work/alone.cpp"
else
    echo "install: no C++ compiler here, so ksauto.h is not compiled as C++"
fi

# ---- projects that use it ----

run_consumers() { # of how they were built $1, in folder $2; what follows is put before the program
    how=$1 folder=$2
    shift 2
    for program in consumer consumer_calib; do
        check "$program, by $how, gives the right product" "$@" "$folder/$program"
    done
}

generator='Unix Makefiles'
! command -v ninja >/dev/null || generator=Ninja
if check "find_package(ksauto)" cmake -S "$source/tests/consumer_cmake" -B "$work/cmake" -G "$generator" \
    -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_FLAGS="-Wall -Wextra -Werror" &&
    check "building with ksauto::ksauto and ksauto::calib" cmake --build "$work/cmake"; then
    run_consumers find_package "$work/cmake"
fi
mkdir "$work/pkgconfig"
if check "building with pkg-config" env PKG_CONFIG_PATH="$libdir/pkgconfig" \
    make -C "$source/tests/consumer_pkgconfig" OUT="$work/pkgconfig" CC="$cc"; then
    run_consumers pkg-config "$work/pkgconfig" env LD_LIBRARY_PATH="$libdir"
fi

echo "install: $checks checks, $failures failed"
[ $failures -eq 0 ]
