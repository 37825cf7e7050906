#!/bin/sh
# The C programs of README.md and advisor/README.md do what these say: they are taken from there as they stand, compiled and run.
# So is the kernel that kernels/README.md has as its example.
#
#     sh test_readme.sh SOURCE_DIR BUILD_OR_PREFIX [CUDA_LIBRARIES CUDA_HEADERS...]
#
# BUILD_OR_PREFIX has libksauto.so in it, or in its lib folder; the header is the installed one if there is one,
# else SOURCE_DIR's. README.md's program, a block that opens with ```c, runs anywhere. advisor/README.md's is for a GPU: it is
# compiled and run only if the folders of CUDA are given, and where there is no GPU it must say so and end with 1.
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

# program PAGE OPTION...: takes the page's one C program, compiles and runs it; its exit code is in $code.
program() {
    page=$1
    shift
    # shellcheck disable=SC2016
    awk '/^```c[[:space:]]*$/ { inside = ++blocks == 1; next } /^```/ { inside = 0 } inside' "$source/$page" >"$work/readme.c"
    # shellcheck disable=SC2016
    [ -s "$work/readme.c" ] || fail "$page has no C program, that is no block that opens with"' ```c'
    grep -q 'main *(' "$work/readme.c" || fail "the C block of $page is no whole program: it has no main"
    lines=$(grep -c '[^[:space:]]' "$work/readme.c")
    "${CC:-cc}" -std=c17 -Wall -Wextra -Werror -I "$include" "$work/readme.c" -o "$work/readme" -L "$libdir" -lksauto -lm "$@" ||
        fail "the program in $page ($lines lines) does not compile"
    (cd "$work" && KSAUTO_DB=$work/store.db LD_LIBRARY_PATH=$loads ./readme >out 2>err </dev/null)
    code=$?
    cat "$work/out" "$work/err"
}

program README.md
[ $code -eq 0 ] || fail "the program in README.md ends with exit code $code"
echo "readme: the program of $lines lines compiles and runs"

# The worked example of kernels/README.md: it compiles as a kernel of this library, and its row does what the page says of it.
# shellcheck disable=SC2016
awk '/^```c[[:space:]]*$/ { on = 1; next } /^```/ { on = 0 } on' "$source/kernels/README.md" >"$work/example.c"
cat >"$work/try.c" <<'END'
#include "kernel.h"
#include <stdio.h>
extern const ks_kernel ks_fused_cpu_dots;
int main(void)
{
    enum { A = 3, B = 5, C = 7, BATCH = 4 };
    float x[BATCH * A * C], k[A * B * C], y[BATCH * A * B];
    const ks_problem p = {.a = A, .b = B, .c = C, .d = 1, .batch = BATCH, .type = KS_F32};
    const ks_device device = {.backend = KS_CPU};
    double terms[KS_NTERMS];
    for (int i = 0; i < BATCH * A * C; i++) x[i] = (float)(i % 11 - 5);
    for (int i = 0; i < A * B * C; i++) k[i] = (float)(i % 7 - 3);
    if (!ks_fused_cpu_dots.supports(&p, &device) || ks_fused_cpu_dots.workspace_bytes(&p, &device) != 0) return 1;
    ks_fused_cpu_dots.cost_terms(&p, &device, terms);
    if (!(terms[KS_TERM_BYTES] > 0) || ks_fused_cpu_dots.run(&p, &(ks_run_args){.x = x, .k = k, .y = y}) != KS_OK) return 1;
    for (int n = 0; n < BATCH; n++)
        for (int i = 0; i < A; i++)
            for (int j = 0; j < B; j++) {
                float sum = 0;
                for (int q = 0; q < C; q++) sum += x[(n * A + i) * C + q] * k[(i * B + j) * C + q];
                if (sum != y[(n * A + i) * B + j]) return 1;
            }
    return 0;
}
END
"${CC:-cc}" -std=c17 -Wall -Wextra -Werror -I "$source/advisor" -I "$source/kernels" "$work/try.c" "$work/example.c" \
    -o "$work/try" -L "$libdir" -lksauto -lm || fail "the example in kernels/README.md does not compile"
LD_LIBRARY_PATH=$libdir "$work/try" || fail "the kernel in kernels/README.md is wrong"
echo "readme: the example kernel of kernels/README.md compiles and multiplies"
[ $# -gt 0 ] || exit 0

loads=$libdir:$1
cuda_libraries=$1
shift
for folder; do
    shift
    set -- "$@" -isystem "$folder"
done
program advisor/README.md "$@" -L "$cuda_libraries" -lcudart
if [ $code -eq 1 ] && grep -qE 'no NVIDIA driver|no CUDA device|NVIDIA driver is for' "$work/out" "$work/err"; then
    echo "readme: the program of $lines lines for a GPU compiles, and says why it cannot run here"
elif [ $code -eq 0 ]; then
    echo "readme: the program of $lines lines for a GPU compiles and runs"
else
    fail "the program in advisor/README.md ends with exit code $code"
fi
