#!/bin/sh
# From a bare checkout to a calibrated library, in one go: sh tools/quickstart.sh
#
# Installs the Debian packages that are missing, builds in build/quickstart, measures this machine for half a minute,
# and shows what the choice between the paths is worth here. Needs root or sudo only if a package is missing. The
# measurements go to the user's own store ($KSAUTO_DB, else under ~/.local/share), so a second run goes on from the
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

# shellcheck disable=SC2086
need $build_packages || fail "stopped: the packages above are needed first."
step "Configuring" cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DKSAUTO_TESTS=OFF -DKSAUTO_WERROR=OFF ||
    fail "stopped: the build could not be configured."
step "Building" cmake --build "$folder" -j "$(nproc)" || fail "stopped: the library could not be built."

store=$("$ksauto" db path) || fail "stopped: there is no place for the measurements, see the message above."
printf '\nMeasuring this machine for 30 s; the measurements are kept in %s\n' "$store"
"$ksauto" calibrate --budget 30s --progress || fail "stopped: 'ksauto calibrate' failed, see the message above."

printf '\nThe six factors of ViT-S/16, batch 25088, each kernel measured now:\n'
"$ksauto" bench || fail "stopped: 'ksauto bench' failed, see the message above."

cat <<END

Done in $(($(date +%s) - started)) s. Next, what this machine takes for a pattern and why; measuring on, for better advice;
and installing the header, the libraries and the command for your own programs:
  $ksauto advise 1,768,192,2 --batch 25088 --explain
  $ksauto calibrate --budget 5m
  cmake --install $folder --prefix PREFIX
END
