# What quickstart.sh and test.sh share: installing packages that are missing, and steps that fail aloud. To be sourced
# from the root of the checkout, after `folder` was set to where logs may go.
# shellcheck shell=sh disable=SC2034,SC2154

# step WHAT COMMAND...: says what it does and how long it took; the command's output is shown only if it fails.
step() {
    what=$1
    shift
    mkdir -p "$folder"
    log=$folder/$(printf %s "$what" | tr -c 'A-Za-z0-9\n' '-').log
    printf '%s ... ' "$what"
    began=$(date +%s)
    if "$@" >"$log" 2>&1 </dev/null; then
        echo "$(($(date +%s) - began)) s"
    else
        code=$?
        echo failed
        tail -n 40 "$log" >&2
        printf '\n%s: "%s" failed with exit code %d.\n  command: %s\n  its whole output: %s\n' \
            "$0" "$what" "$code" "$*" "$log" >&2
        return 1
    fi
}

is_installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# need PACKAGE...: installs those that are not there. 'one|other' is content with either, and installs the first.
need() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        echo "There is no apt-get here, so nothing is installed. Needed, by the names that Debian gives them: $*"
        return 0
    fi
    missing=
    for choice; do
        found=
        for package in $(printf %s "$choice" | tr '|' ' '); do
            if is_installed "$package"; then found=$package; fi
        done
        if [ -z "$found" ]; then missing="$missing ${choice%%|*}"; fi
    done
    if [ -z "$missing" ]; then
        echo "All packages needed are installed."
        return 0
    fi
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null; then
        as_root=sudo
    else
        printf '%s: packages are missing, and installing them takes root or sudo. As root:\n  %s\n' \
            "$0" "apt-get install --no-install-recommends$missing" >&2
        return 1
    fi
    echo "Missing packages, to be installed by apt-get${as_root:+ with sudo}:$missing"
    # A source of packages that does not answer is no reason to stop: the other sources, or old lists, may do.
    # shellcheck disable=SC2086
    step "Reading the lists of packages" \
        $as_root apt-get -o DPkg::Lock::Timeout=120 -o APT::Update::Error-Mode=any update ||
        echo "Going on with the lists that are here." >&2
    # shellcheck disable=SC2086
    step "Installing packages" $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends $missing
}

# find_nvcc: prints the CUDA compiler that CMakeLists.txt would take; fails if there is none.
find_nvcc() {
    (
        PATH="${CUDA_PATH:+$CUDA_PATH/bin:}${CUDA_HOME:+$CUDA_HOME/bin:}$PATH:/usr/local/cuda/bin"
        command -v "${CUDACXX:-nvcc}"
    )
}

# What building the library and the command takes; an nvcc wants g++ as well. OpenBLAS is loaded at run time, so its headers
# are not needed.
build_packages="gcc libc6-dev cmake ninja-build pkg-config libsqlite3-dev libcjson-dev libgsl-dev
    libopenblas0-pthread|libopenblas0-openmp|libopenblas0-serial"
