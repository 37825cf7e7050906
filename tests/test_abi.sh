#!/bin/sh
# The interface that compiled programs rely on is the one in tests/abi.txt, or the change was meant.
#
#     sh test_abi.sh [--write] SOURCE_DIR BUILD_DIR
#
# --write makes abi.txt anew. Skipped (77) without python3, or where addresses have not 64 bits.
set -u
LC_ALL=C
export LC_ALL

write=false
if [ "${1:-}" = --write ]; then write=true; shift; fi
if [ $# -ne 2 ] || [ ! -f "$1/advisor/ksauto.h" ] || [ ! -f "$2/CMakeCache.txt" ]; then
    echo "usage: $0 [--write] SOURCE_DIR BUILD_DIR" >&2
    exit 2
fi
cc=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$2/CMakeCache.txt")
if ! command -v python3 >/dev/null || [ "$(getconf LONG_BIT)" != 64 ]; then
    echo "abi: skipped, no python3 here, or no 64 bits"
    exit 77
fi
abi() {
    check=$1
    shift
    # shellcheck disable=SC2086
    python3 "$1/tests/abi.py" $check "$1/advisor/ksauto.h" "$cc" "$2/libksauto.so" "$2/libksauto_calib.so"
}
if $write; then
    abi '' "$1" "$2" >"$1/tests/abi.txt"
    exit
fi
abi --check "$1" "$2" <"$1/tests/abi.txt" || exit 1
# A list that lacks a line, and one that has another size, are found out.
for edit in '$d' 's/^sizeof ks_options .*/sizeof ks_options 1/'; do
    if sed "$edit" "$1/tests/abi.txt" | abi --check "$1" "$2" >/dev/null 2>&1; then
        echo "abi: a planted difference ($edit) was not found" >&2
        exit 1
    fi
done
