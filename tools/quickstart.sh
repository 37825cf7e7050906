#!/bin/sh
# From a bare checkout to a calibrated library, in one go: sh tools/quickstart.sh
#
# Installs the Debian packages that are missing, builds in build/quickstart, measures this machine for half a minute,
# and shows what the choice between the paths is worth here. Where there is an nvcc the build has the CUDA backend, and
# the first GPU, if there is one, is measured for another half minute. Needs root or sudo only if a package is missing.
# The measurements go to the user's own store ($KSAUTO_DB, else under ~/.local/share), so a second run goes on from the
# first and every later program of this user profits.
set -eu

from=$(pwd)
cd "$(dirname "$0")/.."
folder=build/quickstart
if [ "$from" != "$(pwd)" ]; then folder=$(pwd)/$folder; fi # paths that are shown should work where the user stands
ksauto=$folder/ksauto
. tools/steps.sh
started=$(date +%s)

fail() {
    echo "$0: $*" >&2
    exit 1
}

nvcc=$(find_nvcc) || nvcc=
# shellcheck disable=SC2086
need $build_packages ${nvcc:+g++} || fail "stopped: the packages above are needed first."
step "Configuring" cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DKSAUTO_TESTS=OFF -DKSAUTO_WERROR=OFF ||
    fail "stopped: the build could not be configured."
if grep -q 'CUDA backend: ON' "$log"; then
    echo "For the CPU and for CUDA, by $nvcc"
elif [ -n "$nvcc" ]; then
    echo "For the CPU alone: $nvcc is there, but will not do. Why: $log"
elif [ -e /dev/nvidiactl ]; then
    echo "For the CPU alone: there is an NVIDIA GPU here, but no nvcc on the PATH or in /usr/local/cuda/bin."
fi
step "Building" cmake --build "$folder" -j "$(nproc)" || fail "stopped: the library could not be built."

printf '\nA first answer, from the measurements that ship (ksauto advise 1,192,48,2 --batch 25088):\n\n'
"$ksauto" --quiet advise 1,192,48,2 --batch 25088 || fail "stopped: 'ksauto advise' failed, see the message above."

store=$("$ksauto" db path) || fail "stopped: there is no place for the measurements, see the message above."
devices=cpu on=
if "$ksauto" devices | grep -q '^here  *cuda:0 '; then devices='cpu cuda:0' on=' --device cuda:0'; fi
for device in $devices; do
    printf '\nMeasuring %s for 30 s; the measurements are kept in %s\n' "$device" "$store"
    "$ksauto" calibrate --device "$device" --budget 30s --progress ||
        fail "stopped: 'ksauto calibrate --device $device' failed, see the message above."
done
for device in $devices; do
    printf '\nThe six factors of ViT-S/16, batch 25088, on %s, each kernel measured now:\n' "$device"
    "$ksauto" bench --device "$device" ||
        fail "stopped: 'ksauto bench --device $device' failed, see the message above."
done

cat <<END

Done in $(($(date +%s) - started)) s. Next, what this machine takes for a pattern and why; measuring on, for better advice;
a page of pictures of what is known of it (with gnuplot, Debian's gnuplot-nox); and installing the header, the libraries and
the command for your own programs:
  $ksauto advise 1,768,192,2 --batch 25088 --explain$on
  $ksauto calibrate --budget 5m$on
  $ksauto report --out report$on
  cmake --install $folder --prefix PREFIX
END
