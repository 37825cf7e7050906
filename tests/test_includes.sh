#!/bin/sh
# Holds every #include to the house rules: dependencies run kernels -> db -> calib -> advisor -> tools and nothing
# points back; SQLite lives in the store, GSL in calibration, CUDA in the files of kernels/ that are named for it.
#
#     sh test_includes.sh REPO_ROOT
#
# Prints each violation as FILE:LINE: what, and exits 1. A checker that finds nothing looks just like a clean house, so
# it then plants violations in a scratch copy, one at a time, and fails unless each is found there.
set -u
LC_ALL=C
export LC_ALL

if [ $# -ne 1 ] || [ ! -d "$1" ]; then
    echo "usage: $0 REPO_ROOT" >&2
    exit 2
fi
root=$1

sources() { # the source files under the house's folders of tree $1, relative to it
    (cd "$1" && find kernels db calib advisor tools tests -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' \) 2>/dev/null | sort)
}

# First the list of files on standard input, then each file's lines. A header is ours if a file of that name stands
# beside the including file, at that path from the root, or anywhere in the house: whatever the include paths are, no
# file gets round the rules by them.
check() { # tree $1; prints violations
    (cd "$1" && { sources . | sed 's/^/F /'
        if [ -f CMakeLists.txt ]; then sed 's/^/G /' CMakeLists.txt; fi
        sources . | xargs grep -HnE '^[[:space:]]*#[[:space:]]*include' | sed 's/:/ /; s/^/I /'; } | awk '
        function place(path) { sub(/\/.*/, "", path); return path }
        function base(path) { sub(/.*\//, "", path); return path }
        function folder(path) { sub(/[^\/]*$/, "", path); return path }
        function plain(path) { # a/../b is b, ./b is b
            while (path ~ /(^|\/)\.\//) sub(/\.\//, "", path)
            while (match(path, /[^\/.]+\/\.\.\//)) path = substr(path, 1, RSTART - 1) substr(path, RSTART + RLENGTH)
            return path
        }
        function bad(what) { print file ":" line ": " what; }
        function ours(header,    i) {
            if ((folder(file) header) in known) return folder(file) header
            if (plain(folder(file) header) in known) return plain(folder(file) header)
            if (header in known) return header
            return (base(header) in by_name) ? by_name[base(header)] : ""
        }
        # What each place may include, beside its own files.
        BEGIN {
            may["kernels"] = " advisor/ksauto.h "
            may["db"] = " kernels/device.h kernels/error.h advisor/ksauto.h "
            may["calib"] = " kernels/ db/ advisor/ksauto.h "
            may["advisor"] = " kernels/ db/ calib/ "
            may["tools"] = " kernels/ db/ calib/ tests/ advisor/ksauto.h "
            may["tests"] = " kernels/ db/ calib/ advisor/ tools/ "
            split("assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign " \
                  "stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar " \
                  "wchar wctype", names, " ")
            for (n in names) standard[names[n] ".h"] = 1
        }
        $1 == "F" { known[$2] = 1; by_name[base($2)] = $2; next }
        $1 == "G" { made = made " " $0; next } # the build may make headers: it then names them
        {
            file = $2
            text = substr($0, length($1) + length($2) + 3)
            line = text; sub(/:.*/, "", line)
            sub(/^[0-9]+:/, "", text)
            if (!match(text, /[<"][^>"]+[>"]/)) { bad("an include of a macro cannot be checked: " text); next }
            quoted = substr(text, RSTART, 1) == "\""
            header = substr(text, RSTART + 1, RLENGTH - 2)
            from = place(file)
            target = ours(header)

            if (file == "advisor/ksauto.h" && !(header in standard))
                bad("the public header includes <" header ">, which is not a header of the C standard")
            if (header ~ /(^|\/)sqlite3(ext)?\.h$/ && file !~ /^(db\/store[^\/]*|tests\/(bad_disk|test_hostile))\.c$/)
                bad("sqlite3.h outside db/store*.c, tests/bad_disk.c and tests/test_hostile.c")
            if (header ~ /(^|\/)gsl\// && from != "calib")
                bad("GSL (" header ") outside calib/")
            if (header ~ /^(cuda|cublas|cudnn|curand|nvml|nvrtc|nvToolsExt|mma\.h|cooperative_groups)/ &&
                from != "tests" && file !~ /^kernels\/([^\/]*(cuda|cublas|nvml)[^\/]*|[^\/]*\.cuh?)$/)
                bad("CUDA (" header ") in a file that is not named for it")
            if (target == "") {
                if (quoted && index(made, base(header)) == 0)
                    bad("\"" header "\" is no file of the house, nor named by CMakeLists.txt")
                next
            }
            if (place(target) == from) next
            if (index(may[from], " " place(target) "/ ") || index(may[from], " " target " ")) next
            bad(from "/ may not include " target)
        }')
}

violations=$(check "$root")
if [ -n "$violations" ]; then
    printf '%s\n' "$violations"
    exit 1
fi
found=$(sources "$root" | wc -l)
[ "$found" -gt 0 ] || { echo "no source file under $root" >&2; exit 1; }
echo "includes: $found files keep the rules"

# ---- the self-test ----

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
sources "$root" | while read -r file; do
    mkdir -p "$scratch/${file%/*}" && cp "$root/$file" "$scratch/$file"
done
[ ! -f "$root/CMakeLists.txt" ] || cp "$root/CMakeLists.txt" "$scratch"
# Headers for the plants to point at, in case the house does not have them (yet).
for header in kernels/kernel.h kernels/device.h db/store.h calib/model.h advisor/context_internal.h; do
    mkdir -p "$scratch/${header%/*}"
    [ -f "$scratch/$header" ] || echo "/* planted */" >"$scratch/$header"
done

failed=0
plant() { # file $1, include line $2, and whether that is bad ($3 = bad) or allowed (good)
    mkdir -p "$scratch/${1%/*}"
    kept=no
    if [ -f "$scratch/$1" ]; then cp "$scratch/$1" "$scratch/kept" && kept=yes; fi
    printf '%s\n' "$2" >>"$scratch/$1"
    output=$(check "$scratch")
    if [ "$3" = bad ]; then
        case $output in
        "$1":*) ;;
        *) echo "planted in $1 and not found: $2"; failed=1 ;;
        esac
    elif [ -n "$output" ]; then
        echo "allowed in $1 and refused: $2: $output"
        failed=1
    fi
    if [ $kept = yes ]; then mv "$scratch/kept" "$scratch/$1"; else rm "$scratch/$1"; fi
}

plant kernels/planted.c '#include "store.h"' bad
plant kernels/planted.c '#include "../db/store.h"' bad
plant kernels/planted.c '#  include <db/store.h>' bad
plant kernels/planted.cu '#include "context_internal.h"' bad
plant db/planted.c '#include "kernel.h"' bad
plant db/planted.c '#include "calib/model.h"' bad
plant db/planted.c '#include <sqlite3.h>' bad
plant db/store_planted.h '#include <sqlite3.h>' bad
plant db/planted.c '#include <cuda_runtime.h>' bad
plant kernels/planted.c '#include <cuda_runtime.h>' bad
plant kernels/planted.c '#include "cuda_device.h"' bad
plant calib/planted.c '#include <nvml.h>' bad
plant tests/planted.c '#include <sqlite3.h>' bad
plant tools/planted.c '#include <cublas_v2.h>' bad
plant kernels/planted.cu '#include <cuda_runtime.h>' good
plant kernels/planted_cuda.c '#include <cuda_runtime_api.h>' good
plant calib/planted.c '#include "context_internal.h"' bad
plant tools/planted.c '#include "advisor/context_internal.h"' bad
plant tools/planted.c '#include <gsl/gsl_qrng.h>' bad
plant advisor/planted.c '#include <gsl/gsl_fit.h>' bad
plant advisor/planted.c '#include <sqlite3.h>' bad
plant advisor/ksauto.h '#include <cuda_runtime.h>' bad
plant advisor/ksauto.h '#include <unistd.h>' bad
plant advisor/ksauto.h '#include "kernel.h"' bad
plant kernels/planted.c '#include "no_such_file.h"' bad
plant kernels/planted.c '#include HEADER' bad
plant db/store_planted.c '#include <sqlite3.h>' good
plant db/planted.c '#include "device.h"' good
plant calib/planted.c '#include <gsl/gsl_qrng.h>' good
plant advisor/planted.c '#include "model.h"' good
plant advisor/ksauto.h '#include <stdio.h>' good
plant tests/planted.c '#include "context_internal.h"' good
plant tools/planted.c '#include "ksauto.h"' good
[ $failed -eq 0 ] && echo "includes: every planted violation was found"
exit $failed
