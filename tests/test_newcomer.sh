#!/bin/sh
# A newcomer's first minutes: a bare Debian 12, the checkout, and the README's words.
#
#     sh test_newcomer.sh SOURCE_DIR [TRANSCRIPT]
#
# What is typed and what comes back is written to TRANSCRIPT, with the seconds since the beginning. Takes root, network, debootstrap
# and minutes; skipped (77) without. The time to the first answer is told, and not judged: machines differ.
set -u
LC_ALL=C
export LC_ALL

if [ $# -lt 1 ] || [ ! -f "$1/tools/quickstart.sh" ]; then
    echo "usage: $0 SOURCE_DIR [TRANSCRIPT]" >&2
    exit 2
fi
source=$(cd "$1" && pwd)
transcript=${2:-/dev/null}
if ! command -v debootstrap >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "newcomer: skipped, a bare Debian takes debootstrap and root"
    exit 77
fi
work=$(mktemp -d) || exit 1
debian=$work/debian
trap 'umount "$debian/proc" "$debian/dev" 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
if ! debootstrap --variant=minbase bookworm "$debian" >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    exit 1
fi
mkdir -p "$debian/root/ksauto"
(cd "$source" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$debian/root/ksauto") || exit 1
mount -t proc proc "$debian/proc" 2>/dev/null || :
mount --bind /dev "$debian/dev" 2>/dev/null || :

began=$(date +%s)
: >"$transcript"
# types COMMAND: in the checkout; it must succeed. Its output is in $work/out.
types() {
    echo "[$(($(date +%s) - began)) s] \$ $1" >>"$transcript"
    if ! env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb chroot "$debian" sh -c "cd /root/ksauto && $1" \
        >"$work/out" 2>&1 </dev/null; then
        cat "$work/out" >>"$transcript"
        echo "FAILED: '$1'" >&2
        tail -n 40 "$work/out" >&2
        exit 1
    fi
    cat "$work/out" >>"$transcript"
}
types 'sh tools/quickstart.sh'
grep -q 'P(fused faster)' "$work/out" || { echo "FAILED: quickstart.sh gives no first answer" >&2; exit 1; }
grep -q '^Done in' "$work/out" || { echo "FAILED: quickstart.sh does not say that it is done" >&2; exit 1; }
# What it says to do next, as it says it.
next=$(grep -o '[^ ]*/ksauto advise .*' "$work/out" | head -n 1)
types "$next"
answered=$(($(date +%s) - began))
grep -q 'P(fused faster)' "$work/out" || { echo "FAILED: '$next' gives no advice" >&2; exit 1; }
types 'cmake --install build/quickstart --prefix /usr/local && ldconfig'
types 'ksauto advise 1,192,48,2 --batch 25088'
# shellcheck disable=SC2016
types 'sed -n "/^#include <ksauto.h>/,/^}/p" README.md >your_program.c &&
    cc your_program.c -o your_program $(pkg-config --cflags --libs ksauto) && ./your_program'
types 'ksauto advise --search 1024x4096 --params 10%'
echo "newcomer: the first advice came after $answered s"
