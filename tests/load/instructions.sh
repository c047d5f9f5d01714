#!/usr/bin/env bash
# Counts the instructions that `parkway run` executes for one warm request, in user space.
#
#   tests/load/instructions.sh [path/to/parkway]
#   H2C=1 tests/load/instructions.sh [path/to/parkway]     # HTTP/2 on both sides: a POST of 128 bytes, 4 x 16 streams
#
# Without a path it builds the release binary first. Time is too noisy on a shared machine to see a step of a few
# percent; instructions agree within one percent from run to run. Start-up is taken out by running twice and dividing
# the difference: 2300 requests less 300 requests, over 16 connections that stay open, one worker.
#
# Prints the count, and with ANNOTATE=1 also where the instructions are, with all that is called from there.
# KEEP=dir keeps the profiles. H2LOAD_FLAGS adds flags for the load generator, such as more request headers.
set -euo pipefail

needs() {
    command -v "$1" >/dev/null || {
        echo "$1 is missing; on Debian or Ubuntu: apt-get install $2" >&2
        exit 2
    }
}
needs valgrind valgrind
needs h2load nghttp2-client
needs curl curl

port_name=http1
load=(--h1 --clients=16)
few=300
many=2300
repository=$(cd "$(dirname "$0")/../.." && pwd)
if [ $# -gt 0 ]; then
    parkway=$(realpath "$1")
else
    (cd "$repository" && cargo build --release --package parkway-ingress --bin parkway)
    parkway=${CARGO_TARGET_DIR:-$repository/target}/release/parkway
fi

if [ -n "${H2C:-}" ]; then
    port_name=h2c
    load=(--clients=4 --max-concurrent-streams=16)
fi
work=${KEEP:-$(mktemp -d)}
mkdir -p "$work"
if [ -n "${H2C:-}" ]; then
    head -c 128 /dev/zero >"$work/body"
    load+=(--data="$work/body")
fi
endpoint=
proxy=
finish() {
    if [ -n "$proxy" ]; then kill -INT "$proxy" 2>/dev/null || true; fi
    if [ -n "$endpoint" ]; then kill "$endpoint" 2>/dev/null || true; fi
    if [ -z "${KEEP:-}" ]; then rm -rf "$work"; fi
}
trap finish EXIT

# Ports that nobody listens on now.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}
endpoint_port=$(free_port)
port=$(free_port)
local_port=$(free_port)
admin_port=$(free_port)

PORT=$endpoint_port "$parkway" hello >"$work/endpoint.log" 2>&1 &
endpoint=$!

cat >"$work/service.yaml" <<YAML
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: bench, namespace: default}
spec:
  template:
    spec:
      containers: [{image: x, ports: [{name: $port_name, containerPort: 8080}]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: bench-00001
  namespace: default
  labels: {serving.knative.dev/revision: bench-00001}
addressType: IPv4
ports: [{name: ${port_name%1}, port: $endpoint_port, protocol: TCP}]
endpoints: [{addresses: ["127.0.0.1"], conditions: {ready: true}}]
YAML

# Runs the proxy under callgrind for that many requests; leaves the profile in callgrind.<requests>.
count() {
    local requests=$1 profile=$work/callgrind.$1 answered
    valgrind --tool=callgrind --callgrind-out-file="$profile" \
        "$parkway" run "$work/service.yaml" --workers 1 --log warn \
        --listen "127.0.0.1:$port" --listen-local "127.0.0.1:$local_port" --admin "127.0.0.1:$admin_port" \
        >"$work/parkway.$requests.log" 2>&1 &
    proxy=$!
    if ! curl --silent --output /dev/null --fail --retry 100 --retry-delay 1 --retry-all-errors \
        "http://127.0.0.1:$admin_port/readyz"; then
        cat "$work/parkway.$requests.log" >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # flags are words
    answered=$(h2load "${load[@]}" --requests="$requests" ${H2LOAD_FLAGS:-} \
        --connect-to="127.0.0.1:$port" "http://bench.default.localhost:$port/" | grep '^status codes:')
    case $answered in
    *" $requests 2xx,"*) ;;
    *) echo "not all $requests requests were answered: $answered" >&2 && exit 1 ;;
    esac
    kill -INT "$proxy"
    wait "$proxy" || true
    proxy=
}

instructions() {
    sed -n 's/^\(summary\|totals\): *//p' "$work/callgrind.$1" | head -n 1
}

count $few
count $many
echo "instructions per request: $((($(instructions $many) - $(instructions $few)) / (many - few)))"
if [ -n "${ANNOTATE:-}" ]; then
    callgrind_annotate --inclusive=yes "$work/callgrind.$many"
fi
