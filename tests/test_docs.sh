#!/bin/sh
# The header as a manual in HTML: Doxygen makes it without a warning, and every function is in it.
#
#     sh test_docs.sh SOURCE_DIR BUILD_DIR
#
# Skipped (77) without doxygen.
set -u
LC_ALL=C
export LC_ALL

if [ $# -ne 2 ] || [ ! -f "$1/advisor/ksauto.h" ] || [ ! -f "$2/Doxyfile" ]; then
    echo "usage: $0 SOURCE_DIR BUILD_DIR" >&2
    exit 2
fi
if ! command -v doxygen >/dev/null; then
    echo "docs: skipped, no doxygen here"
    exit 77
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
{ cat "$2/Doxyfile"; echo "OUTPUT_DIRECTORY = $work"; } >"$work/Doxyfile"
if ! doxygen "$work/Doxyfile" >"$work/log" 2>&1 || [ -s "$work/log" ]; then
    echo "FAILED: doxygen warns" >&2
    cat "$work/log" >&2
    exit 1
fi
page=$work/html/ksauto_8h.html
count=0
for function in $(sed -n 's/^KS_API.*[ *]\(ks_[a-z_0-9]*\)(.*/\1/p' "$1/advisor/ksauto.h"); do
    count=$((count + 1))
    grep -q ">$function</a>" "$page" || { echo "FAILED: the manual lacks $function" >&2; exit 1; }
done
[ "$count" -gt 20 ] || { echo "FAILED: only $count functions were found in the header" >&2; exit 1; }
grep -q 'ks_auto_matmul(ctx, *&amp;p' "$page" || { echo "FAILED: the manual lacks the header's example" >&2; exit 1; }
echo "docs: $count functions, no warning"
