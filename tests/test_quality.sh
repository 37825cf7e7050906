#!/bin/sh
# What a reader should not have to ask for: no reminders left in the code, an essay at the top of every file, no file
# that wants to be two, one format.
#
#     sh test_quality.sh REPO_ROOT
#
# Prints each violation and exits 1; then plants some in a scratch folder and fails unless each is found there. Without
# clang-format the format is not checked, and a line says so.
set -u
LC_ALL=C
export LC_ALL

if [ $# -ne 1 ] || [ ! -d "$1" ]; then
    echo "usage: $0 REPO_ROOT" >&2
    exit 2
fi
root=$1
most_lines=600
folders="kernels db calib advisor tools tests"
reminder="TO""DO|FIX""ME|X""XX" # in pieces, or this line would be found

sources() { # the files of tree $1 whose names match the patterns that follow
    tree=$1
    shift
    for pattern in "$@"; do
        # shellcheck disable=SC2086
        (cd "$tree" && find $folders -type f -name "$pattern" 2>/dev/null)
    done | sort
}

check() { # tree $1; prints violations
    sources "$1" '*.c' '*.h' '*.cu' '*.cuh' '*.sh' '*.py' '*.sql' | while read -r file; do
        (cd "$1" && grep -nEw "$reminder" "$file" | sed "s|^|$file:|")
        lines=$(wc -l <"$1/$file")
        [ "$lines" -le $most_lines ] || echo "$file: $lines lines, more than $most_lines"
    done
    sources "$1" '*.c' '*.h' '*.cu' '*.cuh' | while read -r file; do
        case $(head -c 2 "$1/$file") in
        '/*' | '//') ;;
        *) echo "$file: does not open with a comment" ;;
        esac
    done
    if [ -n "$format" ] && [ -f "$1/.clang-format" ]; then
        sources "$1" '*.c' '*.h' '*.cu' '*.cuh' | while read -r file; do
            (cd "$1" && "$format" --dry-run -Werror "$file" >/dev/null 2>&1) || echo "$file: not formatted"
        done
    fi
}

format=$(command -v clang-format || true)
[ -n "$format" ] || echo "quality: no clang-format here, so the format is not checked"
violations=$(check "$root")
if [ -n "$violations" ]; then
    printf '%s\n' "$violations"
    exit 1
fi
found=$(sources "$root" '*.c' '*.h' | wc -l)
[ "$found" -gt 0 ] || { echo "no source file under $root" >&2; exit 1; }
echo "quality: $found files are clean"

# ---- the self-test ----

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$scratch/db"
[ ! -f "$root/.clang-format" ] || cp "$root/.clang-format" "$scratch"
clean='/* An essay. */
int db_planted;'
failed=0
expect() { # the file's text $1, found ($2 = bad) or not (good)
    printf '%s\n' "$1" >"$scratch/db/planted.c"
    output=$(check "$scratch")
    if { [ "$2" = bad ] && [ -z "$output" ]; } || { [ "$2" = good ] && [ -n "$output" ]; }; then
        printf 'planted, expected %s: %.60s... %s\n' "$2" "$1" "$output"
        failed=1
    fi
}
expect "$clean" good
expect "int db_planted;" bad
expect "$clean // TO""DO: later" bad
expect "$clean /* FIX""ME */" bad
expect "$clean$(awk 'BEGIN { for (i = 0; i < 600; i++) print "" }' && echo .)" bad
[ -z "$format" ] || [ ! -f "$root/.clang-format" ] || expect "$clean   int   badly_formatted ;" bad
[ $failed -eq 0 ] && echo "quality: every planted violation was found"
exit $failed
