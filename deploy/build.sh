#!/usr/bin/env bash
# Builds parkway.yaml, parkway-ingress.yaml and parkway-activator.yaml, which `parkway install` applies, from the
# overlays. Needs kubectl 1.29 or newer, and no cluster. With --check: says what would be different, and fails if
# anything is.
set -euo pipefail
cd "$(dirname "$0")"

build() {
    echo "# Built from deploy/overlays/$1 by deploy/build.sh: change it there."
    kubectl kustomize "overlays/$1"
}

for overlay in both ingress activator; do
    file=parkway-$overlay.yaml
    [ "$overlay" = both ] && file=parkway.yaml
    if [ "${1:-}" = --check ]; then
        build "$overlay" | diff -u "$file" -
    else
        build "$overlay" >"$file"
    fi
done
