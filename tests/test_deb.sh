#!/bin/sh
# The Debian package: made by CPack, whole, and enough for a program to be built with it.
#
#     sh test_deb.sh SOURCE_DIR BUILD_DIR [--root]
#
# --root installs it by apt into a bare Debian 12 made by debootstrap, which takes root, network and minutes, and there asks for
# advice, compiles a program and removes it again. Skipped (77) where there is no dpkg-deb (or with --root, no debootstrap).
set -u
LC_ALL=C
export LC_ALL

if [ $# -lt 2 ] || [ ! -f "$1/advisor/ksauto.h" ] || [ ! -f "$2/CPackConfig.cmake" ]; then
    echo "usage: $0 SOURCE_DIR BUILD_DIR [--root]" >&2
    exit 2
fi
source=$(cd "$1" && pwd)
build=$(cd "$2" && pwd)
root=${3:-}
for program in dpkg-deb dpkg-shlibdeps ${root:+debootstrap}; do
    if ! command -v "$program" >/dev/null; then
        echo "deb: skipped, no $program here"
        exit 77
    fi
done
if [ -n "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "deb: skipped, a bare Debian takes root"
    exit 77
fi
work=$(mktemp -d) || exit 1
trap 'umount "$work/debian/proc" 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_EXPLAIN LD_LIBRARY_PATH DESTDIR
export KSAUTO_DB="$work/store.db"

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
must "cpack" cpack -G DEB --config "$build/CPackConfig.cmake" -B "$work/pack"
deb=$(find "$work/pack" -maxdepth 1 -name '*.deb')
[ -f "$deb" ] || { echo "FAILED: cpack made no package" >&2; exit 1; }

dpkg-deb --contents "$deb" | awk '{ print $6 }' >"$work/files"
for file in ./usr/bin/ksauto ./usr/include/ksauto.h ./usr/lib/libksauto.so ./usr/lib/libksauto.so.0 ./usr/lib/libksauto_calib.so.0 \
    ./usr/lib/pkgconfig/ksauto.pc ./usr/lib/cmake/ksauto/ksauto-config.cmake ./usr/share/man/man1/ksauto-advise.1 \
    ./usr/share/bash-completion/completions/ksauto ./usr/share/ksauto/schema.json ./usr/share/doc/ksauto/copyright \
    ./usr/share/ksauto/seeds/nvidia-h200.csv; do
    grep -qx "$file" "$work/files" || { echo "FAILED: the package lacks $file" >&2; exit 1; }
done
depends=$(dpkg-deb --field "$deb" Depends)
for library in libsqlite3-0 libcjson1 libgsl libc6; do
    case $depends in
    *"$library"*) ;;
    *) echo "FAILED: the package does not depend on $library: $depends" >&2; exit 1 ;;
    esac
done
must "unpacking" dpkg-deb --extract "$deb" "$work/tree"
must "the packed command" "$work/tree/usr/bin/ksauto" advise 6,64,64,1 --batch 128
echo "deb: $(basename "$deb"), $(($(wc -c <"$deb") / 1024)) KiB, depends on $depends"
[ -n "$root" ] || exit 0

debian=$work/debian
must "debootstrap" debootstrap --variant=minbase bookworm "$debian"
cp "$deb" "$debian/ksauto.deb"
cp "$source/tests/consumer.c" "$debian/consumer.c"
mount -t proc proc "$debian/proc" 2>/dev/null || :
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive chroot "$debian" "$@"; }
must "apt-get install of the package, and of what it recommends" inside apt-get install -y /ksauto.deb
must "ksauto --version there" inside ksauto --version
must "advice there" inside ksauto advise 6,64,64,1 --batch 128
must "the manual page is there" inside test -s /usr/share/man/man1/ksauto-advise.1
must "a compiler" inside apt-get install -y --no-install-recommends gcc libc6-dev pkg-config
must "compiling with the package" inside sh -c \
    'cc -std=c11 $(pkg-config --cflags ksauto) /consumer.c -o /consumer $(pkg-config --libs ksauto) -lm'
must "the program there" inside /consumer
must "removing it" inside apt-get remove -y ksauto
if inside sh -c 'command -v ksauto' >/dev/null; then echo "FAILED: it is there after its removal" >&2; exit 1; fi
echo "deb: installs, advises, compiles and goes in a bare Debian 12"
