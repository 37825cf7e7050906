#!/bin/sh
# The library inside another project's build (FetchContent), and as static libraries: used there, and installed from there.
#
#     sh test_static.sh SOURCE_DIR [C_COMPILER]
#
# Builds the libraries once more, without optimisation, for the CPU alone: the same whatever build runs it, so with
# KSAUTO_TEST_QUICK=1, for builds after the first, it is skipped (77).
set -u
LC_ALL=C
export LC_ALL

if [ $# -lt 1 ] || [ ! -f "$1/advisor/ksauto.h" ]; then
    echo "usage: $0 SOURCE_DIR [C_COMPILER]" >&2
    exit 2
fi
if [ -n "${KSAUTO_TEST_QUICK:-}" ]; then
    echo "skipped: another build has run it"
    exit 77
fi
source=$(cd "$1" && pwd)
cc=${2:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_EXPLAIN LD_LIBRARY_PATH CFLAGS LDFLAGS MAKEFLAGS DESTDIR
export KSAUTO_DB="$work/store.db" CC="$cc"
generator='Unix Makefiles'
! command -v ninja >/dev/null || generator=Ninja

# must WHAT COMMAND...: or the test ends here, with what the command said
must() {
    what=$1
    shift
    if ! "$@" >"$work/log" 2>&1 </dev/null; then
        echo "FAILED: $what" >&2
        tail -n 30 "$work/log" >&2
        exit 1
    fi
}
must "configuring with FetchContent" cmake -S "$source/tests/consumer_fetch" -B "$work/build" -G "$generator" \
    -DKSAUTO_SOURCE="$source" -DBUILD_SHARED_LIBS=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_C_COMPILER="$cc"
must "building with FetchContent" cmake --build "$work/build" -j "$(nproc)"
for program in consumer consumer_calib; do
    must "$program, by FetchContent, gives the right product" "$work/build/$program"
done
if readelf -d "$work/build/consumer" | grep -q 'libksauto\|libgsl'; then
    echo "FAILED: the static program needs a shared libksauto, or GSL" >&2
    exit 1
fi

must "installing static libraries" cmake --install "$work/build" --prefix "$work/prefix"
archive=$(find "$work/prefix" -name libksauto.a)
[ -n "$archive" ] || { echo "FAILED: no libksauto.a was installed" >&2; exit 1; }
must "find_package of static libraries" cmake -S "$source/tests/consumer_cmake" -B "$work/cmake" -G "$generator" \
    -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_C_COMPILER="$cc"
must "building with static libraries" cmake --build "$work/cmake"
mkdir "$work/pkgconfig"
must "pkg-config --static" env PKG_CONFIG_PATH="$(dirname "$archive")/pkgconfig" \
    make -C "$source/tests/consumer_pkgconfig" OUT="$work/pkgconfig" CC="$cc" PKG_CONFIG="pkg-config --static"
for folder in cmake pkgconfig; do
    for program in consumer consumer_calib; do
        must "$program, with static libraries by $folder, gives the right product" "$work/$folder/$program"
    done
done
echo "static: FetchContent, find_package and pkg-config give programs that need no libksauto"
